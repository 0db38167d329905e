"""A mixture of attention heads: what the hooks show against HuggingFace's modules, and what a choice decides."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.jetmoe import modeling_jetmoe as theirs

from interp_hooks import ActivationCache, HookPoint
from interp_hooks.errors import BadInput, ConfigError
from interp_hooks.loading.folding import Processing, process
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.mixers_config import MixersConfig
from interp_hooks.studies.heads.affinity import weight_composition
from tests.test_families import member, ours
from tests.tiny import assert_close, build, hf_logits, random_tokens

TOKENS = random_tokens(batch=2, pos=9)
SIZES: dict[str, Any] = dict(n_layers=3, d_model=12, n_ctx=9, d_vocab=23, n_heads=6, n_key_value_heads=2, d_head=4)


def all_of(model: Any, tokens: Tensor = TOKENS) -> ActivationCache:
    with torch.no_grad():
        return model.run_with_cache(tokens, names_filter=lambda name: True)[1]


@pytest.mark.parametrize("name", ["jetmoe", "jetmoe-tied-one-expert-linear"])
def test_hooks_show_what_huggingface_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Router logits, the queries of the experts that are chosen, what these mix, and what the layer writes."""
    hf, model = member(name, torch.float64), ours(name, torch.float64)
    groups, experts = hf.config.num_key_value_heads, hf.config.num_local_experts
    mixtures = [block.self_attention.experts for block in hf.model.layers]
    seen: list[dict[str, Tensor]] = [{} for _ in mixtures]
    asks, gives = theirs.JetMoeMoA.map, theirs.JetMoeMoA.reduce

    def mapped(mixture: Any, x: Tensor) -> Any:
        queries, logits, topology = asks(mixture, x)
        seen[mixtures.index(mixture)] |= dict(queries=queries, logits=logits)
        return queries, logits, topology

    def reduced(mixture: Any, mixed: Tensor, topology: Any) -> Tensor:
        out = gives(mixture, mixed, topology)
        seen[mixtures.index(mixture)] |= dict(mixed=mixed, out=out)
        return out

    monkeypatch.setattr(theirs.JetMoeMoA, "map", mapped)
    monkeypatch.setattr(theirs.JetMoeMoA, "reduce", reduced)
    hf_logits(hf, TOKENS)
    cache = all_of(model)
    for layer, there in enumerate(seen):
        logits = there["logits"].view(*TOKENS.shape, experts)
        assert_close(cache["router_logits", layer, "attn"], logits, 1e-5)
        best, chosen = logits.topk(hf.config.num_experts_per_tok)
        weights = torch.zeros_like(logits).scatter(-1, chosen, best.softmax(-1))
        assert_close(cache["expert_weights", layer, "attn"], weights, 1e-5)
        for place in range(chosen.shape[-1]):
            heads = torch.arange(groups) * experts + chosen[..., place, None]  # batch pos group
            there_q = there["queries"][:, :, place].view(*heads.shape, -1)
            assert_close(cache["q", layer].gather(2, heads[..., None].expand_as(there_q)), there_q, 1e-5)
            mixed = there["mixed"][:, :, place].view(*heads.shape, -1) * best.softmax(-1)[..., place, None, None]
            assert_close(cache["z", layer].gather(2, heads[..., None].expand_as(mixed)), mixed, 1e-5)
        assert_close(cache["attn_out", layer], there["out"], 1e-5)


def mixture(**fields: Any) -> Any:
    kinds = ("mixture_of_heads", "attention", "mixture_of_heads")
    mixers = MixersConfig(layers=kinds, experts_per_token=2)  # pyright: ignore[reportArgumentType]
    return build(**SIZES | dict(mixers=mixers, normalization_type="LN") | fields)


def test_heads_that_are_not_chosen_write_nothing() -> None:
    """And all do that a researcher lets in, as much as is said: a hook on the weights is a hook on the choice."""
    model = mixture()
    cache = all_of(model, TOKENS % 23)
    weights = cache["expert_weights", 0, "attn"]
    assert bool(((weights > 0).sum(-1) == 2).all())
    off = (weights == 0).repeat(1, 1, 2)
    assert not cache["result", 0][off].any()
    assert cache["result", 0][~off].any(-1).all()

    def third(value: Tensor, hook: HookPoint) -> None:
        value[:] = torch.tensor([0.0, 0.0, 3.0])

    seen: dict[str, Tensor] = {}
    look: Any = ("z0", lambda value, hook: seen.update(z=value))
    with torch.no_grad():
        model.run_with_hooks(TOKENS % 23, fwd_hooks=[("blocks.0.attn.hook_expert_weights", third), look])
    values = cache["v", 0].repeat_interleave(3, dim=2)
    mixed = torch.einsum("bhqk,bkhd->bqhd", cache["pattern", 0], values)
    assert_close(seen["z"][:, :, [2, 5]], 3 * mixed[:, :, [2, 5]], 1e-12)
    assert not seen["z"][:, :, [0, 1, 3, 4]].any()


def test_processing_folds_the_router_and_leaves_value_biases() -> None:
    model, tokens = mixture(), TOKENS % 23
    before = model(tokens).log_softmax(-1)
    report = process(model, Processing())
    assert "fold_ln: applied" in report
    assert "fold_value_biases: skipped, gates come between values and what heads write" in report
    assert_close(model(tokens).log_softmax(-1), before, 1e-9)


def test_what_cannot_be_is_refused() -> None:
    sizes = SIZES | dict(act_fn="gelu")
    for mixers, more, said in (
        (dict(experts_per_token=4), {}, "experts_per_token=4 is more than the 3 heads"),
        ({}, dict(kv_latent=5, n_key_value_heads=6), "mixture_of_heads needs keys and values of its own"),
    ):
        with pytest.raises(ConfigError, match=said):
            HookedTransformerConfig(**sizes | more, mixers=MixersConfig(layers=("mixture_of_heads",) * 3, **mixers))
    with pytest.raises(ConfigError, match="experts_per_token must be positive"):
        MixersConfig(layers=("mixture_of_heads",), experts_per_token=0)
    model = build(**SIZES, mixers=MixersConfig(layers=("mixture_of_heads",) * 3))
    with pytest.raises(BadInput, match=r"layer 0 mixes tokens by a mixture of attention heads.*; no layer has that"):
        weight_composition(model, "Q")
    with pytest.raises(BadInput, match="no layer of this model has plain attention"):
        _ = model.W_Q


def test_weights_are_counted() -> None:
    model = mixture(gated_attn=False)
    counted = [weight.numel() for name, weight in model.named_parameters() if "blocks" in name and ".W_" in name]
    assert model.cfg.n_params == sum(counted)
