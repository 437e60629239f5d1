"""Gymnasium's vector environments: in this process, and in workers that are forked or spawned.

All start after this process has trained on all cores, which is when a fork used to hang.
"""

from __future__ import annotations

import gymnasium
import numpy as np

import lr_env  # noqa: F401

ID = "lr_env/DigitsMLP-Scale-v0"
SMALL = {"budget": 6, "segment": 2, "score": ("val",), "backend": "loop"}
MODES = ("NextStep", "SameStep", "Disabled")


def run(envs: gymnasium.vector.VectorEnv, mode: str = "NextStep") -> np.ndarray:
    """Observations of a run and of the beginning of the next, (times, envs, features)."""
    seen = [envs.reset(seed=7)[0]]
    actions = np.random.default_rng(0).uniform(-1, 1, (5, *envs.action_space.shape)).astype(np.float32)
    for action in actions:
        observation, rewards, terminated, truncated, _ = envs.step(action)
        assert observation in envs.observation_space
        assert np.isfinite(rewards).all()
        seen.append(observation)
        ended = terminated | truncated
        if mode == "Disabled" and ended.any():
            seen.append(envs.reset(options={"reset_mask": ended})[0])
    envs.close()
    return np.array(seen)


if __name__ == "__main__":
    reference = {}
    for mode in MODES:
        envs = gymnasium.make_vec(
            ID, num_envs=2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **SMALL
        )
        reference[mode] = run(envs, mode)
        lockstep = run(gymnasium.make_vec(ID, num_envs=2, autoreset_mode=mode, **SMALL), mode)
        np.testing.assert_allclose(lockstep, reference[mode], rtol=1e-3, atol=1e-4, err_msg=mode)
    np.testing.assert_allclose(run(gymnasium.make_vec(ID, num_envs=2, **SMALL)), reference["NextStep"], rtol=1e-3)
    print("in this process")

    for context, shared in (("fork", True), ("fork", False), ("spawn", True)):
        envs = gymnasium.make_vec(
            ID,
            num_envs=2,
            vectorization_mode="async",
            vector_kwargs={"context": context, "shared_memory": shared},
            **SMALL,
        )
        np.testing.assert_allclose(run(envs), reference["NextStep"], rtol=1e-4, err_msg=f"{context} {shared}")
        print(context, shared, "the same as in this process")
