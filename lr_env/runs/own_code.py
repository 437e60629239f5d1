"""Code of one's own that results depend on, told apart by hashes: it comes with no version."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Iterable, Mapping

import torch

from lr_env.children.initial import build_seeded
from lr_env.tasks import Task

_VERSIONED = frozenset({"lr_env", "planners", "torch", "numpy", *sys.builtin_module_names, *sys.stdlib_module_names})
"""Packages whose version a spec has."""


def own_code(task: Task, planners: Mapping[str, type] | None = None) -> dict[str, str]:
    """Hashes of the classes that a task, and planners by name, are made of, where these are somebody's own.

    Comments, docstrings and layout do not count, and neither does what a class calls outside of it. Classes whose
    source cannot be found are left out.
    """
    network: set[type] = {type(task.network)}
    if _is_own(type(task.network)):  # which may be made of modules of its own
        shape, classes = task.source.input_shape, task.source.num_classes
        built = build_seeded(lambda: task.network.build(shape, classes), 0, torch.float32)
        network |= {type(module) for module in built.modules()}
    parts = {"task": [type(task)], "network": network, "optimizer": [type(task.optimizer)]}
    if task.augment is not None:
        parts["augment"] = [type(task.augment)]
    parts |= {name: [planner] for name, planner in (planners or {}).items()}
    found = {name: _hash(classes) for name, classes in parts.items()}
    return {name: value for name, value in found.items() if value}


def _is_own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in _VERSIONED


def _hash(kinds: Iterable[type]) -> str:
    """SHA-256 of the code of those classes, and of those that they inherit from, that are somebody's own."""
    every = {base for kind in kinds for base in kind.__mro__ if _is_own(base)}
    code = sorted(text for text in map(_code, every) if text)
    return hashlib.sha256("\n".join(code).encode()).hexdigest() if code else ""


def _code(kind: type) -> str:
    """The syntax of a class without docstrings; empty where its source is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, ValueError, SyntaxError):
        return ""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node) is not None
        ):
            del node.body[0]
    return ast.dump(tree)
