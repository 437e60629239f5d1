"""DACBench in a virtual environment and a process of its own, asked in lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from lr_env.files import atomic_write

DACBENCH = "0.5.6"

REQUIREMENTS = (
    f"dacbench=={DACBENCH}",
    "ConfigSpace==1.2.2",
    "ioh==0.3.22",
    "more-itertools==11.2.1",
    "pandas==3.1.1",
    "seaborn==0.13.2",
)
"""What DACBench needs at import and lr_env does not have; torchvision is added, as it must fit torch."""

_ANSWER_SECONDS = 900.0


class PeerError(Exception):
    """DACBench cannot be measured; one line that says why."""


def interpreter(folder: Path, install: bool) -> Path:
    """The Python of the peers' virtual environment.

    The environment holds DACBench and what it needs besides, and reads everything else, torch above all, from the
    packages that lr_env runs on: both sides compute with the same torch, and nothing is downloaded twice.

    Args:
        folder: of the virtual environment.
        install: whether to make it where it is missing or of another making.

    Raises:
        PeerError: it is not there, or cannot be made: most often, there is no network.
    """
    python = folder.absolute() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    marker = folder / ".installed"
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    contents = json.dumps([sys.version, [*REQUIREMENTS, _torchvision()], shared])
    if marker.is_file() and marker.read_text(encoding="utf-8") == contents:
        return python
    if not install:
        raise PeerError(f"it is not installed in {str(folder)!r}, and --quick installs nothing")
    if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise PeerError(f"{str(folder)!r} is not a virtual environment, so it is left alone: give another --peers")
    print(f"installing DACBench {DACBENCH} into {folder} ...", file=sys.stderr)
    try:
        venv.create(folder, clear=True, symlinks=os.name != "nt", with_pip=True)
        # Without dependencies: those of torchvision would bring another torch, and those of DACBench Jupyter.
        packages = ["--no-deps", "--quiet", "--disable-pip-version-check", *REQUIREMENTS, _torchvision()]
        _run([str(python), "-m", "pip", "install", *packages])
        where = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip()
        (Path(where) / "lr_env_shares.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
        with atomic_write(marker) as path:
            path.write_text(contents, encoding="utf-8")
    except OSError as error:
        raise PeerError(f"cannot make the virtual environment {str(folder)!r} ({error})") from error
    except subprocess.SubprocessError as error:
        output = getattr(error, "stderr", None) or str(error)
        raise PeerError(f"cannot install DACBench {DACBENCH}: {_last_line(output)}") from error
    return python


def _torchvision() -> str:
    """The release that goes with this torch: 0.15 came with 2.0, and both have counted up together since."""
    minor = int(torch.__version__.split(".")[1])
    return f"torchvision==0.{minor + 15}.*"


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"


def parse(line: str) -> dict[str, Any]:
    """The peer's answer.

    Raises:
        PeerError: it is not an answer, or tells of an error.
    """
    try:
        answer = json.loads(line)
    except json.JSONDecodeError:
        raise PeerError(f"DACBench's process wrote {line.strip()[:200]!r}, which is no answer") from None
    if not isinstance(answer, dict):
        raise PeerError(f"DACBench's process answered {line.strip()[:200]!r}, which is no answer")
    if "error" in answer:
        raise PeerError(f"DACBench failed: {answer['error']}")
    return answer


class Peer:
    """A process that answers requests, one after the other; idle in between, so that it does not disturb our turns.

    Args:
        command: how it is started.

    Raises:
        PeerError: it ended, or did not answer in time.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (__exit__ closes)
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=settings
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        limit = threading.Timer(_ANSWER_SECONDS, self._process.kill)
        limit.start()
        try:
            stdin.write(json.dumps({"do": do, **request}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            limit.cancel()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise PeerError(f"DACBench's process ended: {_last_line(self._errors.read())}")
        return parse(line)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
