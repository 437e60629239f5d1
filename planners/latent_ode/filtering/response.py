"""Estimation of how a run responds to its rates, compared with the runs of the sweep, from its curves so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.latent_ode.channels import CHANNELS
from planners.latent_ode.filtering.observations import OBSERVATION_STD, Observations
from planners.latent_ode.model.dynamics import Ensemble

NOISE_PRIOR_STD, PACE_PRIOR_STD = 1.0, 0.5
"""Standard deviations of the normal priors of `Response.noise` and `Response.pace`."""

_MAX_ITERATIONS, _MAX_STEP, _TOLERANCE, _FINITE_DIFFERENCE = 6, 1.0, 0.05, 0.05
"""Gauss-Newton method: most iterations, longest step, step that counts as converged, difference for slopes."""

_EARLY_EXIT = 1 / 3
"""The method stops after one step where that changes the noise by less than this share of the threshold. In tests
the final value was at most 1.8 times the first step. First steps are small for very unusual curves as well, though."""

_COARSE_STEPS = 12
"""Steps of the solver over the run so far."""


@dataclass(frozen=True, eq=False)
class Response:
    """The response of runs to their rates, as two log factors relative to the runs that the model was fitted to.

    `pace` scales how far a rate moves a run; `noise` scales the gradient noise that it lets in. A four times larger
    batch has noise = -log 4, for example. The dynamics of such a run are

        dz/dt = exp(u + pace) F tanh(A z + (u + noise) a + b).

    Attributes:
        noise, pace: (members, runs); 0 is nominal, that is as in the sweep.
    """

    noise: Tensor
    pace: Tensor

    @classmethod
    def nominal(cls, members: int, runs: int) -> Response:
        """Return the response of runs that are like those of the sweep."""
        return cls(torch.zeros(members, runs), torch.zeros(members, runs))

    def transformed_inputs(self, rates: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
        """Transform u and time so that `Ensemble.solve` gives the dynamics of these runs.

        Args:
            rates: u, (members, runs, ...).
            span: time, (members, runs, ...) or anything that broadcasts to it.
        """
        return rates + _broadcast(self.noise, rates), span * _broadcast((self.pace - self.noise).exp(), span)

    @property
    def is_shifted(self) -> Tensor:
        """Mask of the runs whose response is not nominal, (runs,), boolean."""
        return (self.noise != 0).any(0)

    def describe(self) -> list[str]:
        """Describe the response of each run; empty for runs that are nominal."""
        text = "its rates let in {:.2g} x the noise and move it {:.2g} x as far as in the sweep"
        factors = torch.stack([self.noise.mean(0), self.pace.mean(0)], 1).exp().tolist()
        return [
            text.format(*of_run) if shifted else ""
            for of_run, shifted in zip(factors, self.is_shifted.tolist(), strict=True)
        ]

    def masked(self, runs: Tensor) -> Response:
        """Return the same response for some runs, (runs,), boolean, and the nominal one for the others."""
        return Response(torch.where(runs, self.noise, 0.0), torch.where(runs, self.pace, 0.0))


def _broadcast(of_runs: Tensor, like: Tensor) -> Tensor:
    return of_runs.reshape(*of_runs.shape, *[1] * (like.ndim - of_runs.ndim))


@torch.no_grad()
def fit_response(model: Ensemble, observations: Observations, threshold: float, sigmas: float) -> Response:
    """Estimate the response of each run; it stays nominal where the curves do not show that it is shifted.

    The estimate is the maximum of the posterior given all curves of the run so far, for each member, by
    Gauss-Newton steps. It is used only if |noise| exceeds the threshold and is significant, and if every channel is
    explained at least as well as with the nominal response. Otherwise something else happened: wrong labels, for
    example, raise losses as noise does, but do not change accuracy in the same way.

    Args:
        model: the ensemble.
        observations: the curves.
        threshold: smallest |noise| at which a run counts as shifted.
        sigmas: smallest ratio of |noise| to its standard deviation, which combines that of the posterior, by its
            curvature, and the spread of the members.
    """
    members, count = model.sizes.members, len(observations.rates)
    posterior = ResponsePosterior(model, observations)
    best = at = step = torch.zeros(members, count, 2)
    lowest, variance = torch.full((members, count), torch.inf), torch.zeros(members, count)
    nominal = explained = torch.zeros(members, count, len(CHANNELS))
    # Each run is iterated by itself, and stops by itself, so that it does not depend on the other runs.
    converged = torch.zeros(members, count, 1, dtype=torch.bool)
    for iteration in range(_MAX_ITERATIONS):
        errors, losses, newton_step, variances = posterior.linearise(at)
        if iteration == 0:
            nominal = errors
            small = newton_step[..., :1].mean(0).abs() < _EARLY_EXIT * min(threshold, _MAX_STEP)
            converged = small.expand_as(converged)
        lower = losses < lowest
        lowest, variance = torch.where(lower, losses, lowest), torch.where(lower, variances, variance)
        # Continue from the best place so far, half as far if the last step was too long.
        choices = (at, best), (errors, explained), (newton_step, step / 2)
        best, explained, step = (torch.where(lower[..., None], *choice) for choice in choices)
        converged = converged | (step.abs() < _TOLERANCE).all(-1, keepdim=True)
        if converged.all():
            break
        at = torch.where(converged, best, best + step)
    noise, pace = best.unbind(-1)
    deviation = (variance.mean(0) + noise.var(0)).sqrt()
    explains = (explained.mean(0) <= nominal.mean(0)).all(-1)
    significant = noise.mean(0).abs() > torch.clamp(sigmas * deviation, min=threshold)
    return Response(noise, pace).masked(explains & significant)


class ResponsePosterior:
    """The posterior of the response of runs, given their curves so far."""

    def __init__(self, model: Ensemble, observations: Observations) -> None:
        finite = torch.isfinite(observations.values).float()
        self.model, self.count = model, len(observations.rates)
        counts = finite.sum(1, keepdim=True) * len(CHANNELS)  # each curve has the same weight, however often measured
        self.weights = finite * len(CHANNELS) / OBSERVATION_STD**2 / counts.clamp(min=1)
        self.values = observations.values.nan_to_num()
        self.precision = torch.tensor([NOISE_PRIOR_STD, PACE_PRIOR_STD]) ** -2
        # Each place, and one beside it in each direction, are solved as three runs of one batch.
        self.offsets = torch.tensor([[0.0, 0.0], [_FINITE_DIFFERENCE, 0.0], [0.0, _FINITE_DIFFERENCE]])
        rates, spans, self.interpolation = observations.solver_steps(_COARSE_STEPS, 0)
        members = model.sizes.members
        self.rates = rates.repeat_interleave(3, 0).expand(members, -1, -1)
        self.spans = spans.expand(members, 3 * self.count, -1)

    def linearise(self, at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Linearise the forecast in the response, and return the next Gauss-Newton step.

        Args:
            at: noise and pace, (members, runs, 2).

        Returns:
            The weighted squared error of each channel, (members, runs, channels); their sum plus the term of the prior,
            which is twice the negative log posterior, (members, runs); the Gauss-Newton step, at most 1 in each
            direction, (members, runs, 2); and the variance of the noise by the curvature, (members, runs).
        """
        response = Response(*(at[:, :, None] + self.offsets).flatten(1, 2).unbind(-1))
        inputs = response.transformed_inputs(self.rates, self.spans)
        nodes = self.model.decode(self.model.solve(self.model.initial_state(3 * self.count), *inputs))
        forecast = torch.einsum("mbnc,np->mbpc", nodes, self.interpolation).unflatten(1, (self.count, 3))
        errors = forecast[:, :, 0] - self.values
        slopes = (forecast[:, :, 1:] - forecast[:, :, :1]) / _FINITE_DIFFERENCE
        squared = (self.weights * errors.square()).sum(2)
        weighted = slopes * self.weights[:, None]
        curvature = torch.einsum("mripc,mrjpc->mrij", weighted, slopes) + torch.diag(self.precision)
        gradient = torch.einsum("mripc,mrpc->mri", weighted, errors) + self.precision * at
        covariance, _ = torch.linalg.inv_ex(curvature)
        step = -(covariance @ gradient[..., None])[..., 0].clamp(-_MAX_STEP, _MAX_STEP)
        return squared, squared.sum(-1) + (self.precision * at.square()).sum(-1), step, covariance[..., 0, 0]
