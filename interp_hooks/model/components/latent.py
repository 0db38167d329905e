"""Multi-head latent attention (DeepSeek-AI 2024, arxiv.org/abs/2405.04434): keys and values from one low-rank stream.

    q     = norm(x W_DQ + b_DQ) W_UQ, or x W_Q                             per head: [plain | rotary]
    c     = norm(x W_DKV + b_DKV)                    hook_kv_latent        what all heads' keys and values are read from
    k     = [c W_UK | x W_KR + b_KR]                                       per head: plain; the rotary part is shared
    v     = c W_UV

Hooks show q, k, v and z head by head as in every other model. Only the last `rotary_dim` dimensions of q and k turn.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.attention import AttentionCore, Inputs, Lent
from interp_hooks.model.components.mixer import Reader
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.components.positions import Rotation, rotate
from interp_hooks.model.components.weights import READER_PER_HEAD, TRANSPOSED, linear, parameter, read_per_head
from interp_hooks.model.config import HookedTransformerConfig


class LatentAttention(AttentionCore):
    """Attention whose keys and values, and perhaps queries, are read from a normalized low-rank stream.

    `hook_kv_latent` is the normalized latent of keys and values [batch, pos, kv_latent], `hook_q_latent` that of
    queries (absent where queries are read from the stream itself).
    """

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__(cfg, layer)
        heads, d_model, self.plain = cfg.n_heads, cfg.d_model, cfg.d_head - cfg.rotary_dim
        self.q_latent = cfg.q_latent
        if cfg.q_latent:
            self.W_DQ, self.b_DQ = parameter(d_model, cfg.q_latent, lies=TRANSPOSED), parameter(cfg.q_latent)
            self.q_latent_norm = Norm("RMS", (cfg.q_latent,), cfg.latent_eps, axes="batch pos latent")
            self.hook_q_latent = HookPoint("batch pos latent", latent=cfg.q_latent)
            self.W_UQ = parameter(heads, cfg.q_latent, cfg.d_head, lies=READER_PER_HEAD)
        else:
            self.W_Q = parameter(heads, d_model, cfg.d_head, lies=READER_PER_HEAD)
        self.b_Q = parameter(heads, cfg.d_head)
        self.W_DKV, self.b_DKV = parameter(d_model, cfg.kv_latent, lies=TRANSPOSED), parameter(cfg.kv_latent)
        self.W_KR, self.b_KR = parameter(d_model, cfg.rotary_dim, lies=TRANSPOSED), parameter(cfg.rotary_dim)
        self.kv_latent_norm = Norm("RMS", (cfg.kv_latent,), cfg.latent_eps, axes="batch pos latent")
        self.hook_kv_latent = HookPoint("batch pos latent", latent=cfg.kv_latent)
        self.W_UK = parameter(heads, cfg.kv_latent, self.plain, lies=READER_PER_HEAD)
        self.W_UV = parameter(heads, cfg.kv_latent, cfg.d_value, lies=READER_PER_HEAD)

    def readers(self) -> list[Reader]:
        """The weights of the latents, of the rotary part of keys, and perhaps of queries."""
        query = (self.W_DQ, self.b_DQ, 0) if self.q_latent else (self.W_Q, self.b_Q, 1)
        return [query, (self.W_DKV, self.b_DKV, 0), (self.W_KR, self.b_KR, 0)]

    def queries_keys_values(
        self, inputs: Inputs, rotation: Rotation | None, lent: Lent | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values from the latents; the last dimensions of queries and keys are rotated."""
        x = inputs[0]
        return self.from_latents(x, self.query_latent(x), rotation)

    def query_latent(self, x: Tensor) -> Float[Tensor, "batch pos latent"] | None:
        """The latent that queries are read from; None if they are read from the stream."""
        if not self.q_latent:
            return None
        return self.hook_q_latent(self.q_latent_norm(linear(x, self.W_DQ, self.b_DQ)))

    def from_latents(
        self, x: Tensor, q_latent: Tensor | None, rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`queries_keys_values`, given the latent of queries."""
        q = read_per_head(x, self.W_Q, self.b_Q) if q_latent is None else read_per_head(q_latent, self.W_UQ, self.b_Q)
        q = self.hook_q(q)
        latent = self.hook_kv_latent(self.kv_latent_norm(linear(x, self.W_DKV, self.b_DKV)))
        plain = read_per_head(latent, self.W_UK, None)
        shared = linear(x, self.W_KR, self.b_KR)[:, :, None].expand(-1, -1, plain.shape[2], -1)
        k = self.hook_k(torch.cat((plain, shared), dim=-1))
        v = self.hook_v(read_per_head(latent, self.W_UV, None))
        if rotation is not None:
            q, k = self.hook_rot_q(self._rotated(q, rotation)), self.hook_rot_k(self._rotated(k, rotation))
        return q, k, v

    def _rotated(self, x: Tensor, rotation: Rotation) -> Tensor:
        turned = rotate(x[..., self.plain :], rotation)
        return torch.cat((x[..., : self.plain], turned), dim=-1)
