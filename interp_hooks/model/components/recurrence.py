"""Linear recurrences over tokens, and the attention that they are equivalent to.

    without beta     S[t] = a[t] S[t-1] + k[t] v[t]^T
    with beta        S[t] = a[t] S[t-1] + beta[t] k[t] (v[t] - a[t] S[t-1]^T k[t])^T        the gated delta rule
    what is read     o[t] = S[t]^T q[t]  =  sum over s <= t of M[t, s] v[s],  if S[0] = 0

`a = exp(log_decay)` is a number per head and token, or one for each dimension of the key. `scan` computes this by
chunks (Yang et al. 2024, arxiv.org/abs/2406.06484, 2412.06464; Dao and Gu 2024, arxiv.org/abs/2405.21060), `states`
and `mixing` what nobody needs but who looks inside. All are exact; sums of logarithms, not differences of sums, decay.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SPAN = 1024  # tokens whose chunks are computed at once
CHUNK = 64  # tokens that are computed at once where the decay is one number per head
FINE_CHUNK = 16  # where it is one for each dimension of the key, so that pairs of tokens have as many


class Recurrence(NamedTuple):
    """What a recurrence reads at every token, [batch, head, pos, ...], in one precise dtype.

    `log_decay` is [batch, head, pos, 1 or d_key], `beta` [batch, head, pos] or None. In chunks, all have an axis more.
    """

    q: Float[Tensor, "batch head *chunk pos d_key"]
    k: Float[Tensor, "batch head *chunk pos d_key"]
    v: Float[Tensor, "batch head *chunk pos d_value"]
    log_decay: Float[Tensor, "batch head *chunk pos #d_key"]
    beta: Float[Tensor, "batch head *chunk pos"] | None = None

    @property
    def chunk(self) -> int:
        """How many tokens are one chunk."""
        return CHUNK if self.log_decay.shape[-1] == 1 else FINE_CHUNK

    @property
    def span(self) -> int:
        """How many tokens are computed at once: whole chunks, of which pairs of tokens fit into memory."""
        return SPAN if self.log_decay.shape[-1] == 1 else FINE_CHUNK * max(1, SPAN // FINE_CHUNK // self.k.shape[-1])

    def in_chunks(self) -> "Recurrence":
        """[batch, head, chunk, pos, ...], the last chunk filled with tokens that change nothing."""
        length = self.k.shape[2]
        chunk = min(self.chunk, length)
        missing = -length % chunk
        q, k, v, log_decay = (F.pad(one, (0, 0, 0, missing)).unflatten(2, (-1, chunk)) for one in self[:4])
        beta = None if self.beta is None else F.pad(self.beta, (0, missing)).unflatten(2, (-1, chunk))
        return Recurrence(q, k, v, log_decay, beta)

    def at(self, tokens: slice) -> "Recurrence":
        """The recurrence over some of the tokens."""
        q, k, v, log_decay = (one[:, :, tokens] for one in self[:4])
        return Recurrence(q, k, v, log_decay, None if self.beta is None else self.beta[:, :, tokens])

    def empty(self) -> Float[Tensor, "batch head d_key d_value"]:
        """The state before the first token."""
        return self.v.new_zeros(*self.k.shape[:2], self.k.shape[-1], self.v.shape[-1])


def scan(given: Recurrence, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What is read at every token [batch, head, pos, d_value], and the state after the last [.., d_key, d_value]."""
    state, read = given.empty() if state is None else state, []
    if given.v.shape[-1] == 1:  # products of matrices gain nothing
        after = state
        for token, after in enumerate(_one_by_one(given, state)):
            read.append((after * given.q[:, :, token, :, None]).sum(-2))
        return torch.stack(read, dim=2), after
    for start in range(0, given.k.shape[2], given.span):
        here, state = _by_chunks(given.at(slice(start, start + given.span)), state)
        read.append(here)
    return torch.cat(read, dim=2), state


