"""Meters: those of lr_env, and those of the entry-point group `lr_env.meters`, by the names of their signals."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lr_env.entry_points import declared, load
from lr_env.errors import UserError, unknown
from lr_env.signals import ALWAYS, Meter, Signal, names

GROUP = "lr_env.meters"

_DIRECTION = "direction"


class HypergradientMeter:
    """Inner product and cosine of each step's gradient and the last update over its rate (Baydin et al., ICLR 2018).

    An update theta <- theta - lr u makes the loss of the next batch change with the rate by -<gradient, u>: a positive
    product says that a larger rate would have been better. Both are 0 at the first step, where there is no update yet.
    """

    signals: ClassVar[tuple[Signal, ...]] = (
        Signal(
            "update_product",
            "nats/example/rate",
            "inner product of the gradient and the last update over its rate (1703.04782)",
            "step",
        ),
        Signal(
            "update_cosine", "1", "cosine of the angle between the gradient and the last update (1703.04782)", "step"
        ),
    )
    slots: ClassVar[tuple[str, ...]] = (_DIRECTION,)

    def before_update(self, gradients: Tensor, parameters: Tensor, slots: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Compare the gradients with the last updates; see `lr_env.signals.Meter`."""
        direction = slots[_DIRECTION]
        products = (gradients * direction).sum(1)
        norms = gradients.norm(dim=1) * direction.norm(dim=1)
        cosines = torch.where(norms > 0, products / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
        direction.copy_(parameters)
        return products, cosines

    def after_update(self, parameters: Tensor, lr: Tensor | float, slots: Mapping[str, Tensor]) -> None:
        """Store the update over the rate that it was made with."""
        slots[_DIRECTION].sub_(parameters).div_(lr)


class GradientNormMeter:
    """Euclidean norm of each step's gradient, before it is clipped."""

    signals: ClassVar[tuple[Signal, ...]] = (
        Signal("gradient_norm", "nats/example/weight", "Euclidean norm of the gradient before clipping", "step"),
    )
    slots: ClassVar[tuple[str, ...]] = ()

    def before_update(self, gradients: Tensor, parameters: Tensor, slots: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """The norm of each child's gradient; see `lr_env.signals.Meter`."""
        return (gradients.norm(dim=1),)

    def after_update(self, parameters: Tensor, lr: Tensor | float, slots: Mapping[str, Tensor]) -> None:
        """Nothing is stored."""


_BUILT_IN: Mapping[str, type[Meter]] = {
    signal.name: meter for meter in (HypergradientMeter, GradientNormMeter) for signal in meter.signals
}


def _declared() -> list[str]:
    """Signals of the meters of other packages; none of them replaces a signal that lr_env measures."""
    return sorted(declared(GROUP).keys() - {*ALWAYS, *_BUILT_IN})


def on_demand_signals() -> tuple[str, ...]:
    """Names of all signals that a meter can take."""
    return (*_BUILT_IN, *_declared())


def on_demand(needs: Collection[str]) -> tuple[str, ...]:
    """The signals among some needs that a meter must take, in the order of `on_demand_signals`."""
    return tuple(name for name in on_demand_signals() if name in needs)


def find_meters(signals: Sequence[str]) -> tuple[Meter, ...]:
    """The meters that take some signals, each meter once.

    Raises:
        UserError: no meter takes one of them, or the package that declares its meter cannot be loaded.
    """
    return tuple(kind() for kind in dict.fromkeys(_find(name) for name in signals))


def _find(name: str) -> type[Meter]:
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if name not in _declared():
        raise unknown("signal", name, on_demand_signals())
    meter = load(GROUP, "the meter of signal", name)
    measured = names(meter.signals)
    if name not in measured:
        raise UserError(f"the meter of signal {name!r} does not measure {name!r}, but {', '.join(measured)}: repair it")
    return meter
