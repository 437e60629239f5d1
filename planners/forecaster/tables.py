"""Sets of curves in Parquet files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lr_env.architecture.graph import Architecture
from lr_env.errors import UserError
from lr_env.files import holds_seal, write_sealed
from lr_env.records.tables import with_seal
from lr_env.words import first_line
from planners.forecaster.curves import POINTS, CurveSet

_HEADER = "lr_env curves"
"""Key of the rest in the metadata of a file."""

_SETTING = "setting_"

_TEXTS = ("tasks", "configurations", "run_ids")


def write_curves(curves: CurveSet, file: Path) -> None:
    """Write a set of curves, one row a run, in single precision, sealed."""
    lists = pa.list_(pa.float32())
    columns: dict[str, pa.Array] = {name: pa.array(getattr(curves, name)).dictionary_encode() for name in _TEXTS}
    columns["reference"] = pa.array(curves.reference, pa.float32(), from_pandas=True)
    for name, values in curves.settings.items():
        columns[_SETTING + name] = pa.array(values, pa.float32(), from_pandas=True)
    for name in ("values", "rates"):
        columns[name] = pa.array(list(getattr(curves, name).astype(np.float32)), lists)
    graphs = [json.dumps(graph.to_json(), separators=(",", ":")) for graph in curves.architectures]
    columns["architecture"] = pa.array([graphs[place] if place >= 0 else None for place in curves.network])
    columns["architecture"] = columns["architecture"].dictionary_encode()
    header = {"metric": curves.metric}
    out = io.BytesIO()
    table = pa.table(columns).replace_schema_metadata({_HEADER: json.dumps(header, separators=(",", ":"))})
    pq.write_table(table, out, compression="zstd", compression_level=12)
    write_sealed(file, with_seal(out.getvalue()))


def is_curves(file: Path) -> bool:
    """Whether a file is one that `write_curves` wrote, whole or damaged; another table, or no file, is not."""
    try:
        return _HEADER.encode() in (pq.read_schema(file).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def read_curves(file: Path) -> CurveSet:
    """Read what `write_curves` wrote.

    Raises:
        UserError: there is no such file, or it is damaged or holds something else.
    """
    try:
        return _read(file.read_bytes())
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no file {str(file)!r}: give a file of curves, see lr-env forecast collect") from None
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError, MemoryError, RecursionError) as error:
        raise UserError(f"{str(file)!r} is damaged or no file of curves ({first_line(error)}): make it again") from None


def _read(content: bytes) -> CurveSet:
    if not holds_seal(content):
        raise ValueError("its seal is damaged")
    table = pq.read_table(pa.BufferReader(content))
    header: dict[str, Any] = json.loads(table.schema.metadata[_HEADER.encode()])
    names = [name.removeprefix(_SETTING) for name in table.column_names if name.startswith(_SETTING)]

    def numbers(name: str) -> np.ndarray:
        return np.array(table[name].to_pylist(), dtype=np.float64)  # null is NaN

    graphs: dict[str, int] = {}
    texts = table["architecture"].to_pylist()
    network = [-1 if text is None else graphs.setdefault(text, len(graphs)) for text in texts]
    return CurveSet(
        str(header["metric"]),
        numbers("values").reshape(-1, POINTS),
        numbers("rates").reshape(-1, POINTS),
        {name: numbers(_SETTING + name) for name in names},
        tuple(Architecture.from_json(json.loads(graph)) for graph in graphs),
        np.array(network, dtype=np.int64),
        numbers("reference"),
        *(tuple(map(str, table[name].to_pylist())) for name in _TEXTS),
    )
