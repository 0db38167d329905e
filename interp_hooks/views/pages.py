"""What pages of their own are made of: the style that all pages share, and data that no browser takes for markup.

The style is `page.css` of the wiki, whose pages load it; here it stands in the pages, each of which is one file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp_hooks.model.tensor_files import write_text
from interp_hooks.studies.wikis.pages import STATIC

HERE = Path(__file__).parent
SHARED_STYLE = (STATIC / "page.css").read_text(encoding="utf-8")


def embedded(data: Any) -> str:
    """Data as JSON of ASCII characters that mean nothing in HTML."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def write_page(template: str, data: Any, path: Path) -> Path:
    """Write a page of this room's, with its data and the style that all share, and return its path.

    Raises:
        DiskError: the file cannot be written.
    """
    page = (HERE / template).read_text(encoding="utf-8")
    write_text(path, page.replace("/* SHARED STYLE */", SHARED_STYLE).replace(">DATA<", f">{embedded(data)}<"))
    return path
