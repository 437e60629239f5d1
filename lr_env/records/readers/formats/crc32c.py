"""CRC-32C checksums (Castagnoli) of many pieces of a buffer at once, with numpy."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_ONES = 0xFFFFFFFF
_LANE = 1024
"""Longer pieces are cut into lanes, which are summed side by side."""

Ints = NDArray[np.int64]
Words = NDArray[np.uint32]


def crc32c(data: bytes) -> int:
    """Return the checksum of some bytes."""
    return int(crc32c_of_pieces(data, np.array([0]), np.array([len(data)]))[0])


def masked(checksums: Words) -> Words:
    """Return checksums as TFRecord files hold them: rotated by 15 bits, plus a constant."""
    rotated = (checksums >> np.uint32(15)) | (checksums << np.uint32(17))
    return rotated + np.uint32(0xA282EAD8)


def crc32c_of_pieces(data: bytes, starts: Ints, ends: Ints) -> Words:
    """Return the checksums of pieces of a buffer, one each.

    The bytes of all pieces are taken side by side: the first of each, then the second of each. Pieces of very different
    lengths cost no more, because long ones are cut into lanes.

    Args:
        data: the buffer.
        starts: where the pieces start, (pieces,).
        ends: where they end, (pieces,), not before they start.
    """
    buffer = np.frombuffer(data, np.uint8)
    lanes = np.maximum(1, -(-(ends - starts) // _LANE))
    if np.all(lanes == 1):
        return _registers(buffer, starts, ends, np.full(len(starts), _ONES, np.uint32)) ^ np.uint32(_ONES)
    # The first lane of a piece is the short one, so that all others have the same length.
    piece = np.repeat(np.arange(len(starts)), lanes)
    number = np.arange(len(piece)) - np.repeat(np.cumsum(lanes) - lanes, lanes)
    lane_ends = ends[piece] - (lanes[piece] - 1 - number) * _LANE
    lane_starts = np.maximum(starts[piece], lane_ends - _LANE)
    begin = np.where(number == 0, _ONES, 0).astype(np.uint32)
    registers = _registers(buffer, lane_starts, lane_ends, begin)
    result = registers[np.flatnonzero(number == 0)]
    for i in np.flatnonzero(lanes > 1):
        first = int(np.searchsorted(piece, i))
        result[i] = _joined(registers[first : first + int(lanes[i])].tolist())
    return result ^ np.uint32(_ONES)


def _registers(buffer: NDArray[np.uint8], starts: Ints, ends: Ints, begin: Words) -> Words:
    """Return the shift registers after pieces of at most a lane, (pieces,), from those before them."""
    table = _table()
    lengths = ends - starts
    order = np.argsort(-lengths, kind="stable")
    sorted_ends, sorted_lengths = ends[order], lengths[order]
    register = begin[order]
    longest = int(sorted_lengths[0]) if len(order) else 0
    # Pieces that have at least 1, 2, ... bytes come first in the order.
    counts = np.searchsorted(-sorted_lengths, -np.arange(1, longest + 1), side="right")
    for remaining in range(longest, 0, -1):
        n = int(counts[remaining - 1])
        byte = buffer[sorted_ends[:n] - remaining]
        part = register[:n]
        register[:n] = table[(part ^ byte) & np.uint32(0xFF)] ^ (part >> np.uint32(8))
    result = np.empty_like(register)
    result[order] = register
    return result


def _joined(registers: list[int]) -> int:
    """Return the register after all lanes of a piece, from the register after each alone."""
    first, second, third, fourth = _lane_of_zeros()
    whole = registers[0]
    for register in registers[1:]:
        whole = (
            first[whole & 0xFF] ^ second[whole >> 8 & 0xFF] ^ third[whole >> 16 & 0xFF] ^ fourth[whole >> 24] ^ register
        )
    return whole


@cache
def _table() -> Words:
    """Return what a byte does to the register."""
    register = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        register = (register >> np.uint32(1)) ^ np.where(register & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return register


@cache
def _lane_of_zeros() -> list[list[int]]:
    """Return what a lane of zeros does to each of the four bytes of the register; it is linear."""
    shifts = np.arange(4, dtype=np.uint32)[:, None] * np.uint32(8)
    begin = (np.arange(256, dtype=np.uint32) << shifts).ravel()
    starts = np.zeros(len(begin), np.int64)
    return _registers(np.zeros(_LANE, np.uint8), starts, starts + _LANE, begin).reshape(4, 256).tolist()
