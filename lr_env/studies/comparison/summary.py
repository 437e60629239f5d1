"""From the records of a comparison to one row a planner and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from lr_env.report.formatting import (
    decimals_of,
    interval_text,
    listed,
    number_text,
    seeds_text,
    setting_text,
    up_to_text,
)
from lr_env.stats import intervals as st
from lr_env.stats.intervals import Estimate, Versus
from lr_env.stats.paired_runs import run_scores, run_steps_to_target, runs_by_planner
from lr_env.studies.comparison.spent import Spent


@dataclass(frozen=True)
class Row:
    """One planner of a comparison; losses in nats per example, accuracies as fractions.

    Attributes:
        planner: name.
        settings: the fields of the planner.
        n: final runs, one a seed.
        diverged: how many of them diverged.
        val_loss: mean loss on the whole validation split at the end.
        val_loss_iqm: its interquartile mean.
        val_accuracy: mean accuracy on the whole validation split; None for a task that has none.
        val_accuracy_iqm: its interquartile mean.
        test_loss: mean test loss.
        test_loss_iqm: interquartile mean of the test loss.
        test_accuracy: mean test accuracy; None for a task that has none.
        test_accuracy_iqm: its interquartile mean.
        to_reference: against the best constant rate; None where there is none, and in its own row.
        to_baseline: against the best baseline; None in its own row.
        to_best: against the planner with the lowest mean test loss; None in its own row.
        improvement: probability that a run has a lower test loss than a run of the best baseline; None in its
            own row.
        steps_to_target: median over seeds of the steps to the target validation loss, infinity for never;
            None where no target was set.
        tuning_steps: child steps spent on choosing the setting.
        extra_steps: child steps a run took beyond its budget, e.g. in forks; mean.
        planning_seconds: wall time in the planner, mean of a run.
        hessian_max: mean over the runs that did not diverge of the largest eigenvalue of the training loss's
            Hessian; None where it was not measured.
        hessian_trace: likewise, of its trace.
        spent: what it was tuned with, and made of before; None where that is not known.
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
    to_reference: Versus | None
    to_baseline: Versus | None
    to_best: Versus | None
    improvement: Estimate | None
    steps_to_target: float | None
    tuning_steps: int
    extra_steps: float
    planning_seconds: float
    hessian_max: Estimate | None = None
    hessian_trace: Estimate | None = None
    spent: Spent | None = None

    @property
    def setting(self) -> str:
        """The settings as compact text, e.g. "peak=0.1, cooldown=0.5"."""
        return setting_text(self.settings)


@dataclass(frozen=True)
class Summary:
    """What a comparison found.

    Attributes:
        rows: one a planner, lowest mean test loss first.
        seeds: the seeds that every planner ran on.
        reference: name of the constant rate that the others are held against; None where it did not run.
        baseline: name of the best baseline, the planner with the lowest mean final validation loss of those that take
            no steps beyond their budget.
        tied: planners that cannot be told from the first row, in the order of the rows.
        controls: (planner, the control that took over its setting, the planner against its control).
        target_val_loss: nats per example, or None.
        conclusion: the outcome in plain words.
    """

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    reference: str | None
    baseline: str
    tied: tuple[str, ...]
    controls: tuple[tuple[str, str, Versus], ...]
    target_val_loss: float | None
    conclusion: str


