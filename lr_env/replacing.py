"""Reports of studies as JSON with a figure, each file replaced as a whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lr_env.files import replacing

__all__ = ["finite", "replacing", "write_json_and_figure"]


def write_json_and_figure(folder: Path, name: str, content: Mapping[str, Any], draw: Callable[[Path], None]) -> None:
    """Write NAME.json and NAME.png into a folder that is there, each as a whole.

    Args:
        folder: where.
        name: of both files, without a suffix.
        content: JSON-able; see `finite`.
        draw: writes a PNG to a path.
    """
    with replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    with replacing(folder / f"{name}.png") as path:
        draw(path)


def finite(value: float) -> float | None:
    """The value for JSON, which has neither infinity nor NaN: None."""
    return float(value) if math.isfinite(value) else None
