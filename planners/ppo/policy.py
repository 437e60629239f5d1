"""A trained policy: a small network in numpy, saved as weights and JSON."""

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
"""Upper limit for the factor of one action: a decade in every segment."""

_CLIP = 10.0  # of normalised features, as VecNormalize does
_OUTPUTS = {"scale": 1, "discrete": 3}

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy: a map from the features of `lr_env.env.observations` to changes of the rate.

    Attributes:
        mean, variance: statistics of the features, by which they are normalised, (features,).
        layers: weights (outputs, inputs) and biases (outputs,) of each layer, with tanh between layers.
        action: "scale": the last layer gives the mean of a Gaussian over [-1, 1]. "discrete": it gives the logits of
            lower, keep, raise.
        max_change: factor of the largest action.
        about: provenance, JSON-able; "child_steps" are the training steps of children that were spent.
    """

    mean: Floats
    variance: Floats
    layers: tuple[tuple[Floats, Floats], ...]
    action: str
    max_change: float
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that its actions depend on."""
        digest = hashlib.sha256(f"{self.action} {self.max_change}".encode())
        for array in (self.mean, self.variance, *(part for layer in self.layers for part in layer)):
            digest.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
        return digest.hexdigest()

    def factors(self, signals: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the factor by which the rate of each run changes, (num_runs,), by the most likely action."""
        normalised = (observations.observe(signals) - self.mean) / np.sqrt(self.variance + 1e-8)
        out = np.clip(normalised, -_CLIP, _CLIP).astype(np.float32)
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
        POLICIES.save(path, header, tensors)

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a file that `save` wrote.

        Raises:
            UserError: there is no such file, it is damaged, of another format, or made for other features.
        """
        return POLICIES.load(path)


def _read(header: Mapping[str, Any], tensors: Tensors, file: str) -> Policy:
    features = [feature.name for feature in observations.FEATURES]
    if header["features"] != features:
        differ = sorted(set(header["features"]) ^ set(features)) or ["their order"]
        raise UserError(f"{file} was trained on other observations ({', '.join(differ)}): train it anew")
    _check_tensors(tensors, len(features), _OUTPUTS[header["action"]])
    max_change = header["max_change"]
    if not isinstance(max_change, int | float) or not 1 < max_change <= LARGEST_CHANGE:  # false for NaN
        raise ValueError(f"max_change is {max_change!r}, not above 1 and at most {LARGEST_CHANGE:g}")
    layers = tuple((tensors[f"weight.{at}"], tensors[f"bias.{at}"]) for at in range(_depth(tensors)))
    return Policy(tensors["mean"], tensors["variance"], layers, header["action"], float(max_change), header["about"])


POLICIES = WeightFiles("policy", "ppo-", 3, "train one with `lr-env train-ppo`", "train it anew", _read)


def _depth(tensors: Mapping[str, Floats]) -> int:
    """Return the number of layers."""
    return sum(name.startswith("weight.") for name in tensors)


def _check_tensors(tensors: Mapping[str, Floats], features: int, outputs: int) -> None:
    """Check that statistics and layers fit each other, the features and the action.

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
