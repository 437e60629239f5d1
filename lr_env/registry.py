"""Planners found by name, through the entry-point group `lr_env.planners` of every installed package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from lr_env.errors import UserError, unknown
from lr_env.planner import PROBE, Planner
from lr_env.tuner import Tuner

if TYPE_CHECKING:
    from lr_env.tasks import Task

GROUP = "lr_env.planners"
TUNERS = "lr_env.tuners"


def _declared(group: str = GROUP) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def planner_names() -> list[str]:
    """Names of all installed planners, in alphabetical order."""
    return sorted(_declared())


def tuner_names() -> list[str]:
    """Names of all installed tuners, in alphabetical order."""
    return sorted(_declared(TUNERS))


def find_tuner(name: str) -> Tuner:
    """The tuner of that name.

    Raises:
        UserError: there is none, or the package that declares it cannot be loaded.
    """
    found = _found("tuner", TUNERS, name)()
    if not isinstance(found, Tuner) or found.name != name:
        raise UserError(f"tuner {name!r} is no lr_env.tuner.Tuner of that name: mend the package that declares it")
    return found


def find_planner(name: str) -> Any:
    """The planner class of that name.

    Raises:
        UserError: there is none, the package that declares it cannot be loaded, or it does not meet the contract.
    """
    found = _found("planner", GROUP, name)
    where = _declared()[name].value
    missing = [part for part in ("name", "needs", "start", "plan", "candidates") if not hasattr(found, part)]
    if missing:
        raise UserError(f"planner {name!r} ({where}) has no {missing[0]!r}: see lr_env.planner.Planner")
    if found.name != name:
        raise UserError(f"planner {name!r} ({where}) calls itself {found.name!r}: make the two names equal")
    return found


def _found(what: str, group: str, name: str) -> Any:
    """What an entry point of that name holds."""
    declared = _declared(group)
    if not isinstance(name, str) or name not in declared:  # a setting that names one may be anything
        hint = "" if declared else f"; install lr_env (pip install -e .), so that its {what}s can be found"
        raise unknown(what, name, declared, hint)
    entry = declared[name]
    try:
        return entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.value
        raise UserError(
            f"{what} {name!r} of package {package!r} cannot be loaded ({error}): mend it or uninstall it"
        ) from error


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


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """See that the planner of that name has such settings.

    Raises:
        UserError: it does not; see also `find_planner`.
    """
    fields = getattr(find_planner(name), "__dataclass_fields__", {})
    for setting in settings:
        if setting not in fields:
            raise UserError(f"planner {name!r} has no setting {setting!r}: see `lr-env planners {name}`")


def has_peak(name: str) -> bool:
    """Whether the planner of that name has a peak rate among its settings, and needs no other one.

    Raises:
        UserError: see `find_planner`.
    """
    fields = getattr(find_planner(name), "__dataclass_fields__", {}).values()
    needed = [field.name for field in fields if field.init and field.default is MISSING is field.default_factory]
    return "peak" in {field.name for field in fields} and needed in ([], ["peak"])


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
            "`candidates` must return one for each, so that a sweep makes as many runs of every planner"
        )
    if any(setting in offered[:index] for index, setting in enumerate(offered)):
        raise UserError(f"planner {planner.__name__} offers the same setting twice for {list(rates)}")
    return offered
