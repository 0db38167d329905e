"""What packages written for TransformerLens do to it: the names that they import, and how they reach into a model."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_hooks import HookPoint
from interp_hooks.compat.model import HookedTransformer
from interp_hooks.compat.stand_ins import let_modules_stand_in
from interp_hooks.errors import BadInput
from tests.compat.test_compat import check
from tests.tiny import CUSTOM, assert_close, build, random_tokens, redraw

TOKENS = random_tokens(batch=2, pos=6, d_vocab=19)


def compat_model(**fields: Any) -> HookedTransformer:
    """A model with random weights, as code for TransformerLens gets it."""
    model = HookedTransformer(build(**fields).cfg).eval()
    redraw(model, std=0.4)
    return model


# ------------------------------------------------------------------------------------------------------------- imports

IMPORTED = """
from transformer_lens import ActivationCache, HookedTransformer, HookedTransformerConfig, utils
from transformer_lens import HookedTransformerKeyValueCache
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.HookedTransformer import HookedRootModule, HookedTransformer, Loss, Output
from transformer_lens.HookedTransformer import HookedTransformerConfig
from transformer_lens.HookedTransformerConfig import HookedTransformerConfig
from transformer_lens.components.mlps.can_be_used_as_mlp import CanBeUsedAsMLP
from transformer_lens.hook_points import HookedRootModule, HookPoint
from transformer_lens.past_key_value_caching import HookedTransformerKeyValueCache
from transformer_lens.utils import USE_DEFAULT_VALUE, get_attention_mask, get_tokens_with_bos_removed
from transformer_lens.utils import lm_cross_entropy_loss
"""


def test_what_clients_import_is_there() -> None:
    """SAELens, circuit-tracer, EAP-IG, ACDC, auto-circuit, sae-dashboard, sae-vis, tuned-lens."""
    check(f"""
{IMPORTED}
import torch
from typing import get_type_hints
def annotated(mlp: CanBeUsedAsMLP) -> Loss: ...
assert set(get_type_hints(annotated)) == {{"mlp", "return"}}
model = HookedTransformer.from_pretrained("ioi-tiny")
assert isinstance(model.blocks[0].mlp, CanBeUsedAsMLP) and not isinstance(model.blocks[0].attn, CanBeUsedAsMLP)
assert isinstance(model(torch.tensor([[1, 2]]), return_type="both"), Output)
assert USE_DEFAULT_VALUE is None
""")


# ------------------------------------------------------------------------------------- modules in place of hook points


class Bends(nn.Module):
    """Something that could be a dictionary."""

    by = 0.9

    def forward(self, value: Tensor) -> Tensor:
        return torch.tanh(value) * self.by


@pytest.mark.parametrize(
    "name",
    [
        *("hook_resid_pre", "hook_q_input", "ln1.hook_scale", "ln2.hook_normalized", "attn.hook_pattern"),
        *("attn.hook_z", "attn.hook_result", "hook_mlp_out"),
    ],
)
def test_a_module_in_place_of_a_hook_point_is_as_one_that_is_spliced_in(name: str) -> None:
    model, place, watching = compat_model(), f"blocks.1.{name}", let_modules_stand_in()
    with torch.no_grad(), watching:
        plain = model(TOKENS)
        with model.splice(place, Bends()):
            expected = model(TOKENS)
        parent, _, attribute = place.rpartition(".")
        setattr(model.get_submodule(parent), attribute, Bends())
        assert_close(model(TOKENS), expected, 1e-12)
        assert not torch.allclose(expected, plain)
        twin = copy.deepcopy(model)
        twin.get_submodule(place).by = 0.0
        assert not torch.allclose(twin(TOKENS), expected)
        setattr(model.get_submodule(parent), attribute, Bends())  # one after the other
        assert_close(model(TOKENS), expected, 1e-12)
        setattr(model.get_submodule(parent), attribute, HookPoint())
        assert_close(model(TOKENS), plain, 1e-12)


# ---------------------------------------------------------------------------------------------------------- attributes


@pytest.mark.parametrize("fields", [{}, CUSTOM["alibi-windows"], dict(attention_dir="bidirectional")])
def test_the_mask_is_where_patterns_are_not_zero(fields: dict[str, Any]) -> None:
    model = compat_model(**fields)
    _, cache = model.run_with_cache(TOKENS)
    for layer, block in enumerate(model.blocks):
        mask = block.attn.mask
        assert mask.shape == (9, 9)
        assert torch.equal(cache["pattern", layer].gt(0).all((0, 1)), mask[:6, :6])
        assert block.attn.attn_type == ("global" if model.cfg.window_at(layer) is None else "local")


def test_a_mask_can_be_shared_and_not_exchanged() -> None:
    model = compat_model()
    model.blocks[0].attn.mask = model.blocks[1].attn.mask
    with pytest.raises(BadInput, match="told by the config"):
        model.blocks[0].attn.mask = torch.ones(9, 9, dtype=torch.bool)


def test_functions_at_norms_that_a_block_lacks_are_never_called() -> None:
    model, called = compat_model(), []
    names = set(model.hook_dict)
    model.blocks[0].ln1_post.hook_scale.add_hook(lambda value, hook: called.append(hook))
    model(TOKENS)
    model.setup()
    assert called == []
    assert set(model.hook_dict) == names


def test_handles_tell_the_functions_of_their_point() -> None:
    def sender_hook(value: Tensor, hook: HookPoint, more: int) -> Tensor:
        return value

    model = compat_model()
    for more in (1, 2):
        model.add_hook("hook_embed", partial(sender_hook, more=more))
    model.add_hook("hook_embed", lambda value, hook: value)
    first, second, other = model.hook_embed.fwd_hooks
    functions = first.hook.hooks_dict_ref()
    assert functions == second.hook.hooks_dict_ref() == other.hook.hooks_dict_ref()
    names = [function.__name__ for function in functions.values()]
    assert ["sender_hook" in name for name in names] == [True, True, False]


def test_n_ctx_can_be_assigned_for_a_while() -> None:
    check("""
