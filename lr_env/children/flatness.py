"""Flatness of the loss at the parameters of children: largest eigenvalue and trace of the Hessian.

The Hessian is not computed: both only need its products with vectors (Pearlmutter, Neural Computation 1994). These are
computed by differentiating the gradient's graph once more. The graph is made once for all products, which is faster
than forward-mode differentiation with `torch.func`, and works for every layer that can be trained. Children share one
graph: their losses are added up, and since no child's loss depends on another's parameters, one product with the sum's
Hessian gives the product of each child.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lr_env.children.loop import LoopEngine
from lr_env.children.losses import mean_loss
from lr_env.children.memory import activations_per_example
from lr_env.errors import UserError, whole
from lr_env.isolation import isolating

if TYPE_CHECKING:
    from lr_env.children.children import Children
    from lr_env.tasks.catalogue import Task

Floats = NDArray[np.float64]
Product = Callable[[Tensor], Tensor]
"""The Hessian of each child times a vector of its own: (children, size) -> (children, size)."""

_MEASURED: tuple[str, ...] = ("hessian_max", "hessian_trace", "hessian_trace_error")

# Tells the stream of start and probe vectors from other uses of the same seed.
_STREAM = 0xF1A7
# Elements of activations that one graph may be made of; with what their derivatives store, about 6 times as many.
_ELEMENTS = {"cpu": 2**24, "cuda": 2**26}
# Elements up to which children of a stack share a graph: bigger ones gain nothing, and all wait for the slowest.
_SHARED = {"cpu": 2**18, "cuda": 2**26}


@isolating
def flatness(
    children: Children,
    rows: Sequence[int] | None = None,
    *,
    examples: int | None = None,
    iterations: int = 50,
    tolerance: float = 1e-3,
    probes: int = 32,
) -> dict[str, Floats]:
    """Measure how flat the training loss is at the parameters of children, which stay as they are.

    The loss is the mean cross-entropy, nats per example (per token for text), of the first `examples` examples of the
    training split, which is shuffled: a random batch, fixed, and the same for all children. The network is in
    evaluation mode (running statistics, no dropout) and the inputs are not augmented. The Hessian is with respect to
    all parameters as one vector.

    "hessian_max" is the largest eigenvalue, the most positive one: power iteration finds the one of largest
    magnitude, and its sign by the Rayleigh quotient; where that is negative, the iteration is run once more on the
    Hessian less that eigenvalue, whose dominant eigenvector is that of the largest. Where it has not converged after
    `iterations`, the last Rayleigh quotient is given; none is ever above the true value. "hessian_trace" is
    Hutchinson's estimate (Communications in Statistics 1989): the mean over `probes` random vectors v of +-1 of
    v' H v, whose expectation is the trace. Start and probes follow from the child's seed alone.

    A product costs about as much as training on twice `examples` examples (on three times where the graph is too big
    to be stored). There are `probes` of them, and up to `iterations` for the eigenvalue, in trained networks 5 to 20;
    twice as many where the dominant one is negative. So by default a child costs about 45 * 2 * 256 / batch_size child
    steps, 360 with a batch of 64, and at the very most three times as many. They are not counted as steps.

    Args:
        children: whose loss.
        rows: which of them; all by default.
        examples: of the training split; all of it where it has fewer. See `default_examples` for the default.
        iterations: products with the Hessian that a power iteration takes at most.
        tolerance: an iteration stops when the Rayleigh quotient's last change, and the sum of those to come as
            extrapolated from the last two, are below this share of the eigenvalue of largest magnitude. On trained
            networks the default leaves an error of about 0.1 %, or 1 % where two eigenvalues almost tie.
        probes: random vectors that the trace is estimated with.

    Returns:
        Each (rows,), in nats per example and squared unit of the parameters: "hessian_max", "hessian_trace", and
        "hessian_trace_error", the standard error of the trace over the probes. NaN for a child whose parameters are
        not finite.

    Raises:
        UserError: there is no such row, or a setting out of range.
    """
    chosen = range(len(children)) if rows is None else [int(row) for row in rows]
    for row in chosen:
        if not 0 <= row < len(children):
            raise UserError(f"row {row}: give rows from 0 to {len(children) - 1}")
    examples = default_examples(children.task) if examples is None else examples
    for name, value, least in (("examples", examples, 1), ("iterations", iterations, 1), ("probes", probes, 2)):
        whole(name, value, least)
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise UserError(f"tolerance is {tolerance!r}: it must be a finite number above 0")
    finite = children.state.parameters.isfinite().all(1).tolist()
    places = [place for place, row in enumerate(chosen) if finite[row]]
    together, batches = _portions(children, examples)
    parts = [places[start : start + together] for start in range(0, len(places), together)]

    def measure(part: Sequence[int]) -> Floats:
        members = [chosen[place] for place in part]
        with torch.enable_grad():
            product = _products(children, members, batches)
            vectors = _vectors(children, members)
            largest = largest_eigenvalue(product, next(vectors), iterations, tolerance)
            return torch.stack([largest, *trace(product, itertools.islice(vectors, probes))]).double().cpu().numpy()

    with children.numerics.active(children.device), _ready(children):
        engine = children.engine
        results = engine.workers.each(measure, parts) if isinstance(engine, LoopEngine) else map(measure, parts)
        table = np.full((len(_MEASURED), len(chosen)), np.nan)
        for part, values in zip(parts, results, strict=True):
            table[:, part] = np.where(np.isfinite(values), values, np.nan)
    return dict(zip(_MEASURED, table, strict=True))


def default_examples(task: Task) -> int:
    """The default number of examples: 256; for text, so many that there are about 2,048 predictions."""
    return max(1, min(256, 2048 // task.source.positions))


def default_settings(task: Task) -> dict[str, int | float]:
    """The default settings of `flatness`, JSON-able."""
    fixed = inspect.signature(flatness).parameters
    return {
        "examples": default_examples(task),
        **{name: fixed[name].default for name in ("iterations", "tolerance", "probes")},
    }


def largest_eigenvalue(product: Product, start: Tensor, iterations: int, tolerance: float) -> Tensor:
    """The most positive eigenvalue of the symmetric matrix of each row, (rows,); see `flatness`.

    Args:
        product: the matrices times vectors.
        start: where to start from, (rows, size), not 0.
        iterations: products at most; twice as many where an eigenvalue of largest magnitude is negative.
        tolerance: relative to the largest magnitude.
    """
    value = _iterate(product, start, torch.zeros_like(start[:, 0]), iterations, tolerance)
    below = value < 0
    if below.any():
        shift = torch.where(below, -value, 0.0)
        value = torch.where(below, _iterate(product, start, shift, iterations, tolerance), value)
    return value


def trace(product: Product, probes: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Trace of the matrix of each row and its standard error, each (rows,), from vectors (rows, size) of +-1."""
    values = torch.stack([(probe * product(probe)).sum(1) for probe in probes])
    return values.mean(0), values.std(0) / math.sqrt(len(values))


