"""Train 200 runs on a Ray cluster of two nodes while processes are killed; compare them with those of a quiet process.

Run it by hand: `python -m tests.chaos`. Every 10 s a worker process is killed, once a node, and once the command, which
is started again. The runs must be those that one process trains.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

EVERY = 10.0
"""Seconds between two kills of a worker."""

NOT_COMPARED = ("commit", "device", "threads")
"""Columns of runs.parquet that tell where runs were made."""


def command(folder: Path, name: str, checkpoint_seconds: float, budget: int, *more: str) -> list[str]:
    """`lr-env compare` of 4 planners: 96 runs of the tuning and 104 on new seeds."""
    options = {
        "planners": "constant,cosine,wsd,plrs", "rates": "0.01:0.5:12", "tune-seeds": 2, "seeds": 26, "budget": budget,
        "lockstep": 4, "threads": 1, "backend": "stacked", "checkpoint-seconds": checkpoint_seconds, "name": name,
        "store": folder / f"{name}.sqlite", "results": folder,
    }  # fmt: skip
    arguments = [str(part) for option, value in options.items() for part in (f"--{option}", value)]
    return [sys.executable, "-m", "lr_env.cli", "compare", "DigitsMLP", *arguments, *more]


def trained_segments(store: Path) -> int:
    """Segments of runs that the store has."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT COUNT(*) FROM segments").fetchone()[0])
    return 0


def workers() -> list[int]:
    """Process ids of Ray's workers that train."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if re.match(r"ray::.*(lr_env|_stretch|_called)", (folder / "cmdline").read_text().replace("\0", " ")):
                found.append(int(folder.name))
    return found


def differences(one: Path, other: Path) -> list[str]:
    """Columns in which two files of runs differ, besides times and places."""
    ones, others = pq.read_table(one), pq.read_table(other)
    if ones.column_names != others.column_names or len(ones) != len(others):
        return ["the columns or the number of rows"]
    names = [name for name in ones.column_names if not name.endswith("_seconds") and name not in NOT_COMPARED]
    return [name for name in names if not ones[name].equals(others[name])]


def main() -> None:
    """Make both comparisons, and print what happened as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=int, default=20_000)
    parser.add_argument("--checkpoint-seconds", type=float, default=5.0)
    given = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    memory = 200 * 2**20
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": memory, "include_dashboard": False},
        )
        node = cluster.add_node(num_cpus=1, object_store_memory=memory)
        ours = command(folder, "ray", given.checkpoint_seconds, given.budget, "--engine", "ray", "--ray-address")
        began, kills, lost = time.monotonic(), 0, []
        process = subprocess.Popen([*ours, cluster.address])
        node_killed = driver_killed = False
        last, most = began, 0
        while process.poll() is None or not driver_killed:
            time.sleep(0.2)
            now = time.monotonic()
            rows = trained_segments(folder / "ray.sqlite")
            if rows < most:
                lost.append(most - rows)
            most = rows
            if now - last >= EVERY and (alive := workers()):
                os.kill(alive[kills % len(alive)], signal.SIGKILL)
                kills, last = kills + 1, now
            if kills >= 3 and not node_killed:
                cluster.remove_node(node, allow_graceful=False)
                cluster.add_node(num_cpus=1, object_store_memory=memory)
                node_killed = True
            if kills >= 5 and not driver_killed:
                process.send_signal(signal.SIGKILL)
                process.wait()
                process, driver_killed = subprocess.Popen([*ours, cluster.address]), True
        seconds = time.monotonic() - began
        ray.shutdown()
        cluster.shutdown()
        began = time.monotonic()
        quiet = subprocess.run(command(folder, "local", 60.0, given.budget), check=False)
        told = {
            "exit codes": [process.returncode, quiet.returncode],
            "workers killed": kills,
            "node killed": node_killed,
            "command killed": driver_killed,
            "columns that differ": differences(folder / "ray" / "runs.parquet", folder / "local" / "runs.parquet"),
            "rows": len(pq.read_table(folder / "ray" / "runs.parquet")),
            "segments dropped at once, at most": max(lost, default=0),
            "seconds": round(seconds, 1),
            "seconds of one quiet process": round(time.monotonic() - began, 1),
        }
        print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
