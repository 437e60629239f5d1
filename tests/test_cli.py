"""The command line as people use it: as a process, judged by its exit code and what it prints."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from lr_env.cli.catalogue import FEEDBACK_KINDS
from lr_env.cli.commands import commands
from lr_env.cli.main import main
from lr_env.cli.study import StudyCommand
from lr_env.tasks import FAMILIES, TASKS
from lr_env.tasks.data import forget
from tests.helpers import PLANNERS

QUICK = ["--budget", "40", "--segment", "10", "--rates", "0.01,0.1", "--tune-seeds", "1", "--seeds", "3"]
SMALL = ["compare", "DigitsMLP", "--planners", "constant", "cosine", *QUICK]


def running(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """The command at work, to be sent signals."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "lr_env.cli", *arguments]


def lr_env(*arguments: str, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=300, **options)


def query(store: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(sql).fetchall()


def timeless(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in csv.DictReader(file)]


def test_lists(tmp_path):
    tasks = lr_env("tasks", cwd=tmp_path)
    assert [line.split()[0] for line in tasks.stdout.splitlines()] == [*TASKS, *FAMILIES]
    planners = lr_env("planners", cwd=tmp_path)
    names, loops = zip(*(line.split()[:2] for line in planners.stdout.splitlines()[:-3]), strict=True)
    assert set(names) >= set(PLANNERS)
    order = [(FEEDBACK_KINDS.index(loop), name) for name, loop in zip(names, loops, strict=True)]
    assert order == sorted(order)
    assert not tasks.stderr + planners.stderr


def test_a_comparison_from_start_to_report(tmp_path):
    done = lr_env(*SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # no progress bar where there is no terminal
    assert "constant" in done.stdout
    assert "cosine" in done.stdout
    folder = tmp_path / "results" / "DigitsMLP"
    assert sorted(path.name for path in folder.iterdir()) == [
        "curves.png",
        "manifest.json",
        "report.html",
        "runs.parquet",
        "scores.png",
        "summary.csv",
        "summary.md",
    ]
    rows = timeless(folder / "summary.csv")
    assert {row["planner"] for row in rows} == {"constant", "cosine"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"] == "lr-env " + " ".join(SMALL)
    assert manifest["seeds"] == [0, 1, 2]
    assert manifest["tuning"]["runs_per_planner"] == 2
    # Again: nothing is trained, the report is the same.
    before = (folder / "summary.csv").read_bytes()
    assert lr_env(*SMALL, cwd=tmp_path).returncode == 0
    assert (folder / "summary.csv").read_bytes() == before


def test_a_sweep_is_kept_in_the_store(tmp_path):
    done = lr_env("sweep", "DigitsMLP", "--planners", "constant,multi-step", *QUICK[:-2], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "best setting" in done.stdout
    store = tmp_path / "results" / "records.sqlite"
    assert query(store, "SELECT COUNT(*) FROM runs WHERE status = 'finished'") == [(4,)]
    assert query(store, "SELECT COUNT(*) FROM segments") == [(16,)]


def test_settings_that_are_all_given_are_tried_once(tmp_path):
    given = ["--set", "multi-step.peak=0.05"]
    done = lr_env("compare", "DigitsMLP", "--planners", "constant", "multi-step", *QUICK, *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    store = tmp_path / "results" / "records.sqlite"
    found = query(store, "SELECT planner, COUNT(*) FROM runs WHERE phase = 'tune' GROUP BY planner ORDER BY planner")
    assert found == [("constant", 2), ("multi-step", 1)]
    manifest = json.loads((tmp_path / "results" / "DigitsMLP" / "manifest.json").read_text())
    assert manifest["tuning"]["fewer_settings"] == {"multi-step": 1}


def test_killed_at_any_moment_it_goes_on_to_the_same_result(tmp_path):
    arguments = [*SMALL, "--seeds", "4", "--checkpoint-seconds", "0.05", "--lockstep", "4", "--backend", "stacked"]
    arguments += ["--flatness"]
    arguments[arguments.index("40")] = "1000"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert lr_env(*arguments, cwd=whole).returncode == 0
    # Once in the sweep, twice in the comparison, once between two chunks, each while it trains.
    store = broken / "results" / "records.sqlite"
    for phase, segments in (("tune", 30), ("final", 10), ("final", 250), ("final", 400)):
        with subprocess.Popen(command(*arguments), cwd=broken, stderr=subprocess.PIPE) as process:
            began = time.monotonic()
            while _segments(store, phase) < segments and time.monotonic() - began < 60:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        assert _segments(store, "final") < 800
    done = lr_env(*arguments, cwd=broken)
    assert done.returncode == 0, done.stderr
    ours, theirs = (folder / "results" / "DigitsMLP" / "summary.csv" for folder in (broken, whole))
    assert timeless(ours) == timeless(theirs)
    assert all(float(row["hessian_trace"]) > float(row["hessian_max"]) > 0 for row in timeless(ours))
    assert query(store, "SELECT DISTINCT phase FROM scores JOIN runs ON run = id") == [("final",)]
    assert _curves(broken) == _curves(whole)
    assert not list(broken.glob("results/*.checkpoint"))


def test_a_checkpoint_without_its_store_is_not_gone_on_from(tmp_path):
    arguments = [*SMALL, "--checkpoint-seconds", "0", "--backend", "stacked"]
    arguments[arguments.index("40")] = "2000"
    with subprocess.Popen(command(*arguments), cwd=tmp_path, stderr=subprocess.PIPE) as process:
        while not list(tmp_path.glob("results/*.checkpoint")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    for file in tmp_path.glob("results/records.sqlite*"):
        if file.suffix != ".checkpoint":
            file.unlink()
    assert lr_env(*arguments, cwd=tmp_path).returncode == 0
    store = tmp_path / "results" / "records.sqlite"
    assert query(store, "SELECT DISTINCT n FROM (SELECT COUNT(*) AS n FROM segments GROUP BY run)") == [(200,)]


def _segments(store: Path, phase: str) -> int:
    try:
        return query(store, f"SELECT COUNT(*) FROM segments JOIN runs ON run = id WHERE phase = '{phase}'")[0][0]
    except sqlite3.Error:  # not made yet
        return 0


def _busy(store: Path) -> bool:
    """Whether the runs have begun."""
    try:
        return query(store, "SELECT COUNT(*) FROM segments") != [(0,)]
    except sqlite3.Error:
        return False


def _stop_between_writes(process: subprocess.Popen, store: Path) -> None:
    """Stop a process where it does not hold the store's write lock."""
    with closing(sqlite3.connect(store, timeout=0, isolation_level=None)) as connection:
        while process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:  # it is writing
                process.send_signal(signal.SIGCONT)
                time.sleep(0.01)
            else:
                connection.execute("ROLLBACK")
                return
    raise AssertionError(f"it ended: {process.stderr.read()}")


def _curves(folder: Path) -> list[tuple]:
    return query(
        folder / "results" / "records.sqlite",
        "SELECT phase, planner, settings, seed, segment, lr, train_loss, val_loss FROM runs JOIN segments ON run = id "
        "ORDER BY phase, planner, settings, seed, segment",
    )


def test_two_at_once_on_one_store(tmp_path):
    arguments = [*SMALL, "--lockstep", "4"]
    arguments[arguments.index("40")] = "2000"
    first = subprocess.Popen(command(*arguments), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    store = tmp_path / "results" / "records.sqlite"
    while not _busy(store):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    _stop_between_writes(first, store)  # or a fast machine is through before the second has started
    same = lr_env(*arguments, cwd=tmp_path)
    first.send_signal(signal.SIGCONT)
    other = lr_env(*SMALL, "--name", "other", cwd=tmp_path)
    assert first.wait() == 0, first.stderr.read()
    first.stderr.close()
    assert same.returncode == 2
    assert "being run by another process: wait for it" in same.stderr
    assert other.returncode == 0, other.stderr
    assert query(store, "PRAGMA integrity_check") == [("ok",)]
    assert query(store, "SELECT COUNT(*) FROM runs WHERE status = 'finished'") == [(20,)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "DigitMLP"], "did you mean 'DigitsMLP'"),
        (["compare", "DigitsMLP", "--planners", "cosin"], "did you mean 'cosine'"),
        (["compare", "DigitsMLP", "--planners", ","], "no planners"),
        (["compare", "DigitsMLP", "--planners", "cosine", "cosine"], "planner cosine is given twice"),
        (["compare", "DigitsMLP", "--rates", "0"], "rate 0: rates must be finite and above 0"),
        (["compare", "DigitsMLP", "--rates=-0.1,0.1"], "rate -0.1: rates must be finite and above 0"),
        (["compare", "DigitsMLP", "--rates", "nan"], "rate nan: rates must be finite and above 0"),
        (["compare", "DigitsMLP", "--rates", "inf"], "rate inf: rates must be finite and above 0"),
        (["compare", "DigitsMLP", "--rates", "0.1,11"], "rate 11"),
        (["compare", "DigitsMLP", "--rates", "1:0.1:5"], "give LOW below HIGH"),
        (["compare", "DigitsMLP", "--rates", "fast"], "give LOW:HIGH:COUNT"),
        (["compare", "DigitsMLP", "--budget", "105"], "use a budget of 100 or 110"),
        (["compare", "DigitsMLP", "--budget", "0"], "budget is 0"),
        (["compare", "DigitsMLP", "--segment", "-5"], "segment is -5"),
        (["compare", "DigitsMLP", "--seeds", "3,-1"], "seed -1: seeds are whole numbers from 0 up"),
        (["compare", "DigitsMLP", "--seeds=-1"], "give at least one"),
        (["compare", "DigitsMLP", "--seeds", "3,4,3"], "seed 3 is given twice"),
        (["compare", "DigitsMLP", "--seeds", "ten"], "give how many"),
        (["compare", "DigitsMLP", "--seeds", "5", "--tune-seeds", "1,,2"], "give how many"),
        (["compare", "DigitsMLP", "--seeds", "99999999999999999999,1"], "below 2**63"),
        (["compare", "DigitsMLP", "--planners", "all", "cosine"], "planner cosine is given twice"),
        (["compare", "DigitsMLP", "--precision", "half"], "unknown precision 'half'"),
        (["compare", "DigitsMLP", "--precision", "tf32"], "precision 'tf32' is for CUDA devices"),
        (["compare", "DigitsMLP", "--label-noise", "1.5"], "label_noise is 1.5"),
        (["compare", "DigitsMLP", "--train-fraction", "0"], "train_fraction is 0"),
        (["compare", "DigitsMLP", "--batch-size", "5000"], "batch_size is 5000, but the train split has 997"),
        (["compare", "DigitsMLP", "--budget", "10000", "--segment", "1", "--planners", "cosine"], "outside the task's"),
        (["compare", "DigitsMLP", "--seeds", "5", "--tune-seeds", "1,9"], "needs fresh seeds"),
        (["compare", "DigitsMLP", "--seeds", "99999999999"], "give at most 100,000; for the one seed of that number"),
        (["compare", "DigitsMLP", "--rates", "0.01:0.1:200000000"], "give a COUNT of at most 10,000"),
        (
            ["compare", "DigitsMLP", "--seeds", "100000", "--lockstep", "10000000", "--batch-size", "900"],
            "ask for at most",
        ),
        (["compare", "DigitsMLP", "--planners", "plrs", "--set", "plrs.every=null"], "interval None (there are: "),
        (["compare", "DigitsMLP", "--planners", "ppo", "--set", "ppo.policy=5"], "policy 5: give the name of a policy"),
        (["start-rates", "DigitsMLP", "--seeds=-1,"], "seed -1: seeds are whole numbers from 0"),
        (["start-rates", "DigitsMLP", "--seeds", "3,3"], "seed 3 is given twice: each seed may be given once"),
        (["compare", "DigitsMLP", "--budget", "10000000000000", "--segment", "1"], "give at most 1,000,000,000 steps"),
        (
            ["start-rates", "DigitsMLP", "--budget", "100000000", "--segment", "1"],
            "so that there are at most 1,000,000",
        ),
        (["sweep", "DigitsMLP", "--threads", "10000000000000"], "threads 10000000000000: give at most 1,024"),
        (["sweep", "DigitsMLP", "--name", "a" * 300], "has 300 characters: give at most 100"),
        (["train-ppo", "DigitsMLP", "--decisions", "1" + "0" * 25], "give at most 1,000,000,000"),
        (["train-ppo", "DigitsMLP", "--children", "1" + "0" * 25], "give at most 1,000,000"),
        (["tuning-budget", "DigitsMLP", "--runs", "10000000000000"], "a tuner has at most 10,000"),
        (
            ["tuning-budget", "DigitsMLP", "--reference", "direct:0"],
            "reference 'direct': give a tuner that is not among the others",
        ),
        (["tuning-budget", "DigitsMLP", "--ceiling", "40"], "--ceiling is called --reference now"),
        (["budget", "DigitsMLP"], "command 'budget' is called 'tuning-budget' now"),
        (["compare", "DigitsMLP", "--set", "latent-ode.sure=2", "--planners", "latent-ode"], "confidence_sigmas=2"),
        (["robustness", "DigitsMLP", "--oracle", "10000000000000"], "give at least 6, at most 10,000"),
        (["compare", "DigitsMLP", "--rates", ""], "rates '': give LOW:HIGH:COUNT"),
        (["train-ppo"], "give the TASK to learn on, or --family NAME"),
        (["train-ppo", "DigitsMLP", "--family", "MLPFamily"], "task does not apply to a task family"),
        (["train-ppo", "--family", "MLPFamily", "--start-rates", "0.1"], "--start-rates does not apply"),
        (["range-test", "DigitsMLP", "--rates", ""], "rates '': give LOW:HIGH"),
        (["compare", "DigitsMLP", "--name", ""], "name '': use letters, digits"),
        (["start-rates", "DigitsMLP", "--name", ""], "name '': use letters, digits"),
        (["train-ppo", "DigitsMLP", "--name", ""], "name '': use letters, digits"),
        (["start-rates", "DigitsMLP", "--planner", "latent-ode"], "'latent-ode' has no rate that it starts from"),
        (
            ["data-scaling", "DigitsMLP", "--planner", "latent-ode"],
            "'latent-ode' has no peak rate that could be swept",
        ),
        (["compare", "DigitsMLP", "--planners", "leap", "--set", "leap.base=latent-ode"], "base must have a peak rate"),
        (["fit", "DigitsMLP", "--records", "a" * 300], "File name too long"),
        (["compare", "DigitsMLP", "--device", "cuda:99"], "there is no device"),
        (["compare", "DigitsMLP", "--device", "abacus"], "unknown device"),
        (["compare", "DigitsMLP", "--backend", "vmap"], "unknown backend"),
        (["compare", "DigitsMLP", "--threads", "0"], "threads 0"),
        (["compare", "DigitsMLP", "--name", "../up"], "begin with a letter or digit"),
        (["compare", "DigitsMLP", "--store", "/dev/null/records.sqlite"], "cannot make the folder"),
        (["compare", "DigitsMLP", "--results", "/proc/results"], "cannot write into '/proc/results/DigitsMLP'"),
        (["compare", "DigitsMLP", "--store", "text.sqlite"], "is damaged or not a record store"),
        (["compare", "DigitsMLP", "--store", "newer.sqlite"], "update lr_env"),
        (["compare", "DigitsMLP", "--store", "foreign.sqlite"], "not a record store"),
        (["compare", "DigitsMLP", "--store", "alike.sqlite"], "cannot be used (no such column"),
        (["sweep", "FashionMLP"], "cannot read the data folder"),
        (["compare", "DigitsMLP", "--seed", "3"], "did you mean --seeds?"),
        (["compare", "DigitsMLP", "--budget", "ten"], "Error parsing --budget"),
        (["preview", "cosine", "--decisions", "5"], "--decisions is called --segments now"),
        (["compare"], "TASK"),
        (["train", "DigitsMLP"], "Available subcommands: across, compare, cumulative-rate"),
        ([], "Expected one of {across, compare, cumulative-rate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
@pytest.mark.usefixtures("global_generators_kept")  # rich draws the ids of its styles
def test_bad_input_is_one_line_that_names_the_fix(tmp_path, monkeypatch, capsys, arguments, says):
    (tmp_path / "text.sqlite").write_text("no database, but long enough for a header\n" * 100)
    newer = sqlite3.connect(tmp_path / "newer.sqlite")
    newer.execute("CREATE TABLE runs (id)")
    newer.execute("PRAGMA user_version = 99")
    foreign = sqlite3.connect(tmp_path / "foreign.sqlite")
    foreign.execute("CREATE TABLE shopping (item)")
    alike = sqlite3.connect(tmp_path / "alike.sqlite")
    for table in ("experiments", "runs", "segments"):
        alike.execute(f"CREATE TABLE {table} (item)")
    alike.execute("PRAGMA user_version = 1")
    for store in (newer, foreign, alike):
        store.commit()
        store.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LR_ENV_DATA", str(tmp_path / "text.sqlite"))
    forget()  # what other tests have read
    monkeypatch.setattr(sys, "argv", ["lr-env", *arguments])
    with pytest.raises(SystemExit) as end:  # in this process, because starting one costs seconds
        main()
    out, err = capsys.readouterr()
    assert end.value.code == 2, out + err
    assert says in err
    assert len(err.splitlines()) == 1
    assert not out


def test_bad_input_of_a_process(tmp_path):
    done = lr_env("compare", "DigitMLP", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lr-env: unknown task 'DigitMLP'; did you mean 'DigitsMLP'?")
    assert len(done.stderr.splitlines()) == 1


def test_the_same_name_for_another_comparison_is_refused_and_nothing_is_lost(tmp_path):
    assert lr_env(*SMALL, cwd=tmp_path).returncode == 0
    other = lr_env(*SMALL, "--seeds", "4", cwd=tmp_path)
    assert other.returncode == 2
    assert "was begun with seeds [0, 1, 2], not [0, 1, 2, 3]" in other.stderr
    assert "--fresh" in other.stderr
    assert "was begun without flatness" in lr_env(*SMALL, "--flatness", cwd=tmp_path).stderr
    assert lr_env(*SMALL, cwd=tmp_path).returncode == 0
    assert lr_env(*SMALL, "--seeds", "4", "--fresh", cwd=tmp_path).returncode == 0


def test_a_full_disk_is_said_plainly_and_the_rest_can_be_gone_on_with(tmp_path):
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    full = lr_env(*SMALL, cwd=tmp_path, preexec_fn=small_disk)
    assert full.returncode == 2, full.stdout + full.stderr
    assert len(full.stderr.splitlines()) == 1, full.stderr
    assert "disk" in full.stderr or "space" in full.stderr
    assert lr_env(*SMALL, cwd=tmp_path).returncode == 0


def test_stopped_by_hand_it_says_how_to_go_on(tmp_path):
    arguments = [*SMALL]
    arguments[arguments.index("40")] = "20000"
    process = running(*arguments, cwd=tmp_path)
    while not _busy(tmp_path / "results" / "records.sqlite"):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "stopped; the same command continues from here\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "DigitsMLP"], "stopped; the same command continues from here"),
        (["data-scaling", "DigitsMLP", "--fresh"], "stopped; the same command, without --fresh, continues from here"),
        (["train-ppo", "DigitsMLP"], "stopped; the same command continues from here"),
        (["start-rates", "DigitsMLP"], "stopped; the same command continues from here"),
        (["range-test", "DigitsMLP"], "stopped; nothing of it is saved"),
        (["across", "one", "other"], "stopped; nothing of it is saved"),
        (["preview", "cosine"], "stopped; nothing of it is saved"),
        (["import", "logs", "--name", "mine"], "stopped; nothing of it is saved"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_only_what_goes_on_is_said_to(monkeypatch, capsys, arguments, says):
    def stop(self):
        raise KeyboardInterrupt

    for kind in (*commands().values(), StudyCommand):
        monkeypatch.setattr(kind, "run", stop)
    monkeypatch.setattr(sys, "argv", ["lr-env", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err == f"{says}\n"


def test_a_small_command_loads_no_statistics_and_no_figures():
    code = "import sys; from lr_env.cli.main import main; sys.argv = ['lr-env', 'tasks']; main(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not {"scipy", "matplotlib", "pyarrow", "sklearn", "optuna", "torchdiffeq"} & loaded
