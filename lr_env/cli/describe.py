"""`lr-env describe`: the network of a task as a graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from lr_env.cli.parsing import writable
from lr_env.cli.task_options import TaskOptions
from lr_env.errors import UserError

if TYPE_CHECKING:
    from lr_env.architecture import Architecture
    from lr_env.report.document import Document


@dataclass(frozen=True)
class Describe(TaskOptions):
    """Print the architecture of a task's network: its layers, who feeds whom, and the numbers that summarize it."""

    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder to write a picture (architecture.png) and the graph (architecture.json) into."""

    def run(self) -> None:
        """Print the graph, and write the files."""
        from lr_env.report.files import write_json_and_figure
        from lr_env.report.network_figure import draw_architecture
        from lr_env.report.terminal import print_document
        from lr_env.tasks.architecture import of_task
        from lr_env.terminal import console

        task = self.varied_task()
        self.numerics()  # refuses a device that is not there, although nothing is computed on it
        if self.out is not None:
            if self.out.exists() and not self.out.is_dir():
                raise UserError(f"out {str(self.out)!r} is a file: give a folder")
            writable(self.out, "--out")
        architecture = of_task(task)
        print_document(_document(architecture, f"{task.name}: {task.network}"), console())
        if self.out is not None:
            title = f"{task.name}{self.variation}: {task.network}"
            graph = architecture.to_json()
            write_json_and_figure(
                self.out, "architecture", graph, lambda path: draw_architecture(architecture, title, path)
            )
            print(f"{self.out / 'architecture.json'}, {self.out / 'architecture.png'}")


def _document(architecture: Architecture, title: str) -> Document:
    """The graph as a table with a line for each node, and its summary."""
    from lr_env.report.document import Column, Document, Heading, Table, Text, plain_table
    from lr_env.report.network_figure import followers

    nodes, sources = architecture.nodes, architecture.sources
    columns: list[Column[int]] = [
        Column("node", lambda n: n, rank=0),
        Column("kind", lambda n: _kind(nodes[n].kind, nodes[n].operation), rank=0, words=True),
        Column("in", lambda n: nodes[n].fan_in or None, "{:,}".format, rank=0),
        Column("out", lambda n: nodes[n].fan_out, "{:,}".format, rank=0),
        Column("positions", lambda n: nodes[n].positions, "{:,}".format, rank=3),
        Column("parameters", lambda n: nodes[n].parameters or None, "{:,}".format, rank=0),
        Column("multiply-adds", lambda n: nodes[n].multiply_adds or None, "{:,}".format, rank=2),
        Column("then", lambda n: ", ".join([*followers(nodes[n]), *["tied"] * nodes[n].tied]), rank=0, words=True),
        Column("from", lambda n: " ".join(map(str, sources[n])), rank=0, words=True),
        Column("module", lambda n: nodes[n].name, rank=4, words=True),
    ]
    total = sum(node.parameters for node in nodes)
    products = sum(node.multiply_adds for node in nodes)
    counts = (
        f"{len(nodes)} nodes, {len(architecture.edges)} edges, {total:,} parameters, {products:,} multiply-adds for an "
        f"example; key {architecture.key}"
    )
    summary = [(name, f"{value:.4g}") for name, value in architecture.summary().items()]
    return Document(
        title,
        (
            Heading(title, place="everywhere"),
            Table(range(len(nodes)), columns, note="out: width; then: what follows without weights"),
            Text(counts),
            plain_table(("summary", "value"), summary, note="log: natural logarithm of 1 + x"),
        ),
    )


def _kind(kind: str, operation: str) -> str:
    """A kind with its operation, where that says more."""
    return kind if not operation or operation.startswith(kind) else f"{kind} {operation}"
