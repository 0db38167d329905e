"""A factored matrix is its product, in everything that it can do, and never forms it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from interp_hooks.errors import BadInput
from interp_hooks.model.factored import FactoredMatrix, composition_scores
from tests.tiny import assert_close, unchecked_types

EXACT = 1e-10  # float64 sums of a few dozen numbers, through a decomposition

Sizes = tuple[int, ...]

# batch axes of A, of B, and left, inner, right
SIZES: dict[str, tuple[Sizes, Sizes, int, int, int]] = {
    "no batch": ((), (), 7, 3, 6),
    "batch": ((2, 5), (2, 5), 7, 3, 6),
    "broadcast": ((4, 1), (3,), 7, 3, 6),
    "only one has a batch": ((), (2,), 7, 3, 6),
    "square": ((2,), (2,), 6, 3, 6),
    "inner is widest": ((2,), (2,), 4, 9, 5),
    "one row": ((2,), (2,), 1, 3, 6),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name: str) -> tuple[FactoredMatrix, Tensor]:
    """A factored matrix, and the matrix itself."""
    left_batch, right_batch, left, inner, right = SIZES[name]
    A, B = drawn(*left_batch, left, inner), drawn(*right_batch, inner, right, seed=1)
    return FactoredMatrix(A, B), A @ B


@pytest.fixture(params=SIZES)
def both(request: pytest.FixtureRequest) -> tuple[FactoredMatrix, Tensor]:
    return make(request.param)


def test_what_it_is(both: tuple[FactoredMatrix, Tensor]) -> None:
    M, dense = both
    assert_close(M.AB, dense, EXACT)
    assert_close(M.T.AB, dense.mT, EXACT)
    assert M.shape == dense.shape
    assert M.ndim == dense.ndim
    assert M.has_leading_dims == (dense.ndim > 2)
    assert (M.ldim, M.rdim) == dense.shape[-2:]
    A, B = M.pair
    assert A is M.A
    assert B is M.B
    assert A.shape[-1] == B.shape[-2] == M.mdim
    assert A.shape[:-2] == B.shape[:-2] == dense.shape[:-2]
    assert repr(M) == f"FactoredMatrix(shape={list(dense.shape)}, inner={M.mdim})"


def test_singular_values_and_vectors(both: tuple[FactoredMatrix, Tensor]) -> None:
    M, dense = both
    rank = min(M.ldim, M.mdim, M.rdim)
    U, S, V = M.svd()
    assert_close(S, torch.linalg.svdvals(dense)[..., :rank], EXACT)
    assert_close(U @ S.diag_embed() @ V.mT, dense, EXACT)
    for vectors in (U, V):
        assert_close(vectors.mT @ vectors, torch.eye(rank, dtype=torch.float64).expand(*S.shape, rank), EXACT)
    assert M.U is U
    assert M.S is S
    assert M.V is V
    with pytest.warns(DeprecationWarning, match="Vh is V"):
        assert M.Vh is V


def test_norm(both: tuple[FactoredMatrix, Tensor]) -> None:
    M, dense = both
    assert_close(M.norm(), dense.pow(2).sum((-2, -1)).sqrt(), EXACT)


def test_a_norm_far_below_those_of_the_factors() -> None:
    """Two terms cancel but for 1e-9 of their size; squares of entries would lose that to rounding."""
    a, b, c = drawn(8), drawn(8, seed=1), drawn(8, seed=2)
    M = FactoredMatrix(torch.stack((a, a + 1e-9 * c), 1), torch.stack((b, -b)))
    assert_close(M.norm(), 1e-9 * c.norm() * b.norm(), 1e-6)


def test_an_even_split(both: tuple[FactoredMatrix, Tensor]) -> None:
    M, dense = both
    A, B = M.make_even().pair
    assert_close(A @ B, dense, EXACT)
    assert_close(A.mT @ A, M.S.diag_embed(), EXACT)
    assert_close(B @ B.mT, M.S.diag_embed(), EXACT)


def test_collapsing_keeps_the_norm_of_products(both: tuple[FactoredMatrix, Tensor]) -> None:
    M, dense = both
    after, before = drawn(M.rdim, 4, seed=2), drawn(4, M.ldim, seed=3)
    rank = min(M.ldim, M.mdim, M.rdim)
    assert M.collapse_l().shape == (*dense.shape[:-2], rank, M.rdim)
    assert M.collapse_r().shape == (*dense.shape[:-2], M.ldim, rank)
    assert_close((M.collapse_l() @ after).norm(dim=(-2, -1)), (dense @ after).norm(dim=(-2, -1)), EXACT)
    assert_close((before @ M.collapse_r()).norm(dim=(-2, -1)), (before @ dense).norm(dim=(-2, -1)), EXACT)
    assert_close(M.collapse_l().mT @ M.collapse_l(), dense.mT @ dense, EXACT)
    assert_close(M.collapse_r() @ M.collapse_r().mT, dense @ dense.mT, EXACT)


def test_eigenvalues_are_those_of_the_matrix_that_are_not_zero() -> None:
    M, dense = make("square")
    assert M.eigenvalues.shape == (2, 3)
    assert_close(M.BA, M.B @ M.A, EXACT)
    for found, values in zip(M.eigenvalues, torch.linalg.eigvals(dense), strict=True):
        expected = values[values.abs().argsort(descending=True)][:3]
        assert float(values.abs().sort().values[:3].max()) < 1e-12, "the other three are zero"
        distances = (found[:, None] - expected[None]).abs()
        assert float(distances.amin(0).max()) < EXACT
        assert float(distances.amin(1).max()) < EXACT


@pytest.mark.parametrize("seed", range(3))
def test_writing_what_was_read_has_copying_score_one(seed: int) -> None:
    """W_O = W_V^T is positive semidefinite: all eigenvalues are positive. Of unrelated factors they cancel out."""

    def score(M: FactoredMatrix) -> float:
        return float(M.eigenvalues.real.sum() / M.eigenvalues.abs().sum())

    W_V = drawn(64, 16, seed=seed)
    assert score(FactoredMatrix(W_V, W_V.T)) == pytest.approx(1.0, abs=1e-12)
    assert score(FactoredMatrix(W_V, -W_V.T)) == pytest.approx(-1.0, abs=1e-12)
    assert abs(score(FactoredMatrix(W_V, drawn(16, 64, seed=seed + 10)))) < 0.4  # 4 standard deviations


# ------------------------------------------------------------------------------------------------------------ products


@pytest.mark.parametrize("shape", [(6, 4), (5, 6, 4), (2, 1, 6, 4), (6, 1), (6, 50)], ids=str)
def test_times_a_matrix(shape: Sizes) -> None:
    M, dense = make("batch")
    other = drawn(*shape, seed=2)
    product, reverse = M @ other, other.mT @ M.T
    assert isinstance(product, FactoredMatrix)
    assert isinstance(reverse, FactoredMatrix)
    assert product.mdim == reverse.mdim == 3
    assert_close(product.AB, dense @ other, EXACT)
    assert_close(reverse.AB, other.mT @ dense.mT, EXACT)


def test_the_inner_axis_stays_the_narrowest() -> None:
    M, dense = make("inner is widest")
    after, before = drawn(5, 3, seed=2), drawn(3, 4, seed=2)
    assert (M @ after).mdim == 5
    assert (before @ M).mdim == 4
    assert_close((M @ after).AB, dense @ after, EXACT)
    assert_close((before @ M).AB, before @ dense, EXACT)


def test_times_a_vector(both: tuple[FactoredMatrix, Tensor]) -> None:
    M, dense = both
    right, left = drawn(M.rdim, seed=2), drawn(M.ldim, seed=3)
    assert_close(M @ right, dense @ right, EXACT)
    assert_close(left @ M, left @ dense, EXACT)


@pytest.mark.parametrize("inner", [2, 5])
def test_times_another_factored_matrix(inner: int) -> None:
    M, dense = make("batch")
    other = FactoredMatrix(drawn(5, 6, inner, seed=2), drawn(5, inner, 4, seed=3))
    product = M @ other
    assert isinstance(product, FactoredMatrix)
    assert product.mdim == min(3, inner)
    assert_close(product.AB, dense @ other.AB, EXACT)


@pytest.mark.parametrize("scalar", [3, -0.5, torch.tensor(2.0), torch.tensor([[2.0]])], ids=str)
def test_times_a_number(scalar: Any) -> None:
    M, dense = make("batch")
    number = float(scalar)
    for product, expected in ((M * scalar, number), (scalar * M, number), (M / scalar, 1 / number)):
        assert isinstance(product, FactoredMatrix)
        assert product.shape == M.shape
        assert_close(product.AB, dense * expected, EXACT)


def test_the_full_circuit_of_a_vocabulary_stays_factored() -> None:
    """W_E W_V W_O W_U is [vocab, vocab]; its copying score needs d_head x d_head numbers."""
    W_E, W_U = drawn(30, 8), drawn(8, 30, seed=2)
    W_V, W_O = drawn(2, 8, 3, seed=3), drawn(2, 3, 8, seed=4)
    circuit = W_E @ FactoredMatrix(W_V, W_O) @ W_U
    assert circuit.mdim == 3
    assert_close(circuit.AB, W_E @ W_V @ W_O @ W_U, EXACT)
    trace = (W_E @ W_V @ W_O @ W_U).diagonal(dim1=-2, dim2=-1).sum(-1)
    assert_close(circuit.eigenvalues.sum(-1).real, trace, EXACT)


class Largest(TorchDispatchMode):
    """The most numbers that any operation made."""

    made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, Tensor):
                self.made = max(self.made, one.numel())
        return out


FRUGAL: dict[str, Callable[[FactoredMatrix], Any]] = {
    "norm": lambda M: M.norm(),
    "svd": lambda M: M.svd(),
    "eigenvalues": lambda M: M.eigenvalues,
    "make_even": lambda M: M.make_even(),
    "collapse": lambda M: (M.collapse_l(), M.collapse_r()),
    "corner": lambda M: M.get_corner(),
    "vector": lambda M: M @ M.A[:, 0],
    "matrix": lambda M: M.A[:, :4].mT @ (M @ M.A),
    "factored": lambda M: M @ M.T,
    "scores": lambda M: composition_scores(M, M.T),
}


@pytest.mark.parametrize("name", FRUGAL)
def test_the_product_is_never_formed(name: str) -> None:
    M = FactoredMatrix(drawn(100, 5), drawn(5, 100, seed=1))
    with Largest() as largest:
        FRUGAL[name](M)
    assert 0 < largest.made <= 100 * 5
    with Largest() as largest:
        M.AB  # noqa: B018
    assert largest.made == 100 * 100


# ------------------------------------------------------------------------------------------------------------ indexing

INDICES: list[Any] = [
    0,
    -1,
    slice(1, 2),
    (0, 3),
    (slice(None), 3),
    (None, 0),
    (0, None, 2),
    ...,
    (..., slice(1, 4), slice(None, None, 2)),
    (1, ..., slice(2)),
    (1, 2, slice(1, 4)),
    (1, 2, slice(1, 4), slice(2, 4)),
    (torch.tensor([1, 0, 1]),),
    (torch.tensor([1, 0, 1]), torch.tensor([2, 2, 4])),
    ([0, 1], [3, 3]),
    torch.tensor([True, False]),
    torch.arange(10).reshape(2, 5) % 3 == 0,
    (torch.arange(10).reshape(2, 5) % 3 == 0, slice(1, 4), slice(2)),
    (..., [4, 0, 0], slice(None)),
    (..., [5, 1]),
    (1, ..., torch.tensor([5, 1])),
    (..., np.array([True, False, True, False, False, True])),
    (np.int64(1), 2),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_parts_are_those_of_the_matrix(index: Any) -> None:
    M, dense = make("batch")
    part = M[index]
    assert isinstance(part, FactoredMatrix)
    assert part.mdim == 3
    assert_close(part.AB, dense[index], EXACT)


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        ((0, 1, 2), (0, 1, slice(2, 3))),
        ((0, 1, -1), (0, 1, slice(6, 7))),
        ((0, 1, -1, -1), (0, 1, slice(6, 7), slice(5, 6))),
        ((..., 4, 0), (..., slice(4, 5), slice(0, 1))),
        ((..., 0), (..., slice(0, 1))),
        ((..., torch.tensor(2)), (..., slice(2, 3))),
    ],
    ids=str,
)
def test_an_int_for_rows_or_columns_keeps_the_axis(index: Any, kept: Any) -> None:
    M, dense = make("batch")
    assert_close(M[index].AB, dense[kept], EXACT)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ((0, 1, 2, 3, 4), "too long for a matrix of shape"),
        ((..., 0, ...), "too long for a matrix of shape"),
        ((..., None), "take an int, a slice or a list each"),
        ((..., None, 0), "take an int, a slice or a list each"),
        ((0, 0, slice(None), None, slice(None)), "take an int, a slice or a list each"),
        ((..., torch.tensor([[0, 1], [1, 0]])), "take an int, a slice or a list each"),
        ((0, 0, torch.ones(7, 6, dtype=torch.bool)), "take an int, a slice or a list each"),
        ((..., [0, 1], [0, 1]), "index twice"),
        (([0, 1], 0, [0, 1]), "index twice"),
    ],
    ids=str,
)
def test_indices_that_mean_something_else_are_refused(index: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make("batch")[0][index]


@pytest.mark.parametrize("index", [(2,), (0, 5), (0, 0, 7), (0, 0, 0, 6), (..., [0, 6])], ids=str)
def test_indices_out_of_range(index: Any) -> None:
    with pytest.raises(IndexError):
        make("batch")[0][index]


@pytest.mark.parametrize("dim", [0, 1, 2, -3, -4, -5])
def test_a_new_axis(dim: int) -> None:
    M, dense = make("batch")
    assert_close(M.unsqueeze(dim).AB, dense.unsqueeze(dim), EXACT)


@pytest.mark.parametrize("dim", [3, 4, -1, -2, -6])
def test_a_new_axis_elsewhere_is_refused(dim: int) -> None:
    with pytest.raises(BadInput, match=r"can have a new axis at 0\.\.2"):
        make("batch")[0].unsqueeze(dim)


@pytest.mark.parametrize("k", [1, 3])
def test_a_corner(both: tuple[FactoredMatrix, Tensor], k: int) -> None:
    M, dense = both
    assert_close(M.get_corner(k), dense[(slice(k),) * dense.ndim], EXACT)
    assert_close(M.get_corner(), dense[(slice(3),) * dense.ndim], EXACT)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("A", "B", "named"),
    [
        ((7, 3), (4, 6), r"\[7, 3\] and \[4, 6\]"),
        ((2, 7, 3), (5, 3, 6), r"\[2, 7, 3\] and \[5, 3, 6\]"),
        ((3,), (3, 6), r"A must be a tensor \[\.\.\. left inner\] \(float\), got a torch.float64 tensor \[3\]"),
        ((7, 3), (3,), r"B must be a tensor \[\.\.\. inner right\]"),
    ],
    ids=str,
)
def test_factors_that_do_not_fit(A: Sizes, B: Sizes, named: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=named):
        FactoredMatrix(drawn(*A), drawn(*B))


@pytest.mark.parametrize("shape", [(7, 2), (7,), (), (3, 5, 6, 2)], ids=str)
def test_products_that_do_not_fit_name_both_shapes(shape: Sizes) -> None:
    M, other = make("batch")[0], drawn(*shape)
    named = str(list(shape)).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(BadInput, match=rf"\[2, 5, 7, 6\] and {named} cannot"):
        M @ other
    flipped = str(list(other.T.shape if other.ndim == 2 else shape)).replace("[", r"\[").replace("]", r"\]")
    if len(shape) != 1:  # a vector of 7 fits on the left
        with pytest.raises(BadInput, match=rf"{flipped} and \[2, 5, 6, 7\] cannot" if other.ndim == 2 else "cannot"):
            (other.T if other.ndim == 2 else other) @ M.T
    if len(shape) == 2:
        with pytest.raises(BadInput, match=rf"\[2, 5, 7, 6\] and \[{shape[0]}, 4\] cannot"):
            M @ FactoredMatrix(other, drawn(2, 4))


def test_other_mistakes() -> None:
    M = make("batch")[0]
    for wrong in (lambda: M.BA, lambda: M.eigenvalues):
        with pytest.raises(BadInput, match=r"square.* A is \[2, 5, 7, 3\], B \[2, 5, 3, 6\]"):
            wrong()
    for wrong in (lambda: M * torch.ones(2, 5), lambda: torch.ones(2, 5) * M, lambda: M / torch.ones(2, 5)):
        with pytest.raises(BadInput, match=r"got a tensor \[2, 5\] for a matrix \[2, 5, 7, 6\]"):
            wrong()
    with unchecked_types(), pytest.raises(TypeError, match="unsupported operand"):
        M @ 3  # pyright: ignore[reportOperatorIssue]


def test_half_precision_is_decomposed_in_float32() -> None:
    A, B = drawn(6, 3).bfloat16(), drawn(3, 6, seed=1).bfloat16()
    half, exact = FactoredMatrix(A, B), FactoredMatrix(A.float(), B.float())
    assert half.AB.dtype == torch.bfloat16
    assert torch.equal(half.S, exact.S)
    assert torch.equal(half.norm(), exact.norm())
    assert_close(half.eigenvalues.abs().sort().values, exact.eigenvalues.abs().sort().values, 0.05)  # BA is rounded


def test_gradients_flow_through_everything() -> None:
    A, B = drawn(6, 3).requires_grad_(), drawn(3, 6, seed=1).requires_grad_()
    M = FactoredMatrix(A, B)
    (M.norm() + M.S.sum() + M.eigenvalues.abs().sum() + (M @ M).AB.sum()).backward()
    expected = (A @ B).norm() + torch.linalg.svdvals(A @ B).sum() + torch.linalg.eigvals(B @ A).abs().sum()
    ours = A.grad
    (wanted,) = torch.autograd.grad(expected + (A @ B @ A @ B).sum(), A)
    assert ours is not None
    assert_close(ours, wanted, 1e-8)


# --------------------------------------------------------------------------------------------------------- composition


def dense_score(left: Tensor, right: Tensor) -> Tensor:
    return (left @ right).norm(dim=(-2, -1)) / (left.norm(dim=(-2, -1)) * right.norm(dim=(-2, -1)))


def test_scores_of_all_pairs() -> None:
    left = FactoredMatrix(drawn(2, 3, 8, 2), drawn(2, 3, 2, 7, seed=1))
    right = FactoredMatrix(drawn(4, 7, 5, seed=2), drawn(4, 5, 9, seed=3))
    expected = dense_score(left.AB[:, :, None], right.AB[None, None])
    scores = composition_scores(left, right)
    assert scores.shape == (2, 3, 4)
    assert_close(scores, expected, EXACT)
    assert_close(composition_scores(left[0, 0], right[1]), expected[0, 0, 1], EXACT)
    same = FactoredMatrix(drawn(3, 7, 5, seed=2), drawn(3, 5, 9, seed=3))
    assert_close(composition_scores(left, same, broadcast_dims=False), dense_score(left.AB, same.AB), EXACT)


def test_scores_need_a_common_axis() -> None:
    with pytest.raises(BadInput, match=r"\[7, 6\] and \[7, 6\]"):
        composition_scores(make("no batch")[0], make("no batch")[0])


@pytest.mark.parametrize(("d_model", "d_head"), [(64, 4), (64, 16), (128, 8), (256, 16)])
def test_unrelated_heads_score_one_over_the_root_of_d_model(d_model: int, d_head: int) -> None:
    """Whatever their width: the mean over 64 pairs of Gaussian heads."""

    def heads(seed: int) -> FactoredMatrix:
        return FactoredMatrix(drawn(8, d_model, d_head, seed=seed), drawn(8, d_head, d_model, seed=seed + 1))

    found = float(composition_scores(heads(0), heads(2)).mean())
    assert found == pytest.approx(1 / math.sqrt(d_model), rel=0.03)  # they scatter by about 5 percent each


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_perfect_alignment_scores_one_over_the_root_of_the_rank(rank: int) -> None:
    basis = torch.linalg.qr(drawn(20, rank))[0]
    M = FactoredMatrix(basis, basis.T)
    assert float(composition_scores(M, M)) == pytest.approx(1 / math.sqrt(rank), abs=1e-12)
    other = torch.linalg.qr(torch.cat((basis, drawn(20, 1, seed=1)), 1))[0][:, rank:]
    assert float(composition_scores(M, FactoredMatrix(other, other.T))) == pytest.approx(0.0, abs=1e-12)
