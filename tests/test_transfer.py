"""The model across tasks, what it believes of a task, and who plans and tunes with it; on tasks that are known."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from torch import nn

from lr_env.architecture import architecture_of
from lr_env.errors import UserError
from lr_env.planner import RunSpec
from planners.torch_scheduler import PlannerLR
from planners.transfer import descriptors
from planners.transfer.artifact import TRANSFER_MODELS, TransferModel
from planners.transfer.belief import Outlook
from planners.transfer.candidates import candidates
from planners.transfer.evaluation import best_on_average, choices
from planners.transfer.fit import Fitting, fit
from planners.transfer.grid import STEPS, at_ends, log_rates, mean_rates
from planners.transfer.knowledge import Knowledge, task_without_runs
from planners.transfer.planner import TransferredLatentODE, rests
from planners.transfer.runs import CEILING
from planners.transfer.spread import Errors, Posterior, Schedules, Spread, features
from tests.made_up_tasks import RANGE, SEGMENTS, facts_of, losses_of, made_up_task, with_runs

SPEC = RunSpec("made-up", 400, 10, RANGE, "SGD", 1, facts=facts_of(16))


@pytest.fixture(scope="session")
def tasks():
    return [made_up_task(number)[0] for number in range(36)]


@pytest.fixture(scope="session")
def model(tasks):
    fitting = Fitting(members=3, updates=400, tasks=8, runs=8)
    return TransferModel(fit(tasks, fitting), None, {"tasks": len(tasks)})


@pytest.fixture(scope="session")
def model_file(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("transfer") / "model.safetensors"
    model.save(file)
    return str(file)


def regret(schedule, critical):
    """Log loss of a schedule over the lowest of all that are considered."""
    considered = candidates(1.0, RANGE, SEGMENTS)
    ends = np.minimum(losses_of(considered.rates, critical)[:, -1], np.log(10) * np.exp(CEILING))
    end = min(losses_of(schedule.preview(SEGMENTS)[None], critical)[0, -1], np.log(10) * np.exp(CEILING))
    return np.log(end / ends.min())


def test_examples():
    assert not doctest.testmod(descriptors).failed


@pytest.mark.parametrize("segments", [7, STEPS, 50, 1000])
def test_schedules_are_read_as_their_mean_rates(segments):
    """A rate that grows linearly has the mean of its ends in each part, whatever the segments."""
    rates = (np.arange(segments) + 0.5) / segments
    fine = np.repeat(rates, 20 * 50)  # each part covers whole pieces of this
    expected = fine.reshape(STEPS, -1).mean(1)
    np.testing.assert_allclose(mean_rates(rates), expected, rtol=1e-9)
    np.testing.assert_allclose(np.exp(log_rates(rates[None], 0.5)[0]), expected / 0.5, rtol=1e-9)
    assert mean_rates(np.full(segments, 0.3)) == pytest.approx(0.3)
    line = at_ends((np.arange(segments) + 1.0) / segments)
    np.testing.assert_allclose(line[-1], 1.0)
    if segments >= STEPS:
        np.testing.assert_allclose(line, (np.arange(STEPS) + 1) / STEPS, atol=1e-9)


def test_what_was_not_measured_stays_unknown():
    losses = np.linspace(2, 1, 50)
    losses[30:] = np.nan
    assert np.isfinite(at_ends(losses)).sum() == 12


def test_before_the_first_run_it_chooses_better_than_what_is_best_on_average(model, tasks):
    """The rate that a task takes follows from its batch size by a factor of 8; what is hidden is a third in the log."""
    unseen = [made_up_task(number) for number in range(100, 120)]
    considered = candidates(1.0, RANGE, SEGMENTS)
    average = considered.schedules[
        best_on_average(log_rates(considered.rates, 1.0), [(t.log_rates, t.ends) for t in tasks])
    ]
    ours, simple = [], []
    for task, critical in unseen:
        known = task_without_runs(task.name, task.facts, None)
        ours.append(regret(Knowledge(model, known, RANGE, SEGMENTS).best, critical))
        simple.append(regret(average, critical))
    assert np.mean(ours) < 0.5 * np.mean(simple), (np.mean(ours), np.mean(simple))


def test_runs_of_a_task_teach_what_its_description_does_not_say(model):
    """One hidden factor decides; three runs of the task tell it."""
    regrets = []
    for hidden in (-0.8, 0.8):
        critical = 0.2 * np.exp(hidden)
        rates, of_task = np.empty((0, SEGMENTS)), []
        for count in range(5):
            knowledge = Knowledge(model, with_runs("odd", 16, critical, rates), RANGE, SEGMENTS)
            if count in (0, 4):
                of_task.append(regret(knowledge.best, critical))
            rates = np.concatenate([rates, [knowledge.next(1)[0].preview(SEGMENTS)]])
        regrets.append(of_task)
    before, after = np.mean(regrets, 0)
    assert after < 0.5 * before, regrets
    assert after < 0.05


def test_errors_are_the_gaussian_process_of_scikit_learn(tasks):
    task, new = tasks[0], tasks[1].log_rates
    spread = Spread(offset=0.0, amplitude=0.3, lengths=(2.0, 1.0, 5.0, 3.0), code=0.0, seed=0.1, noise=0.05, far=0.0)
    plain = lambda rates: Schedules(features(rates), np.zeros((1, 1, len(rates))))  # noqa: E731
    forecast = task.ends + 0.1 * np.sin(np.arange(len(task)))
    seeds = np.arange(len(task))  # each its own: what they have in common is noise
    ours = Posterior(spread, plain(task.log_rates), task.ends, forecast[None], seeds)
    kernel = ConstantKernel(0.3**2, "fixed") * RBF((2.0, 1.0, 5.0, 3.0), "fixed")
    theirs = GaussianProcessRegressor(kernel, alpha=0.05**2 + 0.1**2, optimizer=None)
    theirs.fit(features(task.log_rates), task.ends - forecast)
    mean, covariance = theirs.predict(features(new), return_cov=True)
    np.testing.assert_allclose(ours.mean(plain(new))[0], mean, atol=1e-8)
    np.testing.assert_allclose(ours.covariance(plain(new))[0], covariance, atol=1e-8)


def test_the_code_and_the_offset_are_a_linear_regression():
    """Slopes without anything else: the posterior of ridge regression; members count by how likely they find runs."""
    draws = np.random.default_rng(0)
    slopes, new = draws.normal(size=(2, 3, 9)), draws.normal(size=(2, 3, 4))
    errors = np.stack([0.5 * slopes[0].sum(0), draws.normal(size=9)]) + 0.01 * draws.normal(size=(2, 9))
    spread = Spread(offset=0.2, amplitude=1e-9, code=0.5, seed=0.3, noise=0.1, far=0.0)
    at, seeds = np.zeros((9, 4)), np.arange(9) // 4
    besides = 0.1**2 * np.eye(9) + 0.3**2 * (seeds[:, None] == seeds)  # generalised least squares
    ours = Posterior(spread, Schedules(at, slopes), np.zeros(9), -errors, seeds)
    likely = []
    for member in range(2):
        inputs = np.concatenate([0.5 * slopes[member].T, np.full((9, 1), 0.2)], 1)
        asked = np.concatenate([0.5 * new[member].T, np.full((4, 1), 0.2)], 1)
        precision = inputs.T @ np.linalg.solve(besides, inputs) + np.eye(4)
        mean = asked @ np.linalg.solve(precision, inputs.T @ np.linalg.solve(besides, errors[member]))
        schedules = Schedules(at[:4], new)
        np.testing.assert_allclose(ours.mean(schedules)[member], mean, atol=1e-8)
        expected = asked @ np.linalg.inv(precision) @ asked.T
        np.testing.assert_allclose(ours.covariance(schedules)[member], expected, atol=1e-8)
        likely.append(multivariate_normal.logpdf(errors[member], cov=inputs @ inputs.T + besides))
    assert ours.weights[1] / ours.weights[0] == pytest.approx(np.exp(likely[1] - likely[0]))
    assert ours.weights.sum() == pytest.approx(1.0)


def test_a_spread_is_found_again_from_errors_that_were_drawn_of_it():
    """Also where the luck of a run grows with how bad it is, and where seeds are shared."""
    draws = np.random.default_rng(0)
    true = Spread(offset=0.3, amplitude=0.2, lengths=(1.0, 0.7, 3.0, 3.0), code=0.5, seed=0.15, noise=0.05, far=0.2)
    found = []
    for _ in range(300):
        at, slopes = 0.8 * draws.normal(size=(20, 4)), 0.3 * draws.normal(size=(1, 3, 20))
        seeds, forecast = np.repeat(np.arange(5), 4), 0.5 * draws.random(20)
        schedules = Schedules(at, slopes)
        expected = forecast + draws.multivariate_normal(np.zeros(20), true.between(schedules, schedules)[0])
        besides = true.besides(expected - expected.min(), seeds)
        ends = expected + draws.multivariate_normal(np.zeros(20), besides)
        found.append(Errors(schedules, ends - forecast, ends, seeds))
    spread = Spread.of(found)
    for name in ("offset", "amplitude", "code", "seed", "far"):
        assert getattr(spread, name) == pytest.approx(getattr(true, name), rel=0.15), spread
    assert spread.noise == pytest.approx(true.noise, rel=0.4)  # what is believed of the best runs is a little too high
    assert spread.lengths[:2] == pytest.approx(true.lengths[:2], rel=0.2)


def test_a_lucky_run_is_not_believed():
    """One of thirty equal schedules is far better on its seed; what is believed of it is what is believed of all."""
    draws = np.random.default_rng(0)
    spread = Spread(offset=0.1, amplitude=0.1, lengths=(1.0, 1.0, 1.0, 1.0), code=0.0, seed=0.1, noise=0.05, far=0.2)
    schedules = Schedules(0.1 * draws.normal(size=(30, 4)), np.zeros((1, 1, 30)))
    ends = 0.05 * draws.normal(size=30)
    ends[7] -= 0.3
    posterior = Posterior(spread, schedules, ends, np.zeros((1, 30)), np.arange(30))
    assert np.ptp(posterior.believed) < 0.1


def test_regrets_and_gains_are_those_of_the_closed_form():
    """Two schedules whose ends differ by a normal number."""
    mean, deviation = 0.3, 0.5
    covariance = np.array([[[0.0, 0.0], [0.0, deviation**2]]])
    ends = [Outlook.of(np.array([[0.0, mean]]) + at, covariance, np.ones(1)) for at in (0.0, 5.0)]
    draws = np.sort(ends[0].ends[:, 1] - ends[0].ends[:, 0])
    np.testing.assert_allclose(draws, -(draws[::-1] - 2 * mean), atol=1e-9)  # in pairs of opposite ones
    assert draws.std() == pytest.approx(deviation, rel=0.4)
    for outlook in ends:
        assert outlook.gains(0)[1] == pytest.approx(np.maximum(0, -draws).mean())
        assert outlook.gains(0)[0] == 0
        assert outlook.regrets[0] == pytest.approx(np.minimum(np.maximum(0, -draws), 1).mean())
        assert outlook.regrets[1] == pytest.approx(np.minimum(np.maximum(0, draws), 1).mean())


def test_the_rest_of_a_run_is_changed_where_it_goes_wrong(model_file):
    """A task that takes eight times less rate than its description says."""
    critical = 0.2 / 8
    ends = {}
    for interval in (1.0, 0.2):
        planner = TransferredLatentODE(model_file, plan_interval=interval)
        state, rates = planner.start(SPEC, [0]), np.empty((1, 0))
        signals = {"step": np.array([0.0]), "val_loss": np.array([np.log(10)])}
        for segment in range(SEGMENTS):
            answer, state = planner.plan(state, signals)
            rates = np.concatenate([rates, answer[:, None]], 1)
            loss = losses_of(np.pad(rates, ((0, 0), (0, SEGMENTS - segment - 1))), critical * 4)[0, segment]
            signals = {"step": np.array([10.0 * (segment + 1)]), "val_loss": np.array([min(loss, 5.0)])}
        ends[interval] = rates
    assert not np.allclose(ends[1.0], ends[0.2])
    assert ends[0.2][0, -20:].mean() < ends[1.0][0, -20:].mean()


def test_rests_begin_as_the_run_began():
    rates = np.linspace(1, 2, 10)
    options = rests(rates, 4, np.full((8, 10), 0.5), 0.1)
    assert (options[:, :4] == rates[:4]).all()
    assert (options[0] == rates).all()
    assert (options >= 0.1).all()
    assert (options <= 2.0).all()  # no higher than what was planned
    assert (options[-1, 4:] == 0.5).all()


def test_runs_do_not_depend_on_their_company(model_file):
    planner = TransferredLatentODE(model_file)
    together, alone = planner.start(SPEC, [3, 4]), planner.start(SPEC, [4])
    for segment in range(20):
        losses = np.log(10) * np.array([0.95**segment, 0.9**segment])
        step = np.full(2, 10.0 * segment)
        both, together = planner.plan(together, {"step": step, "val_loss": losses})
        one, alone = planner.plan(alone, {"step": step[1:], "val_loss": losses[1:]})
        np.testing.assert_allclose(both[1], one[0], rtol=1e-6)


def test_a_file_has_the_whole_model_and_the_runs_of_a_task(model, model_file, tasks, tmp_path):
    again = TRANSFER_MODELS.find(model_file)
    assert again.fingerprint == model.fingerprint
    assert again.runs is None
    file = tmp_path / "with-runs.safetensors"
    model.with_runs(tasks[2], 123).save(file)
    loaded = TRANSFER_MODELS.find(str(file))
    assert loaded.about["child_steps"] == 123
    assert loaded.fingerprint != model.fingerprint
    for name in ("log_rates", "curves", "ends"):
        np.testing.assert_allclose(getattr(loaded.runs, name), getattr(tasks[2], name), rtol=1e-6)
    assert TransferredLatentODE(str(file)).pretraining_steps == 123
    one, other = (Knowledge(m, m.runs, RANGE, SEGMENTS).best for m in (loaded, model.with_runs(tasks[2], 123)))
    assert one == other


def test_the_same_seed_fits_the_same_model(tasks):
    fitting = Fitting(members=2, updates=3, tasks=4, runs=4)
    one, other = (fit(tasks[:12], fitting).model.state_dict() for _ in range(2))
    assert all((one[name] == other[name]).all() for name in one)
    third = fit(tasks[:12], replace(fitting, seed=1)).model.state_dict()
    assert any((one[name] != third[name]).any() for name in one)


@pytest.mark.parametrize("encoder", ["summary", "gcn", "summary+gcn"])
def test_networks_are_read(tasks, encoder):
    """Two networks: what a model says of a task depends on which of them it has; unknown ones are allowed."""
    with torch.random.fork_rng():
        networks = [nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 10)) for width in (4, 64)]
    graphs = [architecture_of(network, torch.zeros(1, 8)) for network in networks]
    known = [replace(task, architecture=graphs[place % 2]) for place, task in enumerate(tasks[:12])]
    fitted = fit(known, Fitting(members=2, updates=3, tasks=4, runs=4, encoder=encoder))
    contexts = fitted.context([replace(tasks[20], architecture=graph) for graph in (*graphs, None)])
    assert not torch.allclose(contexts[:, 0], contexts[:, 1])
    assert torch.isfinite(contexts).all()


def test_networks_that_are_not_told_do_not_matter(tasks):
    with torch.random.fork_rng():
        graph = architecture_of(nn.Linear(8, 10), torch.zeros(1, 8))
    known = [replace(task, architecture=graph) for task in tasks[:12]]
    fitted = fit(known, Fitting(members=2, updates=3, tasks=4, runs=4, encoder="none"))
    contexts = fitted.context([replace(tasks[20], architecture=one) for one in (graph, None)])
    assert torch.equal(contexts[:, 0], contexts[:, 1])


def test_choices_of_held_out_tasks_are_reported(model, tasks):
    report = choices(model.fitted, tasks)
    assert report.regrets["the model"].mean() < report.regrets["best on average of other tasks"].mean()
    assert "36 tasks held out" in report.text()


def test_what_it_cannot_do_is_said_in_one_line(model_file, tasks, tmp_path, model):
    planner = TransferredLatentODE(model_file)
    with pytest.raises(UserError, match="optimizer 'Lion': models across tasks know SGD, Adam, AdamW"):
        planner.start(replace(SPEC, optimizer="Lion"), [0])
    with pytest.raises(UserError, match="no schedule that is considered"):
        planner.start(replace(SPEC, lr_range=(50.0, 60.0)), [0])
    with pytest.raises(UserError, match="3 tasks: a model across tasks needs at least 10"):
        fit(tasks[:3])
    with pytest.raises(UserError, match="encoder 'gnc'"):
        fit(tasks[:12], Fitting(encoder="gnc"))
    file = tmp_path / "of-another.safetensors"
    model.with_runs(replace(tasks[0], facts={**tasks[0].facts, "batch_size": 77}), 1).save(file)
    with pytest.raises(UserError, match="knows runs with batch_size 77, not 16: tune for this task"):
        TransferredLatentODE(str(file)).start(SPEC, [0])
    json.dumps(planner.start(SPEC, [0])["facts"])


def test_where_the_classes_are_unknown_the_loss_of_the_untrained_network_stands_for_them(model_file):
    planner = TransferredLatentODE(model_file)
    rates = []
    for facts in (facts_of(16), {name: value for name, value in facts_of(16).items() if name != "classes"}):
        state, answers = planner.start(replace(SPEC, facts=facts), [0]), []
        for segment in range(20):
            loss = np.array([np.log(10) * 0.97**segment])
            answer, state = planner.plan(state, {"step": np.array([10.0 * segment]), "val_loss": loss})
            answers.append(answer[0])
        rates.append(answers)
    assert rates[0] == pytest.approx(rates[1])


def test_it_tells_what_it_believed_at_each_plan(model_file):
    """The forecasts at the start are those of the members; what was chosen is what was played until the next plan."""
    planner = TransferredLatentODE(model_file)
    state, played = planner.start(SPEC, [0, 1]), []
    for segment in range(SEGMENTS):
        losses = np.log(10) * np.array([0.97**segment, 0.99**segment])
        rates, state = planner.plan(state, {"step": np.full(2, 10.0 * segment), "val_loss": losses})
        played.append(rates)
    for row in (0, 1):
        plans = planner.explain(state, row)
        assert [plan.segment for plan in plans] == [0, 8, 16, 24, 32]
        for plan, until in zip(plans, [8, 16, 24, 32, SEGMENTS], strict=True):
            told = plan.rates[0, : until - plan.segment]
            np.testing.assert_allclose(told, np.array(played)[plan.segment : until, row])
            assert plan.losses.shape == (3, len(plan.rates), len(plan.steps))
            assert plan.final_interval is not None
            assert plan.final_interval[0] < plan.final_interval[1]
    first = planner.explain(state)[0]
    at = log_rates(first.rates, 1.0)
    known = task_without_runs("", {**SPEC.facts, "optimizer": "SGD", "budget": 400}, None)
    fitted = TRANSFER_MODELS.find(model_file).fitted
    curves = fitted.curves(fitted.context([known]), at)
    np.testing.assert_allclose(first.losses, np.log(10) * np.exp(curves), rtol=1e-5)
    assert first.steps[-1] == 400


def test_a_run_unlike_those_that_were_fitted_to_is_told(model_file):
    planner = TransferredLatentODE(model_file)
    assert planner.caution(SPEC) == ""
    assert planner.caution(replace(SPEC, facts={**SPEC.facts, "batch_size": 66})) == ""  # hardly above 64
    large = replace(SPEC, facts={**SPEC.facts, "batch_size": 4096})
    assert "so that it guesses: batch size 4096 (" in planner.caution(large)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with pytest.warns(UserWarning, match="latent-ode-transfer': beyond .* batch size 4096"):
        PlannerLR(optimizer, planner, budget=400, facts=large.facts)
