"""The page that tells which well-known models convert is up to date."""

from pathlib import Path

from interp_hooks.loading.families import FAMILIES
from interp_hooks.loading.refused import REFUSED
from tests.models_table import LIST, lines, rows, why_not

PAGE = LIST.with_suffix(".md")


def test_the_page_is_what_the_command_writes() -> None:
    assert Path(PAGE).read_text(encoding="utf-8") == "\n".join(lines()) + "\n"


def test_every_refusal_has_its_reason() -> None:
    names = [row["model"] for row in rows()]
    assert len(names) == len({*names})
    for row in rows():
        assert row["model_type"] in FAMILIES or why_not(row), row["model"]
        assert None not in row, f"{row['model']}: a comma too many"


def test_what_is_refused_with_a_reason_has_no_family() -> None:
    assert not {*REFUSED} & {*FAMILIES}
