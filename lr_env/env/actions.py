"""Kinds of actions: frozen settings that turn actions into learning rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lr_env.errors import UserError, find
from lr_env.rates import clipped, numbers

Floats = NDArray[np.float64]


class Action(Protocol):
    """A kind of action, for any number of environments at once."""

    def space(self, lr_range: tuple[float, float]) -> spaces.Space[Any]:
        """Return the space of one environment's action."""
        ...

    def decode(self, actions: Any, lr: Floats, lr_range: tuple[float, float], segment: int) -> Floats:
        """Turn actions into learning rates.

        Args:
            actions: one for each environment, (num_envs, *shape).
            lr: rates of the last segment, (num_envs,).
            lr_range: smallest and largest rate.
            segment: optimizer steps in a segment.

        Returns:
            Rates, (num_envs,), or (num_envs, segment) with one for each step, or (num_envs, groups, 1 or segment).

        Raises:
            UserError: an action is outside the space.
        """
        ...


@dataclass(frozen=True)
class LR:
    """The action is the learning rate itself, within `lr_range`, or a list of `segment` rates, one for each step.

    Attributes:
        groups: number of groups of parameters that may have rates of their own.
        by_group: whether an action has a rate for each of them.
    """

    groups: int = 0
    by_group: bool = False

    def space(self, lr_range: tuple[float, float]) -> spaces.Box:
        """Return Box(lr_range), of shape (1,), or (groups,) where an action has a rate for each."""
        shape = (self.groups,) if self.by_group else (1,)
        return spaces.Box(*(np.float32(bound) for bound in lr_range), shape=shape, dtype=np.float32)

    def decode(self, actions: Any, lr: Floats, lr_range: tuple[float, float], segment: int) -> Floats:
        """Return the actions after a check."""
        numbers(actions, "action")
        low, high = lr_range
        rates, wrong = clipped(actions, low, high)
        count, groups = len(lr), self.groups
        if self.by_group and rates.ndim == 2:
            rates = rates[:, :, None]
        elif rates.ndim == 2 and rates.shape[1] == 1:
            rates = rates[:, 0]
        apart = [(count, groups, 1), (count, groups, segment)] if groups else []
        if rates.shape not in ([(count,)] if self.by_group else [(count,), (count, segment)]) + apart:
            text = f"({count},), or one for each step, ({count}, {segment})"
            if self.by_group:
                text = f"({count},), or one for each of {groups} groups, ({count}, {groups}), of each step if need be"
            raise UserError(
                f"actions of shape {np.shape(actions)}: give one learning rate for each of {count} environments, {text}"
            )
        if wrong.size:
            raise UserError(f"learning rate {wrong[0]:g} is outside the range: give a rate from {low:g} to {high:g}")
        return rates


@dataclass(frozen=True)
class LogLR:
    """The action in [-1, 1] is the learning rate on a log scale: -1 is the lowest in `lr_range`, 1 the highest."""

    def space(self, lr_range: tuple[float, float]) -> spaces.Space[Any]:
        """Return Box(-1, 1), of shape (1,)."""
        return _unit_box()

    def decode(self, actions: Any, lr: Floats, lr_range: tuple[float, float], segment: int) -> Floats:
        """Return low * (high / low) ** ((action + 1) / 2)."""
        low, high = lr_range
        share = (_checked_unit(actions, len(lr)) + 1) / 2
        return np.clip(low * (high / low) ** share, low, high)


@dataclass(frozen=True)
class Scale:
    """The action in [-1, 1] changes the log of the rate by action * log(max_change), within `lr_range`.

    It is symmetric in the log, so that an action and its opposite cancel (unlike multipliers around 1, as in arXiv
    1909.09712).

    Attributes:
        max_change: largest factor of one action.
    """

    max_change: float = 1.05

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_change) and self.max_change > 1):
            raise UserError(f"max_change is {self.max_change}: it must be a finite factor above 1")

    def space(self, lr_range: tuple[float, float]) -> spaces.Space[Any]:
        """Return Box(-1, 1), of shape (1,)."""
        return _unit_box()

    def decode(self, actions: Any, lr: Floats, lr_range: tuple[float, float], segment: int) -> Floats:
        """Return lr * max_change ** action."""
        return np.clip(lr * self.max_change ** _checked_unit(actions, len(lr)), *lr_range)


@dataclass(frozen=True)
class Discrete(Scale):
    """The action 0, 1 or 2 lowers, keeps or raises the rate by the factor `max_change`."""

    def space(self, lr_range: tuple[float, float]) -> spaces.Space[Any]:
        """Return Discrete(3)."""
        return spaces.Discrete(3)

    def decode(self, actions: Any, lr: Floats, lr_range: tuple[float, float], segment: int) -> Floats:
        """Return lr / max_change, lr, or lr * max_change."""
        choices = numbers(actions, "action")
        if not np.isin(choices, (0, 1, 2)).all():
            raise UserError(f"action {np.asarray(actions).tolist()} is outside the space: 0 lowers, 1 keeps, 2 raises")
        return super().decode(choices - 1, lr, lr_range, segment)


ACTIONS: Mapping[str, type[LR] | type[LogLR] | type[Scale]] = {
    "lr": LR,
    "log_lr": LogLR,
    "scale": Scale,
    "discrete": Discrete,
}


def find_action(name: str, max_change: float, groups: int, by_group: bool) -> Action:
    """Return the kind of action of that name; see `LR` for `groups` and `by_group`.

    Raises:
        UserError: there is none, `max_change` is not above 1, or it has one rate for all groups.
    """
    kind = find("action", name, ACTIONS)
    if issubclass(kind, LR):
        return LR(groups, by_group)
    if by_group:
        raise UserError(f"action {name!r} has one rate for all groups of parameters: groups=True needs action='lr'")
    return kind(max_change) if issubclass(kind, Scale) else kind()


def _unit_box() -> spaces.Box:
    return spaces.Box(-1.0, 1.0, shape=(1,), dtype=np.float32)


def _checked_unit(actions: Any, count: int) -> Floats:
    """Check that actions are in [-1, 1], and return them, (count,)."""
    if numbers(actions, "action").size != count:
        raise UserError(f"actions of shape {np.shape(actions)}: give one for each of {count} environments")
    values, wrong = clipped(actions, -1.0, 1.0)
    if wrong.size:
        raise UserError(f"action {wrong[0]:g} is outside the space [-1, 1]")
    return values.reshape(count)
