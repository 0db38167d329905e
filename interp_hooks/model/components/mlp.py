"""The feed-forward layer, plain or gated, and its activation functions.

plain:  pre = x W_in + b_in                                        post = act(pre)
"_ln":  pre = x W_in + b_in,   mid = act(pre)                      post = LayerNorm(mid)
gated:  pre = x W_gate + b_gate,  pre_linear = x W_in + b_in       post = act(pre) * pre_linear
sparse: the same with relu(pre - quantile) for pre, of normally distributed numbers with mean and spread of the token's
out = post W_out + b_out
"""

from collections.abc import Callable
from statistics import NormalDist

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.components.weights import TRANSPOSED, Spreadable, linear, parameter
from interp_hooks.model.config import HookedTransformerConfig


def gelu_new(x: Tensor) -> Tensor:
    """GPT-2's GELU, whose normal distribution function is approximated by a tanh."""
    return F.gelu(x, approximate="tanh")


gelu_fast = gelu_new  # three published names of one formula, with gelu_pytorch_tanh


def solu(x: Float[Tensor, "*rest neuron"]) -> Float[Tensor, "*rest neuron"]:
    """x * softmax(x) over the neurons (transformer-circuits.pub/2022/solu), without the norm that follows it there."""
    return x * x.softmax(-1)


def _quick_gelu(x: Tensor) -> Tensor:  # no lambda, so that models can be pickled
    return x * torch.sigmoid(1.702 * x)


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "gelu_fast": gelu_fast,
    "gelu_pytorch_tanh": gelu_new,
    "quick_gelu": _quick_gelu,
    "silu": F.silu,
    "relu2": _relu2,
    "tanh": torch.tanh,
    "solu": solu,
}


class XIELU(Spreadable):
    """A parabola for positive and an integrated exponential for negative values (arxiv.org/abs/2411.13010).

    Its two curvatures are the softplus of learned numbers, plus beta for negative values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beta, self.floor = 0.5, -1e-6
        self.alpha_p, self.alpha_n = parameter(1), parameter(1)

    def forward(self, x: Tensor) -> Tensor:
        positive, negative = F.softplus(self._own(self.alpha_p)), self.beta + F.softplus(self._own(self.alpha_n))
        below = (torch.expm1(x.clamp(max=self.floor)) - x) * negative + self.beta * x
        return torch.where(x > 0, positive * x * x + self.beta * x, below)


def activation(cfg: HookedTransformerConfig) -> Callable[[Tensor], Tensor]:
    """The activation function that the config names, without a norm after it; a module if it has parameters."""
    return XIELU() if cfg.act_fn == "xielu" else ACTIVATIONS[str(cfg.act_fn).removesuffix("_ln")]


class Gating:
    """post = act(pre) * pre_linear; some models bound or multiply both factors, or add to the linear one, before."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        self.act_fn, self.clamp, self.offset = ACTIVATIONS[str(cfg.act_fn)], cfg.mlp_clamp, cfg.mlp_linear_offset
        self.gate_scale, self.scale = cfg.mlp_gate_scale, cfg.mlp_out_scale

    def __call__(self, pre: Tensor, pre_linear: Tensor) -> Tensor:
        if self.clamp:
            pre, pre_linear = pre.clamp(max=self.clamp), pre_linear.clamp(-self.clamp, self.clamp)
        pre = pre if self.gate_scale == 1 else pre * self.gate_scale
        post = self.act_fn(pre) * (pre_linear + self.offset if self.offset else pre_linear)
        return post if self.scale == 1 else post * self.scale


class CutOff:
    """A gate above the quantile of all gates of its token, were they normally distributed; 0 below it.

    As in the first layers of Gemma 3n, which have few active neurons so; `share` of them are cut off.
    """

    def __init__(self, share: float) -> None:
        self.deviations = NormalDist().inv_cdf(share)

    def __call__(self, pre: Float[Tensor, "*rows neuron"]) -> Float[Tensor, "*rows neuron"]:
        mean, spread = pre.mean(-1, keepdim=True), pre.std(-1, keepdim=True, unbiased=False)
        return F.relu(pre - (mean + spread * self.deviations))


class Neurons(Spreadable):
    """What the feed-forward layers have in common: neurons read the stream by weights of their own. Abstract."""

    def _entering(self, x: Tensor) -> Tensor:
        return x if self.ranks is None else self.ranks.read(x)

    def _read(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear(x, self._own(weight), self._own(bias))


class MLP(Neurons):
    """The plain feed-forward layer; its neurons may pass a LayerNorm, as after SoLU."""

    ln: Norm | None

    def __init__(self, cfg: HookedTransformerConfig, width: int) -> None:
        super().__init__()
        self.act_fn = activation(cfg)
        self.W_in, self.b_in = parameter(cfg.d_model, width, lies=TRANSPOSED), parameter(width)
        self.W_out, self.b_out = parameter(width, cfg.d_model, lies=TRANSPOSED), parameter(cfg.d_model)
        self.hook_pre = HookPoint("batch pos neuron", neuron=width)
        self.ln = None
        if cfg.normalizes_neurons:
            self.hook_mid = HookPoint("batch pos neuron", neuron=width)
            kind = "LN" if cfg.normalization_type == "LN" else "LNPre"
            self.ln = Norm(kind, (width,), cfg.eps, axes="batch pos neuron")
        self.hook_post = HookPoint("batch pos neuron", neuron=width)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        post = self.act_fn(self.hook_pre(self._read(self._entering(x), self.W_in, self.b_in)))
        if self.ln is not None:
            post = self.ln(self.hook_mid(post))
        return self._write(linear, self.hook_post(post), self.W_out, self.b_out)


class GatedMLP(Neurons):
    """The feed-forward layer whose neurons multiply an activated gate with a linear part (arxiv.org/abs/2002.05202)."""

    def __init__(self, cfg: HookedTransformerConfig, width: int, cut_off: float = 0.0) -> None:
        super().__init__()
        self.gating, self.cut_off = Gating(cfg), CutOff(cut_off) if cut_off else None
        self.W_gate, self.b_gate = parameter(cfg.d_model, width, lies=TRANSPOSED), parameter(width)
        self.W_in, self.b_in = parameter(cfg.d_model, width, lies=TRANSPOSED), parameter(width)
        self.W_out, self.b_out = parameter(width, cfg.d_model, lies=TRANSPOSED), parameter(cfg.d_model)
        self.hook_pre = HookPoint("batch pos neuron", neuron=width)
        self.hook_pre_linear = HookPoint("batch pos neuron", neuron=width)
        self.hook_post = HookPoint("batch pos neuron", neuron=width)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        x = self._entering(x)
        pre = self.hook_pre(self._read(x, self.W_gate, self.b_gate))
        pre_linear = self.hook_pre_linear(self._read(x, self.W_in, self.b_in))
        pre = pre if self.cut_off is None else self.cut_off(pre)
        post = self.hook_post(self.gating(pre, pre_linear))
        return self._write(linear, post, self.W_out, self.b_out)


def mlp(cfg: HookedTransformerConfig, width: int, cut_off: float = 0.0) -> MLP | GatedMLP:
    """A feed-forward layer of the kind that the config names, `width` neurons wide."""
    return GatedMLP(cfg, width, cut_off) if cfg.gated_mlp else MLP(cfg, width)
