"""The rounds of a search: proposals of Optuna, runs in lockstep, and results for the next proposals."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np

from lr_env.capabilities import Previewable, fingerprint
from lr_env.children.meters import on_demand
from lr_env.errors import UserError
from lr_env.objectives import VAL_LOSS, Objective
from lr_env.planner import Planner
from lr_env.pruning import Pruner
from lr_env.records.record import FINISHED, RunRecord, run_key
from lr_env.rollout import not_made_before
from lr_env.runs.experiment import Experiment
from lr_env.runs.lab import Lab
from lr_env.search import SearchSpace
from lr_env.seeds import PER_SWEEP, SWEEPS
from lr_env.tasks import Task
from planners.tuning.search.report import SearchResult, end_loss
from planners.tuning.search.storage import TrialStorage, default_path
from planners.tuning.tuners import RUNS_PER_SEED, import_optuna

if TYPE_CHECKING:
    from planners.tuning.search.study import Search

RUNS = "runs"


@dataclass(frozen=True)
class Round:
    """Trials that are asked for at once.

    Attributes:
        first: number of the first.
        count: how many there are.
    """

    first: int
    count: int

    @property
    def phase(self) -> str:
        """The name of the round in the record store."""
        return f"round-{self.first:05}"


def run_search(search: Search, lab: Lab) -> SearchResult:
    """Make the runs of a search, or those that are left.

    What is proposed follows from the seed and the results in the record store alone, so that a search which was killed
    goes on to the same trials. The file of trials is written from the record store.

    Args:
        search: what is searched, and how.
        lab: what is trained, and where its runs are kept.

    Raises:
        UserError: Optuna is not installed; the search cannot go on with what is stored; or the file of trials is
            damaged, or has other trials.
    """
    optuna = import_optuna("lr-env search")
    space = search.space(lab.task)
    needs = frozenset().union(*(space.at(name, space.lr_range[0], 0.0).needs for name in space.families))
    _check_rates(space, lab.task)
    path, objective = search.storage or default_path(lab.store.path, lab.name), Objective.of(lab.task)
    with lab.experiment(
        lambda before: _spec(search, space, before),
        at_once=min(search.round, search.runs),
        runs=search.runs,
        extends=_has_more_runs,
        planners=space.kinds,
        extra_signals=on_demand(needs),
    ) as experiment:
        storage = TrialStorage(path, lab.name, fresh=lab.fresh)
        study = optuna.create_study()
        records: list[RunRecord] = []
        for part in rounds(experiment.spec.study["search"][RUNS], search.round):
            study.sampler = make_sampler(search.sampler, search.seed, part.first)
            trials = [study.ask() for _ in range(part.count)]
            planners = [space.suggest(trial) for trial in trials]
            pruner = None if search.rule is None else search.rule.pruner(records, lab.task)
            new_records = _trained(experiment, part, planners, search.seed, records, lab, pruner)
            records += new_records
            for trial, record, value in zip(
                trials, new_records, trial_values(new_records, records, objective), strict=True
            ):
                if record.pruned:
                    for step, loss in zip(record.curves["step"], record.curves["val_loss"], strict=True):
                        trial.report(float(loss), int(step))
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                else:
                    study.tell(trial, value)
            storage.write(study.get_trials(deepcopy=False), records)
    return SearchResult(lab.task, space.families, tuple(records), str(lab.store.path), lab.name, path, lab.folder)


def rounds(runs: Sequence[int], size: int) -> Iterator[Round]:
    """Cut a search into rounds, which do not change where it is given more runs later.

    Args:
        runs: numbers of runs that the search was given, one start after the other; rising.
        size: number of runs in a round.

    >>> [(part.first, part.count) for part in rounds([5, 9], 3)]
    [(0, 3), (3, 2), (5, 3), (8, 1)]
    """
    for begin, end in pairwise((0, *runs)):
        for first in range(begin, end, size):
            yield Round(first, min(size, end - first))


def make_sampler(name: str, seed: int, finished: int) -> Any:
    """Return the sampler of a round: its random numbers follow from the seed and the number of finished runs."""
    optuna = import_optuna("lr-env search")
    drawn = int(np.random.SeedSequence([seed, finished]).generate_state(1)[0])
    if name == "random":
        return optuna.samplers.RandomSampler(seed=drawn)
    with warnings.catch_warnings():  # in earlier versions of Optuna the constant liar is experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=drawn, constant_liar=True)


def trial_values(
    new_records: Sequence[RunRecord], records: Sequence[RunRecord], objective: Objective = VAL_LOSS
) -> list[float]:
    """Return what Optuna is told of runs: final losses; a run that diverged counts as the worst one that did not.

    Args:
        new_records: the runs.
        records: all runs so far, with these.
        objective: what is searched for.
    """
    losses = [end_loss(record, objective) for record in records]
    worst = max((loss for loss in losses if np.isfinite(loss)), default=np.inf)
    return [loss if np.isfinite(loss) else worst for loss in (end_loss(record, objective) for record in new_records)]


def child_seed(seed: int, number: int) -> int:
    """Return the seed of the child of a trial. Consecutive runs share one, so that luck decides less among them."""
    return SWEEPS.start + seed * PER_SWEEP + number // RUNS_PER_SEED


def _trained(
    experiment: Experiment,
    part: Round,
    planners: Sequence[Planner],
    seed: int,
    records: Sequence[RunRecord],
    lab: Lab,
    pruner: Pruner | None,
) -> list[RunRecord]:
    """Train the runs of a round that are not finished yet, and return all of them in the order of the trials.

    Raises:
        UserError: the store has other runs of the round.
    """
    seeds = [child_seed(seed, part.first + place) for place in range(part.count)]
    planned = not_made_before(planners, seeds, records)
    others = {run_key(run) for run in experiment.store.runs(experiment.name, part.phase)} - set(map(run_key, planned))
    if others:
        raise UserError(
            f"the sampler proposes other trials for {part.phase} than {experiment.name!r} has, which was begun on "
            "another kind of machine: go on there, choose another --name, or start over with --fresh"
        )
    experiment.run(planned, part.phase, ("val",), lab.reporting("searching"), pruner)
    there = {run_key(run): run for run in experiment.store.runs(experiment.name, part.phase, curves=True)}
    new_records = [there[run_key(run)] for run in planned]
    assert all(run.status == FINISHED for run in new_records)
    return new_records


def _spec(search: Search, space: SearchSpace, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the results depend on besides the task.

    Raises:
        UserError: the search has had more runs than it is given now.
    """
    stored = (before or {}).get("search")
    had = stored.get(RUNS) if isinstance(stored, dict) else None
    had = had if isinstance(had, list) and had and all(isinstance(runs, int) for runs in had) else []
    if had and search.runs < had[-1]:
        raise UserError(f"the search has {had[-1]} runs: give at least as many, another --name, or --fresh")
    prints = {name: fingerprint(space.at(name, space.lr_range[0], 0.0)) for name in space.families}
    fingerprints = {name: value for name, value in prints.items() if value is not None}
    return {
        **({"fingerprints": fingerprints} if fingerprints else {}),
        "search": {
            "planners": list(space.families),
            "rates": list(space.lr_range),
            "round": search.round,
            "sampler": search.sampler,
            "seed": search.seed,
            **({} if search.rule is None else {"pruner": search.rule.to_json()}),
            RUNS: had if had and had[-1] == search.runs else [*had, search.runs],
        },
    }


def _check_rates(space: SearchSpace, task: Task) -> None:
    """Find out before training that a schedule would ask for a rate outside the task's range.

    Raises:
        UserError: naming the planner and the rate.
    """
    low, high = task.lr_range
    for name in space.families:
        for peak, share in product(space.lr_range, (0.0, 1.0)):
            planner = space.at(name, peak, share)
            if not isinstance(planner, Previewable):
                continue
            rates = planner.preview(task.num_segments)
            if not low <= rates.min() <= rates.max() <= high:
                outside = rates.min() if rates.min() < low else rates.max()
                raise UserError(
                    f"planner {name!r} with a peak of {peak:g} would ask for the learning rate {outside:g}, outside "
                    f"the task's range of {low:g} to {high:g}: give other --rates, or leave it out of --planners"
                )


def _has_more_runs(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether all that was added are runs, after those that there were."""
    if not isinstance(before.get("search"), dict) or not isinstance(had := before["search"].get(RUNS), list):
        return False
    return before == {**now, "search": {**now["search"], RUNS: now["search"][RUNS][: len(had)]}}
