"""Mamba-2 (Dao and Gu 2024, arxiv.org/abs/2405.21060): a state space model with one decay per head and token.

    v, k, q    = silu(convolution(x W_V, x W_K, x W_Q))          hook_v, hook_k, hook_q    (there: x, B and C)
    dt         = softplus(x W_dt + b_dt + dt_bias)               hook_dt                   from `dt_min` to `dt_max`
    log_decay  = -exp(A_log) dt                                  hook_log_decay
    S[t]       = exp(log_decay) S[t-1] + dt k v^T                hook_state
    mixed      = S[t]^T q = M v                                  hook_mixed, hook_mixing
    z          = norm((mixed + D v) * silu(x W_G))               hook_gate, hook_z

Several heads share q and k. The norm is over groups of heads, or absent, or comes before the gate (`norm_first`). Some
models multiply what is read (`read_scales`) and z (`write_scale`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.linear_recurrence import Gates, LinearAttention, Parts
from interp_hooks.model.components.mixer import Reader
from interp_hooks.model.components.recurrence import Recurrence
from interp_hooks.model.components.weights import TRANSPOSED, linear, parameter, read_per_head
from interp_hooks.model.config import HookedTransformerConfig


class Mamba2(LinearAttention):
    """Heads that decay their state and add to it, for a step whose length each token chooses."""

    kind = "a Mamba-2 layer"

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        sizes, d_model = cfg.mixers, cfg.d_model
        assert sizes is not None
        heads, d_value, self.norm_first = sizes.n_heads, sizes.d_value, sizes.norm_first
        self.dt_min, self.dt_max = sizes.dt_min, sizes.dt_max or None
        self.read_scales, self.write_scale = sizes.read_scales or (1.0,) * 5, sizes.write_scale
        self._read_per_head(sizes, d_model)
        self._gate_per_head(sizes, d_model)
        self.W_dt, self.b_dt = parameter(d_model, heads, lies=TRANSPOSED), parameter(heads)
        self.dt_bias, self.A_log, self.D = parameter(heads), parameter(heads), parameter(heads)
        self.hook_dt = HookPoint("batch pos head", head=heads)
        self.hook_log_decay = HookPoint("batch pos head", head=heads)
        self._norm_by_groups(sizes)
        self._write_with(cfg, heads, d_value)
        self._show_writing()

    def readers(self) -> list[Reader]:
        """The weights of queries, keys, values, gates and steps."""
        per_head = [(self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V), (self.W_G, self.b_G)]
        return [*((*pair, 1) for pair in per_head), (self.W_dt, self.b_dt, 0)]

    def reads(self, x: Float[Tensor, "batch pos d_model"]) -> tuple[Float[Tensor, "batch pos channel"], Gates]:
        """Values, keys and queries side by side; the length of the step."""
        pairs, (_, *scales, of_step) = (
            ((self.W_V, self.b_V), (self.W_K, self.b_K), (self.W_Q, self.b_Q)),
            self.read_scales,
        )
        read = (read_per_head(x, *pair).flatten(2) for pair in pairs)
        channels = torch.cat([_scaled(one, scale) for one, scale in zip(read, scales, strict=True)], dim=-1)
        precise = torch.promote_types(x.dtype, torch.float32)
        step = _scaled(linear(x, self.W_dt, self.b_dt), of_step).to(precise) + self.dt_bias.to(precise)
        return channels, F.softplus(step).clamp(self.dt_min, self.dt_max)[:, :, None]

    def parts(self, channels: Float[Tensor, "batch pos channel"], gates: Gates) -> Parts:
        """Queries and keys of each group, values, step and decay of each head."""
        (groups, _, d_key), (heads, _, d_value) = self.W_Q.shape, self.W_V.shape
        pieces = F.silu(channels).split((heads * d_value, groups * d_key, groups * d_key), dim=-1)
        v, k, q = (one.unflatten(-1, (-1, width)) for one, width in zip(pieces, (d_value, d_key, d_key), strict=True))
        dt = self.hook_dt(gates[:, :, 0])
        log_decay = self.hook_log_decay(-self.A_log.to(dt.dtype).exp() * dt)
        return Parts(self.hook_q(q), self.hook_k(k), self.hook_v(v), (dt, log_decay))

    def recurrence(self, parts: Parts) -> Recurrence:
        """Queries, and keys times the step, those of a group for each of its heads."""
        dt, log_decay = (gate.mT for gate in parts.gates)
        q, k, v = (one.transpose(1, 2).to(dt.dtype) for one in parts[:3])
        q, k = (one.repeat_interleave(self.heads // self.groups, dim=1) for one in (q, k))
        return Recurrence(q, k * dt[..., None], v, log_decay[..., None])

    def gated(
        self, mixed: Float[Tensor, "batch pos head d_value"], v: Tensor, gate: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """What the heads read, with their own token's share, gated and normalized."""
        whole = mixed + self.D[:, None] * v
        z = self._normalized(whole) * gate if self.norm_first else self._normalized(whole * gate)
        return _scaled(z, self.write_scale)

    def _gate_before(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        return _scaled(read_per_head(x, self.W_G, self.b_G), self.read_scales[0])


def _scaled(value: Tensor, scale: float) -> Tensor:
    return value if scale == 1 else value * scale
