"""The Gymnasium environments: one run, and N runs in lockstep."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lr_env.children.children import check_seeds
from lr_env.children.snapshots import check_keys
from lr_env.copies import Copied
from lr_env.env import observations
from lr_env.env.episodes import Episodes, check_arguments
from lr_env.env.rendering import FPS, Rendering
from lr_env.errors import UserError, unknown
from lr_env.isolation import isolating
from lr_env.jsonable import to_plain
from lr_env.planner import RunSpec
from lr_env.tasks import Task

Info = dict[str, Any]

NOT_YET = -1.0
"""Scores of a run that has not ended. No loss or accuracy is negative, and some software does not accept NaN."""


class _Base(Copied):
    """Base class of both environments: checks of their arguments, their spec as JSON, task, infos and pictures.

    Attributes:
        episodes: the runs.
        render_mode: one of the class's `metadata["render_modes"]`, or None.
    """

    episodes: Episodes
    metadata: dict[str, Any]
    _spec: EnvSpec | None = None
    _rendering: Rendering | None = None

    def _start(self, task: str | Task, num_envs: int, render_mode: str | None, settings: Mapping[str, Any]) -> None:
        names = [name for name in inspect.signature(type(self)).parameters if name != "settings"]
        check_arguments(type(self), [*settings], names)
        self.render_mode = render_mode
        if render_mode is not None:
            self._rendering = Rendering(render_mode, num_envs, self.metadata["render_modes"])
        self.episodes = Episodes(task, num_envs, **settings)

    @property
    def spec(self) -> EnvSpec | None:
        """The spec with which Gymnasium made the environment; tasks and other objects are JSON-able dicts."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = spec if spec is None else replace(spec, kwargs=to_plain(spec.kwargs))

    @property
    def task(self) -> Task:
        """The task that is trained."""
        return self.episodes.task

    @property
    def run_spec(self) -> RunSpec:
        """The facts about a run that a planner may know before it starts."""
        return self.episodes.run_spec

    def _follow(self) -> None:
        """Add what was measured to the curves that are drawn."""
        if self._rendering is not None:
            self._rendering.follow(self.episodes)

    def _frames(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Draw all runs; None where nothing is to be drawn, or it is on the screen."""
        if self._rendering is None:
            gymnasium.logger.warn('render() draws nothing: make the environment with render_mode="rgb_array"')
            return None
        return None if self.render_mode == "human" else self._rendering.frames(self.episodes)

    def _close_pictures(self) -> None:
        if self._rendering is not None:
            self._rendering.close()

    def _curves(self) -> dict[str, Any]:
        """The part of a snapshot that is drawn."""
        return {} if self._rendering is None else {"curves": self._rendering.snapshot()}

    def _restore_curves(self, snapshot: Mapping[str, Any]) -> None:
        if self._rendering is not None:
            self._rendering.restore(snapshot.get("curves"), self.episodes)

    def _info(self) -> Info:
        """Return the infos of all runs; scores are still missing."""
        episodes = self.episodes
        return {
            **{name: values.copy() for name, values in episodes.signals.items()},
            "diverged": episodes.diverged.copy(),
            "seed": episodes.children.seeds.copy(),
            **{name: np.full(episodes.num_envs, NOT_YET) for name in episodes.score_names},
        }


class LREnv(_Base, gymnasium.Env[Any, Any]):  # pyright: ignore[reportIncompatibleVariableOverride]
    """The training of one network ("child"); each step sets the learning rate of the next segment and trains it.

    ## Action
    | kind (`action=`) | space | meaning |
    |---|---|---|
    | "lr" (default) | Box(1e-10, 10, (1,)) | the learning rate of the next segment, in the task's `lr_range` |
    | "log_lr" | Box(-1, 1, (1,)) | the rate on a log scale: -1 is the lowest rate in `lr_range`, 1 the highest |
    | "scale" | Box(-1, 1, (1,)) | changes the log of the rate by action * log(max_change) |
    | "discrete" | Discrete(3) | 0 divides the rate by max_change, 1 keeps it, 2 multiplies it by max_change |

    With "lr", a plain number is accepted, too, and an array of `segment` rates, one for each step. A rate that misses a
    bound by a rounding error of float32 is set to the bound; other rates outside the range are refused. "scale" and
    "discrete" start from the task's `lr_start`, or from `reset(options={"lr": ...})`, and stay in the range.

    With `groups=True`, an action "lr" has a rate for each layer or block of the network, Box(1e-10, 10, (groups,)), or
    (groups, segment) with one for each step; `env.unwrapped.run_spec.groups` names them, from the input to the output.
    The signal `lr` is the largest of them.

    ## Observation
    Box of shape (9,), float32, always finite; values outside the bounds are clipped. `lr_env.FEATURES` is this table in
    code.

    | feature | unit | low | high |
    |---|---|---|---|
    | log_train_loss: mean over the last segment (at reset: of the first batch) | log nats/example | -28 | 10 |
    | log_val_loss: on the task's validation subset | log nats/example | -28 | 10 |
    | val_accuracy: on the same subset | fraction | 0 | 1 |
    | log_lr: of the last step | log rate | -28 | 10 |
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
    `reset(seed=s)` starts the child with seed s, which determines its initial weights and its batches. Later resets
    without a seed draw the child's seed from the environment's own generator, which s has seeded. No global generator
    is used. `info["seed"]` is the seed.

    ## End
    `terminated` if the run has diverged: a loss is not finite, or above 10 times the validation loss of the untrained
    child. That multiple is then its validation loss, in signals, reward and scores. `truncated` if the budget is spent.

    ## Info
    The signals (`step`, `progress`, `lr`, `train_loss`, `val_loss`, ...), `diverged`, `seed`, and the scores at the end
    of a run, -1 before: `final_val_loss`, `final_val_accuracy`, `test_loss`, `test_accuracy` on the whole splits (see
    `score`), and with "flatness" in `score` `hessian_max` and `hessian_trace` of the training loss (NaN for a run that
    diverged). If a wrapper ends a run early, the environment does not know: `env.unwrapped.scores()` then scores the
    run as it is.

    ## Rendering
    `render_mode="rgb_array"`: `render()` draws the learning rate and the losses of the run so far, as an array (400,
    800, 3) of uint8, e.g. for Gymnasium's `RecordVideo`. "human": every reset and step shows them in a window, or in a
    notebook below the cell; without a display nothing, and one logged line says so. Drawing changes nothing of the run.
    What is drawn is part of copies and snapshots.

    ## Settings of the process
    Training neither reads nor changes the caller's settings of torch and numpy (see `lr_env.isolation`). Environments
    can be pickled and copied, and a copy continues exactly. A forked process computes with one thread, because the
    threads of its parent do not exist there. `env.spec.to_json()` includes a `Task` that was passed.

    ## Arguments
    task: name in `lr_env.TASKS`, or a `Task`. budget, segment: optimizer steps; default: the task's. lr_range: smallest
    and largest rate; default: the task's. max_episode_steps: segments after which a run is truncated. action, groups
    (False), max_change (1.05), reward: as above. start_rates (): initial rates for relative actions; each run draws one
    from its seed. noise (0): standard deviation of Gaussian noise on the log of the commanded rates. score (("val",
    "test")): the scores at the end of a run, of "val", "test" and "flatness"; `()` saves time in reinforcement
    learning. device ("cpu"), backend ("auto"): see `lr_env.Children`. numerics (`lr_env.Numerics()`): precision,
    determinism, memory format of convolutions.

    ## Versions
    v0: first release.

    Raises:
        UserError: (a `ValueError`) bad arguments, or an action outside the space; the message names the fix.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": FPS}  # noqa: RUF012 (as gymnasium.Env declares it)

    def __init__(self, task: str | Task = "DigitsMLP", *, render_mode: str | None = None, **settings: Any) -> None:
        self._start(task, 1, render_mode, settings)
        self.action_space = self.episodes.action_space
        self.observation_space = observations.space()

    @isolating
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start a run; see the class. `options={"lr": 0.03}` sets the initial rate for relative actions."""
        lr = _checked(options, ("lr",)).get("lr")
        seed = None if seed is None else _seed(seed)
        super().reset(seed=seed)
        child_seed = _child_seed(self.np_random) if seed is None else seed
        self.episodes.start([0], [child_seed], lr)
        self._follow()
        return self.episodes.observe()[0], _single_info(self._info())

    @isolating
    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        """Train one segment at the rate that the action commands."""
        if self.episodes.started.all() and self.episodes.ended.all():
            raise UserError("the run is over: call reset() to start another")
        actions = np.asarray(action)[None] if np.ndim(action) != 1 or np.size(action) != 1 else action
        outcome = self.episodes.step(actions)
        scores = outcome.scores if outcome.terminated | outcome.truncated else {}
        info = _single_info({**self._info(), **scores})
        self._follow()
        return (
            self.episodes.observe()[0],
            float(outcome.rewards[0]),
            bool(outcome.terminated[0]),
            bool(outcome.truncated[0]),
            info,
        )

    @isolating
    def scores(self) -> Info:
        """Score the run as it is, as at the end of a run; for wrappers that end a run early."""
        if not self.episodes.started.all():
            raise UserError("there is no run to score: call reset() first")
        return _single_info(self.episodes.scores(np.array([0])))

    @isolating
    def render(self) -> NDArray[np.uint8] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Draw the run so far, (height, width, 3); with "human", which shows it at every step, return None."""
        frames = self._frames()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Close the window, if there is one."""
        self._close_pictures()

    def snapshot(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, and what was drawn so far."""
        state = {"episodes": self.episodes.snapshot(), "generator": self.np_random.bit_generator.state}
        return {**state, **self._curves()}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot of an environment of the same kind and task.

        Raises:
            UserError: it is a snapshot of another task or kind of environment.
        """
        check_keys(snapshot, ("episodes", "generator"), "an LREnv")
        self.episodes.restore(snapshot["episodes"])
        self.np_random.bit_generator.state = snapshot["generator"]
        self._restore_curves(snapshot)


class LRVectorEnv(_Base, VectorEnv[Any, Any, Any]):  # pyright: ignore[reportIncompatibleVariableOverride]
    """N runs of one task in lockstep, as one computation: `LREnv` for N seeds.

    Actions, observations, rewards, ends and arguments are those of `LREnv`, with a leading axis (num_envs,). Run i of
    `reset(seed=s)` is the run of `LREnv` with seed s + i, up to rounding errors.

    `autoreset_mode` sets what happens to a run that has ended, as in Gymnasium:
    - "NextStep" (default): the next step resets it. Its action is ignored, and its reward is 0.
    - "SameStep": it is reset in the same step; `infos["final_obs"]` and `infos["final_info"]` describe its end.
    - "Disabled": it waits for a reset, with reward 0 and unchanged flags.
    A run that starts again draws its next seed from its own generator. `reset(options={"reset_mask": mask})` resets the
    runs in the mask, in every mode, and leaves the others as they are.

    Infos are arrays (num_envs,) with masks `_name`, as in Gymnasium's own vector environments. With
    `render_mode="rgb_array"` `render()` returns a tuple of pictures, one for each run.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012 (as VectorEnv declares it)

    def __init__(
        self,
        task: str | Task = "DigitsMLP",
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        settings.pop("vectorization_mode", None)  # part of a spec that `make_vec` wrote
        self.set_autoreset_mode(autoreset_mode)
        self._start(task, num_envs, render_mode, settings)
        self.num_envs = num_envs = self.episodes.num_envs
        self.single_action_space = self.episodes.action_space
        self.single_observation_space = observations.space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._generators: list[np.random.Generator] = []
        self._ended = np.zeros((2, num_envs), dtype=bool)  # terminated and truncated, of runs that wait for a reset

    def set_autoreset_mode(self, mode: str | AutoresetMode) -> None:
        """Set what happens to runs that have ended; to be called before the first reset. See the class."""
        try:
            self.autoreset_mode = AutoresetMode(mode)
        except ValueError:
            raise unknown("autoreset_mode", mode, [one.value for one in AutoresetMode]) from None
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}

    @isolating
    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start runs.

        Args:
            seed: seed of run 0, from which the others count up; or one for each run; None: from each run's generator.
            options: "reset_mask", a bool array (num_envs,): the runs to start, by default all; "lr": the initial rate
                for relative actions, one for all or one for each started run.

        Raises:
            UserError: the number of seeds or flags is not the number of runs.
        """
        checked = _checked(options, ("lr", "reset_mask"))
        rows = self._rows(checked.get("reset_mask"))
        if seed is None or np.ndim(seed) == 0:  # type: ignore[arg-type]
            seeds = [None if seed is None else _seed(seed) + row for row in range(self.num_envs)]
        else:
            seeds = [None if one is None else _seed(one) for one in list(seed)]  # type: ignore[arg-type]
        if len(seeds) != self.num_envs:
            raise UserError(f"{len(seeds)} seeds for {self.num_envs} environments: give one for each")
        if not self._generators:
            self._generators = [seeding.np_random(None)[0] for _ in range(self.num_envs)]
        child_seeds = []
        for row in rows:
            row_seed = seeds[row]
            if row_seed is not None:
                self._generators[row] = seeding.np_random(row_seed)[0]
            child_seeds.append(_child_seed(self._generators[row]) if row_seed is None else row_seed)
        self.episodes.start(rows, child_seeds, checked.get("lr"))
        self._ended[:, rows] = False
        started = np.zeros(self.num_envs, dtype=bool)
        started[rows] = True
        self._follow()
        return self.episodes.observe(), self._masked_info(started)

    @isolating
    def step(
        self, actions: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Train one segment of every run at the rates that the actions command."""
        rested = self._ended.any(0)
        outcome = self.episodes.step(actions)
        terminated, truncated = outcome.terminated, outcome.truncated
        ended = terminated | truncated
        infos: Info = {}
        scores = outcome.scores
        if self.autoreset_mode == AutoresetMode.DISABLED:
            self._ended |= [terminated, truncated]
            terminated, truncated = self._ended.copy()
        elif self.autoreset_mode == AutoresetMode.NEXT_STEP:
            self._start_again(rested)
            self._ended = np.array([terminated, truncated])
        elif ended.any():
            observed = self.episodes.observe()
            # An object array filled one by one: from a list numpy would make a 2-D array when all runs end together.
            final_obs = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(ended).tolist():
                final_obs[row] = observed[row].copy()
            infos["final_obs"], infos["_final_obs"] = final_obs, ended.copy()
            infos["final_info"] = self._masked_info(ended, scores, ended)
            infos["_final_info"] = ended.copy()
            self._start_again(ended)
            ended, scores = np.zeros_like(ended), {}
        infos.update(self._masked_info(np.ones(self.num_envs, dtype=bool), scores, ended))
        self._follow()
        return self.episodes.observe(), outcome.rewards, terminated, truncated, infos

    @isolating
    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Draw every run so far, (height, width, 3) each."""
        return self._frames()

    def close_extras(self, **kwargs: Any) -> None:
        """Forget the picture."""
        self._close_pictures()

    def truncate(self, rows: Sequence[int]) -> None:
        """End runs before their budget is spent. They count as truncated, and are not scored.

        Args:
            rows: which runs.
        """
        self.episodes.ended[list(rows)] = True
        self._ended[1, list(rows)] = True

    def _start_again(self, ended: Any) -> None:
        """Reset the runs in a mask, each with the next seed from its own generator."""
        rows = np.flatnonzero(ended).tolist()
        if rows:
            self.episodes.start(rows, [_child_seed(self._generators[row]) for row in rows])

    def _masked_info(
        self, mask: NDArray[np.bool_], scores: Mapping[str, NDArray[np.float64]] | None = None, scored: Any = False
    ) -> Info:
        """Return infos like those of Gymnasium's vector environments, with a mask for each entry.

        Args:
            mask: runs that have infos, (num_envs,).
            scores: name -> values, (num_envs,).
            scored: runs that have scores, (num_envs,).
        """
        masked: Info = {}
        for name, values in {**self._info(), **(scores or {})}.items():
            masked[name], masked[f"_{name}"] = values, mask.copy()
        for name in self.episodes.score_names:
            masked[f"_{name}"] = np.broadcast_to(scored, mask.shape).copy()
            masked[name] = np.where(scored, masked[name], 0.0)
        return masked

    def snapshot(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, and what was drawn so far."""
        return {
            "episodes": self.episodes.snapshot(),
            "ended": self._ended.copy(),
            "generators": [generator.bit_generator.state for generator in self._generators],
            **self._curves(),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot of an environment of the same kind, task and size.

        Raises:
            UserError: it is a snapshot of another task, size or kind of environment.
        """
        check_keys(snapshot, ("episodes", "ended", "generators"), "an LRVectorEnv")
        self.episodes.restore(snapshot["episodes"])
        self._ended = snapshot["ended"].copy()
        self._generators = [seeding.np_random(None)[0] for _ in snapshot["generators"]]
        for generator, state in zip(self._generators, snapshot["generators"], strict=True):
            generator.bit_generator.state = state
        self._restore_curves(snapshot)

    def _rows(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise UserError(f"reset_mask must be a bool array ({self.num_envs},) with at least one True")
        return np.flatnonzero(mask).tolist()


def _seed(seed: Any) -> int:
    """Check a seed, and return it as a Python number."""
    return int(check_seeds([seed])[0])


def _child_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31))


def _single_info(infos: Info) -> Info:
    return {name: values[0].item() for name, values in infos.items()}


def _checked(options: Any, allowed: Sequence[str]) -> Mapping[str, Any]:
    """Check the options of a reset.

    Raises:
        UserError: they are not a dict, or one is unknown.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise UserError(f"options {options!r}: give a dict")
    for name in options:
        if name not in allowed:
            raise unknown("option", name, allowed)
    return options
