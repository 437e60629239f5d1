"""Search with Optuna in a training script of one's own: planners as suggestions of a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import isfinite
from typing import Any, Protocol, cast

from lr_env.capabilities import Forking, OwnOptimizer, Searchable, SettingRange
from lr_env.errors import UserError, refuse_duplicates
from lr_env.planner import Planner
from lr_env.registry import find_planner, has_peak, planner_names

FAMILY, PEAK = "planner", "peak"
"""Parameters of a trial that all families share. The settings of a family are called FAMILY.SETTING."""


class Trial(Protocol):
    """What is used of `optuna.Trial`."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of some choices."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number of a range."""
        ...


def searched_families() -> tuple[str, ...]:
    """The names of all installed planners that say which values of their settings a search should try."""
    return tuple(name for name in planner_names() if isinstance(find_planner(name), Searchable))


@dataclass(frozen=True)
class SearchSpace:
    """Planners that a search over rates tries, and the values of their settings.

    Attributes:
        families: names of planners.
        lr_range: smallest and largest peak rate.

    Raises:
        UserError: the range is none; there are no planners; or one is unknown, is given twice, has no peak rate, needs
            forks, or brings an optimizer along.
    """

    families: tuple[str, ...]
    lr_range: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.lr_range
        if not (isfinite(high) and 0 < low < high):
            raise UserError(f"lr_range {low:g} to {high:g}: give two finite rates, 0 < low < high")
        if not self.families:
            raise UserError("no planners to search: name at least one, e.g. wsd")
        refuse_duplicates("planner", self.families)
        for name, kind in self.kinds.items():
            if not has_peak(name):
                raise UserError(f"planner {name!r} has no peak rate that could be searched: leave it out")
            if isinstance(kind, Forking):
                raise UserError(f"planner {name!r} tries rates on forks of its runs: leave it out of the search")
            if isinstance(kind, OwnOptimizer):
                raise UserError(f"planner {name!r} brings an optimizer of its own: leave it out of the search")

    @cached_property  # finding a planner reads the metadata of every installed package
    def kinds(self) -> dict[str, type[Planner]]:
        """Name -> class of each planner."""
        return {name: find_planner(name) for name in self.families}

    def ranges(self, family: str) -> Mapping[str, SettingRange]:
        """Return the settings of a planner that are searched besides the peak."""
        kind = self.kinds[family]
        return kind.search_ranges if isinstance(kind, Searchable) else {}

    def at(self, family: str, peak: float, share: float) -> Planner:
        """Return a planner whose settings all lie at the same share of their ranges."""
        return self._make(family, peak, {name: values.at(share) for name, values in self.ranges(family).items()})

    def suggest(self, trial: Trial) -> Planner:
        """Return the planner that a trial suggests."""
        family = trial.suggest_categorical(FAMILY, self.families)
        peak = trial.suggest_float(PEAK, *self.lr_range, log=True)
        settings = {
            name: trial.suggest_float(f"{family}.{name}", values.low, values.high, log=values.log)
            for name, values in self.ranges(family).items()
        }
        return self._make(family, peak, settings)

    def _make(self, family: str, peak: float, settings: Mapping[str, float]) -> Planner:
        return cast("Callable[..., Planner]", self.kinds[family])(peak=peak, **settings)


def suggest(
    trial: Trial, lr_range: tuple[float, float] = (1e-4, 1.0), families: Sequence[str] | None = None
) -> Planner:
    """Suggest a planner in the objective of an Optuna study: its family, its peak rate and its other settings.

    The settings of a family that a search should try are its `search_ranges` (see `lr_env.capabilities.Searchable`);
    planners without them are tried at their default settings.

    Args:
        trial: the trial.
        lr_range: smallest and largest peak rate; peaks are spread evenly in their logarithm.
        families: names of planners, see `lr-env planners`; by default all with `search_ranges`.

    Returns:
        A planner, e.g. for `planners.torch_scheduler.PlannerLR`.

    Raises:
        UserError: the range is none, or a planner cannot be searched; see `SearchSpace`.

    >>> import optuna, torch
    >>> from planners.torch_scheduler import PlannerLR
    >>> def objective(trial):
    ...     weight = torch.nn.Parameter(torch.ones(1))
    ...     optimizer = torch.optim.SGD([weight], lr=0.1)
    ...     planner = suggest(trial, lr_range=(1e-3, 1), families=("wsd", "cosine-warmup"))
    ...     scheduler = PlannerLR(optimizer, planner, budget=20)
    ...     for _ in range(20):
    ...         optimizer.zero_grad()
    ...         loss = weight.square().sum()
    ...         loss.backward()
    ...         optimizer.step()
    ...         scheduler.step()
    ...     return loss.item()
    >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
    >>> study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    >>> study.optimize(objective, n_trials=20)
    >>> 1e-3 <= study.best_params["peak"] <= 1
    True
    >>> study.best_params["planner"] in ("wsd", "cosine-warmup")
    True
    """
    low, high = lr_range
    return _space(None if families is None else tuple(families), (low, high)).suggest(trial)


@cache  # for the next trial
def _space(families: tuple[str, ...] | None, lr_range: tuple[float, float]) -> SearchSpace:
    return SearchSpace(searched_families() if families is None else families, lr_range)
