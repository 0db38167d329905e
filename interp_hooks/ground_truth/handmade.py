"""Models whose weights are written by hand, so that their circuits are certain. They have no norms, and are float64.

or_gate, token_gate, and_gate   one neuron says OR or AND
micro_model                     two layers of two heads that multiply the stream by a number each
induction                       a previous-token head, and a head that looks for the token after an earlier copy
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch

from interp_hooks.errors import BadInput
from interp_hooks.experiments.task import Task
from interp_hooks.ground_truth.system import BOS, GroundTruth, edges, task_at_the_end, task_of
from interp_hooks.interventions.sites import at
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.transformer import HookedTransformer

SHARPNESS = 30.0  # the score of a match of `induction`


def blank(**fields: Any) -> HookedTransformer:
    """A float64 model without norms whose weights are all zero."""
    defaults = dict(normalization_type=None, positional_embedding_type="none", dtype=torch.float64, seed=0)
    model = HookedTransformer(HookedTransformerConfig.from_dict(defaults | fields))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    return model


# --------------------------------------------------------------------------------------------------------------- gates


def _one_neuron(d_model: int, n_heads: int, n_ctx: int) -> HookedTransformer:
    """One layer with an MLP of one neuron, all weights zero but one: logit 0 reads the stream's last dimension."""
    sizes = dict(n_layers=1, d_model=d_model, n_ctx=n_ctx, d_vocab=2, n_heads=n_heads, d_head=1, d_mlp=1)
    model = blank(**sizes, act_fn="relu")
    with torch.no_grad():
        model.unembed.W_U[-1, 0] = 1.0
    return model


def or_gate() -> GroundTruth:
    """Two heads that each write 1 to dimension 0, whatever they read, and logit 0 = 1 - relu(1 - (a + b)), their OR.

    (As in Conmy et al. 2023, arxiv.org/abs/2304.14997.)
    """
    model = _one_neuron(d_model=2, n_heads=2, n_ctx=3)
    block: Any = model.blocks[0]
    with torch.no_grad():
        block.attn.b_V.fill_(1.0)
        block.attn.W_O[:, 0, 0] = 1.0
        block.mlp.W_in[0, 0], block.mlp.b_in[0] = -1.0, 1.0
        block.mlp.W_out[0, 1], block.mlp.b_out[1] = -1.0, 1.0
    tokens = torch.zeros(1, 3, dtype=torch.long)
    return GroundTruth(
        model=model,
        vocabulary=("0", "1"),
        outputs=("or", "nothing"),
        task=task_at_the_end("or-gate", tokens, tokens, 0, 1),
        circuit=edges("a0.h0->m0", "a0.h1->m0", "m0->logits"),
        patching_circuit=frozenset(),
        places={"neuron": at("post", 0, neuron=0)},
        notes="Removing one head changes nothing, removing both changes the output from 1 to 0, since each is enough: "
        "the circuit is what can matter, and either head alone is a smaller one that is as faithful. "
        "The tokens play no part, so patching shows nothing.",
    )


