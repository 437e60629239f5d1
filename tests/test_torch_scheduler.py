"""`PlannerLR`: the rates of the environment's rollouts in a training loop of one's own, however it is stopped."""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR

from lr_env.capabilities import Forking, OwnOptimizer
from lr_env.children import LOOP
from lr_env.env import LRVectorEnv
from lr_env.errors import UserError
from lr_env.registry import has_peak, make_planner, task_settings
from lr_env.rollout import rollout
from lr_env.signals import ALWAYS
from lr_env.tasks import TASKS
from lr_env.tasks.architecture import of_task
from lr_env.tasks.facts import facts
from planners.latent_ode.artifact import MODELS, FittedModel
from planners.latent_ode.data.dataset import run_dataset
from planners.latent_ode.data.schedule_library import schedule_library
from planners.latent_ode.generative.fit import GenerativeFitting, fit_generative
from planners.latent_ode.planner import LatentODE
from planners.reactive import GreedyLR, Hypergradient, LossSlope, Plateau
from planners.schedules import Constant, Cosine, CosineWarmup
from planners.stochastic import PLRS
from planners.torch_scheduler import PlannerLR
from tests import quadratic
from tests.helpers import PLANNERS

TASK = TASKS["DigitsMLP"]
SHORT = replace(TASK, budget=200)
USABLE = sorted(name for name, kind in PLANNERS.items() if not isinstance(kind, Forking | OwnOptimizer))
RANGE = {"lr_range": TASK.lr_range, "task": TASK.name}


def parts(lr=0.1, groups=1, kind=torch.optim.SGD):
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(groups)]
    return kind([{"params": [weight]} for weight in weights], lr=lr)


def layers():
    """An optimizer whose groups have the names of the layers of DigitsMLP."""
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "name": name} for name in "135"], lr=0.1)


def advance(optimizer, scheduler, **signals):
    optimizer.step()
    scheduler.observe(**signals)
    scheduler.step()
    return scheduler.get_last_lr()[0]


@cache
def generative_model(folder):
    """A published model of little training, which plans as any other does."""
    runs = run_dataset(quadratic.records([Cosine(rate) for rate in np.geomspace(0.02, 0.4, 12)]), quadratic.STEPS)
    fitted = fit_generative(runs, GenerativeFitting(iterations=20))
    file = Path(folder) / "generative.safetensors"
    about = {"task": "quadratic", "child_steps": 12 * quadratic.STEPS}
    FittedModel(fitted.model, fitted.scales, schedule_library(runs), about).save(file)
    return str(file)


def planner_of(name, folder=None):
    settings = {**(task_settings(name, TASK) or {}), **({"peak": 0.05} if has_peak(name) else {})}
    if name == "latent-ode-generative":
        settings = {"model": generative_model(folder), "mismatch": "rescaled"}
    return make_planner(name, settings)


@cache
def recorded(name, folder=None):
    """The signals of a run before each segment, with those of the untrained child, and the last rate of each."""
    of_task = name.startswith("latent-ode") and name != "latent-ode-generative"  # whose model is used rescaled
    planner, task = planner_of(name, folder), TASK if of_task else SHORT
    extra = sorted(planner.needs - set(ALWAYS))
    env = LRVectorEnv(task, 1, extra_signals=extra, backend="loop")
    _, infos = env.reset(seed=[0])
    (run,) = rollout(planner, task, [0], execution=LOOP)
    needed = sorted(planner.needs - {"step", "progress", "lr"})
    signals = [{name: float(infos[name][0]) for name in needed}]
    signals += [{name: float(run.curves[name][k]) for name in needed} for k in range(len(run.curves["lr"]))]
    return planner, task, signals, run.curves["lr"]


