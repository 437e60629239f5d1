"""`lr-env forecast fit`: fit a forecaster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from planners.forecaster.commands.options import SourceOptions


@dataclass(frozen=True)
class Fit(SourceOptions):
    """Fit a forecaster to curves, and write both. `lr-env forecast evaluate` says how good forecasts are."""

    out: Annotated[Path, arg(metavar="FILE")] = Path("results/forecast/model.safetensors")
    """File of the model; the curves are written beside it."""
    members: Annotated[int, arg(metavar="N")] = 5
    """Number of networks in the ensemble."""
    updates: Annotated[int, arg(metavar="N")] = 1500
    """Updates of the optimizer."""
    encoder: Annotated[str, arg(metavar="NAME")] = "summary"
    """How the architecture is read: summary (numbers read off the graph), none, gcn, summary+gcn, set, gru, or paper
    (as in LC-GODE)."""
    dynamics: Annotated[str, arg(metavar="NAME")] = "ode"
    """ode; direct (a decoder without a differential equation); or, with the encoder paper, paper: LC-GODE as published,
    which reads neither settings nor rates, for runs of which a fifth was seen."""

    def run(self) -> None:
        """Fit it.

        Raises:
            UserError: there are too few curves, or an option is wrong.
        """
        from lr_env.cli.parsing import writable
        from lr_env.errors import UserError, whole
        from lr_env.provenance import command_line, versions
        from lr_env.words import counted
        from planners.forecaster.fit import Fitting
        from planners.forecaster.forecaster import Forecaster, curves_file

        if self.out.suffix != ".safetensors":
            raise UserError(f"out {str(self.out)!r}: give the name of a .safetensors file")
        fitting = Fitting(
            whole("members", self.members),
            whole("updates", self.updates),
            encoder=self.encoder,
            dynamics=self.dynamics,
            seed=whole("seed", self.seed, 0),
        )
        writable(self.out.parent, "--out")
        curves = self.curves()
        about = {
            "command": command_line(),
            "versions": versions(),
            "sources": list(self.sources),
            "curves": len(curves),
        }
        forecaster = Forecaster.fit(curves, fitting, about)
        forecaster.save(self.out)
        print(f"Fitted to {counted(len(curves), 'curve')} of {counted(len(set(curves.tasks)), 'task')}.")
        print(f"Model: {self.out}; curves: {curves_file(self.out)}. Forecast a run by")
        print(f"  lr-env forecast run {self.out} --curve LOG --budget STEPS")