def token_gate(kind: Literal["and", "or"], n_inputs: int = 2) -> GroundTruth:
    """Logit 0 at the last position is the AND or OR of all tokens, which are bits. The other logit is 0.

    Dimensions of the stream: the bit, how many bits are 1 (by uniform attention), the output.

    Raises:
        BadInput: another kind, or no input.
    """
    if kind not in ("and", "or") or n_inputs < 1:
        raise BadInput(f"expected 'and' or 'or' of at least 1 input, got {kind!r} of {n_inputs}")
    model = _one_neuron(d_model=3, n_heads=1, n_ctx=n_inputs)
    block: Any = model.blocks[0]
    with torch.no_grad():
        model.embed.W_E[1, 0] = 1.0
        block.attn.W_V[0, 0, 0] = 1.0
        block.attn.W_O[0, 0, 1] = n_inputs  # attention takes the mean
        if kind == "and":  # relu(count - (n_inputs - 1))
            block.mlp.W_in[1, 0], block.mlp.b_in[0], block.mlp.W_out[0, 2] = 1.0, 1.0 - n_inputs, 1.0
        else:  # 1 - relu(1 - count)
            block.mlp.W_in[1, 0], block.mlp.b_in[0] = -1.0, 1.0
            block.mlp.W_out[0, 2], block.mlp.b_out[2] = -1.0, 1.0
    bits = torch.tensor(list(itertools.product((0, 1), repeat=n_inputs)))
    clean = bits.repeat_interleave(n_inputs, dim=0)
    corrupt = clean ^ torch.eye(n_inputs, dtype=torch.long).repeat(len(bits), 1)
    truth = edges("input->a0.h0<v>", "a0.h0->m0", "m0->logits")
    return GroundTruth(
        model=model,
        vocabulary=("0", "1"),
        outputs=(kind, "nothing"),
        task=task_at_the_end(f"{kind}-gate", clean, corrupt, 0, 1),
        circuit=truth,
        patching_circuit=truth,
        places={"head": at("z", 0, head=0), "neuron": at("post", 0, neuron=0)},
        notes="The task has all inputs, and for each all ways to flip one bit. Attention is uniform: queries and keys "
        "decide nothing.",
    )


def and_gate(n_inputs: int = 2) -> GroundTruth:
    """`token_gate("and", n_inputs)`: relu(how many bits are 1 - (n_inputs - 1))."""
    return token_gate("and", n_inputs)


# --------------------------------------------------------------------------------------------------------- micro-model


