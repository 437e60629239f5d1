"""Looking ahead on the real thing: forks of running children, trained under other rates and thrown away."""

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
    """Trains forks of N runs, without a trace in the runs themselves.

    All forks of a run that are asked for at the same step see the same batches and the same noise, so that only their
    rates tell them apart; these follow from the child's seed and step, and are not those that the run itself will see
    next, so that looking ahead does not mean peeking. A fork ends where a run would: when a loss is above the run's
    bound of divergence.

    The forks have children of their own: as many as there are runs, trained by the same backend, in turns where more
    forks are asked for. So the memory is known before training begins, a stack has the same blocks whatever was asked
    before (a resumed rollout gives the same bits), and a backend that was chosen for so many children is the right one.

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
                str(children.device),
                children.backend,
                children.dtype,
                children.numerics,
                extra_signals=children.extra_signals,
            )
        except UserError as error:
            raise UserError(f"a planner that looks ahead needs a second child for each run: {error}") from None

    def measure(self, rows: Sequence[int], lr: Any, segments: int) -> tuple[ForkMeasurements, Counts]:
        """Train forks of some runs.

        Args:
            rows: which runs, (runs,). Those that have ended are not forked.
            lr: rates of each run's forks, (runs, forks), or (runs, forks, segments) to change them between segments.
            segments: how long.

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
        found = {
            "train_loss": np.full((runs * forks, segments), np.inf),
            "val_loss": np.full((runs * forks, segments), np.inf),
            "step_losses": np.full((runs * forks, segments * segment), np.inf),
        }
        steps = np.zeros(runs * forks, dtype=np.int64)
        sources = np.repeat(np.asarray(rows, dtype=np.int64), forks)
        wanted = np.flatnonzero(np.repeat(live, forks))
        seeds = self._seeds(sources)
        for start in range(0, len(wanted), len(self._fork_children)):
            part = wanted[start : start + len(self._fork_children)]
            self._fork_children.restore(self.episodes.children.snapshot(sources[part].tolist()), range(len(part)))
            self._fork_children.order.assign(range(len(part)), seeds[part])
            self._train(part, lr.reshape(-1, segments)[part], self.episodes.loss_bound[sources[part]], found, steps)
        measured = {name: values.reshape(runs, forks, -1) for name, values in found.items()}
        return measured, steps.reshape(runs, forks).sum(1)

    def _train(self, part: Counts, lr: Floats, bound: Floats, found: dict[str, Floats], steps: Counts) -> None:
        """Train one turn of forks and note what they do.

        Args:
            part: places of the forks in `found` and `steps`, (turn,).
            lr: their rates, (turn, segments).
            bound: the loss above which each has diverged, (turn,).
            found: where the losses go, (all forks, ...).
            steps: where the steps are counted, (all forks,).
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
            found["train_loss"][part[live], number] = train[well]
            found["val_loss"][part[live], number] = val[well]
            within = slice(number * segment, (number + 1) * segment)
            found["step_losses"][part[live], within] = self._fork_children.step_losses[live]

    def _checked(self, lr: Any, segments: Any, live: NDArray[np.bool_]) -> Floats:
        """Rates as (runs, forks, segments); those of runs that have ended may be anything."""
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
        known: dict[int, int] = {}
        for row in sources.tolist():
            if row not in known:
                origin = [_STREAM, int(children.order.seeds[row]), int(children.steps[row])]
                known[row] = int(np.random.SeedSequence(origin).generate_state(1, np.uint64)[0] >> 1)
        return np.array([known[row] for row in sources.tolist()], dtype=np.int64)
