"""MLPs against their formulas, and activations against HuggingFace's of the same name."""

from typing import Any

import pytest
import torch
from transformers.activations import ACT2FN

from interp_hooks import HookPoint
from interp_hooks.model.components.mlp import ACTIVATIONS, MLP, GatedMLP
from tests.tiny import assert_close, build, redraw

X = torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def make(kind: type, **fields: Any) -> Any:
    cfg = build(**fields).cfg
    mlp = kind(cfg, cfg.d_mlp).double()
    redraw(mlp)
    return mlp


@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - {"solu"}))
def test_activations_are_huggingfaces(name: str) -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    # gelu_fast writes sqrt(2/pi) with ten digits
    assert_close(ACTIVATIONS[name](x), ACT2FN[name](x), 1e-9)


@torch.no_grad()
def test_plain() -> None:
    mlp = make(MLP, act_fn="relu")
    expected = (X @ mlp.W_in + mlp.b_in).relu() @ mlp.W_out + mlp.b_out
    assert_close(mlp(X), expected, 1e-13)  # sums of 20 float64 numbers


@pytest.mark.parametrize("norm", ["LN", "LNPre", "RMS", None])
@pytest.mark.parametrize("act_fn", ["solu", "solu_ln", "gelu_ln"])
@torch.no_grad()
def test_a_norm_over_neurons(act_fn: str, norm: Any) -> None:
    """SoLU is x softmax(x); "_ln" is a LayerNorm, which has a gain where the model's norms are "LN"."""
    mlp = make(MLP, act_fn=act_fn, normalization_type=norm)
    seen: dict[str, torch.Tensor] = {}
    for name, part in mlp.named_modules():
        if isinstance(part, HookPoint):
            part.add_hook(lambda value, hook, name=name: seen.update({name: value}))
    pre = X @ mlp.W_in + mlp.b_in
    mid = pre * (pre - pre.logsumexp(-1, keepdim=True)).exp() if "solu" in act_fn else torch.nn.functional.gelu(pre)
    post, out = mid, mlp(X)
    names = {"hook_pre", "hook_post"}
    if act_fn.endswith("_ln"):
        scale = (mid.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        normalized = (mid - mid.mean(-1, keepdim=True)) / scale
        post = normalized * mlp.ln.w + mlp.ln.b if norm == "LN" else normalized
        for name, value in {"hook_mid": mid, "ln.hook_scale": scale, "ln.hook_normalized": normalized}.items():
            assert_close(seen[name], value, 1e-12)
            names.add(name)
    assert seen.keys() == names
    assert_close(out, post @ mlp.W_out + mlp.b_out, 1e-12)
    assert_close(seen["hook_post"], post, 1e-12)


@torch.no_grad()
def test_gated() -> None:
    """The activation is on the gate, and `hook_pre` is the gate."""
    mlp = make(GatedMLP, gated_mlp=True, act_fn="silu")
    seen: dict[str, torch.Tensor] = {}
    for name in ("hook_pre", "hook_pre_linear", "hook_post"):
        getattr(mlp, name).add_hook(lambda value, hook, name=name: seen.update({name: value}))
    gate, linear = X @ mlp.W_gate + mlp.b_gate, X @ mlp.W_in + mlp.b_in
    post = torch.nn.functional.silu(gate) * linear
    assert_close(mlp(X), post @ mlp.W_out + mlp.b_out, 1e-13)
    assert_close(seen["hook_pre"], gate, 1e-13)
    assert_close(seen["hook_pre_linear"], linear, 1e-13)
    assert_close(seen["hook_post"], post, 1e-13)
