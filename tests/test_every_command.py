"""Every command once, tiny, from end to end, with torch's own number of threads, and under a time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from typing import Any

from lr_env.cli.commands import commands
from lr_env.cli.experiment_options import ReportOptions
from lr_env.cli.study import StudyCommand, study_commands
from lr_env.entry_points import declared, load
from lr_env.registry import STUDIES
from lr_env.studies.data_scaling.study import DataScaling
from lr_env.studies.start_rates.study import StartRates

SECONDS = 600
"""Many times what it takes where nothing else runs: what this is for is a process that hangs."""

TINY = ["--budget", "40", "--segment", "10"]
SWEPT = [*TINY, "--rates", "0.01,0.1", "--tune-seeds", "1"]
STUDY = [*TINY, "--rates", "0.01,0.03,0.1", "--tune-seeds", "5", "--backend", "loop"]

LOW = ["--conditions", "low start", "--backend", "loop"]

CALLS = [
    ["tasks"],
    ["planners"],
    ["tuners"],
    ["planners", "wsd"],
    ["preview", "cosine", "wsd"],
    ["describe", "DigitsMLP", "--out", "network"],
    ["range-test", "DigitsMLP", "--steps", "20", "--seeds", "2"],
    ["sweep", "DigitsMLP", "--planners", "constant", *SWEPT],
    ["compare", "DigitsMLP", "--planners", "constant", "cosine", *SWEPT, "--seeds", "2"],
    ["compare", "DigitsMLP", "--planners", "constant", "cosine", *SWEPT, "--seeds", "2", "--adam", "--name", "adam"],
    ["across", "DigitsMLP", "adam"],
    ["figure", "adam", "--kind", "losses", "--out", "paper.svg"],
    ["data-scaling", "DigitsMLP", *STUDY],
    ["data-scaling", "DigitsMLP", *STUDY, "--fixed", "epochs"],
    ["cumulative-rate", "DigitsMLP", "--planners", "constant", "linear", *STUDY],
    ["start-rates", "DigitsMLP", "--planner", "plateau", *TINY, "--seeds", "2"],
    ["search", "DigitsMLP", *TINY, "--runs", "10", "--planners", "wsd", "linear", "--backend", "loop"],
    ["train-ppo", "DigitsMLP", *TINY, "--decisions", "16", "--children", "2"],
    ["fit", "DigitsMLP", *TINY, "--design", "wsd", "--runs", "10", "--members", "2", "--backend", "loop"],
    ["explain", "DigitsMLP", "--segment", "100"],
    ["tuning-budget", "DigitsMLP", *TINY, "--tuners", "wsd", "--runs", "2", "--repeats", "2", "--seeds", "2"],
    ["forecast", "collect", "MLPFamily", "--runs", "2"],
    ["tune", "DigitsMLP", *TINY, "--runs", "1", "--backend", "loop"],
    ["tuning-across", "MLPFamily", "--tasks", "2", "--tuners", "wsd", "--runs", "1", "--seeds", "1", "--split", "val"],
    ["report", "DigitsMLP"],
    ["report", "DigitsMLP-search"],
    ["runs"],
    ["runs", "DigitsMLP"],
    ["export", "DigitsMLP", "--out", "exported.csv"],
    ["import", "exported.csv", "--name", "imported"],
    [*("robustness", "DigitsMLP", "--tuners", "wsd", "--runs", "2", "--oracle", "6", "--seeds", "2"), *TINY, *LOW],
]

FILES = {
    "preview.png",
    "network/architecture.png",
    "network/architecture.json",
    "explain.png",
    "exported.csv",
    "paper.svg",
    "results/DigitsMLP/scores.png",
    "results/DigitsMLP/report.html",
    "results/DigitsMLP-search/runs.html",
    "results/adam/summary.md",
    "results/across/across.png",
    "results/DigitsMLP-range-test/range-test.png",
    "results/DigitsMLP-data-scaling-steps/scaling.png",
    "results/DigitsMLP-data-scaling-epochs/scaling.png",
    "results/DigitsMLP-cumulative-rate/cumulative.png",
    "results/DigitsMLP-plateau-start-rates/starts.png",
    "results/ppo/DigitsMLP/policy.safetensors",
    "results/fit/DigitsMLP-fit/fit.png",
    "results/DigitsMLP-search/search.png",
    "results/DigitsMLP-tuning-budget/budget.png",
    "results/DigitsMLP-robustness/conditions.json",
}

RUNNER = """
import json, os, sys
from planners.latent_ode.fitting import fit
from planners.latent_ode import fit_report
from lr_env.cli.main import main

class Quick(fit.Fitting):  # what is tested here is not how good a fit is
    def __init__(self, **given):
        super().__init__(**{**given, "dynamics": 20, "corrections": 5})

fit_report.Fitting = Quick
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["lr-env", *arguments]
    print("$", *arguments, flush=True)
    main()
import torch
print(torch.get_num_threads())
"""
"""All in one process, for starting one takes longer than most of them."""


def test_every_command_runs_with_the_threads_that_there_are(tmp_path):
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in limits}
    command = [sys.executable, "-W", "error", "-c", RUNNER, json.dumps(CALLS)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-3000:]
    assert {call[0] for call in CALLS} == {*commands(), *study_commands()} - {"watch"}  # which does not end: test_html
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert there >= FILES, FILES - there


def test_no_two_studies_of_a_task_share_a_name_or_a_folder_by_default():
    kinds = [kind for kind in commands().values() if "task" in {field.name for field in fields(kind)}]
    studies: list[Any] = [kind(task="DigitsMLP") for kind in kinds]
    lab = ReportOptions(task="DigitsMLP")
    of_studies = [load(STUDIES, "study", name) for name in declared(STUDIES)]
    studies += [StudyCommand(kind(), lab) for kind in of_studies]
    studies += [StudyCommand(DataScaling(fixed="epochs"), lab), StudyCommand(StartRates(planner="plateau"), lab)]
    kept = Counter(study.experiment_name() for study in studies if hasattr(study, "experiment_name"))
    folders = Counter(study.folder for study in studies if hasattr(study, "folder"))
    assert len(kept) >= 8
    assert len(folders) >= 11
    assert set(kept.values()) == set(folders.values()) == {1}, (kept, folders)
    # Parts of a study add to its name: none may be that of another study.
    for name in kept:
        assert not [other for other in kept if other.startswith(f"{name}-") and name != "DigitsMLP"]
