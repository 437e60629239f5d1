"""`lr-env forecast rank`: which of some configurations will do best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Rank:
    """Rank configurations that were not run yet by their forecast final value.

    Candidates are rows of a CSV file. Its columns: name; task (of the catalogue, which says settings and architecture);
    lr; planner (a schedule, constant by default); budget; classes; and settings such as batch_size or optimizer.
    """

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A .safetensors file of lr-env forecast fit, or the name of a shipped model."""
    candidates: Annotated[Path, arg(metavar="FILE")]
    """The candidates, a CSV file with a header."""
    method: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto (the best of the others on held-out runs), both, blend, ode, boosting or nearest."""
    best: Annotated[int, arg(metavar="N")] = 20
    """How many to print."""

    def run(self) -> None:
        """Print them, the best first.

        Raises:
            UserError: the file cannot be read, or too little is known of a candidate.
        """
        import numpy as np

        from lr_env.errors import whole
        from lr_env.report.document import Block, Document, Text, plain_table
        from lr_env.report.terminal import print_document
        from lr_env.terminal import console
        from lr_env.words import counted
        from planners.forecaster.candidates import read_candidates
        from planners.forecaster.curves import join
        from planners.forecaster.forecaster import Forecaster

        whole("best", self.best)
        forecaster = Forecaster.load(self.model)
        names, runs = read_candidates(self.candidates)
        curves = join([run.curves(forecaster.reference.metric) for run in runs])
        predicted = forecaster.predict(curves, 0, self.method)
        order = np.argsort(predicted.median[:, -1], kind="stable")[: self.best]
        rows = [
            (
                str(place + 1),
                names[row],
                *(f"{end[row, -1]:.4g}" for end in (predicted.median, predicted.low, predicted.high)),
            )
            for place, row in enumerate(order)
        ]
        metric = forecaster.reference.metric
        blocks: list[Block] = [plain_table(("rank", "candidate", f"final {metric}", "low", "high"), rows, words=2)]
        notes = dict.fromkeys(note for row in order for note in forecaster.notes(curves.rows([row])))
        if notes:
            blocks.append(Text(points=tuple(list(notes)[:10])))
        print_document(Document(f"The best of {counted(len(runs), 'candidate')}", tuple(blocks)), console())
