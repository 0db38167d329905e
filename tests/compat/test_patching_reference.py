"""Every name of `interp_hooks.compat.patching` against TransformerLens 3.9.0 on the same two random checkpoints.

`benchmarks/reference_patching.py` wrote tests/data/patching: the checkpoints (a GPT-2, and a Llama whose 4 heads share
2 keys and values, both once as they are and once with all processing), what the peer was asked for each name, and its
numbers. Nothing of the peer is needed here. The largest difference found is 9e-7, of values up to 1.4.
"""

import functools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from interp_hooks import ActivationCache, HookedTransformer
from interp_hooks.compat import patching

FOLDER = Path(__file__).parents[1] / "data" / "patching"
ASKED = json.loads((FOLDER / "asked.json").read_text())
NUMBERS = load_file(FOLDER / "numbers.safetensors")
CASES = ["gpt2", "gpt2-processed", "llama", "llama-processed"]
WITHIN = 1e-5

EVERY_CALL = [  # of processed models the calls of `generic_activation_patch` and those that are several others in one
    (case, name)
    for case in CASES
    for name, options in ASKED["calls"][case.removesuffix("-processed")].items()
    if not case.endswith("-processed") or options or name.endswith("_every")
]
EVERY_GRID = [key for key in NUMBERS if key.endswith("/values") and NUMBERS[key].ndim > 1]


def metric(logits: Tensor) -> Tensor:
    """The one that the peer's numbers are of."""
    return (logits[:, -1, 3] - logits[:, -1, 5]).mean() + 0.1 * logits[..., 7].sum()


def per_prompt(logits: Tensor) -> Tensor:
    """`metric` is the mean of this over prompts."""
    return logits[:, -1, 3] - logits[:, -1, 5] + 0.1 * len(logits) * logits[..., 7].sum(-1)


@functools.cache
def model_and_cache(case: str) -> tuple[HookedTransformer, ActivationCache]:
    folder = str(FOLDER / case.removesuffix("-processed"))
    load = HookedTransformer.from_pretrained
    if not case.endswith("-processed"):
        load = HookedTransformer.from_pretrained_no_processing
    model = load(folder, device="cpu")
    model.set_use_attn_result(True)
    with torch.no_grad():
        return model, model.run_with_cache(NUMBERS["clean"])[1]


def arguments(case: str, metric: Any = metric) -> tuple[Any, ...]:
    model, cache = model_and_cache(case)
    return model, NUMBERS["corrupt"], cache, metric


def answer(case: str, name: str, options: dict[str, Any]) -> tuple[Tensor | None, pd.DataFrame | None]:
    """Values, and the table of cells where the call has one."""
    if not options:
        return getattr(patching, name)(*arguments(case)), None
    if name == "make_df_from_ranges":
        return None, patching.make_df_from_ranges(**options)
    options = options | {"patch_setter": getattr(patching, options["patch_setter"]), "return_index_df": True}
    if "index_df" in options:
        options["index_df"] = pd.DataFrame(**options["index_df"])
    return patching.generic_activation_patch(*arguments(case), **options)


def columns(options: dict[str, Any]) -> list[str]:
    if "index_df" in options:
        return options["index_df"]["columns"]
    return options.get("index_axis_names") or options["column_names"]


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    found = (ours - theirs).abs().max().item()
    assert found <= WITHIN, f"another number than the peer's by {found:.2g}"


@pytest.mark.parametrize("case", CASES)
def test_every_name_has_a_number(case: str) -> None:
    stored = {key.split("/")[1] for key in NUMBERS if key.startswith(f"{case}/")}
    exact = {name for name in patching.__all__ if "direct_path" in name}  # the peer holds the receiver's norm fixed
    assert stored == {*patching.__all__, "unpatched"} - exact


@pytest.mark.parametrize("case", CASES)
def test_the_unpatched_model_is_the_same(case: str) -> None:
    with torch.no_grad():
        assert_near(metric(model_and_cache(case)[0](NUMBERS["corrupt"])), NUMBERS[f"{case}/unpatched"])


@pytest.mark.parametrize(("case", "name"), EVERY_CALL)
def test_it_is_the_peers(case: str, name: str) -> None:
    options = ASKED["calls"][case.removesuffix("-processed")][name]
    values, cells = answer(case, name, options)
    stored = {key.split("/")[2]: number for key, number in NUMBERS.items() if key.startswith(f"{case}/{name}/")}
    assert stored.keys() == {kind for kind, found in (("values", values), ("cells", cells)) if found is not None}
    if values is not None:
        assert_near(values, stored["values"])
    if cells is not None:
        assert list(cells.columns) == columns(options)
        assert cells.to_numpy().tolist() == stored["cells"].tolist()


@pytest.mark.parametrize("key", EVERY_GRID)
def test_a_wrong_index_along_any_axis_would_show(key: str) -> None:
    """No two slices of a stored grid agree to a hundred times what is allowed: exchanged layers or heads are seen."""
    grid = NUMBERS[key]
    for axis in range(grid.ndim):
        slices = grid.movedim(axis, 0).flatten(1)
        apart = torch.cdist(slices, slices, p=float("inf")).fill_diagonal_(float("inf"))
        assert apart.min() > 100 * WITHIN, f"axis {axis}: {apart.min():.2g}"


# ------------------------------------------- where the peer cannot answer, or its answer needs a word: ours by design


@pytest.mark.parametrize("case", ["llama", "llama-processed"])
@pytest.mark.parametrize("name", ["all_pos", "by_pos"])
def test_missing_key_and_value_heads_are_zeros(case: str, name: str) -> None:
    """Kept, since code indexes the stack by kind: 0 there means no such head, and not that a patch gives 0."""
    name = f"get_act_patch_attn_head_{name}_every"
    ours, theirs = getattr(patching, name)(*arguments(case)), NUMBERS[f"{case}/{name}/values"]
    absent = torch.zeros(theirs.shape, dtype=torch.bool)
    absent[2:4, ..., 2:] = True
    assert torch.equal(ours == 0, absent)
    assert torch.equal(theirs == 0, absent)
    assert NUMBERS[f"{case}/unpatched"].abs() > 0.1


@pytest.mark.parametrize("case", ["llama", "llama-processed"])
def test_rotated_keys_have_axes_too(case: str) -> None:
    """The peer knows only of "k" and "v" that they are grouped, and indexes beyond the others; rows it can patch."""
    assert ASKED["refused"]["rot_k by axes"].startswith("IndexError")
    rows = ASKED["calls"]["llama"]["generic_activation_patch"]["index_df"]
    grid = patching.generic_activation_patch(
        *arguments(case),
        patch_setter=patching.layer_pos_head_vector_patch_setter,
        activation_name="rot_k",
        index_axis_names=rows["columns"],
    )
    assert grid.shape == (3, 5, 2)
    assert_near(grid[tuple(torch.tensor(rows["data"]).T)], NUMBERS[f"{case}/generic_activation_patch/values"])


@pytest.mark.parametrize("case", CASES)
def test_a_metric_may_give_a_number_for_each_prompt(case: str) -> None:
    """The peer takes only single numbers; ours keeps the prompts as the last axis."""
    assert ASKED["refused"]["metric per prompt"].startswith("RuntimeError")
    each = patching.get_act_patch_attn_head_k_by_pos(*arguments(case, per_prompt))
    theirs = NUMBERS[f"{case}/get_act_patch_attn_head_k_by_pos/values"]
    assert each.shape == (*theirs.shape, 2)
    assert_near(each.mean(-1), theirs)
