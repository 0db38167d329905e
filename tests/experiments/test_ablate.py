"""`ablate`, whose three methods are one call with three sources."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, LogitDiff, Mean, Resample, Run, ablate, at, evaluate
from interp_hooks.errors import BadInput, UnknownHook
from tests.experiments.by_hand import (
    OTHER,
    RTOL,
    TOKENS,
    left_alone,
    logits_of,
    model_of,
    value_at,
    word_tokenizer,
)
from tests.tiny import assert_close, build, random_tokens, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
SIX = random_tokens(6, 5, 23, seed=5)
DIFF_OF_SIX = LogitDiff([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12])
CELLS = [
    ("z", ("layer", "head")),
    ("mlp_out", ("layer",)),
    ("pattern", ("head",)),
    ("attn_out", ("layer", "pos")),
    ("post", ("neuron",)),
]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(("site", "over"), CELLS)
@pytest.mark.parametrize("method", ["zero", "mean", "resample"])
def test_every_cell_is_a_run(method: Any, site: str, over: tuple[str, ...], kind: str) -> None:
    """With the same generator, the same prompts are drawn for a resample written by hand."""
    model = model_of(kind)
    with unchecked_types():
        generator = torch.Generator().manual_seed(3)
        result = ablate(
            model, TOKENS, DIFF, site, method=method, over=over, reference=SIX, generator=generator, progress=False
        )
        order = torch.randint(6, (2,), generator=torch.Generator().manual_seed(3))
        source: Any = {"zero": 0.0, "mean": Mean(Run(SIX)), "resample": Resample(Run(SIX), order)}[method]
        rows, known = result.table().to_dict("records"), {}
        for row in rows[:: max(1, len(rows) // 12)]:
            cell = {axis: int(row[axis]) for axis in result.axes}
            where = at(site, cell.pop("layer"), **cell)
            expected = DIFF(logits_of(model, Run(TOKENS, [Intervention(where, source)]), known))
            assert row["logit_diff"] == pytest.approx(float(expected.mean()), rel=1e-9)
        assert_close(result.baselines["original"], DIFF(logits_of(model, Run(TOKENS))), RTOL)
        assert result.scale is None


def test_the_top_head_is_the_one_whose_removal_matters_most() -> None:
    """Each head zeroed by a hook of one's own; what is left of the metric says nothing of how much was lost."""
    model, result = model_of("gpt2"), ablate(model_of("gpt2"), TOKENS, DIFF, progress=False)
    plain = DIFF(model(TOKENS)).mean().item()
    lost = {}
    for layer in range(3):
        for head in range(model.cfg.n_heads):

            def zero(z: Tensor, hook: Any, head: int = head) -> None:
                z[:, :, head] = 0.0

            hooks = [(f"blocks.{layer}.attn.hook_z", zero)]
            lost[layer, head] = DIFF(model.run_with_hooks(TOKENS, fwd_hooks=hooks)).mean().item() - plain
    ranked = sorted(lost, key=lambda cell: -abs(lost[cell]))
    top = result.top(len(lost))
    assert list(zip(top["layer"], top["head"], strict=True)) == ranked
    assert top["change"].tolist() == pytest.approx([lost[cell] for cell in ranked])


def test_the_mean_of_identical_prompts_is_no_ablation() -> None:
    """Per position no axis is lost; over positions the tokens have to be the same one everywhere, too."""
    model = build(positional_embedding_type="none")
    same = torch.full((3, 5), 7)
    result = ablate(model, same, LogitDiff([1] * 3, [2] * 3), "mlp_out", method="mean", over=("layer",), progress=False)
    assert_close(result.values, result.baselines["original"].expand(3, 3), RTOL)
    model, repeated = model_of("gpt2"), TOKENS[:1].expand(2, -1)
    run = Run(repeated, [Intervention(at("z", 1), Mean(Run(repeated), per_position=True))])
    scores = evaluate(model, [run, Run(repeated)], DIFF)
    assert_close(scores[0], scores[1], RTOL)


def test_the_mean_of_two_prompts_is_their_midpoint() -> None:
    model = model_of("gpt2")
    first, second = (value_at(model, Run(OTHER[row : row + 1]), "blocks.1.attn.hook_z") for row in range(2))
    runs = [
        Run(TOKENS, [Intervention(at("z", 1), Mean(Run(OTHER), per_position=True))]),
        Run(TOKENS, [Intervention(at("z", 1), (first + second) / 2)]),
        Run(TOKENS, [Intervention(at("z", 1), Mean(Run(OTHER)))]),
        Run(TOKENS, [Intervention(at("z", 1), ((first + second) / 2).mean(1, keepdim=True))]),
    ]
    each, each_by_hand, whole, whole_by_hand = evaluate(model, runs, lambda logits: logits)
    assert_close(each, each_by_hand, RTOL)
    assert_close(whole, whole_by_hand, RTOL)


