"""What users of `HookedTransformer` type, whether it is here, and which test compares it with a direct computation.

    python -m tests.surface > docs/surface.md

`ROWS` says what is typed; whether that name takes these arguments is asked of the package, not told. A call begins
with one of `RECEIVERS`, with `transformer_lens` (what `interp_hooks.compat` makes importable), or with a public name.
"""

import inspect
import re
from dataclasses import dataclass
from importlib import import_module
from types import FunctionType
from typing import Any

import torch

import interp_hooks
from interp_hooks import (
    ActivationCache,
    FactoredMatrix,
    HookedTransformer,
    HookedTransformerConfig,
    HookPoint,
    KeyValueCache,
    compat,
)
from interp_hooks.hooks import Slice
from interp_hooks.studies import SVDInterpreter

HEAD = """# The surface that users of HookedTransformer type

Each line is a call, label or shape of TransformerLens' `HookedTransformer` (2.18 to 3.9), whether it is here, and how
it differs; `M` is a `FactoredMatrix`, `past` a `KeyValueCache`, `svd` an `SVDInterpreter`, `slice` a `Slice`.
Written by `python -m tests.surface`, which asks the package; `tests/surface.py` names the test behind each line.
"""

RECEIVERS: dict[str, Any] = {
    "model": HookedTransformer,
    "cfg": HookedTransformerConfig(n_layers=1, d_model=2, n_ctx=2, d_vocab=2, d_head=2, attn_only=True),
    "cache": ActivationCache({}, None),
    "hook": HookPoint(),
    "M": FactoredMatrix(torch.ones(2, 1), torch.ones(1, 2)),
    "past": KeyValueCache(),
    "svd": SVDInterpreter,
    "slice": Slice(),
    "compat": compat,
    "patching": import_module("interp_hooks.compat.patching"),
    "evals": import_module("interp_hooks.corpus.evals"),
    "head_detector": import_module("interp_hooks.studies.heads"),
}


@dataclass(frozen=True)
class Row:
    """`typed` is what the table shows, by default the call; `test` holds a file and a test of it."""

    call: str
    test: str
    differs: str = ""
    typed: str = ""


# ------------------------------------------------------------------------------------------------------------ the rows

