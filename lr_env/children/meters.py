"""Meters by the names of their signals: those of lr_env, and those of the entry-point group `lr_env.meters`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from lr_env.children.gradient_norm import GradientNormMeter
from lr_env.children.hypergradient import HypergradientMeter
from lr_env.entry_points import declared, load
from lr_env.errors import UserError, unknown
from lr_env.signals import ALWAYS, Meter, names

GROUP = "lr_env.meters"

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
