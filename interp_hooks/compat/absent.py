"""Names of TransformerLens that are left out on purpose, and what to do instead."""

ABSENT = {
    **dict.fromkeys(
        (
            *("BertNextSentencePrediction", "BertNSPHead", "BertPooler"),
            *("BertBlock", "BertEmbed", "T5Attention", "T5Block", "HookedAudioEncoder"),
        ),
        "HookedTransformer.from_pretrained loads encoders with a masked language model's head, and no others",
    ),
    **dict.fromkeys(
        ("TransformerBridgeConfig", "model_bridge", "factories", "conversion_utils", "weight_processing", "pretrained"),
        "checkpoints are converted by interp_hooks.loading: one table for each family, see CONTRIBUTING.md",
    ),
    **dict.fromkeys(
        ("PYTHIA_CHECKPOINTS", "PYTHIA_V0_CHECKPOINTS", "STANFORD_CRFM_CHECKPOINTS"), "use get_checkpoint_labels(name)"
    ),
    **dict.fromkeys(
        (
            *(f"init_{kind}_" for kind in ("xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal")),
            "calc_fan_in_and_fan_out",
        ),
        "use HookedTransformerConfig(init_mode=...) and model.init_weights()",
    ),
    **dict.fromkeys(
        ("get_tokenizer_with_bos", "get_input_with_manually_prepended_bos", "get_tokens_with_bos_removed"),
        "use model.to_tokens(text, prepend_bos=True or False), which is right for every tokenizer",
    ),
    **dict.fromkeys(
        ("get_attention_mask", "get_cumsum_along_dim", "get_offset_position_ids"),
        "a model finds padding and positions by itself; to say them yourself, pass attention_mask=",
    ),
    **dict.fromkeys(
        (
            *("calculate_available_device_cuda_memory", "count_unique_devices", "find_embedding_device"),
            *("determine_available_memory_for_available_devices", "sort_devices_based_on_available_memory"),
            *("get_best_available_cuda_device", "get_best_available_device", "get_device_for_block_index"),
            *("resolve_device_map", "move_to_and_update_config", "ModelWithCfg"),
        ),
        "use from_pretrained(name, device_map=...) and model.to(device), which keeps the config up to date",
    ),
    **dict.fromkeys(
        (
            *("activation_functions", "attribute_utils", "components_utils", "defaults_utils", "devices", "tensors"),
            *("exploratory_utils", "gpu_utils", "hf_utils", "initialization_utils", "library_utils", "lm_utils"),
            *("logits_utils", "matrix", "multi_gpu", "parameter_swap", "slice", "tokenize_utils", "quantization"),
            *("addmm", "aliases", "architectures", "attention", "heterogeneous_config", "typed_module_list"),
        ),
        "what it has is in transformer_lens.utilities itself, as far as it exists here",
    ),
    **dict.fromkeys(
        ("SOFTCAP_DISABLED", "apply_softcap", "softcap_enabled"), "a soft cap c is c * tanh(x / c); 0 is none"
    ),
    **dict.fromkeys(
        ("OFFICIAL_MODEL_NAMES", "MODEL_ALIASES", "DEFAULT_MODEL_ALIASES"),
        "checkpoints are not listed: HookedTransformer.from_pretrained takes any folder or hub id of a known family",
    ),
    "HookIntrospectionMixin": "its methods are those of HookedRootModule",
    "SUPPORTED_ACTIVATIONS": "HookedTransformerConfig(act_fn=...) names them when it gets another",
    "TransformerLensKeyValueCacheEntry": "a KeyValueCache holds all layers, without entries",
    "TypedModuleList": "use torch.nn.ModuleList",
    "USE_DEFAULT_VALUE": "pass None",
    "check_structure": "print what torch.diff gives for rows and columns",
    "clear_huggingface_cache": "use the command `hf cache`",
    "download_file_from_hf": "use huggingface_hub.hf_hub_download",
    "filter_dict_by_prefix": "use a comprehension",
    "get_matrix_corner": "use get_corner, which takes a FactoredMatrix too",
    "get_nested_attr": "use operator.attrgetter",
    "get_num_params_of_pretrained": "use HookedTransformer.from_pretrained(name).cfg.n_params",
    "get_pretrained_state_dict": "use HookedTransformer.from_pretrained_no_processing(name).state_dict()",
    "get_rotary_pct_from_config": "rotary_dim of a config says how many of d_head rotate",
    "HookedEncoderDecoder": "encoder-decoders (T5) are not converted: no part here has cross-attention",
    "TransformerBridge": "HookedTransformer.from_pretrained converts every family",
    "get_dataset": "use datasets.load_dataset, or interp_hooks.corpus.texts.corpus_texts",
    "get_pretrained_model_config": "use HookedTransformer.from_pretrained(name).cfg",
    "is_library_available": "use importlib.util.find_spec",
    "is_lower_triangular": "use torch.equal(x, x.tril())",
    "is_square": "use x.ndim == 2 and x.shape[0] == x.shape[1]",
    "keep_single_column": "use dataset.select_columns",
    "lit": "there is no integration of LIT",
    "logits_to_df": "use test_prompt, or logits.topk(k) with model.to_str_tokens",
    "make_model_alias_map": "get_official_model_name resolves one name",
    "override_or_use_default_value": "use `default if override is None else override`",
    "print_gpu_mem": "use torch.cuda.memory_allocated()",
    "remove_batch_dim": "use x.squeeze(0)",
    "repeat_along_head_dimension": "use einops.repeat",
    "select_compatible_kwargs": "use inspect.signature",
    "set_nested_attr": "use setattr(model.get_submodule(...), ...)",
    "supported_models": "checkpoints are not listed; `interp-hooks families` lists what kinds of models load",
    "temporarily_swap_parameter": "use torch.func.functional_call, or interventions (interp_hooks.Run)",
    "tools": "see interp_hooks.direct_logit_attribution, path_patch, attribution_patch, patch_along and logit_lens",
    "transpose": "use x.mT",
    "warn_if_mps": "torch tells what it does not know on Apple's GPU",
}
