"""AutoLRS: Bayesian search for the rate of each stage of training, on forks whose losses are extrapolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lr_env.planner import PROBE, Signals, State
from planners.bayes import Search
from planners.forecast import forecast
from planners.probing import COUNT, FROM_0, POSITIVE, Probing
from planners.schedule import Array, Rules, Shapes

_STREAM = 0xA0705


@dataclass(frozen=True)
class AutoLRS(Probing):
    name = "autolrs"
    rules: ClassVar[Rules] = {
        "stage": COUNT, "doublings": FROM_0, "trials": COUNT, "trial": COUNT, "kappa": POSITIVE
    }
    shapes: ClassVar[Shapes] = ({},)
    stage: int = 10
    doublings: int = 3
    trials: int = 10
    trial: int = 1
    kappa: float = 2.0
    loss: str = "train"

    def stages(self, num_segments: int) -> dict[int, tuple[int, int]]:
        stages = {}
        start = 0
        number = 0
        while start < num_segments:
            factor = 2 ** min(number, self.doublings)
            length = min(self.stage * factor, num_segments - start)
            stages[start] = (length, min(self.trial * factor, length))
            start += length
            number += 1
        return stages

    def decide(self, state: State, signals: Signals, now: int) -> Array | None:
        stages = self.stages(state["num_segments"])
        if now not in stages:
            return None
        length, trial = stages[now]
        segment = state["segment"]
        low = self.low(state)
        searches = [
            Search(low, self.peak, self.kappa, np.random.Generator(np.random.PCG64([_STREAM, seed, now])))
            for seed in state["seeds"].tolist()
        ]
        for _ in range(self.trials):
            lr = np.array([search.ask() for search in searches])
            found = signals[PROBE](lr[:, None], trial)
            if self.loss == "train":
                y = found["step_losses"][:, 0]; t = np.arange(y.shape[1], dtype=float)
            else:
                y = found["val_loss"][:, 0]; t = segment * np.arange(1., y.shape[1]+1)
            for search, row in zip(searches, y, strict=True):
                search.tell(forecast(t, row, float(length * segment)))
        return np.array([search.best for search in searches])