def micro_model() -> GroundTruth:
    """A stream of two numbers at one position, to which head h adds W[h] * x, with W = [[1, 2], [3, 4]] in each layer.

    Token 0 is (1, 1) and token 1 is (-1, -1); the logits are the stream, (25, 49) and (-25, -49).
    """
    model = blank(n_layers=2, d_model=2, n_ctx=1, d_vocab=2, n_heads=2, d_head=2, attn_only=True)
    with torch.no_grad():
        model.embed.W_E.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        model.unembed.W_U.copy_(torch.eye(2))
        block: Any
        for block in model.blocks:
            block.attn.W_V.copy_(torch.eye(2).expand(2, 2, 2))
            block.attn.W_O.copy_(torch.diag_embed(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    truth = edges(
        "input->a0.h0<v>,a0.h1<v>,a1.h0<v>,a1.h1<v>",
        *("a0.h0->a1.h0<v>,a1.h1<v>,logits", "a0.h1->a1.h0<v>,a1.h1<v>,logits"),
        *("a1.h0->logits", "a1.h1->logits"),
    )
    return GroundTruth(
        model=model,
        vocabulary=("ones", "minus ones"),
        outputs=("first", "second"),
        task=task_at_the_end("micro-model", torch.tensor([[0]]), torch.tensor([[1]]), 1, 0),
        circuit=truth,
        patching_circuit=truth,
        notes="The task's metric is the difference of the two logits, to which input->logits adds nothing. With one "
        "position, queries and keys decide nothing. All effects are whole numbers, linear in every activation.",
    )


# ----------------------------------------------------------------------------------------------------------- induction


def induction(d_vocab: int = 11, n_ctx: int = 12) -> GroundTruth:
    """After A B ... A comes B, and after a token that is new, BOS. Head 0 of each layer does it; head 1 does nothing.

    The stream is [TOK | PREV | OUT | POS | ONE]: the token here, the token before it, the answer, the position, and 1.

        0.0   looks one position back (POS to POS) and copies TOK to PREV
        1.0   looks for the position whose PREV is its own TOK, else (for half the score) BOS, and copies TOK to OUT

    There are no MLPs, and scores are not divided by sqrt(d_head). Tokens are BOS (0) and d_vocab - 1 others. With one
    earlier copy, head 1.0 attends to the token after it with 1 - 3e-7. The K-composition of 0.0 and 1.0 is
    1 / sqrt(d_vocab + 1/4), Q- and V-composition are 0 (as defined by Elhage et al. 2021,
    transformer-circuits.pub/2021/framework), and `W_E W_OV W_U` of 1.0 is the identity.

    Raises:
        BadInput: too few tokens or positions for a prompt that repeats something.
    """
    half = min((n_ctx - 1) // 2, (d_vocab - 1) // 2)
    if half < 2:
        raise BadInput(f"induction needs d_vocab and n_ctx of at least 5, got {d_vocab} and {n_ctx}")
    blocks = [d_vocab, d_vocab, d_vocab, n_ctx, 1]
    tok, prev, out, pos, one = torch.arange(sum(blocks)).split(blocks)
    model = blank(
        n_layers=2,
        d_model=sum(blocks),
        n_ctx=n_ctx,
        d_vocab=d_vocab,
        n_heads=2,
        d_head=max(n_ctx, d_vocab + 1),  # one for each place, or for each word and one for BOS
        attn_only=True,
        attn_scale=1.0,
        positional_embedding_type="standard",
    )
    words, places = (torch.eye(size, dtype=torch.float64) for size in (d_vocab, n_ctx))
    first: Any
    second: Any
    first, second = (block.attn for block in model.blocks)
    with torch.no_grad():
        model.embed.W_E[:, tok], model.embed.W_E[:, one] = words, 1.0
        model.pos_embed.W_pos[:, pos] = places
        first.W_Q[0, pos, :n_ctx], first.W_K[0, pos, :n_ctx] = SHARPNESS * places, places.roll(1, dims=1)
        second.W_Q[0, tok, :d_vocab], second.W_K[0, prev, :d_vocab] = SHARPNESS * words, words
        second.W_Q[0, one, d_vocab], second.W_K[0, tok[0], d_vocab] = SHARPNESS / 2, 1.0
        for attn, written in ((first, prev), (second, out)):
            attn.W_V[:, tok, :d_vocab], attn.W_O[0, :d_vocab, written] = words, words
        model.unembed.W_U[out] = words
    return GroundTruth(
        model=model,
        vocabulary=(BOS, *(f"w{word}" for word in range(1, d_vocab))),
        outputs=(BOS, *(f"w{word}" for word in range(1, d_vocab))),
        task=repetition(half, d_vocab),
        circuit=edges(
            "input->a0.h0<q>,a0.h0<k>,a0.h0<v>,a1.h0<q>,a1.h0<k>,a1.h0<v>", "a0.h0->a1.h0<k>", "a1.h0->logits"
        ),
        patching_circuit=edges("input->a0.h0<v>,a1.h0<v>", "a0.h0->a1.h0<k>", "a1.h0->logits"),
        places={"previous-token head": at("z", 0, head=0), "induction head": at("z", 1, head=0)},
        notes="The two prompts of a pair end alike, and in one of them alone this repeats what stands before it. "
        "So patching never changes a position, nor the query of the induction head.",
    )


def repetition(half: int, d_vocab: int, n: int = 8) -> Task:
    """Pairs of prompts that end with the same `half` tokens, which one of the two prompts has had before.

    The first `n` pairs have the repetition in the clean prompt, the next `n` in the corrupt one. Every position of the
    second half asks which token followed before; without a repetition the answer is BOS.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([torch.randperm(d_vocab - 1, generator=generator) + 1 for _ in range(n)])
    end, others = drawn[:, :half], drawn[:, half : 2 * half]
    bos = torch.zeros(n, 1, dtype=torch.long)
    repeats, fresh = torch.cat((bos, end, end), dim=1), torch.cat((bos, others, end), dim=1)
    follows = torch.cat((bos.expand(n, half + 1), end.roll(-1, dims=1)), dim=1)
    nothing = torch.zeros_like(follows)
    clean, corrupt = torch.cat((repeats, fresh)), torch.cat((fresh, repeats))
    answer, wrong = torch.cat((follows, nothing)), torch.cat((nothing, follows))
    return task_of("induction", clean, corrupt, answer, wrong)
