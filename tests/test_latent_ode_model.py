"""The model of training: its layers against torch's, its solver against a tight adjoint, known dynamics recovered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torchdiffeq import odeint, odeint_adjoint

from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.data.batches import TensorDataset, seed_groups
from planners.latent_ode.data.dataset import run_dataset
from planners.latent_ode.data.scaling import scales_of
from planners.latent_ode.filtering.state import StateEstimator
from planners.latent_ode.fitting.fit import Fitting, SeedEffects, fit, forecast_final_losses
from planners.latent_ode.model.dynamics import NUM_FEATURES, Ensemble, Sizes
from planners.latent_ode.model.early_stopping import path_length
from planners.latent_ode.model.layers import GRU, Linear, generators
from planners.latent_ode.sweep.designs import wsd_schedules
from tests import quadratic


def test_layers_are_those_of_torch():
    x = torch.randn(3, 4, 7, 5, generator=torch.Generator().manual_seed(0))
    ours = Linear(generators(3, 0), 5, 2)
    gru = GRU(generators(3, 1), 5, 6)
    lengths = torch.tensor([7, 3, 1, 0])
    there = (torch.arange(7) < lengths[:, None]).expand(3, -1, -1)
    states = gru(x, there)
    with torch.random.fork_rng():  # torch draws weights that are replaced
        plain = nn.Linear(5, 2), nn.GRU(5, 6, batch_first=True)
    for member in range(3):
        linear, torchs = plain
        linear.weight.data, linear.bias.data = ours.weight[member].T, ours.bias[member]
        torch.testing.assert_close(ours(x)[member], linear(x[member]))
        for name, layer in (("ih", gru.read), ("hh", gru.again)):
            setattr(torchs, f"weight_{name}_l0", nn.Parameter(layer.weight[member].T.contiguous()))
            setattr(torchs, f"bias_{name}_l0", nn.Parameter(layer.bias[member].clone()))
        for run, length in enumerate(lengths.tolist()):
            expected = torchs(x[member, run : run + 1, :length])[1][0, 0] if length else torch.zeros(6)
            torch.testing.assert_close(states[member, run], expected)


def test_members_do_not_depend_on_how_many_there_are():
    few, many = Ensemble(Sizes(members=2), seed=3), Ensemble(Sizes(members=4), seed=3)
    for weight, more in zip(few.parameters(), many.parameters(), strict=True):
        assert torch.equal(weight, more[:2])


def test_solver_and_its_gradients_agree_with_a_tight_adjoint():
    model = Ensemble(Sizes(members=1), seed=0).double()
    draw = torch.Generator().manual_seed(1)
    state = torch.randn(1, 3, model.sizes.latent, generator=draw, dtype=torch.float64)
    levels = 0.5 * torch.randn(1, 3, 4, generator=draw, dtype=torch.float64)  # constant for a quarter each
    rates = levels.repeat_interleave(128, -1).requires_grad_()
    span = torch.tensor([[1.0, 0.5, 0.25]], dtype=torch.float64)
    end = model.solve(state, rates, span)[:, :, -1]
    (gradient,) = torch.autograd.grad(end.square().sum(), rates)

    class Field(nn.Module):
        def __init__(self, quarter):
            super().__init__()
            self.quarter, self.model, self.levels = quarter, model, levels.clone().requires_grad_()
            self.rate = nn.Parameter(levels[:, :, quarter].clone())

        def forward(self, time, z):
            pace = (self.rate.exp() * span)[..., None]
            drive = self.rate[..., None] * model.inner_rate[:, None, 0]
            return model.outer(torch.tanh(model.inner(z) + drive)) * pace

    fields = [Field(quarter) for quarter in range(4)]
    z = state
    for quarter, field in enumerate(fields):
        times = torch.tensor([quarter / 4, (quarter + 1) / 4], dtype=torch.float64)
        z = odeint_adjoint(field, z, times, rtol=1e-10, atol=1e-12, adjoint_params=(field.rate,), method="dopri5")[-1]
    torch.testing.assert_close(end, z, rtol=1e-4, atol=1e-5)
    z.square().sum().backward()
    by_quarter = torch.stack([field.rate.grad for field in fields], -1)
    torch.testing.assert_close(gradient.unflatten(-1, (4, 128)).sum(-1), by_quarter, rtol=1e-4, atol=1e-4)


def test_steps_and_their_gradients_are_those_of_torchdiffeq():
    """The written-out solver against the package's, which records every operation: all states, all gradients."""
    model = Ensemble(Sizes(members=2), seed=0).double()
    draw = torch.Generator().manual_seed(1)
    state, rates, span = (
        torch.randn(2, 3, size, generator=draw, dtype=torch.float64) for size in (model.sizes.latent, 16, 1)
    )
    inputs = [state.requires_grad_(), rates.requires_grad_(), span.requires_grad_()]
    inputs += [*model.inner.parameters(), model.inner_rate, *model.outer.parameters()]

    def field(time, z):
        rate = rates[..., min(int(time * 16 + 1e-3), 15), None]
        return model.outer(torch.tanh(model.inner(z) + rate * model.inner_rate)) * rate.exp() * span

    plain = odeint(field, state, torch.linspace(0, 1, 17, dtype=torch.float64), method="midpoint").permute(1, 2, 0, 3)
    ours = model.solve(state, rates, span[..., 0])
    torch.testing.assert_close(ours, plain)
    with torch.no_grad():
        torch.testing.assert_close(model.solve(state, rates, span[..., 0]), ours, rtol=0, atol=0)
    above = torch.randn(ours.shape, generator=draw, dtype=torch.float64)
    for gradient, true in zip(*(torch.autograd.grad((z * above).sum(), inputs) for z in (ours, plain)), strict=True):
        torch.testing.assert_close(gradient, true)


