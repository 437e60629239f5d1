"""Off the path: what disturbances do to planners, by arithmetic, and the study from tuning to report."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.optimizers import SGD, Adam
from lr_env.planner import RunSpec
from lr_env.records.store import Store
from lr_env.report.markdown import table_text
from lr_env.rollout import PlannedRun, rollout
from lr_env.runs.lab import Lab
from lr_env.studies.robustness.conditions import CONDITIONS, wider
from lr_env.studies.robustness.perturbed import Disturbed, Noisy, disturbed
from lr_env.studies.robustness.report import TUNED
from lr_env.studies.robustness.study import Robustness
from lr_env.studies.robustness.tracked import Tracked, tracked
from lr_env.tasks import find_task
from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.planner import LatentODE
from planners.schedules import Constant, Cosine
from tests.test_cli import lr_env

TASK = replace(find_task("DigitsMLP"), budget=40, segment=5, val_subset=100)
RUN = RunSpec("a task", 400, 10, (1e-4, 1.0), "SGD", 1)


def played(planner, run):
    state, rates = planner.start(run, [0, 1]), []
    for segment in range(run.num_segments):
        answer, state = planner.plan(state, {"step": np.full(2, 10 * segment)})
        rates.append(answer)
    return np.stack(rates, 1)


def test_rates_are_off_for_a_while():
    plain = Cosine(0.5).preview(40)
    low = played(Disturbed(Cosine(0.5), "cosine", factor=0.2, until=0.2), RUN)
    np.testing.assert_allclose(low[1], np.r_[0.2 * plain[:8], plain[8:]])
    high = played(Disturbed(Cosine(0.5), "cosine", factor=3.0, until=0.2), RUN)
    np.testing.assert_allclose(high[0, :8], 1.0)  # no higher than may be set


def test_a_tracked_planner_makes_up_for_what_happens_to_its_rates():
    """Off by 3 in the first fifth: the first rate is wrong, and, as what is asked for then changes, the ninth."""
    plain = Cosine(0.3).preview(40)
    inside = Tracked(Cosine(0.3), "cosine")
    state, used = inside.start(RUN, [0]), []
    for segment in range(40):
        signals = {"step": np.array([10 * segment]), "lr": np.array([used[-1] if used else np.nan])}
        (asked,), state = inside.plan(state, signals)
        used.append(asked * (0.4 if segment < 8 else 1.0))
    np.testing.assert_allclose(np.delete(used, [0, 8]), np.delete(plain, [0, 8]), rtol=1e-9)
    assert used[0] == pytest.approx(0.4 * plain[0])
    assert used[8] == pytest.approx(plain[8] / 0.4)
    assert tracked(LatentODE()) is None  # which does so by itself


def test_rates_with_noise_have_it_from_their_seed_and_step():
    rates = played(Noisy(Constant(0.1), "constant", 0.5), RUN)
    assert (rates[0] != rates[1]).all()
    np.testing.assert_array_equal(rates, played(Noisy(Constant(0.1), "constant", 0.5), RUN))
    logs = np.log(rates / 0.1).ravel()
    assert abs(logs.mean()) < 0.2
    assert 0.4 < logs.std() < 0.6
    assert played(Noisy(Constant(0.9), "constant", 0.5), RUN).max() == 1.0  # no higher than may be set


@pytest.mark.parametrize(("left", "every"), [(0.5, 2), (2.0, 0.5)])
def test_a_schedule_goes_through_the_rest_in_the_steps_that_are_left(left, every):
    run = replace(RUN, budget=200 + round(200 * left))
    rates = played(Disturbed(Cosine(0.5), "cosine", announced=400), run)[0]
    plain = Cosine(0.5).preview(40)
    np.testing.assert_allclose(rates[:20], plain[:20])
    np.testing.assert_allclose(rates[20:], plain[20 + np.floor(np.arange(round(20 * left)) * every).astype(int)])


def test_a_planner_that_can_is_told_of_the_new_budget():
    class Told(Constant):
        def with_budget(self, state, run):
            return {**state, "rates": np.full(run.num_segments, 0.01 * run.num_segments)}

    rates = played(Disturbed(Told(0.5), "told", announced=400), replace(RUN, budget=300))
    np.testing.assert_allclose(rates[0], [0.5] * 20 + [0.3] * 10)
    with pytest.raises(UserError, match="has no middle"):
        Disturbed(Constant(0.5), "constant", announced=700).start(replace(RUN, budget=300), [0])


def test_the_latent_ode_planner_plans_anew_what_is_left():
    """Its shipped model under a budget that is halved at the middle: what then comes is a plan of what is left."""
    task = find_task("DigitsMLP")
    planner = LatentODE(plan_interval=1.0)
    spec = RunSpec(task.name, task.budget, task.segment, task.lr_range, "SGD", 1)
    shorter = replace(spec, budget=task.budget * 3 // 4)

    def rates(planner, run):
        state, played_rates = planner.start(run, [0]), []
        for segment in range(run.num_segments):
            signals = {"step": np.full(1, 1.0 * segment * run.segment), "lr": np.array(played_rates[-1:] or [np.nan])}
            answer, state = planner.plan(state, signals | dict.fromkeys(CHANNELS, np.full(1, 0.5)))
            played_rates.append(float(answer[0]))
        return np.array(played_rates)

    whole, played_rates = rates(planner, spec), rates(Disturbed(planner, "latent-ode", announced=task.budget), shorter)
    half = spec.num_segments // 2
    np.testing.assert_array_equal(played_rates[:half], whole[:half])
    assert len(played_rates) == spec.num_segments * 3 // 4
    assert not np.allclose(played_rates[half:], whole[half::2], rtol=0.05)
    assert played_rates[-1] < 0.2 * played_rates[half]  # it cools down in what is left


def test_records_tell_disturbed_planners_apart():
    one, other = (Disturbed(Constant(0.1), "constant", factor=factor, until=0.5) for factor in (2.0, 3.0))
    runs = [
        rollout(planner, TASK, [0], score=("val",), execution=Execution(backend="loop"))[0]
        for planner in (one, other, Constant(0.1))
    ]
    assert {run.planner for run in runs} == {"constant"}
    assert len({json.dumps(dict(run.settings)) for run in runs}) == 3
    assert PlannedRun(one, 0).settings["planner"] == {"peak": 0.1}
    assert disturbed(Constant(0.1), {}) == Constant(0.1)


def test_conditions_change_what_they_say():
    resultd = {name: condition.vary(TASK) for name, condition in CONDITIONS.items()}
    assert (resultd["half is left"].budget, resultd["twice is left"].budget) == (30, 60)
    assert resultd["quarter data"].train_fraction == 0.25
    assert resultd["wrong labels"].label_noise == 0.2
    assert resultd["large batch"].batch_size == 4 * TASK.batch_size
    assert resultd["wider"].network.hidden == tuple(2 * width for width in TASK.network.hidden)
    assert wider(find_task("FashionResNet8")).network.width == 2 * find_task("FashionResNet8").network.width
    with pytest.raises(UserError, match="FashionLeNet5: its network has no width"):
        wider(find_task("FashionLeNet5"))
    with pytest.raises(UserError, match="no middle that can be halved"):
        CONDITIONS["half is left"].vary(replace(TASK, budget=30))


def test_a_study_from_tuning_to_report(tmp_path):
    study = Robustness(("wsd",), 3, 8, (0, 1, 2), ("high start", "half is left", "large batch"))
    store = Store(tmp_path / "r.sqlite")
    result = study.run(Lab(TASK, store, "x", Execution(backend="loop"), folder=tmp_path))
    assert list(result.losses) == [TUNED, "high start", "half is left", "large batch"]
    (planner,) = result.planners.values()
    for condition in ("high start", "half is left"):
        settings = CONDITIONS[condition].disturbance(TASK)
        varied = CONDITIONS[condition].vary(TASK)
        runs = rollout(disturbed(planner, settings), varied, [0, 1, 2], execution=Execution(backend="loop"))
        np.testing.assert_allclose(
            result.losses[condition]["wsd"], [run.scores["test_loss"] for run in runs], rtol=1e-4
        )
    means = [
        np.mean(result.losses[c]["wsd"] - result.oracles[c][1]) for c in ("high start", "half is left", "large batch")
    ]
    assert result.mean_regret("wsd").value == pytest.approx(np.mean(means))
    assert result.regret(TUNED, "wsd").value == 0
    for condition in ("high start", "large batch"):  # six of the eight were run again, and the best of them is it
        first, more = ({}, {})
        for phase, ends in (("oracle", first), ("oracle-again", more)):
            for run in store.runs(f"x-{condition.replace(' ', '-')}", phase):
                ends.setdefault(json.dumps(dict(run.settings), sort_keys=True), []).append(run.end("final_val_loss"))
        assert set(more) == set(sorted(first, key=lambda name: np.mean(first[name]))[:6])
        best = min(more, key=lambda name: np.mean(more[name]))
        chosen = PlannedRun(result.oracles[condition][0], 0).settings
        assert json.dumps(dict(chosen), sort_keys=True) == best
    again = study.run(Lab(TASK, store, "x", Execution(backend="loop"), folder=tmp_path))
    assert again.to_json() == result.to_json()
    result.write(tmp_path, {"command": "lr-env robustness"})
    assert "| mean | as tuned | high start |" in (tmp_path / "summary.md").read_text()
    assert json.loads((tmp_path / "conditions.json").read_text())["seeds"] == [0, 1, 2]
    losses = {c: dict(of) for c, of in result.losses.items()}
    losses["high start"]["wsd"] = np.array([0.5, np.inf, np.inf])
    row = table_text(replace(result, losses=losses).table()).splitlines()[-1]
    assert row.startswith("| wsd | some diverged | ")
    assert row.split(" | ")[3] == "2 of 3 diverged"
    oracles = {**result.oracles, "high start": (planner, np.array([0.5, np.inf, 0.5]))}
    for own in (losses["high start"]["wsd"], np.array([0.5, 0.5, 0.5])):
        losses["high start"]["wsd"] = own
        diverging = replace(result, losses=losses, oracles=oracles)
        json.dumps(diverging.to_json())
        assert "| some diverged |" in table_text(diverging.table())
    assert "| 1 of 3 of the tuned one diverged |" in table_text(diverging.table())


def test_a_tracked_planner_is_one_more_of_the_study(tmp_path):
    study = Robustness(("wsd",), 3, 6, (0, 1), ("half start", "noisy rates", "less momentum"), track=True)
    lab = Lab(TASK, Store(tmp_path / "r.sqlite"), "x", Execution(backend="loop"), folder=tmp_path)
    result = study.run(lab)
    assert list(result.planners) == ["wsd", "wsd, tracked"]
    wsd, tracking = (np.array([losses[name] for losses in result.losses.values()]) for name in result.planners)
    assert (wsd == tracking).all(1).tolist() == [
        True,
        False,
        False,
        True,
    ]  # where rates are as asked it changes nothing
    planner = Tracked(result.planners["wsd"], "wsd")
    runs = rollout(disturbed(planner, {"factor": 0.5, "until": 0.2}), TASK, [0, 1], execution=Execution(backend="loop"))
    np.testing.assert_allclose(tracking[1], [run.scores["test_loss"] for run in runs], rtol=1e-4)


def test_conditions_that_no_planner_was_developed_under():
    task = CONDITIONS["less momentum"].vary(TASK)
    assert task.optimizer.momentum == pytest.approx(0.8)
    assert CONDITIONS["less momentum"].vary(replace(TASK, optimizer=Adam())).optimizer.betas == pytest.approx(
        (0.8, 0.999)
    )
    assert CONDITIONS["more weight decay"].vary(TASK).optimizer.weight_decay == 1e-3
    assert CONDITIONS["more weight decay"].vary(task).optimizer.momentum == task.optimizer.momentum
    with pytest.raises(UserError, match="its optimizer has no momentum"):
        CONDITIONS["less momentum"].vary(replace(TASK, optimizer=SGD(momentum=0.0)))


def test_bad_conditions(tmp_path):
    with pytest.raises(UserError, match="unknown condition 'low strat'; did you mean 'low start'"):
        Robustness(("wsd",), 10, 10, (0,), ("low strat",))
    with pytest.raises(UserError, match="give at least 6"):
        Robustness(("wsd",), 10, 5, (0,))
    with pytest.raises(UserError, match="seed 7 is given twice"):
        Robustness(("wsd",), 10, 10, (7, 7))
    with pytest.raises(UserError, match="below 1,000,000"):
        Robustness(("wsd",), 10, 10, (4_000_000,))
    done = lr_env("robustness", "FashionLeNet5", "--tuners", "nobody", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "unknown tuner 'nobody'" in done.stderr
    names, left_out = Robustness(("wsd",)).names(find_task("FashionLeNet5"))
    assert "low start" in names
    assert left_out["wider"].startswith("FashionLeNet5: its network has no width")
