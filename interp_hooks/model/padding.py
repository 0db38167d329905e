"""Which tokens of a batch are real, and which only fill rows up: the one rule that every door of the package asks.

An attention mask says it, and text is masked as it is padded. Of bare token ids it is found where they leave no doubt:

    a token that does nothing but pad    padding at either end of a row; between other tokens it is refused
    one that is also BOS or EOS          rows are padded to the longest, so some row has no padding. At the beginning
                                         it pads where the shortest run says so, and a text may begin with one of them
                                         ([P P BOS a] beside [BOS b c d]); at the end it pads if some row ends
                                         otherwise ([a P P] beside [a b c]). Which end is padded is what `padding_side`
                                         says; that of the tokenizer is only where nothing is said, and does not hide a
                                         run of several at the other end

What stays in doubt raises BadInput, which says what to pass; at the end of a row it does so only where somebody counts
tokens, for in a causal model no real token sees what stands behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.slices import Slice

PaddingSide = Literal["left", "right"]
TOLD = "pass attention_mask= (1 for real tokens; torch.ones_like(tokens) if all of them are text)"


@dataclass(frozen=True, kw_only=True)
class PadToken:
    """The token that fills rows up: its id, the id of BOS, and whether texts may hold it (`shared`), as BOS or EOS.

    It is not `declared` where the tokenizer has neither a padding nor an EOS token.
    """

    id: int
    bos: int | None
    shared: bool
    declared: bool = True


@dataclass(frozen=True, kw_only=True)
class Padding:
    """What was found in a batch: the masks without padding on the left, and without any; None where nothing is padded.

    `doubt` says why nobody can tell whether the ends of rows are padding.
    """

    after_left: Bool[Tensor, "batch pos"] | None = None
    neither: Bool[Tensor, "batch pos"] | None = None
    doubt: str | None = None

    @property
    def real(self) -> Bool[Tensor, "batch pos"] | None:
        """The mask of real tokens; None if all are.

        Raises:
            BadInput: it is in doubt.
        """
        if self.doubt is not None:
            raise BadInput(self.doubt)
        return self.neither

    def at(self, rows: Slice) -> Padding:
        """Of some of the rows."""
        return self if self.neither is None else replace(self, neither=Slice.unwrap(rows).apply(self.neither, 0))

    def at_positions(self, pos: Slice) -> Padding:
        """Of some positions."""
        if self.neither is None:
            return self
        real = Slice.unwrap(pos).apply(self.neither, 1)
        return replace(self, neither=None if bool(real.all()) else real)


def find_padding(
    tokens: Int[Tensor, "batch pos"],
    pad: PadToken,
    side: PaddingSide,
    *,
    told_side: bool = False,
    begins: bool | None = None,
    begins_by_default: bool = True,
    begun: Bool[Tensor, " batch"] | None = None,
) -> Padding:
    """The padding in token ids, by the rule above.

    `side` is where rows are padded; with `told_side` it was said of these very ids, whose other end is then text (of a
    padding token that texts may hold). `begins` says that rows begin with a BOS, or that they don't; where that stays
    open, `begins_by_default` does. Rows that have `begun` go on after tokens that were read before.

    Raises:
        BadInput: nobody can tell how a row begins; a row of padding alone, or padding between other tokens.
    """
    is_pad = tokens == pad.id
    if not bool(is_pad.any()) or (pad.shared and _only_begins(is_pad, pad, side, begins)):
        return Padding()
    length = tokens.shape[1]
    leading, trailing = is_pad.int().cumprod(1).sum(1), is_pad.flip(1).int().cumprod(1).sum(1)
    begun = torch.zeros_like(leading, dtype=torch.bool) if begun is None else begun.to(tokens.device)
    places = torch.arange(length, device=tokens.device)
    within = is_pad & (places >= leading[:, None]) & (places < length - trailing[:, None])
    runs = _Runs(pad, leading, trailing, length, bool(within.any()))
    if not pad.shared:
        left, right, doubt = runs.of_own(begun)
    elif bool(begun.any()):  # what is read on is what somebody chose, not what fills a row
        return Padding()
    else:
        following = tokens.gather(1, leading.clamp(max=length - 1)[:, None])[:, 0]
        before_bos = following == (-1 if pad.bos is None else pad.bos)
        left = runs.left(side, told_side, begins, begins_by_default, before_bos)
        right, doubt = runs.right(side, told_side)
    return Padding(after_left=_mask(places >= left[:, None]), neither=_mask(_between(places, left, right)), doubt=doubt)


def _only_begins(is_pad: Bool[Tensor, "batch pos"], pad: PadToken, side: PaddingSide, begins: bool | None) -> bool:
    """Whether these are BOS tokens in front of rows and nothing else, which is soon seen."""
    if bool(is_pad[:, 1:].any()):
        return False
    return side == "right" or (pad.id == pad.bos and begins is not False and bool(is_pad[:, 0].all()))


@dataclass(frozen=True)
class _Runs:
    """How many padding tokens each row begins and ends with, and whether there are some `within` rows."""

    pad: PadToken
    leading: Int[Tensor, " batch"]
    trailing: Int[Tensor, " batch"]
    length: int
    within: bool

    def of_own(self, begun: Bool[Tensor, " batch"]) -> tuple[Tensor, Tensor, str | None]:
        """How much padding rows begin and end with, of a token that is nothing else."""
        whole = self.leading == self.length
        if self.within or bool((begun & (self.leading > 0) & ~whole).any()):
            raise BadInput(f"{self._doubt}the padding token {self.pad.id} stands between other tokens; {TOLD}")
        return self.leading, self.trailing.masked_fill(whole, 0), None

    def left(
        self, side: PaddingSide, told: bool, begins: bool | None, by_default: bool, before_bos: Bool[Tensor, " batch"]
    ) -> Int[Tensor, " batch"]:
        """How much padding rows begin with, of a token that texts may begin with."""
        leading = self.leading if side == "left" else self.leading.where(self.leading < self.length, 1)
        most, least = int(leading.max()), int(leading.min())
        none = torch.zeros_like(leading)
        if most == 0 or (side == "right" and (told or most == 1)):
            return none
        if self.pad.id != self.pad.bos:
            of_text = 0 if bool(before_bos[leading > 0].all()) else least
        elif begins is None:
            of_text = least
        else:
            of_text = int(begins)
            if least == 1 - of_text:
                said = f"prepend_bos={begins} says that rows {'' if begins else 'do not '}begin with one"
                raise BadInput(f"{self._doubt}{self.pad.id} pads and is the BOS, and {said}, but not so these; {TOLD}")
        if of_text > 1:  # no row is without padding
            of_text = int(by_default and self.pad.id == self.pad.bos)
        padding = (leading - of_text).clamp(min=0)
        if bool((padding == self.length).any()):
            raise BadInput(
                f"{self._doubt}row {int(padding.argmax())} is nothing but the padding token {self.pad.id}; {TOLD}"
            )
        if bool(padding.any()) and (self.within or not self.pad.declared):
            raise BadInput(
                f"{self._doubt}{self._may_be_text}, so nobody can tell whether rows begin with padding; {TOLD}"
            )
        return padding

    def right(self, side: PaddingSide, told: bool) -> tuple[Int[Tensor, " batch"], str | None]:
        """How much padding rows end with, of a token that texts may end with, and what is in doubt."""
        whole = self.trailing == self.length
        trailing = self.trailing.where(~whole, self.length - 1 if side == "right" else 0)
        most, least = int(trailing.max()), int(trailing.min())
        none = torch.zeros_like(trailing)
        if most == 0 or (side == "left" and (told or most == 1)):
            return none, None
        doubt = f"{self._doubt}{self._may_be_text}, so nobody can tell how many at the end of rows are padding; {TOLD}"
        if least or self.within or side == "left" or not self.pad.declared:
            return none, doubt
        return trailing, None

    @property
    def _doubt(self) -> str:
        return f"token ids are ambiguous, got {[len(self.leading), self.length]}: "

    @property
    def _may_be_text(self) -> str:
        if not self.pad.declared:
            return f"the tokenizer has no padding token, and {self.pad.id}, which serves as one, may be text"
        where = " and stands between other tokens too" if self.within else ""
        return f"the token {self.pad.id} pads, but is also one that texts begin or end with{where}"


def _between(places: Tensor, left: Tensor, right: Tensor) -> Bool[Tensor, "batch pos"]:
    return (places >= left[:, None]) & (places < len(places) - right[:, None])


def _mask(real: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
    return None if bool(real.all()) else real


def ends_of(real: Bool[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    """The position after the last real token of each row."""
    return (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)


def counted_back(
    wanted: Int[Tensor, "#batch n"], real: Bool[Tensor, "batch pos"], what: str = "position"
) -> Int[Tensor, "batch n"]:
    """Positions in each row from its first column: -1 is its last real token, -2 the one before it.

    `what` is what errors call a position.

    Raises:
        BadInput: a position outside the rows, or one that counts back beyond a row's first real token.
    """
    length = real.shape[1]
    wanted = wanted.expand(len(real), -1)
    places = torch.where(wanted < 0, wanted + ends_of(real)[:, None], wanted)
    inside = (places >= 0) & (places < length)
    inside &= (wanted >= 0) | real.gather(1, places.clamp(0, length - 1))
    if not bool(inside.all()):
        few = "" if bool(real.all()) else f", of which {real.sum(1).tolist()} are real"
        raise BadInput(f"{what} {int(wanted[~inside][0])} is out of range for prompts of {length} tokens{few}")
    return places
