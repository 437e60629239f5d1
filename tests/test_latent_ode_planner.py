"""The planner: better than cosine where the optimum is known, the same alone and in company, resumed, refused."""

from __future__ import annotations

import doctest
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.files import OPEN_SEAL, write_sealed
from lr_env.planner import RunSpec
from lr_env.rollout import Rollout, rollout
from lr_env.studies.beliefs import explained
from lr_env.tasks import find_task
from planners.latent_ode import base
from planners.latent_ode.artifact import MODELS, FittedModel
from planners.latent_ode.base import ModelBasedPlanner
from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.controls import CONTROLS, MeanOfBest
from planners.latent_ode.data import rate_curve
from planners.latent_ode.data.batches import TensorDataset
from planners.latent_ode.fitting.fit import forecast_final_losses
from planners.latent_ode.generative.planner import LatentODEGenerative
from planners.latent_ode.planner import LatentODE
from planners.schedules import WSD, Cosine
from tests import quadratic
from tests.quadratic import SPEC, STEPS, played


def best_of(family, rates):
    _, ends = quadratic.trained([family(rate).preview(SPEC.num_segments) for rate in rates], 0.0, range(len(rates)))
    return ends.min()


def test_known_dynamics_are_recovered(quadratic_made):
    """The excess loss of a quadratic, whose log is the state: ends of runs that were held out, from any time on."""
    runs, _, fitted = quadratic_made
    table = TensorDataset(runs, fitted.scales)
    forecast = forecast_final_losses(fitted.model, table, np.array([0.0, 0.2, 0.5]), fitted.held_out_member)
    forecast, final = (
        np.minimum(forecast, runs.censoring_threshold),
        np.minimum(runs.final, runs.censoring_threshold),
    )  # above it, it is all one
    errors = np.sqrt(np.mean((forecast - final) ** 2, axis=1))
    assert (errors < 0.45 * final.std()).all(), (errors, final.std())
    assert min(np.corrcoef(row, final)[0, 1] for row in forecast) > 0.9


def test_its_regret_to_the_known_optimum_is_below_that_of_tuned_cosine(quadratic_path):
    """And of tuned WSD; both are tuned on 40 noiseless runs, the planner is fitted to 60 noisy ones."""
    grid = np.geomspace(0.02, 0.8, 40)
    regrets = [best_of(family, grid) - quadratic.optimum() for family in (Cosine, WSD)]
    _, ends, _, _ = played(LatentODE(model=str(quadratic_path)), seeds=range(4))
    assert ends.mean() - quadratic.optimum() < min(regrets), (ends, regrets, quadratic.optimum())


def test_runs_do_not_depend_on_their_company(quadratic_path):
    planner = LatentODE(model=str(quadratic_path))
    together, *_ = played(planner, seeds=(3, 5, 8))
    alone, *_ = played(planner, seeds=(5,))
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-3)


def test_a_state_is_all_that_a_run_needs_to_go_on(quadratic_path):
    planner = LatentODE(model=str(quadratic_path))
    rates, _, before, _ = played(planner, seeds=(1, 2))
    for segment in (0, 3, 4, 5, 20):
        state, signals = before[segment]
        answer, _ = planner.plan(state, signals)
        assert (answer == rates[:, segment]).all()


def test_plans_are_made_when_they_should_be_and_explained(quadratic_path):
    planner = LatentODE(model=str(quadratic_path), first_plan=0.25, plan_interval=0.25, last_plan=0.75)
    rates, ends, _, state = played(planner, seeds=(1, 2))
    beliefs = planner.explain(state, row=1)
    assert [belief.segment for belief in beliefs] == list(planner.plans_at(SPEC.num_segments)) == [10, 20, 30]
    for belief, until in zip(beliefs, (20, 30, 40), strict=True):
        np.testing.assert_array_equal(belief.rates[0, : until - belief.segment], rates[1, belief.segment : until])
        assert belief.losses.shape == (3, len(belief.rates), len(belief.steps))
        assert (belief.steps[0], belief.steps[-1]) == (belief.segment * SPEC.segment, quadratic.STEPS)
    np.testing.assert_allclose(beliefs[-1].losses[:, 0, -1].mean(), ends[1], rtol=0.2)  # what then happened


