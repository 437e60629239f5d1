"""The summary of a comparison: one row a planner and one sentence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.objectives import VAL_LOSS, Objective
from lr_env.records.record import SPLIT_SCORES, RunRecord
from lr_env.report.formatting import (
    decimals_of,
    interval_text,
    number_text,
    seeds_text,
    setting_text,
    tied_text,
)
from lr_env.stats import intervals as st
from lr_env.stats.intervals import Estimate, Versus
from lr_env.stats.paired_runs import run_scores, run_steps_to_target, runs_by_planner
from lr_env.stats.two_way import holm, two_way_difference
from lr_env.studies.comparison.spent import Spent


@dataclass(frozen=True)
class Row:
    """One planner of a comparison; losses in nats per example, accuracies as fractions.

    Attributes:
        planner: name.
        settings: the fields of the planner.
        n: final runs, one a seed.
        diverged: how many of them diverged.
        val_loss, val_loss_iqm: mean and interquartile mean of the loss on the whole validation split at the end.
        val_accuracy, val_accuracy_iqm: likewise of the accuracy; None for a task that has none.
        test_loss, test_loss_iqm, test_accuracy, test_accuracy_iqm: likewise on the test split.
        to_reference, to_baseline, to_best: against the best constant rate, the best baseline, and the planner with the
            lowest mean test loss; None in that planner's row, and where there is none.
        improvement: probability that a run has a lower test loss than a run of the best baseline; None in its row.
        steps_to_target: median over seeds of the steps to the target validation loss, infinity for never; None where no
            target was set.
        tuning_steps: child steps spent on choosing the setting.
        extra_steps: child steps a run took beyond its budget, e.g. in forks; mean.
        planning_seconds: wall time in the planner, mean of a run.
        hessian_max, hessian_trace: means over the runs that did not diverge of the largest eigenvalue and the trace of
            the training loss's Hessian; None where they were not measured.
        spent: runs that it was tuned, trained or fitted with; None where that is not known.
        apart: whether it had more runs before than the others have, so that it is in a class of its own.
        reported: mean of what planners are judged by, see `Objective.reported`; None for the test loss.
    """

    planner: str
    settings: Mapping[str, Any]
    n: int
    diverged: int
    val_loss: Estimate
    val_loss_iqm: Estimate
    val_accuracy: Estimate | None
    val_accuracy_iqm: Estimate | None
    test_loss: Estimate
    test_loss_iqm: Estimate
    test_accuracy: Estimate | None
    test_accuracy_iqm: Estimate | None
    steps_to_target: float | None
    tuning_steps: int
    extra_steps: float
    planning_seconds: float
    to_reference: Versus | None = None
    to_baseline: Versus | None = None
    to_best: Versus | None = None
    improvement: Estimate | None = None
    hessian_max: Estimate | None = None
    hessian_trace: Estimate | None = None
    spent: Spent | None = None
    apart: bool = False
    reported: Estimate | None = None

    @property
    def judged(self) -> Estimate:
        """What planners are judged by."""
        return self.test_loss if self.reported is None else self.reported

    @property
    def setting(self) -> str:
        """The settings as compact text, e.g. "peak=0.1, cooldown=0.5"."""
        return setting_text(self.settings)


@dataclass(frozen=True)
class Summary:
    """The result of a comparison.

    Attributes:
        rows: one a planner, lowest mean test loss first, those in a class of their own last.
        seeds: the seeds that every planner ran on.
        reference: name of the constant rate that the others are compared with; None where it did not run.
        baseline: name of the best baseline, the planner with the lowest mean final validation loss of those that take
            no steps beyond their budget.
        tied: planners that are not told apart from the first row, in the order of the rows.
        controls: (planner, the control that took over its setting, the planner against its control).
        target_val_loss: nats per example, or None.
        conclusion: the outcome in words.
        margin: largest difference that does not matter, nats per example; 0 for none.
        objective: what planners were tuned for, and are judged by.
    """

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    reference: str | None
    baseline: str
    tied: tuple[str, ...]
    controls: tuple[tuple[str, str, Versus], ...]
    target_val_loss: float | None
    conclusion: str
    margin: float = 0.0
    objective: Objective = VAL_LOSS


def summarise(
    records: Sequence[RunRecord],
    *,
    target_val_loss: float | None,
    tuning_steps: Mapping[str, int],
    reference: str | None = "constant",
    controls: Mapping[str, str] | None = None,
    spent: Mapping[str, Spent] | None = None,
    apart: Collection[str] = (),
    margin: float = 0.0,
    objective: Objective = VAL_LOSS,
) -> Summary:
    """Put the final runs of a comparison into one row a planner.

    A run that diverged counts with an infinite loss, and with an accuracy of 0 if none was measured. Leaving
    it out would reward a planner for diverging, and the loss at which it happened to be stopped is no result:
    one such number widens the interval of a mean until it holds 0, and the planner would pass as tied.

    Args:
        records: the finished runs of phase "final", every planner with one setting and on the same seeds;
            with the curves `step` and `val_loss` where there is a target.
        target_val_loss: nats per example; None for no steps-to-target column.
        tuning_steps: planner -> child steps spent on choosing its setting.
        reference: name of the constant rate; a planner that did not run is no reference.
        controls: control -> the planner whose setting it took over; both ran.
        spent: planner -> what it was tuned with, and made of before.
        apart: planners in a class of their own.
        margin: largest difference that does not matter, nats per example; 0 for none.
        objective: what planners were tuned for, and are judged by.

    Raises:
        UserError: when the runs are not comparable, naming the first reason found.
    """
    runs = runs_by_planner(records)
    if missing := [planner for planner in runs if planner not in tuning_steps]:
        raise UserError(f"tuning_steps has no entry for planner {missing[0]!r}; give 0 if it was not tuned")
    measured = {name for record in records for name in record.scores}
    rows = [_row(of, measured, target_val_loss, tuning_steps, spent or {}) for of in runs.values()]
    losses = {planner: run_scores(of, "test_loss") for planner, of in runs.items()}
    if objective != VAL_LOSS:
        losses = {planner: np.array([objective.reported(run) for run in of]) for planner, of in runs.items()}
        rows = [replace(row, reported=st.mean_interval(losses[row.planner])) for row in rows]
    rows = [replace(row, apart=row.planner in apart) for row in rows]
    rows.sort(key=lambda row: (row.apart, row.judged.value, row.test_loss_iqm.value, row.planner))
    fair = [row for row in rows if not row.apart] or rows
    reference = reference if reference in runs else None
    baseline = _best_baseline(fair, {planner: [*map(objective.selected, of)] for planner, of in runs.items()})
    versus = partial(_versus, losses, margin=margin)
    compared = _adjusted([_compared(row, losses, versus, reference, baseline, rows[0].planner) for row in rows])
    return Summary(
        rows=compared,
        seeds=tuple(run.seed for run in runs[rows[0].planner]),
        reference=reference,
        baseline=baseline,
        tied=tuple(r.planner for r in compared if r.to_best is not None and not r.apart and r.to_best.tone == "tie"),
        controls=tuple((of, control, versus(of, control)) for control, of in (controls or {}).items()),
        target_val_loss=target_val_loss,
        conclusion=_conclusion(compared, reference, objective),
        margin=margin,
        objective=objective,
    )


def _adjusted(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows whose p-values against the baseline are adjusted for their number."""
    adjusted = holm({row.planner: row.to_baseline.p_value for row in rows if row.to_baseline is not None})
    return tuple(
        row if row.to_baseline is None
        else replace(row, to_baseline=replace(row.to_baseline, p_value=adjusted[row.planner]))
        for row in rows
    )  # fmt: skip


