"""What an action means: frozen settings that turn actions into learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lr_env.errors import UserError, unknown

Floats = NDArray[np.float64]


class Action(Protocol):
    """A kind of action, for any number of environments at once."""

    def space(self, lr_range: tuple[float, float]) -> spaces.Space[Any]:
        """The space of one environment's action."""
        ...

    def decode(self, actions: Any, lr: Floats, lr_range: tuple[float, float], segment: int) -> Floats:
        """The learning rates that actions ask for.

        Args:
            actions: one for each environment, (num_envs, *shape).
            lr: rates of the last segment, (num_envs,).
            lr_range: smallest and largest rate.
            segment: steps in a segment.

        Returns:
            (num_envs,), or (num_envs, segment) for a rate per step.

        Raises:
            UserError: an action is outside the space.
        """
        ...


@dataclass(frozen=True)
class LR:
    """The action is the learning rate itself, in `lr_range`; in a list of `segment` rates, one for each step."""

    def space(self, lr_range: tuple[float, float]) -> spaces.Box:
        """Box(lr_range), of shape ()."""
        return spaces.Box(*(np.float32(bound) for bound in lr_range), shape=(), dtype=np.float32)

    def decode(self, actions: Any, lr: Floats, lr_range: tuple[float, float], segment: int) -> Floats:
        """The actions, checked."""
        rates = _numbers(actions)
        if rates.ndim > 1 and rates.shape[1:] == (1,):
            rates = rates[:, 0]
        if rates.shape not in ((len(lr),), (len(lr), segment)):
            raise UserError(
                f"actions of shape {np.shape(actions)}: give one learning rate for each of {len(lr)} environments, "
                f"({len(lr)},), or one for each step, ({len(lr)}, {segment})"
            )
        low, high = lr_range
        # The space is float32, whose bounds round: an action that lies in the space must not be refused.
        wrong = rates[~((rates >= low * (1 - 1e-6)) & (rates <= high * (1 + 1e-6)))]
        if wrong.size:
            raise UserError(f"learning rate {wrong[0]:g} is outside the range: give a rate from {low:g} to {high:g}")
        return rates


@dataclass(frozen=True)
class Scale:
    """The action in [-1, 1] changes the log of the rate by action * log(max_change); the result is kept in range.

    Symmetric in log, so that an action and its opposite cancel (unlike multipliers around 1, arXiv 1909.09712).

    Attributes:
        max_change: largest factor of one decision.
    """

    max_change: float = 1.05

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_change) and self.max_change > 1):
            raise UserError(f"max_change is {self.max_change}: it must be a finite factor above 1")

    def space(self, lr_range: tuple[float, float]) -> spaces.Space[Any]:
        """Box(-1, 1), of shape (1,)."""
        return spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)

    def decode(self, actions: Any, lr: Floats, lr_range: tuple[float, float], segment: int) -> Floats:
        """lr * max_change ** action."""
        exponents = _numbers(actions)
        if exponents.size != len(lr):
            raise UserError(f"actions of shape {np.shape(actions)}: give one for each of {len(lr)} environments")
        exponents = exponents.reshape(len(lr))
        if not (np.abs(exponents) <= 1).all():
            raise UserError(f"action {exponents[~(np.abs(exponents) <= 1)][0]:g} is outside the space [-1, 1]")
        return np.clip(lr * self.max_change**exponents, *lr_range)


@dataclass(frozen=True)
class Discrete(Scale):
    """The action 0, 1 or 2 lowers, keeps or raises the rate by the factor `max_change`."""

    def space(self, lr_range: tuple[float, float]) -> spaces.Space[Any]:
        """Discrete(3)."""
        return spaces.Discrete(3)

    def decode(self, actions: Any, lr: Floats, lr_range: tuple[float, float], segment: int) -> Floats:
        """lr / max_change, lr, or lr * max_change."""
        choices = _numbers(actions)
        if not np.isin(choices, (0, 1, 2)).all():
            raise UserError(f"action {np.asarray(actions).tolist()} is outside the space: 0 lowers, 1 keeps, 2 raises")
        return super().decode(choices - 1, lr, lr_range, segment)


ACTIONS: Mapping[str, type[LR] | type[Scale]] = {"lr": LR, "scale": Scale, "discrete": Discrete}


def find_action(name: str, max_change: float) -> Action:
    """The kind of action of that name.

    Raises:
        UserError: there is none, or `max_change` is not above 1.
    """
    try:
        kind = ACTIONS[name]
    except KeyError:
        raise unknown("action", name, ACTIONS) from None
    return kind(max_change) if issubclass(kind, Scale) else kind()


def _numbers(actions: Any) -> Floats:
    try:
        values = np.asarray(actions, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"action {actions!r} is not a number") from None
    if not np.isfinite(values).all():
        raise UserError(f"action {values[~np.isfinite(values)][0]} is not finite")
    return values
