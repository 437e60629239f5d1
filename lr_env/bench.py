"""What the promises of speed and size are worth on this machine: `python -m lr_env.bench --out results/bench`.

Machines are noisy, so that no figure here is a time alone: both sides of a comparison run in turns (A B A B ...), and
what is told is the median of the rounds' ratios with the smallest and the largest.
"""

from __future__ import annotations

import json
import operator
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray

from lr_env.children import Children
from lr_env.children.children import find_device
from lr_env.children.initial import build_seeded
from lr_env.compare.job import device_name, versions
from lr_env.env import LREnv
from lr_env.errors import UserError
from lr_env.tasks import TASKS, Task
from lr_env.tasks.data import Data, load

LOCKSTEP = 32
"""Children in the measures of many against one."""

COMPARED = {"<=": operator.le, "<": operator.lt, ">=": operator.ge}

Bar = tuple[str, float]
"""A key of `COMPARED`, and the value that a figure is held against."""


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes:
        rounds: turns of both sides.
        run_segments: segments of a whole run, at most.
        segments: segments in one turn of the lockstep measures.
        import_rounds: turns of the imports.
        compare: options of the comparison whose memory is measured; none for the default one.
    """

    rounds: int = 15
    run_segments: int = 100
    segments: int = 8
    import_rounds: int = 7
    compare: tuple[str, ...] = ()


QUICK = Effort(2, 5, 1, 1, ("--planners", "constant", "--rates", "0.1", "--tune-seeds", "1", "--seeds", "2"))


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        measure: what was measured.
        values: one a round.
        unit: "x", "%", "s" or "GiB".
        absolute: what is behind it, in words.
        bar: what is promised, if anything.
    """

    measure: str
    values: Sequence[float]
    unit: str
    absolute: str = ""
    bar: Bar | None = None

    @property
    def value(self) -> float:
        """The median, which is held against the bar."""
        return float(np.median(self.values))

    @property
    def verdict(self) -> str:
        """Whether the bar is met."""
        if self.bar is None:
            return "no bar"
        return "met" if COMPARED[self.bar[0]](self.value, self.bar[1]) else "NOT MET"

    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        unit = self.unit if self.unit == "x" else f" {self.unit}"
        places = {"x": 2, "GiB": 2}.get(self.unit, 1)
        spread = f"{min(self.values):.{places}f} to {max(self.values):.{places}f}, {len(self.values)} rounds"
        figure = f"{self.value:.{places}f}{unit}" + (f" ({spread})" if len(self.values) > 1 else "")
        bar = f"{self.bar[0]} {self.bar[1]:g}{unit}" if self.bar else ""
        return self.measure, figure, self.absolute, bar, self.verdict


def in_turns(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[NDArray[np.float64], ...]:
    """What two jobs return, done A B A B ...; the first turn of each warms up and is not kept."""
    found = [(first(), second()) for _ in range(rounds + 1)][1:]
    return np.array([a for a, _ in found]), np.array([b for _, b in found])


def environment_seconds(env: LREnv, seed: int) -> float:
    """Time of all steps of an episode at the task's starting rate, after the reset."""
    env.reset(seed=seed)
    start = time.perf_counter()
    for _ in range(env.task.num_segments):
        *_, terminated, _, _ = env.step(env.task.lr_start)
        if terminated:
            raise RuntimeError(f"{env.task.name} diverged at its starting rate")
    return time.perf_counter() - start


def plain_seconds(task: Task, data: Data, device: torch.device, seed: int) -> float:
    """Time of the same run as a loop in plain torch, which keeps the same losses and accuracy, after its set-up."""
    source = task.source
    module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), seed, torch.float32)
    module.to(device)
    optimizer = task.optimizer.build(module.parameters())
    train, val = data.splits["train"], data.splits["val"]
    val_inputs, val_labels = val.inputs[: task.val_subset], val.labels[: task.val_subset]
    generator = torch.Generator(device).manual_seed(seed)
    order = torch.randperm(len(train), generator=generator, device=device)
    position = 0
    history = []
    start = time.perf_counter()
    for _ in range(task.num_segments):
        optimizer.param_groups[0]["lr"] = task.lr_start
        total = torch.zeros((), device=device)
        for _ in range(task.segment):
            if position + task.batch_size > len(train):
                order = torch.randperm(len(train), generator=generator, device=device)
                position = 0
            batch = order[position : position + task.batch_size]
            position += task.batch_size
            inputs, labels = train.inputs.index_select(0, batch), train.labels.index_select(0, batch)
            optimizer.zero_grad()
            loss = F.cross_entropy(module(inputs), labels)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        with torch.no_grad():
            logits = module(val_inputs)
            val_loss = F.cross_entropy(logits, val_labels).item()
            accuracy = (logits.argmax(1) == val_labels).float().mean().item()
        history.append((total.item() / task.segment, val_loss, accuracy))
    return time.perf_counter() - start


