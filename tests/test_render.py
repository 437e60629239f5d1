"""Pictures of the environments: what they show, and that drawing changes nothing."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
import types
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import HumanRendering, RecordVideo, RenderCollection

from lr_env import LREnv, LRVectorEnv, UserError
from lr_env.env import LRFamilyEnv, LRFamilyVectorEnv
from lr_env.report import run_picture, screen
from lr_env.sb3 import make_vec_env
from tests.test_copies import same

SMALL = {"budget": 50, "segment": 10, "backend": "loop"}
SHAPE = (run_picture.HEIGHT, run_picture.WIDTH, 3)
RATES = (0.1, 0.03, 0.2, 0.01, 0.05)


def drawn(env) -> list[list[list[float]]]:
    """The curves that an environment draws, by run."""
    return [points.tolist() for points in env.unwrapped._rendering.snapshot()]


def rollout(env, rates=RATES, *, render: bool) -> list[object]:
    outcomes: list[object] = [env.reset(seed=3)]
    for rate in rates:
        actions = rate if isinstance(env.unwrapped, LREnv) else np.full((env.num_envs, 1), rate, np.float32)
        outcomes.append(env.step(actions))
        if render:
            env.render()
    return outcomes


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LREnv, SMALL),
        (LRVectorEnv, {**SMALL, "num_envs": 2, "max_episode_steps": 3}),
        (LRFamilyEnv, {"split": "val", "budget": 50, "segment": 10}),
        (LRFamilyVectorEnv, {"split": "val", "budget": 30, "segment": 10, "num_envs": 2}),
    ],
)
def test_a_rollout_is_the_same_with_and_without_pictures(kind, settings):
    pictured = kind(**settings, render_mode="rgb_array")
    assert same(rollout(pictured, render=True), rollout(kind(**settings), render=False))
    frames = pictured.render() if isinstance(pictured, LRVectorEnv) else (pictured.render(),)
    assert isinstance(frames, tuple)
    assert [(frame.shape, frame.dtype) for frame in frames] == [(SHAPE, np.uint8)] * len(frames)


def test_the_curves_are_those_of_the_infos_and_lie_where_they_should():
    env = gymnasium.make("lr_env/DigitsMLP-v0", render_mode="rgb_array", **SMALL)
    infos = [env.reset(seed=0)[1], *(env.step(rate)[4] for rate in RATES)]
    names = ("step", "lr", "train_loss", "val_loss")
    assert drawn(env) == [[[info[name] for name in names] for info in infos]]
    frame = env.render()
    picture = env.unwrapped._rendering._picture
    blue = (np.abs(frame.astype(int) - (0x00, 0x72, 0xB2)) < 40).all(2)
    for info in infos[1:]:  # the line of the validation loss goes through each value
        x, y = picture._axes[1].transData.transform((info["step"], info["val_loss"]))
        row, column = run_picture.HEIGHT - round(y), min(round(x), run_picture.WIDTH - 1)
        assert blue[row - 3 : row + 4, column - 3 : column + 4].any()
    env.reset(seed=1)
    assert len(drawn(env)[0]) == 1  # another run begins
    assert not np.array_equal(env.render(), frame)
    env.reset(seed=0)
    for rate in RATES:
        env.step(rate)
    assert np.array_equal(env.render(), frame)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_runs_of_a_vector_environment_begin_again_by_themselves(mode):
    envs = LRVectorEnv(**SMALL, num_envs=2, autoreset_mode=mode, render_mode="rgb_array")
    envs.reset(seed=0)
    first = envs.render()
    counts = []
    for _ in range(7):
        envs.step([0.05, 0.05])
        counts.append([len(points) for points in drawn(envs)])
    ends = {"SameStep": [2, 3, 4, 5, 1, 2, 3], "NextStep": [2, 3, 4, 5, 6, 1, 2], "Disabled": [2, 3, 4, 5, 6, 6, 6]}
    assert counts == [[count] * 2 for count in ends[mode.value]]
    envs.reset(seed=[None, 0], options={"reset_mask": np.array([False, True])})
    assert [len(points) for points in drawn(envs)] == [counts[-1][0], 1]
    assert np.array_equal(envs.render()[1], first[0])  # the run of seed 0 as it began
    assert not np.array_equal(*first)


def test_copies_and_snapshots_draw_the_same_and_hold_no_figure():
    env = gymnasium.make("lr_env/DigitsMLP-v0", render_mode="rgb_array", **SMALL)
    env.reset(seed=0)
    env.step(0.1)
    frame, snapshot = env.render(), env.unwrapped.snapshot()
    assert b"matplotlib" not in pickle.dumps(env)
    for again in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert np.array_equal(again.render(), frame)
        again.step(0.01)
        assert [len(points) for points in drawn(again)] == [3]
    env.step(0.2)
    later = env.render()
    env.unwrapped.restore(snapshot)
    assert np.array_equal(env.render(), frame)
    assert not np.array_equal(later, frame)
    plain = LREnv(**SMALL)
    plain.restore(snapshot)  # one that draws nothing
    assert "curves" not in plain.snapshot()
    env.unwrapped.restore(plain.snapshot())  # there is the last point alone
    assert [len(points) for points in drawn(env)] == [1]


def test_wrappers_of_gymnasium_and_stable_baselines3():
    env = gymnasium.make("lr_env/MLPFamily-v0", render_mode="rgb_array_list", budget=20, segment=10)
    assert isinstance(env, RenderCollection)
    env.reset(seed=0)
    env.step(0.1)
    assert [frame.shape for frame in env.render()] == [SHAPE] * 2
    env = gymnasium.make("lr_env/DigitsMLP-v0", render_mode="rgb_array", **SMALL)
    assert HumanRendering(env).metadata["render_fps"] == 10
    vec_env = make_vec_env("DigitsMLP", 3, render_mode="rgb_array", backend="loop", budget=50)
    vec_env.reset()
    height, width, _ = vec_env.render().shape
    assert (height, width) == (2 * SHAPE[0], 2 * SHAPE[1])  # three and an empty one
    assert make_vec_env("DigitsMLP", 1, backend="loop", budget=50).get_images() == [None]


def test_a_video_has_a_frame_for_each_segment(tmp_path, monkeypatch):
    videos = []

    class ImageSequenceClip:  # in place of moviepy, which may not be there
        def __init__(self, frames, fps):
            videos.append((len(frames), {frame.shape for frame in frames}, fps))

        def write_videofile(self, path, logger):
            assert path.endswith("-episode-0.mp4")

    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        module = types.ModuleType(name)
        module.__dict__.update(__path__=[], ImageSequenceClip=ImageSequenceClip)
        monkeypatch.setitem(sys.modules, name, module)
    env = gymnasium.make("lr_env/DigitsMLP-v0", render_mode="rgb_array", **SMALL)
    env = RecordVideo(env, str(tmp_path / "videos"))
    env.reset(seed=0)
    for rate in RATES:
        env.step(rate)
    env.close()
    assert videos == [(6, {SHAPE}, 10)]


@pytest.mark.parametrize(("name", "mode"), [("DigitsMLP-LogLR", "human"), ("MLPFamily-Scale", "rgb_array")])
def test_the_checker_passes_without_warnings(name, mode):  # which tries the other modes, too
    env = gymnasium.make(f"lr_env/{name}-v0", render_mode=mode, budget=20, segment=10).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


@pytest.fixture
def _nothing_said():
    screen._say.cache_clear()


@pytest.mark.usefixtures("_nothing_said")
def test_without_a_display_one_line_names_the_fix(caplog):
    env = LREnv(**SMALL, render_mode="human")
    with caplog.at_level(logging.WARNING, "lr_env"):
        expected = rollout(LREnv(**SMALL), render=False)
        assert same(rollout(env, render=True), expected)
        LREnv(**SMALL, render_mode="human").reset()
    (line,) = [record.getMessage() for record in caplog.records]
    assert 'no window can be opened here (matplotlib\'s backend agg has none): use render_mode="rgb_array"' in line


class Canvas:
    """In place of a window's canvas, which counts what it draws."""

    required_interactive_framework = "none"
    drawn: list[str]

    @classmethod
    def new_manager(cls, figure, number):
        canvas = cls()
        canvas.drawn, canvas.figure = [], figure
        nothing = dict.fromkeys(("set_window_title", "show", "destroy"), lambda *given: None)
        return types.SimpleNamespace(canvas=canvas, **nothing)

    def mpl_connect(self, event, call):
        assert event == "close_event"
        self.close = call

    def draw(self):
        self.drawn.append(self.figure.texts[0].get_text())

    def flush_events(self):
        pass


