"""The vector environment as a stable-baselines3 `VecEnv`."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from lr_env.children import Backend
from lr_env.env import NOT_YET, Info, LRVectorEnv
from lr_env.errors import UserError, unknown
from lr_env.tasks import Task

# Attribute of `LREnv` -> attribute of the vector environment. All runs share it, but SB3 asks run by run.
_ATTRIBUTES = {
    "action_space": "single_action_space",
    "metadata": "metadata",
    "observation_space": "single_observation_space",
    "render_mode": "render_mode",
    "run_spec": "run_spec",
    "spec": "spec",
    "task": "task",
}
_OPTIONS = ("lr",)


class _NotOfferedError(UserError, AttributeError):
    """A single run does not have this attribute or method. SB3's `has_attr` takes an AttributeError as "no"."""


def make_vec_env(
    task: str | Task,
    num_envs: int,
    *,
    action: str = "scale",
    score: Sequence[str] = (),
    device: str = "cpu",
    backend: str | Backend = "auto",
    seed: int | None = None,
    **settings: Any,
) -> LRVecEnv:
    """Make a `VecEnv` of N runs in lockstep, for `PPO(..., env)` and other algorithms of stable-baselines3.

    The policy has its own device: a policy this small is best left on the CPU, wherever the children are.

    Args:
        task: the task, or its name in `lr_env.TASKS`.
        num_envs: number of runs at a time.
        action: "scale", "discrete" or "log_lr". "lr" works, too, but not for learning: the policy then draws the rate
            on a linear scale, and half of what a new PPO policy draws is negative and clipped to the lowest rate.
        score: splits to score at the end of a run, of "val" and "test". None by default, because learning uses no
            scores and should not see test data. With `("val", "test")` the last info of a run has `final_val_loss`,
            `test_loss` and their accuracies.
        device: device of the children; see `lr_env.Children`.
        backend: backend of the children; see `lr_env.Children`. "auto" chooses the fastest by timing. Backends differ
            by rounding errors, which learning amplifies: name one if the same seed must give the same policy in another
            process.
        seed: run i starts from `seed + i` at the first reset, unless the algorithm seeds the environment again, as
            `PPO(..., seed=0)` does.
        settings: `max_change`, `reward`, `budget`, `segment`, `lr_range`, `start_rates`, `noise`, `max_episode_steps`,
            `numerics` and `render_mode`, as for `LREnv`; but no "human", which shows one run.

    Raises:
        UserError: bad arguments.
    """
    vector_env = LRVectorEnv(
        task,
        num_envs,
        action=action,
        score=score,
        device=device,
        backend=backend,
        autoreset_mode="SameStep",
        **settings,
    )
    vec_env = LRVecEnv(vector_env)
    if seed is not None:
        vec_env.seed(seed)
    return vec_env


