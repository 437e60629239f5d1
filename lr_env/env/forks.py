"""Forks: copies of running children, trained under other rates and thrown away, to look ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.children import Children
from lr_env.env.episodes import Episodes
from lr_env.errors import UserError
from lr_env.planner import ForkMeasurements
from lr_env.rates import clipped

_STREAM = 0x0F02C

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Forks:
    """Trains forks of N runs, which themselves stay as they are.

    All forks of a run at one step see the same batches and the same noise, so that they differ in their rates alone.
    Batches and noise follow from the child's seed and step, and are not those that the run itself will see next. A fork
    ends where a run would: when a loss is above the run's bound of divergence.

    Forks have their own children: as many as there are runs, of the same backend; more forks are trained in turns. So
    the memory is known before training begins, a stack always has the same blocks (a resumed rollout gives the same
    bits), and the backend was chosen for this number of children.

    Args:
        episodes: the runs that are forked.

    Raises:
        UserError: the memory does not hold as many children again.
    """

    def __init__(self, episodes: Episodes) -> None:
        self.episodes = episodes
        children = episodes.children
        try:
            self._fork_children = Children(
                children.task,
                [0] * len(children),
                children.execution,
                children.dtype,
                extra_signals=children.extra_signals,
            )
        except UserError as error:
            raise UserError(f"a planner that looks ahead needs a second child for each run: {error}") from None

    def measure(self, rows: Sequence[int], lr: Any, segments: int) -> tuple[ForkMeasurements, Counts]:
        """Train forks of some runs.

        Args:
            rows: indices of the runs, (runs,). Those that have ended are not forked.
            lr: rates of each run's forks, (runs, forks), or (runs, forks, segments) to change them between segments.
            segments: length of the forks.

        Returns:
            What was measured; see `lr_env.planner.ForkMeasurements`. And the steps that the forks of each run were
            trained for, all of its forks together, (runs,).

        Raises:
            UserError: wrong shapes, or rates outside the task's range.
        """
        live = ~self.episodes.ended[list(rows)]
        lr = self._checked(lr, segments, live)
        runs, forks, segments = lr.shape
        segment = self.episodes.task.segment
        losses = {
            "train_loss": np.full((runs * forks, segments), np.inf),
            "val_loss": np.full((runs * forks, segments), np.inf),
            "step_losses": np.full((runs * forks, segments * segment), np.inf),
        }
        steps = np.zeros(runs * forks, dtype=np.int64)
        sources = np.repeat(np.asarray(rows, dtype=np.int64), forks)
        forked = np.flatnonzero(np.repeat(live, forks))
        seeds = self._seeds(sources)
        for start in range(0, len(forked), len(self._fork_children)):
            part = forked[start : start + len(self._fork_children)]
            self._fork_children.restore(self.episodes.children.snapshot(sources[part].tolist()), range(len(part)))
            self._fork_children.order.assign(range(len(part)), seeds[part])
            self._train(part, lr.reshape(-1, segments)[part], self.episodes.loss_bound[sources[part]], losses, steps)
        measured = {name: values.reshape(runs, forks, -1) for name, values in losses.items()}
        return measured, steps.reshape(runs, forks).sum(1)

    def _train(self, part: Counts, lr: Floats, bound: Floats, losses: dict[str, Floats], steps: Counts) -> None:
        """Train one turn of forks and write down their losses and steps.

        Args:
            part: positions of the forks in `losses` and `steps`, (turn,).
            lr: their rates, (turn, segments).
            bound: the loss above which each has diverged, (turn,).
            losses: receives the losses, (all forks, ...).
            steps: counts the steps, (all forks,).
        """
        segment = self.episodes.task.segment
        rates = np.full(len(self._fork_children), self.episodes.task.lr_start)
        live = np.arange(len(part))
        for number in range(lr.shape[1]):
            here = live.tolist()
            rates[here] = lr[here, number]
            train = self._fork_children.train(rates, here)[here]
            val = self._fork_children.measure(here)["val_loss"]
            steps[part[live]] += segment
            well = (train <= bound[live]) & (val <= bound[live])  # false for NaN, too
            live = live[well]
            if not len(live):
                break
            losses["train_loss"][part[live], number] = train[well]
            losses["val_loss"][part[live], number] = val[well]
            within = slice(number * segment, (number + 1) * segment)
            losses["step_losses"][part[live], within] = self._fork_children.step_losses[live]

    def _checked(self, lr: Any, segments: Any, live: NDArray[np.bool_]) -> Floats:
        """Check rates and return them as (runs, forks, segments); those of runs that have ended may be anything."""
        if isinstance(segments, bool) or not isinstance(segments, int | np.integer) or segments < 1:
            raise UserError(f"a probe over {segments!r} segments: give a whole number of at least 1")
        try:
            rates = np.array(lr, dtype=np.float64)
        except (TypeError, ValueError):
            raise UserError("a probe with rates that are no numbers: give an array of floats") from None
        if rates.ndim == 2:
            rates = np.repeat(rates[:, :, None], segments, axis=2)
        if rates.ndim != 3 or rates.shape[::2] != (len(live), segments) or not rates.shape[1]:
            raise UserError(
                f"a probe with rates of shape {np.shape(lr)} for {len(live)} runs over {segments} segments: give "
                f"({len(live)}, forks) or ({len(live)}, forks, {segments})"
            )
        low, high = self.episodes.task.lr_range
        rates[live], wrong = clipped(rates[live], low, high)
        if wrong.size:
            raise UserError(f"a probe with the learning rate {wrong[0]:g}: the task's range is {low:g} to {high:g}")
        return rates

    def _seeds(self, sources: Counts) -> Counts:
        """Seeds of the forks' batches and noise: one for each run and step."""
        children = self.episodes.children
        seeds: dict[int, int] = {}
        for row in sources.tolist():
            if row not in seeds:
                origin = [_STREAM, int(children.order.seeds[row]), int(children.steps[row])]
                seeds[row] = int(np.random.SeedSequence(origin).generate_state(1, np.uint64)[0] >> 1)
        return np.array([seeds[row] for row in sources.tolist()], dtype=np.int64)