def overhead(task: Task, device: torch.device, effort: Effort) -> Figure:
    """Time of the environment with one child over that of a plain loop."""
    segments = min(effort.run_segments, task.num_segments)
    env = LREnv(task, budget=segments * task.segment, score=(), device=str(device))
    data = load(task.data, str(device))
    ours, plain = in_turns(
        lambda: environment_seconds(env, 0), lambda: plain_seconds(env.task, data, device, 0), effort.rounds
    )
    absolute = f"{np.median(ours):.3f} s and {np.median(plain):.3f} s for {env.task.budget} steps"
    measure = f"{task.name}: time of LREnv with 1 child / plain torch loop"
    return Figure(measure, (ours / plain).tolist(), "x", absolute, ("<=", 1.10))


def segment_seconds(children: Children, segments: int) -> tuple[float, float]:
    """Time that some segments take in train(), and in the measure() at the end of each."""
    rates = np.full(len(children), children.task.lr_start)
    training = measuring = 0.0
    for _ in range(segments):
        start = time.perf_counter()
        children.train(rates)
        trained = time.perf_counter()
        children.measure()
        training += trained - start
        measuring += time.perf_counter() - trained
    return training, measuring


def lockstep(task: Task, device: torch.device, effort: Effort, bar: Bar | None) -> list[Figure]:
    """Child steps a second of many children over those of one, and the share of time that validation takes."""
    one = Children(task, [0], str(device), "loop")
    many = Children(task, range(LOCKSTEP), str(device))
    times = in_turns(
        lambda: segment_seconds(one, effort.segments), lambda: segment_seconds(many, effort.segments), effort.rounds
    )
    steps = effort.segments * task.segment
    figures = []
    for columns, what, its_bar in (([0], "train()", bar), ([0, 1], "train() and measure()", None)):
        rate_of_one, rate_of_many = (
            count * steps / t[:, columns].sum(1) for count, t in zip((1, LOCKSTEP), times, strict=True)
        )
        absolute = f"{np.median(rate_of_many):,.0f} ({many.backend}) and {np.median(rate_of_one):,.0f} ({one.backend})"
        measure = f"{task.name}: child steps/s of {LOCKSTEP} children / 1 child, {what}"
        figures.append(Figure(measure, (rate_of_many / rate_of_one).tolist(), "x", absolute, its_bar))
    for count, t in zip((1, LOCKSTEP), times, strict=True):
        trained, measured = 1000 * np.median(t, axis=0) / effort.segments
        absolute = f"{measured:,.2f} ms of {trained + measured:,.2f} ms"
        measure = f"{task.name}: share of measure() in a segment's time, children: {count}"
        figures.append(Figure(measure, (100 * t[:, 1] / t.sum(1)).tolist(), "%", absolute, ("<=", 15.0)))
    return figures


def import_seconds(statement: str) -> float:
    """Time of an import in a fresh process, without the start of Python itself."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    # Compiled once and then read from the cache, as where people work.
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, env=settings)
    return float(done.stdout)


def imports(effort: Effort) -> list[Figure]:
    """Time of importing the package, and of importing all of its engine, over what they stand on."""
    figures = []
    for ours, theirs, bar in (
        ("import lr_env", "import torch", ("<", 1.3)),
        ("from lr_env import LREnv, Children", "import torch, gymnasium", None),
    ):
        a, b = in_turns(lambda s=ours: import_seconds(s), lambda s=theirs: import_seconds(s), effort.import_rounds)
        absolute = f"{np.median(a):.2f} s and {np.median(b):.2f} s"
        figures.append(Figure(f"time of `{ours}` / `{theirs}`", (a / b).tolist(), "x", absolute, bar))
    return figures


def comparison(device: str, effort: Effort) -> list[Figure]:
    """Peak memory and wall time of the default comparison, in a process of its own."""
    # A process starts with the peak memory of the one that it was forked from, so a small one stands between.
    watch = (
        "import json, resource, subprocess, sys, time; start = time.perf_counter(); "
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True); "
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss; "
        "print(json.dumps([done.returncode, done.stderr[-2000:], time.perf_counter() - start, peak]))"
    )
    options = ["compare", "DigitsMLP", *(["--device", device] if device != "cpu" else []), *effort.compare]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", watch, sys.executable, "-m", "lr_env.cli", *options]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=folder).stdout
    code, errors, seconds, peak = json.loads(output)
    if code:
        raise UserError(f"`lr-env {' '.join(options)}` ended with code {code}: {errors.strip()}")
    gib = peak * (1 if sys.platform == "darwin" else 1024) / 2**30
    name, note = f"`lr-env {' '.join(options)}`", "shortened: no bar is for it" if effort.compare else ""
    bars: Sequence[Bar | None] = (None, None) if effort.compare else (("<", 1.5), ("<", 180.0))
    return [
        Figure(f"{name}: peak memory", [gib], "GiB", note, bars[0]),
        Figure(f"{name}: wall time", [seconds], "s", note, bars[1]),
    ]


def machine(device: str) -> dict[str, Any]:
    """What the figures were taken on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": device_name(device),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {**versions(), "gymnasium": gymnasium.__version__},
    }


