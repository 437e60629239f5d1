"""A controller trained by proximal policy optimisation, at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lr_env.env.observations import FEATURES
from lr_env.planner import RunSpec, Signals, State
from planners.ppo.policy import Policy, find_policy
from planners.reactive import Reactive
from planners.settings import TuningVariants
from planners.weights import FromWeights


@dataclass(frozen=True)
class PPO(FromWeights, Reactive):
    """A trained network that raises and lowers the rate by what it sees, at most by a few percent a decision.

    It starts at the peak and takes the most likely action. Origin: arXiv:1909.09712 (Xu, Dai, Kemp & Metz 2019), whose
    state, actions and sizes it has, with the errors of a public copy mended: the change of predictions is measured on
    the same examples, actions are symmetric in the log of the rate, and rates stay in the task's range. Trained with
    `lr-env train-ppo TASK` (see `planners.ppo.training`), on any task, and run on that or another.

    Attributes:
        policy: a .safetensors file, or the name of a policy that is shipped.
    """

    name = "ppo"
    weights_field = "policy"
    needs = frozenset({"step", *(feature.signal for feature in FEATURES)})
    tuning_variants: ClassVar[TuningVariants] = ({},)
    policy: str = "DigitsMLP"

    @property
    def trained(self) -> Policy:
        """The network."""
        return find_policy(self.policy)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """The state before the first segment.

        Raises:
            UserError: there is no such policy or no decision to make, or the peak is outside the task's range.
        """
        return {**super().start(run, seeds), "policy": self.fingerprint}

    def react(self, state: Mapping[str, Any], signals: Signals) -> Mapping[str, Any]:
        """The rate times what the network says."""
        policy = self.check_unchanged(state)
        return {"lr": state["lr"] * policy.factors({name: np.asarray(signals[name]) for name in self.needs})}
