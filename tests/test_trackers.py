"""Readers of binary logs and databases: what was logged is read, damage is noted, and nothing is changed."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lr_env.records.readers.base import LoggedRun, Reader, UnreadableError
from lr_env.records.readers.formats.crc32c import crc32c, crc32c_of_pieces, masked
from lr_env.records.readers.formats.points import flat, number, parse_json, typed
from lr_env.records.readers.mlflow import MLflow
from lr_env.records.readers.optuna import Optuna
from lr_env.records.readers.tensorboard import TensorBoard
from lr_env.records.readers.trackio import Trackio
from lr_env.records.readers.wandb import WandB
from tests.log_damage import KINDS, SAMPLES, damaged, database_of, optuna_database, optuna_journal

ROOT = Path(__file__).parents[1]
LOGS = Path(os.environ.get("LR_ENV_LOGS", ROOT.parent / "shared" / "logs"))
READERS: list[Reader] = [MLflow(), Optuna(), TensorBoard(), Trackio(), WandB()]

N = 20
STEPS = np.arange(N) * 10.0
LOSS = 1 / (np.arange(N) + 1.0)
RATE = 0.1 * (1 - np.arange(N) / N)


def read(path: Path) -> list[LoggedRun]:
    """Read a log with the one reader that detects it."""
    head = path.read_bytes()[:4096] if path.is_file() else b""
    (reader,) = [reader for reader in READERS if reader.detects(path, head)]
    return list(reader.read(path))


def refused(path: Path) -> str:
    with pytest.raises(UnreadableError) as error:
        read(path)
    return str(error.value)


def check(run: LoggedRun, name: str, at: np.ndarray, values: np.ndarray) -> None:
    np.testing.assert_array_equal(run.series[name].at, at)
    np.testing.assert_array_equal(run.series[name].values, values)


def single(values: np.ndarray) -> np.ndarray:
    """As an event file holds them, with 32 bits."""
    return values.astype(np.float32).astype(float)


# CRC-32C


def test_crc32c_is_that_of_the_standard():
    # The vectors of RFC 3720, B.4.
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_crc32c_of_pieces_of_any_length_is_that_of_each():
    def of_bytes(data: bytes) -> int:
        register = 0xFFFFFFFF
        for byte in data:
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        return register ^ 0xFFFFFFFF

    data = np.random.default_rng(0).bytes(9000)
    starts = np.array([0, 5, 5, 100, 0, 1, 17, 4000])
    ends = np.array([0, 6, 1029, 1124, 9000, 2050, 40, 8097])
    sums = crc32c_of_pieces(data, starts, ends).tolist()
    assert sums == [of_bytes(data[start:end]) for start, end in zip(starts, ends, strict=True)]


# TensorBoard


def record_of(content: bytes) -> bytes:
    """Frame a record as TFRecord files do."""
    length = struct.pack("<Q", len(content))
    sums = masked(np.array([crc32c(length), crc32c(content)], np.uint32))
    return length + struct.pack("<I", sums[0]) + content + struct.pack("<I", sums[1])


VERSION = record_of(struct.pack("<Bd", 9, 1.7e9) + b"\x1a\x0dbrain.Event:2")


def scalar(step: int, tag: str, value: float) -> bytes:
    """Frame an event with a number, at a step below 128."""
    inner = b"\x0a" + bytes([len(tag)]) + tag.encode() + b"\x15" + struct.pack("<f", value)
    summary = b"\x0a" + bytes([len(inner)]) + inner
    return record_of(struct.pack("<BdBBB", 9, 1.7e9 + step, 16, step, 42) + bytes([len(summary)]) + summary)


def test_event_files_of_scalars_are_read(tmp_path):
    (run,) = read(SAMPLES / "tensorboard_x")
    assert set(run.series) == {"train/loss", "train/learning_rate", "eval/loss"}  # no histogram, no image
    check(run, "train/loss", STEPS, single(LOSS))
    check(run, "train/learning_rate", STEPS, single(RATE))
    check(run, "eval/loss", STEPS[::5], single(2 * LOSS[::5]) * [1, math.nan, 1, 1])
    assert (run.config, run.notes, run.clock) == ({"max_steps": 200}, (), "step")
    assert run.began == pytest.approx(1.796e9, rel=0.1)


def test_event_files_of_tensors_are_read():
    (run,) = read(SAMPLES / "tensorboard_tensors")
    at = 2.0**33 + np.arange(N)
    check(run, "epoch_loss", at, single(LOSS))
    check(run, "epoch_learning_rate", at, RATE)  # doubles
    check(run, "content", at, single(LOSS))


def test_hyperparameters_are_config_and_no_scalars():
    (run,) = read(SAMPLES / "tensorboard_hparams")
    assert run.config == {"lr": 0.1, "optimizer": "sgd"}
    assert not run.series


def test_an_event_file_of_one_record_is_empty_and_a_pointer_is_named(tmp_path):
    assert len(VERSION) == 40
    (tmp_path / "events.out.tfevents.1.host").write_bytes(VERSION)
    assert "empty" in refused(tmp_path / "events.out.tfevents.1.host")
    (tmp_path / "events.out.tfevents.2.host").write_bytes(b"")
    assert "empty" in refused(tmp_path / "events.out.tfevents.2.host")
    (tmp_path / "events.out.tfevents.3.host").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "Git-LFS pointer" in refused(tmp_path / "events.out.tfevents.3.host")


def test_event_files_that_are_cut_or_damaged_are_read_so_far(tmp_path):
    rows = [scalar(step, "loss", 1.0 / (step + 1)) for step in range(100)]
    file = tmp_path / "events.out.tfevents.1.host"
    file.write_bytes(VERSION + b"".join(rows)[:-3])
    (run,) = read(file)
    assert run.notes == ("cut off after 100 records",)
    check(run, "loss", np.arange(99.0), single(1 / np.arange(1.0, 100)))

    data = bytearray(VERSION + b"".join(rows))
    data[40 + 50 * len(rows[0]) + 30] ^= 1
    file.write_bytes(data)
    (run,) = read(file)
    assert run.notes == ("damaged after 51 records",)
    check(run, "loss", np.arange(50.0), single(1 / np.arange(1.0, 51)))

    # A length with the right checksum that no file has, and big records, which are passed over.
    length = struct.pack("<Q", 1 << 50)
    claim = length + struct.pack("<I", masked(np.array([crc32c(length)], np.uint32))[0])
    file.write_bytes(VERSION + b"".join(rows[:50]) + record_of(bytes(5 << 20)) + b"".join(rows[50:]) + claim)
    (run,) = read(file)
    assert run.notes == ("cut off after 102 records",)
    check(run, "loss", np.arange(100.0), single(1 / np.arange(1.0, 101)))


def test_event_files_of_a_folder_are_one_run_and_so_are_its_parts(tmp_path):
    # Keras has folders for what it measures on each part of the data, and PyTorch's `add_scalars` one for each name.
    parts = (("train", "epoch_loss"), ("validation", "epoch_loss"), ("a_b_val", "a/b"), ("a/b/train", "a/b"))
    for name, tag in (("", "lr"), *parts, ("other", "loss")):
        (tmp_path / "run" / name).mkdir(parents=True, exist_ok=True)
        for part in (1, 2):
            file = tmp_path / "run" / name / f"events.out.tfevents.{part}.host"
            file.write_bytes(VERSION + scalar(part, tag, 0.5))
    runs = [run for file in sorted(tmp_path.rglob("events*")) for run in read(file)]
    names = {(Path(run.run_id).name, name) for run in runs for name in run.series}
    ours = {"lr", "train/epoch_loss", "validation/epoch_loss", "a/b/val", "a/b/train"}
    assert names == {("other", "loss"), *(("run", name) for name in ours)}


# W&B


def wandb_log(records: list[bytes]) -> bytes:
    """Frame records as LevelDB's log does, by its description: fragments never cross a block of 32 KiB."""
    data = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        begun = False
        while True:
            room = 32768 - len(data) % 32768
            if room < 7:
                data += bytes(room)
                continue
            piece, record = record[: room - 7], record[room - 7 :]
            kind = (4 if begun else 1) if not record else (3 if begun else 2)
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            begun = True
            if not record:
                break
    return bytes(data)


