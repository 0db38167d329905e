"""saprmarks' dictionary_learning: a folder of config.json and ae.pt.

    dict_class                   subtracts b_dec     features
    AutoEncoder                  yes                 ReLU
    AutoEncoderNew               no                  ReLU
    AutoEncoderTopK              yes                 top k of each token, whatever threshold is kept beside
    BatchTopKSAE, Matryoshka...  yes                 above one threshold for all
    JumpReluAutoEncoder          no                  above a threshold of each; times the norm of the decoder's row
    GatedAutoEncoder             yes                 gated; times the norm of the decoder's row
    CrossCoder                   no                  ReLU

Where features are multiplied by decoder norms, the decoder divides by them again: that is a dictionary with these
norms folded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp_hooks.dictionaries.activations import BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.crosscoder import Crosscoder
from interp_hooks.dictionaries.formats.reading import Asked, Format, Weights, in_folder, read_json, read_pickle
from interp_hooks.dictionaries.single import SAE
from interp_hooks.errors import BadInput, UnsupportedConfig, nearest

CONFIG, WEIGHTS = "config.json", "ae.pt"
CLASSES = ("AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
CLASSES += ("JumpReluAutoEncoder", "GatedAutoEncoder", "CrossCoder")


def _read(path: Path, asked: Asked) -> Dictionary:
    config = read_json(path / CONFIG)
    trainer = config.get("trainer")
    trainer = trainer if isinstance(trainer, Mapping) else config
    kind = str(trainer.get("dict_class", "AutoEncoder"))
    if kind not in CLASSES:
        raise UnsupportedConfig(
            f"{path / CONFIG} is of the class {kind!r}, which is not implemented; known are {', '.join(CLASSES)}."
            f"{nearest(kind, CLASSES)}"
        )
    weights = read_pickle(path / WEIGHTS)
    facts = {"format": "dictionary_learning", "model_name": trainer.get("lm_name"), "dict_class": kind}
    if kind == "CrossCoder":
        return _crosscoder(weights, asked, path, facts)
    W_enc = weights.take("W_enc") if "W_enc" in weights.left else weights.take("encoder.weight").T
    W_dec = weights.take("W_dec") if "W_dec" in weights.left else weights.take("decoder.weight").T
    b_dec = weights.take("b_dec", "bias", "decoder_bias", "decoder.bias")
    activation: Any = ReLU()
    if kind == "GatedAutoEncoder":
        b_enc = weights.take("gate_bias")
        activation = Gated.of(weights.take("r_mag"), weights.take("mag_bias"), b_enc)
    else:
        b_enc = weights.take("b_enc", "encoder.bias")
    if kind == "JumpReluAutoEncoder":
        activation = JumpReLU(weights.take("threshold"))
    elif kind in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        kept, threshold = weights.take_or_none("k"), weights.take_or_none("threshold")
        k = int(trainer["k"] if kept is None else kept)
        if kind == "AutoEncoderTopK":
            activation = TopK(k)
        elif threshold is None:
            raise BadInput(f"{path / WEIGHTS} has no threshold: training ended before one was estimated")
        else:
            activation = BatchTopK(threshold.to(W_enc.dtype), k=k)
    weights.finish("group_sizes|_hub_mixin_config")
    sae = SAE(
        hook=asked.hook_or(_hook(trainer), path),
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        b_in=None if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else b_dec,
        activation=activation,
        facts=facts,
    )
    return sae.folded_norms() if kind in ("JumpReluAutoEncoder", "GatedAutoEncoder") else sae


def _crosscoder(weights: Weights, asked: Asked, path: Path, facts: Mapping[str, Any]) -> Crosscoder:
    W_enc, W_dec = weights.take("encoder.weight"), weights.take("decoder.weight")
    b_enc, b_dec = weights.take("encoder.bias"), weights.take("decoder.bias")
    weights.finish()
    hook = asked.hook_or(None, path)
    return Crosscoder(
        sites=(hook,) * len(W_enc), W_enc=W_enc, b_enc=b_enc, W_dec=W_dec.transpose(0, 1), b_dec=b_dec, facts=facts
    )


def _hook(trainer: Mapping[str, Any]) -> str | None:
    """The hook of the module that a trainer names: "resid_post_layer_8", "mlp_layer_3", or the stream of a layer."""
    name, layer = str(trainer.get("submodule_name") or "resid_post"), trainer.get("layer")
    found = re.fullmatch(r"(resid_post|resid|mlp_out|mlp|attention|attn)(?:_?(?:layer)?_?(\d+))?", name)
    if found is None or (layer is None and found[2] is None):
        return None
    kind = {"resid": "resid_post", "mlp": "mlp_out", "attention": "attn_out", "attn": "attn_out"}
    return f"blocks.{layer if layer is not None else found[2]}.hook_{kind.get(found[1], found[1])}"


DICTIONARY_LEARNING = Format(name="dictionary_learning", recognises=in_folder(CONFIG, WEIGHTS), read=_read)
