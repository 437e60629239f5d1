"""Tasks: data sets, child networks, and the catalogue."""

from lr_env.tasks.augment import Augment, CropFlip
from lr_env.tasks.catalogue import TASKS, Task, find_task
from lr_env.tasks.networks import CNN, GPT, MLP, LeNet5, Network, ResNet

__all__ = ["CNN", "GPT", "MLP", "TASKS", "Augment", "CropFlip", "LeNet5", "Network", "ResNet", "Task", "find_task"]
