// The Forecasts pages in the browser: theme, sorting, search, chart. Everything shown comes in as text, never as markup
// of its own: the one piece of markup, the list of a search, is rendered and escaped by the server.
"use strict";

// --- theme: Airflow's, else the system's; set before anything is painted -------------------------------------------

const system = matchMedia("(prefers-color-scheme: dark)");

function airflowTheme() {
  try {
    if (window.parent !== window) {
      const classes = window.parent.document.documentElement.classList;
      const named = ["dark", "light"].find((name) => classes.contains(name));
      if (named) return named;
    }
    const kept = localStorage.getItem("theme");
    return kept === "dark" || kept === "light" ? kept : null;
  } catch {
    return null; // another origin's frame, or no storage: no theme to follow
  }
}

function follow() {
  const theme = airflowTheme() ?? (system.matches ? "dark" : "light");
  if (document.documentElement.dataset.theme === theme) return;
  document.documentElement.dataset.theme = theme;
  if (chart.made) draw(chart.made);
}

/** A customer's page on its DAG's tab has no way to the other customers: they are not of that DAG. */
function place() {
  try {
    if (/\/dags\//.test(window.parent.location.pathname) && window.parent !== window) document.documentElement.dataset.place = "dag";
  } catch {
    // another origin's frame
  }
}

const chart = { made: null, asked: 0 };
follow();
place();
system.addEventListener("change", follow);
window.addEventListener("storage", follow);
try {
  const watched = window.parent.document.documentElement;
  new MutationObserver(follow).observe(watched, { attributes: true, attributeFilter: ["class", "data-theme"] });
} catch {
  // another origin's frame
}

// --- sorting --------------------------------------------------------------------------------------------------------

function sortable(table) {
  for (const head of table.querySelectorAll("th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => sort(table, head));
  }
}

function sort(table, head) {
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => row.cells[head.cellIndex]?.dataset.value ?? "";
  const number = head.dataset.sort === "number";
  const compare = (a, b) => (number ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [value(row), row]);
  rows.sort(([a], [b]) => (a === "") - (b === "") || (up ? 1 : -1) * compare(a, b)); // what has no value stays last
  body.append(...rows.map(([, row]) => row));
}

// --- search ---------------------------------------------------------------------------------------------------------

function searching(form, found) {
  const input = form.elements.q;
  let waiting, asked = 0;
  const ask = async () => {
    const mine = ++asked;
    found.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(`${form.dataset.url}?${new URLSearchParams({ q: input.value })}`, patient());
      const text = await answer.text();
      if (mine !== asked) return; // a newer question is out
      if (answer.ok) found.replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
      else say(found, text);
      mark(found);
    } catch {
      if (mine === asked) say(found, "The search got no answer. Try again.");
    } finally {
      if (mine === asked) found.removeAttribute("aria-busy");
    }
  };
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(ask, 200);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const first = found.querySelector("a");
    if (first && !found.hasAttribute("aria-busy")) first.click();
  });
  form.parentElement.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const stops = [input, ...found.querySelectorAll("a")];
    const place = stops.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    if (place >= 0 && place < stops.length) stops[place].focus();
    event.preventDefault();
  });
  found.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-series]");
    const figure = document.getElementById("chart");
    if (!link || !figure || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.replaceState(null, "", link.href);
    figure.dataset.node = link.dataset.node;
    figure.dataset.series = link.dataset.series;
    load(figure);
  });
  mark(found);
  if (input.value !== input.defaultValue) ask(); // typed before this script was there
}

function say(place, text) {
  const line = document.createElement("p");
  line.textContent = text;
  place.replaceChildren(line);
}

