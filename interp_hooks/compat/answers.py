"""How highly a model ranks the answer that you have in mind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.modes import study
from interp_hooks.model.transformer import HookedTransformer


@study
def answer_ranks(
    prompt: str,
    answer: str | Sequence[str],
    model: HookedTransformer,
    prepend_space_to_answer: bool = True,
    print_details: bool = True,
    prepend_bos: bool | None = None,
    top_k: int = 10,
) -> list[tuple[str, int]]:
    """Print and return the rank of an answer after a prompt, as (token, rank) pairs; rank 0 is the likeliest token.

    Each token of an answer has a rank, given the tokens before it; of several answers only the first tokens are ranked.
    Prompt and answer are read together, so that the answer's tokens are those that can follow the prompt.
    `print_details` also prints logits, probabilities and the `top_k` likeliest tokens.

    Raises:
        BadInput: no answer, a negative `top_k`, or a model that is not causal.
        TokenError: an answer that does not begin with a token of its own after this prompt.
    """
    if model.cfg.attention_dir != "causal":
        raise BadInput("this model is not causal, so it does not predict what follows a prompt")
    if top_k < 0:
        raise BadInput(f"top_k must be at least 0, got {top_k}")
    answers = [answer] if isinstance(answer, str) else list(answer)
    if not answers:
        raise BadInput("expected at least one answer, got an empty list")
    if prepend_space_to_answer:
        answers = [one if one.startswith(" ") else f" {one}" for one in answers]
    ids = [torch.tensor(model.text.answer(prompt, one, prepend_bos), device=model.device) for one in answers]
    before = model.to_tokens(prompt, prepend_bos=prepend_bos)[0]
    wanted = ids[0] if len(ids) == 1 else torch.stack([one[0] for one in ids])
    read = torch.cat((before, wanted[:-1])) if len(ids) == 1 else before
    places = list(range(len(before) - 1, len(read)))  # one for each token of the only answer, or one for all answers
    logits = model(read[None], logits_pos=places)[0].expand(len(wanted), -1)
    own = logits.gather(1, wanted[:, None])
    pieces = [str(piece) for piece in model.to_str_tokens(wanted)]
    ranks = list(zip(pieces, (logits > own).sum(1).tolist(), strict=True))
    if print_details:
        print("Tokenized prompt:", model.to_str_tokens(before))
        print("Tokenized answers:" if len(ids) > 1 else "Tokenized answer:", *(model.to_str_tokens(one) for one in ids))
        for row, token in enumerate(wanted.tolist()):
            print(f"Answer token  rank {ranks[row][1]:<6} {_described(model, logits[row], token)}")
            if row == len(wanted) - 1 or len(ids) == 1:
                for place, likely in enumerate(logits[row].topk(min(top_k, logits.shape[1])).indices.tolist()):
                    print(f"Likeliest     rank {place:<6} {_described(model, logits[row], likely)}")
    print("Ranks of the answer tokens:", ranks)
    return ranks


test_prompt = answer_ranks  # as tutorials call it
vars(test_prompt)["__test__"] = False  # pytest would take a function of that name for a test


def _described(model: HookedTransformer, logits: Float[Tensor, " d_vocab"], token: int) -> str:
    (piece,) = model.to_str_tokens([token])
    return f"logit {logits[token].item():6.2f}  prob {logits.softmax(-1)[token].item():7.2%}  |{piece}|"
