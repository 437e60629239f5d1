"""The PPO controller: its policy files, its training, going on with it, and whether it learns what can be known."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO as Algorithm  # noqa: N811

from lr_env.children import LOOP, Execution, Numerics
from lr_env.env import LRFamilyVectorEnv
from lr_env.env.episodes import Episodes
from lr_env.env.observations import FEATURES
from lr_env.errors import UserError
from lr_env.files import exclusive_lock
from lr_env.planner import RunSpec
from lr_env.records.store import Store
from lr_env.registry import find_tuner
from lr_env.rollout import rollout
from lr_env.sb3 import make_vec_env
from lr_env.signals import ALWAYS
from lr_env.studies.comparison.comparison import ComparisonPlan
from lr_env.tasks import MLP, TASKS
from lr_env.tasks.families import find_family, split_of, split_seeds
from planners import PPO
from planners.ppo import policy as policies
from planners.ppo.policy import Policy
from planners.ppo.sb3_state import LeanPolicy
from planners.ppo.training import PPOSettings, train
from planners.weights import PRETRAINED
from tests.helpers import begun, compared

TASK = replace(TASKS["DigitsMLP"], network=MLP((8,)), budget=50, segment=5, val_subset=50)
NET = {"net_arch": {"pi": [32, 32], "vf": [32, 32]}}
SMALL = PPOSettings(
    decisions=320, children=4, minibatches=2, evaluate_every=80, evaluation_runs=3, start_rates=(0.03, 0.01)
)


def policy(action: str = "scale", outputs: int = 1) -> Policy:
    random = np.random.RandomState(0)
    sizes = (len(FEATURES), 5, outputs)
    layers = tuple(
        (random.randn(b, a).astype(np.float32), random.randn(b).astype(np.float32))
        for a, b in itertools.pairwise(sizes)
    )
    mean, variance = random.randn(len(FEATURES)), random.rand(len(FEATURES)) + 0.5
    return Policy(mean.astype(np.float32), variance.astype(np.float32), layers, action, 1.05, {"child_steps": 7})


def signals(count: int = 6) -> dict[str, np.ndarray]:
    random = np.random.RandomState(1)
    return {name: random.rand(count) + 0.1 for name in ALWAYS}


def test_a_policy_is_the_same_from_its_file_and_is_not_unpickled(tmp_path):
    for action, outputs in (("scale", 1), ("discrete", 3)):
        ours = policy(action, outputs)
        ours.save(tmp_path / "policy.safetensors")
        again = Policy.load(tmp_path / "policy.safetensors")
        np.testing.assert_array_equal(again.factors(signals()), ours.factors(signals()))
        assert (again.about, again.action) == ({"child_steps": 7}, action)
    assert set(np.round(again.factors(signals(200)), 6)) <= {1.05, 1.0, round(1 / 1.05, 6)}


def test_policies_that_do_not_fit_are_one_clear_line(tmp_path, monkeypatch):
    path = tmp_path / "policy.safetensors"
    with pytest.raises(UserError, match=r"there is no policy .*train one with `lr-env train-ppo`"):
        Policy.load(path)
    policy().save(path)
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="it is damaged, train it anew") as caught:
            Policy.load(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setattr("planners.ppo.policy.observations.FEATURES", FEATURES[1:])
        with pytest.raises(UserError, match=r"trained on other observations \(log_train_loss\)"):
            Policy.load(path)
    with monkeypatch.context() as patch:
        patch.setattr("planners.ppo.policy.POLICIES", replace(policies.POLICIES, format=5))
        with pytest.raises(UserError, match="has format 3, not 5"):
            Policy.load(path)
    with pytest.raises(UserError, match="there is no policy 'Digits' "):
        assert PPO(0.1, policy="Digits").trained
    policy("scale", 2).save(path)
    with pytest.raises(UserError, match="damaged"):
        Policy.load(path)


@pytest.mark.usefixtures("global_generators_kept")
def test_the_planner_answers_as_the_algorithm_does(tmp_path):
    """The numpy network, the normalisation and the actions, against SB3's own."""
    for action in ("scale", "discrete"):
        result = train(TASK, replace(SMALL, decisions=80, action=action), tmp_path / action, execution=LOOP)
        assert result["decisions"] == 80
        trained = Policy.load(tmp_path / action / "last.safetensors")
        env = make_vec_env(TASK, 3, action=action, max_change=1.05, backend="loop", seed=5, start_rates=[0.02])
        algorithm = Algorithm(
            "MlpPolicy", env, policy_kwargs={"net_arch": {"pi": [32, 32], "vf": [32, 32]}}, device="cpu"
        )
        net = algorithm.policy
        linear = [part for part in net.mlp_extractor.policy_net if isinstance(part, torch.nn.Linear)]
        with torch.no_grad():
            for part, (weight, bias) in zip((*linear, net.action_net), trained.layers, strict=True):
                part.weight.copy_(torch.from_numpy(weight))
                part.bias.copy_(torch.from_numpy(bias))
        seen = env.reset()
        for _ in range(TASK.num_segments):
            normal = np.clip((seen - trained.mean) / np.sqrt(trained.variance + 1e-8), -10, 10).astype(np.float32)
            chosen, _ = algorithm.predict(normal, deterministic=True)
            signals = {name: values.copy() for name, values in env.vector_env.episodes.signals.items()}
            seen, _, dones, infos = env.step(chosen)
            if not dones.any():
                now = np.array([info["lr"] for info in infos])
                np.testing.assert_allclose(now, signals["lr"] * trained.factors(signals), rtol=1e-5)
        planner = PPO(0.02, policy=str(tmp_path / action / "last.safetensors"))
        records = rollout(planner, TASK, [5, 6, 7], score=(), execution=Execution(backend="loop"))
        assert planner.pretraining_steps == 80 * 5 + 2 * 3 * 50
        assert [record.curves["lr"][0] for record in records] == [0.02] * 3


