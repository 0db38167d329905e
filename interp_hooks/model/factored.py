"""A matrix kept as the product of two thin ones, as the circuits of attention heads are.

    M = A @ B        A [*batch, left, inner]        B [*batch, inner, right]

W_Q W_K^T and W_V W_O have d_model rows and columns, but rank d_head. Products with such a matrix, its norm, its
singular values and its eigenvalues need the factors only: nothing is d_model x d_model until somebody asks for `AB`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from interp_hooks.errors import BadInput, OutOfRange, ShapeMismatch
from interp_hooks.errors.arguments import Count, checked, checked_methods, told

Index = Any  # what a tensor can be indexed with


@checked_methods
class FactoredMatrix:
    """The product `A @ B` of two thin matrices, kept as its factors; batch axes of the factors broadcast.

    Decompositions are computed once, in float32 or better, so don't edit the factors afterwards. If `left` or `right`
    is smaller than `inner`, there are only as many singular values.

        >>> OV = FactoredMatrix(model.W_V[0], model.W_O[0])
        >>> OV.shape == (model.cfg.n_heads, model.cfg.d_model, model.cfg.d_model)
        True
        >>> OV.S.shape[-1] == model.cfg.d_head
        True

    Raises:
        ShapeMismatch: factors whose shapes do not fit.
    """

    @checked
    def __init__(self, A: Float[Tensor, "*_ left inner"], B: Float[Tensor, "*_ inner right"]) -> None:
        if min(A.ndim, B.ndim) < 2:
            raise BadInput(f"both factors need rows and columns, got shapes {list(A.shape)} and {list(B.shape)}")
        batch = _fit(A.shape, B.shape)
        self.A, self.B = A.expand(*batch, *A.shape[-2:]), B.expand(*batch, *B.shape[-2:])
        self.ldim, self.mdim, self.rdim = A.shape[-2], A.shape[-1], B.shape[-1]
        self.shape = torch.Size((*batch, self.ldim, self.rdim))

    def __repr__(self) -> str:
        return f"FactoredMatrix(shape={list(self.shape)}, inner={self.mdim})"

    def __deepcopy__(self, memo: Any) -> FactoredMatrix:
        """A matrix with numbers of its own, which are no function of the weights that these were computed from."""
        copied = type(self)(*(copy.deepcopy(one.detach(), memo) for one in self.pair))
        for ours, theirs in zip(self.pair, copied.pair, strict=True):
            theirs.requires_grad_(ours.requires_grad)
        return copied

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def has_leading_dims(self) -> bool:
        """Whether there are batch axes."""
        return self.ndim > 2

    @property
    def pair(self) -> tuple[Float[Tensor, "*batch left inner"], Float[Tensor, "*batch inner right"]]:
        """Both factors."""
        return self.A, self.B

    @property
    def AB(self) -> Float[Tensor, "*batch left right"]:
        """The matrix itself, which may be large."""
        return self.A @ self.B

    @property
    def BA(self) -> Float[Tensor, "*batch inner inner"]:
        """The product in the other order, `B @ A`, which has the same eigenvalues except for zeros.

        Raises:
            BadInput: a matrix that is not square.
        """
        if self.ldim != self.rdim:
            raise BadInput(f"only a square matrix has BA and eigenvalues; A is {_shape(self.A)}, B {_shape(self.B)}")
        return self.B @ self.A

    @property
    def T(self) -> FactoredMatrix:
        """The transpose: rows and columns are exchanged, batch axes stay."""
        return type(self)(self.B.mT, self.A.mT)

    # ------------------------------------------------------------------------------------------------ decompositions

    @cached_property
    def _left(self) -> tuple[Tensor, Tensor]:
        """A = Q R."""
        return torch.linalg.qr(_precise(self.A))

    @cached_property
    def _right(self) -> tuple[Tensor, Tensor]:
        """B = R^T Q^T."""
        return torch.linalg.qr(_precise(self.B).mT)

    @cached_property
    def _core(self) -> Float[Tensor, "*batch left_rank right_rank"]:
        """The matrix in orthonormal bases of its column space and its row space."""
        return self._left[1] @ self._right[1].mT

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = torch.linalg.svd(self._core, full_matrices=False)
        return self._left[0] @ u, s, self._right[0] @ vh.mT

    def svd(
        self,
    ) -> tuple[Float[Tensor, "*batch left rank"], Float[Tensor, "*batch rank"], Float[Tensor, "*batch right rank"]]:
        """U, S and V with M = U diag(S) V^T, largest first; the sign of each pair of vectors is arbitrary."""
        return self._svd

    @property
    def U(self) -> Float[Tensor, "*batch left rank"]:
        """Left singular vectors, as columns."""
        return self._svd[0]

    @property
    def S(self) -> Float[Tensor, "*batch rank"]:
        """Singular values, largest first."""
        return self._svd[1]

    @property
    def V(self) -> Float[Tensor, "*batch right rank"]:
        """Right singular vectors, as columns."""
        return self._svd[2]

    @property
    def Vh(self) -> Float[Tensor, "*batch right rank"]:
        """`V`, under the misleading name that older code uses; warns."""
        warnings.warn(
            "FactoredMatrix.Vh is V, with singular vectors as columns, and not its transpose: write V or V.mT",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.V

    @property
    def eigenvalues(self) -> Complex[Tensor, "*batch inner"]:
        """The eigenvalues of `BA`, which are all eigenvalues of the matrix that can differ from zero."""
        return torch.linalg.eigvals(_precise(self.BA))

    def norm(self) -> Float[Tensor, "*batch"]:
        """The Frobenius norm."""
        return torch.linalg.matrix_norm(self._core)

    def make_even(self) -> FactoredMatrix:
        """The same matrix with A = U sqrt(S) and B = sqrt(S) V^T."""
        root = self.S.sqrt()
        return type(self)(self.U * root[..., None, :], root[..., :, None] * self.V.mT)

    def collapse_l(self) -> Float[Tensor, "*batch rank right"]:
        """S V^T, which has the same norms as the matrix in all products with something on the right."""
        return self.S[..., :, None] * self.V.mT

    def collapse_r(self) -> Float[Tensor, "*batch left rank"]:
        """U S, which has the same norms as the matrix in all products with something on the left."""
        return self.U * self.S[..., None, :]

    # ------------------------------------------------------------------------------------------------------- products

    def __matmul__(self, other: Tensor | FactoredMatrix) -> Any:
        """The product with a matrix, as a factored matrix, or with a vector [right], as a tensor [*batch, left].

        Raises:
            BadInput: shapes that do not fit.
        """
        if isinstance(other, FactoredMatrix):
            _fit(self.shape, other.shape)
            if self.rdim < min(self.mdim, other.mdim):
                return type(self)(self.AB, other.AB)
            middle = self.B @ other.A
            if self.mdim <= other.mdim:
                return type(self)(self.A, middle @ other.B)
            return type(self)(self.A @ middle, other.B)
        if not isinstance(other, Tensor):
            return NotImplemented
        self._refuse_dtype(other)
        _fit(self.shape, other.shape)
        if other.ndim == 1:
            return (self.A @ (self.B @ other)[..., None])[..., 0]
        if self.mdim <= self.rdim:
            return type(self)(self.A, self.B @ other)
        return type(self)(self.AB, other)

    def __rmatmul__(self, other: Tensor) -> Any:
        """`other @ self`; see `__matmul__`."""
        if not isinstance(other, Tensor):
            return NotImplemented
        self._refuse_dtype(other)
        _fit(other.shape, self.shape)
        if other.ndim == 1:
            return ((other @ self.A)[..., None, :] @ self.B)[..., 0, :]
        if self.mdim <= self.ldim:
            return type(self)(other @ self.A, self.B)
        return type(self)(other, self.AB)

    def _refuse_dtype(self, other: Tensor) -> None:
        if other.dtype != self.A.dtype or other.is_meta or other.layout != torch.strided:
            raise BadInput(f"a matrix of {self.A.dtype} is multiplied with one of the same dtype, got {told(other)}")

    def __mul__(self, scalar: int | float | Tensor) -> FactoredMatrix:
        """The matrix times a number.

        Raises:
            BadInput: a tensor of several numbers.
        """
        return type(self)(self.A * self._number(scalar), self.B)

    __rmul__ = __mul__

    def __truediv__(self, scalar: int | float | Tensor) -> FactoredMatrix:
        return type(self)(self.A / self._number(scalar), self.B)

    def _number(self, scalar: int | float | Tensor) -> int | float | Tensor:
        if not isinstance(scalar, Tensor):
            return float(scalar)
        if scalar.numel() != 1:
            raise BadInput(
                f"* and / take one number, got a tensor {_shape(scalar)} for a matrix {list(self.shape)}; "
                "products of matrices are written @"
            )
        return scalar.reshape(())

    # ------------------------------------------------------------------------------------------------------- indexing

    def __getitem__(self, index: Index) -> FactoredMatrix:
        """A part of the matrix, as a factored matrix; an int keeps one row or column, so that `M[3]` is [1, right].

        Batch axes are indexed like those of a tensor. Rows and columns take an int, a slice or one list each.

        Raises:
            BadInput: more indices than axes, or lists for rows or columns together with others.
            OutOfRange: an entry that is not there.
        """
        *batch, rows, columns = self._each_axis(index)
        try:
            A, B = self.A[tuple(batch)], self.B[tuple(batch)]
            return type(self)(A[..., _kept(rows), :], B[..., _kept(columns)])
        except (IndexError, OverflowError) as error:  # iteration ends by an IndexError
            raise OutOfRange(f"the index {index} does not fit a matrix of shape {list(self.shape)}: {error}") from error
        except (RuntimeError, TypeError, ValueError) as error:
            raise BadInput(f"the index {index} does not fit a matrix of shape {list(self.shape)}: {error}") from error

    def _each_axis(self, index: Index) -> list[Index]:
        """One index for each axis, and None for new ones: `...` and axes that were left out are written out."""
        given = list(index) if isinstance(index, tuple) else [index]
        used, dots = sum(map(_axes_taken, given)), [at for at, one in enumerate(given) if one is Ellipsis]
        if used > self.ndim or len(dots) > 1:
            raise BadInput(f"the index {index} is too long for a matrix of shape {list(self.shape)}")
        at = dots[0] if dots else len(given)
        every = [*given[:at], *[slice(None)] * (self.ndim - used), *given[at + 1 :]]
        taken = [_axes_taken(one) for one in every[-2:]]
        if taken != [1, 1] or any(torch.as_tensor(one).ndim > 1 for one in every[-2:] if _picks(one)):
            raise BadInput(f"rows and columns of {list(self.shape)} take an int, a slice or a list each, got {index}")
        if any(map(_picks, every[-2:])) and sum(map(_picks, every)) > 1:
            self._check_lists(sum(map(_picks, every[:-2])))
        return every

    def _check_lists(self, of_batch: int) -> None:
        """Raise BadInput for lists of rows and columns that are given at once, or beside lists of batch axes."""
        raise BadInput("a list for rows or columns goes with no other list: index twice, M[rows][..., columns]")

    def unsqueeze(self, dim: int) -> FactoredMatrix:
        """The matrix with a new batch axis of size one at `dim`.

        Raises:
            BadInput: `dim` is not among the batch axes.
        """
        place = dim + self.ndim + 1 if dim < 0 else dim
        if not 0 <= place <= self.ndim - 2:
            raise BadInput(f"a matrix of shape {list(self.shape)} can have a new axis at 0..{self.ndim - 2}, got {dim}")
        return type(self)(self.A.unsqueeze(place), self.B.unsqueeze(place))

    def get_corner(self, k: Count = 3) -> Float[Tensor, "..."]:
        """The first `k` entries along every axis, as a tensor to look at."""
        return self[(slice(k),) * self.ndim].AB


@checked
def composition_scores(
    left: FactoredMatrix, right: FactoredMatrix, broadcast_dims: bool = True
) -> Float[Tensor, "*batch"]:
    """|left right| / (|left| |right|) in Frobenius norms: how much of what `left` writes is read by `right`.

    One score for every pair of a matrix in `left` and one in `right`, [*left, *right]; with `broadcast_dims=False`
    batch axes are matched instead. A score is at most 1, about 1/sqrt(d_model) by chance, and nan if a matrix is zero
    (Elhage et al. 2021, transformer-circuits.pub/2021/framework).

    Raises:
        BadInput: `left` has another number of columns than `right` has rows.
    """
    if left.rdim != right.ldim:
        raise BadInput(f"what is written must be what is read, got {list(left.shape)} and {list(right.shape)}")
    thin_left = left._left[1] @ _precise(left.B)  # norms of products don't change with orthonormal factors outside
    thin_right = _precise(right.A) @ right._right[1].mT
    if not broadcast_dims:
        return torch.linalg.matrix_norm(thin_left @ thin_right) / (left.norm() * right.norm())
    # As one product of two large matrices: batched matmul would repeat each for every one of the other
    flat = [thin.reshape(-1, *thin.shape[-2:]) for thin in (thin_left, thin_right)]
    norms = torch.linalg.vector_norm(torch.einsum("xid,ydj->xyij", *flat), dim=(-2, -1))
    scores = norms / torch.outer(left.norm().flatten(), right.norm().flatten())
    return scores.reshape((*left.shape[:-2], *right.shape[:-2]))


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _fit(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    """The batch axes of the product of two shapes, of which one may be a vector's."""
    fits = len(left) > 0 < len(right) and left[-1] == right[-2 if len(right) > 1 else 0]
    try:
        batch = torch.broadcast_shapes(tuple(left[:-2]), tuple(right[:-2]))
    except RuntimeError:
        fits, batch = False, ()
    if not fits:
        raise ShapeMismatch(f"mismatch: shapes {list(left)} and {list(right)} cannot be multiplied")
    return tuple(batch)


def _picks(index: Index) -> bool:
    """Whether an index is a list or mask."""
    return not isinstance(index, (int, slice, type(None))) and torch.as_tensor(index).ndim > 0


def _axes_taken(index: Index) -> int:
    """How many axes of a tensor an index uses up.

    Raises:
        BadInput: something that is no index.
    """
    if index is None or index is Ellipsis:
        return 0
    if isinstance(index, (int, slice)):
        return 1
    try:
        listed = torch.as_tensor(index)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise BadInput(f"an index is an int, a slice, a list or a mask, got {told(index)}") from error
    if listed.is_meta or listed.is_floating_point() or listed.is_complex():
        raise BadInput(f"an index is an int, a slice, a list of ints or a mask, got {told(index)}")
    return listed.ndim if listed.dtype == torch.bool else 1


def _kept(index: Index) -> Index:
    """The index as one that keeps its axis."""
    return index if isinstance(index, slice) else torch.as_tensor(index).reshape(-1)
