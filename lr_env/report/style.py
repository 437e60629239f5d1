"""Import matplotlib whatever the user's settings for it are, and draw in a style of our own.

Import this module before anything of matplotlib.
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
    """Import matplotlib; without the user's settings where they make the import fail.

    Raises:
        UserError: it cannot be imported.
    """
    with suppress(Exception):
        import matplotlib

        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[name]  # modules that are half imported
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
    """Draw with matplotlib's own defaults; the settings of the user and of the caller are restored afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
