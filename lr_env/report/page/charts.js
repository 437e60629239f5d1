// Charts: panels of series, drawn by plotly.js as SVG once they come into sight; with buttons for what is shown.
"use strict";

const DASHES = ["solid", "dash", "dot", "dashdot"];
const MARKERS = ["circle", "square", "diamond", "triangle-up", "triangle-down"];
const TONE_MARKERS = { better: "triangle-left", worse: "triangle-right", tie: "circle-open", strong: "diamond" };
const NAMED_MARKERS = { star: "star", cross: "x", diamond: "diamond", open: "circle-open" };
const COLOURS = 7;
const ROW = 23; // pixels of a name on an axis
const MANY = 12; // groups, from which on a few can be chosen at once

// Where the numbers of all charts lie, and what they are; see `pack_charts` in chart.py.
function readCharts(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0, true);
  const text = new TextDecoder().decode(bytes.subarray(4, 4 + length));
  const numbers = new Float32Array(bytes.slice(4 + length).buffer);
  return JSON.parse(text, (key, value) =>
    value !== null && typeof value === "object" && "shape" in value ? arrayOf(numbers, value) : value,
  );
}

// An array of numbers, or of arrays where it has two dimensions.
function arrayOf(numbers, { at, shape }) {
  if (shape.length < 2) return numbers.subarray(at, at + (shape[0] ?? 1));
  const [rows, columns] = shape;
  return Array.from({ length: rows }, (_, row) => numbers.subarray(at + row * columns, at + (row + 1) * columns));
}

// A chart in the page. `place` is the figure that it is in, `state` how it was left.
class ChartView {
  constructor(place, chart, state) {
    this.place = place;
    this.chart = chart;
    this.key = place.dataset.chart;
    this.state = state[this.key] ??= { on: null, details: false, scales: {}, ranges: {} };
    this.groups = chart.groups;
    this.state.on ??= new Set(chart.highlighted ?? this.groups);
    this.plots = [];
    this.drawn = false;
    place.querySelector(".panels")?.remove();
    place.querySelector(".switches")?.remove();
    this.panels = document.createElement("div");
    this.panels.className = "panels";
    for (const panel of chart.panels) {
      const box = document.createElement("div");
      box.className = "panel";
      const title = document.createElement("p");
      title.className = "panel-title";
      title.textContent = panel.title;
      const plot = document.createElement("div");
      plot.className = "plot";
      plot.style.height = `${heightOf(panel)}px`;
      box.append(title, plot);
      this.panels.append(box);
      this.plots.push(plot);
    }
    place.prepend(this.switches(), this.panels);
  }

