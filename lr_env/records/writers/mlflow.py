"""Writes runs into an MLflow tracking store: that of MLFLOW_TRACKING_URI, or a SQLite file in the report's folder."""

# pyright: reportMissingImports=false
# (the package is installed by those who use it)
from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lr_env.errors import UserError
from lr_env.records.writers.base import TrackedRun
from lr_env.words import first_line

FILE = "mlflow.db"

_URI = "MLFLOW_TRACKING_URI"
_DIGEST = "lr_env.digest"
"""Tag of the runs that were written, with their digest."""

_MOST_METRICS, _MOST_PARAMS = 1_000, 100
"""What MLflow takes at once."""

_LONGEST_PARAM = 6_000
_PAGE = 1_000


class MLflow:
    """Writes runs into the MLflow experiment of the name that the experiment has in the record store."""

    name = "mlflow"

    def check(self) -> None:
        """Find out whether MLflow is installed.

        Raises:
            UserError: it is not.
        """
        needed = ("mlflow", *(() if os.environ.get(_URI) else ("sqlalchemy", "alembic")))
        if missing := [package for package in needed if find_spec(package) is None]:
            raise UserError(f"--log mlflow needs the package {missing[0]}: pip install 'lr-env[trackers]'")

    def write(self, experiment: str, part: str, runs: Sequence[TrackedRun], folder: Path) -> str:
        """Write the runs that the tracking store does not have.

        A run is finished in MLflow once all of it is written; one that a killed process left is deleted and written
        anew. In a store of ours, those that the experiment has no longer are deleted, too.

        Raises:
            UserError: MLflow refuses it.
        """
        self.check()
        shared = os.environ.get(_URI)
        folder.mkdir(parents=True, exist_ok=True)
        uri = shared or f"sqlite:///{(folder / FILE).absolute()}"
        with _refusing(uri):
            from mlflow.tracking import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            client = MlflowClient(tracking_uri=uri)
            there = client.get_experiment_by_name(experiment)
            place = there.experiment_id if there else client.create_experiment(experiment)
            names = {run.digest for run in runs}
            written = set()
            for digest, run_id, status in _written(client, place):
                whole = status == "FINISHED"
                if whole and digest in names and digest not in written:
                    written.add(digest)
                elif digest in names or not shared:
                    client.delete_run(run_id)
            for run in runs:
                if run.digest not in written:
                    _write(client, place, run)
        return f"mlflow ui --backend-store-uri {uri}" if not shared else f"MLflow experiment {experiment!r} at {uri}"


def _written(client: Any, place: str) -> Iterator[tuple[str, str, str]]:
    """Give digest, id and status of each run that was written, or begun, before."""
    token = None
    while True:
        page = client.search_runs([place], max_results=_PAGE, page_token=token)
        for run in page:
            if digest := run.data.tags.get(_DIGEST):
                yield digest, run.info.run_id, run.info.status
        token = page.token
        if not token:
            return


def _write(client: Any, place: str, run: TrackedRun) -> None:
    """Write a run."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    run_id = client.create_run(place, tags={_DIGEST: run.digest}, run_name=run.title).info.run_id
    params = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in run.params.items()]
    for first in range(0, len(params), _MOST_PARAMS):
        client.log_batch(run_id, params=params[first : first + _MOST_PARAMS])
    metrics = [
        Metric(name, value, now, int(step))
        for name, (steps, values) in run.curves.items()
        for step, value in zip(steps.tolist(), values.tolist(), strict=True)
    ]
    metrics += [Metric(name, value, now, run.steps) for name, value in run.scores.items()]
    for first in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[first : first + _MOST_METRICS])
    client.set_terminated(run_id)


@contextmanager
def _refusing(uri: str) -> Iterator[None]:
    """A context that turns errors of MLflow into one line; warnings of its packages are not the user's to mend."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # of MLflow, its store and the network
        why = first_line(error)
        raise UserError(
            f"MLflow refuses to store the runs at {uri!r} ({why}): set {_URI} to another store; the same command "
            "then writes them, and trains nothing again"
        ) from error
