// The page of one unit, named in the address after "#": its metrics among those of all others, lists, examples, histogram.
"use strict";

const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const DIGIT = Object.fromEntries([...DIGITS].map((char, place) => [char, place]));
const UNKNOWN = 4095, STEPS = 2047;
const TOP = -1, BOTTOM = -2, ENDS = {[TOP]: "Where it is largest", [BOTTOM]: "Where it is smallest"};
let about, here = null;

async function show() {
  about = await load("about");
  const [kind, layer, unit] = location.hash.slice(1).split("/");
  const flat = kind in about.kinds && unit !== "" ? flatOf(about, kind, Number(layer), Number(unit)) : -1;
  if (flat < 0) return missing();
  const {plural, shard} = about.kinds[kind], asked = location.hash;
  const file = Math.floor(unit / shard), name = `${plural}/L${String(layer).padStart(2, "0")}_${file}`;
  const [columns, units] = await Promise.all([load(plural), load(name)]);
  if (asked !== location.hash) return;
  here = {kind, layer: Number(layer), unit: Number(unit), flat};
  const one = units[here.unit - file * shard];
  await Promise.all([...new Set(one.examples.map(example => Math.floor(example[1] / about.documents)))].map(number => load("documents/" + number)));
  if (asked !== location.hash) return;
  head(columns);
  byId("page").replaceChildren(...[metrics(columns), examples(one), lists(one), histogram(one)].filter(part => part));
  document.dispatchEvent(new Event("shown"));
}

function missing() {
  here = null;
  byId("title").textContent = "There is no such unit";
  byId("neighbours").replaceChildren();
  const example = Object.keys(about.kinds).map(kind => kind + "/" + about.kinds[kind].layers[0][0] + "/0");
  byId("page").replaceChildren(make("p", {}, "This wiki has pages such as ", ...example.flatMap((one, place) =>
    [place ? " and " : "", make("a", {href: "#" + one}, one)]), "."));
}

function head(columns) {
  const {kind, layer, unit, flat} = here, name = shortName(about, kind, layer, unit);
  document.title = `${name} of ${about.name}`;
  byId("trail").textContent = ` / ${about.name} / layer ${layer}`;
  const labels = about.kinds[kind].columns.filter(one => one.label).map(one => columns[one.name][flat]).filter(text => text);
  byId("title").replaceChildren(called(kind, layer, unit),
    ...labels.map(text => make("span", {class: "chip"}, text)));
  const link = (text, place, said) => place && make("a", {href: "#" + [kind, ...place].join("/"), "aria-label": said}, text);
  const [left, right] = [beside(-1), beside(1)], [below, above] = [across(-1), across(1)];
  byId("neighbours").replaceChildren(...[
    link("← " + (left && shortName(about, kind, ...left)), left, "previous " + spoken(kind)), link((right && shortName(about, kind, ...right)) + " →", right, "next " + spoken(kind)),
    link("⇧↓ layer " + below?.[0], below, "same number, layer before"), link("⇧↑ layer " + above?.[0], above, "same number, layer after"),
  ].filter(one => one));
}

function called(kind, layer, unit) {
  const size = about.kinds[kind].of_expert;
  if (size) return `Neuron ${unit % size} of expert ${Math.floor(unit / size)} of layer ${layer}`;
  if (kind.endsWith("_feature")) return `Feature ${unit} of ${spoken(kind.slice(0, -8))}, layer ${layer}`;
  return ({head: "Head ", shared_neuron: "Shared neuron "}[kind] ?? "Neuron ") + unit + " of layer " + layer;
}

function beside(step) {
  const flat = here.flat + step;
  return flat >= 0 && flat < countOf(about, here.kind) ? placeOf(about, here.kind, flat) : null;
}

function across(step) {
  const layers = about.kinds[here.kind].layers, place = layers.findIndex(([layer]) => layer === here.layer) + step;
  return layers[place] && here.unit < layers[place][1] ? [layers[place][0], here.unit] : null;
}

addEventListener("keydown", event => {
  if (!here || event.altKey || event.ctrlKey || event.metaKey) return;
  const place = event.shiftKey ? {ArrowUp: () => across(1), ArrowDown: () => across(-1)}[event.key]?.()
    : {ArrowRight: () => beside(1), ArrowLeft: () => beside(-1)}[event.key]?.();
  if (!place) return;
  event.preventDefault();
  location.hash = [here.kind, ...place].join("/");
});

const section = (title, ...inside) => make("section", {}, make("h2", {}, title), ...inside);

// ------------------------------------------------------------------------------------------------------------ metrics