def _iterate(product: Product, start: Tensor, shift: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Power iteration on matrices with `shift` added to their diagonals, (rows,); returns the eigenvalues without."""
    tiny, rounding = torch.finfo(start.dtype).tiny, 4 * torch.finfo(start.dtype).eps
    vector = start / start.norm(dim=1, keepdim=True)
    value, before = torch.full_like(shift, math.nan), torch.full_like(shift, math.nan)
    done = torch.zeros_like(shift, dtype=torch.bool)
    for _ in range(iterations):
        image = product(vector)
        quotient = (vector * image).sum(1)
        scale = torch.maximum(quotient.abs(), shift)
        change = (quotient - value).abs()
        # Changes fall by a constant factor in the end: the sum of those to come, of their geometric series.
        left = torch.where(change < before, change * change / (before - change).clamp_min(tiny), math.inf)
        converged = (torch.maximum(left, change) <= tolerance * scale) | (change <= rounding * scale)
        value, before = torch.where(done, value, quotient), change  # what is done stays as it would be alone
        done |= converged | ~quotient.isfinite()
        if done.all():
            break
        image = image + shift[:, None] * vector
        vector = image / image.norm(dim=1, keepdim=True).clamp_min(tiny)
    return value


def _products(children: Children, rows: Sequence[int], batches: Sequence[tuple[Tensor, Tensor]]) -> Product:
    """Products with the Hessians of some children; of the loss over all batches together."""
    layout, alone = children.state.layout, isinstance(children.engine, LoopEngine)
    parameters, losses = _losses(children, rows)
    total = sum(len(labels) for _, labels in batches)

    def gradients(inputs: Tensor, labels: Tensor) -> Sequence[Tensor]:
        loss = losses(inputs, labels) * (len(labels) / total)
        return torch.autograd.grad(loss, list(parameters.values()), create_graph=True, materialize_grads=True)

    stored = gradients(*batches[0]) if len(batches) == 1 else None  # one batch's graph is small enough to be stored

    def product(vectors: Tensor) -> Tensor:
        views = layout.views(vectors[0] if alone else vectors).values()
        image = torch.zeros_like(vectors)
        for batch in batches:
            # A gradient that depends on no parameter, e.g. that of a weight that is not used, has no graph.
            first = gradients(*batch) if stored is None else stored
            pairs = [(gradient, view) for gradient, view in zip(first, views, strict=True) if gradient.requires_grad]
            second = torch.autograd.grad(
                [gradient for gradient, _ in pairs],
                list(parameters.values()),
                [view for _, view in pairs],
                retain_graph=stored is not None,
                materialize_grads=True,
            )
            image += layout.flatten({name: x[None] if alone else x for name, x in zip(parameters, second, strict=True)})
        return image

    return product


def _losses(children: Children, rows: Sequence[int]) -> tuple[dict[str, Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Parameters in the layout's order, and the sum over children of the mean loss as a function of a batch.

    The loop measures one child at a time, each with its own module, so that threads do not share one.
    """
    state, engine = children.state, children.engine
    if isinstance(engine, LoopEngine):
        module = engine.modules[rows[0]]
        return dict(module.named_parameters()), lambda inputs, labels: mean_loss(module(inputs), labels)
    index = list(rows)
    views = state.layout.views(state.parameters[index])
    parameters = {name: view.detach().requires_grad_() for name, view in views.items()}
    buffers = {name: state.tensors[f"buffer.{name}"][index] for name in state.layout.buffers}
    template = engine.template

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return mean_loss(functional_call(template, (weights, buffers), (inputs,)), labels)

    each = vmap(loss, in_dims=(0, 0, None, None))
    return parameters, lambda inputs, labels: each(parameters, buffers, inputs, labels).sum()


def _portions(children: Children, examples: int) -> tuple[int, list[tuple[Tensor, Tensor]]]:
    """How many children share a graph, and the examples in batches, so that a graph takes a bounded memory."""
    split = children.data.splits["train"]
    examples = min(examples, len(split))
    engine = children.engine
    template = engine.modules[0] if isinstance(engine, LoopEngine) else engine.template
    activations = activations_per_example(template, children.task.source)
    elements = _ELEMENTS[children.device.type] // children.backend.workers
    room = max(1, elements // activations)  # examples, of all children in a graph together
    count = math.ceil(examples / room)
    edges = [examples * i // count for i in range(count + 1)]
    batches = [(split.inputs[start:end], split.labels[start:end]) for start, end in itertools.pairwise(edges)]
    together = min(children.backend.block, _SHARED[children.device.type] // (activations * examples))
    return max(1, together), batches


def _vectors(children: Children, rows: Sequence[int]) -> Iterator[Tensor]:
    """Vectors of +-1, (rows, size), as many as are asked for; those of a child follow from its seed."""
    parameters = children.state.parameters
    size = children.state.layout.size
    generators = [np.random.Generator(np.random.PCG64([_STREAM, int(children.seeds[row])])) for row in rows]
    while True:
        bits = [
            np.unpackbits(np.frombuffer(random.bytes(-(-size // 8)), np.uint8), count=size) for random in generators
        ]
        yield torch.from_numpy(np.stack(bits)).to(parameters.device).to(parameters.dtype) * 2 - 1


@contextmanager
def _ready(children: Children) -> Iterator[None]:
    """Networks in evaluation mode, and attention spelled out: its own kernels can be differentiated only once."""
    engine = children.engine
    modules: Sequence[nn.Module] = engine.modules if isinstance(engine, LoopEngine) else [engine.template]
    try:
        for module in modules:
            module.eval()
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        for module in modules:
            module.train()
