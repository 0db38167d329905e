"""EleutherAI's sparsify: a folder named after a module, of cfg.json and sae.safetensors.

    layers.3            output of a block          blocks.3.hook_resid_post
    layers.3.mlp        output of an MLP           blocks.3.hook_mlp_out
    layers.3.self_attn  output of attention        blocks.3.hook_attn_out
    embed_tokens        the embeddings             hook_embed

The decoder is [feature, d]. b_dec is subtracted from the input unless `transcode` says that the module's output is
predicted from its input, maybe with a skip [out, in].
"""

from __future__ import annotations

import re
from pathlib import Path

from interp_hooks.dictionaries.activations import TopK
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.formats.reading import (
    Asked,
    Format,
    entry,
    in_folder,
    layer_in,
    read_json,
    read_safetensors,
    refuse_settings,
)
from interp_hooks.dictionaries.single import SAE, Transcoder
from interp_hooks.errors import BadInput

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
MLP_INPUT = "blocks.{layer}.mlp.hook_in"  # see `dictionaries.adapted`


def _read(path: Path, asked: Asked) -> Dictionary:
    config = read_json(path / CONFIG)
    refuse_settings(config, {"activation": ("topk",), "signed": (False,)}, path / CONFIG)
    weights = read_safetensors(path / WEIGHTS)
    W_enc, W_dec, b_dec = weights.take("encoder.weight").T, weights.take("W_dec"), weights.take("b_dec")
    activation = TopK(entry(config, "k", int, path / CONFIG))
    b_enc, skip = weights.take("encoder.bias"), weights.take_or_none("W_skip")
    weights.finish()
    shared = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "activation": activation}
    about = path.parent / "config.json"
    told = read_json(about) if about.is_file() else {}
    facts = {"format": "sparsify", "model_name": told.get("model"), "context_size": told.get("ctx_len")}
    place = _place(path.name)
    if not config.get("transcode", False):
        if skip is not None:
            raise BadInput(f"{path} has a W_skip and is no transcoder, which is not implemented")
        return SAE(hook=asked.hook_or(place, path), b_in=b_dec, facts=facts, **shared)
    is_mlp = place is not None and place.endswith("hook_mlp_out")
    hook_in = asked.hook_or(MLP_INPUT.format(layer=layer_in(path.name)) if is_mlp else None, path)
    hook_out = asked.hook_out_or(place, path)
    return Transcoder(
        hook_in=hook_in, hook_out=hook_out, W_skip=None if skip is None else skip.T, facts=facts, **shared
    )


def _place(name: str) -> str | None:
    """The hook that shows the output of a module, by the module's name."""
    if re.fullmatch(r".*(embed_tokens|wte|embed_in)", name):
        return "hook_embed"
    found = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)(?:\.(\w+))?", name)
    if found is None:
        return None
    kind = {None: "resid_post", "mlp": "mlp_out", "self_attn": "attn_out", "attention": "attn_out", "attn": "attn_out"}
    return f"blocks.{found[1]}.hook_{kind[found[2]]}" if found[2] in kind else None


SPARSIFY = Format(name="sparsify", recognises=in_folder(CONFIG, WEIGHTS), read=_read)
