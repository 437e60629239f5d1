"""AutoLRS: Bayesian search for the rate of each stage of training, on forks whose losses are extrapolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.errors import UserError
from lr_env.planner import ForkMeasurements, Probe, State
from planners.forking.base import Probing
from planners.forking.extrapolation import forecast
from planners.forking.gaussian_process import Search
from planners.settings import COUNT, FROM_0, POSITIVE, Rule, Rules, Shapes
from planners.stochastic import origin

FEW = Rule(lambda v: 1 <= v <= 100, "a whole number from 1 to 100", whole=True)

_STREAM = 0xA0705


@dataclass(frozen=True)
class AutoLRS(Probing):
    """Bayesian search for the rate of each stage, on short forks with extrapolated losses (Jin et al. 2021).

    The budget is cut into stages, each under one rate. Before a stage, `trials` rates are tried one after another: a
    fork is trained under the rate for `trial` segments, its losses are extrapolated to the end of the stage by a
    falling exponential (`planners.forking.extrapolation`), and a Gaussian process over the log rate picks the next one
    (`planners.forking.gaussian_process`). The rate with the lowest forecast is used for the stage. All runs search at
    the same time, each for itself.

    Origin: ICLR 2021, arXiv:2105.10762. There a first stage has 1000 steps, the next are twice as long until they have
    8000; a trial lasts a tenth of its stage, ten are made, so that searching costs as much as training; training losses
    are extrapolated, and in stages of full length validation losses. The authors' code (github.com/YuchenJin/autolrs)
    starts from one random rate, takes a kappa of 1e6, which fills the largest gap whatever was measured, removes
    outliers by splines, and searches from 0.001 to 0.1 with momentum SGD. Here trials are longer by default: a tenth of
    the stages of a small task is too few steps to extrapolate from, and the rates found are then far too large; and one
    kind of loss is extrapolated throughout. A sweep also tries the published proportions, its third shape.

    Child steps: trials * trial / stage times those of the run.

    Attributes:
        stage: length of the first stage in segments; the last is cut where the budget ends.
        doublings: so many times the next stage is twice as long as the one before, and its trials too.
        trials: rates tried before a stage.
        trial: length of a trial of the first stage in segments.
        kappa: how much a trial may cost to learn something; see `planners.forking.gaussian_process.Search`.
        loss: what is extrapolated: "train", the losses of all steps, or "val", the validation loss after each segment
            (the last one taken as it is where there are fewer than five).
    """

    name = "autolrs"
    rules: ClassVar[Rules] = {"stage": COUNT, "doublings": FROM_0, "trials": FEW, "trial": COUNT, "kappa": POSITIVE}
    shapes: ClassVar[Shapes] = ({}, {"loss": "val"}, {"doublings": 1, "trial": 2, "kappa": 1e6})
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
        """First segment of each stage -> (segments of the stage, segments of one of its trials)."""
        stages = {}
        start = factor = 0
        while start < num_segments:
            factor = min(2 * factor, 2**self.doublings) or 1
            length = min(self.stage * factor, num_segments - start)
            stages[start] = length, min(self.trial * factor, length)
            start += length
        return stages

    def decide(self, state: State, probe: Probe, now: int) -> State | None:
        """The rate with the best forecast, at the start of a stage."""
        stages = self.stages(state["num_segments"])
        if now not in stages:
            return None
        length, trial = stages[now]
        low = self.low(state)
        searches = [
            Search(low, self.peak, self.kappa, np.random.default_rng(origin(_STREAM, seed, now)))
            for seed in state["seeds"].tolist()
        ]
        for _ in range(self.trials):
            lr = np.array([search.ask() for search in searches])
            found = probe(lr[:, None], trial)
            for run, search in enumerate(searches):
                search.tell(self._forecast(found, run, length * state["segment"], state["segment"]))
        return {"lr": np.array([search.best for search in searches])}

    def _forecast(self, found: ForkMeasurements, run: int, end: int, segment: int) -> float:
        """The loss of a run at the end of a stage, so many steps after its start, from that of the trial."""
        if self.loss == "train":  # the loss of a step is that before its update
            losses = found["step_losses"][run, 0]
            return forecast(np.arange(len(losses), dtype=np.float64), losses, end)
        losses = found["val_loss"][run, 0]
        return forecast(segment * np.arange(1.0, len(losses) + 1), losses, end)
