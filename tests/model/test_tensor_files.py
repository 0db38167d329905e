"""Tensors that share memory are written, and a file is whole or what it was."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from interp_hooks.model import tensor_files
from interp_hooks.model.tensor_files import hash_of, write_tensors


def test_views_and_twins_are_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0).view(2, 3)
    tensors = {"whole": whole, "twin": whole, "turned": whole.T, "row": whole[1], "wide": whole[0].expand(4, 3)}
    write_tensors(tmp_path / "file", tensors, {"told": "something"})
    read = load_file(tmp_path / "file")
    assert set(read) == set(tensors)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "file", "pt") as file:
        assert file.metadata() == {"told": "something"}


def test_a_file_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(tmp_path / "file", {"a": torch.ones(1)})

    def break_off(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(tensor_files, "save_file", break_off)
    with pytest.raises(OSError, match="no space left"):
        write_tensors(tmp_path / "file", {"a": torch.zeros(1)})
    assert load_file(tmp_path / "file")["a"] == 1


def test_the_hash_of_a_single_number_does_not_depend_on_its_stride() -> None:
    column = torch.tensor([[1.0, 2.0]]).T[:1, 0].as_strided((1,), (2,))
    assert hash_of({"a": column}) == hash_of({"a": torch.tensor([1.0])}) != hash_of({"a": torch.tensor([2.0])})
