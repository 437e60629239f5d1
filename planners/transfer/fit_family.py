"""`lr-env fit --family`: train runs of tasks of families, and fit a model across them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr_env.children import Execution
from lr_env.errors import UserError, unknown
from lr_env.files import exclusive_lock
from lr_env.records.store import Store
from lr_env.runs.engine import Engine
from lr_env.runs.experiment import lock_of
from lr_env.words import counted
from planners.forecaster.collecting import collect
from planners.transfer.artifact import TransferModel
from planners.transfer.collecting import Searches, tasks_of
from planners.transfer.evaluation import Choices, choices
from planners.transfer.fit import Fitting, fit

DEFAULT_TASKS, DEFAULT_RUNS = 200, 32


def searches_of(families: Sequence[str], tasks: int, runs: int) -> list[Searches]:
    """The searches that are asked for; settings may follow a name, as in CNNFamily:tasks=40,runs=24.

    Raises:
        UserError: there is no such family or setting, or a number is none.
    """
    found = []
    for text in families:
        name, _, rest = text.partition(":")
        settings = {"tasks": tasks, "runs": runs}
        for part in rest.split(",") if rest else ():
            setting, _, value = part.partition("=")
            if setting not in settings:
                raise unknown(f"setting of family {name!r}", setting, settings)
            if not value.isdigit():
                raise UserError(f"family {text!r}: {setting} must be a whole number, not {value!r}")
            settings[setting] = int(value)
        found.append(Searches(name, settings["tasks"], settings["runs"]))
    return found


@dataclass(frozen=True, eq=False)
class FamilyFit:
    """A fitted model, and how well it chooses for tasks that its members held out."""

    model: TransferModel
    choices: Choices

    def text(self) -> str:
        """What is printed."""
        about = self.model.about
        fitted = f"Fitted to {about['runs']} runs of {counted(about['tasks'], 'task')}."
        return f"{fitted}\n{self.choices.text()}"


def collected(
    searches: Sequence[Searches],
    store: Path,
    name: str,
    execution: Execution,
    engine: Engine,
    fresh: bool,
    progress: Callable[[int], None],
) -> list[str]:
    """Train the runs that the store does not have yet; return the names under which they are kept, one a family."""
    names = []
    with closing(Store(store)) as records:
        for search in searches:
            own = f"{name}-{search.family}"
            with exclusive_lock(lock_of(records, own), f"{own!r}"):
                if fresh:
                    records.delete_imported(own)
                collect(search, records, own, execution, engine=engine, progress=progress)
            names.append(own)
    return names


def fit_families(store: Path, names: Sequence[str], fitting: Fitting, about: Mapping[str, Any]) -> FamilyFit:
    """Fit a model to runs of the record store.

    Args:
        store: the record store.
        names: under which runs are kept.
        fitting: settings of the fit.
        about: provenance.

    Raises:
        UserError: there are no such runs, or too few tasks.
    """
    with closing(Store.reading(store)) as records:
        tasks = [task for name in names for task in tasks_of(records.imported(name))]
    fitted = fit(tasks, fitting)
    counts = {
        "tasks": len(tasks),
        "runs": sum(len(task) for task in tasks),
        "child_steps": sum(len(task) * int(task.facts["budget"]) for task in tasks),
    }
    return FamilyFit(TransferModel(fitted, None, {**about, **counts}), choices(fitted, tasks))
