"""One transformer block: what reads the residual stream, and what is added to it.

    serial     resid_pre --ln1--> attn --> (+) = resid_mid --ln2--> mlp --> (+) = resid_post
    parallel   resid_pre --ln1--> attn --> (+) <-- mlp <--ln2-- resid_pre,   (+) = resid_post    (ln2 may be ln1)
    attn_only  resid_pre --ln1--> attn --> (+) = resid_post
    post       resid_pre --> attn --> (+) = resid_mid --ln1--> (+) = resid_post --ln2--> the next block
                                                     `--> mlp --^

What attention and MLP write may pass a norm (`ln1_post`, `ln2_post`) and a multiplier before it is added; `attn_out`
and `mlp_out` are what is added. The inputs of queries, keys and values can be hooked head by head (`hook_q_input`,
...): the stream before the norm, with a head axis that exists only while hooked.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_hooks.components.attention import Attention, Inputs, Visibility
from interp_hooks.components.kv_cache import Extend
from interp_hooks.components.latent import LatentAttention
from interp_hooks.components.mlp import mlp
from interp_hooks.components.moe import MoE
from interp_hooks.components.norm import NoNorm, norm
from interp_hooks.components.positions import Rotation
from interp_hooks.config import HookedTransformerConfig
from interp_hooks.hooks import HookPoint


class Readings(NamedTuple):
    """The stream as attention and a parallel MLP read it, normalized."""

    attention: Inputs
    mlp: Tensor | None


def at_positions(
    stream: Float[Tensor, "batch pos d_model"], rows: Int[Tensor, "batch n"]
) -> Float[Tensor, "batch n d_model"]:
    """Each row's stream at positions of its own."""
    return stream.gather(1, rows.to(stream.device)[..., None].expand(-1, -1, stream.shape[-1]))