def test_training_goes_on_to_the_same_policy(tmp_path, monkeypatch):
    whole = train(TASK, SMALL, tmp_path / "whole", execution=LOOP)
    assert whole["decisions"] == 320
    assert len(whole["history"]) == 5
    assert 0 < whole["seconds"]["children"] <= whole["seconds"]["whole"]

    stops = iter([2, 3, None])
    for stop in stops:
        updates = 0

        def progress(what, decisions, stop=stop):
            nonlocal updates
            updates += what == "training" and decisions == 40
            if stop is not None and updates == stop:
                raise KeyboardInterrupt

        try:
            broken = train(TASK, SMALL, tmp_path / "broken", execution=LOOP, checkpoint_seconds=0.0, progress=progress)
        except KeyboardInterrupt:
            assert (tmp_path / "broken" / "checkpoint").exists()
    # But for the last bit: MKL's products depend on where in memory their inputs lie (MKL_CBWR=AVX2,STRICT: the same).
    for ours, theirs in zip(broken["history"], whole["history"], strict=True):
        assert ours["decisions"] == theirs["decisions"]
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-6)
    for name in ("last.safetensors", "policy.safetensors"):
        ours, theirs = (Policy.load(tmp_path / folder / name) for folder in ("broken", "whole"))
        for (a, b), (c, d) in zip(ours.layers, theirs.layers, strict=True):
            np.testing.assert_allclose(a, c, atol=1e-6)
            np.testing.assert_allclose(b, d, atol=1e-6)
        np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-6)
    with pytest.raises(UserError, match="holds a finished training: give another --name, or --fresh"):
        train(TASK, SMALL, tmp_path / "whole", execution=LOOP)
    assert json.loads((tmp_path / "whole" / "training.json").read_text())["child_steps"] == 320 * 5 + 5 * 3 * 50
    assert train(TASK, replace(SMALL, decisions=40), tmp_path / "whole", execution=LOOP, fresh=True)["decisions"] == 40


@dataclass(frozen=True)
class Short:
    """MLPFamily with runs of 4 segments."""

    name: str = "Short"
    description: str = ""

    @property
    def splits(self):
        return find_family("MLPFamily").splits

    def sample(self, seed):
        return replace(find_family("MLPFamily").sample(seed), budget=20, segment=5)


def test_a_controller_learns_on_the_tasks_of_a_family(tmp_path, monkeypatch):
    """Rounds are of drawn tasks of the training split, those that judge it are not; it goes on where it stopped."""
    family, trained, steps = Short(), set(), 0
    original = LRFamilyVectorEnv.step

    def step(self, actions):
        nonlocal steps
        trained.add(split_of(self._tasks.family, self._tasks.seed))
        steps += self.num_envs * self.task.segment
        return original(self, actions)

    monkeypatch.setattr(LRFamilyVectorEnv, "step", step)
    settings = replace(SMALL, decisions=128, children=1, evaluate_every=64, evaluation_runs=2)
    whole = train(family, settings, tmp_path / "whole", execution=LOOP)
    assert trained == {"train"}
    assert (whole["name"], whole["family"]["name"], whole["decisions"]) == ("Short", "Short", 128)
    tasks = [family.sample(seed) for seed in split_seeds(family, "val")[:2]]
    assert whole["child_steps"] == steps + len(whole["history"]) * sum(task.budget for task in tasks)

    def stop(what, decisions):
        if (tmp_path / "broken" / "checkpoint").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(family, settings, tmp_path / "broken", execution=LOOP, checkpoint_seconds=0.0, progress=stop)
    again = train(family, settings, tmp_path / "broken", execution=LOOP)
    assert (again["history"], again["child_steps"]) == (whole["history"], whole["child_steps"])
    file = str(tmp_path / "whole" / "policy.safetensors")
    assert find_tuner(f"ppo-policy:policy={file}").select(tasks[0], 0, [], tmp_path) == PPO(
        tasks[0].lr_start, policy=file
    )
    with pytest.raises(UserError, match="3 runs of tuner 'ppo-policy'"):
        find_tuner("ppo-policy").check([3])


