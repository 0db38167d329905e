"""How figures suit the page that they are on, in the browser: its width, and whether it is dark.

ADAPT    functions in JavaScript that draw a figure for its page
ALONE    what makes such a page of one that plotly writes for a single figure
"""

import json

INK, FAINT, PAPER, MUTED = "#24292f", "#d8dee4", "#ffffff", "#8c959f"
POSITIVE, NEGATIVE = "#2166ac", "#b2182b"
PALE_POSITIVE, PALE_NEGATIVE, DEEP = "#67a9cf", "#ef8a62", "#08306b"
BLACK, WHITE = "#000000", "#fefefe"  # of texts on colours, which stay what they are at night
BLACK_BY_DAY, WHITE_BY_DAY = "#000001", "#fffffe"  # and which become the other one
AT_NIGHT = {  # what each of these colours is on a dark page: far from 0 is bright there, and 0 is still the paper
    INK: "#e6edf3",
    FAINT: "#343b44",
    PAPER: "#12161c",
    MUTED: "#7d8590",
    POSITIVE: "#6cb6ff",
    NEGATIVE: "#ff7b72",
    PALE_POSITIVE: "#2f6ea5",
    PALE_NEGATIVE: "#a3453f",
    DEEP: "#a8d5ff",
    BLACK_BY_DAY: WHITE,
    WHITE_BY_DAY: BLACK,
}

# A figure is drawn for the page that it is on: in the colours of the night where these are asked for; on a narrow page
# with its colour bar below, a title of several lines without buttons over it, and no numbers where they would be too
# small to read. What does not fit scrolls by itself.
ADAPT = """
const NIGHT = __NIGHT__, NARROW = 600, SMALLEST = 9, PRINTED = 680;  // pixels; of an upright sheet
const atNight = matchMedia("screen and (prefers-color-scheme: dark)");
function recoloured(value, colours) {
  if (typeof value === "string") return colours[value] ?? value;
  if (Array.isArray(value)) return value.map(one => recoloured(one, colours));
  if (value === null || typeof value !== "object" || ArrayBuffer.isView(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, recoloured(one, colours)]));
}

function lines(text, most) {
  const found = [""];
  for (const word of text.split(" ")) {
    const line = found[found.length - 1];
    if (line && line.length + 1 + word.length > most) found.push(word);
    else found[found.length - 1] = line ? line + " " + word : word;
  }
  return found;
}

function titled(layout, width) {
  if (!layout.title?.text) return;
  const title = lines(layout.title.text, Math.floor(width / 8.5));
  layout.title.text = title.join("<br>");
  layout.margin.t += 20 * (title.length - 1);
  layout.height += 20 * (title.length - 1);
}

function narrowed({data, layout}) {
  const meta = layout.meta ?? {};
  if (layout.title?.text) Object.assign(layout.title, {xref: "container", x: 0.01});
  if (meta.tight) layout.xaxis.range = meta.tight;
  if (layout.legend) layout.height += 19 * data.filter(trace => trace.name).length;
  for (const trace of data.filter(trace => trace.colorbar)) {
    Object.assign(trace.colorbar, {orientation: "h", y: 0, yref: "container", yanchor: "bottom", ypad: 4, x: 0.5});
    trace.colorbar.title.side = "bottom";
    layout.margin.b += 80;
    layout.height += 80;
  }
}

function widened(layout, page) {  // around its middle, where what is drawn would be stretched too much
  const {range} = layout.xaxis, middle = (range[0] + range[1]) / 2;
  const half = Math.max(range[1] - range[0], (page - 100) / layout.meta.widest) / 2;
  layout.xaxis.range = [middle - half, middle + half];
}

// Numbers in cells are black or white, whichever is read better on the colour of their cell.
function legible(holder) {
  for (const map of holder.querySelectorAll(".hm")) {
    const trace = map.__data__?.[0]?.trace;
    for (const number of map.querySelectorAll(".heatmap-label text")) {
      const {z} = number.__data__ ?? {};
      if (trace && z !== undefined) number.style.fill = pale(shade(trace, z)) ? "#000000" : "#ffffff";
    }
  }
}

function shade({colorscale, zmin, zmax}, z) {
  const share = Math.min(Math.max((z - zmin) / (zmax - zmin), 0), 1);
  const next = Math.max(colorscale.findIndex(([place]) => place >= share), 1);
  const [[low, first], [high, second]] = [colorscale[next - 1], colorscale[next]];
  const parts = colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
  const ends = [parts(first), parts(second)];
  return ends[0].map((part, i) => part + (ends[1][i] - part) * (share - low) / (high - low));
}

function pale(colour) {  // by the relative luminance of WCAG
  const linear = colour.map(part => part / 255).map(one => one <= .04045 ? one / 12.92 : ((one + .055) / 1.055) ** 2.4);
  return .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2] > .179;
}

async function drawn(holder, figure, page, options) {
  titled(figure.layout, page < NARROW ? page : page - 240);
  if (page < NARROW) narrowed(figure);
  else if (figure.layout.meta?.widest) widened(figure.layout, page);
  const draw = holder.printed ? Plotly.newPlot : Plotly.react;  // the width of the sheet would stay otherwise
  holder.printed = page === PRINTED;
  if (holder.printed) figure.layout.width = PRINTED;
  const colours = atNight.matches ? {...NIGHT, ...figure.layout.meta?.night} : {};
  const [data, layout] = [figure.data, figure.layout].map(one => recoloured(one, colours));
  holder.style.minWidth = (figure.layout.meta?.narrowest ?? 0) + "px";
  await draw(holder, data, layout, {displayModeBar: page < NARROW ? false : "hover", ...options});
  const numbers = [...holder.querySelectorAll(".heatmap-label text")];
  const sizes = numbers.map(one => parseFloat(getComputedStyle(one).fontSize));
  if (sizes.length && Math.min(...sizes) < SMALLEST) await Plotly.restyle(holder, {texttemplate: ""});
  holder.removeAllListeners("plotly_afterplot");
  holder.on("plotly_afterplot", () => legible(holder));
  legible(holder);
  document.getElementById("js-plotly-tester")?.setAttribute("aria-hidden", "true");  // in which it measures texts
}

function whenChanged(drawAll) {
  let width = innerWidth, waiting;
  atNight.addEventListener("change", () => drawAll());
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => drawAll(), 150);
  });
  addEventListener("beforeprint", () => drawAll(PRINTED));
  addEventListener("afterprint", () => drawAll());
  drawAll();
}
""".replace("__NIGHT__", json.dumps(AT_NIGHT))

# What plotly calls once it has drawn its only figure. The page of a phone says how wide it is only if it is asked to.
ALONE = f"""(() => {{
{ADAPT}
const holder = document.getElementById("{{plot_id}}");
const given = structuredClone({{data: holder.data, layout: holder.layout}});
const tag = (name, fields) => Object.assign(document.createElement(name), fields);
document.head.append(tag("meta", {{name: "viewport", content: "width=device-width, initial-scale=1"}}));
document.head.append(tag("style", {{textContent: ":root {{ color-scheme: light dark }} body {{ overflow-x: auto }}"}}));
document.documentElement.lang = "en";
document.title ||= __WORDS__;
Object.assign(holder, {{role: "figure", ariaLabel: __WORDS__}});
whenChanged(width => {{
  document.body.style.background = atNight.matches ? NIGHT["{PAPER}"] : "{PAPER}";
  drawn(holder, structuredClone(given), width ?? document.body.clientWidth, __CONFIG__);
}});
}})();"""
