"""By what code, on what device and with which packages numbers were made."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lr_env.children.children import find_device

CHANGED = "+changes"
"""What follows a commit of which files have been changed since."""


def provenance(device: str) -> dict[str, Any]:
    """Where a run is made: commit of the code, name of the device, and threads of the CPU."""
    return {"commit": code_version(), "device": device_name(device), "threads": torch.get_num_threads()}


@lru_cache(maxsize=1)
def code_version() -> str:
    """The commit of the code, with `CHANGED` where it has been changed since; the package's version without git."""
    import lr_env

    return commit(Path(lr_env.__file__).parent, CHANGED) or lr_env.__version__


def commit(folder: Path, changed: str) -> str:
    """The commit of a checkout, followed by a text where its files have been changed; "" where git knows of none."""
    git = ["git", "-c", "safe.directory=*", "-C", str(folder)]
    try:
        # A folder that merely lies within somebody's repository, such as a virtual environment, has no files of it.
        if not _told([*git, "ls-files", "."]):
            return ""
        head, status = _told([*git, "rev-parse", "--short=12", "HEAD"]), _told([*git, "status", "--porcelain", "."])
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return head + (changed if status else "") if head else ""


def _told(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def device_name(device: str) -> str:
    """What the device is called."""
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
    import lr_env

    found = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "lr_env": lr_env.__version__,
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
