"""The uniform transformer: its config, its parts, its text, its weights, and the cache of a pass."""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "transformer": ["HookedTransformer"],
        "network": ["Output"],
        "config": ["ExpertsConfig", "HookedTransformerConfig"],
        "cache.activation_cache": ["ActivationCache"],
        "components.kv_cache": ["KeyValueCache"],
        "components.mlp": ["gelu_new", "solu"],
        "factored": ["FactoredMatrix", "composition_scores"],
        "indexer_config": ["IndexerConfig"],
        "mixers_config": ["MixersConfig"],
        "losses": ["lm_cross_entropy_loss"],
        "ranks": ["spread_over_ranks"],
        "sampling": ["sample_logits"],
        "training": ["HookedTransformerTrainConfig", "train"],
    },
)
