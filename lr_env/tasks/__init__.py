"""Tasks: data sets, child networks, the catalogue, and task families."""

from lr_env.tasks.augment import Augment, CropFlip
from lr_env.tasks.catalogue import TASKS, Task, find_task
from lr_env.tasks.families import FAMILIES, Family, TaskFamily, find_family
from lr_env.tasks.layered import LayeredCNN, LayeredMLP
from lr_env.tasks.networks import CNN, GPT, MLP, LeNet5, Network, ResNet, SwishResNet

__all__ = [
    "CNN",
    "FAMILIES",
    "GPT",
    "MLP",
    "TASKS",
    "Augment",
    "CropFlip",
    "Family",
    "LayeredCNN",
    "LayeredMLP",
    "LeNet5",
    "Network",
    "ResNet",
    "SwishResNet",
    "Task",
    "TaskFamily",
    "find_family",
    "find_task",
]
