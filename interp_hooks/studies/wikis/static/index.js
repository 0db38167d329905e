// The overview: two metrics span a plane of all units; filters, the search for tokens, and a list of what is shown.
"use strict";

const LISTED = 25;
const state = {kind: "head", x: "", y: "", layer: "", label: "", ranks: false, search: ""};
let about, shown = [], matches = null, chosen = -1, drawing = null;

async function start() {
  about = await load("about");
  const parts = [...new Set(Object.keys(about.kinds).map(kind => kind === "head" ? "heads" : kind.endsWith("_feature") ? "features" : "neurons"))];
  const listed = parts.join(", ").replace(/, (\w+)$/, " and $1");
  document.title = byId("title").textContent = `${listed[0].toUpperCase()}${listed.slice(1)} of ${about.name}`;
  byId("made").textContent = `Measured on ${about.n_documents.toLocaleString("en")} documents with ` +
    `${about.n_tokens.toLocaleString("en")} tokens that count: ${about.corpus}.`;
  state.kind = Object.keys(about.kinds)[0];
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of given) if (name in state) state[name] = name === "ranks" ? value === "1" : value;
  if (!(state.kind in about.kinds)) state.kind = Object.keys(about.kinds)[0];
  for (const [kind, {plural, layers}] of Object.entries(about.kinds)) {
    const text = plural[0].toUpperCase() + spoken(plural.slice(1)) + " (" + countOf(about, kind).toLocaleString("en") + ")";
    byId("kinds").append(make("button", {type: "button", id: "kind-" + kind, onclick: () => change({kind}, true)}, text));
  }
  for (const name of ["x", "y", "layer", "label"]) byId(name).onchange = event => change({[name]: event.target.value});
  byId("ranks").onchange = event => change({ranks: event.target.checked});
  byId("search").value = state.search;
  let waiting;
  byId("search").oninput = event => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({search: event.target.value}), 200);
  };
  byId("controls").onsubmit = event => { event.preventDefault(); change({search: byId("search").value}); };
  listenToPlot();
  await change({}, true);
}

async function change(what, kindToo = false) {
  Object.assign(state, what);
  if (kindToo) { setUp(); chosen = -1; }
  await Promise.all([load(about.kinds[state.kind].plural), search()]);
  const kept = Object.entries(state).filter(([, value]) => value).map(([name, value]) => [name, value === true ? "1" : value]);
  history.replaceState(null, "", "#" + new URLSearchParams(kept));
  select();
  plot();
  list();
}

function setUp() {
  const {columns, layers} = about.kinds[state.kind];
  const numbers = columns.filter(one => !one.label);
  for (const kind of Object.keys(about.kinds)) byId("kind-" + kind).setAttribute("aria-pressed", kind === state.kind);
  const options = (id, entries) => {
    byId(id).replaceChildren(...entries.map(([value, text]) => make("option", {value}, text)));
    if (!entries.some(([value]) => value === state[id])) state[id] = entries[0]?.[0] ?? "";
    byId(id).value = state[id];
  };
  const wished = state.kind === "head" ? ["repeated_induction", "mean_ablation_loss_increase"] : ["active_share", "max_activation"];
  wished.forEach((name, place) => {
    const id = "xy"[place];
    if (!numbers.some(one => one.name === state[id])) state[id] = numbers.some(one => one.name === name) ? name : numbers[place]?.name;
  });
  options("x", numbers.map(one => [one.name, spoken(one.name)]));
  options("y", numbers.map(one => [one.name, spoken(one.name)]));
  options("layer", [["", "all"], ...layers.map(([layer]) => [String(layer), String(layer)])]);
  byId("layers").hidden = layers.length < 2;
  byId("first").textContent = layers[0]?.[0];
  byId("last").textContent = layers[layers.length - 1]?.[0];
  byId("labels").hidden = !columns.some(one => one.label);
  load(about.kinds[state.kind].plural).then(data => {
    const found = new Set(columns.filter(one => one.label).flatMap(one => data[one.name]).filter(text => text));
    options("label", [["", "all"], ...[...found].sort().map(text => [text, text])]);
  });
  byId("ranks").checked = state.ranks;
  byId("columns").replaceChildren(
    make("tr", {}, ...["column", "unit", "what it is"].map(text => make("th", {scope: "col"}, text))),
    ...columns.map(one => make("tr", {}, make("td", {}, spoken(one.name)), make("td", {}, unitOf(one)), make("td", {class: "wide"}, one.about))));
}

// ------------------------------------------------------------------------------------------------------------- search

const searchKey = text => text.trim().toLowerCase() || text;

