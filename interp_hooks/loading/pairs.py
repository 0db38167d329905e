"""The head of BERT's second task, sentence pairs, which models here do not have."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp_hooks.errors import CheckpointError
from interp_hooks.loading.checkpoints import NamedCheckpoint
from interp_hooks.loading.files import reading


def head_of_pairs(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight [d_model, pooled] and bias of the pooler, weight [pooled, 2] and bias of the head after it.

    Raises:
        CheckpointError: it cannot be read, or has no such head.
    """
    from transformers import AutoModelForNextSentencePrediction

    checkpoint = NamedCheckpoint(name=name)
    config: Any = checkpoint.config()
    with reading(f"the checkpoint {name!r}"):
        model, info = AutoModelForNextSentencePrediction.from_pretrained(
            checkpoint.location, config=config, output_loading_info=True
        )
    state = model.state_dict()
    wanted = ("bert.pooler.dense", "cls.seq_relationship")
    names = [f"{part}.{leaf}" for part in wanted for leaf in ("weight", "bias")]
    if missing := [one for one in names if one not in state or one in info["missing_keys"]]:
        raise CheckpointError(f"{name!r} has no head for sentence pairs: it lacks {', '.join(missing)}")
    weight, bias, last, last_bias = (state[one].detach() for one in names)
    return weight.T, bias, last.T, last_bias
