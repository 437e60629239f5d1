"""The planner `ppo`: a controller trained by proximal policy optimisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lr_env.env.observations import FEATURES
from lr_env.planner import RunSpec, Signals, State
from planners.ppo.policy import POLICIES, Policy
from planners.reactive import Reactive
from planners.settings import TuningVariants
from planners.weights import FromWeights


@dataclass(frozen=True)
class PPO(FromWeights, Reactive):
    """A neural network, trained by reinforcement learning, changes the rate by a few percent after each segment.

    It reads losses, accuracy, predictions and weights of the run. It starts at the peak and takes the most likely
    action. `lr-env train-ppo TASK` trains one, and `--family NAME` one on many tasks; either can be used on any task.
    Origin: arXiv:1909.09712 (Xu, Dai, Kemp & Metz 2019), with its state, actions and sizes. Errors of a public
    implementation are corrected: the change of the predictions is measured on the same examples, actions are symmetric
    in the log rate, and rates stay in the task's range.

    Attributes:
        peak: the initial rate; the rate may rise above it.
        policy: the trained network: a .safetensors file, or the name of a policy that is shipped.
    """

    name = "ppo"
    weights_field = "policy"
    needs = frozenset({"step", *(feature.signal for feature in FEATURES)})
    tuning_variants: ClassVar[TuningVariants] = ({},)
    policy: str = "DigitsMLP"

    @property
    def may_be_missing(self) -> frozenset[str]:
        """No signal, for the network reads all of them."""
        return frozenset()

    @property
    def trained(self) -> Policy:
        """The trained network."""
        return POLICIES.find(self.policy)

    def start(self, run: RunSpec, seeds: Sequence[int]) -> State:
        """Return the state before the first segment.

        Raises:
            UserError: there is no such policy, the run has no segment, or the peak is outside the task's range.
        """
        return {**super().start(run, seeds), "policy": self.fingerprint}

    def react(self, state: Mapping[str, Any], signals: Signals) -> Mapping[str, Any]:
        """Return the rate times the factor that the network chooses."""
        policy = self.check_unchanged(state)
        return {"lr": state["lr"] * policy.factors({name: np.asarray(signals[name]) for name in self.needs})}
