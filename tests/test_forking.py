"""Processes that are forked compute, with the threads that a machine has by default, and nobody waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SECONDS = 120
"""After which a program counts as hanging; it takes a few."""

PREPARED = """
import multiprocessing
import torch
import gymnasium
import lr_env
from dataclasses import replace
from lr_env import TASKS, Children, LREnv
from lr_env.tasks import MLP

torch.set_num_threads(2)
wide = replace(TASKS["DigitsMLP"], network=MLP((256, 256)), batch_size=256, budget=20, segment=10)
a = torch.ones(600, 600)
(a @ a).sum()  # starts the threads
"""

PROGRAMS = {
    "async vector environment": """
        env = gymnasium.make_vec("lr_env/DigitsMLP-v0", num_envs=2, vectorization_mode="async", task=wide)
        env.reset(seed=0)
        for _ in range(3):
            *_, infos = env.step(env.action_space.sample() * 0 + 0.01)
        env.close()
        """,
    "pool after training": """
        env = LREnv(wide)
        env.reset(seed=0)
        env.step(0.01)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.map(train, range(2))
        assert found[0] == train(0) or abs(found[0] - train(0)) < 1e-4
        """,
    "children with workers": """
        from lr_env.children import Backend, Execution
        children = Children(wide, range(4), Execution(backend=Backend("loop", workers=2)))
        children.train([0.01] * 4)
        expected = children.snapshot()
        def go_on(queue):
            queue.put(children.train([0.01] * 4).tolist())
        fork = multiprocessing.get_context("fork")
        queue = fork.Queue()
        process = fork.Process(target=go_on, args=(queue,))
        process.start()
        assert queue.get() == children.train([0.01] * 4).tolist()
        process.join()
        """,
    "raw fork": """
        import os
        from lr_env.children import Backend, Execution
        children = Children(wide, range(2), Execution(backend=Backend("stacked", 2)))
        children.train([0.01] * 2)
        process = os.fork()
        if process == 0:
            children.train([0.01] * 2)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
        assert torch.get_num_threads() == 2  # the parent keeps its own
        """,
}

TRAIN = """
def train(seed):
    env = LREnv(wide)
    env.reset(seed=seed)
    return env.step(0.01)[4]["train_loss"]
"""


def run(program: str) -> None:
    """Run a program with as many threads as there are by default."""
    own = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env=own, timeout=SECONDS, capture_output=True, check=False
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"hangs after {error.stdout!r}")
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_forks_compute():
    parts = [f"print({name!r}, flush=True)\n" + textwrap.dedent(part) for name, part in PROGRAMS.items()]
    run("\n".join([PREPARED, TRAIN, *parts]))  # one program, since importing takes longest; it prints where it is


def test_a_worker_that_imports_the_package_itself_computes():
    run(
        textwrap.dedent(
            """
            import multiprocessing, torch
            torch.set_num_threads(2)
            a = torch.ones(600, 600)
            (a @ a).sum()
            def train(seed):
                from dataclasses import replace
                from lr_env import TASKS, LREnv
                from lr_env.tasks import MLP
                env = LREnv(replace(TASKS["DigitsMLP"], network=MLP((256, 256)), batch_size=256))
                env.reset(seed=seed)
                return env.step(0.01)[4]["train_loss"]
            with multiprocessing.get_context("fork").Pool(1) as pool:
                assert pool.map(train, [0])[0] > 0
            """
        )
    )
