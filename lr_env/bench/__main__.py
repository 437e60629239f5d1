"""`python -m lr_env.bench`: measures, prints the table and saves it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import tyro

from lr_env.bench import dacbench, engines, families, jax_twin, measures, torch_compile
from lr_env.bench.peer_process import PeerError
from lr_env.bench.saved import SavedParts
from lr_env.bench.table import Bar, Part, report
from lr_env.devices import find_device
from lr_env.entry_points import declared, load
from lr_env.errors import UserError, unknown
from lr_env.provenance import commit
from lr_env.registry import BENCHMARKS
from lr_env.tasks import TASKS, Task
from lr_env.tasks.data import load as load_data

LOCKSTEP_BARS: dict[str, Bar | None] = {"DigitsMLP": (">=", 5.0), "FashionMLP": (">=", 2.0), "FashionLeNet5": None}
"""The tasks that are measured against plain torch -> what many children must gain over one."""

RESET_TASK = SNAPSHOT_TASK = "FashionLeNet5"

FAMILIES: dict[str, float] = {
    "DigitsMLP": 2.0,
    "FashionMLP": 1.0,
    "FashionLeNet5": 1.0,
    "FashionResNet8": 1.0,
    "ShakespeareGPT": 1.0,
}
"""The kinds of children for CPUs -> what lockstep must gain: 2 where calling the operations is the limit."""

FANNED_OUT = ("FashionLeNet5", "FashionResNet8", "ShakespeareGPT")
"""Tasks that several processes train."""

BESIDE: dict[str, int] = {"DigitsMLP": 32, "FashionMLP": 32, "FashionLeNet5": 16}
"""Task -> children in lockstep beside other processes."""

GROWING = ("DigitsMLP", "FashionLeNet5", "FashionResNet8", "ShakespeareGPT")

ON_CUDA: dict[str, tuple[int, float]] = {
    "FashionLeNet5": (64, 15.0),
    "FashionCNN": (32, 4.0),
    "CIFAR10ResNet18": (16, 2.0),
    "ShakespeareGPT": (32, 8.0),
}
"""Task -> children in lockstep on a CUDA device, and what they must gain over one at a time in a plain loop."""


@dataclass(frozen=True)
class Bench:
    """Measure speed and memory side by side, against plain torch, DACBench and JAX, and hold figures against bars."""

    out: Path | None = None
    """Folder in which <machine>.md and <machine>.json are kept, with the parts that are there already; without it the
    table is only printed."""
    quick: bool = False
    """Few and short rounds: whether it runs rather than how fast. Kept as <machine>-quick. Installs nothing."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ... or auto. What is measured against DACBench and JAX runs on the CPU."""
    peers: Path = Path(".venv-peers")
    """Folder of the virtual environments that DACBench and JAX run in, one each; made where they are missing."""

    only: tuple[str, ...] = ()
    """Parts to measure: plain (against plain torch), families (kinds of children), peers (DACBench), jax (JAX),
    compile (a script with torch.compile), process (imports and a comparison), engines (several processes, and what the
    store takes), neighbours (lockstep beside busy processes), growth (1 to 256 children), cuda (against plain loops on
    a CUDA device), and those that packages add, such as planning (fits and plans). Default: all but cuda."""

    def run(self) -> None:
        """Measure, keep each part as soon as it is done, and print the table."""
        device = find_device(self.device)
        parts = {**MEASURES, **dict.fromkeys(declared(BENCHMARKS), Measuring.added), CUDA: Measuring.cuda}
        wrong = [part for part in self.only if part not in parts]
        if wrong:
            raise unknown("part", wrong[0], parts)
        saved = SavedParts(self.out, measures.machine(str(device)), tuple(parts), self.quick)
        for name in dict.fromkeys(self.only or [part for part in parts if part != CUDA]):
            now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
            part = Part(round(os.getloadavg()[0], 2), now, commit("+"))
            effort = measures.QUICK if self.quick else measures.Effort()
            parts[name](Measuring(name, part, device, effort, self.peers))
            saved.add(name, part)
        print(report(saved.parts, saved.machine, self.quick), end="")


