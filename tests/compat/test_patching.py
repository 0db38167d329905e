"""Every function of `interp_hooks.compat.patching` against the loop that its name stands for."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, LogitDiff
from interp_hooks.compat import patching
from interp_hooks.errors import BadInput, UnknownHook
from tests.experiments.by_hand import LACKS, OTHER, RTOL, TOKENS, left_alone, model_of
from tests.model.test_progress import Terminal
from tests.tiny import assert_close, unchecked_types

# The result's axes beside the layer, by name: hook, then the axes in the order in which they are returned.
GRIDS: dict[str, tuple[str, Sequence[str]]] = {
    "resid_pre": ("hook_resid_pre", ["pos"]),
    "resid_mid": ("hook_resid_mid", ["pos"]),
    "attn_out": ("hook_attn_out", ["pos"]),
    "mlp_out": ("hook_mlp_out", ["pos"]),
    **{
        f"attn_head_{what}_by_pos": (f"attn.hook_{hook}", ["pos", "head"])
        for what, hook in {"out": "z", "q": "q", "k": "k", "v": "v"}.items()
    },
    **{
        f"attn_head_{what}_all_pos": (f"attn.hook_{hook}", ["head"])
        for what, hook in {"out": "z", "q": "q", "k": "k", "v": "v", "pattern": "pattern"}.items()
    },
    "attn_head_pattern_by_pos": ("attn.hook_pattern", ["head", "query"]),
    "attn_head_pattern_dest_src_pos": ("attn.hook_pattern", ["head", "query", "key"]),
}
EVERY: dict[str, Sequence[str]] = {
    "block_every": ["resid_pre", "attn_out", "mlp_out"],
    "attn_head_all_pos_every": [f"attn_head_{what}_all_pos" for what in ("out", "q", "k", "v", "pattern")],
    "attn_head_by_pos_every": [f"attn_head_{what}_by_pos" for what in ("out", "q", "k", "v", "pattern")],
}
DIRECT = ["direct_path", "direct_path_all_sources"]


def metric(logits: Tensor) -> Tensor:
    """One number for all prompts, and one that depends on all positions."""
    return (logits[:, -1, 3] - logits[:, -1, 5]).mean() + 0.1 * logits[..., 7].sum()


def get(name: str) -> Callable[..., Tensor]:
    return getattr(patching, f"get_act_patch_{name}")


def by_loop(model: HookedTransformer, cache: Any, name: str, metric: Callable[[Tensor], Tensor] = metric) -> Tensor:
    """A full forward pass for every layer and index."""
    suffix, axes = GRIDS[name]
    dims = [model.hook_dict[f"blocks.0.{suffix}"].axes.index(axis) for axis in axes]
    sizes = [cache[f"blocks.0.{suffix}"].shape[dim] for dim in dims]
    result = []
    for layer, *index in itertools.product(range(model.cfg.n_layers), *map(range, sizes)):
        hook = f"blocks.{layer}.{suffix}"

        def swap(value: Tensor, hook: Any) -> Tensor:
            where: list[Any] = [slice(None)] * value.ndim
            for dim, one in zip(dims, index, strict=True):
                where[dim] = one
            value[tuple(where)] = cache[hook.name][tuple(where)]
            return value

        with torch.no_grad():
            result.append(metric(model.run_with_hooks(TOKENS, fwd_hooks=[(hook, swap)])))
    return torch.stack(result).reshape(model.cfg.n_layers, *sizes)


def clean_cache(model: HookedTransformer) -> Any:
    with torch.no_grad():
        return model.run_with_cache(OTHER)[1]


def shape(model: HookedTransformer, name: str) -> list[int]:
    """As the field documents it: keys and values have as many heads as groups."""
    grouped = name.startswith(("attn_head_k", "attn_head_v"))
    heads = model.cfg.n_key_value_heads if grouped else model.cfg.n_heads
    sizes = {"pos": 5, "query": 5, "key": 5, "head": heads}
    return [model.cfg.n_layers, *(sizes[axis] for axis in GRIDS[name][1])]


def test_all_functions_are_compared() -> None:
    named = [name for name in patching.__all__ if name.startswith("get_act_patch")]
    assert sorted(named) == sorted(f"get_act_patch_{name}" for name in (*GRIDS, *EVERY, *DIRECT))
    assert all(get(name).__doc__ for name in (*GRIDS, *EVERY, *DIRECT))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", GRIDS)
def test_it_is_a_loop_of_plain_hooks(name: str, kind: str) -> None:
    model = model_of(kind)
    cache = clean_cache(model)
    with left_alone(model), unchecked_types():
        ours = get(name)(model, TOKENS, cache, metric, progress=False)
    assert list(ours.shape) == shape(model, name)
    with unchecked_types():
        assert_close(ours, by_loop(model, cache, name), RTOL)


def direct_path_by_hand(model: HookedTransformer, source: tuple[int, int], to: tuple[int, int], what: str) -> Tensor:
    """What the source writes in the other run goes into one head's input, and into nothing else."""
    (src_layer, src_head), (layer, head) = source, to
    with torch.no_grad():
        caches = [model.run_with_cache(tokens)[1] for tokens in (OTHER, TOKENS)]
        clean, corrupted = (cache["z", src_layer][:, :, src_head] for cache in caches)
        written = (clean - corrupted) @ model.W_O[src_layer, src_head]

        def receive(value: Tensor, hook: Any) -> Tensor:
            value[:, :, head] += written
            return value

        return metric(model.run_with_hooks(TOKENS, fwd_hooks=[(f"blocks.{layer}.hook_{what}_input", receive)]))


