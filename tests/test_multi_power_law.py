"""The multi-power law: its formula, fits to real runs of a language model, schedules under it, and its planner."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares

from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from lr_env.registry import find_tuner
from lr_env.tasks import find_task
from lr_env.testing import simulated_record
from planners.multi_power_law.fit import Curves, curves_of, fit_law, held_out_error
from planners.multi_power_law.law import LawNumbers
from planners.multi_power_law.optimise import best_rates
from planners.multi_power_law.planner import MultiPowerLaw
from planners.schedules import WSD, Constant

CURVES = Path(os.environ.get("LR_ENV_CURVES", Path(__file__).parents[2] / "shared" / "curves")) / "multipowerlaw"
needs_curves = pytest.mark.skipif(
    not CURVES.is_dir(), reason=f"no published curves in {CURVES}: name the folder above theirs with LR_ENV_CURVES"
)
TRUE = LawNumbers(0.3, 0.4, 0.5, 0.3, 8.0, 0.6, 0.5)
WARMUP_STEPS = 2160
"""Of the published runs, over which the rate rises linearly."""


def by_definition(law, rates, duration):
    """The loss at the end of each stretch, written down from the paper's equations, one number at a time."""
    losses = []
    for t in range(len(rates)):
        total = law.floor + law.size * (sum(rates[: t + 1]) * duration) ** -law.power
        for k in range(1, t + 1):
            since = sum(rates[k : t + 1]) * duration
            paid = 1 - (1 + law.speed * rates[k] ** -law.rate_power * since) ** -law.annealing_power
            total -= law.annealing * (rates[k - 1] - rates[k]) * paid
        losses.append(total)
    return losses


def test_the_law_is_that_of_the_paper():
    rates = np.array([[1.0, 1.0, 0.7, 0.7, 0.4, 0.1], [0.8] * 6])
    expected = [by_definition(TRUE, list(row), 1 / 6) for row in rates]
    np.testing.assert_allclose(TRUE.losses(rates, np.full(6, 1 / 6)), expected, rtol=1e-12)
    np.testing.assert_allclose(
        TRUE.losses(rates, np.full(6, 1 / 6), np.array([2, 5])), np.array(expected)[:, [2, 5]], rtol=1e-12
    )


def test_of_a_warm_up_only_the_sum_of_rates_counts():
    warmed, short = np.array([[0.2, 0.6, 1.0, 0.5]]), np.array([[1.0, 0.5]])
    with_sum = TRUE.losses(warmed, np.array([0.1, 0.2, 0.5, 0.2]))[0, -1]
    alone = TRUE.losses(short, np.array([0.64, 0.2]))[0, -1]
    assert with_sum == pytest.approx(alone, rel=1e-12)


def made_up(schedules, noise=0.0, segments=40):
    rates = np.stack([schedule.preview(segments) for schedule in schedules])
    losses = TRUE.losses(rates, np.full(segments, 1 / segments))
    drawn = np.exp(noise * np.random.default_rng(0).standard_normal(losses.shape))
    durations = np.full_like(losses, 1 / segments)
    return Curves(rates, durations, losses * drawn, tuple(schedule.name for schedule in schedules))


SHAPES = [WSD(peak=peak, cooldown=cooldown) for peak in (0.6, 1.0, 1.5) for cooldown in (0.2, 0.5, 0.9)]


def test_a_fit_finds_a_law_again_and_forecasts_what_it_did_not_see():
    curves = made_up(SHAPES, noise=0.002)
    law = fit_law(curves)
    assert law.error < 0.003
    unseen = made_up([Constant(peak=0.8), WSD(peak=1.2, cooldown=0.35)])
    np.testing.assert_allclose(law.forecast(unseen)[:, 10:], unseen.losses[:, 10:], rtol=0.01)
    assert held_out_error(curves) < 0.006


