"""The planner `latent-ode-transfer`: plans on a model of training that was fitted to other tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import numpy as np

from lr_env.architecture.graph import Architecture
from lr_env.capabilities import PlanForecast
from lr_env.errors import UserError
from lr_env.isolation import isolating
from lr_env.planner import RunSpec, Signals, require, step_after
from planners.settings import RATIO, SHARE, Array, Rules, ValidatedSettings
from planners.transfer.artifact import TRANSFER_MODELS, TransferModel
from planners.transfer.descriptors import OPTIMIZERS
from planners.transfer.grid import STEPS, Floats, at_ends, log_rates
from planners.transfer.knowledge import Knowledge, task_without_runs
from planners.transfer.runs import log_ratio
from planners.weights import FromWeights

if TYPE_CHECKING:
    from lr_env.tasks import Task

SHIPPED = "SmallNetworks"
"""The model that is shipped."""

_CLEARLY, _AGREED = 0.02, 0.6
"""Smallest expected gain, log loss, for which the rest of a schedule is replaced, and the share of the draws that have
to expect one."""


class PlanRecord(TypedDict):
    """What was considered at one plan."""

    segment: int  # before which it was made
    rates: Floats  # of the segments, the chosen plan first, (runs, plans, segments)


class PlannerState(TypedDict):
    """The state of the planner."""

    model: str  # fingerprint of the model
    facts: dict[str, Any]  # of the task
    architecture: dict[str, Any] | None
    range: list[float]  # smallest and largest rate
    rates: Floats  # of all segments, (runs, segments)
    losses: Floats  # validation losses so far, NaN where not measured, (runs, segments)
    chance: Floats  # loss of a model that has learned nothing, NaN where it is unknown, (runs,)
    segment: int  # optimizer steps of a segment
    step: int | None  # optimizer step of the last call
    beliefs: list[PlanRecord]


@dataclass(frozen=True)
class TransferredLatentODE(FromWeights, ValidatedSettings):
    """Plans with what a latent ODE learned from the training of other tasks, and needs no run of this one.

    The model is an ensemble of latent ODEs driven by the log of the learning rate (after arXiv:2509.23052, Sampson &
    Melchior 2025), told what a task is: the network as a graph (arXiv:2412.15554), the optimizer, sizes. `lr-env fit
    --family NAME` fits one across tasks. Before the first run the planner plays the schedule with the lowest expected
    regret. Runs of the task, as `lr-env tune TASK` makes them, update what is believed of it. During a run, the losses
    so far do: the rest of the schedule is replaced where another is clearly better.

    Attributes:
        model: a model across tasks that is shipped, or a .safetensors file: one of `lr-env fit --family`, or one of
            `lr-env tune`, which knows runs of the task as well.
        plan_interval: share of the run between two plans. 1 plans only at the start.
        last_plan: share of the run after which no plan is made.
    """

    name = "latent-ode-transfer"
    tuner: ClassVar[str] = "latent-ode-transfer"
    weights_field = "model"
    needs = frozenset({"step", "val_loss"})
    may_be_missing = frozenset({"val_loss"})
    rules: ClassVar[Rules] = {"plan_interval": RATIO, "last_plan": SHARE}
    model: str = SHIPPED
    plan_interval: float = 0.2
    last_plan: float = 0.8

    @classmethod
    def candidates(cls, rates: Sequence[float]) -> Sequence[Self]:
        """Return as many plan intervals as there are rates; the rates themselves are not used."""
        intervals = [1.0, 0.2, 0.1, 0.5]
        more = [round(0.2 + 0.7 * (number + 1) / (len(rates) + 1), 6) for number in range(len(rates))]
        return [cls(plan_interval=interval) for interval in dict.fromkeys([*intervals, *more])][: len(rates)]

    @classmethod
    def for_task(cls, task: Task) -> Mapping[str, Any] | None:
        """No other settings, for tasks with an optimizer that the shipped model knows; None for others."""
        known = type(task.optimizer).__name__ in OPTIMIZERS and task.objective == "val_loss"
        return {} if known and SHIPPED in TRANSFER_MODELS.shipped() else None

    @property
    def trained(self) -> TransferModel:
        """The model."""
        return TRANSFER_MODELS.find(self.model)

    @isolating
    def start(self, run: RunSpec, seeds: Sequence[int]) -> PlannerState:
        """Return the state before the first segment.

        Raises:
            UserError: there is no such model; the optimizer is none that it knows; or the model knows runs of another
                task.
        """
        if run.num_segments < 1:
            raise UserError(f"planner {self.name!r} needs a run of at least one segment")
        facts = _facts(run)
        knowledge = self._knowledge(facts, run.architecture, run.lr_range, run.num_segments)
        rates = np.clip(knowledge.best.preview(run.num_segments), *run.lr_range)
        graph = run.architecture
        return {
            "model": self.trained.fingerprint,
            "facts": facts,
            "architecture": graph and graph.to_json(),
            "range": list(run.lr_range),
            "rates": np.tile(rates, (len(seeds), 1)),
            "losses": np.full((len(seeds), run.num_segments), np.nan),
            "chance": np.full(len(seeds), knowledge.task.chance),
            "segment": run.segment,
            "step": None,
            "beliefs": [],
        }

    @isolating
    def plan(self, state: PlannerState, signals: Signals) -> tuple[Array, PlannerState]:
        """Return the rate of each run for the next segment, (runs,), and the new state."""
        require(self, signals)
        self.check_unchanged(state)
        step = step_after(self, state, signals)
        now = step // state["segment"]
        state = {**state, "step": step}
        if now == 0:  # the loss of an untrained network tells it, where the number of classes is unknown
            unknown = np.isnan(state["chance"])
            state = {**state, "chance": np.where(unknown, signals["val_loss"], state["chance"])}
            plans = np.tile(self._first_plans(state), (len(state["rates"]), 1, 1))
            state = {**state, "beliefs": [{"segment": now, "rates": plans}]}
        else:
            losses = state["losses"].copy()
            losses[:, now - 1] = signals["val_loss"]
            state = {**state, "losses": losses}
        if now in self._plans_at(state["rates"].shape[1]):
            state = self._planned(state, now)
        return state["rates"][:, now].copy(), state

    def _plans_at(self, segments: int) -> set[int]:
        """Segments before which the rest is planned anew."""
        if self.plan_interval == 1:
            return set()
        shares = np.arange(1, int(np.floor(self.last_plan / self.plan_interval + 1e-9)) + 1) * self.plan_interval
        return {round(share * segments) for share in shares} - {0}

    @isolating
    def explain(self, state: PlannerState, row: int = 0) -> list[PlanForecast]:
        """Return what was considered for one run, by its row in the state, at each plan."""
        knowledge, segments = self._known(state), state["rates"].shape[1]
        nodes = (np.arange(STEPS) + 1) * segments * state["segment"] / STEPS
        chance = float(state["chance"][row])
        forecasts = []
        for record in state["beliefs"]:
            now, rates = record["segment"], record["rates"][row]
            seen, at = self._seen(state, row, now), log_rates(rates, knowledge.unit)
            ahead = nodes > now * state["segment"]
            losses = chance * np.exp(knowledge.belief.curves(at, seen)[..., ahead])
            low, high = chance * np.exp(knowledge.belief.outlook(at[:1], seen).interval(0))
            ends = (float(low), float(high)) if np.isfinite([low, high]).all() else None
            note = "" if now else knowledge.beyond
            forecasts.append(PlanForecast(now, rates[:, now:], nodes[ahead], losses, note, ends))
        return forecasts

    def caution(self, run: RunSpec) -> str:
        """What of a run lies beyond what the model was fitted to; empty where nothing does."""
        return self._knowledge(_facts(run), run.architecture, run.lr_range, run.num_segments).beyond

    def _first_plans(self, state: PlannerState) -> Floats:
        """The schedule that is played, and others that were considered, (plans, segments)."""
        segments = state["rates"].shape[1]
        others = np.stack([other.preview(segments) for other in self._known(state).others])
        low, high = state["range"]
        return np.concatenate([state["rates"][:1], np.clip(others, low, high)])

    def _planned(self, state: PlannerState, now: int) -> PlannerState:
        """Plan the rest of each run anew, and record what was considered."""
        rates, knowledge = state["rates"].copy(), self._known(state)
        low = state["range"][0]
        considered = []
        for row in range(len(rates)):
            options = rests(rates[row], now, knowledge.candidates.rates, low)
            order, chosen = np.arange(len(options)), 0
            if np.isfinite(state["chance"][row]):
                outlook = knowledge.belief.outlook(log_rates(options, knowledge.unit), self._seen(state, row, now))
                order = outlook.regrets.argsort(kind="stable")
                gains = outlook.ends[:, 0] - outlook.ends[:, order[0]]
                if outlook.weights @ gains > _CLEARLY and outlook.weights @ (gains > 0) >= _AGREED:
                    chosen = int(order[0])
            rates[row] = options[chosen]
            considered.append(options[[chosen, *order[order != chosen][: len(knowledge.others)]]])
        record: PlanRecord = {"segment": now, "rates": np.stack(considered)}
        return {**state, "rates": rates, "beliefs": [*state["beliefs"], record]}

    def _seen(self, state: PlannerState, row: int, now: int) -> Floats:
        """Log losses of a run so far, at the ends of the parts that are over, (STEPS,)."""
        seen = log_ratio(at_ends(state["losses"][row]), float(state["chance"][row]))
        seen[np.arange(STEPS) >= int(now * STEPS / state["rates"].shape[1])] = np.nan
        return seen

    def _known(self, state: PlannerState) -> Knowledge:
        saved = state["architecture"]
        graph = None if saved is None else Architecture.from_json(saved)
        low, high = state["range"]
        return self._knowledge(state["facts"], graph, (low, high), state["rates"].shape[1])

    def _knowledge(
        self, facts: Mapping[str, Any], architecture: Architecture | None, lr_range: tuple[float, float], segments: int
    ) -> Knowledge:
        model = self.trained
        task = model.runs
        if task is None:
            task = task_without_runs("", facts, architecture)
        else:
            different = [name for name, value in task.facts.items() if name in facts and facts[name] != value]
            if different:
                name = different[0]
                raise UserError(
                    f"planner {self.name!r}: model {self.model!r} knows runs with {name} {task.facts[name]!r}, not "
                    f"{facts[name]!r}: tune for this task with `lr-env tune`, or take the model without runs"
                )
        return _remembered(model, task, lr_range, segments)


def _facts(run: RunSpec) -> dict[str, Any]:
    """What is known of a run's task."""
    return {**run.facts, "optimizer": run.optimizer, "budget": run.budget}


