"""Rotary positions: queries and keys are turned by an angle that grows with their position.

A rotary embedding turns pair f of a head's dimensions by the angle position * inv_freq[f] (Su et al. 2021,
arxiv.org/abs/2104.09864), so that a score depends on the distance of query and key alone. The angles of a forward pass
are computed once for all layers that share frequencies. Scaled frequencies (linear, dynamic, yarn, longrope, llama3,
...) come from the initialisers of `transformers`, which are looked up only when a config asks for one.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from interp_hooks.errors import BadInput, ConfigError, nearest
from interp_hooks.model.config import HookedTransformerConfig

DEPENDS_ON_LENGTH = ("dynamic", "longrope")


class Rotation(NamedTuple):
    """How dimensions turn in a pass, [rows pos 1 turning]; one row if all prompts share positions.

    `cos` is the cosine of each dimension's angle, `sin` the sine with the sign with which the other of its pair is
    added. Pairs are (i, i + half), or (2i, 2i + 1) if `adjacent`. `query_scale` [rows pos 1 1] is a factor for rotated
    queries.
    """

    cos: Tensor
    sin: Tensor
    adjacent: bool
    query_scale: Tensor | None = None

    @staticmethod
    def of_pairs(cos: Tensor, sin: Tensor, adjacent: bool, query_scale: Tensor | None = None) -> "Rotation":
        """From the cosine and sine of the angle of each pair [rows pos 1 pair]."""
        return Rotation(by_dimension(cos, cos, adjacent), by_dimension(-sin, sin, adjacent), adjacent, query_scale)

    def paired(self, adjacent: bool) -> "Rotation":
        """The same angles for heads whose pairs are adjacent, or are not."""
        if adjacent == self.adjacent:
            return self
        (cos, _), (_, sin) = (in_pairs(one, self.adjacent) for one in (self.cos, self.sin))
        return Rotation.of_pairs(cos, sin, adjacent, self.query_scale)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Rotation":
        """This rotation with all its tensors changed alike."""
        scale = None if self.query_scale is None else change(self.query_scale)
        return Rotation(change(self.cos), change(self.sin), self.adjacent, scale)

    def to(self, device: torch.device) -> "Rotation":
        """This rotation on another device."""
        return self.each(lambda x: x.to(device))

    def of_one_head(self) -> "Rotation":
        """This rotation for queries or keys of a single head, [rows pos turning], without an axis for heads."""
        return self.each(lambda x: x[..., 0, :])


def by_dimension(
    first: Num[Tensor, "*rows pair"], second: Num[Tensor, "*rows pair"], adjacent: bool
) -> Num[Tensor, "*rows turning"]:
    """The values of dimensions in their order, from those of the first and of the second one of every pair."""
    return torch.stack((first, second), dim=-1).flatten(-2) if adjacent else torch.cat((first, second), dim=-1)


def in_pairs(
    values: Num[Tensor, "*rows turning"], adjacent: bool
) -> tuple[Num[Tensor, "*rows pair"], Num[Tensor, "*rows pair"]]:
    """The values of the first and of the second dimension of every pair."""
    first, second = values.unflatten(-1, (-1, 2)).unbind(-1) if adjacent else values.chunk(2, dim=-1)
    return first, second


class RotaryPositions(nn.Module):
    """Makes rotations from positions, one for each kind of layer. It has no weights."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.dim, self.d_head, self.turn = cfg.rotary_dim, cfg.d_head, -1.0 if cfg.rotary_reversed else 1.0
        self.adjacent, self.log_scale = cfg.rotary_adjacent_pairs, cfg.attn_log_scale
        self.kinds = [dict(rope) for rope in cfg.rotary_kinds]
        ropes = [cfg.rotary_at(layer) for layer in range(cfg.n_layers)]
        self.kind_of_layer = [None if rope is None else self.kinds.index(dict(rope)) for rope in ropes]
        for rope in self.kinds:
            self._check(rope)

    def _check(self, rope: Mapping[str, Any]) -> None:
        """Raises ConfigError for parameters that give no frequencies, in a short text or in a long one."""
        try:
            long = rope.get("max_position_embeddings", 1) if rope["rope_type"] in DEPENDS_ON_LENGTH else 0
            for last in (0, long):
                with torch.device("cpu"):  # a model may be made on the meta device
                    inv_freq, factor = self.frequencies(rope, torch.tensor([[last]]))
                if not bool((inv_freq * factor).isfinite().all()) or inv_freq.shape[-1] > self._width(rope) // 2:
                    raise ValueError(f"they give {inv_freq.shape[-1]} frequencies {inv_freq.flatten()[:3].tolist()}")
        except ConfigError:
            raise
        except Exception as error:  # transformers computes with whatever is there
            why = f"{type(error).__name__}: {error}"
            raise ConfigError(f"the rotary parameters {rope} cannot be used ({why:.200})") from error

    def forward(self, positions: Int[Tensor, "rows pos"], dtype: torch.dtype) -> list[Rotation | None]:
        """The rotation of every layer, None where a layer has none."""
        rotations = [self.rotation(rope, positions, dtype) for rope in self.kinds]
        return [None if kind is None else rotations[kind] for kind in self.kind_of_layer]

    def rotation(self, rope: Mapping[str, Any], positions: Int[Tensor, "rows pos"], dtype: torch.dtype) -> Rotation:
        """The rotation by the parameters of one kind of layer."""
        precise = torch.promote_types(dtype, torch.float32)
        inv_freq, factor = self.frequencies(rope, positions)
        angles = positions[..., None].to(precise) * inv_freq.to(positions.device, precise)[:, None]  # rows pos pair
        cos, sin = (angles.cos() * factor).to(dtype), (angles.sin() * (factor * self.turn)).to(dtype)
        scale = None if self.log_scale is None else log_scale(positions, *self.log_scale).to(dtype)
        return Rotation.of_pairs(cos.unsqueeze(2), sin.unsqueeze(2), self.adjacent, scale)

    def frequencies(
        self, rope: Mapping[str, Any], positions: Int[Tensor, "rows pos"]
    ) -> tuple[Float[Tensor, "_ pair"], float]:
        """The angle per position of every pair (one row if all are alike), and the factor of sine and cosine."""
        if rope["rope_type"] == "default":
            width = self._width(rope)
            pairs = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device)
            return 1.0 / rope["rope_theta"] ** (pairs[None] / width), 1.0
        width = self.d_head if "partial_rotary_factor" in rope and "head_dim" not in rope else self._width(rope)
        if rope["rope_type"] not in DEPENDS_ON_LENGTH:
            inv_freq, factor = scaled_frequencies(rope, width, None, positions.device)
            return inv_freq[None], factor
        lengths = regime(rope, positions.amax(1) + 1).tolist()
        found = {length: scaled_frequencies(rope, width, length, positions.device) for length in {*lengths}}
        return torch.stack([found[length][0] for length in lengths]), found[lengths[0]][1]

    def _width(self, rope: Mapping[str, Any]) -> int:
        """How many dimensions of a head turn; layers with heads of their own width say which (`rotary_at`)."""
        return rope.get("head_dim", self.dim)

    def refuse_other_keys(self, read: Int[Tensor, " #rows"], total: Int[Tensor, " #rows"]) -> None:
        """Raise BadInput if keys that were rotated for texts of `read` tokens do not fit texts of `total` tokens."""
        if self.turns_anew(read, total):
            raise BadInput(
                "this model's rotary frequencies depend on how long the text is, and the keys in past_kv_cache were "
                "rotated for a shorter one. Read all tokens again with a new cache"
            )

    def refuse_mixed_lengths(self, positions: Int[Tensor, "rows pos"]) -> None:
        """Raise BadInput if rows hold several documents and one of them is so long that it has its own frequencies."""
        if self.turns_anew(torch.ones_like(positions[:, 0]), positions.amax(1) + 1):
            raise BadInput(
                "this model's rotary frequencies depend on how long a text is, and a document of a row that holds "
                "several is longer than the original context; give it a row of its own, without documents="
            )

    def turns_anew(self, read: Int[Tensor, " #rows"], total: Int[Tensor, " #rows"]) -> bool:
        """Whether frequencies change between `read` and `total` tokens, so that old keys do not fit new ones."""
        ropes = [rope for rope in self.kinds if rope["rope_type"] in DEPENDS_ON_LENGTH]
        return any(bool((regime(rope, read) != regime(rope, total)).any()) for rope in ropes)


