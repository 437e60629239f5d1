"""From the runs of a sweep to the fitted model that planners load, for each kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planners.latent_ode.artifact import HELD_OUT_ERRORS, FittedModel
from planners.latent_ode.data.dataset import RunDataset
from planners.latent_ode.data.schedule_library import NEAR_BEST_WEIGHT, schedule_library
from planners.latent_ode.fitting.baselines import quality
from planners.latent_ode.fitting.fit import SHARES, Fitted, Fitting, fit
from planners.latent_ode.generative.fit import GenerativeFitting, fit_generative

MIN_HELD_OUT = 5
"""Fewest held-out runs near the best from which the error of forecasts is estimated."""


def fit_artifact(
    dataset: RunDataset, fitting: Fitting | GenerativeFitting, about: Mapping[str, Any] | None = None
) -> tuple[FittedModel, Any]:
    """Fit a model to the runs of a sweep, and add their schedules and the provenance.

    The type of `fitting` is the kind of model.

    Returns:
        What planners load, and what `fit` or `fit_generative` returned.

    Raises:
        UserError: the fit failed, see `fit` and `fit_generative`, or no schedule of the sweep is usable.
    """
    fitted = fit(dataset, fitting) if isinstance(fitting, Fitting) else fit_generative(dataset, fitting)
    about = {**(about or {}), "fitting": asdict(fitting)}
    if isinstance(fitted, Fitted):
        about[HELD_OUT_ERRORS] = _held_out_errors(fitted, dataset)
    return FittedModel(fitted.model, fitted.scales, schedule_library(dataset), about), fitted


def ends_near_best(dataset: RunDataset) -> NDArray[np.bool_]:
    """Return the runs that ended near the best, (runs,): plans lie there, and other runs are easy to tell apart."""
    return np.isfinite(dataset.final) & (dataset.weights >= NEAR_BEST_WEIGHT)


def _held_out_errors(fitted: Fitted, dataset: RunDataset) -> list[list[float]]:
    """Return pairs of a share of the run that is over, and the error of forecasts made then; [] if too few runs."""
    near_best = ends_near_best(dataset)
    if near_best.sum() < MIN_HELD_OUT:
        return []
    errors = (quality(row[near_best], dataset.final[near_best]).error for row in fitted.forecast)
    return [[share, error] for share, error in zip(SHARES, errors, strict=True)]
