"""A trained policy: a small network in numpy, kept as weights and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
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
_CLIP = 10.0  # of normalised features, as VecNormalize does

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
            count = sum(name.startswith("weight.") for name in tensors)
            layers = tuple((tensors[f"weight.{number}"], tensors[f"bias.{number}"]) for number in range(count))
            width = len(known)
            for weight, bias in layers:
                if weight.shape != (len(bias), width):
                    raise ValueError(f"a layer of shape {weight.shape}")
                width = len(bias)
            if width != {"scale": 1, "discrete": 3}[header["action"]] or tensors["mean"].shape != (len(known),):
                raise ValueError(f"{width} outputs")
            return cls(
                tensors["mean"],
                tensors["variance"],
                layers,
                header["action"],
                float(header["max_change"]),
                header["about"],
            )
        except UserError:
            raise
        except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise UserError(f"policy {str(path)!r} cannot be read ({error}): it is damaged, train it anew") from error


def find_policy(name: str) -> Policy:
    """A policy of a file, or one that is shipped, by its name."""
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
