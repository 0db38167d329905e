"""What heads make of tokens: rows by their formula, maps that were planted, and chance."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.handmade import induction
from interp_hooks.ground_truth.heads import copy_suppression, successor
from interp_hooks.studies import directions
from interp_hooks.studies.heads import vocabulary
from interp_hooks.studies.heads.vocabulary import (
    copying_scores,
    qk_tokens,
    relation_scores,
    rows_of,
    salient_tokens,
)
from tests.tiny import CUSTOM, assert_close, build, unchecked_types


def row_by_hand(model: HookedTransformer, layer: int, head: int, token: int) -> Tensor:
    """The logits of a head that attends to a token alone, as a model with LayerNorm makes them, less their mean."""
    blocks: Any = model.blocks
    vector = model.W_E[token]
    if layer:
        vector = blocks[0].mlp(blocks[0].ln2(vector[None, None]))[0, 0]
    ln = blocks[layer].ln1
    read = (vector - vector.mean()) / (vector.var(unbiased=False) + ln.eps).sqrt() * ln.w
    group = head * model.cfg.n_key_value_heads // model.cfg.n_heads
    written = read @ blocks[layer].attn.W_V[group] @ blocks[layer].attn.W_O[head]
    logits = ((written - written.mean()) * model.ln_final.w) @ model.W_U
    return (logits - logits.mean()).detach()


@pytest.mark.parametrize("groups", [2, 4])
def test_rows_by_hand(groups: int) -> None:
    model, ids = build(n_key_value_heads=groups), torch.tensor([3, 8])
    found = {(layer, head): rows for layer, head, _, rows in rows_of(model, ids, "mlp0")}
    assert len(found) == 12
    for layer, head in ((0, 1), (1, 2), (2, 3)):
        for place, token in enumerate(ids.tolist()):
            assert_close(found[layer, head][place], row_by_hand(model, layer, head, token), 1e-9)


def planted(rank: int | None = None) -> HookedTransformer:
    """Head 1.2 maps each of 15 tokens to the one three further; all other heads are random."""
    sizes: dict[str, Any] = dict(d_model=16, d_vocab=15, d_vocab_out=15, d_head=15, normalization_type=None)
    model = build(**sizes, attn_only=True)
    eye = torch.eye(16, dtype=torch.float64)[:15]
    block: Any = model.blocks[1]
    with torch.no_grad():
        model.embed.W_E.copy_(eye)
        model.unembed.W_U.copy_(eye.T)
        block.attn.W_V[2].copy_(eye.T)
        block.attn.W_O[2].copy_(eye.roll(-3, dims=0))
    return model


def test_a_planted_map_is_known_perfectly_and_others_by_chance() -> None:
    model = planted()
    pairs = [(token, (token + 3) % 15) for token in range(15)]
    found = relation_scores(model, pairs, k=1)
    assert found.mean[1, 2] == 1.0
    others = torch.ones(3, 4).bool()
    others[1, 2] = False
    assert float(found.mean[others].mean()) < 0.2
    assert_close(found.baselines["chance"], torch.full((15,), 1 / 15), 1e-6)
    lowered = relation_scores(model, pairs, k=1, sign="lowers")
    assert lowered.mean[1, 2] == 0.0
    with torch.no_grad():
        model.blocks[1].attn.W_O[2].neg_()  # pyright: ignore
    assert relation_scores(model, pairs, k=1, sign="lowers").mean[1, 2] == 1.0


def test_chance_is_k_of_the_vocabulary() -> None:
    models = [build(seed=seed) for seed in range(8)]
    pairs = [(given, related) for given in range(19) for related in range(19)]
    for k in (1, 5):
        scores = torch.stack([relation_scores(model, pairs, k=k).mean for model in models])
        assert_close(scores, torch.full_like(scores, k / 19), 1e-5)


def test_a_head_that_does_nothing_knows_nothing() -> None:
    known = induction()
    copied = copying_scores(known.model)
    assert copied["copying"].mean[1].tolist() == [1.0, 0.0]
    assert copied["suppression"].mean[1].tolist() == [0.0, 0.0]
    taken_back = copying_scores(copy_suppression().model)
    assert taken_back["suppression"].mean[0].tolist() == [1.0, 0.0]
    assert taken_back["copying"].mean[0].tolist() == [0.0, 0.0]
    following = relation_scores(successor().model, [(item, item + 1) for item in range(1, 12)], k=1)
    assert following.mean.tolist() == [[1.0, 0.0]]


def test_a_few_rows_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    pairs = [(token, token) for token in range(19)]
    whole = relation_scores(model, pairs, k=3)
    monkeypatch.setattr(vocabulary, "CHUNK", 40)
    assert torch.equal(relation_scores(model, pairs, k=3).values, whole.values)
    assert directions.CHUNK > 40


def test_heads_of_other_coordinates_know_the_same() -> None:
    model, turned = build(), build()
    turn = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for layer, block in enumerate(turned.blocks):
            attn: Any = block.attn
            attn.W_V.copy_(attn.W_V @ turn[layer])
            attn.W_O.copy_(torch.linalg.inv(turn[layer]) @ attn.W_O)
    for one, same in zip(
        rows_of(model, torch.arange(5), "stream"), rows_of(turned, torch.arange(5), "stream"), strict=True
    ):
        assert_close(same[3], one[3], 1e-7)


def test_the_tokens_that_a_head_answers_to() -> None:
    model = planted()
    with torch.no_grad():
        model.blocks[1].attn.W_V[2, 6] *= 5.0  # pyright: ignore
    table = salient_tokens(model, 1, 2, k=2, outputs=1)
    assert table["token"][0] == "6"
    assert table["gain"].tolist() == pytest.approx([5.0, 1.0])
    assert table["raises"][0] == ["9"]


@pytest.mark.parametrize(
    "fields",
    [{}, dict(positional_embedding_type="rotary"), dict(positional_embedding_type="rotary", n_key_value_heads=2)],
)
def test_query_and_key_tokens_make_the_scores(fields: dict[str, Any]) -> None:
    """Over all vectors, the values of both sides and the singular values give back what a head scores at a distance."""
    model = build(attn_only=True, normalization_type=None, d_model=12, **fields)
    layer, head, distance = 0, 3, 2 if fields else 0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "b_" in name or "W_pos" in name:
                weight.zero_()
    grid = torch.cartesian_prod(torch.arange(23), torch.arange(23))  # query key
    tokens = torch.stack([grid[:, 1], *[torch.zeros(len(grid)).long()] * max(distance - 1, 0), grid[:, 0]], dim=1)
    if distance:
        _, cache = model.run_with_cache(tokens, names_filter="blocks.0.attn.hook_attn_scores")
        scores = cache["attn_scores", 0][:, head, -1, 0].reshape(23, 23) * model.cfg.attn_scale
    else:
        attn: Any = model.blocks[layer].attn
        E = model.W_E.detach()
        scores = E @ attn.W_Q[head].detach() @ attn.W_K[head].detach().T @ E.T
    product = torch.linalg.pinv(model.W_E.detach()) @ scores @ torch.linalg.pinv(model.W_E.detach()).T
    S = torch.linalg.svdvals(product)[:4]
    sides = []
    for side in qk_tokens(model, layer, head, distance=distance, vectors=4, k=23, embedding="embed"):
        sides.append(torch.zeros(4, 23, dtype=torch.float64).scatter(1, side.top, side.top_values))
    centred = scores - scores.mean(0) - scores.mean(1, keepdim=True) + scores.mean()
    assert_close(torch.einsum("i,iq,ik->qk", S, *sides), centred, 1e-8)


def test_what_is_refused() -> None:
    model = build()
    latent = build(**CUSTOM["latent"])
    for call, message in (
        (lambda: relation_scores(model, []), "at least one"),
        (lambda: relation_scores(model, [(1, 2, 3)]), "pairs of tokens"),
        (lambda: relation_scores(model, ["ab"]), "pairs of tokens"),
        (lambda: relation_scores(model, [(1, 2)], k=20), r"k must be 1\.\.19"),
        (lambda: copying_scores(model, n=0), "n must be at least 1"),
        (lambda: salient_tokens(model, 0, 4), "no head 4 in layer 0"),
        (lambda: qk_tokens(model, 0, 0, vectors=5), r"vectors must be 1\.\.4"),
        (lambda: relation_scores(latent, [(1, 2)], k=1), "low-rank summary"),
        (lambda: qk_tokens(latent, 0, 0), "low-rank summary"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
