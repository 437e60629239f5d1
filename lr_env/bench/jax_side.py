"""Runs inside JAX's virtual environment: trains children in lockstep with `jax.vmap`, and times it on request.

This file knows nothing of lr_env, which that environment does not have. It is run by `serve.py`; see
`lr_env.bench.jax_twin` for the other side.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np

Parameters = list[Any]
Layers = Sequence[Sequence[Any]]
Convolution = Callable[[Any, Any, int], Any]


def convolve(x: Any, kernel: Any, padding: int) -> Any:
    """The convolution of JAX: (batch, in, height, width) by (out, in, kernel, kernel)."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=("NCHW", "OIHW", "NCHW")
    )


def convolve_by_product(x: Any, kernel: Any, padding: int) -> Any:
    """The same as one matrix product over shifted copies of the images, which XLA runs faster on some CPUs."""
    outputs, _, *sizes = kernel.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = (size - of_kernel + 1 for size, of_kernel in zip(x.shape[2:], sizes, strict=True))
    shifts = itertools.product(*map(range, sizes))
    copies = jnp.stack([x[:, :, top : top + height, left : left + width] for top, left in shifts], 2)
    patches = copies.reshape(len(x), -1, height, width)
    return jnp.einsum("bkhw,ok->bohw", patches, kernel.reshape(outputs, -1))


def logits_of(layers: Layers, convolution: Convolution, parameters: Parameters, x: Any) -> Any:
    """Logits of one network.

    Args:
        layers: names of the layers from input to output, each with its settings.
        convolution: how convolutions are computed.
        parameters: weight and bias of each layer that has any, in the shapes of torch.
        x: (batch, *input_shape).
    """
    given = iter(parameters)
    for name, *settings in layers:
        if name == "flatten":
            x = x.reshape(len(x), -1)
        elif name == "relu":
            x = jax.nn.relu(x)
        elif name == "pool":
            *lead, height, width = x.shape
            x = x.reshape(*lead, height // 2, 2, width // 2, 2).max((-3, -1))
        elif name == "dense":
            x = x @ next(given).T + next(given)
        elif name == "conv":
            x = convolution(x, next(given), *settings) + next(given)[:, None, None]
        else:
            raise ValueError(f"no layer is called {name!r}")
    return x


def losses_of(logits: Any, labels: Any) -> Any:
    """Cross-entropy of each example, nats: logits (batch, classes), labels (batch,)."""
    return jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]


