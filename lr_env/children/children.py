"""Children: N networks in training, whichever engine trains them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from lr_env.children.backend import network_of
from lr_env.children.batches import Batches
from lr_env.children.execution import LOOP, Execution
from lr_env.children.flatness import flatness
from lr_env.children.initial import moved
from lr_env.children.loop import LoopEngine
from lr_env.children.losses import mean_loss, score
from lr_env.children.memory import MemoryEstimate, activations_per_example
from lr_env.children.meters import find_meters
from lr_env.children.noise import keys as keys_of
from lr_env.children.order import DataOrder
from lr_env.children.snapshots import check_kind, kind_of
from lr_env.children.stacked import StackedEngine
from lr_env.children.state import ChildrenState, Layout
from lr_env.devices import check_process, find_device
from lr_env.errors import UserError, refuse_duplicates
from lr_env.isolation import flushing_denormals, isolated, isolating, using_threads
from lr_env.signals import VALIDATION_SIGNALS, names
from lr_env.tasks.data import load

if TYPE_CHECKING:
    from lr_env.tasks.catalogue import Task

P = ParamSpec("P")
R = TypeVar("R")
Floats = NDArray[np.float64]
Snapshot = dict[str, Any]
"""Copies of rows of children: a tree of tensors and arrays, one row a child."""

_MEASURED = names(VALIDATION_SIGNALS)

# Elements of activations that one chunk of an evaluation may take, so that scoring a whole split stays small.
# CUDA devices take more, for each operation of a chunk costs them the same up to there.
_EVALUATION_ELEMENTS = {"cpu": 2**25, "cuda": 2**28}


def _computing(method: Callable[Concatenate[Children, P], R]) -> Callable[Concatenate[Children, P], R]:
    """Decorate a method of children so that it runs in isolation, with the threads of their backend.

    A thread that computes alone takes numbers below the smallest normal one for 0; see `flushing_denormals`.
    """

    @wraps(method)
    def inside(self: Children, *args: P.args, **kwargs: P.kwargs) -> R:
        # Where threads share an operation, the others' settings cannot be changed, and all should compute alike.
        with (
            isolated(),
            using_threads(self.backend.threads),
            flushing_denormals(self.device.type == "cpu" and torch.get_num_threads() == 1),
        ):
            return method(self, *args, **kwargs)

    return inside


class Children:
    """N child networks of one task, trained together.

    The same task and seed give the same initial weights and the same batches, whatever the learning rates, the
    position among the children and the number of neighbours. No global random generator is read or written, and what
    the caller has set in torch and numpy (grad and inference mode, autocast, default dtype and device, ...) neither
    counts nor is changed, see `lr_env.isolation`. Children can be pickled and copied: a copy goes on as they do.

    Args:
        task: what to train.
        seeds: one for each child, >= 0; equal seeds are allowed and give equal children.
        execution: device, backend and numerics. The backend must be known; `lr_env.children.fastest` chooses it.
        dtype: of parameters and inputs.
        extra_signals: names of signals to measure on demand, see `lr_env.children.meters`. They cost some passes over
            the parameters a step.

    Attributes:
        steps: optimizer steps done by each child, (children,).
        seeds: seed of each child's initial weights, (children,).
        backend: the backend in use.
        step_losses: training loss of every step of the last segment trained, nats per example, (children, segment);
            NaN for children that were not trained in it.
        extra_signals: names of what the meters measure that `extra_signals` asked for.
        groups: names of the groups of parameters that may have rates of their own: the layers or blocks, from the
            input to the output; see `lr_env.children.groups`.
        step_signals: these signals at the same steps, (children, segment, signals).

    Raises:
        UserError: bad seeds, device or backend; more children than memory can hold; a network not supported.
    """

    @isolating
    def __init__(
        self,
        task: Task,
        seeds: Sequence[int],
        execution: Execution = LOOP,
        dtype: torch.dtype = torch.float32,
        extra_signals: Sequence[str] = (),
    ) -> None:
        self.task = task
        self.device = find_device(execution.device)
        self.dtype = dtype
        self.numerics = numerics = execution.numerics
        numerics.check(self.device)
        self.meters = find_meters(extra_signals)
        self.extra_signals = tuple(name for meter in self.meters for name in names(meter.signals))
        refuse_duplicates("signal", self.extra_signals)
        template = network_of(task, dtype)
        # Some of cuDNN's kernels read 16 bytes at a time, and fail where a weight lies in between.
        align = 16 // dtype.itemsize if self.device.type == "cuda" else 1
        layout = Layout.of(template, numerics.kernels_last(self.device), align)
        activations = activations_per_example(template, task.source)
        evaluated = _EVALUATION_ELEMENTS[self.device.type]
        slots = sum(len(meter.slots) for meter in self.meters)
        self.memory = _memory_estimate(task, layout, activations, evaluated, dtype, slots)
        self.memory.check(len(seeds), 1, self.device)
        self.seeds = check_seeds(seeds)
        self.steps = np.zeros(len(self.seeds), dtype=np.int64)
        self.data = load(task.data, str(self.device), dtype, task.train_fraction, task.label_noise)

        self.backend = execution.resolved_backend
        if self.backend.name != "loop" and not task.optimizer.stackable:
            raise UserError(f"{task.optimizer} is trained by the loop: use backend 'loop' or 'auto'")
        self.memory.check(len(self.seeds), self.backend.at_once(len(self.seeds), self.device), self.device)
        self.state = ChildrenState(layout, task.optimizer, template, len(self.seeds), self.device, dtype, self.meters)
        self.groups = tuple(layout.groups)
        self._kind = kind_of(task, dtype)
        self._last_logits = torch.zeros(
            len(self.seeds), task.val_subset, *task.source.output_shape, device=self.device, dtype=dtype
        )
        self.state.tensors["logits"] = self._last_logits  # the next prediction change depends on them
        self._measured = np.zeros(len(self.seeds), dtype=bool)
        self.order = DataOrder(len(self.data.splits["train"]), task.batch_size, self.seeds.tolist())
        self.batches = Batches(self.data.splits["train"], task.augment, self._burst_labels())
        self._random = layout.key is not None or task.augment is not None
        self._template = moved(template, self.device)
        common = self.state, self._template, self.batches, task.clip_norm, numerics, self.meters
        self.engine: LoopEngine | StackedEngine = (
            LoopEngine(*common, workers=self.backend.workers)
            if self.backend.name == "loop"
            else StackedEngine(
                *common,
                block=self.backend.block,
                workers=self.backend.workers,
                key=(task.network, task.data),
                compiled=self.backend.name == "compiled",
            )
        )
        self._forget_steps()
        self._evaluation_chunk = max(32, evaluated // (activations * self.backend.block))
        self.reset(range(len(self.seeds)), self.seeds)

    @property
    def execution(self) -> Execution:
        """How these children are trained."""
        return Execution(str(self.device), self.backend, self.numerics)

    def __len__(self) -> int:
        return len(self.seeds)

    @isolating
    def reset(self, rows: Sequence[int], seeds: Sequence[int] | NDArray[np.int64]) -> None:
        """Start some children again, each from its seed; the others stay as they are."""
        seeds = check_seeds(seeds)
        for row, seed in zip(rows, seeds.tolist(), strict=True):
            self.state.initialise(row, network_of(self.task, self.dtype, seed))
            if isinstance(self.engine, LoopEngine):
                self.engine.renew(row)
        chosen = np.asarray(rows, dtype=np.int64)
        self._measured[chosen] = False
        self.seeds[chosen] = seeds
        self.order.assign(chosen, seeds)
        self.steps[chosen] = 0

    @_computing
    def train(self, lr: Floats | Sequence[float], rows: Sequence[int] | None = None) -> Floats:
        """Train one segment.

        Args:
            lr: learning rate of every child, (children,), or of every child and step, (children, segment), or of every
                child, group of parameters and step, (children, groups, 1 or segment).
            rows: which children to train; all by default. The others stay as they are.

        Returns:
            Mean training loss over the segment, nats per example, (children,); NaN for children not trained.

        Raises:
            UserError: a shape that fits neither form, or a rate that is not finite and positive.
        """
        rates = np.asarray(lr, dtype=np.float64)
        count, segment = len(self), self.task.segment
        if rates.ndim == 1:
            rates = np.broadcast_to(rates[:, None], (len(rates), segment))
        elif rates.ndim == 3 and rates.shape[2] == 1:
            rates = np.broadcast_to(rates, (*rates.shape[:2], segment))
        if rates.shape not in ((count, segment), (count, len(self.groups), segment)):
            raise UserError(
                f"learning rates of shape {np.shape(lr)}: give ({count},), or ({count}, {segment}) with one for each "
                f"step, or ({count}, {len(self.groups)}, 1 or {segment}) for the groups {', '.join(self.groups)}"
            )
        active = self._chosen(rows)
        if not (np.isfinite(rates[active]).all() and (rates[active] > 0).all()):
            raise UserError("learning rates must be finite and above 0")
        self._forget_steps()
        if active:
            index = self._next_examples(self.task.segment)
            keys = self._keys(self.task.segment)
            with self.numerics.active(self.device):
                measured = self.engine.train(index, keys, rates, self.steps, active)
            measured = measured.double().cpu().numpy()[active]
            self.step_losses[active] = measured[..., 0]
            self.step_signals[active] = measured[..., 1:]
            self.steps[active] += self.task.segment
        return self.step_losses.mean(1)

    @_computing
    def measure(self, rows: Sequence[int] | None = None) -> dict[str, Floats]:
        """Measure children on the fixed validation subset, at a segment's end.

        Returns:
            Each (rows,): "val_loss" (nats per example), "val_accuracy", "prediction_variance" (of the logits, over
            examples and classes), "prediction_change" (variance of the logits' change since the last measurement; 0
            for a child that was not measured before), "output_weight_mean", "output_weight_variance".
        """
        chosen = self._chosen(rows)
        where = slice(None) if len(chosen) == len(self) else chosen  # a slice needs no gather
        split = self.data.splits["val"]
        labels = split.labels[: self.task.val_subset]
        inputs = split.inputs[: self.task.val_subset]
        with self.numerics.active(self.device):
            parts = [self.engine.logits(chosen, part) for part in inputs.split(self._evaluation_chunk)]
        logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        weights = self.state.output_weights[where].flatten(1)
        change = (logits - self._last_logits[where]).flatten(1)
        if not self._measured[where].all():
            change[torch.from_numpy(~self._measured[where]).to(self.device)] = 0
        self._last_logits[where] = logits
        self._measured[where] = True
        loss, accuracy = score(logits, labels)
        means = [loss.mean(1), accuracy.mean(1)]
        # One tensor, so that there is one transfer and one wait.
        table = torch.stack([*means, _variance(logits.flatten(1)), _variance(change), *_mean_and_variance(weights)])
        return dict(zip(_MEASURED, table.double().cpu().numpy(), strict=True))

    @_computing
    def evaluate(self, split: str, rows: Sequence[int] | None = None) -> tuple[Floats, Floats]:
        """Score children on a whole split.

        Args:
            split: "train", "val" or "test".
            rows: which children; all by default.

        Returns:
            Mean loss, nats per example, and accuracy, each (rows,).

        Raises:
            UserError: there is no such split.
        """
        if split not in self.data.splits:
            raise UserError(f"unknown split {split!r} (there are: {', '.join(self.data.splits)})")
        chosen = self._chosen(rows)
        examples = self.data.splits[split]
        totals = torch.zeros(2, len(chosen), device=self.device, dtype=torch.float64)
        size = min(self._evaluation_chunk, len(examples))
        for start in range(0, len(examples), size):
            first = min(start, len(examples) - size)  # all chunks of one size: another would have to be traced
            part = slice(first, first + size)
            with self.numerics.active(self.device):
                logits = self.engine.logits(chosen, examples.inputs[part])
            loss, accuracy = (x[:, start - first :] for x in score(logits, examples.labels[part]))
            totals += torch.stack([loss.double().sum(1), accuracy.double().sum(1)])
        loss, accuracy = (totals / len(examples)).cpu().numpy()
        return loss, accuracy

    @_computing
    def first_batch_loss(self, rows: Sequence[int]) -> Floats:
        """Training loss, nats per example, of the batch that each child will train on next, (rows,)."""
        chosen = self._chosen(rows)
        index = self._next_examples(1)[chosen, 0]
        keys = self._keys(1)
        losses = []
        for place, row in enumerate(chosen):  # one child at a time, as every child has its own examples
            child = self.state.child(row)
            now = None if keys is None else keys[row, 0]
            if self.state.layout.key is not None and now is not None:
                child[self.state.layout.key] = now
            with torch.no_grad(), self.numerics.active(self.device), self.numerics.autocast(self.device):
                inputs, labels = self.batches.take(index[place], now)
                losses.append(mean_loss(functional_call(self._template, child, (inputs,)), labels))
        return torch.stack(losses).double().cpu().numpy()

    def flatness(self, rows: Sequence[int] | None = None) -> dict[str, Floats]:
        """Measure how flat the training loss is; see `lr_env.children.flatness.flatness`."""
        return flatness(self, rows)

    @property
    def num_parameters(self) -> int:
        """Trainable parameters of one child."""
        return self.state.layout.num_parameters

    @isolating
    def snapshot(self, rows: Sequence[int] | None = None) -> Snapshot:
        """Copy everything that the further training of some children depends on; of all children by default."""
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        return {
            "kind": self._kind,
            "layout": self.state.layout.arrangement,
            "tensors": self.state.get(chosen),
            "steps": self.steps[chosen].copy(),
            "seeds": self.seeds[chosen].copy(),
            "order_seeds": self.order.seeds[chosen].copy(),
            "optimizers": self.engine.save_optimizers(chosen.tolist()) if isinstance(self.engine, LoopEngine) else [],
            "measured": self._measured[chosen].copy(),
        }

    @isolating
    def restore(self, snapshot: Mapping[str, Any], rows: Sequence[int] | None = None) -> None:
        """Put children back into the state of a snapshot; `rows` are the children to overwrite, all by default.

        Raises:
            UserError: the snapshot is of another kind or number of children, or no snapshot.
        """
        chosen = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.check_fits(snapshot, len(chosen))
        self.state.set(chosen, self.state.rearranged(snapshot["tensors"], snapshot.get("layout")))
        self.steps[chosen] = snapshot["steps"]
        self.seeds[chosen] = snapshot["seeds"]
        self.order.assign(chosen, snapshot["order_seeds"])
        if isinstance(self.engine, LoopEngine):
            self.engine.load_optimizers(chosen.tolist(), snapshot["optimizers"])
        self._measured[chosen] = snapshot["measured"]

    @isolating
    def fork(self, sources: Sequence[int], targets: Sequence[int], *, same_batches: bool = False) -> None:
        """Copy children onto others, to try learning rates on the copies.

        A fork goes on from the source's step, parameters and optimizer state, but follows its own data order, so that
        it does not see the batches that the source will train on.

        Args:
            sources: children to copy, (forks,).
            targets: children to overwrite, (forks,), all different and none of them a source.
            same_batches: follow the source's data order instead.
        """
        if len(set(targets)) != len(targets) or set(targets) & set(sources) or len(sources) != len(targets):
            raise UserError("fork: give as many targets as sources, no two targets alike, and none that is a source")
        data_orders = self.order.seeds[list(targets)].copy()
        self.restore(self.snapshot(sources), targets)
        if not same_batches:
            self.order.assign(list(targets), data_orders)

    def check_fits(self, snapshot: Mapping[str, Any], count: int) -> None:
        """Check that a snapshot is of `count` children of this kind.

        Raises:
            UserError: it is not; the message names what differs.
        """
        check_kind(snapshot, self._kind, count)
        self.state.check_fits(snapshot["tensors"], count)

    def __getstate__(self) -> dict[str, Any]:
        """Arguments, snapshot and last segment, of which a copy is made on the same kind of device."""
        arguments = {
            "task": self.task,
            "seeds": self.seeds.tolist(),
            "execution": self.execution,
            "dtype": self.dtype,
            "extra_signals": self.extra_signals,
        }
        segment = {"step_losses": self.step_losses, "step_signals": self.step_signals}
        return {"arguments": arguments, "snapshot": self.snapshot(), "segment": segment}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the children again, in the same state."""
        self.__init__(**state["arguments"])
        self.restore(state["snapshot"])
        for name, values in state["segment"].items():
            setattr(self, name, np.array(values))  # which may have come read-only

    def _forget_steps(self) -> None:
        self.step_losses = np.full((len(self), self.task.segment), np.nan)
        self.step_signals = np.full((len(self), self.task.segment, len(self.extra_signals)), np.nan)

    def _next_examples(self, count: int) -> Tensor:
        """Row numbers of the next batches, (children, count, batch); in a burst of wrong labels those of `Batches`."""
        examples = self.order.batches(self.steps, count)
        if self.task.label_burst is not None:
            first, last = (round(share * self.task.budget) for share in self.task.label_burst[:2])
            steps = self.steps[:, None] + np.arange(count)
            examples[(steps >= first) & (steps < last)] += self.order.num_examples
        return torch.from_numpy(examples).to(self.device)

    def _burst_labels(self) -> Tensor | None:
        """The labels of the training split in a burst of wrong ones."""
        if (task := self.task).label_burst is None:
            return None
        wrong = load(task.data, str(self.device), self.dtype, task.train_fraction, task.label_burst[2])
        return wrong.splits["train"].labels

    def _keys(self, count: int) -> Tensor | None:
        """Keys of the random numbers of the next steps, (children, count, 2); None where nothing is random."""
        if not self._random:
            return None
        return torch.from_numpy(keys_of(self.order.seeds, self.steps, count)).to(self.device)

    def _chosen(self, rows: Sequence[int] | None) -> list[int]:
        check_process(self.device)
        chosen = list(range(len(self))) if rows is None else [int(row) for row in rows]
        if any(b <= a for a, b in itertools.pairwise(chosen)) or (
            chosen and not 0 <= chosen[0] <= chosen[-1] < len(self)
        ):
            raise UserError(f"rows {chosen}: give rows from 0 to {len(self) - 1}, in increasing order")
        return chosen