def test_a_window_shows_every_segment_until_it_is_closed(monkeypatch):
    from matplotlib.backends.registry import backend_registry

    monkeypatch.setattr(
        backend_registry, "load_backend_module", lambda name: types.SimpleNamespace(FigureCanvas=Canvas)
    )
    env = LREnv(**SMALL, render_mode="human")
    env.reset(seed=7)
    env.step(0.1)
    assert env.render() is None
    canvas = env._rendering._screen._manager.canvas
    assert canvas.drawn == ["DigitsMLP  seed 7  step 0 of 50", "DigitsMLP  seed 7  step 10 of 50"]
    copied = pickle.loads(pickle.dumps(env))  # without the window
    assert copied._rendering._screen is None
    canvas.close(None)  # by hand
    env.step(0.1)
    assert len(canvas.drawn) == 2
    env.close()
    env.close()


def test_a_notebook_has_one_picture_a_cell(monkeypatch):
    shown = []

    class Handle:
        def update(self, image):
            shown.append("update")

    def display(image, display_id):
        assert image["data"].startswith(b"\x89PNG")
        shown.append("new")
        return Handle()

    shell = types.SimpleNamespace(kernel=object(), execution_count=1)
    ipython, displays = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.__dict__.update(get_ipython=lambda: shell, display=displays)
    displays.__dict__.update(Image=lambda **given: given, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)
    env = LREnv(**SMALL, render_mode="human")
    env.reset(seed=0)
    env.step(0.1)
    shell.execution_count = 2
    env.step(0.1)
    env.step(0.1)
    assert shown == ["new", "update", "new", "update"]


def test_bad_input_is_one_clear_line():
    with pytest.raises(
        UserError, match=r"unknown render_mode 'rgb'; did you mean 'rgb_array'\? \(there are: human, rgb"
    ):
        LREnv(render_mode="rgb")
    with pytest.raises(UserError, match='"human" shows one run: use "rgb_array", or LREnv'):
        LRVectorEnv(num_envs=2, render_mode="human")
    with pytest.raises(UserError, match="no run to draw: call reset"):
        LREnv(render_mode="rgb_array").render()
    with pytest.warns(UserWarning, match='make the environment with render_mode="rgb_array"'):
        assert LREnv(**SMALL).render() is None  # as Gymnasium's own
