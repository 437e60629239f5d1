"""Hashes of runs and experiments in a record store: data that are not as they were written are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def seal_of_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def seal_of_record(row: Sequence[Any], scores: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """SHA-256 of a run without its curves."""
    return seal_of_text(json.dumps([*row, sorted(scores.items()), sorted(provenance.items())]))


def seal_of_curves(curves: Iterable[Mapping[str, NDArray[np.float64]]]) -> str:
    """SHA-256 of the curves of some runs; the order of their names does not matter."""
    digest = hashlib.sha256()
    for run in curves:
        for name in sorted(run):
            digest.update(f"{name} {len(run[name])} ".encode() + np.ascontiguousarray(run[name]).tobytes())
        digest.update(b"\n")
    return digest.hexdigest()
