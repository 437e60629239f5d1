"""Mutates logs of every format at random, and reads them: a clear refusal or valid runs, in bounded time and memory.

`python -m tests.mutated_logs --count 1000` prints a line a format.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lr_env.errors import UserError
from lr_env.records.imported import check
from lr_env.records.readers.importing import import_runs
from lr_env.records.readers.sources import Log, all_readers, find_logs
from tests.log_samples import write_samples

MADE = Path(__file__).parent / "data" / "logs"
"""Samples of formats that are not made by `tests.log_samples`: files and folders as trackers wrote them."""

SECONDS = 20
READ, REFUSED, WRONG = "read", "refused", "wrong"


def truncate(data: bytes, random: np.random.Generator) -> bytes:
    """The end is missing."""
    return data[: int(random.integers(len(data)))]


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """A few bits are others."""
    mutated = bytearray(data)
    for _ in range(int(random.integers(1, 9))):
        mutated[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return bytes(mutated)


def _lines(data: bytes, random: np.random.Generator) -> tuple[list[bytes], int, int]:
    lines = data.splitlines(keepends=True)
    start = int(random.integers(len(lines)))
    return lines, start, start + int(random.integers(1, 10))


def delete_lines(data: bytes, random: np.random.Generator) -> bytes:
    """Some lines are missing."""
    lines, start, end = _lines(data, random)
    return b"".join([*lines[:start], *lines[end:]])


def duplicate_lines(data: bytes, random: np.random.Generator) -> bytes:
    """Some lines are there again, somewhere else."""
    lines, start, end = _lines(data, random)
    to = int(random.integers(len(lines) + 1))
    return b"".join([*lines[:to], *lines[start:end], *lines[to:]])


def zero(data: bytes, random: np.random.Generator) -> bytes:
    """A block is zero, as after a crash of the machine."""
    start, size = int(random.integers(len(data))), int(random.integers(1, 600))
    return data[:start] + bytes(min(size, len(data) - start)) + data[start + size :]


def insert(data: bytes, random: np.random.Generator) -> bytes:
    """Bytes are inserted: random ones, or such as mean much in some format."""
    at = int(random.integers(len(data) + 1))
    much = (b"9" * 400, b"\xff" * 8, b'"', b"[" * 2000, b"\n", b"nan", b"-1e999", b"\x00\x00\x00\x7f", b"1e308,")
    new = much[int(random.integers(len(much)))] if random.random() < 0.7 else random.bytes(int(random.integers(1, 40)))
    return data[:at] + new + data[at + (len(new) if random.random() < 0.5 else 0) :]


def move(data: bytes, random: np.random.Generator) -> bytes:
    """A block is another one of the file."""
    start, other = (int(random.integers(len(data))) for _ in range(2))
    block = data[other : other + int(random.integers(1, 600))]
    return data[:start] + block + data[start + len(block) :]


MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(truncate, flip, delete_lines, duplicate_lines, zero, insert, move),
)


def samples(folder: Path) -> dict[str, Path]:
    """Name -> a log of each kind: of text formats made in a folder, of others as they lie beside the tests."""
    logs = dict(write_samples(folder))
    if MADE.is_dir():
        for log in find_logs([MADE], all_readers(), {}):
            if isinstance(log, Log):
                logs[f"{log.reader.name}: {log.path.relative_to(MADE)}"] = log.path
    return logs


def read(path: Path) -> list[Any]:
    """Import what is there, and see that it is valid."""
    runs, _ = import_runs([path], steps_per_epoch=40, val_loss_from_train=True)
    for run in runs:
        check(run)
    return runs


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after some seconds."""

    def end(number: int, frame: Any) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def points(runs: list[Any]) -> set[tuple[str, float, float]]:
    """All signals, steps and values, with the digits that a number in text has."""
    return {
        (signal, round(step), float(f"{value:.9g}"))
        for run in runs
        for signal, curve in run.curves.items()
        if curve is not run.curves.get("train_loss") or signal == "train_loss"  # taken in place of the validation loss
        for step, value in zip(curve.at.tolist(), curve.values.tolist(), strict=True)
    }


def outcomes(sample: Path, count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """How often mutations of a log were read or refused, and what was wrong.

    Args:
        sample: a file, or a folder of which one file is mutated at a time.
        count: mutations.
        seed: of them.
    """
    counts: Counter[str] = Counter()
    wrong = []
    files = sorted(path for path in sample.rglob("*") if path.is_file()) if sample.is_dir() else [sample]
    files = [path for path in files if path.stat().st_size]
    whole = points(read(sample))
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(count):
            random = np.random.default_rng([seed, number])
            mutate = MUTATIONS[number % len(MUTATIONS)]
            file = files[int(random.integers(len(files)))]
            copy = Path(temporary) / sample.name
            if sample.is_dir():
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(sample, copy)
                target = copy / file.relative_to(sample)
            else:
                target = copy
            target.write_bytes(mutate(file.read_bytes(), random))
            try:
                with time_limit(SECONDS):
                    runs = read(copy)
            except UserError as error:
                what, said = (WRONG, f"many lines: {error}") if "\n" in str(error) else (REFUSED, "")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                what, said = WRONG, traceback.format_exc()
            else:
                what, said = READ, ""
                if mutate is truncate and (new := points(runs) - whole):
                    what, said = WRONG, f"the file does not have {sorted(new)[:3]}"
            counts[what] += 1
            if what == WRONG:
                wrong.append(f"{mutate.__name__} {number} of {file.name}: {said}")
    return counts, wrong


def main() -> None:
    """Mutate every kind of log, or those that are named, in 1 GiB of memory more than what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = samples(Path(folder))
        for sample in kinds.values():
            read(sample)
        there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (there + 2**30, there + 2**30))
        for name, sample in kinds.items():
            if given.kinds and name not in given.kinds:
                continue
            began = time.monotonic()
            counts, wrong = outcomes(sample, given.count, given.seed)
            shown = ", ".join(f"{what} {counts[what]}" for what in (READ, REFUSED, WRONG))
            print(f"{name:40} {shown}, {time.monotonic() - began:.0f} s", *wrong[:3], sep="\n    ", flush=True)


if __name__ == "__main__":
    main()
