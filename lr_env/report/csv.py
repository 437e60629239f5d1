"""Tables as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from lr_env.report.document import Table


def csv_text(table: Table[Any]) -> str:
    """The values of a table as CSV, floats with every digit."""
    records = table.records
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: repr(v) if isinstance(v, float) else v for k, v in record.items()} for record in records)
    return text.getvalue()
