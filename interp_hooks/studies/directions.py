"""A direction in the stream as words: which tokens' logits it raises and lowers, or which embeddings it reads.

    unembed    what a vector that is added to the stream adds to logits: a neuron, what a head writes, a steering vector
    embed      how strongly a vector that reads the stream answers to each token: a probe, a query, a neuron's weights

The final norm is linear but for its scale, which depends on the rest of the stream: it centres the vector (LayerNorm)
and multiplies it by its gain, and the scale is left out, so that values compare with each other and not with logits.
Values are less their mean over the vocabulary, which no probability depends on. Their sign is that of the vector: the
lowest tokens are the highest ones of its opposite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked, refuse_outside
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.model.cache.frozen_norm import FrozenNorm, centred
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer

Through = Literal["unembed", "embed"]
EmbeddingKind = Literal["embed", "mlp0", "stream"]
"""What stands for a token alone: its embedding, what the first MLP makes of that, or both."""
CHUNK = 2**24  # numbers of a [direction, vocabulary] table that are held at once


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DirectionTokens(Shown):
    """The tokens at both ends of some directions: ids, texts and values, most extreme first. Prints as its table."""

    top: Int[Tensor, "direction k"]
    top_values: Float[Tensor, "direction k"]
    bottom: Int[Tensor, "direction k"]
    bottom_values: Float[Tensor, "direction k"]
    text_of: Callable[[int], str]

    def words(self, direction: int = 0) -> tuple[list[str], list[str]]:
        """The texts of the highest and of the lowest tokens of a direction."""
        top, bottom = ([self.text_of(id) for id in ids[direction].tolist()] for ids in (self.top, self.bottom))
        return top, bottom

    def table(self) -> pd.DataFrame:
        """A row for each direction and rank."""
        rows = [
            dict(direction=direction, rank=rank, top=up, top_value=high, bottom=down, bottom_value=low)
            for direction in range(len(self.top))
            for rank, (up, high, down, low) in enumerate(
                zip(
                    self.words(direction)[0],
                    self.top_values[direction].tolist(),
                    self.words(direction)[1],
                    self.bottom_values[direction].tolist(),
                    strict=True,
                )
            )
        ]
        return pd.DataFrame(rows)


@study
def tokens_of(
    model: HookedTransformer,
    direction: Float[Tensor, "*n d_model"],
    *,
    k: Count = 10,
    through: Through = "unembed",
    embedding: EmbeddingKind = "stream",
) -> DirectionTokens:
    """The `k` tokens that a direction in the stream raises most, and the `k` that it lowers most.

    `direction` is [d_model], or several [n, d_model]. With `through="embed"`: the tokens to which a direction that
    reads the stream answers most and least; what stands for a token is then its `embedding`, or "mlp0", what the first
    MLP writes for it, or "stream", the sum of both.

    Raises:
        BadInput: another width, or a model in which logits are not linear in the stream.

    >>> tokens_of(model, model.blocks[2].attn.W_O[0, 0], k=3).table().columns.tolist()
    ['direction', 'rank', 'top', 'top_value', 'bottom', 'bottom_value']
    """
    rows = direction.reshape(-1, direction.shape[-1]) if direction.ndim else direction
    if direction.ndim not in (1, 2) or rows.shape[1] != model.cfg.d_model or not len(rows):
        raise BadInput(f"direction must be [d_model={model.cfg.d_model}] or [n, d_model], got {list(direction.shape)}")
    onto = unembedding(model) if through == "unembed" else centred(token_vectors(model, kind=embedding).T)
    refuse_outside("k", k, 1, onto.shape[1], "the size of the vocabulary")
    ends: list[tuple[Tensor, ...]] = []
    for part in rows.to(onto).split(max(1, CHUNK // onto.shape[1])):
        values = part @ onto
        ends.append((*values.topk(k), *values.topk(k, largest=False)))
    top_values, top, bottom_values, bottom = (torch.cat(one).cpu() for one in zip(*ends, strict=True))
    return DirectionTokens(
        top=top, top_values=top_values, bottom=bottom, bottom_values=bottom_values, text_of=names_of(model)
    )


def unembedding(model: HookedTransformer, layer: int | None = None) -> Float[Tensor, "d_model d_vocab_out"]:
    """What a vector in the stream is multiplied by to give logits, less their mean and but for the final norm's scale.

    With `layer`, a vector that the heads of that layer write, which may pass a norm of its own before it is added.

    Raises:
        BadInput: a masked-LM head, whose activation function lies between stream and logits.
    """
    if model.cfg.mlm_head:
        raise BadInput("a masked-LM head is not linear, so that no direction stands for logits")
    W_U = model.W_U.detach()
    onto = W_U.to(torch.promote_types(W_U.dtype, torch.float32)).T * model.cfg.logits_scale
    onto = onto - onto.mean(0)
    norms = [model.ln_final, *([] if layer is None else [model.blocks[layer].ln1_post])]
    for norm in norms:
        if norm.kind is not None:
            onto = FrozenNorm.of(norm, onto.new_ones(1)).pulled_back(onto)
    return onto.T


@checked
def token_vectors(
    model: HookedTransformer, ids: Int[Tensor, " token"] | None = None, kind: EmbeddingKind = "stream"
) -> Float[Tensor, "token d_model"]:
    """What stands for a token before any attention: its embedding, what the first MLP makes of it, or both.

    Without positions. "mlp0" is MLP(norm(embedding)) of layer 0, as in Elhelo and Geva 2024 (arxiv.org/abs/2412.11965);
    in a model without MLPs all three are the embedding.

    Raises:
        BadInput: another kind.
    """
    ids = torch.arange(model.cfg.d_vocab) if ids is None else ids
    vectors: list[Tensor] = []
    block: Any = model.blocks[0]
    for part in ids.to(model.device).split(4096):
        embedded = model.entering(model.embed(part[None]))
        if kind == "embed" or model.cfg.attn_only:
            vectors.append(embedded[0])
            continue
        written = block.ln2_post(block.mlp(model.norm_reading(0, mlp=True)(embedded))) * block.residual_scale
        vectors.append((written if kind == "mlp0" else embedded + written)[0])
    found = torch.cat(vectors).detach()
    return found.to(torch.promote_types(found.dtype, torch.float32))
