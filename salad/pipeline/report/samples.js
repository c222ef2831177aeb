"use strict";
// The table of samples: every text of every round. Columns come in scripts, each of which calls addRows; only the rows of the
// page in view are elements, and a sound is read when it is played. Texts go in as text nodes, never as HTML.

const PAGE = 50;
const FILTERS = ["status", "round", "domain", "cluster", "voice"];
const columns = {};
let total = 0, shown = [], page = 0, open = null, haystacks = [];
const state = { q: "", sort: "", status: "", round: "", domain: "", cluster: "", voice: "" };
const $ = (id) => document.getElementById(id);

function addRows(part) {
  for (const [name, values] of Object.entries(part)) {
    columns[name] ??= [];
    for (const value of values) columns[name].push(value);
  }
  total += part.id.length;
}

const derived = {
  status: (i) => (columns.rejected[i] === null ? "kept" : "turned down"),
  why: (i) => columns.rejected[i] ?? columns.reason[i],
};
const value = (name, i) => (derived[name] ? derived[name](i) : columns[name][i]);
const number = (x, digits) => (x === null ? "–" : x.toFixed(digits));

function haystack(i) {
  haystacks[i] ??= [columns.id[i], columns.text[i], value("why", i), columns.heard[i]].join("\n").toLowerCase();
  return haystacks[i];
}

function refresh() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = FILTERS.filter((name) => state[name] !== "");
  shown = [];
  for (let i = 0; i < total; i++) {
    if (wanted.every((name) => String(value(name, i) ?? "–") === state[name]) && words.every((word) => haystack(i).includes(word))) {
      shown.push(i);
    }
  }
  if (state.sort) {
    const down = state.sort.startsWith("-"), name = state.sort.replace("-", "");
    const keys = shown.map((i) => value(name, i));
    const order = keys.map((_, at) => at).sort((a, b) => {
      const [x, y] = [keys[a], keys[b]];
      if (x === null || y === null) return (x === null) - (y === null) || a - b; // what is not known comes last
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1) || a - b;
    });
    shown = order.map((at) => shown[at]);
  }
  page = Math.min(page, Math.max(0, Math.ceil(shown.length / PAGE) - 1));
  render();
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, given] of Object.entries(attributes)) made.setAttribute(name, given);
  made.append(...children);
  return made;
}

function render() {
  const body = $("rows");
  body.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(row));
  if (open !== null) body.querySelector(`tr[data-row="${open}"]`)?.after(detail(open));
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  $("count").textContent = `${shown.length.toLocaleString("en")} of ${total.toLocaleString("en")} texts`;
  $("page").textContent = `page ${page + 1} of ${pages}`;
  $("previous").disabled = page === 0;
  $("next").disabled = page + 1 >= pages;
  for (const head of document.querySelectorAll("th[data-sort]")) {
    const name = head.dataset.sort, on = state.sort.replace("-", "") === name;
    head.setAttribute("aria-sort", !on ? "none" : state.sort.startsWith("-") ? "descending" : "ascending");
  }
  for (const name of FILTERS) $(name).value = state[name];
  if ($("search").value !== state.q) $("search").value = state.q;
  const kept = Object.entries(state).filter(([, given]) => given !== "");
  history.replaceState(null, "", kept.length ? `#${new URLSearchParams(kept)}` : location.pathname + location.search);
}

function row(i) {
  const play = element("button", { class: "play", "aria-label": `Play text ${i + 1}` }, "▶");
  play.disabled = columns.sound[i] === null;
  play.addEventListener("click", () => show(i, true));
  const text = element("button", { class: "text", dir: "auto", "aria-expanded": String(open === i) }, clipped(columns.text[i], 240));
  text.addEventListener("click", () => (open === i ? hide() : show(i, false)));
  const cells = [
    ["", play],
    ["text", text],
    ["round", String(columns.round[i])],
    ["why", element("bdi", {}, clipped(value("why", i) ?? "–", 120))],
    ["probability", columns.probability[i] === null ? "–" : columns.probability[i].toPrecision(2), "n"],
    ["cluster", String(columns.cluster[i] ?? "–"), "n"],
    ["domain", element("bdi", {}, clipped(columns.domain[i] ?? "–", 30))],
    ["expected D", number(columns.predicted_divergence[i], 2), "n"],
    ["CER", number(columns.cer[i], 3), "n"],
    ["seconds", number(columns.seconds[i], 1), "n"],
    ["voice", element("bdi", {}, clipped(columns.voice[i] ?? "–", 30))],
  ];
  const made = element("tr", { "data-row": i, ...(columns.rejected[i] === null ? {} : { class: "rejected" }) });
  made.append(...cells.map(([label, content, kind]) => element("td", { "data-label": label, ...(kind ? { class: kind } : {}) }, content)));
  return made;
}

