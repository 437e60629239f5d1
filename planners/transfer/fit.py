"""Fitting of the latent ODE to runs of many tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from lr_env.errors import UserError, find
from lr_env.isolation import isolating
from planners.forecaster.model.encoders import ENCODERS, Graphs, graphs_of
from planners.forecaster.settings import Scaler
from planners.latent_ode.model.early_stopping import EarlyStoppedTrainer, LossHistory
from planners.transfer.descriptors import IN_WORDS, numbers
from planners.transfer.grid import STEPS, Floats
from planners.transfer.model import Sizes, TransferODE
from planners.transfer.runs import Padded, TaskRuns
from planners.transfer.spread import Errors, Schedules, Spread, features

LEAST_TASKS = 10
"""Fewest tasks that a model can be fitted to."""

_NEAR, _FAR = 0.03, 0.3
"""Scale of the errors of a run's end: this, and this times its distance from the best end of its task."""

CHECKED = (0, STEPS // 4)
"""Parts of a run that are seen where a member is stopped early."""

_NEARLY = 0.1
"""How far beyond what was fitted to a task may lie without a word, as a share of that range."""

_STEP = 1e-2
"""Step of the task's code by which slopes are measured."""

_OFFSET, _CURVE = 0.3, 0.2
"""Scales of the errors of what all runs of a task have in common, and of points of curves."""


@dataclass(frozen=True)
class Fitting:
    """Settings of a fit.

    Attributes:
        members: networks of the ensemble.
        updates: of the optimizer.
        tasks: tasks in an update, for each member.
        runs: runs of each of them.
        learning_rate: peak rate of AdamW.
        weight_decay: decoupled.
        encoder: what is told of the network, one of `planners.forecaster.model.encoders.ENCODERS`.
        shuffled: whether each task is told the network of another one: a control.
        code: size of the task code; 0: none.
        without_code: share of the tasks in an update whose code is held at 0, as it is before the first run.
        begun: share of the tasks in an update whose runs are seen up to some time.
        offset_weight, curve_weight: weights of the errors that all runs of a task share, and of points of curves,
            relative to those of ends.
        seed: of everything that is drawn.
    """

    members: int = 5
    updates: int = 4000
    tasks: int = 12
    runs: int = 12
    learning_rate: float = 1e-2
    weight_decay: float = 3e-2
    encoder: str = "summary"
    shuffled: bool = False
    code: int = 6
    without_code: float = 0.5
    begun: float = 0.5
    offset_weight: float = 0.3
    curve_weight: float = 0.3
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted ensemble, with how tasks are described to it, and how far it is off on tasks that it has not seen."""

    model: TransferODE
    scaler: Scaler
    spread: Spread
    held_out: tuple[int, ...] = ()
    history: LossHistory = ()

    def beyond(self, task: TaskRuns) -> list[str]:
        """What of a task lies beyond what was fitted to, e.g. "budget 9000 (150 to 797)"."""
        found = self.scaler.beyond(columns([task]), _NEARLY)
        for name, words in IN_WORDS.items():
            found = [text.replace(name, words) for text in found]
        return found

    def known(self, tasks: Sequence[TaskRuns]) -> Tensor:
        """Scaled descriptions and which of their numbers are known, (1, tasks, known)."""
        return described(self.scaler, tasks)

    def graphs(self, tasks: Sequence[TaskRuns]) -> Graphs | None:
        """Graphs of the tasks' networks, (1, tasks, ...), where the model reads them."""
        return graphs_for(tasks)[torch.arange(len(tasks))[None]] if self.model.sizes.encoder else None

    @torch.no_grad()
    def context(self, tasks: Sequence[TaskRuns]) -> Tensor:
        """See `TransferODE.context`."""
        return self.model.context(self.known(tasks), self.graphs(tasks))

    @torch.no_grad()
    def ends(self, context: Tensor, log_rates: Floats, with_slopes: bool = True) -> tuple[Floats, Floats]:
        """How runs of one task end by each member, and how that hangs on the task's code.

        Args:
            context: of the task, (members, 1, context).
            log_rates: of schedules, (schedules, STEPS).
            with_slopes: whether the slopes are wanted, which take more forecasts; if not, they are 0.

        Returns:
            Ends, (members, schedules), and their slopes along each dimension of the code, (members, code, schedules).
        """
        members, size = self.model.sizes.members, self.model.sizes.code
        codes = torch.cat([torch.zeros(1, size), _STEP * torch.eye(size)])[: None if with_slopes else 1]
        _, ends = self._forecast(context + self.model.of_code(codes.expand(members, -1, -1)), log_rates)
        slopes = (ends[:, 1:] - ends[:, :1]) / _STEP if with_slopes else np.zeros((members, size, len(log_rates)))
        return ends[:, 0], slopes

    @torch.no_grad()
    def curves(self, context: Tensor, log_rates: Floats) -> Floats:
        """Log losses at the end of each part by each member, (members, schedules, STEPS); arguments as for `ends`."""
        return self._forecast(context, log_rates)[0][:, 0]

    def _forecast(self, contexts: Tensor, log_rates: Floats) -> tuple[Floats, Floats]:
        """Curves, (members, contexts, schedules, STEPS), and ends, of contexts (members, contexts, context)."""
        rates = torch.tensor(log_rates, dtype=torch.float32)
        every = contexts[:, :, None].expand(-1, -1, len(rates), -1).flatten(1, 2)
        shape = contexts.shape[1], len(rates)
        along, ends = self.model(every, rates.repeat(shape[0], 1)[None])
        return tuple(part.unflatten(1, shape).numpy().astype(np.float64) for part in (along, ends))  # type: ignore[return-value]


def columns(tasks: Sequence[TaskRuns], summary: bool = True) -> dict[str, np.ndarray]:
    """Descriptions of tasks by name, (tasks,) each."""
    rows = [numbers(task.facts, task.architecture if summary else None) for task in tasks]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}


