"""The Gymnasium environments: one run, and N runs in lockstep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lr_env import observations
from lr_env.episodes import Episodes, Outcome
from lr_env.errors import UserError
from lr_env.planner import RunSpec
from lr_env.tasks import Task

Info = dict[str, Any]


class LREnv(gymnasium.Env[Any, Any]):
    """Training one network; each step sets the learning rate of the next segment.

    ## Action
    | kind (`action=`) | space | meaning |
    |---|---|---|
    | "lr" (default) | Box(1e-10, 10, ()) | the learning rate of the next segment, in the task's `lr_range` |
    | "scale" | Box(-1, 1, (1,)) | changes the log of the rate by action * log(max_change) |
    | "discrete" | Discrete(3) | 0 divides the rate by max_change, 1 keeps it, 2 multiplies it |

    Besides what the space holds, "lr" takes an array of `segment` rates, one for each step of the segment.
    "scale" and "discrete" start from the task's `lr_start`, or from `reset(options={"lr": ...})`, and stay in range.

    ## Observation
    Box of shape (9,), float32, always finite; values beyond a bound are clipped to it. `lr_env.FEATURES` is this table
    in code.

    | feature | unit | low | high |
    |---|---|---|---|
    | log_train_loss: mean over the last segment (at reset: of the first batch) | log nats/example | -28 | 10 |
    | log_val_loss: on the task's validation subset | log nats/example | -28 | 10 |
    | val_accuracy: on the same | fraction | 0 | 1 |
    | log_lr: of the last step | log of the rate | -28 | 10 |
    | progress: optimizer steps over the budget | fraction | 0 | 1 |
    | log_prediction_variance: variance of the logits | log logit^2 | -28 | 28 |
    | log_prediction_change: variance of the logits' change over the segment | log logit^2 | -28 | 28 |
    | output_weight_mean | weight | -10 | 10 |
    | log_output_weight_variance | log weight^2 | -28 | 28 |

    ## Reward
    From validation data only. "improvement" (default): drop of the log validation loss over the segment, which adds up
    to log(first) - log(last). "neg_val_loss": minus the validation loss. "final": minus the loss on the whole
    validation split when the run ends, 0 before.

    ## Start
    `reset(seed=s)` starts the child with seed s: its initial weights and its batches follow from s alone. Later resets
    without a seed draw the child's seed from the environment's own generator, which s has seeded. No global generator
    is touched. `info["seed"]` tells the seed.

    ## End
    Terminated when the run has diverged: a loss that is not finite, or above 10 times the validation loss of the
    untrained child. That multiple is then its validation loss, in signals, reward and scores. Truncated when the
    budget is spent.

    ## Info
    The signals (`step`, `progress`, `lr`, `train_loss`, `val_loss`, ...), `diverged`, `seed`, and at the end of a run
    `final_val_loss`, `final_val_accuracy`, `test_loss`, `test_accuracy` on the whole splits (see `score`), and with
    "flatness" in `score` `hessian_max` and `hessian_trace` of the training loss (NaN for a run that diverged).

    ## Arguments
    task: name in `lr_env.TASKS`, or a `Task`. budget, segment: optimizer steps, in place of the task's own.
    action, max_change (1.05), reward: as above. start_rates (): rates of which each run starts from one, drawn from its
    seed, for relative actions. noise (0): standard deviation of Gaussian noise on the log of the rates asked for.
    score (("val", "test")): what is measured at the end of a run, of "val", "test" and "flatness"; `()` saves the time
    in reinforcement learning. device ("cpu"), backend ("auto"): see `lr_env.Children`. numerics (`lr_env.Numerics()`):
    precision, determinism, order of convolutions' kernels.

    ## Versions
    v0: first release.

    Raises:
        UserError: (a `ValueError`) bad arguments, or an action outside the space; one line that names the fix.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as gymnasium.Env declares it)

    def __init__(self, task: str | Task = "DigitsMLP", *, render_mode: None = None, **settings: Any) -> None:
        self.render_mode = render_mode
        self.episodes = Episodes(task, 1, **settings)
        self.action_space = self.episodes.action_space
        self.observation_space = observations.space()

    @property
    def task(self) -> Task:
        """What is trained."""
        return self.episodes.task

    @property
    def run_spec(self) -> RunSpec:
        """What a planner may know beforehand."""
        return self.episodes.run_spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start a run; see the class. `options={"lr": 0.03}` sets the rate that relative actions start from."""
        super().reset(seed=seed)
        child_seed = _child_seed(self.np_random) if seed is None else seed
        self.episodes.start([0], [child_seed], (options or {}).get("lr"))
        return self.episodes.observe()[0], _single_info(_infos(self.episodes))

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        """Train one segment at the rate that the action asks for."""
        if self.episodes.started.all() and self.episodes.over.all():
            raise UserError("the run is over: call reset() to start another")
        actions = np.asarray(action)[None] if np.ndim(action) != 1 or np.size(action) != 1 else action
        outcome = self.episodes.step(actions)
        info = _single_info({**_infos(self.episodes), **_ended(outcome)})
        return (
            self.episodes.observe()[0],
            float(outcome.rewards[0]),
            bool(outcome.terminated[0]),
            bool(outcome.truncated[0]),
            info,
        )

    def snapshot(self) -> dict[str, Any]:
        """Everything that the future depends on."""
        return {"episodes": self.episodes.snapshot(), "generator": self.np_random.bit_generator.state}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to where a snapshot of this kind of environment was taken."""
        self.episodes.restore(snapshot["episodes"])
        self.np_random.bit_generator.state = snapshot["generator"]


