"""The command as its users have it: under their terminals, settings of matplotlib, names of files, and Ctrl-C."""

# ruff: noqa: RUF001

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from lr_env import stopping, terminal
from lr_env.cli import main
from lr_env.cli.parsing import progress_bar
from lr_env.errors import UserError
from lr_env.files import in_home
from lr_env.report.files import NotDrawn, draw_into
from lr_env.tasks.downloads import cache_folder
from tests.test_cli import command, lr_env, running

PREVIEW = ("preview", "cosine", "wsd")

RC = "text.usetex: True\nfont.family: NoSuchFont\nbackend: garbage\nfigure.dpi: 7\nsavefig.transparent: True\n"


def in_environment(folder, arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "HOME")}
    return lr_env(*arguments, cwd=folder, env={**environment, **variables})


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The figure where nothing is set."""
    folder = tmp_path_factory.mktemp("usual")
    assert in_environment(folder, PREVIEW).returncode == 0
    return (folder / "preview.png").read_bytes()


@pytest.mark.parametrize(
    ("rc", "variables"),
    [
        (RC.encode(), {}),
        (RC.encode() + b"\xff\xfe: 3\n", {"MPLBACKEND": "garbage"}),  # cannot be read, so that matplotlib is no import
        (b"", {"MPLCONFIGDIR": "/proc/nothing", "HOME": "/nonexistent"}),
    ],
    ids=["settings", "nothing imports", "nowhere to write"],
)
def test_figures_are_the_same_whatever_matplotlib_is_set_to(tmp_path, usual, rc, variables):
    (tmp_path / "matplotlibrc").write_bytes(rc)
    done = in_environment(tmp_path, PREVIEW, **variables)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "preview.png").read_bytes() == usual


def test_a_matplotlib_that_is_broken_costs_the_figure_and_no_traceback(tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('no library')\n")
    done = in_environment(tmp_path, PREVIEW, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert done.returncode == 1
    assert done.stderr == (
        "lr-env: 'preview.png' was not drawn (matplotlib cannot be imported (no library): install it anew)\n"
    )


def test_the_settings_of_the_caller_stay_as_they_were(tmp_path):
    import matplotlib

    from lr_env.studies.comparison.figures import draw_curves
    from tests.test_report import final

    with matplotlib.rc_context({"text.usetex": True, "lines.linewidth": 9.0}):
        draw_curves(final(), tmp_path / "curves.png", "costs $5 and 100 %, x_1")
        assert matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["lines.linewidth"] == 9.0


def test_figures_that_could_not_be_drawn_are_told_at_the_end(tmp_path, monkeypatch, capsys):
    from lr_env.cli.catalogue import Tasks

    def run(self):
        draw_into(tmp_path / "a.png", lambda path: 1 / 0)
        warnings.warn("something else", RuntimeWarning, stacklevel=1)
        print("the table")

    monkeypatch.setattr(Tasks, "run", run)
    monkeypatch.setattr(sys, "argv", ["lr-env", "tasks"])
    with pytest.warns(RuntimeWarning, match="something else"), pytest.raises(SystemExit) as end:
        main.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (1, "the table\n")
    assert err == f"lr-env: '{tmp_path / 'a.png'}' was not drawn (ZeroDivisionError: division by zero)\n"
    assert not list(tmp_path.iterdir())
    with pytest.warns(NotDrawn):  # to those who call it, it is a warning
        assert not draw_into(tmp_path / "a.png", lambda path: 1 / 0)


@pytest.mark.parametrize(
    ("columns", "wide"), [("0", 80), ("-3", 80), ("garbage", 80), ("", 80), ("1", 20), ("40", 40), ("9" * 30, 1000)]
)
def test_widths(monkeypatch, columns, wide):
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal.width(io.StringIO()) == wide
    assert terminal.console().width == wide


def test_what_cannot_be_shown_is_replaced():
    assert terminal.shown("a ±0.5 × café → 北 \udcff", "ascii") == "a +-0.5 x cafe -> ? \\xff"
    assert terminal.shown("a ±0.5 × café", "latin-1") == "a ±0.5 × café"
    assert terminal.shown("✓ \udcff", "utf-8") == "✓ \\xff"


def test_help_in_ascii_and_closed_streams(tmp_path):
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "COLUMNS": "1"}
    done = in_environment(tmp_path, ("planners", "wsd-sqrt"), **ascii_only)  # Hägele et al.
    assert (done.returncode, done.stderr) == (0, "")
    assert "Hagele" in done.stdout
    assert in_environment(tmp_path, ("preview", "--help"), **ascii_only).returncode == 0
    closed = in_shell(tmp_path, ">&- 2>&- <&-", *PREVIEW)
    assert (closed.returncode, closed.stderr) == (0, "")
    assert (tmp_path / "preview.png").read_bytes().startswith(b"\x89PNG")
    full = in_shell(tmp_path, ">/dev/full", "tasks")
    assert full.returncode == 2
    assert full.stderr.startswith("lr-env: cannot read or write")
    assert full.stderr.endswith(": No space left on device; make room on the disk\n")
    gone = in_shell(tmp_path, "2>&1 | head -1", "planners")
    assert gone.stdout.count("\n") == 1
    assert not gone.stderr


def in_shell(folder, redirected, *arguments):
    shell = f"{shlex.join(command(*arguments))} {redirected}"
    return subprocess.run(shell, shell=True, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_a_folder_whose_name_is_no_text(tmp_path):
    from lr_env.studies.comparison.report import ComparisonReport
    from tests.test_report import FILES, final, summary_of

    folder = tmp_path / os.fsdecode(b"res\xffults")
    made = {"title": "toy", "command": f"lr-env {folder}"}
    ComparisonReport(summary_of(final()), final(), [], made).write(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    assert "res\\udcffults" in (folder / "summary.md").read_text(encoding="utf-8")


def handles_sigterm(process: int) -> bool:
    """Whether a process has a handler for SIGTERM; true where the system does not tell."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return True
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize(
    ("first", "number", "code"), [(0.0, signal.SIGINT, 130), (0.3, signal.SIGTERM, 143), (None, signal.SIGINT, 130)]
)
def test_stopped_at_any_time_and_twice(tmp_path, first, number, code):
    """While it imports, and while it runs; the second signal comes while it ends."""
    arguments = ["sweep", "DigitsMLP", "--planners", "constant", "--budget", "1000000", "--store", "r.sqlite"]
    process = running(*arguments, cwd=tmp_path)
    while not handles_sigterm(process.pid):  # Python's own start, before any of our code
        assert process.poll() is None
        time.sleep(0.002)
    while first is None and not (tmp_path / "r.sqlite").exists():
        time.sleep(0.02)
    time.sleep(0.5 if first is None else first)
    for _ in range(3):
        if process.poll() is None:
            process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err in ("stopped\n", "stopped; the same command continues from here\n")