from transformer_lens import HookedTransformer
model = HookedTransformer.from_pretrained("ioi-tiny")
text, before = " Mary went to the store" * 3, model.cfg.n_ctx
assert model.to_tokens(text).shape[1] > 4
model.cfg.n_ctx = 4
assert model.to_tokens(text, truncate=True).shape[1] == 4
model.cfg.n_ctx = before
assert model.to_tokens(text, truncate=True).shape[1] > 4 and model.cfg.n_ctx == before
""")


def test_a_model_without_groups_counts_as_ungrouped() -> None:
    """Code asks for it where `n_key_value_heads` is no None, which it is nowhere here."""
    assert compat_model().cfg.ungroup_grouped_query_attention
    grouped = compat_model(n_key_value_heads=2)
    assert not grouped.cfg.ungroup_grouped_query_attention
    grouped.set_ungroup_grouped_query_attention(True)
    assert grouped.cfg.ungroup_grouped_query_attention


def test_a_vocabulary_of_no_tokens() -> None:
    """A model of streams alone, as ACDC builds one to see which hook points there are."""
    model = HookedTransformer(dict(n_layers=1, d_model=4, n_ctx=3, d_head=2, n_heads=2, act_fn="gelu", d_vocab=0))
    stream = torch.randn(1, 3, 4)
    assert model(stream, start_at_layer=0, stop_at_layer=1).shape == (1, 3, 4)
    assert model.W_E.shape == (0, 4)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("openai-community/gpt2", "gpt2"),
        ("gpt2-small", "gpt2"),
        ("EleutherAI/pythia-70m-deduped", "pythia-70m-deduped"),
        ("somebody/pythia-70m-deduped", "somebody/pythia-70m-deduped"),
        ("", ""),
    ],
)
def test_a_config_says_a_models_name_without_its_owner(ours: str, theirs: str) -> None:
    cfg = build().cfg.replace(model_name=ours)
    assert HookedTransformer(cfg).cfg.model_name == theirs
