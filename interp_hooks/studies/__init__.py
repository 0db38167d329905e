"""Studies of what a part of the model is for: lenses, heads, neurons, singular vectors, waves."""

from interp_hooks import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "lenses": ["LogitLens", "direct_logit_attribution", "logit_lens"],
        "directions": ["DirectionTokens", "tokens_of"],
        "heads": ["detect_head", "head_scores"],
        "neurons.boosts": ["LogitBoost", "logit_boost"],
        "neurons.causes": ["AblationEffects", "ablation_effects"],
        "neurons.contexts": ["neuron", "neuron_reducers"],
        "neurons.illusions": ["Illusion", "illusion"],
        "neurons.tables": ["neuron_table"],
        "neurons.truncation": [
            "Shortened",
            "and_ness",
            "minimal_example",
            "random_direction",
            "token_importance",
            "truncated_prompt",
        ],
        "neurons.vocabulary": ["Thresholds", "VocabularyEffect", "vocabulary_effect"],
        "svd": ["SVDInterpreter"],
    },
)


def __dir__() -> list[str]:
    return __all__
