"""Gradient checkpointing: blocks that are computed again have the functions of their pass; the rest is refused."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from interp_hooks import HookedRootModule, HookedTransformer, HookPoint, steer
from interp_hooks.errors import HookConflict, HookDidNotFire
from tests.tiny import build, random_tokens

TOKENS = random_tokens(batch=2, pos=5, d_vocab=19)


@contextmanager
def checkpointed(*modules: nn.Module, reentrant: bool = False) -> Iterator[None]:
    before = [module.forward for module in modules]
    for module in modules:
        module.forward = functools.partial(checkpoint, module.forward, use_reentrant=reentrant)
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            module.forward = forward


def doubled(value: Tensor, hook: HookPoint) -> Tensor:
    return value * 2


def shifted(value: Tensor, hook: HookPoint) -> Tensor:
    """A function that autograd need keep nothing for, so that torch does not notice when it is gone."""
    return value + torch.linspace(-3, 3, value.shape[-1], dtype=value.dtype)


def gradients(model: HookedTransformer, output: Tensor) -> list[Tensor]:
    model.zero_grad()
    output.square().sum().backward()
    found = [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    return found


def in_a_call(model: HookedTransformer) -> list[Tensor]:
    return gradients(model, model.run_with_hooks(TOKENS, fwd_hooks=[("resid_mid1", shifted), ("z2", doubled)]))


def in_a_block(model: HookedTransformer) -> list[Tensor]:
    with model.hooks(fwd_hooks=[("resid_mid1", shifted)]), model.hooks(fwd_hooks=[("z1", doubled)]):
        output = model(TOKENS)
    return gradients(model, output)


def attached(model: HookedTransformer) -> list[Tensor]:
    """... and removed before the gradients are asked for."""
    model.add_hook("resid_mid1", shifted)
    output = model(TOKENS)
    model.reset_hooks()
    return gradients(model, output)


def attached_later(model: HookedTransformer) -> list[Tensor]:
    output = model(TOKENS)
    model.add_hook("resid_mid1", shifted)
    found = gradients(model, output)
    model.reset_hooks()
    return found


def beside_another_call(model: HookedTransformer) -> list[Tensor]:
    output = model.run_with_hooks(TOKENS, fwd_hooks=[("resid_mid1", shifted)])
    with model.hooks(fwd_hooks=[("mlp_out0", doubled)], bwd_hooks=[("mlp_out2", doubled)]):
        return gradients(model, output)


def steered(model: HookedTransformer) -> list[Tensor]:
    with steer(model, torch.linspace(-1, 1, 12, dtype=torch.float64), "mlp_out1", positions=3):
        output = model(TOKENS)
    model(TOKENS[:, :2])
    return gradients(model, output)


def backward(model: HookedTransformer) -> list[Tensor]:
    return gradients(model, model.run_with_hooks(TOKENS, bwd_hooks=[("resid_mid1", doubled)]))


def cached(model: HookedTransformer) -> list[Tensor]:
    _, cache = model.run_with_cache(TOKENS, names_filter="mlp_out1", incl_bwd=lambda logits: logits.square().sum())
    found = [cache["mlp_out", 1], cache["blocks.1.hook_mlp_out_grad"]]
    model.zero_grad()
    return found


CALLS = [in_a_call, in_a_block, attached, attached_later, beside_another_call, steered, backward, cached]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_blocks_have_the_functions_of_their_pass_again(
    call: Callable[[HookedTransformer], list[Tensor]], reentrant: bool
) -> None:
    model = build()
    expected = call(model)
    if call is backward and reentrant:  # the first time torch keeps no graph there
        with checkpointed(*model.blocks, reentrant=True), pytest.raises(HookDidNotFire, match="needs no gradient"):
            call(model)
        return
    with checkpointed(*model.blocks, reentrant=reentrant):
        found = call(model)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not [point.name for point in model.hook_points() if point.hooked]


def test_it_is_the_functions_that_make_the_difference() -> None:
    model = build()
    plain = gradients(model, model(TOKENS))
    for call in (in_a_call, in_a_block, attached, steered):
        assert not torch.allclose(call(model)[0], plain[0], rtol=0, atol=1e-3)
    for one, other in zip(attached_later(model), plain, strict=True):
        assert torch.equal(one, other)


def test_a_call_within_what_is_checkpointed_is_made_again() -> None:
    model = build()
    run = functools.partial(model.run_with_hooks, fwd_hooks=[("resid_mid1", shifted), ("hook_embed", doubled)])
    expected = gradients(model, run(TOKENS))
    found = gradients(model, checkpoint(run, TOKENS, use_reentrant=False))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_cannot_be_kept_is_refused() -> None:
    model = build()
    told = r"blocks.1.* is hooked, and within something that torch.utils.checkpoint computes again"
    for reentrant in (False, True):
        with checkpointed(model.blocks[1].mlp, reentrant=reentrant), pytest.raises(HookConflict, match=told):
            model.run_with_hooks(TOKENS, fwd_hooks=[("post1", shifted)])
    with model.hooks(fwd_hooks=[("resid_mid1", shifted)]), pytest.raises(HookConflict, match=told):
        checkpoint(model, TOKENS, use_reentrant=False)
    model.add_hook("resid_mid1", shifted)
    with pytest.raises(HookConflict, match=told):
        checkpoint(model, TOKENS, use_reentrant=False)
    model.reset_hooks()


def whole(model: HookedTransformer, reentrant: bool | None) -> Tensor:
    """A pass that is checkpointed as a whole, from a stream that wants gradients; None: one that is not."""
    stream = model.input_to_embed(TOKENS).residual.detach().requires_grad_()
    run = functools.partial(model, start_at_layer=0)
    return run(stream) if reentrant is None else checkpoint(run, stream, use_reentrant=reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_whole_model_is_computed_again_as_it_was_or_refused(reentrant: bool) -> None:
    """torch computes a reentrant part without gradients the first time."""
    model, functions = build(), [("resid_mid1", shifted)]
    expected = gradients(model, whole(model, None))
    output = whole(model, reentrant)
    with model.hooks(fwd_hooks=functions):
        with pytest.raises(HookConflict, match=r"resid_mid is hooked, and within something .* is_permanent=True"):
            whole(model, reentrant)
        with pytest.raises(HookConflict, match=r"resid_mid is hooked, and .* it again .* while the first time it was"):
            gradients(model, output)
    found = gradients(model, whole(model, reentrant))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    model.add_hook("resid_mid1", shifted, is_permanent=True)
    expected = gradients(model, whole(model, None))
    found = gradients(model, whole(model, reentrant))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_call_within_a_whole_model(reentrant: bool) -> None:
    model = build()
    stream = model.input_to_embed(TOKENS).residual.detach().requires_grad_()
    run = functools.partial(model.run_with_hooks, start_at_layer=0, fwd_hooks=[("resid_mid1", shifted)])
    expected = gradients(model, run(stream))
    found = gradients(model, checkpoint(run, stream, use_reentrant=reentrant))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_reentrant_without_an_input_that_wants_gradients_torch_itself_tells() -> None:
    """There are no gradients then, of which any could be wrong."""
    model = build()
    with model.hooks(fwd_hooks=[("resid_mid1", shifted)]):
        expected = model(TOKENS)
        with pytest.warns(UserWarning, match="None of the inputs have requires_grad=True"):
            output = checkpoint(model, TOKENS, use_reentrant=True)
    assert torch.equal(output, expected)
    assert not output.requires_grad


def test_what_is_permanent_and_what_is_elsewhere_is_not_refused() -> None:
    model = build()
    expected = in_a_call(model)
    with checkpointed(model.blocks[1].mlp, model.blocks[0].attn):
        found = in_a_call(model)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    model.add_perma_hook("post1", shifted)
    expected = gradients(model, model(TOKENS))
    with checkpointed(model.blocks[1].mlp):
        found = gradients(model, model(TOKENS))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


class Own(HookedRootModule):
    """A user's own module, which checkpoints a part of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.hook_inside = nn.Linear(3, 3), HookPoint("batch width")
        self.hook_outside = HookPoint("batch width")
        self.setup()

    def _part(self, x: Tensor) -> Tensor:
        return self.hook_inside(self.inner(x)).square()

    def forward(self, x: Tensor) -> Any:
        return self.hook_outside(checkpoint(self._part, x, use_reentrant=False))


def test_ones_own_module() -> None:
    own, x = Own(), torch.ones(2, 3)
    own.run_with_hooks(x, fwd_hooks=[("hook_outside", doubled)]).sum().backward()
    with torch.no_grad():
        own.run_with_hooks(x, fwd_hooks=[("hook_inside", doubled)])
    with pytest.raises(HookConflict, match="hook_inside is hooked"):
        own.run_with_hooks(x, fwd_hooks=[("hook_inside", doubled)])
