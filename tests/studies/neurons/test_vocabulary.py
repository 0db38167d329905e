"""Effects on the vocabulary are those of the weights by hand, and those that the model itself has."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import ActivationCache, HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.handmade import blank
from interp_hooks.studies import Thresholds, tokens_of, vocabulary_effect
from interp_hooks.studies.neurons import vocabulary
from interp_hooks.studies.neurons.weights import neurons_of
from tests.tiny import CUSTOM, assert_close, build, hooked

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "folded": dict(normalization_type="LNPre"),
    "rms": dict(normalization_type="RMS", norm_gain_offset=1.0),
    "no-norm": dict(normalization_type=None),
    "gated": dict(gated_mlp=True, act_fn="silu"),
    "solu": dict(act_fn="solu_ln"),
    "scaled": dict(residual_scale=0.5, logits_scale=0.25),
    "output-norms": CUSTOM["output-norms"],
    "capped": dict(output_logits_soft_cap=3.0),
}
TOKENS = torch.tensor([[3, 8, 1, 15]])


def effects_in_a_run(model: HookedTransformer, layer: int) -> Tensor:
    """What each neuron adds to logits in a run [neuron, d_vocab], for an activation and for norms' scales of 1."""
    with torch.no_grad():
        cache = model.run_with_cache(TOKENS)[1]
        after: Any = model.blocks[layer].get_submodule("ln2_post")
        ones = {name: torch.ones_like(value) for name, value in cache.items() if name.endswith("mlp.hook_post")}
        found = ActivationCache({**cache, **ones}, model).stack_neuron_results(
            apply_ln=True, pos_slice=-1, project_output_onto=model.W_U * model.cfg.logits_scale
        )
    d_mlp = model.cfg.d_mlp
    found = found[layer * d_mlp : (layer + 1) * d_mlp, 0]
    scale = torch.ones(1).double() if model.ln_final.kind is None else cache["ln_final.hook_scale"][0, -1]
    scale = scale if after.kind is None else scale * cache[f"blocks.{layer}.ln2_post.hook_scale"][0, -1]
    found = found * scale
    return found - found.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_and_tokens_are_those_of_a_runs_effects(kind: str) -> None:
    model = build(**KINDS[kind])
    expected, found = effects_in_a_run(model, 1), vocabulary_effect(model, [1], k=4)
    mean = expected.mean(1, keepdim=True)
    variance = ((expected - mean) ** 2).mean(1)
    standardized = (expected - mean) / variance[:, None].sqrt()
    assert_close(found.variance, variance, 1e-9)
    assert_close(found.skew, (standardized**3).mean(1), 1e-8)
    assert_close(found.kurtosis, (standardized**4).mean(1), 1e-8)
    order = expected.argsort(dim=1)
    assert torch.equal(found.top, order.flip(1)[:, :4])
    assert torch.equal(found.bottom, order[:, :4])
    assert_close(found.top_values, expected.gather(1, found.top), 1e-9)
    assert_close(found.bottom_values, expected.gather(1, found.bottom), 1e-9)


def test_a_neuron_in_experts_has_its_own_effect() -> None:
    for name in ("experts", "plain-experts"):
        model = hooked(name)
        found = vocabulary_effect(model, k=2)
        experts: Any = model.blocks[1].get_submodule("mlp.experts")
        effect = tokens_of(model, experts.W_out[2, 3].detach(), k=2)
        place = found.neurons.index((1, "experts", 2 * 7 + 3))
        assert torch.equal(found.top[place], effect.top[0])
        assert_close(found.bottom_values[place], effect.bottom_values[0], 1e-9)
        assert {(layer, part) for layer, part, _ in found.neurons} == {(0, "mlp"), (1, "experts"), (2, "experts")} | (
            {(1, "shared"), (2, "shared")} if name == "experts" else set()
        )
        assert {group.hook for layer in range(3) for group in neurons_of(model, layer)} <= set(model.hook_dict)


