"""Benchmarks of the planner `latent-ode` for `lr_env.bench`: how long fits and plans take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torchdiffeq import odeint

from lr_env.bench.measures import one_thread
from lr_env.bench.table import Figure
from lr_env.children import Execution
from lr_env.errors import UserError
from lr_env.planner import RunSpec
from lr_env.records.record import RunRecord
from lr_env.rollout import rollout
from lr_env.tasks import TASKS, Task
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.data.batches import TensorDataset
from planners.latent_ode.data.dataset import RunDataset, run_dataset
from planners.latent_ode.data.scaling import scales_of
from planners.latent_ode.data.schedule_library import schedule_library
from planners.latent_ode.fitting.fit import Fitting, continuation_loss, fit
from planners.latent_ode.model.dynamics import Ensemble
from planners.latent_ode.planner import LatentODE
from planners.latent_ode.sweep.designs import wsd_schedules

RUNS = SEGMENTS = 100
CHILDREN = 20
FITTED_IN, PLANNED_IN, ALL_PLANNED_IN, SHARE = 60.0, 20.0, 100.0, 1.0
"""Bars: seconds of a fit, milliseconds of a plan for one child and for `CHILDREN`, percent of a run's time."""

PLANNED = "FashionLeNet5"
"""The task for which the share of planning in a run is measured."""


def figures(rounds: int, quick: bool) -> tuple[list[Figure], list[str]]:
    """Measure a fit, shortened if `quick`, and plans; also return sentences on what could not be measured."""
    task = TASKS[PLANNED]
    runs = run_dataset([_run(number) for number in range(RUNS)], task.budget)
    fitting = Fitting(dynamics=20, corrections=10) if quick else Fitting()
    begun = time.perf_counter()
    fitted = fit(runs, fitting)
    took = time.perf_counter() - begun
    settings = f"{fitting.sizes.members} models, {fitting.dynamics} + {fitting.corrections} updates"
    measured = [
        Figure(f"fit to {RUNS} runs of {SEGMENTS} segments", [took], "s", settings, ("<", FITTED_IN)),
        *_updates(runs, rounds),
    ]
    with TemporaryDirectory() as folder:
        about = {"task": task.name, "budget": task.budget, "optimizer": type(task.optimizer).__name__}
        file = Path(folder) / "model.safetensors"
        FittedModel(fitted.model, fitted.scales, schedule_library(runs), about).save(file)
        planner = LatentODE(model=str(file))
        for children, bar in ((1, PLANNED_IN), (CHILDREN, ALL_PLANNED_IN)):
            times = _plans(planner, task, children, 3 * rounds)
            measured.append(Figure(f"latent-ode: a plan of a whole run for {children}", times, "ms", "", ("<", bar)))
        try:
            shared = LatentODE(model=task.name), task, max(1, rounds // 3)
            measured.append(_share(*shared, f"{torch.get_num_threads()} threads"))
            with one_thread():
                measured.append(_share(*shared, "1 thread"))
        except UserError as error:
            return measured, [f"The share of planning in a run of {task.name} is not measured. {error}"]
    return measured, []


def _run(number: int) -> RunRecord:
    """Make up the record of a run: only its size matters here."""
    task, noise = TASKS[PLANNED], np.random.default_rng(number).normal(0, 0.01, (SEGMENTS, len(CHANNELS)))
    schedule = wsd_schedules(RUNS, task.tuning_range, 0)[number]
    lr = schedule.preview(SEGMENTS)
    loss = 2.3 * np.exp(-np.cumsum(lr) / 2)
    values = np.stack([loss, loss, 1 - loss / 3], -1) * np.exp(noise)
    return RunRecord(
        "tune",
        schedule.name,
        asdict(schedule),
        number // 20,
        "finished",
        steps=task.budget,
        scores={"final_val_loss": float(loss[-1])},
        curves={"step": task.segment * (1.0 + np.arange(SEGMENTS)), "lr": lr}
        | {name: values[:, channel] for channel, name in enumerate(CHANNELS)},
    )


def _updates(runs: RunDataset, rounds: int) -> list[Figure]:
    """Compare an update of the dynamics with two that torchdiffeq computes, operation by operation."""
    fitting = Fitting()
    dataset, sizes = TensorDataset(runs, scales_of(runs)), fitting.sizes
    rows = torch.arange(RUNS).expand(sizes.members, -1)
    sides = {}
    for name, steps, method in (("ours", sizes.steps, ""), ("midpoint", sizes.steps, "midpoint"), ("rk4", 100, "rk4")):
        model = Ensemble(replace(sizes, steps=steps))
        if method:
            model.solve = _eager(model, method)  # pyright: ignore[reportAttributeAccessIssue]
        sides[name] = model, dataset.batch(rows, torch.zeros_like(rows), steps)

    def update(name: str) -> float:
        model, batch = sides[name]
        begun = time.perf_counter()
        continuation_loss(model, model.initial_state(RUNS), batch, fitting).sum().backward()
        return 1000 * (time.perf_counter() - begun)

    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):  # the first is not counted
        for name, taken in times.items():
            took = update(name)
            if turn:
                taken.append(took)
    median = statistics.median(times["ours"])
    return [
        Figure(
            f"an update of the dynamics, torchdiffeq's {words} over ours",
            [other / ours for other, ours in zip(times[name], times["ours"], strict=True)],
            "x",
            f"{statistics.median(times[name]):.1f} ms / {median:.1f} ms",
        )
        for name, words in (("midpoint", "same steps"), ("rk4", "RK4 on every segment"))
    ]


