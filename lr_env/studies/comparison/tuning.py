"""The common procedure that tunes the planners of a comparison: the same number of runs for each.

Runs that a planner's model was fitted to are among them. A planner that was trained with more runs than that before,
such as a policy, is shown in a class of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from lr_env.capabilities import TunedByItself, original_of, pretraining_steps
from lr_env.errors import UserError
from lr_env.objectives import Objective, check_can_follow, check_planner
from lr_env.planner import Planner
from lr_env.records.record import RunRecord
from lr_env.records.store import Store
from lr_env.registry import check_settings, find_planner, find_tuner, make_planner
from lr_env.runs.experiment import Experiment
from lr_env.studies.procedure import Procedure, finished_runs, next_runs
from lr_env.tasks import Task
from lr_env.tuner import Checking, SelfTraining, Tuner

COMMON = "coarse-to-fine"
"""Name of the tuner of planners that have none of their own."""

PHASE = "tune"


@dataclass(frozen=True)
class Tuning:
    """How one planner is tuned.

    Attributes:
        planner: its name.
        task: what is trained.
        settings: those that are given.
        runs: that each planner has.
    """

    planner: str
    task: Task
    settings: Mapping[str, Any]
    runs: int

    @property
    def by_itself(self) -> bool:
        """Whether its own tuner makes it of the runs, e.g. fits a model to them."""
        kind = find_planner(self.planner)
        return isinstance(kind, TunedByItself) and not self.settings

    @property
    def tuner(self) -> Tuner:
        """Who proposes its runs and selects its setting.

        Raises:
            UserError: it cannot be tuned, or cannot follow the objective of the task.
        """
        if self.by_itself:
            tuner = find_tuner(self.tuner_name)
        else:
            check_settings(self.planner, self.settings)
            common: Any = find_tuner(COMMON)
            tuner = cast("Tuner", replace(common, planner=self.planner, fixed=tuple(sorted(self.settings.items()))))
        check_can_follow(Objective.of(self.task), f"planner {self.planner!r}", tuner)
        return tuner

    @property
    def tuner_name(self) -> str:
        """The name of the tuner, as studies of tuners take it."""
        own = cast("TunedByItself", find_planner(self.planner)).tuner if self.by_itself else ""
        return own or f"{COMMON}:planner={self.planner}"

    @property
    def given(self) -> Planner | None:
        """The planner where its peak rate is given, so that nothing is tuned; None where it is tuned."""
        return make_planner(self.planner, self.settings) if "peak" in self.settings else None

    @property
    def before(self) -> int:
        """Runs that it was fitted to or trained with before, in runs of the task's budget."""
        if self.by_itself:
            return math.ceil(pretraining_steps(self.tuner) / self.task.budget)
        sample = self.given or self.tuner.propose(self.task, 0, [], 1)[0]
        check_planner(sample, self.task)
        return math.ceil(pretraining_steps(sample) / self.task.budget)

    @property
    def apart(self) -> bool:
        """Whether it had more runs before than the others have, so that it is in a class of its own."""
        return self.before > self.runs

    @property
    def left(self) -> int:
        """The runs that it is tuned with.

        Raises:
            UserError: its model, which was given, took as many runs as there are, or more.
        """
        if self.given is not None:
            return 0
        if self.by_itself:  # what its tuner knew before was of other tasks
            return self.runs
        kind, before = find_planner(self.planner), self.before
        original = original_of(kind)
        if (isinstance(kind, TunedByItself) or original is not None) and before >= self.runs:
            instead = "leave out the model" if original is None else f"compare {original}, too"
            raise UserError(
                f"planner {self.planner!r}: its model took {before} runs, and each planner has {self.runs}: give "
                f"--tuning-runs {before + 1} or more, or {instead}, so that one is fitted to these runs"
            )
        return self.runs if before > self.runs else self.runs - before

    def check(self) -> None:
        """Check that it can be tuned so.

        Raises:
            UserError: it cannot.
        """
        if self.given is not None:
            return
        tuner, left = self.tuner, self.left
        if isinstance(tuner, Checking):
            tuner.check([left])
        if isinstance(tuner, SelfTraining):
            raise UserError(f"planner {self.planner!r} trains its runs by itself: use `lr-env tuning-budget`")

    def select(self, records: Sequence[RunRecord], folder: Path) -> Planner:
        """The planner with the setting that its runs select.

        Args:
            records: the runs of its rounds, with their curves, round by round.
            folder: where its files are kept.
        """
        if (planner := self.given) is not None:
            return planner
        place = folder / f"{self.planner}-0"
        place.mkdir(parents=True, exist_ok=True)
        seen = [Objective.of(self.task).as_loss(run) for run in records]
        selected = self.tuner.select(self.task, 0, seen, place)
        if selected.name != self.planner:
            raise UserError(
                f"tuner {self.tuner_name!r} selects {selected.name}, not {self.planner}: use `lr-env tuning-budget`"
            )
        if not any(place.iterdir()):
            place.rmdir()
        return selected


