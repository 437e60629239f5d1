"""Where people watch a run: a window, or the output of a notebook's cell."""

from __future__ import annotations

import functools
import io
import logging
import sys
from contextlib import suppress
from typing import Any, Protocol

from lr_env.report.plotting import own_style
from lr_env.report.run_picture import RunPicture, ShownRun


class Screen(Protocol):
    """Where pictures of runs are shown."""

    def show(self, run: ShownRun) -> None:
        """Show a run in place of the last one."""
        ...

    def close(self) -> None:
        """Close the window, if there is one."""
        ...


def open_screen() -> Screen:
    """Find out where people watch: in a notebook the cell's output, elsewhere a window.

    Where no window can be opened, nothing is shown, and one line on standard error says what to do: training does not
    end for want of a picture, and Gymnasium's checker tries all render modes.
    """
    shell = _notebook()
    if shell is not None:
        return _Cell(shell)
    try:
        return _Window()
    except Exception as error:  # of the toolkit, which may be any
        _say(
            'render_mode "human" shows nothing, because no window can be opened here '
            f'({" ".join(str(error).split()).rstrip(".")}): use render_mode="rgb_array", whose render() returns '
            "pictures as arrays"
        )
        return _Nowhere()


@functools.cache
def _say(line: str) -> None:
    """Log a line, once in a process."""
    logging.getLogger("lr_env").warning(line)


def _notebook() -> Any:
    """The shell of the notebook that runs this, or None."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell if hasattr(shell, "kernel") else None


class _Nowhere:
    """A machine without a display."""

    def show(self, run: ShownRun) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Close nothing."""


class _Cell:
    """The output of a notebook's cell: one picture in each cell, which changes."""

    def __init__(self, shell: Any) -> None:
        self._picture = RunPicture()
        self._shell = shell
        self._number: Any = None
        self._handle: Any = None

    def show(self, run: ShownRun) -> None:
        """Show the picture below the cell that is executed."""
        from IPython.display import Image, display  # pyright: ignore[reportMissingImports] (it is there in a notebook)
        from matplotlib.image import imsave

        self._picture.put(run)
        png = io.BytesIO()
        imsave(png, self._picture.pixels(), format="png")
        image = Image(data=png.getvalue(), format="png")
        if self._handle is None or self._number != self._shell.execution_count:
            self._number, self._handle = self._shell.execution_count, display(image, display_id=True)
        else:
            self._handle.update(image)

    def close(self) -> None:
        """Leave the picture where it is."""


class _Window:
    """A window of the interactive backend that matplotlib chooses; nothing is drawn once somebody has closed it."""

    @own_style()
    def __init__(self) -> None:
        import matplotlib
        from matplotlib.backends.registry import backend_registry

        name = matplotlib.get_backend()
        canvas = backend_registry.load_backend_module(name).FigureCanvas
        if canvas.required_interactive_framework is None:
            raise RuntimeError(f"matplotlib's backend {name} has none")
        self._picture = RunPicture()
        self._manager = canvas.new_manager(self._picture.figure, 1)  # none of pyplot's, which others draw into
        self._manager.set_window_title("lr_env")
        self._manager.show()
        self._open = True
        self._manager.canvas.mpl_connect("close_event", self._closed)

    def _closed(self, event: Any) -> None:
        self._open = False

    @own_style()
    def show(self, run: ShownRun) -> None:
        """Draw the window."""
        if self._open:
            self._picture.put(run)
            self._manager.canvas.draw()
            self._manager.canvas.flush_events()

    def close(self) -> None:
        """Close the window."""
        if self._open:
            self._open = False
            with suppress(Exception):  # a window that is gone already
                self._manager.destroy()
                self._manager.canvas.flush_events()
