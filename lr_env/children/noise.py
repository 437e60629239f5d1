"""Random numbers for dropout masks, crops and flips, as a function of (child's seed, step, place).

A counter-based generator (Salmon et al., SC 2011) has no state: every number is a hash of where it is used. So a
child's noise does not depend on its position or its neighbours, nothing has to be saved or restored, both engines see
the same masks, and a CUDA graph can be replayed with other keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.errors import UserError

KEY_BUFFER = "noise_key"
_STREAM = np.uint64(0x4E01)  # tells keys from other uses of the same seed
_GOLDEN = 0x9E3779B9
_BITS = 24


def keys(seeds: NDArray[np.int64], steps: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    """The keys of the next steps of every child.

    Args:
        seeds: the children's seeds, (children,).
        steps: steps done by each, (children,).
        count: number of steps.

    Returns:
        (children, count, 2), two words of 32 bits each: splitmix64 (Steele et al., OOPSLA 2014) of seed and step.
    """
    number = steps[:, None].astype(np.uint64) + np.arange(count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = _splitmix(_splitmix(seeds.astype(np.uint64) ^ (_STREAM << np.uint64(40)))[:, None] + number)
    return mixed[..., None].view(np.int32)


def bits(key: Tensor, count: int, place: int) -> Tensor:
    """Uniform integers in [0, 2**24).

    Args:
        key: (..., 2) int32.
        count: numbers for each key.
        place: tells apart the uses of one key, e.g. the number of the layer.

    Returns:
        (..., count) int32.
    """
    counter = torch.arange(count, dtype=torch.int32, device=key.device) * _signed(_GOLDEN)
    mixed = _lowbias32((counter + _signed(0x85EBCA6B * (place + 1))) ^ key[..., :1])
    return _lowbias32(mixed ^ key[..., 1:]) & (2**_BITS - 1)


class SeededDropout(nn.Module):
    """`nn.Dropout` with masks that follow from the child's key.

    Args:
        p: fraction of the values that are zeroed in training; the others are divided by 1 - p.
        place: number of the layer.
        key: (2,) int32, the buffer that all layers of a network share and the engine writes before each step.
    """

    def __init__(self, p: float, place: int, key: Tensor) -> None:
        super().__init__()
        self.p = p
        self.place = place
        self.register_buffer(KEY_BUFFER, key)

    def forward(self, x: Tensor) -> Tensor:
        """Drop in training, pass on in evaluation."""
        if not self.training or self.p == 0:
            return x
        key: Any = self.noise_key
        drawn = bits(key, x.numel(), self.place).view(x.shape)
        keep = (drawn >= round(self.p * 2**_BITS)).to(x.dtype)
        return x * (keep * (1 / (1 - self.p) if self.p < 1 else 0.0))

    def extra_repr(self) -> str:
        """The settings, in torch's form."""
        return f"p={self.p}"


_ELEMENTWISE = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def seed_dropout(module: nn.Module) -> nn.Module:
    """Replace every `nn.Dropout` by one that draws from the child's key, in place.

    Raises:
        UserError: another kind of dropout layer.
    """
    key = torch.zeros(2, dtype=torch.int32)
    # Not named_children(), which passes over a module's second name.
    places = [(parent, *item) for parent in module.modules() for item in parent._modules.items() if item[1] is not None]
    replaced: dict[nn.Module, SeededDropout] = {}
    for parent, name, child in places:
        if type(child) is nn.Dropout:
            if child not in replaced:
                replaced[child] = SeededDropout(child.p, len(replaced), key)
            setattr(parent, name, replaced[child])
        elif isinstance(child, _ELEMENTWISE):
            raise UserError(f"the network has a {type(child).__name__}, which is not supported: use nn.Dropout")
    return module


def _signed(word: int) -> int:
    """The int32 with the bits of a word of 32 bits."""
    return (word & 0xFFFFFFFF) - ((word & 0x80000000) << 1)


def _lowbias32(x: Tensor) -> Tensor:
    """A hash of 32 bits (C. Wellons, "Prospecting for Hash Functions", 2018); int32 products wrap around."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * _signed(0x7FEB352D)
    x = (x ^ ((x >> 15) & 0x1FFFF)) * _signed(0x846CA68B)
    return x ^ ((x >> 16) & 0xFFFF)


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
