"""Real training as a Gymnasium environment, and fair comparison of whoever sets its learning rate.

Importing this package registers the environments `lr_env/<Task>-v0`, whose action is the learning rate, and for
reinforcement learning `lr_env/<Task>-Scale-v0`, `-Discrete-v0` and `-LogLR-v0`, with Gymnasium as soon as that is
imported. The names below are loaded when first used, so that the import itself stays light.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if ("lr_env.cli" in sys.orig_argv or (sys.argv[:1] and sys.argv[0].endswith(("/lr-env", "\\lr-env.exe")))) and not any(
    argument.startswith("from multiprocessing.") for argument in sys.orig_argv
):
    from lr_env.stopping import STOPPING  # the command: what follows takes long enough to be stopped in

    STOPPING.install()

from lr_env import forking, registration
from lr_env.version import __version__

if TYPE_CHECKING:
    from lr_env.children import Backend, Children, Numerics
    from lr_env.env import LREnv, LRVectorEnv
    from lr_env.env.observations import FEATURES
    from lr_env.errors import UserError
    from lr_env.planner import Planner, RunSpec
    from lr_env.tasks import TASKS, Task

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

registration.when_gymnasium_is_imported()
forking.prepare()


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'lr_env' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
