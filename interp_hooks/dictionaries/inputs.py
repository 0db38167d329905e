"""Dictionaries that read an MLP's input as other libraries show it: after the gain of the norm.

No hook of this package shows that value: `ln2.hook_normalized` is what the gain multiplies. With gain w and bias b,

    (normalized w + b - b_in) W_enc + b_enc = normalized (w W_enc) + ((b - b_in) W_enc + b_enc)

so that the same features are read there by other weights. It takes a model that still has its gains.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.cross_layer import CrossLayerTranscoder
from interp_hooks.dictionaries.single import SAE, Transcoder
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, told
from interp_hooks.model.transformer import HookedTransformer

D = TypeVar("D", bound=Dictionary)
READ = "blocks.{}.mlp.hook_in"


@checked
def adapted(dictionary: D, model: HookedTransformer) -> D:
    """The dictionary by this model's hooks: one of "blocks.3.mlp.hook_in" reads "blocks.3.ln2.hook_normalized".

    Features and reconstructions stay what they are. Dictionaries of other hooks come back as they are.

    Raises:
        BadInput: the gain of the norm is folded into the weights after it (load with fold_ln=False), or a kind of
            dictionary that does not predict something else than it reads.

    >>> from interp_hooks import HookedTransformer, dictionaries
    >>> plain = HookedTransformer.from_pretrained_no_processing("ioi-tiny", device="cpu")
    >>> weights = dict(W_enc=torch.ones(128, 9), b_enc=torch.zeros(9), W_dec=torch.ones(9, 128), b_dec=torch.zeros(128))
    >>> theirs = dictionaries.Transcoder(hook_in="blocks.1.mlp.hook_in", hook_out="mlp_out1", **weights)
    >>> dictionaries.adapted(theirs, plain).hook_in
    'blocks.1.ln2.hook_normalized'
    """
    if not isinstance(dictionary, Dictionary):
        raise BadInput(f"dictionary must be a Dictionary, got {told(dictionary)}")
    layers = {READ.format(layer): layer for layer in range(model.cfg.n_layers)}
    if not layers.keys() & {*dictionary.hooks_in}:
        return dictionary
    if isinstance(dictionary, Transcoder):
        hook, gain, bias = _norm(model, layers[dictionary.hook_in], dictionary.W_enc)
        shift = bias if dictionary.b_in is None else bias - dictionary.b_in
        skip = dictionary.W_skip
        return replace(
            dictionary,
            hook_in=hook,
            W_enc=gain[:, None] * dictionary.W_enc,
            b_enc=dictionary.b_enc + shift @ dictionary.W_enc,
            b_in=None,
            b_dec=dictionary.b_dec if skip is None else dictionary.b_dec + bias @ skip,
            W_skip=None if skip is None else gain[:, None] * skip,
        )
    if isinstance(dictionary, CrossLayerTranscoder):
        norms = [_norm(model, layers[hook], dictionary.b_dec[0]) for hook in dictionary.hooks_in]
        return replace(
            dictionary,
            layers_in=tuple(hook for hook, _, _ in norms),
            W_enc=tuple(gain[:, None] * one for (_, gain, _), one in zip(norms, dictionary.W_enc, strict=True)),
            b_enc=tuple(
                one + bias @ W_enc.to(bias)
                for (_, _, bias), one, W_enc in zip(norms, dictionary.b_enc, dictionary.W_enc, strict=True)
            ),
            b_dec=tuple(
                one if skip is None else one + bias @ skip.to(bias)
                for (_, _, bias), one, skip in zip(norms, dictionary.b_dec, dictionary.W_skip, strict=True)
            ),
            W_skip=tuple(
                None if skip is None else gain[:, None] * skip
                for (_, gain, _), skip in zip(norms, dictionary.W_skip, strict=True)
            ),
        )
    kind = "an SAE" if isinstance(dictionary, SAE) else f"a {type(dictionary).__name__}"
    raise BadInput(f"{kind} of an MLP's input would have to write there, where no hook is; use another hook")


def _norm(model: HookedTransformer, layer: int, like: Tensor) -> tuple[str, Tensor, Tensor]:
    """The hook before the gain of the norm that an MLP reads through, the gain and the bias."""
    block = model.blocks[layer]
    name = "ln1" if model.cfg.parallel_shared_norm else "ln2"
    norm = block.ln1 if model.cfg.parallel_shared_norm else block.ln2
    if model.cfg.norm_placement == "post" or norm.kind is None:
        raise BadInput(f"the MLP of layer {layer} reads no normalized stream; give hook= as it is named here")
    if norm.gain is None:
        raise BadInput(
            "the gains of this model's norms are folded into the weights after them, and cannot be known any more: "
            "load it with fold_ln=False"
        )
    gain = norm.gain.detach().to(like)
    bias = torch.zeros_like(gain) if norm.b is None else norm.b.detach().to(like)
    return f"blocks.{layer}.{name}.hook_normalized", gain, bias
