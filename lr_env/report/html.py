"""Documents as one HTML page that opens without a network: sortable tables, charts to look into, a part per planner."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

from lr_env.report.blocks import Block, Code, Figure, Heading, Table, Text
from lr_env.report.chart import Chart, pack_charts
from lr_env.report.document import Document
from lr_env.report.fragment import image_html, marked, table_html, text_html

REPORT = "report.html"
"""Name of the page in the folder of a report."""

_SCRIPTS = ("tables.js", "charts.js", "page.js")


def write_html(document: Document, folder: Path, file: Path) -> None:
    """Write a document as a page into a file; the images that it shows lie in a folder."""
    file.write_text(html_page(document, folder), encoding="utf-8", errors="backslashreplace", newline="")


def html_page(document: Document, folder: Path | None = None) -> str:
    """A document as a page: a text in HTML. Its images lie in `folder`."""
    return page_around(document.title, html_content(document, folder))


def page_around(title: str, content: str, *, refresh: float = 0.0) -> str:
    """The page of a content.

    Args:
        title: of the page.
        content: see `html_content`.
        refresh: seconds after which the page asks its server for new content, again and again; 0 for never.
    """
    script, charts = _script(), refresh > 0 or 'class="data"' in content  # which may come later
    hashes = [script, *([plotly_script()] if charts else [])]
    server = "'self'" if refresh else "'none'"
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash_source, hashes))}; style-src 'unsafe-inline'; "
        f"img-src data: blob:; connect-src {server}; base-uri 'none'; form-action 'none'"
    )
    title = escape(title, quote=True)
    packed = f'<script type="text/plain" id="plotly">{_packed_plotly()}</script>' if charts else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{_asset("style.css")}</style>
<script>{script}</script>
</head>
<body data-title="{title}" data-refresh="{refresh:g}">
<a class="skip" href="#report">Skip to the report</a>
<header><nav aria-label="Report"><a href="#report">{title}</a></nav><span id="live" role="status"></span>
<button type="button" id="theme">Dark</button></header>
{content}
{packed}
</body>
</html>
"""


def html_content(document: Document, folder: Path | None = None) -> str:
    """The part of the page that changes while runs come in: an element with the id "content" and a version."""
    writer = _Writer(document, folder)
    body = writer.report() + "".join(map(writer.page, range(len(document.pages))))
    data = ""
    if writer.charts:
        packed = base64.b64encode(_gzip(pack_charts(writer.charts))).decode()
        data = f'<script type="text/plain" class="data">{packed}</script>'
    version = hashlib.sha256((body + data).encode(errors="backslashreplace")).hexdigest()[:16]
    return f'<main id="content" data-version="{version}">{body}{data}</main>'


def version_of(content: str) -> str:
    """The version of a content: another content has another one."""
    return content.partition('data-version="')[2].partition('"')[0]


class _Writer:
    """Writes the parts of one page, and gives its tables, charts and pages their names."""

    def __init__(self, document: Document, folder: Path | None) -> None:
        self.document = document
        self.folder = folder
        self.charts: dict[str, Chart] = {}
        self._tables = 0
        self._ids = _ids([page.name for page in document.pages])

    def report(self) -> str:
        """The report itself, the conclusion first."""
        document = self.document
        notice = f'<p class="notice" role="status">{marked(document.notice)}</p>' if document.notice else ""
        headings = [block.text for block in document.blocks if isinstance(block, Heading)]
        links = "".join(f'<a href="#{_slug(text)}">{marked(text)}</a>' for text in headings)
        contents = f'<nav class="contents" aria-label="Contents">{links}</nav>' if len(headings) > 1 else ""
        return (
            f'<article class="view" id="report"><h1 tabindex="-1">{escape(document.title)}</h1>{notice}{contents}'
            f"{self._blocks(document.blocks, 'conclusion')}</article>"
        )

    def page(self, number: int) -> str:
        """A page of its own, with links to those before and after it."""
        pages = self.document.pages
        page, before, after = pages[number], pages[number - 1], pages[(number + 1) % len(pages)]
        links = "".join(
            f'<a href="{self.address(other.name)}">{word}: {escape(other.name)}</a>'
            for word, other in (("Before", before), ("Next", after))
            if other is not page
        )
        return (
            f'<section class="view" id="{self._ids[page.name]}" hidden><nav class="contents" aria-label="Pages">'
            f'<a href="#report">Back to the report</a>{links}</nav>'
            f'<h2 class="name" tabindex="-1">{escape(page.name)}</h2>{self._blocks(page.blocks(), page=True)}</section>'
        )

    def address(self, name: str) -> str:
        """The address of a page of the document; empty where it has none of that name."""
        return f"#{self._ids[name]}" if name in self._ids else ""

    def _blocks(self, blocks: Sequence[Block], first: str = "", *, page: bool = False) -> str:
        """The blocks as HTML, of the report or of a page of its own; the first paragraph has the class `first`."""
        parts = []
        for block in blocks:
            if block.place in ("terminal", "markdown"):
                continue
            match block:
                case Heading() if page:
                    parts.append(f"<h3>{marked(block.text)}</h3>")
                case Heading():
                    parts.append(f'<h2 id="{_slug(block.text)}" tabindex="-1">{marked(block.text)}</h2>')
                case Text():
                    parts.append(text_html(block, "" if parts else first))
                case Code():
                    parts.append(f'<pre tabindex="0"><code>{escape(block.code)}</code></pre>')
                case Table():
                    self._tables += 1
                    parts.append(table_html(block, f"table-{self._tables}", self.address))
                case Figure():
                    parts.append(self._figure(block))
        return "\n".join(parts)

    def _figure(self, figure: Figure) -> str:
        if figure.chart is None:
            return f"<figure>{image_html(figure, self.folder)}</figure>"
        name = f"chart-{len(self.charts) + 1}"
        self.charts[name] = figure.chart()
        caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
        return f'<figure data-chart="{name}" aria-label="{escape(figure.caption, quote=True)}">{caption}</figure>'


def _ids(names: Sequence[str]) -> dict[str, str]:
    """A different id for each name."""
    ids: dict[str, str] = {}
    for name in names:
        slug = wanted = f"planner-{_slug(name)}"
        number = 1
        while slug in ids.values():
            number += 1
            slug = f"{wanted}-{number}"
        ids[name] = slug
    return ids


def _slug(text: str) -> str:
    """A text as an id.

    >>> _slug("How it was made")
    'how-it-was-made'
    """
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-") or "part"


def _hash_source(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=6, mtime=0)  # the same content gives the same page


def _asset(name: str) -> str:
    return (files("lr_env.report") / "page" / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    return "\n".join(map(_asset, _SCRIPTS))


@cache
def plotly_script() -> str:
    """The text of plotly.js, as the package plotly brings it."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


@cache
def _packed_plotly() -> str:
    return base64.b64encode(gzip.compress(plotly_script().encode(), mtime=0)).decode()
