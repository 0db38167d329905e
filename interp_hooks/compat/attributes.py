"""Attributes that TransformerLens' parts have within a model, and clients read."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from interp_hooks.compat.attention import CalledAttention
from interp_hooks.errors import BadInput
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.norm import NoNorm


class _AttentionOfModel(CalledAttention):
    """Attention that tells which tokens it sees; `attn_type` "local" is a window."""

    @property
    def attn_type(self) -> str:
        return "global" if self.window is None else "local"

    @property
    def mask(self) -> Bool[Tensor, "query key"]:
        """True where a query sees a key, of `n_ctx` tokens; made when it is asked for.

        Raises:
            BadInput: (as it is set) another mask, which would change what the layer sees; the config does that.
        """
        cfg = self.cfg
        seen = torch.ones(cfg.n_ctx, cfg.n_ctx, dtype=torch.bool)
        seen = seen.tril() if cfg.attention_dir == "causal" else seen
        return seen if self.window is None else seen.triu(1 - self.window).tril(self.window - 1)

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        if not torch.equal(mask.cpu(), self.mask):
            raise BadInput("what attention sees is told by the config (window_size, attention_dir), not by a mask")


def add_attributes(model: Any) -> None:
    """Let attention of a model tell what it sees, and norms that blocks lack have hook points, by which no pass comes.

    An encoder's embeddings are found within `embed`, too.

    A client asks whether a block has `ln1_post`, which each has here, and attaches a function to its `hook_scale`.
    """
    if model.cfg.attention_dir == "bidirectional":
        parts = {name: getattr(model, name, None) for name in ("embed", "pos_embed", "token_type_embed")}
        vars(model.embed).update({name: part for name, part in parts.items() if part is not None})
    for block in model.blocks:
        if type(block.attn) is CalledAttention:
            block.attn.__class__ = _AttentionOfModel
        for part in block.children():
            if isinstance(part, NoNorm):
                vars(part).update(hook_scale=HookPoint(), hook_normalized=HookPoint())
