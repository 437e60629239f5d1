"""AutoLRS: Bayesian search for the rate of each stage of training, on forks with extrapolated losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.errors import UserError
from lr_env.planner import ForkMeasurements, Probe, State
from planners.forking.base import ForkingPlanner
from planners.forking.extrapolation import forecast
from planners.forking.gaussian_process import GaussianProcessSearch
from planners.settings import COUNT, NON_NEGATIVE_INT, POSITIVE, Rule, Rules, TuningVariants
from planners.stochastic import entropy

FEW = Rule(lambda v: 1 <= v <= 100, "a whole number from 1 to 100", int)

_STREAM = 0xA0705


@dataclass(frozen=True)
class AutoLRS(ForkingPlanner):
    """Search for the best rate of each stage on short forks, by Bayesian optimization (Jin et al. 2021).

    The budget is cut into stages with one rate each. Before a stage, `trials` rates are tried one after another: a fork
    is trained at the rate for `trial` segments, its losses are extrapolated to the end of the stage by a falling
    exponential (`planners.forking.extrapolation`), and a Gaussian process over the log rate proposes the next rate
    (`planners.forking.gaussian_process`). The stage uses the rate with the lowest forecast. All runs search at the same
    time and independently.

    Origin: ICLR 2021, arXiv:2105.10762. There the first stage has 1000 steps, and each following one twice as many, up
    to 8000. Ten trials of a tenth of the stage make the search as expensive as the training. Training losses are
    extrapolated, in stages of full length validation losses. The authors' code (github.com/YuchenJin/autolrs) starts
    from one random rate, has a kappa of 1e6, which fills the largest gap whatever was measured, removes outliers with
    splines, and searches from 0.001 to 0.1 with momentum SGD. Here trials are longer by default: a tenth of a stage of
    a small task has too few steps to extrapolate from, and the chosen rates are then far too large. One kind of loss is
    extrapolated in all stages. The third setting that a sweep tries has the published proportions.

    Training steps of the forks: trials * trial / stage times those of the run.

    Attributes:
        stage: length of the first stage in segments; the last stage ends with the budget.
        doublings: number of times that the next stage, with its trials, is twice as long as the one before.
        trials: number of rates that are tried before a stage.
        trial: length of a trial of the first stage in segments.
        kappa: how much a trial may cost to learn something; see
            `planners.forking.gaussian_process.GaussianProcessSearch`.
        loss: the losses that are extrapolated: "train", those of all steps, or "val", the validation loss after each
            segment (with fewer than five of them, the last one is the forecast).
    """

    name = "autolrs"
    rules: ClassVar[Rules] = {
        "stage": COUNT,
        "doublings": NON_NEGATIVE_INT,
        "trials": FEW,
        "trial": COUNT,
        "kappa": POSITIVE,
    }
    tuning_variants: ClassVar[TuningVariants] = ({}, {"loss": "val"}, {"doublings": 1, "trial": 2, "kappa": 1e6})
    stage: int = 20
    doublings: int = 0
    trials: int = 10
    trial: int = 10
    kappa: float = 2.0
    loss: str = "train"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trial > self.stage:
            raise UserError(f"planner {self.name!r}: trial must be at most stage, not {self.trial} > {self.stage}")
        if self.loss not in ("train", "val"):
            raise UserError(f"planner {self.name!r}: loss must be 'train' or 'val', not {self.loss!r}")

    def stages(self, num_segments: int) -> dict[int, tuple[int, int]]:
        """Return a dict: first segment of each stage -> (segments of the stage, segments of one of its trials)."""
        stages = {}
        start = factor = 0
        while start < num_segments:
            factor = min(2 * factor, 2**self.doublings) or 1
            length = min(self.stage * factor, num_segments - start)
            stages[start] = length, min(self.trial * factor, length)
            start += length
        return stages

    def decide(self, state: State, probe: Probe, now: int) -> State | None:
        """Choose the rate with the lowest forecast, at the start of a stage."""
        stages = self.stages(state["num_segments"])
        if now not in stages:
            return None
        length, trial = stages[now]
        low = self.low(state)
        searches = [
            GaussianProcessSearch(low, self.peak, self.kappa, np.random.default_rng(entropy(_STREAM, seed, now)))
            for seed in state["seeds"].tolist()
        ]
        for _ in range(self.trials):
            lr = np.array([search.ask() for search in searches])
            measured = probe(lr[:, None], trial)
            for run, search in enumerate(searches):
                search.tell(self._forecast(measured, run, length * state["segment"], state["segment"]))
        return {"lr": np.array([search.best for search in searches])}

    def _forecast(self, measured: ForkMeasurements, run: int, end: int, segment: int) -> float:
        """Forecast the loss of a run at the end of a stage, `end` steps after its start, from a trial."""
        if self.loss == "train":  # the loss of a step is that before its update
            losses = measured["step_losses"][run, 0]
            return forecast(np.arange(len(losses), dtype=np.float64), losses, end)
        losses = measured["val_loss"][run, 0]
        return forecast(segment * np.arange(1.0, len(losses) + 1), losses, end)
