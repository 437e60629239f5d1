"""RL Baselines3 Zoo, by its own commands and its default hyperparameters, but for how much it collects at a time."""

from __future__ import annotations

import subprocess
import sys
import tempfile

ENV = ["--env", "lr_env/DigitsMLP-Scale-v0", "--gym-packages", "lr_env", "-f", "logs"]
SMALL = ["--env-kwargs", "budget:8", "segment:2"]
TRAIN = {
    "ppo": ["-params", "n_steps:8", "batch_size:8", "-n", "16", "--vec-env", "subproc"],
    "ars": ["-n", "16"],
}


def zoo(module: str, *arguments: str, folder: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", f"rl_zoo3.{module}", *ENV, *arguments, *SMALL],
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for algorithm, arguments in TRAIN.items():
            evaluation = ["--eval-freq", "8", "--eval-episodes", "1", "--eval-env-kwargs", "budget:8", "segment:2"]
            printed = zoo("train", "--algo", algorithm, *arguments, *evaluation, folder=folder)
            assert "Saving to logs" in printed
            assert "Episode length: 4.00" in printed
            print(algorithm, "trained and saved")
        printed = zoo("enjoy", "--algo", algorithm, "-n", "5", "--no-render", folder=folder)
        assert "Episode Length 4" in printed
        print(algorithm, "loaded and played")
