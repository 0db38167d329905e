"""Direct effects sum to the model's own logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from interp_hooks import (
    ActivationCache,
    HookedTransformer,
    Intervention,
    LogitDiff,
    Result,
    Run,
    Site,
    Task,
    at,
    direct_logit_attribution,
    evaluate,
    ioi_pairs,
)
from interp_hooks.errors import BadInput
from interp_hooks.studies.logit_attribution import DirectLogitAttribution
from tests.experiments.by_hand import KINDS, RTOL, TOKENS, left_alone, logits_of, value_at, word_tokenizer
from tests.family_configs.gemma import CONFIGS
from tests.tiny import CUSTOM, assert_close, build, distance, fresh_hf, hooked, random_tokens, redraw, unchecked_types

MODELS: dict[str, dict[str, Any]] = KINDS | {
    "folded": dict(normalization_type="LNPre"),
    "folded-rms": dict(normalization_type="RMSPre", positional_embedding_type="none"),
    "rms": dict(normalization_type="RMS"),
    "no-norm": dict(normalization_type=None),
    "bidirectional": dict(attention_dir="bidirectional"),
}
RIGHT, WRONG = [4, 11], [7, 2]
BATCH = torch.arange(2)
POSITIONS: list[Any] = [-1, 2, torch.tensor([4, 1])]
Model = HookedTransformer


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> HookedTransformer:
    return build(**MODELS[request.param])


def cached(model: Model, names: Any = None, prompt: int | None = None) -> ActivationCache:
    tokens = TOKENS if prompt is None else TOKENS[prompt : prompt + 1]
    with torch.no_grad():
        return model.run_with_cache(tokens, names_filter=names)[1]


@pytest.mark.parametrize("unit", ["component", "head", "neuron"])
@pytest.mark.parametrize("pos", POSITIONS, ids=str)
def test_effects_sum_to_the_logit(model: Model, unit: Any, pos: Any) -> None:
    if unit == "neuron" and model.cfg.attn_only:
        pytest.skip("it has no neurons")
    logits = logits_of(model, Run(TOKENS))[BATCH, pos]
    right, wrong = logits[BATCH, torch.tensor(RIGHT)], logits[BATCH, torch.tensor(WRONG)]
    single = direct_logit_attribution(model, TOKENS, RIGHT, unit=unit, pos=pos)
    assert single.metric == "logit"
    assert_close(single.values.sum(0), right, RTOL)
    assert_close(single.baselines["model"], right, RTOL)
    difference = direct_logit_attribution(model, TOKENS, RIGHT, WRONG, unit=unit, pos=pos)
    assert difference.metric == "logit_diff"
    assert_close(difference.values.sum(0), right - wrong, RTOL)
    assert_close(difference.baselines["model"], right - wrong, RTOL)


def _direct(model: Model, part: Tensor, tokens: Tensor) -> Tensor:
    """(part - mean) / scale * w @ W_U[:, token] at the last position, with the scale of the run."""
    part = part[:, -1]
    if model.cfg.centres_residual:
        part = part - part.mean(-1, keepdim=True)
    if model.cfg.normalization_type is not None:
        part = part / value_at(model, Run(TOKENS), "ln_final.hook_scale")[:, -1]
    if model.ln_final.w is not None:
        part = part * model.ln_final.w
    return (part * (model.W_U.T[tokens])).sum(-1).detach()


def test_every_component_is_in_its_row(model: Model) -> None:
    result = direct_logit_attribution(model, TOKENS, RIGHT, pos=-1)
    rows = dict(zip(result.axes["component"], result.values, strict=True))
    hooks = {"embed": "hook_embed", "pos_embed": "hook_pos_embed"}
    hooks |= {
        f"{layer}_{part}_out": f"blocks.{layer}.hook_{part}_out" for layer in range(3) for part in ("attn", "mlp")
    }
    hooks = {label: hook for label, hook in hooks.items() if hook in model.hook_dict}
    assert list(rows) == [*hooks, "bias"]
    for label, hook in hooks.items():
        assert_close(rows[label], _direct(model, value_at(model, Run(TOKENS), hook), torch.tensor(RIGHT)), RTOL)
    constant = model.b_U[RIGHT]
    if model.ln_final.b is not None:
        constant = constant + model.ln_final.b @ model.W_U[:, RIGHT]
    assert_close(rows["bias"], constant.detach(), RTOL)


def test_every_head_is_in_its_row(model: Model) -> None:
    """Heads of one layer sum to its attention, less b_O, which is in the remainder."""
    result = direct_logit_attribution(model, TOKENS, RIGHT, unit="head", pos=-1)
    rows = dict(zip(result.axes["head"], result.values, strict=True))
    assert list(rows) == [*(f"L{layer}H{head}" for layer in range(3) for head in range(4)), "remainder", "bias"]
    components = direct_logit_attribution(model, TOKENS, RIGHT, pos=-1)
    by_name = dict(zip(components.axes["component"], components.values, strict=True))
    for layer in range(3):
        results = value_at(model, Run(TOKENS), f"blocks.{layer}.attn.hook_result")
        for head in range(4):
            assert_close(rows[f"L{layer}H{head}"], _direct(model, results[:, :, head], torch.tensor(RIGHT)), RTOL)
        b_O = _direct(model, model.blocks[layer].attn.b_O.expand(2, 1, -1), torch.tensor(RIGHT))
        heads = sum(rows[f"L{layer}H{head}"] for head in range(4))
        assert_close(heads + b_O, by_name[f"{layer}_attn_out"], RTOL)
    assert torch.equal(rows["bias"], by_name["bias"])


@pytest.mark.parametrize("wrong", [None, WRONG], ids=["logit", "difference"])
def test_every_neuron_is_in_its_row(model: Model, wrong: list[int] | None) -> None:
    """Neurons of one layer sum to its MLP, less b_out, which is in the remainder."""
    if model.cfg.attn_only:
        with pytest.raises(BadInput, match="layer 0 has no MLP"):
            direct_logit_attribution(model, TOKENS, RIGHT, unit="neuron")
        return
    result = direct_logit_attribution(model, TOKENS, RIGHT, wrong, unit="neuron", pos=-1)
    rows = dict(zip(result.axes["neuron"], result.values, strict=True))
    assert list(rows) == [*(f"L{at}N{neuron}" for at in range(3) for neuron in range(20)), "remainder", "bias"]
    components = direct_logit_attribution(model, TOKENS, RIGHT, wrong, pos=-1)
    by_name = dict(zip(components.axes["component"], components.values, strict=True))

    def direct(part: Tensor) -> Tensor:
        effect = _direct(model, part, torch.tensor(RIGHT))
        return effect if wrong is None else effect - _direct(model, part, torch.tensor(wrong))

    for at_layer in range(3):
        mlp: Any = model.blocks[at_layer].mlp
        written = value_at(model, Run(TOKENS), f"blocks.{at_layer}.mlp.hook_post")[..., None] * mlp.W_out
        neurons = torch.stack([rows[f"L{at_layer}N{neuron}"] for neuron in range(20)])
        assert_close(neurons, torch.stack([direct(written[:, :, neuron]) for neuron in range(20)]), RTOL)
        assert_close(neurons.sum(0) + direct(mlp.b_out.expand(2, 1, -1)), by_name[f"{at_layer}_mlp_out"], RTOL)
    assert_close(rows["bias"], by_name["bias"], RTOL)


def test_neurons_of_prompts_with_the_same_answer_are_read_together() -> None:
    model = build(normalization_type="RMS")
    one = direct_logit_attribution(model, TOKENS, [4, 4], [7, 7], unit="neuron")
    each = [direct_logit_attribution(model, row[None], 4, 7, unit="neuron") for row in TOKENS]
    assert_close(one.values, torch.cat([result.values for result in each], dim=1), RTOL)


@pytest.mark.parametrize("part", ["attn_out", "mlp_out"])
def test_what_the_last_layer_writes_is_lost_when_ablated(part: str) -> None:
    """With the final scale held, the effect of zeroing what nothing later reads is minus its direct effect."""
    model = build(parallel_attn_mlp=True)  # so that the MLP does not read the attention of its own layer
    rows = direct_logit_attribution(model, TOKENS, RIGHT, WRONG)
    row = rows.values[rows.axes["component"].index(f"2_{part}")]
    ablated = Intervention(at(part, 2), 0.0)
    held = Intervention(Site(hook="ln_final.hook_scale"), Run(TOKENS))
    runs = [Run(TOKENS), Run(TOKENS, [ablated, held]), Run(TOKENS, [ablated])]
    before, frozen, free = evaluate(model, runs, LogitDiff(RIGHT, WRONG))
    assert_close(frozen - before, -row, RTOL)
    assert distance(free - before, -row) > 1e-3, "the scale of the norm changes too, unless it is held"


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama-biases"])
def test_processing_of_weights_moves_no_effect(name: str) -> None:
    """Folding gains and centring change neither a component's part of a logit difference nor the bias row."""
    load = HookedTransformer.from_pretrained, HookedTransformer.from_pretrained_no_processing
    processed, raw = (one("tiny", hf_model=fresh_hf(name), dtype=torch.float64) for one in load)
    assert raw.cfg.normalization_type != processed.cfg.normalization_type
    ours, theirs = (direct_logit_attribution(model, TOKENS, RIGHT, WRONG) for model in (raw, processed))
    assert ours.axes == theirs.axes
    assert_close(theirs.values, ours.values, RTOL)


