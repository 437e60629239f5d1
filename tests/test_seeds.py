"""The table of seeds: nothing is chosen by seeds that it is judged on."""

from __future__ import annotations

from itertools import combinations

from lr_env import seeds
from lr_env.studies.comparison.study import Comparison
from lr_env.studies.robustness.study import Robustness
from lr_env.studies.tuning_budget.study import TuningBudget
from planners.latent_ode.sweep.sweep import Sweep


def test_no_two_ranges_share_a_seed():
    for one, other in combinations(seeds.DISJOINT, 2):
        assert one.stop <= other.start or other.stop <= one.start


def test_studies_take_their_seeds_from_the_table():
    comparison = Comparison()
    assert set(comparison.seeds) < set(seeds.COMPARISON)
    assert set(comparison.tune_seeds) < set(seeds.TUNING[:10])
    for study in (TuningBudget(), Robustness()):
        assert set(study.seeds) < set(seeds.COMPARISON)
    for seed in (0, 999):
        of_sweep = Sweep("wsd", 5_000, (0.01, 0.1), seed).seeds
        assert seeds.SWEEPS.start <= min(of_sweep) <= max(of_sweep) < seeds.SWEEPS.stop
