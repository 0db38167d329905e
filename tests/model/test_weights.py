"""All layers' weights in one tensor, as formulas want them, and what is computed from weights alone."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, NoTokenizer, TokenError
from interp_hooks.model.factored import FactoredMatrix
from tests.experiments.by_hand import word_tokenizer
from tests.model.test_factored import Largest
from tests.tiny import CUSTOM, assert_close, build, redraw, unchecked_types

EXACT = 1e-10  # float64 sums of a few dozen numbers


def test_each_slice_is_the_layers_weight(plain: HookedTransformer) -> None:
    for layer, block in enumerate(plain.blocks):
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"):
            assert torch.equal(getattr(plain, name)[layer], getattr(block.attn, name))
        for name in ("W_in", "W_out", "b_in", "b_out"):
            assert torch.equal(getattr(plain, name)[layer], getattr(block.mlp, name))
    assert plain.W_E is plain.embed.W_E
    assert plain.W_U is plain.unembed.W_U
    assert plain.b_U is plain.unembed.b_U
    assert plain.W_pos is plain.pos_embed.W_pos


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_shared_keys_are_repeated_for_each_query_head(groups: int) -> None:
    model = build(n_key_value_heads=groups)
    for name in ("W_K", "W_V", "b_K", "b_V"):
        stacked = getattr(model, name)
        assert stacked.shape[:2] == (3, 4)
        for head in range(4):
            assert torch.equal(stacked[1, head], getattr(model.blocks[1].attn, name)[head * groups // 4])


def test_a_gated_model_has_a_gate() -> None:
    model = build(gated_mlp=True)
    assert torch.equal(model.W_gate[2], model.blocks[2].mlp.W_gate)


@pytest.mark.parametrize(
    ("fields", "name"),
    [({}, "W_gate"), (dict(positional_embedding_type="none"), "W_pos"), (dict(attn_only=True), "W_in")],
)
def test_a_weight_that_the_model_lacks_is_an_attribute_error(fields: dict, name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(build(**fields), name)


def test_state_dict_keys_and_shapes_are_the_fields(plain: HookedTransformer) -> None:
    shapes = {name: list(weight.shape) for name, weight in plain.state_dict().items()}
    assert shapes["embed.W_E"] == [23, 12]
    assert shapes["pos_embed.W_pos"] == [9, 12]
    assert shapes["blocks.0.attn.W_Q"] == shapes["blocks.0.attn.W_K"] == [4, 12, 4]
    assert shapes["blocks.0.attn.W_O"] == [4, 4, 12]
    assert shapes["blocks.0.attn.b_Q"] == [4, 4]
    assert shapes["blocks.2.mlp.W_in"] == [12, 20]
    assert shapes["blocks.2.mlp.W_out"] == [20, 12]
    assert shapes["unembed.W_U"] == [12, 19]
    assert shapes["blocks.1.ln1.w"] == shapes["ln_final.b"] == [12]
    assert len(shapes) == 2 + 3 * (4 + 8 + 4) + 2 + 2


def test_embeddings_and_positions_in_one(plain: HookedTransformer) -> None:
    assert plain.W_E_pos.shape == (23 + 9, 12)
    assert torch.equal(plain.W_E_pos[:23], plain.embed.W_E)
    assert torch.equal(plain.W_E_pos[23:], plain.pos_embed.W_pos)
    with pytest.raises(AttributeError):
        build(positional_embedding_type="none").W_E_pos  # noqa: B018


# ------------------------------------------------------------------------------------------------- circuits of heads


def qk_and_ov(model: HookedTransformer, layer: int, head: int) -> tuple[Tensor, Tensor]:
    """Both matrices of a head, written out, with the keys of its group."""
    attn, group = model.blocks[layer].attn, head * model.cfg.n_key_value_heads // model.cfg.n_heads
    weights = {name: attn.get_parameter(name).detach() for name in ("W_Q", "W_K", "W_V", "W_O")}
    return weights["W_Q"][head] @ weights["W_K"][group].T, weights["W_V"][group] @ weights["W_O"][head]


@pytest.mark.parametrize("fields", [{}, dict(n_key_value_heads=2), dict(n_key_value_heads=1), dict(d_value=3)], ids=str)
def test_circuits_are_those_of_each_head(fields: dict[str, Any]) -> None:
    model = build(**fields)
    assert isinstance(model.QK, FactoredMatrix)
    assert model.QK.shape == model.OV.shape == (3, 4, 12, 12)
    assert (model.QK.mdim, model.OV.mdim) == (4, fields.get("d_value", 4))
    for layer in range(3):
        for head in range(4):
            qk, ov = qk_and_ov(model, layer, head)
            assert_close(model.QK[layer, head].AB, qk, EXACT)
            assert_close(model.OV[layer, head].AB, ov, EXACT)


def test_circuits_are_what_the_model_computes(tokens: Tensor) -> None:
    """Scores are x W_QK x^T, and a head's result is pattern x W_OV, of what the norm makes of the stream."""
    model = build(n_key_value_heads=2)
    with torch.no_grad():
        for block in model.blocks:
            for bias in (block.attn.b_Q, block.attn.b_K, block.attn.b_V):
                bias.zero_()
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: "blocks.1" in name)
        x = model.blocks[1].ln1(cache["resid_pre", 1])
    for head in range(4):
        scores = (x @ model.QK[1, head].AB @ x.mT / 2).tril()  # the root of d_head is 2
        assert_close(scores, cache["attn_scores", 1][:, head].tril(), EXACT)
        written = cache["pattern", 1][:, head] @ x @ model.OV[1, head].AB
        assert_close(written, cache["result", 1][:, :, head], EXACT)


