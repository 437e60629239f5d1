"""Learning rates that a schedule will give, for runs that have not begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from lr_env.capabilities import Previewable
from lr_env.errors import UserError
from lr_env.planner import Planner, RunSpec
from lr_env.registry import find_planner, has_peak
from planners.forecaster.curves import POINTS, Floats


def planned_rates(name: str, peak: float) -> Floats:
    """Rates of the segments between the points of the grid, (POINTS - 1,).

    Args:
        name: of a planner whose rates follow from time alone.
        peak: its peak rate.

    Raises:
        UserError: there is no such planner, its rates depend on the run, or the rate is not above 0.
    """
    if not (np.isfinite(peak) and peak > 0):
        raise UserError(f"lr {peak:g}: give a finite rate above 0")
    kind = find_planner(name)
    if not has_peak(name) or not issubclass(kind, Previewable):
        raise UserError(
            f"planner {name!r} sets rates by what it measures: give a schedule, e.g. constant, cosine or wsd"
        )
    planner = cast("Callable[..., Planner]", kind)(peak=peak)
    run = RunSpec("forecast", POINTS - 1, 1, (1e-12, max(10.0, 10 * peak)), "", 0)
    return np.asarray(cast("Any", planner).preview(run.num_segments), dtype=np.float64)
