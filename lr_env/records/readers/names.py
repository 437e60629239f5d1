"""What trackers and training loops call the rate, losses, scores and clocks: one table, and the choice among names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from lr_env.errors import UserError, unknown
from lr_env.records.readers.base import Floats, Series

_V = "(?:val|valid|validation|eval|evaluation|dev)"
_T = "(?:train|training|tr)"
_TERM = "(?:box|obj|cls|dfl|seg|pose|kobj|rle|angle|giou|l1|om|sem)"
_ENTROPY = "(?:ce|nll|xent|cross_entropy|crossentropy)"
_ACCURACY = (
    "(?:accuracy|acc|top1|top_1|acc1|acc_1|accuracy_top1|acc_top1|top1_acc|categorical_accuracy|"
    "sparse_categorical_accuracy|binary_accuracy|multiclassaccuracy)"
)
_OPTIMIZER = (
    r"\w*(?:adam|sgd|lion|lamb|lars|rmsprop|adagrad|adadelta|adafactor|muon|sophia|shampoo|soap|novograd|rprop|"
    r"prodigy|optimizer|opt|scheduler|lbfgs|adan|adopt)\w*"
)

_RATE = (
    "lr",
    "learning_rate",
    f"{_T}_(?:lr|learning_rate)",
    "(?:trainer|optim|optimizer|opt|charts|current|metrics|perf|hyperparameters|hparams|params|schedule|scheduler)"
    "_(?:lr|learning_rate)",
    "(?:epoch|step|batch)_(?:lr|learning_rate)",
    "(?:lr|learning_rate)_(?:epoch|step)",
    "current_learning_rate",
)
"""Names of a rate that is the only one."""

_GROUPS = (
    r"(?:\w+_)?(?:lr|learning_rate|lrs)_?(?:pg|group|param_group|params|g)?_?\d+",
    rf"(?:{_T}_)?(?:lr|learning_rate)_{_OPTIMIZER}",
    rf"(?:{_T}_)?(?:lr|learning_rate)_\w+",
    r"\w+_(?:lr|learning_rate)",
)
"""Names of rates of several parameter groups; those of one rank are rates of one run."""

_NO_RATE = re.compile(
    r".*_(?:momentum|weight_decay|wd|beta\d?|betas|eps|scale|mult|multiplier|factor|ratio|decay|scheduler|patience|min|"
    r"max|warmup\w*|name|type|steps|gamma|policy|range|end|final|init|initial|start|peak|base)|"
    r"(?:.*_)?(?:min|max|base|init|initial|peak|end|final|target|warmup|start|auto|scale|log|default)_(?:lr|learning_rate)"
)
"""Names that look like those of `_GROUPS`, and are settings of a schedule, or multipliers."""

_BASE_RATE = re.compile(f"(?:{_T}_)?base_(?:lr|learning_rate)")
"""MMEngine's rate of a parameter without a multiplier; its "lr" is that of the first group, with its multiplier."""

NAMES: Mapping[str, tuple[str, ...]] = {
    "train_loss": (
        f"{_T}_loss",
        f"{_T}_loss_step",
        "loss",
        "trl",
        "loss_metrics_global_avg_loss",
        f"loss_{_T}",
        "total_loss",
        f"{_T}_total_loss|{_T}_loss_total|loss_total|{_T}_loss_all",
        f"{_T}_loss_epoch|{_T}_epoch_loss|epoch_{_T}_loss",
        f"{_T}_(?:avg|mean|batch|iter|step|running)_loss|{_T}_loss_(?:avg|mean|batch|iter)",
        f"(?:losses|loss)_(?:{_T}|step|batch|iter)|{_T}_losses",
        "batch_loss|step_loss|iter_loss",
        "epoch_loss|loss_epoch",
        "running_loss|avg_loss|mean_loss|smooth_loss|loss_avg|loss_mean|losses_total|losses_total_loss",
        f"{_T}_{_ENTROPY}(?:_loss)?",
        f"sum:{_T}_{_TERM}_loss",
        f"{_T}_metrics_loss|metrics_{_T}_loss",
        f"{_T}_bpb",
        rf"{_T}_\w+_loss|{_T}_loss_\w+|loss_{_T}_\w+",
    ),
    "val_loss": (
        f"{_V}_loss",
        f"loss_{_V}",
        "tel",
        f"{_V}_loss_epoch|epoch_{_V}_loss|{_V}_epoch_loss",
        f"{_V}_metrics_loss|metrics_{_V}_loss",
        f"{_V}_total_loss|{_V}_loss_total|total_{_V}_loss|{_V}_loss_all",
        f"{_V}_(?:avg|mean)_loss|{_V}_loss_(?:avg|mean)",
        f"{_V}_{_ENTROPY}(?:_loss)?",
        f"losses_{_V}|{_V}_losses",
        f"evaluation_{_V}_loss|evaluation_loss_vs_iterations",
        f"sum:{_V}_{_TERM}_loss",
        f"{_V}_bpb|bpb_{_V}",
        rf"{_V}_\w+_loss|{_V}_loss_\w+|loss_{_V}_\w+|\w+_{_V}_loss",
        "test_loss|loss_test",
        r"test_\w+_loss|test_loss_\w+",
    ),
    "train_accuracy": (
        f"{_T}_{_ACCURACY}(?:_epoch|_step)?",
        f"{_ACCURACY}_{_T}",
        f"epoch_{_ACCURACY}",
        _ACCURACY,
    ),
    "val_accuracy": (
        f"{_V}_{_ACCURACY}(?:_epoch)?",
        f"{_ACCURACY}_{_V}",
        f"epoch_{_V}_{_ACCURACY}",
        f"(?:metrics|{_V}_metrics)_{_ACCURACY}",
        rf"{_V}_\w+_{_ACCURACY}|{_V}_{_ACCURACY}_\w+",
        f"test_{_ACCURACY}|{_ACCURACY}_test",
    ),
    "gradient_norm": (
        f"(?:{_T}_)?(?:grad|gradient|total_grad|global_grad)_?norm(?:_total|_avg|_step)?",
        "norm",
        "gnorm",
        f"{_T}_gnorm",
    ),
}
"""Signal -> patterns of names, the best first. Names are compared as `canonical` gives them. The series of all names
that a pattern with "sum:" fits are added; of the others the first that was logged counts."""

