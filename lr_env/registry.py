"""Find planners, tuners, studies, commands, engines and benchmarks by name, by entry points of installed packages.

Another package adds one by declaring it in an entry-point group, such as `lr_env.planners`. All functions raise a
`UserError` for a name that no package declares, and where the package that declares it cannot be loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from lr_env.capabilities import Control, Forking, OwnOptimizer, RenamedSettings, TaskSpecific, Tunable
from lr_env.entry_points import declared, load
from lr_env.errors import UserError, unknown
from lr_env.planner import Planner
from lr_env.tuner import Tuner, Variants

if TYPE_CHECKING:
    from lr_env.tasks import Task

PLANNERS, TUNERS, VARIANTS = "lr_env.planners", "lr_env.tuners", "lr_env.variants"
COMMANDS, STUDIES, BENCHMARKS, ENGINES = "lr_env.commands", "lr_env.studies", "lr_env.benchmarks", "lr_env.engines"


def planner_names() -> list[str]:
    """Return the names of all installed planners, in alphabetical order."""
    return sorted(declared(PLANNERS))


def find_planner(name: str) -> type[Planner]:
    """Return the planner class of that name.

    Raises:
        UserError: it does not meet the contract.
    """
    kind = load(PLANNERS, "planner", name)
    where = declared(PLANNERS)[name].value
    missing = [part for part in ("name", "needs", "start", "plan") if not hasattr(kind, part)]
    if missing:
        raise UserError(f"planner {name!r} ({where}) has no {missing[0]!r}: see lr_env.planner.Planner")
    if kind.name != name:
        raise UserError(f"planner {name!r} ({where}) calls itself {kind.name!r}: make the two names equal")
    return kind


def make_planner(name: str, settings: Mapping[str, Any]) -> Planner:
    """Make the planner of that name with settings, which may have their earlier names, as in older records.

    Raises:
        UserError: it has no such setting, or it needs one that is missing.
    """
    kind = find_planner(name)
    settings = current_settings(name, settings)
    check_settings(name, settings)
    try:
        return cast("Callable[..., Planner]", kind)(**settings)
    except TypeError as error:
        raise UserError(f"planner {name!r}: {error}; give its settings with --set") from None


def with_settings(planner: Planner, settings: Mapping[str, Any]) -> Planner:
    """Return a copy of a planner with some settings replaced."""
    return replace(cast("Any", planner), **settings)


def setting_defaults(name: str) -> dict[str, Any]:
    """Return a dict setting -> default of the planner of that name; `dataclasses.MISSING` where there is no default."""
    kind = find_planner(name)
    return {field.name: field.default for field in fields(kind) if field.init} if is_dataclass(kind) else {}


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Check that the planner of that name has such settings.

    Raises:
        UserError: it does not, or one has another name now.
    """
    defaults = setting_defaults(name)
    for setting, value in settings.items():
        if setting not in defaults:
            now = ", ".join(f"{new}={it}" for new, it in current_settings(name, {setting: value}).items())
            if now and setting not in current_settings(name, {setting: value}):
                raise UserError(f"setting {setting!r} of planner {name!r} has another name now: give {now}")
            raise UserError(f"planner {name!r} has no setting {setting!r}: see `lr-env planners {name}`")


def current_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings of a planner under their current names, or as they are if it is not installed."""
    kind = find_planner(name) if name in declared(PLANNERS) else None
    return kind.current_settings(settings) if isinstance(kind, RenamedSettings) else dict(settings)


def task_settings(name: str, task: Task) -> Mapping[str, Any] | None:
    """Return the settings that a planner needs for a task; None if it is of no use for the task without others."""
    kind = find_planner(name)
    return kind.for_task(task) if isinstance(kind, TaskSpecific) else {}


def has_peak(name: str) -> bool:
    """Return whether the planner of that name has a peak rate, and needs no other setting."""
    kind = find_planner(name)
    settings = [field for field in fields(kind) if field.init] if is_dataclass(kind) else []
    required = [field.name for field in settings if field.default is MISSING is field.default_factory]
    return "peak" in {field.name for field in settings} and required in ([], ["peak"])


def in_default_set(name: str, task: Task | None = None) -> bool:
    """Return whether the planner of that name is in "all": it needs no forks and does not replace the optimizer.

    With a task, it must also have settings for it, e.g. a fitted model.
    """
    kind = find_planner(name)
    plain = not isinstance(kind, Forking | OwnOptimizer) and isinstance(kind, Tunable)
    return plain and (task is None or task_settings(name, task) is not None)


def candidates(planner: type[Planner], rates: Sequence[float]) -> list[Planner]:
    """Return the settings that a sweep tries, one for each peak rate.

    Raises:
        UserError: the planner offers none, or not exactly one for each rate, so that its tuning budget would differ.
    """
    name = planner.__name__
    if not isinstance(planner, Tunable):
        raise UserError(f"planner {name} cannot be tuned: it has no `candidates`, see lr_env.capabilities")
    offered = list(planner.candidates(rates))
    if len(offered) != len(rates):
        raise UserError(
            f"planner {name} offers {len(offered)} settings for {len(rates)} peak rates: "
            "`candidates` must return one for each, so that every planner has the same number of tuning runs"
        )
    if any(setting in offered[:index] for index, setting in enumerate(offered)):
        raise UserError(f"planner {name} offers the same setting twice for {list(rates)}")
    return offered


def matched_control(name: str, original: Planner) -> Planner:
    """Return the control of that name with the settings of another planner.

    Raises:
        UserError: it is not a control.
    """
    kind = find_planner(name)
    if not isinstance(kind, Control):
        raise UserError(f"planner {name!r} is not a control of another one")
    return kind.matched(original)


def tuner_names() -> list[str]:
    """Return the names of all installed tuners, in alphabetical order."""
    return sorted(declared(TUNERS))


def find_tuner(name: str) -> Tuner:
    """Return the tuner of that name, which may be followed by settings: "latent-ode:design=paper".

    Raises:
        UserError: it has no such setting.
    """
    base, _, text = name.partition(":")
    tuner = load(TUNERS, "tuner", base)()
    if not isinstance(tuner, Tuner) or tuner.name != base:
        raise UserError(f"tuner {base!r} is no lr_env.tuner.Tuner of that name: repair the package that declares it")
    if not text:
        return tuner
    own = fields(cast("Any", tuner)) if is_dataclass(tuner) else ()
    names = {field.name for field in own if field.type in (str, "str")} - {"name"}
    settings: dict[str, str] = {part.partition("=")[0]: part.partition("=")[2] for part in text.split(",")}
    for setting in settings:
        if setting not in names:
            raise unknown(f"setting of tuner {base!r}", setting, names)
    return replace(cast("Any", tuner), name=name, **settings)


def find_variants(name: str) -> Variants:
    """Return the variants of that name: a function that makes further planners from a tuner's runs."""
    return load(VARIANTS, "kind of variants", name)
