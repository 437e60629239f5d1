"""`lr-env forecast`: its subcommands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Union

from tyro.conf import OmitSubcommandPrefixes, subcommand

from planners.forecaster.commands.collect import Collect
from planners.forecaster.commands.evaluate import Evaluate
from planners.forecaster.commands.fit import Fit
from planners.forecaster.commands.rank import Rank
from planners.forecaster.commands.run import Run

Action = Annotated[
    Union[  # noqa: UP007 (tyro reads it)
        Annotated[Collect, subcommand("collect")],
        Annotated[Fit, subcommand("fit")],
        Annotated[Evaluate, subcommand("evaluate")],
        Annotated[Run, subcommand("run")],
        Annotated[Rank, subcommand("rank")],
    ],
    OmitSubcommandPrefixes,
]


@dataclass(frozen=True)
class Forecast:
    """Forecast learning curves, of runs that have begun and of runs that have not.

    The model is a neural differential equation that is told the settings and the network's architecture, after
    arXiv:2412.15554.
    """

    action: Action
    """What to do."""

    @property
    def resumable(self) -> bool:
        """Whether the same command goes on after a stop."""
        return isinstance(self.action, Collect)

    @property
    def fresh(self) -> bool:
        """Whether the command starts over."""
        return isinstance(self.action, Collect) and self.action.fresh

    def run(self) -> None:
        """Do it."""
        self.action.run()
