"""The ids of the environments, registered with Gymnasium."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

# By name, so that registering does not load torch; a test holds this list against TASKS. Beside each are the rates of
# its id with an absolute action on a log scale: those that a sweep tries, and two decades below for the end of a run.
TASKS = {
    "DigitsMLP": (3e-5, 0.3),
    "FashionMLP": (3e-5, 0.3),
    "FashionLeNet5": (3e-5, 0.3),
    "FashionResNet8": (1e-4, 1.0),
    "ShakespeareGPT": (1e-5, 0.1),
    "FashionCNN": (3e-6, 0.03),
    "FashionResNet18": (3e-5, 0.3),
    "CIFAR10ResNet18": (3e-5, 0.3),
    "ShakespeareGPTLarge": (3e-6, 0.03),
    "MNISTLeNet5": (3e-5, 0.3),
    "FashionLeNet5TenEpochs": (3e-5, 0.3),
    "CIFAR100ResNet18": (3e-6, 0.03),
    "CIFAR100SwishResNet": (3e-6, 0.03),
}
FAMILIES = ("MLPFamily", "PlainMLPFamily", "CNNFamily", "ResNetFamily", "GPTFamily", "MixedFamily")  # by name, too
ACTIONS = {"": "lr", "-Scale": "scale", "-Discrete": "discrete", "-LogLR": "log_lr"}


def register() -> None:
    """Register every task and task family with every kind of action."""
    import gymnasium

    for family in FAMILIES:
        for suffix, action in ACTIONS.items():
            gymnasium.register(
                id=f"lr_env/{family}{suffix}-v0",
                entry_point="lr_env.env:LRFamilyEnv",
                vector_entry_point="lr_env.env:LRFamilyVectorEnv",
                kwargs={"family": family, **({"action": action, "score": ()} if suffix else {})},
            )

    for task, rates in TASKS.items():
        for suffix, action in ACTIONS.items():
            gymnasium.register(
                id=f"lr_env/{task}{suffix}-v0",
                entry_point="lr_env.env:LREnv",
                vector_entry_point="lr_env.env:LRVectorEnv",
                kwargs={
                    "task": task,
                    **({"action": action, "score": ()} if suffix else {}),  # learning has no use for test data
                    **({"lr_range": rates} if action == "log_lr" else {}),
                },
            )


def when_gymnasium_is_imported() -> None:
    """Register at once if Gymnasium is there already, and otherwise when it is imported.

    Whoever takes a schedule for a training loop of their own must not wait for the import of Gymnasium, which takes
    half as long as that of numpy.
    """
    if "gymnasium" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterGymnasium())


class _AfterGymnasium:
    """Finds nothing itself, but registers the environments after the import of Gymnasium, once."""

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The specification of Gymnasium as others find it, whose loader registers when it is done."""
        if fullname != "gymnasium":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            register()

        spec.loader.exec_module = exec_module
        return spec
