"""Other people's software trains in our environments: each program of `tests/clients`, as its users would start it.

Each runs with as many threads as torch takes by default, though the other tests have one, and has a time limit: a
process that was forked from one that computes with threads may wait for them for ever. Those whose packages are not
installed are skipped (extra `clients`; `make test-clients` and `make test-rllib` install them).
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "clients"
NEEDS = {
    "cleanrl_ppo.py": [],
    "copies.py": ["cloudpickle", "joblib"],
    "gymnasium_vectors.py": [],
    "gymnasium_wrappers.py": ["array_api_compat"],
    "ray_store.py": ["ray"],
    "rl_zoo3_train.py": ["rl_zoo3"],
    "rllib_ppo.py": ["ray.rllib", "tree"],
    "sb3_and_contrib.py": ["sb3_contrib"],
    "tianshou_ppo.py": ["tianshou"],
    "torchrl_ppo.py": ["torchrl"],
}
LIMIT = 300  # seconds; most need ten, but threads of busy machines wait for each other


def there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that it is part of
        return False


@pytest.mark.parametrize("program", NEEDS)
def test_client(program, tmp_path):
    missing = [name for name in NEEDS[program] if not there(name)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"  # there may be no network
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROGRAMS.parents[1]), os.environ.get("PYTHONPATH")]))
    printed = tmp_path / "printed"
    with printed.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / program)],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too
            process.wait()
            code = "none: it hangs"
    assert code == 0, f"{program}: exit code {code}\n{printed.read_text()[-5000:]}"


def test_every_program_is_tested():
    assert {path.name for path in PROGRAMS.glob("*.py")} - {"continued.py"} == set(NEEDS)
