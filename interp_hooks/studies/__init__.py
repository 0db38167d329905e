"""Studies of what a part of the model is for: lenses, heads, neurons, singular vectors, waves."""

from interp_hooks import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "lenses": ["Lens", "LensResult", "LogitLens", "logit_lens"],
        "lenses.files": ["load_lens", "save_lens"],
        "lenses.vectors": ["LensVectors", "lens_vectors"],
        "lenses.decomposition": ["LensDecomposition", "lens_decomposition"],
        "lenses.tuned": ["fit_tuned_lens"],
        "lenses.jacobian": ["fit_jacobian_lens", "gather_jacobian_lens"],
        "logit_attribution": ["direct_logit_attribution"],
        "covariances": ["JointMoments"],
        "directions": ["DirectionTokens", "tokens_of"],
        "erasure": ["Erasure", "erase_concept", "erase_concept_of_corpus", "leace"],
        "interchange": ["Interchange", "fit_das", "interchange_accuracy"],
        "features.causes": ["feature_effects"],
        "features.relations": ["RelatedFeatures", "related_features"],
        "features.units": ["feature_units"],
        "findings": ["Finding", "check_findings"],
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
        "heads.affinity": ["WeightComposition", "weight_composition"],
        "heads.composing": ["composition_parts", "shares_of"],
        "heads.criteria": ["HEAD_CRITERIA"],
        "heads.metrics": ["HeadMetrics", "attention_metrics", "head_metrics"],
        "heads.hops": ["token_paths"],
        "heads.offsets": ["content_circuit", "position_profile", "rotary_wavelengths"],
        "heads.pairs": ["ComposingHeads", "composing_heads", "path_effects"],
        "heads.roles": ["ROLES", "HeadRoles", "Role", "follows_positions", "head_roles"],
        "heads.scores": ["score_split"],
        "heads.sources": ["direct_effect_by_source", "result_by_source"],
        "heads.stability": ["RoleStability", "role_stability"],
        "heads.vocabulary": ["copying_scores", "qk_tokens", "relation_scores", "salient_tokens"],
        "norms": ["freeze_norms", "norm_effects", "norm_statistics"],
        "probes.fitting": ["LinearProbe", "logistic", "ridge"],
        "probes.probing": ["Probes", "linear_probe", "probe_corpus"],
        "svd": ["SVDInterpreter"],
        "wikis.columns": ["Column"],
        "wikis.comparing": ["compare"],
        "wikis.making": ["wiki"],
        "wikis.tables": ["Wiki"],
    },
)


def __dir__() -> list[str]:
    return __all__
