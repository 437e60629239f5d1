"""Damaged files are read to the same content, or refused in one line: another result and a traceback are faults."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.damage import KINDS, REFUSED, SAME, outcomes
from tests.fixtures import make

COUNT = int(os.environ.get("LR_ENV_DAMAGES", "40"))
"""Damages of each kind; `python -m tests.damage --count 1000` does as many."""

SEALED = Path(make.__file__).parent / "sealed"

TRAINS = ("checkpoint, gone on with", "store, gone on with", "store, finished", "write-ahead log")
"""Kinds that go on with an experiment, which takes longer, and must have been begun by this code."""


@pytest.mark.parametrize("name", sorted(KINDS.keys() - set(TRAINS)))
def test_damaged_files_are_read_as_they_were_or_refused(name):
    found, wrong = outcomes(KINDS[name], SEALED, COUNT)
    assert wrong == []
    assert found[SAME] + found[REFUSED] > COUNT / 2
    assert found[REFUSED] > COUNT / 4


@pytest.mark.parametrize("name", TRAINS)
def test_what_goes_on_with_damaged_files_ends_the_same_or_is_refused(name, tmp_path):
    KINDS[name].make(tmp_path)
    found, wrong = outcomes(KINDS[name], tmp_path, -(-COUNT // 8))
    assert wrong == []
    assert sum(found.values()) >= COUNT // 10


@pytest.mark.parametrize("name", sorted(KINDS.keys() - set(TRAINS)))
def test_files_without_a_seal_never_end_in_a_traceback(name):
    """Those of before there were seals: whether they are whole cannot be told, but what cannot be read is refused."""
    _, wrong = outcomes(KINDS[name], SEALED.parent / "unsealed", COUNT)
    assert [line for line in wrong if line.startswith("traceback")] == []
