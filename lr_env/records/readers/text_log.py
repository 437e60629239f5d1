"""Read text logs by patterns: lines of words with numbers between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lr_env.errors import UserError
from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.lines import Lines, head_lines
from lr_env.records.readers.rows import Rows, damage_notes

_FIELD = re.compile(r"\{(\w[\w/.-]*)\}")
_NUMBER = r"([-+]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|NaN|inf|Inf|infinity))"
_ANYTHING = r"\S*"
_LONGEST = 20_000
"""Characters of a line that are looked at."""


def parse_pattern(pattern: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """A pattern as a regular expression, and the names of its groups.

    Args:
        pattern: text as it is in the log, with {name} in place of a number, and {_} in place of a word that does not
            matter. Blanks stand for any number of blanks. The line may have more before and after it.

    Raises:
        UserError: it has no {name}, or one twice.

    >>> expression, names = parse_pattern("step {step}/{_} loss {train_loss}")
    >>> names, expression.search("12:00 step   20/500 loss 0.25 (ok)").groups()
    (('step', 'train_loss'), ('20', '0.25'))
    """
    names = [name for name in _FIELD.findall(pattern) if name != "_"]
    if not names:
        raise UserError(
            f"pattern {pattern!r} has no {{name}}: write one in place of each number, as 'step {{step}} lr {{lr}}'"
        )
    if len(set(names)) < len(names):
        raise UserError(f"pattern {pattern!r} has a name twice: give each number a name of its own")
    parts = _FIELD.split(pattern)
    expression = ""
    for place, part in enumerate(parts):
        if place % 2:
            expression += _ANYTHING if part == "_" else _NUMBER
        else:
            words = [re.escape(word) for word in re.split(r"\s+", part)]
            expression += r"\s+".join(words)
    if pattern.startswith("{") and parts[1] != "_":
        expression = rf"(?<![\w.]){expression}"
    if pattern.endswith("}") and parts[-2] != "_":
        expression = rf"{expression}(?![\w.])" if pattern[-1] == "}" else expression
    return re.compile(expression), tuple(names)


@dataclass(frozen=True)
class TextLog:
    """Reads lines of text in which patterns find numbers.

    Attributes:
        name: of the format.
        patterns: see `parse_pattern`; of each line the first that fits counts.
        mark: a regular expression that one of the first lines fits as a whole; with none nothing is detected.
    """

    name: str
    patterns: tuple[str, ...] = ()
    mark: str = ""

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether a line at the beginning is of the format; see `Reader`."""
        return bool(self.mark) and any(re.fullmatch(self.mark, line) for line in head_lines(head)[:20])

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the run in a file; see `Reader`."""
        if not self.patterns:
            raise UnreadableError(
                "a text log needs a pattern: give one, as --pattern 'step {step} loss {train_loss} lr {lr}'"
            )
        patterns = [parse_pattern(pattern) for pattern in self.patterns]
        lines, rows = Lines(path), Rows()
        for block in lines.blocks():
            if lines.unfinished:  # its last number may be cut off
                break
            _add(block, patterns, rows)
        if not len(rows):
            raise UnreadableError("no line of it fits the pattern")
        yield from rows.runs(self.name, path, notes=damage_notes(0, lines.too_long, lines.unfinished))


def _add(lines: Sequence[str], patterns: Sequence[tuple[re.Pattern[str], tuple[str, ...]]], rows: Rows) -> None:
    for line in lines:
        for expression, names in patterns:
            if match := expression.search(line[:_LONGEST] if len(line) > _LONGEST else line):
                rows.add(zip(names, (text.replace(",", "") for text in match.groups()), strict=True))
                break


LLM_C = TextLog(
    "llm.c",
    ("s:{s} trl:{trl} lr:{lr} norm:{norm}", "s:{s} tel:{tel}", "s:{s} eval:{eval}"),
    mark=r"s:\d+ (?:tel|trl|eval):\S+.*",
)
TEXT = TextLog("text")
