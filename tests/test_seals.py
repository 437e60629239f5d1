"""Sealed files: what each format does about a seal that is gone, and temporary files that nobody will finish."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from lr_env.errors import UserError
from lr_env.files import MARK, atomic_write, read_json, remove_leftovers, write_json, write_sealed
from lr_env.records.checkpoint import load_tree, save_tree
from lr_env.records.store import Store
from lr_env.records.tables import read_runs, seal_older, write_manifest
from lr_env.studies.across.saved import read_saved
from planners.latent_ode.artifact import FittedModel
from planners.ppo.policy import Policy
from tests.damage import plain
from tests.fixtures import make
from tests.helpers import compared

SEALED, UNSEALED = (Path(make.__file__).parent / name for name in ("sealed", "unsealed"))


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(SEALED, tmp_path / "files"))


def refused(read, file):
    with pytest.raises(UserError) as caught:
        read(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_json_is_read_as_it_was_written_and_not_without_its_seal(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": [1, {"b": None}], "ü": float("inf"), "path": Path("x")})
    assert read_json(path) == {"a": [1, {"b": None}], "ü": float("inf"), "path": "x"}
    assert json.loads(path.read_text())["seal"].startswith(MARK.decode())  # other software reads it, too
    text = path.read_text()
    for changed in (
        text.replace("[\n    1", "[\n    2"),
        text.replace("1", " 1", 1),
        text.replace(MARK.decode(), "lr_env:sha255:"),
        json.dumps({key: value for key, value in json.loads(text).items() if key != "seal"}),
        json.dumps({key: value for key, value in json.loads(text).items() if key != "format"}),
    ):
        path.write_text(changed)
        with pytest.raises(ValueError, match=r"not what was written|seal is damaged"):
            read_json(path)
    path.write_text('{"of": "before"}')
    assert read_json(path) == {"of": "before"}
    for other in ("[1]", "{", '"text"', "[" * 100_000, "{}x", "\udcff"):
        path.write_text(other, errors="surrogateescape")
        with pytest.raises(ValueError):  # noqa: PT011 (whoever reads it says what file it is)
            read_json(path)


def test_weights_without_their_seal_do_not_pass_for_older_ones(folder):
    for name, kind in (("model", FittedModel), ("policy", Policy)):
        file = folder / f"{name}.safetensors"
        with safe_open(file, framework="pt") as opened:
            header = {name: opened.metadata()[name]}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a mapping)
        save_file(tensors, file, header)
        assert "has no seal" in refused(kind.load, file)


def test_a_checkpoint_without_its_seal_does_not_pass_for_an_older_one(tmp_path):
    save_tree(tmp_path / "state", {"a": 1})
    data = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(data.replace(MARK, MARK.upper()))
    assert "has no seal" in refused(load_tree, tmp_path / "state")


def test_runs_without_their_seal_do_not_pass_for_older_ones(folder):
    file = folder / "comparison" / "runs.parquet"
    before = read_runs(file)
    table = pq.read_table(file)  # as other software does
    assert table.num_rows == len(before)
    pq.write_table(table, file)
    assert "its seal is damaged" in refused(read_runs, file)
    pq.write_table(table.drop_columns(["commit", "device", "threads"]), file)  # as before there were seals
    assert "is not what was written with manifest.json" in refused(read_runs, file)
    (folder / "comparison" / "manifest.json").unlink()
    assert [run.provenance for run in read_runs(file)] == [{}] * len(before)


def test_older_files_are_sealed_without_a_change_to_what_they_hold(tmp_path):
    before = UNSEALED / "comparison"
    folder, fit = (Path(shutil.copytree(before, tmp_path / name)) for name in ("comparison", "fit"))
    (fit / "manifest.json").unlink()
    for _ in range(2):
        for place in (folder, fit):
            seal_older(place)
            assert plain(read_runs(place / "runs.parquet")) == plain(read_runs(before / "runs.parquet"))
        assert (folder / "runs.parquet").read_bytes() == (before / "runs.parquet").read_bytes()
        assert read_saved(folder).manifest == read_saved(before).manifest
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace("DigitsMLP", "DigitsMLQ"))
    assert "not what was written" in refused(read_saved, folder)
    for place in (folder, fit):
        data = (place / "runs.parquet").read_bytes()
        at = data.index(b"final")
        (place / "runs.parquet").write_bytes(data[:at] + b"finer" + data[at + 5 :])
        assert "not what was written" in refused(read_runs, place / "runs.parquet")


def test_files_of_a_comparison_belong_together(folder, tmp_path):
    comparison = folder / "comparison"
    summary = comparison / "summary.csv"
    whole = summary.read_text()
    summary.write_text(whole.replace("160", "161"))
    assert "summary.csv is not what was written" in refused(read_saved, comparison)
    write_manifest(comparison, read_json(comparison / "manifest.json"))
    assert set(read_saved(comparison).tuning_steps.values()) == {161}
    shutil.copy(UNSEALED / "comparison" / "runs.parquet", comparison)
    assert "is damaged or no table of runs (it is not what was written with manifest.json)" in refused(
        read_saved, comparison
    )


def test_files_without_a_place_for_a_seal_are_a_mistake(tmp_path):
    with pytest.raises(AssertionError):
        write_sealed(tmp_path / "file", b"no place")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from lr_env.files import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("cleaner", [remove_leftovers, lambda path: save_tree(path, {"new": 1})])
def test_what_a_killed_process_left_behind_is_removed_and_what_others_write_is_not(tmp_path, cleaner):
    path = tmp_path / "a [file]"
    writers = [
        subprocess.Popen([sys.executable, "-c", KILLED, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    left, alive = (Path(writer.stdout.readline().strip()) for writer in writers)
    older = left.with_name(f".{path.name}.{writers[0].pid}.tmp")  # as they were called before
    older.touch()
    elsewhere = left.with_name(f".{path.name}.{writers[0].pid}@other.tmp")
    elsewhere.touch()
    writers[0].send_signal(signal.SIGKILL)
    writers[0].wait()
    with atomic_write(path) as own:
        own.write_text("new")
        if cleaner is remove_leftovers:
            cleaner(path)
        assert own.exists()
    cleaner(path)
    assert path.exists()
    assert not left.exists()
    assert not older.exists()
    assert elsewhere.exists()
    assert alive.exists()
    writers[1].communicate()
    assert path.read_text() == "half"
    for writer in writers:
        writer.stdout.close()
        if not writer.stdin.closed:
            writer.stdin.close()


def test_an_experiment_that_goes_on_removes_what_was_left_of_a_checkpoint(folder, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    left = folder / f".records.sqlite.{make.STOPPED}.checkpoint.{process.pid}.tmp"
    left.touch()
    store = Store(folder / "records.sqlite")
    versions = (store.experiment(make.STOPPED) or {})["versions"]
    monkeypatch.setattr("lr_env.runs.spec.versions", lambda: versions)
    compared(make.JOB, store, make.STOPPED, make.EXECUTION)
    store.close()
    assert not left.exists()
