"""Damages files of every kind that is written and read again, at random, and counts what becomes of that.

`python -m tests.damage --count 1000` prints a line a kind. A damaged file is read to the same content, or is refused in
one line: another result and a traceback are faults.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lr_env import entry_points, registry
from lr_env.bench.saved import SavedParts
from lr_env.errors import UserError
from lr_env.records.checkpoint import load_tree
from lr_env.records.store import Store
from lr_env.records.tables import check_task, read_runs
from lr_env.studies.across.saved import read_saved
from planners.latent_ode.artifact import FittedModel
from planners.ppo.policy import Policy
from tests.fixtures import make
from tests.helpers import compared

SAME, REFUSED, ANOTHER, TRACEBACK = "the same", "refused", "another result", "traceback"


def flip(data: bytes, random: np.random.Generator) -> bytes:
    """One bit."""
    at = int(random.integers(len(data)))
    return data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :]


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """The end is missing."""
    return data[: int(random.integers(len(data)))]


def edit(data: bytes, random: np.random.Generator) -> bytes:
    """Some bytes are others, or more, or fewer."""
    at, size, more = (int(random.integers(high)) for high in (len(data), 64, 64))
    new = random.bytes(more) if random.random() < 0.8 else bytes(more)
    return data[:at] + new + data[at + (more if random.random() < 0.5 else size) :]


def digit(data: bytes, random: np.random.Generator) -> bytes:
    """A digit is another one."""
    places = [at for at, byte in enumerate(data) if 48 <= byte < 58]
    at = places[int(random.integers(len(places)))]
    return data[:at] + bytes([48 + (data[at] - 48 + int(random.integers(1, 10))) % 10]) + data[at + 1 :]


def block(data: bytes, random: np.random.Generator) -> bytes:
    """A block of the disk is zero, or is another one of the file."""
    size = int(random.choice([512, 4096]))
    at, other = (int(random.integers(0, len(data) // size + 1)) * size for _ in range(2))
    new = bytes(size) if random.random() < 0.5 else data[other : other + size]
    return data[:at] + new[: len(data) - at] + data[at + size :]


DAMAGES = (flip, cut, edit, digit, block)


def plain(thing: Any) -> Any:
    """Records, arrays and mappings as text that compares."""
    if isinstance(thing, np.ndarray | torch.Tensor):
        return str(thing.dtype), tuple(thing.shape), np.asarray(thing).tobytes()
    if isinstance(thing, dict) or hasattr(thing, "items"):
        return sorted((key, plain(value)) for key, value in thing.items())
    if isinstance(thing, list | tuple | set):
        return [plain(value) for value in (sorted(thing) if isinstance(thing, set) else thing)]
    if hasattr(thing, "__dataclass_fields__"):
        return plain(vars(thing))
    return repr(thing)


def timeless(records: Any) -> list[Any]:
    """Runs without the seconds that their planners took."""
    return [plain(replace(record, planning_seconds=0.0)) for record in records]


@contextmanager
def store_of(folder: Path) -> Iterator[Store]:
    """The record store of a folder."""
    store = Store(folder / "records.sqlite")
    with closing(store):
        yield store


def read_store(folder: Path) -> Any:
    """All that a store tells of experiments and their finished runs; others are gone on with from a checkpoint."""
    with store_of(folder) as store:
        contents = []
        for name in (make.FINISHED, make.STOPPED):
            finished = [run for run in store.runs(name, curves=True) if run.status == "finished"]
            contents.append((plain(store.experiment(name)), store.finished(name), plain(finished)))
        return contents


def go_on(folder: Path, name: str = make.STOPPED) -> Any:
    """What a job ends with that goes on from a store and its checkpoint."""
    with store_of(folder) as store:
        result = compared(make.JOB, store, name, make.EXECUTION)
        return timeless(result.tuning), timeless(result.final), plain(result.chosen)


def read_parquet(folder: Path) -> Any:
    """The runs of a file that is given to `fit --records`."""
    file = folder / "comparison" / "runs.parquet"
    records = read_runs(file)
    check_task(file, make.TASK)
    return plain(records)


def read_comparison(folder: Path) -> Any:
    """What `across` reads of a comparison."""
    return plain(vars(read_saved(folder / "comparison")) | {"folder": "", "sha256": ""})


def read_model(folder: Path) -> Any:
    """All that a model's file holds."""
    trained = FittedModel.load(folder / "model.safetensors")
    return [plain(part) for part in (trained._tensors(), trained.scales, trained.library.names, trained.about)]


def read_policy(folder: Path) -> Any:
    """All that a policy's file holds."""
    return plain(vars(Policy.load(folder / "policy.safetensors")))


