"""One child after another: plain torch with `torch.optim`, the truth that the stack is tested against."""

from __future__ import annotations

import copy
from collections.abc import Sequence

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
    """

    def __init__(self, state: ChildrenState, template: nn.Module, train: Split) -> None:
        self.state = state
        self.train_split = train
        self.modules = [self._bind(template, row) for row in range(len(state.parameters))]
        self.optimizers = [self._optimizer(module, row) for row, module in enumerate(self.modules)]

    def train(
        self, batches: Tensor, lr: NDArray[np.float64], steps: NDArray[np.int64], active: Sequence[int]
    ) -> Tensor:
        """Train the active children; see `StackedEngine.train`."""
        losses = torch.zeros(len(self.modules), device=batches.device, dtype=self.state.parameters.dtype)
        for row in active:
            optimizer, module = self.optimizers[row], self.modules[row]
            for state in optimizer.state.values():
                if "step" in state:
                    state["step"].fill_(int(steps[row]))
            total = losses[row]
            for step, rate in enumerate(lr[row].tolist()):
                inputs = self.train_split.inputs.index_select(0, batches[row, step])
                labels = self.train_split.labels.index_select(0, batches[row, step])
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
                loss = F.cross_entropy(module(inputs), labels)
                loss.backward()
                optimizer.step()
                total += loss.detach()
        return losses / batches.shape[1]

    def logits(self, rows: Sequence[int], inputs: Tensor) -> Tensor:
        """What children answer to the same inputs; see `StackedEngine.logits`."""
        answers = []
        with torch.no_grad():
            for row in rows:
                self.modules[row].eval()
                answers.append(self.modules[row](inputs))
                self.modules[row].train()
        return torch.stack(answers)

    def _bind(self, template: nn.Module, row: int) -> nn.Module:
        module = copy.deepcopy(template)
        views = self.state.layout.views(self.state.parameters[row])
        for name, parameter in module.named_parameters():
            parameter.data = views[name]
        for name, _ in list(module.named_buffers()):
            owner, _, leaf = name.rpartition(".")
            module.get_submodule(owner)._buffers[leaf] = self.state.tensors[f"buffer.{name}"][row]
        return module.train()

    def _optimizer(self, module: nn.Module, row: int) -> torch.optim.Optimizer:
        optimizer = self.state.optimizer.build(module.parameters())
        slots = {name: self.state.layout.views(slot[row]) for name, slot in self.state.slots.items()}
        for name, parameter in module.named_parameters():
            if slots:
                optimizer.state[parameter] = {slot: views[name] for slot, views in slots.items()}
            if "exp_avg" in slots:
                optimizer.state[parameter]["step"] = torch.tensor(0.0)
        return optimizer
