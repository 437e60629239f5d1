"""State estimation: where runs are in the latent space of a model, given their rates and measurements so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.latent_ode.channels import LOSS, TRAIN
from planners.latent_ode.data.batches import TensorDataset
from planners.latent_ode.filtering.innovations import History, innovation_features
from planners.latent_ode.filtering.observations import OBSERVATION_STD, Observations
from planners.latent_ode.filtering.response import Response, fit_response
from planners.latent_ode.model.dynamics import Ensemble

_OUTLIER_SIGMAS = 3.0
"""A run is out of distribution if its mean recent innovation of the validation loss is larger than this, in units of
`OBSERVATION_STD`; of the training loss, where no validation loss is recent."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """The estimated state of some runs.

    Attributes:
        state: corrected latent state, (members, runs, latent).
        response: how the runs respond to their rates.
        out_of_distribution: runs whose recent losses are far from the forecast, (runs,), boolean; forecasts of their
            ends are not reliable.
    """

    state: Tensor
    response: Response
    out_of_distribution: Tensor


@dataclass(frozen=True)
class StateEstimator:
    """Estimates the latent state of runs, while a model is fitted and while a planner uses it.

    Both go the same way, as in a Kalman filter:

    1. Forecast: integrate the dynamics along the rates so far, from the initial state, without looking at measurements.
    2. Innovations: subtract that forecast from the measurements.
    3. Correction: a GRU reads the most recent innovations, and its output is added to the state (`Ensemble.correct`).

    They differ in where the forecast is needed. A fit asks for all points of all runs: `roll_out` forecasts them once,
    segment by segment, and `corrected` corrects any of them. A planner asks for the present only: calling the estimator
    takes few, long steps up to the most recent points, and first estimates how each run responds to its rates.

    Attributes:
        model: the ensemble.
        response_threshold: smallest log ratio of gradient noise to the sweep's at which a run counts as shifted; None:
            all runs are taken to respond as those of the sweep.
        confidence_sigmas: significance, in standard deviations, that the shift must have.
    """

    model: Ensemble
    response_threshold: float | None = None
    confidence_sigmas: float = 2.0

    @torch.no_grad()
    def roll_out(self, dataset: TensorDataset) -> History:
        """Forecast all points of all runs of a dataset from their rates, and compute the innovations."""
        model, (runs, points) = self.model, dataset.rates.shape
        share = dataset.steps / dataset.scales.budget
        spans = share.diff(dim=1).float()
        states, features = [model.initial_state(runs)], []
        for point in range(points):
            rates, span = (of[:, point].expand(model.sizes.members, -1) for of in (dataset.rates, spans))
            states.append(model.solve(states[-1], rates[..., None], span)[:, :, -1])
            forecast = model.decode(states[-1][:, :, None])[:, :, 0]
            time = share[:, point + 1].float().expand_as(rates)
            measured = dataset.values[:, point].expand_as(forecast)
            features.append(innovation_features(time, rates, measured, forecast))
        return History(torch.stack(states, 2), torch.stack(features, 2), dataset.lengths, model.sizes.window)

    def corrected(self, history: History, rows: Tensor, now: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Correct forecast states of a dataset's runs, (members, batch, latent); arguments as of `History.at`."""
        return self.model.correct(*history.at(rows, now, lengths))

    def initial(self, runs: int) -> Estimate:
        """Return the estimate for runs before their first segment."""
        nominal = Response.nominal(self.model.sizes.members, runs)
        return Estimate(self.model.initial_state(runs), nominal, torch.zeros(runs, dtype=torch.bool))

    @torch.no_grad()
    def __call__(self, observations: Observations) -> Estimate:
        """Estimate the present state of runs from at least one segment, and how they respond to their rates."""
        model, window = self.model, self.model.sizes.window
        runs, points, _ = observations.values.shape
        response = Response.nominal(model.sizes.members, runs)
        if self.response_threshold is not None:
            response = fit_response(model, observations, self.response_threshold, self.confidence_sigmas)
        recent = min(window, points)
        # A whole run has as many steps in a fit. It was measured that errors are little larger than with one a segment.
        rates, spans, _ = observations.solver_steps(model.sizes.steps, recent)
        inputs = response.transformed_inputs(
            rates.expand(model.sizes.members, -1, -1), spans.expand(*response.noise.shape, -1)
        )
        states = model.solve(model.initial_state(runs), *inputs)
        forecast = model.decode(states[:, :, -recent:].flip(2))
        times, rates, measured = (
            of.flip(1)[:, :recent].expand(model.sizes.members, *of[:, :recent].shape)
            for of in (observations.times, observations.rates, observations.values)
        )
        features = innovation_features(times, rates, measured, forecast)
        features = torch.nn.functional.pad(features, (0, 0, 0, window - recent))
        mean_innovation = (measured - forecast).nanmean(2).mean(0)
        mean_innovation = torch.where(
            mean_innovation[:, LOSS].isnan(), mean_innovation[:, TRAIN], mean_innovation[:, LOSS]
        )
        outlier = ~(mean_innovation.abs() < _OUTLIER_SIGMAS * OBSERVATION_STD)  # also where nothing was measured
        state = model.correct(states[:, :, -1], features, torch.full(states.shape[:2], recent))
        return Estimate(state, response, outlier)
