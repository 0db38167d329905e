"""LayerNorm and RMSNorm, with or without their gain and bias, or no normalization.

    scale      = sqrt(mean((x - mean)^2) + eps)      RMS: without the mean        hook_scale
    normalized = (x - mean) / scale                                              hook_normalized
    output     = normalized * w + b                  folded forms: normalized

Unhooked it is one fused kernel. The statistics are computed in float32 for half-precision models.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_hooks.components.weights import parameter
from interp_hooks.config import HookedTransformerConfig, NormalizationType
from interp_hooks.errors import HookConflict
from interp_hooks.hooks import HookPoint


class Norm(nn.Module):
    """One normalization layer over the last axis; `kind` as in `HookedTransformerConfig.normalization_type`."""

    w: nn.Parameter | None
    b: nn.Parameter | None

    def __init__(self, kind: NormalizationType, width: int, eps: float) -> None:
        super().__init__()
        self.kind, self.width, self.eps = kind, width, eps
        self.register_parameter("w", parameter(width) if kind in ("LN", "RMS") else None)
        self.register_parameter("b", parameter(width) if kind == "LN" else None)
        self.hook_scale = HookPoint("batch pos scale", scale=1)
        self.hook_normalized = HookPoint("batch pos d_model", d_model=width)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.hook_scale.hooked or self.hook_normalized.hooked):
            return self.fused(x)
        centred, scale = self.statistics(x)
        normalized = self.hook_normalized(centred / self.hook_scale(scale)).to(x.dtype)
        if self.w is not None:
            normalized = normalized * self.w
        return normalized if self.b is None else normalized + self.b

    def fused(self, x: Tensor) -> Tensor:
        """The same values in one kernel; hooks don't fire."""
        if self.kind in ("LN", "LNPre"):
            return F.layer_norm(x, (self.width,), self.w, self.b, self.eps)
        return F.rms_norm(x, (self.width,), self.w, self.eps)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is divided (centred unless RMS) and what it is divided by, at least in float32."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.kind in ("LN", "LNPre"):
            x = x - x.mean(-1, keepdim=True)
        return x, (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def show(self, x: Tensor) -> None:
        """Let the hooks see the statistics of a stream whose readers are hooked one by one.

        Raises:
            HookConflict: a hook changed them, or waits for their gradient; the readers have inputs of their own, which
                such a change can't reach.
        """
        if not (self.hook_scale.hooked or self.hook_normalized.hooked):
            return
        centred, scale = self.statistics(x)
        for point, value in ((self.hook_scale, scale), (self.hook_normalized, centred / scale)):
            listening = any(hook.direction == "bwd" and not hook.watches for hook in point.hooks)
            if listening or not torch.allclose(point(value), value, rtol=0, atol=0, equal_nan=True):
                raise HookConflict(
                    f"a hook changes {point.name}, or waits for its gradient, in a pass in which a reader's input "
                    "(hook_q_input, hook_k_input, hook_v_input or hook_attn_in) is hooked too. Each reader then has a "
                    "stream and statistics of its own; hook those inputs, or drop one of the two hooks"
                )


class NoNorm(nn.Module):
    """Nothing is normalized, so there is nothing to hook."""

    w = b = None

    def forward(self, x: Tensor) -> Tensor:
        return x

    fused = forward

    def show(self, x: Tensor) -> None:
        pass


def norm(cfg: HookedTransformerConfig) -> Norm | NoNorm:
    """The normalization that the config asks for, over `d_model`."""
    return NoNorm() if cfg.normalization_type is None else Norm(cfg.normalization_type, cfg.d_model, cfg.eps)
