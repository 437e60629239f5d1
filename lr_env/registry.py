"""Planners found by name, through the entry-point group `lr_env.planners` of every installed package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from lr_env.errors import UserError, unknown
from lr_env.planner import PROBE, Planner

if TYPE_CHECKING:
    from lr_env.tasks import Task

GROUP = "lr_env.planners"


def _declared() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def planner_names() -> list[str]:
    """Names of all installed planners, in alphabetical order."""
    return sorted(_declared())


def find_planner(name: str) -> Any:
    """The planner class of that name.

    Raises:
        UserError: there is none, the package that declares it cannot be loaded, or it does not meet the contract.
    """
    declared = _declared()
    if not isinstance(name, str) or name not in declared:  # a setting that names one may be anything
        hint = "" if declared else "; install lr_env (pip install -e .), so that its planners can be found"
        raise unknown("planner", name, declared, hint)
    entry = declared[name]
    try:
        found = entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.value
        raise UserError(
            f"planner {name!r} of package {package!r} cannot be loaded ({error}): mend it or uninstall it"
        ) from error
    missing = [part for part in ("name", "needs", "start", "plan", "candidates") if not hasattr(found, part)]
    if missing:
        raise UserError(f"planner {name!r} ({entry.value}) has no {missing[0]!r}: see lr_env.planner.Planner")
    if found.name != name:
        raise UserError(f"planner {name!r} ({entry.value}) calls itself {found.name!r}: make the two names equal")
    return found


def needs_forks(name: str) -> bool:
    """Whether the planner of that name looks ahead with forks, which costs many times the child steps of its runs.

    Raises:
        UserError: see `find_planner`.
    """
    return PROBE in find_planner(name).needs


def suited(name: str, task: Task) -> Mapping[str, Any] | None:
    """Settings that suit the planner of that name to a task; None if it has none of its own that do.

    Raises:
        UserError: see `find_planner`.
    """
    for_task = getattr(find_planner(name), "for_task", None)
    return {} if for_task is None else for_task(task)


def is_plain(name: str, task: Task | None = None) -> bool:
    """Whether the planner of that name needs neither forks nor an optimizer of its own: one of "all".

    Of a task those that nothing suits to it are not.

    Raises:
        UserError: see `find_planner`.
    """
    planner = find_planner(name)
    plain = PROBE not in planner.needs and not hasattr(planner, "optimizer")
    return plain and (task is None or suited(name, task) is not None)


def candidates(planner: type[Planner], rates: Sequence[float]) -> list[Planner]:
    """The settings that a sweep tries, one for each peak rate.

    Raises:
        UserError: the planner offers more or fewer, which would give it another budget than its rivals.
    """
    offered = list(planner.candidates(rates))
    if len(offered) != len(rates):
        raise UserError(
            f"planner {planner.__name__} offers {len(offered)} settings for {len(rates)} peak rates: "
            "`candidates` must return one for each, so that all planners have the same tuning budget"
        )
    if any(setting in offered[:index] for index, setting in enumerate(offered)):
        raise UserError(f"planner {planner.__name__} offers the same setting twice for {list(rates)}")
    return offered
