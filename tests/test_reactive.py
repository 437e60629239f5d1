"""Planners that react to losses and gradients, against torch, transformers, scipy, and rules spelled out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import linregress
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lr_env.children import Backend, Children, Execution
from lr_env.children.initial import build_seeded
from lr_env.children.meters import on_demand_signals
from lr_env.errors import UserError
from lr_env.optimizers import SGD, AdamW
from lr_env.planner import RunSpec
from lr_env.rollout import PlannedRun, Rollout, rollout
from lr_env.tasks import TASKS
from planners import GreedyLR, Hypergradient, HypergradientMultiplicative, LossSlope, LRTuner, Plateau
from planners.forking.lrtuner import parabola_minimum

TASK = replace(TASKS["DigitsMLP"], budget=60, segment=10)
REACTIVE = (
    Plateau(0.05, patience=0),
    GreedyLR(0.05, patience=1),
    LossSlope(0.05, window=3),
    Hypergradient(0.05),
    HypergradientMultiplicative(0.05),
    LRTuner(0.05, every=2, horizon=1),
)


def rates_after(planner, losses, name: str = "val_loss", lr_range=(1e-3, 1.0)) -> np.ndarray:
    """The rates that a planner answers with, (segments, runs), given losses (segments, runs)."""
    losses = np.asarray(losses)
    spec = RunSpec("toy", 10 * (len(losses) + 1), 10, lr_range, "SGD", 1)
    state = planner.start(spec, range(losses.shape[1]))
    zero = np.zeros(losses.shape[1])
    signals = {"step": zero, "val_loss": zero, "train_loss": zero, **dict.fromkeys(on_demand_signals(), zero)}
    first, state = planner.plan(state, signals)
    assert (first == planner.peak).all()
    rates = []
    for number, loss in enumerate(losses, 1):
        rate, state = planner.plan(state, {**signals, "step": zero + 10 * number, name: loss})
        rates.append(rate)
    return np.array(rates)


@pytest.mark.parametrize(
    "settings",
    [{}, {"patience": 0}, {"patience": 3, "cooldown": 2, "factor": 0.5}, {"patience": 1, "threshold": 0.05}],
    ids=str,
)
def test_plateau_is_torchs(settings):
    random = np.random.RandomState(0)
    losses = 2 * 0.97 ** np.minimum(np.arange(60), 20)[:, None] * (1 + 0.1 * random.randn(60, 5))
    ours = rates_after(Plateau(0.1, **settings), losses)
    for run in range(5):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        full = {"factor": 0.1, "patience": 10, "threshold": 1e-4, "cooldown": 0, **settings}
        scheduler = ReduceLROnPlateau(optimizer, min_lr=1e-3, eps=0.0, **full)
        for number in range(60):
            scheduler.step(losses[number, run])
            assert ours[number, run] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert len(np.unique(ours)) > 2


def losses_of(seed: int) -> list[float]:
    """Falling for 45 segments, then level; with noise from a generator that needs no library."""
    losses, level = [], 5.0
    for number in range(80):
        seed = (1103515245 * seed + 12345) % 2**31
        level *= 0.97 if number < 45 else 1.0
        losses.append(level * (1 + 0.02 * (seed / 2**31 - 0.5)))
    return losses


# Where transformers 5.23.0's GreedyLR raises (+) and lowers (-) a rate of 0.1 within [0.001, 1], and where it ends.
GREEDY = [
    (
        1,
        {"factor": 0.9, "patience": 2},
        "..+..+..+..+..+..+..+..+..+..+..+..+..+..+..+..-..-...-..-..-..-..-..-..-..-..-.",
        0.15241579027587257,
    ),
    (
        2,
        {"factor": 0.5, "patience": 0},
        "++++.........................................---+-+--------.....................",
        0.001,
    ),
    (
        3,
        {"factor": 0.8, "patience": 1, "window": 4},
        ".+.+.+.+.+.+.+.+.+.+.+..............................-..-.-.-.-.-.-.-.-.-.-.-.-.-",
        0.043980465111040035,
    ),
]


@pytest.mark.parametrize(("seed", "settings", "changes", "end"), GREEDY)
def test_greedy_is_that_of_transformers(seed, settings, changes, end):
    rates = rates_after(GreedyLR(0.1, **settings), np.array(losses_of(seed))[:, None], "train_loss")[:, 0]
    signs = np.sign(np.diff(np.concatenate([[0.1], rates]))).astype(int)
    assert "".join("-.+"[sign + 1] for sign in signs) == changes
    assert rates[-1] == pytest.approx(end, rel=1e-12)


@pytest.mark.parametrize("settings", [{}, {"window": 5, "doubt": 1.0, "factor": 0.3}], ids=str)
def test_loss_slope_is_that_of_a_regression(settings):
    random = np.random.RandomState(1)
    losses = np.exp(-0.05 * np.minimum(np.arange(60), 25)[:, None] + 0.03 * random.randn(60, 4))
    planner = LossSlope(0.5, **settings)
    ours = rates_after(planner, losses)
    falls = 0
    for run in range(4):
        rate, window = 0.5, []
        for number in range(60):
            window.append(np.log(losses[number, run]))
            if len(window) >= planner.window:
                fit = linregress(np.arange(planner.window), window[-planner.window :])
                if not fit.slope < -planner.doubt * fit.stderr:
                    rate, window = max(rate * planner.factor, 1e-3), []
                    falls += 1
            assert ours[number, run] == pytest.approx(rate, rel=1e-9)
    assert falls > 4


def test_losses_that_are_not_wanted_or_not_there():
    with pytest.raises(UserError, match="unknown planner 'greedy-lr': loss 'loss'"):
        GreedyLR(0.1, loss="loss")
    with pytest.raises(UserError, match="'hypergradient' needs the signal 'update_product'"):
        Hypergradient(0.1).plan({}, {"step": np.zeros(1)})


@pytest.mark.parametrize("optimizer", [SGD(), SGD(nesterov=True, weight_decay=0.01), AdamW()], ids=str)
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("backend", [Backend("loop"), Backend("stacked", 2)], ids=str)
def test_alignment_is_what_plain_torch_finds(backend, optimizer, clip_norm):
    task = replace(TASK, optimizer=optimizer, clip_norm=clip_norm, segment=5)
    children = Children(
        task,
        [3, 4, 5],
        extra_signals=["update_product"],
        dtype=torch.float64,
        execution=Execution(device="cpu", backend=backend),
    )
    lr = np.geomspace(0.001, 0.01, 30) * (1 if isinstance(optimizer, AdamW) else 5)
    ours, snapshot = [], None
    for start in range(0, 30, 5):
        if start == 10:
            snapshot = children.snapshot()
        children.train(np.tile(lr[start : start + 5], (3, 1)))
        ours.append(children.step_signals)
    ours = np.concatenate(ours, axis=1)
    source, train = task.source, children.data.splits["train"]
    for row, seed in enumerate([3, 4, 5]):
        module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), seed, torch.float64)
        plain = optimizer.build(module.parameters())
        before = direction = None
        for number, batch in enumerate(children.order.batches(np.zeros(3, dtype=np.int64), 30)[row]):
            plain.param_groups[0]["lr"] = lr[number]
            plain.zero_grad()
            F.cross_entropy(module(train.inputs[batch]), train.labels[batch]).backward()
            gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
            if direction is None:
                assert ours[row, number].tolist() == [0, 0]
            else:
                expected = gradient @ direction, F.cosine_similarity(gradient, direction, dim=0)
                np.testing.assert_allclose(ours[row, number], [float(x) for x in expected], rtol=1e-7, atol=1e-10)
            before = torch.cat([p.detach().flatten().clone() for p in module.parameters()])
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
            plain.step()
            direction = (before - torch.cat([p.detach().flatten() for p in module.parameters()])) / lr[number]
    children.restore(snapshot)
    children.train(np.tile(lr[10:15], (3, 1)))
    np.testing.assert_array_equal(children.step_signals, ours[:, 10:15])


def test_measuring_alignment_changes_nothing_else():
    for backend in (Backend("loop"), Backend("stacked", 3)):
        plain, watched = (
            Children(TASK, range(3), extra_signals=extra, execution=Execution(device="cpu", backend=backend))
            for extra in ((), on_demand_signals())
        )
        for children in (plain, watched):
            children.train([0.05] * 3)
        if backend.name == "loop":
            assert torch.equal(plain.state.parameters, watched.state.parameters)
            np.testing.assert_array_equal(plain.step_losses, watched.step_losses)
        # A stack that is watched computes its steps in other operations: on some processors the last bits differ.
        torch.testing.assert_close(plain.state.parameters, watched.state.parameters, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(plain.step_losses, watched.step_losses, rtol=1e-5)
        assert plain.step_signals.size == 0


def _rates(planner, task) -> np.ndarray:
    return rollout(planner, task, [7], score=(), execution=Execution(backend="loop"))[0].curves["lr"]


def test_hypergradient_by_hand():
    """With segments of one step: the rate of a step follows from the gradient before it."""
    task = replace(TASK, budget=40, segment=1, optimizer=SGD(momentum=0.0))
    additive = _rates(Hypergradient(0.05, beta=1e-3), task)
    relative = _rates(HypergradientMultiplicative(0.05, beta=0.02), task)
    children = Children(task, [7], execution=Execution(backend="loop"))
    inputs, labels = (getattr(children.data.splits["train"], name) for name in ("inputs", "labels"))
    batches = children.order.batches(np.array([0]), 40)[0]
    source = task.source
    for rates, kind in ((additive, "product"), (relative, "cosine")):
        module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), 7, torch.float32)
        lr, last = 0.05, None
        for number, batch in enumerate(batches):
            assert rates[number] == pytest.approx(lr, rel=1e-4)
            module.zero_grad()
            F.cross_entropy(module(inputs[batch]), labels[batch]).backward()
            gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
            with torch.no_grad():
                for p in module.parameters():
                    p -= lr * p.grad
            if last is not None:
                if kind == "product":
                    lr += 1e-3 * float(gradient @ last)
                else:
                    lr *= 1 + 0.02 * float(F.cosine_similarity(gradient, last, dim=0))
            last = gradient
        assert abs(rates[-1] / 0.05 - 1) > 0.01


def test_parabolas():
    rates = np.tile([0.0, 0.1, 0.2], (9, 1))
    losses = [
        [1.0, 0.5, 1.0],  # bottom at the middle
        [1.0, 0.4, 0.2],  # falls, and bends up: 1 - 8 r + 20 r^2
        [1.0, 0.9, 0.7],  # falls, and bends down
        [0.7, 0.9, 1.0],  # rises, and bends down
        [1.0, 0.5, np.inf],
        [0.5, 1.0, np.inf],
        [0.5, np.inf, np.inf],
        [0.7, 0.7, 0.5],
        [0.5, 0.5, 0.7],
    ]
    rates[-2:, 0] = 0.1  # the smallest rate is the present one
    minima = parabola_minimum(rates, np.array(losses))
    np.testing.assert_allclose(minima, [0.1, 0.2, np.inf, 0.0, 0.1, 0.0, 0.0, np.inf, 0.0])


def test_lrtuner_takes_no_rate_whose_fork_loses_what_was_won():
    """Given the losses of three forks for each choice, all while it explores."""
    cases = [
        ([2.0, 1.5, 1.0], 0.2),  # falls: doubled
        ([1.0, 0.9, 0.5], 0.4),  # falls: doubled
        ([1.0, 1.2, 1.05], 0.2),  # the present rate loses 0.2 of the 1.0 that was won: halved
        ([1.0, 0.9, 1.2], 0.2),  # twice the present rate does so: unchanged, though the parabola's bottom is lower
        ([1.0, 0.95, 0.9], 0.4),
    ]
    spec = RunSpec("toy", 100, 10, (1e-3, 1.0), "SGD", 1)
    planner = LRTuner(0.1, every=1, horizon=1, explore=0.99)
    state = planner.start(spec, [0])
    for number, (losses, expected) in enumerate(cases):
        measured = {"val_loss": np.array(losses)[None, :, None]}
        rate, state = planner.plan(state, {"step": np.array([10 * number])}, lambda *_, measured=measured: measured)
        assert rate == pytest.approx([expected])


@pytest.mark.parametrize("planner", REACTIVE, ids=lambda planner: planner.name)
def test_a_run_does_not_depend_on_its_neighbours_and_resumes(planner):
    alone = rollout(planner, TASK, [3], execution=Execution(backend="loop"))[0]
    runs = [PlannedRun(planner, seed) for seed in (1, 3)]
    among = Rollout(TASK, runs, execution=Execution(backend="loop"))
    for _ in range(3):
        among.advance()
    snapshot = among.snapshot()
    ends = []
    for _ in range(2):
        while not among.done:
            among.advance()
        ends.append(repr(replace(among.record(1, "final"), planning_seconds=0.0)))
        among.restore(snapshot)
    assert ends[0] == ends[1]
    assert repr(dict(alone.scores)) in ends[0]
