"""The methods of a model that turn text into tokens and back; the rules are those of `tokenization.py`.

model.to_tokens(["Hi", "Hello you"], padding_side="left")        [batch, pos]
model.to_str_tokens("Hello you")                                 ["<|endoftext|>", "Hello", " you"]
model.get_token_position(" you", "Hello you")                    2
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Int
from torch import Tensor

from interp_hooks.errors import BadInput, TokenError
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.scopes import Block
from interp_hooks.model.network import Network
from interp_hooks.model.tokenization import PaddingSide, Reading, check_tokenizer, one_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextMethods(Network):
    """The methods of a model about text. Without state of their own: the model holds `text`, a `TextInterface`."""

    @checked
    def set_tokenizer(
        self, tokenizer: PreTrainedTokenizerBase, default_padding_side: PaddingSide | None = None
    ) -> None:
        """Read text with this tokenizer from now on. Rows are padded on its own side unless another is given.

        Raises:
            BadInput: not a HuggingFace tokenizer; within `overridden_defaults`, at whose end it would be gone.
            TokenError: a tokenizer without vocabulary.
        """
        check_tokenizer(tokenizer)
        if self.text is not self._text:
            raise BadInput("within overridden_defaults text is read with a copy: set the tokenizer before the block")
        self._read_text_with(tokenizer, default_padding_side)

    @property
    def tokenizer_prepends_bos(self) -> bool:
        """Whether the tokenizer puts a BOS in front by itself; what `to_tokens` returns does not depend on it.

        Raises:
            NoTokenizer: the model has none.
        """
        return self.text.tokenizer_prepends_bos

    @property
    def default_prepend_bos(self) -> bool:
        """Whether text begins with a BOS unless a call says otherwise; False if the tokenizer has none."""
        return self.text.prepend_bos

    @default_prepend_bos.setter
    def default_prepend_bos(self, prepend_bos: bool) -> None:
        self.text.prepend_bos = prepend_bos
        if self.text is self._text:  # else it is so until the block ends
            self._reconfigure(default_prepend_bos=prepend_bos)

    @property
    def default_padding_side(self) -> PaddingSide:
        """The side on which rows are padded unless a call says otherwise: `tokenizer.padding_side`."""
        return self.text.padding_side

    @default_padding_side.setter
    def default_padding_side(self, padding_side: PaddingSide) -> None:
        self.text.padding_side = padding_side

    @checked
    def to_tokens(
        self,
        input: str | Sequence[str],
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        move_to_device: bool = True,
        truncate: bool | None = None,
    ) -> Int[Tensor, "batch pos"]:
        """Token ids, a row per string, beginning with exactly one BOS if `prepend_bos` (default: the model's).

        Rows of unequal length are padded on `padding_side`. Text that is longer than the model's context is refused;
        `truncate=True` cuts it, `truncate=False` keeps it as long as it is.

        Raises:
            NoTokenizer: the model has none.
            BadInput: text that is too long, unless `truncate` says what to do.
            TokenError: no strings, a string without tokens, or a BOS asked of a tokenizer that has none.
        """
        if truncate is None:
            tokens = self.text.fitted(input, prepend_bos, padding_side).tokens
        else:
            tokens = self.text.encode(input, prepend_bos, padding_side, truncate).tokens
        return tokens.to(self.device) if move_to_device else tokens

    def to_string(self, tokens: Any) -> str | list[str]:
        """The text of token ids: a string for one id or one row [pos], a list of strings for several rows.

        Raises:
            BadInput: not token ids, or a tensor with more axes than [batch, pos].
        """
        return self.text.decode(tokens)

    @checked
    def to_str_tokens(
        self, input: Any, prepend_bos: bool | None = None, padding_side: PaddingSide | None = None
    ) -> list[Any]:
        """The text of every token of a string or of ids [pos] or [1, pos]; for a list of these, a list of lists.

        `prepend_bos` is about strings, which are read one by one, so that nothing is padded.

        Raises:
            BadInput: not token ids, or several rows in one tensor.
        """
        if isinstance(input, str):
            return self.text.pieces(self.text.encode(input, prepend_bos, padding_side).tokens[0].tolist())
        if isinstance(input, list | tuple) and any(not isinstance(one, Integral) for one in input):
            return [self.to_str_tokens(one, prepend_bos, padding_side) for one in input]
        return self.text.pieces(one_row(input))

    @checked
    def to_single_token(self, string: str) -> int:
        """The id of a string that is exactly one token.

        Raises:
            TokenError: it is several tokens, which the message shows, or unknown.
        """
        return self.text.single_id(string)

    def to_single_str_token(self, int_token: int) -> str:
        """The text of one token id.

        Raises:
            BadInput: an id outside the vocabulary.
        """
        ids = one_row(int_token)
        if len(ids) != 1:
            raise BadInput(f"expected a single token id, got {len(ids)}: {ids}")
        (id,) = ids
        if not 0 <= id < self.cfg.d_vocab:
            raise BadInput(f"token ids must be 0..{self.cfg.d_vocab - 1}, got {id}")
        return self.text.pieces([id])[0]

    @checked
    def get_token_position(
        self,
        single_token: str | int | Int[Tensor, ""],
        input: str | Int[Tensor, "*one pos"] | Int[np.ndarray, "*one pos"] | Sequence[Any],
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
    ) -> int:
        """The position at which a token occurs first, or last, in a prompt.

        Raises:
            TokenError: it does not occur, or is a string of several tokens.
            BadInput: several prompts.
        """
        if mode not in ("first", "last"):
            raise BadInput(f"mode must be 'first' or 'last', got {mode!r}")
        wanted = self.to_single_token(single_token) if isinstance(single_token, str) else int(single_token)
        text = isinstance(input, str)
        row = one_row(self.text.encode(input, prepend_bos, padding_side).tokens if text else input)
        if wanted not in row:
            raise TokenError(f"{single_token!r} (token {wanted}) does not occur in the prompt, whose tokens are {row}")
        return row.index(wanted) if mode == "first" else len(row) - 1 - row[::-1].index(wanted)


def overridden_defaults(
    model: TextMethods, prepend_bos: bool | None = None, padding_side: PaddingSide | None = None
) -> AbstractContextManager[None]:
    """Give a model another `default_prepend_bos` or `default_padding_side` in a `with` block, for its thread.

    Raises:
        TokenError: (as the block begins) a BOS asked of a tokenizer that has none.
    """

    def other() -> Reading:
        text = copy.copy(model.text)
        if prepend_bos is not None:
            text.prepend_bos = prepend_bos
        if padding_side is not None:
            text.padding_side = padding_side
        return Reading(model, text)

    return Block(None, other, lambda scope, raised: None)
