"""Benchmark of the forecaster for `lr_env.bench`: what a forecast, a fit and a graph take."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from lr_env.architecture.tracing import architecture_of
from lr_env.bench.measures import one_thread
from lr_env.bench.table import Bar, Figure
from lr_env.tasks import TASKS
from planners.forecaster.facts import describe
from planners.forecaster.fit import LEAST_CURVES, Fitting
from planners.forecaster.forecaster import Forecaster
from planners.forecaster.termination import SHIPPED

CURVES = 1000
"""Curves of the fit that is timed."""

FORECAST: Bar = ("<=", 10.0)
"""Milliseconds of a forecast by five members."""

FIT: Bar = ("<=", 60.0)
"""Seconds of CPU time."""

GRAPH: Bar = ("<=", 1.0)
"""Seconds."""


def figures(rounds: int, quick: bool) -> tuple[list[Figure], list[str]]:
    """Measure the shipped model on one run, a fit to a part of its curves, and the graph of a ResNet-18."""
    forecaster = Forecaster.load(SHIPPED)
    run = describe(TASKS["DigitsMLP"], lr=0.03)
    some = forecaster.reference.rows(range(2 * LEAST_CURVES if quick else CURVES))
    fitting = Fitting(updates=20) if quick else Fitting()
    network, image = TASKS["CIFAR10ResNet18"].network.build((3, 32, 32), 10), torch.zeros(1, 3, 32, 32)
    with one_thread():
        forecaster.forecast(run)  # what is made once
        forecast = _times(lambda: forecaster.forecast(run), 3 if quick else 10 * rounds)
        architecture_of(network, image)  # the first call imports
        graph = _times(lambda: architecture_of(network, image), 1 if quick else rounds)
        began = time.process_time()
        Forecaster.fit(some, fitting)
        fit = time.process_time() - began
    return [
        Figure(
            "forecast of a run before its start, 5 members, 1 thread",
            [1000 * t for t in forecast],
            "ms",
            "loaded",
            FORECAST,
        ),
        Figure(f"fit of a forecaster to {len(some)} curves, CPU time", [fit], "s", "all methods", FIT),
        Figure("graph of a ResNet-18", graph, "s", "not from the cache", GRAPH),
    ], []


def _times(what: Callable[[], object], rounds: int) -> list[float]:
    """Wall time of each round, s."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        what()
        times.append(time.perf_counter() - began)
    return times