@pytest.mark.parametrize("kind", ["plain", "rms"])
def test_what_no_logit_reads_has_no_variance(kind: str) -> None:
    model = build(**KINDS[kind] | dict(d_vocab_out=7))
    final: Any = model.ln_final
    onto = final.gain[:, None] * model.W_U
    onto = onto - onto.mean(1, keepdim=True)
    onto = onto - onto.mean(0) if kind == "plain" else onto
    nowhere = torch.linalg.svd(onto.detach()).U[:, -3:]
    written: Any = model.blocks[1].mlp.W_out
    with torch.no_grad():
        written[4] = nowhere @ torch.tensor([3.0, -1.0, 2.0]).double()
        written[5] = onto[:, 0]
        written[6] = written[4] / written[4].norm() + onto[:, 0] / onto[:, 0].norm()
    found = vocabulary_effect(model, [1], k=2, null=1e-6)
    assert float(found.variance[4]) == 0
    assert found.skew[4].isnan()
    assert found.kurtosis[4].isnan()
    assert found.null_share[4:7].tolist() == pytest.approx([1, 0, 0.5], abs=1e-9)
    assert bool((found.variance[5:] > 0).all())
    assert float(vocabulary_effect(model, [1], k=2, null=1e3).null_share.min()) == pytest.approx(1)


def test_an_offset_in_all_coordinates_is_null_before_a_layer_norm() -> None:
    model = build(normalization_type="LNPre")
    written: Any = model.blocks[0].mlp.W_out
    with torch.no_grad():
        written[0] = 5.0
    found = vocabulary_effect(model, [0], k=2)
    assert float(found.variance[0]) == 0
    assert float(found.null_share[0]) == pytest.approx(1)


def labelled_model() -> HookedTransformer:
    """One neuron for each label among ordinary ones, in a model whose logits are the first 64 of 70 coordinates."""
    model = blank(
        n_layers=1, d_model=70, n_ctx=3, d_vocab=64, n_heads=1, d_head=4, d_mlp=16, gated_mlp=True, act_fn="silu"
    )
    mlp: Any = model.blocks[0].mlp
    with torch.no_grad():
        model.unembed.W_U[:64] = torch.eye(64).double()
        mlp.W_out.copy_(torch.randn(16, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        mlp.W_out[:4] = 0.0
        mlp.W_out[0, 7], mlp.W_out[1, 9] = 3.0, -3.0
        mlp.W_out[2, :64] = 3.0 * torch.tensor([1.0, -1.0]).repeat(32)
        mlp.W_out[3, 64:] = 20.0
        mlp.W_out[3, 0] = 1.0
    return model


def test_labels_are_of_a_side() -> None:
    found = vocabulary_effect(labelled_model(), k=2, thresholds=Thresholds(kurtosis=10.0))
    assert found.labels() == ["prediction", "suppression", "partition", "prediction", *[""] * 12]
    assert found.labels("negative")[:4] == ["suppression", "prediction", "partition", "suppression"]
    only = vocabulary_effect(labelled_model(), k=2, thresholds=Thresholds(kurtosis=100.0))
    assert only.labels()[:4] == ["", "", "partition", "entropy"]
    table = found.table()
    assert len(table) == 32
    assert table["side"][:2].tolist() == ["positive", "negative"]
    assert table["raises"][0] == table["lowers"][1]
    assert table["raises"][0][0] == "7"
    assert table["skew"][0] == -table["skew"][1] > 0
    assert table["kurtosis"][0] == table["kurtosis"][1]


def test_plain_neurons_have_one_side() -> None:
    for kind, sides in (("plain", 1), ("gated", 2), ("solu", 2)):
        assert len(vocabulary_effect(build(**KINDS[kind]), [0], k=1).table()) == 20 * sides


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    whole = vocabulary_effect(model, k=3)
    monkeypatch.setattr(vocabulary, "CHUNK", 3 * 19)
    for name in ("variance", "skew", "kurtosis", "null_share", "norm"):
        assert_close(getattr(vocabulary_effect(model, k=3), name), getattr(whole, name), 1e-12)
    assert torch.equal(vocabulary_effect(model, k=3).top, whole.top)


def test_what_has_no_neurons_is_told() -> None:
    with pytest.raises(BadInput, match="there are no neurons"):
        vocabulary_effect(hooked("attn-only"))
    with pytest.raises(BadInput, match=r"layer must be 0\.\.2, got 3"):
        vocabulary_effect(build(), [3])
    with pytest.raises(BadInput, match=r"k must be 1\.\.19"):
        vocabulary_effect(build(), k=20)
    with pytest.raises(BadInput, match="masked-LM head"):
        vocabulary_effect(hooked("post-norm"))
