"""How much memory is in use at most, from some moment on."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start_peak(device: torch.device) -> float:
    """Begin to look for the peak; returns the bytes in use now, of the device or of the process.

    NaN where a process's own peak cannot be asked for anew (anywhere but on Linux).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    if sys.platform != "linux":
        return math.nan
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, where the C library can
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return math.nan
    return _status("VmRSS")


def peak(device: torch.device) -> float:
    """The most bytes in use since `start_peak`; NaN where it said so."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return _status("VmHWM") if sys.platform == "linux" else math.nan


def _status(name: str) -> float:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return 1024.0 * int(line.split()[1])
    return math.nan
