"""A trained policy: a small network in numpy, kept as weights and JSON."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lr_env import observations
from lr_env.errors import UserError
from lr_env.replacing import replacing

FORMAT = 1
PRETRAINED = Path(__file__).parent / "pretrained"
LARGEST_CHANGE = 10.0
"""Factor of an action beyond which a policy is not believed: a decade at every decision."""

_CLIP = 10.0  # of normalised features, as VecNormalize does
_OUTPUTS = {"scale": 1, "discrete": 3}

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Policy:
    """What a controller answers to the features of `lr_env.observations`.

    Attributes:
        mean, variance: of the features, by which they are normalised, (features,).
        layers: weights (outputs, inputs) and biases (outputs,) of each layer; tanh lies between them.
        action: "scale": the last layer gives the mean of a Gaussian over [-1, 1]. "discrete": it gives the logits of
            lower, keep, raise.
        max_change: factor of the largest action.
        about: how it was trained, JSON-able; "child_steps" is what that took.
    """

    mean: Floats
    variance: Floats
    layers: tuple[tuple[Floats, Floats], ...]
    action: str
    max_change: float
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that its answers depend on."""
        told = hashlib.sha256(f"{self.action} {self.max_change}".encode())
        for array in (self.mean, self.variance, *(part for layer in self.layers for part in layer)):
            told.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
        return told.hexdigest()

    def factors(self, signals: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """By what the rate of each run is to change, (num_runs,): the most likely action."""
        seen = (observations.observe(signals) - self.mean) / np.sqrt(self.variance + 1e-8)
        out = np.clip(seen, -_CLIP, _CLIP).astype(np.float32)
        for number, (weight, bias) in enumerate(self.layers, 1):
            out = out @ weight.T + bias
            if number < len(self.layers):
                out = np.tanh(out)
        exponent = np.clip(out[:, 0], -1, 1) if self.action == "scale" else out.argmax(1) - 1.0
        return self.max_change ** exponent.astype(np.float64)

    def save(self, path: Path) -> None:
        """Write weights and JSON to a safetensors file."""
        tensors = {"mean": self.mean, "variance": self.variance}
        for number, (weight, bias) in enumerate(self.layers):
            tensors |= {f"weight.{number}": weight, f"bias.{number}": bias}
        header = {
            "format": FORMAT,
            "features": [feature.name for feature in observations.FEATURES],
            "action": self.action,
            "max_change": self.max_change,
            "about": dict(self.about),
        }
        with replacing(path) as temporary:
            arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
            save_file(arrays, temporary, metadata={"policy": json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, it is damaged, of another format, or made for other features.
        """
        if not path.is_file():
            raise UserError(f"there is no policy {str(path)!r}: train one with `lr-env train-ppo`")
        try:
            with safe_open(path, framework="np") as file:
                header = json.loads((file.metadata() or {})["policy"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if header["format"] != FORMAT:
                raise UserError(f"policy {str(path)!r} has format {header['format']!r}, not {FORMAT}: train it anew")
            known = [feature.name for feature in observations.FEATURES]
            if header["features"] != known:
                differ = sorted(set(header["features"]) ^ set(known)) or ["their order"]
                raise UserError(
                    f"policy {str(path)!r} was trained on other observations ({', '.join(differ)}): train it anew"
                )
            _check_tensors(tensors, len(known), _OUTPUTS[header["action"]])
            _check_numbers(header["max_change"], header["about"])
            layers = tuple((tensors[f"weight.{at}"], tensors[f"bias.{at}"]) for at in range(_depth(tensors)))
            change = float(header["max_change"])
            return cls(tensors["mean"], tensors["variance"], layers, header["action"], change, header["about"])
        except UserError:
            raise
        except (SafetensorError, KeyError, ValueError, TypeError, OSError, RecursionError) as error:
            raise UserError(f"policy {str(path)!r} cannot be read ({error}): it is damaged, train it anew") from error


def _depth(tensors: Mapping[str, Floats]) -> int:
    """Number of layers."""
    return sum(name.startswith("weight.") for name in tensors)


def _check_tensors(tensors: Mapping[str, Floats], features: int, outputs: int) -> None:
    """See that statistics and layers fit each other, the features and the action, and are finite numbers.

    Raises:
        KeyError, ValueError: they do not.
    """
    shapes: dict[str, tuple[int, ...]] = {"mean": (features,), "variance": (features,)}
    sizes = [len(tensors[f"weight.{number}"]) for number in range(_depth(tensors))]
    for number, (width, size) in enumerate(itertools.pairwise([features, *sizes[:-1], outputs])):
        shapes |= {f"weight.{number}": (size, width), f"bias.{number}": (size,)}
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has the shape {tensors[name].shape}, not {shape}")
        if tensors[name].dtype.kind != "f" or not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name} holds what is no finite number")
    if (tensors["variance"] < 0).any():
        raise ValueError("variance is below 0")


def _check_numbers(max_change: Any, about: Any) -> None:
    """See that what is not a tensor is what a policy needs.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(max_change, int | float) or not 1 < max_change <= LARGEST_CHANGE:  # false for NaN
        raise ValueError(f"max_change is {max_change!r}, not above 1 and at most {LARGEST_CHANGE:g}")
    if not isinstance(about, dict):
        raise ValueError(f"about is of type {type(about).__name__}")
    steps = about.get("child_steps", 0)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"child_steps is {steps!r}, not a whole number from 0 up")


def find_policy(name: str) -> Policy:
    """A policy of a file, or one that is shipped, by its name.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not isinstance(name, str):  # a setting from the command line may be anything
        raise UserError(f"policy {name!r}: give the name of a policy that is shipped, or a .safetensors file")
    shipped = PRETRAINED / f"ppo-{name}.safetensors"
    path = Path(name)
    if path.suffix or not shipped.is_file():
        if not path.suffix:
            have = ", ".join(sorted(file.stem.removeprefix("ppo-") for file in PRETRAINED.glob("ppo-*.safetensors")))
            line = f"there is no policy {name!r} (shipped: {have or 'none'})"
            raise UserError(f"{line}: give one of those, or a .safetensors file")
        shipped = path
    return _loaded(shipped, shipped.stat().st_mtime_ns if shipped.is_file() else 0)


@lru_cache(maxsize=16)
def _loaded(path: Path, changed: int) -> Policy:
    """A file's policy; `changed` only keys the cache."""
    return Policy.load(path)