LOADING = [
    Row(
        "HookedTransformer.from_pretrained(model_name, hf_model)",
        "tests/test_families.py::test_logits_in_float64",
        "any folder or hub id of a supported model type, no list of names; the object given stays as it is",
    ),
    Row(
        "HookedTransformer.from_pretrained(fold_ln)",
        "tests/loading/test_processing.py::test_each_step_is_its_formula",
        "mixtures of experts and OLMo 2 are folded too; `processing_report()` tells what was skipped, and why",
    ),
    Row(
        "HookedTransformer.from_pretrained(center_writing_weights)",
        "tests/loading/test_processing.py::test_each_step_is_its_formula",
    ),
    Row(
        "HookedTransformer.from_pretrained(center_unembed)",
        "tests/loading/test_processing.py::test_each_step_is_its_formula",
    ),
    Row(
        "HookedTransformer.from_pretrained(fold_value_biases)",
        "tests/loading/test_folding.py::test_value_biases_move_into_the_output_bias",
    ),
    Row(
        "HookedTransformer.from_pretrained(refactor_factored_attn_matrices)",
        "tests/loading/test_folding.py::test_refactored_heads_are_an_even_split",
    ),
    Row(
        "HookedTransformer.from_pretrained(checkpoint_index, checkpoint_value, checkpoint_label)",
        "tests/test_surface_values.py::test_checkpoints_of_a_training_run",
        "of Pythia and Stanford CRFM models, and of TransformerLens' own; `revision=` names any other",
    ),
    Row(
        "HookedTransformer.from_pretrained(device, move_to_device)",
        "tests/test_surface_values.py::test_where_a_loaded_model_lies",
    ),
    Row(
        "HookedTransformer.from_pretrained(n_devices)",
        "tests/loading/test_native.py::test_several_devices_need_a_map",
        "only 1: `device_map=` spreads a model",
    ),
    Row(
        "HookedTransformer.from_pretrained(tokenizer, default_prepend_bos, default_padding_side)",
        "tests/test_surface_values.py::test_a_loaded_model_reads_as_asked",
    ),
    Row(
        "HookedTransformer.from_pretrained(dtype)",
        "tests/loading/test_load.py::test_a_half_precision_checkpoint_loads_in_the_dtype_asked_for",
    ),
    Row(
        "HookedTransformer.from_pretrained(first_n_layers)",
        "tests/loading/test_load.py::test_the_first_layers_are_those_of_the_whole_model",
    ),
    Row(
        "HookedTransformer.from_pretrained(n_ctx)",
        "tests/loading/test_load.py::test_a_shorter_context_keeps_only_its_positions",
    ),
    Row(
        "HookedTransformer.from_pretrained(hf_kwargs)",
        "tests/test_surface_values.py::test_other_arguments_go_to_transformers",
        "what transformers does not take is refused",
        typed="HookedTransformer.from_pretrained(**hf_kwargs)",
    ),
    Row(
        "HookedTransformer.from_pretrained_no_processing(model_name)",
        "tests/test_families.py::test_logits_in_float64",
    ),
    Row(
        "HookedTransformer(cfg, tokenizer, move_to_device, default_padding_side)",
        "tests/test_surface_values.py::test_what_a_model_of_ones_own_is_made_of",
    ),
    Row(
        "HookedTransformerConfig(n_layers, d_model, n_ctx, d_vocab, d_head, n_heads, n_key_value_heads, d_mlp, act_fn, "
        "normalization_type, positional_embedding_type, attn_only, parallel_attn_mlp, gated_mlp, rotary_dim, "
        "rotary_base, eps, d_vocab_out, attention_dir, dtype)",
        "tests/model/test_config.py::test_what_is_left_out_is_resolved",
        "frozen: `cfg.replace(...)` gives another; only by name",
    ),
    Row(
        "HookedTransformerConfig(init_mode, init_weights, initializer_range, seed)",
        "tests/model/test_initialization.py::test_every_mode_has_its_spread",
        "a seed leaves the global generator alone",
    ),
    Row(
        "cfg.to_dict", "tests/model/test_config.py::test_copies_are_equal", typed="cfg.to_dict(), cfg.from_dict(values)"
    ),
    Row("cfg.n_params", "tests/model/test_config.py::test_hidden_weights_are_counted"),
    Row(
        "cfg.tokenizer_prepends_bos",
        "tests/model/test_tokens.py::test_whether_the_tokenizer_itself_adds_a_bos_is_told",
        "`model.tokenizer_prepends_bos` too",
    ),
    Row(
        "model.process_weights_(fold_ln, center_writing_weights, center_unembed, refactor_factored_attn_matrices)",
        "tests/test_surface_values.py::test_each_step_in_place",
    ),
    Row(
        "model.load_and_process_state_dict(state_dict, fold_ln, center_writing_weights, center_unembed, "
        "fold_value_biases, refactor_factored_attn_matrices)",
        "tests/test_surface_values.py::test_a_state_dict_is_loaded_and_processed",
    ),
    Row(
        "model.fold_layer_norm(state_dict, fold_biases, center_weights)",
        "tests/test_surface_values.py::test_folded_norms",
        "an argument that would change the logits is refused",
    ),
    Row("model.center_writing_weights(state_dict)", "tests/test_surface_values.py::test_centred_writers"),
    Row("model.center_unembed(state_dict)", "tests/test_surface_values.py::test_centred_unembedding"),
    Row("model.fold_value_biases(state_dict)", "tests/test_surface_values.py::test_folded_value_biases"),
    Row("model.refactor_factored_attn_matrices(state_dict)", "tests/test_surface_values.py::test_refactored_heads"),
    Row(
        "model.load_state_dict(state_dict)",
        "tests/loading/test_native.py::test_buffers_and_names_of_old_files_are_no_obstacle",
        "attention masks and rotary tables of old files are passed over",
    ),
    Row(
        "model.save_pretrained(folder)",
        "tests/loading/test_native.py::test_a_saved_model_comes_back",
        "a model of one's own too; `from_pretrained(folder)` loads it",
    ),
    Row(
        "HookedTransformer.from_pretrained",
        "tests/model/test_devices.py::test_quantised_weights_are_refused_with_what_to_do",
        "refused, with the way to dequantise them",
        typed="quantised weights, `hf_model=` in 4 bits",
    ),
    Row("model.state_dict", "tests/model/test_weights.py::test_state_dict_keys_and_shapes_are_the_fields"),
    Row(
        "model.to",
        "tests/model/test_model.py::test_dtype_and_device_follow_the_model",
        "the config follows; nothing is printed",
    ),
    Row("model.cpu", "tests/model/test_model.py::test_moves_return_the_model_and_print_nothing"),
    Row("model.cuda", "tests/model/test_devices.py::test_a_model_with_a_gpu_computes_what_it_does_without"),
    Row("model.mps", "tests/model/test_model.py::test_moves_return_the_model_and_print_nothing"),
    Row(
        "model.forward",
        "tests/model/test_model.py::test_an_unhooked_model_compiles_in_one_graph",
        typed="torch.compile(model)",
    ),
    Row(
        "transformer_lens.HookedEncoder",
        "tests/compat/test_compat.py::test_encoders_under_their_other_name",
        "a `HookedTransformer`, which loads BERT, DistilBERT and RoBERTa itself; its `to_tokens` gives token ids alone",
    ),
    Row(
        "transformer_lens.HookedEncoderDecoder",
        "tests/test_surface_values.py::test_what_has_no_counterpart_says_so",
        "encoder-decoders (T5) and audio encoders are not converted",
    ),
    Row(
        "HookedTransformerTrainConfig(num_epochs, batch_size, lr, seed, momentum, max_grad_norm, weight_decay, "
        "optimizer_name, device, warmup_steps, save_every, save_dir, wandb, wandb_project_name, print_every, "
        "max_steps)",
        "tests/model/test_training.py::test_warmup_and_clipping",
    ),
    Row("train(model, config, dataset)", "tests/model/test_training.py::test_optimizers"),
]

TOKENS = [
    Row(
        "model.to_tokens(input, prepend_bos, padding_side, move_to_device, truncate)",
        "tests/model/test_tokens.py::test_a_row_begins_with_exactly_one_bos",
        "exactly one BOS, whatever the tokenizer adds",
    ),
    Row("model.to_string(tokens)", "tests/model/test_tokens.py::test_ids_as_text"),
    Row(
        "model.to_str_tokens(input, prepend_bos, padding_side)",
        "tests/model/test_tokens.py::test_ids_as_pieces",
        "pieces keep the space that decoding one token drops",
    ),
    Row("model.to_single_token(string)", "tests/model/test_tokens.py::test_single_tokens"),
    Row("model.to_single_str_token(int_token)", "tests/model/test_tokens.py::test_the_string_of_a_single_token"),
    Row(
        "model.get_token_position(single_token, input, mode, prepend_bos, padding_side)",
        "tests/model/test_tokens.py::test_where_a_token_is",
    ),
    Row(
        "model.tokens_to_residual_directions(tokens)",
        "tests/model/test_weights.py::test_directions_are_columns_of_the_unembedding",
        "times `cfg.logits_scale`, where a model has one",
    ),
    Row(
        "model.set_tokenizer(tokenizer, default_padding_side)",
        "tests/model/test_tokens.py::test_a_tokenizer_may_be_set_later",
    ),
    Row("model.tokenizer", "tests/model/test_tokens.py::test_a_tokenizer_may_be_set_later"),
    Row(
        "model.default_prepend_bos",
        "tests/model/test_tokens.py::test_the_default_may_be_changed",
        "false where the tokenizer has no BOS",
    ),
    Row("model.default_padding_side", "tests/model/test_tokens.py::test_rows_are_filled_on_the_side_asked_for"),
]

