"""The chart of standings over several comparisons: mean ranks, and performance profiles of steps to target."""

from __future__ import annotations

import numpy as np

from lr_env.report.chart import Axis, Chart, Panel, Series, Tone
from lr_env.report.curve_chart import rows_panel
from lr_env.report.curve_data import HIGHLIGHTED
from lr_env.report.formatting import number_text
from lr_env.stats.ranks import LARGEST_RATIO, profile
from lr_env.studies.across.standings import Standings


def standings_chart(standings: Standings) -> Chart:
    """Mean ranks with their 95 % intervals beside performance profiles."""
    rows = standings.rows
    names = [row.planner for row in rows]
    tones: list[Tone] = ["strong" if row.to_first is None else row.to_first.tone for row in rows]
    ranks = rows_panel(
        f"Mean over {len(standings.tasks)} tasks, 95 % interval over seeds; 1 is best",
        "mean rank by test loss",
        names,
        [(row.mean_rank, tone) for row, tone in zip(rows, tones, strict=True)],
    )
    steps = np.unique(np.concatenate([of.ravel() for of in standings.ratios]))
    taus = np.concatenate([[1.0], steps[(steps > 1) & (steps < LARGEST_RATIO)], [LARGEST_RATIO]])
    shares = profile(standings.ratios, taus)
    profiles = [  # a share holds up to the next ratio
        Series(
            f"{row.planner}, mean {number_text(row.score.value, 2)}",
            np.repeat(taus, 2)[1:],
            np.repeat(shares[rank], 2)[:-1],
            style=rank,
            group=row.planner,
        )
        for rank, row in enumerate(rows)
    ]
    ratio = Axis("child steps to target, over those of the fastest planner", limits=(1.0, LARGEST_RATIO))
    share = Axis("share of runs, tasks weighing alike", limits=(-0.02, 1.02))
    return Chart([ranks, Panel("Performance profiles", ratio, share, profiles[::-1])], names[:HIGHLIGHTED], names)