def spend(tunings: Sequence[Tuning], experiment: Experiment, progress: Callable[[int], None]) -> None:
    """Make the runs of several planners, or those that are left.

    Those of the common tuner are in lockstep, round by round, in phases that have the number of the round. A planner
    with a tuner of its own has phases of its own.
    """
    together = [tuning for tuning in tunings if tuning.left and not tuning.by_itself]
    records: dict[str, list[RunRecord]] = {tuning.planner: [] for tuning in together}
    objective, number = Objective.of(experiment.task), 0
    while waiting := [tuning for tuning in together if len(records[tuning.planner]) < tuning.left]:
        phase, planned, counts = f"{PHASE}-{number}", [], {}
        there = Counter(run.planner for run in finished_runs(experiment.store, experiment.name, phase))
        for tuning in waiting:
            done = len(records[tuning.planner])
            counts[tuning.planner] = min(tuning.tuner.batch_size(done), tuning.left - done)
        if all(there[name] >= count for name, count in counts.items()):
            progress(sum(counts.values()) * experiment.task.budget)
        else:  # all of them, for neighbours in a stack change the last bits of a run
            for tuning in waiting:
                tuner, earlier, count = tuning.tuner, records[tuning.planner], counts[tuning.planner]
                planned += next_runs(tuner, experiment.task, 0, earlier, count)
            experiment.run(planned, phase, ("val",), progress)
        for run in finished_runs(experiment.store, experiment.name, phase):
            if run.planner in counts:
                records[run.planner].append(objective.as_loss(run))
        number += 1
    for tuning in tunings:
        if tuning.by_itself:
            Procedure(experiment, tuning.tuner, f"{PHASE}-{tuning.planner}").spend(tuning.left, progress)


def tuned_planner(record: RunRecord) -> str:
    """The name of the planner that a run of a sweep was made to tune: its own, unless a tuner made it for another one.

    >>> tuned_planner(RunRecord("tune-3", "wsd", {}, 0)), tuned_planner(RunRecord("tune-latent-ode-3", "wsd", {}, 0))
    ('wsd', 'latent-ode')
    """
    return _own_name(record.phase) or record.planner


def _own_name(phase: str) -> str:
    """The planner whose own tuner made the runs of a phase; empty where there is none."""
    return phase.removeprefix(PHASE).removeprefix("-").rpartition("-")[0]


def made_of_runs(tuning: Sequence[RunRecord]) -> set[str]:
    """Planners that a tuner of their own made of some of these runs, e.g. with a model that it fitted to them."""
    return {name for run in tuning if (name := _own_name(run.phase))}


def is_tuning(phase: str) -> bool:
    """Whether runs of a phase are those that settings are chosen from."""
    return phase == PHASE or phase.startswith(f"{PHASE}-")


def tuning_runs(store: Store, name: str, *, curves: bool = False) -> list[RunRecord]:
    """The runs that settings of an experiment are chosen from, round by round, in an order that is always the same."""
    phases = [phase for phase in store.phases(name) if is_tuning(phase)]
    runs = [run for phase in phases for run in store.runs(name, phase, curves=curves)]
    return sorted(runs, key=_round)


def _round(record: RunRecord) -> tuple[str, int]:
    number = record.phase.rpartition("-")[2]
    return _own_name(record.phase), int(number) if number.isdigit() else 0
