"""Mamba (Gu and Dao 2023, arxiv.org/abs/2312.00752): a state space model for every channel by itself.

    v          = silu(convolution(x W_V + b_V))                  hook_v
    k, q       = v W_K, v W_Q                                    hook_k, hook_q    (there: B and C), for all channels
    dt         = softplus(v W_down W_dt + b_dt)                  hook_dt           of each channel
    S[t]       = exp(-exp(A_log) dt) S[t-1] + dt v k             hook_state        [channel, d_key]
    mixed      = S[t] q = M v                                    hook_mixed, hook_mixing (M, of each channel)
    z          = (mixed + D v) * silu(x W_G + b_G)               hook_gate, hook_z

k, q and v W_down may pass an RMSNorm each (`part_norm`), with a gain or without. There are no heads: z counts as one.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.convolution import ShortConvolution
from interp_hooks.model.components.linear_recurrence import Gates, LinearRecurrence, Parts
from interp_hooks.model.components.mixer import Reader
from interp_hooks.model.components.norm import NoNorm, Norm
from interp_hooks.model.components.recurrence import Recurrence
from interp_hooks.model.components.weights import TRANSPOSED, linear, parameter
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.mixers_config import MixersConfig


class Mamba(LinearRecurrence):
    """Channels that decay what they remember and add to it, for a step whose length each token and channel chooses."""

    kind = "a Mamba layer"
    heads = groups = 1

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        sizes, d_model = cfg.mixers, cfg.d_model
        assert sizes is not None
        width, d_key, rank = sizes.d_value, sizes.d_key, sizes.dt_rank
        self.W_V, self.b_V = parameter(d_model, width, lies=TRANSPOSED), parameter(width)
        self.W_G, self.b_G = parameter(d_model, width, lies=TRANSPOSED), parameter(width)
        self.convolution = ShortConvolution(width, sizes.taps)
        self.W_down = parameter(width, rank, lies=TRANSPOSED)
        self.W_K, self.W_Q = parameter(width, d_key, lies=TRANSPOSED), parameter(width, d_key, lies=TRANSPOSED)
        self.W_dt, self.b_dt = parameter(rank, width, lies=TRANSPOSED), parameter(width)
        self.A_log, self.D = parameter(width, d_key), parameter(width)
        self.dt_norm, self.k_norm, self.q_norm = (_norm(sizes, over) for over in (rank, d_key, d_key))
        self.hook_v = HookPoint("batch pos channel", channel=width)
        self.hook_k = HookPoint("batch pos d_key", d_key=d_key)
        self.hook_q = HookPoint("batch pos d_key", d_key=d_key)
        self.hook_dt = HookPoint("batch pos channel", channel=width)
        self.hook_mixing = HookPoint("batch channel query key", collected=False, channel=width)
        self.hook_state = HookPoint("batch pos channel d_key", collected=False, channel=width, d_key=d_key)
        self.hook_mixed = HookPoint("batch pos channel", channel=width)
        self.hook_gate = HookPoint("batch pos channel", channel=width)
        self._write_with(cfg, 1, width)
        self._show_writing()

    def readers(self) -> list[Reader]:
        """The weights of values and gates."""
        return [(self.W_V, self.b_V, 0), (self.W_G, self.b_G, 0)]

    def reads(self, x: Float[Tensor, "batch pos d_model"]) -> tuple[Float[Tensor, "batch pos channel"], Gates]:
        """The channels; and that they count, which they do not where padding is."""
        precise = torch.promote_types(x.dtype, torch.float32)
        return linear(x, self.W_V, self.b_V), x.new_ones(*x.shape[:2], 1, 1, dtype=precise)

    def parts(self, channels: Float[Tensor, "batch pos channel"], gates: Gates) -> Parts:
        """What all channels read and write with, their values and their steps."""
        v = self.hook_v(F.silu(channels) * gates[:, :, 0].to(channels.dtype))
        k, q = self.k_norm(linear(v, self.W_K, None)), self.q_norm(linear(v, self.W_Q, None))
        step = linear(self.dt_norm(linear(v, self.W_down, None)), self.W_dt, None)
        dt = self.hook_dt(F.softplus(step.to(gates.dtype) + self.b_dt.to(gates.dtype)))
        return Parts(self.hook_q(q), self.hook_k(k), v, (dt,))

    def recurrence(self, parts: Parts) -> Recurrence:
        """A head for every channel, whose values are single numbers."""
        dt = parts.gates[0].mT[..., None]
        q, k = (one.to(dt.dtype)[:, None].expand(-1, dt.shape[1], -1, -1) for one in (parts.q, parts.k))
        log_decay = -self.A_log.to(dt.dtype).exp()[:, None] * dt
        return Recurrence(q, k * dt, parts.v.mT[..., None].to(dt.dtype), log_decay)

    def of_heads(self, value: Float[Tensor, "batch pos head ..."]) -> Tensor:
        """Without the axis of values, which has one entry."""
        return value[..., 0]

    def gate(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos channel"]:
        """The SiLU of a linear map of what is read."""
        return F.silu(linear(x, self.W_G, self.b_G))

    def gated(self, mixed: Tensor, v: Tensor, gate: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        """What the channels read, with their own token's share, gated."""
        return ((mixed + self.D * v) * gate)[:, :, None]


def _norm(sizes: MixersConfig, over: int) -> Norm | NoNorm:
    """The norm of one of the parts, if they have norms."""
    if sizes.part_norm is None:
        return NoNorm()
    return Norm(sizes.part_norm, (over,), sizes.eps, axes="batch pos part")
