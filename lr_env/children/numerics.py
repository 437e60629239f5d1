"""Precision and determinism of the arithmetic, set while children compute and put back afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from lr_env.errors import UserError, unknown

PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Numerics:
    """Precision of the arithmetic, and whether it must be the same every time.

    Attributes:
        precision: "float32": as the parameters are. "tf32": matrix products and convolutions of a CUDA device may
            round their inputs to 10 bits of mantissa. "bf16": forward passes, those of validation as well, under
            `torch.autocast`; parameters, optimizer and the losses of logits stay as they are.
        deterministic: use only algorithms that give the same bits every time. CPUs do so anyway; on CUDA this costs
            speed, and needs the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8.
        channels_last: whether convolutions compute channels-last. None does so on CPUs, where it is up to 1.5 times as
            fast and was never slower, and not on CUDA devices.
    """

    precision: str = "float32"
    deterministic: bool = False
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)

    def check(self, device: torch.device) -> None:
        """Check that a device can compute so.

        Raises:
            UserError: it cannot.
        """
        if self.precision == "tf32" and device.type != "cuda":
            raise UserError(f"precision 'tf32' is for CUDA devices, not {device}: use float32 or bf16")
        workspaces = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
        if self.deterministic and device.type == "cuda" and workspaces not in (":4096:8", ":16:8"):
            raise UserError(
                "deterministic training on CUDA needs the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8, set "
                "before the program starts"
            )

    def autocast(self, device: torch.device) -> Any:
        """A context for forward passes, which holds for the thread that enters it."""
        return _bf16(device) if self.precision == "bf16" else nullcontext()

    def kernels_last(self, device: torch.device) -> bool:
        """Whether the kernels of convolutions lie channels-last on a device."""
        return device.type == "cpu" if self.channels_last is None else self.channels_last

    @contextmanager
    def active(self, device: torch.device) -> Iterator[None]:
        """A context in which these are the settings of the process, and the device is the current one."""
        if device.type != "cuda":
            yield
            return
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        try:
            torch.use_deterministic_algorithms(self.deterministic)
            with tf32(self.precision == "tf32"), torch.cuda.device(device):
                yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def _bf16(device: torch.device) -> Iterator[None]:
    """`torch.autocast` that forgets its rounded parameters at the end.

    Inside a caller's autocast torch would keep them, and the next steps would use parameters of before.
    """
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
    finally:
        torch.clear_autocast_cache()


class BatchNormForFunctorch(TorchFunctionMode):
    """A context for batch norm under functorch: in at least float32, without cuDNN for channels-last images.

    The batched backward pass needs inputs and gradients of one type, which autocast does not give it; and cuDNN asks
    for the memory layout of channels-last images, which functorch does not know.

    Args:
        cudnn: whether cuDNN may be used.
    """

    def __init__(self, cudnn: bool) -> None:
        super().__init__()
        self._cudnn = cudnn

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        inputs, *others = args
        wide = inputs.float() if inputs.dtype in (torch.bfloat16, torch.float16) else inputs
        with nullcontext() if self._cudnn else torch.backends.cudnn.flags(enabled=False):
            return func(wide, *others, **(kwargs or {})).to(inputs.dtype)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """A context in which matrix products and convolutions of CUDA devices may compute in TF32, or may not.

    torch has an older and a newer set of switches for this. Setting the older ones sets both and keeps them consistent.
    Both are put back, as far as the older ones can be read (they cannot where the newer ones disagree).
    """
    convolutions = cast("Any", torch.backends.cudnn)
    newer = torch.backends.cuda.matmul, convolutions.conv, convolutions.rnn, cast("Any", torch.backends).mkldnn.matmul
    before = [switch.fp32_precision for switch in newer]
    products_before = older = None
    with suppress(RuntimeError):
        products_before = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        older = convolutions.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        convolutions.allow_tf32 = allowed
        yield
    finally:
        if products_before is not None:
            torch.set_float32_matmul_precision(products_before)
        if older is not None:
            convolutions.allow_tf32 = older
        for switch, value in zip(newer, before, strict=True):
            switch.fp32_precision = value


EXACT = Numerics()
"""The default: the precision of the parameters."""
