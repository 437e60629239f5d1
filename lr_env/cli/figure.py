"""`lr-env figure`: a figure of a saved comparison, for a paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import arg

from lr_env.cli.parsing import writable
from lr_env.errors import UserError, find, unknown
from lr_env.runs.options import parse_names

if TYPE_CHECKING:
    from lr_env.report.curve_data import Scale
    from lr_env.studies.comparison.paper import PaperFigure


@dataclass(frozen=True)
class FigureCommand:
    """Draw a saved comparison for a paper: PDF, SVG or PNG, as wide as a column.

    Texts stay texts, and the same figure has the same bytes. What the caption should say is printed.
    """

    name: Annotated[str, tyro.conf.Positional, arg(metavar="NAME")]
    """The comparison, by name or folder."""
    planners: Annotated[tuple[str, ...], arg(metavar="NAME...")] = ()
    """Planners in the order of the figure. Default: all, best first; of curves the best 7."""
    kind: Annotated[str, arg(metavar="KIND")] = "curves"
    """curves (rates above losses), rates, losses, scores (mean test losses), or differences (to the best baseline)."""
    format: Annotated[str | None, arg(metavar="FORMAT")] = None
    """pdf, svg or png. Default: as --out ends, or pdf."""
    width: float = 3.25
    """Width in inches: 2 to 20. One column has about 3.25, a page 6.75."""
    height: float | None = None
    """Height in inches. Default: what the content needs."""
    title: Annotated[str, arg(metavar="TEXT")] = ""
    """Title above the figure. Default: none, since papers have captions."""
    lr_scale: Annotated[str, arg(metavar="SCALE")] = "log"
    """Scale of the learning rates: log or linear."""
    loss_scale: Annotated[str, arg(metavar="SCALE")] = "log"
    """Scale of the losses: log or linear."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """File to write. Default: NAME-KIND.FORMAT."""
    results: Path = Path("results")
    """Folder of the comparisons."""

    def run(self) -> None:
        """Draw the figure, and print what its caption should say.

        Raises:
            UserError: there is no such comparison, planner, kind or format, or no room for the figure.
        """
        from lr_env.files import atomic_write
        from lr_env.records.tables import read_runs
        from lr_env.report.paper import DPI, paper_style
        from lr_env.report.plotting import save
        from lr_env.studies.across.saved import final_runs, find_saved
        from lr_env.studies.comparison.paper import KINDS, chosen

        kind = find("kind", self.kind, KINDS)
        figure_format = self._format()
        settings = self._settings()
        folder = find_saved(self.name, self.results)
        name = folder.resolve().name
        out = Path(f"{name}-{self.kind}.{figure_format}") if self.out is None else self.out
        if out.is_dir():
            raise UserError(f"out {str(out)!r} is a folder: give the name of a file")
        every = final_runs(name, read_runs(folder / "runs.parquet", kind.curves), kind.curves)
        runs = chosen(every, parse_names(self.planners), self.kind)
        writable(out.parent, "--out")
        with paper_style(), atomic_write(out) as temporary:
            figure, caption = settings.draw(self.kind, runs)
            save(figure, temporary, figure_format, DPI)
        if len(runs) < len(every) and not self.planners:
            print(f"drawn: the {len(runs)} of {len(every)} planners with the lowest mean test losses")
        print(f"{caption}\nFigure: {out}")

    def _format(self) -> str:
        """The format, by --format or the end of --out."""
        from lr_env.report.paper import FORMATS

        suffix = "" if self.out is None else self.out.suffix.lower().removeprefix(".")
        if self.format is not None and self.format not in FORMATS:
            raise unknown("format", self.format, FORMATS)
        if self.out is not None and suffix not in ((self.format,) if self.format else FORMATS):
            ends = " or ".join(f".{one}" for one in ((self.format,) if self.format else FORMATS))
            raise UserError(f"out {str(self.out)!r}: give the name of a file that ends in {ends}")
        return self.format or suffix or FORMATS[0]

    def _settings(self) -> PaperFigure:
        """Size, title and scales."""
        from lr_env.report.paper import Page
        from lr_env.studies.comparison.paper import SCALES, PaperFigure

        lr_scale: Scale = find("scale", self.lr_scale, SCALES)
        loss_scale: Scale = find("scale", self.loss_scale, SCALES)
        return PaperFigure(Page(self.width, self.height, self.title), lr_scale, loss_scale)
