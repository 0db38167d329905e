"""Which of the models that people download most convert: `python -m tests.models_table > docs/models.md`.

The list is `docs/models.csv`; whether a type converts is asked of the families.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from interp_hooks.loading.families import FAMILIES
from interp_hooks.loading.refused import REFUSED

LIST = Path(__file__).resolve().parents[1] / "docs" / "models.csv"

HEAD = """# Models that people download, and whether they convert

"Converts" means that the architecture gives HuggingFace's numbers, which tests show on small random models of each
type (`tests/test_families.py`); `interp-hooks verify NAME` compares a checkpoint itself. Models that need code from the
hub are not listed. `python -m tests.models_table > docs/models.md` writes this page from `docs/models.csv`.
"""


def rows() -> list[dict[str, str]]:
    """The models of the list: name on the hub, model type, why it does not convert, and what else there is to say."""
    with LIST.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def converts(row: dict[str, str]) -> bool:
    """Whether the checkpoint converts: a family does its type, and nothing is said against it."""
    return row["model_type"] in FAMILIES and not row["why_not"]


def why_not(row: dict[str, str]) -> str:
    """Why a checkpoint does not convert: what the list says, or what the message that refuses its type says."""
    return row["why_not"] or REFUSED.get(row["model_type"], "")


def lines() -> Iterator[str]:
    """The page, line by line."""
    listed = rows()
    count = sum(map(converts, listed))
    yield from (HEAD, f"{count} of these {len(listed)} convert.\n", "| model | `model_type` | |", "|---|---|---|")
    for row in listed:
        told = "converts" if converts(row) else f"no: {why_not(row)}"
        note = f"; {row['note']}" if row["note"] else ""
        yield f"| {row['model']} | `{row['model_type']}` | {told}{note} |"


if __name__ == "__main__":
    print("\n".join(lines()))