def _row(
    runs: Sequence[RunRecord],
    measured: Collection[str],
    target_val_loss: float | None,
    tuning_steps: Mapping[str, int],
    spent: Mapping[str, Spent],
) -> Row:
    """The row of one planner, not yet compared with others; `measured` are the scores that the comparison has."""
    estimates: dict[str, Any] = {}
    for score in SPLIT_SCORES:
        values = run_scores(runs, score) if score in measured or score.endswith("loss") else None
        name = score.removeprefix("final_")
        estimates[name] = None if values is None else st.mean_interval(values)
        estimates[f"{name}_iqm"] = None if values is None else st.iqm_interval(values)
    to_target = None
    if target_val_loss is not None:
        to_target = st.median_steps(run_steps_to_target(run, target_val_loss) for run in runs)
    planner = runs[0].planner
    return Row(
        planner=planner,
        settings=runs[0].settings,
        n=len(runs),
        diverged=sum(run.diverged for run in runs),
        **estimates,
        steps_to_target=to_target,
        tuning_steps=int(tuning_steps[planner]),
        extra_steps=float(np.mean([run.extra_steps for run in runs])),
        planning_seconds=float(np.mean([run.planning_seconds for run in runs])),
        hessian_max=_mean_where_measured(runs, "hessian_max"),
        hessian_trace=_mean_where_measured(runs, "hessian_trace"),
        spent=spent.get(planner),
    )