@pytest.mark.parametrize("component", ["q", "k", "v"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_direct_paths(kind: str, component: Any) -> None:
    """Every later head receives what one head writes; grouped keys and values are received by their groups."""
    model = model_of(kind)
    cache = clean_cache(model)
    heads = model.cfg.n_heads if component == "q" else model.cfg.n_key_value_heads
    arguments = (model, TOKENS, cache, cache, metric)
    with left_alone(model):
        one = patching.get_act_patch_direct_path(*arguments, 0, 2, component, verbose=False)
        each = patching.get_act_patch_direct_path_all_sources(*arguments, component, verbose=False)
    assert one.shape == (3, heads)
    assert each.shape == (3, model.cfg.n_heads, 3, heads)
    assert_close(each[0, 2], one, RTOL)
    for src_layer, layer, head in itertools.product(range(3), range(3), range(heads)):
        if layer <= src_layer:
            assert each[src_layer, 1, layer, head] == 0
        else:
            by_hand = direct_path_by_hand(model, (src_layer, 1), (layer, head), component)
            assert_close(each[src_layer, 1, layer, head], by_hand, RTOL)


def test_no_head_reads_what_the_last_layer_writes() -> None:
    model = model_of("gpt2")
    cache = clean_cache(model)
    found = patching.get_act_patch_direct_path(model, TOKENS, cache, cache, metric, 2, 0, verbose=False)
    assert found.shape == (3, model.cfg.n_heads)
    assert not found.any()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", EVERY)
def test_every_is_the_single_ones_stacked(name: str, kind: str) -> None:
    """Patterns by position are turned to [layer, pos, head]; key and value heads that do not exist are 0."""
    model = model_of(kind)
    cache = clean_cache(model)
    ours = get(name)(model, TOKENS, cache, metric, progress=False)
    singles = [get(one)(model, TOKENS, cache, metric, progress=False) for one in EVERY[name]]
    assert len(ours) == len(singles)
    for row, single in zip(ours, singles, strict=True):
        if name == "attn_head_by_pos_every" and single is singles[-1]:
            single = single.transpose(1, 2)
        present = single.shape[-1]
        assert torch.equal(row[..., :present], single)
        assert not row[..., present:].any()
    assert (ours.shape[-1] - singles[2].shape[-1]) == (2 if kind == "llama" and "head" in name else 0)


def test_a_metric_of_this_package_gives_a_number_for_each_prompt() -> None:
    """[layer, pos, prompt], and their mean is what a function that averages gives."""
    model, diff = model_of("gpt2"), LogitDiff([1, 2], [3, 4])
    cache = clean_cache(model)
    each = patching.get_act_patch_resid_pre(model, TOKENS, cache, diff, progress=False)
    assert each.shape == (3, 5, 2)
    mean = patching.get_act_patch_resid_pre(model, TOKENS, cache, lambda logits: diff(logits).mean(), progress=False)
    assert_close(each.mean(-1), mean, RTOL)


def test_what_the_model_lacks_is_told() -> None:
    model = model_of("neox")
    assert "resid_mid" in LACKS["neox"]
    with pytest.raises(UnknownHook, match="resid_mid"):
        patching.get_act_patch_resid_mid(model, TOKENS, clean_cache(model), metric, progress=False)


def test_a_filtered_cache_is_told() -> None:
    model = model_of("gpt2")
    _, cache = model.run_with_cache(OTHER, names_filter="blocks.0.attn.hook_z")
    with left_alone(model), pytest.raises(UnknownHook, match=r"resid_pre.* was not cached"):
        patching.get_act_patch_resid_pre(model, TOKENS, cache, metric, progress=False)


def test_a_cache_of_other_prompts_is_told() -> None:
    model = model_of("gpt2")
    with torch.no_grad():
        caches = [model.run_with_cache(tokens)[1] for tokens in (OTHER[:, :4], OTHER[:1])]
    caches.append(caches[1].remove_batch_dim())
    for cache in caches:
        with left_alone(model), pytest.raises(BadInput, match=r"cannot patch blocks\.0\.hook_resid_pre"):
            patching.get_act_patch_resid_pre(model, TOKENS, cache, metric, progress=False)


def test_progress_is_shown_unless_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    model = model_of("gpt2")
    patching.get_act_patch_attn_out(model, TOKENS, clean_cache(model), metric, False)
    assert terminal.getvalue() == ""
    patching.get_act_patch_attn_out(model, TOKENS, clean_cache(model), metric)
    assert "15/15" in terminal.getvalue()


# -------------------------------------------------------------------------------------------------- generic patching

SETTERS: dict[str, tuple[Any, str, list[str]]] = {
    "resid_pre": (patching.layer_pos_patch_setter, "resid_pre", ["layer", "pos"]),
    "attn_head_k_by_pos": (patching.layer_pos_head_vector_patch_setter, "k", ["layer", "pos", "head"]),
    "attn_head_v_all_pos": (patching.layer_head_vector_patch_setter, "v", ["layer", "head_index"]),
    "attn_head_pattern_all_pos": (patching.layer_head_pattern_patch_setter, "pattern", ["layer", "head"]),
    "attn_head_pattern_by_pos": (
        patching.layer_head_pos_pattern_patch_setter, "pattern", ["layer", "head", "dest_pos"],
    ),
    "attn_head_pattern_dest_src_pos": (
        patching.layer_head_dest_src_pos_pattern_patch_setter, "pattern", ["layer", "head", "dest_pos", "src_pos"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTERS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_generic_patching_with_each_setter_is_the_named_function(name: str, architecture: str) -> None:
    model, (setter, activation, axes) = model_of(architecture), SETTERS[name]
    _, cache = model.run_with_cache(OTHER)
    named = getattr(patching, f"get_act_patch_{name}")(model, TOKENS, cache, metric, progress=False)
    generic, table = patching.generic_activation_patch(
        model, TOKENS, cache, metric, setter, activation, axes, return_index_df=True, progress=False
    )
    assert_close(generic, named, RTOL)
    assert list(table.columns) == axes
    some = table.iloc[::7]
    rows = patching.generic_activation_patch(
        model, TOKENS, cache, metric, setter, activation, index_df=some, progress=False
    )
    assert_close(rows, named.flatten()[::7], RTOL)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({}, "either by index_axis_names or by index_df"),
        ({"index_axis_names": ["layer", "neuron"]}, "no axis 'neuron'"),
        ({"index_axis_names": ["pos", "layer"]}, "first axis of a cell must be 'layer'"),
    ],
)
def test_cells_that_cannot_be_patched(cells: dict[str, Any], message: str) -> None:
    model = model_of("gpt2")
    _, cache = model.run_with_cache(OTHER)
    with pytest.raises(BadInput, match=message):
        patching.generic_activation_patch(
            model, TOKENS, cache, metric, patching.layer_pos_patch_setter, "resid_pre", **cells
        )