def test_a_mean_leaves_padding_and_bos_out() -> None:
    """Reference prompts of several lengths, as text: their mean is that over real tokens."""
    for side in ("left", "right"):
        model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c"), default_padding_side=side)
        model.load_state_dict(build().state_dict())
        result = ablate(
            model, TOKENS, DIFF, "mlp_out", method="mean", over=("layer",), reference=["a b c", "c"], progress=False
        )
        alone = [value_at(model, Run(model.to_tokens(text)), "blocks.1.hook_mlp_out")[0, 1:] for text in ("a b c", "c")]
        run = Run(TOKENS, [Intervention(at("mlp_out", 1), torch.cat(alone).mean(0))])
        assert_close(result.values[1], evaluate(model, [run], DIFF)[0], RTOL)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "attn-only"])
def test_without_heads_and_mlps_embeddings_and_biases_remain(kind: str) -> None:
    """logits = unembed(ln_final(embed + sum of b_O + sum of b_out))"""
    model, layers = model_of(kind), range(3)
    names = ["z"] if kind == "attn-only" else ["z", "post"]
    run = Run(TOKENS, [Intervention(at(name, layer), 0.0) for name in names for layer in layers])
    (ours,) = evaluate(model, [run], lambda logits: logits)
    with torch.no_grad():
        stream = value_at(model, Run(TOKENS), "blocks.0.hook_resid_pre")
        for block in model.blocks:
            stream = stream + block.attn.b_O + (0 if kind == "attn-only" else block.mlp.b_out)
        assert_close(ours, model.unembed(model.ln_final(stream)), RTOL)


# ----------------------------------------------------------------------------------------------------------- resampling


def order_of(prompts: Tensor, reference: Tensor | None = None, seed: int = 0) -> Tensor:
    """The prompts that `ablate` puts in place of each, read from the values, which differ in every prompt."""
    model, generator = model_of("gpt2"), torch.Generator().manual_seed(seed)
    seen: list[Tensor] = []

    def watch(value: Tensor, hook: Any) -> None:
        seen.append(value)

    with model.hooks(fwd_hooks=[("attn_out2", watch)]), unchecked_types():
        ablate(
            model,
            prompts,
            lambda logits: logits[:, -1, 0],
            "resid_pre",
            method="resample",
            over=("layer",),
            layers=[2],
            reference=reference,
            generator=generator,
            progress=False,
        )
    drawn = value_at(model, Run(prompts if reference is None else reference), "blocks.2.hook_attn_out")
    matches = (seen[-1][:, None] - drawn).abs().flatten(2).amax(2) < 1e-9
    assert bool((matches.sum(1) == 1).all())
    return matches.int().argmax(1)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_no_prompt_is_drawn_for_itself(n: int) -> None:
    for seed in range(5):
        order = order_of(SIX[:n], seed=seed)
        assert not (order == torch.arange(n)).any()
        assert sorted(order.tolist()) == list(range(n)), "each is used once"


def test_nor_if_the_same_prompts_are_passed_as_reference() -> None:
    """`reference=prompts` is what the default says."""
    prompts = SIX[:3]
    for seed in range(8):
        assert not (order_of(prompts, reference=prompts, seed=seed) == torch.arange(3)).any()


def test_the_generator_decides() -> None:
    orders = [order_of(SIX, seed=seed).tolist() for seed in (0, 0, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 1


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    order_of(SIX)
    assert torch.equal(torch.rand(3), expected)


def test_another_reference_is_drawn_from_as_a_whole() -> None:
    """Any of its prompts, for each prompt independently, so that its size does not matter."""
    reference = random_tokens(3, 5, 23, seed=9)
    drawn = [order_of(SIX[:4], reference, seed).tolist() for seed in range(6)]
    assert {row for order in drawn for row in order} == {0, 1, 2}
    assert any(len(set(order)) < 3 for order in drawn)


# ------------------------------------------------------------------------------------------------------------- mistakes

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "method": (
        dict(method="median"),
        BadInput,
        "'zero', 'mean', 'position_mean', 'resample' or 'noise', .* a Source, got 'median'",
    ),
    "site": (dict(site="zz"), UnknownHook, "Did you mean blocks.0.attn.hook_z"),
    "axis": (dict(over=("layer", "query")), BadInput, "cannot be swept over 'query'; it has layer, pos, head, d_head"),
    "layer": (dict(layers=[3]), BadInput, "layer 3 is out of range"),
    "no layers": (dict(layers=[]), BadInput, "nothing to sweep over"),
    "lonely prompt": (
        dict(prompts=TOKENS[:1], metric=LogitDiff(1, 2), method="resample"),
        BadInput,
        "within a single prompt gives the prompt itself; pass reference=",
    ),
    "longer reference": (dict(method="resample", reference=SIX[:, :4]), BadInput, "batch=2, pos=4, .*batch=2, pos=5"),
    "longer reference of patterns": (
        dict(site="pattern", method="mean", reference=SIX[:, :4]),
        BadInput,
        "query=4",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_and_leave_the_model_alone(what: str) -> None:
    changes, error, message = MISTAKES[what]
    arguments = dict(prompts=TOKENS, metric=DIFF, site="z", progress=False) | changes
    with left_alone(model_of("gpt2")), unchecked_types(), pytest.raises(error, match=message):
        ablate(model_of("gpt2"), **arguments)
