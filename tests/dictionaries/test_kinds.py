"""Every kind of dictionary computes what its formula says, and folding leaves its function as it was."""

import dataclasses

import pytest
import torch

from interp_hooks.dictionaries import SAE, CrossLayerTranscoder, Gated, JumpReLU, TopK
from interp_hooks.dictionaries.active import largest_of_batch
from interp_hooks.errors import BadInput, UnknownHook
from tests.dictionaries.random_ones import (
    D_OUT,
    KINDS,
    D,
    F,
    activation,
    cross_layer,
    crosscoder,
    randoms,
    sae,
    transcoder,
)
from tests.tiny import assert_close, build, unchecked_types

X = randoms(3)(2, 5, D)


# --------------------------------------------------------------------------------------------- activation functions


def test_top_k_keeps_k_of_each_token() -> None:
    pre = randoms()(6, F)
    features = TopK(3)(pre)
    for row, kept in zip(pre, features, strict=True):
        best = sorted(range(F), key=lambda place: -float(row[place]))[:3]
        expected = torch.zeros(F, dtype=torch.float64)
        for place in best:
            expected[place] = max(float(row[place]), 0.0)
        assert torch.equal(kept, expected)


def test_a_batch_keeps_n_times_k_of_all_tokens() -> None:
    pre = randoms()(6, F)
    active, kept = largest_of_batch(pre, 6 * 4), torch.zeros(6, F, dtype=torch.bool)
    kept[active.token, active.feature] = True
    assert int(kept.sum()) == 6 * 4
    assert pre[kept].min() >= pre[~kept].max()


def test_a_gate_is_the_papers() -> None:
    """With one matrix and two biases: which features are active, and how much."""
    draw = randoms()
    x, W, r_mag, b_mag, b_gate = draw(5, D), draw(D, F), 0.3 * draw(F), draw(F), draw(F)
    expected = ((x @ W + b_gate) > 0) * (x @ (W * r_mag.exp()) + b_mag).relu()
    assert_close(Gated.of(r_mag, b_mag, b_gate)(x @ W + b_gate), expected, 1e-12)
    assert 0 < int((expected > 0).sum()) < expected.numel()


