"""The forecaster against closed forms, torchdiffeq, and made-up curves whose course is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu
from torchdiffeq import odeint

from lr_env import UserError
from lr_env.architecture import Architecture
from planners.forecaster.curves import POINTS, CurveSet, join, on_grid
from planners.forecaster.description import RunDescription
from planners.forecaster.evaluation import evaluate, floor_of, published_scores, splits_of
from planners.forecaster.fit import Fitting, fit
from planners.forecaster.forecaster import Forecaster, curves_file
from planners.forecaster.intervals import SEEN, Case, conformal
from planners.forecaster.methods.parametric import ensemble, power_law
from planners.forecaster.methods.simple import last_value
from planners.forecaster.model import published
from planners.forecaster.model.encoders import GraphEncoder, Graphs, graphs_of
from planners.forecaster.model.network import CurveODE, Inputs, Sizes, two_piece_laplace
from planners.forecaster.model.published import PublishedODE
from planners.forecaster.scores import scores
from planners.forecaster.settings import Scaler
from planners.forecaster.tables import read_curves, write_curves
from planners.forecaster.times import END, TIMES
from planners.forecaster.window import FEATURES
from planners.latent_ode.model.layers import generators
from tests.made_up_curves import chain, made_up

SHORT = Fitting(members=2, updates=150, batch=64)
T = np.arange(POINTS)


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster.fit(made_up(), SHORT)


def one(values: np.ndarray) -> CurveSet:
    """A set of one curve of which nothing else is known."""
    unknown, name = np.full(1, np.nan), ("run",)
    return CurveSet(
        "val_loss", values[None], np.full((1, POINTS), np.nan), {}, (), np.array([-1]), unknown, *[name] * 3
    )


def test_a_power_law_is_recovered_and_the_ensemble_comes_close() -> None:
    curve = one(0.3 + 1.5 * np.maximum(T, 0.5) ** -0.5)
    exact = power_law(curve.seen(12), 12)
    # The exponents are those of a grid.
    np.testing.assert_allclose(exact[0, 12:], curve.values[0, 12:], rtol=0.02)
    np.testing.assert_allclose(ensemble(curve.seen(12), 12).mean[0, 12:], curve.values[0, 12:], rtol=0.12)


def test_forecasts_of_a_flat_curve_are_flat_and_never_fall_below_zero() -> None:
    flat, steep = one(np.full(POINTS, 2.0)), one(np.maximum(3.0 - 0.25 * T, 1e-3))
    np.testing.assert_allclose(power_law(flat.seen(10), 10), 2.0)
    np.testing.assert_allclose(ensemble(flat.seen(10), 10).mean, 2.0, rtol=1e-3)
    assert (power_law(steep.seen(10), 10) >= -1e-12).all()


def test_no_method_sees_what_is_to_come(forecaster: Forecaster) -> None:
    curves = made_up(20, seed=5)
    changed = replace(curves, values=np.where(T < 10, curves.values, 9.0))
    for method in ("auto", "both", "blend", "ode", "boosting", "nearest", "ensemble", "power-law", "last-value"):
        np.testing.assert_array_equal(
            forecaster.median(curves, 10, method)[:, 10:], forecaster.median(changed, 10, method)[:, 10:]
        )


def test_the_states_are_those_of_torchdiffeq() -> None:
    sizes = Sizes(known=3, members=1, steps=8)
    network = CurveODE(sizes, seed=3).double()
    draw = torch.Generator().manual_seed(0)
    known, window = (torch.randn(1, 4, size, generator=draw, dtype=torch.float64) for size in (3, FEATURES))
    start = torch.tensor(TIMES[[0, 9, 20, 40]])[None]
    rates = torch.zeros(1, 4, POINTS, dtype=torch.float64)
    inputs = Inputs(known, window, start, rates)
    at = torch.full((1, 4, 1), POINTS - 1)
    seen: list[torch.Tensor] = []
    network.read.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(inputs, at)
    context = network.know_2(torch.nn.functional.gelu(network.know_1(known)))
    see = network.see_2(torch.nn.functional.gelu(network.see_1(torch.cat([window, context], -1))))

    def field(share: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        now = start + share * (END - start)
        beside = torch.stack([torch.zeros_like(now), now / END], -1)
        speed = network.speed(torch.cat([context, beside[..., :1]], -1)).clamp(-4, 4).exp()
        change = network.field_2(torch.nn.functional.gelu(network.field_1(torch.cat([state, context, beside], -1))))
        return (END - start)[..., None] * speed * change

    path = odeint(field, network.begin(context) + see, torch.linspace(0, 1, 9, dtype=torch.float64), method="midpoint")
    torch.testing.assert_close(seen[0][:, :, 0], path[-1])


def test_the_distribution_of_errors_integrates_to_one() -> None:
    error = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    scales = torch.tensor([[0.7], [2.0]], dtype=torch.float64)
    density = torch.exp(-two_piece_laplace(error, scales))
    assert float(torch.trapezoid(density, error)) == pytest.approx(1.0, abs=1e-4)


def test_conformal_intervals_cover_runs_like_those_that_set_them() -> None:
    draw = np.random.Generator(np.random.PCG64(1))
    curves = made_up(800, seed=2)
    median, spreads = np.full_like(curves.values, 1.0), {"ode": np.ones((2, 800, POINTS))}
    values = np.exp(draw.standard_t(3, size=curves.values.shape))
    curves = replace(curves, values=values)
    case = Case(curves.rows(range(400)), median[:400], {"ode": spreads["ode"][:, :400]})
    low, high = conformal([[case]] * len(SEEN), "configuration")(median, spreads, 10)
    later = (slice(400, None), slice(10, None))
    assert 0.88 < ((low <= values) & (values <= high))[later].mean() < 0.92


def test_settings_and_architecture_tell_how_a_run_will_go_that_has_not_begun() -> None:
    curves = made_up(160)
    found = evaluate(
        curves,
        splits_of(curves, "configuration", 1),
        seen=(0, 10),
        methods=("auto", "ode", "last-value"),
        ablations=("ode, no architecture", "ode, architectures shuffled", "ode, curve alone"),
        fitting=replace(SHORT, updates=200),
    ).summary()
    full, blind = found["ode", 0]["mape"], found["ode, no architecture", 0]["mape"]
    assert full < 0.6 * blind
    assert found["ode, architectures shuffled", 0]["mape"] > 1.5 * full
    assert found["ode, curve alone", 0]["tau"] < 0.5 < 0.85 < found["ode", 0]["tau"]
    assert found["auto", 10]["mape"] < 0.3 * found["last-value", 10]["mape"]


def test_where_the_rate_changes_the_forecast_follows_it() -> None:
    constant, decayed = made_up(160, seed=1), made_up(160, seed=2, decayed=True)
    fitted, _ = fit(join([constant, replace(decayed, values=decayed.values * 0.5)]), replace(SHORT, updates=300))
    test = made_up(40, seed=3)
    slow = replace(test, rates=made_up(40, seed=3, decayed=True).rates)
    ratio = fitted(slow, 0)[0][:, -1] / fitted(test, 0)[0][:, -1]
    assert 0.35 < np.median(ratio) < 0.7


def test_fitting_twice_gives_the_same_and_files_give_it_back(tmp_path: Path, forecaster: Forecaster) -> None:
    again = Forecaster.fit(made_up(), SHORT)
    path = tmp_path / "model.safetensors"
    forecaster.save(path)
    loaded = Forecaster.load(path)
    curves = made_up(10, seed=9)
    for points in (0, 10):
        expected = forecaster.predict(curves, points)
        for other in (again, loaded):
            predicted = other.predict(curves, points)
            np.testing.assert_allclose(predicted.median, expected.median, rtol=1e-5)
            np.testing.assert_allclose(predicted.high, expected.high, rtol=1e-5)
    write_curves(made_up(40, seed=8), curves_file(path))
    with pytest.raises(UserError, match="other curves"):
        Forecaster.load(path)


def test_curves_are_read_as_they_were_written_or_refused(tmp_path: Path) -> None:
    curves = made_up(30)
    curves.values[3, 20:] = np.nan
    file = tmp_path / "curves.parquet"
    write_curves(curves, file)
    read = read_curves(file)
    np.testing.assert_array_equal(read.values, curves.values.astype(np.float32))
    assert read.configurations == curves.configurations
    networks = [[of.architectures[place] for place in of.network] for of in (read, curves)]
    assert networks[0] == networks[1]
    content = bytearray(file.read_bytes())
    draw = np.random.Generator(np.random.PCG64(0))
    for place in draw.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.integers(8)
        file.write_bytes(damaged)
        with pytest.raises(UserError):
            read_curves(file)


def test_series_are_brought_to_the_grid_without_inventing_points() -> None:
    steps = np.arange(0, 1001, 10.0)
    np.testing.assert_allclose(on_grid(steps, 2 * steps, 1000), 2 * np.linspace(0, 1000, POINTS))
    sparse = on_grid(np.array([100.0, 500.0, 1000.0]), np.array([3.0, 2.0, 1.0]), 1000)
    assert np.flatnonzero(np.isfinite(sparse)).tolist() == [5, 25, 50]
    begun = on_grid(np.arange(0, 201, 10.0), np.ones(21), 1000)
    assert np.isfinite(begun).sum() == 11


def test_scaled_settings_are_told_from_unknown_ones_and_from_what_lies_beyond() -> None:
    columns = {"peak_rate": np.array([1e-3, 1e-2, 1e-1, 1.0]), "momentum": np.array([0.0, 0.9, np.nan, 0.9])}
    scaler = Scaler.of(columns)
    values, known = scaler(columns, 4)
    np.testing.assert_allclose(np.diff(values[:, 0]), np.diff(values[:, 0])[0])  # a rate is read as its logarithm
    assert known[:, 1].tolist() == [1, 1, 0, 1]
    assert scaler.beyond({"peak_rate": np.array([30.0])}) == ["peak rate 30 (0.001 to 1)"]
    assert Scaler.from_json(scaler.to_json()) == scaler


def test_luck_is_how_far_two_seeds_lie_apart() -> None:
    floor = floor_of(made_up(100), 10)
    assert floor is not None
    assert floor["pairs"] == 50
    assert 0.005 < floor["mape"] < 0.02  # the noise is 1 % of each


def test_depth_is_held_out_by_the_depth_of_networks() -> None:
    curves = made_up(100)
    ((train, test),) = splits_of(curves, "depth", 1)
    assert curves.network[train].max() < curves.network[test].min()
    with pytest.raises(UserError, match="no architecture is known"):
        splits_of(curves.without(architecture=True), "depth", 1)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"steps": [10, 5], "values": [1, 1]}, "do not rise"),
        ({"steps": [10, 2000], "values": [1, 1]}, "larger budget"),
        ({"steps": [10, 20], "values": [1]}, "as many of each"),
        ({"steps": [10, 20, 30], "values": [1, float("nan"), 1]}, "diverged: its val_loss at step 20"),
        ({"steps": [10, 20, 30], "values": [1, 0, 1]}, "val_loss is 0 at step 20"),
        ({"steps": [10, 20, 30, 40], "values": [0.1, 0.3, 0.6, 0.8]}, "accuracy"),
        ({"lr": 0.1}, "number of classes"),
        ({"lr": [0.1, -1]}, "above 0"),
        ({"budget": 0}, "budget"),
    ],
)
def test_runs_that_cannot_be_forecast_are_refused(
    forecaster: Forecaster, described: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        forecaster.forecast(RunDescription(**{"budget": 1000, **described}))  # type: ignore[arg-type]


def test_a_run_is_forecast_from_its_first_points_with_notes_on_what_is_doubtful(forecaster: Forecaster) -> None:
    truth = made_up(20, seed=7)
    steps = np.linspace(0, 200, 11)
    known = {"batch_size": 32.0, "optimizer": "Adam"}
    run = RunDescription(1000, truth.rates[0, 0], known, chain(3), 10, steps, truth.values[0, :11])
    forecast = forecaster.forecast(run, at=[500, 1000], baselines=True)
    assert (forecast.low < forecast.median).all()
    assert (forecast.median < forecast.high).all()
    assert forecast.median[-1] == pytest.approx(truth.values[0, -1], rel=0.5)
    assert any("Adam is no optimizer" in note for note in forecast.notes)
    assert forecast.baselines["last-value"] == pytest.approx(truth.values[0, 10])
    far = forecaster.forecast(replace(run, lr=50.0))
    assert any("peak rate 50" in note for note in far.notes)


def test_the_scores_are_those_of_their_formulas() -> None:
    curves = made_up(6)
    perfect = scores(curves, curves.values, 10, (0.9 * curves.values, 1.1 * curves.values))
    assert (perfect["mape"], perfect["coverage"]) == (0, 1)
    assert perfect["tau"] == pytest.approx(1)
    assert perfect["interval_score"] == pytest.approx(np.log(1.1 / 0.9))
    assert scores(curves, 1.1 * curves.values, 10)["mape"] == pytest.approx(0.1)
    assert scores(curves, last_value(curves, 10), 10)["tau"] > 0.5


def relabelled(graph: Architecture, order: list[int]) -> Architecture:
    """The same graph with its nodes in another order."""
    place = {old: new for new, old in enumerate(order)}
    edges = tuple((place[start], place[end]) for start, end in graph.edges)
    return Architecture(tuple(graph.nodes[old] for old in order), edges)


def encoded(kind: str, *graphs: Architecture) -> torch.Tensor:
    """Vectors of graphs by an encoder with random weights, (graphs, size)."""
    encoder = GraphEncoder(kind, generators(1, 0))
    with torch.no_grad():
        return encoder(graphs_of(graphs)[torch.arange(len(graphs))[None]])[0]


@pytest.mark.parametrize("kind", ["gcn", "set", "gru", "paper"])
def test_encoders_see_the_graph_and_not_the_order_of_its_nodes(kind: str) -> None:
    short, long = chain(2), chain(6)
    first, mixed, longer, alone = encoded(kind, short, relabelled(short, [3, 1, 0, 2]), long, short)
    torch.testing.assert_close(first, mixed)
    torch.testing.assert_close(first, encoded(kind, short)[0])  # nodes that fill up a batch change nothing
    torch.testing.assert_close(first, alone)
    change = float((first - longer).norm() / first.norm())
    assert change < 0.15 if kind == "paper" else change > 0.15  # that of the paper is nearly blind to depth


def test_a_graph_convolution_is_that_of_its_formula() -> None:
    graph = Architecture(chain(2).nodes, ((0, 1), (1, 2), (0, 2), (2, 3)))
    encoder = GraphEncoder("paper", generators(1, 3)).double()
    nodes = graphs_of([graph])
    with torch.no_grad():
        found = encoder(
            Graphs(nodes.nodes[None, :1].double(), nodes.edges[None, :1].double(), nodes.there[None, :1].double())
        )
        a = torch.from_numpy(graph.adjacency() + graph.adjacency().T) + torch.eye(4)
        scale = torch.diag(a.sum(1) ** -0.5)
        x = torch.tensor([[16.0], [16.0], [16.0], [10.0]], dtype=torch.float64) / 16
        hidden = scale @ a @ scale @ encoder.second((scale @ a @ scale @ encoder.first(x[None]))[0][None])[0]
        share = torch.softmax(scale @ a @ scale @ encoder.score(hidden[None])[0], 0)
        expected = encoder.out((share * torch.relu(hidden)).sum(0)[None, None])
    torch.testing.assert_close(found, expected)


def test_a_graph_that_is_read_makes_up_for_the_summary() -> None:
    curves = made_up(160)
    ((train, test),) = splits_of(curves, "configuration", 1)
    error = {}
    for encoder in ("none", "gcn"):
        ode, _ = fit(curves.rows(train), replace(SHORT, encoder=encoder, updates=200))
        error[encoder] = scores(curves.rows(test), ode(curves.rows(test), 0)[0], 0)["log_mae"]
    assert error["gcn"] < 0.7 * error["none"]


def published_network() -> PublishedODE:
    """A published model with a field that moves."""
    network = PublishedODE(Sizes(1, 2, dynamics="paper", encoder="paper"), 5)
    with torch.no_grad():
        network.field_2.weight.normal_(generator=torch.Generator().manual_seed(1), std=0.5)
    return network


def test_the_published_model_follows_its_equation() -> None:
    network = published_network()
    random = torch.Generator().manual_seed(2)
    state, graph = torch.randn(2, 3, 16, generator=random), torch.randn(2, 3, 16, generator=random)
    times = torch.linspace(0.2, 1, 5)
    with torch.no_grad():
        found, z, path = network.path(state, graph, times), state, [network.read(state)[..., 0]]
        for _ in range(400):  # Euler's method in small steps
            z = z + 0.002 * network.field_2(gelu(network.field_1(torch.cat([z, graph], -1))))
            path.append(network.read(z)[..., 0])
    torch.testing.assert_close(found, torch.stack(path[::100], -1), rtol=0.02, atol=0.02)


def test_the_published_model_learns_and_reads_no_settings(monkeypatch) -> None:
    monkeypatch.setattr(published, "EPOCHS", 60)
    curves = made_up(60)
    fitting = Fitting(members=1, dynamics="paper", encoder="paper")
    forecaster = Forecaster.fit(curves, fitting, combined=False, seen=(0, 10))
    other = replace(curves.without(settings=True), values=curves.values)
    np.testing.assert_array_equal(forecaster.median(curves, 10), forecaster.median(other, 10))
    error = scores(curves, forecaster.median(curves, 10), 10)["log_mae"]
    assert error < 0.6 * scores(curves, last_value(curves, 10), 10)["log_mae"]
    with pytest.raises(UserError, match="a run that has begun"):
        forecaster.median(curves, 0)
    holed = replace(curves, values=np.where(np.arange(POINTS) == 0, np.nan, curves.values))
    assert np.isfinite(forecaster.median(holed, 10)[:, 10:]).all()


def test_what_the_published_code_reports_is_never_worse_than_what_it_should(monkeypatch) -> None:
    monkeypatch.setattr(published, "EPOCHS", 12)
    curves = made_up(60)
    found = published_scores(curves.rows(np.arange(40)), curves.rows(np.arange(40, 60)), 10, SHORT)
    honest, best, _ = (found[name]["mape"] for name in found)
    assert best <= honest


def test_intervals_set_by_leaving_out_tasks_hold_on_a_task_that_is_unlike_the_others() -> None:
    curves = made_up(180, tasks=6)
    floors = np.array([0.05, 0.1, 0.2, 0.4, 0.7, 1.0])[[int(name[-1]) for name in curves.tasks]]
    curves = replace(curves, values=curves.values + floors[:, None])  # each task levels off elsewhere
    curves = curves.without(architecture=True)
    new = np.array([name == "task 2" for name in curves.tasks])
    forecaster = Forecaster.fit(curves.rows(~new), replace(SHORT, updates=60), seen=(10,))
    found = forecaster.predict(curves.rows(new), 10)
    got = scores(curves.rows(new), found.median, 10, (found.low, found.high))
    assert forecaster.home.intervals["auto"].unit == "task"
    assert got["coverage"] > 0.85
    assert got["interval_score"] < 0.5


def test_a_network_of_another_kind_is_forecast_without_its_architecture(forecaster: Forecaster) -> None:
    curves = made_up(8, seed=5)
    convolutional = tuple(
        Architecture(tuple(replace(node, kind="conv") if node.kind == "linear" else node for node in g.nodes), g.edges)
        for g in curves.architectures
    )
    other = replace(curves, architectures=convolutional)
    assert not forecaster.foreign(curves).any()
    assert forecaster.foreign(other).all()
    assert forecaster.abroad is not None
    hidden = other.without(architecture=True)
    for points in (0, 10):
        expected = forecaster.abroad.predict(forecaster.forecasts(hidden, points), "auto")
        found = forecaster.predict(other, points)
        np.testing.assert_array_equal(found.median, expected.median)
        np.testing.assert_array_equal(found.high, expected.high)
    one = other.rows([0])
    assert any("no network of this kind" in note for note in forecaster.notes(one))
    mixed = join([curves, other])
    np.testing.assert_array_equal(forecaster.predict(mixed, 10).median[8:], forecaster.predict(other, 10).median)
