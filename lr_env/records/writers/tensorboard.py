"""Writes TensorBoard's event files: a folder for each run, with its curves, its hyperparameters and its scores."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from lr_env.errors import UserError
from lr_env.records.writers.base import DIGEST_DIGITS, TrackedRun

FOLDER = "tensorboard"

_WRITTEN = re.compile(rf".+-[0-9a-f]{{{DIGEST_DIGITS}}}")
"""Names of the folders of runs."""

_UNFINISHED = ".unfinished-"
"""Beginning of the name of a folder that is being written."""


class TensorBoard:
    """Writes NAME/tensorboard/RUN/: every number in double precision, over optimizer steps."""

    name = "tensorboard"

    def check(self) -> None:
        """Find out whether TensorBoard is installed.

        Raises:
            UserError: it is not.
        """
        if find_spec("tensorboard") is None:
            raise UserError("--log tensorboard needs the package tensorboard: pip install tensorboard")

    def write(self, experiment: str, part: str, runs: Sequence[TrackedRun], folder: Path) -> str:
        """Write the runs that have no folder yet, and remove those that the experiment has no longer.

        A run is written into a folder that is renamed at the end, so that it is there as a whole or not at all.
        """
        self.check()
        place = folder / FOLDER / part
        place.mkdir(parents=True, exist_ok=True)
        names = {run.name for run in runs}
        for other in list(place.iterdir()):
            stale = _WRITTEN.fullmatch(other.name) and other.name not in names
            if other.is_dir() and (stale or other.name.startswith(_UNFINISHED)):
                shutil.rmtree(other)
        for run in runs:
            if not (place / run.name).exists():
                unfinished = place / f"{_UNFINISHED}{run.name}"
                _write_events(run, unfinished)
                os.replace(unfinished, place / run.name)
        return f"tensorboard --logdir {folder / FOLDER}"


def _write_events(run: TrackedRun, folder: Path) -> None:
    """Write the event file of a run into a folder."""
    from torch.utils.tensorboard.summary import hparams
    from torch.utils.tensorboard.writer import SummaryWriter

    exact = {"new_style": True, "double_precision": True}
    writer = SummaryWriter(str(folder))
    try:
        for summary in hparams(dict(run.params), dict(run.scores)):
            writer._get_file_writer().add_summary(summary)
        for metric, (steps, values) in run.curves.items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                writer.add_scalar(metric, value, int(step), **exact)
        for metric, value in run.scores.items():
            writer.add_scalar(metric, value, run.steps, **exact)
    finally:
        writer.close()
