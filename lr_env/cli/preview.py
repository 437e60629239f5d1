"""`lr-env preview`: draw schedules without training anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import arg

from lr_env.cli.parsing import writable
from lr_env.errors import UserError
from lr_env.runs.options import parse_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Preview:
    """Draw the learning rates of schedules in one figure, without training anything."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, arg(metavar="NAME")]
    """Planners to draw: most of those that `lr-env planners` calls open."""
    peak: float = 0.1
    """Peak rate of every planner."""
    set: Annotated[tuple[str, ...], arg(metavar="SETTING=VALUE")] = field(default=())
    """Settings, e.g. warmup=0.2. They apply to every planner that has a setting of that name."""
    segments: Annotated[int, arg(metavar="N")] = 100
    """Segments in a run: the planner sets one rate for each."""
    out: Path = Path("preview.png")
    """Figure to write, a .png file."""

    def run(self) -> None:
        """Write the figure."""
        from lr_env.capabilities import Previewable
        from lr_env.registry import find_planner, has_peak, make_planner, setting_defaults
        from lr_env.report.files import draw_into

        if not self.names:
            raise UserError("no planners to draw: name at least one, e.g. cosine")
        if self.out.suffix.lower() != ".png":
            raise UserError(f"out {str(self.out)!r}: the figure is written as PNG, give a name that ends in .png")
        if not 1 <= self.segments <= 1_000_000:
            raise UserError(f"segments {self.segments}: it must be a whole number from 1 to 1,000,000")
        options = dict(parse_setting(text) for text in self.set)
        if "peak" in options:
            raise UserError(f"setting 'peak={options['peak']}': give the peak with --peak")
        settings = {name: setting_defaults(name) for name in self.names}
        for setting in options:
            if not any(setting in of for of in settings.values()):
                raise UserError(f"no setting {setting!r} there: see `lr-env planners {' '.join(self.names)}`")
        drawn = []
        for name in self.names:
            if not isinstance(find_planner(name), Previewable):
                raise UserError(f"planner {name!r} has no preview: leave it out")
            if not has_peak(name):
                raise UserError(f"planner {name!r} has no peak: leave it out")
            applicable = {setting: value for setting, value in options.items() if setting in settings[name]}
            planner = make_planner(name, {"peak": self.peak, **applicable})
            assert isinstance(planner, Previewable)
            drawn.append((name, planner.preview(self.segments)))
        writable(self.out.parent, "--out")
        if draw_into(self.out, lambda path: self._draw(drawn, path)):
            print(f"{self.out}: {', '.join(name for name, _ in drawn)}, {self.segments} segments")

    def _draw(self, drawn: Sequence[tuple[str, NDArray[np.float64]]], path: Path) -> None:
        """Draw rates, (segments,) for each name, and save the figure as PNG."""
        from lr_env.report.plotting import NullFormatter, caption, distinct_style, new_figure, own_style, plain, save

        with own_style():
            figure = new_figure(9, 4.2, "Learning rates")
            axes = figure.subplots()
            plain(axes)
            for number, (name, rates) in enumerate(drawn):
                axes.step(range(self.segments), rates, where="post", label=name, **distinct_style(number))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("segment")
            axes.set_ylabel("learning rate")
            caption(axes, ", ".join([f"peak {self.peak:g}", *self.set]))
            if len(drawn) > 1:
                axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
            save(figure, path)
