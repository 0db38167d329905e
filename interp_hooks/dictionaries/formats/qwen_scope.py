"""Qwen Scope: a torch file for each layer, "layer3.sae.pt", in a folder whose name ends in "L0_50": its k.

TopK dictionaries of the stream after a block, with W_enc [feature, d] and W_dec [d, feature], that subtract nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from interp_hooks.dictionaries.activations import TopK
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.formats.reading import Asked, Format, read_pickle
from interp_hooks.dictionaries.single import SAE
from interp_hooks.errors import BadInput

NAME = re.compile(r"layer(\d+)\.sae\.pt")


def _read(path: Path, asked: Asked) -> Dictionary:
    named, told = NAME.fullmatch(path.name), re.findall(r"L0_(\d+)", str(path.absolute().parent))
    if not told:
        raise BadInput(f"{path} does not say its k, which is the end of its folder's name there, such as 'L0_50'")
    weights = read_pickle(path)
    sae = SAE(
        hook=asked.hook_or(None if named is None else f"blocks.{named[1]}.hook_resid_post", path),
        W_enc=weights.take("W_enc").T,
        b_enc=weights.take("b_enc"),
        W_dec=weights.take("W_dec").T,
        b_dec=weights.take("b_dec"),
        activation=TopK(int(told[-1])),
        facts={"format": "qwen-scope"},
    )
    weights.finish()
    return sae


QWEN_SCOPE = Format(
    name="qwen-scope", recognises=lambda path: path.is_file() and NAME.fullmatch(path.name) is not None, read=_read
)
