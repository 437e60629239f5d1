"""`python -m lr_env.bench`: measures, prints the table and keeps it."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from lr_env.bench import measures, peers
from lr_env.bench.table import Bar, Figure, report, write
from lr_env.children.children import find_device
from lr_env.errors import UserError
from lr_env.tasks import TASKS
from lr_env.tasks.data import load

LOCKSTEP_BARS: dict[str, Bar | None] = {"DigitsMLP": (">=", 5.0), "FashionMLP": (">=", 2.0), "FashionLeNet5": None}
"""The tasks that are measured against plain torch -> what many children must gain over one."""

RESET_TASK = "FashionLeNet5"


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

    def run(self) -> None:
        """Measure, print the table and keep it."""
        effort = measures.QUICK if self.quick else measures.Effort()
        device = find_device(self.device)
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
        about = measures.machine(str(device))
        figures: list[Figure] = []
        skipped: list[str] = []
        for name, bar in LOCKSTEP_BARS.items():
            task = TASKS[name]
            print(f"{name} ...", file=sys.stderr)
            try:
                load(task.data, str(device))
            except UserError as error:
                skipped.append(f"{name} is not measured: the data set {task.data} is not there (see LR_ENV_DATA).")
                print(f"{skipped[-1]} {error}", file=sys.stderr)
                continue
            figures += [measures.overhead(task, device, effort), *measures.lockstep(task, device, effort, bar)]
            if name == RESET_TASK:
                figures.append(measures.reset(task, effort))
        found, left_out, notes = peers.measure(self.peers, effort, install=not self.quick)
        figures += found
        skipped += left_out
        print("imports and a comparison ...", file=sys.stderr)
        figures += [*measures.imports(effort), *measures.comparison(str(device), effort)]
        text = report(figures, skipped, [PLAIN, *notes], about, self.quick)
        print(text, end="")
        if self.out is not None:
            name = re.sub(r"\((r|tm)\)", "", f"{about['device']} {about['cores']} cores".lower())
            path = self.out / (re.sub(r"[^a-z0-9]+", "-", name).strip("-") + ("-quick" if self.quick else ""))
            kept = {"machine": about, "quick": self.quick, "skipped": skipped, "notes": notes}
            kept["figures"] = [{**asdict(f), "median": f.value, "verdict": f.verdict} for f in figures]
            write(path.with_name(f"{path.name}.json"), json.dumps(kept, indent=2) + "\n")
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
