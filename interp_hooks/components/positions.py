"""Where a token stands: learned vectors added to the stream, or rotations of queries and keys.

A rotary embedding turns pair f of a head's dimensions by the angle position * inv_freq[f] (Su et al. 2021,
arxiv.org/abs/2104.09864), so that a score depends on the distance of query and key alone. The angles of a forward pass
are computed once and shared by all layers. Scaled frequencies (linear, dynamic, yarn, longrope, llama3, ...) come from
the initialisers of `transformers`, which are looked up only when a config asks for one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_hooks.components.weights import parameter
from interp_hooks.config import HookedTransformerConfig
from interp_hooks.errors import ConfigError, nearest

DEPENDS_ON_LENGTH = ("dynamic", "longrope")


class LearnedPositions(nn.Module):
    """One vector per position."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.W_pos = parameter(cfg.n_ctx, cfg.d_model)

    def forward(self, positions: Int[Tensor, "rows pos"], batch: int) -> Float[Tensor, "batch pos d_model"]:
        return self.W_pos[positions].expand(batch, -1, -1)


class Rotation(NamedTuple):
    """Cosine and sine of every angle of a pass, [rows pos 1 pair]; rows is 1 where all prompts share positions."""

    cos: Tensor
    sin: Tensor


class RotaryPositions(nn.Module):
    """Turns positions into the `Rotation` of a forward pass. It has no weights."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.dim, self.base, self.d_head = cfg.rotary_dim, cfg.rotary_base, cfg.d_head
        self.scaling = None if cfg.rotary_scaling is None else dict(cfg.rotary_scaling)

    def forward(self, positions: Int[Tensor, "rows pos"], dtype: torch.dtype) -> Rotation:
        precise = torch.promote_types(dtype, torch.float32)
        inv_freq, factor = self.frequencies(positions)
        angles = positions[..., None].to(precise) * inv_freq.to(positions.device, precise)  # rows pos pair
        cos, sin = (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)
        return Rotation(cos.unsqueeze(2), sin.unsqueeze(2))

    def frequencies(self, positions: Int[Tensor, "rows pos"]) -> tuple[Float[Tensor, " pair"], float]:
        """Angle per position of every pair, and what sine and cosine are multiplied by."""
        if self.scaling is None:
            pairs = torch.arange(0, self.dim, 2, dtype=torch.float32, device=positions.device)
            return 1.0 / self.base ** (pairs / self.dim), 1.0
        return scaled_frequencies(self.scaling, self.d_head, positions)


def scaled_frequencies(
    scaling: Mapping[str, Any], d_head: int, positions: Int[Tensor, "rows pos"]
) -> tuple[Float[Tensor, " pair"], float]:
    """Frequencies by the initialiser that `transformers` registers for `scaling["rope_type"]`.

    Raises:
        ConfigError: a rope type that the installed transformers does not have.
    """
    from transformers import PretrainedConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope_type = scaling["rope_type"]
    if rope_type not in ROPE_INIT_FUNCTIONS:
        raise ConfigError(
            f"the installed transformers has no rotary scaling {rope_type!r}; it has {', '.join(ROPE_INIT_FUNCTIONS)}."
            f"{nearest(rope_type, ROPE_INIT_FUNCTIONS)}"
        )
    rope = {key: value for key, value in scaling.items() if key != "max_position_embeddings"}
    config = PretrainedConfig()
    config.head_dim = config.hidden_size = d_head  # some initialisers ask for one, some for the other
    config.num_attention_heads, config.max_position_embeddings = 1, scaling["max_position_embeddings"]
    config.rope_parameters = rope
    seq_len = int(positions.max()) + 1 if rope_type in DEPENDS_ON_LENGTH else None
    if rope_type == "dynamic" and seq_len <= config.max_position_embeddings:
        seq_len = None
    inv_freq, factor = ROPE_INIT_FUNCTIONS[rope_type](config, positions.device, seq_len=seq_len)
    return inv_freq, factor


def rotate(
    x: Float[Tensor, "batch pos head d_head"], rotation: Rotation, adjacent_pairs: bool
) -> Float[Tensor, "batch pos head d_head"]:
    """Turn the first 2 * pair dimensions of every head; pairs are (i, i + half), or (2i, 2i + 1) if adjacent."""
    cos, sin = rotation
    width = 2 * cos.shape[-1]
    turned, kept = x[..., :width], x[..., width:]
    if adjacent_pairs:
        first, second = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned if kept.shape[-1] == 0 else torch.cat((turned, kept), dim=-1)
