"""Read Parquet files with one row a time at which something was logged. A column is read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lr_env.records.readers.base import LoggedRun, Series, UnreadableError
from lr_env.records.readers.names import is_training_log
from lr_env.records.readers.rows import RUN_COLUMNS
from lr_env.words import first_line

_MOST_ROWS = 50_000_000
_MOST_BYTES = 2**32
"""Of a group of rows, as its footer says."""

_ERRORS = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)


class Parquet:
    """Reads the columns of numbers of a Parquet file; a column that names runs tells them apart."""

    name = "parquet"

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether a file is Parquet with names of training; see `Reader`."""
        if not head.startswith(b"PAR1"):
            return False
        try:
            return is_training_log(pq.read_schema(path).names)
        except _ERRORS:
            return path.suffix == ".parquet"

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the runs in a file; see `Reader`."""
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                metadata, schema = file.metadata, file.schema_arrow
                # What a footer says of single columns is not looked at: pyarrow ends the process where that is damaged.
                sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
                rows = metadata.num_rows
        except _ERRORS as error:
            raise UnreadableError(f"it is damaged or no Parquet ({first_line(error)[:100]})") from None
        if not 0 <= rows <= _MOST_ROWS or not all(0 <= size <= _MOST_BYTES for size in sizes):
            raise UnreadableError(f"it says that it has {rows:,} rows: it is damaged, or no log of runs")
        numeric = [one.name for one in schema if pa.types.is_integer(one.type) or pa.types.is_floating(one.type)]
        numeric = [name for name in dict.fromkeys(numeric) if schema.names.count(name) == 1]
        if not numeric or not rows:
            raise UnreadableError("it has no column of numbers" if rows else "it has no rows")
        column = next((name for name in RUN_COLUMNS if name in schema.names), None)
        if column is None:
            yield LoggedRun(self.name, path, str(path), Columns(path, numeric), "row")
            return
        try:
            texts = (
                pq.read_table(path, columns=[column], page_checksum_verification=True)[column]
                .combine_chunks()
                .cast(pa.string())
            )
            codes = texts.dictionary_encode()
            names = codes.dictionary.to_pylist()
            of_row = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        except _ERRORS as error:
            raise UnreadableError(f"its column {column!r} is damaged ({first_line(error)[:100]})") from None
        for number, name in enumerate(names):
            which = of_row == number
            run_id = f"{path}/{str(name)[:200]}" if len(names) > 1 else str(path)
            yield LoggedRun(self.name, path, run_id, Columns(path, numeric, which), "row")


class Columns(Mapping[str, Series]):
    """The columns of a Parquet file by name, each read when it is asked for.

    Args:
        path: the file.
        names: of the columns.
        which: rows that count; all by default.
    """

    def __init__(self, path: Path, names: list[str], which: NDArray[np.bool_] | None = None) -> None:
        self._path = path
        self._names = names
        self._which = which
        self._read: dict[str, Series] = {}

    def __getitem__(self, name: str) -> Series:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            try:
                column = (
                    pq.read_table(self._path, columns=[name], page_checksum_verification=True)[name]
                    .combine_chunks()
                    .cast(pa.float64())
                )
                there = column.is_valid().to_numpy(zero_copy_only=False)
                values = np.asarray(column.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.float64)
            except _ERRORS as error:
                raise UnreadableError(f"its column {name!r} is damaged ({first_line(error)[:100]})") from None
            if self._which is not None:
                if len(values) != len(self._which):
                    raise UnreadableError(f"its column {name!r} is damaged")
                there, values = there[self._which], values[self._which]
            self._read[name] = Series(np.flatnonzero(there).astype(np.float64), values[there])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
