"""Where units are most active, and at random places in each band of activation; and the tokens around these places.

The scan says where; activations of the tokens around come from a second scan, over the documents that are needed,
and attention patterns from reading each such piece by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from interp_hooks.corpus.packing import Packer, Piece
from interp_hooks.corpus.reducers.bands import N_BANDS
from interp_hooks.corpus.reducers.base import Reducer, State
from interp_hooks.corpus.reducers.top import NONE, Side
from interp_hooks.corpus.scanning import Scan, scan
from interp_hooks.corpus.units import Seen, Units
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.wikis.head_columns import patterns_of
from interp_hooks.studies.wikis.units import ENDS, Kind, band_names

AROUND = 12  # tokens on either side of an example
WIDTH = 2 * AROUND + 1
TOP, BOTTOM = -1, -2  # in place of a band, of the examples at an end
FIRST_BAND: Mapping[Side, int] = {"largest": 0, "smallest": N_BANDS}  # bands of both sides are numbered in turn
AT_ONCE = 64  # documents of which windows are made together


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """The examples of one layer's units, a row each: by unit, then those of ends before bands, then by rank.

    `band` is `BOTTOM`, `TOP`, or the number of a band: those of negative values follow those of positive ones.

    `around` [example, 2 AROUND + 1] are the activations of the tokens around, nan where the model read none there.
    `attention` [example, 2 AROUND + 1, 2 AROUND + 2] is what each of these tokens attends to among them, and in its
    last column to the first token of the piece; heads alone have it.
    """

    unit: np.ndarray
    band: np.ndarray
    rank: np.ndarray
    document: np.ndarray
    position: np.ndarray
    activation: np.ndarray
    around: np.ndarray = field(repr=False)
    attention: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.unit)


def examples_of(found: Scan, kind: Kind) -> dict[int, Examples]:
    """The examples that a scan kept of every layer; nothing is around them yet."""
    names: dict[Side, str] = {side: f"{kind.name}_{ENDS[side]}" for side in kind.sides}
    layers = [int(layer) for layer in found[f"{kind.name}_top"] if layer is not None]
    only_active = bool(kind.dictionaries)
    return {
        layer: _of_layer(
            ((side, found[name][layer], found[f"{name}_bands"][layer]) for side, name in names.items()), only_active
        )
        for layer in layers
    }


def _of_layer(ends: Iterable[tuple[Side, State, State]], only_active: bool) -> Examples:
    """The examples of one layer; without those at which the unit is 0, if only active ones are examples."""
    rows = []
    for side, end, banded in ends:
        rows.append(_rows(end["documents"][:, None], end, TOP if side == "largest" else BOTTOM))
        documents = banded["documents"].clone()
        if side == "smallest":
            documents[:, 0] = NONE  # where the unit is not negative
        rows.append(_rows(documents, banded, FIRST_BAND[side]))
    unit, band, rank, document, position, activation = (np.concatenate(column) for column in zip(*rows, strict=True))
    order = np.lexsort((rank, band, unit))
    order = order[activation[order] > 0] if only_active else order
    around = np.full((len(order), WIDTH), np.nan, dtype=np.float16)
    return Examples(
        unit=unit[order],
        band=band[order],
        rank=rank[order],
        document=document[order],
        position=position[order],
        activation=activation[order],
        around=around,
    )


def _rows(documents: Tensor, state: Mapping[str, Tensor], first_band: int) -> tuple[np.ndarray, ...]:
    """The examples in a state [unit, band, n] that there are."""
    unit, band, rank = np.nonzero(documents.numpy() >= 0)
    flat = [state[name].reshape(documents.shape).numpy()[unit, band, rank] for name in ("documents", "positions")]
    values = state["values"].reshape(documents.shape).numpy()[unit, band, rank]
    return unit, band + first_band, rank, *flat, values


def names_of_bands() -> dict[int, str]:
    """What each band is called, and the ends."""
    names = {TOP: ENDS["largest"], BOTTOM: ENDS["smallest"]}
    for side, first in FIRST_BAND.items():
        names |= dict(enumerate(band_names(side), first))
    return names


def needed(examples: Mapping[str, Mapping[int, Examples]]) -> list[int]:
    """The documents that have examples."""
    rows = [one.document for layers in examples.values() for one in layers.values()]
    return np.unique(np.concatenate(rows)).tolist() if rows else []


# ------------------------------------------------------------------------------------------------- activations around


@dataclass(frozen=True, eq=False)
class Windows(Reducer):
    """The activations of units around given places: by layer, `wanted` are rows of (document, position, unit, row).

    The state has the `rows` that were found and their `values`; each place is in one piece, so none is found twice.
    """

    units: Units
    wanted: Mapping[int, Tensor] = field(repr=False)

    def reduce(self, seen: Seen) -> State:
        assert seen.layer is not None
        device = seen.values.device
        document, position, unit, row = self.wanted[seen.layer].to(device).T
        keys = (seen.documents << 32) + seen.positions
        order = keys.argsort()
        asked = (document << 32) + position
        place = torch.searchsorted(keys[order], asked).clamp(max=len(keys) - 1)
        token = order[place]
        there = keys[token] == asked
        token, unit, position = token[there], unit[there], position[there]
        offsets = torch.arange(-AROUND, AROUND + 1, device=device)
        at = token[:, None] + offsets
        inside = (at >= 0) & (at < len(keys))
        at = at.clamp(0, len(keys) - 1)
        same = seen.pieces[at] == seen.pieces[token][:, None]
        inside &= same & (seen.positions[at] == position[:, None] + offsets)
        values = seen.values[at, unit[:, None]].masked_fill(~inside, torch.nan)
        return {"rows": row[there].cpu(), "values": values.cpu().to(torch.float16)}

    def merge(self, one: State, other: State) -> State:
        return {name: torch.cat((one[name], other[name])) for name in one}


def add_windows(
    model: HookedTransformer,
    found: Scan,
    examples: Mapping[str, Mapping[int, Examples]],
    kinds: list[Kind],
    progress: Callable[[int], object],
    **options: object,
) -> None:
    """Fill in what is around each example; `options` are those of the scan that found it."""
    documents = needed(examples)
    for start in range(0, len(documents), AT_ONCE):
        chunk = documents[start : start + AT_ONCE]
        wanted = {
            kind.name: {layer: _wanted(one, chunk) for layer, one in examples[kind.name].items()} for kind in kinds
        }
        reducers = {kind.name: Windows(kind.units, wanted[kind.name]) for kind in kinds}
        again = scan(model, [found.tokens(one) for one in chunk], reducers, progress=False, **options)  # pyright: ignore[reportArgumentType]
        for kind in kinds:
            for layer, state in again[kind.name].items():
                assert layer is not None
                examples[kind.name][layer].around[state["rows"].numpy()] = state["values"].numpy()
        progress(len(chunk))


def _wanted(one: Examples, chunk: list[int]) -> Tensor:
    """The places of examples in some documents, which are numbered anew."""
    numbers = np.asarray(chunk)
    local = np.searchsorted(numbers, one.document).clip(max=len(numbers) - 1)
    row = np.nonzero(numbers[local] == one.document)[0]
    return torch.from_numpy(np.stack((local[row], one.position[row], one.unit[row], row), axis=1).astype(np.int64))


# ----------------------------------------------------------------------------------------------------------- attention


@no_gradients
def add_attention(
    model: HookedTransformer,
    found: Scan,
    examples: Mapping[int, Examples],
    packer: Packer,
    progress: Callable[[int], object],
) -> dict[int, Examples]:
    """The examples of heads, with what the tokens around attend to."""
    filled = {layer: _with_room(one) for layer, one in examples.items()}
    documents = needed({"head": examples})
    for document in documents:
        for piece in packer.pieces(document, found.tokens(document)):
            rows = {layer: list(_in_piece(one, piece)) for layer, one in filled.items()}
            for layer, pattern in patterns_of(model, piece, [layer for layer, one in rows.items() if one]).items():
                for row, token in rows[layer]:
                    _fill(filled[layer], row, token, pattern[int(filled[layer].unit[row])].float().cpu().numpy())
        progress(1)
    return filled


def _with_room(one: Examples) -> Examples:
    return replace(one, attention=np.zeros((len(one), WIDTH, WIDTH + 1), dtype=np.float16))


def _in_piece(one: Examples, piece: Piece) -> Iterator[tuple[int, int]]:
    """The rows of examples in a piece, and the place in it of each."""
    places = {position: token for token, position in enumerate(piece.positions.tolist()) if position >= 0}
    for row in np.nonzero(one.document == piece.document)[0].tolist():
        token = places.get(int(one.position[row]))
        if token is not None:
            yield row, token


def _fill(one: Examples, row: int, token: int, pattern: np.ndarray) -> None:
    assert one.attention is not None
    first, last = max(0, token - AROUND), min(len(pattern), token + AROUND + 1)
    part = slice(first - token + AROUND, last - token + AROUND)
    one.attention[row, part, part] = pattern[first:last, first:last]
    one.attention[row, part, WIDTH] = pattern[first:last, 0]