class LRVecEnv(VecEnv):
    """An `LRVectorEnv` with the interface of SB3: like a `DummyVecEnv` of N `LREnv`, as one computation.

    Observations are (num_envs, features) float32, rewards (num_envs,) float32, dones (num_envs,) bool. Infos are one
    dict for each run, of Python scalars. A run that ends is reset in the same step: its info describes the end, with
    `terminal_observation`; the first info of the next run is in `reset_infos`. Every info has `TimeLimit.truncated`:
    True if the budget is spent, False if the run diverged.

    `seed` and `set_options` are valid for one reset, as everywhere in SB3. The only option is "lr", the initial rate
    for relative actions. Runs that are reset by themselves later draw seeds from their own generators, and start at the
    task's rate.

    There are no single environments. `get_attr` returns what an `LREnv` would have: task, run_spec, spaces, spec,
    metadata and render_mode. `env_method` supports "reset", which starts the runs in `indices` and leaves the others as
    they are. Attributes cannot be set. `env_is_wrapped` is False.

    Args:
        vector_env: environment as made by `gymnasium.make_vec`; it is set to autoreset mode SAME_STEP, as SB3 expects.

    Attributes:
        child_steps: optimizer steps that were asked of all children together.

    Raises:
        UserError: (a `ValueError`) bad input; the message names the fix.
    """

    def __init__(self, vector_env: LRVectorEnv) -> None:
        if not isinstance(vector_env, LRVectorEnv):
            raise UserError(f"a {type(vector_env).__name__} is not an LRVectorEnv: use lr_env.sb3.make_vec_env(...)")
        if vector_env.autoreset_mode == AutoresetMode.DISABLED:
            raise UserError("SB3 needs runs that start again by themselves: use autoreset_mode='SameStep'")
        vector_env.set_autoreset_mode(AutoresetMode.SAME_STEP)
        self.vector_env = vector_env
        self._actions: Any = None
        self.child_steps = 0
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seed the next reset: run i starts from `seed + i`; with None the seeds are random."""
        if seed is None:
            # The method of the base class would draw from numpy's global generator.
            seed = int(np.random.default_rng().integers(2**32))
        self._seeds = [_checked_seed(seed) + row for row in range(self.num_envs)]
        return self._seeds

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Set the options of the next reset: {"lr": rate} for all runs, or a list with a dict for each run."""
        one = {} if options is None else options
        each = list(one) if isinstance(one, list | tuple) else [one] * self.num_envs
        if len(each) != self.num_envs:
            raise UserError(f"{len(each)} dicts of options for {self.num_envs} environments: give one for each")
        self._options = [_checked(one) for one in each]

    def reset(self) -> NDArray[np.float32]:
        """Start every run; the first infos are in `reset_infos`."""
        rates = [options.get("lr") for options in self._options]
        observations, infos = self.vector_env.reset(seed=self._seeds, options={"lr": rates})
        self.reset_infos = _info_of_each_run(infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: Any) -> None:
        """Store the actions, (num_envs, *shape); `step_wait` trains."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Train one segment of every run; the class describes the returned values."""
        if self._actions is None:
            raise UserError("there are no actions to wait for: call step_async(actions) first, or step(actions)")
        actions, self._actions = self._actions, None
        segment = self.vector_env.task.segment  # a reset in the same step may draw another task
        observations, rewards, terminated, truncated, infos = self.vector_env.step(actions)
        self.child_steps += self.num_envs * segment
        dones = terminated | truncated
        final_observations, final_infos = infos.pop("final_obs", None), infos.pop("final_info", {})
        run_infos, ends = _info_of_each_run(infos), _info_of_each_run(final_infos)
        for row in range(self.num_envs):
            if dones[row]:
                self.reset_infos[row] = run_infos[row]
                run_infos[row] = {**ends[row], "terminal_observation": final_observations[row]}
            run_infos[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        return observations, rewards.astype(np.float32), dones, run_infos

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Draw every run so far, which `render` puts into one picture; None without a render mode."""
        drawn = None if self.vector_env.render_mode is None else self.vector_env.render()
        return [None] * self.num_envs if drawn is None else drawn

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of `LREnv`, once for each index."""
        rows = self._rows(indices)
        if attr_name not in _ATTRIBUTES:
            raise _NotOfferedError(
                f"a run has no attribute {attr_name!r} of its own (there are: {', '.join(_ATTRIBUTES)})"
            )
        return [getattr(self.vector_env, _ATTRIBUTES[attr_name]) for _ in rows]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Raise an error: runs that are one computation share their settings."""
        raise UserError(
            f"cannot set {attr_name!r} of single runs: give settings to make_vec_env(...), "
            "and the rate to start from to set_options({'lr': ...})"
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call `reset(seed=None, options=None)` for each index, like that of `LREnv`.

        Returns:
            (observation, info) for each index.
        """
        rows = self._rows(indices)
        if method_name != "reset":
            raise _NotOfferedError(f"cannot call {method_name!r} of single runs: reset is all there is")
        return self._reset_rows(rows, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return False for each index: there are no single environments that could be wrapped."""
        return [False for _ in self._rows(indices)]

    def _reset_rows(
        self, rows: list[int], *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> list[tuple[NDArray[np.float32], Info]]:
        """Start some runs, all from the same seed if there is one, like N calls of `LREnv.reset`."""
        if not rows:
            return []
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[rows] = True
        seeds = [None if seed is None else _checked_seed(seed)] * self.num_envs
        observations, infos = self.vector_env.reset(
            seed=seeds, options={**_checked({} if options is None else options), "reset_mask": mask}
        )
        started = _info_of_each_run(infos)
        return [(observations[row], started[row]) for row in rows]

    def _rows(self, indices: VecEnvIndices) -> list[int]:
        every = range(self.num_envs)
        try:
            chosen = every if indices is None else indices if isinstance(indices, Iterable) else [indices]
            return [every[operator.index(one)] for one in chosen]
        except (TypeError, IndexError):
            raise UserError(f"indices {indices!r}: give whole numbers from 0 to {self.num_envs - 1}") from None


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**62:
        raise UserError(f"seed {seed!r}: seeds are whole numbers from 0 to 2**62 - 1")  # room to count up from
    return int(seed)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """Check the options of one run, and return them as a new dict without those that are None, the default."""
    if not isinstance(options, dict):
        raise UserError(f"options {options!r}: give a dict, or a list with a dict for each environment")
    for name in options:
        if name not in _OPTIONS:
            raise unknown("option", name, _OPTIONS)
    if options.get("lr") is None:
        return {}
    try:
        return {"lr": np.asarray(options["lr"], dtype=np.float64).item()}
    except (TypeError, ValueError):
        raise UserError(f"the starting rate {options['lr']!r} is not a number") from None


def _info_of_each_run(infos: Info) -> list[Info]:
    """Split the infos of all runs into those of each, as Python scalars."""
    names = [name for name in infos if not name.startswith("_")]
    masks = [infos[f"_{name}"] for name in names]
    columns = [
        (infos[name] if mask.all() else np.where(mask, infos[name], NOT_YET)).tolist()
        for name, mask in zip(names, masks, strict=True)
    ]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
