"""Damages logs of other trackers at random, and counts what becomes of that.

`python -m tests.log_damage --count 1000` prints a line a format. A damaged log is refused in one line, or gives what is
whole of it; formats with checksums never give a number that was not logged. All else is a fault.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lr_env.records.readers.base import LoggedRun, Reader, UnreadableError
from lr_env.records.readers.mlflow import MLflow
from lr_env.records.readers.optuna import Optuna
from lr_env.records.readers.tensorboard import TensorBoard
from lr_env.records.readers.trackio import Trackio
from lr_env.records.readers.wandb import WandB

SAMPLES = Path(__file__).parent / "data" / "logs"
SLOW = 10.0
"""Seconds after which a log counts as one that hangs."""


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """One to four bytes are others."""
    result = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        result[int(random.integers(len(data)))] ^= int(random.integers(1, 256))
    return bytes(result)


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """The end is missing."""
    return data[: int(random.integers(len(data)))]


def zero(data: bytes, random: np.random.Generator) -> bytes:
    """A block is zero."""
    at, size = int(random.integers(len(data))), int(random.choice([16, 512, 4096]))
    return data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]


def double(data: bytes, random: np.random.Generator) -> bytes:
    """A block is there twice, after itself or in place of another."""
    size = int(random.choice([16, 512, 4096]))
    at, to = (int(random.integers(len(data))) for _ in range(2))
    piece = data[at : at + size]
    return data[:at] + piece + data[at:] if random.random() < 0.5 else data[:to] + piece + data[to + len(piece) :]


DAMAGES = (flip, cut, zero, double)


def database_of(text: str, file: Path) -> Path:
    """Make a database of a sample that is kept as text."""
    with closing(sqlite3.connect(file)) as db:
        db.executescript(f"PRAGMA synchronous = OFF; BEGIN; {(SAMPLES / text).read_text()} COMMIT;")
    return file


def study(storage: object) -> list[tuple[list[int], list[float], float]]:
    """Run a small study, and return steps, intermediate values and rate of each trial, as Optuna has them."""
    import optuna

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-4, 1.0, log=True)
        trial.suggest_categorical("optimizer", ["sgd", "adam"])
        trial.suggest_int("width", 1, 100)
        trial.set_user_attr("steps", 50)
        for step in range(5):
            value = [rate, float("nan"), float("inf")][min(step, 2) if trial.number == 1 else 0] * (step + 1)
            trial.report(value, step * 10)
        if trial.number == 2:
            raise optuna.TrialPruned
        if trial.number == 3:
            raise RuntimeError("failed")
        return rate * 5

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    sampler = optuna.samplers.RandomSampler(seed=0)
    rates = optuna.create_study(storage=storage, study_name="rates", sampler=sampler)  # pyright: ignore
    rates.optimize(objective, n_trials=4, catch=(RuntimeError,))
    optuna.logging.set_verbosity(before)
    return [
        (list(t.intermediate_values), list(t.intermediate_values.values()), t.params["learning_rate"])
        for t in rates.trials
    ]


@cache
def _study_database() -> tuple[bytes, list[tuple[list[int], list[float], float]]]:
    """Return a database of a small study, which takes seconds to be made."""
    import optuna

    with tempfile.TemporaryDirectory() as folder:
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db")
        try:
            trials = study(storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()
        return Path(folder, "study.db").read_bytes(), trials


def optuna_database(file: Path) -> list[tuple[list[int], list[float], float]]:
    """Write a small study to a database."""
    data, trials = _study_database()
    file.write_bytes(data)
    return trials


def optuna_journal(file: Path) -> list[tuple[list[int], list[float], float]]:
    """Write a small study to a journal."""
    import optuna

    return study(optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file))))


@dataclass(frozen=True)
class Kind:
    """A format: its reader, how a whole log is put into a folder, and whether checksums guard every number."""

    reader: Reader
    put: Callable[[Path], Path]
    guarded: bool = False


def _copy(name: str) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copy(SAMPLES / name, folder / name))


def _tree(name: str, inside: str) -> Callable[[Path], Path]:
    def put(folder: Path) -> Path:
        shutil.copytree(SAMPLES / name, folder / name)
        return folder / name / inside

    return put


def _written(write: Callable[[Path], object], name: str) -> Callable[[Path], Path]:
    def put(folder: Path) -> Path:
        write(folder / name)
        return folder / name

    return put


KINDS: dict[str, Kind] = {
    "tensorboard": Kind(TensorBoard(), _copy("tensorboard_x"), guarded=True),
    "tensorboard-tensors": Kind(TensorBoard(), _copy("tensorboard_tensors"), guarded=True),
    "wandb": Kind(WandB(), _copy("run-sample01.wandb"), guarded=True),
    "mlflow-database": Kind(MLflow(), _written(lambda file: database_of("mlflow.sql", file), "mlflow.db")),
    "mlflow-folder": Kind(MLflow(), _tree("mlruns", "1/active")),
    "trackio-database": Kind(Trackio(), _written(lambda file: database_of("trackio.sql", file), "project.db")),
    "trackio-export": Kind(Trackio(), _tree("trackio_export", "metrics.parquet")),
    "optuna-database": Kind(Optuna(), _written(optuna_database, "optuna.db")),
    "optuna-journal": Kind(Optuna(), _written(optuna_journal, "optuna.log")),
}


def points(runs: Iterable[LoggedRun]) -> set[tuple[str, float, str]]:
    """Return the numbers of runs: name, clock, value."""
    return {
        (name, at, repr(value))
        for run in runs
        for name, series in run.series.items()
        for at, value in zip(series.at.tolist(), series.values.tolist(), strict=True)
    }


def outcome(kind: Kind, log: Path, whole: set[tuple[str, float, str]]) -> str:
    """Read a damaged log, and return what became of it; a fault begins with "fault"."""
    begin = time.monotonic()
    try:
        head = log.read_bytes()[:4096] if log.is_file() else b""
        kind.reader.detects(log, head)
        runs = list(kind.reader.read(log))
        read = points(runs)
        result = "noted" if any(run.notes for run in runs) else "read"
        if kind.guarded and not read <= whole:
            result = f"fault: numbers that were not logged, such as {next(iter(read - whole))}"
    except UnreadableError as error:
        result = "refused" if str(error) and "\n" not in str(error) else "fault: no line"
    except Exception as error:
        result = f"fault: {type(error).__name__}: {error}"
    return f"fault: {time.monotonic() - begin:.0f} s" if time.monotonic() - begin > SLOW else result


def damaged(kind: Kind, count: int, seed: int = 0) -> Counter[str]:
    """Damage a log a number of times, one of its files each time, and count what becomes of it."""
    random = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        log = kind.put(Path(place))
        files = sorted(file for file in (log.rglob("*") if log.is_dir() else [log]) if file.is_file())
        whole = points(kind.reader.read(log))
        for _ in range(count):
            file = files[int(random.integers(len(files)))]
            before = file.read_bytes()
            file.write_bytes(DAMAGES[int(random.integers(len(DAMAGES)))](before, random))
            counts[outcome(kind, log, whole)] += 1
            file.write_bytes(before)
    return counts


def main() -> None:
    """Print a line a format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    for name in options.only:
        begin = time.monotonic()
        counts = damaged(KINDS[name], options.count, options.seed)
        print(f"{name}: {dict(counts.most_common())} in {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
