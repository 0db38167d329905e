"""What a lens says: the model's own final norm and unembedding after a map of the stream, also of intervened runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    Rank,
    Result,
    Run,
    at,
    evaluate,
    ioi_pairs,
    logit_lens,
    steer,
)
from interp_hooks.errors import BadInput
from interp_hooks.studies import Lens, LensResult, LogitLens
from interp_hooks.studies.lenses import direct_logit_attribution
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, left_alone, logits_of, value_at, word_tokenizer
from tests.studies.test_logit_attribution import BATCH, IN_VOCABULARY, MODELS, POSITIONS, RIGHT, WRONG, Model, model
from tests.tiny import CUSTOM, assert_close, build, fresh_hf, hooked, unchecked_types

__all__ = ["model"]


@pytest.mark.parametrize("pos", POSITIONS, ids=str)
def test_the_lens_ends_at_the_prediction(model: Model, pos: Any) -> None:
    lens = logit_lens(model, TOKENS, pos=pos)
    assert lens.labels == ["0_pre", "1_pre", "2_pre", "final_post"]
    assert_close(lens.log_probs[-1], logits_of(model, Run(TOKENS))[BATCH, pos].log_softmax(-1), RTOL)
    assert not lens.kl[-1].any()
    assert bool((lens.kl[:-1] > 0).all())
    assert_close(lens.log_probs.exp().sum(-1), torch.ones(4, 2), RTOL)


def test_each_point_is_the_model_stopped_there(model: Model) -> None:
    """The stream of that layer, through the final norm with its own statistics, and the unembedding."""
    lens = logit_lens(model, TOKENS, incl_mid=True, pos=-1)
    for label, log_probs in zip(lens.labels, lens.log_probs, strict=True):
        layer, point = label.split("_")
        hook = "blocks.2.hook_resid_post" if layer == "final" else f"blocks.{layer}.hook_resid_{point}"
        with torch.no_grad():
            logits = model.unembed(model.ln_final(value_at(model, Run(TOKENS), hook)))
        assert_close(log_probs, logits[:, -1].log_softmax(-1), RTOL)
    middle = "blocks.0.hook_resid_mid" in model.hook_dict
    assert [label for label in lens.labels if label.endswith("mid")] == (["0_mid", "1_mid", "2_mid"] if middle else [])


@pytest.mark.parametrize("stops_at", [0, 1, 2])
def test_a_model_that_stops_early_says_so(stops_at: int) -> None:
    """Layers that write nothing leave the prediction where it was."""
    model = build()
    with torch.no_grad():
        for block in model.blocks[stops_at:]:
            for weight in (block.attn.W_O, block.attn.b_O, block.mlp.W_out, block.mlp.b_out):
                weight.zero_()
    lens = logit_lens(model, TOKENS)
    for point, log_probs in enumerate(lens.log_probs):
        if point >= stops_at:
            assert_close(log_probs, lens.log_probs[-1], RTOL)
            assert float(lens.kl[point].abs().max()) < RTOL
        else:
            assert float(lens.kl[point].min()) > 1e-6


def test_kl_log_prob_and_rank() -> None:
    model = build()
    lens = logit_lens(model, TOKENS)
    final = lens.log_probs[-1]
    for point, log_probs in enumerate(lens.log_probs):
        expected = torch.nn.functional.kl_div(log_probs, final, reduction="none", log_target=True).sum(-1)
        assert_close(lens.kl[point] + 1, expected + 1, RTOL)
    for row in range(2):
        for answer in (3, RIGHT):
            token = answer if isinstance(answer, int) else answer[row]
            assert torch.equal(lens.log_prob(answer)[:, row], lens.log_probs[:, row, token])
            likelier = (lens.log_probs[:, row] > lens.log_probs[:, row, token, None]).sum(-1)
            assert torch.equal(lens.rank(answer)[:, row], likelier)
    top = final.argmax(-1).tolist()
    assert lens.rank(top)[-1].tolist() == [0, 0]


def test_the_table_is_a_row_for_each_point() -> None:
    lens = logit_lens(build(), TOKENS)
    assert isinstance(lens, Result)
    assert list(lens.table().columns) == ["point", "kl_nats", "standard_error"]
    table = lens.table(RIGHT)
    assert table["point"].tolist() == lens.labels
    assert table["kl_nats"].tolist() == pytest.approx(lens.kl.mean(-1).tolist())
    assert table["logprob_nats"].tolist() == pytest.approx(lens.log_prob(RIGHT).mean(-1).tolist())
    assert table["rank"].tolist() == pytest.approx(lens.rank(RIGHT).double().mean(-1).tolist())


def test_text_and_padding_in_the_lens() -> None:
    for side in ("left", "right"):
        model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes"), default_padding_side=side)
        model.load_state_dict(build().state_dict())
        together = logit_lens(model, ["a b c", "c"])
        alone = [logit_lens(model, text).log_probs for text in ("a b c", "c")]
        assert_close(together.log_probs, torch.cat(alone, 1), RTOL)
        assert torch.equal(together.log_prob("yes"), together.log_prob(model.to_single_token("yes")))


@pytest.mark.parametrize("answers", [[1, 2, 3], [19, 1], 19], ids=str)
def test_answers_that_do_not_fit_the_lens(answers: Any) -> None:
    with unchecked_types(), pytest.raises(BadInput):
        logit_lens(build(), TOKENS).log_prob(answers)


def test_a_position_outside_the_prompt() -> None:
    model = build()
    with left_alone(model), pytest.raises(BadInput, match="position -6 is out of range"):
        logit_lens(model, OTHER, pos=-6)


@pytest.mark.parametrize("name", CUSTOM)
def test_the_lens_ends_at_the_prediction_in_every_architecture(name: str) -> None:
    model = hooked(name)
    lens = logit_lens(model, IN_VOCABULARY, pos=-1)
    assert_close(lens.log_probs[-1], logits_of(model, Run(IN_VOCABULARY))[BATCH, -1].log_softmax(-1), RTOL)


# ------------------------------------------------------------------------------------------------------------- results


def test_it_is_a_result_under_its_old_names_too() -> None:
    lens = logit_lens(build(), TOKENS)
    assert type(lens) is LensResult is LogitLens
    assert torch.equal(lens.values, lens.kl)
    assert lens.metric == "kl_nats"
    assert "final_post" in repr(lens)
    assert callable(direct_logit_attribution)


@pytest.mark.parametrize("metric", [LogitDiff(RIGHT, WRONG, pos=-1), Rank(RIGHT, pos=-1)], ids=["diff", "rank"])
def test_a_metric_reads_every_point_as_it_reads_the_model(model: Model, metric: Any) -> None:
    found = logit_lens(model, TOKENS, metric, pos=-1)
    assert found.metric == metric.name
    assert_close(found.values[-1], evaluate(model, [Run(TOKENS)], metric)[0], RTOL)
    assert torch.equal(found.baselines["model"], found.values[-1])
    if isinstance(metric, Rank):
        assert torch.equal(found.values.long(), found.rank(RIGHT))
    else:
        assert_close(found.values, found.log_prob(RIGHT) - found.log_prob(WRONG), RTOL)


def test_of_a_task_the_values_are_the_tasks_metric() -> None:
    ioi = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    task = ioi_pairs(ioi, 3)
    found = logit_lens(ioi, task)
    assert found.metric == "logit_diff"
    assert_close(found.values[-1], evaluate(ioi, [Run(ioi.to_tokens(task.clean))], task.metric)[0], 1e-5)


def test_it_is_kept_and_computed_again(tmp_path: Path) -> None:
    own = build()
    lens = Lens(maps={1: torch.randn(12, 12).double(), 2: None}, biases={1: torch.ones(12).double()})
    patched = Run(TOKENS, [Intervention(at("mlp_out", 0), Run(OTHER))])
    for number, result in enumerate((lens(own, patched), logit_lens(own, patched, LogitDiff(RIGHT, WRONG)))):
        result.save(tmp_path / str(number))
        loaded = Result.load(tmp_path / str(number))
        assert torch.equal(loaded.values, result.values)
        again = loaded.rerun(own)
        assert isinstance(again, LensResult)
        assert torch.equal(again.streams, result.streams)


def test_a_result_says_when_the_weights_it_needs_have_changed() -> None:
    own = build()
    lens = logit_lens(own, TOKENS)
    with torch.no_grad():
        own.W_U.mul_(2)
    with pytest.raises(BadInput, match="weights were changed"):
        lens.log_prob(RIGHT)


# ------------------------------------------------------------------------------------------------------- all positions


@pytest.mark.parametrize("name", CUSTOM)
def test_every_position_is_read_as_alone(name: str) -> None:
    own = hooked(name)
    every = logit_lens(own, IN_VOCABULARY, pos=None)
    assert list(every.axes) == ["point", "pos"]
    following = IN_VOCABULARY.roll(-1, 1)
    for pos in range(5):
        alone = logit_lens(own, IN_VOCABULARY, pos=pos)
        assert_close(every.log_probs[:, pos], alone.log_probs, 1e-9)
        assert_close(every.kl[:, pos] + 1, alone.kl + 1, 1e-9)
        assert torch.equal(every.rank(RIGHT)[:, pos], alone.rank(RIGHT))
        assert_close(every.log_prob(following)[:, pos], every.log_probs[:, pos, BATCH, following[:, pos]], RTOL)


def test_padding_is_no_number_and_metrics_say_where_they_read() -> None:
    own = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes"), default_padding_side="left")
    own.load_state_dict(build().state_dict())
    every = logit_lens(own, ["a b c", "c"], pos=None)
    padded = (~every.real).T if every.real is not None else torch.zeros(0)
    assert padded.any()
    for number in (every.kl, every.log_prob("yes")):
        assert torch.equal(number.isnan(), padded.expand(4, -1, -1))
    with pytest.raises(BadInput, match="says itself where it reads"):
        logit_lens(own, ["a b c", "c"], LogitDiff(RIGHT, WRONG), pos=None)


def test_a_bidirectional_model_needs_the_position() -> None:
    own = build(attention_dir="bidirectional")
    with pytest.raises(BadInput, match="pos= is needed"):
        logit_lens(own, TOKENS)
    assert logit_lens(own, TOKENS, pos=None).values.shape == (4, 5, 2)
    assert Lens.identity(own)(own, TOKENS, pos=2).values.shape == (4, 2)


def test_likeliest_tokens_and_their_words() -> None:
    lens = logit_lens(build(), TOKENS)
    ids, values = lens.top_tokens(4)
    for point in range(4):
        for prompt in range(2):
            expected = lens.log_probs[point, prompt].sort(descending=True)
            assert torch.equal(ids[point, prompt], expected.indices[:4])
            assert torch.equal(values[point, prompt], expected.values[:4])
    assert lens.words(2)[1][0] == [str(one) for one in ids[1, 0, :2].tolist()]
    with pytest.raises(BadInput, match=r"k must be 1\.\.19"):
        lens.top_tokens(20)


def test_padded_rows_of_the_vocabulary_are_no_tokens() -> None:
    """A padded row that is likelier than every token is in no rank, no top token, and no probability."""
    cfg = build(d_vocab=9, d_vocab_out=9).cfg
    own = HookedTransformer(cfg, word_tokenizer("a", "b", "c", "yes"))
    own.load_state_dict(build(d_vocab=9, d_vocab_out=9).state_dict())
    known = 7
    before = logit_lens(own, ["a b c"])
    with torch.no_grad():
        before_kl, before_log_probs, before_rank = before.kl, before.log_probs, before.rank("yes")
        own.b_U[known:] += 50.0
    lens = logit_lens(own, ["a b c"])
    assert bool((lens.log_probs[..., known:] == -torch.inf).all())
    assert_close(lens.log_probs[..., :known].exp().sum(-1), torch.ones(4, 1), RTOL)
    assert_close(lens.log_probs[..., :known], before_log_probs[..., :known], RTOL)
    assert_close(lens.kl + 1, before_kl + 1, RTOL)
    assert torch.equal(lens.rank("yes"), before_rank)
    assert bool((lens.top_tokens(known)[0] < known).all())
    assert bool((lens.log_prob(known) == -torch.inf).all())


# --------------------------------------------------------------------------------------------------------------- lenses


def test_maps_are_applied_to_the_stream_that_enters_the_layer(model: Model) -> None:
    maps = {layer: torch.randn(12, 12, dtype=torch.float64) for layer in (0, 2)}
    lens = Lens(maps=maps, biases={2: torch.randn(12).double()})
    found = lens(model, TOKENS, pos=-1)
    assert found.labels == ["0_pre", "2_pre", "final_post"]
    for row, layer in enumerate((0, 2)):
        stream = value_at(model, Run(TOKENS), f"blocks.{layer}.hook_resid_pre")[:, -1:]
        mapped = torch.einsum("ij,bpj->bpi", maps[layer], stream) + lens.biases.get(layer, torch.zeros(12))
        assert_close(found.streams[row], mapped[:, 0], RTOL)
        assert_close(found.log_probs[row], model.logits(mapped)[:, 0].log_softmax(-1).detach(), RTOL)
        assert_close(lens.of(layer, stream), mapped, RTOL)


def test_the_identity_lens_is_the_logit_lens(model: Model) -> None:
    lens, identity = logit_lens(model, TOKENS, pos=-1), Lens.identity(model)(model, TOKENS, pos=-1)
    assert identity.labels == lens.labels
    assert torch.equal(identity.values, lens.values)
    written_out = Lens(maps={layer: torch.eye(12, dtype=torch.float64) for layer in range(3)})
    assert_close(written_out(model, TOKENS, pos=-1).log_probs, lens.log_probs, RTOL)


@pytest.mark.parametrize("kind", MODELS)
def test_of_a_patched_run_the_lens_reads_the_patched_stream(kind: str) -> None:
    own = build(**MODELS[kind])
    site, other = "blocks.1.attn.hook_z", value_at(own, Run(OTHER), "blocks.1.attn.hook_z")

    def patch_head(value: Tensor, hook: Any) -> Tensor:
        value[:, :, 2] = other[:, :, 2]
        return value

    def keep(value: Tensor, hook: Any) -> None:
        streams[hook.name] = value.clone()

    streams: dict[str, Tensor] = {}
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(3)] + ["blocks.2.hook_resid_post"]
    with torch.no_grad():
        logits = own.run_with_hooks(TOKENS, fwd_hooks=[(site, patch_head), *((name, keep) for name in names)])
    lens = Lens(maps={layer: torch.randn(12, 12, dtype=torch.float64) for layer in range(3)})
    with left_alone(own):
        found = lens(own, Run(TOKENS, [Intervention(at("z", 1, head=2), Run(OTHER))]), pos=-1)
    mapped = [lens.of(layer, streams[names[layer]]) for layer in range(3)] + [streams[names[3]]]
    for row, stream in enumerate(mapped):
        assert_close(found.log_probs[row], own.logits(stream)[:, -1].log_softmax(-1).detach(), RTOL)
    assert_close(found.log_probs[-1], logits[:, -1].log_softmax(-1), RTOL)
    untouched = lens(own, TOKENS, pos=-1)
    assert_close(found.log_probs[:2], untouched.log_probs[:2], RTOL)
    assert float((found.values[2] - untouched.values[2]).abs().min()) > 1e-6


def test_a_lens_sees_what_is_attached_to_the_model() -> None:
    own = build()
    with steer(own, torch.ones(12).double(), "resid_mid1", coefficient=3.0):
        steered = logit_lens(own, TOKENS, incl_mid=True)
    by_run = logit_lens(own, Run(TOKENS, [Intervention(at("resid_mid", 1), lambda value: value + 3.0)]), incl_mid=True)
    assert_close(steered.log_probs, by_run.log_probs, RTOL)


def test_what_is_done_after_the_last_block_is_refused() -> None:
    own = build()
    for late in (at("unembed.hook_in"), at("ln_final.hook_scale")):
        with left_alone(own), pytest.raises(BadInput, match="does not see what is done at"):
            logit_lens(own, Run(TOKENS, [Intervention(late, 0.0)]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(maps={}), "matrices by layer"),
        (dict(maps=torch.eye(3)), "matrices by layer"),
        (dict(maps={0: torch.ones(3, 4)}), r"must all be \[d_model, d_model\]"),
        (dict(maps={0: torch.eye(3), 1: torch.eye(4)}), "must all be"),
        (dict(maps={0: torch.eye(3) / 0}), "finite"),
        (dict(maps={0: torch.eye(3).long()}), "finite floating-point"),
        (dict(maps={0: torch.eye(3)}, biases={1: torch.ones(3)}), "bias of layer 1"),
        (dict(maps={0: torch.eye(3)}, biases={0: torch.ones(4)}), "bias of layer 0"),
        (dict(maps={0: None}, biases={0: torch.ones(4)}), "bias of layer 0"),
        (dict(maps={0: None}, kind="other"), "kind must be one of"),
    ],
    ids=str,
)
def test_maps_that_are_none(fields: dict[str, Any], message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        Lens(**fields)


def test_a_lens_of_another_model_is_refused() -> None:
    own = build()
    with pytest.raises(BadInput, match="width 5"):
        Lens(maps={0: torch.eye(5)})(own, TOKENS)
    with pytest.raises(BadInput, match="map for layer 3"):
        Lens(maps={3: torch.eye(12)})(own, TOKENS)
    with pytest.raises(BadInput, match="not for 1"):
        Lens(maps={0: None}).of(1, torch.ones(12))


def test_a_tuned_lens_of_streams_with_a_mean_is_refused_where_there_is_none() -> None:
    load = HookedTransformer.from_pretrained, HookedTransformer.from_pretrained_no_processing
    processed, raw = (one("tiny", hf_model=fresh_hf("gpt2")) for one in load)
    tuned = Lens(maps={1: torch.eye(raw.cfg.d_model)}, kind="tuned", of_centred=False)
    tokens = torch.tensor([[1, 2, 3]])
    assert tuned(raw, tokens).values.shape == (2, 1)
    with pytest.raises(BadInput, match="center_writing_weights=False"):
        tuned(processed, tokens)