async function search() {
  matches = null;
  byId("found").textContent = "";
  if (!state.search) return;
  const key = searchKey(state.search);
  const shard = await load("search/" + [...key].reduce((sum, char) => sum + char.codePointAt(0), 0) % about.search);
  const [total, flat] = (Object.hasOwn(shard, key) ? shard[key][state.kind] : null) ?? [0, []];
  matches = new Map();
  for (let place = 0; place < flat.length; place += 3) matches.set(flat[place], [flat[place + 1], flat[place + 2]]);
  const plural = spoken(about.kinds[state.kind].plural);
  byId("found").textContent = total
    ? `“${visible(key)}” is at the top of ${total.toLocaleString("en")} ${plural}` + (total > matches.size ? `; the first ${matches.size} are marked.` : ".")
    : `No ${plural} have “${visible(key)}” among their top examples or lists; other spellings and ends of words are tokens of their own.`;
}

function select() {
  const {columns, plural} = about.kinds[state.kind], data = WIKI[plural], n = countOf(about, state.kind);
  const labels = columns.filter(one => one.label).map(one => data[one.name]);
  shown = [];
  let flat = 0;
  for (const [layer, units] of about.kinds[state.kind].layers) {
    for (let unit = 0; unit < units; unit++, flat++) {
      if (state.layer !== "" && String(layer) !== state.layer) continue;
      if (state.label && !labels.some(values => values[flat] === state.label)) continue;
      shown.push(flat);
    }
  }
}

// --------------------------------------------------------------------------------------------------------------- plot

const FRAME = {left: 64, right: 12, top: 10, bottom: 46};

function plot() {
  const canvas = byId("scatter"), ratio = devicePixelRatio || 1, data = WIKI[about.kinds[state.kind].plural];
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue("--" + name).trim();
  const across = scaled(data[state.x], FRAME.left, width - FRAME.right), up = scaled(data[state.y], height - FRAME.bottom, FRAME.top);
  axes(pen, across, up, width, height, colour);
  const points = [], layers = about.kinds[state.kind].layers, n = shown.length;
  const size = n > 5000 ? 2 : n > 500 ? 4 : 7, tones = layers.map((_, place) => mixed(colour("pale"), colour("deep"), place / Math.max(1, layers.length - 1)));
  pen.globalAlpha = matches ? .25 : n > 5000 ? .55 : .85;
  const marked = [];
  let layer = 0, end = layers[0]?.[1] ?? 0;
  for (const flat of shown) {
    const x = across.at(flat), y = up.at(flat);
    while (flat >= end && layer + 1 < layers.length) end += layers[++layer][1];
    if (x === null || y === null) continue;
    points.push([x, y, flat]);
    if (matches?.has(flat)) { marked.push([x, y]); continue; }
    pen.fillStyle = tones[layer];
    pen.fillRect(x - size / 2, y - size / 2, size, size);
  }
  pen.globalAlpha = 1;
  pen.fillStyle = colour("alarm");
  for (const [x, y] of marked) { pen.beginPath(); pen.arc(x, y, 3.5, 0, 7); pen.fill(); }
  const ring = points.find(([, , flat]) => flat === chosen);
  if (ring) { pen.strokeStyle = colour("ink"); pen.lineWidth = 2; pen.beginPath(); pen.arc(ring[0], ring[1], 8, 0, 7); pen.stroke(); }
  drawing = {points};
  canvas.setAttribute("aria-label", `${points.length} ${spoken(about.kinds[state.kind].plural)}: ${spoken(state.x)} across, ${spoken(state.y)} up. The list below says the same in words.`);
}

function scaled(values, from, to) {
  const sorted = sortedNumbers(values);
  let low = state.ranks ? 0 : sorted[0] ?? 0, high = state.ranks ? 100 : sorted[sorted.length - 1] ?? 1;
  if (low === high) { low -= .5; high += .5; }
  const room = (high - low) * .03;
  const place = value => from + (value - low + room) / (high - low + 2 * room) * (to - from);
  return {low, high, place, at: flat => values[flat] === null ? null : place(state.ranks ? percentile(sorted, values[flat]) : values[flat])};
}

function axes(pen, across, up, width, height, colour) {
  pen.font = "12px system-ui, sans-serif";
  pen.lineWidth = 1;
  const few = width < 600;
  for (const value of ticks(across, few ? 4 : 8)) {
    const x = Math.round(across.place(value)) + .5;
    line(pen, colour("faint"), x, FRAME.top, x, height - FRAME.bottom);
    write(pen, colour("muted"), number(value), x, height - FRAME.bottom + 16, "center");
  }
  for (const value of ticks(up, 6)) {
    const y = Math.round(up.place(value)) + .5;
    line(pen, colour("faint"), FRAME.left, y, width - FRAME.right, y);
    write(pen, colour("muted"), number(value), FRAME.left - 8, y + 4, "right");
  }
  const columnOf = name => about.kinds[state.kind].columns.find(one => one.name === name);
  const unit = name => state.ranks ? "percentile" : columnOf(name) && unitOf(columnOf(name));
  const titled = (name, room) => {  // without its unit where both do not fit
    const whole = unit(name) ? `${spoken(name)} (${unit(name)})` : spoken(name);
    return pen.measureText(whole).width <= room ? whole : spoken(name);
  };
  write(pen, colour("ink"), titled(state.x, width - FRAME.left), (FRAME.left + width) / 2, height - 8, "center");
  pen.save();
  pen.translate(14, (height - FRAME.bottom) / 2);
  pen.rotate(-Math.PI / 2);
  write(pen, colour("ink"), titled(state.y, height - FRAME.bottom), 0, 0, "center");
  pen.restore();
}

