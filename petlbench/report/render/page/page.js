"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const query = document.getElementById("query");
const hidden = new Set(); // labels switched off in a legend

/* ---- the runs behind a figure ---- */

function showTip(target) {
  tip.textContent = target.dataset.provenance;
  tip.hidden = false;
  const at = target.getBoundingClientRect(), box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left), innerWidth - box.width - 8);
  const below = at.bottom + 8 + box.height < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - box.height - 8)}px`;
}

function onProvenance(event) {
  const target = event.target.closest?.("[data-provenance]");
  if (target) showTip(target); else tip.hidden = true;
}

for (const kind of ["pointerover", "focusin", "click"]) document.addEventListener(kind, onProvenance);
addEventListener("scroll", () => { tip.hidden = true; }, true);
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

/* ---- tables ---- */

function compare(first, second) {
  const numbers = [Number(first), Number(second)];
  return numbers.some(Number.isNaN) ? first.localeCompare(second, "en", { numeric: true }) : numbers[0] - numbers[1];
}

/* Missing figures sort last; each section sorts on its own, so published rows never mix with measured ones. */
function sort(head, order) {
  const place = head.cellIndex, sign = order === "ascending" ? 1 : -1;
  for (const body of head.closest("table").tBodies) {
    const rows = [...body.rows].filter((row) => row.dataset.label !== undefined);
    const value = (row) => row.cells[place].dataset.value;
    rows.sort((a, b) => (value(a) === "") - (value(b) === "") || sign * compare(value(a), value(b)));
    body.append(...rows);
  }
  for (const other of head.parentElement.cells) other.setAttribute("aria-sort", other === head ? order : "none");
}

function onSort(event) {
  const head = event.currentTarget.closest("th"), first = event.currentTarget.dataset.first;
  const now = head.getAttribute("aria-sort");
  sort(head, now === "none" ? first : now === "ascending" ? "descending" : "ascending");
}

function showGroup(box) {
  const section = box.closest("section");
  for (const cell of section.querySelectorAll(`th[data-group="${box.dataset.group}"], td[data-group="${box.dataset.group}"]`)) {
    cell.hidden = !box.checked;
  }
}

/* ---- the filter ---- */

function matches(label) {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  return !words.length || words.some((word) => label.toLowerCase().includes(word));
}

function filter() {
  let shown = 0, all = 0;
  for (const row of document.querySelectorAll("tr[data-label]")) {
    row.hidden = !matches(row.dataset.method);
    shown += !row.hidden;
    all += 1;
  }
  for (const part of document.querySelectorAll("tr.part")) {
    part.hidden = ![...part.parentElement.rows].some((row) => row !== part && !row.hidden);
  }
  document.getElementById("count").textContent = `${shown} of ${all} rows`;
  draw();
}

/* ---- charts ---- */

function svg(name, attributes, parent, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent?.append(element);
  return element;
}

function outline(corners) {
  return corners.map(([x, y], n) => `${n ? "L" : "M"}${x} ${y}`).join("") + "Z";
}

const MARKERS = {
  o: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
  s: (r) => outline([[-r, -r], [r, -r], [r, r], [-r, r]]),
  "^": (r) => outline([[0, -r], [r, r], [-r, r]]),
  v: (r) => outline([[0, r], [r, -r], [-r, -r]]),
  "<": (r) => outline([[-r, 0], [r, r], [r, -r]]),
  ">": (r) => outline([[r, 0], [-r, r], [-r, -r]]),
  D: (r) => outline([[0, -1.2 * r], [1.2 * r, 0], [0, 1.2 * r], [-1.2 * r, 0]]),
  P: (r) => plus(r, 0),
  X: (r) => plus(r, Math.PI / 4),
  p: (r) => outline(ring(5, () => 1.2 * r)),
  h: (r) => outline(ring(6, () => 1.2 * r)),
  "*": (r) => outline(ring(10, (n) => (n % 2 ? 0.55 : 1.4) * r)),
  d: (r) => outline([[0, -1.3 * r], [0.75 * r, 0], [0, 1.3 * r], [-0.75 * r, 0]]),
};

/* Corners around the centre, the first one above it. radius: of each corner. */
function ring(corners, radius) {
  return Array.from({ length: corners }, (_, n) => [radius(n) * Math.sin((2 * Math.PI * n) / corners), -radius(n) * Math.cos((2 * Math.PI * n) / corners)]);
}

function plus(r, turn) {
  const t = r / 2.6, c = Math.cos(turn), s = Math.sin(turn);
  const corners = [[-t, -r], [t, -r], [t, -t], [r, -t], [r, t], [t, t], [t, r], [-t, r], [-t, t], [-r, t], [-r, -t], [-t, -t]];
  return outline(corners.map(([x, y]) => [x * c - y * s, x * s + y * c]));
}

const colour = (style) => (style.colour === "#000000" ? "currentColor" : style.colour);
const visible = (label) => matches(label) && !hidden.has(label);

function drawPanel(place, panel, styles) {
  const width = Math.max(280, place.clientWidth), height = Math.round(Math.min(340, width * 0.72));
  const left = 48, right = width - 14, top = 26, bottom = height - 44;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${panel.title}: ${panel.y.title} against ${panel.x.title}` });
  place.replaceChildren(root);
  const x = (at) => left + at * (right - left), y = (at) => bottom - at * (bottom - top);
  svg("text", { x: left, y: 14, class: "title" }, root, panel.title);
  for (const [at, text] of panel.y.ticks) {
    svg("line", { x1: left, x2: right, y1: y(at), y2: y(at), class: "grid" }, root);
    svg("text", { x: left - 6, y: y(at) + 4, "text-anchor": "end", class: "faint" }, root, text);
  }
  for (const [at, text] of panel.x.ticks) {
    svg("line", { x1: x(at), x2: x(at), y1: top, y2: bottom, class: "grid" }, root);
    svg("text", { x: x(at), y: bottom + 16, "text-anchor": "middle", class: "faint" }, root, text);
  }
  svg("text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, root, panel.x.title);
  svg("text", { x: 0, y: 0, transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, root, panel.y.title);
  const series = panel.series.filter((one) => visible(one.label));
  if (panel.front) drawFront(root, series, x, y, right);
  for (const one of series) drawSeries(root, one, styles.get(one.label), panel.joined && !one.alone, x, y);
  // a filter that leaves few points names all of them
  const most = panel.series.filter((one) => one.named).length;
  const named = series.length > most ? series.filter((one) => one.named) : series;
  if (!panel.joined) drawLabels(root, named, series, x, y, { left, right, top, bottom });
}

/* The Pareto front of the shown points, as in the figures. */
function drawFront(root, series, x, y, right) {
  const points = series.flatMap((one) => one.points).sort((a, b) => a.x - b.x || b.y - a.y);
  const best = points.filter((point, n) => points.slice(0, n).every((before) => before.y < point.y));
  if (!best.length) return;
  const path = best.map((point, n) => (n ? `H${x(point.x)}V${y(point.y)}` : `M${x(point.x)} ${y(point.y)}`)).join("");
  svg("path", { d: `${path}H${right}`, class: "front" }, root);
}

function drawSeries(root, one, style, joined, x, y) {
  const paint = colour(style);
  if (joined) {
    const points = one.points.map((point) => `${x(point.x)},${y(point.y)}`).join(" ");
    svg("polyline", { points, fill: "none", stroke: paint, "stroke-width": 1.8 }, root);
  }
  for (const point of one.points) {
    if (point.bar) svg("line", { x1: x(point.x), x2: x(point.x), y1: y(point.y - point.bar), y2: y(point.y + point.bar), stroke: paint, class: "bar" }, root);
    const mark = svg("path", { d: MARKERS[style.marker](5.5), transform: `translate(${x(point.x)} ${y(point.y)})`, fill: paint, class: "point", tabindex: 0, role: "img", "aria-label": point.provenance }, root);
    mark.dataset.provenance = point.provenance;
  }
}

/* Offsets of a name from its point: beside it, then on rings ever further away. */
const SIDES = [[-8, -5, "end"], [-10, 4, "end"], [8, -5, "start"], [10, 4, "start"], [8, 14, "start"], [-8, 14, "end"], [0, -12, "middle"], [0, 20, "middle"]];
for (let radius = 22; radius <= 260; radius += 12) {
  for (let n = 0; n < 24; n++) {
    const across = Math.cos((n * Math.PI) / 12), up = Math.sin((n * Math.PI) / 12);
    SIDES.push([radius * across, 4 - radius * up, across > 0.3 ? "start" : across < -0.3 ? "end" : "middle"]);
  }
}
const NEAR = 21;  // a line joins a more distant name to its point

/* Name the points of `named` where no point of `series`, no other name and no line to one is covered, the crowded first. */
function drawLabels(root, named, series, x, y, frame) {
  const all = named.flatMap((one) => one.points.map((point) => ({ at: [x(point.x), y(point.y)], text: point.value ? `${one.label} ${point.value} ↓` : one.label })));
  const taken = series.flatMap((one) => one.points.map((point) => ({ x: x(point.x) - 5, y: y(point.y) - 5, width: 10, height: 10 })));
  const texts = [];
  const near = ({ at }) => all.filter((other) => Math.hypot(other.at[0] - at[0], other.at[1] - at[1]) < 40).length;
  for (const { at, text } of [...all].sort((a, b) => near(b) - near(a))) {
    const label = svg("text", { class: "halo", "aria-hidden": true }, root, text);
    const size = label.getBBox();
    const tries = SIDES.map(([dx, dy, anchor], n) => {
      const left = at[0] + dx - size.width * { start: 0, middle: 0.5, end: 1 }[anchor];
      const box = { x: left, y: at[1] + dy + size.y, width: size.width, height: size.height };
      const out = box.x < frame.left || box.x + box.width > frame.right + 10 || box.y < frame.top - 6 || box.y + box.height > frame.bottom + 4;
      const line = Math.hypot(dx, dy) > NEAR ? leader(at, box) : [];
      const cover = (boxes, others) => boxes.reduce((sum, one) => sum + others.reduce((inner, other) => inner + overlap(one, other), 0), 0);
      return { dx, dy, anchor, box, line, cost: n + (out ? 1e4 : 0) + 100 * (cover([box], taken) + cover(line, texts)) };
    });
    const best = tries.reduce((a, b) => (b.cost < a.cost ? b : a));
    label.setAttribute("x", at[0] + best.dx);
    label.setAttribute("y", at[1] + best.dy);
    label.setAttribute("text-anchor", best.anchor);
    if (best.line.length) svg("line", { x1: at[0], y1: at[1], x2: best.line.at(-1).x, y2: best.line.at(-1).y, class: "grid" }, root);
    taken.push(best.box, ...best.line);
    texts.push(best.box);
  }
}

/* Small boxes along the line from a point to the nearest place of a name. */
function leader(at, box) {
  const end = [Math.min(Math.max(at[0], box.x), box.x + box.width), Math.min(Math.max(at[1], box.y), box.y + box.height)];
  return Array.from({ length: 12 }, (_, n) => ({ x: at[0] + ((n + 1) / 12) * (end[0] - at[0]), y: at[1] + ((n + 1) / 12) * (end[1] - at[1]), width: 1, height: 1 }));
}

function overlap(a, b) {
  const width = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
  const height = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
  return width > 0 && height > 0 ? width * height : 0;
}

function drawRanks(place, chart) {
  const rows = chart.rows.filter((row) => visible(row.label));
  const width = Math.max(280, Math.min(720, place.clientWidth)), left = Math.min(150, width * 0.3), right = width - 52;
  const height = 30 + 24 * rows.length;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Average rank over tasks", style: `max-width:${width}px` });
  place.replaceChildren(root);
  const x = (at) => left + at * (right - left);
  for (const [at, text] of chart.ticks) {
    svg("line", { x1: x(at), x2: x(at), y1: 20, y2: height, class: "grid" }, root);
    svg("text", { x: x(at), y: 14, "text-anchor": "middle", class: "faint" }, root, text);
  }
  rows.forEach((row, n) => {
    const middle = 34 + 24 * n;
    svg("text", { x: left - 10, y: middle + 4, "text-anchor": "end" }, root, row.label);
    if (chart.critical) svg("line", { x1: Math.max(left, x(row.low)), x2: x(row.high), y1: middle, y2: middle, stroke: "currentColor", "stroke-width": 2, opacity: 0.35 }, root);
    svg("circle", { cx: x(row.at), cy: middle, r: 5, fill: "var(--mark)" }, root);
    svg("text", { x: right + 8, y: middle + 4, class: "faint" }, root, row.rank.toFixed(2));
  });
}

function drawLegend(place, chart) {
  place.replaceChildren(...chart.styles.filter(({ label }) => matches(label)).map((style) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", !hidden.has(style.label));
    const icon = svg("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": true });
    svg("path", { d: MARKERS[style.marker](5), fill: colour(style) }, icon);
    button.append(icon, style.label);
    button.addEventListener("click", () => {
      if (!hidden.delete(style.label)) hidden.add(style.label);
      draw();
      [...place.children].find((other) => other.textContent === style.label)?.focus();
    });
    return button;
  }));
}

