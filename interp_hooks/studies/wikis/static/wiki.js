// What both pages share: data files by script tags, elements whose texts are only ever texts, numbers, a hint at the pointer.
"use strict";

const WIKI = window.WIKI = {};
const loading = {};

function load(name) {
  return loading[name] ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "data/" + name + ".js";
    script.onload = () => resolve(WIKI[name]);
    script.onerror = () => { delete loading[name]; reject(new Error("data/" + name + ".js cannot be read")); };
    document.head.append(script);
  });
}

const byId = id => document.getElementById(id);

function make(tag, given = {}, ...inside) {
  const one = document.createElement(tag);
  fill(one, given, inside);
  return one;
}

function draw(tag, given = {}, ...inside) {
  const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(one, given, inside);
  return one;
}

function fill(one, given, inside) {
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) one.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) one.setAttribute(name, value === true ? "" : value);
  }
  one.append(...inside.filter(part => part !== null));
}

const SEEN = {" ": "·", "\n": "⏎", "\r": "␍", "\t": "⇥"};
const visible = text => text === "" ? "∅" : text.replace(/[ \n\r\t]/g, char => SEEN[char]).replace(
  /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
  char => "\\u" + char.codePointAt(0).toString(16).padStart(4, "0"));
const cut = (text, most) => text.length > most ? text.slice(0, most - 1) + "…" : text;

function number(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  if (size && (size >= 1e5 || size < 1e-3)) return value.toExponential(1).replace(".0e", "e").replaceAll("-", "−");
  return String(+value.toPrecision(3)).replace("-", "−");
}

const unitOf = column => column.unit === "none" ? "" : column.unit;
const spoken = name => name.replaceAll("_", " ");
const shortName = (about, kind, layer, unit) => "L" + layer + about.kinds[kind].letter + unit;
const address = (kind, layer, unit) => "unit.html#" + kind + "/" + layer + "/" + unit;

function flatOf(about, kind, layer, unit) {
  let first = 0;
  for (const [one, n] of about.kinds[kind].layers) {
    if (one === layer) return unit >= 0 && unit < n ? first + unit : -1;
    first += n;
  }
  return -1;
}

function placeOf(about, kind, flat) {
  for (const [layer, n] of about.kinds[kind].layers) {
    if (flat < n) return [layer, flat];
    flat -= n;
  }
}

const countOf = (about, kind) => about.kinds[kind].layers.reduce((sum, [, n]) => sum + n, 0);

function sortedNumbers(values) {
  return Float64Array.from(values.filter(value => value !== null)).sort();
}

// The share of values below this one, half of its equals counted.
function percentile(sorted, value) {
  const first = bisect(sorted, value, (a, b) => a < b), last = bisect(sorted, value, (a, b) => a <= b);
  return sorted.length ? 50 * (first + last) / sorted.length : 50;
}

function bisect(sorted, value, before) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (before(sorted[middle], value)) low = middle + 1; else high = middle;
  }
  return low;
}

function hint(text, event) {
  const tip = byId("tip");
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = tip.getBoundingClientRect();
  const beside = event.clientX + 14 + box.width < innerWidth ? event.clientX + 14 : event.clientX - box.width - 14;
  const under = event.clientY + 18 + box.height < innerHeight ? event.clientY + 18 : event.clientY - box.height - 12;
  tip.style.left = Math.max(4, beside) + "px";
  tip.style.top = Math.max(4, under) + "px";
}

// What an element has so that its hint is seen by pointer and by keyboard alike; Escape takes the hint away.
const hinted = (text, focus = true) => ({...(focus ? {tabindex: 0} : {}), onpointermove: event => hint(text(), event), onpointerleave: () => hint(""),
  onfocus: event => { const box = event.target.getBoundingClientRect(); hint(text(), {clientX: box.left, clientY: box.bottom}); }, onblur: () => hint("")});

addEventListener("keydown", event => { if (event.key === "Escape") hint(""); });

function complain(error) {
  document.querySelector("main").append(make("p", {class: "alarm", role: "alert"}, String(error.message ?? error)));
}