def message(field: int, content: bytes) -> bytes:
    def varint(value: int) -> bytes:
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])

    return varint(field << 3 | 2) + varint(len(content)) + content


def wandb_row(step: int, **values: object) -> bytes:
    """A history record, whose keys are plain as in older versions."""
    items = [message(1, message(1, key.encode()) + message(16, str(value).encode())) for key, value in values.items()]
    return message(2, b"".join(items) + message(2, b"\x08" + bytes([step])))


def test_wandb_files_are_read():
    (run,) = read(SAMPLES / "run-sample01.wandb")
    assert (run.run_id, run.clock, run.notes) == ("sample01", "_step", ())
    assert run.config == {"lr": 0.1, "model.width": 8}
    ours = {"train/loss", "lr", "nested.a", "nan", "train/global_step"}
    assert set(run.series) == ours | {"_step", "_runtime", "_timestamp"}  # no text, histogram, truth value
    at = np.arange(N * 1.0)
    check(run, "train/loss", at, LOSS)
    check(run, "lr", at, RATE)
    check(run, "nested.a", at, at)
    check(run, "nan", at, np.full(N, math.nan))
    check(run, "train/global_step", at, STEPS)


def test_wandb_records_span_blocks_and_damage_costs_its_block_only(tmp_path):
    rows = [wandb_row(step, loss=1 / (step + 1), text=f'"{"x" * 3000}"') for step in range(100)]
    data = wandb_log([*rows[:50], message(4, bytes(100_000)), *rows[50:]])
    file = tmp_path / "run-abc.wandb"
    file.write_bytes(data)
    (run,) = read(file)
    check(run, "loss", np.arange(100.0), 1 / np.arange(1.0, 101))
    assert (run.run_id, run.notes) == ("abc", ("no exit record: it crashed, or is still running",))

    hurt = bytearray(data)
    hurt[2 * 32768 + 100] ^= 1
    file.write_bytes(hurt)
    (run,) = read(file)
    at = run.series["loss"].at
    assert "damaged in 1 place" in run.notes[0]
    assert 80 < len(at) < 100
    check(run, "loss", at, 1 / (at + 1))
    file.write_bytes(data[:-1000])
    (run,) = read(file)
    assert "cut off" in run.notes[0]
    check(run, "loss", np.arange(99.0), 1 / np.arange(1.0, 100))


