"""A tree of tensors, arrays and JSON values in one file, written atomically and read without unpickling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lr_env.errors import UserError
from lr_env.replacing import replacing

_FORMAT = 1


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree (dict, list, tuple, tensor, numpy array, and what JSON holds) to a file, whole or not at all.

    Raises:
        UserError: the tree holds something else.
        OSError: the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _take_apart(tree, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"format": str(_FORMAT), "tree": json.dumps(skeleton)})
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(f"cannot write {str(path)!r}: {error}") from error


def load_tree(path: Path) -> Any:
    """Read a tree that `save_tree` wrote; tensors come back on the CPU.

    Raises:
        UserError: the file is damaged or of another format.
        FileNotFoundError: there is none.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != str(_FORMAT):
                raise UserError(f"{str(path)!r} has format {header.get('format')!r}, not {_FORMAT}: update lr_env")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return _put_together(json.loads(header["tree"]), tensors)
    except UserError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, StopIteration) as error:
        raise UserError(
            f"{str(path)!r} is damaged ({error}): delete it, the work since it was written is redone"
        ) from error


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