def test_signals_do_what_they_did_once_a_command_is_over(monkeypatch):
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    monkeypatch.setattr(sys, "argv", ["lr-env", "tasks"])
    main.main()
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_a_signal_that_something_took_for_its_own_error_is_not_forgotten(monkeypatch):
    monkeypatch.setattr(stopping.STOPPING, "number", signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), progress_bar(10) as progress:
        progress("tuning", 1)


def test_errors_of_the_system_are_told_as_they_are():
    of = main._system_message
    missing = OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /nope")
    assert of(missing) == str(missing)
    assert of(FileNotFoundError(2, "No such file or directory", "x")) == (
        "cannot read or write 'x': No such file or directory"
    )
    assert of(OSError(28, "No space left on device", "x")).endswith("; make room on the disk")


def test_homes_that_there_are_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lr-env", "sweep", "DigitsMLP", "--store", "~nosuch/records.sqlite"])
    with pytest.raises(SystemExit):
        main.main()
    assert capsys.readouterr().err == (
        "lr-env: --store is '~nosuch/records.sqlite', and there is no such home: give a path without ~\n"
    )
    with pytest.raises(UserError, match="no path has a null byte"):
        in_home("a\0b", "--results")
    monkeypatch.setenv("LR_ENV_CACHE", "~nosuch")
    with pytest.raises(UserError, match="LR_ENV_CACHE is '~nosuch', and there is no such home"):
        cache_folder()