def test_streams_are_read_as_they_grow(model: Model) -> None:
    """The last one, with the bias, gives the model's logit; every row is what the frozen norm makes of that stream."""
    result = direct_logit_attribution(model, TOKENS, RIGHT, unit="layer", pos=-1)
    mid = ["{}_pre", "{}_mid"] if "blocks.0.hook_resid_mid" in model.hook_dict else ["{}_pre"]
    assert result.labels == [*(one.format(layer) for layer in range(3) for one in mid), "final_post", "bias"]
    for label, row in zip(result.labels[:-2], result.attribution, strict=False):
        stream = value_at(model, Run(TOKENS), "blocks.{}.hook_resid_{}".format(*label.split("_")))
        assert_close(row, _direct(model, stream, torch.tensor(RIGHT)), RTOL)
    logit = logits_of(model, Run(TOKENS))[BATCH, -1, torch.tensor(RIGHT)]
    assert_close(result.values[-2:].sum(0), logit, RTOL)
    assert_close(result.baselines["model"], logit, RTOL)


@pytest.mark.parametrize("unit", ["component", "layer", "head"])
@pytest.mark.parametrize("pos", POSITIONS, ids=str)
def test_a_cache_is_as_good_as_a_run(unit: Any, pos: Any) -> None:
    model = build()
    ran = direct_logit_attribution(model, TOKENS, RIGHT, WRONG, unit=unit, pos=pos)
    read = direct_logit_attribution(model, None, RIGHT, WRONG, unit=unit, pos=pos, cache=cached(model))
    assert_close(read.values, ran.values, RTOL)
    assert read.labels == ran.labels
    one = cached(model, prompt=0).remove_batch_dim()
    if isinstance(pos, int):
        first = direct_logit_attribution(model, answer_tokens=RIGHT[0], unit=unit, pos=pos, cache=one)
        assert_close(
            first.values, direct_logit_attribution(model, TOKENS[:1], RIGHT[0], unit=unit, pos=pos).values, RTOL
        )