function metrics(columns) {
  const plural = spoken(about.kinds[here.kind].plural), rows = [];
  for (const column of about.kinds[here.kind].columns.filter(one => !one.label)) {
    const values = columns[column.name], value = values[here.flat], sorted = sortedNumbers(values);
    if (!sorted.length) continue;
    const text = value === null ? "" : standing(sorted, value);
    const words = `${spoken(column.name)} is ${[number(value), unitOf(column)].filter(one => one).join(" ")}, ${text} of ${plural}; they go from ${number(sorted[0])} to ${number(sorted[sorted.length - 1])}`;
    rows.push(make("div", {class: "metric"},
      make("div", {class: "name", ...hinted(() => column.about)},
        spoken(column.name), make("div", {class: "small"}, unitOf(column))),
      make("div", {class: "strip"}, strip(sorted, value, words)),
      make("div", {class: "value"}, number(value)), make("div", {class: "small"}, text)));
  }
  return section(`Among all ${countOf(about, here.kind).toLocaleString("en")} ${plural}`, make("div", {class: "strips"}, ...rows));
}

// Above which share of the others a value is.
function standing(sorted, value) {
  const below = bisect(sorted, value, (a, b) => a < b), others = sorted.length - 1;
  if (below === others && others) return "the highest";
  return others ? `above ${Math.round(100 * below / others)} %` : "";
}

function strip(sorted, value, words) {
  const low = sorted[0], high = sorted[sorted.length - 1], place = one => high > low ? 10 + 980 * (one - low) / (high - low) : 500;
  const all = sorted.length <= 1500 ? draw("path", {d: [...sorted].map(one => `M${place(one).toFixed(1)} 5V21`).join("")}) : heap(sorted, place);
  return draw("svg", {viewBox: "0 0 1000 26", preserveAspectRatio: "none", role: "img", "aria-label": words}, all,
    value === null ? null : draw("path", {class: "here", d: `M${place(value).toFixed(1)} 1V25`}));
}

function heap(sorted, place) {
  const counts = new Array(125).fill(0);
  for (const one of sorted) counts[Math.min(124, Math.floor(place(one) / 8))]++;
  const most = Math.log1p(Math.max(...counts));
  const d = counts.map((count, bin) => count ? `M${8 * bin} 25v${(-22 * Math.log1p(count) / most).toFixed(1)}h7v${(22 * Math.log1p(count) / most).toFixed(1)}z` : "").join("");
  return draw("path", {class: "filled", d});
}

// -------------------------------------------------------------------------------------------------- lists, histogram

function lists(one) {
  const shown = about.kinds[here.kind].listings.filter(listing => one.listings[listing.name]?.length);
  if (!shown.length) return null;
  return section(shown.some(listing => listing.units) ? "In tokens and features" : "In tokens", make("div", {class: "lists"}, ...shown.map(listing => make("div", {},
    make("h3", {}, spoken(listing.name)), make("p", {class: "note"}, `${listing.about}; ${listing.unit}`),
    make("table", {"aria-label": `${spoken(listing.name)}, ${listing.unit}`}, ...one.listings[listing.name].map(([text, value]) => make("tr", {},
      make("td", {class: "token"}, listing.units ? make("a", {href: addressOf(text)}, text) : visible(text)), make("td", {}, value === null ? "" : number(value)))))))));
}

// The page of a unit of the same kind, by its short name: L3F17.
function addressOf(name) {
  const [layer, unit] = name.slice(1).split(about.kinds[here.kind].letter);
  return "#" + [here.kind, layer, unit].join("/");
}

function histogram(one) {
  const [bins, counts] = one.histogram;
  if (!bins.length) return null;
  const first = bins[0], last = bins[bins.length - 1], most = Math.log10(Math.max(...counts) + 1), bars = [], rows = [];
  const edge = bin => about.edges[bin] === null ? "−∞" : number(about.edges[bin]);
  for (let bin = first; bin <= last; bin++) {
    const count = counts[bins.indexOf(bin)] ?? 0;
    const words = `${edge(bin)} to ${bin + 1 < about.edges.length ? edge(bin + 1) : "∞"}: ${count.toLocaleString("en")} tokens`;
    const bar = make("div", {class: bin < (about.edges.length - 1) / 2 ? "below" : "", ...hinted(() => words, false)});
    bar.style.height = 100 * Math.log10(count + 1) / most + "%";
    bars.push(bar);
    if (count) rows.push(make("tr", {}, make("td", {class: "number"}, edge(bin)), make("td", {class: "number"}, bin + 1 < about.edges.length ? edge(bin + 1) : "∞"), make("td", {class: "number"}, count.toLocaleString("en"))));
  }
  const total = counts.reduce((sum, count) => sum + count, 0);
  const said = `tokens by octave of activation, from ${edge(first)} to ${last + 1 < about.edges.length ? edge(last + 1) : "∞"}; ${total} in all`;
  return section("How often how much", make("div", {class: "histogram", role: "img", "aria-label": said}, ...bars),
    make("div", {class: "ticks"}, make("span", {}, edge(first)), make("span", {}, last + 1 < about.edges.length ? edge(last + 1) : "∞")),
    make("p", {class: "note"}, `Tokens of the corpus by ${about.kinds[here.kind].activation} (${about.kinds[here.kind].unit}): a bar for each octave, negative ones in red, its height the logarithm of the count.`),
    make("details", {}, make("summary", {}, "The counts as a table"), make("table", {},
      make("tr", {}, ...["from", "to", "tokens"].map(text => make("th", {scope: "col", class: "number"}, text))), ...rows)));
}

