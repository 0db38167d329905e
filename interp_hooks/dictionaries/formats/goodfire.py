"""Goodfire's SAEs of the stream after a block: a torch file of two linear maps, "Llama-3.1-8B-Instruct-SAE-l19.pth"."""

from __future__ import annotations

from pathlib import Path

from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.formats.reading import Asked, Format, layer_in, read_pickle
from interp_hooks.dictionaries.single import SAE


def _read(path: Path, asked: Asked) -> Dictionary:
    weights, layer = read_pickle(path), layer_in(path.stem)
    sae = SAE(
        hook=asked.hook_or(None if layer is None else f"blocks.{layer}.hook_resid_post", path),
        facts={"format": "goodfire"},
        **weights.linear("encoder_linear", "decoder_linear"),
    )
    weights.finish()
    return sae


GOODFIRE = Format(
    name="goodfire", recognises=lambda path: path.suffix in (".pt", ".pth") and "SAE-l" in path.name, read=_read
)
