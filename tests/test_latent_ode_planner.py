"""The planner: better than cosine where the optimum is known, the same alone and in company, resumed, refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from lr_env.errors import UserError
from lr_env.explained import explained
from lr_env.planner import RunSpec
from lr_env.rollout import rollout
from lr_env.tasks import find_task
from planners.latent_ode.controls import MeanOfBest
from planners.latent_ode.fit import Fitting, predicted_final
from planners.latent_ode.following import Response, Seen, response_of, seen, state_now
from planners.latent_ode.model import Sizes
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.planning import Left, problem
from planners.latent_ode.search import BEGINNINGS, GRID, Search, blended, interpolation, search
from planners.latent_ode.series import CHANNELS, series
from planners.latent_ode.shapes import SETTINGS
from planners.latent_ode.trained import Trained, shipped_models
from planners.latent_ode.training import near_best, trained_on
from planners.latent_ode.windows import Table, past
from planners.schedules import WSD, Cosine
from planners.space import sobol
from tests import quadratic
from tests.quadratic import SPEC, STEPS


@pytest.fixture(scope="module")
def made():
    """Runs of the quadratic, and a model that was fitted to them."""
    runs = series(quadratic.sweep(), quadratic.STEPS)
    fitting = Fitting(sizes=Sizes(members=3), dynamics=800, corrections=150)
    return runs, *trained_on(runs, fitting, {"task": SPEC.task, "child_steps": 60 * quadratic.STEPS})


@pytest.fixture(scope="module")
def known(made):
    """The runs, and what there is to know of the fit."""
    return made[0], made[2]


@pytest.fixture(scope="module")
def path(made, tmp_path_factory):
    """The model's file."""
    file = tmp_path_factory.mktemp("models") / "quadratic.safetensors"
    made[1].save(file)
    return file


def played(planner, seeds=(0,), state=None, first=0, signals=None, let_in=quadratic.S, factor=lambda segment: 1.0):
    """Rates (runs, segments) and true ends under a planner, with the states before each segment."""
    state = planner.start(SPEC, seeds) if state is None else state
    count = len(seeds)
    signals = signals or {name: np.full(count, np.nan) for name in ("lr", *CHANNELS)} | {"step": np.zeros(count)}
    rates, before = [], []
    for segment in range(first, SPEC.num_segments):
        before.append((pickle.loads(pickle.dumps(state)), dict(signals)))
        answer, state = planner.plan(state, signals)
        answer = answer * factor(segment)
        rates.append(answer)
        losses, ends = quadratic.trained(np.stack(rates, 1), 0.02, seeds, let_in) if first == 0 else (None, None)
        if losses is not None:
            signals = {
                "step": np.full(count, float((segment + 1) * SPEC.segment)),
                "lr": answer,
                "train_loss": losses[:, -1],
                "val_loss": losses[:, -1],
                "val_accuracy": 1 / (1 + losses[:, -1]),
            }
    return np.stack(rates, 1), ends, before, state


def best_of(family, rates):
    _, ends = quadratic.trained([family(rate).preview(SPEC.num_segments) for rate in rates], 0.0, range(len(rates)))
    return ends.min()


def test_known_dynamics_are_recovered(known):
    """The excess loss of a quadratic, whose log is the state: ends of runs that were held out, from any time on."""
    runs, fitted = known
    table = Table(runs, fitted.scales)
    foreseen = predicted_final(fitted.model, table, np.array([0.0, 0.2, 0.5]), fitted.fold)
    foreseen, final = np.minimum(foreseen, runs.limit), np.minimum(runs.final, runs.limit)  # above it, it is all one
    errors = np.sqrt(np.mean((foreseen - final) ** 2, axis=1))
    assert (errors < 0.45 * final.std()).all(), (errors, final.std())
    assert min(np.corrcoef(row, final)[0, 1] for row in foreseen) > 0.9


def test_its_regret_to_the_known_optimum_is_below_that_of_tuned_cosine(path):
    """And of tuned WSD; both are tuned on 40 noiseless runs, the planner is fitted to 60 noisy ones."""
    grid = np.geomspace(0.02, 0.8, 40)
    regrets = [best_of(family, grid) - quadratic.optimum() for family in (Cosine, WSD)]
    _, ends, _, _ = played(LatentODE(model=str(path)), seeds=range(4))
    assert ends.mean() - quadratic.optimum() < min(regrets), (ends, regrets, quadratic.optimum())


