"""Devices: find one by its name, and check that this process can use it."""

from __future__ import annotations

import torch

from lr_env.errors import UserError


def find_device(name: str) -> torch.device:
    """Return the torch device of that name; "auto" is CUDA if it is available, else the CPU.

    Raises:
        UserError: torch does not know the name, or this machine does not have the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}: use cpu, cuda, cuda:1, ... or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: use cpu or cuda")
    check_process(device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device {name!r} on this machine: use cpu")
    return device


def check_process(device: torch.device) -> None:
    """Check that this process can use a device.

    Raises:
        UserError: the process was forked from one that has used CUDA.
    """
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise UserError(
            f"device '{device}' cannot be used in a forked process once its parent has used CUDA: start processes by "
            "'spawn', e.g. multiprocessing.get_context('spawn')"
        )
