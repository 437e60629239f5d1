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

# What an `LREnv` has -> where the vector environment keeps it. The same for every run, but asked for run by run.
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
    """What one run of many does not have. SB3's `has_attr` reads an AttributeError as "no"."""


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
    """N runs in lockstep, for `PPO(..., env)` and the other algorithms of stable-baselines3.

    The policy has a device of its own: a policy this small is best left on the CPU, wherever the children are.

    Args:
        task: what is trained, or its name in `lr_env.TASKS`.
        num_envs: runs at a time.
        action: "scale", "discrete" or "log_lr". "lr" runs, too, but is not for learning: the policy then draws the rate
            itself, on a linear scale. Half of what a new PPO policy draws is negative and cut to the lowest rate.
        score: splits scored whole at the end of a run, of "val" and "test". None by default: learning reads no
            scores, and test data has no place in it. Give `("val", "test")` to find `final_val_loss`, `test_loss` and
            their accuracies in the last info of a run.
        device: where the children are trained; see `lr_env.Children`.
        backend: how; see `lr_env.Children`. "auto" is chosen by timing, and backends agree but for rounding, which
            learning amplifies: name one where the same seed must give the same policy in another process.
        seed: run i starts from `seed + i` at the first reset, unless the algorithm seeds the environment again, as
            `PPO(..., seed=0)` does.
        settings: `max_change`, `reward`, `budget`, `segment`, `lr_range`, `start_rates`, `noise`, `max_episode_steps`
            and `numerics`, as for `LREnv`.

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
    """A `LRVectorEnv` behind the interface of SB3: what `DummyVecEnv` makes of N `LREnv`, as one computation.

    Observations are (num_envs, features) float32, rewards (num_envs,) float32, dones (num_envs,) bool. Infos are one
    dict a run, of Python scalars. At the end of a run, which starts the next one in the same step, its info tells how
    it ended, with `terminal_observation`; the info that the next run started with is in `reset_infos`.
    `TimeLimit.truncated` is in every info: True where the budget is spent, False where a run diverged.

    `seed` and `set_options` hold for one reset, as everywhere in SB3. The one option is "lr", the rate that relative
    actions start from. Runs that start by themselves afterwards go on from each run's own generator, at the task's
    rate.

    There are no single environments. `get_attr` gives what an `LREnv` would say: its task, run_spec, spaces, spec,
    metadata and render_mode. `env_method` offers "reset", which starts the runs in `indices` and leaves the others
    alone. Nothing can be set. `env_is_wrapped` is False.

    Args:
        vector_env: as `gymnasium.make_vec` makes it; put into autoreset mode SAME_STEP, as SB3 has it.

    Raises:
        UserError: (a `ValueError`) bad input; one line that names the fix.
    """

    def __init__(self, vector_env: LRVectorEnv) -> None:
        if not isinstance(vector_env, LRVectorEnv):
            raise UserError(f"a {type(vector_env).__name__} is not an LRVectorEnv: use lr_env.sb3.make_vec_env(...)")
        if vector_env.autoreset_mode == AutoresetMode.DISABLED:
            raise UserError("SB3 needs runs that start again by themselves: use autoreset_mode='SameStep'")
        vector_env.set_autoreset_mode(AutoresetMode.SAME_STEP)
        self.vector_env = vector_env
        self._actions: Any = None
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seed the next reset: run i starts from `seed + i`; None for seeds that are not repeatable."""
        if seed is None:
            # SB3's own method would draw from numpy's global generator.
            seed = int(np.random.default_rng().integers(2**32))
        self._seeds = [_checked_seed(seed) + row for row in range(self.num_envs)]
        return self._seeds

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Options of the next reset: {"lr": rate} for all runs, or a list with a dict for each run."""
        one = {} if options is None else options
        each = list(one) if isinstance(one, list | tuple) else [one] * self.num_envs
        if len(each) != self.num_envs:
            raise UserError(f"{len(each)} dicts of options for {self.num_envs} environments: give one for each")
        self._options = [_checked(one) for one in each]

    def reset(self) -> NDArray[np.float32]:
        """Start every run; how each began is in `reset_infos`."""
        rates = [options.get("lr") for options in self._options]
        observations, infos = self.vector_env.reset(seed=self._seeds, options={"lr": rates})
        self.reset_infos = [_of_run(infos, row) for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: Any) -> None:
        """Take the actions, (num_envs, *shape); the training itself waits for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Train one segment of every run; see the class for what comes back."""
        if self._actions is None:
            raise UserError("there are no actions to wait for: call step_async(actions) first, or step(actions)")
        actions, self._actions = self._actions, None
        observations, rewards, terminated, truncated, infos = self.vector_env.step(actions)
        dones = terminated | truncated
        final_observations, final_infos = infos.pop("final_obs", None), infos.pop("final_info", None)
        told = _of_all_runs(infos)
        for row in range(self.num_envs):
            if dones[row]:
                self.reset_infos[row] = told[row]
                told[row] = {**_of_run(final_infos, row), "terminal_observation": final_observations[row]}
            told[row]["TimeLimit.truncated"] = bool(truncated[row] and not terminated[row])
        return observations, rewards.astype(np.float32), dones, told

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of an `LREnv`, once for each index."""
        rows = self._rows(indices)
        if attr_name not in _ATTRIBUTES:
            raise _NotOfferedError(
                f"a run has no attribute {attr_name!r} of its own (there are: {', '.join(_ATTRIBUTES)})"
            )
        return [getattr(self.vector_env, _ATTRIBUTES[attr_name]) for _ in rows]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refused: runs that are one computation share their settings."""
        raise UserError(
            f"cannot set {attr_name!r} of single runs: give settings to make_vec_env(...), "
            "and the rate to start from to set_options({'lr': ...})"
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call `reset(seed=None, options=None)` for each index, as `LREnv` has it.

        Returns:
            (observation, info) of each.
        """
        rows = self._rows(indices)
        if method_name != "reset":
            raise _NotOfferedError(f"cannot call {method_name!r} of single runs: reset is all there is")
        return self._reset_rows(rows, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """False for each index: there are no single environments to wrap."""
        return [False for _ in self._rows(indices)]

    def _reset_rows(
        self, rows: list[int], *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> list[tuple[NDArray[np.float32], Info]]:
        """Start some runs, all from the same seed if there is one, as N calls of `LREnv.reset` would."""
        if not rows:
            return []
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[rows] = True
        seeds = [None if seed is None else _checked_seed(seed)] * self.num_envs
        observations, infos = self.vector_env.reset(
            seed=seeds, options={**_checked({} if options is None else options), "reset_mask": mask}
        )
        return [(observations[row], _of_run(infos, row)) for row in rows]

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
    """Options of one run, as a new dict; what is None is left out, for it means the default."""
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


def _of_all_runs(infos: Info) -> list[Info]:
    """What infos that are there for all runs say of each, as `_of_run` has it; this is done at every step."""
    names = [name for name in infos if not name.startswith("_")]
    columns = [_known(infos, name, slice(None)) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _of_run(infos: Info, row: int) -> Info:
    """What the infos of all runs, arrays, say of one: Python scalars."""
    return {name: _known(infos, name, slice(row, row + 1))[0] for name in infos if not name.startswith("_")}


def _known(infos: Info, name: str, rows: slice) -> list[Any]:
    """What infos say of some runs under a name, as Python has it."""
    values, mask = infos[name][rows], infos[f"_{name}"][rows]
    return (values if mask.all() else np.where(mask, values, NOT_YET)).tolist()