function line(pen, colour, ...ends) {
  pen.strokeStyle = colour;
  pen.beginPath();
  pen.moveTo(ends[0], ends[1]);
  pen.lineTo(ends[2], ends[3]);
  pen.stroke();
}

function write(pen, colour, text, x, y, align) {
  pen.fillStyle = colour;
  pen.textAlign = align;
  pen.fillText(text, x, y);
}

function ticks({low, high}, most) {
  const rough = (high - low) / most, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(times => times * size).find(one => one >= rough);
  const found = [];
  for (let place = Math.ceil(low / step); place * step <= high; place++) found.push(+(place * step).toPrecision(12));
  return found;
}

function mixed(one, other, share) {
  const parts = text => [1, 3, 5].map(at => parseInt(text.slice(at, at + 2), 16));
  const [a, b] = [parts(one), parts(other)];
  return `rgb(${a.map((value, place) => Math.round(value + (b[place] - value) * share)).join(" ")})`;
}

function nearest(event) {
  const box = byId("scatter").getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = null, least = 14 ** 2;
  for (const point of drawing?.points ?? []) {
    const far = (point[0] - x) ** 2 + (point[1] - y) ** 2 - (matches?.has(point[2]) ? 40 : 0);
    if (far < least) [best, least] = [point, far];
  }
  return best;
}

function described(flat) {
  const data = WIKI[about.kinds[state.kind].plural];
  return [shortName(about, state.kind, ...placeOf(about, state.kind, flat)), ...[state.x, state.y].map(name => `${spoken(name)}: ${number(data[name][flat])}`)];
}

function open(flat) {
  location.href = address(state.kind, ...placeOf(about, state.kind, flat));
}

function listenToPlot() {
  const canvas = byId("scatter");
  canvas.onpointermove = event => {
    const point = nearest(event);
    hint(point && described(point[2]).join("\n"), event);
  };
  canvas.onpointerleave = () => hint("");
  canvas.onclick = event => {
    const point = nearest(event);
    if (point) open(point[2]);
  };
  canvas.onkeydown = event => {
    const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
    if (event.key === "Enter" && chosen >= 0) open(chosen);
    if (event.key === "Escape" && chosen >= 0) { chosen = -1; byId("found").textContent = ""; plot(); }
    if (!step || !drawing.points.length) return;
    event.preventDefault();
    const axis = event.key === "ArrowRight" || event.key === "ArrowLeft" ? 0 : 1, direction = axis ? -1 : 1;
    const order = [...drawing.points].sort((a, b) => direction * (a[axis] - b[axis]));
    const place = order.findIndex(point => point[2] === chosen);
    chosen = order[place < 0 ? 0 : Math.min(order.length - 1, Math.max(0, place + step))][2];
    byId("found").textContent = described(chosen).join(", ");
    plot();
  };
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => drawing && plot(), 100); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawing && plot());
}

// --------------------------------------------------------------------------------------------------------------- list

function list() {
  const {plural, columns} = about.kinds[state.kind], data = WIKI[plural];
  const value = flat => data[state.y][flat] ?? -Infinity;
  const found = matches ? [...matches.keys()].filter(flat => shown.includes(flat)) : [...shown].sort((a, b) => value(b) - value(a));
  const labels = columns.filter(one => one.label);
  byId("listed").textContent = matches ? `With “${visible(searchKey(state.search))}” at the top` : `Highest in ${spoken(state.y)}`;
  const named = name => [spoken(name), "number", unitOf(columns.find(one => one.name === name))];
  const heads = [[spoken(state.kind), ""], ...(matches ? [["top examples", "number"], ["in lists", "number"]] : []),
    named(state.x), ...(state.y === state.x ? [] : [named(state.y)]), ...labels.map(one => [spoken(one.name), ""])];
  byId("units").replaceChildren(
    make("tr", {}, ...heads.map(([text, of, unit]) => make("th", {scope: "col", class: of}, text, unit ? make("div", {class: "unit"}, unit) : null))),
    ...found.slice(0, LISTED).map(flat => {
      const place = placeOf(about, state.kind, flat);
      const numbers = [...(matches?.get(flat) ?? []), ...[...new Set([state.x, state.y])].map(name => data[name][flat])];
      return make("tr", {}, make("td", {}, make("a", {href: address(state.kind, ...place)}, shortName(about, state.kind, ...place))),
        ...numbers.map(one => make("td", {class: "number"}, number(one))), ...labels.map(one => make("td", {}, data[one.name][flat])));
    }));
  byId("more").textContent = found.length > LISTED ? `${LISTED} of ${found.length.toLocaleString("en")}` : "";
}

start().catch(complain);
