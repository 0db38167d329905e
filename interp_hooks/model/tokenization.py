"""From strings to tokens and back: the tokenizer, the BOS at the beginning of a row, and padding.

BOS. A row begins with exactly one BOS token if `prepend_bos` is on, and with none if it is off, whatever the tokenizer
would add by itself. Text that already begins with the BOS string does not get a second one. Encoders with a masked-LM
head get what their tokenizer puts around a text ("[CLS] ... [SEP]") instead of a BOS.

Padding. Rows of unequal length are filled with the padding token on `padding_side`; `encode` also returns the mask of
real tokens, so that nobody has to guess it from token ids.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_hooks.errors import BadInput, NoTokenizer, TokenError
from interp_hooks.errors.arguments import is_integral, told
from interp_hooks.hooks.autograd import numbers, transformed
from interp_hooks.hooks.scopes import IN_FORCE, OPEN, Scope
from interp_hooks.model.padding import Padding, PaddingSide, PadToken, find_padding
from interp_hooks.model.token_text import begins_with, decoded, goes_on, id_of, read, text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MOST = 2**31 - 1  # of token ids, in whichever tokenizer


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Token ids, and a mask that is True for real tokens; `real` is None if no row is padded."""

    tokens: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"] | None


class TextInterface:
    """A tokenizer with a policy for BOS and padding; without a tokenizer, methods that need one raise NoTokenizer.

    Rows are padded on the tokenizer's own `padding_side`, also when that is changed later. Asking for another side sets
    it on a copy of the tokenizer, so that other users of the tokenizer are not affected.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        n_ctx: int,
        prepend_bos: bool = True,
        padding_side: PaddingSide | None = "right",
        encloses: bool = False,
    ) -> None:
        if tokenizer is not None:
            check_tokenizer(tokenizer)
        if tokenizer is not None and not has_vocabulary(tokenizer):
            raise TokenError("the tokenizer knows no word: it was made without the file of its vocabulary")
        self._tokenizer, self.n_ctx, self.encloses = tokenizer, n_ctx, encloses
        self._side_without_tokenizer: PaddingSide = "right"
        if padding_side is not None:
            self.padding_side = padding_side
        self._prepend_bos = prepend_bos and self._has_bos

    @property
    def tokenizer(self) -> Any:
        """The HuggingFace tokenizer.

        Raises:
            NoTokenizer: the model has none.
        """
        if self._tokenizer is None:
            raise NoTokenizer(
                "this model has no tokenizer, so it reads token tensors [batch, pos] but no text; "
                "pass tokenizer= when loading it to use strings"
            )
        return self._tokenizer

    @property
    def _has_bos(self) -> bool:
        return self.encloses or self._tokenizer is None or self._tokenizer.bos_token_id is not None

    @property
    def prepend_bos(self) -> bool:
        """Whether rows begin with a BOS unless a call says otherwise."""
        return self._prepend_bos

    @prepend_bos.setter
    def prepend_bos(self, prepend_bos: bool) -> None:
        if prepend_bos and not self._has_bos:
            raise TokenError("prepend_bos=True, but the tokenizer has no BOS token")
        self._prepend_bos = prepend_bos

    @property
    def padding_side(self) -> PaddingSide:
        """The side on which rows are padded unless a call says otherwise."""
        if self._tokenizer is None:
            return self._side_without_tokenizer
        return checked_side(self._tokenizer.padding_side)

    @padding_side.setter
    def padding_side(self, side: PaddingSide) -> None:
        self._side_without_tokenizer = checked_side(side)
        if self._tokenizer is not None and self._tokenizer.padding_side != side:
            self._tokenizer = copy.copy(self._tokenizer)
            self._tokenizer.padding_side = side

    @property
    def tokenizer_prepends_bos(self) -> bool:
        """Whether the tokenizer puts a BOS in front by itself, on which the rows made here do not depend."""
        bare, enclosed = (self.tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
        return enclosed != bare and enclosed[:1] == [self.tokenizer.bos_token_id]

    @property
    def pad_id(self) -> int:
        """The padding token: the tokenizer's own, else its EOS, else 0 (padding is masked, so the id is arbitrary)."""
        return next((id for id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id) if id is not None), 0)

    @property
    def eos_id(self) -> int | None:
        """The tokenizer's EOS token, or None if there is none."""
        return None if self._tokenizer is None else self.tokenizer.eos_token_id

    def encode(
        self,
        text: str | Sequence[str],
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        truncate: bool = False,
    ) -> Encoded:
        """The tokens of one string or several, a row each; `truncate` cuts rows to the model's context.

        Raises:
            NoTokenizer: the model has no tokenizer.
            TokenError: no strings, a string without tokens, or a BOS asked of a tokenizer that has none.
        """
        if not isinstance(text, str | Sequence):
            raise TokenError(f"expected a string or a list of strings, got {told(text)}")
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise TokenError("expected at least one string, got an empty list")
        rows = [self._row(one, prepend_bos)[: self.n_ctx if truncate else None] for one in texts]
        longest = max(map(len, rows))
        left = (checked_side(padding_side) if padding_side else self.padding_side) == "left"
        fill = [[self.pad_id] * (longest - len(row)) for row in rows] if min(map(len, rows)) < longest else None
        if fill is None:
            return Encoded(tokens=torch.tensor(rows), real=None)
        padded = [pad + row if left else row + pad for pad, row in zip(fill, rows, strict=True)]
        lengths = torch.tensor([len(row) for row in rows])[:, None]
        places = torch.arange(longest).flip(0) if left else torch.arange(longest)
        return Encoded(tokens=torch.tensor(padded), real=places < lengths)

    def fitted(
        self, text: str | Sequence[str], prepend_bos: bool | None = None, padding_side: PaddingSide | None = None
    ) -> Encoded:
        """The same, of text that the model can read at once.

        Raises:
            BadInput: it is longer than the model's context.
        """
        encoded = self.encode(text, prepend_bos, padding_side)
        if encoded.tokens.shape[1] > self.n_ctx:
            raise BadInput(
                f"the text has {encoded.tokens.shape[1]} tokens, but this model reads at most n_ctx={self.n_ctx}; "
                "model.to_tokens(text, truncate=True) cuts it"
            )
        return encoded

    def _row(self, text: str, prepend_bos: bool | None) -> list[int]:
        if not isinstance(text, str):
            raise TokenError(f"expected a string or a list of strings, got an item of type {told(text)}")
        begins = self.prepend_bos if prepend_bos is None else prepend_bos
        ids = read(self.tokenizer, text, special=begins and self.encloses)
        bos = self.tokenizer.bos_token_id
        if begins and not self.encloses:
            if bos is None:
                raise TokenError("prepend_bos=True, but the tokenizer has no BOS token; pass prepend_bos=False")
            if not ids or ids[0] != bos:
                ids.insert(0, bos)
        if not ids:
            raise TokenError(f"the text {text!r} has no tokens; give some text, or prepend_bos=True")
        return ids

    @property
    def pad(self) -> PadToken:
        """The padding token, and whether texts may hold it."""
        tokenizer = self.tokenizer  # whose attributes take long to read
        pad, bos, eos = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
        others = (getattr(tokenizer, f"{name}_token_id") for name in ("unk", "cls", "sep", "mask"))
        return PadToken(
            id=next((id for id in (pad, eos) if id is not None), 0),
            bos=bos,
            shared=pad in (None, bos, eos) or pad in others,
            declared=pad is not None or eos is not None,
        )

    def padding(
        self,
        tokens: Int[Tensor, "batch pos"],
        padding_side: PaddingSide | None = None,
        prepend_bos: bool | None = None,
        begun: Bool[Tensor, " batch"] | None = None,
    ) -> Padding:
        """The padding in token ids; `padding_side` and `prepend_bos` are what a call says of them (`find_padding`).

        Without a tokenizer, all tokens are real.

        Raises:
            BadInput: nobody can tell how a row begins.
        """
        side = checked_side(padding_side) if padding_side else self.padding_side
        if self._tokenizer is None:
            return Padding()
        hidden = transformed()  # a transform hides rows, so that masks could not be told apart
        padding = find_padding(
            numbers(tokens).flatten(0, -2) if hidden else tokens,
            self.pad,
            side,
            told_side=padding_side is not None,
            begins=prepend_bos,
            begins_by_default=self.prepend_bos,
            begun=None if hidden else begun,
        )
        if hidden and padding != Padding():
            raise BadInput("under a transform of torch.func padding is not looked for: pass attention_mask=")
        return padding

    def decode(self, tokens: Any) -> str | list[str]:
        """The text of one row of token ids, or a list of texts for several rows."""
        ids = listed_ids(tokens)
        if isinstance(ids, list) and any(isinstance(row, list) for row in ids):
            return [str(self.decode(one_row(row))) for row in ids]
        return decoded(self.tokenizer, one_row(ids))

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of every token, with its leading space; see `interp_hooks.model.token_text`."""
        return [text_of(self.tokenizer, id) for id in one_row(tokens)]

    def answer(self, prompt: str, answer: str, prepend_bos: bool | None = None) -> list[int]:
        """The tokens of an answer as they follow a prompt: both are read together.

        Raises:
            TokenError: the answer does not begin with a token of its own.
        """
        before, together = (self._row(text, prepend_bos) for text in (prompt, prompt + answer))
        return goes_on(self.tokenizer, before, together, answer)

    def single_id(self, text: str) -> int:
        """The id of a text that is exactly one token.

        Raises:
            TokenError: it is no token, several (which the message shows), or unknown.
        """
        if (known := id_of(self.tokenizer, text)) is not None:
            return known
        ids = read(self.tokenizer, text)
        if len(ids) != 1:
            pieces = " + ".join(repr(piece) for piece in self.pieces(ids)) or "nothing"
            hint = "" if text.startswith(" ") else f" Inside a sentence words begin with a space: try {' ' + text!r}."
            raise TokenError(f"{text!r} is {len(ids)} tokens ({pieces}); expected exactly one.{hint}")
        if ids[0] == self.tokenizer.unk_token_id and text.strip() != self.tokenizer.unk_token:
            raise TokenError(f"the tokenizer does not know {text!r}; it reads the unknown token {ids[0]} instead")
        if not begins_with(self.tokenizer, text, ids[0]):
            raise TokenError(f"{text!r} is no token: it is read as token {ids[0]}, which is {self.pieces(ids)[0]!r}")
        return ids[0]


def has_vocabulary(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has tokens beside those that were added to it, such as BOS and EOS."""
    return len(tokenizer) > len(tokenizer.added_tokens_decoder)


