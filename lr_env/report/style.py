"""Imports matplotlib whatever the user's settings for it are, and draws in a style of its own.

To be imported before anything of matplotlib.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lr_env.errors import UserError


def _import() -> None:
    """Import matplotlib; where the user's settings make that fail, without them.

    Raises:
        UserError: it cannot be imported.
    """
    with suppress(Exception):
        import matplotlib

        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[name]  # what was half imported
    names = ("MPLBACKEND", "MATPLOTLIBRC", "MPLCONFIGDIR")
    before, here = {name: os.environ.pop(name) for name in names if name in os.environ}, _working_folder()
    try:
        # A matplotlibrc in the working folder comes before all others.
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "matplotlibrc").touch()
            os.chdir(folder)
            try:
                import matplotlib  # noqa: F401
            finally:
                os.chdir(here)
    except Exception as error:
        raise UserError(f"matplotlib cannot be imported ({error}): install it anew") from error
    finally:
        os.environ.update(before)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return os.sep


_import()


@contextmanager
def own_style() -> Iterator[None]:
    """Draw by matplotlib's own defaults, whatever the user or the caller has set, which stays as it was."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
