"""Planners in Lightning and in Hugging Face's Trainer: small real trainings, killed and resumed in the middle.

`make test-clients` installs the packages; without them these tests are skipped.
"""

from __future__ import annotations

import math
import warnings
from contextlib import suppress

import numpy as np
import pytest
import torch

from lr_env.errors import UserError
from planners.callbacks.metrics import Metrics
from planners.reactive import Plateau
from planners.schedules import Cosine
from planners.torch_scheduler import PlannerLR
from tests.processes import Losses, torchrun

EXAMPLES, BATCH = 64, 8


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES, 4, generator=generator)
    return inputs, (inputs[:, :1] > 0).float()


def network():
    torch.manual_seed(1)
    return torch.nn.Linear(4, 1)


def test_metrics_are_found_under_usual_names_and_given_ones():
    metrics = Metrics()
    assert metrics.signals({"loss": 1.0, "learning_rate": 0.1, "grad_norm": 2.0}) == {
        "train_loss": 1.0,
        "gradient_norm": 2.0,
    }
    assert metrics.signals({"eval_b_loss": 3.0, "eval_b_accuracy": 0.5}) == {"val_loss": 3.0, "val_accuracy": 0.5}
    assert metrics.signals({"eval_a_loss": 4.0}) == {}  # the set that was there first counts throughout
    assert Metrics({"val_loss": "eval_a_loss"}).signals({"eval_b_loss": 3.0, "eval_a_loss": 4.0}) == {"val_loss": 4.0}


def _lightning():
    return pytest.importorskip("lightning.pytorch")


def lightning_parts(automatic, segment=4):
    pl = _lightning()
    from planners.callbacks.lightning import PlannerCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()
            self.automatic_optimization = automatic
            self.rates = []

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

        def loss(self, batch):
            return torch.nn.functional.binary_cross_entropy_with_logits(self.network(batch[0]), batch[1])

        def training_step(self, batch, index):
            self.rates.append(self.optimizers().optimizer.param_groups[0]["lr"])
            loss = self.loss(batch)
            if not automatic:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def validation_step(self, batch, index):
            self.log("val_loss", self.loss(batch) * (1 + 0.1 * (self.global_step > 10)))

    def fit(folder, steps, checkpoint=None, planner=None, **settings):
        module = Module()
        callback = PlannerCallback(planner or Plateau(0.5, patience=0, factor=0.5, threshold=0.15), segment)
        examples = torch.utils.data.TensorDataset(*data())
        trainer = pl.Trainer(
            max_steps=steps,
            max_epochs=-1,
            callbacks=[callback, pl.callbacks.ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)],
            logger=False,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"val_check_interval": 4, **settings},
        )
        loaders = [torch.utils.data.DataLoader(examples, BATCH) for _ in range(2)]
        trainer.fit(module, *loaders, ckpt_path=checkpoint)
        return module.rates, callback.scheduler

    return fit


