"""Attributes that TransformerLens' parts have, and clients read."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from interp_hooks.errors import BadInput
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.norm import NoNorm


class HasMask:
    """An attention layer that tells which tokens it sees: `attn_type` "local" is a window."""

    window: int | None
    n_ctx: int

    @property
    def attn_type(self) -> str:
        return "global" if self.window is None else "local"

    @property
    def mask(self) -> Bool[Tensor, "query key"]:
        """True where a query sees a key, of `n_ctx` tokens; made when it is asked for.

        Raises:
            BadInput: (as it is set) another mask, which would change what the layer sees; the config does that.
        """
        seen = torch.ones(self.n_ctx, self.n_ctx, dtype=torch.bool).tril()
        return seen if self.window is None else seen.triu(1 - self.window)

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        if not torch.equal(mask.cpu(), self.mask):
            raise BadInput("what attention sees is told by the config (window_size, attention_dir), not by a mask")


def add_hooks_that_never_fire(model: nn.Module) -> None:
    """Let norms that a block lacks have the hook points that clients attach functions to; no pass comes by them."""
    for block in model.blocks:
        for norm in block.children():
            if isinstance(norm, NoNorm):
                norm.__dict__ |= {"hook_scale": HookPoint(), "hook_normalized": HookPoint()}
