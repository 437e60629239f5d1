"""Forked processes: make torch work in them."""

from __future__ import annotations

import os
import sys


def prepare() -> None:
    """Make every process that is forked from this one compute with one thread.

    The threads of a parent do not exist in a process that is forked from it, and torch would wait for them for ever.
    That concerns the workers of `multiprocessing`, `gymnasium.vector.AsyncVectorEnv` and others that start processes by
    "fork", the default on Linux before Python 3.14.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_use_one_thread)
    if _is_fork():
        _use_one_thread()


def _use_one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):  # it may be in the middle of its import
        torch.set_num_threads(1)


def _is_fork() -> bool:
    """Return whether `multiprocessing` seems to have forked this process; a spawned one runs a program of its own."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return False
    return not any(argument.startswith("from multiprocessing.") for argument in sys.orig_argv)
