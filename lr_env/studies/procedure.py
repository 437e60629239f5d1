"""The procedure of a tuner in an experiment: rounds of runs, each proposed by those before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lr_env.objectives import Objective
from lr_env.records.record import FINISHED, RunRecord, run_key
from lr_env.records.store import Store
from lr_env.rollout import PlannedRun, not_made_before
from lr_env.runs.experiment import Experiment
from lr_env.seeds import PER_REPEAT, TUNERS
from lr_env.tasks import Task
from lr_env.tuner import Tuner


def next_runs(tuner: Tuner, task: Task, repeat: int, earlier: Sequence[RunRecord], count: int) -> list[PlannedRun]:
    """The next runs of a tuner, each on a seed of its own or one that it was not made on before.

    Args:
        tuner: who proposes them.
        task: what is trained.
        repeat: number of the repeat, on which their seeds depend, and what is drawn.
        earlier: the runs so far.
        count: how many.
    """
    start, done = TUNERS.start + repeat * PER_REPEAT, len(earlier)
    seeds = [start + tuner.seed_index(number) for number in range(done, done + count)]
    return not_made_before(tuner.propose(task, repeat, earlier, count), seeds, earlier)


class Procedure:
    """Lets a tuner make runs, several times from the start, in lockstep.

    Rounds that are finished are not proposed anew. The phase of a round is the label and the round's number.

    Args:
        experiment: where the runs are made.
        tuner: who proposes them.
        label: of the phases.
        repeats: how often, each time on other seeds.
        first: number of the first repeat, on which its seeds depend.

    Attributes:
        records: the runs of each repeat so far, with the objective of the task in the place of the validation loss (see
            `Objective.as_loss`).
    """

    def __init__(self, experiment: Experiment, tuner: Tuner, label: str, repeats: int = 1, first: int = 0) -> None:
        self.experiment = experiment
        self.tuner = tuner
        self.label = label
        self.first = first
        self.records: list[list[RunRecord]] = [[] for _ in range(repeats)]
        self._objective = Objective.of(experiment.task)
        self._rounds = 0

    def spend(self, until: int, progress: Callable[[int], None]) -> None:
        """Make runs until each repeat has so many; `progress` is that of `Experiment.run`."""
        task, tuner, repeats = self.experiment.task, self.tuner, len(self.records)
        while (done := len(self.records[0])) < until:
            count, phase = min(tuner.batch_size(done), until - done), f"{self.label}-{self._rounds}"
            if len(self._finished(phase)) < count * repeats:
                planned = []
                for repeat, earlier in enumerate(self.records, self.first):
                    planned += next_runs(tuner, task, repeat, earlier, count)
                self.experiment.run(planned, phase, ("val",), progress)
            else:
                progress(count * repeats * task.budget)
            for run in self._finished(phase):
                repeat = (run.seed - TUNERS.start) // PER_REPEAT
                self.records[repeat - self.first].append(self._objective.as_loss(run))
            self._rounds += 1

    def _finished(self, phase: str) -> list[RunRecord]:
        return finished_runs(self.experiment.store, self.experiment.name, phase)


def finished_runs(store: Store, name: str, phase: str) -> list[RunRecord]:
    """The finished runs of a round, with their curves, in an order that does not depend on how they were made."""
    return sorted((run for run in store.runs(name, phase, curves=True) if run.status == FINISHED), key=run_key)
