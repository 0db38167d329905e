"""How a head's scores depend on the offset, how far the key stands before the query: by position alone, and by content.

    position_profile    the score of a mean query and a mean key, which know nothing of tokens
    content_circuit     how much better a token's partner scores than other tokens do

With rotary positions both are sums of waves over the offset D, one for each pair of dimensions f:

    |q_f| |k_f| cos(D theta_f + phi_f)         theta_f = 2 pi / wavelength of the pair

Pairs of a long wavelength tell contents apart at any offset, those of a short one tell offsets apart (Barbero et al.
2024, arxiv.org/abs/2410.06205). W_Q W_K^T, which is the content circuit at offset 0, may be far from that at another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import about, checked
from interp_hooks.experiments.results.record import on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.interventions.runs import PromptsLike, as_run, counted_positions
from interp_hooks.model.components.positions import Rotation
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.directions import EmbeddingKind, token_vectors
from interp_hooks.studies.heads.attending import makes_keys
from interp_hooks.studies.heads.inputs import HeadInput, ReadRun
from interp_hooks.studies.heads.scores import frequency_pairs

BY_PLACE = ("standard", "sinusoidal", "shortformer")  # kinds of positions that are a part of what heads read


@checked
@on_data
@no_gradients
def position_profile(
    model: HookedTransformer,
    prompts: PromptsLike,
    layer: int,
    offsets: Sequence[int] | None = None,
    *,
    frequencies: bool = False,
) -> Result:
    """The scores of every head of a layer that go by position alone, as a curve over the offset, less its mean.

    The result's axes are head, offset (default: 0, 1, ... up to the length of the prompts) and, with `frequencies`,
    frequency, as in `score_split`. It is the score of the mean query and the mean key over the tokens of the prompts,
    without padding; the more and the more different they are, the less of their content is left. Rotary positions and
    ALiBi are taken from the offset, and means are over all positions but that of BOS. Where positions are learned (or
    sinusoidal), every position has means of its own, over prompts, and a score is the mean over all pairs at that
    offset. Norms are those of the run; masks and soft caps are left out. Where a gain after the rotation or a scale of
    far queries makes scores depend on more than the offset, the key stands at position 0.

    Raises:
        BadInput: no such layer or offset, frequencies without rotary positions, or heads that clip.

    >>> position_profile(model, clean, 0).mean.shape[0]
    4
    """
    _check_layer(model, layer)
    run = as_run(model, prompts)
    length = run.tokens.shape[1]
    offsets = range(length) if offsets is None else list(offsets)
    by_place = model.cfg.positional_embedding_type in BY_PLACE
    if not offsets or (by_place and max(map(abs, offsets)) >= length):
        raise BadInput(f"offsets must be one or more, within prompts of {length} tokens, got {list(offsets)}")
    read = ReadRun.of(model, run, layer)
    counted = counted_positions(model, run, ("padding",) if by_place else ("padding", "bos")).to(model.device)
    stream = read.cache[f"blocks.{layer}.hook_resid_pre"]
    axes: dict[str, Any] = {"head": range(model.cfg.n_heads), "offset": list(offsets)}
    member = torch.ones(model.cfg.d_head_at(layer), 1)
    if frequencies:
        axes["frequency"], member = frequency_pairs(model, layer)
    curves: list[Tensor] = []
    for head in range(model.cfg.n_heads):
        sides = [read.input(layer, head, side) for side in ("Q", "K")]
        q, k = (side.whole(stream, counted, turned=by_place) for side in sides)
        if by_place:
            curve = _by_place(read, q, k, counted, offsets)[:, None]  # offset 1
        else:
            products = _turned(model, layer, sides, q[counted].mean(0), k[counted].mean(0), offsets)
            curve = products @ member.to(products)
        slope = model.cfg.alibi_slopes[head] * model.cfg.attn_scale_at(layer) if model.cfg.alibi_slopes else 0.0
        curves.append(curve - slope * torch.tensor(offsets, device=curve.device)[:, None])
    values = torch.stack(curves) / model.cfg.attn_scale_at(layer)
    values = values - values.mean(1, keepdim=True)
    return Result(metric="score", axes=axes, values=(values[..., None] if frequencies else values).cpu())


@checked
@on_data
@no_gradients
def content_circuit(
    model: HookedTransformer,
    layer: int,
    head: int,
    queries: Sequence[Any],
    keys: Sequence[Any] | None = None,
    offsets: Sequence[int] = range(8),
    *,
    embedding: EmbeddingKind = "stream",
    frequencies: bool = False,
) -> Result:
    """How much better a head scores a token's partner than the other keys, as a curve over the offset.

    Queries and keys are tokens, texts of one token or ids, that belong together in pairs (default: every token with
    itself, as a head matches that looks for copies). The result's axes are offset and, with `frequencies`, frequency;
    each pair is a prompt, and has its score less the mean over all keys. Streams are what stands for a token alone, as
    in `tokens_of`, and norms of them as they are. Without rotary positions the curve is flat.

    Raises:
        BadInput: no such head, fewer than two tokens, another number of keys, or frequencies without rotary positions.
        TokenError: a text that is not one token.

    >>> content_circuit(model, 1, 2, [" Mary", " John", " Anna"]).mean.shape
    torch.Size([8])
    """
    _check_layer(model, layer)
    if not 0 <= head < model.cfg.n_heads:
        raise BadInput(f"there is no head {head} in layer {layer}")
    with about("queries"):
        asked = model.token_ids(list(queries)).reshape(-1)
    with about("keys"):
        given = asked if keys is None else model.token_ids(list(keys)).reshape(-1)
    if len(asked) != len(given) or len(asked) < 2 or not len(offsets):
        raise BadInput(f"expected two or more queries, with a key each, got {len(asked)} and {len(given)}")
    axes: dict[str, Any] = {"offset": list(offsets)}
    member = torch.ones(model.cfg.d_head_at(layer), 1)
    if frequencies:
        axes["frequency"], member = frequency_pairs(model, layer)
    attn = makes_keys(model, layer)
    norm = model.norm_reading(layer)
    streams = [norm.fused(token_vectors(model, ids, embedding).to(model.dtype))[None] for ids in (asked, given)]
    found: list[Tensor] = []
    for rotations in rotations_at(model, layer, offsets):
        q, k = (
            attn.queries_keys_values((x, x, x), rotation)[side][0]
            for side, (x, rotation) in enumerate(zip(streams, rotations, strict=True))
        )
        q, k = q[:, head], k[:, head // attn.queries_per_key]
        found.append(member.to(q).T @ (q * (k - k.mean(0))).T)  # frequency pair
    values = torch.stack(found) / attn.scale
    return Result(metric="score", axes=axes, values=(values if frequencies else values[:, 0]).detach().cpu())


@checked
def rotary_wavelengths(model: HookedTransformer, layer: int = 0) -> Float[Tensor, " pair"]:
    """The number of tokens in which each pair of rotary dimensions of a layer turns once around.

    Raises:
        BadInput: the layer does not rotate.

    >>> rotary_wavelengths(HookedTransformer(dict(n_layers=1, d_model=8, n_ctx=4, d_vocab=3, n_heads=1, d_mlp=4,
    ...     act_fn="relu", positional_embedding_type="rotary"))).round().int().tolist()
    [6, 63, 628, 6283]
    """
    _check_layer(model, layer)
    rope = model.cfg.rotary_at(layer)
    if rope is None or model.rotary is None:
        raise BadInput(f"layer {layer} of this model has no rotary positions")
    return 2 * torch.pi / model.rotary.frequencies(rope, torch.zeros(1, 1, dtype=torch.long))[0][0]


def _check_layer(model: HookedTransformer, layer: int) -> None:
    if not 0 <= layer < model.cfg.n_layers:
        raise BadInput(f"there is no layer {layer}; the model has 0..{model.cfg.n_layers - 1}")


def rotations_at(
    model: HookedTransformer, layer: int, offsets: Sequence[int]
) -> list[tuple[Rotation | None, Rotation | None]]:
    """For each offset, how a query that stands so far behind a key at position 0 is turned, and the key."""
    pairs: list[tuple[Rotation | None, Rotation | None]] = []
    for offset in offsets:
        places = torch.tensor([[max(offset, 0), max(-offset, 0)]], device=model.device)
        turns = None if model.rotary is None else model.rotary(places, model.dtype)[layer]
        query, key = (None if turns is None else turns.each(lambda x, at=at: x[:, [at]]) for at in (0, 1))
        pairs.append((query, key))
    return pairs


def _turned(
    model: HookedTransformer,
    layer: int,
    sides: Sequence[HeadInput],
    q: Float[Tensor, " d_head"],
    k: Float[Tensor, " d_head"],
    offsets: Sequence[int],
) -> Float[Tensor, "offset d_head"]:
    """The products of a query and a key, dimension by dimension, turned by each offset."""
    products: list[Tensor] = []
    for rotations in rotations_at(model, layer, offsets):
        query, key = (
            replace(side, rotation=None if rotation is None else rotation.of_one_head()).turned(one[None, None], True)
            for side, one, rotation in zip(sides, (q, k), rotations, strict=True)
        )
        products.append((query * key)[0, 0])
    return torch.stack(products)


def _by_place(read: ReadRun, q: Tensor, k: Tensor, counted: Tensor, offsets: Sequence[int]) -> Float[Tensor, " offset"]:
    """The mean score over pairs of positions at each offset, of queries and keys that are means over prompts."""
    places = torch.nn.functional.one_hot(read.positions, read.positions.shape[1]).to(q) * counted[..., None]
    count = places.sum((0, 1))
    q, k = (torch.einsum("bpd,bpx->xd", one, places) / count.clamp(min=1)[:, None] for one in (q, k))
    table, there = q @ k.T, (count > 0).to(q)
    pairs = torch.outer(there, there)
    return torch.stack([table.diagonal(-at).sum() / pairs.diagonal(-at).sum() for at in offsets])
