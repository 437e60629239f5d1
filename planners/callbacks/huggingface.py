"""A planner in Hugging Face's Trainer: `use_planner(trainer, planner)` before `trainer.train()`."""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false
# (the package is installed by those who use it)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lr_env.planner import Planner
from planners.callbacks.metrics import Metrics
from planners.torch_scheduler import PlannerLR


def use_planner(
    trainer: Trainer,
    planner: Planner,
    segment: int | None = None,
    names: Mapping[str, str] | None = None,
    **settings: Any,
) -> Observer:
    """Let a planner set the learning rate of a trainer, in place of `lr_scheduler_type` and warm-up.

    It works with every subclass of Trainer. The scheduler is made where the trainer makes its own, once it has wrapped
    the model, and so goes with its checkpoints. The planner sees the losses that the trainer logs ("loss", every
    `logging_steps`, which should not be longer than a segment) and those of evaluations ("eval_loss", "eval_accuracy");
    `eval_on_start` tells it of the untrained network.

    Args:
        trainer: not yet training.
        planner: who sets the rate.
        segment: optimizer steps between two plans; by default a hundredth of the steps of the training.
        names: signal -> name in the trainer's logs, e.g. {"val_loss": "eval_books_loss"} of several evaluation sets,
            of which otherwise the first one counts.
        settings: further ones of `PlannerLR`, e.g. seed and lr_range.

    Returns:
        A callback of the trainer, whose `scheduler` is there once training has begun.
    """
    observer = Observer(names)

    def create_scheduler(num_training_steps: int, optimizer: Optimizer | None = None) -> PlannerLR:
        if trainer.lr_scheduler is None:
            of = trainer.optimizer if optimizer is None else optimizer
            assert of is not None  # the trainer makes it first
            observer.scheduler = PlannerLR(of, planner, num_training_steps, segment, **settings)
            trainer.lr_scheduler = observer.scheduler
        return observer.scheduler

    trainer.create_scheduler = create_scheduler  # type: ignore[method-assign]
    trainer.add_callback(observer)
    return observer


class Observer(TrainerCallback):
    """Hands what a trainer logs on to the scheduler.

    Args:
        names: see `use_planner`.

    Attributes:
        scheduler: once training has begun.
    """

    scheduler: PlannerLR

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self._metrics = Metrics(names)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give a restored scheduler the number of steps that the trainer has now."""
        if self.scheduler.budget != state.max_steps:
            self.scheduler.extend(state.max_steps)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Plan the first steps by what all processes observed of the untrained network."""
        if state.global_step == 0:
            self.scheduler.synchronize()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Observe what is logged, but for the mean loss of the whole training, which comes at its end."""
        logs = {} if logs is None or "train_runtime" in logs else logs
        self.scheduler.observe(**self._metrics.signals(logs))