def test_the_default_solver_is_near_a_tight_one():
    model = Ensemble(Sizes(members=2), seed=0).double()
    draw = torch.Generator().manual_seed(1)
    state = torch.randn(2, 5, model.sizes.latent, generator=draw, dtype=torch.float64)
    rates = torch.randn(2, 5, model.sizes.steps, generator=draw, dtype=torch.float64) * 0.5
    span = torch.ones(2, 5, dtype=torch.float64)
    rough = model.decode(model.solve(state, rates, span))
    fine = model.decode(model.solve(state, rates.repeat_interleave(16, -1), span)[:, :, ::16])
    # In units of the spread of the channels over a sweep, of which held-out errors are a tenth.
    assert (rough - fine).abs().max() < 0.02


def test_without_a_rate_nothing_changes():
    model = Ensemble(Sizes(members=1), seed=0)
    state = torch.randn(1, 2, model.sizes.latent, generator=torch.Generator().manual_seed(0))
    path = model.solve(state, torch.full((1, 2, model.sizes.steps), -torch.inf), torch.ones(1, 2))
    assert torch.equal(path, state[:, :, None].expand_as(path))


def test_corrections_begin_at_none_and_need_something_to_read():
    model = Ensemble(Sizes(members=1), seed=0)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 2, model.sizes.window, NUM_FEATURES, generator=draw)
    state = torch.randn(1, 2, model.sizes.latent, generator=draw)
    lengths = torch.tensor([[10, 0]])
    assert torch.equal(model.correct(state, tokens, lengths), state)
    with torch.no_grad():
        model.to_latent.normal_(generator=draw)
        moved = model.correct(state, tokens, lengths)
    assert (moved[0, 0] != state[0, 0]).all()
    assert torch.equal(moved[0, 1], state[0, 1])


def test_what_is_forecast_has_no_innovation():
    """Runs that are what the dynamics make of their rates: nothing is left to be read but time and rate."""
    records = quadratic.records(wsd_schedules(12, (0.02, 0.8), 0))
    runs = run_dataset(records, quadratic.STEPS)
    table = TensorDataset(runs, scales_of(runs))
    model = Ensemble(Sizes(members=2), seed=0)
    seen = StateEstimator(model).roll_out(table)
    with torch.no_grad():
        forecast = model.decode(seen.states[:, :, 1:].flatten(1, 2)[:, :, None])[0, :, 0].unflatten(0, (12, 40))
    table.values = forecast
    again = StateEstimator(model).roll_out(table)
    assert again.features[0, :, :, 2:].abs().max() < 1e-5
    assert again.features[1, :, :, 2:].abs().max() > 0.01  # of the other member
    torch.testing.assert_close(seen.states, again.states)
    torch.testing.assert_close(again.features[0, :, :, 0], (table.steps[:, 1:] / quadratic.STEPS).float())
    state, tokens, lengths = again.at(torch.tensor([[3], [5]]), torch.tensor([[2], [20]]))
    assert lengths.tolist() == [[2], [10]]
    torch.testing.assert_close(tokens[1, 0, :, 0] * quadratic.STEPS, torch.arange(200.0, 100.0, -10))
    assert torch.equal(state[1, 0], again.states[1, 5, 20])


def test_path_length_of_straight_lines():
    """The steps over the deviation of all states, over that of the first states."""
    draw = torch.Generator().manual_seed(0)
    first = torch.randn(1, 200, 1, 1, generator=draw)
    states = first + torch.arange(3.0)[None, None, :, None]
    expected = 2 / states.var((1, 2)).sqrt() / first.std()
    torch.testing.assert_close(path_length(states), expected[:, 0], rtol=0.01, atol=0)