def test_no_schedule_is_better_under_a_law():
    """Against hundreds of schedules, and against small changes of the one that was found."""
    numbers = tuple(TRUE.__dict__.values())
    found = best_rates(numbers, 1.0, 4, 40, 1e-3)
    assert found.max() == 1.0
    assert (np.diff(found[4:]) <= 1e-12).all()
    durations, last = np.full(40, 1 / 40), np.array([39])
    best = TRUE.losses(found[None], durations, last)[0, 0]
    random = np.random.default_rng(0)
    rivals = [WSD(peak=1.0, cooldown=share).preview(40) for share in np.linspace(0.05, 0.9, 30)]
    falls = np.sort(random.random((300, 36)), axis=1)[:, ::-1]
    rivals += [np.concatenate([found[:4], row * (1 - 1e-3) + 1e-3]) for row in falls]
    moved = np.clip(found[None, 4:] * np.exp(0.05 * random.standard_normal((300, 36))), 1e-3, 1.0)
    rivals += [np.concatenate([found[:4], -np.sort(-row)]) for row in moved]
    assert TRUE.losses(np.stack(rivals), durations, last).min() > best - 1e-6


def published(name):
    """Steps, rates and losses of a published run."""
    with (CURVES / f"{name}.csv").open() as file:
        rows = [[float(row[key]) for key in ("step", "lr", "loss")] for row in csv.DictReader(file)]
    return np.array(rows).T


def published_curves(names):
    """Published runs, in budgets of 72,000 steps; the warm-up is a stretch of its own, whose mean rate is half."""
    runs = [published(name) for name in names]
    longest = max(len(steps) for steps, *_ in runs) + 1
    rates, durations, losses = np.full((3, len(runs), longest), np.nan)
    durations[:] = 0.0
    for row, (steps, lr, loss) in enumerate(runs):
        count = len(steps) + 1
        rates[row, :count] = [lr[0] / 2, *lr]
        rates[row, count:] = lr[-1]
        durations[row, :count] = np.diff([0, WARMUP_STEPS, *steps]) / 72_000
        losses[row, 1:count] = loss
    return Curves(rates, durations, losses, tuple(names))


def reference(kind, runs):
    """A least-squares fit of a smaller law to some runs; returns its forecast of a run."""
    peak = max(lr.max() for _, lr, _ in runs)

    def law(numbers, run):
        steps, lr, _ = run
        floor, size, power, annealing = numbers
        sums = (WARMUP_STEPS * peak / 2 + np.cumsum(np.diff(steps, prepend=WARMUP_STEPS) * lr)) / (peak * 72_000)
        if kind == "steps":
            return floor + size * (steps / 72_000) ** -power
        return floor + size * sums**-power - (annealing * (1 - lr / peak) if kind == "annealing" else 0.0)

    def errors(numbers):
        return np.concatenate([np.log(np.maximum(law(numbers, run), 0.01)) - np.log(run[2]) for run in runs])

    fit = least_squares(errors, [3.0, 0.3, 0.5, 0.1], bounds=(1e-3, 10), loss="huber", f_scale=1e-3)
    return lambda run: law(fit.x, run)


@needs_curves
def test_fitted_to_some_published_runs_it_forecasts_the_others():
    """The WSD runs from the constant, cosine and two-stage ones, against three smaller laws fitted to the same."""
    seen = ["constant_24000", "constant_72000", "cosine_24000", "cosine_72000", "wsdcon_3", "wsdcon_9", "wsdcon_18"]
    unseen = ["wsd_20000_24000", "wsdld_20000_24000"]
    target = published_curves(unseen)
    forecast = fit_law(published_curves(seen)).forecast(target)
    error = float(np.nanmean(np.abs(forecast - target.losses)))
    runs = [published(name) for name in seen]
    smaller = {
        kind: np.mean([np.abs(reference(kind, runs)(run) - run[2]).mean() for run in map(published, unseen)])
        for kind in ("steps", "sums", "annealing")
    }
    assert error < 0.0084
    assert error < smaller["annealing"] < min(smaller["steps"], smaller["sums"])