PASSES = [
    Row(
        "model.forward(input, return_type, loss_per_token)",
        "tests/model/test_model.py::test_the_loss_is_the_mean_of_next_token_losses",
        "the loss leaves padding out",
    ),
    Row(
        "transformer_lens.HookedTransformer.Output(logits, loss)",
        "tests/model/test_model.py::test_the_loss_is_the_mean_of_next_token_losses",
        typed='model.forward(return_type="both") gives Output(logits, loss)',
    ),
    Row("model.forward(prepend_bos)", "tests/model/test_tokens.py::test_a_forward_pass_reads_text_as_to_tokens_does"),
    Row(
        "model.forward(padding_side, attention_mask)",
        "tests/model/test_tokens.py::test_padded_text_gives_each_prompts_own_logits",
    ),
    Row(
        "model.input_to_embed(input, prepend_bos, padding_side, attention_mask, past_kv_cache)",
        "tests/model/test_model.py::test_a_pass_goes_on_from_what_enters_layer_0",
        "what it returns has names",
    ),
    Row(
        "model.forward(start_at_layer, stop_at_layer)",
        "tests/model/test_identities.py::test_identity",
    ),
    Row("model.forward(tokens)", "tests/model/test_model.py::test_a_late_start_knows_the_tokens_if_told"),
    Row("model.forward(shortformer_pos_embed)", "tests/model/test_model.py::test_positions_beside_the_stream"),
    Row(
        "model.forward(past_kv_cache)",
        "tests/model/components/test_kv_cache.py::test_passes_over_parts_are_the_pass_over_the_whole",
        "an exception leaves the cache as it was",
    ),
    Row(
        "model.loss_fn(logits, tokens, per_token)",
        "tests/model/test_model.py::test_arguments_come_in_the_order_of_the_field",
    ),
    Row(
        "past.init_cache(cfg, device, batch_size)", "tests/model/test_generate.py::test_an_empty_cache_for_some_prompts"
    ),
    Row("past.freeze", "tests/model/components/test_kv_cache.py::test_a_frozen_cache_is_read_and_stays_as_it_is"),
    Row(
        "past.unfreeze",
        "tests/model/components/test_kv_cache.py::test_a_frozen_cache_is_read_and_stays_as_it_is",
        "keys are kept as they are read, rotated once",
    ),
    Row(
        "model.generate(input, max_new_tokens, stop_at_eos, eos_token_id, do_sample, top_k, temperature, freq_penalty, "
        "use_past_kv_cache)",
        "tests/model/test_generate.py::test_sampling_is_a_loop_of_full_passes_and_draws",
        "one row is unembedded, keys are rotated once; ended rows are filled with the first end",
    ),
    Row("model.generate(top_p)", "tests/model/test_sampling.py::test_the_distribution_in_closed_form"),
    Row("model.generate(prepend_bos, padding_side)", "tests/model/test_generate.py::test_prepend_bos"),
    Row(
        "model.generate(return_type)",
        "tests/model/test_generate.py::test_the_return_type",
        "texts are without special tokens",
    ),
    Row("model.generate(verbose)", "tests/model/test_generate.py::test_a_bar_shows_how_far_it_is"),
    Row(
        "model.generate(output_logits)",
        "tests/model/test_generate.py::test_the_logits_of_every_step_are_given_on_request",
    ),
    Row(
        "model.generate_stream(input, max_new_tokens, max_tokens_per_yield, stop_at_eos, eos_token_id, do_sample, "
        "top_k, top_p, temperature, freq_penalty, use_past_kv_cache, prepend_bos, padding_side, return_type, verbose)",
        "tests/model/test_generate.py::test_pieces_are_what_is_generated",
    ),
]

