"""Files of trained weights: tensors and JSON, found by path or by the name under which they are shipped."""

from __future__ import annotations

import hashlib
import json
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
from lr_env.files import OPEN_SEAL, is_sealed, write_sealed

PRETRAINED = Path(__file__).parent / "pretrained"

T = TypeVar("T")
Tensors = Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class WeightFiles(Generic[T]):
    """Files of one kind of thing.

    Attributes:
        what: the kind in a word, which is also the key of its JSON in the file.
        prefix: of the names of files that are shipped.
        format: number of the format; that of before, which has no seal (see `lr_env.files`), is read, too, and files of
            others are refused.
        make, again: what to do where there is none, and where it is damaged; ends of error messages.
        read: makes the thing of its JSON, its tensors, and what to call the file; raises KeyError, TypeError,
            ValueError or RuntimeError where they do not fit.
    """

    what: str
    prefix: str
    format: int
    make: str
    again: str
    read: Callable[[Mapping[str, Any], Tensors, str], T]

    def save(self, path: Path, header: Mapping[str, Any], tensors: Tensors) -> None:
        """Write JSON and tensors, as float32, to a safetensors file."""
        arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
        known = {"format": self.format, "sha256": _digest(arrays), **header}
        write_sealed(path, save(arrays, {self.what: json.dumps(known), "seal": OPEN_SEAL}))

    def load(self, path: Path) -> T:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, or it is damaged or of another format.
        """
        if not path.is_file():
            raise UserError(f"there is no {self.what} {str(path)!r}: {self.make}")
        try:
            sealed = is_sealed(path)
            with safe_open(path, framework="np") as file:
                header = json.loads((file.metadata() or {})[self.what])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if header["format"] == self.format and not sealed:
                raise ValueError("it has no seal")
            if header["format"] not in (self.format, self.format - 1):
                raise UserError(
                    f"{self.what} {str(path)!r} has format {header['format']!r}, not {self.format}: {self.again}"
                )
            for name, tensor in tensors.items():
                if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
                    raise ValueError(f"{name} holds what is no finite number")
            if header["sha256"] != _digest(tensors):
                raise ValueError("its numbers are not those that were written")
            check_about(header["about"])
            return self.read(header, tensors, f"{self.what} {str(path)!r}")
        except UserError:
            raise
        except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]  # torch tells of every tensor
            raise UserError(f"{self.what} {str(path)!r} cannot be read ({why}): it is damaged, {self.again}") from error

    def find(self, name: str) -> T:
        """What a file holds, or what is shipped under a name.

        Raises:
            UserError: there is none, or it is damaged.
        """
        if not isinstance(name, str):  # a setting from the command line may be anything
            raise UserError(
                f"{self.what} {name!r}: give the name of a {self.what} that is shipped, or a .safetensors file"
            )
        path = Path(name) if Path(name).suffix else PRETRAINED / f"{self.prefix}{name}.safetensors"
        try:
            path.is_file()
        except OSError as error:  # no name that a file could have
            raise UserError(f"{self.what} {name[:40]!r}...: {error.strerror}: {self.make}") from error
        if not Path(name).suffix and not path.is_file():
            have = ", ".join(self.shipped()) or "none"
            raise UserError(
                f"there is no {self.what} {name!r} (shipped: {have}): give one of those or a .safetensors file, or "
                f"{self.make}"
            )
        return _loaded(self, path, path.stat().st_mtime_ns if path.is_file() else 0)

    def shipped(self) -> list[str]:
        """Names of those that are."""
        return sorted(file.stem.removeprefix(self.prefix) for file in PRETRAINED.glob(f"{self.prefix}*.safetensors"))


class OfAFile(ABC):
    """A planner that plays what is kept in a file of weights, which it has read as `trained`."""

    kept: ClassVar[str]
    """What that is called, which is also the name of the setting that names it."""

    @property
    @abstractmethod
    def trained(self) -> Any:
        """What the file holds, with `fingerprint` and `about`."""

    @property
    def fingerprint(self) -> str:
        """A hash of it: a comparison that was begun with one is not gone on with another."""
        return self.trained.fingerprint

    @property
    def pretraining_steps(self) -> int:
        """Child steps that were spent on it."""
        return int(self.trained.about.get("child_steps", 0))

    def same(self, state: Mapping[str, Any]) -> Any:
        """`trained`, which must be what the run of a state began with.

        Raises:
            UserError: it is not.
        """
        trained = self.trained
        if trained.fingerprint != state[self.kept]:
            name = getattr(self, self.kept)
            raise UserError(f"{self.kept} {name!r} is not the one that this run began with: put that back")
        return trained


def _digest(tensors: Tensors) -> str:
    """A hash of all numbers, with their names and shapes."""
    told = hashlib.sha256()
    for name in sorted(tensors):
        told.update(f"{name} {tensors[name].shape} ".encode() + tensors[name].tobytes())
    return told.hexdigest()


def check_about(about: Any) -> None:
    """See that what a file says of how it was made can be used.

    Raises:
        ValueError: it cannot.
    """
    if not isinstance(about, dict):
        raise ValueError(f"about is of type {type(about).__name__}")
    steps = about.get("child_steps", 0)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"child_steps is {steps!r}, not a whole number from 0 up")


@lru_cache(maxsize=16)
def _loaded(files: WeightFiles[T], path: Path, changed: int) -> T:
    """What a file holds; `changed` only keys the cache."""
    return files.load(path)
