"""Strings to tokens and back, and which tokens begin and fill a row.

The BOS policy, in one place: a row begins with exactly one BOS token if `prepend_bos` is on, and with none if it is
off, whatever the tokenizer would add by itself. Text that already begins with the BOS string does not get a second.
Encoders with a masked-LM head read what their tokenizer encloses a text in ("[CLS] ... [SEP]") instead of a BOS.
Rows of unequal length are filled with the padding token on `padding_side`; `encode` also gives the mask that tells
real tokens from padding, so that nobody has to guess it from token ids.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp_hooks.config import HookedTransformerConfig
from interp_hooks.errors import BadInput, NoTokenizer, TokenError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Token ids, and True where a token is real; `real` is None if no row is padded."""

    tokens: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"] | None


class TextInterface:
    """A tokenizer with a policy. Without a tokenizer every method that needs one says so."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        n_ctx: int,
        prepend_bos: bool = True,
        padding_side: PaddingSide = "right",
        encloses: bool = False,
    ) -> None:
        self._tokenizer, self.n_ctx, self.encloses = tokenizer, n_ctx, encloses
        self.padding_side = checked_side(padding_side)
        self.prepend_bos = prepend_bos and (encloses or tokenizer is None or tokenizer.bos_token_id is not None)

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
        truncate: bool = True,
    ) -> Encoded:
        """One row per string. `truncate` cuts rows to the model's context.

        Raises:
            NoTokenizer: the model has no tokenizer.
            TokenError: no strings, a string without tokens, or a BOS asked of a tokenizer that has none.
        """
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

    def _row(self, text: str, prepend_bos: bool | None) -> list[int]:
        if not isinstance(text, str):
            raise TokenError(f"expected a string or a list of strings, got an item of type {type(text).__name__}")
        begins = self.prepend_bos if prepend_bos is None else prepend_bos
        ids = list(self.tokenizer.encode(text, add_special_tokens=begins and self.encloses))
        bos = self.tokenizer.bos_token_id
        if begins and not self.encloses:
            if bos is None:
                raise TokenError("prepend_bos=True, but the tokenizer has no BOS token; pass prepend_bos=False")
            if not ids or ids[0] != bos:
                ids.insert(0, bos)
        if not ids:
            raise TokenError(f"the text {text!r} has no tokens; give some text, or prepend_bos=True")
        return ids

    def real_tokens(
        self, tokens: Int[Tensor, "batch pos"], padding_side: PaddingSide | None = None
    ) -> Bool[Tensor, "batch pos"] | None:
        """For left padding: True from the first token that is not padding on (the BOS counts as real).

        Right padding needs no mask in a causal model, so None.
        """
        side = checked_side(padding_side) if padding_side else self.padding_side
        if self._tokenizer is None or side == "right":
            return None
        is_pad = tokens == self.pad_id
        leading = is_pad.int().cumprod(dim=1).bool()
        if self.pad_id == self.tokenizer.bos_token_id and self.prepend_bos:
            leading = leading & leading.roll(-1, dims=1)  # the last of the run is the BOS
            leading[:, -1] = False
        return None if not leading.any() else ~leading

    def decode(self, tokens: Any) -> str | list[str]:
        """The text of one row of token ids, or a list of texts for [batch, pos]."""
        ids = _ids(tokens)
        if ids and isinstance(ids[0], list):
            return [str(self.decode(row)) for row in ids]
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of every token by itself, with the space it begins with.

        Some tokenizers drop a leading space at the start of a text, so each token is decoded after another copy of
        itself.
        """
        alone = [str(self.decode([id])) for id in tokens]
        twice = [str(self.decode([id, id])) for id in tokens]
        return [both[len(one) :] or one for one, both in zip(alone, twice, strict=True)]

    def single_id(self, text: str) -> int:
        """The id of a text that is exactly one token.

        Raises:
            TokenError: it is none or several; the message shows the pieces.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1:
            pieces = " + ".join(repr(piece) for piece in self.pieces(ids)) or "nothing"
            hint = "" if text.startswith(" ") else f" Inside a sentence words begin with a space: try {' ' + text!r}."
            raise TokenError(f"{text!r} is {len(ids)} tokens ({pieces}); expected exactly one.{hint}")
        return ids[0]


class TextMethods:
    """The methods of a model that turn text into tokens and back."""

    text: TextInterface
    cfg: HookedTransformerConfig

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where tokens go."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        return self.text._tokenizer

    def to_tokens(
        self,
        input: str | Sequence[str],
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Int[Tensor, "batch pos"]:
        """Token ids, a row per string, beginning with exactly one BOS if `prepend_bos` (default: the model's)."""
        tokens = self.text.encode(input, prepend_bos, padding_side, truncate).tokens
        return tokens.to(self.device) if move_to_device else tokens

    def to_string(self, tokens: Any) -> str | list[str]:
        """The text of token ids: a string for [pos], a list for [batch, pos]."""
        return self.text.decode(tokens)

    def to_str_tokens(self, input: Any, prepend_bos: bool | None = None) -> list[Any]:
        """The text of every token of a string or of ids [pos] or [1, pos]; for a list of strings, a list of those."""
        if isinstance(input, str):
            return self.text.pieces(self.text.encode(input, prepend_bos).tokens[0].tolist())
        if isinstance(input, list) and input and isinstance(input[0], str):
            return [self.to_str_tokens(one, prepend_bos) for one in input]
        ids = torch.as_tensor(input).squeeze(0)
        if ids.ndim > 1:
            raise BadInput(f"to_str_tokens takes one row of token ids, got shape {list(ids.shape)}")
        return self.text.pieces(ids.reshape(-1).tolist())

    def to_single_token(self, string: str) -> int:
        """The id of a string that is exactly one token.

        Raises:
            TokenError: it is several; the message shows which.
        """
        return self.text.single_id(string)

    def token_ids(self, tokens: Any) -> Int[Tensor, "*rest"]:
        """Answers as ids: an int, a one-token string, a list of either, or a tensor.

        Raises:
            TokenError: a string that is not one token.
            BadInput: an id outside the output vocabulary.
        """
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        elif isinstance(tokens, list | tuple):
            tokens = [self.to_single_token(token) if isinstance(token, str) else token for token in tokens]
        ids = torch.as_tensor(tokens, device=self.device, dtype=torch.long)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.cfg.d_vocab_out:
            raise BadInput(f"token ids must be 0..{self.cfg.d_vocab_out - 1}, got {ids.flatten().tolist()}")
        return ids


def checked_side(side: str) -> PaddingSide:
    if side == "left" or side == "right":
        return side
    raise BadInput(f"padding_side must be 'left' or 'right', got {side!r}")


def _ids(tokens: Any) -> list[Any]:
    """Token ids as (nested) lists of ints."""
    ids = tokens if isinstance(tokens, list | tuple) else torch.as_tensor(tokens).tolist()
    return [ids] if isinstance(ids, int) else list(ids)
