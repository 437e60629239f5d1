"""What an environment shows of its runs: their curves so far, as frames or on a screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lr_env.copies import Copied
from lr_env.env.episodes import Episodes
from lr_env.errors import UserError, unknown

if TYPE_CHECKING:
    from lr_env.report.run_picture import RunPicture, ShownRun
    from lr_env.report.screen import Screen

FPS = 10
"""Segments a second in a video."""

_DRAWN = ("step", "lr", "train_loss", "val_loss")
"""The signals that are drawn."""


class Rendering(Copied):
    """The curves of N runs so far, and the picture of them.

    Copies and pickles have the curves and no picture, which is drawn when it is asked for. It reads the runs and
    changes nothing of them.

    Args:
        mode: "rgb_array", or "human", which shows the first run after every segment.
        num_envs: runs at a time.
        modes: those that there are.

    Raises:
        UserError: there is no such mode.
    """

    def __init__(self, mode: str, num_envs: int, modes: Sequence[str]) -> None:
        if mode not in modes:
            one = '; "human" shows one run: use "rgb_array", or LREnv' if mode == "human" else ""
            raise unknown("render_mode", mode, modes, one)
        self.mode = mode
        self._points: list[list[tuple[float, ...]]] = [[] for _ in range(num_envs)]
        self._drop_pictures()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_picture": None, "_screen": None}

    def follow(self, episodes: Episodes) -> None:
        """Add what was measured since the last call, and show it if people watch."""
        values = np.array([episodes.signals[name] for name in _DRAWN]).T.tolist()
        for points, (step, *others), started in zip(self._points, values, episodes.started.tolist(), strict=True):
            if step == 0:
                points.clear()
            if started and (not points or step > points[-1][0]):
                points.append((step, *others))
        if self.mode == "human":
            self._show(episodes)

    def frames(self, episodes: Episodes) -> tuple[NDArray[np.uint8], ...]:
        """Draw every run, (height, width, 3) each.

        Raises:
            UserError: a run has not been started.
        """
        if not episodes.started.all():
            raise UserError("there is no run to draw: call reset() first")
        if self._picture is None:
            from lr_env.report.run_picture import RunPicture  # matplotlib takes a while to import

            self._picture = RunPicture()
        frames = []
        for row in range(episodes.num_envs):
            self._picture.put(self._shown(episodes, row))
            frames.append(self._picture.pixels())
        return tuple(frames)

    def close(self) -> None:
        """Close the window, and forget the picture."""
        if self._screen is not None:
            self._screen.close()
        self._drop_pictures()

    def snapshot(self) -> list[NDArray[np.float64]]:
        """The curves of each run, (points, 4)."""
        return [np.array(points).reshape(-1, len(_DRAWN)) for points in self._points]

    def restore(self, curves: Sequence[Any] | None, episodes: Episodes) -> None:
        """Put the curves of a snapshot back; None if it was of an environment that kept none."""
        rows: Sequence[Any] = [()] * len(self._points) if curves is None else curves
        self._points = [[tuple(map(float, point)) for point in row] for row in rows]
        self.follow(episodes)

    def _drop_pictures(self) -> None:
        self._picture: RunPicture | None = None
        self._screen: Screen | None = None

    def _show(self, episodes: Episodes) -> None:
        if self._screen is None:
            from lr_env.report.screen import open_screen

            self._screen = open_screen()
        self._screen.show(self._shown(episodes, 0))

    def _shown(self, episodes: Episodes, row: int) -> ShownRun:
        """A run as it is drawn."""
        from lr_env.report.run_picture import ShownRun

        points = np.array(self._points[row])
        end = "  diverged" if episodes.diverged[row] else ""
        words = f"{episodes.task.name}  seed {episodes.children.seeds[row]}  "
        return ShownRun(points, f"{words}step {points[-1, 0]:,.0f} of {episodes.longest:,}{end}", episodes.longest)
