"""A planner in Lightning: `Trainer(callbacks=[PlannerCallback(planner)])`."""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false
# (the package is installed by those who use it)
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfig

from lr_env.errors import UserError
from lr_env.planner import Planner
from planners.callbacks.metrics import Metrics
from planners.torch_scheduler import PlannerLR


class PlannerCallback(Callback):
    """Sets the learning rate of a Lightning module by a planner, with automatic and manual optimization.

    `configure_optimizers` returns the optimizer alone. The budget is that of the trainer. The planner sees the loss of
    every batch, and what the module logs at the end of a validation, such as "val_loss"; the sanity check before
    training tells it of the untrained network. Lightning saves and restores the scheduler with its own checkpoints.

    Args:
        planner: who sets the rate.
        segment: optimizer steps between two plans; by default a hundredth of the budget.
        names: signal -> name under which the module logs it, e.g. {"val_loss": "validation/nll"}, where that is not one
            of the usual ones.
        optimizer: index of the optimizer, where the module has several.
        settings: further ones of `PlannerLR`, e.g. seed and lr_range.

    Attributes:
        scheduler: once training has begun.
    """

    def __init__(
        self,
        planner: Planner,
        segment: int | None = None,
        names: Mapping[str, str] | None = None,
        optimizer: int = 0,
        **settings: Any,
    ) -> None:
        self.planner = planner
        self.segment = segment
        self.optimizer = optimizer
        self.settings = settings
        self.scheduler: PlannerLR | None = None
        self._metrics = Metrics(names)
        self._trainer: Trainer | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the scheduler to the trainer, before it restores the states of a checkpoint.

        Raises:
            UserError: the trainer has no number of steps, or the module no such optimizer, or a scheduler already.
        """
        budget = trainer.estimated_stepping_batches
        if budget == float("inf"):
            raise UserError("the trainer has no end: give it max_steps or max_epochs, which is the planner's budget")
        if self.optimizer >= len(trainer.optimizers):
            raise UserError(f"optimizer {self.optimizer}: the module has {len(trainer.optimizers)}, counted from 0")
        optimizer = trainer.optimizers[self.optimizer]
        if any(config.scheduler.optimizer is optimizer for config in trainer.lr_scheduler_configs):
            raise UserError("configure_optimizers returns a scheduler: return the optimizer alone, the planner sets it")
        self.scheduler = PlannerLR(optimizer, self.planner, int(budget), self.segment, **self.settings)
        self._trainer = trainer
        config = LRSchedulerConfig(self.scheduler, interval="step", name=f"lr-{self.planner.name}")
        trainer.strategy.lr_scheduler_configs.append(config)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give a restored scheduler the budget that the trainer has now, and a new one what all processes observed."""
        budget = int(trainer.estimated_stepping_batches)
        if self.scheduler is not None:
            if self.scheduler.budget != budget:
                self.scheduler.extend(budget)
            self.scheduler.synchronize()

    def state_dict(self) -> dict[str, Any]:
        """Complete the state of the scheduler in every process; Lightning saves that of the first one, right after."""
        if self.scheduler is not None and self._trainer is not None and not self._trainer.interrupted:
            self.scheduler.synchronize()  # after an error in one process the others would not be there
        return {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Observe the loss of the batch, as returned, or else as logged."""
        if self.scheduler is None:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:
            loss = self._metrics.signals(trainer.callback_metrics).get("train_loss")
        if loss is not None:
            self.scheduler.observe(train_loss=loss)
        if not pl_module.automatic_optimization:
            self.scheduler.step()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Observe what the module has logged."""
        signals = self._metrics.signals(trainer.callback_metrics)
        signals.pop("train_loss", None)
        if self.scheduler is not None:
            self.scheduler.observe(**signals)
