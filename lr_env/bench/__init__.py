"""What the promises of speed and size are worth on this machine: `python -m lr_env.bench --out results/bench`."""
