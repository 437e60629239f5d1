"""The record store: what is written comes back as it was, and what is damaged is told in one line."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lr_env.errors import UserError
from lr_env.records.record import SCORES, RunRecord, settings_key
from lr_env.records.store import SCHEMA_VERSION, Store
from lr_env.signals import ALWAYS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "records.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def key(seed: int, planner: str = "cosine", phase: str = "final") -> tuple[str, str, str, int]:
    return phase, planner, settings_key({"peak": 0.1}), seed


def signals(step: float) -> dict[str, float]:
    return {name: step + place / 8 for place, name in enumerate(ALWAYS)}


def begun(store: Store, seeds: int = 2, segments: int = 3) -> list[int]:
    """An experiment "e" whose runs have some segments."""
    store.begin_experiment("e", {"task": "toy"})
    ids = store.begin_runs("e", [key(seed) for seed in range(seeds)])
    for segment in range(segments):
        store.write_segment(segment, [(run, signals(segment)) for run in ids])
    return ids


def steps(store: Store) -> list[list[float]]:
    """The curve "step" of every run of "e"."""
    return [run.curves["step"].tolist() for run in store.runs("e", curves=True)]


def refusal(work: Callable[[], Any]) -> str:
    """The one line in which some work is refused."""
    with pytest.raises(UserError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_runs_and_curves_come_back(store: Store, path: Path) -> None:
    keys = [key(7), key(2**63 - 1, "adaptive"), key(3, phase="tune")]
    store.begin_experiment("e", {"task": "toy", "seeds": [7]})
    ids = store.begin_runs("e", keys)
    odd = {**signals(1), "val_loss": math.nan, "lr": math.inf}
    store.write_segment(0, [(run, signals(0)) for run in ids])
    store.write_segment(1, [(ids[0], odd)])
    scores = {name: 0.1 + place for place, name in enumerate(SCORES)}
    ended = RunRecord("final", "cosine", {"peak": 0.1}, 7, "finished", True, 20, 5, scores, 0.25)
    store.finish_runs([(ids[0], ended), (ids[2], replace(ended, phase="tune", seed=3, scores={"test_loss": 1.0}))])
    store.close()

    again = Store(path)
    assert again.experiment("e") == {"task": "toy", "seeds": [7]}
    assert again.experiment("another") is None
    assert again.finished("e") == {keys[0], keys[2]}
    running, done, tuned = again.runs("e", curves=True)
    assert (running.planner, running.seed, running.status) == ("adaptive", 2**63 - 1, "running")
    assert replace(done, curves={}) == ended
    assert tuned.scores == {"test_loss": 1.0}
    assert list(done.curves) == list(ALWAYS)
    for place, name in enumerate(ALWAYS):
        np.testing.assert_array_equal(done.curves[name], [place / 8, odd[name]])
    assert [run.seed for run in again.runs("e", "tune")] == [3]
    assert again.runs("e", "tune")[0].curves == {}
    assert again.runs("another") == []
    again.close()


def test_beginning_runs_again_finds_them(store: Store) -> None:
    ids = begun(store)
    store.finish_runs([(ids[0], RunRecord("final", "cosine", {}, 0, steps=30))])
    assert store.begin_runs("e", [key(1), key(0), key(2)])[:2] == ids[::-1]
    assert [run.status for run in store.runs("e")] == ["finished", "running", "running"]
    assert steps(store)[0] == [0, 1, 2]


def test_a_segment_written_again_replaces_the_first(store: Store) -> None:
    ids = begun(store)
    store.write_segment(1, [(ids[0], signals(9))])
    assert steps(store) == [[0, 9, 2], [0, 1, 2]]


def test_rewinding_forgets_what_came_after(store: Store) -> None:
    ids = begun(store, seeds=3)
    store.rewind(ids[:2], 1)
    assert steps(store) == [[0], [0], [0, 1, 2]]


def test_scores_that_not_every_run_has_and_a_store_made_before_there_were_any(store: Store, path: Path) -> None:
    begun(store, seeds=3)
    store._db.execute("DROP TABLE scores")
    store.close()
    again = Store(path)
    ended = RunRecord(
        "final", "cosine", {}, 0, scores={"test_loss": 0.5, "hessian_max": 12.5, "hessian_trace": math.nan}
    )
    again.finish_runs([(2, ended), (1, replace(ended, scores={"test_loss": 0.25}))])
    again.close()
    again = Store(path)
    assert [run.scores for run in again.runs("e")] == [{"test_loss": 0.25}, {"test_loss": 0.5, "hessian_max": 12.5}, {}]
    assert again.runs("e", "tune") == []
    again.delete_experiment("e")
    assert again._db.execute("SELECT COUNT(*) FROM scores").fetchone() == (0,)
    again.close()


def test_deleting_an_experiment_leaves_the_others(store: Store) -> None:
    begun(store)
    store.begin_experiment("kept", {})
    (run,) = store.begin_runs("kept", [key(0)])
    store.write_segment(0, [(run, signals(0))])
    store.delete_experiment("e")
    assert store.experiment("e") is None
    assert store.runs("e") == []
    assert len(store.runs("kept", curves=True)[0].curves["step"]) == 1
    assert store._db.execute("SELECT COUNT(*) FROM segments").fetchone() == (1,)
    store.begin_experiment("e", {})  # the name is free again


def test_a_transaction_that_fails_leaves_nothing_behind(store: Store) -> None:
    begun(store)

    def rows() -> Iterator[tuple[int, dict[str, float]]]:
        yield 1, signals(50)
        raise RuntimeError("power cut")

    for work in (lambda: store.write_segment(50, rows()), lambda: store.begin_runs("e", iter([key(5), None]))):
        with pytest.raises((RuntimeError, TypeError)):
            work()
    assert steps(store) == [[0, 1, 2], [0, 1, 2]]
    store.write_segment(3, [(1, signals(3))])  # and the store is fit for use


def test_a_segment_of_an_unknown_run_is_an_error(store: Store) -> None:
    begun(store)
    with pytest.raises(sqlite3.IntegrityError):
        store.write_segment(0, [(99, signals(0))])


def test_a_store_of_a_newer_version_is_refused(store: Store, path: Path) -> None:
    store._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    store.close()
    line = refusal(lambda: Store(path))
    assert f"version {SCHEMA_VERSION + 1}" in line
    assert "update lr_env" in line


@pytest.mark.parametrize("content", [b"hello", bytes(4096), bytes(range(256)) * 16, b"SQLite format 3\0" + b"x" * 5000])
def test_a_file_that_is_no_store_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert "--store" in refusal(lambda: Store(file))
    assert file.read_bytes() == content


def test_a_damaged_store_is_refused(store: Store, path: Path) -> None:
    begun(store, seeds=50, segments=8)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:4096], whole[:4096] + b"\xff" * (len(whole) - 4096)):
        for file in path.parent.iterdir():
            file.unlink()
        path.write_bytes(damaged)
        assert "damaged" in refusal(lambda: Store(path).runs("e", curves=True))


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    other = sqlite3.connect(file)
    other.execute("CREATE TABLE runs (name TEXT)")
    other.commit()
    other.close()
    before = file.read_bytes()
    assert "not a record store" in refusal(lambda: Store(file))
    assert file.read_bytes() == before


@pytest.mark.parametrize("place", ["file/records.sqlite", "file/deep/records.sqlite", "folder"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert "--store" in refusal(lambda: Store(tmp_path / place))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc, a folder that nobody can write to")
@pytest.mark.parametrize("place", ["/proc/records.sqlite", "/proc/deep/records.sqlite"])
def test_a_folder_that_is_read_only_is_refused(place: str) -> None:
    assert "choose" in refusal(lambda: Store(place))


def test_a_full_disk_is_told_and_what_was_written_stays(store: Store, path: Path) -> None:
    ids = begun(store, seeds=20)
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    written = 3

    def fill() -> None:
        nonlocal written
        while written < 1000:
            store.write_segment(written, [(run, signals(written)) for run in ids])
            written += 1

    assert "disk is full" in refusal(fill)
    assert steps(store) == [list(range(written))] * 20
    store._db.execute("PRAGMA max_page_count = 100000")  # somebody makes room
    store.write_segment(written, [(run, signals(written)) for run in ids])
    store.close()
    again = Store(path)
    assert steps(again) == [list(range(written + 1))] * 20
    again.close()


def test_a_store_locked_for_too_long_is_told(store: Store, path: Path) -> None:
    begun(store)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._db.execute("PRAGMA busy_timeout = 50")
    assert "locked by another process" in refusal(lambda: store.write_segment(3, [(1, signals(3))]))
    assert steps(store) == [[0, 1, 2], [0, 1, 2]]  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    store.write_segment(3, [(1, signals(3))])


def test_opening_waits_for_a_process_that_is_making_the_store(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, other.execute, ("ROLLBACK",))
    release.start()
    try:
        Store(path).close()
    finally:
        release.join()
        other.close()


WRITER = """
import sys
from lr_env.records.store import Store
path, mine = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
store = Store(path)
shared = store.begin_runs("e", [("final", "shared", "{}", seed) for seed in range(5)])
own = store.begin_runs("e", [("final", f"own-{mine}", "{}", seed) for seed in range(5)])
for segment in range(30):
    store.write_segment(segment, [(run, {"step": segment, "lr": mine}) for run in own])
    store.write_segment(2 * segment + mine, [(run, {"step": 2 * segment + mine}) for run in shared])
store.close()
"""


def test_two_processes_that_write_at_once_lose_nothing(store: Store, path: Path) -> None:
    store.begin_experiment("e", {})
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [
        subprocess.Popen([*command, str(mine)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for mine in (0, 1)
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors.decode()
    runs = store.runs("e", curves=True)
    assert [(run.planner, run.seed) for run in runs] == [
        (planner, seed) for planner in ("own-0", "own-1", "shared") for seed in range(5)
    ]
    for run in runs:
        segments = 60 if run.planner == "shared" else 30
        assert run.curves["step"].tolist() == list(range(segments))
        if run.planner != "shared":
            assert set(run.curves["lr"]) == {float(run.planner[-1])}
    assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