function mark(found) {
  const figure = document.getElementById("chart");
  for (const link of found.querySelectorAll("a[data-series]")) {
    const here = link.dataset.node === figure?.dataset.node && link.dataset.series === figure?.dataset.series;
    if (here) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

const patient = () => ({ signal: AbortSignal.timeout(20000), headers: { Accept: "application/json, text/html" } });

// --- chart ----------------------------------------------------------------------------------------------------------

/** plotly.js, fetched once and only where there is a chart: nothing else of the page waits for it. */
let plotly = null;

function library(address) {
  plotly ??= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.addEventListener("load", done);
    script.addEventListener("error", () => {
      plotly = null; // the next series tries again
      failed();
    });
    script.src = address;
    document.head.append(script);
  });
  return plotly;
}

async function load(figure) {
  const mine = ++chart.asked;
  const state = document.getElementById("chart-state");
  const told = (text, wrong) => {
    state.textContent = text;
    state.classList.toggle("wrong", Boolean(wrong));
  };
  mark(document.getElementById("found"));
  told("Loading the chart …");
  try {
    const asked = new URLSearchParams({ node: figure.dataset.node, series: figure.dataset.series });
    const [answer] = await Promise.all([fetch(`${figure.dataset.url}?${asked}`, patient()), library(figure.dataset.plotly)]);
    const body = answer.ok ? await answer.json() : await answer.text();
    if (mine !== chart.asked) return;
    if (!answer.ok) {
      clear();
      return told(body, true);
    }
    chart.made = body;
    document.getElementById("chart-title").textContent = body.label;
    document.getElementById("chart-facts").textContent = facts(body);
    if (!body.actual.length && !body.forecast.length) {
      clear();
      return told("Nothing is known of this series yet: no sales, no forecast.");
    }
    draw(body);
    figures(body.forecast);
    told(body.forecast.length ? "" : "No forecast is published for this series.");
  } catch {
    if (mine === chart.asked) told("The chart got no answer. Reload the page to try again.", true);
  }
}

function clear() {
  chart.made = null;
  Plotly.purge("plot");
  document.getElementById("plot").replaceChildren();
  document.getElementById("figures").hidden = true;
}

function facts(body) {
  const models = [...new Set(body.forecast.map((step) => `${step.model}, ${step.rung.replaceAll("_", " ")}`))];
  return [
    body.run_id && `Run ${body.run_id}, cutoff ${body.cutoff}`,
    body.stale && "stale: an earlier set after a rollback",
    models.length && `made by ${models.join("; ")}`,
    body.status && body.status !== "ok" && `${body.status.replaceAll("_", " ")}${body.reason ? `: ${body.reason}` : ""}`,
  ].filter(Boolean).join(" · ");
}