def test_until_the_first_plan_the_best_schedule_of_the_sweep_is_played(quadratic_path):
    planner = LatentODE(model=str(quadratic_path), first_plan=0.5)
    rates, *_ = played(planner)
    library = planner.trained.library
    lead = np.exp(
        np.interp((np.arange(20) + 0.5) / 40, np.linspace(0, 1, 41), library.log_rates[library.best_parametric])
    )
    np.testing.assert_allclose(rates[0, :20], lead)
    named = [end for end, name in zip(library.final_losses, library.names, strict=True) if name != "knots"]
    assert library.final_losses[library.best_parametric] == min(named)


def test_plans_stay_where_the_sweep_has_been(quadratic_path):
    trusting, free = (
        LatentODE(model=str(quadratic_path), trust_radius=trust, pessimism=0.0, averaging_temperature=0.0)
        for trust in (0.0, None)
    )
    trusted = trusting.trained.library.trust_region.log_rates
    times = np.linspace(0, 1, trusted.shape[1])
    for planner, inside in ((trusting, True), (free, False)):
        rates, *_ = played(planner)
        mid = (np.arange(SPEC.num_segments) + 0.5) / SPEC.num_segments
        low, high = (np.exp(np.interp(mid, times, edge)) for edge in (trusted.min(0), trusted.max(0)))
        assert ((rates[0] >= low * 0.95) & (rates[0] <= high * 1.05)).all() == inside  # they are read off a grid


def test_plans_are_anchored_to_the_sweep_unless_the_models_are_sure(quadratic_path):
    """Of the quadratic they know better than its best runs; where they could not be sure, these are what is played."""
    count = float(len(FittedModel.load(quadratic_path).library.names))
    plain, usual, bound, half = (
        played(LatentODE(model=str(quadratic_path), plan_interval=1.0, prior_strength=anchor, confidence_sigmas=sure))[
            0
        ]
        for anchor, sure in ((0.0, 2.0), (20.0, 2.0), (1e9, 1e9), (count, 1e9))
    )
    np.testing.assert_array_equal(usual, plain)
    of_the_best, *_ = played(MeanOfBest(model=str(quadratic_path)))
    np.testing.assert_allclose(bound[:, :-1], of_the_best[:, :-1], rtol=0.03)  # by way of a coarser grid
    np.testing.assert_allclose(half, np.sqrt(plain * bound), rtol=1e-4)


