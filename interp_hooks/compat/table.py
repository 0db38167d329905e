"""Where the names of TransformerLens are here: data that `compat.install()` makes modules of."""

from collections.abc import Mapping


def _of(home: str, *names: str, **renamed: str) -> dict[str, str]:
    """Names that one module of ours has; `theirs="ours"` where the two differ."""
    return {
        theirs: f"interp_hooks.{home}:{ours}" for theirs, ours in ({name: name for name in names} | renamed).items()
    }


_BRIDGE = _of("compat.bridge", "TransformerBridge")
_CACHE = _of("model.cache.activation_cache", "ActivationCache")
_COMPONENTS = {
    **_of("compat.attention", "Attention", "GroupedQueryAttention", AbstractAttention="Attention"),
    **_of(
        "compat.components",
        *("BertMLMHead", "Embed", "GatedMLP", "MLP", "MoE", "PosEmbed", "TokenTypeEmbed", "TransformerBlock"),
        "Unembed",
    ),
    **_of("compat.classes", "LayerNorm", "LayerNormPre", "RMSNorm", "RMSNormPre"),
}
_CONFIG = _of("compat.config", "HookedTransformerConfig", TransformerLensConfig="HookedTransformerConfig")
_DIRECT_LOGITS = _of("studies.logit_attribution", "DirectLogitAttribution", "direct_logit_attribution")
_DIRECT_PATHS = _of(
    "compat.patching", "_check_fold_ln", "get_act_patch_direct_path", "get_act_patch_direct_path_all_sources"
)
_ENCODER = _of("compat.classes", "HookedEncoder")
_CONVERSION = _of("compat.hook_points", "BaseTensorConversion")
_FACTORED = _of("compat.classes", "FactoredMatrix")
_KEYS_AND_VALUES = _of(
    "compat.kv_cache",
    *("TransformerLensKeyValueCache", "TransformerLensKeyValueCacheEntry", "get_pos_offset"),
    HookedTransformerKeyValueCache="TransformerLensKeyValueCache",
    HookedTransformerKeyValueCacheEntry="TransformerLensKeyValueCacheEntry",
)
_LOADING = {
    **_of(
        "compat.loading",
        *("DEFAULT_MODEL_ALIASES", "MODEL_ALIASES", "OFFICIAL_MODEL_NAMES", "PYTHIA_CHECKPOINTS"),
        *("PYTHIA_V0_CHECKPOINTS", "STANFORD_CRFM_CHECKPOINTS", "get_num_params_of_pretrained"),
        *("get_pretrained_model_config", "get_pretrained_state_dict", "make_model_alias_map"),
    ),
    **_of("loading.checkpoints", get_official_model_name="locate"),
    **_of("loading.training_steps", get_checkpoint_labels="checkpoint_labels"),
}
_MODEL = _of("compat.model", "HookedTransformer")
_PAIRS = _of("compat.next_sentence", "BertNextSentencePrediction")
_ROOT_MODULE = _of("hooks.root_module", "HookedRootModule")
_SVD = _of("compat.classes", "SVDInterpreter")
_UTILITIES = {
    **_of("compat.answers", "test_prompt"),
    **_of(
        "compat.texts",
        *("download_file_from_hf", "get_attention_mask", "get_dataset", "get_input_with_manually_prepended_bos"),
        *("get_tokenizer_with_bos", "get_tokens_with_bos_removed", "keep_single_column", "tokenize_and_concatenate"),
    ),
    **_of(
        "compat.utilities",
        *("ActivationFunction", "SOFTCAP_DISABLED", "SUPPORTED_ACTIVATIONS", "TypedModuleList", "USE_DEFAULT_VALUE"),
        *("XIELU", "_apply_repetition_penalty", "gelu_pytorch_tanh", "relu2", "xielu"),
        *("apply_softcap", "calc_fan_in_and_fan_out", "check_structure", "filter_dict_by_prefix"),
        *("get_cumsum_along_dim", "get_nested_attr", "get_offset_position_ids"),
        *(f"init_{kind}_" for kind in ("xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal")),
        *("is_library_available", "is_lower_triangular", "is_square", "logits_to_df", "override_or_use_default_value"),
        *("remove_batch_dim", "repeat_along_head_dimension", "select_compatible_kwargs", "set_nested_attr"),
        *("softcap_enabled", "temporarily_swap_parameter", "transpose"),
    ),
    **_of("corpus.evals", "lm_accuracy"),
    **_of("views.arrays", "get_corner", "to_numpy", get_matrix_corner="get_corner"),
    **_of("model.components.mlp", "gelu_fast", "gelu_new", "solu"),
    **_of("model.factored", "composition_scores"),
    **_of("loading.load", get_device="default_device"),
    **_of("model.losses", "lm_cross_entropy_loss"),
    **_of("hooks.names", "get_act_name"),
    **_of("model.sampling", "sample_logits"),
    **_of("hooks.slices", "Slice", "SliceInput"),
    **_of("model.tokens", LocallyOverridenDefaults="overridden_defaults"),
}