@pytest.mark.parametrize("name", ["QK", "OV"])
def test_latent_attention_has_no_circuits(name: str) -> None:
    with pytest.raises(AttributeError):
        getattr(build(**CUSTOM["latent"]), name)


@pytest.mark.parametrize("mode", ["Q", "K", "V"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_composition_scores(mode: Any, groups: int) -> None:
    model = build(n_key_value_heads=groups)
    scores = model.all_composition_scores(mode)
    assert scores.shape == (3, 4, 3, 4)
    assert not scores.requires_grad
    for layer in range(3):
        for later in range(3):
            for head in range(4):
                for reader in range(4):
                    _, ov = qk_and_ov(model, layer, head)
                    qk, next_ov = qk_and_ov(model, later, reader)
                    read = {"Q": qk, "K": qk.T, "V": next_ov}[mode]
                    expected = (ov @ read).norm() / ov.norm() / read.norm() if layer < later else torch.tensor(0.0)
                    found = scores[layer, head, later, reader]
                    assert float((found - expected).abs()) < EXACT, (layer, head, later, reader)


@pytest.mark.parametrize("mode", ["Q", "K", "V"])
def test_a_head_that_reads_what_another_wrote(mode: Any) -> None:
    """Each of four orthonormal directions that L0H1 writes is read by L2H3 and by no other head."""
    model = build()
    basis = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
    with torch.no_grad():
        for block in model.blocks:
            for name in ("W_Q", "W_K", "W_V"):
                getattr(block.attn, name).copy_(basis[:, :4])
            block.attn.W_O.copy_(basis[:, 4:8].T)
        model.blocks[0].attn.W_O[1] = basis[:, 8:].T
        {"Q": model.blocks[2].attn.W_Q, "K": model.blocks[2].attn.W_K, "V": model.blocks[2].attn.W_V}[mode][3] = basis[
            :, 8:
        ]
    expected = torch.zeros(3, 4, 3, 4, dtype=torch.float64)
    expected[0, 1, 2, 3] = 1 / math.sqrt(4)
    assert float((model.all_composition_scores(mode) - expected).abs().max()) < 1e-12


def test_scores_of_a_random_model_are_chance() -> None:
    """1/sqrt(d_model), for every mode."""
    model = build(d_model=64, n_heads=8, d_head=8, std=1.0)
    later = torch.ones(3, 3, dtype=torch.bool).triu(1)[:, None, :, None].expand(3, 8, 3, 8)
    for mode in ("Q", "K", "V"):
        assert float(model.all_composition_scores(mode)[later].mean()) == pytest.approx(1 / 8, rel=0.02)


def test_scores_do_not_depend_on_how_a_head_is_factored() -> None:
    model, changed = build(), build()
    with torch.no_grad():
        for block in changed.blocks:
            M = torch.randn(4, 4, 4, dtype=torch.float64) + 2 * torch.eye(4, dtype=torch.float64)
            for read, write in ((block.attn.W_Q, block.attn.W_K), (block.attn.W_V, block.attn.W_O)):
                read.copy_(read @ M)
                write.copy_(write @ M.inverse().mT if write.shape[-1] == 4 else M.inverse() @ write)
    for mode in ("Q", "K", "V"):
        assert_close(changed.all_composition_scores(mode), model.all_composition_scores(mode), EXACT)


def test_scores_need_no_matrix_of_d_model_squared() -> None:
    model = build(n_layers=2, d_model=300, n_heads=2, d_head=3)
    for mode in ("Q", "K", "V"):
        with Largest() as largest:
            model.all_composition_scores(mode)
        assert largest.made <= 2 * 2 * 300 * 3  # all layers' heads of one weight


def test_half_precision_scores_are_float32() -> None:
    half, exact = build(dtype=torch.bfloat16), build(dtype=torch.float32)
    exact.load_state_dict(half.state_dict())
    assert torch.equal(half.all_composition_scores("Q"), exact.all_composition_scores("Q"))


def test_an_unknown_mode_is_told() -> None:
    with unchecked_types(), pytest.raises(BadInput, match="mode must be 'Q', 'K' or 'V', got 'k'"):
        build().all_composition_scores("k")  # pyright: ignore[reportArgumentType]


def test_labels_are_in_the_order_of_the_scores() -> None:
    model = build(n_heads=2, d_head=6)
    assert model.all_head_labels() == ["L0H0", "L0H1", "L1H0", "L1H1", "L2H0", "L2H1"]
    W_O = model.W_O.flatten(0, 1)
    for row, label in enumerate(model.all_head_labels()):
        layer, head = int(label[1]), int(label[3])
        assert torch.equal(W_O[row], model.blocks[layer].attn.W_O[head])


# -------------------------------------------------------------------------------------------------------------- biases


@pytest.mark.parametrize("fields", [{}, dict(residual_scale=0.5), dict(parallel_attn_mlp=True), dict(gated_mlp=True)])
@pytest.mark.parametrize("include_mlp_biases", [True, False])
def test_accumulated_biases_are_the_stream_without_weights(
    fields: dict[str, Any], include_mlp_biases: bool, tokens: Tensor
) -> None:
    """When no weight writes, the stream holds embeddings and biases."""
    model = build(**fields)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.zero_()
            block.mlp.get_parameter("W_out").zero_()
            if not include_mlp_biases:
                block.mlp.get_parameter("b_out").zero_()
    _, cache = model.run_with_cache(tokens)
    start = cache["resid_pre", 0]
    streams = [cache["resid_pre", layer] for layer in range(3)] + [cache["resid_post", -1]]
    for layer, stream in enumerate(streams):
        found = model.accumulated_bias(layer, include_mlp_biases=include_mlp_biases)
        assert_close(start + found, stream, EXACT)
    for layer in range(3):
        read = cache["resid_pre" if fields.get("parallel_attn_mlp") else "resid_mid", layer]
        found = model.accumulated_bias(layer, mlp_input=True, include_mlp_biases=include_mlp_biases)
        assert_close(start + found, read, EXACT)


def test_accumulated_biases_of_attention_only() -> None:
    model = build(attn_only=True)
    b_O = [block.attn.b_O for block in model.blocks]
    assert_close(model.accumulated_bias(2), b_O[0] + b_O[1], EXACT)
    assert model.accumulated_bias(0).tolist() == [0.0] * 12


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({}, dict(layer=-1), r"layer must be 0\.\.3"),
        ({}, dict(layer=4), r"layer must be 0\.\.3"),
        ({}, dict(layer=3, mlp_input=True), r"layer must be 0\.\.2 with mlp_input=True"),
        (dict(attn_only=True), dict(layer=1, mlp_input=True), "attention only"),
        (CUSTOM["output-norms"], dict(layer=1), "is normalized in this model"),
        (CUSTOM["post-norm"], dict(layer=1), "is normalized in this model"),
        (CUSTOM["experts"], dict(layer=3), "include_mlp_biases=False"),
    ],
    ids=str,
)
def test_biases_that_are_no_constant(fields: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(**fields).accumulated_bias(**arguments)


def test_attention_biases_of_a_model_with_experts() -> None:
    model = build(**CUSTOM["experts"])
    expected = model.blocks[0].attn.b_O + model.blocks[1].attn.b_O
    assert_close(model.accumulated_bias(2, include_mlp_biases=False), expected, EXACT)


# ------------------------------------------------------------------------------------------------ directions of tokens


def with_words() -> HookedTransformer:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes", "no"))
    redraw(model, 0, 0.4)
    return model


@pytest.mark.parametrize("logits_scale", [1.0, 0.5])
def test_directions_are_what_a_logit_is_read_along(logits_scale: float, tokens: Tensor) -> None:
    model = build(normalization_type="LNPre", logits_scale=logits_scale)
    logits, cache = model.run_with_cache(tokens)
    directions = model.tokens_to_residual_directions(tokens % 19)
    assert directions.shape == (2, 7, 12)
    read = (cache["ln_final.hook_normalized"] * directions).sum(-1) + model.b_U[tokens % 19] * logits_scale
    assert_close(read, logits.gather(-1, (tokens % 19)[..., None])[..., 0], EXACT)


def test_directions_are_columns_of_the_unembedding() -> None:
    model = with_words()
    word = model.to_single_token("yes")
    for one in ("yes", word, torch.tensor(word), torch.tensor([word]), torch.tensor([[word]])):
        assert torch.equal(model.tokens_to_residual_directions(one), model.W_U[:, word])
    for several in (torch.tensor([3, word]), [3, "yes"], [3, word]):
        assert torch.equal(model.tokens_to_residual_directions(several), model.W_U[:, [3, word]].T)
    pairs = torch.tensor([[1, 2], [3, 4], [5, 6]])
    assert torch.equal(model.tokens_to_residual_directions(pairs)[2, 0], model.W_U[:, 5])


@pytest.mark.parametrize(
    ("tokens", "error"), [(19, BadInput), (-1, BadInput), ("yes no", TokenError), (torch.tensor([1, 19]), BadInput)]
)
def test_tokens_without_a_direction(tokens: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        with_words().tokens_to_residual_directions(tokens)
    with pytest.raises(NoTokenizer):
        build().tokens_to_residual_directions("yes")


# -------------------------------------------------------------------------------------------------------------- counts


def test_all_parameters_are_counted(plain: HookedTransformer) -> None:
    embeddings = 23 * 12 + 9 * 12 + 12 * 19 + 19
    weights, biases = 3 * (4 * 12 * 16 + 2 * 12 * 20), 3 * (3 * 16 + 12 + 20 + 12)
    norms = 2 * 7 * 12
    assert plain.n_params_total == embeddings + weights + biases + norms
