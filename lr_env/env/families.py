"""The Gymnasium environments of task families: a reset draws the task that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from lr_env.children.snapshots import check_keys
from lr_env.copies import Copied
from lr_env.env.environment import Info, LREnv, LRVectorEnv, _checked, _seed
from lr_env.env.episodes import ArgumentError, Episodes
from lr_env.errors import UserError
from lr_env.jsonable import from_plain
from lr_env.tasks import Task, TaskFamily, find_family
from lr_env.tasks.families import split_seeds

_STREAM = 0x7A5C
"""Separates the draws of tasks from those of children, which may have the same seed."""

_LOG_LR_MARGIN = 100
"""With the action "log_lr" the lowest rate is the lowest that a sweep tries over this."""


class _TaskDraws(Copied):
    """Draws tasks of one split, and makes runs of them.

    Args:
        family: the family, its name, or the JSON that `lr_env.jsonable` made of it.
        split: name of the split.
        num_envs: runs at a time.
        settings: arguments of `Episodes`.

    Attributes:
        seed: the seed of the task that was drawn last.
    """

    def __init__(self, family: Any, split: str, num_envs: int, settings: dict[str, Any]) -> None:
        family = find_family(family) if isinstance(family, str) else from_plain(family)
        if not isinstance(family, TaskFamily):
            raise UserError(f"family is of type {type(family).__name__}: give a name, or a lr_env.tasks.TaskFamily")
        if settings.get("groups"):
            raise UserError("groups=True: the networks of a family differ in their layers, so give one rate for all")
        if (settings.get("budget") is None) != (settings.get("segment") is None):
            raise UserError("budget and segment: give both or none, because the segments of the tasks differ")
        self.family = family
        self.seeds = split_seeds(family, split)
        self.seed = self.seeds[0]
        self._num_envs = num_envs
        self._settings = settings
        self._generator: np.random.Generator | None = None

    def draw(self, seed: int | None, task_seed: Any = None) -> int:
        """Draw a task and return its seed.

        Args:
            seed: of the generator from which this task and later ones are drawn; None: go on with the one there is.
            task_seed: the task to take instead of a random one.
        """
        if seed is not None:
            self._generator = np.random.Generator(np.random.PCG64([_STREAM, seed]))
        if task_seed is not None:
            self.family.sample(task_seed)  # raises for a seed of no split
            self.seed = int(task_seed)
        else:
            if self._generator is None:
                self._generator = seeding.np_random(None)[0]
            self.seed = self.seeds[int(self._generator.integers(len(self.seeds)))]
        return self.seed

    def task(self) -> Task:
        """Return the task that was drawn last, as the settings of the environment change it."""
        task = self.family.sample(self.seed)
        rates = self._settings.get("lr_range")
        if rates is None and self._settings.get("action") == "log_lr":
            rates = (task.tuning_range[0] / _LOG_LR_MARGIN, task.tuning_range[1])
        if rates is None:
            return task
        low, high = rates
        return replace(task, lr_range=(low, high), lr_start=float(np.clip(task.lr_start, low, high)))

    def episodes(self) -> Episodes:
        """Make runs of the task that was drawn last; none is started."""
        return Episodes(self.task(), self._num_envs, **{**self._settings, "lr_range": None})

    def state(self) -> dict[str, Any]:
        """Return what the further draws depend on, as JSON values."""
        return {
            "family": self.family.name,
            "seed": self.seed,
            "generator": None if self._generator is None else self._generator.bit_generator.state,
        }

    def restored(self, state: Mapping[str, Any], episodes: Episodes) -> Episodes:
        """Continue with the draws that `state` described, and return runs of their task: these ones, if they are.

        Raises:
            UserError: see `set_state`.
        """
        before = self.seed
        self.set_state(state)
        return episodes if self.seed == before else self.episodes()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue with the draws that `state` described.

        Raises:
            UserError: they are of another family.
        """
        check_keys(state, ("family", "seed", "generator"), "draws of tasks")
        if state["family"] != self.family.name:
            raise UserError(
                f"the snapshot is of {state['family']}, not of {self.family.name}: make an environment of it"
            )
        self.seed, self._generator = state["seed"], None
        if state["generator"] is not None:
            self._generator = seeding.np_random(None)[0]
            self._generator.bit_generator.state = state["generator"]