def _eager(model: Ensemble, method: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a function that does what `Ensemble.solve` does, through torchdiffeq."""

    def solve(state: Tensor, rates: Tensor, span: Tensor) -> Tensor:
        steps = rates.shape[-1]
        drive = (rates[..., None] * model.inner_rate[:, None]).unbind(2)
        pace = (rates.exp() * span[..., None])[..., None].unbind(2)

        def field(time: Tensor, z: Tensor) -> Tensor:
            step = min(int(time * steps + 1e-3), steps - 1)
            return model.outer(torch.tanh(model.inner(z) + drive[step])) * pace[step]

        solved = odeint(field, state, torch.linspace(0, 1, steps + 1), method=method)
        assert isinstance(solved, Tensor)
        return solved.permute(1, 2, 0, 3)

    return solve


def _plans(planner: LatentODE, task: Task, children: int, times: int) -> list[float]:
    """Time plans, in milliseconds."""
    spec = RunSpec(task.name, task.budget, task.segment, task.lr_range, type(task.optimizer).__name__, 0)
    seeds = list(range(children))
    now = planner.plans_at(spec.num_segments)[0]
    state = planner.start(spec, seeds)
    signals = {name: np.full(children, 0.5) for name in planner.needs}
    taken = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        planner.plan(state, signals | {"step": np.full(children, now * task.segment)})
        taken.append(1000 * (time.perf_counter() - begun))
    return taken[1:]


def _share(planner: LatentODE, task: Task, rounds: int, threads: str) -> Figure:
    """Measure the share of planning in the wall time of a run, with a model of real runs."""
    shares, planning, whole = [], [], []
    for seed in range(rounds):
        begun = time.perf_counter()
        (run,) = rollout(planner, task, [seed], execution=Execution(backend="loop"))
        whole.append(time.perf_counter() - begun)
        planning.append(1000 * run.planning_seconds)
        shares.append(planning[-1] / whole[-1] / 10)
    absolute = f"{statistics.median(planning):.0f} ms of {statistics.median(whole):.1f} s"
    measure = f"latent-ode: share of planning in a run of {task.name}, {threads}"
    return Figure(measure, shares, "%", absolute, ("<", SHARE))