def regime(rope: Mapping[str, Any], lengths: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The length that decides the frequencies: within the original context, all lengths count as one."""
    if rope["rope_type"] == "dynamic":
        return lengths.clamp(min=rope["max_position_embeddings"])
    original = rope.get("original_max_position_embeddings") or rope["max_position_embeddings"]
    return torch.where(lengths > original, original + 1, original)


def scaled_frequencies(
    scaling: Mapping[str, Any], width: int, length: int | None, device: torch.device
) -> tuple[Float[Tensor, " pair"], float]:
    """Frequencies for heads of `width`, by the initialiser that `transformers` has for `scaling["rope_type"]`.

    `length` is the length of the text, for scalings that depend on it.

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
    rope = {key: value for key, value in scaling.items() if key not in ("max_position_embeddings", "head_dim")}
    config = PretrainedConfig()
    config.head_dim = config.hidden_size = width  # some initialisers ask for one, some for the other
    config.num_attention_heads, config.max_position_embeddings = 1, scaling["max_position_embeddings"]
    config.rope_parameters = rope
    inv_freq, factor = ROPE_INIT_FUNCTIONS[rope_type](config, device, seq_len=length)
    return inv_freq, factor


def rotate(x: Float[Tensor, "batch pos head d_head"], rotation: Rotation) -> Float[Tensor, "batch pos head d_head"]:
    """Rotate the first dimensions of every head, as many as the rotation has.

    The result has the dtype of `x`, which must not be narrower than that of the rotation.
    """
    cos, sin, adjacent, _ = rotation
    width = cos.shape[-1]
    turning = x if width == x.shape[-1] else x[..., :width]
    others = turning.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if adjacent else turning.roll(width // 2, -1)
    turned = (turning * cos).add_(others.mul_(sin))  # of this function's own, so that fewer tensors are made
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), dim=-1)


def log_scale(positions: Int[Tensor, "rows pos"], beta: float, original: int) -> Float[Tensor, "rows pos 1 1"]:
    """The factor of queries far beyond the original context: 1 + beta log(1 + floor(position / original))."""
    return (1 + beta * torch.log1p(torch.floor(positions / original)))[..., None, None]
