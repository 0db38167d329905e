"""A model in which it is known what neurons answer to, and corpora for it.

The stream is [TOK | PREV | OUT | POS]: the word here, the word before it (by a previous-token head), what neurons
write, the position. There is one layer, without norms. PREV and POS are smaller than TOK, so that the word at a token
tells more about it than the others.
"""

from typing import Any

import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.corpus import Scan, scan
from interp_hooks.ground_truth.handmade import blank
from interp_hooks.studies import neuron_reducers

WORDS = ("ice", "cream", "tea", "cat", *(f"w{number}" for number in range(8)))
ICE, CREAM, TEA, CAT = range(4)
AND, SUM, EITHER, LAST = range(4)
N_CTX = 9


def pair_model() -> HookedTransformer:
    """Neuron AND is 1 on "ice cream"; SUM is 1 for each of these words; EITHER is 2 on "tea", 1 on "cat"; LAST is 0."""
    tok, prev, out, pos = torch.arange(2 * len(WORDS) + 4 + N_CTX).split([len(WORDS), len(WORDS), 4, N_CTX])
    sizes = dict(n_layers=1, d_model=2 * len(WORDS) + 4 + N_CTX, n_ctx=N_CTX, d_vocab=len(WORDS), d_mlp=4)
    model = blank(**sizes, n_heads=1, d_head=12, act_fn="relu", attn_scale=1.0, positional_embedding_type="standard")
    words, places = torch.eye(len(WORDS)).double(), torch.eye(N_CTX).double()
    block: Any = model.blocks[0]
    attn, mlp = block.attn, block.mlp
    with torch.no_grad():
        model.embed.W_E[:, tok], model.pos_embed.W_pos[:, pos] = words, places / 4
        attn.W_Q[0, pos, :N_CTX], attn.W_K[0, pos, :N_CTX] = 1600 * places, places.roll(1, dims=1)
        attn.W_V[0, tok], attn.W_O[0, :, prev] = words, words / 2
        for number, weight in ((AND, 2.0), (SUM, 1.0)):
            mlp.W_in[tok[CREAM], number], mlp.W_in[prev[ICE], number] = weight, 2 * weight
        mlp.b_in[AND] = -3.0
        mlp.W_in[tok[TEA], EITHER], mlp.W_in[tok[CAT], EITHER] = 2.0, 1.0
        mlp.W_out[torch.arange(4), out] = 1.0
        model.unembed.W_U[out, :4] = torch.eye(4).double()
    return model


def documents(*planted: int, n: int = 12, seed: int = 0) -> tuple[list[Tensor], dict[int, int]]:
    """Documents of other words, into every second of which some words were put, and where the last of these stands."""
    generator = torch.Generator().manual_seed(seed)
    found, where = [], {}
    for number in range(n):
        length = int(torch.randint(4, N_CTX + 1, (), generator=generator))
        tokens = torch.randint(4, len(WORDS), (length,), generator=generator)
        if planted and number % 2:
            start = int(torch.randint(0, length - len(planted), (), generator=generator))
            tokens[start : start + len(planted)] = torch.tensor(planted)
            where[number] = start + len(planted) - 1
        found.append(tokens)
    return found, where


def scanned(model: HookedTransformer, texts: list[Tensor], k: int = 12) -> Scan:
    return scan(model, texts, neuron_reducers(k=k), progress=False)