def is_tokenizer(tokenizer: Any) -> bool:
    """Whether it is a tokenizer of transformers."""
    from transformers import PreTrainedTokenizerBase

    return isinstance(tokenizer, PreTrainedTokenizerBase)


def check_tokenizer(tokenizer: Any) -> None:
    """Raises BadInput for what is no tokenizer of transformers."""
    if not is_tokenizer(tokenizer):
        raise BadInput(f"tokenizer must be a tokenizer of transformers (AutoTokenizer), got {told(tokenizer)}")


def checked_side(side: str) -> PaddingSide:
    """The side, if it is one."""
    if side == "left" or side == "right":
        return side
    raise BadInput(f"padding_side must be 'left' or 'right', got {side!r}")


def listed_ids(tokens: Any) -> Any:
    """Token ids as an int, a list of ints, or a list of such lists.

    Raises:
        BadInput: not token ids, a negative one, or one that no vocabulary has.
    """
    if isinstance(tokens, list | tuple):
        return [listed_ids(one) for one in tokens]
    if isinstance(tokens, Integral) and not isinstance(tokens, bool) and 0 <= int(tokens) <= MOST:
        return int(tokens)
    if (isinstance(tokens, np.ndarray) and tokens.dtype.kind in "iu") or isinstance(tokens, Tensor):
        ids = torch.as_tensor(tokens)
        if ids.ndim > 2 or not is_integral(ids) or ids.is_meta:
            raise BadInput(f"token ids are integers [pos] or [batch, pos], got {told(ids)}")
        if ids.numel() and int(ids.min()) < 0:
            raise BadInput(f"token ids are not negative, got {int(ids.min())}")
        if ids.numel() and int(ids.max()) > MOST:
            raise BadInput(f"token ids are at most {MOST}, got {int(ids.max())}")
        return ids.tolist()
    raise BadInput(f"expected token ids, got {told(tokens)}")


def one_row(tokens: Any) -> list[int]:
    """The ids of one row of tokens, given as [pos], as [1, pos], or as a single id.

    Raises:
        BadInput: not token ids, or several rows.
    """
    ids = listed_ids(tokens)
    row = [ids] if isinstance(ids, int) else ids[0] if len(ids) == 1 and isinstance(ids[0], list) else ids
    if any(isinstance(one, list) for one in row):
        raise BadInput(f"expected one row of token ids, got {len(row)} rows")
    return row


class Reading(Scope):
    """Another `TextInterface` that a model has, in the block and thread in which this is in force."""

    def __init__(self, model: object, text: TextInterface) -> None:
        super().__init__(None, ())
        self.model, self.text = model, text


def text_in_force(model: object) -> TextInterface | None:
    """What a model reads text with here, if it is not what it reads text with elsewhere."""
    scopes = IN_FORCE.get().scopes if OPEN else ()
    found = (one.text for one in reversed(scopes) if isinstance(one, Reading) and one.model is model and one.open)
    return next(found, None)
