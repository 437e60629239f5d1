"""SQLite files of other programs: read without a change to them, whoever may be writing them."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lr_env.records.readers.base import UnreadableError

_MAGIC = b"SQLite format 3\0"
_SECONDS = 5.0
"""How long a lock is waited for."""

_ROWS = 20_000
"""Rows that are read under one lock, so that a writer waits for milliseconds."""


_LARGEST_CHECKED = 1 << 30
"""Bytes of the largest file that is checked as a whole, since a writer may have to wait meanwhile."""

_CONSTRAINTS = ("NULL value in ", "CHECK constraint ", "non-unique ")
"""What a check also finds, and is no damage."""


class _Texts(dict[bytes, str]):
    """Texts of a file, each made once for all rows that repeat it; bytes that are not UTF-8 are replaced."""

    def __missing__(self, data: bytes) -> str:
        text = data.decode("utf-8", "replace")
        if len(data) <= 64 and len(self) < 100_000:
            self[data] = text
        return text


class Database:
    """The tables of an open file.

    Attributes:
        notes: what is not whole, as far as it was met.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.notes: list[str] = []
        connection.text_factory = _Texts().__getitem__

    def check(self) -> None:
        """Check the pages of the file, and note damage by which rows may be missing. It takes 2 s a GB."""
        try:
            lines = [str(row[0]) for row in self._db.execute("PRAGMA quick_check(10)")]
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            lines = [str(error)]
        damage = [line for line in lines if line != "ok" and not line.startswith(_CONSTRAINTS)]
        if damage:
            self.notes.append(f"damaged ({' '.join(damage[0].split())[:100]}): rows may be missing")

    def columns(self, table: str) -> list[str]:
        """Return the columns of a table; none if there is no such table."""
        return [str(row[1]) for row in self._db.execute(f"PRAGMA table_info({_quoted(table)})")]

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Give all rows of a table in the order in which they were written, a few under each lock.

        A table that is not there has no rows, and columns that it does not have are None. The table itself is read, and
        no index of it, so that every row that is whole is given. Damage ends the table, and is noted.
        """
        there = set(self.columns(table))
        if not there:
            return
        chosen = ", ".join(_quoted(column) if column in there else "NULL" for column in columns)
        query = f"SELECT rowid, {chosen} FROM {_quoted(table)} NOT INDEXED WHERE rowid > ? ORDER BY rowid LIMIT {_ROWS}"
        last = -(2**63)
        count = 0
        while True:
            try:
                rows = self._db.execute(query, (last,)).fetchall()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                rows = self._before_damage(query, last)
                self._note(table, count + len(rows))
                yield from (row[1:] for row in rows)
                return
            for row in rows:
                if row[0] <= last:
                    self._note(table, count)
                    return
                last = row[0]
                count += 1
                yield row[1:]
            if len(rows) < _ROWS:
                return

    def _before_damage(self, query: str, last: int) -> list[tuple[Any, ...]]:
        """Return the rows before the one at which a query fails."""
        rows = []
        try:
            for row in self._db.execute(query, (last,)):
                if row[0] <= last:
                    break
                last = row[0]
                rows.append(row)
        except sqlite3.DatabaseError:
            pass
        return rows

    def _note(self, table: str, count: int) -> None:
        self.notes.append(f"damaged after {count:,} rows of the table {table}")


@contextmanager
def opened(path: Path, wait: float | None = None, checked: bool = True) -> Iterator[Database]:
    """Open a file to read it.

    It is opened as read-only, and without any lock where nothing lies beside it that tells of a writer. A write-ahead
    log is read together with it. A file that a killed process left within a transaction is recovered in a copy.

    Args:
        path: the file.
        wait: seconds for which a lock is waited for; some by default.
        checked: whether damage is looked for in the whole file.

    Raises:
        UnreadableError: it is damaged or locked.
    """
    with _plainly(), tempfile.TemporaryDirectory(prefix="lr_env-") as folder:
        address, seconds = _address(path, Path(folder)), _SECONDS if wait is None else wait
        connection = sqlite3.connect(address, uri=True, timeout=seconds, isolation_level=None)
        with closing(connection):
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA query_only = ON")
            database = Database(connection)
            if checked and path.stat().st_size <= _LARGEST_CHECKED:
                database.check()
            yield database


def has_tables(path: Path, head: bytes, tables: dict[str, set[str]]) -> bool:
    """Return whether a file is a database with some tables that have some columns."""
    if not head.startswith(_MAGIC):
        return False
    try:
        with opened(path, wait=0.1, checked=False) as database:
            return all(columns <= set(database.columns(table)) for table, columns in tables.items())
    except UnreadableError:
        # It may be locked or damaged: the text of its schema tells, which nearly always lies at the beginning.
        try:
            with open(path, "rb") as file:
                start = file.read(1 << 20)
        except OSError:
            return False
        words = [f"CREATE TABLE {table}" for table in tables] + [c for columns in tables.values() for c in columns]
        return all(word.encode() in start.replace(b'"', b"").replace(b"IF NOT EXISTS ", b"") for word in words)


def _address(path: Path, spare: Path) -> str:
    """Return the URI under which a file can be read, after a copy into a spare folder where only a copy can be."""
    with open(path, "rb") as file:
        head = file.read(20)
    if not head.startswith(_MAGIC):
        raise UnreadableError("not a SQLite database, or its beginning is damaged")
    log, index, journal = (path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))
    if head[18:20] == b"\x02\x02":  # it has a write-ahead log when it is open
        if not _bytes(log):
            return _uri(path, "mode=ro&immutable=1")
        if index.exists():
            return _uri(path, "mode=ro")
        return _uri(_copied(path, log, spare), "mode=rw")  # nobody has it open; to read the log is to write beside it
    if _bytes(journal) and _is_left_behind(path):
        return _uri(_copied(path, journal, spare), "mode=rw")
    return _uri(path, "mode=ro")


def _is_left_behind(path: Path) -> bool:
    """Return whether the journal of a file is one that a killed process left."""
    with closing(sqlite3.connect(_uri(path, "mode=ro"), uri=True, timeout=0)) as connection:
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            return "readonly" in str(error) or "unable to open" in str(error)
    return False


def _copied(path: Path, beside: Path, folder: Path) -> Path:
    """Return a copy of a file, and of what lies beside it."""
    for file in (path, beside):
        shutil.copyfile(file, folder / file.name)
    return folder / path.name


def _bytes(path: Path) -> int:
    """Return the size of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _uri(path: Path, options: str) -> str:
    return f"file:{quote(str(path.absolute()))}?{options}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error tells of damage, rather than of a lock or of a query that does not fit."""
    return not isinstance(error, sqlite3.OperationalError) or "disk I/O" in str(error)


@contextmanager
def _plainly() -> Iterator[None]:
    """Turn SQLite's errors into one line."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise UnreadableError("locked by another process: try again once that has finished") from error
        if "unable to open" in text or "readonly" in text:
            raise UnreadableError(f"SQLite cannot open it ({text}): copy it to a folder of yours") from error
        raise UnreadableError(f"a damaged SQLite database ({text})") from error
    except UnicodeDecodeError as error:  # names of tables and columns are not texts of rows
        raise UnreadableError("a damaged SQLite database: its names are no text") from error
