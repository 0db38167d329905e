"""One transformer block: what reads the residual stream, and what is added to it.

    serial     resid_pre --ln1--> attn --> (+) = resid_mid --ln2--> mlp --> (+) = resid_post
    parallel   resid_pre --ln1--> attn --> (+) <-- mlp <--ln2-- resid_pre,   (+) = resid_post
    attn_only  resid_pre --ln1--> attn --> (+) = resid_post

The inputs of queries, keys and values can be hooked head by head (`hook_q_input`, ...): the stream before the norm,
with a head axis that exists only while hooked.
"""

from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.components.attention import Attention, KeyValuePrefix, Visibility
from interp_hooks.components.mlp import MLP, GatedMLP
from interp_hooks.components.norm import norm
from interp_hooks.components.positions import Rotation
from interp_hooks.config import HookedTransformerConfig
from interp_hooks.hooks import HookPoint


class TransformerBlock(nn.Module):
    """Attention and MLP around the residual stream, in the arrangement that the config names."""

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        heads, groups, d_model = cfg.n_heads, cfg.n_key_value_heads, cfg.d_model
        self.heads, self.groups, self.attn_only, self.parallel = heads, groups, cfg.attn_only, cfg.parallel_attn_mlp
        self.hook_resid_pre = HookPoint("batch pos d_model", d_model=d_model)
        if heads == groups:  # one stream per head for all three readers needs as many key as query heads
            self.hook_attn_in = HookPoint("batch pos head d_model", collected=False, head=heads, d_model=d_model)
        self.hook_q_input = HookPoint("batch pos head d_model", collected=False, head=heads, d_model=d_model)
        self.hook_k_input = HookPoint("batch pos head d_model", collected=False, head=groups, d_model=d_model)
        self.hook_v_input = HookPoint("batch pos head d_model", collected=False, head=groups, d_model=d_model)
        self.ln1 = norm(cfg)
        self.attn = Attention(cfg, layer)
        self.hook_attn_out = HookPoint("batch pos d_model", d_model=d_model)
        if not cfg.attn_only:
            if not cfg.parallel_attn_mlp:
                self.hook_resid_mid = HookPoint("batch pos d_model", d_model=d_model)
            self.hook_mlp_in = HookPoint("batch pos d_model", collected=False, d_model=d_model)
            self.ln2 = norm(cfg)
            self.mlp = (GatedMLP if cfg.gated_mlp else MLP)(cfg)
            self.hook_mlp_out = HookPoint("batch pos d_model", d_model=d_model)
        self.hook_resid_post = HookPoint("batch pos d_model", d_model=d_model)

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        rotation: Rotation | None,
        visibility: Visibility,
        prefix: KeyValuePrefix | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        resid_pre = self.hook_resid_pre(resid_pre)
        attn_out = self.hook_attn_out(self.attn(self._attention_inputs(resid_pre), rotation, visibility, prefix))
        resid_mid = resid_pre + attn_out
        if self.attn_only:
            return self.hook_resid_post(resid_mid)
        if not self.parallel:
            resid_mid = self.hook_resid_mid(resid_mid)
        mlp_in = self.hook_mlp_in(resid_pre if self.parallel else resid_mid)
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(mlp_in)))
        return self.hook_resid_post(resid_mid + mlp_out)

    def _attention_inputs(self, resid_pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What queries, keys and values read, normalized: the same stream unless one of their inputs is hooked."""
        stream = resid_pre if self.heads != self.groups else self.hook_attn_in.expand(resid_pre, head=self.heads)
        q = self.hook_q_input.expand(stream, head=self.heads)
        k = self.hook_k_input.expand(stream, head=self.groups)
        v = self.hook_v_input.expand(stream, head=self.groups)
        if q is resid_pre and k is resid_pre and v is resid_pre:
            normalized = self.ln1(resid_pre)
            return normalized, normalized, normalized
        self.ln1.show(resid_pre)
        return self.ln1.fused(q), self.ln1.fused(k), self.ln1.fused(v)