def test_later_plans_are_played_where_the_models_are_sure(quadratic_path):
    """Never, where they would have to be surer than they can be; a new budget is planned for all the same."""
    once, stubborn, willing = (
        LatentODE(model=str(quadratic_path), plan_interval=every, confidence_sigmas=sure, last_plan=0.8)
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
    _, state = stubborn.plan(stubborn.with_budget(state, shorter), signals)
    assert state["rates"].shape[1] == 30
    assert not np.array_equal(state["rates"][:, 20:], first[:, 20:30])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mismatch": "maybe"}, "mismatch must be one of refuse, steps, rescaled"),
        ({"search_rounds": -1}, "search_rounds must be a whole number from 0"),
        ({"compensate_actuation": "maybe"}, "compensate_actuation must be true or false"),
        ({"first_plan": -0.1}, "first_plan must be a number from 0 to 1"),
        ({"trust_radius": -1}, "trust_radius must be"),
        ({"model": "nobody"}, r"there is no model 'nobody' \(shipped: "),
        ({"model": 5}, "give the name of a model"),
        ({"model": "nowhere.safetensors"}, "there is no model 'nowhere.safetensors': fit one with `lr-env fit`"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(UserError, match=words):
        LatentODE(**settings).start(SPEC, [0])


def test_a_model_of_another_task_is_refused_unless_it_is_wanted(quadratic_path):
    other = RunSpec("another", 800, 10, SPEC.lr_range, "SGD", 1)
    with pytest.raises(
        UserError, match="was fitted to quadratic with 400 steps of SGD, not to another with 800 of SGD"
    ):
        LatentODE(model=str(quadratic_path)).start(other, [0])
    units = [
        LatentODE(model=str(quadratic_path), mismatch=mismatch).start(other, [0])["unit"]
        for mismatch in ("steps", "rescaled")
    ]
    assert units == [400, 800]


def test_a_model_that_changes_in_the_middle_of_a_run(quadratic_path, tmp_path):
    trained = FittedModel.load(quadratic_path)
    file = tmp_path / "model.safetensors"
    trained.save(file)
    assert FittedModel.load(file).fingerprint == trained.fingerprint
    planner = LatentODE(model=str(file))
    assert planner.pretraining_steps == 60 * quadratic.STEPS
    state = planner.start(SPEC, [0])
    with torch.no_grad():
        trained.model.start.add_(0.1)
    changed = FittedModel(trained.model, trained.scales, trained.library, trained.about)
    changed.save(file)
    signals = {name: np.ones(1) for name in ("lr", *CHANNELS)} | {"step": np.array([80.0])}
    with pytest.raises(UserError, match="is not the one that this run began with"):
        planner.plan(state, signals)


@pytest.mark.parametrize("damage", ["truncated", "nan", "bit", "scales", "repertoire", "sizes", "text"])
def test_damaged_models(quadratic_path, tmp_path, damage):
    from safetensors import safe_open
    from safetensors.numpy import save

    with safe_open(quadratic_path, framework="np") as file:
        header = json.loads(file.metadata()["model"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    target = tmp_path / "model.safetensors"
    if damage == "nan":
        tensors["model.start"] = np.full_like(tensors["model.start"], np.nan)
    elif damage == "bit":
        tensors["model.start"].view(np.int32)[0, 0, 0] ^= 1 << 20
    elif damage == "scales":
        header["scales"]["deviations"] = [0, 1, 1]
    elif damage == "repertoire":
        tensors["repertoire.ends"] = tensors["repertoire.ends"][:3]
    elif damage == "sizes":
        header["sizes"]["members"] = 2
    write_sealed(target, save(tensors, {"model": json.dumps(header), "seal": OPEN_SEAL}))
    if damage == "truncated":
        target.write_bytes(target.read_bytes()[:-100])
    elif damage == "text":
        target.write_text("no model")
    with pytest.raises(UserError, match=r"^model .*model.safetensors.* cannot be read .*damaged, fit it anew$"):
        FittedModel.load(target)


def test_settings_under_their_earlier_names_are_those_of_today():
    """What is saved today stays as it is, and every earlier name has a setting of today."""
    earlier = {"model": "a", "reuse": "no", "horizon": 0.5, "blend": 5, "adapt": 7, "ascents": 12, "lead": 0.1}
    current = LatentODE.current_settings(earlier)
    assert current == LatentODE.current_settings(current)
    expected = {"model": "a", "mismatch": "refuse", "horizon": 0.5, "averaging_temperature": 5}
    assert current == expected | {"response_threshold": 7, "gradient_steps": 12, "first_plan": 0.1}
    for kind in (LatentODE, LatentODEGenerative, *CONTROLS):
        renamed = kind.current_settings(dict.fromkeys({**ModelBasedPlanner.renamed, **kind.renamed}))
        assert renamed.keys() <= {field.name for field in fields(kind)}
    assert MeanOfBest.current_settings({"reuse": "steps", "count": 2}) == {"mismatch": "steps", "count": 2}


@pytest.mark.parametrize("module", [base, rate_curve])
def test_examples_in_docstrings(module):
    done = doctest.testmod(module)
    assert (done.attempted > 0, done.failed) == (True, 0)


def test_settings_of_a_sweep_are_as_many_as_rates():
    for count in (1, 12, 40):
        offered = LatentODE.candidates([0.1] * count)
        assert len(set(offered)) == count
        assert offered[0] == LatentODE()


def _interrupted_at_segment(advance, segment):
    def interrupted(self):
        if self.segment == segment:
            raise KeyboardInterrupt
        return advance(self)

    return interrupted


def test_beliefs_are_drawn_beside_what_came(quadratic_path, tmp_path, monkeypatch):
    """A run of a real task under a model of another one: what was played is what the plans say."""
    task = replace(find_task("DigitsMLP"), budget=200, segment=10, val_subset=100)
    planner = LatentODE(model=str(quadratic_path), mismatch="rescaled", first_plan=0.2, plan_interval=0.4)
    explanation = explained(planner, task, 3)
    file = tmp_path / "explain.checkpoint"
    with monkeypatch.context() as patch:
        patch.setattr(Rollout, "advance", _interrupted_at_segment(Rollout.advance, 8))
        with pytest.raises(KeyboardInterrupt):
            explained(planner, task, 3, checkpoint=file, checkpoint_seconds=0)
    resumed = explained(planner, task, 3, checkpoint=file)
    np.testing.assert_array_equal(resumed.lr, explanation.lr)
    np.testing.assert_array_equal(resumed.val_loss, explanation.val_loss)
    for one, other in zip(resumed.beliefs, explanation.beliefs, strict=True):
        np.testing.assert_array_equal(one.losses, other.losses)
    assert not file.exists()
    assert [belief.segment for belief in explanation.beliefs] == [4, 12]
    for belief, until in zip(explanation.beliefs, (12, 20), strict=True):
        played = explanation.lr[belief.segment : until]
        np.testing.assert_allclose(played, belief.rates[0, : until - belief.segment])
    (run,) = rollout(planner, task, [3], score=("val",), execution=Execution(backend="loop"))
    assert run.planner == "latent-ode"
    assert len(explanation.val_loss) == 20
    assert explanation.final_val_loss == pytest.approx(run.scores["final_val_loss"], rel=1e-5)
    explanation.draw(tmp_path / "explain.png")
    assert (tmp_path / "explain.png").stat().st_size > 20_000
    with pytest.raises(UserError, match="planner 'cosine' does not tell what it believes"):
        explained(Cosine(0.1), task, 0)


@pytest.mark.parametrize("name", MODELS.shipped())
def test_shipped_models_plan_for_their_tasks(name):
    task = find_task(name)
    settings = LatentODE.for_task(task)
    assert settings == {"model": name}
    assert LatentODE.for_task(replace(task, budget=2 * task.budget)) is None
    run = RunSpec(name, task.budget, task.segment, task.lr_range, type(task.optimizer).__name__, 1)
    planner = LatentODE(**settings, first_plan=0.01, plan_interval=1.0)
    state, (low, high) = planner.start(run, [0]), task.tuning_range
    signals = {channel: np.full(1, np.nan) for channel in ("lr", *CHANNELS)} | {"step": np.zeros(1)}
    for segment in range(2):
        lr, state = planner.plan(state, signals)
        signals = {"step": np.full(1, (segment + 1.0) * task.segment), "lr": lr, "train_loss": np.full(1, 2.0)}
        signals |= {"val_loss": np.full(1, 2.0), "val_accuracy": np.full(1, 0.2)}
    (belief,) = planner.explain(state)
    assert low < belief.rates[0].max() < high
    assert belief.rates[0, -1] < 0.3 * belief.rates[0].max()  # they have all learned to cool down
    assert 0.7 * 40 * task.budget < planner.pretraining_steps <= 40 * task.budget  # less where runs diverged