  // The buttons above the panels.
  switches() {
    const box = document.createElement("div");
    box.className = "switches";
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "What the chart shows");
    const row = document.createElement("div");
    row.className = "row";
    this.chart.panels.forEach((panel, number) => {
      for (const axis of ["y", "x"]) {
        if (panel[axis].scale === "names" || !isPositive(panel, axis)) continue;
        if (axis === "x" && panel.x.scale !== "log") continue;
        const pressed = () => this.isLog(number, axis);
        row.append(
          this.button(`log scale: ${this.axisName(panel, axis)}`, pressed, () => {
            this.state.scales[number + axis] = pressed() ? "linear" : "log";
            delete this.state.ranges[number];
          }),
        );
      }
    });
    if (this.chart.panels.some((panel) => panel.series.some((one) => one.behind))) {
      row.append(
        this.button(
          this.chart.details,
          () => this.state.details,
          () => (this.state.details = !this.state.details),
        ),
      );
    }
    row.append(this.button("whole range", null, () => (this.state.ranges = { whole: !this.state.ranges.whole })));
    box.append(row);
    if (this.groups.length > 1) box.append(this.groupButtons());
    return box;
  }

  // Panels may have axes of the same name, but not the same title.
  axisName(panel, axis) {
    const same = this.chart.panels.filter((other) => other[axis].label === panel[axis].label);
    return (same.length > 1 ? panel.title.replace(/[:;,(].*/, "") : panel[axis].label.replace(/ \[.*/, "")).toLowerCase();
  }

  groupButtons() {
    const row = document.createElement("div");
    row.className = "row groups";
    const first = this.chart.highlighted ?? this.groups;
    const sets = { all: this.groups, none: [], ...(first.length < this.groups.length ? { "the first": first } : {}) };
    if (this.groups.length > MANY / 2) {
      for (const [name, groups] of Object.entries(sets)) {
        row.append(this.button(name, null, () => (this.state.on = new Set(groups))));
      }
    }
    for (const group of this.groups) {
      const button = this.button(
        group,
        () => this.state.on.has(group),
        () => (this.state.on.has(group) ? this.state.on.delete(group) : this.state.on.add(group)),
      );
      const sample = this.chart.panels.flatMap((panel) => panel.series).find((one) => one.group === group);
      button.prepend(swatch(sample));
      row.append(button);
    }
    return row;
  }

  // A button that changes what is shown; `pressed` tells whether it is on, and is null where it only acts.
  button(name, pressed, act) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.dataset.key = `${this.key}/${name}`;
    if (pressed) {
      button.setAttribute("aria-pressed", pressed());
      button.update = () => button.setAttribute("aria-pressed", pressed());
    }
    button.addEventListener("click", () => {
      act();
      for (const other of this.place.querySelectorAll("button")) other.update?.();
      this.draw();
    });
    return button;
  }

  isLog(number, axis) {
    return (this.state.scales[number + axis] ?? this.chart.panels[number][axis].scale) === "log";
  }

  // Draw all panels, or draw them anew.
  draw(width) {
    this.drawn = true;
    this.chart.panels.forEach((panel, number) => {
      const plot = this.plots[number];
      const listening = plot.on !== undefined;
      Plotly.react(plot, this.traces(panel), this.layout(panel, number, width), {
        displaylogo: false,
        responsive: true,
        modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
      });
      if (!listening) plot.on("plotly_relayout", (change) => this.keepRange(number, plot, change));
    });
  }

  // Remember what a reader has zoomed to.
  keepRange(number, plot, change) {
    if (Object.keys(change).some((name) => name.includes("axis"))) {
      const { xaxis, yaxis } = plot.layout;
      this.state.ranges[number] = { x: [...xaxis.range], y: [...yaxis.range] };
    }
  }

  traces(panel) {
    const styles = getComputedStyle(document.documentElement);
    const traces = [];
    const highlighted = (one) => !one.group || this.state.on.has(one.group);
    const order = [...panel.series].sort((one, other) => highlighted(one) - highlighted(other));
    for (const one of order) {
      const inColour = highlighted(one);
      if (one.behind && !(this.state.details && inColour)) continue;
      const colour = inColour ? colourOf(one, styles) : styles.getPropertyValue("--quiet").trim();
      if (one.kind !== "points" && one.low && inColour) traces.push(...band(one, colour));
      traces.push(one.kind === "points" ? points(one, colour, inColour) : lines(one, colour, inColour));
    }
    return traces;
  }

  layout(panel, number, width) {
    const styles = getComputedStyle(document.documentElement);
    const [ink, grid, back] = ["--ink", "--grid", "--back"].map((name) => styles.getPropertyValue(name).trim());
    const narrow = this.place.clientWidth < 560;
    const axis = (name) => {
      const { label, scale, limits } = panel[name];
      const isLog = this.isLog(number, name);
      const zoomed = this.state.ranges[number]?.[name];
      const first = limits && !this.state.ranges.whole ? limits.map((end) => (isLog ? Math.log10(end) : end)) : null;
      const names = scale === "names";
      const last = panel[name].names.length - 0.5;
      const range = zoomed ?? (names ? (name === "y" ? [last, -0.5] : [-0.5, last]) : first);
      return {
        title: { text: narrow ? escaped(label).replace(/ (?=\[|over |to )/g, "<br>") : escaped(label), standoff: 8 },
        type: names ? "category" : isLog ? "log" : "linear",
        ...(range ? { range: [...range], autorange: false } : { autorange: true }),
        automargin: true,
        gridcolor: grid,
        linecolor: grid,
        zeroline: name === "y" && !names && !isLog,
        zerolinecolor: ink,
        zerolinewidth: 0.7,
        exponentformat: "none",
        ...(isLog && range && Math.abs(range[1] - range[0]) < 2.5 ? { dtick: Math.abs(range[1] - range[0]) < 1 ? undefined : "D2" } : {}),
        ...(names ? { categoryarray: panel[name].names.map(escaped), tickfont: { size: narrow ? 10 : 12 }, dtick: 1 } : { nticks: narrow ? 5 : 8 }),
      };
    };
    return {
      font: { family: "system-ui, sans-serif", size: 12, color: ink },
      paper_bgcolor: back,
      plot_bgcolor: back,
      margin: { l: 8, r: 12, t: 8, b: 8 },
      showlegend: false,
      hovermode: "closest",
      hoverlabel: { font: { family: "system-ui, sans-serif", size: 13 }, namelength: -1 },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
      height: heightOf(panel),
      ...(width ? { width } : {}),
      autosize: !width,
      xaxis: axis("x"),
      yaxis: axis("y"),
      shapes: Object.values(panel.lines).map((x) => ({
        type: "line",
        x0: x,
        x1: x,
        y0: 0,
        y1: 1,
        yref: "paper",
        line: { color: ink, width: 1, dash: "dot" },
      })),
      annotations: Object.entries(panel.lines).filter(([name]) => name.trim()).map(([name, x], at) => ({
        x: panel.x.scale === "log" && this.isLog(number, "x") ? Math.log10(x) : x,
        y: 1 - 0.07 * (at % 6),
        yref: "paper",
        xanchor: "left",
        yanchor: "top",
        text: escaped(name),
        showarrow: false,
        font: { size: 11 },
      })),
    };
  }
}

// plotly.js reads a few tags in texts.
function escaped(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function heightOf(panel) {
  if (panel.y.scale !== "names") return 380;
  return 70 + ROW * panel.y.names.length;
}

// Places on an axis: numbers, or names.
function placesOf(values) {
  return typeof values[0] === "string" ? values.map(escaped) : values;
}

// Whether an axis can be logarithmic.
function isPositive(panel, axis) {
  return panel.series.every((one) =>
    [...one[axis]].every((value) => (typeof value === "object" ? [...value] : [value]).every((x) => !(x < 0))),
  );
}

function colourOf(one, styles) {
  const name = one.tone ? `--${one.tone}` : `--colour-${one.style % COLOURS}`;
  return styles.getPropertyValue(name).trim();
}

function dashOf(one) {
  return one.running ? "2px,5px" : DASHES[Math.floor(one.style / COLOURS) % DASHES.length];
}

function markerOf(one) {
  return NAMED_MARKERS[one.marker] ?? TONE_MARKERS[one.tone] ?? MARKERS[one.style % MARKERS.length];
}

function lines(one, colour, inColour) {
  const several = Array.isArray(one.y);
  const { x, y, texts } = several ? joined(one) : { x: one.x, y: one.y, texts: one.texts };
  return {
    type: "scatter",
    mode: "lines",
    x,
    y,
    name: escaped(one.name),
    text: texts?.map(escaped),
    line: {
      color: colour,
      width: one.behind ? 0.8 : inColour ? 2.2 : 1,
      dash: dashOf(one),
      shape: one.kind === "steps" ? "vh" : "linear",
    },
    opacity: one.behind ? 0.55 : inColour ? 1 : 0.5,
    hovertemplate: hover(one, texts),
  };
}

// Several curves as one, with gaps between them, which is many times as fast to draw.
function joined(one) {
  const x = [];
  const y = [];
  const texts = [];
  one.y.forEach((curve, row) => {
    x.push(...one.x, null);
    y.push(...curve, null);
    if (one.texts) texts.push(...Array(curve.length + 1).fill(one.texts[row]));
  });
  return { x, y, texts: one.texts ? texts : undefined };
}

function points(one, colour, inColour) {
  const flip = one.bars === "x";
  const values = flip ? one.x : one.y;
  const bars = one.low && {
    type: "data",
    symmetric: false,
    array: [...one.high].map((end, at) => end - values[at] || 0),
    arrayminus: [...one.low].map((end, at) => values[at] - end || 0),
    thickness: 1.6,
    width: 0,
    color: colour,
  };
  return {
    type: "scatter",
    mode: "markers",
    x: placesOf(one.x),
    y: placesOf(one.y),
    name: escaped(one.name),
    text: one.texts?.map(escaped),
    marker: {
      color: colour,
      size: one.behind ? 5 : one.marker === "star" ? 14 : 8,
      symbol: one.behind && !one.marker ? "circle" : markerOf(one),
      line: { width: 1.5, color: colour },
    },
    opacity: one.behind ? 0.5 : inColour ? 1 : 0.5,
    cliponaxis: false,
    ...(bars ? { [flip ? "error_x" : "error_y"]: bars } : {}),
    hovertemplate: hover(one, one.texts),
  };
}

function hover(one, texts) {
  const number = (name) => (typeof one[name][0] === "string" ? `%{${name}}` : `%{${name}:.6~g}`);
  const more = texts ? "<br>%{text}" : "";
  const running = one.running ? " (running)" : "";
  return `<b>${escaped(one.name).replaceAll("%", "&#37;")}</b>${running}<br>${number("x")}, ${number("y")}${more}<extra></extra>`;
}

// The area between two lines; plotly.js fills to the trace before.
function band(one, colour) {
  const edge = {
    type: "scatter",
    mode: "lines",
    x: one.x,
    line: { width: 0, color: colour, shape: one.kind === "steps" ? "vh" : "linear" },
    hoverinfo: "skip",
  };
  return [
    { ...edge, y: one.low },
    { ...edge, y: one.high, fill: "tonexty", fillcolor: faint(colour) },
  ];
}

function faint(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${r}, ${g}, ${b}, 0.13)`;
}

// A sample of a series for its button.
function swatch(one) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", "0 0 24 10");
  picture.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "line");
  const dash = { solid: "", dash: "6 3", dot: "2 2.5", dashdot: "7 2.5 2 2.5" }[dashOf({ ...one, running: false })];
  const entries = { x1: 0, x2: 24, y1: 5, y2: 5, "stroke-dasharray": dash, class: `line-${one.style % COLOURS}` };
  for (const [name, value] of Object.entries(entries)) line.setAttribute(name, value);
  picture.append(line);
  return picture;
}