function ink(name) {
  const probe = document.createElement("span");
  probe.className = `ink-${name}`;
  document.body.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

const faded = (color, share) => color.replace(/^rgb\((.*)\)$/, `rgba($1, ${share})`);

function band(steps, low, high, level, color) {
  const both = steps.filter((step) => step[low] !== undefined && step[high] !== undefined);
  if (!both.length) return [];
  const x = both.map((step) => step.ds);
  const edge = { x, mode: "lines", line: { width: 0 }, legendgroup: level, hoverinfo: "skip" };
  return [
    { ...edge, y: both.map((step) => step[high]), showlegend: false },
    { ...edge, y: both.map((step) => step[low]), fill: "tonexty", fillcolor: color, name: `${level} % interval` },
  ];
}

function draw(body) {
  const accent = ink("accent"), text = ink("text"), soft = ink("soft"), line = ink("line"), page = ink("page");
  const { actual, forecast } = body;
  const joined = forecast.map((step) => step.ds);
  const traces = [
    ...band(forecast, "q025", "q975", 95, faded(accent, 0.12)),
    ...band(forecast, "q05", "q95", 90, faded(accent, 0.15)),
    ...band(forecast, "q10", "q90", 80, faded(accent, 0.2)),
    ...band(forecast, "q25", "q75", 50, faded(accent, 0.3)),
    { x: actual.map(([ds]) => ds), y: actual.map(([, y]) => y), name: "sold", mode: "lines",
      line: { color: text, width: 1.4 }, hovertemplate: "%{y:,.4~r}" },
    { x: joined, y: forecast.map((step) => step.q50), name: "median", mode: "lines",
      line: { color: accent, width: 1.6, dash: "4px,3px" }, hovertemplate: "%{y:,.4~r}" },
    { x: joined, y: forecast.map((step) => step.y_hat), name: "forecast (mean)", mode: "lines+markers",
      marker: { size: 4 }, line: { color: accent, width: 2 }, hovertemplate: "%{y:,.4~r}" },
  ].filter((trace) => trace.x.length);
  const axis = { gridcolor: line, linecolor: line, tickcolor: line, zerolinecolor: line };
  const layout = {
    height: 400, margin: { l: 56, r: 12, t: 8, b: 40 }, hovermode: "x unified", dragmode: "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: soft, family: getComputedStyle(document.body).fontFamily, size: 12 },
    hoverlabel: { bgcolor: page, bordercolor: line, font: { color: text } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: { ...axis, type: "date", range: range(body), rangeselector: {
      buttons: [
        { count: 3, step: "month", stepmode: "backward", label: "3 months" },
        { count: 1, step: "year", stepmode: "backward", label: "1 year" },
        { step: "all", label: "all" },
      ],
      x: 1, xanchor: "right", y: 1.02, yanchor: "bottom", bgcolor: page, activecolor: line, bordercolor: line,
      borderwidth: 1, font: { color: soft, size: 11 } } },
    yaxis: { ...axis, rangemode: "tozero", title: { text: "units" } },
    shapes: body.cutoff ? [{ type: "line", x0: body.cutoff, x1: body.cutoff, yref: "paper", y0: 0, y1: 1,
      line: { color: soft, width: 1, dash: "dash" } }] : [],
    annotations: body.cutoff ? [{ x: body.cutoff, xanchor: "right", yref: "paper", y: 1, yanchor: "top", text: "cutoff",
      showarrow: false, font: { color: soft, size: 11 } }] : [],
  };
  Plotly.react("plot", traces, layout, { displayModeBar: false, responsive: true });
}

function range({ actual, forecast }) {
  const days = [...actual.map(([ds]) => ds), ...forecast.map((step) => step.ds)].sort();
  const shown = Math.max(60, 4 * forecast.length) + forecast.length;
  const [first, last] = [days[Math.max(0, days.length - shown)], days[days.length - 1]].map((day) => Date.parse(day));
  const margin = Math.max((last - first) * 0.01, 3600e3 * 12); // the outermost markers stay whole
  return [first - margin, last + margin].map((moment) => new Date(moment).toISOString());
}

function figures(steps) {
  const whole = document.getElementById("figures");
  const [head, body] = [whole.querySelector("thead"), whole.querySelector("tbody")];
  const quantiles = [...new Set(steps.flatMap((step) => Object.keys(step)))].filter((name) => /^q\d+$/.test(name));
  const names = ["ds", "h", "y_hat", ...quantiles, "model", "rung"];
  head.replaceChildren(cells("th", names, () => ({ scope: "col" })));
  body.replaceChildren(...steps.map((step) => cells("td", names.map((name) => written(step[name])))));
  whole.hidden = !steps.length;
}

const written = (value) => (typeof value === "number" && !Number.isInteger(value) ? value.toFixed(2) : String(value ?? ""));

function cells(kind, values, more = () => ({})) {
  const row = document.createElement("tr");
  for (const value of values) {
    const cell = Object.assign(document.createElement(kind), { textContent: value, ...more() });
    if (/^-?[\d.]+$/.test(value) || /^(h|y_hat|q\d+)$/.test(value)) cell.className = "number";
    row.append(cell);
  }
  return row;
}

// --- start ----------------------------------------------------------------------------------------------------------

document.addEventListener("DOMContentLoaded", () => {
  const fleet = document.getElementById("fleet");
  if (fleet) sortable(fleet);
  const form = document.getElementById("search");
  if (form) searching(form, document.getElementById("found"));
  const figure = document.getElementById("chart");
  if (figure) load(figure);
});
