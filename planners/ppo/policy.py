"""A trained policy: a small network in numpy, kept as weights and JSON."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.env import observations
from lr_env.errors import UserError
from planners.weights import Tensors, WeightFiles

LARGEST_CHANGE = 10.0
"""Factor of an action beyond which a policy is not believed: a decade at every decision."""

_CLIP = 10.0  # of normalised features, as VecNormalize does
_OUTPUTS = {"scale": 1, "discrete": 3}

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Policy:
    """What a controller answers to the features of `lr_env.env.observations`.

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
            "features": [feature.name for feature in observations.FEATURES],
            "action": self.action,
            "max_change": self.max_change,
            "about": dict(self.about),
        }
        _FILES.save(path, header, tensors)

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, it is damaged, of another format, or made for other features.
        """
        return _FILES.load(path)


def _read(header: Mapping[str, Any], tensors: Tensors, file: str) -> Policy:
    known = [feature.name for feature in observations.FEATURES]
    if header["features"] != known:
        differ = sorted(set(header["features"]) ^ set(known)) or ["their order"]
        raise UserError(f"{file} was trained on other observations ({', '.join(differ)}): train it anew")
    _check_tensors(tensors, len(known), _OUTPUTS[header["action"]])
    _check_change(header["max_change"])
    layers = tuple((tensors[f"weight.{at}"], tensors[f"bias.{at}"]) for at in range(_depth(tensors)))
    change = float(header["max_change"])
    return Policy(tensors["mean"], tensors["variance"], layers, header["action"], change, header["about"])


_FILES = WeightFiles("policy", "ppo-", 3, "train one with `lr-env train-ppo`", "train it anew", _read)


def _depth(tensors: Mapping[str, Floats]) -> int:
    """Number of layers."""
    return sum(name.startswith("weight.") for name in tensors)


def _check_tensors(tensors: Mapping[str, Floats], features: int, outputs: int) -> None:
    """See that statistics and layers fit each other, the features and the action.

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
    if (tensors["variance"] < 0).any():
        raise ValueError("variance is below 0")


def _check_change(max_change: Any) -> None:
    """See that the factor of the largest action is one.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(max_change, int | float) or not 1 < max_change <= LARGEST_CHANGE:  # false for NaN
        raise ValueError(f"max_change is {max_change!r}, not above 1 and at most {LARGEST_CHANGE:g}")


def find_policy(name: str) -> Policy:
    """A policy of a file, or one that is shipped, by its name.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return _FILES.find(name)
