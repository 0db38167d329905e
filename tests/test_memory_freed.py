"""A model that nobody holds is gone at once: no cycle of references waits for the garbage collector.

A cycle would keep the weights of a deleted model, on a GPU too, until a collection happens to run.
"""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp_hooks
from interp_hooks import HookedTransformer, HookPoint, KeyValueCache, LogitDiff
from tests.test_families import member
from tests.tiny import random_tokens

TOKENS = random_tokens(batch=2, pos=7)


class Interruption(RuntimeError):
    """Raised by a hook."""


def _fail(value: Tensor, hook: HookPoint) -> None:
    raise Interruption


def _interrupted(model: HookedTransformer, hook: str, **options: Any) -> None:
    try:
        model.run_with_hooks(TOKENS, fwd_hooks=[(hook, _fail)], **options)
    except Interruption:
        return
    raise AssertionError("the hook did not fire")


def _backward(model: HookedTransformer) -> None:
    model(TOKENS, return_type="loss").backward()


def _hooked_backward(model: HookedTransformer) -> None:
    gradients: list[Tensor] = []
    loss = model.run_with_hooks(
        TOKENS, return_type="loss", bwd_hooks=[("blocks.1.hook_resid_post", lambda g, hook: gradients.append(g))]
    )
    loss.backward()
    assert gradients


def _attached_and_forgotten(model: HookedTransformer) -> None:
    """The hook closes over the model itself, and is taken off again."""
    model.add_hook("blocks.0.hook_resid_pre", lambda value, hook: value + 0 * model.W_E.sum())
    model(TOKENS)
    model.reset_hooks()


def _patched(model: HookedTransformer) -> None:
    interp_hooks.patch(model, TOKENS, random_tokens(batch=2, pos=7, seed=1), LogitDiff([1, 2], [3, 4]), "resid_pre")


def _loss_gradients(model: HookedTransformer) -> None:
    model.run_with_cache(TOKENS, return_type="loss", incl_bwd=True)


def _decomposed(model: HookedTransformer) -> None:
    _, cache = model.run_with_cache(TOKENS)
    cache.logit_attrs(cache.decompose_resid(), 3, include_bias=True)


def _exported(model: HookedTransformer) -> None:
    with torch.no_grad():
        model.b_U.zero_()  # folding filled it, and the checkpoint has none
    model.to_hf()


def _decoded(model: HookedTransformer) -> None:
    cache = KeyValueCache()
    for part in TOKENS.split([4, 3], dim=1):
        model(part, past_kv_cache=cache)


USES: dict[str, Callable[[HookedTransformer], object]] = {
    "nothing": lambda model: None,
    "forward": lambda model: model(TOKENS),
    "backward": _backward,
    "run_with_cache": lambda model: model.run_with_cache(TOKENS),
    "run_with_cache with gradients": _loss_gradients,
    "decomposition": _decomposed,
    "run_with_hooks": lambda model: model.run_with_hooks(TOKENS, fwd_hooks=[("z0", lambda value, hook: value * 2)]),
    "backward hooks": _hooked_backward,
    "hooks that stay, then reset": _attached_and_forgotten,
    "generate": lambda model: model.generate(TOKENS, 4),
    "key/value cache": _decoded,
    "patch": _patched,
    "verify": lambda model: model.verify(member("neox")),
    "export": _exported,
    "hook table": lambda model: model.hook_table(),
    "cast": lambda model: model.double(),
    "an exception in a hook": lambda model: _interrupted(model, "blocks.1.attn.hook_z"),
    "an exception with a cache": lambda model: _interrupted(
        model, "blocks.2.hook_mlp_out", past_kv_cache=KeyValueCache()
    ),
}


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("use", USES)
def test_a_model_is_gone_when_its_last_name_is(use: str) -> None:
    model = HookedTransformer.from_pretrained("tiny", hf_model=member("neox"))
    died = [weakref.ref(model), weakref.ref(model.W_E), weakref.ref(model.blocks[1].attn.W_Q)]
    USES[use](model)
    del model
    assert [one() for one in died] == [None, None, None]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("name", ["gpt2", "mixtral", "deepseek-v3", "gpt-oss", "bert"])
def test_every_kind_of_model_is_gone_after_a_pass(name: str) -> None:
    model = HookedTransformer.from_pretrained("tiny", hf_model=member(name))
    died = [weakref.ref(model), weakref.ref(model.W_U)]
    model.run_with_cache(TOKENS)
    del model
    assert [one() for one in died] == [None, None]


@pytest.mark.usefixtures("no_collector")
def test_a_checkpoint_leaves_nothing_of_what_it_was_loaded_through(tmp_path: Path) -> None:
    """The weights that a folder's model has are those of no other object, and none outlives it."""
    member("neox").save_pretrained(tmp_path)
    gc.collect()

    def parameters() -> int:
        return sum(type(one) is torch.nn.Parameter for one in gc.get_objects())

    before = parameters()
    model = HookedTransformer.from_pretrained(str(tmp_path))
    count = len(list(model.parameters()))
    del model
    assert count > 20
    gc.collect()  # transformers' own model classes are full of cycles
    assert parameters() == before


@pytest.mark.usefixtures("no_collector")
def test_activations_are_gone_with_their_cache() -> None:
    model = HookedTransformer.from_pretrained("tiny", hf_model=member("neox"))
    _, cache = model.run_with_cache(TOKENS)
    died = [weakref.ref(cache), weakref.ref(cache["resid_post", 1])]
    del cache, _
    assert [one() for one in died] == [None, None]
    model(TOKENS)


@pytest.mark.usefixtures("no_collector")
def test_a_cycle_is_noticed() -> None:
    """A mutant for the tests above: a model that somebody lets refer to itself."""
    model = HookedTransformer.from_pretrained("tiny", hf_model=member("neox"))
    died = weakref.ref(model)
    model.hook_dict["hook_embed"].ctx["model"] = model
    del model
    assert died() is not None
    gc.collect()
    assert died() is None
