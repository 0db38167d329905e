"""Cross-layer transcoders in training: the loss beside a matrix of all layers, planted features, a model's own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks.circuits import attribution_graph
from interp_hooks.dictionaries import (
    Crosscoder,
    CrossLayerTranscoder,
    Recipe,
    Transcoder,
    recovery,
    train_dictionaries,
    train_on_activations,
)
from interp_hooks.dictionaries.trainable import Trainable
from interp_hooks.errors import BadInput
from tests.dictionaries.random_ones import randoms
from tests.dictionaries.test_training import SMALL, TEXTS, planted, same
from tests.tiny import assert_close, build

LAYERS = 3
SITES: dict[str, Any] = dict(sites=("x0", "x1", "x2"), sites_out=("y0", "y1", "y2"))
MLPS: dict[str, Any] = dict(
    sites=tuple(f"blocks.{layer}.ln2.hook_normalized" for layer in range(3)),
    sites_out=tuple(f"blocks.{layer}.hook_mlp_out" for layer in range(3)),
)


def by_matrix(part: Trainable, x: Tensor, y: Tensor, dead: list[Tensor]) -> Tensor:
    """The loss, with every layer's features as a matrix and a product for every pair of layers."""
    x, y, recipe = x * part.scale[:, None], y * part.scale_out[:, None], part.recipe
    b_dec, coders, pres, features = part.b_dec.unflatten(0, (LAYERS, -1)), part._coders, [], []
    penalty = torch.zeros((), dtype=torch.float64)
    for layer, coder in enumerate(coders):
        pre = x[:, layer] @ coder.W_enc + coder.b_enc
        positive = pre.relu()
        if recipe.kind in ("topk", "batchtopk"):
            flat = positive.flatten().topk(recipe.k * len(x)).values[-1]
            least = flat if recipe.kind == "batchtopk" else positive.topk(recipe.k, dim=1).values[:, -1:]
            positive = torch.where(positive >= least, positive, 0.0)
        elif recipe.kind == "relu":
            penalty = penalty + recipe.sparsity * positive.sum(1).mean()
        pres.append(pre)
        features.append(positive)

    def error(n: int) -> Tensor:
        said = b_dec.expand(len(x), -1, -1).clone()
        for layer, coder in enumerate(coders):
            W_dec = coder.W_dec.unflatten(1, (LAYERS - layer, -1))
            for output in range(layer, LAYERS):
                said[:, output] = said[:, output] + features[layer][:, :n] @ W_dec[:n, output - layer]
            if part.W_skip is not None:
                said[:, layer] = said[:, layer] + x[:, layer] @ part.W_skip[layer]
        return y - said

    errors = [error(n) for n in (recipe.n_features, *recipe.prefixes)]
    loss = torch.stack([one.square().sum((1, 2)).mean() for one in errors]).mean() + penalty
    for layer, (coder, pre, gone) in enumerate(zip(coders, pres, dead, strict=True)):
        left = errors[0][:, layer:].flatten(1).detach()
        n = min(left.shape[1] // 2, int(gone.sum()))
        best = torch.where(gone, pre, -torch.inf).topk(n, dim=1)
        acts = torch.zeros_like(pre).scatter(1, best.indices, best.values)
        share = min(1.0, int(gone.sum()) / (left.shape[1] // 2))
        loss = loss + recipe.aux * share * (left - acts @ coder.W_dec).square().sum(1).mean()
    return loss


@pytest.mark.parametrize(
    "options",
    [dict(kind="batchtopk", prefixes=(5, 11)), dict(kind="topk", skip=True), dict(kind="relu", skip=True)],
    ids=lambda options: options["kind"],
)
def test_loss_and_gradients_are_those_of_matrices(options: dict[str, Any]) -> None:
    draw = randoms(3)
    x, y = draw(40, LAYERS, 8), draw(40, LAYERS, 5)
    part = Trainable(Recipe(**SITES, n_features=20, k=3, **options), x, y)
    dead = [torch.arange(20) < 2 * layer + 1 for layer in range(LAYERS)]
    with torch.no_grad():
        for weight in part.parameters():
            weight.copy_(draw(*weight.shape))
        for coder, gone in zip(part.coders, dead, strict=True):
            coder.since_active[gone] = 1000  # pyright: ignore[reportIndexIssue]
    loss, told = part.loss(x, y, dead_after=500)
    found = torch.autograd.grad(loss, list(part.parameters()), materialize_grads=True)
    by_hand = by_matrix(part, x, y, dead)
    wanted = torch.autograd.grad(by_hand, list(part.parameters()), materialize_grads=True)
    assert loss.item() == pytest.approx(by_hand.item())
    assert told["dead"] == pytest.approx((1 + 3 + 5) / 60)
    assert float(torch.stack([one.abs().max() for one in found]).min()) > 0
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11)


def test_of_one_layer_it_is_a_transcoder() -> None:
    x, y = randoms()(500, 6), randoms(1)(500, 4)
    how: Any = dict(steps=20, tokens_per_step=50, progress=False)
    for options in (dict(), dict(kind="topk", skip=True), dict(kind="jumprelu")):
        plain = train_on_activations(x, Recipe(hook="x", hook_out="y", n_features=9, k=2, **options), y=y, **how)
        layers = Recipe(sites=("x",), sites_out=("y",), n_features=9, k=2, **options)
        one = train_on_activations(x[:, None], layers, y=y[:, None], **how)
        assert isinstance(plain, Transcoder)
        assert isinstance(one, CrossLayerTranscoder)
        assert_close(one(x[:, None])[:, 0], plain(x), 1e-12)
        assert float((plain(x) - plain.b_dec).abs().max()) > 0.01


def test_planted_features_write_to_later_layers() -> None:
    """What layer 0's features write to layer 1 cannot be known from layer 1's input, which is other noise."""
    directions, x0 = planted()
    _, x1 = planted(seed=5)
    codes = (x0 @ torch.linalg.pinv(directions)).relu()
    W0, W1 = torch.randn(2, 40, 24, generator=torch.Generator().manual_seed(1))
    y = torch.stack((codes @ W0, codes @ W1), 1)
    recipe = Recipe(sites=("x0", "x1"), sites_out=("y0", "y1"), n_features=80, k=6, learning_rate=1e-2)
    one = train_on_activations(torch.stack((x0, x1), 1), recipe, y=y, steps=400, tokens_per_step=256, progress=False)
    assert isinstance(one, CrossLayerTranscoder)
    error = (y - one(torch.stack((x0, x1), 1))).square().sum((0, 2)) / (y - y.mean(0)).square().sum((0, 2))
    assert float((1 - error).min()) > 0.8
    alone = Recipe(hook="x1", hook_out="y1", n_features=80, k=6, learning_rate=1e-2)
    plain = train_on_activations(x1, alone, y=y[:, 1], steps=400, tokens_per_step=256, progress=False)
    assert float(1 - (y[:, 1] - plain(x1)).square().sum() / (y[:, 1] - y[:, 1].mean(0)).square().sum()) < 0.2
    drawn = randoms(9)(80, 48).float()
    found = [recovery(rows, torch.cat((W0, W1), 1)).mcc for rows in (one.W_dec[0].flatten(1), drawn)]
    assert found[0] > found[1] + 0.2


def test_on_a_models_activations() -> None:
    """Also in half precision, beside others, and again to the same bits; its attribution graph sums up."""
    model = build(d_vocab_out=23, dtype=torch.float32)
    recipe = Recipe(**MLPS, n_features=24, k=4, learning_rate=3e-3)
    made = {"clt": recipe, "crosscoder": Recipe(sites=("resid_post0", "resid_post1"), n_features=21, k=4)}
    trained = train_dictionaries(model, TEXTS, made, **SMALL)
    clt = trained["clt"]
    assert isinstance(trained["crosscoder"], Crosscoder)
    assert isinstance(clt, CrossLayerTranscoder)
    assert [W.shape[1] for W in clt.W_dec] == [3, 2, 1]
    assert same(clt, train_dictionaries(model, TEXTS, recipe, **SMALL)["dictionary"])
    graph = attribution_graph(model, TEXTS[0], clt, progress=False)
    assert len(graph.features) > 10
    with model.spliced(clt, error_term=True):
        features = model.run_with_cache(TEXTS[0][None])[1]["blocks.2.hook_mlp_out.dictionary.hook_features"]
    assert features.shape == (1, 9, 24)
    half = train_dictionaries(build(d_vocab_out=23, dtype=torch.bfloat16), TEXTS, recipe, **SMALL)["dictionary"]
    assert {one.dtype for one in half.tensors().values()} == {torch.float32}
    longer = train_dictionaries(model, TEXTS, recipe, **SMALL | dict(steps=150))["dictionary"]
    first, last = (longer.facts["history"][place][2] for place in (0, -1))
    assert last > first + 0.2


def test_what_does_not_fit_is_refused() -> None:
    x = torch.randn(50, 3, 4)
    for call, message in {
        "sites_out": (lambda: Recipe(sites=("a", "b"), sites_out=("c",), n_features=4, k=2), "as many sites"),
        "gated": (lambda: Recipe(**SITES, n_features=4, kind="gated"), "not trained with gates"),
        "y": (lambda: train_on_activations(x, Recipe(**SITES, n_features=4, k=2), steps=1), "what is predicted of x"),
        "sites": (
            lambda: train_on_activations(x[:, :2], Recipe(**SITES, n_features=4, k=2), y=x[:, :2], steps=1),
            "an axis of",
        ),
        "twice": (
            lambda: train_on_activations(x[:, :2], Recipe(sites=("a", "a"), n_features=4, k=2), steps=1),
            "different sites",
        ),
    }.values():
        with pytest.raises(BadInput, match=message):
            call()
