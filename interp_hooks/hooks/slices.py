"""A choice of entries along an axis: one, a range, some, or all.

2  -1                        one entry; the axis goes away
(1, 5)  (0, 9, 2)  slice     a range, as Python's slice(1, 5)
[4, 1]  array  tensor        these entries, or a mask of the axis' length
None                         all
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Words, checked, fits, told

LONGEST = 2**31 - 1  # entries of an axis that can be chosen from one by one


class Slice:
    """A choice of entries along an axis, which can be applied to any axis of any tensor.

    Raises:
        BadInput: something that names no entries of an axis.
    """

    slice: Any
    mode: Literal["int", "slice", "array", "identity"]

    def __init__(self, input_slice: SliceInput = None) -> None:
        if isinstance(input_slice, Slice):
            self.slice, self.mode = input_slice.slice, input_slice.mode
        elif input_slice is None:
            self.slice, self.mode = slice(None), "identity"
        elif isinstance(input_slice, Integral) and not isinstance(input_slice, bool):
            self.slice, self.mode = int(input_slice), "int"
        elif isinstance(input_slice, tuple | slice):
            self.slice, self.mode = _range(input_slice), "slice"
        else:
            self.slice, self.mode = _listed(input_slice), "array"
            if self.slice.ndim == 0:
                self.slice, self.mode = int(self.slice), "int"

    @classmethod
    def unwrap(cls, slice_input: SliceInput) -> Slice:
        """The choice with its axis kept even if it is a single entry."""
        if isinstance(slice_input, RowSlice):
            return slice_input
        chosen = cls(slice_input)
        return cls([chosen.slice]) if chosen.mode == "int" else chosen

    def apply(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """The chosen entries of one axis, in the order given; a range shares memory with the tensor.

        Raises:
            BadInput: an entry outside the axis.
        """
        if not isinstance(tensor, Tensor) or not fits(dim, int):
            raise BadInput(f"expected a tensor and the place of an axis, got {told(tensor)} and {told(dim)}")
        if not -tensor.ndim <= dim < tensor.ndim:
            raise BadInput(f"dim must name one of the axes of {list(tensor.shape)}, got {dim}")
        if self.mode == "identity":
            return tensor
        if self.mode == "slice" and (self.slice.step or 1) > 0:
            return tensor[(slice(None),) * (dim % tensor.ndim) + (self.slice,)]
        chosen = self.indices(tensor.shape[dim])
        if self.mode == "int":
            return tensor.select(dim, int(chosen[0]))
        return tensor.index_select(dim, torch.as_tensor(chosen.copy(), device=tensor.device))

    @checked
    def indices(self, max_ctx: int | None = None) -> np.ndarray:
        """The entries chosen from an axis of `max_ctx`; a single entry comes back as it was given.

        Raises:
            BadInput: an entry outside the axis, no `max_ctx` unless the choice is a single entry, or one that no axis
                has.
        """
        if max_ctx is None:
            if self.mode != "int":
                raise BadInput(f"max_ctx, the size of the axis, is needed to tell the entries of {self}")
            return np.array([self.slice])
        if not 0 <= max_ctx <= LONGEST:
            raise BadInput(f"max_ctx must be the size of an axis, 0 to {LONGEST}, got {max_ctx}")
        if self.mode in ("slice", "identity"):
            return np.arange(max_ctx)[self.slice]
        chosen = np.atleast_1d(self.slice)
        if chosen.dtype == bool:
            if len(chosen) != max_ctx:
                raise BadInput(f"a mask of {len(chosen)} entries does not fit an axis of {max_ctx}")
            return np.flatnonzero(chosen)
        if outside := [int(one) for one in chosen if not -max_ctx <= one < max_ctx]:
            raise BadInput(f"position (or prompt, or neuron) {outside[0]} is out of range for an axis of {max_ctx}")
        return chosen if self.mode == "int" else chosen % max_ctx

    @property
    def counts_back(self) -> bool:
        """Whether an entry, or an end of the range, is negative and so counts from the end of the axis."""
        if self.mode == "slice":
            return any(bound is not None and bound < 0 for bound in (self.slice.start, self.slice.stop))
        return (
            self.mode != "identity"
            and np.asarray(self.slice).dtype != bool
            and bool((np.asarray(self.slice) < 0).any())
        )

    def __repr__(self) -> str:
        return f"Slice({self.slice!r}, mode={self.mode!r})"


class RowSlice(Slice):
    """Entries of an axis, for each row (prompt) its own: `rows` [row, n]; rows are the first axis of a tensor.

    `single` says that it is one entry of each, whose axis goes away.
    """

    def __init__(self, rows: Tensor, single: bool = False) -> None:
        self.rows, self.single = rows, single
        self.slice, self.mode = rows, "int" if single else "array"

    def apply(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """The entries of one axis that each row has chosen."""
        rows = self.rows.to(tensor.device)
        each = torch.arange(len(rows), device=tensor.device)[:, None]
        found = tensor.expand(len(rows), *tensor.shape[1:]).movedim(dim, 1)[each, rows].movedim(1, dim)
        return found.squeeze(dim) if self.single else found


SliceInput = Annotated[
    int | tuple[int | None, ...] | Sequence[int] | Sequence[bool] | np.ndarray | Tensor | slice | Slice | None,
    Words("an index, a tuple for a range, a list of indices, a mask or None"),
]


def _range(given: tuple[int | None, ...] | slice) -> slice:
    try:
        chosen = slice(*given) if isinstance(given, tuple) else given
        chosen.indices(0)
    except (TypeError, ValueError) as error:
        raise BadInput(f"a range is (stop,), (start, stop) or (start, stop, step), got {given!r}: {error}") from error
    return chosen


def _listed(given: Any) -> np.ndarray:
    try:
        listed = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    except (NotImplementedError, ValueError) as error:  # a tensor without numbers, rows of unequal length
        raise BadInput(f"expected an index, a range, a list of indices or a mask, got {told(given)}") from error
    listed = listed.astype(np.int64) if listed.size == 0 else listed
    masks = listed.dtype == bool and listed.ndim == 1
    if listed.ndim > 1 or not (masks or np.issubdtype(listed.dtype, np.integer)):
        raise BadInput(f"expected an index, a tuple for a range, a list of indices, a mask or None, got {told(given)}")
    return listed
