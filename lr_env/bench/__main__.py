"""`python -m lr_env.bench`: measures, prints the table and keeps it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from lr_env.bench import families, measures, peers
from lr_env.bench.table import Bar, Figure, report, write
from lr_env.children.children import find_device
from lr_env.errors import UserError, unknown
from lr_env.tasks import TASKS, Task
from lr_env.tasks.data import load

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

GROWING = ("DigitsMLP", "FashionLeNet5", "FashionResNet8", "ShakespeareGPT")

ON_CUDA: dict[str, tuple[int, float]] = {
    "FashionLeNet5": (64, 15.0),
    "FashionCNN": (32, 4.0),
    "CIFAR10ResNet18": (16, 2.0),
    "ShakespeareGPT": (32, 8.0),
}
"""Task -> children in lockstep on a CUDA device, and what they must gain over one at a time in a plain loop."""


PARTS = ("plain", "families", "peers", "process", "growth")


@dataclass(frozen=True)
class Bench:
    """Measure speed and memory side by side, against plain torch and DACBench, and hold the figures against bars."""

    out: Path | None = None
    """Folder in which <machine>.md and <machine>.json are kept; without it the table is only printed."""
    quick: bool = False
    """Few and short rounds: whether it runs rather than how fast. Kept as <machine>-quick. Installs nothing."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ... or auto. What is measured against DACBench runs on the CPU, as DACBench must."""
    peers: Path = Path(".venv-peers")
    """Folder of the virtual environment that DACBench runs in; made where it is missing."""

    only: tuple[str, ...] = PARTS
    """Parts to measure: plain (against plain torch), families (kinds of children), peers (DACBench), process (imports
    and a comparison), growth (1 to 256 children), cuda (against plain loops on a CUDA device)."""

    def run(self) -> None:
        """Measure, print the table and keep it."""
        effort = measures.QUICK if self.quick else measures.Effort()
        device = find_device(self.device)
        wrong = [part for part in self.only if part not in (*PARTS, "cuda")]
        if wrong:
            raise unknown("part", wrong[0], (*PARTS, "cuda"))
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
        about = measures.machine(str(device))
        figures: list[Figure] = []
        skipped: list[str] = []
        notes: list[str] = []
        grown: list[dict[str, Any]] = []

        def tasks(names: Iterable[str], what: str) -> Iterator[Task]:
            for name in names:
                print(f"{name}: {what} ...", file=sys.stderr)
                try:
                    load(TASKS[name].data, str(device))
                except UserError as error:
                    line = f"{name} is not measured: the data set {TASKS[name].data} is not there."
                    print(f"{line} {error}", file=sys.stderr)
                    skipped.extend([line] if line not in skipped else [])
                else:
                    yield TASKS[name]

        if "plain" in self.only:
            for task in tasks(LOCKSTEP_BARS, "against plain torch"):
                bar = LOCKSTEP_BARS[task.name]
                figures += [measures.overhead(task, device, effort), *measures.lockstep(task, device, effort, bar)]
                if task.name == RESET_TASK:
                    figures.append(measures.reset(task, effort))
        if "families" in self.only:
            for task in tasks(FAMILIES, "in lockstep and one after another"):
                figures += families.family(task, device, effort, (">=", FAMILIES[task.name]))
                if task.name == SNAPSHOT_TASK:
                    figures.append(families.snapshots(task, device, effort))
        if "cuda" in self.only:
            for task in tasks(ON_CUDA, "against a plain loop"):
                count, least = ON_CUDA[task.name]
                figures += families.against_plain(task, count, device, effort, (">=", least))
        if "peers" in self.only:
            found, left_out, notes = peers.measure(self.peers, effort, install=not self.quick)
            figures += found
            skipped += left_out
        if "process" in self.only:
            print("imports and a comparison ...", file=sys.stderr)
            figures += [*measures.imports(effort), *measures.comparison(str(device), effort)]
        if "growth" in self.only:
            counts = families.GROWTH[:3] if self.quick else families.GROWTH
            for task in tasks(GROWING, "as the number of children grows"):
                grown += families.growth(task, device, effort, counts)
        text = report(figures, skipped, [PLAIN, *notes], about, self.quick)
        if grown:
            text += f"\n## Growth\n\n{families.growth_table(grown)}\n"
        print(text, end="")
        if self.out is not None:
            name = re.sub(r"\((r|tm)\)", "", f"{about['device']} {about['cores']} cores".lower())
            path = self.out / (re.sub(r"[^a-z0-9]+", "-", name).strip("-") + ("-quick" if self.quick else ""))
            kept = {"machine": about, "quick": self.quick, "skipped": skipped, "notes": notes, "growth": grown}
            kept["figures"] = [{**asdict(f), "median": f.value, "verdict": f.verdict} for f in figures]
            write(path.with_name(f"{path.name}.json"), json.dumps(kept, indent=2) + "\n")
            if grown:
                families.draw_growth(grown, path.with_name(f"{path.name}-growth.png"), about["device"])
                text += f"\n![Growth]({path.name}-growth.png)\n"
            write(path.with_name(f"{path.name}.md"), text)


PLAIN = (
    "The plain loop trains from tensors on the device with torch.optim, in the same process, and at the same steps as "
    "LREnv it takes the mean training loss, and the loss and accuracy on the same validation examples. Imports are "
    "timed in a fresh process each."
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
