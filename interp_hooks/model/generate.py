"""Generation: draw the next token, write it at the right end, and repeat.

    prompts [batch, pos] --pass--> logits of the last position --Sampling--> one token per row --+
       ^------------------------------ written at the right end <--------------------------------+

With a key/value cache the prompt is read once and every step reads one token; only the last position is unembedded.
Rows of a batch are padded on the left, so that all of them go on at the right end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.model.components.kv_cache import KeyValueCache
from interp_hooks.model.inputs import checked_mask
from interp_hooks.model.network import Network
from interp_hooks.model.progress import tqdm
from interp_hooks.model.sampling import Sampling, token_counts
from interp_hooks.model.tokenization import PaddingSide

GenerationReturn = Literal["input", "str", "tokens"]
Prompts = str | Sequence[str] | Int[Tensor, "*batch pos"]

PAD_ON_THE_LEFT = "generate continues every row at its right end, where some have padding: pad on the left"
PROMPT: ContextVar[Bool[Tensor, "batch pos"] | None] = ContextVar("PROMPT", default=None)
"""While `generate` reads: which tokens of the prompts, which are longer by now, are real."""


class Generated(NamedTuple):
    """What `generate(..., output_logits=True)` returns; `logits` are those that the model gave at each step."""

    sequences: Int[Tensor, "batch pos"]
    logits: tuple[Float[Tensor, "batch d_vocab"], ...] | None


class Rows:
    """Prompts and the tokens written after them, with room for `new` of those.

    `real` is False for padding. A row ends with the first written token that is one of `ends`; tokens after it only
    fill the batch.
    """

    def __init__(
        self, prompts: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"], new: int, ends: Sequence[int]
    ) -> None:
        batch, self.prompt = prompts.shape
        self.length, self.new, self.room = self.prompt, new, self.prompt + new
        self.ends = torch.tensor(ends, dtype=torch.long, device=prompts.device)
        self.ended = torch.zeros(batch, dtype=torch.bool, device=prompts.device)
        self._tokens = torch.cat((prompts, prompts.new_zeros(batch, new)), dim=1)
        self._real = torch.cat((real, real.new_ones(batch, new)), dim=1)

    @property
    def tokens(self) -> Int[Tensor, "batch pos"]:
        """Prompts and what is written so far."""
        return self._tokens[:, : self.length]

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """True for each token so far that is no padding."""
        return self._real[:, : self.length]

    @property
    def complete(self) -> bool:
        """Whether there is no room left, or all rows have ended."""
        return self.length == self.room or (len(self.ends) > 0 and bool(self.ended.all()))

    def write(self, chosen: Int[Tensor, " batch"]) -> None:
        """Write a token at the right end of every row; rows that have ended get the first of `ends`."""
        chosen = chosen.to(self._tokens.device)
        if len(self.ends):
            chosen = chosen.where(~self.ended, self.ends[0])
            self.ended |= torch.isin(chosen, self.ends)
        self._tokens[:, self.length] = chosen
        self.length += 1

    def texts(self, tokenizer: Any) -> list[str]:
        """The text of every row up to its end, without padding and special tokens."""
        told = self.real.clone()
        if len(self.ends):
            ends = torch.isin(self.tokens[:, self.prompt :], self.ends).int()
            told[:, self.prompt :] = ends.cumsum(1) - ends == 0
        return [
            tokenizer.decode(row[there].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for row, there in zip(self.tokens, told, strict=True)
        ]


class Generation(Network):
    """The methods of a model that decode. Without state: what is written so far is in `Rows`."""

    @checked
    def generate(
        self,
        input: Prompts = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | Sequence[int] | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        return_type: GenerationReturn = "input",
        verbose: bool = True,
        *,
        attention_mask: Tensor | None = None,
        output_logits: bool = False,
        return_dict_in_generate: bool = False,
        generator: torch.Generator | None = None,
    ) -> Any:
        """The prompts and up to `max_new_tokens` more tokens, drawn by the rule of `Sampling` (padding is not counted).

        Without `do_sample`, or at temperature 0, each token is the most likely one. `eos_token_id` (default: those of
        the checkpoint's generation config, else the tokenizer's) ends a row, which is then filled with the first of
        these ids; generation stops when all rows have ended. `return_type`: "tokens" [batch, pos]; "str", the text up
        to the end without special tokens, as a list if the input is one or has several rows; "input", the kind that was
        given. `output_logits` or `return_dict_in_generate` return a `Generated` instead. `attention_mask` [batch, pos]
        marks the real tokens of a batch that is padded on the left. Without it, padding of token ids is found as in a
        plain pass, of which `prepend_bos` and `padding_side` may tell more ("right": what they begin with is text;
        "left": what they end with is). `verbose` shows a progress bar. Hooks fire at every step: on the whole prompt,
        then on one token
        (without `use_past_kv_cache`: on all tokens again).

        Raises:
            BadInput: a model that is not causal, no room left in `n_ctx`, a padded right end, or a bad sampling rule.
            NoTokenizer: text, but no tokenizer.
        """
        if return_type not in get_args(GenerationReturn):
            raise BadInput(f"return_type must be 'input', 'str' or 'tokens', got {return_type!r}")
        as_text = return_type == "str" or (return_type == "input" and not isinstance(input, Tensor))
        rule = _rule(do_sample, top_k, top_p, temperature, freq_penalty)
        ends = self._eos_ids(stop_at_eos, eos_token_id)
        rows = self._rows(input, max_new_tokens, ends, prepend_bos, padding_side, attention_mask)
        as_object = output_logits or return_dict_in_generate
        tokenizer = self.text.tokenizer if as_text and not as_object else None  # missing: told before anything is read
        kept: list[Tensor] = []
        for logits in self._steps(rows, rule, use_past_kv_cache, generator, verbose):
            if output_logits:
                kept.append(logits)
        if as_object:
            return Generated(rows.tokens.contiguous(), tuple(kept) if output_logits else None)
        return rows.tokens.contiguous() if tokenizer is None else _as_given(input, rows.texts(tokenizer))

    @checked
    def generate_stream(
        self,
        input: Prompts = "",
        max_new_tokens: int = 10,
        max_tokens_per_yield: int = 25,
        stop_at_eos: bool = True,
        eos_token_id: int | Sequence[int] | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        return_type: GenerationReturn = "input",
        verbose: bool = True,
        *,
        attention_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Any]:
        """What `generate` returns, in pieces of at least `max_tokens_per_yield` tokens as they are written.

        The first piece begins with the prompt, whose tokens count. With `return_type="str"` a piece is text, and an
        incomplete character at its end waits for the next piece; otherwise it is token ids [batch, n]. Mistakes raise
        when this is called, before the first piece.

        Raises:
            BadInput: as `generate`.
            NoTokenizer: text, but no tokenizer.
        """
        if return_type not in get_args(GenerationReturn):
            raise BadInput(f"return_type must be 'input', 'str' or 'tokens', got {return_type!r}")
        if max_tokens_per_yield < 1:
            raise BadInput(f"max_tokens_per_yield must be at least 1, got {max_tokens_per_yield}")
        rule = _rule(do_sample, top_k, top_p, temperature, freq_penalty)
        ends = self._eos_ids(stop_at_eos, eos_token_id)
        rows = self._rows(input, max_new_tokens, ends, prepend_bos, padding_side, attention_mask)
        steps = self._steps(rows, rule, use_past_kv_cache, generator, verbose)
        ready = _whenever(max_tokens_per_yield, rows, steps)
        if return_type != "str":
            return (rows.tokens[:, first:].clone() for first in ready)
        return (_as_given(input, pieces) for pieces in _text_pieces(rows, ready, self.text.tokenizer))

    def _steps(
        self, rows: Rows, rule: Sampling, use_cache: bool, generator: torch.Generator | None, verbose: bool
    ) -> Iterator[Float[Tensor, "batch d_vocab"]]:
        """Write token after token, and yield the logits that each was drawn from."""
        cache = KeyValueCache(rows.room) if use_cache else None
        with tqdm(total=rows.new, disable=not verbose) as bar:
            while not rows.complete:
                if cache is not None and self._must_read_again(rows.real):
                    cache = KeyValueCache(rows.room)
                logits = self._step(rows, cache)
                counts = token_counts(rows.tokens, logits.shape[-1], rows.real) if rule.counts_tokens else None
                drawn = rule.draw(logits, None if counts is None else counts.to(logits.device), generator)
                rows.write(drawn if self.ranks is None else self.ranks.agreed(drawn))
                bar.update()
                yield logits

    @no_gradients
    def _step(self, rows: Rows, cache: KeyValueCache | None) -> Float[Tensor, "batch d_vocab"]:
        """The logits of the next token, after reading what is not in the cache."""
        read = 0 if cache is None else cache.length
        last = None if rows.length - read == 1 else -1
        mask = None if read else rows.real
        before = PROMPT.set(rows.real[:, : rows.prompt])
        try:
            return self(rows.tokens[:, read:], attention_mask=mask, logits_pos=last, past_kv_cache=cache)[:, -1]
        finally:
            PROMPT.reset(before)

    def _must_read_again(self, real: Bool[Tensor, "batch pos"]) -> bool:
        """Whether the newest token changes the rotary frequencies of all."""
        if self.rotary is None:
            return False
        total = real.sum(1)
        return self.rotary.turns_anew(total - 1, total)

    def _rows(
        self,
        input: Any,
        max_new_tokens: int,
        ends: Sequence[int],
        prepend_bos: bool | None,
        padding_side: PaddingSide | None,
        attention_mask: Tensor | None,
    ) -> Rows:
        """The prompts, checked, with room for the tokens to write."""
        if isinstance(input, Tensor):
            tokens = self.checked_tokens(input)
            real = None if attention_mask is not None else self._real(tokens, prepend_bos, padding_side)
        else:
            encoded = self.text.encode(input, prepend_bos, padding_side or "left")
            tokens, real = self.checked_tokens(encoded.tokens), encoded.real
        if attention_mask is not None:
            real = checked_mask(attention_mask).bool()
        real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real.to(tokens.device)
        if real.shape != tokens.shape:
            raise BadInput(f"attention_mask must be [batch, pos] = {list(tokens.shape)}, got {list(real.shape)}")
        if not bool(real[:, -1].all()):
            raise BadInput(PAD_ON_THE_LEFT)
        self._check_room(tokens.shape[1], max_new_tokens)
        return Rows(tokens, real, max_new_tokens, ends)

    def _real(
        self, tokens: Int[Tensor, "batch pos"], prepend_bos: bool | None, side: PaddingSide | None
    ) -> Bool[Tensor, "batch pos"] | None:
        """Which token ids are real, where rows have to be padded on the left.

        Raises:
            BadInput: rows end with what may be padding, unless `side` says that it is not.
        """
        if side is None:
            ends = self.text.padding(tokens, "right", prepend_bos).real
            if ends is not None and not bool(ends[:, -1].all()):
                raise BadInput(f"{PAD_ON_THE_LEFT}; if these are text, say so by padding_side='left'")
        return self.text.padding(tokens, side or "left", prepend_bos).real

    def _check_room(self, length: int, max_new_tokens: int) -> None:
        if self.cfg.attention_dir != "causal":
            raise BadInput("generate needs a causal model; this one reads in both directions")
        if max_new_tokens < 1:
            raise BadInput(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if length + max_new_tokens > self.cfg.n_ctx:
            raise BadInput(
                f"{length} tokens and {max_new_tokens} new ones do not fit into this model's n_ctx={self.cfg.n_ctx}"
            )

    def _eos_ids(self, stop_at_eos: bool, eos_token_id: int | Sequence[int] | None) -> list[int]:
        if not stop_at_eos:
            return []
        if eos_token_id is None:
            eos_token_id = self.cfg.eos_token_ids or self.text.eos_id
        if eos_token_id is None:
            return []
        return [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)


def _rule(do_sample: bool, top_k: int | None, top_p: float | None, temperature: float, freq_penalty: float) -> Sampling:
    rule = Sampling(top_k=top_k, top_p=top_p, temperature=temperature, freq_penalty=freq_penalty)
    return rule if do_sample else replace(rule, temperature=0.0)


def _as_given(input: Any, texts: list[str]) -> str | list[str]:
    """One text by itself, unless a list was given."""
    return texts[0] if len(texts) == 1 and isinstance(input, str | Tensor) else texts


def _whenever(tokens: int, rows: Rows, steps: Iterator[Any]) -> Iterator[int]:
    """Take steps, and yield the first new position whenever there are that many new tokens, and at the end."""
    told = 0
    for _ in steps:
        if rows.length - told >= tokens:
            yield told
            told = rows.length
    if told < rows.length:
        yield told


def _text_pieces(rows: Rows, ready: Iterator[int], tokenizer: Any) -> Iterator[list[str]]:
    """The new text of every row; an incomplete character, which decodes to U+FFFD, waits for its rest."""
    told = [""] * len(rows.tokens)
    for _ in ready:
        texts = rows.texts(tokenizer)
        certain = texts if rows.complete else [text.rstrip("\ufffd") for text in texts]
        yield [text[len(before) :] for text, before in zip(certain, told, strict=True)]
        told = certain