function clipped(text, most) {
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

// The whole text with what is heard marked, its player, and the rest of what is known.
function detail(i) {
  const letters = Array.from(columns.text[i]), whole = element("p", { dir: "auto", class: "whole" }), marks = [];
  let at = 0;
  for (const [start, end, from, to] of columns.spans[i]) {
    const mark = element("mark", {}, letters.slice(start, end).join(""));
    whole.append(letters.slice(at, start).join(""), mark);
    marks.push({ mark, from, to });
    at = end;
  }
  whole.append(letters.slice(at).join(""));
  const inside = element("td", { colspan: 11 }, whole);
  if (columns.sound[i] !== null) inside.append(player(i, marks));
  const facts = element("dl");
  const known = [
    ["id", columns.id[i]],
    [columns.rejected[i] === null ? "chosen because" : "turned down", value("why", i)],
    ["rank", columns.rank[i]],
    ["expected D", columns.predicted_divergence[i] === null ? null : `${columns.predicted_divergence[i]} ± ${columns.predicted_se[i] ?? "–"}`],
    ["the ASR heard", columns.heard[i]],
  ];
  for (const [name, given] of known) {
    if (given !== null) facts.append(element("div", {}, element("dt", {}, name), element("dd", {}, element("bdi", {}, String(given)))));
  }
  inside.append(facts);
  return element("tr", { class: "detail" }, inside);
}

function player(i, marks) {
  const audio = element("audio", { controls: "", preload: "none", src: columns.sound[i], "aria-label": `text ${i + 1}` });
  const light = () => {
    const now = audio.currentTime;
    for (const { mark, from, to } of marks) mark.classList.toggle("on", !audio.ended && now >= from && now < to && !(audio.paused && now === 0));
    if (!audio.paused && audio.isConnected) requestAnimationFrame(light);
  };
  for (const event of ["play", "pause", "seeked", "ended"]) audio.addEventListener(event, light);
  return audio;
}

function show(i, playing) {
  open = i;
  render();
  const audio = document.querySelector(".detail audio");
  if (playing && audio) {
    audio.focus({ preventScroll: true });
    audio.play().catch(() => {}); // stopped before it began
  } else {
    document.querySelector(`tr[data-row="${i}"] .text`).focus();
  }
  document.querySelector(".detail").scrollIntoView({ block: "nearest" });
}

function hide() {
  const was = open;
  open = null;
  render();
  document.querySelector(`tr[data-row="${was}"] .text`)?.focus();
}

function step(by) {
  const at = shown.indexOf(open) + by;
  if (open === null || at < 0 || at >= shown.length) return;
  page = Math.floor(at / PAGE);
  show(shown[at], true);
}

function fill() {
  for (const name of FILTERS) {
    const found = new Set();
    for (let i = 0; i < total; i++) found.add(value(name, i) ?? "–");
    const sorted = [...found].sort((a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : 1));
    const all = element("option", { value: "" }, "all");
    $(name).replaceChildren(all, ...sorted.map((one) => element("option", { value: one }, clipped(String(one), 60))));
  }
}

function change(changes) {
  Object.assign(state, changes);
  page = 0;
  open = null;
  refresh();
}

function listen() {
  let waiting;
  $("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ q: event.target.value.trim() }), 150);
  });
  for (const name of FILTERS) $(name).addEventListener("change", (event) => change({ [name]: event.target.value }));
  for (const head of document.querySelectorAll("th[data-sort] button")) {
    const name = head.parentElement.dataset.sort;
    head.addEventListener("click", () => change({ sort: state.sort === name ? `-${name}` : state.sort === `-${name}` ? "" : name }));
  }
  $("clear").addEventListener("click", () => change(Object.fromEntries(Object.keys(state).map((name) => [name, ""]))));
  $("previous").addEventListener("click", () => { page--; open = null; render(); });
  $("next").addEventListener("click", () => { page++; open = null; render(); });
  window.addEventListener("hashchange", readHash);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "/") { event.preventDefault(); $("search").focus(); }
  });
}

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  change(Object.fromEntries(Object.keys(state).map((name) => [name, given.get(name) ?? ""])));
}

// One part after the other; the page can be used from the first on.
function load(parts) {
  if (!parts.length) return;
  const [first, ...rest] = parts, script = element("script", { src: first });
  script.addEventListener("load", () => {
    fill();
    if (first === all[0]) readHash(); else refresh();
    if (!rest.length) document.body.dataset.loaded = "yes";
    setTimeout(() => load(rest));
  });
  script.addEventListener("error", () => { $("count").textContent = `${first} is missing: copy the whole folder of the report`; });
  document.head.append(script);
}

const all = JSON.parse($("parts").textContent);
listen();
load(all);