@pytest.mark.parametrize("automatic", [True, False])
def test_lightning_goes_on_to_the_same_rates(automatic, tmp_path, global_generators_kept):
    fit = lightning_parts(automatic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about workers and loggers
        whole, scheduler = fit(tmp_path / "whole", 32)
        assert isinstance(scheduler, PlannerLR)
        assert (len(whole), scheduler.last_epoch, scheduler.budget) == (32, 32, 32)
        assert len(set(whole)) > 1  # the plateau was seen
        # The first part has another end, and is told of the whole budget where it goes on: Plateau does not mind.
        begun, _ = fit(tmp_path / "part", 13)
        rest, scheduler = fit(tmp_path / "part", 32, checkpoint=str(tmp_path / "part" / "last.ckpt"))
    assert begun + rest == whole
    assert scheduler.budget == 32


def _lightning_in_two(folder):
    two = {"strategy": "ddp", "devices": 2, "planner": Losses(), "val_check_interval": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lightning_parts(True, segment=5)
        equal, _ = fit(f"{folder}/equal", 32, use_distributed_sampler=False, **two)
        whole, _ = fit(f"{folder}/whole", 32, **two)
        begun, _ = fit(f"{folder}/part", 12, **two)  # the end of an epoch: within one Lightning begins it anew
        rest, scheduler = fit(f"{folder}/part", 32, checkpoint=f"{folder}/part/last.ckpt", **two)
    return equal, whole, begun + rest, scheduler.last_epoch


def test_lightning_in_two_processes(tmp_path, global_generators_kept):
    fit = lightning_parts(True, segment=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        single, _ = fit(tmp_path / "single", 32, planner=Losses(), val_check_interval=2)
    one, other = torchrun(_lightning_in_two, str(tmp_path))
    assert one == other
    equal, whole, resumed, steps = one
    assert steps == 32
    assert equal == pytest.approx(single, rel=1e-5)  # where both have the same examples
    assert len(set(whole)) == 7
    assert whole != pytest.approx(equal, rel=1e-3)
    assert resumed == pytest.approx(whole, rel=1e-12)  # sums in another order


def test_lightning_says_what_is_wrong(tmp_path, global_generators_kept):
    fit = lightning_parts(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match="the trainer has no end"):
            fit(tmp_path, -1)
        rates, _ = fit(tmp_path, 8, planner=Cosine(0.5))
    np.testing.assert_allclose(rates[::4], 0.25 * (1 + np.cos(np.pi * np.array([0, 1]) / 2)))


class KilledError(Exception):
    """In place of a signal from outside."""


def hugging_face(folder, planner, steps=32, kill_at=None, resume=False, accumulate=1, save_steps=3, **arguments):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from planners.callbacks.huggingface import use_planner

    inputs, labels = data()

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, x, labels):
            logits = self.network(x)
            return {"loss": torch.nn.functional.binary_cross_entropy_with_logits(logits, labels), "logits": logits}

    rates = []

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer, **kwargs):
            rates.append(optimizer.param_groups[0]["lr"])

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == kill_at:
                raise KilledError

    rows = [{"x": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]
    settings = transformers.TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=arguments.pop("batch", BATCH) // accumulate,
        gradient_accumulation_steps=accumulate,
        learning_rate=1.0,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=4,
        save_steps=save_steps,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    trainer = transformers.Trainer(Net(), settings, train_dataset=rows, eval_dataset={"a": rows, "b": rows[:9]})
    trainer.add_callback(Watch())
    observer = use_planner(trainer, planner, segment=4)
    with suppress(KilledError):
        trainer.train(resume_from_checkpoint=resume)
    return rates, observer.scheduler


@pytest.mark.parametrize("accumulate", [1, 2])
def test_hugging_face_goes_on_to_the_same_rates(accumulate, tmp_path, global_generators_kept):
    planner = Plateau(0.5, patience=0, factor=0.5, threshold=0.15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages, about each other
        whole, scheduler = hugging_face(tmp_path / "whole", planner, accumulate=accumulate)
        assert (len(whole), scheduler.last_epoch, scheduler.budget) == (32, 32, 32)
        assert len(set(whole)) > 1
        begun, _ = hugging_face(tmp_path / "part", planner, kill_at=14, accumulate=accumulate)
        rest, scheduler = hugging_face(tmp_path / "part", planner, resume=True, accumulate=accumulate)
    assert begun[:12] + rest == whole  # from the checkpoint at step 12
    assert scheduler.last_epoch == 32


def test_hugging_face_with_another_length_and_with_a_schedule(tmp_path, global_generators_kept):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hugging_face(tmp_path, Cosine(0.5), steps=32, kill_at=14)
        rest, scheduler = hugging_face(tmp_path, Cosine(0.5), steps=16, resume=True, eval_on_start=True)
    assert scheduler.budget == 16
    # It was planned for 32 steps up to the next segment, which begins at step 12 itself.
    assert rest == pytest.approx([0.25 * (1 + math.cos(math.pi * 3 / 8))] * 4)


def _hugging_face_in_two(folder):
    two = {"batch": BATCH // 2, "ddp_backend": "gloo", "save_steps": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, _ = hugging_face(f"{folder}/whole", Losses(), **two)
        begun, _ = hugging_face(f"{folder}/part", Losses(), kill_at=16, **two)
        rest, scheduler = hugging_face(f"{folder}/part", Losses(), resume=True, **two)
    return whole, begun[:14] + rest, scheduler.last_epoch


def test_hugging_face_in_two_processes(tmp_path, global_generators_kept):
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        single, _ = hugging_face(tmp_path / "single", Losses())
    one, other = torchrun(_hugging_face_in_two, str(tmp_path))
    assert one == other
    whole, resumed, steps = one
    assert steps == 32
    assert len(set(whole)) == 8
    assert whole == pytest.approx(single, rel=1e-4)  # of batches that are twice as large
    assert resumed == whole


def _accelerate(folder, kill=None):
    """Rates of a loop of one's own, whose processes observe losses of their own."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)

    def made():
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        planned = PlannerLR(optimizer, Losses(), 20, 4)
        return planned, *accelerator.prepare(model, optimizer, planned)

    planned, model, optimizer, scheduler = made()
    inputs, labels = data()
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    planned.observe(train_loss=1.0, val_loss=1.0)
    planned.synchronize()
    rates = []
    for step in range(16):
        if step == kill:
            planned.synchronize()
            accelerator.save_state(folder)
            accelerator.free_memory()
            planned, model, optimizer, scheduler = made()
            accelerator.load_state(folder)
        rates.append(scheduler.get_last_lr()[0])
        rows = slice(step * 4, step * 4 + 4)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs[rows][mine]), labels[rows][mine])
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        planned.observe(train_loss=loss)
        if step % 4 == 3:
            planned.observe(val_loss=loss)
        scheduler.step()
    return rates


def _accelerate_in_two(folder):
    return _accelerate(folder), _accelerate(folder, kill=6)


def test_accelerate_in_two_processes(tmp_path, global_generators_kept):
    pytest.importorskip("accelerate")
    single = _accelerate(str(tmp_path))
    assert len(set(single)) == 4
    one, other = torchrun(_accelerate_in_two, str(tmp_path))
    assert one == other
    whole, resumed = one
    assert whole == pytest.approx(single, rel=1e-5)
    assert resumed == pytest.approx(whole, rel=1e-12)