def test_runs_do_not_depend_on_their_company(path):
    planner = LatentODE(model=str(path))
    together, *_ = played(planner, seeds=(3, 5, 8))
    alone, *_ = played(planner, seeds=(5,))
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-3)


def test_a_state_is_all_that_a_run_needs_to_go_on(path):
    planner = LatentODE(model=str(path))
    rates, _, before, _ = played(planner, seeds=(1, 2))
    for segment in (0, 3, 4, 5, 20):
        state, signals = before[segment]
        answer, _ = planner.plan(state, signals)
        assert (answer == rates[:, segment]).all()


def test_plans_are_made_when_they_should_be_and_explained(path):
    planner = LatentODE(model=str(path), lead=0.25, every=0.25, until=0.75)
    rates, ends, _, state = played(planner, seeds=(1, 2))
    told = planner.explain(state, run=1)
    assert [belief.segment for belief in told] == list(planner.plans_at(SPEC.num_segments)) == [10, 20, 30]
    for belief, until in zip(told, (20, 30, 40), strict=True):
        np.testing.assert_array_equal(belief.rates[0, : until - belief.segment], rates[1, belief.segment : until])
        assert belief.losses.shape == (3, len(belief.rates), len(belief.steps))
        assert (belief.steps[0], belief.steps[-1]) == (belief.segment * SPEC.segment, quadratic.STEPS)
    np.testing.assert_allclose(told[-1].losses[:, 0, -1].mean(), ends[1], rtol=0.2)  # what then happened


def test_ends_lie_where_they_are_said_to(path, made):
    """Of held-out runs as it plays them; a model that does not know what it errs by says nothing."""
    runs, trained, fitted = made
    planner = LatentODE(model=str(path), every=0.25)
    _, ends, _, state = played(planner, seeds=range(10))
    beliefs = [planner.explain(state, run)[0] for run in range(10)]
    assert all(low < end < high for (low, high), end in zip((one.end for one in beliefs), ends, strict=True))
    low, high = beliefs[0].end
    error = np.sqrt(np.mean((fitted.foreseen[0] - runs.final)[near_best(runs)] ** 2))
    assert 2 * 1.645 * error <= np.log(high / low) < 2.5 * 2 * 1.645 * error
    silent = Trained(trained.model, trained.scales, trained.repertoire, {"task": SPEC.task})
    silent.save(path.parent / "silent.safetensors")
    planner = LatentODE(model=str(path.parent / "silent.safetensors"))
    *_, state = played(planner)
    assert planner.explain(state)[0].end is None
    # Nor where a run is like none that it knows.
    *_, state = played(LatentODE(model=str(path), adapt=None), let_in=20 * quadratic.S)
    known = [belief.end is not None for belief in planner.explain(state)]
    assert known[0]
    assert not any(known[2:])
    assert planner.explain(state)[-1].note == "its losses are nowhere near what was foreseen"


def test_until_the_first_plan_the_best_schedule_of_the_sweep_is_played(path):
    planner = LatentODE(model=str(path), lead=0.5)
    rates, *_ = played(planner)
    repertoire = planner.trained.repertoire
    lead = np.exp(
        np.interp((np.arange(20) + 0.5) / 40, np.linspace(0, 1, 41), repertoire.log_rates[repertoire.best_family])
    )
    np.testing.assert_allclose(rates[0, :20], lead)
    named = [end for end, name in zip(repertoire.ends, repertoire.names, strict=True) if name != "knots"]
    assert repertoire.ends[repertoire.best_family] == min(named)


def test_plans_stay_where_the_sweep_has_been(path):
    trusting, free = (LatentODE(model=str(path), trust=trust, pessimism=0.0, blend=0.0) for trust in (0.0, None))
    repertoire = trusting.trained.repertoire.trusted
    times = np.linspace(0, 1, repertoire.shape[1])
    for planner, inside in ((trusting, True), (free, False)):
        rates, *_ = played(planner)
        mid = (np.arange(SPEC.num_segments) + 0.5) / SPEC.num_segments
        low, high = (np.exp(np.interp(mid, times, edge)) for edge in (repertoire.min(0), repertoire.max(0)))
        assert ((rates[0] >= low * 0.95) & (rates[0] <= high * 1.05)).all() == inside  # they are read off a grid


