"""`lr-env watch`: the page of an experiment, which changes while its runs come in."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

from lr_env.cli.stored_experiment import StoredExperiment
from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.records.store import Store
    from lr_env.report.document import Document

REFRESH = 3.0
"""Seconds after which a page asks for new content."""

_SHARE = 4
"""The page is made anew after this many times the seconds that making it took, so that training keeps its processor."""


@dataclass(frozen=True)
class Watch(StoredExperiment):
    """Serve the page of an experiment on this machine, and bring it up to date while its runs come in.

    It only reads the record store. Ctrl-C ends it.
    """

    stopped: ClassVar[str] = "stopped watching"
    """What is said after Ctrl-C."""

    port: Annotated[int, arg(metavar="PORT")] = 8765
    """Port on 127.0.0.1; 0 for any that is free."""

    def run(self) -> None:
        """Serve the page until the process is stopped.

        Raises:
            UserError: there is no such store, or no experiment of that name; or the port is in use.
        """
        from contextlib import closing

        from lr_env.cli.page_server import PageServer
        from lr_env.records.store import Store
        from lr_env.studies.stored import check_experiment

        with closing(Store.reading(self.store)) as store:
            check_experiment(store, self.name)
            with PageServer(LivePage(store, self.name, self.folder), self.port) as server:
                print(f"Watching {self.name} at {server.url} (Ctrl-C ends it)", flush=True)
                server.serve_forever()


class LivePage:
    """The page of an experiment as it is now, made anew where the store has changed.

    Args:
        store: opened to read.
        name: of the experiment.
        folder: of its report.
    """

    def __init__(self, store: Store, name: str, folder: Path) -> None:
        self.store = store
        self.name = name
        self.folder = folder
        self._lock = threading.Lock()
        self._seen = -1
        self._next = 0.0
        self._document: Document | None = None
        self._content = ("", "")

    def content(self) -> tuple[str, str]:
        """The version, and the part of the page that changes."""
        with self._lock:
            self._update()
            return self._content

    def page(self) -> tuple[str, str]:
        """The version, and the whole page."""
        from lr_env.report.html import page_around

        with self._lock:
            self._update()
            assert self._document is not None
            version, content = self._content
            return version, page_around(self._document.title, content, refresh=REFRESH)

    def _update(self) -> None:
        """Read the store again if it has changed, and the last time is not too recent."""
        from lr_env.report.document import Document
        from lr_env.report.html import html_content, version_of
        from lr_env.studies.stored import stored_report

        began = time.monotonic()
        if began < self._next or (version := self.store.version) == self._seen:
            return
        try:
            self._document = stored_report(self.store, self.name, self.folder).document
        except UserError as error:  # such as no runs yet, or a comparison that is started over
            self._document = Document(self.name, (), notice=f"{error}.")
        content = html_content(self._document, self.folder)
        self._content = version_of(content), content
        self._seen, self._next = version, time.monotonic() + _SHARE * (time.monotonic() - began)