class TransformerBlock(nn.Module):
    """Attention and MLP around the residual stream, in the arrangement that the config names."""

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        heads, groups, d_model = cfg.n_heads, cfg.n_key_value_heads, cfg.d_model
        self.heads, self.groups, self.attn_only, self.parallel = heads, groups, cfg.attn_only, cfg.parallel_attn_mlp
        self.is_post = cfg.norm_placement == "post"
        self.shared_norm, self.residual_scale = cfg.parallel_shared_norm, cfg.residual_scale
        self.per_head_inputs = not cfg.kv_latent  # latent attention has one input for all heads
        self.hook_resid_pre = HookPoint("batch pos d_model", d_model=d_model)
        if self.per_head_inputs:
            if heads == groups:  # one stream per head for all three readers needs as many key as query heads
                self.hook_attn_in = HookPoint("batch pos head d_model", collected=False, head=heads, d_model=d_model)
            self.hook_q_input = HookPoint("batch pos head d_model", collected=False, head=heads, d_model=d_model)
            self.hook_k_input = HookPoint("batch pos head d_model", collected=False, head=groups, d_model=d_model)
            self.hook_v_input = HookPoint("batch pos head d_model", collected=False, head=groups, d_model=d_model)
        kind = cfg.normalization_type if cfg.reads_normalized or self.is_post else None
        self.ln1 = norm(cfg, kind)
        self.attn = (LatentAttention if cfg.kv_latent else Attention)(cfg, layer)
        self.ln1_post = norm(cfg, cfg.output_norm_type)
        self.hook_attn_out = HookPoint("batch pos d_model", d_model=d_model)
        if not cfg.attn_only:
            if not cfg.parallel_attn_mlp:
                self.hook_resid_mid = HookPoint("batch pos d_model", d_model=d_model)
            self.hook_mlp_in = HookPoint("batch pos d_model", collected=False, d_model=d_model)
            self.ln2 = NoNorm() if cfg.parallel_shared_norm else norm(cfg, kind)
            experts = cfg.experts if cfg.has_experts(layer) else None
            self.mlp = mlp(cfg, cfg.d_mlp) if experts is None else MoE(cfg, experts)
            self.ln2_post = norm(cfg, cfg.output_norm_type)
            self.hook_mlp_out = HookPoint("batch pos d_model", d_model=d_model)
        self.hook_resid_post = HookPoint("batch pos d_model", d_model=d_model)
        if self.is_post:
            self.hook_normalized_resid_post = HookPoint("batch pos d_model", d_model=d_model)

    @property
    def points(self) -> list[HookPoint]:
        """Every hook point of this block."""
        return [part for part in self.modules() if isinstance(part, HookPoint)]

    @property
    def device(self) -> torch.device:
        """Where the weights live and the arithmetic happens."""
        return self.attn.W_O.device

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        rotation: Rotation | None,
        visibility: Visibility,
        extend: Extend | None = None,
        only: Int[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "batch _ d_model"]:
        """The stream after this block; for `extend` see `AttentionCore.forward`.

        With `only`, the stream at these positions of each row: nothing else is computed, unless somebody looks inside.
        """
        if only is not None:
            if self.is_post or any(point.hooked for point in self.points):
                return at_positions(self(resid_pre, rotation, visibility, extend), only)
            visibility = visibility.only(only)
        resid_pre = self.hook_resid_pre(resid_pre)
        if self.is_post:
            return self._post(resid_pre, rotation, visibility, extend)
        readings = self._readings(resid_pre)
        if only is not None:
            resid_pre = at_positions(resid_pre, only)
            readings = readings._replace(mlp=None if readings.mlp is None else at_positions(readings.mlp, only))
        attn_out = self.hook_attn_out(self._scaled(self.ln1_post(
            self.attn(readings.attention, rotation, visibility, extend)
        )))  # fmt: skip
        resid_mid = resid_pre + attn_out
        if self.attn_only:
            return self.hook_resid_post(resid_mid)
        if readings.mlp is None:
            resid_mid = self.hook_resid_mid(resid_mid)
            mlp_reads = self.ln2(self.hook_mlp_in(resid_mid))
        else:
            mlp_reads = readings.mlp
        mlp_out = self.hook_mlp_out(self._scaled(self.ln2_post(self.mlp(mlp_reads))))
        return self.hook_resid_post(resid_mid + mlp_out)

    def _post(
        self, resid_pre: Tensor, rotation: Rotation | None, visibility: Visibility, extend: Extend | None
    ) -> Tensor:
        attn_out = self.hook_attn_out(self.attn(self._readings(resid_pre).attention, rotation, visibility, extend))
        normed = self.ln1(self.hook_resid_mid(resid_pre + attn_out))
        mlp_out = self.hook_mlp_out(self.mlp(self.hook_mlp_in(normed)))
        return self.hook_normalized_resid_post(self.ln2(self.hook_resid_post(normed + mlp_out)))

    def _scaled(self, written: Tensor) -> Tensor:
        return written if self.residual_scale == 1 else written * self.residual_scale

    def _readings(self, resid_pre: Tensor) -> Readings:
        """One normalization serves every reader of the same stream; a reader whose input is hooked has its own."""
        streams = self._attention_streams(resid_pre)
        mlp_in = self.hook_mlp_in(resid_pre) if self.parallel else None
        sharing = mlp_in if self.shared_norm else None
        ln1 = _AS_IT_IS if self.is_post else self.ln1
        if all(stream is resid_pre for stream in (*streams, sharing) if stream is not None):
            mlp_reads = normalized = ln1(resid_pre)
            attention_reads = (normalized, normalized, normalized)
        else:
            ln1.show(resid_pre)
            q, k, v = streams
            attention_reads = (ln1.fused(q), ln1.fused(k), ln1.fused(v))
            mlp_reads = None if sharing is None else ln1.fused(sharing)
        if mlp_in is None:
            return Readings(attention_reads, None)
        return Readings(attention_reads, mlp_reads if self.shared_norm else self.ln2(mlp_in))

    def _attention_streams(self, resid_pre: Tensor) -> Inputs:
        """What queries, keys and values read: the stream itself, unless somebody hooks the inputs of single heads."""
        if not self.per_head_inputs:
            return resid_pre, resid_pre, resid_pre
        stream = resid_pre if self.heads != self.groups else self.hook_attn_in.expand(resid_pre, head=self.heads)
        return (
            self.hook_q_input.expand(stream, head=self.heads),
            self.hook_k_input.expand(stream, head=self.groups),
            self.hook_v_input.expand(stream, head=self.groups),
        )


_AS_IT_IS = NoNorm()
