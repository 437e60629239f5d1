"""The commands of `lr-env`, each a dataclass of its options with a method `run`."""
