"""Provenance of results: the code, the device and the versions of packages that made them."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lr_env.version import __version__

CHANGED = "+changes"
"""Suffix of a commit if files have changed since."""


def provenance(device: str) -> dict[str, Any]:
    """Return the provenance of a run: commit of the code, name of the device, and number of CPU threads."""
    import torch

    return {"commit": code_version(), "device": device_name(device), "threads": torch.get_num_threads()}


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the commit of the code, with `CHANGED` if files have changed; without git, the package's version."""
    return commit(CHANGED) or __version__


def commit(changed: str) -> str:
    """Return the commit of this checkout, followed by `changed` if its Python files have changed since.

    It is empty for an installed package, also if the package lies within another repository.
    """
    try:
        if not _git("ls-files", Path(__file__).name):
            return ""
        head, status = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--", ":/*.py")
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return head + (changed if status else "") if head else ""


def _git(*command: str) -> str:
    """Run git in the folder of this file and return its output; empty if it fails."""
    git = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(Path(__file__).parent)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # set by hooks
    done = subprocess.run([*git, *command], env=environment, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def device_name(device: str) -> str:
    """Return the name of the GPU or the processor."""
    import torch

    from lr_env.devices import find_device

    torch_device = find_device(device)
    if torch_device.type == "cuda":
        return torch.cuda.get_device_name(torch_device)
    with suppress(OSError, ValueError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"CPU: {line.partition(':')[2].strip()}"
    return f"CPU: {platform.processor() or platform.machine()}"


def versions(also: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on.

    Args:
        also: further packages; those that are not installed are left out.
    """
    import numpy as np
    import torch

    numbers = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "lr_env": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": version("scikit-learn"),  # for AutoLRS's Gaussian process
        "scipy": version("scipy"),
        "torchdiffeq": version("torchdiffeq"),  # for the published latent ODE
    }
    for package in ("optuna", *also):  # the first comes with lr_env[tuners]
        with suppress(PackageNotFoundError):
            numbers[package] = version(package)
    return numbers


@lru_cache(maxsize=1)
def software() -> dict[str, str]:
    """Return what must be the same on all machines that train runs of one experiment: name -> version.

    The version of lr_env has a hash of its code, as a checkout may have been changed.
    """
    import numpy as np
    import torch

    code = hashlib.sha256()
    for package in sorted({entry.module.partition(".")[0] for entry in distribution("lr_env").entry_points}):
        spec = find_spec(package)
        (folder,) = map(Path, (spec.submodule_search_locations or ()) if spec else ())
        for file in sorted(folder.rglob("*.py")):
            code.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return {
        "Python": platform.python_version(),
        "lr_env": f"{__version__} (code {code.hexdigest()[:8]})",
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def command_line() -> str:
    """Return the command as the user typed it, for a report."""
    return shlex.join(["lr-env", *sys.argv[1:]])
