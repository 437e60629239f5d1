"""Kinds of children in lockstep: what it gains over one after another, how near the hardware it comes, how it grows."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from lr_env.bench import memory
from lr_env.bench.measures import Effort, in_turns, one_thread, segment_seconds
from lr_env.bench.plain import PlainLoop
from lr_env.bench.table import Bar, Figure
from lr_env.children import Backend, Children, Execution
from lr_env.children.autotune import choose_backend, fastest, wait
from lr_env.children.backend import network_of
from lr_env.children.losses import mean_loss
from lr_env.errors import UserError
from lr_env.tasks import Task
from lr_env.tasks.data import load

TOGETHER = 16
"""Children in the comparison of families."""

SNAPSHOTS = 32
"""Children whose snapshot and restore are timed."""

GROWTH = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "mkldnn", "flash_attention", "cudnn", "linear")


def lockstep_seconds(children: Children, segments: int) -> float:
    """Time that some segments of training take, measuring left out."""
    training, _ = segment_seconds(children, segments)
    return training


def family(task: Task, device: torch.device, effort: Effort, bar: Bar | None) -> list[Figure]:
    """Children in lockstep against the same children one after another, and the arithmetic rate of both."""
    alone = Children(task, range(TOGETHER), execution=Execution(device=str(device), backend=Backend("loop")))
    many = Children(task, range(TOGETHER), fastest(Execution(str(device)), task, TOGETHER))
    segments = max(1, effort.segments // 4)
    one, together = in_turns(
        lambda: lockstep_seconds(alone, segments), lambda: lockstep_seconds(many, segments), rounds=effort.rounds
    )
    steps = TOGETHER * segments * task.segment
    absolute = f"{steps / np.median(together):,.0f} ({many.backend}) and {steps / np.median(one):,.0f}"
    measure = f"{task.name}: child steps/s of {TOGETHER} children in lockstep / one after another"
    flops = step_flops(task) * steps
    products = [product_rate(device) for _ in range(min(3, effort.rounds))]
    share = 100 * flops / np.asarray(together) / np.median(products)
    rates = f"{flops / np.median(together) / 1e9:,.1f} and {np.median(products) / 1e9:,.1f} GFLOP/s; {limit(many)}"
    return [
        Figure(measure, (one / together).tolist(), "x", absolute, bar),
        Figure(f"{task.name}: arithmetic rate in lockstep / of a matrix product", share.tolist(), "%", rates),
    ]


def step_flops(task: Task) -> float:
    """Floating-point operations of the products and convolutions in one step of one child, forward and backward."""
    module = network_of(task, torch.float32).to("meta")
    source = task.source
    dtype = torch.int64 if source.tokens else torch.float32
    inputs = torch.zeros(task.batch_size, *source.input_shape, device="meta", dtype=dtype)
    labels = torch.zeros(task.batch_size, *source.output_shape[:-1], device="meta", dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        mean_loss(module(inputs), labels).backward()
    return float(counter.get_total_flops())


def product_rate(device: torch.device, size: int = 2048) -> float:
    """FLOP/s of the product of two square float32 matrices, the best of several."""
    a, b = torch.randn(2, size, size, device=device, generator=torch.Generator(device).manual_seed(0)).unbind()
    best = float("inf")
    for _ in range(4):
        wait(device)
        start = time.perf_counter()
        torch.mm(a, b)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def limit(children: Children) -> str:
    """What a segment's time goes to, in words: products and convolutions, other operations, and what is around them.

    The profiler sees the thread that started it only, so that one child stands for those of a loop with workers, which
    do the same, each on one core.
    """
    if children.backend.workers > 1:
        with one_thread():
            return limit(
                Children(children.task, [0], execution=Execution(device=str(children.device), backend=Backend("loop")))
            )
    rates = np.full(len(children), children.task.lr_start)
    on_cuda = children.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        start = time.perf_counter()
        children.train(rates)
        wall = time.perf_counter() - start
    products = others = 0.0
    for event in profiler.key_averages():
        spent = (event.self_device_time_total if on_cuda else event.self_cpu_time_total) / 1e6
        if any(word in event.key for word in _PRODUCTS):
            products += spent
        elif event.key.startswith("aten::") or on_cuda:
            others += spent
    whole = max(wall, products + others)
    shares = [round(100 * part / whole) for part in (products, others)]
    return (
        f"time: {shares[0]} % products and convolutions, {shares[1]} % other operations (reading and writing memory), "
        f"{100 - sum(shares)} % calling them"
    )


def snapshots(task: Task, device: torch.device, effort: Effort) -> Figure:
    """Time of one snapshot and one restore over that of a segment."""
    children = Children(task, range(SNAPSHOTS), fastest(Execution(str(device)), task, SNAPSHOTS))

    def save_and_restore() -> float:
        wait(device)
        start = time.perf_counter()
        children.restore(children.snapshot())
        wait(device)
        return time.perf_counter() - start

    saved, trained = in_turns(save_and_restore, lambda: lockstep_seconds(children, 1), rounds=effort.rounds)
    absolute = f"{1000 * np.median(saved):.1f} and {1000 * np.median(trained):,.0f} ms"
    measure = f"{task.name}: time of snapshot() and restore() of {SNAPSHOTS} children / of a segment"
    return Figure(measure, (100 * saved / trained).tolist(), "%", absolute, ("<", 5.0))


def growth(task: Task, device: torch.device, effort: Effort, counts: Sequence[int]) -> list[dict[str, float | str]]:
    """Child steps a second and memory as the number of children grows; stops where memory ends.

    Segments get shorter as children get more, so that each count trains for about as many child steps as the others.
    """
    rows: list[dict[str, float | str]] = []
    for count in counts:
        segment = min(task.segment, max(2, 1024 // count)) if device.type == "cpu" else task.segment
        short = replace(task, segment=segment, budget=segment)
        try:
            backend = choose_backend(Execution(str(device)), short, count)
            before = memory.start_peak(device)
            children = Children(short, range(count), execution=Execution(device=str(device), backend=backend))
        except UserError as error:
            print(f"{task.name}: {error}", file=sys.stderr)
            break
        lockstep_seconds(children, 1)
        seconds = [lockstep_seconds(children, 1) for _ in range(max(3, effort.rounds // 5))]
        rows.append(
            {
                "task": task.name,
                "children": count,
                "backend": str(backend),
                "steps_per_second": count * segment / float(np.median(seconds)),
                "gib": (memory.peak(device) - before) / 2**30,
                "estimated_gib": (children.memory.bytes(count, backend.at_once(count, device)) - children.memory.shared)
                / 2**30,
            }
        )
        del children
    return rows


def against_plain(task: Task, count: int, device: torch.device, effort: Effort, bar: Bar | None) -> list[Figure]:
    """Children in lockstep against one at a time in a plain torch loop, validation included on both sides."""
    segments = max(1, effort.segments // 4)
    short = replace(task, budget=segments * task.segment)
    data = load(task.data, str(device))
    many = Children(short, range(count), fastest(Execution(str(device)), short, count))
    plain, together = in_turns(
        lambda: PlainLoop(short, data, device, 0).seconds(),
        lambda: sum(segment_seconds(many, segments)),
        rounds=max(2, effort.rounds // 3),
    )
    ratio = count * plain / together
    flops = step_flops(task) * count * short.budget
    product = product_rate(device, 8192 if device.type == "cuda" else 2048)
    share = 100 * flops / together / product
    absolute = (
        f"{count * short.budget / np.median(together):,.0f} ({many.backend}) and "
        f"{short.budget / np.median(plain):,.0f} child steps/s"
    )
    measure = f"{task.name}: {count} children in lockstep / one at a time in a plain loop"
    rates = f"{flops / np.median(together) / 1e12:,.2f} and {product / 1e12:,.1f} TFLOP/s"
    return [
        Figure(measure, ratio.tolist(), "x", absolute, bar),
        Figure(f"{task.name}: arithmetic rate / of a large matrix product", share.tolist(), "%", rates),
    ]


def draw_growth(rows: Sequence[dict[str, float | str]], path: Path, machine: str) -> None:
    """Child steps a second and memory over the number of children, a line for each task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(f"Children in lockstep on {machine}", x=0.01, ha="left", fontsize=12, fontweight="bold")
    speed, room = canvas.subplots(1, 2)
    for name in dict.fromkeys(str(row["task"]) for row in rows):
        of_task = [row for row in rows if row["task"] == name]
        counts = [float(row["children"]) for row in of_task]
        speed.plot(counts, [float(row["steps_per_second"]) for row in of_task], "o-", label=name)
        room.plot(counts, [max(float(row["gib"]), 1e-3) for row in of_task], "o-", label=name)
    for axes, label in ((speed, "child steps per second"), (room, "memory of the children [GiB]")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sorted({float(row["children"]) for row in rows}))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("children")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    speed.legend(frameon=False)
    canvas.savefig(path, dpi=110, format="png")
