# On a machine with nothing but Python 3.11+ and make:
#   make compare   installs into .venv and runs the main job
#   make test      installs and runs lint and tests
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Tests of training and planning take one thread, since CI machines are busy; tests/test_clients.py takes all there are.
PYTEST := -m pytest -n 2 --dist loadfile

.PHONY: compare test test-clients test-rllib test-oldest lint bench bench-gpu install clean

compare: $(INSTALLED)
	$(BIN)/lr-env compare DigitsMLP --seeds 10 --threads 1

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

# The environments and planners in other people's software, whose packages go into .venv-clients. RLlib pins Gymnasium
# to another version, and has .venv-rllib.
test-clients: .venv-clients/.installed
	.venv-clients/bin/python -m pytest tests/test_clients.py tests/test_callbacks.py \
		tests/test_examples.py::test_examples_of_other_packages

test-rllib: .venv-rllib/.installed
	.venv-rllib/bin/python -m pytest tests/test_clients.py

# All tests with the oldest versions that pyproject.toml allows.
test-oldest: .venv-oldest/.installed
	OMP_NUM_THREADS=1 .venv-oldest/bin/python $(PYTEST)

lint: $(INSTALLED)
	$(BIN)/ruff check lr_env planners tests examples
	$(BIN)/ruff format --check lr_env planners tests examples
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo

# Installs DACBench and JAX, which it measures against, into .venv-peers; without a network it says so and goes on.
bench: $(INSTALLED)
	$(BIN)/python -m lr_env.bench --out results/bench

# On a machine with a CUDA device, with a torch that was built for it.
bench-gpu: $(INSTALLED)
	$(BIN)/python -m lr_env.bench --out results/bench --device cuda --only cuda growth

install: $(INSTALLED)

# constraints.txt pins what the committed results were made with.
$(INSTALLED): constraints.txt
$(INSTALLED): EXTRAS := dev
.venv-clients/.installed: tests/clients/constraints.txt
.venv-clients/.installed: EXTRAS := clients,test
.venv-rllib/.installed: tests/clients/constraints-rllib.txt
.venv-rllib/.installed: EXTRAS := rllib,test
.venv-oldest/.installed: constraints-oldest.txt
.venv-oldest/.installed: EXTRAS := test

%/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("lr_env needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(filter %.txt,$^) --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf .venv .venv-clients .venv-oldest .venv-peers .venv-rllib
