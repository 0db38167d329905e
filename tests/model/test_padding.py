"""Which tokens are real: one rule, which is asked wherever prompts come in.

Expected values are those of HuggingFace's model with an attention mask, or of each prompt alone, without padding.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.model.padding import PadToken, counted_back, find_padding

P, B = 0, 1  # the padding token, and a BOS where that is another one
BOTH = PadToken(id=P, bos=P, shared=True)
EOS = PadToken(id=P, bos=B, shared=True)
OWN = PadToken(id=P, bos=B, shared=False)
NONE = PadToken(id=P, bos=None, shared=True, declared=False)


def real(rows: list[list[int]], pad: PadToken, side: Any = "right", **said: Any) -> list[list[int]]:
    """The tokens that are found to be real, row by row."""
    tokens = torch.tensor(rows)
    mask = find_padding(tokens, pad, side, **said).real
    mask = torch.ones_like(tokens).bool() if mask is None else mask
    return [row[there].tolist() for row, there in zip(tokens, mask, strict=True)]


@pytest.mark.parametrize(
    ("rows", "pad", "said", "expected"),
    [
        ([[5, 6], [7, 8]], BOTH, {}, [[5, 6], [7, 8]]),
        # a token that only pads, whatever the tokenizer's side
        ([[P, P, 5], [6, 7, 8], [9, P, P]], OWN, {}, [[5], [6, 7, 8], [9]]),
        ([[P, B, 5], [B, 7, P]], OWN, dict(side="left"), [[B, 5], [B, 7]]),
        # BOS, EOS and padding in one, as GPT-2 has it
        ([[P, 5, 6], [P, 7, 8]], BOTH, dict(side="left"), [[P, 5, 6], [P, 7, 8]]),
        ([[P, P, P, 5], [P, 6, 7, 8]], BOTH, dict(side="left"), [[P, 5], [P, 6, 7, 8]]),
        ([[P, P, 5], [6, 7, 8]], BOTH, dict(side="left"), [[5], [6, 7, 8]]),
        ([[P, P, 5], [6, 7, 8]], BOTH, {}, [[5], [6, 7, 8]]),
        ([[P, P, 5]], BOTH, dict(side="left"), [[P, 5]]),
        ([[P, P, 5]], BOTH, dict(side="left", begins_by_default=False), [[5]]),
        ([[P, P, 5]], BOTH, dict(side="left", begins=False), [[5]]),
        ([[P, P, 5]], BOTH, dict(side="left", begins=True), [[P, 5]]),
        ([[P, 5, P, P], [P, 6, 7, 8]], BOTH, {}, [[P, 5], [P, 6, 7, 8]]),
        ([[5, P, P], [6, 7, 8]], BOTH, {}, [[5], [6, 7, 8]]),
        ([[P, P, P], [P, 7, 8]], BOTH, {}, [[P], [P, 7, 8]]),
        ([[P, P, P], [P, 7, 8]], BOTH, dict(side="left"), [[P], [P, 7, 8]]),
        ([[P], [P]], BOTH, {}, [[P], [P]]),
        ([[P], [P]], BOTH, dict(side="left"), [[P], [P]]),
        # a BOS in front of a single text is no padding of a model that pads on the right
        ([[P, 5, 6], [7, 8, 9]], BOTH, {}, [[P, 5, 6], [7, 8, 9]]),
        ([[P, P, 5], [6, 7, 8]], BOTH, dict(side="right", told_side=True), [[P, P, 5], [6, 7, 8]]),
        # documents one after the other
        ([[5, P, 6], [P, 7, 8]], BOTH, {}, [[5, P, 6], [P, 7, 8]]),
        ([[5, P], [7, 8]], BOTH, dict(side="left"), [[5, P], [7, 8]]),
        ([[5, P, P], [7, 8, 9]], BOTH, dict(side="left", told_side=True), [[5, P, P], [7, 8, 9]]),
        # padding with EOS beside another BOS
        ([[P, P, B, 5], [B, 6, 7, 8]], EOS, dict(side="left"), [[B, 5], [B, 6, 7, 8]]),
        ([[P, B, 5]], EOS, dict(side="left"), [[B, 5]]),
        ([[P, P, 5], [6, 7, 8]], EOS, dict(side="left"), [[5], [6, 7, 8]]),
        ([[B, 5, P, P], [B, 6, 7, 8]], EOS, {}, [[B, 5], [B, 6, 7, 8]]),
        # tokens that are read on
        ([[P, 5], [6, P]], BOTH, dict(begun=torch.tensor([True, True])), [[P, 5], [6, P]]),
        ([[P, 5], [6, 7]], OWN, dict(begun=torch.tensor([False, True])), [[5], [6, 7]]),
        ([[P, P], [6, P]], OWN, dict(begun=torch.tensor([True, True])), [[], [6]]),
    ],
    ids=str,
)
def test_what_ids_tell(rows: list[list[int]], pad: PadToken, said: dict[str, Any], expected: list[list[int]]) -> None:
    assert real(rows, pad, **said) == expected


@pytest.mark.parametrize(
    ("rows", "pad", "said", "why"),
    [
        ([[5, P, 6]], OWN, {}, "the padding token 0 stands between other tokens"),
        ([[P, 5]], OWN, dict(begun=torch.tensor([True])), "stands between other tokens"),
        ([[P, 5, 6], [P, 7, 8]], BOTH, dict(side="left", begins=False), "prepend_bos=False says"),
        ([[P, P, 6], [5, 7, 8]], BOTH, dict(side="left", begins=True), "prepend_bos=True says"),
        ([[P, P, P], [6, 7, 8]], BOTH, dict(side="left"), "row 0 is nothing but the padding token 0"),
        ([[P, P, 6], [5, P, 8]], BOTH, dict(side="left"), "stands between other tokens too"),
        ([[P, 6], [5, 8]], NONE, dict(side="left"), "the tokenizer has no padding token"),
        ([[6, P], [5, 8]], NONE, {}, "the tokenizer has no padding token"),
        ([[5, P]], BOTH, {}, "how many at the end of rows are padding"),
        ([[5, P, P]], EOS, {}, "how many at the end of rows are padding"),
        ([[5, P, P], [6, 7, 8]], BOTH, dict(side="left"), "how many at the end of rows are padding"),
        ([[5, 6, P], [6, P, 8]], BOTH, {}, "stands between other tokens too"),
    ],
    ids=str,
)
def test_what_ids_do_not_tell_is_refused(rows: list[list[int]], pad: PadToken, said: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why) as refused:
        real(rows, pad, **said)
    assert "pass attention_mask=" in str(refused.value)


def test_positions_from_the_end_are_counted_prompt_by_prompt() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]]).bool()
    assert counted_back(torch.tensor([[-1, -2, 0]]), mask).tolist() == [[2, 1, 0], [3, 2, 0]]
    assert counted_back(torch.tensor([[-2], [-4]]), mask).tolist() == [[1], [0]]
    for wanted in ([[-3]], [[4]]):
        with pytest.raises(BadInput, match="out of range for prompts of 4 tokens"):
            counted_back(torch.tensor(wanted), mask)
