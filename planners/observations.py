"""What a training loop observes between two plans, kept without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, SupportsFloat

import torch
import torch.distributed as dist

from lr_env.entry_points import declared
from lr_env.errors import UserError
from lr_env.signals import SIGNALS

MEANS = frozenset(signal.name for signal in SIGNALS if signal.when == "step")
"""Signals of every run of which the mean over the steps counts; so it does for all that meters measure."""

_MOST_TENSORS = 256
"""Values of one signal that stay on their device; more are fetched, so that long segments do not fill its memory."""


@dataclass(frozen=True)
class Observed:
    """The values of a signal that were observed since the last plan, summed up.

    Attributes:
        total: sum of the finite values; of a signal of which the last value counts, that value, of each process.
        count: number of values in the sum; 0 where all that was observed was not finite.
        step: optimizer steps done when the last of them was observed.
    """

    total: float
    count: int
    step: int

    @property
    def value(self) -> float:
        """Their mean; NaN where none was finite."""
        return self.total / self.count if self.count else math.nan

    def plus(self, other: Observed) -> Observed:
        """Return both together."""
        return Observed(self.total + other.total, self.count + other.count, max(self.step, other.step))


class Observations:
    """Values of signals, by name, as a training loop observes them.

    Args:
        needed: names of the signals whose values matter; of others only the name is noted.
    """

    def __init__(self, needed: Collection[str]) -> None:
        self._needed = needed
        self._values: dict[str, list[Any]] = {}
        self._gathered: dict[str, Observed] = {}  # of all processes, and the same in all
        self._steps: dict[str, int] = {}
        self._means: dict[str, bool] = {}

    def add(self, name: str, value: SupportsFloat | torch.Tensor, step: int) -> None:
        """Take note of a value, a number or a tensor of one element, which is not waited for.

        Raises:
            UserError: it is no number, or has several elements.
        """
        if name not in self._needed:
            self._steps[name] = step
            return
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise UserError(f"signal {name!r} has shape {tuple(value.shape)}: observe one number, e.g. its mean")
            full_tensor = getattr(value, "full_tensor", None)  # of a DTensor, of which a process may hold a part
            whole: torch.Tensor = value if full_tensor is None else full_tensor()
            # On a device the value is not ready yet, and the caller may add to it in place.
            number = float(whole.item()) if whole.device.type == "cpu" else whole.detach().clone().reshape(())
        else:
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise UserError(f"signal {name!r} is {value!r}: observe a number or a tensor of one element") from None
        values = self._values.setdefault(name, [])
        if not self._is_mean(name):
            values.clear()
        values.append(number)
        self._steps[name] = step
        if len(values) % _MOST_TENSORS == 0:
            values[:] = _floats(values)

    @property
    def names(self) -> frozenset[str]:
        """Names of all signals that were ever observed."""
        return frozenset(self._steps)

    def step(self, name: str) -> int | None:
        """Optimizer steps done when a signal was last observed; None if it never was."""
        return self._steps.get(name)

    def gather(self, group: Any) -> None:
        """Share with all processes what each observed since the last call; all of them have to call it."""
        parts: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(parts, (self._summed(), self._steps), group)
        self._add_to_gathered(self._merged([summed for summed, _ in parts]))
        for _, steps in parts:
            for name, step in steps.items():
                self._steps[name] = max(step, self._steps.get(name, step))

    def take(self) -> dict[str, Observed]:
        """Sum up what was observed since the last call, and start anew."""
        self._add_to_gathered(self._summed())
        taken, self._gathered = self._gathered, {}
        return taken

    def state_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "values": {name: _floats(values) for name, values in self._values.items()},
            "gathered": {name: astuple(it) for name, it in self._gathered.items()},
            "steps": dict(self._steps),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._values = {name: list(values) for name, values in saved["values"].items()}
        self._gathered = {name: Observed(*it) for name, it in saved.get("gathered", {}).items()}  # not in older files
        self._steps = dict(saved["steps"])

    def _is_mean(self, name: str) -> bool:
        """Whether the mean of a signal's values counts, and not the last one."""
        if name not in self._means:
            self._means[name] = name in MEANS or name in declared("lr_env.meters")
        return self._means[name]

    def _summed(self) -> dict[str, Observed]:
        """What this process observed and has not shared yet, which is cleared."""
        summed = {}
        for name, values in self._values.items():
            finite = [value for value in _floats(values) if math.isfinite(value)]
            if values:
                summed[name] = Observed(math.fsum(finite), len(finite), self._steps[name])
        self._values.clear()
        return summed

    def _merged(self, parts: Sequence[Mapping[str, Observed]]) -> dict[str, Observed]:
        """Put together what several processes observed: the mean of all values, or of those at the last step."""
        together: dict[str, Observed] = {}
        for part in parts:
            for name, new in part.items():
                old = together.get(name)
                if old is None or (new.step > old.step and not self._is_mean(name)):
                    together[name] = new
                elif new.step == old.step or self._is_mean(name):
                    together[name] = old.plus(new)
        return together

    def _add_to_gathered(self, later: Mapping[str, Observed]) -> None:
        for name, new in later.items():
            old = self._gathered.get(name)
            self._gathered[name] = old.plus(new) if old is not None and self._is_mean(name) else new


def _floats(values: Sequence[Any]) -> list[float]:
    """Fetch values; tensors of one type come together, so that their device is waited for once."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if len({(tensor.device, tensor.dtype) for tensor in tensors}) == 1:
        fetched = iter(torch.stack(tensors).tolist())
    else:
        fetched = (tensor.item() for tensor in tensors)
    return [float(next(fetched)) if isinstance(value, torch.Tensor) else value for value in values]
