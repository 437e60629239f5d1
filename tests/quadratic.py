"""A child whose best schedule is known in closed form: gradient descent with noise on a quadratic.

The expected excess loss v follows v <- (1 - h r)^2 v + s r^2 under the rate r, so that the lowest end after T steps is
1 / v_T = 1 / v_0 + T h^2 / s up to terms of higher order in the rate, reached by r_t = 1 / (h (1 + s / (h^2 v_0) + t)).
"""

from __future__ import annotations

import pickle

import numpy as np

from lr_env.planner import RunSpec
from lr_env.records.record import RunRecord
from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.sweep.designs import mixed

H, S, V0 = 1.0, 0.4, 4.0
STEPS, SEGMENT = 400, 10
SPEC = RunSpec("quadratic", STEPS, SEGMENT, (1e-9, 1.5), "SGD", 1)


def trained(rates, noise, seeds, let_in=S):
    """Losses at segment ends under rates (runs, segments): (runs, segments) with measuring noise, and the true ends."""
    value = np.full(len(rates), V0)
    seen = []
    for rate in np.repeat(np.asarray(rates, dtype=np.float64).T, SEGMENT, axis=0):
        value = (1 - H * rate) ** 2 * value + let_in * rate**2
        seen.append(value)
    drawn = np.stack([np.random.default_rng(seed).standard_normal(len(seen) // SEGMENT) for seed in seeds])
    return np.stack(seen[SEGMENT - 1 :: SEGMENT], 1) * np.exp(noise * drawn), value


def played(planner, seeds=(0,), state=None, first=0, signals=None, let_in=S, factor=lambda segment: 1.0):
    """Rates (runs, segments) and true ends under a planner of runs of `SPEC`, with the states before each segment."""
    state = planner.start(SPEC, seeds) if state is None else state
    count = len(seeds)
    signals = signals or {name: np.full(count, np.nan) for name in ("lr", *CHANNELS)} | {"step": np.zeros(count)}
    rates, before = [], []
    for segment in range(first, SPEC.num_segments):
        before.append((pickle.loads(pickle.dumps(state)), dict(signals)))
        answer, state = planner.plan(state, signals)
        answer = answer * factor(segment)
        rates.append(answer)
        losses, ends = trained(np.stack(rates, 1), 0.02, seeds, let_in) if first == 0 else (None, None)
        if losses is not None:
            signals = {
                "step": np.full(count, float((segment + 1) * SPEC.segment)),
                "lr": answer,
                "train_loss": losses[:, -1],
                "val_loss": losses[:, -1],
                "val_accuracy": 1 / (1 + losses[:, -1]),
            }
    return np.stack(rates, 1), ends, before, state


def records(schedules, noise=0.02):
    """One run of each schedule, on seeds of their own."""
    rates = np.stack([schedule.preview(SPEC.num_segments) for schedule in schedules])
    losses, ends = trained(rates, noise, range(len(schedules)))
    steps = np.arange(SEGMENT, STEPS + 1, SEGMENT, dtype=np.float64)
    return [
        RunRecord(
            "tune",
            "schedule",
            {"number": number},
            number,
            "finished",
            steps=STEPS,
            scores={"final_val_loss": float(ends[number])},
            curves={
                "step": steps,
                "lr": rates[number],
                "train_loss": losses[number],
                "val_loss": losses[number],
                "val_accuracy": 1 / (1 + losses[number]),
            },
        )
        for number in range(len(schedules))
    ]


def sweep():
    """Runs of the mixed design."""
    return records([run.planner for run in mixed(60, (0.02, 0.9), list(range(60)), 0)])


def optimum():
    """The lowest end, by stepwise minimisation, which is exact: v_(t+1) = min over r."""
    value = V0
    for _ in range(STEPS):
        rate = H * value / (H**2 * value + S)
        value = (1 - H * rate) ** 2 * value + S * rate**2
    return value