function draw() {
  for (const figure of document.querySelectorAll("[data-chart]")) {
    const chart = data[figure.dataset.chart], panels = figure.querySelector(".panels");
    const count = chart.kind === "ranks" ? 1 : chart.panels.length;
    while (panels.children.length < count) panels.append(document.createElement("div"));
    if (chart.kind === "ranks") {
      drawRanks(panels.children[0], chart);
    } else {
      const styles = new Map(chart.styles.map((style) => [style.label, style]));
      chart.panels.forEach((panel, n) => drawPanel(panels.children[n], panel, styles));
      drawLegend(figure.querySelector(".legend"), chart);
    }
  }
}

for (const button of document.querySelectorAll("th[aria-sort] button")) button.addEventListener("click", onSort);
for (const box of document.querySelectorAll("input[data-group]")) box.addEventListener("change", () => showGroup(box));
for (const box of document.querySelectorAll("input.spreads")) {
  box.addEventListener("change", () => box.closest("section").classList.toggle("with-spread", box.checked));
}
for (const part of document.querySelectorAll(".filter, .columns, [data-hint]")) part.hidden = false;
query.addEventListener("input", filter);
document.querySelector(".filter").addEventListener("submit", (event) => event.preventDefault());
let width = 0;
new ResizeObserver(() => { if (innerWidth !== width) { width = innerWidth; draw(); } }).observe(document.body);
filter();