_DERIVED = re.compile(
    r"(?:.*_)?(?:best|lowest|highest|min|max|final|target|initial|delta|ema|smoothed)_\w+|"
    r"\w+_(?:scale|std|stddev|var|variance|weight|weights|ratio|delta|diff|improvement|count|best|min|max|ema|slope)"
)
"""Names of numbers that are computed from a signal, or that go with it."""

STEP_CLOCKS = (
    "train_global_step|trainer_global_step|training_global_step",
    "global_step|globalstep|global_steps",
    "optimizer_steps?|optim_steps?|update_steps?|optimization_steps?",
    "steps?|train_steps?|training_steps?|trainer_steps?",
    "current_steps?|cur_steps?|step_num|total_steps_done",
    "iterations?|iters?|itr|iter_num|train_iter|train_iterations?|n_iter|iter_idx|global_iter|global_iteration",
    f"num_updates|{_T}_num_updates|n_updates|updates?|num_steps",
    "batch_batch_step|batch_step",
    "s|it",
)
"""Names of clocks that count optimizer steps."""

EPOCH_CLOCKS = (
    "epochs?",
    f"{_T}_epochs?|trainer_epoch|current_epoch|epoch_num|epoch_idx|cur_epoch|epoch_epoch",
    "ep|e",
)
"""Names of clocks that count epochs."""

STEPS_PER_EPOCH = (
    "steps_per_epoch|(?:num_)?(?:train_)?(?:batches|iters|iterations|steps|updates)_per_epoch|num_batches|iters_per_epoch|"
    "num_training_batches|batches_per_epoch|len_train_loader|epoch_length|num_update_steps_per_epoch"
)
"""Names of settings, or of columns, that say how many optimizer steps an epoch has."""

OTHER_CLOCKS = ("step", "epoch")
"""Names on the left of a mapping that are no signals, but clocks."""

_ENVIRONMENT_STEPS = re.compile(
    r"time_total_timesteps|total_timesteps|rollout_ep_\w+|charts_episodic_\w+|charts_sps|episode_reward_mean|"
    r"env_runners_\w+|episode_return_mean|ep_rew_mean|ep_len_mean|rollout_ep_rew_mean"
)


@lru_cache(maxsize=100_000)
def canonical(name: str) -> str:
    """A name in small letters, with "_" in place of everything else than letters and digits.

    >>> canonical(" Loss/train "), canonical("lr-AdamW/pg1"), canonical("trainLoss")
    ('loss_train', 'lr_adamw_pg1', 'train_loss')
    """
    name = re.sub(r"([a-z0-9])([A-Z][a-z])", r"\1_\2", name.strip())
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


@lru_cache(maxsize=100_000)
def rank(name: str, patterns: tuple[str, ...]) -> int | None:
    """The place of the first pattern that a name fits; None where it fits none."""
    plain = canonical(name)
    return next((at for at, one in enumerate(patterns) if re.fullmatch(one.removeprefix("sum:"), plain)), None)


