"""What tests of many parts share."""

from __future__ import annotations

import tomllib
from pathlib import Path

from lr_env.registry import find_planner

ENTRY_POINTS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]

PLANNERS = {name: find_planner(name) for name in ENTRY_POINTS["lr_env.planners"]}
"""Name -> class of every planner that this repository brings."""