HOOKS = [
    Row(
        "model.run_with_hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts)",
        "tests/hooks/test_hooks.py::test_functions_run_in_the_order_written_each_on_the_others_value",
        "a hook that the pass does not come by is an error; only one's own hooks are removed",
    ),
    Row(
        "model.run_with_cache(return_cache_object, remove_batch_dim)",
        "tests/hooks/test_caching.py::test_removing_the_batch_axis_of_several_prompts_is_refused",
    ),
    Row(
        "model.run_with_cache(names_filter)",
        "tests/hooks/test_caching.py::test_a_cache_holds_the_values_by_name_in_order",
        "short names, tuples and sets too; what matches nothing is an error",
    ),
    Row("model.run_with_cache(device)", "tests/hooks/test_caching.py::test_a_cache_lies_on_the_device_asked_for"),
    Row(
        "model.run_with_cache(incl_bwd)",
        "tests/hooks/test_caching.py::test_cached_gradients_are_those_of_autograd",
        "also a function of the output, which gives the number to differentiate",
    ),
    Row(
        "model.run_with_cache(reset_hooks_end, clear_contexts)",
        "tests/test_surface_values.py::test_a_caching_run_may_keep_its_hooks_and_clear_contexts",
    ),
    Row(
        "model.run_with_cache(pos_slice)",
        "tests/hooks/test_caching.py::test_positions_are_chosen_and_a_single_one_keeps_its_axis",
        "scores and patterns are sliced by query",
    ),
    Row(
        "model.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts)",
        "tests/hooks/test_hooks.py::test_contexts_nest_and_each_takes_its_own_away",
        "an exception leaves nothing behind, also with `reset_hooks_end=False`",
    ),
    Row(
        "model.add_hook(name, hook, dir, is_permanent, level, prepend)",
        "tests/hooks/test_hooks.py::test_arguments_stand_in_the_fields_order",
        "returns handles",
    ),
    Row(
        "model.add_perma_hook(name, hook, dir)",
        "tests/hooks/test_hooks.py::test_permanent_hooks_of_points_and_by_name",
    ),
    Row(
        "model.reset_hooks(clear_contexts, direction, including_permanent, level)",
        "tests/hooks/test_hooks.py::test_reset_may_take_one_direction",
    ),
    Row(
        "model.remove_all_hook_fns(direction, including_permanent, level)",
        "tests/hooks/test_hooks.py::test_levels_tell_contexts_apart",
    ),
    Row("model.clear_contexts", "tests/hooks/test_hooks.py::test_context_dicts_live_until_cleared"),
    Row(
        "model.check_hooks_to_add(hook_point, hook_point_name, hook, dir, is_permanent, prepend)",
        "tests/hooks/test_hooks.py::test_a_module_may_refuse_functions",
        "a method to override; no flag makes it refuse",
    ),
    Row(
        "model.check_and_add_hook(hook_point, hook_point_name, hook, dir, is_permanent, level, prepend)",
        "tests/hooks/test_hooks.py::test_a_module_may_refuse_functions",
    ),
    Row("model.hook_points", "tests/hooks/test_hooks.py::test_points_are_named_after_their_place"),
    Row("model.list_hooks", "tests/hooks/test_hooks.py::test_what_is_attached_is_listed"),
    Row(
        "model.add_caching_hooks(names_filter, incl_bwd, device, remove_batch_dim, cache)",
        "tests/hooks/test_caching.py::test_caching_hooks_fill_the_dict_that_is_given",
    ),
    Row(
        "model.get_caching_hooks(names_filter, incl_bwd, device, remove_batch_dim, cache, pos_slice)",
        "tests/hooks/test_caching.py::test_hooks_may_be_had_without_being_attached",
    ),
    Row(
        "model.cache_all(cache, incl_bwd, device, remove_batch_dim)",
        "tests/hooks/test_caching.py::test_caching_all_and_some",
    ),
    Row(
        "model.cache_some(cache, names, incl_bwd, device, remove_batch_dim)",
        "tests/hooks/test_caching.py::test_caching_all_and_some",
    ),
    Row(
        "hook.add_hook(hook, dir, is_permanent, level, prepend)",
        "tests/hooks/test_hooks.py::test_arguments_stand_in_the_fields_order",
        "the function gets a copy, so that an edit in place is safe",
    ),
    Row("hook.add_perma_hook(hook, dir)", "tests/hooks/test_hooks.py::test_permanent_hooks_of_points_and_by_name"),
    Row(
        "hook.remove_hooks(dir, including_permanent, level)",
        "tests/hooks/test_hooks.py::test_a_point_tells_and_forgets_by_direction_and_level",
    ),
    Row("hook.fwd_hooks", "tests/hooks/test_hooks.py::test_what_is_attached_is_listed"),
    Row("hook.bwd_hooks", "tests/hooks/test_hooks.py::test_what_is_attached_is_listed"),
    Row("hook.name", "tests/hooks/test_hooks.py::test_the_hook_argument_is_the_point"),
    Row("hook.ctx", "tests/hooks/test_hooks.py::test_context_dicts_live_until_cleared"),
    Row("hook.clear_context", "tests/hooks/test_hooks.py::test_context_dicts_live_until_cleared"),
    Row("hook.layer", "tests/hooks/test_hooks.py::test_layer_of_a_point"),
    Row(
        "model.set_use_attn_result(use_attn_result)",
        "tests/model/test_model.py::test_flags_change_what_is_collected_and_nothing_else",
        "`hook_result` exists anyway; the flag says whether an unfiltered cache holds it",
    ),
    Row(
        "model.set_use_split_qkv_input(use_split_qkv_input)",
        "tests/model/test_model.py::test_flags_change_what_is_collected_and_nothing_else",
        "likewise",
    ),
    Row(
        "model.set_use_hook_mlp_in(use_hook_mlp_in)",
        "tests/model/test_model.py::test_flags_change_what_is_collected_and_nothing_else",
        "likewise",
    ),
    Row(
        "model.set_use_attn_in(use_attn_in)",
        "tests/model/test_model.py::test_flags_change_what_is_collected_and_nothing_else",
        "likewise; under grouped attention there is no `hook_attn_in`",
    ),
    Row(
        "model.set_ungroup_grouped_query_attention(ungroup_grouped_query_attention)",
        "tests/model/test_grouping.py::test_the_same_function_with_every_head_apart",
        "the weights are repeated, so that every head's own can be edited",
    ),
    Row(
        "HookedTransformerConfig(use_hook_tokens)",
        "tests/model/test_model.py::test_tokens_can_be_hooked_where_the_config_says_so",
    ),
    Row(
        "model.hook_table",
        "tests/hooks/test_hook_contract.py::test_shapes_are_the_fields",
        "no point that cannot fire; `ln1` fires once a pass; `unembed.hook_out` is after the soft cap",
        typed="hook names, shapes and order, `blocks.0.attn.hook_z` [batch, pos, head, d_head] ...",
    ),
    Row(
        "model.hook_table",
        "tests/model/test_identities.py::test_identity",
        "in every family: `attn_out` of OLMo 2 and 3 is after the post-norm",
        typed="`resid_pre` + `attn_out` = `resid_mid`, `resid_mid` + `mlp_out` = `resid_post`",
    ),
    Row(
        "model.hook_table",
        "tests/model/components/test_moe.py::test_every_token_by_hand",
        "[batch, pos, expert], what each token gives each expert, editable; `mlp.experts.hook_pre` has an axis of "
        "experts and is the gate's; there is no `hook_expert_indices`",
        typed="`mlp.hook_expert_weights`, `mlp.experts.{e}.hook_pre` ...",
    ),
]

