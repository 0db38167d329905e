"""Recurrences by chunks, token by token, and as attention are the same."""

import pytest
import torch
from torch import Tensor

from interp_hooks.model.components.recurrence import CHUNK, Recurrence, mixing, scan, states
from tests.tiny import assert_close

KINDS = {"plain": (False, 1), "delta": (True, 1), "delta, decay per key dimension": (True, 4)}
every_kind = pytest.mark.parametrize("kind", KINDS)


def drawn(kind: str, length: int, decay: float = 1.0) -> Recurrence:
    corrects, width = KINDS[kind]
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, length, 4, dtype=torch.float64)
    beta = torch.rand(2, 3, length, dtype=torch.float64) if corrects else None
    log_decay = -decay * torch.rand(2, 3, length, width, dtype=torch.float64)
    return Recurrence(q, k / k.norm(dim=-1, keepdim=True), torch.randn(2, 3, length, 5).double(), log_decay, beta)


def by_hand(given: Recurrence, state: Tensor) -> tuple[Tensor, Tensor]:
    """The update written as a product with a matrix, as in the papers."""
    read, identity = [], torch.eye(4, dtype=torch.float64)
    for token in range(given.k.shape[2]):
        q, k, v, a = (x[:, :, token] for x in (given.q, given.k, given.v, given.log_decay.exp()))
        write = k[..., None] * v[..., None, :]
        decay = torch.diag_embed(a.expand_as(k))
        if given.beta is not None:
            beta = given.beta[:, :, token, None, None]
            decay, write = (identity - beta * k[..., None] * k[..., None, :]) @ decay, beta * write
        state = decay @ state + write
        read.append((state.mT @ q[..., None])[..., 0])
    return torch.stack(read, 2), state


@every_kind
@pytest.mark.parametrize("length", [1, 17, CHUNK + 6])
def test_chunks_are_the_recurrence(kind: str, length: int) -> None:
    given = drawn(kind, length)
    for state in (given.empty(), torch.randn_like(given.empty())):
        read, after = scan(given, state)
        expected, last = by_hand(given, state)
        assert_close(read, expected, 1e-12)
        assert_close(after, last, 1e-12)
        every = states(given, state)
        assert_close(every[:, :, -1], last, 1e-12)
        assert_close(torch.einsum("bhpk,bhpkv->bhpv", given.q, every), expected, 1e-12)


@every_kind
def test_the_equivalent_attention(kind: str) -> None:
    given = drawn(kind, 2 * CHUNK + 5)
    matrix = mixing(given)
    assert not matrix.triu(1).any()
    assert_close(matrix @ given.v, by_hand(given, given.empty())[0], 1e-10)
    single = Recurrence(*(None if x is None else x.float() for x in given))  # pyright: ignore[reportArgumentType]
    assert_close(mixing(single) @ single.v, matrix @ given.v, 1e-5)


@every_kind
def test_a_state_that_is_forgotten_at_once(kind: str) -> None:
    """Decay by a factor that no float holds leaves zeros, and nothing that is not a number."""
    given = drawn(kind, CHUNK + 3, decay=1e5)
    assert_close(scan(given)[0], by_hand(given, given.empty())[0], 1e-12)
    reset = given._replace(log_decay=torch.full_like(given.log_decay, -torch.inf))
    assert_close(scan(reset)[0], torch.diagonal(mixing(reset), dim1=-2, dim2=-1)[..., None] * given.v, 1e-12)


@every_kind
def test_gradients(kind: str) -> None:
    given = drawn(kind, 4)
    tensors = [x.clone().requires_grad_() for x in given if x is not None]
    assert torch.autograd.gradcheck(lambda *x: scan(Recurrence(*x)), tensors)
