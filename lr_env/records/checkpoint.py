"""A tree of tensors, arrays and JSON values in one file, written atomically and read without unpickling."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lr_env.errors import UserError
from lr_env.files import OPEN_SEAL, is_sealed, write_sealed
from lr_env.words import first_line

_FORMAT = "2, sealed"
_LATER = frozenset({"kind", "layout", "runs"})
"""What snapshots say of whom they are of, which earlier ones did not."""

_UNSEALED = "1"
"""The format of before, which is read as it is: nothing tells whether it is whole."""


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree (dict, list, tuple, tensor, numpy array, and what JSON holds) to a file, whole or not at all.

    Raises:
        UserError: the tree holds something else.
        OSError: the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _take_apart(tree, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, save(tensors, {"format": str(_FORMAT), "seal": OPEN_SEAL, "tree": json.dumps(skeleton)}))


def load_tree(path: Path) -> Any:
    """Read a tree that `save_tree` wrote; tensors come back on the CPU.

    Raises:
        UserError: the file is damaged or of another format.
        FileNotFoundError: there is none.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        sealed = is_sealed(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != (str(_FORMAT) if sealed else _UNSEALED):
                if sealed:
                    raise UserError(
                        f"{str(path)!r} has format {header.get('format')!r}, not {str(_FORMAT)!r}: update lr_env"
                    )
                raise ValueError("it has no seal")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return _put_together(json.loads(header["tree"]), tensors)
    except UserError:
        raise
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, StopIteration, RuntimeError) as error:
        why = first_line(error)
        raise UserError(
            f"{str(path)!r} is damaged ({why}): delete it, the work since it was written is redone"
        ) from error


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn what goes wrong while something goes on from a checkpoint into a line that names the fix."""
    try:
        yield
    except Exception as error:  # whatever meets what it was not written for
        why = first_line(error)
        raise UserError(
            f"{str(path)!r} does not fit what goes on from it ({why}): delete it, the work that it holds is redone"
        ) from error


def check_fit(saved: Any, like: Any, where: str = "") -> None:
    """See that a tree is built like another one: arrays of the same shapes and dtypes under the same keys.

    What the other one leaves empty, and values of JSON, may be anything, and what came later may be missing.

    Raises:
        ValueError: it is not, and where.
    """
    wrong = f"{where.removeprefix('.') or 'it'} is not as it should be"
    if isinstance(like, Mapping):
        if not isinstance(saved, Mapping) or (like and not like.keys() - _LATER <= saved.keys()):
            raise ValueError(wrong)
        for key in like.keys() & saved.keys():
            check_fit(saved[key], like[key], f"{where}.{key}")
    elif isinstance(like, np.ndarray | torch.Tensor):
        if type(saved) is not type(like) or saved.shape != like.shape or saved.dtype != like.dtype:
            raise ValueError(wrong)
    elif isinstance(like, list | tuple) and like:
        if not isinstance(saved, list | tuple) or len(saved) != len(like):
            raise ValueError(wrong)
        for number, (one, other) in enumerate(zip(saved, like, strict=True)):
            check_fit(one, other, f"{where}.{number}")


def _take_apart(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, torch.Tensor | np.ndarray):
        name = str(len(tensors))
        is_tensor = isinstance(node, torch.Tensor)
        # Copies, because safetensors refuses tensors that share memory, and torch warns about read-only arrays.
        try:
            copy = node.detach().cpu().clone(memory_format=torch.contiguous_format) if is_tensor else _tensor(node)
        except (TypeError, ValueError) as error:
            raise UserError(f"a saved state may not hold arrays of {node.dtype}") from error
        tensors[name] = copy
        return {"tensor" if is_tensor else "array": name, "shape": list(node.shape)}
    if isinstance(node, dict):
        if not all(isinstance(key, str) for key in node):
            raise UserError("a saved state may only have string keys")
        return {"dict": {key: _take_apart(value, tensors) for key, value in node.items()}}
    if type(node) in (list, tuple):
        return {type(node).__name__: [_take_apart(value, tensors) for value in node]}
    if isinstance(node, np.generic):
        node = node.item()
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    raise UserError(f"a saved state may hold arrays, tensors and JSON values, not {type(node).__name__}")


def _put_together(node: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    if "value" in node:
        return node["value"]
    if "dict" in node:
        return {key: _put_together(value, tensors) for key, value in node["dict"].items()}
    if "tensor" in node:
        return tensors[node["tensor"]].reshape(node["shape"])
    if "array" in node:
        return tensors[node["array"]].numpy().reshape(node["shape"]).copy()
    kind, values = next(iter(node.items()))
    made = [_put_together(value, tensors) for value in values]
    return tuple(made) if kind == "tuple" else made


def _tensor(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array, order="C"))
    if tensor.dtype == torch.complex128:
        raise TypeError("safetensors has no complex128")
    return tensor
