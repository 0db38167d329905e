"""The architecture of an indexer, which chooses the keys that queries see, as one frozen value."""

from dataclasses import dataclass

from interp_hooks.errors import ConfigError
from interp_hooks.model.field_types import check_fields, make_tuples


@dataclass(frozen=True, kw_only=True)
class IndexerConfig:
    """A choice of the keys that each query sees, in latent attention (DeepSeek-AI 2025, arxiv.org/abs/2512.02556).

        >>> indexer = IndexerConfig(n_heads=2, d_head=4, top_k=3, layers=(True, False))
        >>> latents = dict(kv_latent=5, q_latent=6, positional_embedding_type="rotary", rotary_dim=2)
        >>> sizes = dict(n_layers=2, d_model=16, n_ctx=8, n_heads=2, d_vocab=50, act_fn="relu")
        >>> HookedTransformerConfig(**sizes, **latents, indexer=indexer).lender_of(1)
        0

    `n_heads` heads of width `d_head` score keys, and each query sees the `top_k` keys that it scores highest. `layers`
    says for each layer whether it has such an indexer; one without sees what the last layer before it that has one has
    chosen. As much of these heads rotates as of the others, in adjacent pairs if `adjacent_pairs`.
    """

    n_heads: int
    d_head: int
    top_k: int
    layers: tuple[bool, ...]
    adjacent_pairs: bool = False

    def __post_init__(self) -> None:
        make_tuples(self)
        check_fields(self)
        for field in ("n_heads", "d_head", "top_k"):
            if getattr(self, field) < 1:
                raise ConfigError(f"indexer.{field} must be positive, got {getattr(self, field)}")
        if not self.layers or not self.layers[0]:
            raise ConfigError("indexer.layers: the first layer has none before it that has chosen, so it must be True")

    def n_weights(self, d_model: int, q_latent: int) -> int:
        """How many weights the indexer of a layer has, without biases and gains."""
        return self.n_heads * self.d_head * q_latent + d_model * (self.d_head + self.n_heads)
