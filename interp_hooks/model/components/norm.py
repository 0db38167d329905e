"""LayerNorm and RMSNorm, with or without their gain and bias, or no normalization.

    scale      = sqrt(mean((x - mean)^2) + eps)      RMS: without the mean        hook_scale
    normalized = (x - mean) / scale                                              hook_normalized
    output     = normalized * (w + gain_offset) + b  without gain: normalized

Unless a hook takes part it is one fused kernel; for who only looks, scale and normalized are computed beside it. The
statistics are computed in float32 for half-precision models. Within `holding_scales` the scale counts as a constant in
the backward pass.
"""

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp_hooks.errors import HookConflict
from interp_hooks.hooks.points import HookPoint
from interp_hooks.hooks.scopes import run_noted
from interp_hooks.model.components.weights import Spreadable, parameter
from interp_hooks.model.config import HookedTransformerConfig, NormalizationType

P = ParamSpec("P")
R = TypeVar("R")

HELD: ContextVar[bool] = ContextVar("HELD", default=False)
HOLDING: list[object] = []  # a token for each call that holds scales somewhere: without any, nobody has to ask further


def holding_scales(function: Callable[P, R]) -> Callable[P, R]:
    """A function in whose calls, in their thread, the scales of norms are constants for the backward pass."""

    def held(*args: P.args, **kwargs: P.kwargs) -> R:
        HELD.set(True)
        return function(*args, **kwargs)

    return lambda *args, **kwargs: run_noted(HOLDING, copy_context(), lambda: held(*args, **kwargs))


class Norm(Spreadable):
    """One normalization over the last axes of its input, whose sizes are `over`; `kind` is as in the config.

    `gain` is the shape of gain and bias (default: `over`); `sizes` are those of the named axes before the last.
    """

    w: nn.Parameter | None
    b: nn.Parameter | None

    def __init__(
        self,
        kind: NormalizationType,
        over: tuple[int, ...],
        eps: float,
        *,
        gain: tuple[int, ...] | None = None,
        gain_offset: float = 0.0,
        axes: str = "batch pos d_model",
        **sizes: int,
    ) -> None:
        super().__init__()
        self.kind, self.over, self.eps, self.gain_offset = kind, over, eps, gain_offset
        gain = gain or over
        self.register_parameter("w", parameter(*gain) if kind in ("LN", "RMS") else None)
        self.register_parameter("b", parameter(*gain) if kind == "LN" else None)
        names = axes.split()
        scale_sizes = sizes | dict.fromkeys(names[-len(over) : -1], 1) | {"scale": 1}
        self.hook_scale = HookPoint(" ".join([*names[:-1], "scale"]), collected=True, **scale_sizes)
        self.hook_normalized = HookPoint(axes, collected=True, **{names[-1]: over[-1]} | sizes)

    @property
    def gain(self) -> Tensor | None:
        """What the normalized value is multiplied by."""
        w = self.w
        return w if w is None or not self.gain_offset else w + self.gain_offset

    def forward(self, x: Tensor) -> Tensor:
        if not (self.hook_scale.hooked or self.hook_normalized.hooked):
            return self.fused(x)
        centred, scale = self.statistics(x)
        changed = self.hook_scale.beside(scale)
        normalized = centred / (scale if changed is None else changed)
        shown = self.hook_normalized.beside(normalized)
        if changed is None and shown is None:
            return self.fused(x)
        return self._with_gain((normalized if shown is None else shown).to(x.dtype))

    def _with_gain(self, normalized: Tensor) -> Tensor:
        gain, b = self._own_parameters
        normalized = normalized if gain is None else normalized * gain
        return normalized if b is None else normalized + b

    @property
    def _own_parameters(self) -> tuple[Tensor | None, Tensor | None]:
        """Gain and bias, of the heads that this process has."""
        gain, b = self.gain, self.b
        if self.ranks is None:
            return gain, b
        return None if gain is None else self._own(gain), None if b is None else self._own(b)

    def fused(self, x: Tensor) -> Tensor:
        """The same values in one kernel; hooks don't fire."""
        if HOLDING and HELD.get():
            centred, scale = self.statistics(x)
            return self._with_gain((centred / scale).to(x.dtype))
        w, b = self._own_parameters
        separate = w if w is not None and w.shape != self.over else None  # more gains than the kernel normalizes over
        kernel_w, kernel_b = (w, b) if separate is None else (None, None)
        if self.kind in ("LN", "LNPre"):
            x = F.layer_norm(x, self.over, kernel_w, kernel_b, self.eps)
        else:
            x = F.rms_norm(x, self.over, kernel_w, self.eps)
        if separate is None:
            return x
        return x * separate if b is None else x * separate + b

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input, centred unless RMS, and the scale that divides it, both at least in float32."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = tuple(range(-len(self.over), 0))
        if self.kind in ("LN", "LNPre"):
            x = x - x.mean(axes, keepdim=True)
        scale = (x.pow(2).mean(axes, keepdim=True) + self.eps).sqrt()
        return x, scale.detach() if HOLDING and HELD.get() else scale

    def show(self, x: Tensor) -> None:
        """Show the statistics of a stream to the hooks, where each reader of the stream normalizes its own input.

        Raises:
            HookConflict: a hook changes the statistics or waits for their gradient, which cannot reach the readers.
        """
        if not (self.hook_scale.hooked or self.hook_normalized.hooked):
            return
        centred, scale = self.statistics(x)
        for point, value in ((self.hook_scale, scale), (self.hook_normalized, centred / scale)):
            listening = any(hook.direction == "bwd" and not hook.watches for hook in point.hooks)
            if listening or not torch.allclose(point(value), value, rtol=0, atol=0, equal_nan=True):
                raise HookConflict(
                    f"a hook changes {point.name}, or waits for its gradient, in a pass in which a reader's input "
                    "(hook_q_input, hook_k_input, hook_v_input, hook_attn_in, or hook_mlp_in of a parallel block with "
                    "one norm) is hooked too. Each reader then has a stream and statistics of its own; hook those "
                    "inputs, or drop one of the two hooks"
                )


