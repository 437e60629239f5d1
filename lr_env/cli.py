"""Who sets the learning rate best? Planners compared on real training of small networks."""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stderr

import tyro

from lr_env.commands.across import Across
from lr_env.commands.budget import Budget
from lr_env.commands.conditions import Conditions
from lr_env.commands.cumulative import Cumulative
from lr_env.commands.experiments import Compare, Sweep
from lr_env.commands.explain import Explain
from lr_env.commands.fit import Fit
from lr_env.commands.lists import Planners, Tasks
from lr_env.commands.preview import Preview
from lr_env.commands.range_test import RangeTest
from lr_env.commands.scaling import Scaling
from lr_env.commands.starts import Starts
from lr_env.commands.train_ppo import TrainPpo
from lr_env.errors import UserError

COMMANDS = (
    Tasks
    | Planners
    | Preview
    | RangeTest
    | Sweep
    | Compare
    | Across
    | Scaling
    | Cumulative
    | Starts
    | TrainPpo
    | Fit
    | Explain
    | Budget
    | Conditions
)


def main() -> None:
    """Entry point of `lr-env`: bad input is one line and exit code 2."""
    command = None
    try:
        command = _parse()
        command.run()
    except UserError as error:
        _stop(str(error))
    except BrokenPipeError:  # the reader of our output, say `head`, has had enough
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        where = f" {str(error.filename)!r}" if error.filename else ""
        _stop(
            f"cannot read or write{where}: {error.strerror or error}; see that the disk is not full and may be written"
        )
    except KeyboardInterrupt:
        print(_stopped(command), file=sys.stderr)
        sys.exit(130)


def _parse() -> COMMANDS:
    """What the arguments ask for; tyro's framed messages become one line."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(
                COMMANDS,
                prog="lr-env",
                description=__doc__,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if not end.code:
            raise  # help was asked for, and given
        text = " ".join(re.sub("[│╭╮╰╯]", " ", told.getvalue()).split())
        text = re.sub(r"^─ [^─]* ─+ ", "", text)
        near = re.search(r"Perhaps you meant: (--[a-z-]+)", text)
        guess = f"; did you mean {near[1]}?" if near else ""
        raise UserError(f"{re.split('─{3,}', text)[0].strip().rstrip('.')}{guess} (see lr-env --help)") from None


def _stopped(command: object) -> str:
    """What becomes of a command that was stopped by hand; only those with --fresh keep what they have done."""
    if command is None:  # before it was known which
        return "stopped"
    fresh = getattr(command, "fresh", None)
    if fresh is None:
        return "stopped; nothing is kept of it"
    return f"stopped; the same command{', without --fresh,' if fresh else ''} goes on from here"


def _stop(line: str) -> None:
    print(f"lr-env: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
