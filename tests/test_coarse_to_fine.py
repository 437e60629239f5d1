"""The common tuner: what its runs are for, and what it selects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.planner import planner_settings
from lr_env.records.record import RunRecord
from lr_env.records.store import Store
from lr_env.registry import find_tuner, find_variants
from lr_env.rollout import not_made_before
from lr_env.runs.lab import Lab
from lr_env.studies.tuning_budget.study import TuningBudget
from lr_env.tasks import find_task
from planners.schedules import WSD, Constant
from planners.tuning.coarse_to_fine import CoarseToFine, selected, slot_of

TASK = find_task("DigitsMLP")


def record(planner, seed, end):
    diverged = not np.isfinite(end)
    scores = {} if diverged else {"final_val_loss": end}
    return RunRecord(
        "tune", planner.name, planner_settings(planner), seed, "finished", diverged=diverged, scores=scores
    )


def spend(tuner, runs, end, seed=0):
    """The records of a procedure whose runs end as `end(planner, seed)` says."""
    records = []
    while len(records) < runs:
        count = min(tuner.batch_size(len(records)), runs - len(records))
        seeds = [tuner.seed_index(number) for number in range(len(records), len(records) + count)]
        planned = not_made_before(tuner.propose(TASK, seed, records, count), seeds, records)
        records += [record(run.planner, run.seed, end(run.planner, run.seed)) for run in planned]
    return records


def test_half_of_the_runs_explore_a_quarter_refine_and_a_quarter_are_made_again():
    for runs in (8, 16, 32, 64):
        parts = [slot_of(run).part for run in range(runs)]
        assert [parts.count(part) for part in ("explore", "refine", "retest")] == [runs // 2, runs // 4, runs // 4]
    assert {slot_of(run).cycle for run in range(16, 32)} == {2}


def bowl(best):
    """Ends of runs with a known best peak and cool-down; luck is a small number of its own for each seed."""

    def end(planner, seed):
        luck = np.random.default_rng(seed).standard_normal()
        return 1 + np.log(planner.peak / best[0]) ** 2 + 4 * (planner.cooldown - best[1]) ** 2 + 0.01 * luck

    return end


def test_it_finds_a_known_optimum_and_comes_nearer_with_more_runs(tmp_path):
    tuner, found = find_tuner("coarse-to-fine:planner=wsd"), {}
    for runs in (8, 64):
        chosen = [tuner.select(TASK, seed, spend(tuner, runs, bowl((0.3, 0.6)), seed), tmp_path) for seed in range(8)]
        found[runs] = np.mean([np.log(one.peak / 0.3) ** 2 + 4 * (one.cooldown - 0.6) ** 2 for one in chosen])
    assert found[64] < 0.25 * found[8]
    assert found[64] < 0.02


def test_settings_that_are_made_again_get_the_same_further_seeds():
    records = spend(CoarseToFine(), 32, bowl((0.3, 0.6)))
    seeds: dict[float, list[int]] = {}
    for run in records:
        seeds.setdefault(run.settings["peak"], []).append(run.seed)
    again = [sorted(of) for of in seeds.values() if len(of) > 1]
    assert len(again) >= 2
    assert all(sorted(of) == list(range(len(of))) for of in seeds.values())


def test_luck_on_one_seed_does_not_choose():
    lucky, good = Constant(peak=0.1), Constant(peak=0.05)
    runs = [record(lucky, 0, 0.1), record(good, 0, 0.2), record(lucky, 1, 0.5), record(good, 1, 0.2)]
    assert selected([*runs, record(Constant(peak=0.2), 0, 0.15)]) == good  # the third was not made again


def test_a_better_setting_is_selected_before_it_was_made_again():
    """Where the next cycle finds one that luck does not explain: after 12 runs of 16, say."""
    poor, worse, found = Constant(peak=0.01), Constant(peak=0.02), Constant(peak=0.2)
    ends = {poor: (0.50, 0.52, 0.51), worse: (0.55, 0.56, 0.57)}
    runs = [record(planner, seed, end) for planner, of in ends.items() for seed, end in enumerate(of)]
    assert selected([*runs, record(found, 0, 0.2)]) == found
    assert selected([*runs, record(found, 0, 0.495)]) == poor  # which may be luck


def test_where_a_setting_diverged_on_a_seed_the_smaller_peak_within_a_standard_error_is_taken():
    edge, high, low = (Constant(peak=peak) for peak in (0.4, 0.2, 0.1))
    ends = {edge: (0.10, np.inf), high: (0.11, 0.19), low: (0.15, 0.16)}
    runs = [record(planner, seed, end) for planner, of in ends.items() for seed, end in enumerate(of)]
    assert selected(runs) == low  # 0.155 against 0.150, with a standard error of 0.04
    assert selected([run for run in runs if run.settings["peak"] != 0.4]) == high


@pytest.mark.parametrize("name", ["wsd", "power-cool", "constant", "one-cycle", "plrs", "step"])
def test_every_point_is_a_planner_and_is_found_again(name):
    tuner = CoarseToFine(planner=name)
    points = np.random.default_rng(0).random((20, 1 + len(tuner.space)))
    low, high = TASK.tuning_range
    for point in points:
        planner = tuner.at(point, TASK)
        assert planner.name == name
        assert low <= planner.peak <= high
        assert tuner.point_of(planner, TASK)[0] == pytest.approx(point[0])
        if tuner.space:
            np.testing.assert_allclose(tuner.point_of(planner, TASK), point, atol=1e-9)


def test_a_part_of_a_budget_is_the_beginning_of_a_larger_one():
    whole = spend(CoarseToFine(), 32, bowl((0.1, 0.5)))
    assert spend(CoarseToFine(), 11, bowl((0.1, 0.5))) == whole[:11]


def test_a_planner_without_a_peak_goes_through_its_candidates():
    """Those of latent-ode are settings of planning; those that end best are made again."""

    def end(planner, seed):
        return abs(planner.averaging_temperature - 4) + 0.1 * planner.plan_interval + 0.001 * seed

    tuner = CoarseToFine(planner="latent-ode", fixed=(("model", "FashionLeNet5"),))
    runs = spend(tuner, 16, end)
    assert len({str(run.settings) for run in runs}) == 12
    assert {run.settings["model"] for run in runs} == {"FashionLeNet5"}
    assert (selected(runs).averaging_temperature, selected(runs).plan_interval) == (4, 0.2)


def test_fixed_settings_are_not_searched():
    runs = spend(CoarseToFine(fixed=(("cooldown", 0.3),)), 16, bowl((0.1, 0.3)))
    assert {run.settings["cooldown"] for run in runs} == {0.3}
    assert len({run.settings["warmup"] for run in runs}) > 8


def test_bad_planners_are_told():
    with pytest.raises(UserError, match="planner 'wsd' has no setting 'cooldwn'"):
        CoarseToFine(fixed=(("cooldwn", 0.2),))
    with pytest.raises(UserError, match="wsd"):
        find_tuner("coarse-to-fine:planner=wsdd")
    assert replace(CoarseToFine(), planner="cosine").at(np.array([0.0]), TASK).name == "cosine"
    assert WSD.name == CoarseToFine().planner


def test_controls_of_a_sweep_are_the_best_run_and_the_mean_of_the_best_three(tmp_path):
    planners = [Constant(peak=0.1), Constant(peak=0.2), Constant(peak=0.4), Constant(peak=0.05), Constant(peak=0.3)]
    ends = [0.3, 0.1, 0.2, 0.9, np.inf]
    runs = [
        replace(record(planner, 0, end), curves={"lr": planner.preview(10)})
        for planner, end in zip(planners, ends, strict=True)
    ]
    again = replace(record(planners[1], 1, 0.15), curves={"lr": planners[1].preview(10)})
    found = find_variants("sweep")(planners[0], TASK, 0, [*runs, again], tmp_path)
    assert found["best run of {tuner}"] == planners[1]
    mean = found["mean of the best 3 runs of {tuner}"]
    np.testing.assert_allclose(mean.preview(10), np.cbrt(0.1 * 0.2 * 0.4))
    assert find_variants("sweep")(planners[0], TASK, 0, [runs[-1]], tmp_path) == {}


def test_controls_of_several_tuners_have_names_of_their_own(tmp_path):
    study = TuningBudget(("wsd", "coarse-to-fine:planner=constant"), (4,), 1, (0, 1), ("sweep",))
    task = replace(TASK, budget=20, segment=5, val_subset=100)
    curve = study.run(Lab(task, Store(tmp_path / "x.sqlite"), "x", Execution(backend="loop"), folder=tmp_path))
    assert {label.partition(" of ")[2] for label in curve.labels if label.startswith("best")} == set(study.tuners)
    assert len(curve.labels) == 6
