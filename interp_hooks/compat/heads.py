"""TransformerLens' `detect_head`, which refuses text that the model cannot read whole."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies import heads


def detect_head(
    model: HookedTransformer, seq: str | Sequence[str], *args: Any, **options: Any
) -> Float[Tensor, "layer head"]:
    """As `interp_hooks.studies.heads.detect_head`.

    Raises:
        BadInput: as there; text of no tokens but the BOS, or that does not leave room for one more.
    """
    for text in [seq] if isinstance(seq, str) else seq:
        if not 1 < model.to_tokens(text).shape[-1] < model.cfg.n_ctx:
            raise BadInput("The sequence must be non-empty and must fit within the model's context window.")
    return heads.detect_head(model, seq, *args, **options)