def _by_chunks(given: Recurrence, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same over some tokens: what happens within chunks at once, then from chunk to chunk."""
    length = given.k.shape[2]
    chunks = given.in_chunks()
    decay = _Decay(chunks.log_decay)
    looks, v, remembers = decay.pairs(chunks.q, chunks.k), chunks.v, None
    if chunks.beta is not None:
        written = torch.cat((chunks.v, decay.from_start * chunks.k), dim=-1) * chunks.beta[..., None]
        v, remembers = _solved(chunks, decay, written).split((v.shape[-1], chunks.k.shape[-1]), dim=-1)
    asks, leaves, read = decay.from_start * chunks.q, (decay.to_end * chunks.k).mT, []
    for chunk in range(v.shape[2]):
        here = v[:, :, chunk] if remembers is None else v[:, :, chunk] - remembers[:, :, chunk] @ state
        read.append(asks[:, :, chunk] @ state + looks[:, :, chunk] @ here)
        state = decay.whole[:, :, chunk] * state + leaves[:, :, chunk] @ here
    return torch.cat(read, dim=2)[:, :, :length], state


def mixing(given: Recurrence) -> Float[Tensor, "batch head query key"]:
    """The matrix M by which what is read at each token is a sum of values: what attention calls its pattern."""
    decay = _Decay(given.log_decay)
    looks = decay.pairs(given.q, given.k)
    if given.beta is None:
        return looks
    identity = torch.eye(looks.shape[-1], dtype=looks.dtype, device=looks.device)
    return looks @ _solved(given, decay, identity * given.beta[..., None])


def states(given: Recurrence, state: Tensor | None = None) -> Float[Tensor, "batch head pos d_key d_value"]:
    """The state after every token, one after the other."""
    return torch.stack([*_one_by_one(given, given.empty() if state is None else state)], dim=2)


def _one_by_one(given: Recurrence, state: Tensor) -> Iterator[Float[Tensor, "batch head d_key d_value"]]:
    """The state after each token."""
    decay = given.log_decay.exp()[..., None]
    for token in range(given.k.shape[2]):
        state = decay[:, :, token] * state
        k, v = given.k[:, :, token], given.v[:, :, token]
        if given.beta is not None:
            v = given.beta[:, :, token, None] * (v - (state * k[..., None]).sum(-2))
        state = state + k[..., None] * v[..., None, :]
        yield state


class _Decay:
    """How much is left of what a token wrote when a later one reads it, within a chunk."""

    def __init__(self, log_decay: Float[Tensor, "*chunk pos #d_key"]) -> None:
        length = log_decay.shape[-2]
        later = torch.ones(length, length, dtype=torch.bool, device=log_decay.device).tril(-1)[..., None]
        steps = torch.where(later, log_decay[..., None, :], 0.0)
        self.between = steps.cumsum(-3).exp()  # [.., reads, wrote, #d_key], of use where the first is not before
        self.from_start = log_decay.cumsum(-2).exp()
        self.to_end = self.between[..., -1, :, :]
        self.whole = self.from_start[..., -1, :, None]

    def pairs(self, later: Tensor, earlier: Tensor, diagonal: int = 0) -> Float[Tensor, "*chunk pos pos"]:
        """Products of what is read at each token and written at those up to it (-1: before it)."""
        if self.between.shape[-1] == 1:
            products = (later @ earlier.mT) * self.between[..., 0]
        else:
            products = torch.einsum("...id,...jd,...ijd->...ij", later, earlier, self.between)
        return products.tril(diagonal)


def _solved(given: Recurrence, decay: _Decay, written: Tensor) -> Tensor:
    """What stays of what every token would write, once each has taken away what the state held under its key."""
    assert given.beta is not None
    corrections = given.beta[..., None] * decay.pairs(given.k, given.k, diagonal=-1)
    return torch.linalg.solve_triangular(corrections, written, upper=False, unitriangular=True)
