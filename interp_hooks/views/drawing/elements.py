"""What an SVG is written with: tags, texts and how wide they are, colours by day and by night, small images."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from plotly.colors import hex_to_rgb, unlabel_rgb

from interp_hooks.views.adapting import AT_NIGHT, BLACK, BLACK_BY_DAY, WHITE, WHITE_BY_DAY

EVEN = 0.179  # luminance of what black and white are read equally well on
LINE = 1.25  # height of a line of text, in font sizes
NARROW, WIDE = "fijlrtI.,:;'|!()[] -·", "mwMW%@—<>=+−"
# On these pages dark mode is the page's own choice: JupyterLab, VS Code, Colab and Sphinx, marimo.
DARK_PAGES = '[data-jp-theme-light="false"],.vscode-dark,[data-theme="dark"],[theme="dark"],body.dark'
LIGHT_PAGES = '[data-jp-theme-light="true"],.vscode-light,[data-theme="light"],[theme="light"]'

Colour = tuple[int, int, int]


def tag(name: str, inside: str | None = None, **attributes: Any) -> str:
    """An element; an underscore in the name of an attribute is a dash, and None leaves it out."""
    given = "".join(
        f" {key.replace('_', '-')}={quoteattr(value if isinstance(value, str) else number(value))}"
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}/>" if inside is None else f"<{name}{given}>{inside}</{name}>"


def number(value: float) -> str:
    """A coordinate with two digits at most."""
    return f"{round(value, 2) + 0.0:g}"


def plain(text: Any) -> str:
    """plotly's small HTML as plain text: line breaks stay, other markup goes, entities are what they stand for."""
    broken = re.sub(r"<br\s*/?>", "\n", str(text))
    return html.unescape(re.sub(r"</?(?:b|i|em|strong|sup|sub|span|a)\b[^<>]*>", "", broken))


def marked(text: str) -> str:
    """Plain text as plotly's small HTML."""
    return html.escape(text, quote=False).replace("\n", "<br>")


def written(text: str) -> str:
    """Text for XML, which has no control characters."""
    return escape("".join(c if c == "\n" or c.isprintable() or c.isspace() else "�" for c in text))


def width_of(text: str, size: float) -> float:
    """About how wide a text is, in pixels: the widths of the wider ones among common sans-serif fonts."""

    def share(char: str) -> float:
        if char in NARROW:
            return 0.36
        if char in WIDE:
            return 0.85
        return 1.0 if unicodedata.east_asian_width(char) in "WF" else 0.7 if char.isupper() else 0.6

    return size * max((sum(map(share, line)) for line in text.split("\n")), default=0.0)


def words(
    text: Any,
    x: float,
    y: float,
    *,
    size: float,
    colour: str,
    anchor: str = "middle",
    middle: float = 0.5,
    angle: float = 0.0,
    bold: bool = False,
) -> str:
    """Text at a place, of which `middle` of its height is above: 0 hangs below it, 1 stands on it."""
    lines = plain(text).split("\n")
    first = y + size * (0.35 + LINE * (0.5 - len(lines) * middle))
    look: dict[str, Any] = dict(
        text_anchor=anchor,
        font_size=size,
        fill=colour,
        font_weight="600" if bold or str(text).startswith("<b>") else None,
        transform=f"rotate({number(angle)} {number(x)} {number(y)})" if angle else None,
    )
    if len(lines) == 1:
        return tag("text", written(lines[0]), x=x, y=first, **look)
    spans = [tag("tspan", written(line), x=x, y=first + place * size * LINE) for place, line in enumerate(lines)]
    return tag("text", "".join(spans), **look)


def wrapped(text: str, size: float, room: float) -> str:
    """Text in lines that are no wider than `room` pixels, broken between words."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and width_of(longer, size) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- colours


def rgb(colour: str) -> Colour:
    """Red, green and blue of `#rrggbb`, `rgb(...)` or `rgba(...)`.

    Raises:
        ValueError: it is written otherwise.
    """
    parts = hex_to_rgb(colour) if colour.startswith("#") else unlabel_rgb(colour)[:3]
    return tuple(round(part) for part in parts)  # pyright: ignore[reportReturnType]


def luminance(colour: str) -> float:
    """How light a colour is, from 0 to 1, as WCAG 2.2 defines it."""
    parts = (part / 255 for part in rgb(colour))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def text_on(day: str, night: str) -> str:
    """The colour of text on one colour by day and another at night: black or white, whichever is read better on each.

    Either has a contrast of 4.5 to 1 at least.
    """
    dark_by_day, dark_at_night = (luminance(colour) > EVEN for colour in (day, night))
    if dark_by_day == dark_at_night:
        return BLACK if dark_by_day else WHITE
    return BLACK_BY_DAY if dark_by_day else WHITE_BY_DAY


class Scale:
    """A colour scale from 0 to 1: plotly's stops, by day and by night."""

    def __init__(self, stops: Iterable[Sequence[Any]]):
        self.stops = [(float(place), str(colour)) for place, colour in stops]

    def at(self, share: float, night: bool = False) -> str:
        """The colour at a share of the scale, between the two stops around it."""
        share = min(max(share, 0.0), 1.0)
        for (low, first), (high, second) in zip(self.stops, self.stops[1:], strict=False):
            if share <= high:
                between = (share - low) / (high - low) if high > low else 1.0
                ends = [rgb(AT_NIGHT.get(one, one) if night else one) for one in (first, second)]
                mixed = [round(a + (b - a) * between) for a, b in zip(*ends, strict=True)]
                return "#{:02x}{:02x}{:02x}".format(*mixed)
        return self.stops[-1][1]


class Night:
    """Which colours of a picture are others on a dark page; none, if the picture is not of this package's style."""

    def __init__(self, adapting: bool, more: Mapping[str, str]):
        self.adapting = adapting
        self.colours = {**AT_NIGHT, **more} if adapting else {}

    def style(self, name: str, body: str) -> str:
        """The rules for the colours that `body` has: colours stay attributes, so that it looks right without them."""
        used = {day: night for day, night in self.colours.items() if f'"{day}"' in body}
        rules = [f'{kind}="{day}"]{{{kind}:{night}}}' for day, night in used.items() for kind in ("fill", "stroke")]
        rules = [f"[{rule}" for rule in rules if f" {rule.partition(']')[0]}" in body]
        rules += [".day{display:none}", ".night{display:inline}"] if 'class="night"' in body else []
        if not rules:
            return ""
        inside = "".join(rules)
        by_system = f"@media screen and (prefers-color-scheme:dark){{#{name}:not(:is({LIGHT_PAGES}) *){{{inside}}}}}"
        return tag("style", f"{by_system}:is({DARK_PAGES}) #{name}{{{inside}}}")


def name_of(body: str) -> str:
    """A name for a picture, so that the style of one does not reach another on the same page; the same each time."""
    return "figure-" + hashlib.sha256(body.encode()).hexdigest()[:10]


# -------------------------------------------------------------------------------------------------------------- images


def indexed_png(rows: Sequence[Sequence[int]], palette: Sequence[str]) -> str:
    """A PNG as a data URI: a pixel for each entry of `rows`, which says which colour of at most 256 it has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    colours = b"".join(bytes(rgb(colour)) for colour in palette)
    parts = chunk(b"IHDR", head) + chunk(b"PLTE", colours) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()