# Parts of `utilities`; each of them has all the names of the whole.
UTILITIES = (
    *("activation_functions", "attribute_utils", "components_utils", "defaults_utils", "devices", "exploratory_utils"),
    *("hf_utils", "initialization_utils", "library_utils", "lm_utils", "logits_utils", "matrix", "parameter_swap"),
    *("slice", "tensors", "tokenize_utils", "typed_module_list"),
)

# Submodule -> name -> where it is here. A string is a module of ours whose `__all__` has the same names there.
MODULES: dict[str, Mapping[str, str] | str] = {
    "": {**_PAIRS, **_CACHE, **_CONFIG, **_ENCODER, **_FACTORED, **_KEYS_AND_VALUES, **_MODEL, **_ROOT_MODULE, **_SVD},
    "ActivationCache": _CACHE,
    "BertNextSentencePrediction": _PAIRS,
    "FactoredMatrix": _FACTORED,
    "HookedEncoder": _ENCODER,
    "HookedRootModule": _ROOT_MODULE,
    "HookedTransformer": {
        **_MODEL,
        **_CACHE,
        **_CONFIG,
        **_FACTORED,
        **_ROOT_MODULE,
        **_of("model.network", "Output"),
        **_of("compat.classes", "Loss", "LossPerToken", "SingleLoss"),
    },
    "HookedTransformerConfig": _CONFIG,
    "SVDInterpreter": _SVD,
    "cache": _KEYS_AND_VALUES,
    "cache.key_value_cache": _KEYS_AND_VALUES,
    "cache.key_value_cache_entry": _KEYS_AND_VALUES,
    "components": _COMPONENTS,
    **{f"components.{part}": _COMPONENTS for part in ("abstract_attention", "attention", "embed", "mlps", "unembed")},
    **{f"components.{part}": _COMPONENTS for part in ("layer_norm", "rms_norm", "transformer_block", "pos_embed")},
    **{f"components.mlps.{part}": _COMPONENTS for part in ("mlp", "gated_mlp", "moe")},
    "components.mlps.can_be_used_as_mlp": _of("compat.classes", "CanBeUsedAsMLP"),
    "config": _CONFIG,
    "config.hooked_transformer_config": _CONFIG,
    "config.transformer_lens_config": _CONFIG,
    "conversion_utils": _CONVERSION,
    "conversion_utils.conversion_steps": _CONVERSION,
    "conversion_utils.conversion_steps.base_tensor_conversion": _CONVERSION,
    "evals": {
        **_of("corpus.texts", *(f"make_{name}_data_loader" for name in ("wiki", "owt", "pile", "code"))),
        **_of("corpus.evals", "evaluate_on_dataset", "induction_loss", "sanity_check", evaluate="corpus_losses"),
        **_of("compat.mmlu", "mmlu_eval"),
        **_of("compat.ioi_dataset", "IOIDataset", "ioi_eval"),
    },
    "head_detector": {
        **_of(
            "studies.heads",
            *("ErrorMeasure", "HEAD_NAMES", "HeadName", "compute_head_attention_similarity_score"),
            *(f"get_{kind}_head_detection_pattern" for kind in ("previous_token", "duplicate_token", "induction")),
            "get_supported_heads",
        ),
        **_of("compat.heads", "detect_head"),
    },
    "hook_points": {
        **_of("compat.classes", "HookIntrospectionMixin"),
        **_of("compat.hook_points", "HookPoint"),
        **_of("hooks.points", HookFunction="HookFn", LensHandle="Hook", NamesFilter="NameFilter"),
        **_ROOT_MODULE,
    },
    "loading": _LOADING,
    "loading_from_pretrained": _LOADING,
    "past_key_value_caching": _KEYS_AND_VALUES,
    "model_bridge": _BRIDGE,
    "model_bridge.bridge": _BRIDGE,
    "patching": "interp_hooks.compat.patching",
    "supported_models": _LOADING,
    "tools": {},
    "tools.analysis": {**_DIRECT_LOGITS, **_DIRECT_PATHS},
    "tools.analysis.direct_logit_attribution": _DIRECT_LOGITS,
    "tools.analysis.direct_path_patching": _DIRECT_PATHS,
    "train": _of("model.training", "HookedTransformerTrainConfig", "train"),
    "utilities.attention": _of("compat.attention", "complex_attn_linear", "simple_attn_linear"),
    "utilities.cache": _KEYS_AND_VALUES,
    **{f"{whole}.{part}": _UTILITIES for part in UTILITIES for whole in ("utilities", "utils")},
    "utilities": _UTILITIES,
    "utils": _UTILITIES,
}