def summarise(
    records: Sequence[RunRecord],
    *,
    target_val_loss: float | None,
    tuning_steps: Mapping[str, int],
    reference: str | None = "constant",
    controls: Mapping[str, str] | None = None,
    spent: Mapping[str, Spent] | None = None,
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

    Raises:
        UserError: when the runs are not comparable, naming the first reason found.
    """
    runs = runs_by_planner(records)
    planners = list(runs)
    missing = [p for p in planners if p not in tuning_steps]
    if missing:
        raise UserError(f"tuning_steps has no entry for planner {missing[0]!r}; give 0 if it was not tuned")
    val = {p: run_scores(runs[p], "final_val_loss") for p in planners}
    loss = {p: run_scores(runs[p], "test_loss") for p in planners}
    mean = {p: st.mean_interval(loss[p]) for p in planners}
    robust = {p: st.iqm_interval(loss[p]) for p in planners}
    mean_val = {p: st.mean_interval(val[p]) for p in planners}
    accuracy: dict[str, dict[str, NDArray[np.float64]]] = {"test_accuracy": {}, "final_val_accuracy": {}}
    for name, found in accuracy.items():
        if any(name in r.scores for r in records):
            found.update({p: run_scores(runs[p], name) for p in planners})
    val_accuracy, test_accuracy = accuracy["final_val_accuracy"], accuracy["test_accuracy"]

    planners.sort(key=lambda p: (mean[p].value, robust[p].value, p))
    best = planners[0]
    # One that looks ahead on forks has picked its rates by the validation loss, at many times the cost.
    plain = [p for p in planners if not any(r.extra_steps for r in runs[p])] or planners
    baseline = min(plain, key=lambda p: (mean_val[p].value, p))
    reference = reference if reference in planners else None

    def against(planner: str, other: str) -> Versus:
        difference = st.paired_difference(loss[planner], loss[other])
        return Versus(difference, st.verdict(difference))

    def versus(planner: str, other: str | None) -> Versus | None:
        return None if other is None or other == planner else against(planner, other)

    rows = tuple(
        Row(
            planner=p,
            settings=runs[p][0].settings,
            n=len(runs[p]),
            diverged=sum(r.diverged for r in runs[p]),
            val_loss=mean_val[p],
            val_loss_iqm=st.iqm_interval(val[p]),
            val_accuracy=st.mean_interval(val_accuracy[p]) if val_accuracy else None,
            val_accuracy_iqm=st.iqm_interval(val_accuracy[p]) if val_accuracy else None,
            test_loss=mean[p],
            test_loss_iqm=robust[p],
            test_accuracy=st.mean_interval(test_accuracy[p]) if test_accuracy else None,
            test_accuracy_iqm=st.iqm_interval(test_accuracy[p]) if test_accuracy else None,
            to_reference=versus(p, reference),
            to_baseline=versus(p, baseline),
            to_best=versus(p, best),
            improvement=None if p == baseline else st.probability_of_improvement(loss[p], loss[baseline]),
            steps_to_target=None
            if target_val_loss is None
            else st.median_steps(run_steps_to_target(r, target_val_loss) for r in runs[p]),
            tuning_steps=int(tuning_steps[p]),
            extra_steps=float(np.mean([r.extra_steps for r in runs[p]])),
            planning_seconds=float(np.mean([r.planning_seconds for r in runs[p]])),
            hessian_max=_mean_where_measured(runs[p], "hessian_max"),
            hessian_trace=_mean_where_measured(runs[p], "hessian_trace"),
            spent=(spent or {}).get(p),
        )
        for p in planners
    )
    return Summary(
        rows=rows,
        seeds=tuple(r.seed for r in runs[best]),
        reference=reference,
        baseline=baseline,
        tied=tuple(r.planner for r in rows if r.to_best is not None and r.to_best.verdict == "tie"),
        controls=tuple((of, control, against(of, control)) for control, of in (controls or {}).items()),
        target_val_loss=target_val_loss,
        conclusion=_conclusion(rows, reference),
    )


def _mean_where_measured(runs: Sequence[RunRecord], name: str) -> Estimate | None:
    """Mean of a score that only some runs have."""
    found = np.array([run.scores[name] for run in runs if name in run.scores])
    return st.mean_interval(found) if len(found) else None


def _conclusion(rows: Sequence[Row], reference: str | None) -> str:
    """The outcome in one sentence and a caution."""
    best, n = rows[0], rows[0].n
    name = _named(best)
    if n > 1 and np.isinf(best.test_loss.value):
        return "Nothing can be compared by mean test loss: of every planner at least one run diverged."
    tied = [r for r in rows if r.to_best is not None and r.to_best.verdict == "tie"]
    loss = f"{number_text(best.test_loss.value, decimals_of([best.test_loss]))} nats/example"
    if len(rows) == 1:
        return f"{name} is the only planner: mean test loss {loss} on {seeds_text(n)}."
    field = f"({loss}) of {len(rows)} planners"
    if n == 1:
        return (
            f"Nothing can be told apart on 1 seed: {name} has the lowest test loss {field}, which may be "
            "chance; run more seeds."
        )
    text = f"{name} has the lowest mean test loss {field} on the same {n} seeds"
    if tied:
        gaps = [r.to_best.difference for r in tied if r.to_best is not None]
        text += (
            f". Not told apart from it, {up_to_text(gaps, decimals_of(gaps), 'nats/example')}: "
            f"{listed([_named(r) for r in tied])} (the 95 % intervals of their paired differences to it contain 0, and "
            "end there at most)"
        )
    else:
        text += ", and every other planner is told apart from it"
    if best.extra_steps:
        text += f". Each run of {best.planner} took {best.extra_steps:.0f} child steps beyond its budget"
    constant = next((r for r in rows if r.planner == reference), None)
    against = "" if constant is None else f". {best.planner} {_against_constant(best, constant)}"
    return f"{text}{against}. Intervals are per comparison and not adjusted for the number of comparisons."


def _against_constant(best: Row, constant: Row) -> str:
    if best.to_reference is None:
        return "is itself the best constant rate"
    gap = best.to_reference.difference
    rate = f"the best constant rate ({constant.setting})"
    if not np.isfinite(gap.value):
        return f"has no finite difference to {rate}, of which {constant.diverged} runs diverged"
    lower = Estimate(-gap.value, -gap.high, -gap.low)
    decimals = decimals_of([lower])
    interval = f"95 % interval {interval_text(lower, decimals)}"
    by = f"by {number_text(lower.value, decimals)} nats/example, {interval}"
    if best.to_reference.verdict == "tie":
        return f"does not beat {rate} beyond doubt: it is lower {by}"
    return f"beats {rate} {by}"


def _named(row: Row) -> str:
    return f"{row.planner} ({row.diverged} of {row.n} runs diverged)" if row.diverged else row.planner
