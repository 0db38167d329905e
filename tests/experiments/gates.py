"""Models whose circuits are known because their weights are written by hand. No norms, no positions.

OR    two heads each write 1 to dimension 0;  out = 1 - relu(1 - (a + b))
gate  tokens 0 and 1 are bits, uniform attention averages them, and the MLP says AND or OR of all of them
linear  random weights, uniform attention, no MLP: logits are a linear function of every activation
micro  two layers of two heads that multiply the stream by a number each: every edge can be worked out on paper
induction  a previous-token head, and a head that looks for the token after an earlier copy of this one
"""

from typing import Any, Literal

import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookedTransformerConfig
from tests.tiny import build


def _blank(**fields: Any) -> HookedTransformer:
    """All weights zero."""
    defaults = dict(normalization_type=None, positional_embedding_type="none", dtype=torch.float64)
    model = HookedTransformer(HookedTransformerConfig(**defaults | fields))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    return model


def _one_neuron(d_model: int, n_heads: int, n_ctx: int) -> HookedTransformer:
    """One layer with a one-neuron MLP, all weights zero, and logit 0 reading the last dimension of the stream."""
    sizes = dict(n_layers=1, d_model=d_model, n_ctx=n_ctx, d_vocab=2, n_heads=n_heads, d_head=1, d_mlp=1)
    model = _blank(**sizes, act_fn="relu")
    with torch.no_grad():
        model.unembed.W_U[-1, 0] = 1.0
    return model


def two_heads_or() -> HookedTransformer:
    """Each head's z is 1 whatever it reads, and the output is the OR of the two."""
    model = _one_neuron(d_model=2, n_heads=2, n_ctx=3)
    block = model.blocks[0]
    with torch.no_grad():
        block.attn.b_V.fill_(1.0)
        block.attn.W_O[:, 0, 0] = 1.0
        block.mlp.W_in[0, 0], block.mlp.b_in[0] = -1.0, 1.0
        block.mlp.W_out[0, 1], block.mlp.b_out[1] = -1.0, 1.0
    return model


def gate(kind: Literal["and", "or"], inputs: int) -> HookedTransformer:
    """Logit 0 at the last position is the AND or OR of all tokens. Dimensions: bit, mean of bits, output."""
    model = _one_neuron(d_model=3, n_heads=1, n_ctx=inputs)
    block = model.blocks[0]
    with torch.no_grad():
        model.embed.W_E[1, 0] = 1.0
        block.attn.W_V[0, 0, 0] = 1.0
        block.attn.W_O[0, 0, 1] = inputs  # attention takes the mean, so this is how many bits are 1
        if kind == "and":  # relu(count - (inputs - 1))
            block.mlp.W_in[1, 0], block.mlp.b_in[0], block.mlp.W_out[0, 2] = 1.0, 1.0 - inputs, 1.0
        else:  # 1 - relu(1 - count)
            block.mlp.W_in[1, 0], block.mlp.b_in[0] = -1.0, 1.0
            block.mlp.W_out[0, 2], block.mlp.b_out[2] = -1.0, 1.0
    return model


def output(logits: Tensor) -> Tensor:
    """The metric of all of these: what the last position says."""
    return logits[:, -1, 0]


def linear() -> HookedTransformer:
    """Three layers of attention whose scores are all equal."""
    model = build(attn_only=True, normalization_type=None)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
            block.attn.b_Q.zero_()
    return model


def micro() -> HookedTransformer:
    """A stream of two numbers at one position, to which head h adds W[h] * x, with W = [[1, 2], [3, 4]] in each layer.

    Token 0 is (1, 1) and token 1 is (-1, -1); the logits are the stream, (25, 49) and (-25, -49).
    """
    model = _blank(n_layers=2, d_model=2, n_ctx=1, d_vocab=2, n_heads=2, d_head=2, attn_only=True)
    with torch.no_grad():
        model.embed.W_E.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        model.unembed.W_U.copy_(torch.eye(2))
        for block in model.blocks:
            block.attn.W_V.copy_(torch.eye(2).expand(2, 2, 2))
            block.attn.W_O.copy_(torch.diag_embed(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    return model


WORDS, PLACES, SHARPNESS = 11, 12, 30.0  # of `induction`: tokens (0 is BOS), positions, the score of a match
TOK, PREV, OUT, POS, ONE = torch.arange(3 * WORDS + PLACES + 1).split([WORDS, WORDS, WORDS, PLACES, 1])


def induction() -> HookedTransformer:
    """After A B ... A comes B; after a token that is new, BOS. Head 0 of each layer does it; nothing reads the others.

    The stream is [TOK | PREV | OUT | POS | ONE]: what stands here, what stood before, what to say, where, and a 1.

        0.0   looks one position back (POS to POS) and copies TOK to PREV
        1.0   looks for the position whose PREV is its own TOK, for half the score at BOS, and copies TOK to OUT
    """
    model = _blank(
        n_layers=2,
        d_model=len(TOK) + len(PREV) + len(OUT) + len(POS) + len(ONE),
        n_ctx=PLACES,
        d_vocab=WORDS,
        n_heads=2,
        d_head=PLACES,  # one for each place, or for each word and one for BOS
        attn_only=True,
        attn_scale=1.0,
        positional_embedding_type="standard",
    )
    words, places = (torch.eye(size, dtype=torch.float64) for size in (WORDS, PLACES))
    first, second = (block.attn for block in model.blocks)
    with torch.no_grad():
        model.embed.W_E[:, TOK], model.embed.W_E[:, ONE] = words, 1.0
        model.pos_embed.W_pos[:, POS] = places
        first.W_Q[0, POS], first.W_K[0, POS] = SHARPNESS * places, places.roll(1, dims=1)
        second.W_Q[0, TOK, :WORDS], second.W_K[0, PREV, :WORDS] = SHARPNESS * words, words
        second.W_Q[0, ONE, WORDS], second.W_K[0, TOK[0], WORDS] = SHARPNESS / 2, 1.0
        for attn, written in ((first, PREV), (second, OUT)):
            attn.W_V[:, TOK, :WORDS], attn.W_O[0, :WORDS, written] = words, words
        model.unembed.W_U[OUT] = words
    return model