def test_wandb_values_by_type_are_read(tmp_path):
    """The message has fields for values of a type, which may take the place of JSON."""
    items = [
        message(1, message(2, b"loss") + b"\x31" + struct.pack("<d", 0.25)),
        message(1, message(2, b"count") + b"\x28\x07"),  # zigzag: -4
        message(1, message(2, b"flag") + b"\x20\x01"),
    ]
    (tmp_path / "a.wandb").write_bytes(wandb_log([message(2, b"".join(items) + message(2, b""))]))
    (run,) = read(tmp_path / "a.wandb")
    assert {name: (s.at.tolist(), s.values.tolist()) for name, s in run.series.items()} == {
        "loss": ([0.0], [0.25]),
        "count": ([0.0], [-4.0]),
    }


# MLflow


def check_mlflow(run: LoggedRun) -> None:
    assert set(run.series) == {"train/loss", "lr/pg0", "odd"}
    check(run, "train/loss", STEPS, LOSS)
    check(run, "lr/pg0", STEPS, RATE)
    check(run, "odd", np.array([5.0, 6.0, 7.0]), np.array([math.nan, math.inf, -math.inf]))
    assert run.config == {"lr": 0.1, "opt/name": "adam"}


def test_mlflow_databases_are_read_without_deleted_runs(tmp_path):
    finished, failed = read(database_of("mlflow.sql", tmp_path / "mlflow.db"))
    check_mlflow(finished)
    check_mlflow(failed)
    assert (finished.notes, failed.notes) == ((), ("failed",))
    assert len(finished.run_id) == 32


def test_mlflow_folders_are_read(tmp_path):
    (run,) = read(SAMPLES / "mlruns" / "1" / "active")
    check_mlflow(run)
    assert refused(SAMPLES / "mlruns" / "1" / "deleted") == "deleted in MLflow"
    assert not MLflow().detects(SAMPLES / "mlruns" / "1", b"")
    folder = Path(shutil.copytree(SAMPLES / "mlruns" / "1" / "active", tmp_path / "run"))
    file = folder / "metrics" / "train" / "loss"
    file.write_bytes(file.read_bytes() + b"gibberish\n1700000000000 0.12")  # a line, and one that is being written
    (run,) = read(folder)
    check(run, "train/loss", STEPS, LOSS)
    assert run.notes == ("the last line of 1 metric is cut off", "1 line could not be read")


