"""`PlannerLR`: any planner as a scheduler of PyTorch, in a training loop of one's own."""

from __future__ import annotations

import json
import math
import operator
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex

import torch
import torch.distributed as dist
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lr_env.capabilities import (
    AllowsMissing,
    Cautious,
    Forking,
    OwnOptimizer,
    PlanForecast,
    PreferredSegment,
    fingerprint,
)
from lr_env.errors import UserError
from lr_env.facts import facts_of_optimizer
from lr_env.jsonable import pack, unpack
from lr_env.planner import Planner, RunSpec, planner_settings
from lr_env.session import PlannerSession
from lr_env.signals import AGE
from planners.observations import Observations, Observed

if TYPE_CHECKING:
    from lr_env.architecture import Architecture

_VERSION = 1

_SEGMENTS = 100
"""Number of segments where none is given."""

_GRACE = 0.1
"""Share of the budget for which all that a planner reads may stay away, where it allows for missing signals."""

_IDLE_CALLS = 100
"""Calls of `step` in a row, at the start, in which no optimizer step was seen, before it is an error."""

_FILLED_IN = frozenset({"step", "progress", "lr"})
"""Signals that the scheduler knows by itself."""


class PlannerLR(LRScheduler):
    """A learning-rate scheduler that asks a planner before each segment of a run.

    Call `step()` after every optimizer step, and `observe` whenever numbers are at hand. The steps of the optimizer
    are counted, not the calls: a step that a gradient scaler skips, and a second call after the same step, change
    nothing.

    What a planner sees of a signal is what was observed since its last answer: the mean of the training losses, and of
    others the last value. If nothing was, it sees NaN if it allows for that (`AllowsMissing`), otherwise the last
    value; `<name>_age` is its age in optimizer steps. A plan is due when a segment is over. If a signal that the
    planner reads was not observed at that very step, the plan waits for the next call of `step()`, so that losses which
    are measured afterwards count; until then the rate stays.

    There is one commanded rate. Each parameter group gets it times its own share, its initial rate over the largest
    of them; where all are 0, each gets it whole. Planners that give each group a rate of its own do so by the
    groups' names.

    In a distributed run the first process plans, and the others take its answer. Training losses are averaged over all
    that the processes observe, others over the processes that observed them last.

    Args:
        optimizer: its rates are set.
        planner: who sets them.
        budget: optimizer steps of the run.
        segment: optimizer steps between two plans; by default what the planner prefers, or a hundredth of the budget.
        monitor: the signal that a number given to `step` is.
        seed: of the run; planners with random rates draw them from it.
        lr_range: smallest and largest rate that may be commanded.
        task: name of the task, for planners with a model of one.
        architecture: of the network, for planners that read it; see `lr_env.architecture.architecture_of`.
        count_calls: count calls of `step` and not the optimizer's steps, for programs that update parameters without
            calling `optimizer.step`.
        process_group: of the distributed run; by default that of all processes.
        facts: what is known of the training besides the optimizer, for planners that read it: "batch_size",
            "train_size" (examples), "classes"; see `RunSpec.facts`.

    Attributes:
        budget: optimizer steps of the run.
        segment: optimizer steps between two plans.
        last_epoch: optimizer steps done; the name is torch's.

    Raises:
        UserError: the planner cannot be used here, or the numbers do not fit.

    >>> from planners.schedules import Cosine
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1)
    >>> scheduler = PlannerLR(optimizer, Cosine(0.1), budget=4, segment=1)
    >>> for _ in range(4):
    ...     print(round(scheduler.get_last_lr()[0], 4))
    ...     weight.square().sum().backward()
    ...     optimizer.step()
    ...     scheduler.step()
    0.1
    0.0854
    0.05
    0.0146
    """

    def __init__(
        self,
        optimizer: Optimizer,
        planner: Planner,
        budget: int,
        segment: int | None = None,
        *,
        monitor: str = "val_loss",
        seed: int = 0,
        lr_range: tuple[float, float] = (1e-10, 10.0),
        task: str = "",
        count_calls: bool = False,
        process_group: Any = None,
        architecture: Architecture | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        optimizer = _inner(optimizer)
        if not isinstance(optimizer, Optimizer):
            raise UserError(f"{type(optimizer).__name__} is no torch.optim.Optimizer: give the optimizer itself")
        self.planner = planner
        self.budget = _count("budget", budget)
        self.segment = _count("segment", _segment(planner, self.budget) if segment is None else segment)
        if self.segment > self.budget:
            raise UserError(f"segment {self.segment}: it is longer than the budget of {self.budget} steps")
        _check_usable(planner)
        self.monitor = monitor
        self.seed = seed
        self._count_calls = count_calls
        self._group = process_group
        first = optimizer.param_groups[0] if optimizer.param_groups else {}
        self._run = RunSpec(
            task=task,
            budget=self._whole(self.budget),
            segment=self.segment,
            lr_range=lr_range,
            optimizer=type(optimizer).__name__,
            num_parameters=sum(p.numel() for group in optimizer.param_groups for p in group["params"]),
            groups=_names(optimizer),
            architecture_source=architecture,
            facts={**facts_of_optimizer(type(optimizer).__name__, first), "budget": self.budget, **(facts or {})},
        )
        self._measured = planner.needs - _FILLED_IN
        self._optional = planner.may_be_missing if isinstance(planner, AllowsMissing) else frozenset()
        self._stepped, self._idle = 0, 0
        self._told_of_end = False
        if isinstance(planner, Cautious) and (caution := planner.caution(self._run)):
            warnings.warn(f"planner {planner.name!r}: {caution}", UserWarning, stacklevel=2)
        _count_steps(optimizer, self)
        super().__init__(optimizer)

    def _initial_step(self) -> None:
        """Begin the run; `SequentialLR` asks for it again."""
        self.base_lrs[:] = map(float, self.base_lrs)
        self._largest = max(map(float, self.base_lrs), default=0.0)
        self._step_count = 1
        self._observations, self._untrained = Observations(self._measured), Observations(self._measured)
        self._latest: dict[str, Observed] = {}
        self._start()

    def _start(self) -> None:
        """Plan the first segment, by what was observed of the untrained network so far."""
        self.last_epoch, self._stepped = 0, 0
        self._session = PlannerSession(self.planner, self._run, [self.seed])
        self._rates: list[list[float]] | None = None
        if self._measured and _distributed():
            self._untrained.gather(self._group)
        try:
            self._plan()
        except UserError:
            if self._missing() == []:
                raise
        self._write()

    def observe(self, **signals: SupportsFloat | torch.Tensor) -> None:
        """Take note of signals: numbers, or tensors of one element, which are not waited for.

        A `DTensor` is put together from its parts, so that all of its processes have to observe it.

        `lr_env.signals` lists the names that planners know, such as train_loss, val_loss and val_accuracy (a fraction).

        Raises:
            UserError: a value is no number.
        """
        step = self.last_epoch + self._stepped
        observations = self._observations if step else self._untrained
        for name, value in signals.items():
            observations.add(name, value, step)
        if step == 0 and self._measured & signals.keys() and not _distributed():
            self._start()

    def step(self, metrics: SupportsFloat | torch.Tensor | None = None) -> None:  # type: ignore[override]
        """Set the rates of the next optimizer step; to be called after each.

        Args:
            metrics: the value of the signal `monitor`, for programs that hand one over.

        Raises:
            UserError: the planner lacks a signal, or gives no rate that may be commanded.
        """
        if type(metrics) is int and self.last_epoch < 1:  # from `SequentialLR` in earlier versions of torch
            return self._update_lr(metrics)
        if metrics is not None:
            self.observe(**{self.monitor: metrics})
        done = 1 if self._count_calls else self._stepped
        self._stepped = 0
        if not done:
            self._check_idle()
            return None
        if self.last_epoch == 0 and self._measured and _distributed():
            self._start()  # with what any process observed, which takes all of them
        if self._rates is None:
            raise self._lacks(self._missing())
        self._step_count += 1
        self.last_epoch += done
        planned = self._plan_where_due()
        if planned or len(self._rates[0]) > 1 or len(self.base_lrs) != len(self.optimizer.param_groups):
            self._write()
        if self.last_epoch > self.budget and not self._told_of_end:
            self._told_of_end = True
            warnings.warn(
                f"the budget of {self.budget} steps is spent: the rate stays at {self.get_last_lr()[0]:g}; call "
                "extend(budget) for a longer run",
                UserWarning,
                stacklevel=2,
            )
        return None

    def extend(self, budget: int) -> None:
        """Change the budget of the run, to more or fewer steps; the planner plans anew from the next segment on.

        Raises:
            UserError: it is spent already, or the planner cannot plan for another budget on the way.
        """
        budget = _count("budget", budget)
        self._session.extend(self._whole(budget))
        self.budget, self._told_of_end = budget, False
        self._plan_where_due()
        self._write()

    def synchronize(self) -> None:
        """Share among the processes of a distributed run what each has observed since the last plan.

        All of them have to call it, between two calls of `step`: before the first step, so that it has the rate that is
        planned by what was observed of the untrained network (otherwise the second has), and before a state is saved,
        so that `state_dict` is complete in each and one can be saved for all. With one process it does nothing.
        """
        if self._measured and _distributed():
            if self.last_epoch + self._stepped:
                self._observations.gather(self._group)
            else:
                self._start()

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rates of the next optimizer step, one for each parameter group."""
        return list(self._last_lr)

    def explain(self) -> Sequence[PlanForecast]:
        """Return what the planner predicted at each of its plans so far; empty where it cannot tell."""
        return self._session.explain()

    def log(self) -> dict[str, float]:
        """Return numbers for a tracker: the rate, and what the planner predicted at its last plan.

        "forecast_loss" is the predicted validation loss at the end of the plan. "forecast_low" and "forecast_high" are
        the 90 % interval of the final one, on the whole validation split, where there is one. "forecast_warning" is 1
        where the run is unlike those that the planner knows, of which `explain` tells in words.
        """
        numbers = {"lr": self.get_last_lr()[0], "planning_seconds": float(self._session.seconds[0])}
        forecasts = [forecast for forecast in self.explain() if len(forecast.rates)]
        if forecasts:
            last = forecasts[-1]
            numbers["forecast_loss"] = float(last.losses[:, 0, -1].mean())
            numbers["forecast_warning"] = float(bool(last.note))
            if last.final_interval is not None:
                numbers["forecast_low"], numbers["forecast_high"] = map(float, last.final_interval)
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the run depends on: numbers, lists, and one text in JSON.

        In a distributed run either each process saves its own and loads it, or all call `synchronize` before one is
        saved for all. Without that call, what this one has observed since the last plan stands for what each has.

        Its keys and types are always the same, so that `torch.distributed.checkpoint` can load into it.
        """
        state = {
            **self._identity(),
            "budget": self.budget,
            "segment": self.segment,
            "session": pack(self._session.state_dict()),
            "rates": self._rates,
            "latest": {name: [it.total, it.count, it.step] for name, it in self._latest.items()},
            "observations": self._observations.state_dict(),
            "untrained": self._untrained.state_dict(),
            "seconds": float(self._session.seconds[0]),
            "largest": self._largest,
        }
        return {
            "version": _VERSION,
            "last_epoch": self.last_epoch,
            "base_lrs": list(self.base_lrs),
            "_last_lr": list(self._last_lr),
            "_step_count": self._step_count,
            "state": json.dumps(state),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where `state_dict` was called, and set the rates; the optimizer may be restored before or after.

        Raises:
            UserError: it is of another planner, model file, segment or number of parameter groups, or is no state.
        """
        try:
            if state_dict["version"] != _VERSION:
                raise UserError(f"the state is of version {state_dict['version']}: update lr_env")
            state = json.loads(state_dict["state"])
            saved = {name: state[name] for name in self._identity()}
            budget, segment, session = int(state["budget"]), int(state["segment"]), unpack(state["session"])
            last_epoch, base_lrs = int(state_dict["last_epoch"]), [float(rate) for rate in state_dict["base_lrs"]]
            latest = {name: Observed(*it) for name, it in state["latest"].items()}
            observations, rates, seconds = state["observations"], state["rates"], float(state["seconds"])
            untrained = state.get("untrained")  # not in older files
            largest = float(state["largest"])  # of the groups that there were at the start
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no state of a PlannerLR ({error!r}): give what state_dict() returned") from None
        self._check_same(saved, segment, len(base_lrs))
        self.budget, self.last_epoch, self.base_lrs[:] = budget, last_epoch, base_lrs
        self._largest = largest
        self._step_count = int(state_dict["_step_count"])
        self._session.load_state_dict(session)
        self._session.seconds[:] = seconds
        self._latest, self._rates, self._stepped, self._idle = latest, rates, 0, 0
        self._observations.load_state_dict(observations)
        if untrained is not None:
            self._untrained.load_state_dict(untrained)
        self._write()

    def _identity(self) -> dict[str, Any]:
        """What must be the same where a run goes on."""
        return {
            "planner": self.planner.name,
            "settings": planner_settings(self.planner),
            "fingerprint": fingerprint(self.planner),
        }

    def _check_same(self, saved: Mapping[str, Any], segment: int, groups: int) -> None:
        """Check that a saved state is of this planner and of such parameter groups.

        Raises:
            UserError: it is not.
        """
        now = self._identity()
        for what in ("planner", "settings"):
            if saved[what] != now[what]:
                raise UserError(
                    f"the state is of {what} {saved[what]!r}, not {now[what]!r}: go on with the planner that began"
                )
        if saved["fingerprint"] != now["fingerprint"]:
            raise UserError(
                f"planner {self.planner.name!r} ({now['settings']}) has another model file than the run was begun with "
                f"(SHA-256 {str(saved['fingerprint'])[:12]}..., now {str(now['fingerprint'])[:12]}...): give that file"
            )
        if segment != self.segment:
            raise UserError(f"the state is of segments of {segment} steps, not {self.segment}: give segment={segment}")
        if groups != len(self.optimizer.param_groups):
            raise UserError(
                f"the state is of {groups} parameter groups, and the optimizer has {len(self.optimizer.param_groups)}: "
                "add the same groups before it is loaded"
            )

    def _whole(self, budget: int) -> int:
        """The budget in whole segments: a planner takes a last segment that is cut short for a whole one."""
        return math.ceil(budget / self.segment) * self.segment

    def _plan_where_due(self) -> bool:
        """Ask the planner for every segment that has begun, once its signals are there; whether it was asked."""
        before = self._session.segment
        while (begin := self._session.segment * self.segment) <= self.last_epoch and begin < self._session.run.budget:
            if self._measured and _distributed():
                self._observations.gather(self._group)
            if begin == self.last_epoch and not self._all_observed():
                break
            self._plan()
        return self._session.segment > before

    def _all_observed(self) -> bool:
        """Whether no signal can be waited for: all that are read were observed at this very step, by any process."""
        return all(self._observations.step(name) == self.last_epoch for name in self._measured)

    def _plan(self) -> None:
        """Ask the planner for the rates of the next segment."""
        commanded = float(self.optimizer.param_groups[0]["lr"]) / (self._shares()[0] or 1.0)
        taken = (self._observations if self._session.segment else self._untrained).take()
        self._latest |= taken
        if not _distributed():
            self._rates = self._asked(taken, commanded)
            return
        answer: list[Any] = [None, None, None]
        if dist.get_rank(self._group) == 0:
            try:
                answer[:2] = self._asked(taken, commanded), self._session.state_dict()
            except UserError as error:
                answer[2] = str(error)
        dist.broadcast_object_list(answer, group=self._group, group_src=0)
        rates, session, error = answer
        if error is not None:
            raise UserError(error)
        self._session.load_state_dict(session)
        self._rates = rates

    def _asked(self, taken: Mapping[str, Observed], commanded: float) -> list[list[float]]:
        """The planner's answer, (1 or groups, 1 or segment)."""
        first = self._session.segment == 0
        signals: dict[str, float] = {"lr": commanded}
        for name in self._measured:
            latest = self._latest.get(name)
            is_new = first or (name in taken and taken[name].count > 0)
            if latest is not None:
                signals[f"{name}{AGE}"] = float(max(0, self.last_epoch - latest.step))
            if latest is None and not first and name not in self._optional:
                raise self._lacks([name])
            signals[name] = latest.value if latest and (is_new or name not in self._optional) else math.nan
        waited = self.last_epoch >= max(self.segment + 1, _GRACE * self.budget)
        if self._measured and waited and not self._measured & self._latest.keys():
            raise self._lacks(sorted(self._measured))
        rates = self._session.next_rates(signals)[0]
        return rates.tolist() if rates.ndim == 2 else [rates.reshape(-1).tolist()]

    def _missing(self) -> list[str]:
        """The signals that the planner reads and does not have; only those that were never observed, if there are."""
        missing = self._measured - self._latest.keys()
        return sorted(missing - self._observations.names) or sorted(missing)

    def _lacks(self, names: Sequence[str]) -> UserError:
        there = ", ".join(sorted(self._latest.keys() | self._observations.names)) or "nothing"
        begun = self._rates is not None
        when = f"at least once in {self.segment} steps" if begun else "before the first step, of the untrained network"
        example = ", ".join(f"{name}=..." for name in names)
        return UserError(
            f"planner {self.planner.name!r} needs the signal {names[0]!r}, which was never observed up to step "
            f"{self.last_epoch} (observed: {there}): call observe({example}) {when}"
        )

    def _shares(self) -> list[float]:
        """The share of the commanded rate that each parameter group gets; groups may have been added."""
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            rate = group["lr"]
            group.setdefault("initial_lr", rate.clone() if isinstance(rate, torch.Tensor) else rate)
            self.base_lrs.append(float(group["initial_lr"]))
        return [float(rate) / self._largest if self._largest else 1.0 for rate in self.base_lrs]

    def _write(self) -> None:
        """Set the rates of the optimizer's groups for the next step."""
        shares, groups = self._shares(), self.optimizer.param_groups
        if self._rates is not None:
            at = self.last_epoch - (self._session.segment - 1) * self.segment
            rates = [row[min(max(at, 0), len(row) - 1)] for row in self._rates]
            if len(rates) == 1:
                each = [rates[0] * share for share in shares]
            else:
                by_name = dict(zip(self._run.groups, rates, strict=True))
                pairs = zip(groups, shares, strict=True)
                each = [by_name.get(str(group.get("name")), max(rates) * share) for group, share in pairs]
            for group, rate in zip(groups, each, strict=True):
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)  # in place, for compiled and captured optimizers
                else:
                    group["lr"] = rate
        self._last_lr: list[float | torch.Tensor] = [float(group["lr"]) for group in groups]

    def _update_lr(self, epoch: int | None = None) -> None:
        """Begin the run; `SequentialLR` calls it when this scheduler's turn comes."""
        if epoch != 0:
            raise UserError(f"step({epoch}): this scheduler counts optimizer steps by itself, call step() alone")
        self._start()

    def _check_idle(self) -> None:
        """Take note of a call without an optimizer step before it.

        Raises:
            UserError: there were many, and never an optimizer step.
        """
        self._idle += 1
        if self.last_epoch == 0 and self._idle >= _IDLE_CALLS:
            raise UserError(
                f"step() was called {self._idle} times, and optimizer.step() never: call it before, or, if parameters "
                "are updated in another way, give count_calls=True"
            )


def _inner(optimizer: Any) -> Any:
    """The optimizer itself, of one that is wrapped, as accelerate does."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def _count_steps(optimizer: Optimizer, scheduler: PlannerLR) -> None:
    """Have an optimizer count its steps for a scheduler, as long as that lives."""
    reference = weakref.ref(scheduler)

    def note(*_: Any) -> None:
        owner = reference()
        if owner is not None:
            owner._stepped = 1 if torch.compiler.is_compiling() else owner._stepped + 1

    handle = optimizer.register_step_post_hook(note)
    weakref.finalize(scheduler, handle.remove)


def _check_usable(planner: Planner) -> None:
    """Check that a planner can be used in a training loop of one's own.

    Raises:
        UserError: it is no planner, needs forks, or has an optimizer of its own.
    """
    if isinstance(planner, type) or not all(hasattr(planner, part) for part in ("name", "needs", "start", "plan")):
        raise UserError(f"{planner!r} is no planner: give an object, such as WSD(peak=0.1) of planners.schedules")
    if isinstance(planner, Forking):
        raise UserError(f"planner {planner.name!r} tries rates on forks of the run, which this loop does not have")
    if isinstance(planner, OwnOptimizer):
        raise UserError(f"planner {planner.name!r} is an optimizer of its own: use its package in place of a schedule")


def _count(name: str, value: SupportsIndex) -> int:
    number = operator.index(value) if isinstance(value, SupportsIndex) and not isinstance(value, bool) else 0
    if number < 1:
        raise UserError(f"{name} {value!r}: it must be a whole number of at least 1, counted in optimizer steps")
    return number


def _segment(planner: Planner, budget: int) -> int:
    """The segment where none is given."""
    preferred = planner.preferred_segment if isinstance(planner, PreferredSegment) else None
    return min(preferred or max(1, budget // _SEGMENTS), budget)


def _names(optimizer: Optimizer) -> tuple[str, ...]:
    """The names of the parameter groups; empty unless all have one, and all differ."""
    names = tuple(group.get("name") for group in optimizer.param_groups)
    return names if None not in names and len(set(names)) == len(names) else ()  # type: ignore[return-value]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
