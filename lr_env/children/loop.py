"""Train one child after another in plain torch with `torch.optim`: the reference that the stack is tested against."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lr_env.children.batches import Batches
from lr_env.children.external_optimizers import load_state, save_state
from lr_env.children.losses import mean_loss
from lr_env.children.numerics import EXACT, Numerics
from lr_env.children.state import ChildrenState, restored_afterwards
from lr_env.children.workers import Workers
from lr_env.errors import UserError
from lr_env.signals import Meter


class LoopEngine:
    """Trains each child as its own module with its own torch optimizer.

    The modules' parameters and the optimizers' averages are views of the stacked state, so that snapshots and forks are
    the same for both engines.

    Args:
        state: the children; changed in place.
        template: a module of the children's kind, copied for each.
        batches: the training examples.
        clip_norm: norm to which a child's gradient is scaled down, if it is larger.
        numerics: precision and determinism.
        meters: measure further signals at every step.
        workers: children trained at the same time, each by a thread that computes on one core. Children share nothing,
            so that results do not depend on it.
    """

    def __init__(
        self,
        state: ChildrenState,
        template: nn.Module,
        batches: Batches,
        clip_norm: float | None = None,
        numerics: Numerics = EXACT,
        meters: Sequence[Meter] = (),
        workers: int = 1,
    ) -> None:
        self.state = state
        self.batches = batches
        self.clip_norm = clip_norm
        self.numerics = numerics
        self.meters = meters
        # torch's own modules without buffers evaluate as they train, and for a small network switching is slow.
        has_other_modules = any(not type(part).__module__.startswith("torch.") for part in template.modules())
        self.has_modes = bool(state.layout.buffers) or has_other_modules
        self._gradients = torch.zeros_like(state.parameters)
        self.modules = [self._bind(template, row) for row in range(len(state.parameters))]
        self.optimizers = [self._optimizer(row) for row in range(len(self.modules))]
        self._by_group: dict[int, torch.optim.Optimizer] = {}  # those that have a rate for each group of parameters
        self.workers = Workers(workers)

    def train(
        self,
        index: Tensor,
        keys: Tensor | None,
        lr: NDArray[np.float64],
        steps: NDArray[np.int64],
        active: Sequence[int],
    ) -> Tensor:
        """Train the active children; see `StackedEngine.train`."""
        layout, meters = self.state.layout, self.meters
        columns = 1 + sum(len(meter.signals) for meter in meters)
        measured = torch.zeros(*index.shape[:2], columns, device=index.device, dtype=self.state.parameters.dtype)
        autocast = partial(self.numerics.autocast, index.device)
        by_group = lr.ndim == 3

        def train_child(row: int) -> None:
            optimizer, module = self._optimizer_by_group(row) if by_group else self.optimizers[row], self.modules[row]
            groups, gradients = optimizer.param_groups, self._gradients[row]
            parameters_of_all = [parameter for group in groups for parameter in group["params"]]
            if "exp_avg" in self.state.slots:
                for parameter in parameters_of_all:
                    optimizer.state[parameter]["step"].fill_(int(steps[row]))
            one = slice(row, row + 1)
            whole, parameters = self._gradients[one], self.state.parameters[one]
            slots = {name: slot[one] for name, slot in self.state.meter_slots.items()}
            key = self.state.buffers(row)[layout.key] if layout.key else None
            of_row = itertools.repeat(None) if keys is None else keys[row].unbind()
            values: list[Tensor] = []
            rates = (lr[row].T if by_group else lr[row][:, None]).tolist()
            for batch, now, rates_now in zip(index[row].unbind(), of_row, rates, strict=False):
                if key is not None and now is not None:
                    key.copy_(now)
                inputs, labels = self.batches.take(batch, now)
                for group, rate in zip(groups, rates_now, strict=True):
                    group["lr"] = rate
                gradients.zero_()
                with autocast():
                    logits = module(inputs)
                    loss = F.cross_entropy(logits, labels) if logits.dim() == 2 else mean_loss(logits, labels)
                loss.backward()
                values.append(loss.detach())
                for meter in meters:
                    values += meter.before_update(whole, parameters, slots)
                if self.clip_norm is not None:
                    nn.utils.clip_grad_norm_(parameters_of_all, self.clip_norm)
                optimizer.step()
                for meter in meters:
                    used = layout.spread(parameters.new_tensor([rates_now])) if by_group else rates_now[0]
                    meter.after_update(parameters, used, slots)
            torch.stack([value.view(()) for value in values], out=measured[row].view(-1))

        self.workers.each(train_child, active)
        return measured

    def logits(self, rows: Sequence[int], inputs: Tensor) -> Tensor:
        """Logits of children for the same inputs; see `StackedEngine.logits`."""

        def forward(row: int) -> Tensor:
            module = self.modules[row]
            if self.has_modes:
                module.eval()
            with torch.no_grad(), self.evaluating([row]), self.numerics.autocast(inputs.device):
                logits = module(inputs).to(self.state.parameters.dtype)
            if self.has_modes:
                module.train()
            return logits

        return torch.stack(self.workers.each(forward, rows))

    @contextmanager
    def evaluating(self, rows: Sequence[int]) -> Iterator[None]:
        """A context in which children have the parameters to evaluate, where their optimizers train others."""
        switching = [row for row in rows if hasattr(self.optimizers[row], "eval")]
        if not switching:
            yield
            return
        parameters = {str(row): self.state.parameters[row] for row in switching}
        with restored_afterwards(parameters):  # switching there and back would round
            for row in switching:
                cast("Any", self.optimizers[row]).eval()
            try:
                yield
            finally:
                for row in switching:
                    cast("Any", self.optimizers[row]).train()

    def renew(self, row: int) -> None:
        """Make a new optimizer for a child that starts again, unless its state is in `ChildrenState`."""
        if not self.state.optimizer.stackable:
            self.optimizers[row] = self._optimizer(row)

    def save_optimizers(self, rows: Sequence[int]) -> list[Any]:
        """Copy the state of optimizers that `ChildrenState` does not hold, a tree each; empty where it holds all."""
        return [] if self.state.optimizer.stackable else [save_state(self.optimizers[row]) for row in rows]

    def load_optimizers(self, rows: Sequence[int], saved: Sequence[Any]) -> None:
        """Put back what `save_optimizers` copied."""
        for row, tree in zip(rows, saved, strict=bool(saved)):
            load_state(self.optimizers[row], tree)

    def _bind(self, template: nn.Module, row: int) -> nn.Module:
        module = copy.deepcopy(template)
        views = self.state.layout.views(self.state.parameters[row])
        gradients = self.state.layout.views(self._gradients[row])
        for name, parameter in module.named_parameters():
            parameter.data = views[name]
            parameter.grad = gradients[name]  # backward adds to it in place
        names = {id(buffer): name for name, buffer in module.named_buffers()}
        buffers = self.state.buffers(row)
        for name, buffer in list(module.named_buffers(remove_duplicate=False)):
            owner, _, leaf = name.rpartition(".")
            module.get_submodule(owner)._buffers[leaf] = buffers[names[id(buffer)]]
        return module.train()

    def _optimizer_by_group(self, row: int) -> torch.optim.Optimizer:
        """The optimizer of a child that has a rate for each group of parameters; its averages are those of the other.

        Raises:
            UserError: the optimizer keeps its own state, which only one of the two could have.
        """
        if not self.state.optimizer.stackable:
            raise UserError(f"{self.state.optimizer} has one learning rate for all parameters, and none for groups")
        if row not in self._by_group:
            self._by_group[row] = self._optimizer(row, self.state.layout.group_slices)
        return self._by_group[row]

    def _optimizer(self, row: int, where: Sequence[slice] = (slice(None),)) -> torch.optim.Optimizer:
        """Make torch's optimizer of a child; the parameters of each of its groups are one vector."""
        groups = []
        for part in where:
            parameters = nn.Parameter(self.state.parameters[row, part])
            parameters.grad = self._gradients[row, part]
            groups.append({"params": [parameters]})
        optimizer = self.state.optimizer.build(groups if len(groups) > 1 else groups[0]["params"])
        for part, group in zip(where, groups, strict=True):
            state = {name: slot[row, part] for name, slot in self.state.slots.items()}
            if "exp_avg" in state:
                state["step"] = torch.tensor(0.0)
            if state:
                optimizer.state[group["params"][0]] = state
        return optimizer
