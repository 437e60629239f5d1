"""`lr-env tuning-across`: how good the planners of tuners are on many tasks of a family, by the number of runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from lr_env.cli.engine_options import EngineChoice
from lr_env.cli.parsing import parse_name, progress_bar, writable
from lr_env.errors import UserError
from lr_env.runs.options import Counts, Names, Seeds


@dataclass(frozen=True, kw_only=True)
class TuningAcross(EngineChoice):
    """Let tuners choose planners for many tasks of a family, after 0, 1, 2, 3 ... runs, and run what they chose.

    Reported is the mean regret over tasks: how much higher the final loss is than the lowest that any tuner reached on
    the task. The same command goes on where it was stopped.
    """

    resumable: ClassVar[bool] = True

    family: Annotated[str, Positional, arg(metavar="FAMILY")]
    """Name of the task family; `lr-env tasks` lists them."""
    split: Annotated[str, arg(metavar="NAME")] = "test"
    """Tasks of which split: train, val, test or shifted."""
    tasks: Annotated[int, arg(metavar="N")] = 40
    """Number of tasks, the first ones of the split."""
    first: Annotated[int, arg(metavar="N")] = 0
    """Number of the first task, from 0."""
    tuners: Names = ("latent-ode-transfer", "wsd", "wsd-tpe")
    """Tuners, by name; settings follow a name, as in latent-ode-transfer:model=FILE."""
    planners: Names = ()
    """Planners without runs of the task; settings may follow a name, as in prodigy:peak=1.0."""
    runs: Counts = (0, 1, 2, 3, 5, 10, 24, 40)
    """Numbers of runs after which each tuner chooses, where it can; 0 for those that know something before."""
    repeats: int = 1
    """Repeats of each procedure from the start, on other seeds."""
    seeds: Seeds = tuple(range(3))
    """Fresh seeds that the chosen planners are run on: how many (from 0 up), or a list 3,5,8."""
    score: Annotated[str, arg(metavar="NAME")] = "test"
    """Final losses on which split of the data: test, or val while something is developed."""
    against: Names = ()
    """Differences that are reported, e.g. latent-ode-transfer/0-wsd/10."""
    margin: Annotated[float, arg(metavar="REGRET")] = 0.0
    """Largest difference that does not matter, to be fixed beforehand."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: FAMILY-SPLIT-tuning)")] = None
    """Name of the experiments and of the folder of the report."""
    store: Path = Path("results/records.sqlite")
    """Record store for all runs, a SQLite file."""
    results: Path = Path("results")
    """Folder for reports."""
    fresh: bool = False
    """Delete what is stored under this name, and start over."""
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    """Device for the training."""
    backend: Annotated[str, arg(metavar="NAME")] = "stacked"
    """How to train the runs of a task: loop (in turn), stacked (together) or compiled."""
    threads: Annotated[int, arg(metavar="N")] = 1
    """CPU threads."""

    def run(self) -> None:
        """Tune on each task, and report.

        Raises:
            UserError: an option is wrong, or the name is that of another study.
        """
        from contextlib import closing

        import torch

        from lr_env.children import Backend, Execution
        from lr_env.provenance import command_line, versions
        from lr_env.records.store import Store
        from lr_env.report.terminal import print_document
        from lr_env.runs.lab import Lab
        from lr_env.studies.tuning_across.procedure import Plan, tune_on_task
        from lr_env.studies.tuning_across.result import TaskAnswers, TuningAcrossResult
        from lr_env.tasks.families import find_family, split_seeds
        from lr_env.terminal import console

        family = find_family(self.family)
        seeds = split_seeds(family, self.split)[self.first : self.first + self.tasks]
        if self.tasks < 2 or self.first < 0 or len(seeds) < self.tasks:
            raise UserError(f"tasks {self.tasks} from {self.first} on: give at least 2, of those that {self.split} has")
        if self.score not in ("val", "test"):
            raise UserError(f"score {self.score!r}: give val or test")
        if self.backend not in ("loop", "stacked", "compiled"):
            raise UserError(f"backend {self.backend!r}: give loop, stacked or compiled")
        if not 0 <= self.margin < math.inf:
            raise UserError(f"margin {self.margin:g}: give a number of at least 0, e.g. 0.03")
        plan = Plan(tuple(self.tuners), tuple(self.planners), self.runs, self.repeats, self.seeds, self.score)
        against = tuple(map(_pair, self.against))
        plan.check_selected([one for pair in against for one in pair])
        name = parse_name(self.name or f"{self.family}-{self.split}-tuning")
        folder = self.results / name
        writable(folder)
        torch.set_num_threads(self.threads)
        backend = Backend("loop") if self.backend == "loop" else Backend(self.backend, block=32)
        execution = Execution(self.device, backend)
        answers = []
        with (
            closing(self.find_engine(self.device, self.threads)) as engine,
            closing(Store(self.store)) as store,
            progress_bar(len(seeds)) as progress,
        ):
            for number, seed in enumerate(seeds, self.first):
                task = family.sample(seed)
                part = f"{name}-{number}"
                lab = Lab(
                    task,
                    store,
                    part,
                    execution,
                    fresh=self.fresh,
                    folder=folder / "models" / str(number),
                    engine=engine,
                )
                answers.append(TaskAnswers(task.name, tuple(tune_on_task(lab, plan, lambda steps: None))))
                progress("tasks", 1)
        result = TuningAcrossResult(
            self.family, self.split, tuple(answers), self.seeds, self.score, against, self.margin
        )
        result.write(folder, {"command": command_line(), "versions": versions()})
        print_document(result.document(), console(), folder)
        print(f"Report: {folder / 'summary.md'}")


def _pair(text: str) -> tuple[tuple[str, int], tuple[str, int]]:
    """Two answers that are compared, of a text such as "latent-ode-transfer/0-wsd/10".

    Raises:
        UserError: it is not of that form.
    """
    import re

    found = re.fullmatch(r"(.+?)/(\d+)-(.+)/(\d+)", text)
    if found is None:
        raise UserError(f"against {text!r}: give TUNER/RUNS-TUNER/RUNS, e.g. latent-ode-transfer/0-wsd/10")
    one, runs, other, others = found.groups()
    return (one, int(runs)), (other, int(others))
