// Draws the charts of one customer in the page that holds this script. It asks nobody for anything, and what comes from
// data is set as text, never as markup.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const figures = [...document.querySelectorAll("figure")];
const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Set();

// --- one chart ------------------------------------------------------------------------------------------------------

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A colour such as #0b62b0 with an opacity. */
const faded = (color, share) => `rgba(${[1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)).join(",")},${share})`;

/** Lines of several folds as one, with a gap between any two. */
const joined = (parts, pick) => parts.flatMap((part, i) => (i ? [null, ...pick(part)] : pick(part)));

/** One interval of one or more stretches, as closed shapes under one name. */
function band(parts, level, name, color, share) {
  const stretches = parts.map((part) => {
    const one = part.bands.find((band) => band.level === level);
    const there = one ? part.ds.map((ds, i) => [ds, one.lo[i], one.hi[i]]).filter((row) => row[1] !== null) : [];
    return [...there.map(([ds, , hi]) => [ds, hi]), ...there.reverse().map(([ds, lo]) => [ds, lo])];
  }).filter((stretch) => stretch.length);
  if (!stretches.length) return [];
  const points = stretches.flatMap((stretch, i) => (i ? [[null, null], ...stretch] : stretch));
  return [{ x: points.map(([ds]) => ds), y: points.map(([, y]) => y), name, mode: "lines", line: { width: 0 },
    fill: "toself", fillcolor: faded(color, share), hoverinfo: "skip" }];
}

/** What the pointer shows beside a mean: the interval around it. */
const around = (part) => part.ds.map((_, i) => part.bands.map((one) => ` · ${one.level} %: ${told(one.lo[i])} to ${told(one.hi[i])}`).reverse().join(""));
const told = (value) => (value === null ? "–" : value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 }));

function mean(parts, name, color, width, markers) {
  if (!parts.length) return [];
  return [{ x: joined(parts, (one) => one.ds), y: joined(parts, (one) => one.y_hat), text: joined(parts, around), name,
    mode: markers ? "lines+markers" : "lines", marker: { size: 4 }, line: { color, width }, connectgaps: false,
    hovertemplate: "%{y:,.4~r}%{text}" }];
}

function traces(chart) {
  const colors = { forecast: ink("forecast"), fold: ink("fold"), ink: ink("ink") };
  const now = chart.forecast ? [chart.forecast] : [];
  const shades = (parts, word, color) => data.levels.flatMap((level, at, all) =>
    band(parts, level, `${word}: ${level} % interval`, color, 0.13 + 0.14 * (at / Math.max(1, all.length - 1))));
  const rank = (made, first) => made.map((one, i) => ({ ...one, legendrank: first + made.length - i }));
  return [
    ...rank(shades(chart.folds, data.folds, colors.fold), 60),
    ...rank(shades(now, "forecast", colors.forecast), 30),
    ...(chart.sold ? [{ x: chart.sold.ds, y: chart.sold.y, name: "sold", mode: "lines", line: { color: colors.ink, width: 1.2 },
      legendrank: 1,
      hovertemplate: "%{y:,.4~r}" }] : []),
    ...rank(mean(chart.folds, `${data.folds}: mean`, colors.fold, 2, false), 50),
    ...now.map((one) => ({ x: one.ds, y: one.q50, name: "forecast: median", mode: "lines",
      line: { color: colors.forecast, width: 1.4, dash: "4px,3px" }, legendrank: 20, hovertemplate: "%{y:,.4~r}" })),
    ...rank(mean(now, "forecast: mean", colors.forecast, 2, true), 10),
  ];
}

const DAY = 24 * 3600e3;

/** First and last moment that are shown. */
function span(chart, choice) {
  const days = [chart.sold, ...chart.folds, chart.forecast].filter(Boolean).flatMap((one) => one.ds).map((ds) => Date.parse(ds));
  if (!days.length) return [];
  const [first, last] = [days.reduce((a, b) => Math.min(a, b)), days.reduce((a, b) => Math.max(a, b))];
  const horizon = Math.max(7 * DAY, last - Date.parse(data.cutoff));
  const folds = chart.folds.map((fold) => Date.parse(fold.cutoff));
  const from = { near: folds.at(-3) ?? folds[0] ?? Date.parse(data.cutoff) - 4 * horizon, folds: folds[0] ?? first, all: first }[choice];
  const begin = choice === "all" ? first : Math.max(first, Math.min(from, last - 3 * horizon) - horizon / 4);
  const margin = Math.max((last - begin) * 0.01, DAY / 2); // the outermost markers stay whole
  return [begin - margin, last + margin].map((moment) => new Date(moment).toISOString());
}