def test_it_is_kept_and_computed_again(tmp_path: Path) -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    pairs = ioi_pairs(model, 3)
    result = direct_logit_attribution(model, pairs.clean, pairs.answer, pairs.wrong, unit="head")
    result.save(tmp_path / "heads")
    again = Result.load(tmp_path / "heads").rerun(model)
    assert isinstance(again, DirectLogitAttribution)
    assert torch.equal(again.attribution, result.attribution)
    assert again.labels == result.labels
    with torch.no_grad():
        cache = model.run_with_cache(pairs.clean)[1]
    with pytest.raises(BadInput, match="no record"):
        direct_logit_attribution(model, None, pairs.answer, cache=cache).rerun(model)


def test_one_answer_serves_all_prompts() -> None:
    model = build()
    one, each = (direct_logit_attribution(model, TOKENS, answers, 2) for answers in (4, [4, 4]))
    assert torch.equal(one.values, each.values)


def test_text_and_padding() -> None:
    """Each prompt is read at its last real token, as it is alone."""
    for side in ("left", "right"):
        model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes", "no"), default_padding_side=side)
        model.load_state_dict(build().state_dict())
        for unit in ("component", "head"):
            together = direct_logit_attribution(model, ["a b c", "c"], ["yes", "no"], ["no", "yes"], unit=unit)
            first = direct_logit_attribution(model, "a b c", "yes", "no", unit=unit)
            second = direct_logit_attribution(model, "c", "no", "yes", unit=unit)
            assert_close(together.values, torch.cat((first.values, second.values), -1), RTOL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(unit="feature"), "'component', 'layer', 'head' or 'neuron', got 'feature'"),
        (dict(pos=5), "position 5 is out of range"),
        (dict(pos=torch.tensor([0, 1, 2])), ""),
        (dict(answer_tokens=[1, 2, 3]), "one answer for each of 2 prompts, or one for all, got 3"),
        (dict(incorrect_tokens=[1, 2, 3]), "one answer for each of 2 prompts, or one for all, got 3"),
        (dict(answer_tokens=19), r"token ids must be 0\.\.18"),
        (dict(answer_tokens=None), "answer_tokens is needed"),
        (dict(input=None), "either prompts to run or cache="),
        (dict(cache=cached(build())), "either prompts to run or cache="),
        (dict(input=None, cache=cached(build(), "blocks.0.hook_resid_mid")), "nothing that ends with"),
        (dict(input=TOKENS + 23), r"token ids must be 0\.\.22"),
    ],
    ids=str,
)
def test_mistakes_are_told_and_leave_the_model_alone(changes: dict[str, Any], message: str) -> None:
    model = build()
    arguments = dict(input=TOKENS, answer_tokens=RIGHT) | changes
    with left_alone(model), unchecked_types(), pytest.raises(BadInput, match=message or None):
        direct_logit_attribution(model, **arguments)


