"""Multi-head latent attention against its formulas, one head, one query and one key at a time."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.model.components.latent import LatentAttention
from tests.tiny import CUSTOM, assert_close, build, random_tokens

# Sums of a few dozen float64 numbers in another order.
EXACT = 1e-11
TOKENS = random_tokens(batch=2, pos=6, d_vocab=19)

KINDS: dict[str, dict[str, Any]] = {
    "with a latent of queries": {},
    "queries from the stream": dict(q_latent=0),
    "adjacent pairs": dict(rotary_adjacent_pairs=True),
    "layer norm": dict(normalization_type="LN"),
}


def built(kind: str) -> HookedTransformer:
    return build(**CUSTOM["latent"] | KINDS[kind])


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean() + 1e-6).sqrt() * gain


def turned(pair: Tensor, position: int) -> Tensor:
    """The two rotary dimensions of these models, which turn by one radian per position."""
    cos, sin = math.cos(position), math.sin(position)
    return torch.stack((pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin))


def head_by_hand(attn: LatentAttention, x: Tensor, head: int) -> list[Tensor]:
    """z of one head for the tokens x [pos, d_model] of one prompt."""
    if attn.q_latent:
        queries = [rms(row @ attn.W_DQ + attn.b_DQ, attn.q_latent_norm.w) @ attn.W_UQ[head] for row in x]
    else:
        queries = [row @ attn.W_Q[head] for row in x]
    queries = [query + attn.b_Q[head] for query in queries]
    latents = [rms(row @ attn.W_DKV + attn.b_DKV, attn.kv_latent_norm.w) for row in x]
    turning = [row @ attn.W_KR + attn.b_KR for row in x]
    mixed = []
    for here, query in enumerate(queries):
        scores = []
        for there in range(here + 1):
            plain = query[:2] @ (latents[there] @ attn.W_UK[head])
            rotary = turned(query[2:], here) @ turned(turning[there], there)
            scores.append((plain + rotary) / math.sqrt(4))
        pattern = torch.stack(scores).softmax(0)
        mixed.append(sum(weight * (latents[there] @ attn.W_UV[head]) for there, weight in enumerate(pattern)))
    return mixed


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_every_head_by_hand(kind: str) -> None:
    model = built(kind)
    _, cache = model.run_with_cache(TOKENS)
    for layer, block in enumerate(model.blocks):
        read = block.ln1(cache[f"blocks.{layer}.hook_resid_pre"])
        z = cache[f"blocks.{layer}.attn.hook_z"]
        assert list(z.shape) == [2, 6, 4, 3]
        for row in range(2):
            for head in range(4):
                assert_close(z[row, :, head], torch.stack(head_by_hand(block.attn, read[row], head)), EXACT)
        written = torch.einsum("bphk,hkd->bpd", z, block.attn.W_O) + block.attn.b_O
        assert_close(cache[f"blocks.{layer}.hook_attn_out"], written, EXACT)


@torch.no_grad()
def test_the_rotary_part_of_keys_is_one_for_all_heads() -> None:
    _, cache = built("with a latent of queries").run_with_cache(TOKENS)
    keys, rotated = cache["blocks.1.attn.hook_k"], cache["blocks.1.attn.hook_rot_k"]
    for shared in (keys[..., 2:], rotated[..., 2:]):
        assert torch.equal(shared, shared[:, :, :1].expand_as(shared))
    assert torch.equal(keys[..., :2], rotated[..., :2]), "the plain part does not turn"
    assert not torch.equal(keys[:, 1:, :, 2:], rotated[:, 1:, :, 2:])
    assert torch.equal(keys[:, 0], rotated[:, 0]), "nor does anything at position 0"


@torch.no_grad()
def test_an_edit_of_the_latent_moves_keys_and_values_of_that_token_alone() -> None:
    model, other = built("with a latent of queries"), random_tokens(batch=2, pos=6, d_vocab=19, seed=1)
    name, readers = "blocks.1.attn.hook_kv_latent", ["blocks.1.attn.hook_k", "blocks.1.attn.hook_v"]
    _, here = model.run_with_cache(TOKENS, names_filter=readers)
    _, there = model.run_with_cache(other, names_filter=[name, *readers])

    def put(value: Tensor, hook: Any) -> None:
        value[:, 2] = there[name][:, 2]

    with model.hooks([(name, put)]):
        _, edited = model.run_with_cache(TOKENS, names_filter=[*readers, "blocks.1.attn.hook_q"])
    for reader in readers:
        plain = slice(None, 2 if reader.endswith("hook_k") else None)  # the rotary part is read from the stream
        expected = here[reader].clone()
        expected[:, 2, :, plain] = there[reader][:, 2, :, plain]
        assert_close(edited[reader], expected, EXACT)


def test_the_latents_have_hooks_only_where_there_are_latents() -> None:
    names = [set(built(kind).hook_dict) for kind in ("with a latent of queries", "queries from the stream")]
    gone = {name.partition("attn.")[2] for name in names[0] - names[1]}
    assert gone == {"hook_q_latent", "q_latent_norm.hook_scale", "q_latent_norm.hook_normalized"}
    assert names[1] < names[0]
