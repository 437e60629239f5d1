"""A report as files: Markdown, its figures, and the HTML page."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from lr_env.report.document import Code, Document, Figure, Heading
from lr_env.report.files import draw_into
from lr_env.report.html import REPORT, write_html
from lr_env.report.markdown import write_markdown


def write_report(document: Document, folder: Path, command: str = "") -> None:
    """Write summary.md, then the figures of a document, then report.html, into a folder that is there.

    Every file is replaced as a whole or not at all. A figure or a page that cannot be made is a warning, `NotDrawn`.

    Args:
        document: the report.
        folder: where to.
        command: how it was made, where the document does not say so.
    """
    if command:
        document = replace(document, blocks=(*document.blocks, Heading("How it was made"), Code(command)))
    write_markdown(document, folder / "summary.md")
    for block in document.blocks:
        if isinstance(block, Figure) and block.draw is not None:
            draw_into(folder / block.file, block.draw)
    write_page(document, folder / REPORT)


def write_page(document: Document, file: Path) -> None:
    """Write the HTML page alone."""
    draw_into(file, partial(write_html, document, file.parent))