@dataclass(frozen=True)
class Measuring:
    """A part while it is measured.

    Attributes:
        name: of the part.
        part: its results so far.
        device: where.
        effort: how long.
        peers: folder of the peers' virtual environments.
    """

    name: str
    part: Part
    device: torch.device
    effort: measures.Effort
    peers: Path

    @property
    def quick(self) -> bool:
        """Whether the rounds are few and short."""
        return self.effort is measures.QUICK

    def tasks(self, names: Iterable[str], what: str) -> Iterator[Task]:
        """Those tasks of which the data are there."""
        for name in names:
            print(f"{name}: {what} ...", file=sys.stderr)
            try:
                load_data(TASKS[name].data, str(self.device))
            except UserError as error:
                self.skip(f"{name} is not measured: the data set {TASKS[name].data} is not there.", str(error))
            else:
                yield TASKS[name]

    def skip(self, line: str, more: str = "") -> None:
        """Say that something is not measured."""
        print(f"{line} {more}".rstrip(), file=sys.stderr)
        self.part.skipped.append(line)

    def plain(self) -> None:
        """Against plain torch."""
        self.part.notes.append(PLAIN)
        for task in self.tasks(LOCKSTEP_BARS, "against plain torch"):
            bar = LOCKSTEP_BARS[task.name]
            self.part.figures += [
                measures.overhead(task, self.device, self.effort),
                *measures.lockstep(task, self.device, self.effort, bar),
            ]
            if task.name == RESET_TASK:
                self.part.figures.append(measures.reset(task, self.effort))

    def families(self) -> None:
        """Kinds of children in lockstep."""
        for task in self.tasks(FAMILIES, "in lockstep and one after another"):
            bar: Bar = (">=", FAMILIES[task.name])
            self.part.figures += families.family(task, self.device, self.effort, bar)
            if task.name == SNAPSHOT_TASK:
                self.part.figures.append(families.snapshots(task, self.device, self.effort))

    def against_dacbench(self) -> None:
        """Against DACBench."""
        measured = dacbench.measure(self.peers, self.effort, install=not self.quick)
        self.part.figures, self.part.skipped, self.part.notes = measured

    def against_jax(self) -> None:
        """Against JAX."""
        try:
            python = jax_twin.JAX.interpreter(self.peers, install=not self.quick)
        except PeerError as error:
            self.skip(f"JAX is not measured: {error}.")
            return
        self.part.notes.append(jax_twin.HOW)
        for task in self.tasks(jax_twin.LAYERS, "against JAX"):
            try:
                self.part.figures += jax_twin.against_jax(python, task, self.effort)
            except PeerError as error:
                self.skip(f"{task.name}: JAX is not measured: {error}.")

    def against_script(self) -> None:
        """Against a plain torch script with torch.compile."""
        try:
            torch_compile.check_compiler(self.device)
        except PeerError as error:
            self.skip(f"torch.compile is not measured: {error}.")
            return
        self.part.notes.append(torch_compile.HOW)
        for task in self.tasks(torch_compile.TASKS_OF_PEER, f"against {torch_compile.SCRIPT.name}"):
            try:
                self.part.figures += torch_compile.against_script(task, self.device, self.effort)
            except PeerError as error:
                self.skip(f"{task.name}: torch.compile is not measured: {error}.")

    def process(self) -> None:
        """Imports, and a comparison as a whole."""
        print("imports and a comparison ...", file=sys.stderr)
        self.part.notes.append("Imports are timed in a fresh process each.")
        self.part.figures += [*measures.imports(self.effort), *measures.comparison(str(self.device), self.effort)]

    def engines(self) -> None:
        """Several processes, and the one that writes the store."""
        seconds, whole = (0.5, 1.0) if self.quick else (10.0, 60.0)
        for task in self.tasks(FANNED_OUT, "in several processes"):
            self.part.figures += engines.fan_out(task, seconds, self.effort)
        for task in self.tasks(FANNED_OUT[:1], "in a process of its own"):
            self.part.figures += engines.process_cost(task, whole, self.effort)
        runs = 50 if self.quick else engines.RUNS
        self.part.figures += [engines.driver(runs, lockstep) for lockstep in (1, 100)]

    def neighbours(self) -> None:
        """Lockstep beside other processes."""
        for task in self.tasks(BESIDE, "beside other processes"):
            self.part.figures += engines.neighbours(task, BESIDE[task.name], self.effort)

    def growth(self) -> None:
        """As the number of children grows."""
        counts = families.GROWTH[:3] if self.quick else families.GROWTH
        for task in self.tasks(GROWING, "as the number of children grows"):
            self.part.growth += families.growth(task, self.device, self.effort, counts)

    def added(self) -> None:
        """What a package adds through the entry-point group `lr_env.benchmarks`.

        It is a function of the number of rounds and of whether they are short, and returns figures and, in words, what
        could not be measured.
        """
        print(f"{self.name} ...", file=sys.stderr)
        figures, skipped = load(BENCHMARKS, "benchmark", self.name)(self.effort.rounds, self.quick)
        self.part.figures += figures
        self.part.skipped += skipped

    def cuda(self) -> None:
        """Against plain loops on a CUDA device."""
        for task in self.tasks(ON_CUDA, "against a plain loop"):
            count, least = ON_CUDA[task.name]
            self.part.figures += families.against_plain(task, count, self.device, self.effort, (">=", least))


MEASURES: dict[str, Callable[[Measuring], None]] = {
    "plain": Measuring.plain,
    "families": Measuring.families,
    "peers": Measuring.against_dacbench,
    "jax": Measuring.against_jax,
    "compile": Measuring.against_script,
    "process": Measuring.process,
    "engines": Measuring.engines,
    "neighbours": Measuring.neighbours,
    "growth": Measuring.growth,
}
"""Parts on the CPU, in the order of the table; those that packages add follow."""

CUDA = "cuda"


PLAIN = (
    "The plain loop trains from tensors on the device with torch.optim, in the same process, and at the same steps as "
    "LREnv it takes the mean training loss, and the loss and accuracy on the same validation examples."
)


def main() -> None:
    """Entry point: bad input is one line and exit code 2."""
    try:
        tyro.cli(Bench, prog="python -m lr_env.bench").run()
    except (UserError, OSError) as error:
        print(f"lr_env.bench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
