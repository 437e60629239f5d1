"""Planners, tuners, studies, commands and benchmarks by name, through the entry points of every installed package.

Another package adds one by declaring it in the group, such as `lr_env.planners`; this package names none itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, cast

from lr_env.capabilities import Control, Forking, OwnOptimizer, RenamedSettings, TaskSpecific, Tunable
from lr_env.errors import UserError, unknown
from lr_env.planner import Planner
from lr_env.tuner import Tuner, Variants

if TYPE_CHECKING:
    from lr_env.tasks import Task

PLANNERS, TUNERS, VARIANTS = "lr_env.planners", "lr_env.tuners", "lr_env.variants"
COMMANDS, STUDIES, BENCHMARKS = "lr_env.commands", "lr_env.studies", "lr_env.benchmarks"


def declared(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point of a group, in the order in which packages declare them."""
    return {entry.name: entry for entry in entry_points(group=group)}


def load(group: str, what: str, name: str) -> Any:
    """The object that an entry point of that name stands for.

    Args:
        group: of entry points.
        what: it is, in words for the error.
        name: of the entry point.

    Raises:
        UserError: there is none, or the package that declares it cannot be loaded.
    """
    entries = declared(group)
    if not isinstance(name, str) or name not in entries:  # a setting that names one may be anything
        hint = "" if entries else f"; install lr_env (pip install -e .), so that its {what}s can be found"
        raise unknown(what, name, entries, hint)
    entry = entries[name]
    try:
        return entry.load()
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.value
        raise UserError(
            f"{what} {name!r} of package {package!r} cannot be loaded ({error}): mend it or uninstall it"
        ) from error


def planner_names() -> list[str]:
    """Names of all installed planners, in alphabetical order."""
    return sorted(declared(PLANNERS))


def find_planner(name: str) -> type[Planner]:
    """The planner class of that name.

    Raises:
        UserError: there is none, the package that declares it cannot be loaded, or it does not meet the contract.
    """
    found = load(PLANNERS, "planner", name)
    where = declared(PLANNERS)[name].value
    missing = [part for part in ("name", "needs", "start", "plan") if not hasattr(found, part)]
    if missing:
        raise UserError(f"planner {name!r} ({where}) has no {missing[0]!r}: see lr_env.planner.Planner")
    if found.name != name:
        raise UserError(f"planner {name!r} ({where}) calls itself {found.name!r}: make the two names equal")
    return found


def make_planner(name: str, settings: Mapping[str, Any]) -> Planner:
    """The planner of that name with settings, some of which may have the names of before, as in older records.

    Raises:
        UserError: there is none, it has no such setting, or needs one that is not given; see also `find_planner`.
    """
    kind = find_planner(name)
    settings = current_settings(name, settings)
    check_settings(name, settings)
    try:
        return cast("Callable[..., Planner]", kind)(**settings)
    except TypeError as error:
        raise UserError(f"planner {name!r}: {error}; give its settings with --set") from None


def with_settings(planner: Planner, settings: Mapping[str, Any]) -> Planner:
    """The planner with some other settings, which it has."""
    return replace(cast("Any", planner), **settings)


def setting_defaults(name: str) -> dict[str, Any]:
    """Setting -> default of the planner of that name; `dataclasses.MISSING` where it has none.

    Raises:
        UserError: see `find_planner`.
    """
    kind = find_planner(name)
    return {field.name: field.default for field in fields(kind) if field.init} if is_dataclass(kind) else {}


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """See that the planner of that name has such settings.

    Raises:
        UserError: it does not, or one has another name now; see also `find_planner`.
    """
    there = setting_defaults(name)
    for setting, value in settings.items():
        if setting not in there:
            now = ", ".join(f"{new}={it}" for new, it in current_settings(name, {setting: value}).items())
            if now and setting not in current_settings(name, {setting: value}):
                raise UserError(f"setting {setting!r} of planner {name!r} has another name now: give {now}")
            raise UserError(f"planner {name!r} has no setting {setting!r}: see `lr-env planners {name}`")


