"""Keys of a cache, and what is done to all of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp_hooks import ActivationCache, HookedTransformer
from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.hooks.slices import Slice
from tests.model.cache.runs_to_decompose import NEARBY, TOKENS, built
from tests.tiny import assert_close, build


@pytest.fixture(scope="module")
def cache() -> ActivationCache:
    return built("LN").run_with_cache(TOKENS)[1]


# ---------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("hook_embed", "hook_embed"),
        ("embed", "hook_embed"),
        ("blocks.1.attn.hook_q", "blocks.1.attn.hook_q"),
        (("q", 0), "blocks.0.attn.hook_q"),
        (("q", -1), "blocks.2.attn.hook_q"),
        (("q", -3), "blocks.0.attn.hook_q"),
        ("q0", "blocks.0.attn.hook_q"),
        (("resid_post", -1), "blocks.2.hook_resid_post"),
        (("scale", 0, "ln1"), "blocks.0.ln1.hook_scale"),
        ("scale0ln1", "blocks.0.ln1.hook_scale"),
        ("scale", "ln_final.hook_scale"),
        (("normalized", None), "ln_final.hook_normalized"),
        (("attn", 0), "blocks.0.attn.hook_pattern"),
        (("post", 0, "m"), "blocks.0.mlp.hook_post"),
        ("mlp_out0", "blocks.0.hook_mlp_out"),
        ("resid_pre0", "blocks.0.hook_resid_pre"),
    ],
)
def test_keys(cache: ActivationCache, key: Any, name: str) -> None:
    assert cache[key] is cache.cache_dict[name]
    assert key in cache
    assert cache.get(key) is cache.cache_dict[name]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("resid_per0", "is no hook point. Did you mean .*blocks.0.hook_resid_pre"),
        (("resid_pre", 7), "is no hook point"),
        (("q", -9), "is no hook point"),
        ("result0", r"\(blocks.0.attn.hook_result\) was not cached in this run"),
        ("hook_nothing", "is no hook point"),
    ],
)
def test_a_wrong_key_is_told(cache: ActivationCache, key: Any, said: str) -> None:
    with pytest.raises(UnknownHook, match=said):
        cache[key]
    with pytest.raises(KeyError):
        cache[key]
    assert key not in cache
    assert cache.get(key) is None


@pytest.mark.parametrize("key", [3, ("q",), ("q", 0, "attn", "more"), None])
def test_a_key_that_is_none_at_all_is_a_key_error(cache: ActivationCache, key: Any) -> None:
    with pytest.raises(KeyError):
        cache[key]
    assert key not in cache


def test_it_is_a_mapping(cache: ActivationCache) -> None:
    assert list(cache) == list(cache.keys()) == list(cache.cache_dict)
    assert len(cache) == len(list(cache.values()))
    assert dict(cache.items())["hook_embed"] is cache["embed"]
    assert str(len(cache)) in repr(cache)


def test_a_plain_dict_on_request(plain: HookedTransformer) -> None:
    _, stored = plain.run_with_cache(TOKENS, names_filter="embed", return_cache_object=False)
    assert type(stored) is dict
    assert list(stored) == ["hook_embed"]


def test_moving_moves_this_cache(plain: HookedTransformer) -> None:
    _, cache = plain.run_with_cache(TOKENS)
    assert cache.to("meta") is cache
    assert {value.device.type for value in cache.values()} == {"meta"}


def test_weights_follow_the_activations(plain: HookedTransformer) -> None:
    """Whatever is computed from a cache is computed where the cache lies."""
    _, cache = plain.run_with_cache(TOKENS)
    cache.to("meta")
    onto = torch.zeros(12)
    for made in (
        cache.decompose_resid(apply_ln=True),
        cache.stack_head_results(apply_ln=True, incl_remainder=True),
        cache.stack_neuron_results(apply_ln=True, project_output_onto=onto),
        cache.get_full_resid_decomposition(apply_ln=True),
        cache.apply_ln_to_stack(cache.decompose_resid()),
        cache.logit_attrs(cache.decompose_resid(), 3, 4, include_bias=True),
    ):
        assert made.device.type == "meta"


def test_gradients_are_turned_off_and_on_for_everything(cache: ActivationCache) -> None:
    before = torch.is_grad_enabled()
    try:
        cache.toggle_autodiff()
        assert not torch.is_grad_enabled()
        cache.toggle_autodiff(True)
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(before)


def test_a_single_prompt_loses_its_batch_axis(plain: HookedTransformer) -> None:
    _, with_batch = plain.run_with_cache(TOKENS[:1])
    _, without = plain.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    assert not without.has_batch_dim
    for name in with_batch:
        assert torch.equal(without[name], with_batch[name][0])
    assert with_batch.remove_batch_dim() is with_batch
    assert with_batch.remove_batch_dim()["embed"].ndim == 2, "once is enough"


def test_several_prompts_keep_theirs(plain: HookedTransformer) -> None:
    with pytest.raises(BadInput, match="only be removed from a single prompt, got 3"):
        plain.run_with_cache(TOKENS, remove_batch_dim=True)


PROMPTS: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "all": (None, lambda x: x),
    "a range": ((1, 3), lambda x: x[1:3]),
    "the first": ((1,), lambda x: x[:1]),
    "a list": ([2, 0], lambda x: x[[2, 0]]),
    "a mask": (torch.tensor([True, False, True]), lambda x: x[[0, 2]]),
    "one": (-1, lambda x: x[-1]),
    "a slice": (Slice((0, 3, 2)), lambda x: x[::2]),
}


@pytest.mark.parametrize("label", PROMPTS)
def test_a_cache_of_some_prompts(cache: ActivationCache, label: str) -> None:
    where, sliced = PROMPTS[label]
    some = cache.apply_slice_to_batch_dim(where)
    assert some.has_batch_dim == (label != "one")
    assert list(some) == list(cache)
    assert all(torch.equal(some[name], sliced(cache[name])) for name in cache)
    assert some.model is cache.model
    assert cache.has_batch_dim
    assert len(cache["embed"]) == 3, "the whole cache stays"


def test_prompts_that_are_not_there(cache: ActivationCache) -> None:
    with pytest.raises(BadInput, match="3 is out of range for an axis of 3"):
        cache.apply_slice_to_batch_dim(3)
    single = cache.apply_slice_to_batch_dim(0)
    with pytest.raises(BadInput, match="the batch axis of this cache was removed"):
        single.apply_slice_to_batch_dim(0)
    assert torch.equal(single.apply_slice_to_batch_dim(None)["embed"], single["embed"])


# --------------------------------------------------------------------------------------------------- across the layers


@pytest.mark.parametrize("layer", [1, 2, 3, -1, None])
def test_one_activation_of_every_layer(cache: ActivationCache, layer: int | None) -> None:
    count = 3 if layer in (-1, None) else layer
    for key, name in {
        ("resid_post",): "hook_resid_post",
        ("attn",): "attn.hook_pattern",
        ("scale", "ln2"): "ln2.hook_scale",
        ("post", "m"): "mlp.hook_post",
    }.items():
        stack = cache.stack_activation(key[0], layer, *key[1:])
        assert torch.equal(stack, torch.stack([cache[f"blocks.{at}.{name}"] for at in range(count)]))


@pytest.mark.parametrize("layer", [0, 4, -2])
def test_layers_that_cannot_be_stacked(cache: ActivationCache, layer: int) -> None:
    with pytest.raises(BadInput, match=rf"layer must be 1\.\.3.* got {layer}"):
        cache.stack_activation("q", layer)
    with pytest.raises(UnknownHook, match="is no hook point"):
        cache.stack_activation("queries")


@pytest.mark.parametrize("kind", ["LN", "rotary grouped"])
def test_results_of_heads_are_added(kind: str) -> None:
    model = built(kind)
    _, cache = model.run_with_cache(TOKENS)
    assert "result0" not in cache
    cache.compute_head_results()
    _, seen = model.run_with_cache(TOKENS, names_filter=lambda name: name.endswith("hook_result"))
    for layer in range(3):
        assert_close(cache["result", layer], seen["result", layer], 1e-12)
        assert_close(cache["result", layer].sum(2) + model.blocks[layer].attn.b_O, cache["attn_out", layer], 1e-12)
    before = dict(cache)
    cache.compute_head_results()
    assert all(cache[name] is before[name] for name in before), "once is enough"


def test_results_of_heads_need_every_z(plain: HookedTransformer) -> None:
    _, cache = plain.run_with_cache(TOKENS, names_filter=["z0", "z1"])
    with pytest.raises(UnknownHook, match=r"blocks.2.attn.hook_z.* was not cached"):
        cache.compute_head_results()
    assert list(cache) == ["blocks.0.attn.hook_z", "blocks.1.attn.hook_z"], "all or nothing"


# -------------------------------------------------------------------------------------------------------------- on disk


@pytest.mark.parametrize("single", [False, True])
def test_a_saved_cache_comes_back(plain: HookedTransformer, tmp_path: Path, single: bool) -> None:
    _, cache = plain.run_with_cache(TOKENS[:1] if single else TOKENS, remove_batch_dim=single)
    cache.save(tmp_path / "run.safetensors")
    loaded = ActivationCache.load(tmp_path / "run.safetensors", plain)
    assert list(loaded) == list(cache), "in order of execution"
    assert all(torch.equal(loaded[name], cache[name]) for name in cache)
    assert loaded.has_batch_dim != single
    assert torch.equal(loaded.decompose_resid(apply_ln=True), cache.decompose_resid(apply_ln=True))
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_the_file_is_safetensors_by_hook_name(cache: ActivationCache, tmp_path: Path) -> None:
    cache.save(tmp_path / "run.safetensors")
    read = load_file(tmp_path / "run.safetensors")
    assert set(read) == set(cache)
    assert torch.equal(read["blocks.1.hook_resid_pre"], cache["resid_pre", 1])


def test_gradients_dtypes_and_slices_come_back(tmp_path: Path) -> None:
    model = built("LN").to(torch.bfloat16)
    names = ["resid_pre1", "scale0ln1", "pattern0"]
    _, cache = model.run_with_cache(NEARBY, return_type="loss", names_filter=names, incl_bwd=True)
    part = cache.apply_slice_to_batch_dim((0, 3, 2))
    assert "blocks.1.hook_resid_pre_grad" in part
    part.save(tmp_path / "run")
    loaded = ActivationCache.load(tmp_path / "run", model)
    assert list(loaded) == list(part)
    for name, value in part.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)


def test_a_cache_without_its_model_is_a_mapping(cache: ActivationCache, tmp_path: Path) -> None:
    some = ActivationCache({name: cache[name] for name in cache if "blocks.2" not in name}, cache.model)
    some.save(tmp_path / "run")
    loaded = ActivationCache.load(tmp_path / "run")
    assert torch.equal(loaded["q", -2], cache["q", 1]), "counted from the model's last layer, not the last one cached"
    assert torch.equal(loaded.stack_activation("resid_pre", 2), cache.stack_activation("resid_pre", 2))
    assert loaded.apply_slice_to_batch_dim(0)["q", -2].ndim == 3
    with pytest.raises(UnknownHook, match=r"blocks.2.attn.hook_q.* was not cached"):
        loaded["q", -1]
    for request_of in (loaded.decompose_resid, loaded.compute_head_results, loaded.stack_neuron_results):
        with pytest.raises(BadInput, match="the cache has no model"):
            request_of()
    loaded.save(tmp_path / "again")
    loaded.model = cache.model
    assert_close(loaded.decompose_resid(1), cache.decompose_resid(1), 0.0)


def test_nothing_is_overwritten_unasked(cache: ActivationCache, tmp_path: Path) -> None:
    path = tmp_path / "run"
    cache.save(path)
    some = ActivationCache({"hook_embed": cache["embed"]}, cache.model)
    with pytest.raises(BadInput, match="exists already; overwrite=True replaces it"):
        some.save(path)
    assert len(ActivationCache.load(path)) == len(cache)
    some.save(path, overwrite=True)
    assert list(ActivationCache.load(str(path))) == ["hook_embed"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(n_layers=2), "of 3 layers, the model has 2"),
        (dict(positional_embedding_type="none"), "no hook point hook_pos_embed"),
        (dict(d_mlp=21), r"blocks.0.mlp.hook_pre is \[3, 6, 20\]"),
        (dict(n_heads=3), r"hook_q is \[3, 6, 4, 4\]"),
    ],
)
def test_a_model_that_is_built_otherwise_is_refused(
    cache: ActivationCache, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    cache.save(tmp_path / "run")
    with pytest.raises(BadInput, match=said):
        ActivationCache.load(tmp_path / "run", build(**fields))


def test_what_is_no_saved_cache(tmp_path: Path) -> None:
    save_file({"hook_embed": torch.zeros(2)}, tmp_path / "other")
    (tmp_path / "text").write_text("not tensors")
    for name in ("other", "text", "nothing"):
        with pytest.raises(BadInput, match=r"is no file that ActivationCache\.save wrote"):
            ActivationCache.load(tmp_path / name)