def test_a_search_is_no_worse_than_what_it_begins_from_and_gradients_help(path):
    trained = LatentODE(model=str(path)).trained
    what, family = problem(
        trained, trained.model.beginning(2).detach(), Left(0.0, 1.0, SPEC.lr_range), 0.5, Response.usual(3, 2)
    )
    begun = family(sobol(BEGINNINGS, SETTINGS, 0)).expand(2, -1, -1)
    lowest = what.scores(what.clamp(begun), 1.0).min(1).values
    scores = []
    for settings in (Search(rounds=0), Search(), Search(rounds=0, free=4), Search(rounds=0, ascents=20)):
        plans = search(what, family, torch.empty(2, 0, GRID), settings, [[0], [1]])
        found = what.scores(plans, 1.0)
        assert (found.diff(dim=1) >= 0).all()
        scores.append(found[:, 0].detach())
    torch.testing.assert_close(scores[0], lowest, rtol=1e-4, atol=1e-5)
    for better in scores[1:]:
        assert (better <= scores[0]).all()
        assert (better < scores[0]).any(), scores
    better = search(what, family, plans[:, :1], Search(rounds=0), [[0], [0]])
    torch.testing.assert_close(better[:, 0], plans[:, 0])  # what is known is not lost


def test_a_blended_search_puts_the_mean_before_the_best_that_it_is_of(path):
    trained = LatentODE(model=str(path)).trained
    what, family = problem(
        trained, trained.model.beginning(2).detach(), Left(0.0, 1.0, SPEC.lr_range), 0.0, Response.usual(3, 2)
    )
    begun = what.clamp(family(sobol(BEGINNINGS, SETTINGS, 0)).expand(2, -1, -1))
    settings = Search(pessimism=2.0, blend=1.0, elites=4)
    plans = search(what, family, torch.empty(2, 0, GRID), settings, [[0], [1]])
    assert plans.shape == (2, 4, GRID)
    torch.testing.assert_close(plans[:, :1], blended(begun, what.ends(begun), 1.0))
    best = what.scores(begun, 2.0).sort(1)
    torch.testing.assert_close(plans[:, 1:], begun.gather(1, best.indices[:, :3, None].expand(-1, -1, GRID)))


def test_a_blend_weighs_plans_by_their_regret():
    """Plans that are nearly as good count nearly as much, by how far the members differ about the good ones."""
    level = torch.tensor([[0.0, 1.0, 3.0, *[50.0] * 13]])  # of 16 plans an eighth, two, are the good ones
    apart = torch.zeros(3, 1, 16)
    apart[:, 0, 0] = torch.tensor([-1.0, 0.0, 1.0])  # the second moves the other way once means are taken off
    plans = torch.arange(16.0)[None, :, None].expand(1, 16, GRID)
    for temper in (0.5, 2.0):
        weights = np.exp(-level[0].numpy() / (temper * 0.5))
        mean = blended(plans, level + apart, temper)
        np.testing.assert_allclose(mean, np.full((1, 1, GRID), weights @ np.arange(16) / weights.sum()), rtol=1e-4)
    agreed = blended(plans, level.expand(3, 1, 16), 2.0)
    torch.testing.assert_close(agreed, plans[:, :1])  # members that agree leave the best alone


def test_interpolation_between_knots_is_numpys():
    values, at = np.random.default_rng(0).normal(size=5), np.linspace(0, 1, 17)
    found = torch.tensor(values, dtype=torch.float32) @ interpolation(5, torch.tensor(at))
    np.testing.assert_allclose(found, np.interp(at, np.linspace(0, 1, 5), values), atol=1e-6)


def test_mean_rates_of_solver_steps(path):
    """A plan's rates in the solver's steps have the integral of the rate, not of its log."""
    trained = LatentODE(model=str(path)).trained
    what, _ = problem(
        trained, trained.model.beginning(1).detach(), Left(0.0, 1.0, SPEC.lr_range), 0.0, Response.usual(3, 1)
    )
    plan = torch.linspace(0, -3, GRID)[None, None]
    mean = what.rates(plan).exp().mean().item()
    np.testing.assert_allclose(mean, (1 - np.exp(-3)) / 3, rtol=1e-3)


