"""The table of what users type: it is up to date, what it promises is there, and each line has its test."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.surface import Row, markdown, missing, parsed, rows, taken

ROOT = Path(__file__).parents[1]

NOT_HERE = {
    "transformer_lens.HookedEncoderDecoder",
}


@cache
def functions_of(path: str) -> set[str]:
    """The tests of a file."""
    module = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_the_table_is_what_the_package_says() -> None:
    assert (ROOT / "docs" / "surface.md").read_text(encoding="utf-8") == markdown(), (
        "write it anew: python -m tests.surface > docs/surface.md"
    )


def test_what_is_typed_is_there_or_known_not_to_be() -> None:
    assert {row.call for row in rows() if missing(row)} == NOT_HERE


def test_what_is_not_there_says_what_to_do() -> None:
    assert not [row.call for row in rows() if missing(row) and not row.differs]


def test_arguments_stand_in_the_fields_order() -> None:
    """Those that can be given by position."""
    for row in rows():
        name, arguments = parsed(row.call)
        if missing(row) is None:
            there = taken(name)
            by_position = [one for one in there if there[one].kind is there[one].POSITIONAL_OR_KEYWORD]
            places = [by_position.index(one) for one in arguments if one in by_position]
            assert places == sorted(places), row.call


def test_every_row_has_its_test() -> None:
    named = {tuple(row.test.split("::")) for row in rows()}
    assert not {(path, name) for path, name in named if name not in functions_of(path)}


def test_no_row_stands_twice() -> None:
    shown = [row.typed or row.call for row in rows()]
    assert len(set(shown)) == len(shown) >= 200


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("model.to_token(input)", "not here"),
        ("to_tokens", "not here"),
        ("model.to_tokens(input, prepend_eos)", "without prepend_eos"),
        ("model.run_with_cache(incl_backward)", "without incl_backward"),
        ("cfg.n_layer", "not here"),
        ("transformer_lens.utils.nothing", "not here"),
        ("transformer_lens.patching.nothing", "not here"),
        ("model.run_with_cache(incl_bwd, remove_batch_dim)", None),
    ],
)
def test_what_lacks_is_noticed(call: str, said: str | None) -> None:
    assert missing(Row(call, "")) == said
