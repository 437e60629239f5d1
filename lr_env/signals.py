"""Signals: the numbers that are measured of every run, and meters, which measure further ones on demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Signal:
    """A number that is measured once a segment.

    Attributes:
        name: key in planners' signals and in records.
        unit: unit of its values.
        description: what it is, as a part of a sentence.
        when: "segment", measured once at the segment's end; or "step", the mean over the segment's steps.
        always: whether it is measured in every run; others are measured where a planner needs them.
    """

    name: str
    unit: str
    description: str
    when: Literal["segment", "step"] = "segment"
    always: bool = False


def names(signals: Iterable[Signal]) -> tuple[str, ...]:
    """The names of some signals."""
    return tuple(signal.name for signal in signals)


VALIDATION_SIGNALS: tuple[Signal, ...] = (
    Signal("val_loss", "nats/example", "loss on the validation subset", always=True),
    Signal("val_accuracy", "fraction", "accuracy on the validation subset", always=True),
    Signal(
        "prediction_variance",
        "logit^2",
        "variance of the logits over the examples and classes of the validation subset (1909.09712)",
        always=True,
    ),
    Signal(
        "prediction_change",
        "logit^2",
        "variance of the logits' change over the last segment, example by example (1909.09712)",
        always=True,
    ),
    Signal("output_weight_mean", "weight", "mean of the output layer's weights", always=True),
    Signal("output_weight_variance", "weight^2", "variance of the output layer's weights", always=True),
)
"""The signals that `Children.measure` takes, in the order of its table."""

SIGNALS: tuple[Signal, ...] = (
    Signal("step", "steps", "optimizer steps done", always=True),
    Signal("progress", "fraction", "optimizer steps done over the budget", always=True),
    Signal("lr", "rate", "learning rate of the last step; the largest, where groups of parameters differ", always=True),
    Signal(
        "train_loss",
        "nats/example",
        "mean training loss over the last segment (at reset: of the first batch, before training)",
        "step",
        always=True,
    ),
    *VALIDATION_SIGNALS,
)
"""The signals of every run, in the order in which they are stored."""

ALWAYS = names(SIGNALS)
"""The names of the signals of every run."""


def group_signal(group: str) -> str:
    """The name of the learning rate of a group of parameters, in records of runs whose groups had different rates.

    >>> group_signal("blocks.0")
    'lr/blocks.0'
    """
    return f"lr/{group}"


AGE = "_age"
"""Ending of the name of a signal: how many optimizer steps ago it was measured. A loop that measures a signal less
often than once a segment gives this, or NaN for the signal."""


class Meter(Protocol):
    """Measures signals at every step of children in training, for planners that need them.

    A meter is a class without arguments, declared in the entry-point group `lr_env.meters` once for each of its
    signals, under the signal's name. Both engines call it: the loop for one child at a time (children = 1), the stack
    for a block of children. It keeps nothing in itself: what it needs from one step to the next is kept in its slots,
    which snapshots, forks and checkpoints hold. On CUDA its operations are captured in a graph, so that it must not
    wait for the device nor choose its operations by values.

    Attributes:
        signals: what it measures, `when` "step" each.
        slots: names of vectors that are kept for each child, as long as its parameters; 0 before the first step.
    """

    signals: ClassVar[tuple[Signal, ...]]
    slots: ClassVar[tuple[str, ...]]

    def before_update(self, gradients: Tensor, parameters: Tensor, slots: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Measure a step once its gradients are known.

        Args:
            gradients: before clipping, (children, parameters); not to be changed.
            parameters: before the update, (children, parameters); not to be changed.
            slots: name -> (children, parameters); changed in place.

        Returns:
            The value of each signal, (children,) each.
        """
        ...

    def after_update(self, parameters: Tensor, lr: Tensor | float, slots: Mapping[str, Tensor]) -> None:
        """Take note of what a step made of the parameters.

        Args:
            parameters: after the update, (children, parameters); not to be changed.
            lr: learning rate of the step, (children, 1), or (children, parameters) where groups of parameters have
                rates of their own, or the number where there is one child.
            slots: name -> (children, parameters); changed in place.
        """
        ...
