"""The HTML page: its numbers against those of the CSV file, what it lets in, and what a reader does in a browser."""

from __future__ import annotations

import base64
import csv
import gzip
import http.client
import json
import re
import shutil
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lr_env.children import LOOP
from lr_env.cli.page_server import PageServer
from lr_env.cli.watch import LivePage
from lr_env.errors import UserError
from lr_env.files import write_json
from lr_env.records.record import RunRecord
from lr_env.records.store import Store
from lr_env.report.chart import Axis, Chart, Panel, Series, pack_charts
from lr_env.report.document import Document, Text, plain_table
from lr_env.report.files import write_csv
from lr_env.report.html import html_page
from lr_env.runs.lab import Lab
from lr_env.studies.belief_page import belief_blocks
from lr_env.studies.comparison.columns import comparison_table
from lr_env.studies.comparison.comparison import ComparisonPlan, run_comparison
from lr_env.studies.comparison.report import ComparisonReport, report_of
from lr_env.studies.comparison.summary import summarise
from lr_env.studies.stored import stored_report
from lr_env.tasks import TASKS
from tests.helpers import StoppedError, stopping_after

EVIL = "<script>alert(1)</script>"
"""A name that must not become a part of the page."""

PLANNERS = [EVIL, "constant", *(f"planner-{number}" for number in range(28))]
SEEDS, SEGMENTS = range(20), 100


def run(planner: str, seed: int, phase: str = "final", peak: float = 0.1) -> RunRecord:
    """A made-up run whose loss hangs on its planner, its peak rate and its seed; a few diverge."""
    rng = np.random.default_rng([seed, PLANNERS.index(planner), int(1000 * peak)])
    step = 10.0 * np.arange(1, SEGMENTS + 1)
    loss = 0.2 + 0.004 * PLANNERS.index(planner) + 0.02 * rng.normal() + abs(np.log10(peak) + 1)
    curve = loss + 2 * np.exp(-step / 100) + 0.01 * rng.normal(size=SEGMENTS)
    diverged = planner == "planner-27" and seed < 2
    scores = {"final_val_loss": loss, "final_val_accuracy": 0.9, "test_loss": loss + 0.01, "test_accuracy": 0.9}
    return RunRecord(
        phase=phase,
        planner=planner,
        settings={"peak": peak, "mode": "<img src=x onerror=alert(2)>"},
        seed=seed,
        status="finished",
        diverged=diverged,
        steps=1000,
        scores={} if diverged else scores if phase == "final" else {"final_val_loss": loss},
        planning_seconds=0.1,
        curves={"step": step, "lr": peak * (1 - step / 1010) * rng.uniform(0.9, 1.1, SEGMENTS), "val_loss": curve},
    )


@pytest.fixture(scope="module")
def report() -> ComparisonReport:
    records = [run(planner, seed) for planner in PLANNERS for seed in SEEDS]
    tuning = [run(p, 1000 + seed, "tune", peak) for p in PLANNERS for peak in (0.03, 0.1, 0.3) for seed in range(2)]
    summary = summarise(records, target_val_loss=0.4, tuning_steps=dict.fromkeys(PLANNERS, 6000))
    manifest = {"title": f"A task {EVIL}", "command": f"lr-env compare '{EVIL}'", "device": "CPU"}
    return ComparisonReport(summary, records, tuning, manifest)