def of_a_teacher(count):
    """Runs that a latent ODE made, whose channels are its own."""
    teacher = Ensemble(Sizes(members=2, steps=40), seed=11)
    records = quadratic.records(wsd_schedules(count, (0.05, 0.8), 0))
    rates = torch.tensor(np.stack([record.curves["lr"] for record in records]), dtype=torch.float32)
    with torch.no_grad():
        u = (rates / 0.2).log().expand(2, -1, -1)
        states = teacher.solve(teacher.initial_state(count), u, torch.ones(2, count))
        values, ends = (
            teacher.decode(states[:, :, 1:])[0].double().numpy() * 0.1,
            teacher.final_loss(states)[0].numpy() * 0.1,
        )
    return [
        replace(
            record,
            curves={
                **record.curves,
                **{
                    name: np.exp(of) if name.endswith("loss") else of
                    for name, of in zip(CHANNELS, curves.T, strict=True)
                },
            },
            scores={"final_val_loss": float(np.exp(end))},
        )
        for record, curves, end in zip(records, values, ends, strict=True)
    ]


def error_on(others, fitted):
    """Root mean square error of the ends of runs, forecast from their rates alone, over their spread."""
    table = TensorDataset(others, fitted.scales)
    forecast = forecast_final_losses(fitted.model, table, np.array([0.0]), np.zeros(len(others), dtype=int))[0]
    wrong = forecast - others.final
    return np.sqrt(np.mean((wrong - wrong.mean()) ** 2)) / others.final.std()


def alike(runs):
    """The runs, each of which counts the same, however it ended."""
    return replace(runs, weights=np.ones(len(runs)), censoring_threshold=np.inf)


def test_a_latent_ode_is_recovered():
    """Another is fitted to 40 of its runs and forecasts 20 others."""
    runs = alike(run_dataset(of_a_teacher(60), quadratic.STEPS))
    fitted = fit(runs.select(range(40)), Fitting(sizes=Sizes(members=2), dynamics=500, corrections=0))
    assert error_on(runs.select(range(40, 60)), fitted) < 0.1


def test_what_runs_of_one_seed_have_in_common_is_told_from_their_schedules():
    """Every other run is off by 5 %: with seeds that tell which, and without."""
    records = of_a_teacher(40)
    luck = 1.05 ** np.random.default_rng(0).permuted(np.arange(40) % 2)
    runs = [
        replace(
            record,
            seed=int(by > 1),
            curves={**record.curves, "val_loss": record.curves["val_loss"] * by},
            scores={"final_val_loss": record.scores["final_val_loss"] * by},
        )
        for record, by in zip(records[:20], luck, strict=False)
    ]
    others = run_dataset(records[20:], quadratic.STEPS)
    knowing, guessing = (
        fit(alike(run_dataset(sample, quadratic.STEPS)), Fitting(sizes=Sizes(members=2), dynamics=500, corrections=0))
        for sample in (runs, [replace(record, seed=number) for number, record in enumerate(runs)])
    )
    assert error_on(others, knowing) < 0.7 * error_on(others, guessing)


def test_seed_effects_are_subtracted_from_the_runs_of_their_seed():
    runs = run_dataset(
        [replace(r, seed=n // 6) for n, r in enumerate(quadratic.records(wsd_schedules(13, (0.02, 0.8), 0)))], 400
    )
    assert seed_groups(runs).tolist() == [1] * 6 + [2] * 6 + [0]
    table = TensorDataset(runs, scales_of(runs))
    effects = SeedEffects(table, members=2)
    with torch.no_grad():
        effects.offsets[1, 0], effects.offsets[1, 1] = 3.0, 1.0
    rows = torch.tensor([[0, 6, 12]] * 2)
    batch = table.batch(rows, torch.zeros_like(rows), 4)
    shifted = effects.subtract_from(batch, rows)
    torch.testing.assert_close(batch.final - shifted.final, torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 0.0]]))
    moved = torch.nan_to_num(batch.values - shifted.values)
    torch.testing.assert_close(moved[1, 0, 1:], torch.full_like(moved[1, 0, 1:], 3.0))


def test_a_fit_is_reproducible():
    runs = run_dataset(quadratic.records(wsd_schedules(12, (0.02, 0.8), 0)), quadratic.STEPS)
    short = Fitting(sizes=Sizes(members=2), dynamics=5, corrections=5)
    first, second = (fit(runs, short).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