def _signal_rank(name: str, patterns: tuple[str, ...]) -> int | None:
    """As `rank`; None for what was computed from a signal, such as its lowest value so far."""
    return None if _DERIVED.fullmatch(canonical(name)) else rank(name, patterns)


def is_rate(name: str) -> bool:
    """Whether a name is that of a rate, or of the rate of a parameter group.

    >>> [is_rate(name) for name in ("train/learning_rate", "lr-AdamW/pg1", "lr/pg0", "train/lrm", "min_lr")]
    [True, True, True, False, False]
    """
    return rank(name, _RATE) is not None or _is_group(name)


def _is_group(name: str) -> bool:
    return rank(name, _GROUPS) is not None and not _NO_RATE.fullmatch(canonical(name))


def is_training_log(names: Iterable[str]) -> bool:
    """Whether names in a file speak for a log of training: a loss is among them, or a rate and a clock.

    >>> is_training_log(["epoch", "lr"]), is_training_log(["lr", "batch_size"]), is_training_log(["val_loss"])
    (True, False, True)
    """
    names = list(names)
    if any(_signal_rank(name, NAMES[signal]) is not None for name in names for signal in ("train_loss", "val_loss")):
        return True
    clocks = STEP_CLOCKS + EPOCH_CLOCKS
    return any(map(is_rate, names)) and any(rank(name, clocks) is not None for name in names)


def counts_environment_steps(names: Iterable[str]) -> bool:
    """Whether names are those of reinforcement learning, whose logs count steps of an environment."""
    return any(_ENVIRONMENT_STEPS.fullmatch(canonical(name)) for name in names)


def parse_names(pairs: Sequence[str]) -> dict[str, str]:
    """A mapping of signals and clocks to names in the log, from texts "lr=train/learning_rate".

    Raises:
        UserError: a text is no such pair, the signal is unknown, or given twice.
    """
    names: dict[str, str] = {}
    for pair in pairs:
        signal, equals, name = pair.partition("=")
        if not equals or not name:
            raise UserError(f"names {pair!r}: write SIGNAL=NAME, as lr=train/learning_rate")
        if signal in names:
            raise UserError(f"names: {signal} is given twice: give each once")
        names[signal] = name
    check_signals(names)
    return names


def check_signals(names: Mapping[str, str]) -> None:
    """See that a mapping is of known signals.

    Raises:
        UserError: naming one that is unknown.
    """
    for signal in names:
        if signal not in ("lr", *NAMES, *OTHER_CLOCKS):
            raise unknown("signal", signal, ("lr", *NAMES, *OTHER_CLOCKS))


class MissingNameError(UserError):
    """A name that the user gave is not in a log."""


@dataclass(frozen=True)
class Choice:
    """The names in a log that stand for signals.

    Attributes:
        names: signal -> names, whose series are added where they are several.
        notes: what has to be known about the choice.
    """

    names: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = field(default=())

    def text(self, signal: str) -> str:
        """The names of a signal as text."""
        return " + ".join(self.names[signal])


def choose(series: Mapping[str, Series], mapping: Mapping[str, str]) -> Choice:
    """Choose the names that stand for signals.

    Args:
        series: name in the log -> values; only those of candidates are looked at.
        mapping: signal -> name, as the user gave it; it goes before the table.

    Raises:
        MissingNameError: a name in the mapping is not in the log; it lists the names that are.
    """
    names: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for signal, given in mapping.items():
        if signal not in OTHER_CLOCKS:
            names[signal] = named(series, signal, given)
    if "lr" not in names and (rate := _choose_rate(series, notes)):
        names["lr"] = (rate,)
    for signal, patterns in NAMES.items():
        if signal not in names and (some := _choose_signal(series, patterns)):
            names[signal] = some
            if signal == "val_loss" and (others := _other_sets(series, some, patterns)):
                notes.append(f"of {len(others) + 1} validation losses {some[0]!r} was taken, not {others[0]!r}")
    _objective(series, names, notes)
    return Choice(names, tuple(notes))


def named(series: Iterable[str], signal: str, given: str) -> tuple[str, ...]:
    """The names in a log that a user's name means: itself, or the parts of a sum "a+b".

    Raises:
        MissingNameError: there is no such name.
    """
    there = list(series)
    whole = _same_name(there, given)
    if whole is not None:
        return (whole,)
    parts = [_same_name(there, part) for part in given.split("+")]
    if "+" in given and all(part is not None for part in parts):
        return tuple(part for part in parts if part is not None)
    shown = ", ".join(sorted(there)[:40]) + (f" and {len(there) - 40} more" if len(there) > 40 else "")
    raise MissingNameError(f"names: it has no {given!r} for {signal} (there are: {shown or 'none'})")