WRITER = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = " + sys.argv[2])
run = db.execute("SELECT run_uuid FROM runs WHERE status = 'FINISHED'").fetchone()
late = "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES ('late', 0.5, 1, {}, 0, ?)"
db.execute(late.format(1), run)
if sys.argv[3] == "writing":
    db.execute("BEGIN EXCLUSIVE")
    db.execute(late.format(2), run)
print("ready", flush=True)
if sys.argv[4] == "killed":
    os._exit(9)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("journal", "doing", "end"),
    [("wal", "idle", "alive"), ("wal", "writing", "alive"), ("wal", "writing", "killed"), ("delete", "idle", "alive")],
)
def test_databases_are_read_while_they_are_written_and_never_changed(tmp_path, journal, doing, end):
    file = database_of("mlflow.sql", tmp_path / "a database?.db")
    command = [sys.executable, "-c", WRITER, str(file), journal, doing, end]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        if end == "killed":
            writer.wait()
        before = {each.name: each.read_bytes() for each in tmp_path.iterdir() if not each.name.endswith("-shm")}
        run = read(file)[0]
        after = {each.name: each.read_bytes() for each in tmp_path.iterdir() if not each.name.endswith("-shm")}
        writer.communicate(b"")
    assert after == before
    check(run, "late", np.array([1.0]), np.array([0.5]))  # what is not committed is not read


def test_a_log_whose_index_is_gone_is_read_from_a_copy(tmp_path):
    file = database_of("mlflow.sql", tmp_path / "first.db")
    subprocess.run([sys.executable, "-c", WRITER, str(file), "wal", "idle", "killed"], stdout=subprocess.PIPE)
    (tmp_path / "copied").mkdir()
    for name in ("first.db", "first.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / "copied" / name)
    check(read(tmp_path / "copied" / "first.db")[0], "late", np.array([1.0]), np.array([0.5]))
    assert sorted(os.listdir(tmp_path / "copied")) == ["first.db", "first.db-wal"]


def test_a_locked_database_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lr_env.records.readers.formats.sqlite._SECONDS", 0.1)
    file = database_of("mlflow.sql", tmp_path / "mlflow.db")
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        assert "locked by another process" in refused(file)


def test_rows_of_a_damaged_database_are_noted_to_be_missing(tmp_path):
    file = tmp_path / "mlflow.db"
    database_of("mlflow.sql", file)
    with closing(sqlite3.connect(file)) as db:
        columns = "value, timestamp, step, is_nan, run_uuid"
        db.execute(f"INSERT INTO metrics (key, {columns}) SELECT key || '2', {columns} FROM metrics")
        db.commit()
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'metrics'").fetchone()
    # The second page of the table: the root has the places of its cells from byte 12 on, which begin with page numbers.
    pages = file.read_bytes()[(root - 1) * 4096 :]
    page = int.from_bytes(pages[int.from_bytes(pages[14:16], "big") :][:4], "big")
    data = bytearray(file.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = bytes(4096)
    file.write_bytes(data)
    runs = read(file)
    assert all("damaged" in run.notes[-1] for run in runs)
    assert 0 < sum(len(series.at) for run in runs for series in run.series.values()) < 172


# Trackio


def check_trackio(runs: list[LoggedRun]) -> None:
    assert len(runs) == 2
    at = np.arange(N * 1.0)
    for run in runs:
        assert set(run.series) == {"train/loss", "train/learning_rate", "train/global_step", "nan", "nested.a"}
        check(run, "train/loss", at, LOSS)
        check(run, "train/learning_rate", at, RATE)
        check(run, "train/global_step", at, STEPS)
        check(run, "nan", at, np.full(N, math.nan))
        check(run, "nested.a", at, at)
        assert run.config == {"lr": 0.1, "model.width": 8}


def test_trackio_projects_are_read_from_the_database_or_its_export(tmp_path):
    database = database_of("trackio.sql", tmp_path / "project.db")
    runs = read(database)
    check_trackio(runs)
    exported = read(SAMPLES / "trackio_export" / "metrics.parquet")
    check_trackio(exported)
    assert [run.run_id for run in exported] == [run.run_id for run in runs]
    beside = Path(shutil.copy(SAMPLES / "trackio_export" / "metrics.parquet", tmp_path / "project.parquet"))
    assert refused(beside) == "an export: the same runs are in project.db"
    assert not Trackio().detects(SAMPLES / "trackio_export" / "aux" / "configs.parquet", b"PAR1")


def test_trackio_runs_without_ids_are_read(tmp_path):
    """Before 0.24 a run was its name."""
    with closing(sqlite3.connect(tmp_path / "old.db")) as db:
        db.executescript(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT);"
            """INSERT INTO metrics VALUES (1, '2025-08-01T00:00:00', 'one', 0, '{"loss": 1, "lr": "Infinity"}');"""
            "INSERT INTO metrics VALUES (2, '2025-08-01T00:00:01', 'one', 1, '{broken');"
        )
    (run,) = read(tmp_path / "old.db")
    assert run.run_id.endswith("old.db/one")
    check(run, "loss", np.array([0.0]), np.array([1.0]))
    check(run, "lr", np.array([0.0]), np.array([math.inf]))
    assert run.notes == ("1 row could not be read",)


# Optuna


@pytest.mark.parametrize("write", [optuna_database, optuna_journal])
def test_optuna_trials_are_runs_as_optuna_has_them(tmp_path, write):
    pytest.importorskip("optuna")
    file = tmp_path / "study"
    truth = write(file)
    before = file.read_bytes()
    runs = read(file)
    assert file.read_bytes() == before
    assert len(runs) == len(truth) == 4
    for run, (steps, values, rate) in zip(runs, truth, strict=True):
        check(run, "intermediate_value", np.array(steps, float), np.array(values))
        check(run, "lr", np.array(steps, float), np.full(len(steps), rate))
        assert run.config["learning_rate"] == rate
        assert run.config["optimizer"] in ("sgd", "adam")
        assert run.config["steps"] == 50
    check(runs[0], "value", np.array([40.0]), np.array([truth[0][2] * 5]))
    assert [run.notes[0] for run in runs][2:] == ["pruned", "failed"]
    assert "lr is the parameter learning_rate" in runs[0].notes[0]


@pytest.mark.parametrize("kind", ["database", "journal"])
def test_values_of_an_optuna_study_that_maximizes_are_no_losses(tmp_path, kind):
    optuna = pytest.importorskip("optuna")
    file = tmp_path / kind
    storage = (
        f"sqlite:///{file}"
        if kind == "database"
        else optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    )
    study = optuna.create_study(storage=storage, direction="maximize")
    trial = study.ask({"lr": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True)})
    trial.report(0.5, 1)
    trial.report(0.7, 2)
    study.tell(trial, 0.7)
    (run,) = Optuna().read(file)
    assert set(run.series) == {"maximized_intermediate_value", "maximized_value", "lr"}