def report(figures: Sequence[Figure], skipped: Sequence[str], about: Mapping[str, Any], quick: bool) -> str:
    """The table in Markdown, aligned so that it reads as well in a terminal."""
    lines = [("measure", "median (min to max)", "absolute", "bar", "verdict"), *(f.cells() for f in figures)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    grid = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    grid.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    missed = sum(figure.verdict == "NOT MET" for figure in figures)
    barred = sum(figure.bar is not None for figure in figures)
    kept = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    parts = [
        f"# Measured on {about['device']}, {about['cores']} cores",
        f"{barred - missed} of {barred} bars met, {missed} NOT MET.",
        "A quick look: few and short rounds, not figures to rely on." if quick else "",
        "\n".join(grid),
        *skipped,
        f"Threads: {about['threads']}; {about['system']}; load average before: {about['load_before']}; {kept}.",
        "Machines are noisy: neighbours, clocks and caches move these figures from one start to the next. Both sides "
        "of a ratio ran in turns in one process (imports: each in a fresh one); the median of the rounds' ratios is "
        "held against the bar. The plain loop trains from tensors on the device with torch.optim, and at the same "
        "steps as LREnv it takes the mean training loss, and the loss and accuracy on the same validation examples.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(path: Path, text: str) -> None:
    """Replace a file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Bench:
    """Measure speed and memory against plain torch, side by side, and hold the figures against the project's bars."""

    out: Path | None = None
    """Folder in which <machine>.md and <machine>.json are kept; without it the table is only printed."""
    quick: bool = False
    """Few and short rounds: whether it runs rather than how fast. Kept as <machine>-quick."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ... or auto."""

    def run(self) -> None:
        """Measure, print the table and keep it."""
        effort = QUICK if self.quick else Effort()
        device = find_device(self.device)
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
        about = machine(str(device))
        bars: dict[str, Bar] = {"DigitsMLP": (">=", 5.0), "FashionMLP": (">=", 2.0)}
        figures: list[Figure] = []
        skipped: list[str] = []
        for task in TASKS.values():
            print(f"{task.name} ...", file=sys.stderr)
            try:
                load(task.data, str(device))
            except UserError as error:
                skipped.append(f"{task.name} is not measured: the data set {task.data} is not there (see LR_ENV_DATA).")
                print(f"{skipped[-1]} {error}", file=sys.stderr)
                continue
            figures += [overhead(task, device, effort), *lockstep(task, device, effort, bars.get(task.name))]
        print("imports and a comparison ...", file=sys.stderr)
        figures += [*imports(effort), *comparison(str(device), effort)]
        text = report(figures, skipped, about, self.quick)
        print(text, end="")
        if self.out is not None:
            name = re.sub(r"\((r|tm)\)", "", f"{about['device']} {about['cores']} cores".lower())
            path = self.out / (re.sub(r"[^a-z0-9]+", "-", name).strip("-") + ("-quick" if self.quick else ""))
            kept = {"machine": about, "quick": self.quick, "skipped": skipped}
            kept["figures"] = [{**asdict(f), "median": f.value, "verdict": f.verdict} for f in figures]
            write(path.with_name(f"{path.name}.json"), json.dumps(kept, indent=2) + "\n")
            write(path.with_name(f"{path.name}.md"), text)


def main() -> None:
    """Entry point: bad input is one line and exit code 2."""
    try:
        tyro.cli(Bench, prog="python -m lr_env.bench").run()
    except (UserError, OSError) as error:
        print(f"lr_env.bench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