@pytest.fixture(scope="module")
def written(report: ComparisonReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(html_page(report.document()), encoding="utf-8")
    write_csv(comparison_table(report.summary), folder / "summary.csv")
    return folder


class Cells(HTMLParser):
    """Reads the tables of a page: id -> rows of (text, value) of each cell; and how many tags of a kind there are."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.tags: dict[str, int] = {}
        self.addresses: list[str] = []
        self._rows: list[list[list[str]]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.addresses += [str(named[name]) for name in ("src", "href", "action", "data") if name in named]
        assert not [name for name in named if name.startswith("on")]
        if tag == "table":
            self._rows = self.tables.setdefault(str(named["id"]), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._inside = True
            self._rows[-1].append(["", named.get("data-value") or ""])

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._rows[-1][-1][0] += data


def test_the_numbers_of_the_page_are_those_of_the_csv_file(written, report):
    with (written / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    head, *cells = Cells((written / "report.html").read_text()).tables["table-1"]
    names = [name for name, _ in head]
    assert len(cells) == len(rows) == 30
    markdown = {column.name: column for column in comparison_table(report.summary).shown}
    assert set(names) == set(markdown)
    columns = {"test loss": "test_loss", f"vs {report.summary.baseline}": "test_loss_less_baseline", "n": "n"}
    for of_page, of_file, row in zip(cells, rows, report.summary.rows, strict=True):
        assert [text for text, _ in of_page] == [markdown[name].cell(row) for name in names]  # the same digits
        for name, column in columns.items():
            expected = float(of_file[column]) if of_file[column] else 0.0  # the baseline's difference to itself
            assert float(of_page[names.index(name)][1]) == expected  # every digit


def test_what_users_name_is_text(written):
    page = (written / "report.html").read_text()
    cells = Cells(page)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert cells.tags["script"] == 3  # its own, and what is packed: plotly.js and the numbers
    assert "img" not in cells.tags
    assert any(text == EVIL for row in cells.tables["table-1"] for text, _ in row)
    assert "&lt;img src=x onerror=alert(2)&gt;" in page


def test_the_page_is_small_and_asks_for_nothing(written):
    page = (written / "report.html").read_bytes()
    assert len(page) < 5e6
    text = page.decode()
    assert all(address.startswith(("#", "data:")) for address in Cells(text).addresses)
    policy = re.search('Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "connect-src 'none'" in policy[1]
    assert "unsafe-inline" not in policy[1].split("style-src")[0]
    assert "unsafe-eval" not in policy[1]


def test_charts_are_packed_and_unpacked():
    """The numbers of a chart come out of the page's bytes as they went in; equal arrays are there once."""
    x, y = [0.0, 1.0, 2.0], np.array([[1.0, np.inf, np.nan], [4.0, 5.0, 6.0]])
    series = [Series("a", x, y, texts=["one", "two"]), Series("b", x, ["p", "q", "r"], "points", group="g")]
    data = pack_charts({"c": Chart([Panel("t", Axis("x"), Axis("y", "log", (1.0, 2.0)), series)])})
    length = struct.unpack_from("<I", data)[0]
    described, numbers = json.loads(data[4 : 4 + length]), np.frombuffer(data[4 + length :], "<f4")
    first, second = described["c"]["panels"][0]["series"]
    assert first["x"] == second["x"] == {"at": 0, "shape": [3]}
    np.testing.assert_array_equal(numbers[:3], x)
    np.testing.assert_array_equal(numbers[first["y"]["at"] :].reshape(2, 3), np.where(np.isinf(y), np.nan, y))
    assert second["y"] == ["p", "q", "r"]
    assert described["c"]["groups"] == ["g"]
    assert len(numbers) == 9


def test_the_medians_in_the_page_are_those_of_the_runs(written, report):
    text = re.search('class="data">([^<]+)<', (written / "report.html").read_text())
    assert text is not None
    data = gzip.decompress(base64.b64decode(text[1]))
    length = struct.unpack_from("<I", data)[0]
    charts, numbers = json.loads(data[4 : 4 + length]), np.frombuffer(data[4 + length :], "<f4")
    (median,) = [
        one for one in charts["chart-2"]["panels"][1]["series"] if one["name"] == "constant" and "behind" not in one
    ]
    losses = np.array([r.curves["val_loss"] for r in report.records if r.planner == "constant"])
    expected = np.quantile(losses, 0.5, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(numbers[median["y"]["at"] :][:SEGMENTS], expected, rtol=1e-6)


def test_a_notebook_gets_a_piece_of_html(report):
    few = replace(report, records=(), tuning_records=())
    piece = few._repr_html_()
    assert piece.count("<table") >= 1
    assert "data:image/png;base64," in piece  # of the scores
    assert "<script" not in piece
    assert few.document()._repr_html_() == piece
    assert "&lt;b&gt;" in Document("t", (Text("a <b>"), plain_table(("n",), [("1",)])))._repr_html_()


TASK = replace(TASKS["DigitsMLP"], budget=40, segment=10)
PLAN = ComparisonPlan(TASK, ("constant", "cosine"), (0.03, 0.1), (1000, 1001), (0, 1, 2))


def lab(path: Path, **more: Any) -> Lab:
    return Lab(TASK, Store(path), "x", replace(LOOP, lockstep=2), checkpoint_seconds=0.0, **more)


@contextmanager
def begun(path: Path, child_steps: int) -> Iterator[Path]:
    """A store with a comparison that was stopped after so many steps of its 560."""
    with pytest.raises(StoppedError):
        run_comparison(PLAN, lab(path, progress=stopping_after(child_steps)))
    yield path


def test_the_report_of_a_store_is_that_of_the_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr("lr_env.report.written.draw_into", lambda path, draw: True)
    path, first, again = tmp_path / "r.sqlite", tmp_path / "first", tmp_path / "again"
    report_of(PLAN, run_comparison(PLAN, lab(path))).write(first)
    with closing(Store.reading(path)) as store:
        stored = stored_report(store, "x", again)
    assert stored.comparison is not None
    assert stored.document.notice == ""
    stored.comparison.write(again)
    for name in ("summary.csv", "runs.parquet"):
        assert (again / name).read_bytes() == (first / name).read_bytes()


def test_what_is_finished_is_reported_while_another_process_writes(tmp_path):
    with begun(tmp_path / "r.sqlite", 440) as path, closing(Store(path)) as writer, writer.transaction():
        with closing(Store.reading(path)) as store:  # the other one is in the middle of a transaction
            stored = stored_report(store, "x", tmp_path)
            with pytest.raises(UserError, match=r"unknown experiment 'X'; did you mean 'x'\? \(there are: x\)"):
                stored_report(store, "X", tmp_path)
        writer._db.execute("UPDATE experiments SET name = name")  # and is not kept from writing
    assert stored.comparison is None
    done = sum(run.status == "finished" for run in Store(path).runs("x"))
    assert f"**Not finished**: {done} of 14 runs" in stored.document.notice
    assert "Below: 2 of 2 planners on 1 seed of 3" in stored.document.notice
    page = html_page(stored.document)
    assert '<p class="notice" role="status"><strong>Not finished</strong>' in page
    whole = run_comparison(PLAN, lab(path))
    of_page = Cells(page).tables["table-1"]
    losses = {r.planner: r.scores["test_loss"] for r in whole.final if r.seed == 0}
    at = [name for name, _ in of_page[0]].index("test loss")
    assert {row[0][0]: float(row[at][1]) for row in of_page[1:]} == losses


def test_a_sweep_that_has_just_begun_has_a_page(tmp_path):
    with begun(tmp_path / "r.sqlite", 30) as path, closing(Store.reading(path)) as store:
        document = stored_report(store, "x", tmp_path).document
    assert "**Not finished**: 0 of 14 runs are finished, and 2 are running or were stopped" in document.notice
    assert [page.name for page in document.pages] == ["constant"]
    assert Cells(html_page(document)).tables["table-1"][1][0][0] == "constant"


@contextmanager
def served(path: Path) -> Iterator[PageServer]:
    with closing(Store.reading(path)) as store, PageServer(LivePage(store, "x", path.parent), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def asked(server: PageServer, method: str, path: str, **headers: str) -> tuple[int, str, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)) as connection:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers.get("ETag") or ""


def test_the_served_page_can_only_be_read_and_follows_the_store(tmp_path):
    path = tmp_path / "r.sqlite"
    with begun(path, 440), served(path) as server:
        status, page, _ = asked(server, "GET", "/")
        assert (status, "connect-src 'self'" in page) == (200, True)
        assert asked(server, "HEAD", "/")[:2] == (200, "")
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert asked(server, method, "/")[0] == 405
        for other in ("/r.sqlite", "/../r.sqlite", "/summary.csv", "/content/"):
            assert asked(server, "GET", other)[0] == 404
        assert asked(server, "GET", "/", Host="evil.example")[0] == 403
        status, content, version = asked(server, "GET", "/content")
        assert (status, "Not finished" in content) == (200, True)
        assert asked(server, "GET", "/content", If_None_Match=version)[:2] == (304, "")
        with pytest.raises(UserError, match="in use: choose another with --port"):
            PageServer(server.source, server.server_port)
        run_comparison(PLAN, lab(path))
        server.source._next = 0.0  # as after a few seconds
        status, content, later = asked(server, "GET", "/content", If_None_Match=version)
        assert (status, "Not finished" in content) == (200, False)
        assert later != version


def test_what_a_planner_believed_is_shown_with_how_it_came_about(tmp_path):
    """A file of `lr-env explain` reaches the page; without one it names the command, with the task's own options."""
    task = {**TASKS["DigitsMLP"].settings(), "budget": 500}
    settings = {"averaging_temperature": 4.0}
    (*_, code) = belief_blocks("latent-ode", settings, task, tmp_path)
    assert code.code == (
        "lr-env explain DigitsMLP --budget 500 --planner latent-ode --set "
        f"latent-ode.averaging_temperature=4.0 --name {tmp_path.name}"
    )
    assert belief_blocks("cosine", settings, task, tmp_path) == []
    plan = {
        "segment": 2,
        "considered": 9,
        "rates": [0.2, 0.1],
        "steps": [30, 40],
        "note": "<b>",
        "final_interval": None,
    }
    run = {"seed": 3, "segment": 10, "lr": [0.1] * 4, "val_loss": [2.0, 1.0, 0.5, None], "final_val_loss": 0.4}
    made = {"planner": "latent-ode", "settings": settings, "task": task, "command": "lr-env explain"}
    write_json(
        tmp_path / "explained-latent-ode-3.json", {**made, **run, "plans": [{**plan, "losses": [[2, 1], [4, 3]]}]}
    )
    blocks = belief_blocks("latent-ode", settings, task, tmp_path)
    assert "of another setting" not in blocks[1].text
    assert blocks[3].points == ("**at step 20**: forecast 2.0000 (1.0000 to 3.0000) for step 40; <b>",)
    rates, losses = blocks[2].chart().panels
    np.testing.assert_array_equal(rates.series[0].x, [30, 40])  # where the segments end that were planned
    np.testing.assert_array_equal(losses.series[0].y, [3, 2])  # means of two models
    assert "of another setting" in belief_blocks("latent-ode", {}, task, tmp_path)[1].text


# In a browser.

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no chromium with chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait_for(browser: Any, condition: str) -> Any:
    """What a condition in JavaScript gives, once it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 30, 0.05).until(lambda of: of.execute_script(f"return {condition}"))


def opened(browser: Any, page: Path, hash: str = "", *, width: int = 1600, dark: bool = False) -> None:
    of_screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", of_screen)
    wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    media = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}{hash}")
    wait_for(browser, "document.documentElement.dataset.ready === 'yes'")


def drawn(browser: Any, chart: str) -> None:
    browser.execute_script(f"document.querySelector('[data-chart={chart}]').scrollIntoView({{behavior: 'instant'}})")
    wait_for(browser, f"document.querySelector('[data-chart={chart}] .main-svg') !== null")


FIRST = "document.querySelector('#table-1')"


def test_a_reader_sorts_filters_and_looks_into_charts(browser, written, report):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get_log("performance")  # forgets what came before
    opened(browser, written / "report.html")
    names = f"[...{FIRST}.tBodies[0].rows].map(row => row.cells[0].textContent)"
    order = [row.planner for row in report.summary.rows]
    assert browser.execute_script(f"return {names}") == order

    # Sorted by the planner, with the keyboard: up, down, as before.
    head = browser.find_element(By.CSS_SELECTOR, "#table-1 thead button")
    for sorting, expected in (("ascending", None), ("descending", None), (None, order)):
        head.send_keys(Keys.ENTER)
        assert browser.execute_script(f"return {FIRST}.tHead.rows[0].cells[0].getAttribute('aria-sort')") == sorting
        now = browser.execute_script(f"return {names}")
        assert now == (expected or now)
        assert sorting is None or now != order
    # By a number, the largest first; infinite losses are numbers, too.
    loss = browser.find_elements(By.CSS_SELECTOR, "#table-1 thead button")[1]
    assert loss.text.startswith("test loss")
    loss.click()
    loss.click()
    assert browser.execute_script(f"return {names}")[0] == "planner-27"
    loss.click()

    box = browser.find_element(By.CSS_SELECTOR, ".filter input")
    box.send_keys("planner-1")
    visible = f"[...{FIRST}.tBodies[0].rows].filter(row => !row.hidden).length"
    assert browser.execute_script(f"return {visible}") == 11  # 1, and 10 to 19
    box.clear()

    drawn(browser, "chart-2")
    plot = "document.querySelectorAll('[data-chart=chart-2] .plot')[1]"
    traces = f"{plot}.data.filter(one => one.name).length"
    assert browser.execute_script(f"return [{plot}.layout.yaxis.type, {traces}]") == ["log", 31]  # and crosses
    scale = browser.find_element(By.XPATH, "//*[@data-chart='chart-2']//button[text()='log scale: losses']")
    scale.send_keys(Keys.SPACE)
    assert scale.get_attribute("aria-pressed") == "false"
    assert browser.execute_script(f"return {plot}.layout.yaxis.type") == "linear"
    bands = f"{plot}.data.filter(one => one.fill).length"
    assert browser.execute_script(f"return {bands}") == 5  # the first five are in colour
    first = browser.find_element(By.XPATH, f"//*[@data-chart='chart-2']//button[text()='{order[0]}']")
    first.click()
    assert first.get_attribute("aria-pressed") == "false"
    assert browser.execute_script(f"return {bands}") == 4
    browser.find_element(By.XPATH, "//*[@data-chart='chart-2']//button[text()='each seed']").click()
    longest = f"Math.max(...{plot}.data.map(one => one.x.length))"
    assert browser.execute_script(f"return {longest}") == 20 * (SEGMENTS + 1)

    # No error, and no request but the page itself.
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [of["params"]["request"]["url"] for of in sent if of["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("file:") for url in urls)
    assert [url for url in urls if url.startswith(("http", "ws", "ftp"))] == []


def test_a_planner_has_a_page_with_an_address(browser, written, report):
    from selenium.webdriver.common.by import By

    opened(browser, written / "report.html", "#planner-constant")
    shown = "[...document.querySelectorAll('.view')].filter(one => !one.hidden).map(one => one.id)"
    assert browser.execute_script(f"return {shown}") == ["planner-constant"]
    runs = [r for r in report.records if r.planner == "constant"]
    values = browser.execute_script(
        "return [...document.querySelectorAll('#planner-constant table')].map(table => [...table.tBodies[0].rows]"
        ".map(row => [...row.cells].map(cell => cell.dataset.value)))"
    )
    of_runs = next(rows for rows in values if len(rows) == len(SEEDS))
    assert {float(row[4]) for row in of_runs} == {r.scores["test_loss"] for r in runs}
    number = browser.execute_script("return document.querySelectorAll('#planner-constant [data-chart]').length")
    assert number == 2  # its runs, and its sweep
    chart = browser.execute_script(
        "return document.querySelectorAll('#planner-constant [data-chart]')[1].dataset.chart"
    )
    drawn(browser, chart)
    browser.find_element(By.CSS_SELECTOR, "#planner-constant a[href='#report']").click()
    wait_for(browser, f"({shown})[0] === 'report'")
    browser.find_element(By.LINK_TEXT, EVIL).click()  # of a row
    wait_for(browser, f"({shown})[0] !== 'report'")
    assert browser.find_element(By.CSS_SELECTOR, ".view:not([hidden]) h2").text == EVIL
    assert browser.execute_script("return document.activeElement.tagName") == "H2"


CONTRAST = """
const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = (text) => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
  return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
const behind = (one) => { for (; one; one = one.parentElement) { const colour = getComputedStyle(one).backgroundColor;
  if (!colour.endsWith(", 0)")) return colour; } return "rgb(255, 255, 255)"; };
let least = 99;
for (const one of document.querySelectorAll("#report *, header *")) {
  if (!one.checkVisibility() || ![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
  if (one.closest("svg")) continue;
  const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
  least = Math.min(least, (a + 0.05) / (b + 0.05));
}
return least;
"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1600])
def test_it_fits_the_screen_and_can_be_read(browser, written, width, dark):
    opened(browser, written / "report.html", width=width, dark=dark)
    drawn(browser, "chart-1")
    for hash in ("#report", "#planner-constant"):
        browser.execute_script(f"location.hash = '{hash}'")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_script("location.hash = '#report'")
    assert browser.execute_script("return document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert browser.execute_script(CONTRAST) >= 4.5  # WCAG AA
    # The first column stays in sight.
    at = "document.querySelector('#table-1 tbody th').getBoundingClientRect()"
    browser.execute_script(f"{FIRST}.closest('.scroll').scrollLeft = 300")
    assert browser.execute_script(f"return {at}.left") >= 0
    assert browser.execute_script(f"return {at}.width") >= 80