_memory: dict[tuple[Any, ...], Knowledge] = {}


def _remembered(model: TransferModel, task: Any, lr_range: tuple[float, float], segments: int) -> Knowledge:
    """The same knowledge for the same question: it takes some tens of milliseconds to make."""
    graph = task.architecture
    key = (model.fingerprint, repr(sorted(task.facts.items())), graph and graph.key, tuple(lr_range), segments)
    if key not in _memory:
        if len(_memory) >= 32:
            _memory.clear()
        _memory[key] = Knowledge(model, task, (float(lr_range[0]), float(lr_range[1])), segments)
    return _memory[key]


_LEVELS = np.exp([0.0, -0.2, 0.2, -0.4, 0.4, -0.7, -1.2, -2.0])
"""Factors by which the rest of a schedule is raised or lowered."""


def rests(rates: Floats, now: int, others: Floats, low: float) -> Floats:
    """Return schedules that begin as one does, (schedules, segments); the first goes on as planned.

    None has a higher rate than the one that was planned: other runs that survived one may have been lucky.

    Args:
        rates: the schedule so far and as planned, (segments,).
        now: the segment from which on the rest may differ.
        others: schedules that are considered; rests are those of every twelfth, and all of the present one at other
            levels, (schedules, segments).
        low: smallest rate.
    """
    at_levels = rates[None, now:] * _LEVELS[:, None]
    own = np.concatenate([at_levels, others[::12, now:]])
    begun = np.broadcast_to(rates[:now], (len(own), now))
    return np.concatenate([begun, np.clip(own, low, rates.max())], 1)
