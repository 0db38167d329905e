"""Attention without values of its own, which are its keys, or without keys and values, which an earlier layer lends."""

from torch import Tensor, nn

from interp_hooks.model.components.attention import Attention, Inputs, Lent
from interp_hooks.model.components.positions import Rotation
from interp_hooks.model.components.weights import read_per_head
from interp_hooks.model.config import HookedTransformerConfig


class KeyValueAttention(Attention):
    """Attention in which the weights of keys are those of values too, so that these are keys before norm and rotation.

    An edit of `W_K` is one of `W_V`, which is the same parameter.
    """

    values_are_keys = True

    @property
    def W_V(self) -> nn.Parameter:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.W_K

    @property
    def b_V(self) -> nn.Parameter:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.b_K


class BorrowingAttention(Attention):
    """Attention to the keys and values that an earlier layer has made, `source`: it makes queries alone.

    `hook_v` and `hook_rot_k` (`hook_k` where nothing rotates) show what is borrowed; a change there is one for this
    layer alone. It has no weights of keys and values, and these no inputs here.
    """

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__(cfg, layer)
        if cfg.rotary_at(layer) is not None:
            del self.hook_k

    def queries_keys_values(
        self, inputs: Inputs, rotation: Rotation | None, lent: Lent | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Its own queries, and the keys and values that are lent."""
        assert lent is not None
        assert self.source is not None
        q = read_per_head(inputs[0], self.W_Q, self.b_Q)
        q = self.hook_q(q if self.normalizes else self._clipped(q))
        if self.normalizes and not self.norm_after_rotary:
            q = self._clipped(self.q_norm(q))
        if rotation is not None:
            q = self._rotated_queries(q, rotation)
        if self.norm_after_rotary:
            q = self.q_norm(q)
        k, v = (x.to(q.device) for x in lent[self.source])
        return q, (self.hook_k if rotation is None else self.hook_rot_k)(k), self.hook_v(v)
