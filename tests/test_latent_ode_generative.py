"""The published planner: its algorithm by hand, its model's solver, and runs that do not depend on their company."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchdiffeq import odeint

from lr_env.errors import UserError
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.data.dataset import run_dataset
from planners.latent_ode.data.scaling import Scales
from planners.latent_ode.data.schedule_library import schedule_library
from planners.latent_ode.generative.fit import CurveTensors, GenerativeFitting, decode_runs, fit_generative
from planners.latent_ode.generative.planner import SCORE, TRAIN, LatentODEGenerative
from planners.latent_ode.model.dynamics import Ensemble, Sizes
from planners.latent_ode.model.generative import OUTPUTS, RATE, Generative, GenerativeSizes
from planners.latent_ode.sweep.designs import paper
from tests import quadratic
from tests.quadratic import SPEC


@pytest.fixture(scope="module")
def fitted():
    """Runs of the paper's design on the quadratic, and a model of them."""
    planners = [run.planner for run in paper(40, (0.02, 0.4), [0] * 40, 0)]
    runs = run_dataset(quadratic.records(planners), quadratic.STEPS)
    return runs, fit_generative(runs, GenerativeFitting(iterations=300))


@pytest.fixture(scope="module")
def path(fitted, tmp_path_factory):
    """The model's file."""
    runs, result = fitted
    about = {"task": SPEC.task, "child_steps": 40 * quadratic.STEPS}
    file = tmp_path_factory.mktemp("models") / "generative.safetensors"
    FittedModel(result.model, result.scales, schedule_library(runs), about).save(file)
    return str(file)


def played(planner, seeds):
    """Rates (runs, segments), and the states before each segment."""
    state, count = planner.start(SPEC, seeds), len(seeds)
    signals = {name: np.full(count, np.nan) for name in ("lr", *CHANNELS)} | {"step": np.zeros(count)}
    rates, before = [], []
    for segment in range(SPEC.num_segments):
        before.append((pickle.loads(pickle.dumps(state)), dict(signals)))
        answer, state = planner.plan(state, signals)
        rates.append(answer)
        losses, _ = quadratic.trained(np.stack(rates, 1), 0.02, seeds)
        signals = {"step": np.full(count, float((segment + 1) * SPEC.segment)), "lr": answer}
        signals |= {"train_loss": losses[:, -1], "val_loss": losses[:, -1], "val_accuracy": 1 / (1 + losses[:, -1])}
    return np.stack(rates, 1), before, state


