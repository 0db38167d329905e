"""One HTML file with everything in it: text, tables, figures, and plotly.js once.

The file loads nothing from outside, and its content policy forbids it, so that it opens offline and tells nobody.
Figures are in it as JSON that no browser takes for markup, and all text is escaped. The file gets its name only when it
is complete.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from interp_hooks.errors import BadInput
from interp_hooks.hooks.tables import pd
from interp_hooks.views.adapting import ADAPT
from interp_hooks.views.alt_texts import alt_text
from interp_hooks.views.pages import SHARED_STYLE, embedded

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

STYLE = f"""{SHARED_STYLE}
main {{ padding-top: 40px; }}
h1 {{ margin-bottom: 32px; }}
section {{ padding: 30px 0; }}
.scroll {{ margin-top: 14px; }}
.modebar-btn:focus-visible {{ outline: 2px solid var(--accent) !important; }}
pre {{ background: var(--inset); border-left: 3px solid var(--accent); padding: 12px 16px; overflow-x: auto; }}
pre {{ font-size: .9rem; overflow-wrap: normal; }}
@media print {{ pre {{ white-space: pre-wrap; }} }}
"""

DRAW = f"""{ADAPT}
const buttons = [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]];
const nothingOutside = {{displaylogo: false, showSendToCloud: false, plotlyServerURL: ""}};
const options = {{responsive: true, modeBarButtons: buttons, ...nothingOutside}};

function drawAll(width) {{
  for (const source of document.querySelectorAll("script[type='application/json']")) {{
    const holder = source.previousElementSibling.firstElementChild;
    drawn(holder, JSON.parse(source.textContent), width ?? source.parentElement.clientWidth, options);
  }}
}}

whenChanged(drawAll);
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """A heading, plain text (paragraphs are separated by empty lines), and what stands below them.

    `link` is the words of a link and where it leads, from the report's folder.
    """

    heading: str
    text: str = ""
    figure: go.Figure | None = None
    table: pd.DataFrame | None = None
    code: str = ""
    link: tuple[str, str] | None = None


def check_destination(path: str | os.PathLike[str]) -> Path:
    """Find out whether a report can be written to `path`, and where that is once links are followed.

    An existing file stays as it is.

    Raises:
        BadInput: it could not be written there, and why.
    """
    place = Path(os.path.realpath(Path(path).expanduser()))
    if not place.parent.is_dir():
        raise BadInput(f"cannot write {str(path)!r}: there is no folder {str(place.parent)!r}; create it first")
    if os.path.exists(place) and not os.path.isfile(place):
        raise BadInput(
            f"cannot write {str(path)!r}: it is no ordinary file; give the name of a file, as in report.html"
        )
    if os.path.exists(place) and not os.access(place, os.W_OK):
        raise BadInput(f"cannot write {str(path)!r}: the file is there and write-protected")
    with _incomplete(path, place) as draft:
        draft.touch()
    return place


def write_report(path: str | os.PathLike[str], title: str, sections: Iterable[Section]) -> Path:
    """Write a self-contained HTML report and return its path. An existing file is replaced once the report is complete.

    Raises:
        BadInput: `path` cannot be written.
    """
    place = check_destination(path)
    page = render(title, sections)
    with _incomplete(path, place) as draft:
        draft.write_text(page, encoding="utf-8")
        os.replace(draft, place)
    return place


@contextmanager
def _incomplete(path: str | os.PathLike[str], place: Path) -> Iterator[Path]:
    """A temporary file beside `place`, which can replace it in one step; removed afterwards."""
    draft = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        try:
            yield draft
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def render(title: str, sections: Iterable[Section]) -> str:
    """Make the report as one string of HTML."""
    body = "\n".join(_section(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<noscript><p>JavaScript is switched off, so the figures are missing; text and tables are complete.</p></noscript>
{body}
</main>
<script>{get_plotlyjs()}</script>
<script>{DRAW}</script>
</body>
</html>
"""


def _section(section: Section) -> str:
    paragraphs = [part.strip() for part in section.text.split("\n\n") if part.strip()]
    parts = [f"<h2>{html.escape(section.heading)}</h2>", *(f"<p>{html.escape(part)}</p>" for part in paragraphs)]
    if section.link is not None:
        words, place = section.link
        parts.append(f'<p><a href="{html.escape(quote(place))}">{html.escape(words)}</a></p>')
    if section.code:
        parts.append(f"<pre>{html.escape(section.code)}</pre>")
    if section.table is not None:
        parts.append(_table(section.table, section.heading))
    if section.figure is not None:
        told = html.escape(f"{section.heading}. {alt_text(section.figure)}")
        parts.append(f'<div class="scroll"><div class="figure" role="figure" aria-label="{told}"></div></div>')
        data = json.loads(str(section.figure.to_json()))
        parts.append(f'<script type="application/json">{embedded(data)}</script>')
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _table(table: pd.DataFrame, heading: str) -> str:
    rows = [_row("th", table.columns, [kind.kind in "fiu" for kind in table.dtypes])]
    rows += [_row("td", row, [isinstance(cell, float | int) for cell in row]) for row in table.itertuples(index=False)]
    told = html.escape(f"Table: {heading}")  # what is wider than the page is scrolled to by keyboard, too
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{told}"><table>{"".join(rows)}</table></div>'


def _row(tag: str, cells: Iterable[Any], numeric: Iterable[bool]) -> str:
    shown = []
    for cell, number in zip(cells, numeric, strict=True):
        kind = (' scope="col"' if tag == "th" else "") + (' class="number"' if number else "")
        shown.append(f"<{tag}{kind}>{html.escape(_cell(cell))}</{tag}>")
    return f"<tr>{''.join(shown)}</tr>"


def _cell(cell: Any) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
