"""Fitting of the differential equation to curves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lr_env.errors import UserError, find
from lr_env.isolation import isolating
from planners.forecaster.curves import POINTS, CurveSet, Floats
from planners.forecaster.encoding import Encoded, Encoding, encode
from planners.forecaster.model import published
from planners.forecaster.model.encoders import ENCODERS
from planners.forecaster.model.network import DYNAMICS, CurveODE, Inputs, Sizes, two_piece_laplace
from planners.forecaster.model.published import PublishedODE
from planners.forecaster.window import scale_of
from planners.latent_ode.model.early_stopping import BestWeights, EarlyStoppedTrainer

VIEWS = (0, 10, 2, 3, 4, 6, 8, 13, 17, 21, 25, 31, 38, 45)
"""Numbers of points seen from which a model learns to forecast."""

_OFTEN = (0.40, 0.30)
"""Shares of the first two views in the updates; the others share the rest."""

MANY_TASKS = 4
"""Fewest tasks of which whole ones are held out to stop a fit early."""

LEAST_CURVES = 30
"""Fewest curves that a model can be fitted to."""


@dataclass(frozen=True)
class Fitting:
    """Settings of a fit.

    Attributes:
        members: networks of the ensemble.
        updates: of the optimizer.
        batch: curves in an update, for each member.
        learning_rate: peak rate of AdamW.
        weight_decay: decoupled.
        held_out: share of the configurations, or tasks, that stop the fit early and set the intervals.
        forgetting: probability that a setting, or the architecture, of a run is hidden in an update.
        horizons: later points of a curve in an update.
        dynamics: see `Sizes`.
        settings: whether settings and rates are read.
        encoder: how the architecture is read, one of `ENCODERS`.
        points: number of points seen that the published model, with dynamics "paper", is fitted to.
        seed: of everything that is drawn.
    """

    members: int = 5
    updates: int = 1500
    batch: int = 128
    learning_rate: float = 1e-2
    weight_decay: float = 3e-2
    held_out: float = 0.15
    forgetting: float = 0.05
    horizons: int = 10
    dynamics: str = "ode"
    settings: bool = True
    encoder: str = "summary"
    points: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        find("dynamics", self.dynamics, dict.fromkeys(DYNAMICS))
        find("encoder", self.encoder, dict.fromkeys(ENCODERS))
        if self.dynamics == "paper" != self.encoder:
            raise UserError(f"dynamics 'paper' with encoder {self.encoder!r}: give encoder 'paper' too")


@dataclass(frozen=True, eq=False)
class FittedODE:
    """A fitted ensemble, with what it takes to use it."""

    network: CurveODE | PublishedODE
    encoding: Encoding

    @isolating
    def __call__(self, curves: CurveSet, points: int) -> tuple[Floats, Floats]:
        """Forecast runs of which the first points are seen.

        Returns:
            Medians in units of the metric, (curves, POINTS), and scales of the error of their logarithms below and
            above, (2, curves, POINTS). They have no meaning at the points seen.
        """
        seen = curves.seen(points)
        if isinstance(self.network, PublishedODE):
            if not points:
                raise UserError("the published model needs a run that has begun")
            return published.forecast(self.network, seen, points)
        encoded = encode(self.encoding, seen, [points])
        with torch.no_grad():
            at = torch.arange(POINTS).expand(1, len(curves), -1)
            middle, scales = self.network(_inputs(encoded, None, torch.zeros(1, len(curves), dtype=torch.int64)), at)
            spread = middle.std(0, correction=0)
            median = middle.median(0).values if len(middle) % 2 else middle.mean(0)
            scales = scales.mean(1) + spread
        return np.exp(median.double().numpy()) * scale_of(seen, points)[:, None], scales.double().numpy()


@isolating
def fit(curves: CurveSet, fitting: Fitting = Fitting()) -> tuple[FittedODE, NDArray[np.bool_]]:
    """Fit an ensemble; return it, and which curves were held out, (curves,).

    Raises:
        UserError: there are too few curves, or the fit diverged.
    """
    if len(curves) < LEAST_CURVES:
        raise UserError(f"{len(curves)} usable curves: a model needs at least {LEAST_CURVES}")
    draw = np.random.Generator(np.random.PCG64([0xF0CA, fitting.seed]))
    held = held_out(curves, fitting.held_out, draw)
    train, validation = curves.rows(~held), curves.rows(held)
    if fitting.dynamics == "paper":
        return fit_published(train, validation, fitting), held
    encoding = Encoding.of(train, settings=fitting.settings, encoder=fitting.encoder)
    network = CurveODE(
        Sizes(encoding.size, fitting.members, dynamics=fitting.dynamics, encoder=fitting.encoder), fitting.seed
    )
    encoded, checked = encode(encoding, train, VIEWS), encode(encoding, validation, VIEWS[:2])
    random = torch.Generator().manual_seed(fitting.seed)

    def training_loss() -> Tensor:
        view, rows = _draw(encoded, fitting, random)
        inputs = _forgetting(_inputs(encoded, rows, view), encoding, fitting.forgetting, random)
        return _loss(network, inputs, encoded.targets[view, rows], fitting.horizons, random)

    def validation_loss() -> Tensor:
        count = len(validation)
        losses = []
        for number in range(2):
            view = torch.full((1, count), number)
            target = checked.targets[view, torch.arange(count)].masked_fill(
                ~checked.valid[number][None, :, None], torch.nan
            )
            losses.append(_loss(network, _inputs(checked, None, view), target, None, random))
        return torch.stack(losses).nanmean(0)

    trainer = EarlyStoppedTrainer(network, fitting.weight_decay, max(10, fitting.updates // 25))
    trainer.run(
        "curves", fitting.updates, fitting.learning_rate, list(network.parameters()), training_loss, validation_loss
    )
    return FittedODE(network, encoding), held


def fit_published(
    train: CurveSet,
    validation: CurveSet,
    fitting: Fitting,
    after_epoch: Callable[[FittedODE], None] = lambda fitted: None,
) -> FittedODE:
    """Fit the published model; each member keeps the weights of its best epoch on the validation runs.

    Args:
        train: whole curves.
        validation: whole curves.
        fitting: settings of the fit, of which members, points and seed are used.
        after_epoch: called with the model after each epoch.
    """
    encoding = Encoding.of(train, settings=False, encoder="paper")
    network = PublishedODE(Sizes(encoding.size, fitting.members, dynamics="paper", encoder="paper"), fitting.seed)
    fitted, best = FittedODE(network, encoding), BestWeights(network)

    def check() -> None:
        best.update(lambda: published.errors(network, validation, fitting.points))
        after_epoch(fitted)

    published.train(network, train, fitting.points, torch.Generator().manual_seed(fitting.seed), after_epoch=check)
    best.restore()
    return fitted


def held_out_unit(curves: CurveSet) -> str:
    """What is held out in a fit: whole tasks, where there are at least `MANY_TASKS`, or configurations.

    Where networks are known it is configurations: a run of a network like those fitted to is of a task like theirs.
    """
    return "task" if unlike(curves, MANY_TASKS) else "configuration"


def unlike(curves: CurveSet, fewest: int) -> bool:
    """Whether a run to come is to be taken for one of another task: there are several, and no network is known."""
    return not curves.architectures and len(set(curves.tasks)) >= fewest


def held_out(curves: CurveSet, share: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Choose tasks or configurations at random until they are a share of all: which curves are held out, (curves,)."""
    units = curves.tasks if held_out_unit(curves) == "task" else curves.configurations
    names = list(dict.fromkeys(units))
    order = {names[place]: number for number, place in enumerate(draw.permutation(len(names)))}
    rank = np.array([order[name] for name in units])
    return rank < max(1, round(share * len(names)))