CACHE = [
    Row(
        "cache.__getitem__(key)",
        "tests/model/cache/test_cache.py::test_keys",
        "a wrong key names the nearest",
        'cache["q", 0]',
    ),
    Row(
        "cache.__getitem__",
        "tests/model/cache/test_cache.py::test_keys",
        "the last layer, while `layer=-1` of methods that stack is all layers",
        typed='cache["resid_post", -1]',
    ),
    Row(
        "cache.__getitem__",
        "tests/model/cache/test_cache.py::test_keys",
        typed='cache["scale", 0, "ln1"], cache["scale0ln1"], cache["post", 0, "m"]',
    ),
    Row(
        "cache.__getitem__",
        "tests/model/cache/test_cache.py::test_keys",
        typed='cache["scale"], cache["normalized", None], cache["embed"], cache["attn", 0]',
    ),
    Row(
        "cache.__getitem__",
        "tests/model/cache/test_cache.py::test_keys",
        'an error there: `cache["mlp_out0"]`, `cache["resid_pre0"]`, `key in cache`, `cache.get(key)`',
        typed="cache keys with underscores",
    ),
    Row(
        "cache.keys",
        "tests/model/cache/test_cache.py::test_it_is_a_mapping",
        typed="cache.keys(), .values(), .items(), len(cache)",
    ),
    Row(
        "cache.accumulated_resid(layer, incl_mid, apply_ln, pos_slice, mlp_input, return_labels)",
        "tests/test_surface_values.py::test_streams_up_to_a_layer",
        "with `apply_ln` each stream is normalized by its own scale before every layer, not at the end alone",
    ),
    Row(
        "cache.accumulated_resid(return_labels)",
        "tests/model/cache/test_decomposition.py::test_accumulated_streams",
        typed="labels `0_pre`, `0_mid`, `final_post`",
    ),
    Row(
        "cache.decompose_resid(layer, mlp_input, mode, apply_ln, pos_slice, incl_embeds, return_labels)",
        "tests/test_surface_values.py::test_parts_of_the_stream",
        'with `apply_ln` and a norm that still has a bias, that bias is a last part, "bias"',
    ),
    Row(
        "cache.decompose_resid(return_labels)",
        "tests/model/cache/test_decomposition.py::test_parts_sum_to_the_stream",
        'one part "embed" where embeddings are normalized together',
        typed="labels `embed`, `pos_embed`, `0_attn_out`, `0_mlp_out`",
    ),
    Row(
        "cache.stack_head_results(layer, return_labels, incl_remainder, pos_slice, apply_ln)",
        "tests/test_surface_values.py::test_what_each_head_adds",
        'needs no `hook_result`; "bias" as above',
    ),
    Row(
        "cache.stack_head_results(return_labels)",
        "tests/model/cache/test_decomposition.py::test_heads_and_remainder_sum_to_the_stream",
        typed="labels `L0H3`, `remainder`",
    ),
    Row(
        "cache.stack_neuron_results(layer, pos_slice, neuron_slice, return_labels, incl_remainder, apply_ln, "
        "project_output_onto)",
        "tests/model/cache/test_decomposition.py::test_neuron_and_position_slices",
        "[.., d_mlp, d_model] is never made where it is projected",
    ),
    Row(
        "cache.stack_neuron_results(return_labels)",
        "tests/model/cache/test_decomposition.py::test_every_neuron_is_what_its_row_of_W_out_adds",
        typed="labels `L0N3`",
    ),
    Row(
        "cache.get_neuron_results(layer, neuron_slice, pos_slice, project_output_onto)",
        "tests/model/cache/test_decomposition.py::test_one_projected_neuron",
    ),
    Row(
        "cache.stack_activation(activation_name, layer, sublayer_type)",
        "tests/model/cache/test_cache.py::test_one_activation_of_every_layer",
    ),
    Row(
        "cache.get_full_resid_decomposition(layer, mlp_input, expand_neurons, apply_ln, pos_slice, return_labels, "
        "project_output_onto)",
        "tests/model/cache/test_decomposition.py::test_rows_of_the_full_decomposition",
        typed="cache.get_full_resid_decomposition(layer, mlp_input, expand_neurons, apply_ln, pos_slice, "
        "return_labels, project_output_onto), labels `L0H3`, `L0N3`, `embed`, `pos_embed`, `bias`",
    ),
    Row(
        "cache.apply_ln_to_stack(residual_stack, layer, mlp_input, pos_slice, batch_slice, has_batch_dim)",
        "tests/model/cache/test_direct_effects.py::test_the_scale_is_that_of_the_norm_that_reads_the_layer",
        "the norm's gain is applied too, if it is not folded",
    ),
    Row(
        "cache.apply_ln_to_stack(recompute_ln)",
        "tests/model/cache/test_direct_effects.py::test_recomputed_statistics_take_each_row_for_a_stream",
        "before every layer, not the last norm alone",
    ),
    Row(
        "cache.logit_attrs(residual_stack, tokens, incorrect_tokens, pos_slice, batch_slice, has_batch_dim)",
        "tests/model/cache/test_direct_effects.py::test_rows_are_parts_times_a_column_of_W_U",
        "`include_bias=True` adds the constant, so that rows sum to the logit",
    ),
    Row("cache.compute_head_results", "tests/test_surface_values.py::test_head_results_are_put_into_the_cache"),
    Row("cache.apply_slice_to_batch_dim(batch_slice)", "tests/model/cache/test_cache.py::test_a_cache_of_some_prompts"),
    Row("cache.remove_batch_dim", "tests/model/cache/test_cache.py::test_a_single_prompt_loses_its_batch_axis"),
    Row("cache.to(device)", "tests/model/cache/test_cache.py::test_moving_moves_this_cache"),
    Row(
        "cache.toggle_autodiff(mode)",
        "tests/model/cache/test_cache.py::test_gradients_are_turned_off_and_on_for_everything",
    ),
    Row(
        "cache.save(path)",
        "tests/model/cache/test_cache.py::test_the_file_is_safetensors_by_hook_name",
        "safetensors, by hook name",
        typed="cache.save(path), ActivationCache.load(path, model)",
    ),
    Row("cache.cache_dict", "tests/model/cache/test_cache.py::test_keys"),
    Row("cache.model", "tests/model/cache/test_cache.py::test_a_cache_of_some_prompts"),
    Row("cache.has_batch_dim", "tests/model/cache/test_cache.py::test_a_single_prompt_loses_its_batch_axis"),
]