class LRVectorEnv(VectorEnv[Any, Any, Any]):
    """N runs of one task in lockstep, as one computation: `LREnv` for N seeds at once.

    Actions, observations, rewards, ends and arguments are those of `LREnv`, with a leading axis (num_envs,). Run i of
    `reset(seed=s)` is the run of `LREnv` under seed s + i, up to float rounding.

    Autoreset is SAME_STEP by default: a run that ends is started again in the same step, with the next seed from its
    own generator; `infos["final_obs"]` and `infos["final_info"]` hold how it ended. (Under NEXT_STEP a finished child
    would sit out a segment that its neighbours train: it is not offered.) With `autoreset_mode="Disabled"` a run that
    has ended rests, with reward 0 and its flags kept, until `reset(options={"reset_mask": mask})`, which starts the
    runs in the mask, in either mode, and leaves the others alone.

    Infos are arrays (num_envs,) with masks `_name`, as in Gymnasium's own vector environments.
    """

    def __init__(
        self,
        task: str | Task = "DigitsMLP",
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: None = None,
        **settings: Any,
    ) -> None:
        try:
            mode = AutoresetMode(autoreset_mode)
        except ValueError:
            mode = AutoresetMode.NEXT_STEP
        if mode == AutoresetMode.NEXT_STEP:
            raise UserError(f"autoreset_mode {autoreset_mode!r} is not offered: use 'SameStep' or 'Disabled'")
        self.metadata = {"render_modes": [], "autoreset_mode": mode}
        self.render_mode = render_mode
        self.episodes = Episodes(task, num_envs, **settings)
        self.num_envs = num_envs = self.episodes.num_envs
        self.single_action_space = self.episodes.action_space
        self.single_observation_space = observations.space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._same_step = mode == AutoresetMode.SAME_STEP
        self._generators: list[np.random.Generator] = []
        self._ended = np.zeros((2, num_envs), dtype=bool)  # terminated and truncated, of runs that rest

    @property
    def task(self) -> Task:
        """What is trained."""
        return self.episodes.task

    @property
    def run_spec(self) -> RunSpec:
        """What a planner may know beforehand."""
        return self.episodes.run_spec

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start runs.

        Args:
            seed: of run 0, the others count up from it; or one for each run; None goes on with each run's generator.
            options: "reset_mask", a bool array (num_envs,): which runs to start (all by default); "lr", one rate or
                one for each run started: what relative actions start from.

        Raises:
            UserError: as many seeds or flags as there are runs were not given.
        """
        options = options or {}
        rows = self._rows(options.get("reset_mask"))
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = [None if one is None else int(one) for one in seed]
        if len(seeds) != self.num_envs:
            raise UserError(f"{len(seeds)} seeds for {self.num_envs} environments: give one for each")
        if not self._generators:
            self._generators = [seeding.np_random(None)[0] for _ in range(self.num_envs)]
        child_seeds = []
        for row in rows:
            own = seeds[row]
            if own is not None:
                self._generators[row] = seeding.np_random(own)[0]
            child_seeds.append(_child_seed(self._generators[row]) if own is None else own)
        self.episodes.start(rows, child_seeds, options.get("lr"))
        self._ended[:, rows] = False
        return self.episodes.observe(), _masked(_infos(self.episodes), np.ones(self.num_envs, dtype=bool))

    def step(
        self, actions: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Train one segment of every run at the rates that the actions ask for."""
        outcome = self.episodes.step(actions)
        everyone = np.ones(self.num_envs, dtype=bool)
        ended = outcome.terminated | outcome.truncated
        final = _masked(_ended(outcome), ended) if ended.any() else {}
        if not self._same_step:
            self._ended |= [outcome.terminated, outcome.truncated]
            infos = {**_masked(_infos(self.episodes), everyone), **final}
            terminated, truncated = self._ended.copy()
            return self.episodes.observe(), outcome.rewards, terminated, truncated, infos
        infos: Info = {}
        if ended.any():
            rows = np.flatnonzero(ended).tolist()
            observed = self.episodes.observe()
            # An object array filled one by one: from a list numpy would make a 2-D array when all runs end together.
            final_obs = np.full(self.num_envs, None, dtype=object)
            for row in rows:
                final_obs[row] = observed[row].copy()
            infos["final_obs"], infos["_final_obs"] = final_obs, ended.copy()
            infos["final_info"] = {**_masked(_infos(self.episodes), ended), **final}
            infos["_final_info"] = ended.copy()
            self.episodes.start(rows, [_child_seed(self._generators[row]) for row in rows])
        infos.update(_masked(_infos(self.episodes), everyone))
        return self.episodes.observe(), outcome.rewards, outcome.terminated, outcome.truncated, infos

    def snapshot(self) -> dict[str, Any]:
        """Everything that the future depends on."""
        return {
            "episodes": self.episodes.snapshot(),
            "ended": self._ended.copy(),
            "generators": [generator.bit_generator.state for generator in self._generators],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to where a snapshot of an environment of the same size was taken."""
        self.episodes.restore(snapshot["episodes"])
        self._ended = snapshot["ended"].copy()
        self._generators = [seeding.np_random(None)[0] for _ in snapshot["generators"]]
        for generator, state in zip(self._generators, snapshot["generators"], strict=True):
            generator.bit_generator.state = state

    def _rows(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise UserError(f"reset_mask must be a bool array ({self.num_envs},) with at least one True")
        return np.flatnonzero(mask).tolist()


def _child_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31))


def _infos(episodes: Episodes) -> Info:
    return {
        **{name: values.copy() for name, values in episodes.signals.items()},
        "diverged": episodes.diverged.copy(),
        "seed": episodes.children.seeds.copy(),
    }


def _ended(outcome: Outcome) -> Info:
    return {name: values.copy() for name, values in outcome.scores.items()}


def _single_info(infos: Info) -> Info:
    return {name: values[0].item() for name, values in infos.items()}


def _masked(infos: Info, mask: NDArray[np.bool_]) -> Info:
    """Infos as Gymnasium's vector environments give them: 0 and a False mask where there is nothing to tell."""
    masked: Info = {}
    everyone = bool(mask.all())
    for name, values in infos.items():
        masked[name] = values if everyone else np.where(mask, values, np.zeros((), values.dtype))
        masked[f"_{name}"] = mask.copy()
    return masked