def _inputs(encoded: Encoded, rows: Tensor | None, view: Tensor) -> Inputs:
    """Inputs of the rows of each member, (members or 1, batch); of all rows in their order without `rows`."""
    if rows is None:
        rows = torch.arange(len(encoded.known))[None].expand(view.shape)
    graphs = None if encoded.graphs is None else encoded.graphs[encoded.network[rows]]
    return Inputs(
        encoded.known[rows], encoded.windows[view, rows], encoded.starts[view, rows], encoded.rates[rows], graphs
    )


def _draw(encoded: Encoded, fitting: Fitting, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a view and a row for each place in a batch, among those that are valid; (members, batch) each."""
    shape = fitting.members, fitting.batch
    rows = torch.randint(len(encoded.known), shape, generator=random)
    rest = (1 - sum(_OFTEN)) / (len(VIEWS) - len(_OFTEN))
    chance = torch.tensor([*_OFTEN, *[rest] * (len(VIEWS) - len(_OFTEN))])
    weights = chance[:, None] * encoded.valid
    view = torch.multinomial(weights.T[rows.flatten()].clamp_min(1e-12), 1, generator=random).view(shape)
    return view, rows


def _forgetting(inputs: Inputs, encoding: Encoding, probability: float, random: torch.Generator) -> Inputs:
    """Hide some settings, each with a probability, and some architectures."""
    if not probability:
        return inputs
    known = inputs.known.clone()
    settings = len(encoding.settings.names)
    keep = (torch.rand(*known.shape[:-1], settings + 1, generator=random) >= probability).to(known.dtype)
    known[..., :settings] *= keep[..., :settings]
    known[..., settings : 2 * settings] *= keep[..., :settings]
    known[..., 2 * settings :] *= keep[..., settings:]
    return replace(inputs, known=known)


def _loss(network: CurveODE, inputs: Inputs, targets: Tensor, horizons: int | None, random: torch.Generator) -> Tensor:
    """Mean loss of each member over later points, all or a few at random with the last one, (members,)."""
    there = torch.isfinite(targets)
    if horizons is None:
        at = torch.arange(POINTS).expand(targets.shape)
    else:
        order = torch.rand(targets.shape, generator=random) - (~there).float() * 2
        order[..., -1] += 4  # the end is always among them
        at = order.topk(horizons, -1).indices
        there, targets = there.gather(-1, at), targets.gather(-1, at)
    middle, scales = network(inputs, at)
    losses = two_piece_laplace(torch.where(there, targets, 0.0) - middle, scales)
    weights = there.expand_as(losses).to(losses.dtype)
    return (losses * weights).sum((-1, -2)) / weights.sum((-1, -2))
