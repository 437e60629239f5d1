"""Populations: who is copied, what is selected, and the bandit of PB2 against an independent Gaussian process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

from lr_env.children import Children, Execution
from lr_env.errors import UserError
from lr_env.records.store import Store
from lr_env.registry import find_tuner
from lr_env.rollout import rollout
from lr_env.runs.lab import Lab
from lr_env.studies.tuning_budget.study import TuningBudget
from lr_env.tasks import find_task
from planners.piecewise import Knots
from planners.schedules import Constant
from planners.tuning.bandit import TimeVaryingBandit, covariance

TASK = replace(find_task("DigitsMLP"), budget=200, segment=5, val_subset=100)
TRAINING = Execution(backend="stacked")


def trained(name, folder, members=8, seed=0):
    execution = Execution(backend="loop")
    return find_tuner(name).train(TASK, seed, list(range(members)), execution, folder)


@pytest.mark.parametrize("name", ["pbt", "pb2"])
def test_the_schedule_of_a_population_is_found_again_and_is_kept(name, tmp_path):
    schedule = trained(name, tmp_path)
    assert isinstance(schedule, Knots)
    rates = schedule.preview(TASK.num_segments)
    low, high = TASK.tuning_range
    assert low * 0.999 <= rates.min() <= rates.max() <= high * 1.001
    (tmp_path / "again").mkdir()
    assert trained(name, tmp_path / "again") == schedule
    assert trained(name, tmp_path) == schedule  # from the file
    assert trained(name, tmp_path / "again", seed=1) != schedule


def test_the_worst_go_on_from_copies_of_the_best_at_other_rates(tmp_path, monkeypatch):
    copies, rates = [], []
    fork, train = Children.fork, Children.train
    monkeypatch.setattr(
        Children, "fork", lambda self, sources, targets: copies.append((self.measure()["val_loss"], sources, targets))
        or fork(self, sources, targets),
    )  # fmt: skip
    monkeypatch.setattr(Children, "train", lambda self, lr: rates.append(np.array(lr)) or train(self, lr))
    schedule = trained("pbt", tmp_path)
    assert len(copies) == 19 * 2  # a quarter of eight, before every turn but the first
    for losses, (source,), (target,) in copies:
        assert losses[source] <= np.median(losses) <= losses[target] + 1e-12
    assert len(rates) == TASK.num_segments
    changed = [step for step in range(1, len(rates)) if (rates[step] != rates[step - 1]).any()]
    assert set(changed) <= set(range(2, 40, 2))  # a rate may be changed to what it was
    assert len(changed) > 10
    ratios = schedule.preview(40)[1:] / schedule.preview(40)[:-1]
    assert 0.8 - 1e-9 <= ratios.min() <= ratios.max() <= 1.25 + 1e-9  # less where a bound of the range is met


def test_a_population_beats_a_rate_that_is_too_low_and_one_that_is_too_high(tmp_path):
    """Its schedule, on seeds that it has not seen."""
    schedule, execution = trained("pbt", tmp_path, members=12), Execution(backend="loop")
    ends = [
        np.mean([run.end("final_val_loss") for run in rollout(planner, TASK, [100, 101, 102], execution=execution)])
        for planner in (schedule, *(Constant(peak=rate) for rate in TASK.tuning_range))
    ]
    assert ends[0] < min(ends[1:])


def test_the_bandit_is_a_gaussian_process():
    """Without forgetting, against scikit-learn's."""
    random = np.random.default_rng(0)
    points = random.random((30, 1))
    rewards = np.sin(6 * points[:, 0]) + 0.3 * random.standard_normal(30)
    bandit = TimeVaryingBandit(np.zeros(30), points, rewards)
    kernel = RBF(bandit.length, "fixed") + WhiteKernel(bandit.noise, "fixed")
    truth = GaussianProcessRegressor(kernel, optimizer=None)
    truth.fit(points, (rewards - rewards.mean()) / rewards.std())
    at = np.linspace(0, 1, 7)[:, None]
    means, deviations = truth.predict(at, return_std=True)
    ours = bandit.posterior(0.0, at)
    np.testing.assert_allclose(ours[0], means, rtol=1e-8)
    np.testing.assert_allclose(ours[1] ** 2 + bandit.noise, deviations**2, rtol=1e-8)
    same = covariance(np.array([3.0]), at[:1], np.array([1.0]), at[:1], 0.1, 0.19)
    assert same.item() == pytest.approx(0.81)


def test_the_bandit_finds_what_pays_and_forgets_what_no_longer_does():
    random = np.random.default_rng(1)
    times, points = np.repeat(np.arange(8.0), 12), random.random((96, 1))
    best = np.where(times < 4, 0.2, 0.8)
    rewards = -((points[:, 0] - best) ** 2) + 0.01 * random.standard_normal(96)
    bandit = TimeVaryingBandit(times, points, rewards)
    assert bandit.forgetting > 0
    chosen = bandit.choose(8.0, 5, random)
    assert np.abs(chosen[0, 0] - 0.8) < 0.15
    assert len(np.unique(chosen)) == 5  # those that are not known yet count as tried


def test_a_population_is_a_tuner_of_the_study(tmp_path):
    task = replace(TASK, budget=100, segment=5)
    study = TuningBudget(("pbt", "wsd"), (4, 6), 2, (0, 1), ())
    lab = Lab(task, Store(tmp_path / "x.sqlite"), "x", Execution(backend="loop"), folder=tmp_path)
    curve = study.run(lab)
    assert {answer.planner.name for answer in curve.answers if answer.label == "pbt"} == {"knots"}
    assert len({answer.planner for answer in curve.answers if answer.label == "pbt"}) == 4
    assert study.run(lab).to_json() == curve.to_json()


def test_populations_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="3 runs of tuner 'pb2': a population has at least 4 members"):
        TuningBudget(("pb2",), (3,), 1, (0,))
    with pytest.raises(UserError, match="tuner 'pbt' trains its runs by itself"):
        find_tuner("pbt").propose(TASK, 0, [], 1)
