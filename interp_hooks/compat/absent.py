"""Names of TransformerLens that are left out on purpose, and what to do instead."""

ABSENT = {
    **dict.fromkeys(
        (*("BertNSPHead", "BertPooler", "BertBlock", "BertEmbed", "T5Attention", "T5Block", "HookedAudioEncoder"),),
        "HookedTransformer.from_pretrained loads encoders with a masked language model's head, and no others",
    ),
    **dict.fromkeys(
        ("TransformerBridgeConfig", "sources", "factories", "weight_processing", "pretrained"),
        "checkpoints are converted by interp_hooks.loading: one table for each family, see CONTRIBUTING.md",
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
            *("addmm", "aliases", "architectures", "attention", "gpu_utils", "heterogeneous_config", "multi_gpu"),
            "quantization",
        ),
        "what it has is in transformer_lens.utilities itself, as far as it exists here",
    ),
    "clear_huggingface_cache": "use the command `hf cache`",
    "get_rotary_pct_from_config": "rotary_dim of a config says how many of d_head rotate",
    "HookedEncoderDecoder": "encoder-decoders (T5) are not converted: no part here has cross-attention",
    "lit": "there is no integration of LIT",
    "print_gpu_mem": "use torch.cuda.memory_allocated()",
    "tools": "see interp_hooks.direct_logit_attribution, path_patch, attribution_patch, patch_along and logit_lens",
    "warn_if_mps": "torch tells what it does not know on Apple's GPU",
}