def check_seeds(seeds: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Check seeds and return them as an array.

    Raises:
        UserError: there are no seeds, or one is not a whole number in [0, 2**63).
    """
    values = list(seeds)
    for seed in values:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**63:
            raise UserError(f"seed {seed!r}: seeds are whole numbers from 0 to 2**63 - 1")
    if not values:
        raise UserError("no seeds: give at least one")
    return np.array(values, dtype=np.int64)


def _variance(values: Tensor) -> Tensor:
    """Population variance along rows: (rows, n) -> (rows,).

    torch.var is more accurate, but several times slower for many rows; for few rows it saves three calls.
    """
    return values.var(1, correction=0) if len(values) < 8 else _mean_and_variance(values)[1]


def _mean_and_variance(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance along rows: (rows, n) -> two of (rows,)."""
    if len(values) < 8:
        variance, mean = torch.var_mean(values, 1, correction=0)
        return mean, variance
    mean = values.mean(1, keepdim=True)
    return mean[:, 0], (values - mean).square().mean(1)


def _memory_estimate(
    task: Task, layout: Layout, activations: int, evaluated: int, dtype: torch.dtype, meter_slots: int
) -> MemoryEstimate:
    """What children of a task take; `evaluated` is how many activations one chunk of an evaluation may have."""
    item = dtype.itemsize
    source = task.source
    train, inputs = task.train_size, math.prod(source.input_shape)
    # Parameters, gradients (which the loop keeps), optimizer and meters; logits at the last measurement, and four times
    # as much while all children are measured together.
    flat = (2 + meter_slots + len(task.optimizer.slots)) * layout.size
    logits = 5 * task.val_subset * math.prod(source.output_shape)
    indices = 4 * train + 8 * task.segment * task.batch_size
    # What the update makes of gradients; a block's rows, taken apart; inputs as gathered; activations, forward and
    # backward.
    active = (3 + len(task.optimizer.slots)) * layout.size + 2 * (inputs + activations) * task.batch_size
    data = sum(source.sizes.values()) * inputs
    return MemoryEstimate(item * (flat + logits) + indices, item * active, shared=item * (evaluated + data))