def test_a_training_goes_on_as_it_was_begun_or_not_at_all(tmp_path):
    def stop(what, decisions):
        if what == "judging" and (tmp_path / "checkpoint").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TASK, SMALL, tmp_path, execution=LOOP, progress=stop, checkpoint_seconds=0.0)
    for change, message in (
        ({"training": replace(SMALL, gamma=0.5)}, "has a training with another training: give the same"),
        ({"task": replace(TASK, batch_size=8)}, "a training with another task"),
        ({"task": find_family("MLPFamily")}, "a training with another family"),
        ({"execution": Execution(backend="stacked")}, "a training with another backend"),
        ({"execution": replace(LOOP, numerics=Numerics("bf16"))}, "a training with another numerics"),
    ):
        given = {"task": TASK, "training": SMALL, "execution": LOOP, **change}
        with pytest.raises(UserError, match=message):
            train(given.pop("task"), given.pop("training"), tmp_path, **given)
    with exclusive_lock(tmp_path / "lock", "x"), pytest.raises(UserError, match="run by another process"):
        train(TASK, SMALL, tmp_path, execution=LOOP)
    whole = (tmp_path / "checkpoint").read_bytes()
    (tmp_path / "checkpoint").write_bytes(whole[:1000])
    with pytest.raises(UserError, match="cannot be continued: start over with --fresh"):
        train(TASK, SMALL, tmp_path, execution=LOOP)
    with pytest.raises(UserError, match="start rate 100"):
        train(TASK, replace(SMALL, start_rates=(100.0,)), tmp_path, execution=LOOP, fresh=True)
    assert (tmp_path / "checkpoint").exists()  # what cannot be begun forgets nothing


def test_children_of_a_training_are_those_of_no_comparison_and_of_no_other_training(tmp_path, monkeypatch):
    seen: list[set[int]] = []
    start = Episodes.start

    def started(self, rows, seeds, rates=None):
        if self.num_envs == SMALL.children:  # those that judge are others
            seen[-1] |= {int(seed) for seed in seeds}
        return start(self, rows, seeds, rates)

    monkeypatch.setattr(Episodes, "start", started)
    for seed in (0, 1):
        seen.append(set())
        train(TASK, replace(SMALL, seed=seed, evaluation_runs=1), tmp_path / str(seed), execution=LOOP)
        assert len(seen[-1]) == 4 * 9  # 8 updates, and the runs that the last one started
        assert min(seen[-1]) > 3_000_000
    assert not seen[0] & seen[1]


def test_the_best_policy_has_cost_the_whole_training(tmp_path):
    result = train(TASK, SMALL, tmp_path, execution=LOOP)
    best = Policy.load(tmp_path / "policy.safetensors")
    assert (
        best.about["child_steps"]
        == result["child_steps"]
        == PPO(0.1, str(tmp_path / "policy.safetensors")).pretraining_steps
    )
    assert best.about["decisions"] == min(result["history"], key=lambda entry: entry["val_loss"])["decisions"]