def test_optuna_databases_of_old_schemas_are_read(tmp_path):
    """Before 2.4 intermediate values were in `trial_values`, and before 1.3 a trial had no number."""
    with closing(sqlite3.connect(tmp_path / "old.db")) as db:
        db.executescript(
            """
            CREATE TABLE studies (study_id INTEGER PRIMARY KEY, study_name TEXT, direction TEXT);
            CREATE TABLE trials (trial_id INTEGER PRIMARY KEY, study_id INTEGER, state TEXT, value REAL,
                                 datetime_start TEXT, datetime_complete TEXT);
            CREATE TABLE trial_params (param_id INTEGER PRIMARY KEY, trial_id INTEGER, param_name TEXT,
                                       param_value REAL, distribution_json TEXT);
            CREATE TABLE trial_values (trial_value_id INTEGER PRIMARY KEY, trial_id INTEGER, step INTEGER, value REAL);
            INSERT INTO studies VALUES (1, 's', 'MINIMIZE');
            INSERT INTO trials VALUES (1, 1, 'COMPLETE', 0.5, '2019-01-01 00:00:00.5', NULL), (2, 1, 'RUNNING', NULL,
                                      NULL, NULL);
            INSERT INTO trial_params VALUES (1, 2, 'lr', 0.01,
                '{"name": "LogUniformDistribution", "attributes": {"low": 1e-5, "high": 0.1}}');
            INSERT INTO trial_values VALUES (1, 2, 0, 3.0), (2, 2, 1, 1.7976931348623157e308), (3, 2, 2, NULL);
            """
        )
    first, second = read(tmp_path / "old.db")
    assert (first.config, first.series, first.notes) == ({"value": 0.5}, {}, ("no intermediate values",))
    check(second, "intermediate_value", np.arange(3.0), np.array([3.0, math.inf, math.nan]))
    check(second, "lr", np.arange(3.0), np.full(3, 0.01))


