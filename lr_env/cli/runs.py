"""`lr-env runs`: what the record store holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from lr_env.errors import unknown
from lr_env.report.document import Document, Text
from lr_env.terminal import console


@dataclass(frozen=True)
class Runs:
    """List the experiments and imports in the record store. With a name: its runs."""

    name: Annotated[str, tyro.conf.Positional, arg(metavar="NAME")] = ""
    """Name of an experiment or an import."""
    store: Path = Path("results/records.sqlite")
    """Record store, a SQLite file."""

    def run(self) -> None:
        """Print the list.

        Raises:
            UserError: there is no such store, or nothing of that name in it.
        """
        from contextlib import closing

        from lr_env.cli.import_logs import spec_text
        from lr_env.cli.run_tables import imported_table, open_store, records_table, stored, stored_table
        from lr_env.report.terminal import print_document

        with closing(open_store(self.store)) as store:
            if not self.name:
                rows = stored(store)
                block = stored_table(rows) if rows else Text(f"the record store {str(self.store)!r} is empty")
                print_document(Document("Record store", (block,)), console())
            elif self.name in store.imports():
                table, spec = imported_table(store.imported(self.name)), store.import_spec(self.name)
                print_document(Document(self.name, (table, Text(spec_text(spec), quiet=True))), console())
            elif self.name in (experiments := store.experiments()):
                print_document(Document(self.name, (records_table(store.runs(self.name)),)), console())
            else:
                raise unknown("name", self.name, [*experiments, *store.imports()])
