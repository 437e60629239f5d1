"""Standings of planners over several comparisons, one a task: mean ranks, and how soon targets are reached.

Ranks. On each task planners are ranked by their mean test loss over the seeds, 1 for the lowest; a run that diverged
counts with an infinite loss, and planners with equal means share the mean of their ranks. The mean rank weighs tasks
alike and has no unit; losses of different tasks cannot be averaged. A share of the difference between baseline and best
is not taken: where the two are close it divides by noise.

Steps to target, as in AlgoPerf (arXiv:2306.07179). The cost of a run is the child steps until its validation loss is at
the target of its task, infinite for a miss, with those of forks spread evenly over the run. It is divided by the lowest
median cost of a planner on the task. The profile rho(tau) is the share of runs within tau times the fastest, tasks
weighing alike; the score is the mean of rho over tau from 1 to 4. A run that reaches the target and diverges after it
has reached it.

AlgoPerf counts workloads, each with the median over its runs, which is the same where every run of a planner costs the
same. With few tasks a median hides misses: on FashionLeNet5-20-seeds `step` misses in 7 of 20 runs and would score 0.93
as `constant` does, which never misses (here: 0.62 and 0.93). The fastest planner on each seed, in place of each task,
would be a minimum of noise, so that every further planner lowers the scores of all.

Intervals are percentiles over resampled seeds, drawn within each task (stratified) and the same for all planners
(paired). The tasks are fixed: an interval speaks of other seeds, neither of other tasks nor of another tuning. How
often such an interval of a mean rank held that of the true means, in percent, in 300 simulated sets of 10 planners on
10 seeds, whose true losses lie `gap` standard errors of a mean apart, in an order that varies a little between tasks,
and share half of their variance over seeds (499 resamples; 20 seeds: the same to 5 points); and how often a planner
that is no worse than the first was called worse:

                            2 tasks                          5 tasks
    gap            0   0.5     1     2     4        0   0.5     1     2     4
    best          96    91    98   100   100       94    67    95   100   100
    all           96    96    99   100   100       95    90    98   100   100
    wrongly worse 11     0     0     0     0       12     0     0     0     0

Resampling pulls ranks to the middle, so that where others are close the interval of the best lies too high; a
bias-corrected one holds less where all are equal (3 in 4). The first planner is picked by the same runs that the others
are compared with, which is why of equal planners more than 5 % are called worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from lr_env.errors import UserError, refuse_duplicates
from lr_env.records.record import RunRecord
from lr_env.report.formatting import interval_text, listed, number_text, tied_text
from lr_env.stats import intervals as st
from lr_env.stats.intervals import Estimate, Versus
from lr_env.stats.paired_runs import run_scores, run_steps_to_target
from lr_env.stats.ranks import Draws, Floats, cost_ratios, improvements, mean_ranks, scores
from lr_env.studies.across.saved import SavedComparison

RANK_DECIMALS = 1
"""Of mean ranks where they are shown."""

REFERENCE = "constant"
"""The planner that the probability of improvement is computed against."""


@dataclass(frozen=True)
class Standing:
    """One planner over all tasks; tuples have an entry for each task.

    Attributes:
        planner: name.
        mean_rank: mean over tasks of the rank by mean test loss, 1 is best.
        to_first: paired difference in mean rank to the first planner; None in its own row.
        ranks: on each task.
        test_losses: mean over seeds, nats per example; infinite where a run diverged.
        costs: median over seeds of the child steps to the target, infinity for never.
        runs: final runs.
        diverged: how many of them diverged.
        improvement: mean over tasks of the probability that a run has a lower test loss than a run of the reference;
            None in its row and where it did not run.
        score: mean of the performance profile over ratios from 1 to 4, in [0, 1].
        steps_ratio: child steps that a run takes, with those of forks, over its own; mean over tasks.
        tuning_runs: runs that the settings were chosen from, sum over tasks.
        tuning_steps: child steps spent on choosing them, with those of what the planner was trained or fitted with
            before, sum over tasks.
        tuning_cost: these child steps in runs of each task's budget.
    """

    planner: str
    mean_rank: Estimate
    to_first: Versus | None
    ranks: tuple[float, ...]
    test_losses: tuple[float, ...]
    costs: tuple[float, ...]
    runs: int
    diverged: int
    improvement: Estimate | None
    score: Estimate
    steps_ratio: float
    tuning_runs: int
    tuning_steps: int
    tuning_cost: float


@dataclass(frozen=True, eq=False)
class Standings:
    """The result of several comparisons.

    Attributes:
        rows: one a planner, lowest mean rank first.
        comparisons: one a task.
        tasks: name of each task; the name of its comparison where two tasks have one name.
        left_out: planners that ran in a comparison and are not in the rows, for each comparison.
        reference: the planner that the probability of improvement is computed against; None where it did not take part.
        ratios: costs over those of the fastest planner, (planners, seeds) for each task, planners as in the rows.
        tied: planners that are not told apart from the first row, in the order of the rows.
        conclusion: the outcome in words.
    """

    rows: tuple[Standing, ...]
    comparisons: tuple[SavedComparison, ...]
    tasks: tuple[str, ...]
    left_out: tuple[tuple[str, ...], ...]
    reference: str | None
    ratios: tuple[Floats, ...]
    tied: tuple[str, ...]
    conclusion: str


def aggregate(comparisons: Sequence[SavedComparison], planners: Sequence[str] = ()) -> Standings:
    """Rank planners over the tasks of several comparisons.

    Args:
        comparisons: at least two, each of another task.
        planners: those that take part; all that every comparison has if none are named.

    Raises:
        UserError: fewer than two comparisons or planners, two comparisons of one task, or a planner that a comparison
            does not have.
    """
    names = _taking_part(comparisons, planners)
    runs = [[comparison.runs[name] for name in names] for comparison in comparisons]
    losses = [np.stack([run_scores(of, "test_loss") for of in task]) for task in runs]
    costs = [
        np.array([[run_steps_to_target(run, target) * _steps_ratio(run) for run in of] for of in task])
        for target, task in zip((comparison.target_val_loss for comparison in comparisons), runs, strict=True)
    ]
    counts = [loss.shape[1] for loss in losses]
    reference = names.index(REFERENCE) if REFERENCE in names else None
    rank = _Bootstrapped.of(partial(mean_ranks, losses), counts)
    score = _Bootstrapped.of(partial(scores, costs), counts)
    improvement = None if reference is None else _Bootstrapped.of(partial(improvements, losses, reference), counts)
    order = sorted(range(len(names)), key=lambda row: (rank.values[row], -score.values[row], names[row]))
    ranks = np.stack([mean_ranks([loss], [np.arange(loss.shape[1])[None]])[0] for loss in losses], axis=1)

    def standing(row: int) -> Standing:
        runs_of_row = [task[row] for task in runs]
        tuning_steps = [comparison.tuning_steps[names[row]] for comparison in comparisons]
        budgets = [comparison.task["budget"] for comparison in comparisons]
        return Standing(
            planner=names[row],
            mean_rank=rank.estimate(row),
            to_first=None if row == order[0] else Versus.of(rank.estimate(row, less=order[0])),
            ranks=tuple(ranks[row].tolist()),
            test_losses=tuple(float(loss[row].mean()) for loss in losses),
            costs=tuple(st.median_steps(cost[row]) for cost in costs),
            runs=sum(counts),
            diverged=sum(run.diverged for of in runs_of_row for run in of),
            improvement=None if improvement is None or row == reference else improvement.estimate(row),
            score=score.estimate(row),
            steps_ratio=float(np.mean([np.mean([_steps_ratio(run) for run in of]) for of in runs_of_row])),
            tuning_runs=sum(comparison.tuning_runs[names[row]] for comparison in comparisons),
            tuning_steps=sum(tuning_steps),
            tuning_cost=sum(steps / budget for steps, budget in zip(tuning_steps, budgets, strict=True)),
        )

    rows = tuple(map(standing, order))
    return Standings(
        rows=rows,
        comparisons=tuple(comparisons),
        tasks=_task_names(comparisons),
        left_out=tuple(tuple(sorted(comparison.runs.keys() - set(names))) for comparison in comparisons),
        reference=None if reference is None else REFERENCE,
        ratios=tuple(cost_ratios(cost)[order] for cost in costs),
        tied=tuple(row.planner for row in rows if row.to_first is not None and row.to_first.tone == "tie"),
        conclusion=_conclusion(rows, comparisons),
    )


@dataclass(frozen=True)
class _Bootstrapped:
    """A statistic of every planner, on all seeds and on resampled ones.

    Attributes:
        values: on all seeds, (planners,).
        draws: on resampled seeds, (resamples, planners).
        fewest: seeds of the task with the fewest; one seed allows no interval.
    """

    values: Floats
    draws: Floats
    fewest: int

    @classmethod
    def of(cls, statistic: Callable[[Sequence[Draws]], Floats], counts: Sequence[int]) -> _Bootstrapped:
        """Compute a statistic that takes (draws, seeds) indices for each task, of which there are `counts` seeds."""
        return cls(statistic([np.arange(n)[None] for n in counts])[0], statistic(st.resampled(counts)), min(counts))

    def estimate(self, row: int, less: int | None = None) -> Estimate:
        """The statistic of a planner, or its difference to that of another one."""
        value = float(self.values[row] - (0 if less is None else self.values[less]))
        if self.fewest < 2:
            return Estimate(value, np.nan, np.nan)
        return st.percentile_interval(value, self.draws[:, row] - (0 if less is None else self.draws[:, less]))


def _taking_part(comparisons: Sequence[SavedComparison], planners: Sequence[str]) -> list[str]:
    """The planners that are ranked, in the order of the first comparison; checks that all can be compared."""
    if len(comparisons) < 2:
        raise UserError("one comparison is one task: name at least two, each of another task")
    for index, one in enumerate(comparisons):
        for other in comparisons[:index]:
            if one.same_training_as(other):
                raise UserError(
                    f"comparisons {str(other.folder)!r} and {str(one.folder)!r} train the same task "
                    f"({one.task['name']}), which would count twice: leave one of them out"
                )
    refuse_duplicates("planner", planners)
    for name in planners:
        if lacking := [comparison.name for comparison in comparisons if name not in comparison.runs]:
            raise UserError(
                f"planner {name!r} did not run in comparison {lacking[0]!r}: leave it out of --planners, or run "
                f"`{comparisons[0].manifest.get('command', 'lr-env compare')}` with it"
            )
    common = [name for name in comparisons[0].runs if all(name in comparison.runs for comparison in comparisons)]
    names = list(planners) or common
    if len(names) < 2:
        has = f"only {common[0]!r}" if common else "none"
        what = f"{has} ran in all of {listed([c.name for c in comparisons])}" if not planners else "one was named"
        raise UserError(f"planners are ranked among at least two, but {what}: compare more of them on each task")
    return names


def _task_names(comparisons: Sequence[SavedComparison]) -> tuple[str, ...]:
    """Names of the tasks, no two alike."""
    names = [str(comparison.task["name"]) for comparison in comparisons]
    unique = [one.name if names.count(name) > 1 else name for one, name in zip(comparisons, names, strict=True)]
    for index, name in enumerate(unique):
        if name in unique[:index]:
            raise UserError(
                f"two of the tasks would be called {name!r}: give the folder of one comparison another name"
            )
    return tuple(unique)


def _steps_ratio(run: RunRecord) -> float:
    """Child steps of a run, with those of forks, over its own."""
    return run.child_steps / run.steps if run.steps else 1.0


def _conclusion(rows: Sequence[Standing], comparisons: Sequence[SavedComparison]) -> str:
    """The outcome in one sentence and a caution."""
    first = rows[0]
    rank = number_text(first.mean_rank.value, RANK_DECIMALS)
    field = f"({rank}) of {len(rows)} planners over {len(comparisons)} tasks"
    if alone := [comparison.name for comparison in comparisons if len(comparison.seeds) < 2]:
        return (
            f"Nothing can be told apart: {first.planner} has the lowest mean rank {field}, which may be chance, for "
            f"{listed(alone)} ran on 1 seed; run more seeds."
        )
    gaps = {r.planner: r.to_first.difference for r in rows if r.to_first is not None and r.to_first.tone == "tie"}
    what = "the paired differences in mean rank"
    ties = tied_text([*gaps], [*gaps.values()], RANK_DECIMALS, "in mean rank", what)
    return (
        f"{first.planner} has the lowest mean rank {field}, 95 % interval "
        f"{interval_text(first.mean_rank, RANK_DECIMALS)}{ties}. The tasks are fixed: intervals speak of other seeds, "
        "not of other tasks or of another tuning. They are not adjusted for the number of comparisons, and ranks "
        "depend on who takes part."
    )