// ----------------------------------------------------------------------------------------------------------- examples

const decoded = (text, place) => DIGIT[text[2 * place]] * 64 + DIGIT[text[2 * place + 1]];

// An example as tokens: text, position in the document, share of the largest activation (null: not read), place in its window.
function tokensOf(one, [band, document, position, activation, around]) {
  const texts = WIKI["documents/" + Math.floor(document / about.documents)][document], found = [];
  for (let place = 0; place <= 2 * about.around; place++) {
    const at = position + place - about.around, code = decoded(around, place);
    if (at < 0 || at >= texts.length || (code === UNKNOWN && at > 0)) continue;
    found.push({text: texts[at], at, place, share: code === UNKNOWN ? null : code / STEPS - 1});
  }
  return found;
}

// What colours go up to: the median of the largest (or smallest) values of documents, so that a single outlier does not
// make all others pale.
function fullColour(groups) {
  const middles = [TOP, BOTTOM].map(band => (groups.get(band) ?? []).map(example => Math.abs(example[3])).sort((a, b) => a - b))
    .filter(sizes => sizes.length).map(sizes => sizes[Math.floor(sizes.length / 2)]);
  return Math.max(...middles, 0);
}

function textOf(one, example, full) {
  const tokens = tokensOf(one, example).map(token => {
    const words = token.share === null ? "not counted" : `${about.kinds[here.kind].activation}: ${token.at === example[2] ? number(example[3]) : "≈ " + number(token.share * one.largest)}`;
    const shown = make("span", {class: "token" + (token.at === example[2] ? " here" : "") + (token.share === null ? " unread" : ""),
      ...hinted(() => `${visible(token.text)}  (position ${token.at})\n${words}`, false)}, token.text.replace(/[\n\r]/g, "⏎"));
    tint(shown, Math.max(-1, Math.min(1, (token.share ?? 0) * one.largest / full)));
    shown.dataset.place = token.place;
    return shown;
  });
  return make("div", {class: "text"}, ...tokens);
}

function tint(shown, share) {
  shown.style.setProperty("--share", Math.abs(share).toFixed(3));
  shown.style.setProperty("--tone", share < 0 ? "var(--alarm)" : "var(--accent)");
}

function examples(one) {
  if (!one.examples.length) return null;
  const groups = new Map();
  for (const example of one.examples) groups.set(example[0], [...(groups.get(example[0]) ?? []), example]);
  const part = band => band === TOP ? 0 : band === BOTTOM ? 2 : band < about.octaves ? 1 : 3;
  const bands = [...groups.keys()].sort((a, b) => part(a) - part(b) || b - a), inside = [];
  const full = fullColour(groups) || one.largest || 1, outlier = one.largest > 1.5 * full ? `; the largest of all is ${number(one.largest)}` : "";
  const panel = one.examples[0].length > 5 ? make("div", {class: "attention"}) : null;
  for (const band of bands) {
    inside.push(make("h3", {}, ENDS[band] ?? `${about.bands[band]}: at random`));
    for (const example of groups.get(band)) inside.push(row(one, example, full, panel));
  }
  const note = `Each is from a document of its own, and its value the largest there (in the parts below 0, the smallest); colours go up to ${number(full)} (${about.kinds[here.kind].unit}), the median of the largest${outlier}.`;
  if (!panel) return section("Examples", make("p", {class: "note"}, note), ...inside);
  attention(panel, one, groups.get(bands[0])[0]);
  inside[1].setAttribute("aria-pressed", "true");
  return make("div", {}, section("Attention", panel), section("Examples", make("p", {class: "note"}, note + " A click shows the attention there."), ...inside));
}