def _same_name(there: Sequence[str], given: str) -> str | None:
    if given in there:
        return given
    same = [name for name in there if canonical(name) == canonical(given)]
    return same[0] if len(same) == 1 else None


def _objective(series: Mapping[str, Series], names: dict[str, tuple[str, ...]], notes: list[str]) -> None:
    """Take what a trial of Optuna reported for its losses, where it has no others."""
    if "intermediate_value" in series and not {"train_loss", "val_loss"} & names.keys():
        names["train_loss"] = ("intermediate_value",)
        if "value" in series:
            names["val_loss"] = ("value",)
        notes.append("the objective of the study is taken for a loss")


def _choose_signal(series: Mapping[str, Series], patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a signal. One that was logged once, as a mean over the run, stands behind one that is a curve."""
    ranked = [(at, name) for name in series if (at := _signal_rank(name, patterns)) is not None]
    for shortest in (2, 1):
        for at in sorted({at for at, _ in ranked}):
            some = [name for where, name in ranked if where == at and len(series[name].at) >= shortest]
            if some:
                return tuple(some) if patterns[at].startswith("sum:") else (some[0],)
    return ()


def _other_sets(series: Mapping[str, Series], some: tuple[str, ...], patterns: tuple[str, ...]) -> list[str]:
    """The names that are as good as the one that was chosen."""
    at = _signal_rank(some[0], patterns)
    return [name for name in series if len(some) == 1 and name not in some and _signal_rank(name, patterns) == at]


def _choose_rate(series: Mapping[str, Series], notes: list[str]) -> str | None:
    """The name of the commanded rate."""
    single = sorted((at, name) for name in series if (at := rank(name, _RATE)) is not None)
    if single:
        return _base_rate(series, single[0][1], notes)
    groups = [(rank(name, _GROUPS), name) for name in series if _is_group(name)]
    if not groups:
        return None
    best = min(at for at, _ in groups if at is not None)
    names = [name for at, name in groups if at == best and len(series[name].values)]
    return _commanded(series, names, notes) if names else groups[0][1]


def _base_rate(series: Mapping[str, Series], name: str, notes: list[str]) -> str:
    """MMEngine's "base_lr", beside which "lr" is the rate of the first parameter group, with its multiplier.

    The commanded rate is the one without a multiplier: the schedule that is applied to the optimizer's default rate.
    The quotient of the two changes where a schedule ends at a rate of its own ("eta_min"). A setting "base_lr" of other
    logs, which "lr" rises to and falls from, is none: it stays the same.
    """
    base = next((other for other in series if _BASE_RATE.fullmatch(canonical(other))), None)
    if base is None:
        return name
    rates, commanded = _at_common(series[name], series[base])
    finite = np.isfinite(rates) & np.isfinite(commanded)
    rates, commanded = rates[finite], commanded[finite]
    if not len(rates) or np.allclose(rates, commanded, rtol=1e-3, atol=0):
        return name
    if np.ptp(commanded) == 0 and np.ptp(rates) != 0:
        return name
    quotient = rates.max() / commanded.max() if commanded.max() > 0 else np.nan
    notes.append(f"the rate is {base!r}; {name!r} is that of the first parameter group, {quotient:.3g} times as high")
    return base


def _commanded(series: Mapping[str, Series], names: Sequence[str], notes: list[str]) -> str:
    """The group whose rate is the commanded one: that of most groups, and of those the highest.

    Ultralytics lets the rate of the biases alone fall while that of all other groups rises; with rates of their own a
    layer, the highest is the one without a multiplier.
    """
    alike: list[list[str]] = []
    for name in names:
        for group in alike:
            if _equal(series[name], series[group[0]]):
                group.append(name)
                break
        else:
            alike.append([name])
    if len(alike) == 1:
        return names[0]

    def weight(group: list[str]) -> tuple[int, float]:
        values = series[group[0]].values
        finite = values[np.isfinite(values)]
        return len(group), float(finite.max()) if len(finite) else 0.0

    best = max(alike, key=weight)
    notes.append(f"of {len(names)} rates of parameter groups {best[0]!r} was taken, not {alike[alike[0] is best][0]!r}")
    return best[0]


def _equal(one: Series, other: Series) -> bool:
    values = _at_common(one, other)
    return len(values[0]) > 0 and bool(np.allclose(*values, rtol=1e-6, atol=0, equal_nan=True))


def _at_common(one: Series, other: Series) -> tuple[Floats, Floats]:
    """The values of two series where both have one."""
    _, left, right = np.intersect1d(one.at, other.at, assume_unique=True, return_indices=True)
    return one.values[left], other.values[right]
