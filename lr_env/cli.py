"""The command line: `lr-env tasks | planners | sweep | compare`."""

from __future__ import annotations

import io
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import arg

from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.compare.job import Job

_VARIED = ("budget", "segment", "batch_size", "train_fraction", "label_noise")
"""Fields of a task that options replace."""

_TUNE_SEED = 1_000_000  # tuning seeds count up from here, far from the seeds people choose


@dataclass(frozen=True)
class Tasks:
    """List the tasks: what can be trained."""

    def run(self) -> None:
        """Print one line a task."""
        from lr_env.tasks import TASKS

        for task in TASKS.values():
            print(
                f"{task.name:19} {task.network}, {type(task.optimizer).__name__}, batch {task.batch_size}, "
                f"{task.budget} steps; {task.source.description}"
            )


@dataclass(frozen=True)
class Planners:
    """List the planners: who can set the learning rate."""

    def run(self) -> None:
        """Print one line a planner."""
        from lr_env.registry import find_planner, needs_forks, planner_names

        for name in planner_names():
            forks = ' [trains forks: many child steps a run; not in "all"]' if needs_forks(name) else ""
            print(f"{name:15} {(find_planner(name).__doc__ or '-').strip().splitlines()[0]}{forks}")


@dataclass(frozen=True)
class Common:
    """Options of a sweep and of a comparison."""

    task: Annotated[str, tyro.conf.Positional, arg(metavar="TASK")]
    """Name of a task; `lr-env tasks` lists them."""
    planners: Annotated[tuple[str, ...], arg(metavar="NAME...")] = ("all",)
    """Planners, by name; "all" are those that need no forks. `lr-env planners` lists them."""
    rates: Annotated[str, arg(metavar="RATES")] = ""
    """Peak rates to try: LOW:HIGH:COUNT for a log grid, or a list 0.01,0.1,1. Default: 12 over the task's range."""
    tune_seeds: Annotated[str, arg(metavar="SEEDS")] = "2"
    """Seeds for every setting: how many, or a list 1000000,1000001."""
    budget: Annotated[int | None, arg(metavar="STEPS")] = None
    """Optimizer steps in a run, in place of the task's."""
    segment: Annotated[int | None, arg(metavar="STEPS")] = None
    """Optimizer steps between two decisions, in place of the task's."""
    batch_size: Annotated[int | None, arg(metavar="N")] = None
    """Examples a step, in place of the task's."""
    train_fraction: Annotated[float | None, arg(metavar="SHARE")] = None
    """Share of the training examples that is used, in place of the task's."""
    label_noise: Annotated[float | None, arg(metavar="SHARE")] = None
    """Share of the training labels that are wrong, in place of the task's."""
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    """cpu, cuda, cuda:1, ... or auto."""
    backend: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto, loop (children one after another), stacked (as one computation) or compiled (the same, fused)."""
    precision: Annotated[str, arg(metavar="NAME")] = "float32"
    """float32, tf32 (CUDA) or bf16 (autocast)."""
    channels_last: bool | None = None
    """Compute convolutions channels-last. Default: on CPUs."""
    deterministic: bool = False
    """Use only algorithms that give the same bits every time (CPUs do so anyway)."""
    lockstep: Annotated[int | None, arg(metavar="N")] = None
    """Children trained together. Default: up to 128, as memory allows."""
    threads: Annotated[int | None, arg(metavar="N")] = None
    """CPU threads. Default: torch's."""
    store: Path = Path("results/records.sqlite")
    """Record store, a SQLite file."""
    name: Annotated[str, arg(metavar="NAME")] = ""
    """Name of the experiment, in the store and under results/. Default: that of the task."""
    fresh: bool = False
    """Forget what was done under this name, and start over."""
    checkpoint_seconds: Annotated[float, arg(metavar="SECONDS")] = 60.0
    """Wall time between checkpoints of the runs in flight."""

    def experiment(self) -> str:
        """The checked name."""
        name = self.name or self.default_name()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise UserError(f"name {name!r}: use letters, digits, '.', '_' and '-', and begin with a letter or digit")
        return name

    def default_name(self) -> str:
        """The name of the task."""
        return self.task

    def job(self, seeds: tuple[int, ...]) -> Job:
        """The job that the options ask for."""
        import torch

        from lr_env.children.children import find_device
        from lr_env.children.numerics import Numerics
        from lr_env.compare.job import Job
        from lr_env.registry import find_planner, needs_forks, planner_names
        from lr_env.tasks import find_task

        task = find_task(self.task)
        own = {name: getattr(self, name) for name in _VARIED}
        task = replace(task, **{name: value for name, value in own.items() if value is not None})
        given = [name for part in self.planners for name in part.split(",") if name]
        names: list[str] = []
        for name in given:  # a planner besides "all" is one that needs forks
            if name != "all":
                find_planner(name)
            names += [other for other in planner_names() if not needs_forks(other)] if name == "all" else [name]
        numerics = Numerics(self.precision, self.deterministic, self.channels_last)
        numerics.check(find_device(self.device))
        if not (math.isfinite(self.checkpoint_seconds) and self.checkpoint_seconds >= 0):
            raise UserError(f"checkpoint-seconds {self.checkpoint_seconds}: it must be a finite number from 0 up")
        if self.threads is not None:
            if self.threads < 1:
                raise UserError(f"threads {self.threads}: it must be a whole number of at least 1")
            torch.set_num_threads(self.threads)
        return Job(
            task=task,
            planners=tuple(names),
            rates=parse_rates(self.rates) if self.rates else log_grid(*task.tuning_range, 12),
            tune_seeds=parse_seeds(self.tune_seeds, first=_TUNE_SEED),
            seeds=seeds,
            device=str(find_device(self.device)),
            backend=self.backend,
            lockstep=self.lockstep,
            checkpoint_seconds=self.checkpoint_seconds,
            numerics=numerics,
        )