NAMES = [
    Row(
        "get_act_name(name, layer, layer_type)",
        "tests/hooks/test_names.py::test_short_names",
        "a short name with `hook_` in front is read without it",
        typed='get_act_name("blocks.0.attn.hook_z"), full names',
    ),
    Row(
        "get_act_name",
        "tests/hooks/test_names.py::test_short_names",
        "names with underscores too: `rot_q4`, `mlp_out0`, `attn_scores0`",
        typed='get_act_name("k6"), ("scale4ln1")',
    ),
    Row(
        "get_act_name",
        "tests/hooks/test_names.py::test_short_names",
        typed='get_act_name("attn", 0), "attn_logits", "key", "query", "value", "mlp_pre", "mlp_mid", "mlp_post"',
    ),
    Row(
        "get_act_name",
        "tests/hooks/test_names.py::test_short_names",
        "a name that has only one place is sent there: `resid_pre` is never in the MLP",
        typed='get_act_name("post", 0, "m"), ("normalized", 27, "ln2"), ("resid_mid", 5, "block")',
    ),
    Row(
        "get_act_name", "tests/hooks/test_names.py::test_short_names", typed='get_act_name("scale"), of the final norm'
    ),
    Row(
        "Slice(input_slice)", "tests/hooks/test_slices.py::test_a_choice_on_every_axis", "masks and negative steps too"
    ),
    Row("slice.apply(tensor, dim)", "tests/hooks/test_slices.py::test_a_choice_on_every_axis"),
    Row("slice.indices(max_ctx)", "tests/hooks/test_slices.py::test_a_choice_on_every_axis"),
    Row("slice.unwrap(slice_input)", "tests/hooks/test_slices.py::test_a_choice_on_every_axis"),
]

WEIGHTS = [
    *(
        Row(f"model.{name}", "tests/model/test_weights.py::test_each_slice_is_the_layers_weight")
        for name in ("W_E", "W_U", "b_U", "W_pos", "W_Q", "W_O", "W_in", "W_out", "b_Q", "b_O", "b_in", "b_out")
    ),
    *(
        Row(
            f"model.{name}",
            "tests/model/test_weights.py::test_shared_keys_are_repeated_for_each_query_head",
            "repeated for each query head",
        )
        for name in ("W_K", "W_V", "b_K", "b_V")
    ),
    Row("model.W_E_pos", "tests/model/test_weights.py::test_embeddings_and_positions_in_one"),
    Row("model.W_gate", "tests/model/test_weights.py::test_a_gated_model_has_a_gate", "AttributeError without a gate"),
    Row("model.QK", "tests/model/test_weights.py::test_circuits_are_those_of_each_head"),
    Row("model.OV", "tests/model/test_weights.py::test_circuits_are_those_of_each_head"),
    Row(
        "model.accumulated_bias(layer, mlp_input, include_mlp_biases)",
        "tests/model/test_weights.py::test_accumulated_biases_are_the_stream_without_weights",
    ),
    Row("model.all_composition_scores(mode)", "tests/model/test_weights.py::test_composition_scores"),
    Row("model.all_head_labels", "tests/model/test_weights.py::test_labels_are_in_the_order_of_the_scores"),
    Row("model.n_params_total", "tests/model/test_weights.py::test_all_parameters_are_counted"),
    Row(
        "svd.get_singular_vectors(vector_type, layer_index, num_vectors, head_index)",
        "tests/studies/test_svd.py::test_what_a_head_writes",
        "the gain of a norm that is not folded counts in `w_in`",
    ),
    *(
        Row(f"M.{name}", "tests/model/test_factored.py::test_what_it_is")
        for name in ("A", "B", "AB", "T", "ndim", "shape", "pair", "ldim", "mdim", "rdim", "has_leading_dims")
    ),
    Row("M.BA", "tests/model/test_factored.py::test_eigenvalues_are_those_of_the_matrix_that_are_not_zero"),
    *(
        Row(f"M.{name}", "tests/model/test_factored.py::test_singular_values_and_vectors", differs)
        for name, differs in {
            "svd": "as many values as the matrix can have",
            "U": "",
            "S": "",
            "V": "singular vectors as columns",
            "Vh": "warns: it is V, and not its transpose",
        }.items()
    ),
    Row("M.eigenvalues", "tests/model/test_factored.py::test_eigenvalues_are_those_of_the_matrix_that_are_not_zero"),
    Row("M.norm", "tests/model/test_factored.py::test_norm"),
    Row("M.make_even", "tests/model/test_factored.py::test_an_even_split"),
    Row("M.get_corner(k)", "tests/model/test_factored.py::test_a_corner"),
    Row("M.collapse_l", "tests/model/test_factored.py::test_collapsing_keeps_the_norm_of_products"),
    Row("M.collapse_r", "tests/model/test_factored.py::test_collapsing_keeps_the_norm_of_products"),
    Row("M.unsqueeze(dim)", "tests/model/test_factored.py::test_a_new_axis"),
    Row("M.__matmul__(other)", "tests/model/test_factored.py::test_times_a_matrix", typed="M @ matrix"),
    Row("M.__rmatmul__(other)", "tests/model/test_factored.py::test_times_a_vector", typed="M @ vector, vector @ M"),
    Row("M.__matmul__(other)", "tests/model/test_factored.py::test_times_another_factored_matrix", typed="M @ M"),
    Row("M.__mul__(scalar)", "tests/model/test_factored.py::test_times_a_number", typed="M * scalar, scalar * M"),
    Row(
        "M.__getitem__(index)",
        "tests/model/test_factored.py::test_parts_are_those_of_the_matrix",
        "an int in place of rows or columns keeps the axis",
        typed="M[index]",
    ),
]

