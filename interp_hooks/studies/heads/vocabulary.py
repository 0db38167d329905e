"""What each head makes of each token, by its weights alone: its output if it attends to that token and nothing else.

    row a of M = norm(f(a)) W_V W_O, unembedded         f(a) stands for token a: E, MLP0(E), or their sum

A head copies a token if its own logit is the highest of its row, suppresses it if it is the lowest, and knows a
relation if many pairs (a, b) have b near the top of row a (Elhelo and Geva 2024, "Inferring Functionality of Attention
Heads from their Parameters", arxiv.org/abs/2412.11965). Rows are made for the tokens that are asked for, a few at a
time: never all of M. What biases add, alike for all tokens, is left out. Heads of layer 0 read the embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, about, refuse_outside
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.model.cache.frozen_norm import FrozenNorm
from interp_hooks.model.components.positions import rotate
from interp_hooks.model.factored import FactoredMatrix
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.directions import (
    CHUNK,
    DirectionTokens,
    EmbeddingKind,
    token_vectors,
    tokens_of,
    unembedding,
)
from interp_hooks.studies.heads.attending import makes_keys

Sign = Literal["raises", "lowers"]


@study
def relation_scores(
    model: HookedTransformer,
    pairs: Sequence[Sequence[Any]],
    *,
    k: Count = 10,
    sign: Sign = "raises",
    embedding: EmbeddingKind = "mlp0",
) -> Result:
    """How well every head maps tokens to related ones: the share of pairs (a, b) with b in the top `k` of row a.

    Pairs are of texts of one token (" France", " Paris") or ids. `sign="lowers"` asks whether b is among the `k` lowest
    instead: the head keeps b from being said. Tokens with equal logits share the worst rank, so that a head that does
    nothing scores 0. The baseline "chance" is k / d_vocab.

    Raises:
        BadInput: no pairs, or a `k` out of range.
        TokenError: a text that is not one token.

    >>> capitals = relation_scores(model, [(" Mary", " John"), (" John", " Mary")])
    >>> list(capitals.axes)
    ['layer', 'head']
    """
    if not len(pairs) or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise BadInput("pairs must be pairs of tokens, such as (' France', ' Paris'), and at least one")
    with about("pairs"):
        given, related = (model.token_ids([pair[side] for pair in pairs]).reshape(-1) for side in (0, 1))
    _check(model, k)
    return _hits(model, given, related, k=k, signs=[sign], embedding=embedding, metric="relation_score")[sign]


@study
def copying_scores(
    model: HookedTransformer,
    *,
    k: Count = 1,
    tokens: Sequence[Any] | None = None,
    n: Positive = 500,
    generator: torch.Generator | None = None,
    embedding: EmbeddingKind = "stream",
) -> dict[str, Result]:
    """How many tokens every head copies, and how many it suppresses, as {"copying": ..., "suppression": ...}.

    A token counts as copied if its own logit is among the `k` highest of its row, as suppressed if among the `k`
    lowest. `tokens` are texts of one token or ids; by default `n` are drawn with `generator` from the vocabulary.

    Raises:
        BadInput: a `k` or `n` out of range.

    >>> copying_scores(model, n=20)["copying"].mean.shape
    torch.Size([3, 4])
    """
    most = min(model.cfg.d_vocab, model.cfg.d_vocab_out)
    drawn = torch.randperm(most, generator=generator)[:n]
    ids = drawn if tokens is None else model.token_ids(tokens).reshape(-1)
    _check(model, k)
    both = _hits(model, ids, ids, k=k, signs=["raises", "lowers"], embedding=embedding, metric="copied_share")
    return {"copying": both["raises"], "suppression": both["lowers"]}


@study
def salient_tokens(
    model: HookedTransformer,
    layer: int,
    head: int,
    *,
    k: Count = 10,
    outputs: Count = 5,
    embedding: EmbeddingKind = "mlp0",
) -> pd.DataFrame:
    """The `k` tokens to which a head answers most, and what it then writes: a row for each, for somebody to name.

    Columns: "token", "gain" (the length of what the head writes, over that of what it reads), "raises" and "lowers",
    the `outputs` tokens at either end of its row (the "salient operation" of Elhelo and Geva 2024).

    Raises:
        BadInput: there is no such head, or a number out of range.

    >>> salient_tokens(model, 2, 3, k=2)["token"].tolist()
    ['...', '...']
    """
    _check_head(model, layer, head)
    _check(model, max(k, outputs))
    vectors = token_vectors(model, kind="embed" if layer == 0 else embedding)
    W_V, W_O = _weights(model, layer)
    read = normalized(model, layer, vectors)
    values = read @ W_V[head].to(read)
    written = values @ W_O[head].to(read)
    gain = written.norm(dim=-1) / vectors.norm(dim=-1)
    best = gain.topk(min(k, len(gain)))
    rows, text_of = written[best.indices] @ unembedding(model, layer).to(written), names_of(model)
    listed = []
    for id, size, row in zip(best.indices.tolist(), best.values.tolist(), rows, strict=True):
        raised, lowered = (row.topk(outputs, largest=largest).indices.tolist() for largest in (True, False))
        listed.append(
            dict(token=text_of(id), gain=size, raises=[*map(text_of, raised)], lowers=[*map(text_of, lowered)])
        )
    return pd.DataFrame(listed)


@study
def qk_tokens(
    model: HookedTransformer,
    layer: int,
    head: int,
    *,
    distance: int = 0,
    vectors: Count = 3,
    k: Count = 10,
    embedding: EmbeddingKind = "stream",
) -> tuple[DirectionTokens, DirectionTokens]:
    """Which queries look for which keys, by the singular vectors of W_Q W_K^T: the tokens of each side.

    Vector i of the queries goes with vector i of the keys: a head attends from the highest tokens of the one to the
    highest of the other, and from the lowest to the lowest. With rotary positions the product depends on how far the
    key stands before the query, `distance` tokens. Biases, norms of queries and keys, and positions are left out.

    Raises:
        BadInput: there is no such head, or a number out of range.

    >>> queries, keys = qk_tokens(model, 1, 2, vectors=1, k=4)
    >>> len(keys.words()[0])
    4
    """
    _check_head(model, layer, head)
    d_head = model.cfg.d_head_at(layer)
    refuse_outside("vectors", vectors, 1, d_head)
    attn = makes_keys(model, layer)
    W_Q, W_K = attn.W_Q[head].detach(), attn.W_K[head * len(attn.W_K) // model.cfg.n_heads].detach()
    rotation = None if model.rotary is None else model.rotary(torch.tensor([[distance]]), W_Q.dtype)[layer]
    if rotation is not None:
        W_Q = rotate(W_Q[:, None, None], rotation.to(W_Q.device))[:, 0, 0]
    product, norm = FactoredMatrix(W_Q, W_K.T), model.norm_reading(layer)
    sides = [one[:, :vectors].T for one in (product.U, product.V)]
    if norm.kind is not None:
        sides = [FrozenNorm.of(norm, side.new_ones(1)).pulled_back(side) for side in sides]
    queries, keys = (tokens_of(model, side, k=k, through="embed", embedding=embedding) for side in sides)
    return queries, keys


# --------------------------------------------------------------------------------------------------------------- rows


def normalized(
    model: HookedTransformer, layer: int, vectors: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token d_model"]:
    """Whole streams as the attention of a layer reads them, without the bias of its norm."""
    norm = model.norm_reading(layer)
    read = norm.fused(vectors.to(model.dtype)).detach()
    return (read if norm.b is None else read - norm.b.detach()).to(vectors)


def _weights(model: HookedTransformer, layer: int) -> tuple[Tensor, Tensor]:
    """W_V and W_O of every head of a layer."""
    _check_head(model, layer, 0)
    attn = makes_keys(model, layer)
    W_V = model.whole(attn.W_V).detach() * model.cfg.value_scale
    return W_V.repeat_interleave(model.cfg.n_heads // len(W_V), dim=0), model.whole(attn.W_O).detach()


def rows_of(
    model: HookedTransformer, ids: Int[Tensor, " token"], embedding: EmbeddingKind
) -> Iterator[tuple[int, int, slice, Float[Tensor, "token d_vocab_out"]]]:
    """The rows of M of every head for some tokens: layer, head, which of the tokens, and their logits."""
    some = {kind: token_vectors(model, ids, kind) for kind in dict.fromkeys(("embed", embedding))}
    for layer in range(model.cfg.n_layers):
        W_V, W_O = _weights(model, layer)
        read, onto = normalized(model, layer, some["embed" if layer == 0 else embedding]), unembedding(model, layer)
        for head in range(model.cfg.n_heads):
            values, says = read @ W_V[head].to(read), W_O[head].to(onto) @ onto  # token d_head, d_head vocabulary
            size = max(1, CHUNK // says.shape[1])
            for first in range(0, len(ids), size):
                part = slice(first, first + size)
                yield layer, head, part, values[part] @ says


def _hits(
    model: HookedTransformer,
    given: Int[Tensor, " pair"],
    related: Int[Tensor, " pair"],
    *,
    k: int,
    signs: Sequence[Sign],
    embedding: EmbeddingKind,
    metric: str,
) -> dict[Sign, Result]:
    """For every head and pair, whether the related token is among the `k` at that end of the given one's row."""
    cfg, related = model.cfg, related.to(model.device)
    found: dict[Sign, Tensor] = {sign: torch.zeros(cfg.n_layers, cfg.n_heads, len(given)) for sign in signs}
    for layer, head, part, logits in rows_of(model, given, embedding):
        own = logits.gather(1, related[part, None])
        for sign in signs:
            ahead = (logits >= own if sign == "raises" else logits <= own).sum(-1) - 1  # itself aside
            found[sign][layer, head, part] = (ahead < k).float().cpu()
    chance = torch.full((len(given),), k / cfg.d_vocab_out)
    axes = {"layer": range(cfg.n_layers), "head": range(cfg.n_heads)}
    results: dict[Sign, Result] = {}
    for sign, values in found.items():
        results[sign] = Result(metric=metric, axes=axes, values=values, baselines={"chance": chance})
    return results


def _check(model: HookedTransformer, k: int) -> None:
    refuse_outside("k", k, 1, model.cfg.d_vocab_out, "the size of the vocabulary")


def _check_head(model: HookedTransformer, layer: int, head: int) -> None:
    if not (0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads):
        raise BadInput(f"there is no head {head} in layer {layer}")
    if model.cfg.kv_latent:
        raise BadInput("the heads of this model share a low-rank summary of the stream, so none has weights of its own")
