"""The page that tells which well-known models convert is up to date."""

from pathlib import Path

from interp_hooks.loading.families import FAMILIES
from tests.models_table import LIST, lines, rows

PAGE = LIST.with_suffix(".md")


def test_the_page_is_what_the_command_writes() -> None:
    assert Path(PAGE).read_text(encoding="utf-8") == "\n".join(lines()) + "\n"


def test_every_refusal_has_its_reason() -> None:
    names = [row["model"] for row in rows()]
    assert len(names) == len({*names})
    for row in rows():
        assert row["model_type"] in FAMILIES or row["why_not"], row["model"]
        assert None not in row, f"{row['model']}: a comma too many"
