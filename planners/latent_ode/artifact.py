"""A fitted model with all that a planner needs to use it, and the file that it is kept in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lr_env.isolation import isolating
from planners.latent_ode.data.schedule_library import Repertoire
from planners.latent_ode.model.dynamics import Ensemble, Scales, Sizes
from planners.latent_ode.model.generative import Generative, GenerativeSizes
from planners.weights import Tensors, WeightFiles

ERRORS = "held_out_errors"
"""What `Trained.about` has it by: of a run that is over, and how far its end was foreseen wrong then, in pairs."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a planner loads.

    Attributes:
        model: the ensemble.
        scales: its constants.
        repertoire: schedules of the sweep.
        about: how it was made, JSON-able; "child_steps" is what the sweep took.
    """

    model: Ensemble | Generative
    scales: Scales
    repertoire: Repertoire
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pairs = np.array(self.about.get(ERRORS) or np.empty((0, 2)), dtype=np.float64)
        shape = pairs.ndim == 2 and pairs.shape[1] == 2
        if not (shape and np.isfinite(pairs).all() and (pairs >= 0).all() and (np.diff(pairs[:, 0]) > 0).all()):
            raise ValueError(f"{ERRORS} are no pairs of rising shares and errors: {self.about.get(ERRORS)!r}")

    @property
    def ensemble(self) -> Ensemble:
        """The model, which is of the kind "controlled": who plays by it has seen to that."""
        assert isinstance(self.model, Ensemble)
        return self.model

    def save(self, path: Path) -> None:
        """Write weights and JSON to a safetensors file."""
        header = {
            "kind": KINDS_OF[type(self.model)],
            "sizes": asdict(self.model.sizes),
            "scales": asdict(self.scales),
            "schedules": list(self.repertoire.names),
            "about": dict(self.about),
        }
        _FILES.save(path, header, self._tensors())

    @classmethod
    def load(cls, path: Path) -> Trained:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, or it is damaged or of another format.
        """
        return _FILES.load(path)

    def error_after(self, share: float) -> float | None:
        """Root mean square of what members were wrong by of the log final loss of runs that they had not seen.

        Args:
            share: of a run that is over.

        Returns:
            Of runs that ended near the best; None where the fit does not tell.
        """
        known = self.about.get(ERRORS)
        return float(np.interp(share, *np.transpose(known))) if known else None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that plans depend on."""
        sizes = asdict(self.model.sizes)
        unseen = {name: sizes[name] for name in ("window", "steps", "time") if name in sizes}  # in no shape of a weight
        default = {name: getattr(type(self.model.sizes)(), name) for name in unseen}
        about = [asdict(self.scales), self.repertoire.names, *([unseen] if unseen != default else [])]
        told = hashlib.sha256(json.dumps(about).encode())
        for name, tensor in sorted(self._tensors().items()):
            told.update(name.encode() + np.ascontiguousarray(tensor, dtype=np.float32).tobytes())
        return told.hexdigest()

    def _tensors(self) -> dict[str, NDArray[np.floating[Any]]]:
        weights = {f"model.{name}": weight.numpy() for name, weight in self.model.state_dict().items()}
        return weights | {f"repertoire.{name}": getattr(self.repertoire, name) for name in _ARRAYS}


KINDS: Mapping[str, tuple[Any, Any]] = {
    "controlled": (Sizes, Ensemble),
    "generative": (GenerativeSizes, Generative),
}
"""Name of a kind of model -> its sizes and the model."""

KINDS_OF = {model: name for name, (_, model) in KINDS.items()}

_ARRAYS = ("log_rates", "log_losses", "ends")
"""Of a repertoire."""


def _read(header: Mapping[str, Any], tensors: Tensors, file: str) -> Trained:
    sizes, kind = KINDS[header["kind"]]
    model = kind(sizes(**header["sizes"]))
    of_model = {name: torch.from_numpy(tensor) for name, tensor in tensors.items() if name.startswith("model.")}
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in of_model.items()})
    known = header["scales"]
    scales = Scales(known["log_rate"], tuple(known["means"]), tuple(known["deviations"]), known["budget"])
    arrays = {name: tensors[f"repertoire.{name}"].astype(np.float64) for name in _ARRAYS}
    return Trained(model.eval(), scales, Repertoire(**arrays, names=tuple(header["schedules"])), header["about"])


_FILES = WeightFiles("model", "latent-ode-", 4, "fit one with `lr-env fit`", "fit it anew", _read)


@isolating
def find_model(name: str) -> Trained:
    """A model of a file, or one that is shipped, by the name of its task.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return _FILES.find(name)


def shipped_models() -> list[str]:
    """Names of the models that are shipped."""
    return _FILES.shipped()
