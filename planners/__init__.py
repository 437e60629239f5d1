"""Everyone who answers the question "which learning rate next?"."""

from __future__ import annotations

from planners.external_optimizers import DAdaptAdam, DAdaptSGD, MechanicSGD, Prodigy, ScheduleFreeAdamW, ScheduleFreeSGD
from planners.forking.autolrs import AutoLRS
from planners.forking.lookahead import Lookahead
from planners.forking.lrtuner import LRTuner
from planners.latent_ode.controls import CONTROLS
from planners.latent_ode.generative.planner import LatentODEGenerative
from planners.latent_ode.planner import LatentODE
from planners.ppo.planner import PPO
from planners.reactive import GreedyLR, Hypergradient, HypergradientMultiplicative, LossSlope, Plateau
from planners.schedules import (
    SGDR,
    WSD,
    Constant,
    Cosine,
    CosineWarmup,
    Cyclic,
    Exponential,
    InverseSqrt,
    Knee,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Step,
    WSDSqrt,
)
from planners.stochastic import LEAP, PLRS, PLRSMidpoint, ShuffledCosine

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
        Knee,
        SGDR,
        Cyclic,
        PLRS,
        PLRSMidpoint,
        ShuffledCosine,
        LEAP,
        Plateau,
        GreedyLR,
        LossSlope,
        Hypergradient,
        HypergradientMultiplicative,
        PPO,
        Lookahead,
        AutoLRS,
        LRTuner,
        ScheduleFreeSGD,
        ScheduleFreeAdamW,
        Prodigy,
        DAdaptSGD,
        DAdaptAdam,
        MechanicSGD,
        LatentODE,
        LatentODEGenerative,
        *CONTROLS,
    )
}
"""Name -> planner; the same as the entry points in pyproject.toml."""