@dataclass(frozen=True)
class Sweep(Common):
    """Run planners x a grid of peak rates x seeds, in lockstep, into the record store."""

    def default_name(self) -> str:
        """The name of the task, told from that of a comparison."""
        return f"{self.task}-sweep"

    def run(self) -> None:
        """Run the sweep and print each planner's best setting."""
        from lr_env.compare.job import run_job, tuning_steps
        from lr_env.compare.table import setting_text
        from lr_env.records.store import Store
        from lr_env.rollout import planner_settings

        job, name = self.job(()), self.experiment()
        store = Store(self.store)
        with _progress(job.child_steps) as progress:
            result = run_job(job, store, name, fresh=self.fresh, progress=progress)
        steps = tuning_steps(result.tuning)
        best = {planner: planner_settings(chosen) for planner, chosen in result.chosen.items()}
        width = max(len("best setting"), *(len(setting_text(settings)) for settings in best.values()))
        print(f"{'planner':15} {'best setting':{width}} {'validation loss':>16} {'child steps':>12}")
        for planner, settings in best.items():
            runs = [r for r in result.tuning if (r.planner, r.settings) == (planner, settings)]
            mean = sum(r.scores["final_val_loss"] for r in runs) / len(runs)
            print(f"{planner:15} {setting_text(settings):{width}} {mean:16.4f} {steps[planner]:12,}")
        print(f"{len(result.tuning)} runs in {self.store}, experiment {name!r}")


@dataclass(frozen=True)
class Compare(Common):
    """Tune every planner with the same number of runs, then run all on the same fresh seeds and say who won."""

    seeds: Annotated[str, arg(metavar="SEEDS")] = "10"
    """Fresh seeds of the comparison: how many (from 0 up), or a list 3,5,8."""
    results: Path = Path("results")
    """Folder for the reports; this one goes to its subfolder NAME."""
    flatness: bool = False
    """Measure the training loss's Hessian at the end of the final runs: its largest eigenvalue and its trace. Takes as
    long as training a run on some 25,000 examples."""

    def run(self) -> None:
        """Run the comparison, write its report and print the table."""
        from rich.console import Console

        from lr_env.compare.job import manifest, run_job, tuning_steps
        from lr_env.compare.report import print_summary, write_report
        from lr_env.compare.table import summarise
        from lr_env.records.store import Store

        job, name = replace(self.job(parse_seeds(self.seeds)), flatness=self.flatness), self.experiment()
        if not job.seeds:
            raise UserError("no seeds: give at least one with --seeds")
        folder = self.results / name
        _writable(folder)
        store = Store(self.store)
        with _progress(job.child_steps) as progress:
            result = run_job(job, store, name, fresh=self.fresh, progress=progress)
        summary = summarise(
            result.final, target_val_loss=job.task.target_val_loss, tuning_steps=tuning_steps(result.tuning)
        )
        command = shlex.join(["lr-env", *sys.argv[1:]])
        write_report(folder, result.final, result.tuning, summary, manifest(job, result, command))
        print_summary(summary, Console())
        print(f"Report: {folder / 'summary.md'}")


