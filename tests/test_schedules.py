"""Schedules against torch's own value by value, against closed forms, and for what all of them promise."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_lr

import planners
from lr_env.children.meters import on_demand_signals
from lr_env.errors import UserError
from lr_env.planner import Planner, RunSpec
from lr_env.signals import ALWAYS
from planners import schedules as ours
from planners.piecewise import Knots
from tests.helpers import ENTRY_POINTS, PLANNERS

SCHEDULES = [planner for planner in PLANNERS.values() if planner.__module__ == ours.__name__]
SETTINGS = [s for planner in SCHEDULES for s in (planner(0.3), *planner.candidates([0.1, 0.2, 0.4]))]
ALWAYS_AT_PEAK = tuple(planner for planner in SCHEDULES if planner not in (ours.OneCycle, ours.Cyclic))
PEAK = 0.3


def run_spec(budget: int, segment: int) -> RunSpec:
    return RunSpec("toy", budget, segment, (1e-9, 10.0), "SGD", 1)


def torch_rates(make: Callable[[Optimizer, int], Any], n: int) -> np.ndarray:
    """The rate under which a torch scheduler takes each of n optimizer steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer, n)
    rates = []
    for k in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if k + 1 < n:
            scheduler.step()
    return np.array(rates)


def torch_warm_cosine(optimizer: Optimizer, n: int) -> Any:
    W = int(0.2 * n + 0.5)
    warm_up = torch_lr.LinearLR(optimizer, 1 / W, 1.0, max(1, W - 1))
    return torch_lr.SequentialLR(optimizer, [warm_up, torch_lr.CosineAnnealingLR(optimizer, n - W)], [W])


class TorchRestarts(torch_lr.CosineAnnealingWarmRestarts):
    """Torch takes a first cycle of a whole number of epochs, and fractions of an epoch as time."""

    def __init__(self, optimizer: Optimizer, n: int) -> None:
        self.n, self.k = n, -1
        super().__init__(optimizer, T_0=1, T_mult=2)

    def step(self, epoch: float | None = None) -> None:
        self.k += 1
        super().step(7 * self.k / self.n)  # pyright: ignore[reportArgumentType]


