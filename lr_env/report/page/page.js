// The page: views that are opened by the address, light and dark, printing, and new content where it is served.
"use strict";

const PAPER = 680; // pixels of a page's width
const state = { tables: {}, charts: {}, open: {} };
let views = []; // of the charts
let plotly = null; // a promise, once it is asked for

// Decode and unpack a text of the page.
async function unpack(text) {
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at++) bytes[at] = binary.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Run plotly.js, which the page has packed.
async function loadPlotly() {
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await unpack(document.getElementById("plotly").textContent));
  document.head.append(script);
}

// Make the content of the page work: `data` are its charts.
function prepare(content, data) {
  prepareTables(content, state.tables);
  for (const fold of content.querySelectorAll("details")) {
    if (fold.dataset.key in state.open) fold.open = state.open[fold.dataset.key];
    fold.addEventListener("toggle", () => (state.open[fold.dataset.key] = fold.open));
  }
  views = [...content.querySelectorAll("[data-chart]")]
    .filter((place) => place.dataset.chart in data)
    .map((place) => new ChartView(place, data[place.dataset.chart], state.charts));
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const view = views.find((one) => one.place === entry.target);
        if (entry.isIntersecting && !view.drawn) {
          view.drawn = true;
          (plotly ??= loadPlotly()).then(() => view.draw(), (error) => failed(view, error));
        }
      }
    },
    { rootMargin: "300px" },
  );
  for (const view of views) seen.observe(view.place);
}

function failed(view, error) {
  view.panels.textContent = `The chart cannot be drawn (${error}): open the page in a browser of 2023 or later.`;
}

// Show the part of the page that the address names: the report, or a page of its own.
function showView(moveFocus = true) {
  const name = decodeURIComponent(location.hash.slice(1));
  const target = name ? document.getElementById(name) : null;
  const chosen = target?.closest(".view") ?? document.getElementById("report");
  for (const view of document.querySelectorAll(".view")) view.hidden = view !== chosen;
  const heading = chosen.querySelector("h1, h2");
  document.title = [...new Set([heading.textContent, document.body.dataset.title])].join(" - ");
  if (!moveFocus) return;
  if (target && target !== chosen) target.scrollIntoView();
  else scrollTo(0, 0);
  (target && target !== chosen ? target : heading).focus({ preventScroll: true });
}

// Light or dark: as the system is, until the button is pressed. Nothing of it is stored.
const theme = {
  system: matchMedia("(prefers-color-scheme: dark)"),
  chosen: null,
  show() {
    const now = this.chosen ?? (this.system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now;
    const button = document.getElementById("theme");
    if (button) button.textContent = now === "dark" ? "Light" : "Dark";
    redraw();
  },
};
theme.show(); // before anything is painted

function redraw(width) {
  for (const view of views) if (window.Plotly && view.drawn && (!width || !view.place.closest("[hidden]"))) view.draw(width);
}

function prepareTheme() {
  document.getElementById("theme").addEventListener("click", () => {
    theme.chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    theme.show();
  });
  theme.system.addEventListener("change", () => theme.show());
  theme.show();
}

// On paper: black on white, everything unfolded, all charts of the view drawn at the width of a page.
function preparePrinting() {
  const folded = [];
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.theme = "light";
    for (const fold of document.querySelectorAll("details:not([open])")) {
      folded.push(fold);
      fold.open = true;
    }
    for (const view of views) view.drawn ||= Boolean(window.Plotly) && !view.place.closest("[hidden]");
    redraw(PAPER);
  });
  addEventListener("afterprint", () => {
    for (const fold of folded.splice(0)) fold.open = false;
    theme.show();
  });
}

// Ask for new content every few seconds, where the page is served, and put it in the place of the old one.
function prepareRefresh(seconds) {
  const status = document.getElementById("live");
  let version = document.getElementById("content").dataset.version;
  const say = (text) => status.textContent === text || (status.textContent = text);
  const ask = async () => {
    try {
      const answer = await fetch("content", { headers: { "If-None-Match": `"${version}"` } });
      if (answer.status === 200) {
        const fresh = document.createElement("template");
        fresh.innerHTML = await answer.text();
        const content = fresh.content.getElementById("content");
        const data = await dataOf(content);
        version = content.dataset.version;
        replaceContent(content, data);
      }
      say(answer.status === 200 || answer.status === 304 ? "Live" : `The server answers ${answer.status}.`);
    } catch {
      say("Not live: lr-env watch has ended.");
    }
    setTimeout(ask, 1000 * seconds);
  };
  say("Live");
  setTimeout(ask, 1000 * seconds);
}

// Replace the content, and leave where the reader is, and what is chosen, as it is.
function replaceContent(content, data) {
  const active = document.activeElement;
  const key = active?.dataset.key;
  const selection = active?.tagName === "INPUT" ? [active.selectionStart, active.selectionEnd] : null;
  const [left, top] = [scrollX, scrollY];
  const scrolled = [...document.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  for (const view of views) if (view.drawn && window.Plotly) view.plots.forEach((plot) => Plotly.purge(plot));
  document.getElementById("content").replaceWith(content);
  prepare(content, data);
  showView(false);
  [...document.querySelectorAll(".scroll")].forEach((box, at) => (box.scrollLeft = scrolled[at] ?? 0));
  scrollTo(left, top);
  const again = key && [...content.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
  again?.focus({ preventScroll: true });
  if (again && selection) again.setSelectionRange(...selection);
}

async function dataOf(content) {
  const data = content.querySelector(".data");
  return data ? readCharts(await unpack(data.textContent)) : {};
}

async function begin() {
  const content = document.getElementById("content");
  showView(false);
  prepare(content, await dataOf(content));
  prepareTheme();
  preparePrinting();
  addEventListener("hashchange", () => showView());
  const seconds = Number(document.body.dataset.refresh);
  if (seconds) prepareRefresh(seconds);
  document.documentElement.dataset.ready = "yes";
  // While the first lines are read: running plotly.js takes longer than anything else.
  if (views.length) (window.requestIdleCallback ?? setTimeout)(() => (plotly ??= loadPlotly()).catch(() => {}));
}

addEventListener("DOMContentLoaded", begin);