def test_plans_are_anchored_to_the_sweep_unless_the_models_are_sure(path):
    """Of the quadratic they know better than its best runs; where they could not be sure, these are what is played."""
    count = float(len(Trained.load(path).repertoire.names))
    plain, usual, bound, half = (
        played(LatentODE(model=str(path), every=1.0, anchor=anchor, sure=sure))[0]
        for anchor, sure in ((0.0, 2.0), (20.0, 2.0), (1e9, 1e9), (count, 1e9))
    )
    np.testing.assert_array_equal(usual, plain)
    of_the_best, *_ = played(MeanOfBest(model=str(path)))
    np.testing.assert_allclose(bound[:, :-1], of_the_best[:, :-1], rtol=0.03)  # by way of a coarser grid
    np.testing.assert_allclose(half, np.sqrt(plain * bound), rtol=1e-4)


def test_later_plans_are_played_where_the_models_are_sure(path):
    """Never, where they would have to be surer than they can be; a new budget is planned for all the same."""
    once, stubborn, willing = (
        LatentODE(model=str(path), every=every, sure=sure, until=0.8)
        for every, sure in ((1.0, 1e9), (0.25, 1e9), (0.25, 0.0))
    )
    (first, *_), (same, _, before, state), (changed, *_) = (played(planner) for planner in (once, stubborn, willing))
    np.testing.assert_array_equal(same, first)
    assert not np.array_equal(changed, first)
    assert [belief.segment for belief in stubborn.explain(state)] == [0, 10, 20, 30]
    for belief in stubborn.explain(state):
        np.testing.assert_array_equal(belief.rates[0], first[0, belief.segment :])
    state, signals = before[20]
    shorter = replace(SPEC, budget=STEPS // 4 * 3)
    _, state = stubborn.plan(stubborn.rebudgeted(state, shorter), signals)
    assert state["rates"].shape[1] == 30
    assert not np.array_equal(state["rates"][:, 20:], first[:, 20:30])


def test_runs_are_followed_as_they_are_in_a_fit(known):
    """Where they are after 0 to all of their points, against the same a segment at a time."""
    runs, fitted = known
    table, usual = Table(runs, fitted.scales), Response.usual(3, len(runs))
    rows = torch.arange(len(runs)).expand(3, -1)
    for now in (1, 7, 25):
        points = [
            np.stack([runs.lr[:, at], runs.steps[:, at], *np.exp(runs.values[:, at, :2].T), runs.values[:, at, 2]])
            for at in range(now)
        ]
        read = seen(points, fitted.scales, SPEC.lr_range, SPEC.segment, STEPS)
        there = past(fitted.model, table).seen(rows, torch.full_like(rows, now))
        with torch.no_grad():
            expected = fitted.model.corrected(*there)
            found, _ = state_now(fitted.model, read, usual)
            wrong = fitted.model.read(found[:, :, None]) - fitted.model.read(expected[:, :, None])
        if now < 20:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert wrong.square().mean().sqrt() < 0.02  # by fewer steps


def test_runs_that_answer_otherwise_are_told(known):
    """Runs of the quadratic, of which every second one lets in a tenth of the noise, as larger batches would."""
    model, scales = known[1].model, known[1].scales
    low, now = torch.arange(8) % 2 == 1, 20
    rates = np.tile(WSD(peak=0.4).preview(40)[:now], (8, 1))
    losses, _ = quadratic.trained(rates, 0.02, range(8), np.where(low, quadratic.S / 10, quadratic.S))

    def told(losses):
        points = [
            np.stack([rates[:, at], np.full(8, (at + 1) * SPEC.segment), *[losses[:, at]] * 2, 1 / (1 + true[:, at])])
            for at in range(now)
        ]
        read = seen(points, scales, SPEC.lr_range, SPEC.segment, STEPS)
        return read, response_of(model, read, 0.7, 2.0)

    true = losses
    read, found = told(losses)
    assert not torch.stack([found.noise, found.pace])[..., ~low].any()
    noise = found.noise[:, low].mean(0)  # the prior, and what else the model has learned, take it for less
    assert ((noise < -0.8) & (noise > np.log(0.1) - 0.2)).all(), noise
    one = slice(1, 2)
    alone = response_of(model, Seen(read.rates[one], read.times[one], read.values[one], read.span), 0.7, 2.0)
    torch.testing.assert_close(alone.noise[:, 0], found.noise[:, 1], rtol=1e-3, atol=1e-3)
    # Of runs whose losses alone are otherwise, it is not the answer to the rate that is told.
    _, found = told(losses * np.where(low, 4.0, 1.0)[:, None])
    assert not found.noise.any()


def test_plans_allow_for_how_a_run_answers(path):
    """Where a rate does all that one twice as large does, plans end as twice the rates would in the sweep."""
    trained = Trained.load(path)
    state = trained.ensemble.beginning(2)
    halved = torch.full((3, 2), float(np.log(2.0)))
    ours = Response(halved, halved).where(torch.tensor([True, False]))
    left = Left(0.0, 1.0, SPEC.lr_range)
    (usual, _), (found, family) = (problem(trained, state, left, 0.0, of) for of in (Response.usual(3, 2), ours))
    plans = usual.low[:, None] + torch.linspace(0, 1, 5)[:, None] * (usual.high - usual.low)[:, None]
    twice = plans + ours.noise.mean(0)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(found.ends(plans), usual.ends(twice), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.low[0], usual.low[0] - np.log(2.0))
    torch.testing.assert_close(found.high, usual.high)
    torch.testing.assert_close(found.low[1], usual.low[1])
    peaks = family(np.full((2, SETTINGS), [[0.0], [1.0]])).amax(-1)
    torch.testing.assert_close(peaks[0] - peaks[1], torch.tensor([-np.log(2.0), 0.0], dtype=torch.float32))


def test_runs_that_answer_as_usual_are_planned_as_if_no_one_looked(path):
    """And those that do not, otherwise, and it says so."""
    blind, planner = (LatentODE(model=str(path), adapt=adapt) for adapt in (None, 0.7))
    (expected, *_), (rates, _, _, state) = (played(one, range(4)) for one in (blind, planner))
    np.testing.assert_array_equal(rates, expected)
    assert not any(belief.note for belief in planner.explain(state, run=3))
    (before, *_), (after, _, _, state) = (played(one, let_in=quadratic.S / 10) for one in (blind, planner))
    assert np.abs(np.log(after / before)).max() > 0.1
    notes = [belief.note for belief in planner.explain(state)]
    assert any(note.startswith("its rates let in 0.") for note in notes), notes


def test_rates_that_are_not_played_as_answered_are_made_up_for(path):
    """Three times as large for a fifth of the run: all but the first segment, and the first after, are as planned."""
    planner, heedless = (LatentODE(model=str(path), every=1.0, track=track) for track in (True, False))
    plain, *_ = played(planner)
    rates, *_ = played(planner, factor=lambda segment: 3.0 if segment < 8 else 1.0)
    factors = np.ones(SPEC.num_segments)
    factors[[0, 8]] = 3.0, 1 / 3
    np.testing.assert_allclose(rates[0] / plain[0], factors, rtol=1e-6)
    rates, *_ = played(heedless, factor=lambda segment: 3.0 if segment < 8 else 1.0)
    np.testing.assert_allclose(rates[0, :8] / plain[0, :8], 3.0, rtol=1e-6)
    np.testing.assert_array_equal(played(heedless)[0], plain)


def test_what_was_not_foreseen_changes_plans(path):
    planner = LatentODE(model=str(path), every=0.25, sure=0.0, adapt=None)
    _, _, before, _ = played(planner)
    state, signals = before[10]
    plans = []
    for surprise in (0.0, 1.0):
        points = [point * np.exp([[0], [0], [surprise], [surprise], [0]]) for point in state["points"]]
        _, after = planner.plan({**state, "points": points}, signals)
        plans.append(after["rates"][0, 10:])
    assert np.abs(np.log(plans[0] / plans[1])).max() > 0.01


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reuse": "maybe"}, "reuse must be one of no, steps, rescaled"),
        ({"rounds": -1}, "rounds must be a whole number from 0"),
        ({"track": "maybe"}, "track must be true or false"),
        ({"lead": -0.1}, "lead must be a number from 0 to 1"),
        ({"trust": -1}, "trust must be"),
        ({"model": "nobody"}, r"there is no model 'nobody' \(shipped: "),
        ({"model": 5}, "give the name of a model"),
        ({"model": "nowhere.safetensors"}, "there is no model 'nowhere.safetensors': fit one with `lr-env fit`"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(UserError, match=words):
        LatentODE(**settings).start(SPEC, [0])


def test_a_model_of_another_task_is_refused_unless_it_is_wanted(path):
    other = RunSpec("another", 800, 10, SPEC.lr_range, "SGD", 1)
    with pytest.raises(
        UserError, match="was fitted to quadratic with 400 steps of SGD, not to another with 800 of SGD"
    ):
        LatentODE(model=str(path)).start(other, [0])
    units = [LatentODE(model=str(path), reuse=reuse).start(other, [0])["unit"] for reuse in ("steps", "rescaled")]
    assert units == [400, 800]


def test_a_model_that_changes_in_the_middle_of_a_run(path, tmp_path):
    trained = Trained.load(path)
    file = tmp_path / "model.safetensors"
    trained.save(file)
    assert Trained.load(file).fingerprint == trained.fingerprint
    planner = LatentODE(model=str(file))
    assert planner.prior_steps == 60 * quadratic.STEPS
    state = planner.start(SPEC, [0])
    with torch.no_grad():
        trained.model.start.add_(0.1)
    changed = Trained(trained.model, trained.scales, trained.repertoire, trained.about)
    changed.save(file)
    signals = {name: np.ones(1) for name in ("lr", *CHANNELS)} | {"step": np.array([80.0])}
    with pytest.raises(UserError, match="is not the one that this run began with"):
        planner.plan(state, signals)


@pytest.mark.parametrize("damage", ["truncated", "nan", "scales", "repertoire", "sizes", "text"])
def test_damaged_models(path, tmp_path, damage):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["model"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    target = tmp_path / "model.safetensors"
    if damage == "nan":
        tensors["model.start"] = np.full_like(tensors["model.start"], np.nan)
    elif damage == "scales":
        header["scales"]["deviations"] = [0, 1, 1]
    elif damage == "repertoire":
        tensors["repertoire.ends"] = tensors["repertoire.ends"][:3]
    elif damage == "sizes":
        header["sizes"]["members"] = 2
    save_file(tensors, target, metadata={"model": json.dumps(header)})
    if damage == "truncated":
        target.write_bytes(target.read_bytes()[:-100])
    elif damage == "text":
        target.write_text("no model")
    with pytest.raises(UserError, match=r"^model .*model.safetensors.* cannot be read .*damaged, fit it anew$"):
        Trained.load(target)


def test_settings_of_a_sweep_are_as_many_as_rates():
    for count in (1, 12, 40):
        offered = LatentODE.candidates([0.1] * count)
        assert len(set(offered)) == count
        assert offered[0] == LatentODE()


def test_beliefs_are_drawn_beside_what_came(path, tmp_path):
    """A run of a real task under a model of another one: what was played is what the plans say."""
    task = replace(find_task("DigitsMLP"), budget=200, segment=10, val_subset=100)
    planner = LatentODE(model=str(path), reuse="rescaled", lead=0.2, every=0.4)
    found = explained(planner, task, 3)
    assert [belief.segment for belief in found.beliefs] == [4, 12]
    for belief, until in zip(found.beliefs, (12, 20), strict=True):
        played = found.lr[belief.segment : until]
        np.testing.assert_allclose(played, belief.rates[0, : until - belief.segment])
    (run,) = rollout(planner, task, [3], score=("val",), backend="loop")
    assert run.planner == "latent-ode"
    assert len(found.val_loss) == 20
    assert found.final_val_loss == pytest.approx(run.scores["final_val_loss"], rel=1e-5)
    found.draw(tmp_path / "explain.png")
    assert (tmp_path / "explain.png").stat().st_size > 20_000
    with pytest.raises(UserError, match="planner 'cosine' does not tell what it believes"):
        explained(Cosine(0.1), task, 0)


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_plan_for_their_tasks(name):
    task = find_task(name)
    settings = LatentODE.for_task(task)
    assert settings == {"model": name}
    assert LatentODE.for_task(replace(task, budget=2 * task.budget)) is None
    run = RunSpec(name, task.budget, task.segment, task.lr_range, type(task.optimizer).__name__, 1)
    planner = LatentODE(**settings, lead=0.01, every=1.0)
    state, (low, high) = planner.start(run, [0]), task.tuning_range
    signals = {channel: np.full(1, np.nan) for channel in ("lr", *CHANNELS)} | {"step": np.zeros(1)}
    for segment in range(2):
        lr, state = planner.plan(state, signals)
        signals = {"step": np.full(1, (segment + 1.0) * task.segment), "lr": lr, "train_loss": np.full(1, 2.0)}
        signals |= {"val_loss": np.full(1, 2.0), "val_accuracy": np.full(1, 0.2)}
    (belief,) = planner.explain(state)
    assert low < belief.rates[0].max() < high
    assert belief.rates[0, -1] < 0.3 * belief.rates[0].max()  # they have all learned to cool down
    assert 0.7 * 40 * task.budget < planner.prior_steps <= 40 * task.budget  # less where runs diverged
