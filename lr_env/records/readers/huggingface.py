"""Read the trainer_state.json of Hugging Face's Trainer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.lines import encoding_of
from lr_env.records.readers.rows import Rows, flattened

_BLANKS = re.compile(r"[ \t\r\n]*")
_LARGEST = 2**30
"""Bytes of the largest file that is read."""

_FACTS = (
    *("global_step", "max_steps", "num_train_epochs", "train_batch_size", "logging_steps", "eval_steps", "save_steps"),
    *("num_input_tokens_seen", "total_flos", "is_hyper_param_search", "trial_name", "epoch"),
)
"""Facts of a run that are config."""


class HuggingFace:
    """Reads the log history in a trainer_state.json; of a file that is cut off, the entries before that."""

    name = "huggingface"

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether a file is a trainer_state.json, by its name or its first names; see `Reader`."""
        if not head.lstrip().startswith(b"{"):
            return False
        return b'"log_history"' in head or (b'"best_model_checkpoint"' in head and b'"best_metric"' in head)

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the run in a file; see `Reader`."""
        if path.stat().st_size > _LARGEST:
            raise UnreadableError("it is larger than 1 GiB: it is no log of a run")
        data = path.read_bytes()
        history = _History(data.decode(encoding_of(data), errors="replace").removeprefix("\ufeff"))
        del data
        rows = Rows()
        for entry in history:
            rows.add(item for item in flattened(entry) if item[0] != "total_flos")
        if not history.has_entries:
            raise UnreadableError("it has no log_history" + (", for it is cut off" if history.cut_off else ""))
        facts = {name: history.state[name] for name in _FACTS if isinstance(history.state.get(name), int | float | str)}
        notes = [f"cut off after {len(rows):,} entries of its log_history"] if history.cut_off else []
        yield from rows.runs(self.name, path, facts, notes)


class _History:
    """The entries of the log history, one at a time, so that a damaged file gives those that are whole.

    Attributes:
        state: the other values of the file, once the entries are read.
        has_entries: whether there is a log history.
        cut_off: whether the file ends, or is damaged, before its end.
    """

    def __init__(self, text: str) -> None:
        self.state: dict[str, Any] = {}
        self.has_entries = False
        self.cut_off = False
        self._text = text
        self._decoder = json.JSONDecoder()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._entries()
        except (ValueError, RecursionError, IndexError):
            self.cut_off = True

    def _entries(self) -> Iterator[dict[str, Any]]:
        at = self._expect("{", self._skip(0))
        while True:
            name, at = self._decoder.raw_decode(self._text, at)
            at = self._expect(":", self._skip(at))
            if name == "log_history" and self._text[at] == "[":
                self.has_entries = True
                at = self._skip(at + 1)
                while self._text[at] != "]":
                    entry, at = self._decoder.raw_decode(self._text, at)
                    if isinstance(entry, dict):
                        yield entry
                    at = self._skip(at)
                    if self._text[at] != "]":
                        at = self._expect(",", at)
                at += 1
            else:
                value, at = self._decoder.raw_decode(self._text, at)
                if isinstance(name, str):
                    self.state[name] = value
            at = self._skip(at)
            if self._text[at] == "}":
                return
            at = self._expect(",", at)

    def _skip(self, at: int) -> int:
        match = _BLANKS.match(self._text, at)
        return match.end() if match else at

    def _expect(self, character: str, at: int) -> int:
        if self._text[at] != character:
            raise ValueError(f"no {character} at {at}")
        return self._skip(at + 1)
