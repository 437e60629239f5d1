"""Files of models across tasks, with the runs of one task that they are updated by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lr_env.architecture.graph import Architecture
from lr_env.isolation import isolating
from planners.forecaster.settings import Scaler
from planners.transfer.fit import Fitted
from planners.transfer.model import Sizes, TransferODE
from planners.transfer.runs import TaskRuns
from planners.transfer.spread import Spread
from planners.weights import Tensors, WeightFiles

_RUNS = ("log_rates", "curves", "ends")


@dataclass(frozen=True, eq=False)
class TransferModel:
    """A model across tasks as planners load it.

    Attributes:
        fitted: the ensemble, and how tasks are described to it.
        runs: runs of the one task that it is to be used for; None where there are none.
        about: provenance, JSON-able: families, tasks, runs, how it was fitted, and "child_steps" of all its runs.
    """

    fitted: Fitted
    runs: TaskRuns | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def with_runs(self, runs: TaskRuns, child_steps: int) -> TransferModel:
        """Return the same model, to be updated by runs of a task that took so many optimizer steps."""
        before = int(self.about.get("child_steps", 0))
        return replace(self, runs=runs, about={**self.about, "child_steps": before + child_steps})

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        runs = self.runs
        header = {
            "sizes": asdict(self.fitted.model.sizes),
            "scaler": self.fitted.scaler.to_json(),
            "spread": self.fitted.spread.to_json(),
            "runs": runs
            and {
                "name": runs.name,
                "facts": dict(runs.facts),
                "architecture": runs.architecture and runs.architecture.to_json(),
                "chance": runs.chance,
                "seeds": list(runs.seeds),
            },
            "about": dict(self.about),
        }
        TRANSFER_MODELS.save(path, header, self._tensors())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that plans depend on."""
        told = [self.fitted.scaler.to_json(), self.fitted.spread.to_json()]
        digest = hashlib.sha256(json.dumps(told).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor, dtype=np.float32).tobytes())
        return digest.hexdigest()

    def _tensors(self) -> dict[str, NDArray[np.floating[Any]]]:
        tensors = {f"model.{name}": weight.numpy() for name, weight in self.fitted.model.state_dict().items()}
        if self.runs is not None:
            for name in _RUNS:
                values = np.asarray(getattr(self.runs, name))
                tensors[f"runs.{name}"] = np.nan_to_num(values)  # files hold finite numbers
                tensors[f"runs.{name}.known"] = np.isfinite(values).astype(np.float32)
        return tensors


@isolating
def _read(header: Mapping[str, Any], tensors: Tensors, file: str) -> TransferModel:
    sizes, scaler = Sizes(**header["sizes"]), Scaler.from_json(header["scaler"])
    spread = Spread.from_json(header["spread"])
    if sizes.known != 2 * len(scaler.names):
        raise ValueError(f"it reads {sizes.known} numbers, and {len(scaler.names)} are told")
    model = TransferODE(sizes)
    weights = {name: torch.from_numpy(tensor) for name, tensor in tensors.items() if name.startswith("model.")}
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
    runs, saved = None, header["runs"]
    if saved is not None:
        arrays = {
            name: np.where(tensors[f"runs.{name}.known"] > 0, tensors[f"runs.{name}"], np.nan).astype(np.float64)
            for name in _RUNS
        }
        graph = saved["architecture"] and Architecture.from_json(saved["architecture"])
        runs = TaskRuns(saved["name"], saved["facts"], graph, saved["chance"], **arrays, seeds=tuple(saved["seeds"]))
    return TransferModel(Fitted(model.eval(), scaler, spread), runs, header["about"])


TRANSFER_MODELS = WeightFiles(
    "transfer model", "transfer-", 3, "fit one with `lr-env fit --family`", "fit it anew", _read
)
"""Files of models across tasks."""
