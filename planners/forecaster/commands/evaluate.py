"""`lr-env forecast evaluate`: how good forecasts are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from planners.forecaster.commands.options import SourceOptions


@dataclass(frozen=True)
class Evaluate(SourceOptions):
    """Fit forecasters to a part of the curves, and score them and the baselines on the rest."""

    hold_out: Annotated[str, arg(metavar="NAME")] = "configuration"
    """What is held out: configuration (a fifth of them, in each split), task (each in turn) or depth (the deepest)."""
    test: Annotated[tuple[str, ...], arg(metavar="SOURCE")] = ()
    """Score on the curves of these sources, and fit to all others, instead of holding out some."""
    splits: Annotated[int, arg(metavar="N")] = 5
    """Number of splits by configuration."""
    observe: Annotated[str, arg(metavar="LIST")] = "0,5,10,25"
    """Numbers of points seen, of 51, separated by commas; 0 is before the first step."""
    methods: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Methods to score. Default: all."""
    ablations: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Forecasters without a part, e.g. "ode, no architecture"; published, the model of LC-GODE; all for all of them."""
    updates: Annotated[int, arg(metavar="N")] = 1500
    """Updates of the optimizer in each fit."""
    name: Annotated[str, arg(metavar="NAME")] = "evaluation"
    """Name of the report."""
    results: Path = Path("results")
    """Folder for reports; this one goes to forecast/NAME in it."""

    def run(self) -> None:
        """Print the table, and write the report.

        Raises:
            UserError: an option is wrong, or there are too few curves.
        """
        import sys

        import numpy as np

        from lr_env.cli.parsing import parse_name, writable
        from lr_env.errors import UserError, find, whole
        from lr_env.provenance import command_line
        from lr_env.report.terminal import print_document
        from lr_env.terminal import console
        from planners.forecaster.combining import METHODS
        from planners.forecaster.curves import POINTS, join
        from planners.forecaster.evaluation import ABLATIONS, BASELINES, PUBLISHED, evaluate, splits_of
        from planners.forecaster.fit import Fitting
        from planners.forecaster.report import document_of, write_report

        try:
            seen = sorted({int(part) for part in self.observe.split(",")})
        except ValueError:
            raise UserError(f"observe {self.observe!r}: give numbers of points, e.g. 0,10,25") from None
        if not seen or not 0 <= seen[0] <= seen[-1] < POINTS:
            raise UserError(f"observe {self.observe!r}: give numbers from 0 to {POINTS - 1}")
        folder = self.results / "forecast" / parse_name(self.name)
        methods = self.methods or METHODS
        for method in methods:
            find("method", method, dict.fromkeys(METHODS))
        named = (*ABLATIONS, *BASELINES, PUBLISHED) if self.ablations == ("all",) else self.ablations
        for name in named:
            find("ablation", name, dict.fromkeys((*ABLATIONS, *BASELINES, PUBLISHED)))
        fitting = Fitting(updates=whole("updates", self.updates), seed=whole("seed", self.seed, 0))
        writable(folder)
        curves, held_out = self.curves(), f"held out by {self.hold_out}"
        if self.test:
            tested = replace(self, sources=self.test).curves()
            parts = np.arange(len(curves) + len(tested)) < len(curves)
            curves, splits, held_out = join([curves, tested]), [(parts, ~parts)], f"scored on {', '.join(self.test)}"
        else:
            splits = splits_of(curves, self.hold_out, whole("splits", self.splits), self.seed)
        evaluation = evaluate(
            curves,
            splits,
            seen=seen,
            methods=methods,
            ablations=[name for name in named if name in ABLATIONS],
            baselines=[name for name in named if name in BASELINES],
            published=PUBLISHED in named,
            fitting=fitting,
            progress=lambda what: print(what, file=sys.stderr),
        )
        document = document_of(evaluation, curves, held_out, (*self.sources, *self.test), command_line())
        write_report(evaluation, document, folder, seen, methods)
        print_document(document, console(), folder)
        print(f"Report: {folder / 'README.md'}")