def test_a_jump_leaves_what_is_above_its_threshold() -> None:
    pre = torch.tensor([[-1.0, 0.4, 0.5, 0.6], [2.0, -0.2, 0.0, 0.5]])
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.6], [2.0, 0.0, 0.0, 0.0]])
    assert torch.equal(JumpReLU(torch.tensor(0.5))(pre), expected)
    assert not JumpReLU(torch.tensor(-3.0))(pre).lt(0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_activations(kind: str) -> None:
    one, pre, factor = activation(kind), randoms()(8, F), randoms(1)(F).abs() + 0.1
    features = one(pre)
    assert_close(one.scaled(factor)(factor * pre), factor * features, 1e-12)
    assert features.ge(0).all()
    assert 0 < int(features.gt(0).sum()) < features.numel()


# ------------------------------------------------------------------------------------------------------ single hooks


@pytest.mark.parametrize("kind", KINDS)
def test_folding_changes_no_output(kind: str) -> None:
    one = sae(kind)
    folded = one.folded_norms()
    assert_close(folded(X), one(X), 1e-12)
    assert_close(folded.encode(X), one.encode(X) * one.decoder_norms, 1e-12)
    assert_close(folded.decoder_norms, torch.ones(F, dtype=torch.float64), 1e-12)
    scaled = one.folded_scale(2.5)
    assert_close(scaled(X), one(2.5 * X) / 2.5, 1e-12)
    assert_close(scaled.encode(X), one.encode(2.5 * X), 1e-12)


def test_a_skip_is_scaled_with_input_and_output() -> None:
    one = transcoder(d_out=D_OUT)
    assert_close(one.folded_scale(3.0, 0.5)(X), one(3.0 * X) / 0.5, 1e-12)
    assert_close(one(X), one.encode(X) @ one.W_dec + one.b_dec + X @ one.W_skip, 1e-12)
    with pytest.raises(BadInput, match="needs x"):
        one.decode(one.encode(X))


@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm"])
def test_a_normalization_is_undone(normalization: str) -> None:
    """An orthogonal pair of encoder and decoder gives back what it read, however that was normalized."""
    Q = torch.linalg.qr(randoms()(D, D)).Q
    both = torch.cat((Q, -Q), 1)
    zeros = torch.zeros(2 * D, dtype=torch.float64)
    one = SAE(
        hook="mlp_out1",
        W_enc=both,
        b_enc=zeros,
        W_dec=both.T,
        b_dec=zeros[:D],
        normalization=normalization,  # pyright: ignore[reportArgumentType]
    )
    assert_close(one(X), X, 1e-4 if normalization == "layer_norm" else 1e-12)  # where an eps is added, and not undone
    assert_close(one.encode(7 * X), one.encode(X), 1e-4)
    with pytest.raises(BadInput, match="needs x"):
        one.decode(one.encode(X))
    with pytest.raises(BadInput, match="every token"):
        one.folded_scale(2.0)


def test_a_prefix_is_the_first_features() -> None:
    for kind in ("relu", "jumprelu", "gated"):
        one = sae(kind)
        part = one.prefix(5)
        assert part.n_features == 5
        assert_close(part.encode(X), one.encode(X)[..., :5], 1e-12)
        assert_close(part(X), one.encode(X)[..., :5] @ one.W_dec[:5] + one.b_dec, 1e-12)
    with pytest.raises(BadInput, match=r"n must be 1\.\.17"):
        sae().prefix(18)


def test_rows_are_those_of_features() -> None:
    one, clt = sae(), cross_layer()
    assert torch.equal(one.encoder_rows([3, 1])[0], one.W_enc[:, 3])
    assert torch.equal(one.decoder_rows([3, 1])[1], one.W_dec[1])
    assert torch.equal(clt.encoder_rows(1, [4])[0], clt.W_enc[1][:, 4])
    assert torch.equal(clt.decoder_rows(1, [4])[0], clt.W_dec[1][4])


# ----------------------------------------------------------------------------------------------------- several hooks


def test_a_cross_layer_transcoder_by_hand() -> None:
    one = cross_layer(d_out=D_OUT)
    x = randoms(4)(2, 5, 3, D)
    features = one.encode(x)
    for layer in range(3):
        pre = x[:, :, layer] @ one.W_enc[layer] + one.b_enc[layer]
        assert_close(features[:, :, layer], one.activations[layer](pre), 1e-12)
        expected = one.b_dec[layer] + sum(
            features[:, :, source] @ one.W_dec[source][:, layer - source] for source in range(layer + 1)
        )
        skip = one.W_skip[layer]
        expected = expected if skip is None else expected + x[:, :, layer] @ skip
        assert_close(one(x)[:, :, layer], expected, 1e-12)
    assert_close(one(x.requires_grad_()), one(x.detach()), 1e-12)


def test_per_layer_transcoders_are_one_that_stays_in_its_layer() -> None:
    each = [transcoder(layer=layer, d_out=D_OUT, seed=layer, skip=layer == 1) for layer in range(3)]
    one = CrossLayerTranscoder.of(each)
    x = randoms(4)(2, 5, 3, D)
    assert_close(one(x), torch.stack([part(x[:, :, layer]) for layer, part in enumerate(each)], 2), 1e-12)
    assert [list(one.outputs(layer)) for layer in range(3)] == [[0], [1], [2]]


def test_a_crosscoder_by_hand() -> None:
    one, x = crosscoder(), randoms(4)(2, 5, 3, D)
    pre = sum(x[:, :, site] @ one.W_enc[site] for site in range(3)) + one.b_enc
    features = one.activation(pre)
    assert_close(one.encode(x), features, 1e-12)
    for site in range(3):
        assert_close(one(x)[:, :, site], features @ one.W_dec[:, site] + one.b_dec[site], 1e-12)
    assert_close(one.shares.sum(-1), torch.ones(F, dtype=torch.float64), 1e-12)


# ----------------------------------------------------------------------------------------------------------- weights


def test_weights_are_listed_and_mapped() -> None:
    one = sae("gated")
    assert set(one.tensors()) == {*("W_enc", "b_enc", "W_dec", "b_dec", "b_in"), "activation.scale", "activation.shift"}
    assert one.to(torch.float32).activation.scale.dtype == torch.float32  # pyright: ignore
    clt = cross_layer()
    assert {"W_dec.2", "activations.0.threshold", "W_skip.1"} <= set(clt.tensors())
    assert all(weight.dtype == torch.float32 for weight in clt.to(torch.float32).tensors().values())
    assert repr(one) == "SAE(blocks.1.hook_mlp_out, d_in=12, n_features=17)"


def test_weights_that_do_not_fit_are_refused() -> None:
    good = sae()
    for changed, message in (
        (dict(b_enc=good.b_dec), r"b_enc must have shape \[17\], got \[12\]"),
        (dict(W_dec=good.W_dec[:, :5], b_dec=good.b_dec[:5]), "reconstructs what it reads, of width 12"),
        (dict(b_dec=good.b_dec * float("nan")), "b_dec has numbers that are nan"),
        (dict(W_enc=good.W_enc.long()), "W_enc must be a floating-point tensor"),
        (dict(activation=TopK(18)), r"k must be 1\.\.17"),
        (dict(activation=JumpReLU(good.b_dec)), "a number for each of 17 features"),
        (dict(normalization="batch"), "normalization must be one of"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            dataclasses.replace(good, **changed)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="of width 12, got"):
        good.encode(X[..., :5])


def test_models_that_do_not_fit_are_refused() -> None:
    model = build()
    sae().refuse_unfit(model)
    sae(hook="z1", d=16).refuse_unfit(model)
    sae(hook="z1", d=4, of_head=3).refuse_unfit(model)
    with pytest.raises(BadInput, match=r"of width 9, blocks\.1\.hook_mlp_out of this model has 12"):
        sae(d=9).refuse_unfit(model)
    with pytest.raises(UnknownHook, match=r"blocks\.7"):
        sae(hook="mlp_out7").refuse_unfit(model)
    with pytest.raises(BadInput, match="no head 4"):
        sae(hook="z1", d=4, of_head=4).refuse_unfit(model)
    with pytest.raises(BadInput, match="no vector at each position"):
        sae(hook="pattern1").refuse_unfit(model)
