"""How numbers are computed: precision and determinism, chosen for children and never left set for others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch

from lr_env.errors import UserError, unknown

PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Numerics:
    """Precision of the arithmetic, and whether it must be the same every time.

    Attributes:
        precision: "float32": as the parameters are. "tf32": matrix products and convolutions of a CUDA device may
            round their inputs to 10 bits of mantissa. "bf16": the forward pass under `torch.autocast`; parameters,
            optimizer and validation stay as they are.
        deterministic: use only algorithms that give the same bits every time. CPUs do so anyway; on CUDA this costs
            speed, and needs the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8.
    """

    precision: str = "float32"
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)

    def check(self, device: torch.device) -> None:
        """See that a device can do it.

        Raises:
            UserError: it cannot.
        """
        if self.precision == "tf32" and device.type != "cuda":
            raise UserError(f"precision 'tf32' is for CUDA devices, not {device}: use float32 or bf16")
        if self.deterministic and device.type == "cuda" and not os.environ.get("CUBLAS_WORKSPACE_CONFIG"):
            raise UserError(
                "deterministic training on CUDA needs the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8, set "
                "before the program starts"
            )

    def autocast(self, device: torch.device) -> Any:
        """A context for forward passes; of the thread that enters it."""
        if self.precision != "bf16":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    @contextmanager
    def active(self, device: torch.device) -> Iterator[None]:
        """Inside, the process-wide settings are these, and the device is the current one; afterwards as before."""
        if device.type != "cuda":
            yield
            return
        products, convolutions = torch.backends.cuda.matmul, cast("Any", torch.backends.cudnn)
        before = (
            products.allow_tf32,
            convolutions.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        try:
            products.allow_tf32 = convolutions.allow_tf32 = self.precision == "tf32"
            torch.use_deterministic_algorithms(self.deterministic)
            with torch.cuda.device(device):
                yield
        finally:
            products.allow_tf32, convolutions.allow_tf32 = before[:2]
            torch.use_deterministic_algorithms(before[2], warn_only=before[3])


EXACT = Numerics()
"""As the parameters are: the default."""