def test_another_policy_in_the_middle_of_a_run_is_refused(tmp_path):
    path = tmp_path / "policy.safetensors"
    policy().save(path)
    planner = PPO(0.03, policy=str(path))
    state = planner.start(RunSpec("toy", 100, 10, (1e-3, 1.0), "SGD", 1), [0, 1])
    _, state = planner.plan(state, {**signals(2), "step": np.array([10.0, 10.0])})
    before = planner.fingerprint
    replace(policy(), max_change=1.5).save(path)
    with pytest.raises(UserError, match="is not the one that this run began with"):
        planner.plan(state, {**signals(2), "step": np.array([20.0, 20.0])})
    assert planner.fingerprint != before
    job = ComparisonPlan(TASK, ("ppo",), (0.03,), (1,), settings={"ppo": {"policy": str(path)}})
    store = Store(tmp_path / "records.sqlite")
    begun(job, store, "toy", LOOP)
    policy().save(path)
    with pytest.raises(UserError, match="was begun with fingerprints ppo"):
        compared(job, store, "toy", LOOP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": "lr"}, "action 'lr': a controller changes the rate by"),
        ({"children": 0}, "children is 0"),
        ({"start_rates": ()}, "no start rates"),
        ({"gamma": 1.5}, "gamma must be above 0 and at most 1"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0 and at most 1"),
        ({"max_change": 20.0}, "max_change is 20.0: it must be above 1 and at most 10"),
        ({"seed": 2**32}, "seed 4294967296: it must be"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(UserError, match=message):
        replace(SMALL, **change)


def test_settings_that_do_not_fit_the_task(tmp_path):
    with pytest.raises(UserError, match="start rate 100 is outside the task's range"):
        train(TASK, replace(SMALL, start_rates=(100.0,)), tmp_path)
    for change in ({"minibatches": 7}, {"minibatches": 40}):
        with pytest.raises(
            UserError, match=r"minibatches do not divide the 40 decisions .* another number of children"
        ):
            train(TASK, replace(SMALL, **change), tmp_path)
    if find_spec("tensorboard") is None:
        with pytest.raises(UserError, match="pip install tensorboard"):
            train(TASK, SMALL, tmp_path, tensorboard=True)


def test_starts_and_noise_follow_from_the_seed():
    rates = [0.1, 0.01, 0.001]
    episodes = Episodes(TASK, 60, action="scale", start_rates=rates, noise=0.2, backend="stacked")
    episodes.start(range(60), range(60))
    first = episodes.signals["lr"].copy()
    assert set(first) == set(rates)
    assert all(10 < (first == rate).sum() < 32 for rate in rates)
    episodes.step(np.zeros((60, 1)))
    noise = np.log(episodes.signals["lr"] / first)
    assert noise.std() == pytest.approx(0.2, rel=0.35)
    alone = Episodes(TASK, 1, action="scale", start_rates=rates, noise=0.2, backend="loop")
    alone.start([0], [17])
    assert alone.signals["lr"][0] == first[17]
    alone.step(np.zeros((1, 1)))
    assert alone.signals["lr"][0] == pytest.approx(episodes.signals["lr"][17], rel=1e-12)
    with pytest.raises(UserError, match="outside the range"):
        Episodes(TASK, 1, start_rates=[100.0])
    with pytest.raises(UserError, match="noise is -1"):
        Episodes(TASK, 1, noise=-1)


def test_ppo_finds_a_known_best_action(tmp_path, monkeypatch):
    """Where the reward is how near the rate is to a known one, whatever it trains, the controller goes there."""
    target = 0.03
    original = Episodes.step

    def step(self, actions):
        self.reward = lambda before, after, final: -np.abs(np.log(self.signals["lr"] / target))
        return original(self, actions)

    monkeypatch.setattr(Episodes, "step", step)
    task = replace(TASK, budget=100, segment=5)
    training = PPOSettings(
        decisions=24_000,
        children=32,
        max_change=1.5,
        start_rates=(0.3, 0.003),
        minibatches=4,
        gamma=0.9,
        learning_rate=3e-3,
        evaluate_every=10**9,
        evaluation_runs=2,
    )
    train(task, training, tmp_path)
    for start in (0.3, 0.003, 0.03):
        records = rollout(
            PPO(start, policy=str(tmp_path / "last.safetensors")),
            task,
            [1, 2],
            score=(),
            execution=Execution(backend="loop"),
        )
        for record in records:
            late = record.curves["lr"][10:]
            assert np.abs(np.log(late / target)).max() < 0.6, (start, late)


def test_a_policy_is_shipped():
    trained, untrained = (Policy.load(PRETRAINED / f"ppo-{name}.safetensors") for name in ("DigitsMLP", "untrained"))
    assert trained.about["task"] == "DigitsMLP"
    assert trained.about["child_steps"] > 10**6
    assert untrained.about["child_steps"] == 0
    seen = {name: np.full(3, 0.5) for name in ALWAYS}
    assert np.abs(np.log(untrained.factors(seen))).max() < 0.01 * np.log(1.05)  # it leaves the rate as it is


def test_the_lean_policy_answers_as_sb3s():
    """Its values and log probabilities are those of SB3 for the same actions; its actions have SB3's spread."""
    env = make_vec_env(TASK, 2, action="scale", backend="loop")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = Algorithm(LeanPolicy, env, policy_kwargs=NET, device="cpu").policy
        net.log_std.fill_(-0.7)
        observed = torch.randn(4000, len(FEATURES))
        actions, values, logs = net(observed)
        expected_values, expected_logs, _ = net.evaluate_actions(observed, actions)
        torch.testing.assert_close(values, expected_values)
        torch.testing.assert_close(logs, expected_logs)
        middle = net(observed, deterministic=True)[0]
        torch.testing.assert_close(middle, net._predict(observed, deterministic=True))
        assert float((actions - middle).std()) == pytest.approx(np.exp(-0.7), rel=0.05)
        net.value_net.bias.add_(1.0)  # as an update would
        torch.testing.assert_close(net(observed)[1], expected_values + 1)
