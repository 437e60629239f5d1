"""What tuners reach with so many runs: the whole procedure repeated, its answers run on fresh seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lr_env.errors import UserError, check_seeds
from lr_env.planner import Planner
from lr_env.records.record import RunRecord, run_key
from lr_env.registry import find_tuner, find_variants
from lr_env.rollout import PlannedRun, not_made_before
from lr_env.runs.experiment import Experiment
from lr_env.runs.lab import Lab
from lr_env.studies.tuning_budget.report import BudgetCurve, TunedPlanner
from lr_env.tuner import Checking

FIRST_SEED = 3_000_000
"""Seeds of tuning runs count up from here, far from those of comparisons."""

LEAST_TUNING_SEED = 1_000_000
"""From here on there are the seeds of tuning, of comparisons, sweeps and studies: answers are judged on others."""

SEEDS_APART = 10_000
"""Between repeats."""

MOST_RUNS = SEEDS_APART
"""Of a tuner, which may make each on a seed of its own."""

FINAL = "final"


@dataclass(frozen=True)
class Budgets:
    """What is measured.

    Attributes:
        tuners: names.
        runs: numbers of runs after which each is asked for its answers, rising.
        repeats: of each procedure from the start, with other seeds.
        seeds: on which answers are run.
        variants: kinds of further planners that are made of the same runs, see `lr_env.tuner.Variants`.
        ceiling: tuner with a budget of its own, made once, to which regret is told; none if empty.
        ceiling_runs: that budget.

    Raises:
        UserError: budgets do not rise, or there is nothing to do.
    """

    tuners: tuple[str, ...]
    runs: tuple[int, ...]
    repeats: int
    seeds: tuple[int, ...]
    variants: tuple[str, ...] = ("controls",)
    ceiling: str = ""
    ceiling_runs: int = 0

    def __post_init__(self) -> None:
        for name in (*self.tuners, *([self.ceiling] if self.ceiling else [])):
            find_tuner(name)
        if not self.runs or list(self.runs) != sorted(set(self.runs)) or self.runs[0] < 1:
            raise UserError(f"runs {list(self.runs)}: give rising numbers of runs, e.g. 10,20,40")
        if (most := max(*self.runs, self.ceiling_runs)) > MOST_RUNS:
            raise UserError(f"{most} runs: a tuner has at most {MOST_RUNS:,}")
        if not 1 <= self.repeats <= 100:
            raise UserError(f"{self.repeats} repeats: give 1 to 100")
        if not self.tuners or len(set(self.tuners)) < len(self.tuners) or not self.seeds:
            raise UserError("give at least one tuner, each once, and at least one seed")
        check_seeds(self.seeds, LEAST_TUNING_SEED)
        if self.ceiling and (self.ceiling in self.tuners or self.ceiling_runs < 1):
            raise UserError(f"ceiling {self.ceiling!r}: give one that is not among the tuners, and its runs")
        for name in self.variants:
            find_variants(name)
        for name, _, runs in self.procedures:
            if isinstance(tuner := find_tuner(name), Checking):
                tuner.check(runs)

    @property
    def procedures(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Tuner, repeats, and runs after which it is asked."""
        ceiling = [(self.ceiling, 1, (self.ceiling_runs,))] if self.ceiling else []
        return [*((name, self.repeats, self.runs) for name in self.tuners), *ceiling]

    @property
    def spec(self) -> dict[str, Any]:
        """What the results depend on; the default variants are left out, as before there were others."""
        spec = asdict(self)
        if self.variants == type(self).variants:
            del spec["variants"]
        return spec

    @property
    def most_runs(self) -> int:
        """Tuning runs of all, and those of their answers, of which a tuner may have more than one."""
        answers = sum(repeats * len(runs) for _, repeats, runs in self.procedures)
        return sum(repeats * runs[-1] for _, repeats, runs in self.procedures) + answers * len(self.seeds)


