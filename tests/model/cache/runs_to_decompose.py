"""Runs of tiny models, one for each way in which streams, norms and sublayers are arranged."""

import functools
from typing import Any

import torch
from torch import Tensor

from interp_hooks import ActivationCache, HookedTransformer
from interp_hooks.loading.folding import Processing, process
from tests.tiny import CUSTOM, build, our_logits, random_tokens

# Sums of a few dozen float64 numbers in another order.
EXACT = 1e-10

BATCH, POS = 3, 6
TOKENS = random_tokens(batch=BATCH, pos=POS, d_vocab=23)

KINDS: dict[str, dict[str, Any]] = {
    "LN": {},
    "RMS": dict(normalization_type="RMS"),
    "LN folded": {},
    "RMS folded": dict(normalization_type="RMS"),
    "no norm": dict(normalization_type=None),
    "attn only": dict(attn_only=True),
    "parallel": dict(parallel_attn_mlp=True, gated_mlp=True),
    "rotary grouped": dict(positional_embedding_type="rotary", n_key_value_heads=2),
}


def built(kind: str) -> HookedTransformer:
    model = build(**KINDS[kind])
    if "folded" in kind:
        process(model, Processing(center_writing_weights=False, center_unembed=False, fold_value_biases=False))
        assert model.ln_final.w is None
    return model


NEARBY = random_tokens(batch=BATCH, pos=POS, d_vocab=19)
TYPES = torch.randint(2, (BATCH, POS), generator=torch.Generator().manual_seed(2))
SUMS: dict[str, dict[str, Any]] = {
    **{name: fields for name, fields in CUSTOM.items() if name != "post-norm"},
    "token-types": dict(n_token_types=2),
    "embed-norm": dict(embed_norm_type="RMS", n_token_types=2, logits_scale=0.3),
    "layer-norms-of-outputs": dict(norm_placement="pre_and_output", residual_scale=0.7, norm_gain_offset=1.0),
}

Ran = tuple[HookedTransformer, ActivationCache, Tensor]


@functools.cache
def ran(kind: str) -> Ran:
    """One of `KINDS`, the cache of a run on `TOKENS`, and its logits; nobody may change them."""
    model = built(kind)
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS)
    return model, cache, logits


@functools.cache
def ran_in(architecture: str) -> Ran:
    """The same for one of `SUMS`, on `NEARBY`; logits are those before a soft cap."""
    model = build(**SUMS[architecture])
    options = dict(token_type_ids=TYPES) if model.cfg.n_token_types else {}
    with torch.no_grad():
        logits, cache = model.run_with_cache(NEARBY, **options)
    cap = model.cfg.output_logits_soft_cap
    return model, cache, cap * torch.atanh(logits / cap) if cap else logits


def entering(model: HookedTransformer, layer: int) -> Tensor:
    """The stream that enters a layer, from another pass."""
    return our_logits(model, TOKENS, stop_at_layer=layer)


def logit_of(logits: Tensor, answer: Any) -> Tensor:
    """[batch, pos], from the model's own logits."""
    ids = torch.as_tensor(answer)
    ids = ids.reshape(-1, 1) if ids.ndim == 1 else ids
    return logits.gather(2, ids.expand(BATCH, POS)[..., None])[..., 0]
