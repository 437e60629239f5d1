# On a machine with nothing but Python 3.11+ and make:
#   make compare   installs into .venv and runs the main job
#   make test      installs and runs lint and tests
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: compare test lint bench bench-gpu install clean

compare: $(INSTALLED)
	$(BIN)/lr-env compare DigitsMLP --seeds 10

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check lr_env planners tests examples
	$(BIN)/ruff format --check lr_env planners tests examples
	$(BIN)/basedpyright

# Installs DACBench, which it measures against, into .venv-peers; without a network it says so and goes on.
bench: $(INSTALLED)
	$(BIN)/python -m lr_env.bench --out results/bench

# On a machine with a CUDA device, with a torch that was built for it.
bench-gpu: $(INSTALLED)
	$(BIN)/python -m lr_env.bench --out results/bench --device cuda --only cuda growth

install: $(INSTALLED)

# constraints.txt pins what the committed results were made with.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("lr_env needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-peers