ANALYSIS = [
    Row(
        "detect_head(model, seq, detection_pattern, heads, cache, exclude_bos, exclude_current_token, error_measure)",
        "tests/studies/heads/test_detector.py::test_every_head_by_its_formula",
        "a list of prompts is averaged with all options; exclusions change neither pattern nor cache",
    ),
    Row(
        "head_detector.get_previous_token_head_detection_pattern(tokens)",
        "tests/studies/heads/test_detector.py::test_patterns_by_hand",
        typed="`previous_token_head`",
    ),
    Row(
        "head_detector.get_duplicate_token_head_detection_pattern(tokens)",
        "tests/studies/heads/test_detector.py::test_patterns_by_hand",
        typed="`duplicate_token_head`",
    ),
    Row(
        "head_detector.get_induction_head_detection_pattern(tokens)",
        "tests/studies/heads/test_detector.py::test_patterns_by_hand",
        "counts all tokens, the first copy included; `head_scores` has the standard score",
        typed="`induction_head`",
    ),
    Row(
        "direct_logit_attribution(model, input, answer_tokens, incorrect_tokens, unit, pos, cache)",
        "tests/studies/test_logit_attribution.py::test_every_component_is_in_its_row",
        "has a row for the biases, so that parts sum to the logit; `.top(k)` is a DataFrame",
    ),
    Row(
        "patching.get_act_patch_direct_path(model, corrupted_tokens, clean_cache, corrupted_cache, patching_metric, "
        "src_layer, src_head, component)",
        "tests/compat/test_patching.py::test_direct_paths",
        "exact: the receiver's norm is computed anew; keys and values are received by group",
    ),
    Row(
        "patching.get_act_patch_direct_path_all_sources(model, corrupted_tokens, clean_cache, corrupted_cache, "
        "patching_metric, component)",
        "tests/compat/test_patching.py::test_direct_paths",
        "likewise",
    ),
    Row(
        "patching.generic_activation_patch(model, corrupted_tokens, clean_cache, patching_metric, patch_setter, "
        "activation_name, index_axis_names, index_df, return_index_df)",
        "tests/compat/test_patching_reference.py::test_it_is_the_peers",
        "cells share work instead of running one pass each",
        typed="patching.generic_activation_patch(...) and all of `get_act_patch_*`",
    ),
    Row("evals.sanity_check(model)", "tests/corpus/test_evals.py::test_sanity_check", "another text"),
    Row(
        "evals.evaluate(model, truncate, batch_size, tokenizer)",
        "tests/corpus/test_evals.py::test_texts",
        "every token counts alike",
    ),
    Row(
        "evals.evaluate_on_dataset(model, data_loader, truncate, device)",
        "tests/corpus/test_evals.py::test_every_token_counts_alike",
    ),
    Row(
        "evals.induction_loss(model, tokenizer, batch_size, subseq_len, prepend_bos, device)",
        "tests/corpus/test_evals.py::test_what_is_read_and_what_is_counted",
        "the BOS is an additional token; tokens are drawn without replacement",
        typed="induction_loss(model, tokenizer, batch_size, subseq_len, prepend_bos, device)",
    ),
    Row(
        "IOIDataset(tokenizer, templates, names, nouns, num_samples, symmetric, prepend_bos)",
        "tests/compat/test_ioi_dataset.py::test_samples_by_hand",
        "`seed=` draws apart from the global generator",
    ),
    Row(
        "ioi_eval(model, dataset, batch_size, num_samples, tokenizer, symmetric)",
        "tests/compat/test_ioi_dataset.py::test_ioi_by_hand",
    ),
    Row(
        "transformer_lens.evals.mmlu_eval",
        "tests/compat/test_mmlu.py::test_questions_are_asked_one_by_one",
        "a prompt has a BOS where the model's prompts do",
    ),
]

HELPERS = [
    Row(
        "test_prompt(prompt, answer, model, prepend_space_to_answer, print_details, prepend_bos, top_k)",
        "tests/compat/test_answers.py::test_every_token_of_an_answer_has_a_rank",
        "also returns the ranks",
    ),
    Row("to_numpy(values)", "tests/views/test_arrays.py::test_tensors_leave_their_graph_and_keep_their_dtype"),
    Row("get_corner(tensor, n)", "tests/views/test_arrays.py::test_corner"),
    Row(
        "lm_cross_entropy_loss(logits, tokens, attention_mask, per_token)",
        "tests/test_surface_values.py::test_loss_and_accuracy_by_hand",
        "half-precision logits are read in float32",
    ),
    Row("lm_accuracy(logits, tokens, per_token)", "tests/corpus/test_evals.py::test_accuracy"),
    Row("gelu_new", "tests/model/components/test_activations.py::test_gelu", typed="gelu_new(input)"),
    Row("transformer_lens.utils.gelu_fast", "tests/model/components/test_activations.py::test_gelu"),
    Row("solu", "tests/model/components/test_activations.py::test_solu_is_over_neurons", typed="solu(input)"),
    Row(
        "sample_logits(final_logits, top_k, top_p, temperature, freq_penalty, tokens)",
        "tests/model/test_sampling.py::test_draws_have_these_frequencies",
    ),
    Row(
        "transformer_lens.utils.tokenize_and_concatenate(dataset, tokenizer, streaming, max_length, column_name, "
        "add_bos_token)",
        "tests/corpus/test_texts.py::test_rows_by_hand",
    ),
    Row(
        "transformer_lens.utils.composition_scores(left, right, broadcast_dims)",
        "tests/model/test_factored.py::test_scores_of_all_pairs",
    ),
]

