"""Differential attention: what the hooks show against HuggingFace's modules, and what an edit of each does."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import ActivationCache, HookPoint
from interp_hooks.errors import ConfigError
from interp_hooks.loading.folding import Processing, process
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.mixers_config import MixersConfig
from tests.test_families import member, ours
from tests.tiny import assert_close, build, hf_logits, random_tokens

TOKENS = random_tokens(batch=2, pos=9)
KINDS = ("differential", "attention", "differential")
SIZES: dict[str, Any] = dict(n_layers=3, d_model=12, n_ctx=9, d_vocab=23, n_heads=6, n_key_value_heads=2, d_head=8)


def differential(**fields: Any) -> Any:
    kinds: Any = fields.pop("kinds", KINDS)
    return build(**SIZES | dict(mixers=MixersConfig(layers=kinds), normalization_type="LN") | fields)


def all_of(model: Any, tokens: Tensor = TOKENS) -> ActivationCache:
    with torch.no_grad():
        return model.run_with_cache(tokens, names_filter=lambda name: True)[1]


@pytest.mark.parametrize("name", ["diffllama", "diffllama-tied-ungrouped-yarn"])
def test_hooks_show_what_huggingface_computes(name: str) -> None:
    """Both softmaxes, lambda, what the heads mix, z and what the layer writes."""
    hf, model = member(name, torch.float64), ours(name, torch.float64)
    seen, handles = dict[str, Tensor](), []
    for layer, block in enumerate(hf.model.layers):
        attention: Any = block.self_attn
        at = f"blocks.{layer}."

        def looked(_: Any, args: Any, given: Any, at: str = at) -> None:
            seen.update({f"{at}hook_attn_out": given[0], f"{at}attn.hook_term_pattern": given[1].unflatten(1, (2, -1))})

        def mixed(_: Any, args: Any, at: str = at) -> None:
            seen[f"{at}attn.hook_mixed"] = args[0]

        def wrote(_: Any, args: Any, at: str = at) -> None:
            seen[f"{at}attn.hook_z"] = args[0].unflatten(-1, (model.cfg.n_heads, -1))

        handles.append(attention.register_forward_hook(looked))
        handles.append(attention.groupnorm.register_forward_pre_hook(mixed))
        handles.append(attention.o_proj.register_forward_pre_hook(wrote))
        first, second = (
            torch.exp((getattr(attention, f"lambda_q{term}") * getattr(attention, f"lambda_k{term}")).sum())
            for term in (1, 2)
        )
        whole = first - second + attention.lambda_init
        seen[f"{at}attn.hook_lambda"] = whole.detach().expand(len(TOKENS), model.cfg.n_heads, TOKENS.shape[1])
    hf_logits(hf, TOKENS)
    for handle in handles:
        handle.remove()
    cache = all_of(model)
    assert len(seen) == 5 * model.cfg.n_layers
    for hook, value in seen.items():
        assert_close(cache[hook], value, 1e-5)  # HuggingFace takes softmaxes in float32


def test_without_lambda_a_head_is_one_softmax() -> None:
    """A hook on lambda changes the pattern of its head at its query alone; both paths mix by what hooks show."""
    model, tokens = differential(), TOKENS % 23
    cache = all_of(model, tokens)

    def nothing(value: Tensor, hook: HookPoint) -> None:
        value[:, 1, 4] = 0.0

    seen: dict[str, Tensor] = {}
    looks: Any = [(f"{name}0", lambda value, hook: seen.update({hook.name: value})) for name in ("pattern", "mixed")]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[("lambda0", nothing), *looks])
    expected = cache["pattern", 0].clone()
    expected[:, 1, 4] = cache["term_pattern", 0][:, 0, 1, 4]
    assert_close(seen["blocks.0.attn.hook_pattern"], expected, 1e-12)
    values = cache["v", 0].repeat_interleave(3, dim=2)
    assert_close(seen["blocks.0.attn.hook_mixed"], torch.einsum("bhqk,bkhd->bqhd", expected, values), 1e-12)


def test_gradients_are_those_of_the_explicit_path() -> None:
    """Of the fused kernels, and of the path that an edit takes."""
    model, tokens = differential(), TOKENS % 19
    found = []
    for hooks in ([], [("pattern0", lambda value, hook: value + 0.0), ("pattern2", lambda value, hook: value + 0.0)]):
        model.zero_grad()
        with model.hooks(fwd_hooks=hooks):
            model(tokens, return_type="loss").backward()
        found.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    largest = max(float(gradient.abs().max()) for gradient in found[0].values())
    for name, gradient in found[0].items():
        assert float((found[1][name] - gradient).abs().max()) < 1e-9 * largest, name
    assert found[0]["blocks.2.attn.lambda_q1"].any()


def test_processing_leaves_the_values_biases_and_changes_no_probability() -> None:
    model, tokens = differential(), TOKENS % 23
    before = model(tokens).log_softmax(-1)
    report = process(model, Processing())
    assert "fold_ln: applied" in report
    assert "fold_value_biases: skipped, what heads of differential attention mix from values is normalized" in report
    assert_close(model(tokens).log_softmax(-1), before, 1e-9)


def test_configs() -> None:
    sizes = SIZES | dict(act_fn="gelu", mixers=MixersConfig(layers=("differential",) * 3))
    for more in (
        dict(attn_sinks=True),
        dict(positional_embedding_type="alibi", alibi_slopes=(0.5,) * 6),
        dict(positional_embedding_type="rotary"),  # the whole head
        dict(d_head=7),
    ):
        with pytest.raises(ConfigError, match="has two queries of half of d_head"):
            HookedTransformerConfig(**sizes | more)
    model = differential(kinds=("differential",) * 3)
    within = (".W_", ".lambda_")
    counted = [
        weight.numel()
        for name, weight in model.named_parameters()
        if "blocks" in name and any(map(name.__contains__, within))
    ]
    assert model.cfg.n_params == sum(counted)