class NoNorm(nn.Module):
    """Nothing is normalized, so there is nothing to hook."""

    w = b = gain = kind = None

    def forward(self, x: Tensor) -> Tensor:
        return x

    fused = forward

    def show(self, x: Tensor) -> None:
        pass


def norm(cfg: HookedTransformerConfig, kind: NormalizationType | None, reads: int = 0, width: int = 0) -> Norm | NoNorm:
    """A normalization over `width` (default: `d_model`) of that kind, or none.

    `reads` is the layer that the stream is about to enter.
    """
    if kind is None:
        return NoNorm()
    eps = cfg.eps / cfg.stream_scale_at(reads) ** 2
    return Norm(kind, (width or cfg.d_model,), eps, gain_offset=cfg.norm_gain_offset)


def embed_norm(cfg: HookedTransformerConfig) -> Norm | NoNorm:
    """The normalization of the embeddings, or none."""
    kind = cfg.embed_norm_type
    if kind is None:
        return NoNorm()
    width, eps = cfg.d_embed or cfg.d_model, cfg.embed_norm_eps or cfg.eps
    return Norm(kind, (width,), eps, gain_offset=cfg.norm_gain_offset)


def head_norm(cfg: HookedTransformerConfig, heads: int, layer: int) -> Norm | NoNorm:
    """The normalization of queries or keys [batch, pos, head, d_head] that `cfg.qk_norm` asks for in a layer."""
    if not cfg.normalizes_qk(layer) or cfg.qk_norm_type is None:
        return NoNorm()
    d_head = cfg.d_head_at(layer)
    every = (heads, d_head)
    return Norm(
        cfg.qk_norm_type,
        every if cfg.qk_norm == "all_heads" else (d_head,),
        cfg.eps,
        gain=(d_head,) if cfg.qk_norm == "shared" else every,
        gain_offset=cfg.norm_gain_offset,
        axes="batch pos head d_head",
        head=heads,
    )


def value_norm(cfg: HookedTransformerConfig, groups: int, layer: int) -> Norm | NoNorm:
    """The normalization of each head's values [batch, pos, head, d_head] that the config asks for, or none."""
    if cfg.v_norm_type is None:
        return NoNorm()
    over, axes = (cfg.d_value_at(layer),), "batch pos head d_head"
    return Norm(cfg.v_norm_type, over, cfg.eps, gain_offset=cfg.norm_gain_offset, axes=axes, head=groups)
