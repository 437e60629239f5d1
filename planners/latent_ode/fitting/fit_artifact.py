"""From the runs of a sweep to what a planner loads, for models of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planners.latent_ode.artifact import ERRORS, Trained
from planners.latent_ode.data.dataset import Series
from planners.latent_ode.data.schedule_library import TRUSTED, repertoire_of
from planners.latent_ode.fitting.baselines import quality
from planners.latent_ode.fitting.fit import SHARES, Fitted, Fitting, fit
from planners.latent_ode.generative.fit import GenerativeFitting, fit_generative

FEWEST = 5
"""Runs held out, of those that count, from which it is told what a model errs by."""


def trained_on(
    runs: Series, fitting: Fitting | GenerativeFitting, about: Mapping[str, Any] | None = None
) -> tuple[Trained, Any]:
    """Fit a model, and keep with it the schedules that it was fitted to.

    Args:
        runs: of a sweep.
        fitting: how; it tells the kind of model.
        about: what else is kept with the model.

    Returns:
        What a planner loads, and what `fit` or `fit_generative` returned.

    Raises:
        UserError: see these.
    """
    fitted = fit(runs, fitting) if isinstance(fitting, Fitting) else fit_generative(runs, fitting)
    about = {**(about or {}), "fitting": asdict(fitting)}
    if isinstance(fitted, Fitted):
        about[ERRORS] = _errors(fitted, runs)
    return Trained(fitted.model, fitted.scales, repertoire_of(runs), about), fitted


def near_best(runs: Series) -> NDArray[np.bool_]:
    """Runs whose ends it matters to foresee, (runs,): it is there that plans lie, and others are easy to tell apart."""
    return np.isfinite(runs.final) & (runs.weights >= TRUSTED)


def _errors(fitted: Fitted, runs: Series) -> list[list[float]]:
    count = near_best(runs)
    if count.sum() < FEWEST:
        return []
    errors = (quality(row[count], runs.final[count]).error for row in fitted.foreseen)
    return [[share, error] for share, error in zip(SHARES, errors, strict=True)]
