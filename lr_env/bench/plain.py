"""A run as a loop in plain torch, eager or with `torch.compile`: what a user would write without lr_env."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from lr_env.children.initial import build_seeded
from lr_env.tasks import Task
from lr_env.tasks.data import Data


class PlainLoop:
    """One network in training, from tensors on the device with `torch.optim`, that keeps the same signals as LREnv.

    Args:
        task: what to train.
        data: its data, on the device.
        device: where.
        seed: of the initial weights and the batches.
        compiled: whether `torch.compile` compiles the network with its loss, forward and backward, and the update of
            the optimizer, as torch's documentation recommends. The rate is a tensor then, since a number would be
            compiled into the update, and every new one would be compiled again.
    """

    def __init__(self, task: Task, data: Data, device: torch.device, seed: int, compiled: bool = False) -> None:
        self.task = task
        source = task.source
        module = build_seeded(lambda: task.network.build(source.input_shape, source.num_classes), seed, torch.float32)
        self.module = module.to(device).train()
        self.optimizer = task.optimizer.build(self.module.parameters())
        self._network, self._loss, self._update = self.module, self._loss_of, self.optimizer.step
        if compiled:
            self.optimizer.param_groups[0]["lr"] = torch.tensor(task.lr_start, device=device)
            self._network = torch.compile(self.module, dynamic=False)
            self._loss = torch.compile(self._loss_of, dynamic=False)
            self._update = torch.compile(self.optimizer.step)
        self._train, val = data.splits["train"], data.splits["val"]
        self._val_inputs, self._val_labels = val.inputs[: task.val_subset], val.labels[: task.val_subset]
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device
        self._order = torch.empty(0, dtype=torch.int64, device=device)
        self._position = 0

    def segment(self, rate: float) -> tuple[float, float, float]:
        """Train one segment; returns the mean training loss, and loss and accuracy on the validation subset."""
        task, group = self.task, self.optimizer.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
        total = torch.zeros((), device=self._device)
        for _ in range(task.segment):
            inputs, labels = self._next_batch()
            self.optimizer.zero_grad()
            loss = self._loss(inputs, labels)
            loss.backward()
            if task.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.module.parameters(), task.clip_norm)
            self._update()
            total += loss.detach()
        self.module.eval()
        with torch.no_grad():
            logits = self._network(self._val_inputs)
            val_loss = F.cross_entropy(logits.flatten(0, -2), self._val_labels.flatten()).item()
            accuracy = (logits.argmax(-1) == self._val_labels).float().mean().item()
        self.module.train()
        return total.item() / task.segment, val_loss, accuracy

    def seconds(self) -> float:
        """Time of as many segments as a run has, at the task's starting rate."""
        start = time.perf_counter()
        for _ in range(self.task.num_segments):
            self.segment(self.task.lr_start)
        return time.perf_counter() - start

    def _loss_of(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.module(inputs).flatten(0, -2), labels.flatten())

    def _next_batch(self) -> tuple[Tensor, Tensor]:
        task, train = self.task, self._train
        if self._position + task.batch_size > len(self._order):
            self._order = torch.randperm(len(train), generator=self._generator, device=self._device)
            self._position = 0
        batch = self._order[self._position : self._position + task.batch_size]
        self._position += task.batch_size
        inputs, labels = train.inputs.index_select(0, batch), train.labels.index_select(0, batch)
        if task.augment is not None:
            drawn = (len(inputs), task.augment.draws)
            draws = torch.randint(2**24, drawn, generator=self._generator, device=self._device, dtype=torch.int32)
            inputs = task.augment.apply(inputs, draws)
        return inputs, labels
