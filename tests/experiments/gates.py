"""Models whose circuits are known because their weights are written by hand. No norms, no positions.

OR    two heads each write 1 to dimension 0;  out = 1 - relu(1 - (a + b))
gate  tokens 0 and 1 are bits, uniform attention averages them, and the MLP says AND or OR of all of them
linear  random weights, uniform attention, no MLP: logits are a linear function of every activation
micro  two layers of two heads that multiply the stream by a number each: every edge can be worked out on paper
induction  a previous-token head, and a head that looks for the token after an earlier copy of this one
"""

from typing import Literal

import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.ground_truth import handmade
from tests.tiny import build


def two_heads_or() -> HookedTransformer:
    """Each head's z is 1 whatever it reads, and the output is the OR of the two."""
    return handmade.or_gate().model


def gate(kind: Literal["and", "or"], inputs: int) -> HookedTransformer:
    """Logit 0 at the last position is the AND or OR of all tokens. Dimensions: bit, mean of bits, output."""
    return handmade.token_gate(kind, inputs).model


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
    return handmade.micro_model().model


WORDS, PLACES = 11, 12  # of `induction`: tokens (0 is BOS), positions
TOK, PREV, OUT, POS, ONE = torch.arange(3 * WORDS + PLACES + 1).split([WORDS, WORDS, WORDS, PLACES, 1])


def induction() -> HookedTransformer:
    """After A B ... A comes B; after a token that is new, BOS. Head 0 of each layer does it; nothing reads the others.

    The stream is [TOK | PREV | OUT | POS | ONE]: what stands here, what stood before, what to say, where, and a 1.
    """
    return handmade.induction(WORDS, PLACES).model
