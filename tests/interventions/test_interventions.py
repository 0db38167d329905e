"""What a source gives, how much of it is put where, and when two descriptions of a run are the same."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, Mean, Resample, Run, at
from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.runs import as_run
from interp_hooks.interventions.sites import Here, Recordings, Site
from tests.experiments.by_hand import (
    OTHER,
    RTOL,
    TOKENS,
    all_logits,
    assert_same,
    logits_of,
    model_of,
    value_at,
    word_tokenizer,
)
from tests.tiny import assert_close, build

Z = model_of("gpt2").hook_dict["blocks.0.attn.hook_z"]
VALUE = torch.arange(2 * 5 * 4 * 4, dtype=torch.float64).reshape(2, 5, 4, 4) - 40
NONE = Recordings(model_of("gpt2"))


def test_runs_with_equal_content_are_the_same() -> None:
    """Equal numbers and places count as equal; tensors only if they are the same object."""
    order, new, along = torch.tensor([1, 0]), torch.zeros(4), torch.ones(1, 4)

    def run(source: Any, **select: Any) -> Run:
        return Run(TOKENS, [Intervention(at("z", 0, **select), source)])

    def edge(reader: str = "q_input", layer: int = 1, mask: Any = None) -> Run:
        return Run(TOKENS, [Intervention(at("z", 0), 0.5, into=at(reader, layer), mask=mask)])

    def within(**options: Any) -> Run:
        return Run(TOKENS, [Intervention(at("z", 0), 0.5, **options)])

    same = [
        (Run(TOKENS), Run(TOKENS)),
        (run(0.5, head=1, pos=2), run(0.5, pos=2, head=1)),
        (run(Run(OTHER), pos=[1, 2]), run(Run(OTHER), pos=range(1, 3))),
        (run(Mean(Run(OTHER))), run(Mean(Run(OTHER)))),
        (run(Resample(Run(OTHER), order)), run(Resample(Run(OTHER), order))),
        (run(new), run(new)),
        (edge(), edge()),
        (edge(mask=new), edge(mask=new)),
        (within(along=along), within(along=along)),
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
        (run(Mean(Run(OTHER))), run(Mean(Run(OTHER), exclude=()))),
        (edge(), run(0.5)),
        (edge(), edge("k_input")),
        (edge(), edge(layer=2)),
        (edge(), edge(mask=1.0)),
        (edge(mask=0.5), edge(mask=1.0)),
        (edge(mask=new), edge(mask=new.clone())),
        (within(along=along), within(along=along.clone())),
        (within(along=along), run(0.5)),
    ]
    assert all(one.key == other.key and hash(one.key) == hash(other.key) for one, other in same)
    assert all(one.key != other.key for one, other in different)


# ------------------------------------------------------------------------------------------------------------ sources


def _with_words(side: str = "right") -> HookedTransformer:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c"), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    return model


def _mean(run: Run, value: Tensor, model: HookedTransformer | None = None, **options: Any) -> Tensor:
    return Mean(run, **options).made_of(value, Z, model or model_of("gpt2"))


def test_a_mean_leaves_padding_out() -> None:
    """The mean of a padded set is that of the real positions, and per position that of the prompts that have it."""
    value = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    run = Run(TOKENS[:, :3], (), torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert_close(_mean(run, value)[0, 0], torch.cat((value[0, :2], value[1])).mean(0), RTOL)
    each = _mean(run, value, per_position=True)
    assert_close(each[0, :2], value[:, :2].mean(0), RTOL)
    assert_close(each[0, 2], value[1, 2], RTOL)
    assert_close(_mean(run, value, exclude=["bos"])[0, 0], value.flatten(0, 1).mean(0), RTOL)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mean_leaves_the_bos_token_out(side: str) -> None:
    """Only where positions are pooled, only at the beginning of a text, and only if it is there."""
    model = _with_words(side)
    bos, pad, word = 0, 1, 4
    tokens = torch.tensor([[pad, bos, word, bos] if side == "left" else [bos, word, bos, pad], [word, bos, word, word]])
    real = tokens != pad
    value = torch.randn(2, 4, 4, 5, dtype=torch.float64)
    run = Run(tokens, (), real)
    kept = [(0, 2), (0, 3)] if side == "left" else [(0, 1), (0, 2)]
    expected = torch.stack([value[at_] for at_ in (*kept, (1, 0), (1, 1), (1, 2), (1, 3))]).mean(0)
    assert_close(_mean(run, value, model)[0, 0], expected, RTOL)
    assert_close(_mean(run, value, model, exclude=["padding"])[0, 0], value[real].mean(0), RTOL)
    everything = _mean(run, value, model, exclude=[])
    assert_close(everything[0, 0], value.flatten(0, 1).mean(0), RTOL)
    first = 1 if side == "left" else 0
    assert_close(_mean(run, value, model, per_position=True)[0, first], value[:, first].mean(0), RTOL)


def test_a_mean_of_patterns_keeps_queries_and_keys() -> None:
    """They have no axis of positions to pool, so that BOS and padding stay where they are."""
    model = _with_words()
    value = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    run = Run(torch.zeros_like(TOKENS), (), torch.tensor([[1, 1, 0, 0, 0], [1] * 5]))
    mean = Mean(run).made_of(value, model.hook_dict["blocks.0.attn.hook_pattern"], model)
    assert_close(mean[0], value.mean(0), RTOL)


def test_a_mean_is_precise() -> None:
    """Summed in float32, so many equal numbers would drift by more than a rounding of the result."""
    mean = _mean(Run(torch.zeros(20, 5000, dtype=torch.long)), torch.full((20, 5000, 1, 1), 0.1))
    assert mean.dtype == torch.float32
    assert float(mean) == float(torch.tensor(0.1))


@pytest.mark.parametrize("hook", ["blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern", "hook_embed"])
def test_resampling_by_the_identity_is_no_resampling(hook: str) -> None:
    model = model_of("gpt2")
    value = value_at(model, Run(TOKENS), hook)
    assert torch.equal(Resample(Run(TOKENS), torch.arange(2)).made_of(value), value)
    swapped = Resample(Run(TOKENS), torch.tensor([1, 0])).made_of(value)
    assert torch.equal(swapped, value.flip(0))


def test_recordings_make_a_mean_once() -> None:
    """However many runs take it, described however often."""
    model = model_of("gpt2")
    recordings = Recordings(model)
    recordings.runs[Run(OTHER).key] = {Z.name: VALUE}
    here = Here(point=Z, site=Site(hook=Z.name), whole=VALUE, first=0, recordings=recordings)
    mean = Mean(Run(OTHER)).put(here)
    assert Mean(Run(OTHER)).put(here).data_ptr() == mean.data_ptr()
    assert Mean(Run(OTHER), per_position=True).put(here).data_ptr() != mean.data_ptr()
    assert Run(OTHER).put(here).data_ptr() == VALUE.data_ptr()


def test_a_missing_recording_is_told() -> None:
    """A cache that was made with a filter lacks what is asked of it."""
    model = model_of("gpt2")
    _, cache = model.run_with_cache(OTHER, names_filter="blocks.0.attn.hook_z")
    point = model.hook_dict["blocks.1.attn.hook_z"]
    with pytest.raises(UnknownHook, match="was not cached"):
        Intervention(at("z", 1), cache).write(VALUE.clone(), point, NONE)


def test_whole_numbers_are_numbers() -> None:
    """`Intervention(site, 0)` is zero ablation, as 0.0 is."""
    runs = [Run(TOKENS, [Intervention(at("z", 1), number)]) for number in (0, 0.0)]
    first, second = evaluate(model_of("gpt2"), runs, all_logits)
    assert torch.equal(first, second)
    assert_same(first, logits_of(model_of("gpt2"), runs[1]))


# ------------------------------------------------------------------------------------------------------- how much of it


def _written(intervention: Intervention, first: int = 0) -> tuple[Tensor, bool]:
    value = VALUE[:, first:].clone()
    changed = intervention.write(value, Z, NONE, first)
    return value, bool(changed)


@pytest.mark.parametrize(
    ("select", "mask"),
    [
        ({}, 0.25),
        ({"head": 1}, torch.tensor(0.25)),
        ({"pos": 2}, torch.linspace(0, 1, 4)[:, None]),
        ({"head": [0, 2]}, torch.tensor([[0.5], [0.25]])),
        ({"pos": torch.tensor([1, 4])}, torch.tensor([0.3, 0.8])[:, None, None]),
        ({}, torch.linspace(0, 1, 10).reshape(2, 5, 1, 1)),
    ],
    ids=["all", "a head", "a position", "heads", "positions of each", "prompt by position"],
)
def test_a_mask_is_the_part_of_the_way_that_is_gone(select: dict[str, Any], mask: Any) -> None:
    """It broadcasts to the selected part, and cut prompts get the same there."""
    site, source = at("z", 0, **select), 3.0
    new, changed = _written(Intervention(site, source, mask=mask))
    index = site.index(Z, VALUE)
    expected = VALUE.clone()
    expected[index] = VALUE[index] + torch.as_tensor(mask) * (source - VALUE[index])
    assert_close(new, expected, RTOL)
    assert changed
    first = site.first_position(Z, 5)
    cut, _ = _written(Intervention(site, source, mask=mask), first)
    assert torch.equal(cut, new[:, first:])


def test_all_and_nothing_of_a_change() -> None:
    """A mask of 0 leaves the value, one of 1 is as if there were none; without one, infinities are replaced too."""
    site = at("z", 0, head=1)
    untouched, changed = _written(Intervention(site, 3.0, mask=0.0))
    assert torch.equal(untouched, VALUE)
    assert not changed
    assert torch.equal(_written(Intervention(site, 3.0, mask=1.0))[0], _written(Intervention(site, 3.0))[0])
    value = torch.full_like(VALUE, -torch.inf)
    Intervention(at("z", 0), 2.0).write(value, Z, NONE)
    assert torch.equal(value, torch.full_like(VALUE, 2.0))


def test_what_is_equal_has_not_changed() -> None:
    """Of several values one that differs is enough; infinities are equal to themselves."""
    assert not _written(Intervention(at("z", 0), VALUE))[1]
    other = VALUE.clone()
    other[1, 4, 3, 3] += 1e-9
    assert _written(Intervention(at("z", 0), other))[1]
    assert not _written(Intervention(at("z", 0, pos=3), other[:, 3]))[1]
    value = torch.full_like(VALUE, -torch.inf)
    assert not Intervention(at("z", 0), -torch.inf).write(value, Z, NONE)


@pytest.mark.parametrize(
    "mask", [torch.ones(3), torch.ones(4, 1, 4), torch.ones(1, 2, 5, 4)], ids=lambda m: str(m.shape)
)
def test_masks_that_do_not_fit_are_refused(mask: Tensor) -> None:
    with pytest.raises(
        BadInput, match=r"the mask for blocks.0.attn.hook_z has shape \[.*the place it goes to \[2, 5, 4\]"
    ):
        _written(Intervention(at("z", 0, head=1), 1.0, mask=mask))


def test_directions_cannot_be_put_into_one_reader() -> None:
    with pytest.raises(BadInput, match="along= and into= cannot be combined"):
        Intervention(at("z", 0), 0.0, along=torch.ones(4), into=at("q_input", 1))


def test_what_asks_for_a_gradient_learns() -> None:
    asks = torch.ones((), requires_grad=True)
    assert Intervention(at("z", 0), asks).learns
    assert Intervention(at("z", 0), 0.0, mask=asks).learns
    assert not Intervention(at("z", 0), Run(TOKENS), mask=torch.ones(())).learns


# ------------------------------------------------------------------------------------------------------------- as_run


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


def test_runs_print_what_is_done_and_not_their_numbers() -> None:
    clean = Intervention(at("z", 1, head=3), Run(OTHER), mask=torch.ones(4))
    assert repr(Run(TOKENS, [clean])) == (
        f"Run(tokens {list(TOKENS.shape)}, Intervention(Site(hook='blocks.1.attn.hook_z', select={{'head': 3}}), "
        f"source=Run(tokens {list(OTHER.shape)}), mask=tensor [4]))"
    )