COMPAT = [
    Row(
        "compat.install",
        "tests/compat/test_compat.py::test_the_real_one_is_not_replaced",
        typed="import transformer_lens",
    ),
    *(
        Row(f"transformer_lens.{name}", "tests/compat/test_compat.py::test_every_alias_resolves")
        for name in (
            "utils.get_act_name",
            "patching.get_act_patch_resid_pre",
            "hook_points.HookPoint",
            "hook_points.HookedRootModule",
            "components.MLP",
            "components.Attention",
            "ActivationCache.ActivationCache",
            "FactoredMatrix.FactoredMatrix",
            "HookedTransformer.HookedTransformer",
            "HookedTransformerConfig.HookedTransformerConfig",
            "head_detector.detect_head",
            "evals.induction_loss",
            "past_key_value_caching.HookedTransformerKeyValueCache",
        )
    ),
    Row(
        "transformer_lens.components.LayerNorm",
        "tests/compat/test_compat.py::test_norms_by_their_kinds",
        "`interp_hooks.model.components.norm.Norm` is every kind of norm",
    ),
    Row(
        "transformer_lens.loading_from_pretrained.get_official_model_name",
        "tests/loading/test_lens_checkpoints.py::test_every_alias_is_a_hub_id_whatever_its_capitals",
        "a name that is not known is taken for a hub id",
    ),
    Row(
        "transformer_lens.loading_from_pretrained.get_pretrained_model_config(model_name, fold_ln, device, n_ctx)",
        "tests/compat/test_utilities.py::test_names_configs_and_weights_of_checkpoints",
    ),
    Row(
        "transformer_lens.HookedTransformerConfig",
        "tests/compat/test_old_code.py::test_flags_of_a_built_model",
        "does what it says, or is refused with the way out; our own config is frozen",
        typed="model.cfg.use_attn_result = True, model.cfg.default_prepend_bos = False, ...",
    ),
    Row(
        "transformer_lens.components.Attention",
        "tests/compat/test_old_code.py::test_attention_and_positions_of_a_model_are_called_alone",
        "a part that is built alone has weights as a model's are drawn",
        typed="model.blocks[0].attn(query_input, key_input, value_input), Attention(cfg), MLP(cfg), ...",
    ),
    Row(
        "transformer_lens.cache.TransformerLensKeyValueCacheEntry(past_keys, past_values, frozen)",
        "tests/compat/test_old_code.py::test_a_cache_is_read_by_layer",
        "keys are rotated",
    ),
    Row(
        "transformer_lens.utilities.tokenize_utils.get_attention_mask(tokenizer, tokens, prepend_bos, padding_side)",
        "tests/compat/test_utilities.py::test_masks_are_those_that_the_model_made",
    ),
    Row(
        "transformer_lens.utils.tokenize_and_concatenate(dataset, tokenizer, streaming, max_length, set_format)",
        "tests/compat/test_utilities.py::test_rows_of_tokens",
        "a text may go on in the next row across the whole data set",
    ),
]

ROWS: dict[str, list[Row]] = {
    "Loading, processing, training": LOADING,
    "Tokens": TOKENS,
    "Passes and generation": PASSES,
    "Hooks": HOOKS,
    "ActivationCache": CACHE,
    "Names and slices": NAMES,
    "Weights and FactoredMatrix": WEIGHTS,
    "Analysis": ANALYSIS,
    "Helpers": HELPERS,
    "The other import name": COMPAT,
}

# ---------------------------------------------------------------------------------------------------------- asking


def rows() -> list[Row]:
    return [row for group in ROWS.values() for row in group]


def parsed(call: str) -> tuple[str, list[str]]:
    """The dotted name of a call, and its arguments."""
    name, _, arguments = call.partition("(")
    return name, re.findall(r"\w+", arguments)


def found(name: str) -> tuple[Any, Any]:
    """The object that a dotted name means, and where it was found.

    Raises:
        AttributeError: nothing does.
    """
    first, _, rest = name.partition(".")
    if first == compat.NAME:
        submodule, _, ours = rest.rpartition(".")
        return _alias(submodule, ours), compat
    room = getattr(interp_hooks, interp_hooks.MOVED_NAMES[first]) if first in interp_hooks.MOVED_NAMES else interp_hooks
    owner, value = None, RECEIVERS[first] if first in RECEIVERS else getattr(room, first)
    for part in rest.split(".") if rest else ():
        owner, value = value, inspect.getattr_static(value, part)
    return value, owner


def _alias(submodule: str, name: str) -> Any:
    table = compat.MODULES[submodule]
    home = f"{table}:{name}" if isinstance(table, str) else table.get(name)
    if home is None:
        raise AttributeError(name)
    module, _, ours = home.partition(":")
    return getattr(import_module(module), ours)


def taken(name: str) -> dict[str, inspect.Parameter]:
    """The arguments that a call takes, in order; those that it hands on to the same method of a base included."""
    value, owner = found(name)
    function = getattr(value, "__func__", value)
    if not isinstance(function, FunctionType):
        return dict(inspect.signature(function).parameters) if callable(function) else {}
    classes = (owner if isinstance(owner, type) else type(owner)).__mro__
    bases = [vars(one)[function.__name__] for one in classes if function.__name__ in vars(one)]
    arguments: dict[str, inspect.Parameter] = {}
    for one in [function, *bases]:
        own = dict(inspect.signature(getattr(one, "__func__", one)).parameters)
        arguments = own | arguments
        if not any(argument.kind is argument.VAR_KEYWORD for argument in own.values()):
            break
    return arguments


def missing(row: Row) -> str | None:
    """What of a row is not there, in words; None if nothing is."""
    name, arguments = parsed(row.call)
    try:
        there = taken(name)
    except AttributeError:
        return "not here"
    lacking = [argument for argument in arguments if argument not in there]
    return f"without {', '.join(lacking)}" if lacking else None


def markdown() -> str:
    """The table, a section for each group."""
    lines = [HEAD]
    for group, members in ROWS.items():
        lines += [f"## {group}\n", "| name | present | difference |", "|---|---|---|"]
        for row in members:
            lacking = missing(row)
            shown = row.typed or row.call
            cells = [
                shown if "`" in shown else f"`{shown}`",
                "yes" if lacking is None else f"no: {lacking}",
                row.differs,
            ]
            lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")
