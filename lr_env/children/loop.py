"""One child after another: plain torch with `torch.optim`, the truth that the stack is tested against."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.children.state import ChildrenState
from lr_env.tasks.data import Split


class LoopEngine:
    """Trains each child as its own module with its own torch optimizer.

    The modules' parameters and the optimizers' averages are views of the stacked state, so that snapshots and forks
    are the same for both engines.

    Args:
        state: the children; changed in place.
        template: a module of the children's kind, copied for each.
        train: the training split.
        workers: children trained at the same time, each by a thread that computes on one core. Children do not share
            anything, so that this changes who waits for whom and nothing else.
    """

    def __init__(self, state: ChildrenState, template: nn.Module, train: Split, workers: int = 1) -> None:
        self.state = state
        self.train_split = train
        # Networks without buffers evaluate as they train, and switching costs as much as a small forward pass.
        self.has_modes = bool(state.layout.buffers)
        self._gradients = torch.zeros_like(state.parameters)
        self.modules = [self._bind(template, row) for row in range(len(state.parameters))]
        self.optimizers = [self._optimizer(row) for row in range(len(self.modules))]
        self._pool = _pool(workers) if workers > 1 else None
        if self._pool is not None:
            weakref.finalize(self, self._pool.shutdown, wait=False)

    def train(
        self, batches: Tensor, lr: NDArray[np.float64], steps: NDArray[np.int64], active: Sequence[int]
    ) -> Tensor:
        """Train the active children; see `StackedEngine.train`."""
        losses = torch.zeros(len(self.modules), device=batches.device, dtype=self.state.parameters.dtype)

        def train_child(row: int) -> None:
            optimizer, module = self.optimizers[row], self.modules[row]
            for state in optimizer.state.values():
                if "step" in state:
                    state["step"].fill_(int(steps[row]))
            total, group, gradients = losses[row], optimizer.param_groups[0], self._gradients[row]
            all_inputs, all_labels = self.train_split.inputs, self.train_split.labels
            for batch, rate in zip(batches[row].unbind(), lr[row].tolist(), strict=True):
                inputs, labels = all_inputs.index_select(0, batch), all_labels.index_select(0, batch)
                group["lr"] = rate
                gradients.zero_()
                loss = F.cross_entropy(module(inputs), labels)
                loss.backward()
                optimizer.step()
                total += loss.detach()

        self._each(train_child, active)
        return losses / batches.shape[1]

    def logits(self, rows: Sequence[int], inputs: Tensor) -> Tensor:
        """What children answer to the same inputs; see `StackedEngine.logits`."""

        def answer(row: int) -> Tensor:
            module = self.modules[row]
            if self.has_modes:
                module.eval()
            with torch.no_grad():
                logits = module(inputs)
            if self.has_modes:
                module.train()
            return logits

        return torch.stack(self._each(answer, rows))

    def _each(self, work: Callable[[int], Any], rows: Sequence[int]) -> list[Any]:
        if self._pool is None or len(rows) == 1:
            return [work(row) for row in rows]
        return list(self._pool.map(work, rows))

    def _bind(self, template: nn.Module, row: int) -> nn.Module:
        module = copy.deepcopy(template)
        views = self.state.layout.views(self.state.parameters[row])
        gradients = self.state.layout.views(self._gradients[row])
        for name, parameter in module.named_parameters():
            parameter.data = views[name]
            parameter.grad = gradients[name]  # backward adds to it in place
        for name, _ in list(module.named_buffers()):
            owner, _, leaf = name.rpartition(".")
            module.get_submodule(owner)._buffers[leaf] = self.state.tensors[f"buffer.{name}"][row]
        return module.train()

    def _optimizer(self, row: int) -> torch.optim.Optimizer:
        """torch's optimizer of all of a child's parameters as one vector: one update instead of one for each layer."""
        parameters = nn.Parameter(self.state.parameters[row])
        parameters.grad = self._gradients[row]
        optimizer = self.state.optimizer.build([parameters])
        if self.state.slots:
            optimizer.state[parameters] = {name: slot[row] for name, slot in self.state.slots.items()}
        if "exp_avg" in self.state.slots:
            optimizer.state[parameters]["step"] = torch.tensor(0.0)
        return optimizer


def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads that each compute on one core; the caller's own number of threads stays as it is."""
    threads = torch.get_num_threads()
    started = threading.Barrier(workers + 1)

    def start() -> None:
        torch.set_num_threads(1)  # holds for this thread, but is also what threads made later begin with
        started.wait()

    pool = ThreadPoolExecutor(workers, "lr_env-child", initializer=start)
    for _ in range(workers):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)
    return pool
