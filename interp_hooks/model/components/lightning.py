"""Lightning attention (Qin et al. 2024, arxiv.org/abs/2401.04658): linear attention whose heads decay at fixed rates.

q, k, v    = silu(x W_Q), silu(x W_K), silu(x W_V)                  hook_q, hook_k, hook_v
S[t]       = exp(-slope) S[t-1] + k v^T                             hook_state
mixed      = S[t]^T q = M v                                         hook_mixed, hook_mixing
z          = norm(mixed) * sigmoid(x W_G)                           hook_gate, hook_z

Every head has one slope, whatever the tokens are. The norm is over groups of channels of all heads.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp_hooks.model.components.linear_recurrence import Gates, LinearAttention, Parts
from interp_hooks.model.components.mixer import Reader
from interp_hooks.model.components.recurrence import Recurrence
from interp_hooks.model.components.weights import parameter, read_per_head
from interp_hooks.model.config import HookedTransformerConfig


class LightningAttention(LinearAttention):
    """Heads that forget at a rate of their own, and read the stream without a convolution."""

    kind = "a lightning attention layer"
    convolves = False

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        sizes, d_model = cfg.mixers, cfg.d_model
        assert sizes is not None
        self._read_per_head(sizes, d_model)
        self._gate_per_head(sizes, d_model)
        self.slope = parameter(sizes.n_heads)
        self._norm_by_groups(sizes)
        self._write_with(cfg, sizes.n_heads, sizes.d_value)
        self._show_writing()

    def readers(self) -> list[Reader]:
        """The weights of queries, keys, values and gates."""
        pairs = ((self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V), (self.W_G, self.b_G))
        return [(*pair, 1) for pair in pairs]

    def reads(self, x: Float[Tensor, "batch pos d_model"]) -> tuple[Float[Tensor, "batch pos channel"], Gates]:
        """Queries, keys and values side by side; the logarithm of the decay, which is the same at all tokens."""
        pairs = ((self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V))
        channels = torch.cat([read_per_head(x, *pair).flatten(2) for pair in pairs], dim=-1)
        precise = torch.promote_types(x.dtype, torch.float32)
        return channels, -self.slope.to(precise).expand(*x.shape[:2], 1, -1)

    def parts(self, channels: Float[Tensor, "batch pos channel"], gates: Gates) -> Parts:
        """Queries and keys of each group, values and decay of each head."""
        (groups, _, d_key), (heads, _, d_value) = self.W_Q.shape, self.W_V.shape
        pieces = F.silu(channels).split((groups * d_key, groups * d_key, heads * d_value), dim=-1)
        q, k, v = (one.unflatten(-1, (-1, width)) for one, width in zip(pieces, (d_key, d_key, d_value), strict=True))
        return Parts(self.hook_q(q), self.hook_k(k), self.hook_v(v), (gates[:, :, 0],))

    def recurrence(self, parts: Parts) -> Recurrence:
        """Queries and keys of a group for each of its heads."""
        log_decay = parts.gates[0].mT
        q, k, v = (one.transpose(1, 2).to(log_decay.dtype) for one in parts[:3])
        q, k = (one.repeat_interleave(self.heads // self.groups, dim=1) for one in (q, k))
        return Recurrence(q, k, v, log_decay[..., None])

    def gate(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """The sigmoid of a linear map of what is read."""
        return torch.sigmoid(read_per_head(x, self.W_G, self.b_G))

    def gated(
        self, mixed: Float[Tensor, "batch pos head d_value"], v: Tensor, gate: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """What the heads read, normalized and gated."""
        return self._normalized(mixed) * gate