TWINS: dict[str, tuple[ours.Schedule, Callable[[Optimizer, int], Any]]] = {
    "constant": (ours.Constant(PEAK), lambda o, n: torch_lr.ConstantLR(o, 1.0, n)),
    "linear": (ours.Linear(PEAK), lambda o, n: torch_lr.LinearLR(o, 1.0, 0.0, n)),
    "cosine": (ours.Cosine(PEAK), lambda o, n: torch_lr.CosineAnnealingLR(o, n)),
    "cosine-warmup": (ours.CosineWarmup(PEAK, warmup=0.2), torch_warm_cosine),
    "one-cycle": (ours.OneCycle(PEAK), lambda o, n: torch_lr.OneCycleLR(o, PEAK, n, cycle_momentum=False)),
    "one-cycle late": (
        ours.OneCycle(PEAK, pct_start=0.95, div_factor=3.0, final_div_factor=50.0),
        lambda o, n: torch_lr.OneCycleLR(
            o, PEAK, n, pct_start=0.95, div_factor=3.0, final_div_factor=50.0, cycle_momentum=False
        ),
    ),
    "step": (ours.Step(PEAK, 2, 0.3), lambda o, n: torch_lr.StepLR(o, n // 2, 0.3)),
    "step uneven": (
        ours.Step(PEAK),
        lambda o, n: torch_lr.MultiStepLR(o, [-(-n // 3), -(-2 * n // 3)], 0.1),
    ),
    "multi-step": (
        ours.MultiStep(PEAK),
        lambda o, n: torch_lr.MultiStepLR(o, [(n + 1) // 2, (3 * n + 2) // 4], 0.1),
    ),
    "exponential": (ours.Exponential(PEAK), lambda o, n: torch_lr.ExponentialLR(o, 0.01 ** (1 / n))),
    "polynomial": (ours.Polynomial(PEAK), lambda o, n: torch_lr.PolynomialLR(o, n, 2.0)),
    "polynomial root": (ours.Polynomial(PEAK, 0.5), lambda o, n: torch_lr.PolynomialLR(o, n, 0.5)),
    "sgdr": (ours.SGDR(PEAK), TorchRestarts),
    "cyclic": (
        ours.Cyclic(PEAK),
        lambda o, n: torch_lr.CyclicLR(o, 0.25 * PEAK, PEAK, n / 6, cycle_momentum=False),  # pyright: ignore
    ),
}


@pytest.mark.parametrize("n", [10, 28, 100])
@pytest.mark.parametrize("twin", TWINS)
def test_every_rate_is_that_of_torch(twin, n):
    schedule, make = TWINS[twin]
    np.testing.assert_allclose(schedule.preview(n), torch_rates(make, n), rtol=1e-12, atol=0)


def test_sgdr_is_torch_with_a_whole_first_cycle():
    def make(optimizer, n):
        return torch_lr.CosineAnnealingWarmRestarts(optimizer, T_0=n // 7, T_mult=2)

    np.testing.assert_allclose(ours.SGDR(PEAK).preview(28), torch_rates(make, 28), rtol=1e-12, atol=0)


CLOSED_FORMS = [
    (ours.Constant(1.0), [1, 1, 1]),
    (ours.CosineWarmup(1.0, warmup=0.5), [1 / 2, 1, 1, 1 / 2]),
    (
        ours.InverseSqrt(1.0, warmup=0.4),
        [1 / 4, 2 / 4, 3 / 4, 1, *np.sqrt([4 / 5, 4 / 6, 4 / 7, 4 / 8, 4 / 9, 0.4])],
    ),
    (ours.WSD(1.0, 0.2, 0.4), [1 / 2, 1, 1, 1, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
    (ours.WSD(1.0, 0.5, 0.5), [1 / 2, 1, 1 / 2]),  # 1.5 decisions each
    (ours.WSDSqrt(1.0, 0.2, 0.4), [1 / 2, 1, 1, 1, 1, 1, 1, 1 / 2, *1 - np.sqrt([2 / 4, 3 / 4])]),
    (ours.SGDR(1.0), [1, 1, 1 / 2]),  # too short for 1 + 2 + 4: T = 1
    (ours.SGDR(1.0, cycles=1), list(ours.Cosine(1.0).preview(9))),
    (ours.Cyclic(1.0, 0.2, cycles=50), [0.2, 1, 0.2, 1]),  # no cycle shorter than 2 decisions
    (ours.OneCycle(1.0), [1, 1 / 25e4]),  # no time to rise
    (ours.MultiStep(1.0), [1]),
    (ours.MultiStep(1.0, (0.25, 0.5, 0.75), 0.5), [1, 1 / 2, 1 / 4, 1 / 8]),
]


@pytest.mark.parametrize(("schedule", "rates"), CLOSED_FORMS, ids=lambda v: getattr(v, "name", ""))
def test_closed_forms(schedule, rates):
    np.testing.assert_allclose(schedule.preview(len(rates)), rates, rtol=1e-14)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(schedule=st.sampled_from(SETTINGS), n=st.integers(1, 300), peak=st.floats(1e-12, 1e3, exclude_min=True))
def test_rates_are_positive_and_peak_at_the_peak(schedule, n, peak):
    schedule = dataclasses.replace(schedule, peak=peak)
    rates, factors = schedule.preview(n), schedule.factors(n)
    assert rates.shape == (n,)
    assert rates.dtype == np.float64
    assert np.isfinite(rates).all()
    assert (rates > 0).all()
    assert rates.max() <= peak * (1 + 1e-12)
    np.testing.assert_array_equal(rates, peak * factors)
    if isinstance(schedule, ALWAYS_AT_PEAK):
        assert rates.max() == pytest.approx(peak, rel=1e-12)
    if warmup := getattr(schedule, "warmup", None):
        W = max(1, int(warmup * n + 0.5))
        assert rates[0] == pytest.approx(peak / W, rel=1e-12)
        assert rates[W - 1] == pytest.approx(peak, rel=1e-12)


@pytest.mark.parametrize("planner", [ours.OneCycle, ours.Cyclic])
def test_peak_is_reached_where_a_decision_falls_on_it(planner):
    assert planner(PEAK).preview(60).max() == pytest.approx(PEAK, rel=1e-12)


@pytest.mark.parametrize("planner", SCHEDULES)
def test_candidates_are_one_a_rate(planner):
    rates = np.logspace(-4, 0, 7)
    candidates = planner.candidates(rates)
    assert [c.peak for c in candidates] == rates.tolist()
    assert len(set(candidates)) == len(rates)
    assert {c.name for c in candidates} == {planner.name}
    shapes = [{k: v for k, v in dataclasses.asdict(c).items() if k != "peak"} for c in candidates]
    assert shapes[0] == shapes[len(planner.tuning_variants)]
    assert sum(s == shapes[0] for s in shapes) == -(-len(rates) // len(planner.tuning_variants))


@pytest.mark.parametrize("schedule", SETTINGS, ids=str)
def test_plan_gives_each_run_the_rate_of_its_own_step(schedule):
    state = schedule.start(run_spec(budget=1250, segment=100), seeds=[3, 1, 2, 9])  # the last 50 steps: no segment
    table = schedule.preview(12)
    lr, after = schedule.plan(state, {"step": np.array([1100, 0, 500, 599]), "lr": np.ones(4)})
    np.testing.assert_array_equal(lr, table[[11, 0, 5, 5]])
    assert lr.dtype == np.float64
    lr[:] = 0  # the caller's own
    again, _ = schedule.plan(after, {"step": np.array([1100.0, 0.0, 500.0, 599.0])})
    np.testing.assert_array_equal(again, table[[11, 0, 5, 5]])


def test_errors_of_plan_name_what_is_wrong():
    schedule = ours.Cosine(PEAK)
    state = schedule.start(run_spec(1000, 100), [0, 1])
    with pytest.raises(UserError, match=r"cosine.*step 1000, .*0 to 999"):
        schedule.plan(state, {"step": np.array([900, 1000])})
    for step in (-1, np.nan):
        with pytest.raises(UserError, match="no rate for step"):
            schedule.plan(state, {"step": np.array([step])})
    with pytest.raises(UserError, match="needs the signal 'step'"):
        schedule.plan(state, {"lr": np.ones(2)})
    with pytest.raises(UserError, match="at least one segment"):
        schedule.start(run_spec(50, 100), [0])
    with pytest.raises(UserError, match="underflows"):
        ours.Polynomial(1.0, power=1e4).preview(100)


@pytest.mark.parametrize("schedule", SETTINGS, ids=str)
def test_settings_survive_json(schedule):
    again = type(schedule)(**json.loads(json.dumps(dataclasses.asdict(schedule))))
    assert again == schedule
    assert hash(again) == hash(schedule)


def test_settings_are_plain_python_numbers():
    schedule = ours.Step(*np.array([0.5], np.float32), *np.array([4]), *np.array([0.5]))
    assert [type(v) for v in dataclasses.astuple(schedule)] == [float, int, float]
    assert schedule == ours.Step(0.5, 4, 0.5)


@pytest.mark.parametrize("planner", SCHEDULES)
def test_no_setting_takes_nonsense(planner):
    for field in dataclasses.fields(planner):
        for bad in (0, -0.1, float("nan"), float("inf"), 10**400, "0.1", None, True, [2.0]):
            with pytest.raises(UserError, match=rf"'{planner.name}'.*{field.name}.*not [^\n]*$"):
                planner(**{"peak": PEAK, field.name: bad})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("cosine-warmup", {"warmup": 1.0}),
        ("one-cycle", {"pct_start": 1.0}),
        ("one-cycle", {"div_factor": 0.5}),
        ("step", {"gamma": 1.0}),
        ("step", {"stages": 2.5}),
        ("multi-step", {"milestones": ()}),
        ("multi-step", {"milestones": (0.75, 0.5)}),
        ("multi-step", {"milestones": (0.5, 0.5)}),
        ("multi-step", {"milestones": (0.5, 1.0)}),
        ("multi-step", {"milestones": 0.5}),
        ("exponential", {"final": 1.5}),
        ("wsd", {"cooldown": 1.5}),
        ("wsd", {"warmup": 0.4, "cooldown": 0.7}),
        ("wsd-sqrt", {"warmup": 0.4, "cooldown": 0.7}),
        ("sgdr", {"cycles": 0}),
        ("cyclic", {"base_ratio": 1.0}),
        ("cyclic", {"cycles": 1001}),
    ],
    ids=str,
)
def test_settings_out_of_range(name, bad):
    with pytest.raises(UserError, match=rf"^planner '{name}': .*{next(iter(bad))}.* must be .*not [^\n]*$"):
        PLANNERS[name](peak=PEAK, **bad)


def test_every_planner_is_declared_under_its_name_and_can_be_imported_from_the_package():
    modules = [module.name for module in pkgutil.walk_packages(planners.__path__, "planners.")]
    modules = [module for module in modules if not module.startswith("planners.callbacks.")]  # of further packages
    classes = [kind for module in modules for kind in vars(importlib.import_module(module)).values()]
    ours = {
        kind
        for kind in classes
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and not inspect.isabstract(kind)
        if hasattr(kind, "plan") and isinstance(getattr(kind, "name", None), str)
    }
    assert {kind for kind in ours if kind.name} - {Knots} == set(PLANNERS.values())
    assert {name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in PLANNERS.items()} == declared_planners()
    assert all(getattr(planners, kind.__name__) is kind and kind.name == name for name, kind in PLANNERS.items())


def declared_planners() -> dict[str, str]:
    return ENTRY_POINTS["lr_env.planners"]


def test_a_schedule_is_imported_as_fast_as_numpy_and_without_torch():
    code = "import sys, planners.schedules; print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(("name", "planner"), PLANNERS.items())
def test_planners_keep_the_contract(name, planner):
    (schedule,) = planner.candidates([PEAK])
    assert isinstance(schedule, Planner)
    assert schedule.name == planner.name == name
    assert "step" in schedule.needs
    assert schedule.needs <= {*ALWAYS, *on_demand_signals()}
    headline = planner.__doc__.splitlines()[0]
    assert headline.endswith(".")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, "peak", 1.0)  # noqa: B010
