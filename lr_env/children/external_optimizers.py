"""Optimizers of other packages, which set their own rate or need no schedule. The loop trains with them."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.errors import UserError, unknown
from lr_env.optimizers import Coefficients, Optimizer


@dataclass(frozen=True)
class _Kind:
    """Package on PyPI, module, class and settings of an optimizer."""

    package: str
    module: str
    name: str
    settings: Mapping[str, Any]


_KINDS = {
    "schedule-free-sgd": _Kind("schedulefree", "schedulefree", "SGDScheduleFree", {"momentum": 0.9}),
    "schedule-free-adamw": _Kind("schedulefree", "schedulefree", "AdamWScheduleFree", {}),
    "prodigy": _Kind("prodigyopt", "prodigyopt", "Prodigy", {}),
    "d-adapt-sgd": _Kind("dadaptation", "dadaptation", "DAdaptSGD", {"momentum": 0.9}),
    "d-adapt-adam": _Kind("dadaptation", "dadaptation", "DAdaptAdam", {"decouple": True}),
    "mechanic-sgd": _Kind("mechanic-pytorch", "mechanic_pytorch", "mechanize", {"momentum": 0.9}),
}


@dataclass(frozen=True)
class ExternalOptimizer:
    """An optimizer of another package, with that package's defaults, but a momentum of 0.9 for kinds of SGD.

    Weight decay of the kinds of Adam is decoupled, as in AdamW; one package would leave it in the gradient.

    It cannot be stacked: children are trained by the loop. Its state, whatever that is, is saved with the child.

    Attributes:
        kind: "schedule-free-sgd", "schedule-free-adamw" (arXiv:2405.15682), "prodigy" (2306.06101), "d-adapt-sgd",
            "d-adapt-adam" (2301.07733) or "mechanic-sgd" (2306.00144).
        weight_decay: in the package's sense; None takes that of the task's optimizer.
    """

    kind: str
    weight_decay: float | None = None

    stackable = False

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise unknown("optimizer", self.kind, _KINDS)

    @property
    def slots(self) -> tuple[str, ...]:
        """There are none that could be stacked."""
        return ()

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Make the package's optimizer.

        Raises:
            UserError: the package is not installed.
        """
        kind = _KINDS[self.kind]
        try:
            optimizer_class = getattr(importlib.import_module(kind.module), kind.name)
        except ImportError as error:
            raise self._missing() from error
        if self.kind == "mechanic-sgd":
            optimizer_class = optimizer_class(torch.optim.SGD)
        with redirect_stdout(io.StringIO()):  # dadaptation prints a line for every optimizer that decouples decay
            optimizer = optimizer_class(
                list(parameters), lr=1.0, weight_decay=self.weight_decay or 0.0, **kind.settings
            )
        if hasattr(optimizer, "train"):
            optimizer.train()  # schedule-free: parameters at the point where gradients are computed
        return optimizer

    def decaying_as(self, other: Optimizer) -> ExternalOptimizer:
        """The same optimizer with the weight decay of another one, where its own is not set."""
        if self.weight_decay is not None:
            return self
        return replace(self, weight_decay=float(getattr(other, "weight_decay", 0.0)))

    @property
    def version(self) -> str:
        """Name and version of the package.

        Raises:
            UserError: it is not installed.
        """
        package = _KINDS[self.kind].package
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            raise self._missing() from None

    def _missing(self) -> UserError:
        package = _KINDS[self.kind].package
        return UserError(f"optimizer {self.kind!r} needs the package {package}: pip install {package}")

    def coefficients(self, lr: NDArray[np.float64], step: NDArray[np.int64]) -> Coefficients:
        """Raise: it is not stacked."""
        raise NotImplementedError(f"{self.kind} is trained by the loop")

    def update(
        self, parameters: Tensor, gradients: Tensor, slots: Mapping[str, Tensor], now: Mapping[str, Tensor]
    ) -> None:
        """Raise: it is not stacked."""
        raise NotImplementedError(f"{self.kind} is trained by the loop")


def save_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Copy the state of an optimizer of a single parameter, as a tree of tensors and JSON values."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    return {"state": _copied(dict(optimizer.state)), "groups": _copied(groups)}


def load_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Put back what `save_state` copied."""
    (parameter,) = optimizer.param_groups[0]["params"]
    optimizer.state.clear()
    optimizer.state.update(_put_back(saved["state"], parameter))
    for group, values in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update(_put_back(values, parameter))


_PARAMETER = "the parameter"


def _copied(node: Any) -> Any:
    if isinstance(node, Tensor):
        return node.detach().clone()
    if isinstance(node, Mapping):
        return {_PARAMETER if isinstance(name, Tensor) else str(name): _copied(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_copied(value) for value in node)
    return node


def _put_back(node: Any, parameter: Tensor) -> Any:
    if isinstance(node, Tensor):
        return node.detach().clone().to(parameter.device)
    if isinstance(node, Mapping):
        return {parameter if name == _PARAMETER else name: _put_back(value, parameter) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_put_back(value, parameter) for value in node)
    return node
