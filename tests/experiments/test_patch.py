"""`patch`, compared cell by cell with runs written by hand, and what it refuses."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    LogProb,
    Run,
    ablate,
    at,
    causal_trace,
    evaluate,
    integrated_gradients,
    patch,
)
from interp_hooks.errors import BadInput, NoTokenizer, UnknownHook
from tests.experiments.by_hand import (
    OTHER,
    RTOL,
    TOKENS,
    left_alone,
    logits_of,
    model_of,
    rows_counted,
    word_tokenizer,
)
from tests.tiny import assert_close, build, random_tokens, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
CELLS = [
    ("gpt2", "resid_pre", ("layer", "pos")),
    ("gpt2", "resid_mid", ("layer", "pos")),
    ("llama", "attn_out", ("layer",)),
    ("neox", "mlp_out", ("pos", "layer")),
    ("llama", "z", ("layer", "head")),
    ("gpt2", "z", ("layer", "head", "pos")),
    ("llama", "k", ("layer", "head")),
    ("attn-only", "pattern", ("layer", "head")),
    ("gpt2", "pattern", ("head", "query")),
    ("neox", "pattern", ("layer", "query", "key")),
    ("gpt2", "post", ("layer", "neuron")),
    ("llama", "rot_q", ("layer", "pos", "d_head")),
    ("llama", "q_input", ("head",)),
]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(("kind", "site", "over"), CELLS)
def test_every_cell_is_a_run(
    kind: str, site: str, over: tuple[str, ...], direction: Literal["denoise", "noise"]
) -> None:
    """The cell that a row of the table names is that run; other sizes than the axis has cells would not fit."""
    model = model_of(kind)
    with unchecked_types():
        result = patch(model, TOKENS, OTHER, DIFF, site, over=over, direction=direction, progress=False)
        base, source = (OTHER, TOKENS) if direction == "denoise" else (TOKENS, OTHER)
        axes = list(over) if "layer" in over else ["layer", *over]
        assert list(result.axes) == axes
        point = model.hook_dict[at(site, 0).hook]
        sizes = [3 if axis == "layer" else point.sizes.get(axis, 5) for axis in axes]
        assert [list(labels) for labels in result.axes.values()] == [list(range(size)) for size in sizes]
        table, known = result.table(), {}
        assert len(table) == result.mean.numel()
        step = max(1, len(table) // 40)  # of large grids, every n-th cell
        for number, row in list(enumerate(table.to_dict("records")))[::step]:
            cell = {axis: int(row[axis]) for axis in axes}
            where = at(site, cell.pop("layer"), **cell)
            expected = DIFF(logits_of(model, Run(base, [Intervention(where, Run(source))]), known))
            ours = result.values.flatten(0, -2)[number]
            assert_close(ours, expected, RTOL)
            assert row["logit_diff"] == pytest.approx(float(expected.mean()), rel=1e-9)
        assert_close(result.baselines["clean"], DIFF(logits_of(model, Run(TOKENS))), RTOL)
        assert_close(result.baselines["corrupt"], DIFF(logits_of(model, Run(OTHER))), RTOL)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "attn-only"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_all_of_the_stream_recovers_everything(kind: str, direction: Literal["denoise", "noise"]) -> None:
    model = model_of(kind)
    whole = patch(model, TOKENS, OTHER, DIFF, over=("layer",), direction=direction, progress=False)
    assert_close(whole.recovered_fraction, torch.ones(3), RTOL)
    last = patch(model, TOKENS, OTHER, DIFF, "resid_post", layers=[2], direction=direction, progress=False)
    assert_close(last.recovered_fraction, torch.tensor([[0.0, 0, 0, 0, 1]]), 1e-9)  # a difference of two near numbers


def test_the_two_directions_are_the_same_with_prompts_swapped() -> None:
    model = model_of("gpt2")
    noise = patch(model, TOKENS, OTHER, DIFF, "z", over=("head",), direction="noise", progress=False)
    denoise = patch(model, OTHER, TOKENS, DIFF, "z", over=("head",), progress=False)
    assert torch.equal(noise.values, denoise.values)
    assert torch.equal(noise.recovered_fraction, denoise.recovered_fraction)
    assert noise.scale == ("clean", "corrupt")
    assert denoise.scale == ("corrupt", "clean")


def test_identical_prompts_leave_nothing_to_recover() -> None:
    result = patch(model_of("gpt2"), TOKENS, TOKENS.clone(), DIFF, progress=False)
    assert bool(result.recovered_fraction.isnan().all())
    assert "no difference to recover" in result.note
    assert_close(result.values, result.baselines["clean"].expand_as(result.values), RTOL)


def test_some_layers() -> None:
    model = model_of("gpt2")
    some = patch(model, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), layers=[2, 0], progress=False)
    every = patch(model, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), progress=False)
    assert some.axes["layer"] == [2, 0]
    assert_close(some.values, every.values[[2, 0]], RTOL)


def test_the_work_is_shared() -> None:
    """From tokens on each prompt is read once, and no run is longer than the layers it touches."""
    model = model_of("gpt2")
    with rows_counted(model, "hook_embed", "blocks.0.hook_resid_post") as rows:
        patch(model, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), progress=False)
    assert rows["hook_embed"] == [2, 2]
    assert sorted(rows["blocks.0.hook_resid_post"]) == [2, 2, 8]


def test_a_late_position_is_patched_where_it_stands() -> None:
    """Prompts with more tokens than a readout at the end has to compute."""
    model = model_of("llama")
    clean, corrupt = random_tokens(2, 9, 23), random_tokens(2, 9, 23, seed=1)
    result = patch(model, clean, corrupt, DIFF, "v", over=("layer", "pos"), progress=False)
    for layer in range(3):
        for pos in range(9):
            run = Run(corrupt, [Intervention(at("v", layer, pos=pos), Run(clean))])
            assert_close(result.values[layer, pos], DIFF(logits_of(model, run)), RTOL)


# ---------------------------------------------------------------------------------------------------------------- text


def _with_words(side: str = "right") -> HookedTransformer:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes", "no"), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    return model


def test_text_is_what_its_tokens_are() -> None:
    model = _with_words()
    clean, corrupt = ["a b c", "c b a"], ["a b a", "c c a"]
    text = patch(model, clean, corrupt, LogitDiff(["yes", "no"], ["no", "yes"]), progress=False)
    yes, no = model.to_single_token("yes"), model.to_single_token("no")
    ids = LogitDiff([yes, no], [no, yes])
    tokens = patch(model, model.to_tokens(clean), model.to_tokens(corrupt), ids, progress=False)
    assert torch.equal(text.values, tokens.values)
    assert text.values.shape == (3, 4, 2)


def test_a_single_prompt_is_a_string() -> None:
    model = _with_words()
    single = patch(model, "a b c", "a c c", LogitDiff("yes", "no"), progress=False)
    listed = patch(model, ["a b c"], ["a c c"], LogitDiff(["yes"], ["no"]), progress=False)
    assert torch.equal(single.values, listed.values)
    assert bool(single.standard_error.isnan().all())


@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_of_several_lengths(side: str) -> None:
    """Each pair gives what it gives alone, read at its own last token."""
    model = _with_words(side)
    clean, corrupt = ["a b c", "c"], ["b b a", "a"]
    metric = LogitDiff(["yes", "no"], ["no", "yes"])
    together = patch(model, clean, corrupt, metric, "z", over=("layer", "head"), progress=False)
    first = patch(
        model, clean[:1], corrupt[:1], LogitDiff(["yes"], ["no"]), "z", over=("layer", "head"), progress=False
    )
    second = patch(
        model, clean[1:], corrupt[1:], LogitDiff(["no"], ["yes"]), "z", over=("layer", "head"), progress=False
    )
    assert_close(together.values, torch.cat((first.values, second.values), -1), RTOL)
    assert_close(together.baselines["clean"], torch.cat((first.baselines["clean"], second.baselines["clean"])), RTOL)


def test_gpt2s_own_tokenizer(gpt2_tokenizer: Any) -> None:
    """Answers with a leading space are one token; names without it are told how to get there."""
    cfg = build().cfg.replace(d_vocab=len(gpt2_tokenizer), d_vocab_out=len(gpt2_tokenizer), n_ctx=20)
    model = HookedTransformer(cfg, gpt2_tokenizer)
    clean = "When Mary and John went to the store, John gave a drink to"
    corrupt = clean.replace("store, John", "store, Mary")
    result = patch(model, clean, corrupt, LogitDiff(" Mary", " John"), layers=[0], progress=False)
    assert result.values.shape == (1, len(model.to_str_tokens(clean)), 1)
    changed = [p for p, (x, y) in enumerate(zip(*map(model.to_str_tokens, (clean, corrupt)), strict=True)) if x != y]
    assert_close(result.recovered_fraction[0, changed], torch.ones(1), 1e-6)


# ------------------------------------------------------------------------------------------------------------- mistakes

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "site": (dict(site="resid_prr"), UnknownHook, "resid_prr.*Did you mean blocks.0.hook_resid_pre"),
    "site that this model lacks": (dict(site="rot_q"), UnknownHook, "rot_q"),
    "axis": (dict(over=("layer", "head")), BadInput, "cannot be swept over 'head'; it has layer, pos, d_model"),
    "batch axis": (dict(over=("layer", "batch")), BadInput, "cannot be swept over 'batch'"),
    "direction": (dict(direction="noising"), BadInput, "'denoise' or 'noise', got 'noising'"),
    "layer": (dict(layers=[0, 3]), BadInput, r"layer 3 is out of range: the model has layers 0\.\.2"),
    "negative layer": (dict(layers=[-1]), BadInput, "layer -1 is out of range"),
    "no layers": (dict(layers=[]), BadInput, "nothing to sweep over: layers is empty"),
    "lengths": (dict(corrupt=OTHER[:, :4]), BadInput, "prompt 0 has 5 tokens in clean but 4 in corrupt"),
    "numbers of prompts": (dict(corrupt=OTHER[:1]), BadInput, "got 2 clean prompts but 1 corrupt prompts"),
    "text without tokenizer": (dict(corrupt=["a", "b"]), NoTokenizer, "no tokenizer"),
    "position of the metric": (dict(metric=LogProb([1, 2], pos=5)), BadInput, "position 5 is out of range"),
    "positions of the metric": (dict(metric=LogProb([1, 2], pos=torch.tensor([1, 5]))), BadInput, "out of range"),
    "token of the prompt": (dict(corrupt=OTHER + 23), BadInput, r"token ids must be 0\.\.22"),
    "too long": (dict(clean=random_tokens(2, 10, 23), corrupt=random_tokens(2, 10, 23)), BadInput, "n_ctx=9"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_and_leave_the_model_alone(what: str) -> None:
    changes, error, message = MISTAKES[what]
    arguments = dict(clean=TOKENS, corrupt=OTHER, metric=DIFF, progress=False) | changes
    model = model_of("gpt2")
    with left_alone(model), unchecked_types(), pytest.raises(error, match=message):
        patch(model, **arguments)


def test_which_pair_does_not_correspond_is_told() -> None:
    model = _with_words()
    with left_alone(model), pytest.raises(BadInput, match="prompt 1 has 2 tokens in clean but 3 in corrupt"):
        patch(model, ["a b c", "a"], ["a b b", "a b"], LogitDiff(["yes"] * 2, ["no"] * 2), progress=False)


def test_a_metric_that_fails_leaves_the_model_alone() -> None:
    def fails(logits: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    with left_alone(model_of("gpt2")), pytest.raises(ZeroDivisionError, match="mine"):
        patch(model_of("gpt2"), TOKENS, OTHER, fails, progress=False)


def test_several_sites_and_layers_together_are_one_run_with_all_of_them() -> None:
    model = model_of("gpt2")
    result = patch(model, TOKENS, OTHER, DIFF, ("attn_out", "mlp_out"), over=("layer", "pos"), window=2, progress=False)
    near = {0: [0], 1: [0, 1], 2: [1, 2]}
    for layer, layers in near.items():
        for pos in range(5):
            places = [at(site, each, pos=pos) for each in layers for site in ("attn_out", "mlp_out")]
            run = Run(OTHER, [Intervention(place, Run(TOKENS)) for place in places])
            assert_close(result.values[layer, pos], DIFF(logits_of(model, run)), RTOL)


def test_a_window_over_everything_that_is_written_restores_the_clean_run() -> None:
    model = model_of("gpt2")
    same_start = torch.cat((TOKENS[:, :1], OTHER[:, 1:]), dim=1)  # positions beyond the first differ
    wide = patch(
        model, same_start, OTHER, DIFF, ("attn_out", "mlp_out", "resid_pre"), over=("layer",), window=7, progress=False
    )
    assert_close(wide.recovered_fraction, torch.ones(3), RTOL)


def test_positions_of_each_prompts_own() -> None:
    model, own = model_of("llama"), torch.tensor([1, 4])
    result = patch(model, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), select={"pos": own}, progress=False)
    for layer, head in ((0, 1), (2, 3)):
        run = Run(OTHER, [Intervention(at("z", layer, head=head, pos=own), Run(TOKENS))])
        assert_close(result.values[layer, head], DIFF(logits_of(model, run)), RTOL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "at least one site and a window of at least 1"),
        ({"site": ()}, "at least one site"),
        ({"select": {"pos": 2}}, "pos is swept over and cannot be selected too"),
        ({"site": ("z", "k"), "over": ("layer", "head")}, "axes of different sizes"),
    ],
)
def test_sets_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        patch(model_of("llama"), TOKENS, OTHER, DIFF, progress=False, **options)


@pytest.mark.parametrize("site", ["v", "k", "v_input"])
def test_heads_that_share_keys_and_values_are_told_apart_once_ungrouped(site: str) -> None:
    """A model of four heads in two groups: the message says how head 3 gets keys and values of its own."""
    model = build(n_key_value_heads=2)
    run = Run(TOKENS, [Intervention(at(site, 1, head=3), Run(OTHER))])
    with pytest.raises(
        BadInput, match=r"head=3 is out of range.*set_ungroup_grouped_query_attention\(True\) gives every"
    ):
        evaluate(model, [run], DIFF)
    model.set_ungroup_grouped_query_attention(True)
    assert evaluate(model, [run], DIFF).shape == (1, 2)
    with pytest.raises(BadInput, match=r"has 4 along head$"):
        evaluate(model, [Run(TOKENS, [Intervention(at("q", 1, head=4), Run(OTHER))])], DIFF)


def test_prompts_of_several_lengths_are_warned_of_where_positions_are_numbers() -> None:
    """The third token of a short prompt is another word's place than that of a long one."""
    model = build()
    model.set_tokenizer(word_tokenizer("a", "b", "c"), default_padding_side="right")
    clean, corrupt = ["a b c", "a b"], ["b b c", "c b"]
    told = r"prompts have \d to \d tokens, so that a number along 'pos' is not the same place.*name places: positions="
    with pytest.warns(UserWarning, match=told):
        numbered = patch(model, clean, corrupt, DIFF, over=("layer", "pos"), progress=False)
    with pytest.warns(UserWarning, match="a number along 'query'"):
        ablate(model, clean, DIFF, "pattern", over=("head", "query"), progress=False)
    with pytest.warns(UserWarning, match=told):
        integrated_gradients(model, clean, DIFF, steps=1)
    with pytest.warns(UserWarning, match=told):
        causal_trace(model, clean, [1], DIFF, noise=0.0, samples=1, layers=[0], progress=False)
    named = patch(model, clean, corrupt, DIFF, over=("layer", "position"), positions={"first": 1}, progress=False)
    assert_close(named.values[:, 0], numbered.values[:, 1], 1e-9)
    patch(model, clean, corrupt, DIFF, over=("layer",), progress=False)