class Side:
    """Children in lockstep, whose segments are one compiled function each.

    Args:
        folder: holds data.npz (train_inputs, train_labels, val_inputs, val_labels), weights-0.npy and so on (the
            parameters of all children, each (children, *shape)) and batches.npy (of the first segment: row numbers of
            the training split, (children, steps, batch)).
        layers: see `logits_of`.
        momentum: of SGD.
    """

    def __init__(self, folder: str, layers: Layers, momentum: float) -> None:
        jax.config.update("jax_platforms", "cpu")
        place = Path(folder)
        with np.load(place / "data.npz") as data:
            arrays = {
                name: jnp.asarray(data[name].astype(np.int32 if "labels" in name else np.float32)) for name in data
            }
        self.data = [arrays[f"{split}_{what}"] for split in ("train", "val") for what in ("inputs", "labels")]
        files = sorted(place.glob("weights-*.npy"), key=lambda path: int(path.stem.removeprefix("weights-")))
        self.weights = [np.load(path) for path in files]
        self.first = np.load(place / "batches.npy").astype(np.int32)
        convolutions = {"": convolve}
        if any(name == "conv" for name, *_ in layers):
            convolutions = {", its own convolutions": convolve, ", convolutions as products": convolve_by_product}
        self.ways = {
            f"{arrangement}{how}": self._compiled(arrangement == "vmap", layers, convolution, momentum)
            for arrangement, (how, convolution) in itertools.product(("vmap", "lax.map"), convolutions.items())
        }
        self.batches = Batches(len(self.data[1]), self.first.shape)
        self._start()

    def describe(self) -> dict[str, Any]:
        """What there is."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return {"ways": list(self.ways), "version": jax.__version__, "cores": cores}

    def first_segment(self, way: str, rates: Sequence[float]) -> dict[str, Any]:
        """Train the first segment from the given weights and batches, twice: the first time compiles.

        Returns:
            Training losses, validation losses and accuracies, (children,) each; seconds of either time.
        """
        seconds = []
        measured: list[Any] = []
        for _ in range(2):
            self._start()
            start = time.perf_counter()
            measured = self._segment(way, self.first, rates)
            seconds.append(time.perf_counter() - start)
        losses, val_losses, accuracies = (values.tolist() for values in measured)
        return {"loss": losses, "val_loss": val_losses, "val_accuracy": accuracies, "seconds": seconds}

    def turn(self, way: str, segments: int, rates: Sequence[float]) -> dict[str, Any]:
        """Time some segments, each with its validation; they go on from the last ones."""
        start = time.perf_counter()
        for _ in range(segments):
            self._segment(way, self.batches.next(), rates)
        seconds = time.perf_counter() - start
        children, steps, _ = self.first.shape
        return {"steps": segments * children * steps, "seconds": seconds}

    def _start(self) -> None:
        """Give the children their initial weights, and a momentum of zero."""
        self.state = [jnp.array(part) for part in self.weights], [jnp.zeros(part.shape) for part in self.weights]

    def _segment(self, way: str, index: Any, rates: Sequence[float]) -> list[Any]:
        """Train one segment and measure; returns what `first_segment` does, as arrays on the host."""
        self.state, measured = self.ways[way](self.state, index, np.array(rates, dtype=np.float32), *self.data)
        return [np.asarray(values) for values in jax.block_until_ready(measured)]

    @staticmethod
    def _compiled(vmap: bool, layers: Layers, convolution: Convolution, momentum: float) -> Callable[..., Any]:
        """A segment of all children as one function: together by vmap, or one after another in a compiled loop."""

        def mean_loss(parameters: Parameters, inputs: Any, labels: Any) -> Any:
            return losses_of(logits_of(layers, convolution, parameters, inputs), labels).mean()

        def child(
            state: Any, index: Any, rate: Any, inputs: Any, labels: Any, val_inputs: Any, val_labels: Any
        ) -> tuple[Any, Any]:
            def step(state: tuple[Parameters, Parameters], batch: Any) -> tuple[Any, Any]:
                parameters, buffers = state
                loss, gradients = jax.value_and_grad(mean_loss)(parameters, inputs[batch], labels[batch])
                buffers = [momentum * buffer + gradient for buffer, gradient in zip(buffers, gradients, strict=True)]
                parameters = [part - rate * buffer for part, buffer in zip(parameters, buffers, strict=True)]
                return (parameters, buffers), loss

            state, losses = jax.lax.scan(step, state, index)
            logits = logits_of(layers, convolution, state[0], val_inputs)
            right = logits.argmax(-1) == val_labels
            return state, (losses.mean(), losses_of(logits, val_labels).mean(), right.mean())

        def together(state: Any, index: Any, rates: Any, *data: Any) -> Any:
            if vmap:
                return jax.vmap(child, (0, 0, 0, *[None] * len(data)))(state, index, rates, *data)
            return jax.lax.map(lambda of_child: child(*of_child, *data), (state, index, rates))

        return jax.jit(together, donate_argnums=0)


class Batches:
    """Batches of all children: every epoch is a new permutation, whose last, incomplete batch is dropped.

    They are drawn on the host, as `jax.random.permutation` takes a CPU several times longer.

    Args:
        examples: size of the training split.
        shape: children, steps of a segment, examples in a batch.
    """

    def __init__(self, examples: int, shape: tuple[int, ...]) -> None:
        self.examples = examples
        self.children, self.steps, self.batch_size = shape
        self.generator = np.random.default_rng(0)
        self.waiting = np.zeros((self.children, 0, self.batch_size), dtype=np.int32)

    def next(self) -> Any:
        """Row numbers of the training split for the next segment, (children, steps, batch)."""
        while self.waiting.shape[1] < self.steps:
            count = self.examples // self.batch_size
            orders = [
                self.generator.permutation(self.examples)[: count * self.batch_size] for _ in range(self.children)
            ]
            epoch = np.array(orders, dtype=np.int32).reshape(self.children, count, self.batch_size)
            self.waiting = np.concatenate([self.waiting, epoch], 1)
        segment, self.waiting = self.waiting[:, : self.steps], self.waiting[:, self.steps :]
        return segment
