"""What the README and the pages of the manual hold: blocks of code, lines of tables that are code, links, pictures."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"

CODE = re.compile(
    r"^```python\n(?P<block>.*?)^```$"
    r"|^\|[^|`]*\| `(?P<line>[^`]*)` \|(?: \[[^|`]*\] \|)?$",  # | question | `call` |, and maybe | [page] |
    re.DOTALL | re.MULTILINE,
)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
DEFINED = re.compile(r"^\[([^\]]+)\]: (\S+)$", re.MULTILINE)
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def pages() -> list[Path]:
    """Every page of the manual."""
    return sorted(DOCS.rglob("*.md"))


def code_of(text: str) -> Iterator[str]:
    """Blocks of Python and lines of tables that are code, in the order in which they are read."""
    for found in CODE.finditer(text):
        yield found["block"] or found["line"]


def pictures_of(text: str) -> list[tuple[str, str]]:
    """What is said of every picture for who does not see it, and where it lies."""
    return PICTURE.findall(FENCED.sub("", text))


def links_of(text: str) -> list[str]:
    """Where links and pictures lead, those that are defined at the end too."""
    plain = FENCED.sub("", text)
    return [target for _, target in INLINE.findall(plain)] + [target for _, target in DEFINED.findall(plain)]


def anchors_of(text: str) -> set[str]:
    """The addresses of a page's headings, as mkdocs and GitHub make them."""
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in HEADING.findall(FENCED.sub("", text)))
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}
