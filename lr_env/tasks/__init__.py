"""What is trained: data, child networks, and the catalogue of tasks."""

from lr_env.tasks.catalogue import TASKS, Task, find_task
from lr_env.tasks.networks import MLP, LeNet5, Network

__all__ = ["MLP", "TASKS", "LeNet5", "Network", "Task", "find_task"]