def test_the_algorithm_by_hand():
    """Four futures of a run of 4 segments, decoded over 8; the loss now is 1 +- 0.1, tolerance 2."""
    futures = np.zeros((1, 4, 8, len(OUTPUTS)))
    futures[0, :, :, TRAIN] = [
        [2.0, 1.1, 0.9, 0.5, 0, 0, 0, 0],  # near at segments 1 and 2
        [3.0, 3.0, 3.0, 3.0, 0, 0, 0, 0],  # never
        [0.5, 0.4, 0.3, 0.2, 0, 0, 0, 0],  # lower throughout
        [1.0, 2.0, 2.0, 1.0, 0, 0, 0, 0],  # near at 0 and 3
    ]
    rising = [1, 1, 1, 3, 5, 7, 9, 9]
    futures[0, :, :, RATE] = np.log([[9, 1, 2, 3, 4, 5, 6, 7], [1] * 8, [8, 7, 6, 5, 4, 3, 2, 1], rising])
    futures[0, :, :, SCORE] = np.arange(8) * np.array([0.1, 9.0, 0.2, 0.3])[:, None]
    losses = np.array([[0.9, 1.0, 1.1]])
    assert 2 * losses.std() == pytest.approx(0.163, abs=1e-3)

    starts, rewards, chosen, rates = LatentODEGenerative(averaged_futures=2)._accepted(futures, losses, 1, 4)
    assert starts.tolist() == [[2, -1, -1, 3]]  # where the rate is largest
    np.testing.assert_allclose(rewards[0, [0, 3]], [0.4, 1.5])  # two segments later
    assert chosen == [[3, 0]]
    np.testing.assert_allclose(rates[0], np.mean([[3, 5, 7], [2, 3, 4]], axis=0))

    starts, _, chosen, rates = LatentODEGenerative(averaged_futures=1, two_sided_match=False)._accepted(
        futures, losses, 1, 4
    )
    assert starts.tolist() == [[3, -1, 0, 3]]  # lower losses pass
    assert chosen == [[3]]

    _, rewards, chosen, _ = LatentODEGenerative(averaged_futures=1, horizon=0.4)._accepted(futures, losses, 1, 4)
    np.testing.assert_allclose(rewards[0, [0, 3]], [0.2, 0.9])  # at once
    starts, _, chosen, rates = LatentODEGenerative()._accepted(futures[:, 1:2], losses, 1, 4)
    assert (starts.tolist(), chosen, rates) == ([[-1]], [[]], [None])

    starts, rewards, chosen, rates = LatentODEGenerative(match_any_time=False)._accepted(futures, losses, 1, 4)
    assert (starts.tolist(), chosen) == ([[-1, -1, -1, 0]], [[3]])
    np.testing.assert_allclose(rates[0], rising[:3])
    _, rewards, chosen, rates = LatentODEGenerative(horizon_runs=1, averaged_futures=1)._accepted(
        futures[:, :, :4], losses, 1, 4
    )
    assert chosen == [[3]]
    np.testing.assert_allclose((rewards[0, 3], *rates[0]), (0.9, 3, 3, 3))  # the path ends at once


def test_the_solver_is_near_a_tight_one():
    model = Generative(GenerativeSizes(), seed=0).double()
    code = torch.randn(1, 4, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.linspace(0, 2, 81, dtype=torch.float64)
    rough = model.path(code, times)
    first, second, third = model.to_state
    state = third(torch.relu(second(torch.relu(first(code)))))

    def field(time, h):
        first, second, third = model.field
        soft = torch.nn.functional.softplus
        return model.pace * torch.tanh(third(soft(second(soft(first(h))))))

    tight = odeint(field, state, times, rtol=1e-9, atol=1e-11, method="dopri5").permute(1, 2, 0, 3)
    torch.testing.assert_close(rough, tight, rtol=1e-4, atol=1e-5)


def test_curves_are_what_was_logged(fitted):
    runs, result = fitted
    curves = CurveTensors(runs, result.scales, 40)  # a node a segment
    u = np.log(runs.lr) - result.scales.log_rate
    np.testing.assert_allclose(curves.targets[..., RATE], u, atol=1e-5)
    tokens, lengths = curves.windows(torch.tensor([3, 5]), torch.tensor([2, 30]), torch.tensor([9, 9]), 10)
    assert lengths.tolist() == [[2, 9]]
    np.testing.assert_allclose(tokens[0, 1, :9, 1 + RATE], u[5, 29:20:-1], atol=1e-5)
    np.testing.assert_allclose(tokens[0, 1, :9, 0], np.arange(30, 21, -1) / 40, atol=1e-6)


def test_whole_runs_are_decoded_from_windows_of_them(fitted):
    """Of runs held out, losses are decoded better than by their mean course over the sweep; the rate less so."""
    runs, result = fitted
    curves = CurveTensors(runs, result.scales, 50)
    wrong = (decode_runs(result.model, curves, 0.4) - curves.targets)[result.held_out, 20:]
    others = np.setdiff1d(np.arange(len(runs)), result.held_out)
    plain = (curves.targets[others].nanmean(0) - curves.targets)[result.held_out, 20:]
    errors = wrong.square().nanmean((0, 1)).sqrt() / plain.square().nanmean((0, 1)).sqrt()
    assert (errors[:2] < 0.7).all(), errors
    assert (errors < 0.95).all(), errors


def test_runs_do_not_depend_on_their_company_and_go_on_from_their_state(path):
    planner = LatentODEGenerative(model=path)
    together, before, state = played(planner, (3, 5, 8))
    alone, *_ = played(planner, (5,))
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-3)
    for segment in (0, 5, 30):
        answer, _ = planner.plan(*before[segment])
        assert (answer == together[:, segment]).all()
    beliefs = planner.explain(state, row=1)
    assert [belief.segment for belief in beliefs] == list(range(4, 40, 2))[: len(beliefs)]
    accepted = [belief for belief in beliefs if len(belief.rates)]
    assert accepted
    for belief in accepted:
        until = min([other.segment for other in accepted if other.segment > belief.segment], default=40)
        mean, *chosen = belief.rates
        assert 1 <= len(chosen) <= 3
        np.testing.assert_allclose(mean, np.mean(chosen, 0))
        expected = np.clip(mean[: until - belief.segment], *SPEC.lr_range)
        np.testing.assert_allclose(together[1, belief.segment : until], expected, rtol=1e-6)
        assert belief.losses.shape == (1, len(belief.rates), len(belief.steps)) == (1, len(belief.rates), len(mean))


