"""The gated delta net (Yang et al. 2024, arxiv.org/abs/2412.06464): linear attention that corrects what it remembers.

q, k, v    = silu(convolution(x W_Q, x W_K, x W_V))                     hook_q, hook_k, hook_v
log_decay  = -exp(A_log) softplus(x W_decay + b_decay)                  hook_log_decay
beta       = beta_scale sigmoid(x W_beta + b_beta)                      hook_beta
S[t]       = a S[t-1] + beta k (v - a S[t-1]^T k)^T                     a = exp(log_decay), k = k / |k|
mixed      = S[t]^T q / (|q| sqrt(d_key))                               hook_state, hook_mixed, hook_mixing
z          = norm(mixed) * silu(x W_G)                                  hook_gate, hook_z
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.linear_recurrence import Gates, LinearAttention, Parts
from interp_hooks.model.components.mixer import Reader
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.components.recurrence import Recurrence
from interp_hooks.model.components.weights import READER_PER_HEAD, TRANSPOSED, linear, parameter, read_per_head
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.mixers_config import MixersConfig

UNIT_EPS = 1e-6  # added to the square of the length of queries and keys


class GatedDeltaNet(LinearAttention):
    """Heads that decay their state, and write to it what it does not yet hold under a key."""

    kind = "a gated delta net"

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        sizes, d_model = cfg.mixers, cfg.d_model
        assert sizes is not None
        heads, d_value, self.beta_scale = sizes.n_heads, sizes.d_value, sizes.beta_scale
        self._read_per_head(sizes, d_model)
        self._gate_with(d_model, sizes)
        self.W_beta, self.b_beta = parameter(d_model, heads, lies=TRANSPOSED), parameter(heads)
        self.A_log = parameter(heads)
        self.hook_log_decay = self._shows_decay(sizes)
        self.hook_beta = HookPoint("batch pos head", head=heads)
        self.norm = Norm("RMS", (d_value,), sizes.eps, axes="batch pos head d_value", head=heads)
        self._write_with(cfg, heads, d_value)
        self._show_writing()

    def _gate_with(self, d_model: int, sizes: MixersConfig) -> None:
        """Make the weights of gates and of the decay."""
        self._gate_per_head(sizes, d_model)
        self.W_decay, self.b_decay = parameter(d_model, sizes.n_heads, lies=TRANSPOSED), parameter(sizes.n_heads)

    def _shows_decay(self, sizes: MixersConfig) -> HookPoint:
        return HookPoint("batch pos head", head=sizes.n_heads)

    def _readers_of_gates(self) -> list[Reader]:
        return [(self.W_G, self.b_G, 1), (self.W_decay, self.b_decay, 0)]

    def readers(self) -> list[Reader]:
        """The weights of queries, keys, values, gates, decay and beta."""
        per_head = [(self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V)]
        return [*((*pair, 1) for pair in per_head), *self._readers_of_gates(), (self.W_beta, self.b_beta, 0)]

    def reads(self, x: Float[Tensor, "batch pos d_model"]) -> tuple[Float[Tensor, "batch pos channel"], Gates]:
        """Queries, keys and values side by side; the logarithm of the decay, and beta."""
        pairs = ((self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V))
        channels = torch.cat([read_per_head(x, *pair).flatten(2) for pair in pairs], dim=-1)
        beta = self.beta_scale * torch.sigmoid(linear(x, self.W_beta, self.b_beta))
        log_decay = self._log_decay(x)
        return channels, torch.cat((log_decay.mT, beta.to(log_decay.dtype)[:, :, None]), dim=2)

    def _log_decay(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head decay"]:
        """The logarithm of the decay, in one number for each head or several."""
        precise = torch.promote_types(x.dtype, torch.float32)
        step = F.softplus(linear(x, self.W_decay, None).to(precise) + self.b_decay.to(precise))
        return (-self.A_log.to(precise).exp() * step)[..., None]

    def parts(self, channels: Float[Tensor, "batch pos channel"], gates: Gates) -> Parts:
        """Queries and keys of each group, values, decay and beta of each head."""
        (groups, _, d_key), (heads, _, d_value) = self.W_Q.shape, self.W_V.shape
        pieces = F.silu(channels).split((groups * d_key, groups * d_key, heads * d_value), dim=-1)
        q, k, v = (one.unflatten(-1, (-1, width)) for one, width in zip(pieces, (d_key, d_key, d_value), strict=True))
        log_decay, beta = gates[:, :, :-1].mT, gates[:, :, -1]
        one_each = len(self.hook_log_decay.axes) == 3
        shown = (self.hook_log_decay(log_decay[..., 0] if one_each else log_decay), self.hook_beta(beta))
        return Parts(self.hook_q(q), self.hook_k(k), self.hook_v(v), shown)

    def recurrence(self, parts: Parts) -> Recurrence:
        """Unit keys and scaled unit queries, those of a group for each of its heads."""
        log_decay, beta = (gate.transpose(1, 2) for gate in parts.gates)
        log_decay = log_decay if log_decay.ndim == 4 else log_decay[..., None]
        q, k, v = (one.transpose(1, 2).to(beta.dtype) for one in parts[:3])
        copies = self.heads // self.groups
        q, k = (one.repeat_interleave(copies, dim=1) for one in (self.as_read(q), _unit(k)))
        return Recurrence(q, k, v, log_decay, beta)

    def as_read(self, q: Float[Tensor, "batch pos head d_key"]) -> Float[Tensor, "batch pos head d_key"]:
        """Queries of length 1 / sqrt(d_key)."""
        return _unit(q) / q.shape[-1] ** 0.5

    def gated(
        self, mixed: Float[Tensor, "batch pos head d_value"], v: Tensor, gate: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """What the heads read, normalized and gated."""
        return self.norm(mixed) * gate


class KimiDelta(GatedDeltaNet):
    """The same with a decay for each dimension of the key, and a gate that is a sigmoid."""

    kind = "a Kimi delta layer"

    def _gate_with(self, d_model: int, sizes: MixersConfig) -> None:
        heads, rank, d_key, d_value = sizes.n_heads, sizes.gate_rank, sizes.d_key, sizes.d_value
        self.W_G_down, self.b_G_down = parameter(d_model, rank, lies=TRANSPOSED), parameter(rank)
        self.W_G = parameter(heads, rank, d_value, lies=READER_PER_HEAD)
        self.W_decay_down, self.b_decay_down = parameter(d_model, rank, lies=TRANSPOSED), parameter(rank)
        self.W_decay = parameter(heads, rank, d_key, lies=READER_PER_HEAD)
        self.b_decay = parameter(heads, d_key)

    def _shows_decay(self, sizes: MixersConfig) -> HookPoint:
        return HookPoint("batch pos head d_key", head=sizes.n_heads, d_key=sizes.d_key)

    def _readers_of_gates(self) -> list[Reader]:
        return [(self.W_G_down, self.b_G_down, 0), (self.W_decay_down, self.b_decay_down, 0)]

    def _log_decay(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head decay"]:
        precise = torch.promote_types(x.dtype, torch.float32)
        step = read_per_head(linear(x, self.W_decay_down, self.b_decay_down), self.W_decay, None)
        return -self.A_log.to(precise).exp()[:, None] * F.softplus(step.to(precise) + self.b_decay.to(precise))

    def gate(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """The sigmoid of a low-rank map of what is read."""
        return torch.sigmoid(read_per_head(linear(x, self.W_G_down, self.b_G_down), self.W_G, None))


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + UNIT_EPS)
