"""Everyone who answers the question "which learning rate next?"."""

from __future__ import annotations

from planners.autolrs import AutoLRS
from planners.lookahead import Lookahead
from planners.schedules import (
    SGDR,
    WSD,
    Constant,
    Cosine,
    CosineWarmup,
    Cyclic,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Step,
    WSDSqrt,
)

PLANNERS: dict[str, type] = {
    planner.name: planner
    for planner in (
        Constant,
        Linear,
        Cosine,
        CosineWarmup,
        OneCycle,
        Step,
        MultiStep,
        Exponential,
        Polynomial,
        InverseSqrt,
        WSD,
        WSDSqrt,
        SGDR,
        Cyclic,
        Lookahead,
        AutoLRS,
    )
}
"""Name -> planner, in the order in which they are listed; the same as the entry points in pyproject.toml."""
