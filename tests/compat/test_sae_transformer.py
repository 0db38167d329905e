"""SAELens' calls do what SAELens' documentation says of them, over this package's splices."""

from typing import Any

import pytest
import torch

from interp_hooks.compat import HookedSAETransformer
from interp_hooks.errors import BadInput, UnknownHook
from tests.dictionaries.random_ones import sae, transcoder
from tests.tiny import assert_close, build, random_tokens

TOKENS = random_tokens(d_vocab=23)
HOOK = "blocks.1.hook_mlp_out"


@pytest.fixture
def model() -> HookedSAETransformer:
    plain = build()
    made = HookedSAETransformer(plain.cfg)
    made.load_state_dict(plain.state_dict())
    return made.eval()


@torch.no_grad()
def test_runs_with_saes(model: HookedSAETransformer) -> None:
    before, one = model(TOKENS), sae()
    with model.spliced(one):
        expected = model(TOKENS)
    assert torch.equal(model.run_with_saes(TOKENS, saes=[one]), expected)
    assert_close(model.run_with_saes(TOKENS, saes=[one], use_error_term=True), before, 1e-12)
    logits, cache = model.run_with_cache_with_saes(TOKENS, saes=one, use_error_term=True)
    assert_close(logits, before, 1e-12)
    x = cache[HOOK]
    assert_close(cache[f"{HOOK}.hook_sae_acts_post"], one.encode(x), 1e-12)
    assert_close(cache[f"{HOOK}.hook_sae_recons"] + cache[f"{HOOK}.hook_sae_error"], x, 1e-12)
    assert model.acts_to_saes == {}
    features: Any = f"{HOOK}.sae.hook_features"
    off = model.run_with_hooks_with_saes(TOKENS, saes=[one], fwd_hooks=[(features, lambda value, hook: 0 * value)])
    bias = model.run_with_hooks(TOKENS, fwd_hooks=[(HOOK, lambda value, hook: one.b_dec.expand_as(value))])
    assert_close(off, bias, 1e-12)
    assert torch.equal(model(TOKENS), before)


@torch.no_grad()
def test_what_is_attached_stays_until_it_is_reset(model: HookedSAETransformer) -> None:
    before, first, second = model(TOKENS), sae(), sae(seed=1)
    model.add_sae(first)
    with_first = model(TOKENS)
    with model.saes([second]):
        assert model.acts_to_saes == {HOOK: second}
        assert not torch.equal(model(TOKENS), with_first)
    assert model.acts_to_saes == {HOOK: first}
    assert torch.equal(model(TOKENS), with_first)
    model.add_sae(sae(hook="resid_post0"), use_error_term=True)
    assert_close(model(TOKENS), with_first, 1e-12)
    with pytest.raises(BadInput, match="no dictionary is attached to hook_embed"):
        model.reset_saes([HOOK, "hook_embed"])
    model.reset_saes(HOOK)
    assert_close(model(TOKENS), before, 1e-12)
    model.reset_saes()
    assert torch.equal(model(TOKENS), before)
    model.run_with_saes(TOKENS, saes=[transcoder()], reset_saes_end=False)
    assert list(model.acts_to_saes) == ["blocks.1.ln2.hook_normalized"]


def test_what_does_not_fit_is_refused(model: HookedSAETransformer) -> None:
    model.add_sae(sae())
    with pytest.raises(BadInput, match="of width 9"):
        model.add_sae(sae(d=9))
    with pytest.raises(UnknownHook):
        model.add_sae(sae(hook="mlp_out9"))
    assert list(model.acts_to_saes) == [HOOK]