def read_bench(folder: Path) -> Any:
    """The parts of a bench that are kept."""
    return plain(SavedParts(folder / "bench", make.BENCH, ("one",), quick=True).parts)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: makes all files in a folder.
        file: the one that is damaged, or a pattern of its name.
        read: what the files of a folder tell.
    """

    make: Callable[[Path], None]
    file: str
    read: Callable[[Path], Any]

    def path(self, folder: Path) -> Path:
        """The file in a folder."""
        (path,) = folder.glob(self.file)
        return path


def _make_killed(folder: Path) -> None:
    """A store that was not closed: what was written last is in its write-ahead log."""
    make.make_store(folder / "closed")
    shutil.copytree(folder / "closed", folder, dirs_exist_ok=True)
    with closing(sqlite3.connect(folder / "records.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("CREATE TABLE further AS SELECT * FROM segments")
        db.execute("DROP TABLE further")
        for file in folder.glob("records.sqlite*"):
            shutil.copy(file, folder / "closed" / file.name)
    for file in (folder / "closed").glob("records.sqlite*"):
        shutil.copy(file, folder / file.name)
    shutil.rmtree(folder / "closed")


CHECKPOINT = f"records.sqlite.{make.STOPPED}*checkpoint"


def _read_checkpoint(folder: Path) -> Any:
    (file,) = folder.glob(CHECKPOINT)
    return plain(load_tree(file))


KINDS = {
    "checkpoint": Kind(make.make_store, CHECKPOINT, _read_checkpoint),
    "checkpoint, gone on with": Kind(make.make_store, CHECKPOINT, go_on),
    "checkpoint of PPO": Kind(
        lambda folder: make.make_training(folder / "ppo"),
        "ppo/checkpoint",
        lambda folder: plain(load_tree(folder / "ppo" / "checkpoint")),
    ),
    "policy": Kind(make.make_weights, "policy.safetensors", read_policy),
    "model": Kind(make.make_weights, "model.safetensors", read_model),
    "runs.parquet": Kind(make.make_store, "comparison/runs.parquet", read_parquet),
    "runs.parquet of a comparison": Kind(make.make_store, "comparison/runs.parquet", read_comparison),
    "manifest.json": Kind(make.make_store, "comparison/manifest.json", read_comparison),
    "summary.csv": Kind(make.make_store, "comparison/summary.csv", read_comparison),
    "bench": Kind(lambda folder: make.make_bench(folder / "bench"), f"bench/{make.BENCH_FILE}", read_bench),
    "store": Kind(make.make_store, "records.sqlite", read_store),
    "store, gone on with": Kind(make.make_store, "records.sqlite", go_on),
    "store, finished": Kind(make.make_store, "records.sqlite", partial(go_on, name=make.FINISHED)),
    "write-ahead log": Kind(_make_killed, "records.sqlite-wal", go_on),
}


def outcome(kind: Kind, made: Path, data: bytes, expected: Any) -> tuple[str, str]:
    """What becomes of reading a damaged file, and what was said."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(made, Path(temporary) / "copy"))
        kind.path(folder).write_bytes(data)
        try:
            content = kind.read(folder)
        except UserError as error:
            return (TRACEBACK if "\n" in str(error) else REFUSED), str(error)
        except Exception:
            return TRACEBACK, traceback.format_exc()
        return (SAME, "") if content == expected else (ANOTHER, "")


def outcomes(kind: Kind, made: Path, count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """How often what becomes of a kind of file, and what was wrong.

    Args:
        kind: of file.
        made: the folder with its files.
        count: damages.
        seed: of them.
    """
    with tempfile.TemporaryDirectory() as temporary:
        expected = kind.read(Path(shutil.copytree(made, Path(temporary) / "whole")))
    data = kind.path(made).read_bytes()
    outcome_counts: Counter[str] = Counter()
    wrong = []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        damage = DAMAGES[number % len(DAMAGES)]
        if (damaged := damage(data, random)) == data:
            continue
        what, said = outcome(kind, made, damaged, expected)
        outcome_counts[what] += 1
        if what in (ANOTHER, TRACEBACK):
            wrong.append(f"{what} after {damage.__name__} {number}: {said}")
    return outcome_counts, wrong


def main() -> None:
    """Damage every kind, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--made", type=Path, help="folder with files that are there, such as tests/fixtures/unsealed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for module in (entry_points, registry):
        module.declared = cache(module.declared)  # looking for planners takes longest
    for name in given.kinds:
        kind = KINDS[name]
        with tempfile.TemporaryDirectory() as temporary:
            made = given.made or Path(temporary) / "made"
            if given.made is None:
                made.mkdir()
                kind.make(made)
            outcome_counts, wrong = outcomes(kind, made, given.count, given.seed)
        counts = ", ".join(f"{what} {outcome_counts[what]}" for what in (SAME, REFUSED, ANOTHER, TRACEBACK))
        print(f"{name:30} {counts}", *wrong[:3], sep="\n    ", flush=True)


if __name__ == "__main__":
    main()
