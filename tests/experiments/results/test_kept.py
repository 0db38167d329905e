"""Findings are read as they were written, and what is damaged, or of another kind, is refused."""

from pathlib import Path

import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.studies import Interchange, Probes


def finding() -> Interchange:
    return Interchange(
        hook="blocks.0.hook_resid_pre",
        directions=torch.eye(3)[:1].double(),
        controls=["swap", "no swap"],
        right=torch.tensor([[1.0, 1.0, 0.0], [0.0, float("nan"), 0.0]], dtype=torch.float64),
        trained=torch.tensor([True, False, False]),
        changes=torch.tensor([True, True, False]),
        losses=torch.zeros(0, dtype=torch.float64),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    finding().save(tmp_path / "one")
    again = Interchange.load(tmp_path / "one")
    assert repr(again) == repr(finding())
    for name in ("directions", "right", "trained", "changes", "losses"):
        torch.testing.assert_close(getattr(again, name), getattr(finding(), name), rtol=0, atol=0, equal_nan=True)


def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    finding().save(tmp_path / "one")
    before = (tmp_path / "one" / "finding.json").read_bytes()
    with pytest.raises(BadInput, match="overwrite=True"):
        finding().save(tmp_path / "one")
    assert (tmp_path / "one" / "finding.json").read_bytes() == before
    finding().save(tmp_path / "one", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"notes\.txt"):
        finding().save(tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_what_is_damaged_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    finding().save(folder)
    with pytest.raises(BadInput, match=r"expected Probes .* found what Interchange\.load reads"):
        Probes.load(folder)
    with pytest.raises(BadInput, match="found none"):
        Interchange.load(tmp_path)
    text = (folder / "finding.json").read_text()
    (folder / "finding.json").write_text(text.replace('"trained"', '"tamed"'))
    with pytest.raises(BadInput, match="damaged"):
        Interchange.load(folder)
    (folder / "finding.json").write_text(text[:40])
    with pytest.raises(BadInput, match="cannot be read"):
        Interchange.load(folder)
    (folder / "finding.json").write_text(text)
    data = bytearray((folder / "finding.safetensors").read_bytes())
    data[-3] ^= 1
    (folder / "finding.safetensors").write_bytes(data)
    with pytest.raises(BadInput, match="finding"):
        Interchange.load(folder)
