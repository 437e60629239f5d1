"""A fitted model with all that a planner needs to use it, and the file that holds it."""

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
from lr_env.objectives import VAL_LOSS, Objective
from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.data.scaling import Scales
from planners.latent_ode.data.schedule_library import ScheduleLibrary
from planners.latent_ode.model.dynamics import Ensemble, Sizes
from planners.latent_ode.model.generative import Generative, GenerativeSizes
from planners.weights import Tensors, WeightFiles

HELD_OUT_ERRORS = "held_out_errors"
"""Key of `FittedModel.about`: pairs of a share of the run that is over, and the error of forecasts made then."""

OBJECTIVE = "objective"
"""Key of `FittedModel.about`: the objective that the model sees in the place of the validation loss, if any."""

RUNS_OF, MEASURED, SEGMENT, LR_RANGE = "runs_of", "measured", "segment", "lr_range"
"""Keys of `FittedModel.about` of a model of imported runs: their name; channel -> share of the points at which it was
measured; optimizer steps between two points; and the lowest and the highest rate of a segment."""


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A model of training as planners load it.

    Attributes:
        model: the ensemble.
        scales: how its inputs and outputs are scaled.
        library: schedules of the sweep that it was fitted to.
        about: provenance, JSON-able: task, budget, optimizer, how it was fitted, and "child_steps", the optimizer steps
            that the sweep took.

    Raises:
        ValueError: the held-out errors in `about` are not pairs of a rising share and a positive error.
    """

    model: Ensemble | Generative
    scales: Scales
    library: ScheduleLibrary
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pairs = np.array(self.about.get(HELD_OUT_ERRORS) or np.empty((0, 2)), dtype=np.float64)
        shape = pairs.ndim == 2 and pairs.shape[1] == 2
        if not (shape and np.isfinite(pairs).all() and (pairs >= 0).all() and (np.diff(pairs[:, 0]) > 0).all()):
            raise ValueError(
                f"{HELD_OUT_ERRORS} are no pairs of rising shares and errors: {self.about.get(HELD_OUT_ERRORS)!r}"
            )

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that the model was fitted to; what it says about others means nothing."""
        return tuple(name for name in CHANNELS if name in self.about.get(MEASURED, CHANNELS))

    @cached_property
    def objective(self) -> Objective:
        """What the model was fitted for: it predicts this in the place of the validation loss."""
        saved = self.about.get(OBJECTIVE)
        return VAL_LOSS if saved is None else Objective(**saved)

    @property
    def ensemble(self) -> Ensemble:
        """The model, for callers that have checked that its kind is "controlled"."""
        assert isinstance(self.model, Ensemble)
        return self.model

    def save(self, path: Path) -> None:
        """Write weights and JSON to a safetensors file."""
        header = {
            "kind": KINDS_OF[type(self.model)],
            "sizes": asdict(self.model.sizes),
            "scales": asdict(self.scales),
            "schedules": list(self.library.names),
            "about": dict(self.about),
        }
        MODELS.save(path, header, self._tensors())

    @classmethod
    def load(cls, path: Path) -> FittedModel:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, or it is damaged or of another format.
        """
        return MODELS.load(path)

    def forecast_rmse(self, elapsed: float) -> float | None:
        """Return the root mean square error of forecasts of the log final loss, made after a share of the run.

        It is that on held-out runs near the best; None where too few such runs were held out.
        """
        errors = self.about.get(HELD_OUT_ERRORS)
        return float(np.interp(elapsed, *np.transpose(errors))) if errors else None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that plans depend on."""
        sizes = asdict(self.model.sizes)
        not_in_shapes = {name: sizes[name] for name in ("window", "steps", "time") if name in sizes}
        default = {name: getattr(type(self.model.sizes)(), name) for name in not_in_shapes}
        parts = [asdict(self.scales), self.library.names, *([not_in_shapes] if not_in_shapes != default else [])]
        parts += [self.channels] if self.channels != CHANNELS else []
        parts += [self.objective.to_json()] if self.objective != VAL_LOSS else []
        digest = hashlib.sha256(json.dumps(parts).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor, dtype=np.float32).tobytes())
        return digest.hexdigest()

    def _tensors(self) -> dict[str, NDArray[np.floating[Any]]]:
        weights = {f"model.{name}": weight.numpy() for name, weight in self.model.state_dict().items()}
        return weights | {name: getattr(self.library, attribute) for name, attribute in _LIBRARY_ARRAYS.items()}


KINDS: Mapping[str, tuple[Any, Any]] = {
    "controlled": (Sizes, Ensemble),
    "generative": (GenerativeSizes, Generative),
}
"""Name of a kind of model -> classes of its sizes and of the model."""

KINDS_OF = {model: name for name, (_, model) in KINDS.items()}

_LIBRARY_ARRAYS = {
    "repertoire.log_rates": "log_rates",
    "repertoire.log_losses": "log_losses",
    "repertoire.ends": "final_losses",
}
"""Name of a tensor in the file -> attribute of `ScheduleLibrary`."""


@isolating
def _read(header: Mapping[str, Any], tensors: Tensors, file: str) -> FittedModel:
    sizes, kind = KINDS[header["kind"]]
    model = kind(sizes(**header["sizes"]))
    weights = {name: torch.from_numpy(tensor) for name, tensor in tensors.items() if name.startswith("model.")}
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
    saved = header["scales"]
    scales = Scales(saved["log_rate"], tuple(saved["means"]), tuple(saved["deviations"]), saved["budget"])
    arrays = {attribute: tensors[name].astype(np.float64) for name, attribute in _LIBRARY_ARRAYS.items()}
    library = ScheduleLibrary(**arrays, names=tuple(header["schedules"]))
    return FittedModel(model.eval(), scales, library, header["about"])


MODELS = WeightFiles("model", "latent-ode-", 4, "fit one with `lr-env fit`", "fit it anew", _read)
"""Files of fitted models. Those that are shipped have the names of their tasks."""
