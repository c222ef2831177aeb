"use strict";
// The map of the pool. Plotly reads tags in its texts, so no text of the data goes into it: the legend and the text that is
// pointed at are elements of the page.

const EACH = "#3b82c4 #d9822b #3f9c6b #8b6fc0 #c9507a #3aa6a6 #a38a2c #7a6a5c".split(" ");
const NOT_CHOSEN = "#80889055";
let points = null, shownText = null, kept = false;
const byId = (id) => document.getElementById(id);

function drawMap(data) {
  points = data;
  start();
}

function hue(i, n) {
  return n <= EACH.length ? EACH[i] : `hsl(${(i * 137.508) % 360} 55% 52%)`;
}

// [legend entries, a colour for each point] of what is asked for
function coloured(by) {
  if (by === "round") {
    const rounds = [...new Set(points.round.filter((r) => r !== null))].sort((a, b) => a - b);
    const colour = Object.fromEntries(rounds.map((r, i) => [r, hue(i, rounds.length)]));
    return [[["not chosen", NOT_CHOSEN], ...rounds.map((r) => [`chosen in round ${r}`, colour[r]])], points.round.map((r) => colour[r] ?? NOT_CHOSEN)];
  }
  const names = [...new Set(points[by])].sort((a, b) => (typeof a === "number" ? a - b : a < b ? -1 : 1));
  const colour = new Map(names.map((name, i) => [name, hue(i, names.length)]));
  return [names.map((name) => [String(name), colour.get(name)]), points[by].map((name) => colour.get(name))];
}

function marker() {
  const by = byId("colour").value, words = byId("find").value.trim().toLowerCase();
  const seen = points.text.map((text) => !words || text.toLowerCase().includes(words));
  const size = points.round.map((r) => (r === null ? 5 : 8));
  const opacity = seen.map((yes) => (yes ? 0.85 : 0.04));
  byId("found").textContent = words ? `${seen.filter(Boolean).length.toLocaleString("en")} of ${seen.length.toLocaleString("en")}` : "";
  if (by === "D") {
    byId("legend").replaceChildren();
    const colorbar = { title: { text: "nats" }, thickness: 12, outlinewidth: 0 };
    return { size, opacity, color: points.D, colorscale: "Viridis", showscale: true, colorbar };
  }
  const [entries, color] = coloured(by);
  byId("legend").replaceChildren(...entries.map(([name, of]) => {
    const item = document.createElement("li"), dot = document.createElement("i"), label = document.createElement("bdi");
    dot.style.background = of;
    label.textContent = name;
    item.append(dot, label);
    return item;
  }));
  return { size, opacity, color, showscale: false };
}

function paint() {
  const trace = { type: "scatter", mode: "markers", x: points.x, y: points.y, hoverinfo: "none", marker: { ...marker(), line: { width: 0 } } };
  const axis = { visible: false };
  const layout = {
    template: template(), height: byId("map").clientHeight || 480, margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, hovermode: "closest",
    dragmode: "pan", xaxis: axis, yaxis: { ...axis, scaleanchor: "x" },
  };
  return Plotly.react("map", [trace], layout, { responsive: true, displayModeBar: false, scrollZoom: true });
}

function tell(i) {
  shownText = i;
  const made = [];
  const text = document.createElement("p");
  text.dir = "auto";
  text.textContent = points.text[i];
  made.push(text);
  const facts = [["domain", points.domain[i]], ["cluster", points.cluster[i]], ["expected D", points.D[i] === null ? null : `${points.D[i]} nats`],
    ["chosen", points.round[i] === null ? "no" : `in round ${points.round[i]}`]];
  const list = document.createElement("dl");
  for (const [name, value] of facts) {
    if (value === null) continue;
    const pair = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd"), bdi = document.createElement("bdi");
    dt.textContent = name;
    bdi.textContent = value;
    dd.append(bdi);
    pair.append(dt, dd);
    list.append(pair);
  }
  made.push(list);
  if (points.round[i] !== null) {
    const link = document.createElement("a");
    link.href = `samples.html#${new URLSearchParams({ q: points.id[i] })}`;
    link.textContent = "Listen to it";
    const line = document.createElement("p");
    line.append(link);
    made.push(line);
  }
  byId("about").replaceChildren(...made);
}

// What was chosen is drawn last, and so lies on top.
function onTop() {
  const order = points.x.map((_, i) => i).sort((a, b) => (points.round[a] !== null) - (points.round[b] !== null) || a - b);
  for (const name of ["x", "y", "id", "text", "domain", "cluster", "D", "round"]) points[name] = order.map((i) => points[name][i]);
}

async function start() {
  onTop();
  await paint();
  byId("map").on("plotly_hover", ({ points: [{ pointNumber }] }) => { if (!kept) tell(pointNumber); });
  byId("map").on("plotly_click", ({ points: [{ pointNumber }] }) => { kept = !(kept && shownText === pointNumber); tell(pointNumber); });
  byId("colour").addEventListener("change", paint);
  let waiting;
  byId("find").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(paint, 200); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
}
