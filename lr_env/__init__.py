"""Real training as a Gymnasium environment, and fair comparison of whoever sets its learning rate.

Importing this package registers the environments `lr_env/<Task>-v0`, whose action is the learning rate, and for
reinforcement learning `lr_env/<Task>-Scale-v0`, `-Discrete-v0` and `-LogLR-v0`. The names below are loaded when first
used, so that the import itself stays light.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if "lr_env.cli" in sys.orig_argv or (sys.argv[:1] and sys.argv[0].endswith(("/lr-env", "\\lr-env.exe"))):
    from lr_env.stopping import STOPPING  # the command: what follows takes long enough to be stopped in

    STOPPING.install()

import gymnasium

from lr_env import forking

if TYPE_CHECKING:
    from lr_env.children import Backend, Children, Numerics
    from lr_env.env import LREnv, LRVectorEnv
    from lr_env.env.observations import FEATURES
    from lr_env.errors import UserError
    from lr_env.planner import Planner, RunSpec
    from lr_env.tasks import TASKS, Task

__version__ = "0.1.0"

_HOME = {
    "Backend": "lr_env.children",
    "Children": "lr_env.children",
    "Numerics": "lr_env.children",
    "LREnv": "lr_env.env",
    "LRVectorEnv": "lr_env.env",
    "UserError": "lr_env.errors",
    "FEATURES": "lr_env.env.observations",
    "Planner": "lr_env.planner",
    "RunSpec": "lr_env.planner",
    "TASKS": "lr_env.tasks",
    "Task": "lr_env.tasks",
}

__all__ = [
    "FEATURES",
    "TASKS",
    "Backend",
    "Children",
    "LREnv",
    "LRVectorEnv",
    "Numerics",
    "Planner",
    "RunSpec",
    "Task",
    "UserError",
    "__version__",
]

# By name, so that registering does not load torch; a test holds this list against TASKS. Beside each are the rates of
# its id with an absolute action on a log scale: those that a sweep tries, and two decades below for the end of a run.
_TASKS = {
    "DigitsMLP": (3e-5, 0.3),
    "FashionMLP": (3e-5, 0.3),
    "FashionLeNet5": (3e-5, 0.3),
    "FashionResNet8": (1e-4, 1.0),
    "ShakespeareGPT": (1e-5, 0.1),
    "FashionCNN": (3e-6, 0.03),
    "FashionResNet18": (3e-5, 0.3),
    "CIFAR10ResNet18": (3e-5, 0.3),
    "ShakespeareGPTLarge": (3e-6, 0.03),
}
_ACTIONS = {"": "lr", "-Scale": "scale", "-Discrete": "discrete", "-LogLR": "log_lr"}

for _task, _rates in _TASKS.items():
    for _suffix, _action in _ACTIONS.items():
        gymnasium.register(
            id=f"lr_env/{_task}{_suffix}-v0",
            entry_point="lr_env.env:LREnv",
            vector_entry_point="lr_env.env:LRVectorEnv",
            kwargs={
                "task": _task,
                **({"action": _action, "score": ()} if _suffix else {}),  # learning has no use for test data
                **({"lr_range": _rates} if _action == "log_lr" else {}),
            },
        )

forking.prepare()


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'lr_env' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