def test_a_model_of_the_other_kind_is_refused(path, tmp_path):
    from planners.latent_ode.planner import LatentODE

    with pytest.raises(UserError, match="is generative, not controlled: fit one with `lr-env fit --kind controlled`"):
        LatentODE(model=path).start(SPEC, [0])
    trained = FittedModel.load(tmp_path / path)
    other = FittedModel(Ensemble(Sizes(members=2)), Scales(0.0, (0.0,) * 3, (1.0,) * 3, 400), trained.library, {})
    other.save(tmp_path / "controlled.safetensors")
    with pytest.raises(UserError, match="is controlled, not generative"):
        LatentODEGenerative(model=str(tmp_path / "controlled.safetensors")).start(SPEC, [0])


def test_it_begins_with_the_family_that_is_wanted(path, tmp_path):
    trained = FittedModel.load(Path(path))
    names = [
        f"{('constant', 'cosine', 'one-cycle', 'step')[row % 4]} {row}" for row in range(len(trained.library.names))
    ]
    library, path = replace(trained.library, names=tuple(names)), str(tmp_path / "named.safetensors")
    FittedModel(trained.model, trained.scales, library, trained.about).save(Path(path))
    for family in ("constant", "cosine"):
        state = LatentODEGenerative(model=path, warm_start_family=family).start(SPEC, [0])
        best = next(row for row in library.parametric_order if library.names[row].startswith(family + " "))
        np.testing.assert_allclose(state["rates"][0], library.curve(best).segments(SPEC.num_segments, SPEC.lr_range))
    with pytest.raises(UserError, match="no 'wsd' to start with, but constant, cosine, one-cycle, step"):
        LatentODEGenerative(model=path, warm_start_family="wsd").start(SPEC, [0])


def test_time_may_be_read_in_another_unit():
    seconds, minutes = (Generative(GenerativeSizes(time=time), seed=0) for time in (60.0, 1.0))
    tokens = torch.rand(1, 2, 5, 1 + len(OUTPUTS), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([[5, 3]])
    other = tokens * torch.tensor([60.0, *[1.0] * len(OUTPUTS)])
    torch.testing.assert_close(seconds.encode(tokens, lengths), minutes.encode(other, lengths))
    assert not torch.equal(seconds.encode(tokens, lengths), minutes.encode(tokens, lengths))


def test_settings():
    for count in (1, 12, 40):
        offered = LatentODEGenerative.candidates([0.1] * count)
        assert len(set(offered)) == count
        assert offered[0] == LatentODEGenerative()
    with pytest.raises(UserError, match="two_sided_match must be true or false"):
        LatentODEGenerative(two_sided_match=3)