function row(one, example, full, panel) {
  const value = make("span", {}, number(example[3])), text = textOf(one, example, full);
  if (!panel) return make("div", {class: "example"}, value, text);
  const shown = make("button", {class: "example", type: "button", "aria-pressed": "false", onclick: () => {
    attention(panel, one, example);
    for (const other of byId("page").querySelectorAll("button.example")) other.setAttribute("aria-pressed", other === shown);
    panel.scrollIntoView({block: "nearest"});
  }}, value, text);
  return shown;
}

// ---------------------------------------------------------------------------------------------------------- attention

function attention(panel, one, example) {
  const width = 2 * about.around + 1, tokens = tokensOf(one, example), levels = example[5];
  const paid = (query, key) => decoded(levels, query * (width + 1) + key) / 4095;
  const keys = [...(tokens[0].at > 0 ? [{text: "(first)", place: width}] : []), ...tokens];
  const cell = Math.max(11, Math.min(20, Math.floor((Math.min(panel.clientWidth || byId("page").clientWidth, 720) - 136) / keys.length)));
  const left = 92, top = 76, size = n => n * cell, wide = left + size(keys.length) + 40, high = top + size(tokens.length) + 4;
  const svg = draw("svg", {width: wide, height: high, viewBox: `0 0 ${wide} ${high}`, role: "img"});
  svg.append(draw("rect", {class: "ground", x: left, y: top, width: size(keys.length), height: size(tokens.length)}));
  const ring = draw("rect", {class: "row", x: left, width: size(keys.length), height: cell});
  tokens.forEach((query, row) => {
    svg.append(draw("text", {x: left - 5, y: top + size(row) + cell / 2 + 4, "text-anchor": "end"}, cut(visible(query.text), 12)));
    keys.forEach((key, column) => {
      const share = paid(query.place, key.place);
      const one = draw("rect", {class: "cell", x: left + size(column), y: top + size(row), width: cell - 1, height: cell - 1, "fill-opacity": share.toFixed(3)});
      one.dataset.row = row;
      one.dataset.words = `${visible(query.text)} attends to ${visible(key.text)}\nwith probability ${number(share)}`;
      svg.append(one);
    });
  });
  keys.forEach((key, column) => svg.append(draw("text", {transform: `translate(${left + size(column) + cell / 2 + 4} ${top - 6}) rotate(-55)`}, cut(visible(key.text), 10))));
  svg.append(ring);
  const text = make("div", {class: "text"}, ...keys.map(key => { const shown = make("span", {class: "token", tabindex: "0"}, key.text.replace(/[\n\r]/g, "⏎")); shown.dataset.place = key.place; return shown; }));
  const said = make("p", {class: "note", "aria-live": "polite"});
  const choose = row => {
    const query = tokens[row];
    let rest = 1, most = keys[0];
    [...text.children].forEach((shown, place) => {
      const share = paid(query.place, keys[place].place);
      rest -= share;
      if (share > paid(query.place, most.place)) most = keys[place];
      tint(shown, share);
      shown.classList.toggle("asked", keys[place] === query);
    });
    ring.setAttribute("y", top + size(row));
    said.textContent = `${visible(query.text)} (position ${query.at}) attends most to ${visible(most.text)}, with ${number(paid(query.place, most.place))}` + (rest > .02 ? `; ${number(rest)} goes to tokens that are not shown.` : ".");
    svg.setAttribute("aria-label", `Attention of ${tokens.length} queries (rows) to keys (columns). ${said.textContent}`);
  };
  svg.onpointermove = event => { hint(event.target.dataset.words, event); if (event.target.dataset.row) choose(+event.target.dataset.row); };
  svg.onpointerleave = () => hint("");
  const asked = event => { const row = tokens.findIndex(token => String(token.place) === event.target.dataset.place); if (row >= 0) choose(row); };
  text.onpointerover = text.onfocusin = text.onclick = asked;
  text.addEventListener("focusin", asked);
  panel.replaceChildren(make("div", {class: "scroll"}, svg), make("div", {},
    make("p", {class: "note"}, "Rows are queries, columns are keys. Point at a token, or a row, to see what it attends to."),
    make("p", {class: "note"}, "attention probability 0", make("span", {class: "scale", role: "img", "aria-label": "colours from none to that of attention 1"}), "1"), text, said));
  choose(Math.max(0, tokens.findIndex(token => token.at === example[2])));
}

addEventListener("hashchange", () => { scrollTo(0, 0); show().catch(complain); });
show().catch(complain);