def main() -> None:
    """Entry point of `lr-env`: bad input is one line and exit code 2."""
    try:
        _parse().run()
    except UserError as error:
        _stop(str(error))
    except BrokenPipeError:  # the reader of our output, say `head`, has had enough
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename else ""
        _stop(
            f"cannot read or write{where}: {error.strerror or error}; see that the disk is not full and may be written"
        )
    except KeyboardInterrupt:
        but = ", without --fresh," if "--fresh" in sys.argv else ""
        print(f"stopped; the same command{but} goes on from here", file=sys.stderr)
        sys.exit(130)


def _parse() -> Tasks | Planners | Sweep | Compare:
    """What the arguments ask for; tyro's framed messages become one line."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(
                Tasks | Planners | Sweep | Compare,
                prog="lr-env",
                description=__doc__,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if not end.code:
            raise  # help was asked for, and given
        text = " ".join(re.sub("[│╭╮╰╯]", " ", told.getvalue()).split())
        text = re.sub(r"^─ [^─]* ─+ ", "", text)
        near = re.search(r"Perhaps you meant: (--[a-z-]+)", text)
        guess = f"; did you mean {near[1]}?" if near else ""
        raise UserError(f"{re.split('─{3,}', text)[0].strip().rstrip('.')}{guess} (see lr-env --help)") from None


def parse_seeds(text: str, first: int = 0) -> tuple[int, ...]:
    """Seeds from "10" (so many, from `first` up), "3,5,8", or "3," (the one).

    Raises:
        UserError: the text is neither.
    """
    try:
        numbers = [int(part) for part in text.removesuffix(",").split(",")]
    except ValueError:
        raise UserError(f"seeds {text!r}: give how many, e.g. 10, or a list, e.g. 3,5,8") from None
    if len(numbers) > 1 or "," in text:
        return tuple(numbers)
    if numbers[0] < 1:
        raise UserError(f"seeds {text!r}: give at least one")
    return tuple(range(first, first + numbers[0]))


def parse_rates(text: str) -> tuple[float, ...]:
    """Rates from "0.01:1:9" (a log grid of 9) or "0.01,0.1,1".

    Raises:
        UserError: the text is neither, or a rate is not a finite number above 0.
    """
    try:
        if ":" in text:
            low, high, count = text.split(":")
            return log_grid(float(low), float(high), int(count))
        rates = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"rates {text!r}: give LOW:HIGH:COUNT, e.g. 0.01:1:9, or a list, e.g. 0.01,0.1,1") from None
    for rate in rates:
        if not (math.isfinite(rate) and rate > 0):
            raise UserError(f"rate {rate:g}: rates must be finite and above 0")
    return rates


def log_grid(low: float, high: float, count: int) -> tuple[float, ...]:
    """`count` rates from `low` to `high`, evenly spaced in their logs, rounded to 4 significant digits.

    Raises:
        UserError: a bound is not a finite number above 0, they are not in order, or the count is below 2.
    """
    for bound in (low, high):
        if not (math.isfinite(bound) and bound > 0):
            raise UserError(f"rate {bound:g}: rates must be finite and above 0")
    if low >= high or count < 2:
        raise UserError(f"rates {low:g}:{high:g}:{count}: give LOW below HIGH and a COUNT of at least 2")
    return tuple(float(f"{low * (high / low) ** (i / (count - 1)):.4g}") for i in range(count))


def _writable(folder: Path) -> None:
    """Find out before the work rather than after it that a report cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write into {str(folder)!r} ({error.strerror}): choose a folder you may write to with --results"
        ) from error


@contextmanager
def _progress(child_steps: int) -> Iterator[Callable[[str, int], None]]:
    """A bar with the time left on standard error; silent where that is not a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        job = bar.add_task("measuring", total=child_steps)
        yield lambda what, steps: bar.update(job, description=what, advance=steps)


def _stop(line: str) -> None:
    print(f"lr-env: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
