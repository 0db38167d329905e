"""Greedy decoding: the most likely next token, again and again.

With a key/value cache the prompt is read once and every step reads one token; only the last position is unembedded.
Rows of a batch are padded on the left, so that all of them go on at the right end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.components.kv_cache import KeyValueCache
from interp_hooks.components.positions import RotaryPositions
from interp_hooks.config import HookedTransformerConfig
from interp_hooks.errors import BadInput

if TYPE_CHECKING:
    from interp_hooks.tokens import TextInterface

GenerationReturn = Literal["input", "str", "tokens"]


class Generation:
    """The decoding methods of a model."""

    cfg: HookedTransformerConfig
    text: TextInterface
    rotary: RotaryPositions | None
    __call__: Callable[..., Any]

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where tokens go."""

    @torch.no_grad()
    def generate(
        self,
        input: str | Sequence[str] | Int[Tensor, "*batch pos"],
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | Sequence[int] | None = None,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        attention_mask: Tensor | None = None,
        return_type: GenerationReturn = "input",
    ) -> Any:
        """The prompts and up to `max_new_tokens` more tokens, each the most likely one.

        `eos_token_id` (default: the tokenizer's, if there is one) ends a row, which is then filled with its first id;
        decoding stops when all rows have ended. `return_type`: "str", "tokens" [batch, pos], or "input", the kind that
        was given. `attention_mask` [batch, pos] marks the real tokens of a batch that is padded on the left. Hooks fire
        at every step: on the whole prompt, then on one token (or on all again without `use_past_kv_cache`).

        Raises:
            BadInput: a model that is not causal, no room left in `n_ctx`, or a padded right end.
            NoTokenizer: text, but no tokenizer.
        """
        if return_type not in ("input", "str", "tokens"):
            raise BadInput(f"return_type must be 'input', 'str' or 'tokens', got {return_type!r}")
        tokens, real = self._prompt(input, prepend_bos, attention_mask)
        self._check_room(tokens.shape[1], max_new_tokens)
        ends = torch.tensor(self._eos_ids(stop_at_eos, eos_token_id), dtype=torch.long, device=tokens.device)
        finished = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        cache = KeyValueCache() if use_past_kv_cache else None
        read = tokens
        for _ in range(max_new_tokens):
            if cache is not None and self._must_read_again(tokens, real):
                cache, read = KeyValueCache(), tokens
            mask = real if cache is None or not cache.length else None
            logits = self(read, attention_mask=mask, logits_pos=-1, past_kv_cache=cache)
            chosen = logits[:, -1].argmax(-1).to(tokens.device)
            if len(ends):
                chosen = chosen.where(~finished, ends[0])
                finished |= torch.isin(chosen, ends)
            tokens = torch.cat((tokens, chosen[:, None]), dim=1)
            real = None if real is None else torch.cat((real, torch.ones_like(real[:, :1])), dim=1)
            read = tokens if cache is None else chosen[:, None]
            if bool(finished.all()):
                break
        return self._returned(input, tokens, real, return_type)

    def _must_read_again(self, tokens: Tensor, real: Tensor | None) -> bool:
        """Whether the newest token changes the rotary frequencies of all."""
        if self.rotary is None:
            return False
        total = torch.full((1,), tokens.shape[1]) if real is None else real.sum(1)
        return self.rotary.turns_anew(total - 1, total)

    def _prompt(self, input: Any, prepend_bos: bool | None, attention_mask: Tensor | None) -> tuple[Tensor, Any]:
        if isinstance(input, Tensor):
            tokens = input[None] if input.ndim == 1 else input
            tokens = tokens.to(self.device)
            real = self.text.real_tokens(tokens, "left") if attention_mask is None else attention_mask.bool()
        else:
            encoded = self.text.encode(input, prepend_bos, "left")
            tokens, real = encoded.tokens.to(self.device), encoded.real
        real = None if real is None else real.to(self.device)
        if real is not None and real.shape != tokens.shape:
            raise BadInput(f"attention_mask must be [batch, pos] = {list(tokens.shape)}, got {list(real.shape)}")
        if real is not None and not bool(real[:, -1].all()):
            raise BadInput("generate continues every row at its right end: pad on the left")
        return tokens, real

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
            eos_token_id = self.text.eos_id
        if eos_token_id is None:
            return []
        return [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)

    def _returned(self, input: Any, tokens: Tensor, real: Tensor | None, return_type: GenerationReturn) -> Any:
        if return_type == "tokens" or (return_type == "input" and isinstance(input, Tensor)):
            return tokens
        kept = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
        texts = [self.text.decode(row[real_there]) for row, real_there in zip(tokens, kept, strict=True)]
        return texts[0] if isinstance(input, str) else texts