def _best_baseline(rows: Sequence[Row], selected: Mapping[str, Sequence[float]]) -> str:
    """The planner with the lowest mean validation loss, or of what else settings are selected by.

    One that looks ahead on forks has picked its rates by the validation loss, at many times the cost: it is no baseline
    where there is another one.
    """
    without_forks = [row for row in rows if not row.extra_steps] or rows
    return min(without_forks, key=lambda row: (float(np.mean(selected[row.planner])), row.planner)).planner


def _compared(
    row: Row,
    losses: Mapping[str, NDArray[np.float64]],
    of_two: Callable[[str, str], Versus],
    reference: str | None,
    baseline: str,
    best: str,
) -> Row:
    """A row with its comparisons with others; `losses` are test losses by planner, (seeds,)."""

    def versus(other: str | None) -> Versus | None:
        return None if other is None or other == row.planner else of_two(row.planner, other)

    improvement = st.probability_of_improvement(losses[row.planner], losses[baseline])
    return replace(
        row,
        to_reference=versus(reference),
        to_baseline=versus(baseline),
        to_best=versus(best),
        improvement=None if row.planner == baseline else improvement,
    )


def _versus(losses: Mapping[str, NDArray[np.float64]], planner: str, other: str, *, margin: float) -> Versus:
    mean = two_way_difference(losses[planner][None], losses[other][None])
    return Versus(st.paired_difference(losses[planner], losses[other]), mean.told(margin), mean.p_value)


def _mean_where_measured(runs: Sequence[RunRecord], score: str) -> Estimate | None:
    """Mean of a score that only some runs have."""
    values = np.array([run.scores[score] for run in runs if score in run.scores])
    return st.mean_interval(values) if len(values) else None


def _conclusion(rows: Sequence[Row], reference: str | None, objective: Objective) -> str:
    """The outcome in one sentence and a caution."""
    judged, unit = objective.reported_as, objective.unit
    fair = [row for row in rows if not row.apart] or rows
    apart, rows = [row for row in rows if row not in fair], fair
    best, n = rows[0], rows[0].n
    name = _named(best)
    if n > 1 and np.isinf(best.judged.value):
        return f"Nothing can be compared by mean {judged}: of every planner at least one run diverged."
    loss = f"{number_text(best.judged.value, decimals_of([best.judged]))} {unit}"
    if len(rows) == 1:
        return f"{name} is the only planner: mean {judged} {loss} on {seeds_text(n)}."
    field = f"({loss}) of {len(rows)} planners"
    if n == 1:
        return (
            f"Nothing can be told apart on 1 seed: {name} has the lowest {judged} {field}, which may be "
            "chance; run more seeds."
        )
    gaps = {_named(r): r.to_best.difference for r in rows if r.to_best is not None and r.to_best.tone == "tie"}
    ties = tied_text([*gaps], [*gaps.values()], decimals_of(gaps.values()), unit, "their paired differences")
    text = f"{name} has the lowest mean {judged} {field} on the same {n} seeds{ties}"
    if best.extra_steps:
        text += f". Each run of {best.planner} took {best.extra_steps:.0f} child steps beyond its budget"
    constant = next((r for r in rows if r.planner == reference), None)
    against = "" if constant is None else f". {best.planner} {_against_constant(best, constant, unit)}"
    own = ""
    if apart:
        theirs = [f"{row.planner} ({number_text(row.judged.value, decimals_of([row.judged]))})" for row in apart]
        own = f". In a class of its own, for it had more runs before: {', '.join(theirs)}"
    return f"{text}{against}{own}. Intervals are per comparison; p-values are adjusted for their number."


def _against_constant(best: Row, constant: Row, unit: str) -> str:
    if best.to_reference is None:
        return "is itself the best constant rate"
    gap = best.to_reference.difference
    rate = f"the best constant rate ({constant.setting})"
    if not np.isfinite(gap.value):
        return f"has no finite difference to {rate}, of which {constant.diverged} runs diverged"
    lower = Estimate(-gap.value, -gap.high, -gap.low)
    decimals = decimals_of([lower])
    interval = f"95 % interval {interval_text(lower, decimals)}"
    by = f"by {number_text(lower.value, decimals)} {unit}, {interval}"
    if best.to_reference.tone == "tie":
        return f"does not beat {rate} beyond doubt: it is lower {by}"
    return f"beats {rate} {by}"


def _named(row: Row) -> str:
    return f"{row.planner} ({row.diverged} of {row.n} runs diverged)" if row.diverged else row.planner
