"""BERT's second task: whether one sentence follows another (Devlin et al. 2018, arxiv.org/abs/1810.04805).

    stream at [CLS] --pooler: dense, tanh--> --head: dense--> two logits, "follows" and "does not"

Pooler and head are no parts of a model here, whose head is that of masked words: they are read from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_hooks.errors import BadInput
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.cache.activation_cache import ActivationCache

PREDICTIONS = ("The sentences are sequential", "The sentences are NOT sequential")


class BertPooler(nn.Module):
    """The dense layer and tanh that the stream at the first token passes."""

    def __init__(self, W: Float[Tensor, "d_model pooled"], b: Float[Tensor, " pooled"]) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(W), nn.Parameter(b)
        self.hook_pooler_out = HookPoint("batch d_model", d_model=len(b))

    def forward(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pooled"]:
        return self.hook_pooler_out(torch.tanh(resid[:, 0] @ self.W + self.b))


class BertNSPHead(nn.Module):
    """The linear map to the two logits."""

    def __init__(self, W: Float[Tensor, "pooled 2"], b: Float[Tensor, " 2"]) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(W), nn.Parameter(b)
        self.hook_nsp_out = HookPoint("batch answer", answer=2)

    def forward(self, pooled: Float[Tensor, "batch pooled"]) -> Float[Tensor, "batch 2"]:
        return self.hook_nsp_out(pooled @ self.W + self.b)


class BertNextSentencePrediction:
    """A `HookedEncoder` asked whether the second of two sentences follows the first.

    Raises:
        CheckpointError: (at the first call) the encoder's checkpoint has no such head.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def to_tokens(
        self, input: Sequence[str], move_to_device: bool = True, truncate: bool = True
    ) -> tuple[Int[Tensor, "1 pos"], Int[Tensor, "1 pos"], Int[Tensor, "1 pos"]]:
        """Token ids of two sentences in one row, which of the two each belongs to, and their attention mask.

        Raises:
            BadInput: not two sentences.
        """
        if len(input) != 2:
            raise BadInput(
                f"Next sentence prediction task requires exactly two sentences, as a list of two strings; got {input!r}"
            )
        longest = self.model.cfg.n_ctx if truncate else None
        how = dict(return_tensors="pt", padding=True, truncation=truncate, max_length=longest)
        found = self.model.tokenizer(*input, **how)
        rows = (found[name] for name in ("input_ids", "token_type_ids", "attention_mask"))
        tokens, kinds, mask = (row.to(self.model.cfg.device) if move_to_device else row for row in rows)
        return tokens, kinds, mask

    def forward(
        self,
        input: Sequence[str] | Int[Tensor, "batch pos"],
        return_type: Literal["logits", "predictions"] | None = "logits",
        token_type_ids: Int[Tensor, "batch pos"] | None = None,
        one_zero_attention_mask: Int[Tensor, "batch pos"] | None = None,
    ) -> Any:
        """The logits [batch, 2] of "follows" and "does not", the answer in words, or None.

        Raises:
            BadInput: not two sentences, or token ids without their types.
        """
        if isinstance(input, Tensor):
            if token_type_ids is None:
                raise BadInput(
                    "You are using the NSP task without specifying token_type_ids, so that all would be one sentence: "
                    "pass them, or two strings"
                )
            tokens = input
        else:
            tokens, kinds, mask = self.to_tokens(input)
            token_type_ids = kinds if token_type_ids is None else token_type_ids
            one_zero_attention_mask = mask if one_zero_attention_mask is None else one_zero_attention_mask
        stream = self.model.encoder_output(tokens, token_type_ids, one_zero_attention_mask)
        logits = self.model.nsp_head(self.model.pooler(stream))
        if return_type == "predictions":
            return PREDICTIONS[int(logits.argmax(-1))]
        return None if return_type is None else logits

    __call__ = forward

    def run_with_cache(self, *args: Any, return_cache_object: bool = True, **options: Any) -> tuple[Any, Any]:
        """What a call gives, and the activations of the encoder, the pooler and the head."""
        before = vars(self.model).get("forward")
        self.model.forward = self.forward
        try:
            output, activations = self.model.run_with_cache(*args, return_cache_object=False, **options)
        finally:
            if before is None:
                del self.model.forward
            else:
                self.model.forward = before
        return output, ActivationCache(activations, self) if return_cache_object else activations