/** The highest value in sight: history out of sight must not flatten what is looked at. */
function highest(chart, [from, to]) {
  const parts = [...chart.folds, chart.forecast].filter(Boolean);
  const rows = [
    ...(chart.sold ? chart.sold.ds.map((ds, i) => [ds, chart.sold.y[i]]) : []),
    ...parts.flatMap((one) => one.ds.flatMap((ds, i) => [[ds, one.y_hat[i]], ...one.bands.map((band) => [ds, band.hi[i]])])),
  ];
  const found = rows.reduce((best, [ds, y]) => (ds >= from.slice(0, 10) && ds <= to.slice(0, 10) ? Math.max(best, y ?? 0) : best), 0);
  return found ? found * 1.04 : 1;
}

function layout(chart) {
  const soft = ink("soft"), line = ink("line"), grid = ink("grid"), page = ink("page"), text = ink("ink");
  const axis = { gridcolor: grid, linecolor: line, tickcolor: line, zerolinecolor: line };
  const at = (day, dash) => ({ type: "line", x0: day, x1: day, yref: "paper", y0: 0, y1: 1, layer: "between", line: { color: soft, width: 1, dash } });
  const range = span(chart, new FormData(document.getElementById("controls")).get("span"));
  return {
    height: 380, margin: { l: 64, r: 12, t: 8, b: 44 }, hovermode: "x unified", dragmode: "zoom",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: soft, family: getComputedStyle(document.body).fontFamily, size: 12 },
    hoverlabel: { bgcolor: page, bordercolor: line, font: { color: text } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    xaxis: { ...axis, type: "date", range, title: { text: data.x, standoff: 8 } },
    yaxis: { ...axis, range: range.length ? [0, highest(chart, range)] : undefined, title: { text: data.y } },
    shapes: [...chart.folds.map((fold) => at(fold.cutoff, "dot")), at(data.cutoff, "dash")],
    annotations: [{ x: data.cutoff, xanchor: "right", yref: "paper", y: 1, yanchor: "top", text: "cutoff", showarrow: false,
      font: { color: soft, size: 11 } }],
  };
}

function draw(figure) {
  const chart = data.charts[figures.indexOf(figure)];
  const place = figure.querySelector(".plot");
  if (!chart.sold && !chart.forecast && !chart.folds.length) {
    place.textContent = "Nothing is known of this series yet: no sales, no forecast.";
    return;
  }
  Plotly.react(place, traces(chart), layout(chart), { displayModeBar: false, responsive: true });
  drawn.add(figure);
}

// --- figures of a forecast ------------------------------------------------------------------------------------------

function fill(details) {
  const place = details.querySelector(".wide");
  if (!details.open || place.firstChild) return;
  const { forecast } = data.charts[figures.indexOf(details.closest("figure"))];
  if (!forecast) {
    place.textContent = "No forecast is published for this series.";
    return;
  }
  const bands = [...forecast.bands].reverse();
  const table = document.createElement("table");
  const row = (parent, kind, cells) => {
    const made = parent.insertRow();
    for (const text of cells) made.append(Object.assign(document.createElement(kind), { textContent: text, ...(kind === "th" && { scope: "col" }) }));
  };
  row(table.createTHead(), "th", [data.x, "mean", "median", ...bands.flatMap((one) => [`${one.level} % from`, `${one.level} % to`])]);
  const body = table.createTBody();
  forecast.ds.forEach((ds, i) => row(body, "td", [ds, told(forecast.y_hat[i]), told(forecast.q50[i]), ...bands.flatMap((one) => [told(one.lo[i]), told(one.hi[i])])]));
  place.append(table);
}

// --- search and span ------------------------------------------------------------------------------------------------

const rows = [...document.querySelectorAll("#index tbody tr")];

function search() {
  const asked = document.getElementById("q").value.trim();
  const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
  let n = 0;
  figures.forEach((figure, i) => {
    const text = `${figure.querySelector("figcaption").textContent} ${data.charts[i].plain}`.toLowerCase();
    const holds = words.every((word) => text.includes(word));
    figure.hidden = rows[i].hidden = !holds;
    n += holds;
  });
  const none = `No series here holds “${asked}”. ${figures.length} of ${data.series} are drawn; forecasting plot ${data.customer} UNIQUE_ID draws any other.`;
  document.getElementById("found").textContent = !asked ? "" : n ? `${n} of ${figures.length} series drawn here` : none;
}

document.getElementById("q").addEventListener("input", search);
document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("spans").addEventListener("change", () => drawn.forEach(draw));
dark.addEventListener("change", () => drawn.forEach(draw));
document.querySelectorAll(".figures").forEach((details) => details.addEventListener("toggle", () => fill(details)));
search(); // a reload keeps what was typed

// Only what comes into sight is drawn: a page may hold hundreds of charts.
const watch = new IntersectionObserver((seen) => {
  for (const one of seen.filter((entry) => entry.isIntersecting)) {
    watch.unobserve(one.target);
    draw(one.target);
  }
}, { rootMargin: "600px" });
figures.forEach((figure) => watch.observe(figure));
addEventListener("beforeprint", () => figures.filter((figure) => !drawn.has(figure)).forEach(draw));
