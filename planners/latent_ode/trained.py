"""A fitted model with all that a planner needs to use it, and the file that it is kept in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from lr_env.replacing import replacing
from planners.latent_ode.model import Ensemble, Scales, Sizes
from planners.latent_ode.series import Floats, Series

FORMAT = 1
PRETRAINED = Path(__file__).parent.parent / "pretrained"

_POINTS = 41
"""Points of a run at which the rates that the sweep has seen are kept."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a planner loads.

    Attributes:
        model: the ensemble.
        scales: its constants.
        library: logs of the rates of the sweep's schedules at evenly spaced times of a run, (schedules, points).
        lead: logs of the rates of the best schedule of the sweep at those times, (points,).
        about: how it was made, JSON-able; "child_steps" is what the sweep took.
    """

    model: Ensemble
    scales: Scales
    library: Floats
    lead: Floats
    about: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write weights and JSON to a safetensors file."""
        header = {
            "format": FORMAT,
            "sizes": asdict(self.model.sizes),
            "scales": asdict(self.scales),
            "library": self.library.tolist(),
            "lead": self.lead.tolist(),
            "about": dict(self.about),
        }
        tensors = {name: weight.contiguous() for name, weight in self.model.state_dict().items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"latent-ode": json.dumps(header)})

    @classmethod
    def load(cls, path: Path) -> Trained:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, or it is damaged or of another format.
        """
        if not path.is_file():
            raise UserError(f"there is no model {str(path)!r}: fit one with `lr-env fit`")
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["latent-ode"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if header["format"] != FORMAT:
                raise UserError(f"model {str(path)!r} has format {header['format']!r}, not {FORMAT}: fit it anew")
            model = Ensemble(Sizes(**header["sizes"]))
            model.load_state_dict(tensors)
            scales = {
                name: tuple(value) if isinstance(value, list) else value for name, value in header["scales"].items()
            }
            library, lead = (np.array(header[name], dtype=np.float64) for name in ("library", "lead"))
            if library.shape[1:] != lead.shape or not (np.isfinite(library).all() and np.isfinite(lead).all()):
                raise ValueError("the rates of its sweep are no finite numbers")
            if not all(bool(weight.isfinite().all()) for weight in tensors.values()):
                raise ValueError("weights are no finite numbers")
            return cls(model.eval(), Scales(**scales), library, lead, header["about"])
        except UserError:
            raise
        except (SafetensorError, KeyError, ValueError, TypeError, OSError, RuntimeError, RecursionError) as error:
            raise UserError(f"model {str(path)!r} cannot be read ({error}): it is damaged, fit it anew") from error


def library(series: Series) -> Floats:
    """Logs of the rates of the schedules of the runs at evenly spaced times, each once, (schedules, points)."""
    rows = {label: row for row, label in reversed(list(enumerate(series.labels)))}
    return np.stack([_log_rates(series, row) for row in sorted(rows.values())])


def best_schedule(series: Series, records: Sequence[RunRecord]) -> Floats:
    """Logs of the rates of the schedule with the lowest mean final loss over its seeds, (points,)."""
    labels = np.array(series.labels)
    means = {label: series.final[labels == label].mean() for label in dict.fromkeys(series.labels)}
    best = min(means, key=lambda label: np.nan_to_num(means[label], nan=np.inf))
    return _log_rates(series, int(np.flatnonzero(labels == best)[0]))


def _log_rates(series: Series, row: int) -> Floats:
    count = series.lengths[row]
    times = (series.steps[row, :count] - series.steps[row, 0] / 2) / series.budget
    return np.interp(np.linspace(0, 1, _POINTS), times, np.log(series.lr[row, :count]))


def find_model(name: str) -> Trained:
    """A model of a file, or one that is shipped, by the name of its task.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not isinstance(name, str):  # a setting from the command line may be anything
        raise UserError(f"model {name!r}: give the name of a model that is shipped, or a .safetensors file")
    path = Path(name) if Path(name).suffix else PRETRAINED / f"latent-ode-{name}.safetensors"
    if not Path(name).suffix and not path.is_file():
        prefix = "latent-ode-"
        have = ", ".join(sorted(file.stem.removeprefix(prefix) for file in PRETRAINED.glob(f"{prefix}*.safetensors")))
        raise UserError(
            f"there is no model {name!r} (shipped: {have or 'none'}): give one of those, or a .safetensors file"
        )
    return _loaded(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=16)
def _loaded(path: Path, changed: int) -> Trained:
    """A file's model; `changed` only keys the cache."""
    return Trained.load(path)