# -------------------------------------------------------------------------------------------------- every architecture

ADDITIVE = [name for name in CUSTOM if name != "post-norm"]
IN_VOCABULARY = TOKENS % 19


@pytest.mark.parametrize("unit", ["component", "head"])
@pytest.mark.parametrize("name", ADDITIVE)
def test_effects_sum_to_the_logit_in_every_architecture(name: str, unit: Any) -> None:
    """Multiplied by `logits_scale`, before the soft cap; norms of outputs with the scales of the run."""
    model = hooked(name)
    own = logits = logits_of(model, Run(IN_VOCABULARY))[BATCH, -1]
    if cap := model.cfg.output_logits_soft_cap:
        logits = cap * torch.atanh(logits / cap)
    right, wrong = torch.tensor(RIGHT), torch.tensor(WRONG)
    result = direct_logit_attribution(model, IN_VOCABULARY, RIGHT, WRONG, unit=unit, pos=-1)
    before = logits[BATCH, right] - logits[BATCH, wrong]
    assert_close(result.values.sum(0), before, RTOL)
    assert result.parts_of is not None
    assert_close(result.baselines[result.parts_of], before, RTOL)
    assert_close(result.baselines["model"], own[BATCH, right] - own[BATCH, wrong], RTOL)
    assert_close(
        result.baselines["model"], evaluate(model, [Run(IN_VOCABULARY)], LogitDiff(RIGHT, WRONG, pos=-1))[0], RTOL
    )


@pytest.mark.parametrize("unit", ["component", "head", "layer"])
def test_a_soft_cap_lies_between_the_parts_and_the_answer_and_the_result_says_so(unit: Any, tmp_path: Path) -> None:
    """The difference that parts sum to is not the one that HuggingFace's model says, which is capped."""
    config = AutoConfig.for_model(**CONFIGS["gemma2"] | dict(final_logit_softcapping=2.0))
    hf_model = AutoModelForCausalLM.from_config(config).double().eval()
    redraw(hf_model)
    logits = hf_model(IN_VOCABULARY).logits[:, -1].detach()
    model = HookedTransformer.from_pretrained("tiny", hf_model=hf_model, dtype=torch.float64)
    said = logits[BATCH, torch.tensor(RIGHT)] - logits[BATCH, torch.tensor(WRONG)]
    uncapped = 2 * torch.atanh(logits / 2)
    before = uncapped[BATCH, torch.tensor(RIGHT)] - uncapped[BATCH, torch.tensor(WRONG)]
    assert float((before - said).abs().max()) > 0.1
    result = direct_logit_attribution(model, IN_VOCABULARY, RIGHT, WRONG, unit=unit)
    assert_close(result.baselines["model"], said, 1e-6)
    assert_close(result.baselines["before_cap"], before, 1e-6)
    assert_close(result.values[-2:].sum(0) if unit == "layer" else result.values.sum(0), before, 1e-6)
    assert (result.metric, result.parts_of) == ("logit_diff_before_cap", "before_cap")
    assert "cells are parts of before_cap" in result.note
    single = direct_logit_attribution(model, IN_VOCABULARY, RIGHT, unit=unit)
    assert single.metric == "logit_before_cap"
    assert_close(single.baselines["model"], logits[BATCH, torch.tensor(RIGHT)], 1e-6)
    result.save(tmp_path / "kept")
    assert Result.load(tmp_path / "kept").note == result.note


@pytest.mark.parametrize("unit", ["component", "head"])
def test_a_post_norm_model_has_no_direct_effects(unit: Any) -> None:
    model = hooked("post-norm")
    with left_alone(model), pytest.raises(BadInput, match="is no sum of what was written"):
        direct_logit_attribution(model, IN_VOCABULARY, RIGHT, unit=unit, pos=-1)


def test_a_task_brings_both_answers_unless_others_are_given() -> None:
    model, tokens = build(), random_tokens(batch=3, pos=5, d_vocab=19)
    answer, wrong = torch.tensor([3, 1, 4]), torch.tensor([2, 7, 1])
    task = Task(name="", clean=tokens, corrupt=tokens, answer=answer, wrong=wrong, metric=LogitDiff(answer, wrong))
    both = direct_logit_attribution(model, tokens, answer, wrong)
    assert direct_logit_attribution(model, task).values.equal(both.values)
    alone = direct_logit_attribution(model, tokens, answer)
    assert direct_logit_attribution(model, task, answer).values.equal(alone.values)
    with pytest.raises(BadInput, match="answer_tokens is needed"):
        direct_logit_attribution(model, tokens)
