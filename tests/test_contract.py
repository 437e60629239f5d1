"""Every planner of the catalogue keeps to the contract, and refuses settings that make no sense in one line."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from lr_env.capabilities import fingerprint, pretraining_steps
from lr_env.errors import UserError
from lr_env.registry import candidates, find_planner, planner_names
from lr_env.testing import SPEC, check_one_answer_a_segment, check_planner, check_settings
from planners.latent_ode.artifact import FittedModel
from planners.latent_ode.data.dataset import run_dataset
from planners.latent_ode.data.schedule_library import schedule_library
from planners.latent_ode.generative.fit import GenerativeFitting, fit_generative
from planners.latent_ode.sweep.designs import paper
from tests import quadratic

NAMES = planner_names()

WRONG = [
    *(None, "", "x", [], [1], [None], [[0.5]], {}, {"a": 1}, float("nan"), float("inf"), True, False, 10**30, -1, 0),
    *(1e308, 5e-324, "0.1", "a\0b", "\udcff", "~nosuch/x.safetensors", "/x.safetensors", ".", "a" * 5000),
]

BATCHED = {"latent-ode": 1e-4, "latent-ode-generative": 1e-4, "ppo": 1e-6}
"""Planners that ask networks for all runs at once, in single precision -> by how much answers may differ."""


@pytest.fixture(scope="module")
def generative(tmp_path_factory):
    """A model for the published planner, which is shipped with none."""
    runs = run_dataset(quadratic.records([run.planner for run in paper(12, (0.02, 0.4), [0] * 12, 0)]), quadratic.STEPS)
    result = fit_generative(runs, GenerativeFitting(iterations=20))
    file = tmp_path_factory.mktemp("models") / "generative.safetensors"
    FittedModel(result.model, result.scales, schedule_library(runs), {"task": SPEC.task}).save(file)
    return {"model": str(file), "mismatch": "rescaled"}


def planner_of(name, generative):
    """The planner of that name, by its defaults."""
    kind = find_planner(name)
    settings = {"peak": 0.1} if "peak" in {field.name for field in fields(kind)} else {}
    quick = {"trials": 3} if name == "autolrs" else {}
    return kind(**settings, **(generative if name == "latent-ode-generative" else {}), **quick)


@pytest.mark.parametrize("name", NAMES)
def test_every_planner_keeps_to_the_contract(name, generative, tmp_path):
    check_planner(planner_of(name, generative), tmp_path, rtol=BATCHED.get(name, 0.0))


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_that_a_sweep_tries_comes_back_from_json(name):
    for planner in candidates(find_planner(name), np.geomspace(0.01, 0.1, 13).tolist()):
        check_settings(planner)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_checked(name, generative):
    """Whatever JSON there is for it, or the name of any other planner: it is used or refused, in one line."""
    kind, planner = find_planner(name), planner_of(name, generative)
    for field in fields(kind):
        for value in (*WRONG, *NAMES):
            assert "\n" not in used(kind, {**vars(planner), field.name: value}), (field.name, value)


def used(kind, settings):
    """Why a planner is not to be had with some settings; empty if it is."""
    try:
        planner = kind(**{field.name: settings[field.name] for field in fields(kind)})
        _ = planner.needs, pretraining_steps(planner), fingerprint(planner)
        planner.start(SPEC, [0, 1])
        check_settings(planner)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["latent-ode", "latent-ode-generative", "plateau", "ppo", "lrtuner", "greedy-lr"])
def test_planners_that_remember_refuse_a_second_call(name, generative):
    """What they would be told twice spoils what they know; the others are asked again without harm."""
    assert check_one_answer_a_segment(planner_of(name, generative), SPEC)


def test_a_planner_without_a_peak_cannot_be_perturbed():
    with pytest.raises(UserError, match="'leap': base must have a peak rate, and latent-ode has none"):
        find_planner("leap")(peak=0.1, base="latent-ode")
