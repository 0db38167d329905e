"""Models whose circuits are known because their weights are written by hand. No norms, no positions.

OR    two heads each write 1 to dimension 0;  out = 1 - relu(1 - (a + b))
gate  tokens 0 and 1 are bits, uniform attention averages them, and the MLP says AND or OR of all of them
linear  random weights, uniform attention, no MLP: logits are a linear function of every activation
"""

from typing import Literal

import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookedTransformerConfig
from tests.tiny import build


def _blank(d_model: int, n_heads: int, n_ctx: int) -> HookedTransformer:
    """One layer with a one-neuron MLP, all weights zero, and logit 0 reading the last dimension of the stream."""
    cfg = HookedTransformerConfig(
        n_layers=1,
        d_model=d_model,
        n_ctx=n_ctx,
        d_vocab=2,
        n_heads=n_heads,
        d_head=1,
        d_mlp=1,
        act_fn="relu",
        normalization_type=None,
        positional_embedding_type="none",
        dtype=torch.float64,
    )
    model = HookedTransformer(cfg)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.unembed.W_U[-1, 0] = 1.0
    return model


def two_heads_or() -> HookedTransformer:
    """Each head's z is 1 whatever it reads, and the output is the OR of the two."""
    model = _blank(d_model=2, n_heads=2, n_ctx=3)
    block = model.blocks[0]
    with torch.no_grad():
        block.attn.b_V.fill_(1.0)
        block.attn.W_O[:, 0, 0] = 1.0
        block.mlp.W_in[0, 0], block.mlp.b_in[0] = -1.0, 1.0
        block.mlp.W_out[0, 1], block.mlp.b_out[1] = -1.0, 1.0
    return model


def gate(kind: Literal["and", "or"], inputs: int) -> HookedTransformer:
    """Logit 0 at the last position is the AND or OR of all tokens. Dimensions: bit, mean of bits, output."""
    model = _blank(d_model=3, n_heads=1, n_ctx=inputs)
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
