"""Several streams: what the hooks show against HuggingFace's modules, and that all streams together are the state."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.gemma3n import modeling_gemma3n as theirs

from interp_hooks import ActivationCache, HookedTransformerConfig, HookPoint, patch
from interp_hooks.errors import BadInput, ConfigError
from interp_hooks.interventions.metrics import LogitDiff
from tests.test_families import member, ours
from tests.tiny import CUSTOM, assert_close, build, hf_logits, our_logits, random_tokens

TOKENS = random_tokens(batch=2, pos=9)
NAMES = ("gemma3n", "gemma3n-tied")


@pytest.fixture(params=NAMES)
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Tensor], ActivationCache]:
    """What HuggingFace's modules read and give, by the names of our hooks, and our activations of the same tokens."""
    hf, seen = member(request.param, torch.float64), dict[str, Tensor]()
    predict = theirs.Gemma3nTextAltUp.predict

    def predicts(altup: Any, streams: Tensor) -> Tensor:
        predicted = predict(altup, streams)
        layer = next(at for at, block in enumerate(hf.model.layers) if block.altup is altup)
        seen[f"blocks.{layer}.hook_other_streams"] = predicted[1:].permute(1, 2, 0, 3).clone()
        return predicted

    monkeypatch.setattr(theirs.Gemma3nTextAltUp, "predict", predicts)
    attached = []
    for layer, block in enumerate(hf.model.layers):
        reads = dict(
            hook_resid_pre=block.input_layernorm,
            hook_resid_mid=block.pre_feedforward_layernorm,
            hook_ple_in=block.per_layer_input_gate,
        )
        gives = dict(
            hook_attn_out=block.post_attention_layernorm,
            hook_mlp_out=block.post_feedforward_layernorm,
            hook_ple_out=block.post_per_layer_input_norm,
        )
        for name, module in reads.items():
            at = f"blocks.{layer}.{name}"
            attached.append(module.register_forward_pre_hook(lambda _, args, at=at: seen.update({at: args[0]})))
        for name, module in gives.items():
            at = f"blocks.{layer}.{name}"
            attached.append(module.register_forward_hook(lambda _, args, given, at=at: seen.update({at: given})))
    last = f"blocks.{len(hf.model.layers) - 1}.hook_resid_post"
    attached.append(hf.model.norm.register_forward_pre_hook(lambda _, args: seen.update({last: args[0]})))
    hf_logits(hf, TOKENS)
    for handle in attached:
        handle.remove()
    with torch.no_grad():
        _, cache = ours(request.param, torch.float64).run_with_cache(TOKENS, names_filter=lambda name: True)
    return seen, cache


def test_hooks_show_what_huggingface_computes(both: tuple[dict[str, Tensor], ActivationCache]) -> None:
    seen, cache = both
    assert len(seen) == 7 * cache.known_model.cfg.n_layers + 1
    for name, value in seen.items():
        assert_close(cache[name], value, 1e-5)  # HuggingFace normalizes in float32


def test_all_streams_are_the_state() -> None:
    """Whoever patches the first and the others, patches everything that later layers know of earlier ones."""
    fields = {name: value for name, value in CUSTOM["streams"].items() if "layer_embed" not in name}
    model = build(**fields)
    clean, corrupt = (random_tokens(d_vocab=23, seed=seed) for seed in range(2))
    logits, cache = model.run_with_cache(clean)
    whole = [f"blocks.1.hook_{name}" for name in ("resid_pre", "other_streams")]

    def patched(hooks: list[str]) -> Tensor:
        def put(value: Tensor, hook: HookPoint) -> Tensor:
            return cache[hook.name]

        with torch.no_grad():
            return model.run_with_hooks(corrupt, fwd_hooks=[(hook, put) for hook in hooks])

    assert_close(patched(whole), logits, 1e-12)
    for part in whole:
        assert not torch.allclose(patched([part]), logits, atol=1e-3)


def test_a_sweep_is_the_passes_with_hooks() -> None:
    """Streams beside the first are computed anew in every cell."""
    model, metric = build(**CUSTOM["streams"]), LogitDiff(torch.tensor([3, 4]), torch.tensor([5, 6]))
    clean, corrupt = (random_tokens(d_vocab=23, seed=seed) for seed in range(2))
    _, cache = model.run_with_cache(clean)
    for site in ("resid_pre", "other_streams", "altup_out", "laurel_out", "mlp_out"):
        found = patch(model, clean, corrupt, metric, site, over=("layer",), progress=False)
        for layer in range(3):
            name = f"blocks.{layer}.hook_{site}"
            with torch.no_grad():
                logits = model.run_with_hooks(corrupt, fwd_hooks=[(name, lambda value, hook: cache[hook.name])])
            assert_close(found.values[layer], metric(logits[:, -1:]).to(found.values), 1e-9)


def test_logits_read_at_some_positions_are_the_same() -> None:
    model, tokens = build(**CUSTOM["streams"]), random_tokens(d_vocab=23)
    rows = torch.tensor([[1, 4], [0, 6]])
    whole = our_logits(model, tokens)
    assert_close(our_logits(model, tokens, logits_pos=rows), whole[torch.arange(2)[:, None], rows], 1e-12)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (dict(norm_placement="post"), "serial blocks with an MLP"),
        (dict(stream_scales=(1.0, 2.0, 1.0)), "not normalized or multiplied"),
        (dict(positional_embedding_type="standard"), "begins as embeddings of tokens alone"),
        (dict(n_streams=1), "it needs n_streams above 1"),
        (dict(gated_mlp=False), "it needs gated_mlp"),
        (dict(mlp_sparsity_layers=(0.5, 1.0, 0.0)), "must be below 1"),
        (dict(d_vocab_layer_embed=24), "at least as many tokens in d_vocab, got 23"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], told: str) -> None:
    cfg = build(**CUSTOM["streams"]).cfg
    with pytest.raises(ConfigError, match=told):
        HookedTransformerConfig.replace(cfg, **changes)


def test_no_pass_starts_with_one_of_several_streams() -> None:
    model, tokens = build(**CUSTOM["streams"]), random_tokens(d_vocab=23)
    stream = our_logits(model, tokens, stop_at_layer=1)
    with pytest.raises(BadInput, match="carries 3 streams, of which a pass with start_at_layer would have one"):
        model(stream, start_at_layer=1, tokens=tokens)
    final = our_logits(model, tokens, stop_at_layer=3)
    assert_close(our_logits(model, final, start_at_layer=3), our_logits(model, tokens), 1e-12)
