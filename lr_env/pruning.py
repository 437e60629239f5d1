"""Runs that end early because they promise little: pruners, and the rules that make them from the runs before.

A rule is found by its name through the entry-point group `lr_env.pruning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lr_env.entry_points import load

if TYPE_CHECKING:
    from lr_env.planner import Planner
    from lr_env.records.record import RunRecord
    from lr_env.tasks import Task

Floats = NDArray[np.float64]

GROUP = "lr_env.pruning"
"""Entry points of rules: name -> function of the text after the colon in "NAME:TEXT", empty without one."""


class Pruner(Protocol):
    """Ends runs early that promise little. It can be pickled."""

    def stops(self, planner: Planner, losses: Floats, rates: Floats) -> bool:
        """Whether a run ends now.

        Args:
            planner: of the run.
            losses: validation losses at the ends of all segments so far, (segments,).
            rates: learning rates there, (segments,).
        """
        ...


@runtime_checkable
class PruningRule(Protocol):
    """Makes the pruner of the next runs from the runs before.

    Runs of a round are not judged by each other, so that they do not depend on which of them are trained together.
    """

    def to_json(self) -> Any:
        """What its decisions depend on besides the runs: a search under another rule is another search."""
        ...

    def pruner(self, records: Sequence[RunRecord], task: Task) -> Pruner | None:
        """The pruner of the next runs; None if they are all to be whole.

        Args:
            records: the runs so far, with their curves.
            task: what is trained.
        """
        ...


def find_rule(text: str) -> PruningRule | None:
    """Return the rule of a text NAME or NAME:OPTION; None for "none".

    Raises:
        UserError: there is no such rule, or it does not take the option.
    """
    if text == "none":
        return None
    name, _, option = text.partition(":")
    return load(GROUP, "rule for stopping", name)(option)


@dataclass(frozen=True)
class PlannerPruners:
    """A pruner for each planner, where planners do not compete with each other.

    Attributes:
        of_planners: pairs of the name of a planner and its pruner; the runs of other planners are whole.
    """

    of_planners: tuple[tuple[str, Pruner], ...]

    def stops(self, planner: Planner, losses: Floats, rates: Floats) -> bool:
        """Whether a run ends now; see `Pruner`."""
        return any(name == planner.name and pruner.stops(planner, losses, rates) for name, pruner in self.of_planners)
