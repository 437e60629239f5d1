"""The time of forecasts: s = log(1 + t), with t in points of the grid."""

from __future__ import annotations

import numpy as np

from planners.forecaster.curves import POINTS, Floats

TIMES: Floats = np.log1p(np.arange(POINTS, dtype=np.float64))
"""Time of each point, (POINTS,), from 0 to log(51)."""

END = float(TIMES[-1])