def run_budgets(wanted: Budgets, lab: Lab, folder: Path) -> BudgetCurve:
    """Let each tuner spend its runs, again and again, and run what it answers on the same fresh seeds.

    Args:
        wanted: what is measured.
        lab: what is trained, and where its runs are recorded.
        folder: where files of answers are kept.

    Raises:
        UserError: another process works on it, or it was begun otherwise.
    """
    most = max(len(wanted.seeds), wanted.repeats * wanted.runs[0])
    with lab.experiment(
        {"budgets": wanted.spec}, at_once=most, runs=wanted.most_runs, extends=_has_more_runs
    ) as experiment:
        if lab.fresh:
            for file in folder.glob("*/model-*.safetensors"):
                file.unlink()
        found: dict[tuple[str, int, int], Planner] = {}
        for tuner, repeats, runs in wanted.procedures:
            answers = _procedure(experiment, tuner, repeats, runs, wanted.variants, folder, lab.reporting(tuner))
            if twice := sorted({label for label, *_ in answers} & {label for label, *_ in found}):
                raise UserError(f"two tuners answer with {twice[0]!r}: leave out {tuner!r} or the other")
            found |= answers
        before: set[tuple[str, str, int]] = set()
        for until in sorted({runs for _, runs, _ in found}):  # apart, so that a budget that is added later changes none
            planners = [planner for (_, runs, _), planner in found.items() if runs == until]
            planned = {run_key(run): run for run in (PlannedRun(p, s) for p in planners for s in wanted.seeds)}
            new = [planned[place] for place in sorted(planned.keys() - before)]
            experiment.run(new, FINAL, ("val", "test"), lab.reporting("answers"))
            before |= planned.keys()
        ends = {run_key(run): run for run in lab.store.runs(lab.name, FINAL)}
    answers = tuple(
        TunedPlanner(label, runs, repeat, planner, tuple(ends[run_key(PlannedRun(planner, s))] for s in wanted.seeds))
        for (label, runs, repeat), planner in found.items()
    )
    return BudgetCurve(lab.task.name, wanted.tuners, wanted.runs, wanted.seeds, answers, wanted.ceiling)


def _has_more_runs(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether all that was added are larger numbers of runs, after those that there were."""
    had = before["budgets"].get("runs") if isinstance(before.get("budgets"), dict) else None
    shorter = {**now["budgets"], "runs": now["budgets"]["runs"][: len(had) if isinstance(had, list) else 0]}
    return before == {**now, "budgets": shorter}


def _procedure(
    experiment: Experiment,
    name: str,
    repeats: int,
    runs: Sequence[int],
    variants: Sequence[str],
    folder: Path,
    progress: Callable[[int], None],
) -> Mapping[tuple[str, int, int], Planner]:
    """All repeats of a tuner's procedure in lockstep: (name of the answer, runs, repeat) -> planner.

    Rounds that are finished are not proposed anew.
    """
    tuner, task, found = find_tuner(name), experiment.task, {}
    settings = name.partition(":")[2]
    records: list[list[RunRecord]] = [[] for _ in range(repeats)]
    turn = 0
    for until in runs:
        while len(records[0]) < until:
            done = len(records[0])
            count = min(tuner.batch_size(done), until - done)
            phase = f"{name}-{turn}"
            if len(_finished(experiment, phase)) < count * repeats:
                planned = []
                for repeat, known in enumerate(records):
                    seeds = [_first(repeat) + tuner.seed_index(number) for number in range(done, done + count)]
                    planned += not_made_before(tuner.propose(task, repeat, known, count), seeds, known)
                experiment.run(planned, phase, ("val",), progress)
            else:
                progress(count * repeats * task.budget)
            for run in _finished(experiment, phase):
                records[(run.seed - FIRST_SEED) // SEEDS_APART].append(run)
            turn += 1
        for repeat, known in enumerate(records):
            place = folder / f"{name}-{repeat}"
            place.mkdir(parents=True, exist_ok=True)
            selected = found[name, until, repeat] = tuner.select(task, repeat, known, place)
            for kind in variants:
                for label, planner in find_variants(kind)(selected, task, repeat, known, place).items():
                    found[f"{label} ({settings})" if settings else label, until, repeat] = planner
            with suppress(OSError):  # not empty
                place.rmdir()
    return found


def _first(repeat: int) -> int:
    """The first seed of a repeat."""
    return FIRST_SEED + repeat * SEEDS_APART


def _finished(experiment: Experiment, phase: str) -> list[RunRecord]:
    """The finished runs of a round, with their curves, in an order that does not depend on how they were made."""
    runs = experiment.store.runs(experiment.name, phase, curves=True)
    return sorted((run for run in runs if run.status == "finished"), key=run_key)
