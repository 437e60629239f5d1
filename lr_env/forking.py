"""Forked processes: torch computes there, too."""

from __future__ import annotations

import os
import sys


def prepare() -> None:
    """Make every process that is forked from this one compute with one thread.

    The threads with which a parent shares its operations do not exist in a process that is forked from it, and torch
    would wait for them for ever. That is so in the workers of `multiprocessing`, of `gymnasium.vector.AsyncVectorEnv`
    and of others that start processes by "fork", as Linux did by default before Python 3.14.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_compute_alone)
    if _is_fork():
        _compute_alone()


def _compute_alone() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):  # or it is being imported
        torch.set_num_threads(1)


def _is_fork() -> bool:
    """Whether `multiprocessing` forked this process, as far as can be told: one started afresh is its own program."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return False
    return not any(argument.startswith("from multiprocessing.") for argument in sys.orig_argv)
