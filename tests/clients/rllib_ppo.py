"""RLlib: PPO with environments in its own process and in remote ones, one by one and vectorized in every way it has."""

from __future__ import annotations

import ray
from ray.rllib.algorithms.ppo import PPOConfig

SCALE, DISCRETE = "lr_env:lr_env/DigitsMLP-Scale-v0", "lr_env:lr_env/DigitsMLP-Discrete-v0"
STEPS, LENGTH = 16, 4  # environment steps of one iteration, and of one episode
RUNNERS = (
    (SCALE, {"num_env_runners": 0}),
    (SCALE, {"num_env_runners": 2}),
    (SCALE, {"num_env_runners": 1, "num_envs_per_env_runner": 2}),
    (SCALE, {"num_env_runners": 1, "num_envs_per_env_runner": 2, "gym_env_vectorize_mode": "async"}),
    (SCALE, {"num_env_runners": 1, "num_envs_per_env_runner": 2, "gym_env_vectorize_mode": "vector_entry_point"}),
    (DISCRETE, {"num_env_runners": 1}),
)

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    for task_id, runners in RUNNERS:
        algorithm = (
            PPOConfig()
            .environment(task_id, env_config={"budget": 2 * LENGTH, "segment": 2})
            .env_runners(**runners)
            .training(train_batch_size_per_learner=STEPS, minibatch_size=STEPS // 2, num_epochs=1)
            .build_algo()
        )
        for _ in range(2):
            found = algorithm.train()["env_runners"]
            # No step is lost between episodes.
            assert found["num_env_steps_sampled"] == STEPS
            assert found["num_episodes"] == STEPS // LENGTH
            assert found["episode_len_mean"] == LENGTH
        algorithm.stop()
        print(task_id, runners)
    ray.shutdown()
