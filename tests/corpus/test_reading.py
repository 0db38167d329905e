"""What counts as a document, in every form that a corpus may have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.corpus import documents
from interp_hooks.errors import BadInput
from tests.tiny import build

TEXTS = ["one text", "two é", "three </script>"]


def as_lines(folder: Path) -> Path:
    path = folder / "texts.txt"
    path.write_text(f"{TEXTS[0]}\r\n\n  \n{TEXTS[1]}\n{TEXTS[2]}", encoding="utf-8", newline="")
    return path


def as_json(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"id": 1, "text": text}) for text in TEXTS), encoding="utf-8")
    return path


def as_parquet(folder: Path) -> Path:
    arrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="parquet needs pyarrow")
    path = folder / "texts.parquet"
    parquet.write_table(arrow.table({"id": [1, 2, 3], "text": TEXTS}), path)
    return path


def as_folder(folder: Path) -> Path:
    (folder / "b.jsonl").write_text(json.dumps({"text": TEXTS[2]}))
    (folder / "a.txt").write_text("\n".join(TEXTS[:2]), encoding="utf-8")
    (folder / "notes.csv").write_text("nothing of this")
    return folder


FORMS: dict[str, Callable[[Path], Any]] = {
    "lines": as_lines,
    "jsonl": as_json,
    "parquet": as_parquet,
    "folder": as_folder,
    "path as text": lambda folder: str(as_lines(folder)),
    "list": lambda folder: TEXTS,
    "stream": lambda folder: iter(TEXTS),
    "data set": lambda folder: [{"text": text, "meta": 1} for text in TEXTS],
}


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return build()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_texts(form: str, model: HookedTransformer, tmp_path: Path) -> None:
    assert list(documents(model, FORMS[form](tmp_path))) == TEXTS


def test_token_ids(model: HookedTransformer) -> None:
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]])
    for corpus in (rows, list(rows), rows.tolist()):
        found = list(documents(model, corpus))
        assert all(torch.equal(torch.as_tensor(one), row) for one, row in zip(found, rows, strict=True))


def test_padding_of_token_ids_is_no_document() -> None:
    tiny = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    rows = tiny.to_tokens(["When Mary and John went", "When Mary"])
    found = list(documents(tiny, rows))
    assert [len(one) for one in found] == [6, 3]


BAD = {
    "no file": (lambda folder: folder / "nothing.txt", "there is no file"),
    "unknown kind": (lambda folder: written(folder / "a.csv", "a,b"), "unknown kind"),
    "empty folder": (lambda folder: folder, "no corpus file"),
    "no JSON": (lambda folder: written(folder / "a.jsonl", '{"text": "a"}\n{"text": '), "line 2 of .* is no JSON"),
    "other column": (lambda folder: written(folder / "a.jsonl", '{"body": "a"}'), "has no 'text'; it has body"),
    "no object": (lambda folder: written(folder / "a.jsonl", "[1]"), "must be text or a mapping"),
    "no text": (lambda folder: [{"text": 3}], "'text' of document 0 must be text, got int 3"),
    "a number": (lambda folder: ["a", 3], "document 1 must be text"),
    "half a token": (lambda folder: [torch.ones(2)], "document 0 must be text or token ids"),
    "bytes": (lambda folder: written(folder / "a.txt", b"\xff\xfe"), "no text in UTF-8"),
    "no parquet": (lambda folder: written(folder / "a.parquet", "a"), "cannot be read"),
}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_corpus_is_refused(what: str, model: HookedTransformer, tmp_path: Path) -> None:
    make, message = BAD[what]
    with pytest.raises(BadInput, match=message):
        list(documents(model, make(tmp_path)))