def replayed(run, kills=(), optimizer_first=True):
    """The rate of every step under the recorded signals; at a kill all is written, and read into fresh objects."""
    planner, task, signals, _ = run
    told = {"facts": facts(task), "architecture": of_task(task)}
    settings = {"budget": task.budget, "segment": task.segment, **RANGE, **told}
    optimizer = layers()
    scheduler = PlannerLR(optimizer, planner, **settings)
    scheduler.observe(**signals[0])
    rates = []
    for step in range(1, task.budget + 1):
        rates.append(max(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        if step % task.segment == 0:
            scheduler.observe(**signals[step // task.segment])
        scheduler.step()
        if step in kills:
            file = io.BytesIO()
            torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            optimizer = layers()
            if optimizer_first:
                optimizer.load_state_dict(saved["optimizer"])
            scheduler = PlannerLR(optimizer, planner, **settings)
            scheduler.load_state_dict(saved["scheduler"])
            if not optimizer_first:
                optimizer.load_state_dict(saved["optimizer"])
    return np.array(rates)


@pytest.mark.filterwarnings("ignore:planner 'latent-ode-transfer'. beyond:UserWarning")  # the task is a small one
@pytest.mark.parametrize("name", USABLE)
def test_the_rates_are_those_of_the_environment_and_survive_every_kill(name, tmp_path_factory):
    run = recorded(name, str(tmp_path_factory.getbasetemp()))
    task, expected = run[1], run[-1]
    rates = replayed(run)
    np.testing.assert_array_equal(rates[task.segment - 1 :: task.segment], expected)
    random = np.random.default_rng(0)
    for first in (True, False):
        kills = set(random.choice(np.arange(1, task.budget), 10, replace=False).tolist())
        np.testing.assert_array_equal(replayed(run, kills, first), rates)


def test_a_cosine_is_that_of_torch():
    ours, theirs = parts(), parts()
    planned, cosine = PlannerLR(ours, Cosine(0.1), 50, 1), CosineAnnealingLR(theirs, 50)
    for _ in range(49):
        advance(ours, planned)
        theirs.step()
        cosine.step()
        assert planned.get_last_lr() == pytest.approx(cosine.get_last_lr())


def test_a_scheduler_on_a_cosine_loads_nothing_but_torch():
    code = """
import sys, torch, torch.distributed
torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1))
before = {name.partition(".")[0] for name in sys.modules}
from planners.torch_scheduler import PlannerLR
from planners.schedules import Cosine
PlannerLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), Cosine(0.1), 10)
after = {name.partition(".")[0] for name in sys.modules}
print(*sorted(after - before - set(sys.stdlib_module_names)))
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["lr_env", "planners"]


def test_every_group_keeps_its_share_and_new_ones_get_one():
    optimizer = parts(groups=3)
    for group, rate in zip(optimizer.param_groups, (0.4, 0.1, 0.0), strict=True):
        group["lr"] = rate
    scheduler = PlannerLR(optimizer, Cosine(2.0), 4, 1)
    assert scheduler.get_last_lr() == [2.0, 0.5, 0.0]
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.2})
    advance(optimizer, scheduler)
    assert scheduler.get_last_lr() == pytest.approx(2 * (1 + math.cos(math.pi / 4)) / 2 * np.array([1, 0.25, 0, 0.5]))
    resumed = PlannerLR(optimizer, Cosine(2.0), 4, 1)
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    with pytest.raises(UserError, match="of 4 parameter groups, and the optimizer has 1: add the same groups"):
        PlannerLR(parts(), Cosine(2.0), 4, 1).load_state_dict(scheduler.state_dict())


def test_the_share_of_a_group_that_was_added_survives_a_kill():
    """Its rate is above those at the start, of which the largest is what the shares are of."""
    optimizer = parts()
    scheduler = PlannerLR(optimizer, Cosine(2.0), 4, 1)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.3})
    advance(optimizer, scheduler)
    assert scheduler.get_last_lr()[1] == pytest.approx(3 * scheduler.get_last_lr()[0])
    resumed = PlannerLR(optimizer, Cosine(2.0), 4, 1)
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == scheduler.get_last_lr()


def test_where_no_group_has_a_rate_each_gets_the_commanded_one():
    scheduler = PlannerLR(parts(lr=0.0, groups=2), Cosine(0.1), np.int64(10))
    assert scheduler.get_last_lr() == [0.1, 0.1]


@dataclass(frozen=True)
class ByName:
    """A rate for each parameter group, and for each step."""

    name = "by-name"
    needs = frozenset({"step"})

    def start(self, run, seeds):
        return {"groups": list(run.groups), "segment": run.segment}

    def plan(self, state, signals):
        rates = np.arange(1, len(state["groups"]) + 1)[:, None] * 0.1 + np.arange(state["segment"]) * 0.01
        return rates[None], state


def test_planners_of_groups_set_them_by_name():
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": [weight], "name": name} for weight, name in zip(weights, ("head", "body"), strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = PlannerLR(optimizer, ByName(), 4, 2)
    assert scheduler.get_last_lr() == pytest.approx([0.1, 0.2])
    optimizer.param_groups.reverse()
    advance(optimizer, scheduler)
    assert scheduler.get_last_lr() == pytest.approx([0.21, 0.11])


def test_rates_in_tensors_are_filled_in_place_and_compiled_optimizers_are_not_compiled_again():
    rate = torch.tensor(0.1)
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.SGD([weight], lr=rate)
    scheduler = PlannerLR(optimizer, Cosine(0.1), 20, 1)
    compiled = torch.compile(optimizer.step, backend="eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    expected = 1.0
    for step in range(10):
        expected -= 0.1 * (1 + math.cos(math.pi * step / 20)) / 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            compiled()
        scheduler.step()
        assert scheduler.last_epoch == step + 1
    assert optimizer.param_groups[0]["lr"] is rate
    assert weight.item() == pytest.approx(expected, rel=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_steps_are_counted_and_not_calls():
    optimizer = parts()
    scheduler = PlannerLR(optimizer, Cosine(0.1), 10, 1)
    scheduler.step()  # before any step, or after one that a gradient scaler skipped
    assert scheduler.last_epoch == 0
    optimizer.step()
    for _ in range(4):  # as accelerate does with four processes
        scheduler.step()
    assert scheduler.last_epoch == 1
    for _ in range(3):
        optimizer.step()
    scheduler.step()  # once in three steps
    assert scheduler.last_epoch == 4
    assert not hasattr(scheduler, "total_steps")  # at which accelerate stops


def test_a_gradient_scaler_that_skips_a_step_does_not_move_the_schedule():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scheduler = PlannerLR(optimizer, Cosine(0.1), 10, 1)
    for step, factor in enumerate((1.0, math.inf, 1.0)):
        optimizer.zero_grad()
        scaler.scale(weight.sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        assert scheduler.last_epoch == (1, 1, 2)[step]


def test_a_program_that_never_steps_the_optimizer_is_told():
    scheduler = PlannerLR(parts(), Cosine(0.1), 10, 1)
    for _ in range(99):
        scheduler.step()
    with pytest.raises(UserError, match=r"optimizer.step\(\) never: .* give count_calls=True"):
        scheduler.step()
    counting = PlannerLR(parts(), Cosine(0.1), 10, 1, count_calls=True)
    counting.step()
    assert counting.last_epoch == 1


def test_a_loss_that_comes_after_the_call_is_seen_one_step_later():
    """As in Hugging Face's trainer: the evaluation at the end of a segment follows on `step`."""
    optimizer = parts()
    scheduler = PlannerLR(optimizer, Plateau(0.1, patience=0, factor=0.5), 100, 5)
    rates = []
    for step in range(1, 21):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
        if step % 5 == 0:
            scheduler.observe(val_loss=torch.tensor(1.0))
    # The first loss, at step 5, is the best so far; those at 10 and 15 are no better, and are answered a step later.
    assert rates == [0.1] * 10 + [0.05] * 5 + [0.025] * 5


def test_a_segment_without_a_loss_does_not_count():
    """A rate every step, a validation loss every 10: the plateau is counted in losses."""
    optimizer = parts()
    scheduler = PlannerLR(optimizer, Plateau(0.1, patience=1, factor=0.5), 100, 1)
    rates = []
    for step in range(1, 51):
        optimizer.step()
        if step % 10 == 0:
            scheduler.observe(val_loss=1.0)
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    assert rates.index(0.05) == 29  # the best at 10, and two that are no better, at 20 and 30
    for kind in (GreedyLR(0.1, patience=0), LossSlope(0.1, window=3)):
        optimizer = parts()
        scheduler = PlannerLR(optimizer, kind, 100, 1)
        signal = next(iter(kind.needs - {"step"}))
        rates = {advance(optimizer, scheduler, **({signal: 1.0} if step == 8 else {})) for step in range(40)}
        assert rates <= {0.1, 0.1 / 0.95}


@dataclass(frozen=True)
class Watcher:
    """Keeps what it sees; its rate is the first validation loss."""

    name = "watcher"
    needs = frozenset({"step", "val_loss", "train_loss"})

    def start(self, run, seeds):
        return {"seen": []}

    def plan(self, state, signals):
        names = ("step", "val_loss", "val_loss_age", "train_loss")
        seen = [float(signals[name][0]) if name in signals else None for name in names]
        return np.array([signals["val_loss"][0]]), {"seen": [*state["seen"], seen]}


def test_what_a_planner_sees_of_observations():
    """Means of training losses, the last validation loss with its age, and NaN is no training loss."""
    optimizer = parts()
    scheduler = PlannerLR(optimizer, Watcher(), 12, 4)
    assert scheduler.get_last_lr() == [0.1]  # its own, for there is no loss of the untrained network yet
    scheduler.observe(val_loss=0.5, train_loss=2.0)
    assert scheduler.get_last_lr() == [0.5]
    total = torch.zeros(())
    for step in range(1, 10):
        optimizer.step()
        total += 1.0
        scheduler.observe(train_loss=total if step != 2 else math.nan)
        if step in (2, 3):
            scheduler.observe(val_loss=0.1 * step)
        scheduler.step()
    seen = scheduler._session.state["seen"]
    assert seen[0] == [0.0, 0.5, 0.0, 2.0]
    # Planned at step 5, for a validation loss might have come after the call at 4: mean of 1, 3, 4, 5.
    assert seen[1] == [4.0, pytest.approx(0.3), 2.0, pytest.approx(13 / 4)]
    assert seen[2] == [8.0, pytest.approx(0.3), 6.0, pytest.approx((6 + 7 + 8 + 9) / 4)]


@pytest.mark.parametrize(
    ("planner", "signals", "message"),
    [
        (Watcher(), {"train_loss": 1.0}, r"'val_loss', which was never observed up to step 0 \(observed: train_loss\)"),
        (
            Watcher(),
            {"loss": 1.0},
            r"\(observed: loss\): call observe\(train_loss=..., val_loss=...\) before the first step",
        ),
        (Plateau(0.1), {"train_loss": 1.0}, r"'val_loss', which was never observed up to step 11 .* once in 10 steps"),
        (Hypergradient(0.1), {}, r"'update_product', which was never observed up to step 11 \(observed: nothing\)"),
        (planner_of("ppo"), {"val_loss": 1.0}, "planner 'ppo' needs the signal '[a-z_]+', which was never observed"),
    ],
)
def test_a_signal_that_never_comes_is_named(planner, signals, message):
    optimizer = parts()
    scheduler = PlannerLR(optimizer, planner, 100, 10)
    with pytest.raises(UserError, match=message):
        [advance(optimizer, scheduler, **signals) for _ in range(50)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlannerLR(parts(), planner_of("lookahead"), 10), "'lookahead' tries rates on forks of the run"),
        (lambda: PlannerLR(parts(), make_planner("schedule-free-sgd", {"peak": 0.1}), 10), "an optimizer of its own"),
        (lambda: PlannerLR(parts(), Cosine(0.1), 0), "budget 0: it must be a whole number of at least 1"),
        (lambda: PlannerLR(parts(), Cosine(0.1), 10.5), "budget 10.5: it must be a whole number"),
        (lambda: PlannerLR(parts(), Cosine(0.1), 10, 20), "segment 20: it is longer than the budget of 10 steps"),
        (lambda: PlannerLR(parts(), "wsd", 10), r"'wsd' is no planner: give an object, such as WSD\(peak=0.1\)"),
        (lambda: PlannerLR(parts(), Cosine, 10), "Cosine'> is no planner: give an object"),
        (lambda: PlannerLR(torch.nn.Identity(), Cosine(0.1), 10), "Identity is no torch.optim.Optimizer"),
        (lambda: PlannerLR(parts(), Cosine(20.0), 10), "asks for the learning rate 20, outside the task's range"),
        (lambda: PlannerLR(parts(), Plateau(0.1), 10).observe(val_loss="low"), "signal 'val_loss' is 'low'"),
        (lambda: PlannerLR(parts(), Plateau(0.1), 10).observe(val_loss=torch.ones(2)), r"shape \(2,\): observe one"),
        (lambda: PlannerLR(parts(), Cosine(0.1), 10).load_state_dict({"last_epoch": 3}), "no state of a PlannerLR"),
        (lambda: PlannerLR(parts(), PLRS(0.1), 10)._update_lr(3), "counts optimizer steps by itself"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_another_planner_or_model_file_is_refused(tmp_path):
    state = PlannerLR(parts(), Cosine(0.1), 10, 2).state_dict()
    with pytest.raises(UserError, match=r"of settings \{'peak': 0.1.*go on with the planner that began"):
        PlannerLR(parts(), Cosine(0.2), 10, 2).load_state_dict(state)
    with pytest.raises(UserError, match="of planner 'cosine', not 'constant'"):
        PlannerLR(parts(), Constant(0.1), 10, 2).load_state_dict(state)
    with pytest.raises(UserError, match="of segments of 2 steps, not 5: give segment=2"):
        PlannerLR(parts(), Cosine(0.1), 10, 5).load_state_dict(state)
    file = tmp_path / "model.safetensors"
    planner = LatentODE(model=str(file), mismatch="rescaled")
    MODELS.find("DigitsMLP").save(file)
    settings = {"budget": TASK.budget, "segment": TASK.segment, **RANGE}
    state = PlannerLR(parts(), planner, **settings).state_dict()
    MODELS.find("FashionLeNet5").save(file)
    with pytest.raises(UserError, match="has another model file than the run was begun with"):
        PlannerLR(parts(), planner, **settings).load_state_dict(state)
    file.unlink()
    with pytest.raises(UserError, match=r"there is no model '.*model.safetensors'"):
        PlannerLR(parts(), planner, **settings)


def test_a_longer_and_a_shorter_budget():
    optimizer = parts()
    scheduler = PlannerLR(optimizer, Cosine(0.1), 10, 1)
    for _ in range(4):
        advance(optimizer, scheduler)
    scheduler.extend(20)
    assert advance(optimizer, scheduler) == pytest.approx(0.1 * (1 + math.cos(math.pi * 5 / 20)) / 2)
    scheduler.extend(8)
    assert advance(optimizer, scheduler) == pytest.approx(0.1 * (1 + math.cos(math.pi * 6 / 8)) / 2)
    last = [advance(optimizer, scheduler), advance(optimizer, scheduler)][1]
    with pytest.warns(UserWarning, match=r"the budget of 8 steps is spent: .* call extend\(budget\)"):
        assert advance(optimizer, scheduler) == last
    with pytest.raises(UserError, match="a budget of 3 steps is spent"):
        scheduler.extend(3)
    scheduler.extend(12)
    assert advance(optimizer, scheduler) == pytest.approx(0.1 * (1 + math.cos(math.pi * 10 / 12)) / 2)


def test_after_a_warm_up_of_torch_and_beside_another_scheduler():
    def made():
        optimizer = parts()
        warm = LinearLR(optimizer, 0.1, total_iters=5)
        return optimizer, SequentialLR(optimizer, [warm, PlannerLR(optimizer, Cosine(0.2), 10, 1)], milestones=[5])

    optimizer, scheduler = made()
    rates, saved = [], None
    for step in range(14):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        if step == 8:
            saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    cosine = 0.2 * (1 + np.cos(np.pi * np.arange(9) / 10)) / 2
    np.testing.assert_allclose(rates, [*np.linspace(0.01, 0.1, 6)[:5], *cosine])
    optimizer, scheduler = made()
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert optimizer.param_groups[0]["lr"] == rates[9]
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == rates[10]
    optimizer = parts()
    first, halved = PlannerLR(optimizer, CosineWarmup(0.2), 10, 1), ConstantLR(optimizer, 0.5, total_iters=100)
    chained = ChainedScheduler([first, halved], optimizer)
    for _ in range(5):
        optimizer.step()
        chained.step()
    assert first.last_epoch == 5
    assert chained.get_last_lr() == first.get_last_lr()


def test_beliefs_of_a_live_run():
    planner, _, signals, _ = recorded("latent-ode")
    optimizer = parts()
    scheduler = PlannerLR(optimizer, planner, TASK.budget, TASK.segment, **RANGE)
    scheduler.observe(**signals[0])
    assert scheduler.log().keys() >= {"lr", "forecast_loss", "forecast_warning", "forecast_low", "forecast_high"}
    for step in range(1, TASK.budget // 2):
        optimizer.step()
        if step % TASK.segment == 0:
            scheduler.observe(**signals[step // TASK.segment])
        scheduler.step()
    (first, *later) = scheduler.explain()
    assert first.segment == 0
    assert later
    log = scheduler.log()
    assert 0 < log["forecast_low"] < log["forecast_high"] < 1
    assert log["forecast_warning"] == 0.0
    assert PlannerLR(parts(), Cosine(0.1), 10).log().keys() == {"lr", "planning_seconds"}


def test_a_checkpoint_of_torch_distributed(tmp_path):
    """`torch.distributed.checkpoint` loads in place, into the state of a fresh scheduler."""
    optimizer = parts()
    scheduler = PlannerLR(optimizer, GreedyLR(0.1, patience=1), 40, 4)
    for step in range(18):
        advance(optimizer, scheduler, train_loss=1 / (step + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of a process group that is not there
        dcp.save({"scheduler": scheduler.state_dict()}, checkpoint_id=tmp_path / "saved")
        fresh = PlannerLR(parts(), GreedyLR(0.1, patience=1), 40, 4)
        state = {"scheduler": fresh.state_dict()}
        dcp.load(state, checkpoint_id=tmp_path / "saved")
    fresh.load_state_dict(state["scheduler"])
    assert fresh.get_last_lr() == scheduler.get_last_lr()
    assert fresh.state_dict() == scheduler.state_dict()
