"""Files of trained weights: tensors and JSON, found by path or by the name of a shipped file."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lr_env.errors import UserError
from lr_env.files import OPEN_SEAL, in_place_of, is_sealed, write_sealed
from lr_env.words import first_line

PRETRAINED = Path(__file__).parent / "pretrained"

T = TypeVar("T")
Tensors = Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class WeightFiles(Generic[T]):
    """Reads and writes files of one kind, e.g. policies.

    Attributes:
        what: the kind in one word, which is also the key of the JSON header in the file.
        prefix: prefix of the names of shipped files.
        format: number of the format. The format before it, which has no seal (see `lr_env.files`), is read as well;
            files of other formats are refused.
        missing_hint: what to do if there is no such file, for error messages.
        damaged_hint: what to do if the file is damaged, for error messages.
        read: builds the object from the header, the tensors and a name of the file for messages; raises KeyError,
            TypeError, ValueError or RuntimeError if they do not fit together.
    """

    what: str
    prefix: str
    format: int
    missing_hint: str
    damaged_hint: str
    read: Callable[[Mapping[str, Any], Tensors, str], T]

    def save(self, path: Path, header: Mapping[str, Any], tensors: Tensors) -> None:
        """Write JSON and tensors, as float32, to a safetensors file."""
        arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
        full_header = {"format": self.format, "sha256": _digest(arrays), **header}
        write_sealed(path, save(arrays, {self.what: json.dumps(full_header), "seal": OPEN_SEAL}))

    def load(self, path: Path) -> T:
        """Read a file that `save` wrote.

        Raises:
            UserError: there is no such file, or it is damaged or of another format.
        """
        if not path.is_file():
            raise UserError(f"there is no {self.what} {str(path)!r}: {self.missing_hint}")
        try:
            sealed = is_sealed(path)
            with safe_open(path, framework="np") as file:
                header = json.loads((file.metadata() or {})[self.what])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if header["format"] == self.format and not sealed:
                raise ValueError("it has no seal")
            if header["format"] not in (self.format, self.format - 1):
                raise UserError(
                    f"{self.what} {str(path)!r} has format {header['format']!r}, not {self.format}: {self.damaged_hint}"
                )
            for name, tensor in tensors.items():
                if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
                    raise ValueError(f"{name} holds numbers that are not finite")
            if header["sha256"] != _digest(tensors):
                raise ValueError("its numbers are not those that were written")
            check_about(header["about"])
            return self.read(header, tensors, f"{self.what} {str(path)!r}")
        except UserError:
            raise
        except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
            why = first_line(error)  # torch lists every tensor
            raise UserError(
                f"{self.what} {str(path)!r} cannot be read ({why}): it is damaged, {self.damaged_hint}"
            ) from error

    def find(self, name: str) -> T:
        """Read a file by its path, or a shipped file by its name.

        Raises:
            UserError: there is no such file, or it is damaged.
        """
        if not isinstance(name, str):  # a setting from the command line may be anything
            raise UserError(
                f"{self.what} {name!r}: give the name of a {self.what} that is shipped, or a .safetensors file"
            )
        path = in_place_of(_path(name, self.prefix))
        try:
            changed = os.stat(path).st_mtime_ns  # at every plan: `Path` takes longer
        except FileNotFoundError:
            changed = 0
        except (OSError, ValueError) as error:  # no file can have such a name
            raise UserError(f"{self.what} {name[:40]!r}...: {first_line(error)[:60]}: {self.missing_hint}") from error
        if not changed and not Path(name).suffix:
            shipped = ", ".join(self.shipped()) or "none"
            raise UserError(
                f"there is no {self.what} {name!r} (shipped: {shipped}): give one of those or a .safetensors file, or "
                f"{self.missing_hint}"
            )
        return _loaded(self, path, changed)

    def path(self, name: str) -> Path:
        """The file that `find` reads for a name."""
        return Path(_path(name, self.prefix))

    def shipped(self) -> list[str]:
        """Return the names of the shipped files."""
        return sorted(file.stem.removeprefix(self.prefix) for file in PRETRAINED.glob(f"{self.prefix}*.safetensors"))


class FromWeights(ABC):
    """A planner that depends on a file of trained weights."""

    weights_field: ClassVar[str]
    """Name of the setting that names the file, and of the entry of the state that holds its fingerprint."""

    @property
    @abstractmethod
    def trained(self) -> Any:
        """The content of the file, with `fingerprint` and `about` (its provenance)."""

    @property
    def fingerprint(self) -> str:
        """Hash of the file's content, so that a comparison is not continued with another file."""
        return self.trained.fingerprint

    @property
    def files(self) -> tuple[str, ...]:
        """The file, unless it is shipped; see `lr_env.capabilities.ReadsFiles`."""
        name = getattr(self, self.weights_field)
        return (name,) if Path(name).suffix else ()

    @property
    def pretraining_steps(self) -> int:
        """Child steps that were spent on making the file."""
        return int(self.trained.about.get("child_steps", 0))

    def check_unchanged(self, state: Mapping[str, Any]) -> Any:
        """Return `trained`, after a check that the run began with it.

        Raises:
            UserError: the file has changed since.
        """
        trained = self.trained
        if trained.fingerprint != state[self.weights_field]:
            name = getattr(self, self.weights_field)
            raise UserError(f"{self.weights_field} {name!r} is not the one that this run began with: put that back")
        return trained


def _digest(tensors: Tensors) -> str:
    """Return a hash of all numbers, with their names and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape} ".encode() + tensors[name].tobytes())
    return digest.hexdigest()


def check_about(about: Any) -> None:
    """Check the provenance in a file.

    Raises:
        ValueError: it is not a dict, or its number of child steps is not a count.
    """
    if not isinstance(about, dict):
        raise ValueError(f"about is of type {type(about).__name__}")
    steps = about.get("child_steps", 0)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"child_steps is {steps!r}, not a whole number from 0 up")


@lru_cache(maxsize=16)
def _path(name: str, prefix: str) -> str:
    return name if Path(name).suffix else str(PRETRAINED / f"{prefix}{name}.safetensors")


@lru_cache(maxsize=16)
def _loaded(files: WeightFiles[T], path: str, changed: int) -> T:
    """Read a file once; `changed`, its time of modification, is only a key of the cache."""
    return files.load(Path(path))