def _settings_of(kind: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Check the settings of a family's environment, and fill in the backend."""
    if "task" in settings:
        raise ArgumentError(
            f"{kind.__name__}.__init__() got an unexpected keyword argument 'task': the task is drawn, "
            'give a family, or reset(options={"task_seed": 17})'
        )
    return {"backend": "loop", **settings}


class LRFamilyEnv(LREnv):
    """`LREnv` whose task is drawn at every reset, from a split of a task family.

    Actions, observations, rewards, ends and infos are those of `LREnv`; the spaces are the same for all tasks. The
    infos also have `task_seed`, the seed of the drawn task, and `task`, the `lr_env.Task` itself.

    ## Start
    `reset(seed=s)` starts the child with seed s, on a task that follows from s. Later resets without a seed draw both.
    `reset(options={"task_seed": 17})` takes the task with that seed, of any split. A task that is drawn again, as those
    of `task_seed` are, keeps its children; another task takes 10 to 100 ms to make new ones.

    ## Arguments
    family ("MLPFamily"): name of a family (`lr_env.tasks.families.family_names()` lists them), or a
    `lr_env.tasks.TaskFamily`. split ("train"): which of its tasks are drawn: "train", "val", "test" or "shifted".
    Others as for `LREnv`, except that
    - `backend` is "loop" by default: "auto" would time backends for every task that is drawn.
    - with `action="log_lr"` each task has its own range of rates, from a hundredth of the lowest rate that a sweep
      tries to the highest, unless `lr_range` is given: an action means about the same for every optimizer.
    - `budget` and `segment` hold for all tasks, and are given together.

    ## Data
    Only the data of the drawn task are read, when its children are made. Those of "train", "val" and "test" of the
    families of lr_env come with scikit-learn; those of "shifted" are downloaded if they are not there.

    Raises:
        UserError: (a `ValueError`) bad arguments, or an action outside the space; the message names the fix.
    """

    def __init__(
        self,
        family: str | TaskFamily = "MLPFamily",
        *,
        split: str = "train",
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        settings = _settings_of(type(self), settings)
        self._tasks = _TaskDraws(family, split, 1, settings)
        super().__init__(self._tasks.task(), render_mode=render_mode, **{**settings, "lr_range": None})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Draw a task and start a run; see the class. `options` may have "task_seed", and "lr" as in `LREnv`."""
        checked = {**_checked(options, ("lr", "task_seed"))}
        task_seed = checked.pop("task_seed", None)
        with _unchanged_by_errors(self):
            before = self._tasks.seed
            if self._tasks.draw(None if seed is None else _seed(seed), task_seed) != before:
                self.episodes = self._tasks.episodes()
            observation, info = super().reset(seed=seed, options=checked)
        return observation, {**info, **self._drawn()}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        """Train one segment at the rate that the action commands."""
        *others, info = super().step(action)
        return cast("Any", (*others, {**info, **self._drawn()}))

    def _drawn(self) -> Info:
        return {"task_seed": self._tasks.seed, "task": self.task}

    def snapshot(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, and which task it is."""
        return {**super().snapshot(), "tasks": self._tasks.state()}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot of an environment of the same family, whatever its task.

        Raises:
            UserError: it is a snapshot of another family or kind of environment.
        """
        check_keys(snapshot, ("tasks",), "an LRFamilyEnv")
        with _unchanged_by_errors(self):
            self.episodes = self._tasks.restored(snapshot["tasks"], self.episodes)
            super().restore(snapshot)


class LRFamilyVectorEnv(LRVectorEnv):
    """N runs of one drawn task in lockstep: `LRFamilyEnv` for N seeds, which share the task.

    ## When a task is drawn
    A full reset (without a `reset_mask`, or with one that is True everywhere) draws a task for all runs; with
    `reset(seed=s)` it is the one that `LRFamilyEnv.reset(seed=s)` draws. A reset of some runs keeps the task. Otherwise
    it depends on `autoreset_mode`:
    - "NextStep" and "SameStep": a round of one task lasts for its budget. A run that diverges earlier starts again on
      the same task, and is truncated when the round ends. So all runs end together, and their next reset, which comes
      by itself, draws a task. (A run that diverges in the last segment but one starts again, under "NextStep", when
      there is nothing left of the round: it is truncated at once.)
    - "Disabled": runs that have ended wait, and the task stays until a full reset.

    Infos have `task_seed` and `task`, one for each run, besides those of `LRVectorEnv`. `backend` is "loop" by default,
    which trains one child after another; "stacked" trains N at once, but traces every task that is drawn, for about a
    second.

    For stable-baselines3: `LRVecEnv(gymnasium.make_vec("lr_env/MLPFamily-Scale-v0", num_envs=8))`.
    """

    def __init__(
        self,
        family: str | TaskFamily = "MLPFamily",
        num_envs: int = 1,
        *,
        split: str = "train",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        settings.pop("vectorization_mode", None)  # part of a spec that `make_vec` wrote
        settings = _settings_of(type(self), settings)
        self._tasks = _TaskDraws(family, split, num_envs, settings)
        super().__init__(
            self._tasks.task(),
            num_envs,
            autoreset_mode=autoreset_mode,
            render_mode=render_mode,
            **{**settings, "lr_range": None},
        )
        self._begin_round()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start runs; a full reset draws a task.

        Args:
            seed: as for `LRVectorEnv`; the task follows from the seed of run 0.
            options: "task_seed", the seed of the task to take, at a full reset; others as for `LRVectorEnv`.

        Raises:
            UserError: as for `LRVectorEnv`; or "task_seed" is given, but some runs are not reset.
        """
        checked = {**_checked(options, ("lr", "reset_mask", "task_seed"))}
        task_seed = checked.pop("task_seed", None)
        rows = self._rows(checked.get("reset_mask"))
        with _unchanged_by_errors(self):
            if len(rows) == self.num_envs:
                first = seed if seed is None or np.ndim(cast("Any", seed)) == 0 else next(iter(cast("Any", seed)), None)
                self._draw(None if first is None else _seed(first), task_seed)
            elif task_seed is not None:
                raise UserError("task_seed with a reset_mask: all runs share a task, so reset all of them")
            elif self.autoreset_mode != AutoresetMode.DISABLED:
                if self.episodes.ended.all():
                    self._begin_round()
                self._end_with_round(rows)
            return super().reset(seed=seed, options=checked)

    def step(
        self, actions: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Train one segment of every run at the rates that the actions command."""
        trained = self._trained
        self._trained += int((~self.episodes.ended).any())
        try:
            observed, rewards, terminated, truncated, infos = super().step(actions)
        except UserError:
            self._trained = trained  # a refused action trains nothing
            raise
        if self.autoreset_mode == AutoresetMode.NEXT_STEP:
            over = self.episodes.children.steps >= self.episodes.last_step
            late = np.flatnonzero(over & ~self.episodes.ended).tolist()
            self.truncate(late)
            truncated[late] = True
        return observed, rewards, terminated, truncated, infos

    def _start_again(self, ended: Any) -> None:
        ended = np.asarray(ended)
        if ended.all():
            self._draw(None)
        else:
            self._end_with_round(np.flatnonzero(ended).tolist())
        super()._start_again(ended)

    def _draw(self, seed: int | None, task_seed: Any = None) -> None:
        """Draw a task and begin a round of it."""
        before, spent = self._tasks.seed, self.episodes.child_seconds
        if self._tasks.draw(seed, task_seed) != before:
            self.episodes = self._tasks.episodes()
            self.episodes.child_seconds = spent
        self._begin_round()

    def _begin_round(self) -> None:
        """Let every run have all steps of a round."""
        self._trained = 0  # segments of the round
        self.episodes.last_step = np.full(self.num_envs, self.episodes.longest)

    def _end_with_round(self, rows: list[int]) -> None:
        """Truncate runs, which start now, at the end of the round."""
        left = self.episodes.longest - self._trained * self.task.segment
        last_step = np.array(self.episodes.last_step)
        last_step[rows] = left
        self.episodes.last_step = last_step

    def _masked_info(
        self, mask: NDArray[np.bool_], scores: Mapping[str, NDArray[np.float64]] | None = None, scored: Any = False
    ) -> Info:
        infos = super()._masked_info(mask, scores, scored)
        tasks = np.full(self.num_envs, None, dtype=object)
        tasks[:] = [self.task] * self.num_envs
        drawn = {"task_seed": np.full(self.num_envs, self._tasks.seed), "task": tasks}
        for name, values in drawn.items():
            infos[name], infos[f"_{name}"] = values, mask.copy()
        return infos

    def snapshot(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, and which task it is."""
        round_state = {"trained": self._trained, "last_step": np.array(self.episodes.last_step)}
        return {**super().snapshot(), "tasks": self._tasks.state(), "round": round_state}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Restore a snapshot of an environment of the same family and size, whatever its task.

        Raises:
            UserError: it is a snapshot of another family, size or kind of environment.
        """
        check_keys(snapshot, ("tasks", "round"), "an LRFamilyVectorEnv")
        with _unchanged_by_errors(self):
            self.episodes = self._tasks.restored(snapshot["tasks"], self.episodes)
            super().restore(snapshot)
            self._trained = snapshot["round"]["trained"]
            self.episodes.last_step = snapshot["round"]["last_step"].copy()


@contextmanager
def _unchanged_by_errors(env: LRFamilyEnv | LRFamilyVectorEnv) -> Iterator[None]:
    """Put the task back, and what is drawn next, if a reset or a restore is refused."""
    tasks, episodes = env._tasks.state(), env.episodes
    last_step = episodes.last_step
    trained = env._trained if isinstance(env, LRFamilyVectorEnv) else 0
    try:
        yield
    except Exception:
        env._tasks.set_state(tasks)
        env.episodes, episodes.last_step = episodes, last_step
        if isinstance(env, LRFamilyVectorEnv):
            env._trained = trained
        raise
