"""Transforms of torch.func, forward-mode and second derivatives, against loops, plain gradients and differences."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from tests.tiny import build, hooked, random_tokens, unchecked_types

KINDS: dict[str, Callable[[], HookedTransformer]] = {
    "plain": build,
    "grouped": lambda: build(
        n_key_value_heads=2, positional_embedding_type="rotary", gated_mlp=True, normalization_type="RMS"
    ),
    "alibi": lambda: hooked("alibi-windows"),
    "experts": lambda: hooked("plain-experts"),
}
STEP = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # in torch itself


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return copy.deepcopy(KINDS[request.param]())


@pytest.fixture(autouse=True)
def _unchecked() -> Any:
    with unchecked_types():
        yield


def prompts(model: HookedTransformer, batch: int = 3) -> Tensor:
    return random_tokens(batch=batch, pos=5, d_vocab=19)


def last_sum(model: HookedTransformer) -> Callable[[Tensor], Tensor]:
    """A number of a stream that enters the first layer."""
    weight = torch.linspace(-1, 1, model.cfg.d_vocab_out, dtype=torch.float64)
    return lambda stream: (model(stream, start_at_layer=0)[:, -1] @ weight).sum()


def streams(model: HookedTransformer) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 4, model.cfg.d_model)
    return tuple(torch.randn(sizes, generator=generator, dtype=torch.float64) for _ in range(2))  # pyright: ignore


def gradient(of: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.detach().clone().requires_grad_()
    return torch.autograd.grad(of(at), at)[0]


def slope_of_gradient(model: HookedTransformer) -> Tensor:
    """The gradient's change along a direction, by differences."""
    (x, v), f = streams(model), last_sum(model)
    return (gradient(f, x + STEP * v) - gradient(f, x - STEP * v)) / (2 * STEP)


def test_gradients_of_each_prompts_loss(model: HookedTransformer) -> None:
    tokens = prompts(model)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(model, weights, (row[None],), {"return_type": "loss"})

    found = vmap(grad(loss), in_dims=(None, 0))(weights, tokens)
    for place, row in enumerate(tokens):
        model.zero_grad()
        model(row[None], return_type="loss").backward()
        for name, weight in model.named_parameters():
            expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
            torch.testing.assert_close(found[name][place], expected, rtol=0, atol=1e-12, msg=name)


def test_directional_derivatives(model: HookedTransformer) -> None:
    (x, v), f = streams(model), last_sum(model)
    with torch.no_grad():
        expected = (f(x + STEP * v) - f(x - STEP * v)) / (2 * STEP)
    (_, found) = jvp(f, (x,), (v,))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-7, atol=1e-8)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(f(forward_ad.make_dual(x, v))).tangent
    assert dual is not None
    torch.testing.assert_close(dual.detach(), expected, rtol=1e-7, atol=1e-8)


def test_second_derivatives(model: HookedTransformer) -> None:
    (x, v), f = streams(model), last_sum(model)
    expected = slope_of_gradient(model)
    by_func = jvp(grad(f), (x,), (v,))[1]
    torch.testing.assert_close(by_func.detach(), expected, rtol=1e-6, atol=1e-7)
    x = x.requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    (second,) = torch.autograd.grad((first * v).sum(), x)
    torch.testing.assert_close(second, expected, rtol=1e-6, atol=1e-7)


def test_a_hessian() -> None:
    model = build(n_layers=1)
    x, f = streams(model)[0][:1, :2], last_sum(model)
    found = hessian(f)(x).flatten(0, 2).flatten(1).detach()
    size = x.numel()
    units = torch.eye(size, dtype=torch.float64).unflatten(1, x.shape)
    rows = [(gradient(f, x + STEP * one) - gradient(f, x - STEP * one)).flatten() / (2 * STEP) for one in units]
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-6, atol=1e-6)


def test_a_second_derivative_through_the_fused_kernel_says_what_to_do() -> None:
    model = build()
    (x, v), f = streams(model), last_sum(model)
    x = x.requires_grad_()
    (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    torch.testing.assert_close(first.detach(), gradient(f, x), rtol=0, atol=0)
    with pytest.raises(BadInput, match=r"no second derivatives: .*SDPBackend\.MATH"):
        torch.autograd.grad((first * v).sum(), x)
    _, second = model.run_with_cache(x, start_at_layer=0, names_filter="pattern1", incl_bwd=lambda out: out.sum())
    assert second["blocks.1.attn.hook_pattern_grad"].abs().sum() > 0


def test_hooks_masks_and_caches_under_vmap() -> None:
    model = build()
    tokens, mask = prompts(model), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    hooks: Any = [("z1", lambda value, hook: value * 2)]

    def same(call: Callable[..., Tensor], *given: Tensor) -> None:
        found = vmap(lambda *rows: call(*(row[None] for row in rows))[0])(*given)
        torch.testing.assert_close(found.detach(), call(*given).detach(), rtol=0, atol=1e-12)

    same(lambda tokens: model(tokens, logits_pos=-1), tokens)
    same(lambda tokens, mask: model(tokens, attention_mask=mask), tokens, mask)
    same(lambda tokens: model.run_with_hooks(tokens, fwd_hooks=hooks), tokens)
    same(lambda tokens: model.run_with_cache(tokens, names_filter="z1")[1]["z", 1], tokens)
    with pytest.raises(BadInput, match=r"token ids must be 0\.\.22"):
        vmap(lambda row: model(row[None])[0])(tokens + torch.tensor([[0], [0], [23]]))
