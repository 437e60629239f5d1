"""What a model is fitted to: runs with holes and of unequal length, windows of them, designs, baselines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lr_env.errors import UserError
from planners.latent_ode.channels import CHANNELS, LOSS
from planners.latent_ode.data.batches import TensorDataset
from planners.latent_ode.data.dataset import CENSOR_SHARE, MIN_WEIGHT, run_dataset, run_weights
from planners.latent_ode.data.scaling import scales_of
from planners.latent_ode.data.schedule_library import TIMES, schedule_library
from planners.latent_ode.filtering.innovations import INNOVATION_CLIP, innovation_features
from planners.latent_ode.fitting.baselines import EXPONENTS, last_value, nearest_run, power_law, quality
from planners.latent_ode.fitting.fit import Fitting, continuation_loss, fit
from planners.latent_ode.model.dynamics import Ensemble, Sizes
from planners.latent_ode.sweep.designs import DESIGNS, wsd_schedules
from planners.latent_ode.sweep.sweep import Sweep, seed_number
from tests import quadratic
from tests.quadratic import SEGMENT, STEPS


@pytest.fixture(scope="module")
def records():
    return quadratic.records(wsd_schedules(12, (0.02, 0.8), 0))


def changed(record, **curves):
    return replace(
        record, curves={**record.curves, **{name: np.asarray(of, dtype=np.float64) for name, of in curves.items()}}
    )


def test_channels_and_ends(records):
    runs = run_dataset(records, STEPS)
    assert runs.values.shape == (12, 40, len(CHANNELS))
    np.testing.assert_allclose(np.exp(runs.values[3, :, LOSS]), records[3].curves["val_loss"])
    np.testing.assert_allclose(runs.values[3, :, 2], records[3].curves["val_accuracy"])
    np.testing.assert_allclose(np.exp(runs.final), [record.scores["final_val_loss"] for record in records])
    np.testing.assert_allclose(runs.cumulative[3, -1], SEGMENT * records[3].curves["lr"].sum())


def test_runs_that_diverge_at_once_are_kept_and_fitted_to(records):
    """They may leave too few others for the first round of a sweep, and tell that their rates were too high."""
    at_once = [replace(changed(r, val_loss=[np.nan] * 40), diverged=True, scores={}) for r in records[:2]]
    runs = run_dataset([*at_once, *records[2:]], STEPS)
    assert runs.lengths[:3].tolist() == [1, 1, 40]
    assert runs.weights[:2].tolist() == [MIN_WEIGHT] * 2
    assert np.isfinite(runs.censoring_threshold)
    fitted = fit(runs, Fitting(sizes=Sizes(members=2), dynamics=5, corrections=5))
    assert all(bool(torch.isfinite(weight).all()) for weight in fitted.model.parameters())
    with pytest.raises(UserError, match="13 members need as many runs, and there are 12"):
        fit(runs, Fitting(sizes=Sizes(members=13)))


def test_missing_values_short_runs_and_runs_that_diverged(records):
    loss = records[0].curves["val_loss"].copy()
    loss[1::2] = np.nan
    short = {name: curve[:25] for name, curve in records[1].curves.items()}
    wild = records[2].curves["val_loss"].copy()
    wild[10:] = np.inf
    without = {name: curve for name, curve in records[3].curves.items() if name != "val_accuracy"}
    runs = run_dataset(
        [
            changed(records[0], val_loss=loss),
            replace(records[1], curves=short, scores={}),
            replace(changed(records[2], val_loss=wild), diverged=True),
            replace(records[3], curves=without),
            *records[4:],
        ],
        STEPS,
    )
    assert runs.lengths[:4].tolist() == [40, 25, 10, 40]
    assert np.isnan(runs.final[[1, 2]]).all()
    assert runs.diverged.tolist() == [False, False, True, *[False] * 9]
    assert runs.weights[2] == MIN_WEIGHT == runs.weights.min()
    assert np.isnan(runs.values[3, :, 2]).all()
    scales = scales_of(runs)
    table = TensorDataset(runs, scales)
    everyone = torch.arange(12)[None]
    batch = table.batch(everyone, torch.zeros_like(everyone), nodes=40)
    measured = torch.isfinite(batch.values[0, :, :, LOSS])
    assert measured[0, 1:].tolist() == [True, False] * 20
    assert measured[4:, 1:].all()
    assert not measured[:, 0].any()  # nothing is measured before the first step
    torch.testing.assert_close(batch.span[0, 1], torch.tensor(25 / 40))


def test_rates_between_nodes_are_means_of_the_rate(records):
    runs = run_dataset(records, STEPS)
    scales = scales_of(runs)
    table = TensorDataset(runs, scales)
    now = torch.full((1, 12), 7)
    batch = table.batch(torch.arange(12)[None], now, nodes=3)  # 33 points left, 11 a node
    rates = np.exp(batch.rates[0].numpy() + scales.log_rate)
    np.testing.assert_allclose(rates, runs.lr[:, 7:].reshape(12, 3, 11).mean(-1), rtol=1e-5)
    scaled = (runs.values - np.array(scales.means)) / np.array(scales.deviations)
    np.testing.assert_allclose(batch.values[0], scaled[:, [6, 17, 28, 39]], rtol=1e-4, atol=1e-5)


def test_a_missing_value_has_no_innovation():
    measured, forecast = torch.tensor([[1.5, torch.nan, 99.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    read = innovation_features(torch.tensor([0.25]), torch.tensor([-1.0]), measured, forecast)
    assert read.tolist() == [[0.25, -1.0, 0.5, 0.0, INNOVATION_CLIP]]


def test_weights_halve_near_the_best():
    """Losses fall by 2 in the log: near is a share of that, whatever the unit."""
    ends = np.array([0.0] * 10 + [2 * CENSOR_SHARE, 100.0, np.nan, 5.0])
    expected = [1] * 10 + [0.5, MIN_WEIGHT, MIN_WEIGHT, MIN_WEIGHT]
    for scale in (1.0, 0.1):
        weights = run_weights(scale * ends, np.full(14, 2.0) * scale, np.arange(14) == 13)
        np.testing.assert_allclose(weights, expected)
    assert (run_weights(ends, ends + 1, np.ones(14, dtype=bool)) == MIN_WEIGHT).all()
    one_lucky = np.array([-3.0] + [0.0] * 19)
    assert (run_weights(one_lucky, np.full(20, 2.0), one_lucky > 9) == 1).all()  # the others count as before


def test_ends_far_above_the_best_are_only_known_to_be_there(records):
    """And of runs that diverged: an optimistic forecast of them is an error, a pessimistic one is none."""
    ends = [record.scores["final_val_loss"] for record in records]
    worst = int(np.argmax(ends))
    runs = run_dataset(
        [
            replace(r, diverged=n == 3, scores={"final_val_loss": end})
            for n, (r, end) in enumerate(
                zip(records, [1e3 if n == worst else end for n, end in enumerate(ends)], strict=True)
            )
        ],
        STEPS,
    )
    table = TensorDataset(runs, scales_of(runs))
    assert set(np.flatnonzero(table.censored)) == {3, worst} | set(
        np.flatnonzero(runs.final > runs.censoring_threshold)
    )
    assert len(set(table.final[table.censored].tolist())) == 1
    rows = torch.tensor([[worst]])
    batch, model = table.batch(rows, torch.zeros_like(rows), 16), Ensemble(Sizes(members=1))
    start, apart = model.initial_state(1), []
    with torch.no_grad():
        level = batch.final[0, 0] - model.final_loss(model.solve(start, batch.rates, batch.span))
        for above in (5.0, -5.0, -6.0):
            model.final_bias.copy_(level + above)
            counted, not_counted = (
                continuation_loss(model, start, batch, Fitting(end_weight=weight)) for weight in (1.0, 0.0)
            )
            apart.append(float(counted - not_counted))
    np.testing.assert_allclose(apart, [0.0, 25.0, 36.0], rtol=1e-3, atol=1e-4)


def test_seeds_of_a_sweep():
    """Four seeds in turns, five runs each, then four others; none goes with every second or fourth run."""
    numbers = [seed_number("adaptive", run) for run in range(100)]
    for block in range(5):
        assert sorted(numbers[20 * block : 20 * block + 20]) == sorted(5 * list(range(4 * block, 4 * block + 4)))
    for every in (2, 4):
        for first in range(every):
            assert len({number % 4 for number in numbers[first::every]}) == 4


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda records: records[:9], "9 usable runs .* a model needs at least 10"),
        (
            lambda records: [changed(records[0], lr=np.zeros(40)), *records[1:]],
            "no learning rate at some of its points",
        ),
        (lambda records: [changed(records[0], val_loss=np.full(40, np.nan)), *records[1:]], "has no validation loss"),
        (
            lambda records: [changed(r, step=2 * r.curves["step"]) for r in records],
            "has 800 steps, and the task's budget is 400: give that of the runs",
        ),
        (
            lambda records: [replace(changed(r, val_loss=[1, *[np.inf] * 39]), diverged=True) for r in records],
            "12 usable runs of 12, of which 0 did not diverge: .* 5 that did not diverge",
        ),
        (lambda records: [changed(records[0], val_loss=np.ones(39)), *records[1:]], "has curves of different lengths"),
        (lambda records: [changed(records[0], step=np.ones(40)), *records[1:]], "steps that are missing or do not"),
        (lambda records: [changed(r, step=[*r.curves["step"][:-1], np.nan]) for r in records], "steps that are miss"),
    ],
)
def test_runs_that_cannot_be_used(records, spoil, words):
    with pytest.raises(UserError, match=words):
        run_dataset(spoil(records), STEPS)


def test_a_library_has_each_schedule_once_and_none_that_diverged(records):
    twice = [*records, replace(records[0], seed=99, scores={"final_val_loss": 1.0})]
    spoiled = [replace(r, diverged=r.seed == 5) for r in twice]
    library = schedule_library(run_dataset(spoiled, STEPS))
    assert len(library.names) == 11
    np.testing.assert_allclose(library.final_losses[0], np.log(records[0].scores["final_val_loss"]) / 2)
    np.testing.assert_allclose(library.log_losses[0, -1], np.log(records[0].curves["val_loss"][-1]))
    at = np.interp(TIMES, np.arange(1, 41) / 40, np.log(records[0].curves["lr"]))
    np.testing.assert_allclose(library.log_rates[0], at)
    assert library.ranking[0] == np.argmin(library.final_losses) == library.best_parametric


@pytest.mark.parametrize("name", DESIGNS)
def test_designs(name):
    """As many runs as are asked for, each with a seed, repeatable, within their rates, and not all alike."""
    seeds = list(range(40))
    make = DESIGNS[name]
    runs, again, other = (make(40, (0.01, 0.3), seeds, seed) for seed in (0, 0, 1))
    assert len(runs) == 40
    assert runs == again
    assert (runs != other) == (name != "paper")
    peaks = np.array([run.planner.preview(100).max() for run in runs])
    assert 0.0099 < peaks.min() < 0.02
    assert 0.2 < peaks.max() < 0.301
    assert len({run.planner for run in runs}) == (20 if name == "paper" else 40)


def test_the_papers_design_is_four_schedules_at_five_rates_on_five_seeds():
    runs = DESIGNS["paper"](100, (0.01, 0.3), Sweep("paper", 100, (0.01, 0.3)).seeds, 0)
    assert {run.planner.name for run in runs} == {"cosine", "one-cycle", "constant", "step"}
    assert len({(run.planner, run.seed) for run in runs}) == 100
    assert len({run.planner for run in runs}) == 20
    assert len({run.seed for run in runs}) == 5


def test_baselines_forecast_what_they_should(records):
    runs = run_dataset(records, STEPS)
    scales = scales_of(runs)
    np.testing.assert_array_equal(last_value(runs, runs, scales, 0.5), runs.values[:, 19, LOSS])
    np.testing.assert_allclose(nearest_run(runs, runs, scales, 0.5), runs.final)  # itself
    steps = np.arange(1, 41) * SEGMENT / STEPS
    law = [changed(r, val_loss=0.1 * (1 + number) + 0.3 * steps ** -EXPONENTS[25]) for number, r in enumerate(records)]
    forecast = np.exp(power_law(run_dataset(law, STEPS), runs, scales, 0.3))
    np.testing.assert_allclose(forecast, 0.1 * np.arange(1, 13) + 0.3, rtol=1e-6)


def test_quality_of_forecasts():
    result = quality(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.1, 1.9, 4.0, 5.0]))
    assert (result.runs, result.rank) == (3, pytest.approx(1.0))
    assert result.error == pytest.approx(np.sqrt((0.01 + 0.01 + 1) / 3))
    assert np.isnan(quality(np.ones(3), np.arange(3.0)).rank)
    assert quality(np.array([np.nan]), np.ones(1)).runs == 0
