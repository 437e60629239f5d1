"""By what code, on what device and with which packages numbers were made."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lr_env.version import __version__

CHANGED = "+changes"
"""What follows a commit of which files have been changed since."""


def provenance(device: str) -> dict[str, Any]:
    """Where a run is made: commit of the code, name of the device, and threads of the CPU."""
    import torch

    return {"commit": code_version(), "device": device_name(device), "threads": torch.get_num_threads()}


@lru_cache(maxsize=1)
def code_version() -> str:
    """The commit of the code, with `CHANGED` where it has been changed since; the package's version without git."""
    return commit(CHANGED) or __version__


def commit(changed: str) -> str:
    """The commit of the checkout that this code is in, and a text if its Python files have been changed since.

    Empty where git knows of none: an installed package that merely lies within somebody's repository has no commit.
    """
    try:
        if not _told("ls-files", Path(__file__).name):
            return ""
        head, status = _told("rev-parse", "--short=12", "HEAD"), _told("status", "--porcelain", "--", ":/*.py")
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return head + (changed if status else "") if head else ""


def _told(*command: str) -> str:
    """What git answers about the folder of this file; empty if it does not."""
    git = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(Path(__file__).parent)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of a hook, say
    done = subprocess.run([*git, *command], env=own, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def device_name(device: str) -> str:
    """What the device is called."""
    import torch

    from lr_env.devices import find_device

    found = find_device(device)
    if found.type == "cuda":
        return torch.cuda.get_device_name(found)
    with suppress(OSError, ValueError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"CPU: {line.partition(':')[2].strip()}"
    return f"CPU: {platform.processor() or platform.machine()}"


def versions(also: Iterable[str] = ()) -> dict[str, str]:
    """Versions of what results depend on.

    Args:
        also: further packages; those that are not installed are left out.
    """
    import numpy as np
    import torch

    found = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "lr_env": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": version("scikit-learn"),  # of AutoLRS's Gaussian process
        "scipy": version("scipy"),
        "torchdiffeq": version("torchdiffeq"),  # of the published latent ODE
    }
    for package in ("optuna", *also):  # the first comes with lr_env[tuners]
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def command_line() -> str:
    """Return the command as the user typed it, for a report."""
    return shlex.join(["lr-env", *sys.argv[1:]])
