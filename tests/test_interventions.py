"""What a site selects, what a source gives, and when two descriptions of a run are the same."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint, Intervention, Mean, Resample, Run, Site, at
from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.interventions import as_run
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, logits_of, model_of, put, value_at, word_tokenizer
from tests.tiny import assert_close, build, unchecked_types

AXES = {
    "pos": HookPoint("batch pos head d_head"),
    "query": HookPoint("batch head query key"),
    "neuron": HookPoint("batch pos neuron"),
}
SELECTIONS: list[dict[str, Any]] = [
    {},
    {"pos": 0},
    {"pos": -4},
    {"pos": (1, 3)},
    {"pos": range(2)},
    {"pos": [2, -1]},
    {"pos": torch.tensor([0, -1, 2])},
    {"head": 1, "pos": 2},
    {"head": 1, "pos": [0, 3]},
    {"head": -1, "pos": torch.tensor([1, 1, 0])},
    {"pos": torch.tensor([1, 2, 0]), "head": torch.tensor([0, 1, 2])},
    {"d_head": [0, 1], "pos": 1},
    {"head": 0, "query": 2, "key": 1},
    {"query": [1, 2], "head": 2},
    {"key": torch.tensor([0, 1, 2])},
    {"neuron": 4, "pos": torch.tensor([0, 1, 2])},
]
SEVERAL: list[dict[str, Any]] = [
    {"pos": [0, 2], "head": [0, 1]},
    {"pos": [0, 2, 3], "head": [0, 1]},
    {"pos": torch.tensor([0, 1, 2]), "head": [0, 1]},
    {"pos": torch.tensor([0, 1, 2]), "head": [0, 1, 2]},
    {"query": [0, 1], "key": [1, 2]},
]


def _selected(select: dict[str, Any]) -> None:
    """Writing at a site writes where a mask over the whole activation says, and nowhere else."""
    point = next(point for point in AXES.values() if set(select) <= set(point.axes))
    value = torch.zeros(3, 4, 3, 4) if len(point.axes) == 4 else torch.zeros(3, 4, 5)
    expected = put(value, point.axes, select, 1.0)
    Intervention(Site(hook="x", select=select), 1.0).write(value, point, {})
    assert torch.equal(value, expected)
    assert bool(value.any())


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
def test_a_site_selects_by_axis(select: dict[str, Any]) -> None:
    _selected(select)


@pytest.mark.parametrize("select", SEVERAL, ids=str)
def test_several_indices_of_several_axes_are_all_combinations(select: dict[str, Any]) -> None:
    """Two heads at two positions are four places."""
    _selected(select)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"layer": 0}, "x has the axes batch, pos, head, d_head; there is no 'layer' to select"),
        ({"pos": 4}, "pos=4 is out of range: x has 4 along pos"),
        ({"pos": -5}, "pos=-5 is out of range"),
        ({"head": [0, 3]}, "head=3 is out of range: x has 3 along head"),
        ({"head": torch.tensor([0, 1, 3])}, "head=3 is out of range"),
        ({"pos": torch.tensor([0, 1])}, r"one index for each of 3 prompts; got shape \[2\]"),
        ({"pos": torch.tensor([[0], [1], [2]])}, r"got shape \[3, 1\]"),
        ({"pos": torch.tensor(1)}, "must be an int, a list"),
        ({"pos": 1.0}, "must be an int, a list"),
        ({"pos": slice(0, 2)}, "must be an int, a list"),
        ({"pos": None}, "must be an int, a list"),
    ],
    ids=str,
)
def test_what_a_site_cannot_select(select: dict[str, Any], message: str) -> None:
    point = AXES["pos"]
    point.name = "x"
    with unchecked_types(), pytest.raises(BadInput, match=message):
        Site(hook="x", select=select).index(point, torch.zeros(3, 4, 3, 4))


def test_numpy_integers_are_integers() -> None:
    """Indices often come out of an array."""
    value = torch.zeros(3, 4, 3, 4)
    with unchecked_types():
        Intervention(Site(hook="x", select={"head": np.int64(1)}), 1.0).write(value, AXES["pos"], {})
    assert torch.equal(value, put(torch.zeros(3, 4, 3, 4), AXES["pos"].axes, {"head": 1}, 1.0))


@pytest.mark.parametrize(
    ("arguments", "hook"),
    [
        (("z", 1), "blocks.1.attn.hook_z"),
        (("z1",), "blocks.1.attn.hook_z"),
        (("attn", 2), "blocks.2.attn.hook_pattern"),
        (("mlp_out", 0), "blocks.0.hook_mlp_out"),
        (("post", 0), "blocks.0.mlp.hook_post"),
        (("blocks.2.hook_resid_pre",), "blocks.2.hook_resid_pre"),
        (("hook_embed",), "hook_embed"),
        (("embed",), "hook_embed"),
    ],
)
def test_short_and_full_names_are_one_site(arguments: tuple[Any, ...], hook: str) -> None:
    assert at(*arguments).hook == hook
    assert hook in model_of("gpt2").hook_dict
    assert at(*arguments, head=1).select == {"head": 1}


def test_runs_with_equal_content_are_the_same() -> None:
    """Equal numbers and places count as equal; tensors only if they are the same object."""
    order, new = torch.tensor([1, 0]), torch.zeros(4)

    def run(source: Any, **select: Any) -> Run:
        return Run(TOKENS, [Intervention(at("z", 0, **select), source)])

    same = [
        (Run(TOKENS), Run(TOKENS)),
        (run(0.5, head=1, pos=2), run(0.5, pos=2, head=1)),
        (run(Run(OTHER), pos=[1, 2]), run(Run(OTHER), pos=range(1, 3))),
        (run(Mean(Run(OTHER))), run(Mean(Run(OTHER)))),
        (run(Resample(Run(OTHER), order)), run(Resample(Run(OTHER), order))),
        (run(new), run(new)),
    ]
    different = [
        (Run(TOKENS), Run(OTHER)),
        (Run(TOKENS), Run(TOKENS, (), torch.ones(2, 5))),
        (run(0.5), run(0.6)),
        (run(0.5), run(0.5, head=0)),
        (run(0.5, pos=1), run(0.5, pos=[1])),
        (run(0.5, pos=1), run(0.5, head=1)),
        (run(Run(OTHER)), run(Mean(Run(OTHER)))),
        (run(Mean(Run(OTHER))), run(Mean(Run(OTHER), per_position=True))),
        (run(Resample(Run(OTHER), order)), run(Resample(Run(OTHER), order.clone()))),
        (run(new), run(new.clone())),
    ]
    assert all(one.key == other.key and hash(one.key) == hash(other.key) for one, other in same)
    assert all(one.key != other.key for one, other in different)


def test_a_mean_leaves_padding_out() -> None:
    """The mean of a padded set is that of the real positions, and per position that of the prompts that have it."""
    value = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    point, mask = AXES["pos"], torch.tensor([[1, 1, 0], [1, 1, 1]])
    run = Run(TOKENS[:, :3], (), mask)
    whole = Mean(run).recorded_value(value, point)
    assert_close(whole[0, 0], torch.cat((value[0, :2], value[1])).mean(0), RTOL)
    each = Mean(run, per_position=True).recorded_value(value, point)
    assert_close(each[0, :2], value[:, :2].mean(0), RTOL)
    assert_close(each[0, 2], value[1, 2], RTOL)


def test_a_mean_is_precise() -> None:
    """Summed in float32, so many equal numbers would drift by more than a rounding of the result."""
    value = torch.full((20, 5000, 1, 1), 0.1)
    mean = Mean(Run(torch.zeros(20, 5000, dtype=torch.long))).recorded_value(value, AXES["pos"])
    assert mean.dtype == torch.float32
    assert float(mean) == float(torch.tensor(0.1))


@pytest.mark.parametrize("hook", ["blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern", "hook_embed"])
def test_resampling_by_the_identity_is_no_resampling(hook: str) -> None:
    model = model_of("gpt2")
    value = value_at(model, Run(TOKENS), hook)
    point = model.hook_dict[hook]
    assert torch.equal(Resample(Run(TOKENS), torch.arange(2)).recorded_value(value, point), value)
    swapped = Resample(Run(TOKENS), torch.tensor([1, 0])).recorded_value(value, point)
    assert torch.equal(swapped, value.flip(0))


def test_a_missing_recording_is_told() -> None:
    """A cache that was made with a filter lacks what is asked of it."""
    model = model_of("gpt2")
    _, cache = model.run_with_cache(OTHER, names_filter="blocks.0.attn.hook_z")
    point = model.hook_dict["blocks.1.attn.hook_z"]
    with pytest.raises(UnknownHook, match="was not cached"):
        Intervention(at("z", 1), cache).write(torch.zeros(2, 5, 4, 4), point, {})


# ------------------------------------------------------------------------------------------------------------- as_run


def _with_words(side: str = "right") -> HookedTransformer:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c"), side)
    model.load_state_dict(build().state_dict())
    return model


def test_token_ids_are_a_run_without_mask(tokens: Tensor) -> None:
    run = as_run(model_of("gpt2"), tokens)
    assert torch.equal(run.tokens, tokens)
    assert run.attention_mask is None
    assert list(run.interventions) == []
    assert as_run(model_of("gpt2"), tokens[0]).tokens.shape == (1, 7)


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_is_masked_where_it_is_padded(side: str) -> None:
    model = _with_words(side)
    run = as_run(model, ["a b c", "c"])
    assert run.attention_mask is not None
    assert run.attention_mask.sum(1).tolist() == [4, 2], "the BOS is real"
    short = run.tokens[1][run.attention_mask[1].bool()]
    assert torch.equal(short, model.to_tokens("c")[0])
    alone = logits_of(model, Run(model.to_tokens("c")))
    padded = logits_of(model, run)[1:]
    assert_close(padded[:, 2:] if side == "left" else padded[:, :2], alone, RTOL)


def test_one_string_is_one_prompt() -> None:
    run = as_run(_with_words(), "a b")
    assert run.tokens.shape == (1, 3)
    assert run.attention_mask is None


def test_whole_numbers_are_numbers() -> None:
    """`Intervention(site, 0)` is zero ablation, as 0.0 is."""
    with torch.no_grad():
        runs = [Run(TOKENS, [Intervention(at("z", 1), number)]) for number in (0, 0.0)]
    first, second = (logits_of(model_of("gpt2"), run) for run in runs)
    assert torch.equal(first, second)
