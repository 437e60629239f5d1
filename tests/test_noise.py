"""Noise that follows from seeds, steps and places: dropout, crops and flips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lr_env.children.noise import SeededDropout, bits, keys
from lr_env.tasks import CropFlip


def lowbias32(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.uint32)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def test_noise_is_the_published_hash_in_unsigned_arithmetic(device):
    key = keys(np.array([5, 2**62]), np.array([0, 3]), 2)
    drawn = bits(torch.from_numpy(key).to(device), 1000, 2).cpu().numpy()
    assert drawn.shape == (2, 2, 1000)
    with np.errstate(over="ignore"):
        counter = np.arange(1000, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(0x85EBCA6B * 3 & 0xFFFFFFFF)
    words = key.view(np.uint32)
    expected = lowbias32(lowbias32(counter ^ words[..., :1]) ^ words[..., 1:]) & np.uint32(2**24 - 1)
    np.testing.assert_array_equal(drawn, expected)


def test_noise_is_uniform_and_independent():
    """Of steps, seeds, places and neighbouring positions: correlations within 5 standard errors of 0."""
    key = torch.from_numpy(keys(np.arange(40), np.zeros(40, dtype=np.int64), 5))
    drawn = torch.stack([bits(key, 500, place) for place in (-1, 0, 1)]).double() / 2**24
    assert torch.histc(drawn, 16).sub(drawn.numel() / 16).abs().max() < 5 * (drawn.numel() / 16) ** 0.5
    centred = (drawn - 0.5) * 12**0.5
    for axis in range(4):  # place, seed, step, position
        near = centred.roll(1, axis)
        assert abs((centred * near).mean().item()) < 5 / drawn.numel() ** 0.5, axis
    low = (drawn * 2**24).long() & 1
    assert abs(low.double().mean().item() - 0.5) < 2.5 / drawn.numel() ** 0.5


def test_dropout_drops_its_share_keeps_the_mean_and_rests_in_evaluation():
    key = torch.tensor([12, -7], dtype=torch.int32)
    layer, other = SeededDropout(0.25, 0, key), SeededDropout(0.25, 1, key)
    x = torch.ones(400, 50, dtype=torch.float64)
    dropped = layer(x)
    assert set(dropped.unique().tolist()) == {0.0, 1 / 0.75}
    assert (dropped == 0).double().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / x.numel()) ** 0.5)
    assert torch.equal(dropped, layer(x))
    assert not torch.equal(dropped, other(x))
    assert torch.equal(layer.eval()(x), x)


def test_crop_and_flip_against_padding_and_slicing(device):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, 7, 9, generator=random).to(device)
    draws = torch.randint(2**24, (50, 3), generator=random, dtype=torch.int32).to(device)
    augmented = CropFlip(padding=3).apply(x, draws)
    padded = F.pad(x, (3, 3, 3, 3))
    corners, flips = set(), 0
    for image, out, (down, right, flip) in zip(padded, augmented, draws.tolist(), strict=True):
        top, left = down % 7, right % 7
        crop = image[:, top : top + 7, left : left + 9]
        assert torch.equal(out, crop if flip < 2**23 else crop.flip(-1))
        corners.add((top, left))
        flips += flip >= 2**23
    assert len(corners) > 25
    assert 10 < flips < 40