def test_a_journal_is_read_up_to_a_damaged_line(tmp_path):
    pytest.importorskip("optuna")
    truth = optuna_journal(tmp_path / "journal.log")
    lines = (tmp_path / "journal.log").read_bytes().splitlines(keepends=True)
    (second,) = [i for i, line in enumerate(lines) if b'"trial_id":1,"step":20' in line]
    (tmp_path / "journal.log").write_bytes(b"".join(lines[:second]) + b"\0" * 20 + b"\n" + b"".join(lines[second:]))
    first, last = read(tmp_path / "journal.log")
    assert "damaged after" in last.notes[-1]
    check(first, "intermediate_value", np.array(truth[0][0], float), np.array(truth[0][1]))
    check(last, "intermediate_value", np.array([0.0, 10.0]), np.array(truth[1][1][:2]))


# All


def test_readers_import_no_trackers_package():
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from lr_env.records.readers import mlflow, optuna, tensorboard, trackio, wandb\n"
        f"list(wandb.WandB().read(Path({str(SAMPLES / 'run-sample01.wandb')!r})))\n"
        f"list(tensorboard.TensorBoard().read(Path({str(SAMPLES / 'tensorboard_x')!r})))\n"
        "names = 'mlflow optuna tensorboard trackio wandb google.protobuf torch pickle pyarrow pandas yaml'.split()\n"
        "print([name for name in names if name in sys.modules and name != 'pickle'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


def test_helpers_take_values_of_any_kind():
    assert [number(value) for value in (1, 0.5, True, "NaN", "x", None, 10**400, [])][:3] == [1.0, 0.5, None]
    assert math.isnan(number("NaN") or 0.0)
    assert [number(value) for value in ("x", None, 10**400, [])] == [None] * 4
    assert [typed(text) for text in ("1", "0.1", "True", "none", "adam", "")] == [1, 0.1, True, None, "adam", ""]
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": None, "e": "x" * 5000}) == {"a.b": 1, "a.c": "[1, 2]", "d": None}
    for bad in ("", "{", "1 2", "[" * 100_000, b"\xff", "1" * 5000):
        with pytest.raises(ValueError, match=r"\w"):
            parse_json(bad)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_logs_are_noted_or_refused(name):
    if name.startswith("optuna"):
        pytest.importorskip("optuna")
    counts = damaged(KINDS[name], 40, seed=1)
    assert not [what for what in counts if what.startswith("fault")], counts


@pytest.mark.skipif(not LOGS.is_dir(), reason=f"there are no logs in {LOGS}: name their folder in LR_ENV_LOGS")
def test_real_logs_are_read_as_their_readme_says():
    (run,) = read(LOGS / "wandb_offline_2023_lr.wandb")
    assert {"loss", "lr", "epoch", "batch_id"} < set(run.series)
    assert len(run.series["lr"].at) == 16
    assert not run.notes
    assert "no history record" in refused(LOGS / "wandb_offline_2023_crashed_empty.wandb")
    (run,) = read(LOGS / "wandb_no_lr_transformer.wandb")
    assert len(run.series["train/loss"].at) == len(run.series["global_step"].at) == 48
    assert run.config["batch_size"] == 8

    (keras,) = read(LOGS / "tfevents_official_keras")
    assert {"batch_loss", "epoch_loss", "epoch_val_loss"} < set(keras.series)
    (lightning,) = read(LOGS / "tfevents_lightning_small")
    assert set(lightning.series) == {"val_loss", "val_accuracy", "train_loss", "epoch"}
    assert keras.run_id != lightning.run_id  # files of other names are no parts of one run
    with pytest.raises(UnreadableError, match="Git-LFS pointer"):
        list(TensorBoard().read(LOGS / "made_lfs_pointer"))

    runs = read(LOGS / "optuna_journal_official.log")
    assert len(runs) == 10
    assert all(run.series["intermediate_value"].values.tolist() == [0.5] for run in runs)
    runs = read(LOGS / "optuna_official_3.2.0.db")
    assert [bool(run.series) for run in runs] == [False, False, True]
    assert runs[2].config["x"] == pytest.approx(-2.4602735870404)
    for file in LOGS.iterdir():  # nothing else is taken for one of ours
        if file.suffix in (".json", ".jsonl", ".csv", ".md") or file.name.startswith("llm"):
            assert not [reader.name for reader in READERS if reader.detects(file, file.read_bytes()[:4096])]
