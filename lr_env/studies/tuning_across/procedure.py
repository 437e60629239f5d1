"""Let tuners spend their runs on one task, all in lockstep, and run the planners that they selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lr_env.errors import UserError
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.registry import find_tuner, make_planner
from lr_env.rollout import PlannedRun
from lr_env.runs.experiment import Experiment
from lr_env.runs.lab import Lab
from lr_env.studies.procedure import next_runs
from lr_env.tuner import Checking, KnowsBefore, SelfTraining, Tuner

FINAL = "final"


@dataclass(frozen=True)
class Plan:
    """What is done on each task.

    Attributes:
        tuners: names of tuners.
        planners: names of planners, which settings may follow, as in prodigy:peak=1.0; they have no runs.
        runs: numbers of runs after which each tuner selects a planner, rising; 0 for those that know something before.
        repeats: of each procedure, on other seeds.
        seeds: that the selected planners are run on.
        score: "val" or "test".

    Raises:
        UserError: a tuner can do with none of these numbers of runs, or trains its runs by itself.
    """

    tuners: tuple[str, ...]
    planners: tuple[str, ...]
    runs: tuple[int, ...]
    repeats: int
    seeds: tuple[int, ...]
    score: str

    def __post_init__(self) -> None:
        for name in self.planners:
            _planner(name)
        for name in self.tuners:
            tuner = find_tuner(name)
            if isinstance(tuner, SelfTraining):
                raise UserError(f"tuner {name!r} trains its runs by itself, not in lockstep with others: leave it out")
            if self.runs_of(tuner):
                continue
            if isinstance(tuner, Checking) and (any(self.runs) or isinstance(tuner, KnowsBefore)):
                tuner.check([max(self.runs)])
            raise UserError(f"tuner {name!r} selects nothing without runs: ask for some, e.g. 1,3,10")

    def check_selected(self, answers: Sequence[tuple[str, int]]) -> None:
        """Check that something is selected by these tuners after these numbers of runs.

        Raises:
            UserError: it is not.
        """
        there = {(name, 0) for name in self.planners}
        there |= {(name, count) for name in self.tuners for count in self.runs_of(find_tuner(name))}
        for name, count in answers:
            if (name, count) not in there:
                raise UserError(f"against {name}/{count}: {name!r} selects nothing after {count} runs here")

    def runs_of(self, tuner: Tuner) -> tuple[int, ...]:
        """Numbers of runs after which a tuner selects: those that it can do with."""
        return tuple(count for count in self.runs if _can_select(tuner, count))


def _can_select(tuner: Tuner, count: int) -> bool:
    """Whether a tuner selects something after so many runs; before the first one only what knows something then."""
    most = tuner.most_runs if isinstance(tuner, KnowsBefore) else None
    if (count == 0 and not isinstance(tuner, KnowsBefore)) or (most is not None and count > most):
        return False
    try:
        if isinstance(tuner, Checking):
            tuner.check([count])
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class Selected:
    """What was selected on a task.

    Attributes:
        label: name of the tuner or planner.
        runs: that the tuner had made.
        repeat: number of the repeat.
        losses: final losses of the planner, one a seed; infinite where a run diverged.
    """

    label: str
    runs: int
    repeat: int
    losses: tuple[float, ...]


@dataclass
class _Procedure:
    """One tuner in one repeat."""

    name: str
    repeat: int
    tuner: Tuner
    runs: tuple[int, ...]
    folder: Path
    records: list[RunRecord] = field(default_factory=list)
    selected: dict[int, Planner] = field(default_factory=dict)

    @property
    def until(self) -> int | None:
        """The number of runs after which it selects next; None once it has selected for all."""
        left = [count for count in self.runs if count not in self.selected]
        return left[0] if left else None


def tune_on_task(lab: Lab, plan: Plan, progress: Callable[[int], None]) -> list[Selected]:
    """Let all tuners spend their runs on the task of a lab, and run the planners that they select.

    What is proposed follows from the runs before, so that what was stopped goes on from the record store.
    """
    procedures = [
        _Procedure(name, repeat, tuner, plan.runs_of(tuner), lab.folder / f"{name.replace(':', '-')}-{repeat}")
        for name in plan.tuners
        for tuner in [find_tuner(name)]
        for repeat in range(plan.repeats)
    ]
    spec = {
        "tuning_across": {
            "tuners": plan.tuners,
            "planners": plan.planners,
            "runs": plan.runs,
            "repeats": plan.repeats,
            "seeds": plan.seeds,
            "score": plan.score,
        }
    }
    count = sum(one.runs[-1] + len(one.runs) * len(plan.seeds) for one in procedures)
    with lab.experiment(spec, at_once=32, runs=count) as experiment:
        number = 0
        while waiting := [one for one in procedures if _select(one, experiment) is not None]:
            _round(waiting, experiment, f"tune-{number}", progress)
            number += 1
        planners: dict[tuple[str, int, int], Planner] = {
            (one.name, count, one.repeat): planner for one in procedures for count, planner in one.selected.items()
        }
        planners |= {(name, 0, 0): _planner(name) for name in plan.planners}
        runs = {run_key(run): run for run in (PlannedRun(p, s) for p in planners.values() for s in plan.seeds)}
        experiment.run([runs[key] for key in sorted(runs)], FINAL, (plan.score,), progress)
        ends = {run_key(run): run for run in lab.store.runs(lab.name, FINAL)}
    return [
        Selected(
            label,
            count,
            repeat,
            tuple(ends[run_key(PlannedRun(planner, seed))].end(_scored(plan)) for seed in plan.seeds),
        )
        for (label, count, repeat), planner in planners.items()
    ]


def _planner(text: str) -> Planner:
    """The planner of a name, which settings may follow: "prodigy:peak=1.0".

    Raises:
        UserError: there is no such planner or setting, or a setting is missing.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, float] = {}
    for part in rest.split(",") if rest else ():
        setting, _, value = part.partition("=")
        try:
            settings[setting] = float(value)
        except ValueError:
            raise UserError(f"planner {text!r}: {setting} must be a number, not {value!r}") from None
    return make_planner(name, settings)


def _scored(plan: Plan) -> str:
    return "test_loss" if plan.score == "test" else "final_val_loss"


def _select(one: _Procedure, experiment: Experiment) -> int | None:
    """Let a tuner select where it has the runs for it; the number of runs that it waits for, None if for none."""
    while (until := one.until) is not None and until <= len(one.records):
        one.folder.mkdir(parents=True, exist_ok=True)
        one.selected[until] = one.tuner.select(experiment.task, one.repeat, one.records[:until], one.folder)
    return until


def _round(waiting: Sequence[_Procedure], experiment: Experiment, phase: str, progress: Callable[[int], None]) -> None:
    """Make the next runs of some procedures together."""
    proposed: list[tuple[_Procedure, list[PlannedRun]]] = []
    for one in waiting:
        done, until = len(one.records), one.until
        assert until is not None
        count = min(one.tuner.batch_size(done), until - done)
        proposed.append((one, next_runs(one.tuner, experiment.task, one.repeat, one.records, count)))
    runs = {run_key(run): run for _, of_one in proposed for run in of_one}
    experiment.run([runs[key] for key in sorted(runs)], phase, ("val",), progress)
    made: Mapping[object, RunRecord] = {
        run_key(run): run for run in experiment.store.runs(experiment.name, phase, curves=True)
    }
    for one, of_one in proposed:
        one.records += [made[run_key(run)] for run in of_one]
