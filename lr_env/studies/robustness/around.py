"""What planners around other planners have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lr_env.planner import Planner


@dataclass(frozen=True)
class Around:
    """A planner around another one, whose name it has.

    Attributes:
        planner: who plans.
        who: its name, by which its settings differ from those of others.
    """

    planner: Planner
    who: str

    reads: ClassVar[frozenset[str]] = frozenset({"step"})
    """Signals that it reads itself."""

    @property
    def name(self) -> str:
        """Name of the planner."""
        return self.planner.name

    @property
    def needs(self) -> frozenset[str]:
        """Signals of the planner, and those that are read here."""
        return self.planner.needs | self.reads