def record(planner, segments, end=None, diverged=False, budget=400):
    rates = planner.preview(segments)
    losses = TRUE.losses(rates[None], np.full(segments, 1 / segments))[0]
    curves = {"step": (np.arange(segments) + 1) * budget // segments, "lr": rates, "val_loss": losses}
    settings = {"peak": planner.peak, **{name: getattr(planner, name) for name in ("warmup", "cooldown")}}
    scores = {} if diverged else {"final_val_loss": float(losses[-1]) if end is None else end}
    return RunRecord("tune", planner.name, settings, 0, "finished", diverged=diverged, scores=scores, curves=curves)


def test_runs_that_no_law_can_be_fitted_to_are_refused():
    many = [record(WSD(peak=peak, cooldown=0.2), 20) for peak in (0.5, 1.0, 1.5)]
    with pytest.raises(UserError, match="all runs have a schedule of the same shape"):
        curves_of(many, 400)
    with pytest.raises(UserError, match="2 of 3 runs can be used: the multi-power law needs at least 3"):
        curves_of([*many[:2], record(WSD(peak=1.0), 20, diverged=True)], 400)
    with pytest.raises(UserError, match="law must be a list of seven numbers above 0"):
        MultiPowerLaw(peak=0.1, law=(1.0, 2.0))
    with pytest.raises(UserError, match="3 runs of tuner 'multi-power-law': a law needs at least 4"):
        find_tuner("multi-power-law").check([3])


def test_the_tuner_makes_schedules_under_laws_of_its_runs_and_selects_one(tmp_path):
    tuner, task = find_tuner("multi-power-law"), find_task("DigitsMLP")
    records = []
    while len(records) < 16:
        count = min(tuner.batch_size(len(records)), 16 - len(records))
        for planner in tuner.propose(task, 0, records, count):
            run = record(WSD(peak=planner.peak), 20, budget=task.budget)
            rates = planner.preview(20)
            losses = TRUE.losses(rates[None] / 0.1, np.full(20, 1 / 20))[0]
            curves = {**run.curves, "lr": rates, "val_loss": losses}
            settings = dict(planner.__dict__)
            scores = {"final_val_loss": float(losses[-1])}
            seed = sum(one.settings == settings for one in records)
            records.append(RunRecord("tune", planner.name, settings, seed, "finished", scores=scores, curves=curves))
    chosen = tuner.select(task, 0, records, tmp_path)
    under_laws = [run for run in records if run.planner == "multi-power-law"]
    assert len({str(run.settings) for run in under_laws}) == 4  # a quarter of the runs
    assert isinstance(chosen, MultiPowerLaw)
    assert chosen.__dict__ in [run.settings for run in under_laws]
    best_swept = min(run.scores["final_val_loss"] for run in records if run.planner == "wsd")
    assert min(run.scores["final_val_loss"] for run in under_laws) < best_swept


def test_the_tuner_tells_how_far_its_laws_forecast(tmp_path):
    tuner, task = find_tuner("multi-power-law"), find_task("DigitsMLP")
    sweep = [WSD(peak=1.5 * 1.01**number, cooldown=0.3 + 0.05 * (number % 7)) for number in range(12)]
    runs = [record(planner, 20, budget=task.budget) for planner in sweep]
    told = tuner.tell(task, 0, runs)
    assert float(re.search(r"held-out ends to ([\d.]+) % of the loss", told)[1]) < 5  # the runs follow such a law
    assert "too few to hold some out" in tuner.tell(task, 0, runs[:4])


def test_where_most_runs_diverged_there_is_no_law_to_be_fitted():
    tuner, task = find_tuner("multi-power-law"), find_task("DigitsMLP")
    few = [replace(record(WSD(peak=0.1 * number), 20), diverged=number > 2) for number in (1, 2, 3, 4)]
    assert {planner.name for planner in tuner.propose(task, 0, few, 2)} == {"wsd"}


def test_a_schedule_of_wsd_that_is_better_keeps_the_name_of_the_planner(tmp_path):
    """`compare` tells planners by their names."""
    planner = MultiPowerLaw(0.3, warmup=0.05, cooldown=0.4)
    np.testing.assert_array_equal(planner.preview(50), WSD(0.3, warmup=0.05, cooldown=0.4).preview(50))
    runs = [
        replace(record, scores={"final_val_loss": 1.0 + number})
        for number, record in enumerate(
            simulated_record(WSD(0.1 + 0.01 * n, 0.1, 0.3), find_task("DigitsMLP"), 0) for n in range(6)
        )
    ]
    selected = find_tuner("multi-power-law").select(find_task("DigitsMLP"), 0, runs, tmp_path)
    assert selected == MultiPowerLaw(0.1, warmup=0.1, cooldown=0.3)
    with pytest.raises(UserError, match="warmup \\+ cooldown must be at most 1"):
        MultiPowerLaw(0.1, warmup=0.5, cooldown=0.6)
