"""Peers, which lr_env is measured against: each has a process and, where it needs one, a virtual environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lr_env.files import atomic_write

_ANSWER_SECONDS = 900.0


class PeerError(Exception):
    """A peer cannot be measured; one line that says why."""


@dataclass(frozen=True)
class Peer:
    """Something that lr_env is measured against.

    Attributes:
        name: what messages call it.
        script: the file, beside this one, whose class `Side` answers requests; see `serve.py`.
        requirements: what pip installs, without dependencies, into a virtual environment of its own. Without any the
            script runs in the environment that lr_env runs in.
    """

    name: str
    script: str
    requirements: tuple[str, ...] = ()

    def interpreter(self, folder: Path, install: bool) -> Path:
        """The Python that runs the script.

        The virtual environment holds the requirements, and reads everything else, such as torch and numpy, from the
        packages that lr_env runs on: both sides compute with the same torch, and nothing is downloaded twice.

        Args:
            folder: of the virtual environments of all peers.
            install: whether to make this peer's where it is missing or of another making.

        Raises:
            PeerError: it is not there, or cannot be made: most often, there is no network.
        """
        if not self.requirements:
            return Path(sys.executable)
        folder /= Path(self.script).stem.removesuffix("_side")
        python = folder.absolute() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        marker = folder / ".installed"
        shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        contents = json.dumps([sys.version, self.requirements, shared])
        if marker.is_file() and marker.read_text(encoding="utf-8") == contents:
            return python
        if not install:
            raise PeerError(f"it is not installed in {str(folder)!r}, and --quick installs nothing")
        if folder.exists() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
            raise PeerError(f"{str(folder)!r} is not a virtual environment, so it is left alone: give another --peers")
        print(f"installing {self.name} into {folder} ...", file=sys.stderr)
        try:
            venv.create(folder, clear=True, symlinks=os.name != "nt", with_pip=True)
            # Without dependencies: those of torchvision would bring another torch, and those of DACBench Jupyter.
            packages = ["--no-deps", "--quiet", "--disable-pip-version-check", *self.requirements]
            _run([str(python), "-m", "pip", "install", *packages])
            where = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip()
            (Path(where) / "lr_env_shares.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
            with atomic_write(marker) as path:
                path.write_text(contents, encoding="utf-8")
        except OSError as error:
            raise PeerError(f"cannot make the virtual environment {str(folder)!r} ({error})") from error
        except subprocess.SubprocessError as error:
            output = getattr(error, "stderr", None) or str(error)
            raise PeerError(f"cannot install {self.name}: {_last_line(output)}") from error
        return python

    def start(
        self, python: Path, *, threads: int = 1, cores: Sequence[int] = (), settings: Mapping[str, str] | None = None
    ) -> PeerProcess:
        """Start its process.

        Args:
            python: from `interpreter`.
            threads: how many threads OpenMP and MKL take.
            cores: the cores that it is bound to; all by default.
            settings: further environment variables.
        """
        here = Path(__file__).parent
        command = [python, "-P", "-W", "ignore", here / "serve.py", here / self.script, *cores]
        threads_of = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        return PeerProcess(self.name, list(map(str, command)), {**threads_of, **(settings or {})})


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"


def parse(name: str, line: str) -> dict[str, Any]:
    """The answer of the peer of that name.

    Raises:
        PeerError: it is not an answer, or tells of an error.
    """
    try:
        answer = json.loads(line)
    except json.JSONDecodeError:
        raise PeerError(f"the process of {name} wrote {line.strip()[:200]!r}, which is no answer") from None
    if not isinstance(answer, dict):
        raise PeerError(f"the process of {name} answered {line.strip()[:200]!r}, which is no answer")
    if "error" in answer:
        raise PeerError(f"{name} failed: {' '.join(str(answer['error']).split())}")
    return answer


class PeerProcess:
    """A process that answers requests, one after the other; idle in between, so that it does not disturb our turns.

    Args:
        name: of the peer, for messages.
        command: how it is started.
        settings: environment variables, besides those of this process.

    Raises:
        PeerError: it ended, or did not answer in time.
    """

    def __init__(self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (__exit__ closes)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(settings or {})},
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
            raise PeerError(f"the process of {self.name} ended: {_last_line(self._errors.read())}")
        return parse(self.name, line)

    def __enter__(self) -> PeerProcess:
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
