"""Calls as code written for `HookedTransformer` makes them, to be asked of two packages.

Each is a Python expression over `model`, `cache` (of `tokens`, [2, 5]), `one` (the cache of the first prompt, without
batch axis), `tokens`, `torch` and names that both packages have. This file knows neither of them.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

FLAGS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases", "refactor_factored_attn_matrices")
VARIANTS = [dict(zip(FLAGS, flags, strict=True)) for flags in itertools.product((False, True), repeat=len(FLAGS))]

RUNS = [
    "model(tokens)",
    "model(tokens, return_type='loss')",
    "model(tokens, return_type='loss', loss_per_token=True)",
    "model(tokens, return_type='both')",
    "model(tokens, stop_at_layer=2)",
    "model(tokens, stop_at_layer=-1)",
    "model(cache['resid_pre', 1], start_at_layer=1)",
    "model(cache['resid_pre', 1], start_at_layer=1, stop_at_layer=2)",
    "model(tokens, attention_mask=torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]))[0, 2:]",
    "model.loss_fn(model(tokens), tokens)",
    "model.run_with_hooks(tokens, fwd_hooks=[('blocks.1.attn.hook_z', lambda z, hook: z * 0.5)])",
    "model.run_with_hooks(tokens, fwd_hooks=[(lambda name: name.endswith('resid_mid'), lambda x, hook: x.flip(0))])",
    "model.run_with_hooks(tokens, fwd_hooks=[(get_act_name('pattern', 0), lambda p, hook: p.roll(1, 1))])",
    "list(model.run_with_cache(tokens, names_filter=lambda n: n.endswith('attn.hook_q'), pos_slice=-1)[1].values())",
    "list(model.run_with_cache(tokens, names_filter='blocks.0.hook_resid_post', pos_slice=(1, 3))[1].values())",
    "list(model.run_with_cache(tokens[:1], names_filter=['hook_embed'], remove_batch_dim=True)[1].values())",
]

CACHE = [
    "cache['q', 0]",
    "cache['resid_post', -1]",
    "cache['k1']",
    "cache['scale', 1, 'ln1']",
    "cache['normalized0ln2']",
    "cache['scale']",
    "cache['attn', 2]",
    "cache['embed']",
    "cache['post', 0, 'm']",
    "len(one)",
    "one['resid_post', 1]",
    *(
        f"cache.accumulated_resid({layer}, incl_mid={mid}, apply_ln={ln}, pos_slice={pos}, return_labels=True)"
        for layer, mid, ln, pos in (
            *((-1, True, False, None), (None, False, True, None), (1, True, True, -1), (2, False, False, (1, 4))),
            (0, True, False, [0, 2]),
        )
    ),
    "cache.accumulated_resid(1, incl_mid=True, mlp_input=True, return_labels=True)",
    "cache.accumulated_resid(1, mlp_input=True, apply_ln=True)",
    *(
        f"cache.decompose_resid({layer}, mode={mode!r}, apply_ln={ln}, pos_slice={pos}, return_labels=True)"
        for layer, mode, ln, pos in (
            *((-1, "all", False, None), (2, "attn", False, -1), (None, "mlp", False, (0, 2)), (1, "all", False, [1])),
        )
    ),
    "cache.decompose_resid(1, mlp_input=True, incl_embeds=False, return_labels=True)",
    "cache.stack_head_results(return_labels=True)",
    "cache.stack_head_results(1, return_labels=True, incl_remainder=True, pos_slice=-1)",
    "cache.stack_head_results(2, apply_ln=True)",
    "one.stack_head_results(2, return_labels=True, pos_slice=1)",
    "cache.stack_neuron_results(1, return_labels=True, incl_remainder=True)",
    "cache.stack_neuron_results(2, pos_slice=-1, neuron_slice=(3, 9), return_labels=True)",
    "cache.stack_neuron_results(-1, pos_slice=[0, 4], neuron_slice=[1, 7], apply_ln=True)",
    "cache.stack_neuron_results(2, pos_slice=2, project_output_onto=model.W_U[:, 3])",
    "cache.stack_neuron_results(2, pos_slice=-1, apply_ln=True, project_output_onto=model.W_U[:, :2])",
    "cache.get_neuron_results(0, neuron_slice=(0, 5), pos_slice=-1)",
    "cache.get_neuron_results(1, neuron_slice=[2, 4])",
    "cache.get_neuron_results(2, pos_slice=0, project_output_onto=model.W_U[:, 1])",
    "cache.stack_activation('z')",
    "cache.stack_activation('resid_pre', 2)",
    "cache.stack_activation('scale', -1, 'ln2')",
    "cache.get_full_resid_decomposition(1, return_labels=True)",
    "cache.get_full_resid_decomposition(expand_neurons=False, pos_slice=-1, return_labels=True)",
    "cache.get_full_resid_decomposition(2, mlp_input=True, expand_neurons=False, pos_slice=1, return_labels=True)",
    "cache.get_full_resid_decomposition(2, pos_slice=-1, project_output_onto=model.W_U[:, 0])",
    "cache.apply_ln_to_stack(cache.decompose_resid(2), 2)",
    "cache.apply_ln_to_stack(cache.decompose_resid(1, pos_slice=-1), 1, pos_slice=-1)",
    "cache.apply_ln_to_stack(cache.decompose_resid(1, mlp_input=True), 1, mlp_input=True)",
    "cache.apply_ln_to_stack(cache.decompose_resid(), batch_slice=(0, 1))",
    "cache.apply_ln_to_stack(cache.accumulated_resid(2), 2, recompute_ln=True)",
    "one.apply_ln_to_stack(one.decompose_resid(2), 2, has_batch_dim=False)",
    "cache.logit_attrs(cache.decompose_resid(), torch.tensor([[1] * 5, [2] * 5]))",
    "cache.logit_attrs(cache.decompose_resid(pos_slice=-1), torch.tensor([1, 2]), torch.tensor([3, 4]), pos_slice=-1)",
    "cache.logit_attrs(cache.stack_head_results(pos_slice=-1), 7, 5, pos_slice=-1)",
    "one.logit_attrs(one.decompose_resid(pos_slice=-1), 7, 5, pos_slice=-1, has_batch_dim=False)",
    "cache.apply_slice_to_batch_dim(0)['z', 1]",
    "cache.apply_slice_to_batch_dim((1, 2))['resid_pre', 1]",
]

WEIGHTS = [
    *("model.W_E", "model.W_U", "model.b_U", "model.W_Q", "model.W_K", "model.W_V", "model.W_O"),
    *("model.b_Q", "model.b_K", "model.b_V", "model.b_O", "model.W_in", "model.W_out", "model.b_out"),
    "model.QK.shape",
    "model.OV.shape",
    "model.QK.AB",
    "model.OV[0, 1].AB",
    "model.OV.norm()",
    "model.OV.svd()[1]",
    "model.QK.S",
    "model.OV[1, 2].eigenvalues.abs().sort()[0]",
    "model.OV.T.AB",
    "model.QK.BA",
    "model.OV.collapse_l().abs()",
    "model.OV.collapse_r().abs()",
    "model.OV.make_even().AB",
    "(model.OV @ model.W_U[:, :3]).AB",
    "model.OV[0, 0] @ model.W_U[:, 3]",
    "(model.W_E[:4] @ model.QK[1]).AB",
    "(model.OV[0, 1] @ model.OV[1, 2]).AB",
    "(2 * model.OV[0, 1]).AB",
    "model.OV[:, 1].AB",
    "model.OV[1][2].AB",
    "model.QK[0, 1, 3].AB",
    "model.QK[0, 1, :, 2].AB",
    "model.OV.unsqueeze(0).shape",
    "model.OV.get_corner(2)",
    "model.OV.ndim",
    "model.OV[0, 1].pair",
    "FactoredMatrix(model.W_E[:4], model.W_U[:, :5]).AB",
    "FactoredMatrix(model.W_E[:4], model.W_U[:, :5]).U.abs()",
    "FactoredMatrix(model.W_E[:4], model.W_U[:, :5]).V.abs()",
    "model.all_composition_scores('Q')",
    "model.all_composition_scores('K')",
    "model.all_composition_scores('V')",
    "model.all_head_labels()",
    "model.accumulated_bias(0)",
    "model.accumulated_bias(2)",
    "model.accumulated_bias(2, mlp_input=True)",
    "model.accumulated_bias(2, include_mlp_biases=False)",
    "model.tokens_to_residual_directions(torch.tensor([3, 5]))",
    "model.tokens_to_residual_directions(7)",
    "get_act_name('k6')",
    "get_act_name('pre_linear', 2)",
    "get_act_name('normalized', 27, 'ln2')",
    "get_act_name('scale4ln1')",
    "get_act_name('attn', 1)",
    "get_act_name('mlp_in', 1)",
    "Slice((1, 4)).apply(tokens, 1)",
    "Slice([0, 2]).indices(6)",
    "lm_cross_entropy_loss(model(tokens), tokens)",
    "lm_accuracy(model(tokens), tokens, per_token=True)",
]


def fingerprints(weights: dict[str, Tensor], signs: bool) -> dict[str, Tensor]:
    """Four sums of every tensor over the root of its size, with other weights; without `signs` of absolutes."""
    found = {}
    for name, weight in weights.items():
        values = weight.detach().double().flatten()
        values = values if signs else values.abs()
        at = torch.arange(len(values), dtype=torch.float64)
        sums = [values @ (at * step + step).sin() for step in (0.7, 1.1, 1.9, 2.3)]
        found[name] = torch.stack(sums) / len(values) ** 0.5
    return found


def flattened(value: Any) -> tuple[list[Tensor], Any]:
    """The tensors in a value, in order, and what is left of it as plain data."""
    tensors: list[Tensor] = []

    def walk(one: Any) -> Any:
        if isinstance(one, Tensor):
            tensors.append(one.detach().clone().contiguous())
            return "tensor"
        if isinstance(one, (list, tuple)):
            return [walk(part) for part in one]
        if hasattr(one, "AB"):
            return walk(one.AB)
        if hasattr(one, "tolist"):
            return walk(one.tolist())
        return one

    return tensors, walk(value)