def current_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a planner of that name was saved with, under the names that they have now.

    Those of a planner that is not installed stay as they are.

    Raises:
        UserError: see `find_planner`.
    """
    kind = find_planner(name) if name in declared(PLANNERS) else None
    return kind.current_settings(settings) if isinstance(kind, RenamedSettings) else dict(settings)


def task_settings(name: str, task: Task) -> Mapping[str, Any] | None:
    """Settings that suit the planner of that name to a task; None if it has none of its own that do.

    Raises:
        UserError: see `find_planner`.
    """
    kind = find_planner(name)
    return kind.for_task(task) if isinstance(kind, TaskSpecific) else {}


def has_peak(name: str) -> bool:
    """Whether the planner of that name has a peak rate among its settings, and needs no other one.

    Raises:
        UserError: see `find_planner`.
    """
    kind = find_planner(name)
    own = [field for field in fields(kind) if field.init] if is_dataclass(kind) else []
    needed = [field.name for field in own if field.default is MISSING is field.default_factory]
    return "peak" in {field.name for field in own} and needed in ([], ["peak"])


def in_default_set(name: str, task: Task | None = None) -> bool:
    """Whether the planner of that name is one of "all": it needs neither forks nor an optimizer of its own.

    For a task it must also have settings that suit it.

    Raises:
        UserError: see `find_planner`.
    """
    kind = find_planner(name)
    plain = not isinstance(kind, Forking | OwnOptimizer) and isinstance(kind, Tunable)
    return plain and (task is None or task_settings(name, task) is not None)


def candidates(planner: type[Planner], rates: Sequence[float]) -> list[Planner]:
    """The settings that a sweep tries, one for each peak rate.

    Raises:
        UserError: the planner offers none, or more or fewer, which would give it another budget than its rivals.
    """
    name = planner.__name__
    if not isinstance(planner, Tunable):
        raise UserError(f"planner {name} cannot be tuned: it has no `candidates`, see lr_env.capabilities")
    offered = list(planner.candidates(rates))
    if len(offered) != len(rates):
        raise UserError(
            f"planner {name} offers {len(offered)} settings for {len(rates)} peak rates: "
            "`candidates` must return one for each, so that a sweep makes as many runs of every planner"
        )
    if any(setting in offered[:index] for index, setting in enumerate(offered)):
        raise UserError(f"planner {name} offers the same setting twice for {list(rates)}")
    return offered


def matched_control(name: str, original: Planner) -> Planner:
    """The control of that name that takes over the settings of a planner.

    Raises:
        UserError: it is no control; see also `find_planner`.
    """
    kind = find_planner(name)
    if not isinstance(kind, Control):
        raise UserError(f"planner {name!r} is no control of another one")
    return kind.matched(original)


def tuner_names() -> list[str]:
    """Names of all installed tuners, in alphabetical order."""
    return sorted(declared(TUNERS))


def find_tuner(name: str) -> Tuner:
    """The tuner of that name, which may be followed by settings: "latent-ode:design=paper".

    Raises:
        UserError: there is none, it has no such setting, or the package that declares it cannot be loaded.
    """
    base, _, text = name.partition(":")
    tuner = load(TUNERS, "tuner", base)()
    if not isinstance(tuner, Tuner) or tuner.name != base:
        raise UserError(f"tuner {base!r} is no lr_env.tuner.Tuner of that name: mend the package that declares it")
    if not text:
        return tuner
    there = {field.name for field in fields(cast("Any", tuner))} - {"name"} if is_dataclass(tuner) else set()
    settings: dict[str, str] = {part.partition("=")[0]: part.partition("=")[2] for part in text.split(",")}
    for setting in settings:
        if setting not in there:
            raise unknown(f"setting of tuner {base!r}", setting, there)
    return replace(cast("Any", tuner), name=name, **settings)


def find_variants(name: str) -> Variants:
    """What makes further planners of the runs of a tuner, by name; see `lr_env.tuner.Variants`.

    Raises:
        UserError: there is none, or the package that declares it cannot be loaded.
    """
    return load(VARIANTS, "kind of variants", name)
