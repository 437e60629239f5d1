"""The tuning budget: how good the planners are that tuners select after given numbers of runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lr_env.errors import UserError, check_seeds, unknown
from lr_env.runs.options import Counts, Names, Reference, Seeds, parse_names
from lr_env.seeds import COMPARISON, PER_REPEAT, TUNERS

if TYPE_CHECKING:
    from lr_env.runs.lab import Lab
    from lr_env.studies.tuning_budget.report import BudgetCurve
    from lr_env.tasks import Task

MOST_RUNS = PER_REPEAT
"""Runs that a tuner has at most: it may make each on a seed of its own."""


REPEATS = len(TUNERS) // PER_REPEAT
"""Repeats that have seeds of their own."""


def check_margin(margin: float) -> None:
    """Check the largest difference that does not matter.

    Raises:
        UserError: it is below 0, or not finite.
    """
    if not 0 <= margin < math.inf:
        raise UserError(f"margin {margin:g}: give a difference of at least 0, e.g. 0.002")


@dataclass(frozen=True)
class TuningBudget:
    """Let tuners spend 10, 20, 40 ... runs on choosing a planner, several times, and run what they chose.

    Tuners: wsd and random (Sobol sequences over one or all families of schedules), wsd-tpe and tpe (Optuna's
    tree-structured Parzen estimator over the same), coarse-to-fine (one planner: a Sobol sequence, a finer search
    around the best, then the best again on further seeds), multi-power-law (the same for WSD schedules, with schedules
    under a fitted law as the finer search), pbt and pb2 (a population in lockstep, whose worst members go on from
    copies of the best), latent-ode (an adaptive sweep and the planner), direct (a search over knots of the rate by real
    training) and latent-ode-generative (the published planner). Settings of a tuner follow its name, as in
    coarse-to-fine:planner=cosine-warmup and latent-ode:design=paper (also random, mixed, wsd).
    """

    label: ClassVar[str] = "tuning-budget"

    tuners: Names = ("latent-ode", "wsd", "wsd-tpe", "random", "tpe")
    """Tuners, by name."""
    runs: Counts = (10, 20, 40, 100)
    """Numbers of runs after which each tuner chooses. A later start under the same name may add larger ones."""
    repeats: int = 5
    """Repeats of each procedure from the start, on other seeds."""
    seeds: Seeds = tuple(range(20))
    """Fresh seeds that the tuned planners are run on: how many (from 0 up), or a list 3,5,8."""
    variants: Names = ("controls",)
    """Further planners made of the same runs: controls and ablations (what each part of latent-ode is worth), sweep
    (the best run of each tuner, and the mean of its best three), or several of them. Of some tuners alone:
    sweep:wsd+latent-ode."""
    reference: Reference = None
    """Tuner that is run once with a budget of its own, e.g. direct:400, and relative to which regret is reported.
    Default: regret relative to the best tuned planner."""
    in_steps: str = ""
    """Tuner of schedules whose planners are run with fewer and with more steps as well, so that losses are told as
    steps: how many it would have needed for the same loss."""
    margin: float = 0.0
    """Largest difference of losses that does not matter, nats per example: smaller ones are told as equivalent."""
    first_repeat: int = 0
    """Number of the first repeat, on which the seeds of tuning runs depend: 10 repeats from 50 on have other seeds than
    those from 0 on."""

    def __post_init__(self) -> None:
        from lr_env.registry import find_tuner, find_variants
        from lr_env.tuner import Checking

        for field in ("tuners", "variants"):
            object.__setattr__(self, field, tuple(parse_names(getattr(self, field))))
        tuner, tuner_runs = self.reference or ("", 0)
        for name in (*self.tuners, *([tuner] if tuner else [])):
            find_tuner(name)
        if not self.runs or list(self.runs) != sorted(set(self.runs)) or self.runs[0] < 1:
            raise UserError(f"runs {list(self.runs)}: give rising numbers of runs, e.g. 10,20,40")
        if (most := max(*self.runs, tuner_runs)) > MOST_RUNS:
            raise UserError(f"{most} runs: a tuner has at most {MOST_RUNS:,}")
        check_margin(self.margin)
        if not (self.repeats >= 1 and self.first_repeat >= 0 and self.first_repeat + self.repeats <= REPEATS):
            raise UserError(f"{self.repeats} repeats from number {self.first_repeat} on: there are {REPEATS}, from 0")
        if not self.tuners or len(set(self.tuners)) < len(self.tuners) or not self.seeds:
            raise UserError("give at least one tuner, each once, and at least one seed")
        check_seeds(self.seeds, COMPARISON.stop)
        if self.reference and (tuner in self.tuners or tuner_runs < 1):
            raise UserError(f"reference {tuner!r}: give a tuner that is not among the others, and its runs")
        for kind, _, of in (name.partition(":") for name in self.variants):
            find_variants(kind)
            for tuned in of.split("+") if of else ():
                if tuned not in self.tuners:
                    raise unknown(f"tuner of variants {kind!r}", tuned, self.tuners)
        if self.in_steps and self.in_steps not in self.tuners:
            raise unknown("tuner of in-steps", self.in_steps, self.tuners)
        for name, _, runs in self.procedures:
            if isinstance(checking := find_tuner(name), Checking):
                checking.check(runs)

    @property
    def procedures(self) -> list[tuple[str, int, tuple[int, ...]]]:
        """Tuner, repeats, and numbers of runs after which it selects a planner."""
        reference = [(self.reference[0], 1, (self.reference[1],))] if self.reference else []
        return [*((name, self.repeats, self.runs) for name in self.tuners), *reference]

    def variants_of(self, tuner: str) -> list[str]:
        """The kinds of variants that a tuner has."""
        kinds = [name.partition(":") for name in self.variants]
        return [kind for kind, _, of in kinds if not of or tuner in of.split("+")]

    @property
    def spec(self) -> dict[str, Any]:
        """What the results depend on. The default variants are left out: earlier versions had no others."""
        tuner, runs = self.reference or ("", 0)
        spec = {
            "tuners": self.tuners,
            "runs": self.runs,
            "repeats": self.repeats,
            "seeds": self.seeds,
            "ceiling": tuner,
            "ceiling_runs": runs,
        }
        spec |= {} if self.variants == ("controls",) else {"variants": self.variants}
        return spec | ({"first_repeat": self.first_repeat} if self.first_repeat else {})

    @property
    def num_runs(self) -> int:
        """The number of all runs, if every tuner has one planner at a time; its variants come on top."""
        tuned = sum(repeats * len(runs) for _, repeats, runs in self.procedures)
        return sum(repeats * runs[-1] for _, repeats, runs in self.procedures) + tuned * len(self.seeds)

    def child_steps(self, task: Task) -> int:
        """Optimizer steps of all runs."""
        return self.num_runs * task.budget

    def run(self, lab: Lab) -> BudgetCurve:
        """Tune, and run the tuned planners."""
        from lr_env.studies.tuning_budget.procedure import run_procedures

        return run_procedures(self, lab)