def described(scaler: Scaler, tasks: Sequence[TaskRuns]) -> Tensor:
    """See `Fitted.known`."""
    return torch.tensor(np.concatenate(scaler(columns(tasks), len(tasks)), 1)[None], dtype=torch.float32)


def graphs_for(tasks: Sequence[TaskRuns]) -> Graphs:
    """Graphs of the tasks' networks, (tasks, ...)."""
    networks = list(dict.fromkeys(task.architecture for task in tasks if task.architecture is not None))
    index = [len(networks) if task.architecture is None else networks.index(task.architecture) for task in tasks]
    return graphs_of(networks)[torch.tensor(index)]


@isolating
def fit(tasks: Sequence[TaskRuns], fitting: Fitting = Fitting()) -> Fitted:
    """Fit an ensemble. Each member holds out a part of the tasks, which stop it early.

    A run's end counts by how far it is from what is forecast, relative to the other runs of its task, and the more the
    nearer it is to the best of them: schedules are to be told apart. What all runs of a task have in common counts
    less.

    Raises:
        UserError: there are too few tasks, there is no such encoder, or the fit diverged.
    """
    told = find("encoder", fitting.encoder, {name: name.split("+") for name in ENCODERS})
    learned = next((name for name in told if name not in ("summary", "none")), "")
    if len(tasks) < LEAST_TASKS:
        raise UserError(f"{len(tasks)} tasks: a model across tasks needs at least {LEAST_TASKS}")
    if fitting.shuffled:
        order = np.random.Generator(np.random.PCG64(fitting.seed)).permutation(len(tasks))
        tasks = [replace(task, architecture=tasks[at].architecture) for task, at in zip(tasks, order, strict=True)]
    scaler = Scaler.of(columns(tasks, "summary" in told))
    known, padded = described(scaler, tasks), Padded.of(tasks)
    graphs = graphs_for(tasks) if learned else None
    sizes = Sizes(known.shape[-1], fitting.members, encoder=learned, code=max(1, fitting.code))
    model = TransferODE(sizes, fitting.seed)
    codes = nn.Parameter(torch.zeros(fitting.members, len(tasks), max(1, fitting.code)))
    draw = torch.Generator().manual_seed(fitting.seed)
    held_out = torch.randperm(len(tasks), generator=draw) % max(2, fitting.members)
    fitted_to = [torch.nonzero(held_out != member)[:, 0] for member in range(fitting.members)]
    left_out = [torch.nonzero(held_out == member)[:, 0] for member in range(fitting.members)]
    size = max(map(len, left_out))
    checked = torch.stack([torch.cat([rows, rows[: size - len(rows)]]) for rows in left_out])

    def losses(rows: Tensor, runs: Tensor, code: Tensor, seen: Tensor) -> Tensor:
        """Losses of runs (members, tasks, runs) of tasks (members, tasks), of which some parts were seen."""
        of_rows = None if graphs is None else graphs[rows]
        context = model.context(known[0][rows], of_rows) + model.of_code(code)
        shape = runs.shape[1:]
        context = context[:, :, None].expand(-1, -1, shape[1], -1).flatten(1, 2)
        take = lambda part: part[rows[..., None], runs]  # noqa: E731
        rates, curves = take(padded.log_rates).flatten(1, 2), take(padded.curves)
        shown = torch.arange(STEPS) < seen[..., None, None]
        window = torch.where(shown, curves, torch.nan).flatten(1, 2)
        along, ends = model(context + model.of_seen(context, rates, window), rates)
        later = torch.where(shown, torch.nan, curves)
        return _loss(
            along.unflatten(1, shape), ends.unflatten(1, shape), later, take(padded.ends), take(padded.gaps), fitting
        )

    def training_loss() -> Tensor:
        rows = torch.stack([of[torch.randint(len(of), (fitting.tasks,), generator=draw)] for of in fitted_to])
        chance = torch.rand(*rows.shape, fitting.runs, generator=draw)
        runs = (chance * padded.counts[rows][..., None]).long()
        code = codes[torch.arange(fitting.members)[:, None], rows]
        used = (torch.rand(rows.shape, generator=draw) >= fitting.without_code)[..., None] * (fitting.code > 0)
        begun = torch.rand(rows.shape, generator=draw) < fitting.begun
        seen = begun * torch.randint(1, STEPS - 2, rows.shape, generator=draw)
        prior = (code**2).sum(-1).mean(-1) / (2 * fitting.runs)
        return losses(rows, runs, code * used, seen) + prior

    every = torch.arange(padded.ends.shape[1])

    def validation_loss() -> Tensor:
        code = torch.zeros(*checked.shape, codes.shape[-1])
        runs = every.expand(*checked.shape, -1)
        of_views = [losses(checked, runs, code, torch.full_like(checked, seen)) for seen in CHECKED]
        return torch.stack(of_views).mean(0)

    trainer = EarlyStoppedTrainer(model, fitting.weight_decay, max(10, fitting.updates // 50))
    trainer.run(
        "tasks", fitting.updates, fitting.learning_rate, [*model.parameters(), codes], training_loss, validation_loss
    )
    fitted = Fitted(model, scaler, Spread(), tuple(held_out.tolist()), tuple(trainer.history))
    return replace(fitted, spread=Spread.of(list(_errors(fitted, tasks))))


def _errors(fitted: Fitted, tasks: Sequence[TaskRuns]) -> Iterator[Errors]:
    """Errors of the forecasts of the member that held out each task."""
    contexts = fitted.context(tasks)
    for place, (task, member) in enumerate(zip(tasks, fitted.held_out, strict=True)):
        if member < len(contexts):
            ends, slopes = fitted.ends(contexts[:, [place]], task.log_rates)
            schedules = Schedules(features(task.log_rates), slopes[[member]])
            yield Errors(schedules, task.ends - ends[member], task.ends, np.array(task.seeds))


def _loss(
    curves: Tensor, ends: Tensor, true_curves: Tensor, true_ends: Tensor, gaps: Tensor, fitting: Fitting
) -> Tensor:
    """Loss of each member, (members,), of forecasts (members, tasks, runs, ...)."""
    there = torch.isfinite(true_ends)
    error = torch.where(there, ends - torch.nan_to_num(true_ends), 0.0)
    weight = there / (_NEAR + _FAR * torch.nan_to_num(gaps))
    centre = (error * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
    relative = ((error - centre).abs() * weight).sum((1, 2)) / there.sum((1, 2))
    offset = (centre.abs() / _OFFSET).mean((1, 2))
    seen = torch.isfinite(true_curves)
    points = torch.where(seen, curves - torch.nan_to_num(true_curves), 0.0).abs() / _CURVE
    along = points.sum((1, 2, 3)) / seen.sum((1, 2, 3))
    return relative + fitting.offset_weight * offset + fitting.curve_weight * along
