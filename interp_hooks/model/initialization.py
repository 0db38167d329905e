"""Weights to begin training with: matrices drawn around zero, biases zero, gains one.

    gpt2               normal, standard deviation r                    r defaults to 0.8 / sqrt(d_model)
    xavier_normal      normal, r sqrt(2 / (fan_in + fan_out))          Glorot & Bengio 2010
    xavier_uniform     uniform within r sqrt(6 / (fan_in + fan_out))
    kaiming_normal     normal, r sqrt(2 / fan_in)                      He et al. 2015, arxiv.org/abs/1502.01852
    kaiming_uniform    uniform within r sqrt(6 / fan_in)
    muP                normal, r / sqrt(fan_in); r for embeddings, r / fan_in for the unembedding
                                                                       Yang et al. 2022, arxiv.org/abs/2203.03466

r is `cfg.initializer_range`, 1 by default but for gpt2. Fans are those of the whole linear map: W_Q reads d_model
numbers and writes n_heads * d_head, W_O the other way round; a table of embeddings reads one number for each row.
"""

import math

import torch
from torch import Tensor, nn

from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.config import InitMode

EMBEDDINGS = ("W_E", "W_pos", "W_token_type")
# Where training of xIELU begins (arxiv.org/abs/2411.13010): both curvatures 0.8, as what softplus is taken of.
CURVATURES = {"alpha_p": math.log(math.expm1(0.8)), "alpha_n": math.log(math.expm1(0.3))}
STARTS = CURVATURES | {
    "D": 1.0,  # a state space model's token reads itself as it is
    "slope": math.log(2) / 16,  # a head of lightning attention forgets half in as many tokens
    **dict.fromkeys((f"lambda_{part}" for part in ("q1", "k1", "q2", "k2")), 0.1),  # as far from 0 as they are drawn
    **dict.fromkeys(("gain_router", "gain_read"), 1.0),
    "decay": math.log(1 / 0.95 - 1),  # where its gate is half open, a channel keeps 0.95^4 of its state
}
BY_HEAD = ("W_I", "W_R")  # which read the channels of each head alone


@no_gradients
def initialize(model: nn.Module, mode: InitMode, initializer_range: float, seed: int | None) -> None:
    """Draw all weights anew, but for those of spliced modules; a seed means the same on every device and dtype.

    Without a seed torch's global generator draws; with one it is left alone. Gains become one, with their offset.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    spliced = {id(one) for part in model.modules() if isinstance(part, HookPoint) for one in part.parameters()}
    for name, weight in model.named_parameters():
        if id(weight) in spliced:
            continue
        kind = name.rpartition(".")[2]
        if kind.startswith("W"):
            deviation = initializer_range * relative_deviation(mode, kind, *fans(name, weight))
            bound = deviation * math.sqrt(3)  # the variance of a uniform distribution is a third of its bound's square
            drawn = torch.empty(weight.shape, dtype=torch.float32, device="cpu")
            if mode.endswith("uniform"):
                drawn.uniform_(-bound, bound, generator=generator)
            else:
                drawn.normal_(0.0, deviation, generator=generator)
            weight.copy_(drawn)
        else:
            gain = 1.0 - getattr(model.get_submodule(name.rpartition(".")[0]), "gain_offset", 0.0)
            weight.fill_(gain if kind == "w" else STARTS.get(kind, 0.0))


def relative_deviation(mode: InitMode, kind: str, fan_in: int, fan_out: int) -> float:
    """The standard deviation of a weight whose name in its layer is `kind`, where `initializer_range` is 1."""
    if mode.startswith("xavier"):
        return math.sqrt(2 / (fan_in + fan_out))
    if mode.startswith("kaiming"):
        return math.sqrt(2 / fan_in)
    if mode == "gpt2" or kind in EMBEDDINGS:
        return 1.0
    return 1 / fan_in if kind == "W_U" else 1 / math.sqrt(fan_in)


def fans(name: str, weight: Tensor) -> tuple[int, int]:
    """How many numbers the linear map of a weight reads, and how many it writes."""
    if name.endswith("convolution.W"):  # each channel is read through a filter of its own
        return weight.shape[1], 1
    *heads, inner, outer = weight.shape
    if not heads or ".experts." in name or name.endswith(BY_HEAD):  # each expert, or head, is a map of its own
        return inner, outer
    return (heads[0] * inner, outer) if name.endswith("W_O") else (inner, heads[0] * outer)
