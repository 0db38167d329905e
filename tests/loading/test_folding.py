"""Weight processing: what each step leaves behind. That no probability changes is tested in `tests/test_families.py`
for every family, and here for architectures that no family has."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import ConfigError
from interp_hooks.loading import folding
from interp_hooks.loading.folding import STEPS, Processing, process
from tests.tiny import CUSTOM, assert_close, build, log_probs, our_logits, random_tokens

# Processing rearranges float64 sums of a few dozen numbers.
EXACT = 1e-10

FOLDABLE: dict[str, dict[str, Any]] = {
    "layer norm": {},
    "rms": dict(normalization_type="RMS"),
    "folded": dict(normalization_type="LNPre"),
    "no norm": dict(normalization_type=None),
    "attn only": dict(attn_only=True),
    "gated": dict(gated_mlp=True, normalization_type="RMS"),
    "parallel": dict(parallel_attn_mlp=True),
    "grouped rotary": dict(n_key_value_heads=2, positional_embedding_type="rotary", normalization_type="RMS"),
    "bidirectional": dict(attention_dir="bidirectional"),
    "norm of neurons": dict(act_fn="solu_ln"),
    "norm of neurons, rms": dict(act_fn="solu_ln", normalization_type="RMS"),
    "masked-LM head": dict(mlm_head=True),
    "shortformer": dict(positional_embedding_type="shortformer"),
}


def only(step: str) -> Processing:
    return Processing(**{name: name == step for name in STEPS})


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (step, name)
        for step in [*STEPS, "default"]
        for name in FOLDABLE
        if not (step.startswith("refactor") and "grouped" in name)
    ],
)
def test_no_probability_changes(step: str, name: str, tokens: Tensor) -> None:
    model = build(**FOLDABLE[name])
    before = our_logits(model, tokens)
    process(model, Processing() if step == "default" else only(step))
    after = our_logits(model, tokens)
    assert_close(log_probs(after), log_probs(before), EXACT)
    if step not in ("center_unembed", "default"):
        assert_close(after, before, EXACT)


@pytest.mark.parametrize("kind", ["LN", "RMS"])
def test_folded_norms_have_no_parameters(kind: str) -> None:
    model = build(normalization_type=kind)
    process(model, only("fold_ln"))
    assert model.cfg.normalization_type == kind + "Pre"
    for norm in (model.blocks[0].ln1, model.blocks[1].ln2, model.ln_final):
        assert norm.w is None
        assert norm.b is None
    assert not [name for name, _ in model.named_parameters() if name.endswith((".w", ".b"))]


def test_folding_centres_what_reads_a_layer_norm() -> None:
    """LayerNorm gives mean zero, so the mean of its readers over d_model never matters."""
    model = build(gated_mlp=True)
    process(model, only("fold_ln"))
    mlp, attn = model.blocks[1].mlp, model.blocks[1].attn
    for weight, axis in ((attn.W_Q, 1), (attn.W_K, 1), (attn.W_V, 1), (mlp.W_in, 0), (mlp.W_gate, 0), (model.W_U, 0)):
        assert float(weight.detach().mean(axis).abs().max()) < 1e-14  # a mean of 12 numbers near 1, in float64


def test_folding_an_rms_norm_only_scales() -> None:
    model, untouched = build(normalization_type="RMS"), build(normalization_type="RMS")
    process(model, only("fold_ln"))
    expected = untouched.blocks[1].attn.W_Q * untouched.blocks[1].ln1.w[None, :, None]
    assert torch.equal(model.blocks[1].attn.W_Q, expected)
    assert torch.equal(model.blocks[1].attn.b_Q, untouched.blocks[1].attn.b_Q), "there is no bias to fold"


def test_writers_are_centred(own: HookedTransformer) -> None:
    process(own, only("center_writing_weights"))
    attn, mlp = own.blocks[2].attn, own.blocks[2].mlp
    for writer in (own.W_E, own.W_pos, attn.W_O, attn.b_O, mlp.W_out, mlp.b_out):
        assert float(writer.detach().mean(-1).abs().max()) < 1e-14  # as above


@pytest.mark.parametrize("fields", [{}, dict(n_token_types=2)], ids=["plain", "token types"])
def test_every_stream_of_a_centred_model_has_mean_zero(fields: dict[str, Any], tokens: Tensor) -> None:
    model = build(**fields)
    process(model, only("center_writing_weights"))
    types = dict(token_type_ids=tokens % 2) if fields else {}
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: "resid" in name, **types)
    for stream in cache.values():
        assert float(stream.mean(-1).abs().max()) < 1e-13  # a stream is a sum of a dozen centred terms


def test_centred_unembedding_has_logits_of_mean_zero(own: HookedTransformer, tokens: Tensor) -> None:
    process(own, only("center_unembed"))
    assert float(our_logits(own, tokens).mean(-1).abs().max()) < 1e-13


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_value_biases_move_into_the_output_bias(groups: int) -> None:
    model, untouched = build(n_key_value_heads=groups), build(n_key_value_heads=groups)
    process(model, only("fold_value_biases"))
    attn, before = model.blocks[0].attn, untouched.blocks[0].attn
    assert not attn.b_V.any()
    moved = sum(before.b_V[head * groups // 4] @ before.W_O[head] for head in range(4))
    assert_close(attn.b_O, before.b_O + moved, EXACT)


def test_refactored_heads_are_an_even_split(own: HookedTransformer) -> None:
    before = build()
    process(own, only("refactor_factored_attn_matrices"))
    attn, old = own.blocks[1].attn, before.blocks[1].attn
    # With the biases as one more row, since the score is a product of both
    query, key = torch.cat((attn.W_Q, attn.b_Q[:, None]), 1), torch.cat((attn.W_K, attn.b_K[:, None]), 1)
    old_query, old_key = torch.cat((old.W_Q, old.b_Q[:, None]), 1), torch.cat((old.W_K, old.b_K[:, None]), 1)
    assert_close(query @ key.mT, old_query @ old_key.mT, EXACT)
    assert_close(query.norm(dim=1), key.norm(dim=1), EXACT)
    gram = query.mT @ query
    assert_close(gram, torch.diag_embed(gram.diagonal(dim1=1, dim2=2)), EXACT)
    assert_close(attn.W_O @ attn.W_O.mT, torch.eye(4, dtype=torch.float64).expand(4, 4, 4), EXACT)
    assert_close(attn.W_V @ attn.W_O, old.W_V @ old.W_O, EXACT)


@pytest.mark.parametrize(
    ("fields", "why"),
    [(dict(positional_embedding_type="rotary"), "rotary"), (dict(n_key_value_heads=2), "query heads share keys")],
)
def test_refactoring_what_has_no_single_matrix_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"refactor_factored_attn_matrices: .*{why}"):
        process(build(**fields), only("refactor_factored_attn_matrices"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ["fold_ln: applied", "center_writing_weights: applied", "center_unembed: applied",
              "fold_value_biases: applied", "refactor_factored_attn_matrices: not asked for"]),
        (dict(normalization_type="RMS"), ["center_writing_weights: skipped, only a stream that every reader"]),
        (dict(normalization_type=None), ["fold_ln: skipped, normalization_type=None has no gain to fold"]),
    ],
)  # fmt: skip
def test_the_report_tells_each_step(fields: dict[str, Any], said: list[str]) -> None:
    report = "\n".join(process(build(**fields), Processing()))
    for line in said:
        assert line in report


@pytest.mark.parametrize("step", ["fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"])
def test_processing_twice_is_processing_once(step: str, own: HookedTransformer) -> None:
    process(own, only(step))
    once = {name: weight.clone() for name, weight in own.state_dict().items()}
    process(own, only(step))
    for name, weight in own.state_dict().items():
        assert float((weight - once[name]).abs().max()) < 1e-14, name  # a mean of zero may be subtracted again


def test_half_precision_is_processed_in_float32() -> None:
    """Folding in bfloat16 gives what folding in float32 and rounding once gives, bit by bit."""
    half = build(dtype=torch.bfloat16)
    exact = build(dtype=torch.float32)
    exact.load_state_dict(half.state_dict())
    process(half, only("fold_ln"))
    process(exact, only("fold_ln"))
    for name, weight in half.state_dict().items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, exact.state_dict()[name].bfloat16()), name


def test_processing_keeps_the_memory_of_every_weight(own: HookedTransformer) -> None:
    """In place: no second copy of the model, and the layout that a forward pass needs."""
    before = {name: (weight.data_ptr(), weight.stride()) for name, weight in own.named_parameters()}
    process(own, Processing())
    for name, weight in own.named_parameters():
        assert (weight.data_ptr(), weight.stride()) == before[name], name


# -------------------------------------------------------------------------------------------------- every architecture

NEARBY = random_tokens(batch=2, pos=7, d_vocab=19)


@pytest.mark.parametrize("step", [*STEPS, "default"])
@pytest.mark.parametrize("name", CUSTOM)
def test_no_probability_changes_in_any_architecture(name: str, step: str) -> None:
    """Experts, latents, one norm for two readers, gains with an offset, norms of outputs, sinks, clips and caps."""
    model = build(**CUSTOM[name])
    before = our_logits(model, NEARBY)
    processing = Processing() if step == "default" else only(step)
    cfg = model.cfg
    if step.startswith("refactor") and (model.rotary or cfg.qkv_clip or cfg.n_key_value_heads < 4 or cfg.qk_norm):
        with pytest.raises(ConfigError, match="refactor_factored_attn_matrices"):
            process(model, processing)
        assert torch.equal(our_logits(model, NEARBY), before), "it is refused before anything is changed"
        return
    process(model, processing)
    after = our_logits(model, NEARBY)
    assert_close(log_probs(after), log_probs(before), EXACT)
    if step not in ("center_unembed", "default"):
        assert_close(after, before, EXACT)


@pytest.mark.parametrize("name", ["experts", "latent", "shared-norm", "output-norms"])
def test_what_is_folded_has_no_gain_left(name: str) -> None:
    """Norms whose output is only read lose them; those of outputs, latents, queries and keys keep theirs."""
    model = build(**CUSTOM[name])
    kept = ("ln1_post", "ln2_post", "q_norm", "k_norm", "latent_norm", "ln_embed")
    process(model, only("fold_ln"))
    norms = [key for key, _ in model.named_parameters() if key.endswith((".w", ".b"))]
    assert [key for key in norms if not any(part in key for part in kept)] == []
    assert any(any(part in key for part in kept) for key in norms) == (
        name in ("latent", "shared-norm", "output-norms")
    )


def test_a_gain_is_folded_with_its_offset() -> None:
    fields = dict(normalization_type="RMS", norm_gain_offset=1.0)
    model, untouched = build(**fields), build(**fields)
    process(model, only("fold_ln"))
    gain = untouched.blocks[1].ln1.w + 1.0
    assert torch.equal(model.blocks[1].attn.W_Q, untouched.blocks[1].attn.W_Q * gain[None, :, None])


def test_a_norm_of_neurons_is_folded_into_what_they_write() -> None:
    model, untouched = build(act_fn="solu_ln"), build(act_fn="solu_ln")
    process(model, only("fold_ln"))
    mlp, before = model.blocks[1].mlp, untouched.blocks[1].mlp
    scaled = before.W_out * before.ln.w[:, None]
    assert_close(mlp.W_out, scaled - scaled.mean(0), EXACT)
    assert_close(mlp.b_out, before.b_out + before.ln.b @ before.W_out, EXACT)


def test_router_and_shared_gate_are_readers_too() -> None:
    model, untouched = build(**CUSTOM["experts"]), build(**CUSTOM["experts"])
    process(model, only("fold_ln"))
    mlp, before = model.blocks[1].mlp, untouched.blocks[1].mlp
    for name in ("W_router", "W_shared_gate", "shared.W_in", "shared.W_gate"):
        assert float(mlp.get_parameter(name).detach().mean(0).abs().max()) < 1e-14, name  # as above
    expected = before.b_router + untouched.blocks[1].ln2.b @ before.W_router
    assert_close(mlp.b_router, expected, EXACT)
    assert float(mlp.experts.W_in.detach().mean(1).abs().max()) < 1e-14


SKIPPED: dict[str, tuple[str, dict[str, Any]]] = {
    "normalization_type=RMSPre has no gain to fold": ("fold_ln", dict(normalization_type="RMSPre")),
    "normalization_type=None has no gain to fold": ("fold_ln", dict(normalization_type=None)),
    "a post-norm's output is the stream itself": ("fold_ln", CUSTOM["post-norm"]),
    "positions are added to what queries and keys read": ("fold_ln", dict(positional_embedding_type="shortformer")),
    "only a stream that every reader sees through a LayerNorm": (
        "center_writing_weights",
        dict(normalization_type="RMS"),
    ),
    "the embeddings pass a norm of their own": ("center_writing_weights", dict(embed_norm_type="LN")),
    "sinusoidal positions are no weights": ("center_writing_weights", dict(positional_embedding_type="sinusoidal")),
    "a soft cap on the logits does not ignore their mean": ("center_unembed", dict(output_logits_soft_cap=3.0)),
    "with attention sinks the rows of a pattern do not sum to one": ("fold_value_biases", dict(attn_sinks=True)),
    "values are clipped after their bias is added": ("fold_value_biases", dict(qkv_clip=0.5)),
    "latent attention has no value biases": ("fold_value_biases", CUSTOM["latent"]),
}


@pytest.mark.parametrize("why", SKIPPED)
def test_a_step_that_is_skipped_says_why_and_changes_nothing(why: str) -> None:
    step, fields = SKIPPED[why]
    model = build(**fields)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    (line,) = [line for line in process(model, only(step)) if line.startswith(f"{step}:")]
    assert line.startswith(f"{step}: skipped, {why}")
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, before[key]), key


@pytest.mark.parametrize("slice_size", [13, 50, 200])
@pytest.mark.parametrize("name", ["plain", "experts", "latent", "shared-norm", "output-norms"])
def test_slices_of_half_precision_are_the_whole(name: str, slice_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few numbers are upcast at once (no fewer than a row of d_model), the result is the same, bit by bit."""
    fields = CUSTOM.get(name, {}) | dict(dtype=torch.bfloat16)
    whole, sliced = build(**fields), build(**fields)
    process(whole, Processing())
    seen: list[int] = []
    right = folding._parts

    def parts(*arguments: Any, **options: Any) -> list[Tensor]:
        found = right(*arguments, **options)
        seen.append(len(found))
        return found

    monkeypatch.setattr(folding, "SLICE", slice_size)
    monkeypatch.setattr(folding, "_parts", parts)
    process(sliced, Processing())
    assert max(seen) > 1, "there are slices"
    for key, weight in sliced.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[key]), key


@pytest.mark.parametrize("name", ["experts", "latent", "shared-norm", "output-norms", "sinks-capped"])
def test_every_weight_keeps_its_memory_in_any_architecture(name: str) -> None:
    model = build(**CUSTOM[name])
    before = {key: (weight.data_ptr(), weight.stride()) for key, weight in model.named_parameters()}
    process(model, Processing())
    for key, weight in model.named_parameters():
        assert (weight.data_ptr(), weight.stride()) == before[key], key
