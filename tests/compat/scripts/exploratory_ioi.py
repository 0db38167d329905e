"""A first look at who writes the answer of an IOI prompt, and where it comes from."""

from functools import partial

import einops
import torch
import transformer_lens.utils as utils
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache, HookedTransformer, patching
from transformer_lens.hook_points import HookPoint

torch.set_grad_enabled(False)
device = utils.get_device()

model = HookedTransformer.from_pretrained(
    "ioi-tiny",
    center_unembed=True,
    center_writing_weights=True,
    fold_ln=True,
    refactor_factored_attn_matrices=True,
    device=device,
)

ranks = utils.test_prompt("When Mary and John went to the store, John gave a ring to", "Mary", model)
assert ranks == [(" Mary", 0)]

# ---------------------------------------------------------------------------------------------- prompts and the metric

places_and_things = [("store", "ring"), ("park", "book"), ("school", "key"), ("museum", "pen")]
names = [("Mary", "John"), ("Tom", "James"), ("Sarah", "Martin"), ("Anna", "Paul")]
prompts, answers = [], []
for (place, thing), pair in zip(places_and_things, names, strict=True):
    for io, subject in (pair, pair[::-1]):
        prompts.append(f"When {pair[0]} and {pair[1]} went to the {place}, {subject} gave a {thing} to")
        answers.append((f" {io}", f" {subject}"))

for prompt in prompts:
    assert len(model.to_str_tokens(prompt)) == len(model.to_str_tokens(prompts[0]))

tokens = model.to_tokens(prompts, prepend_bos=True).to(device)
answer_tokens = torch.tensor([[model.to_single_token(one) for one in pair] for pair in answers], device=device)
original_logits, cache = model.run_with_cache(tokens)


def logits_to_ave_logit_diff(logits: Tensor, answer_tokens: Tensor = answer_tokens, per_prompt: bool = False) -> Tensor:
    final_logits: Float[Tensor, "batch d_vocab"] = logits[:, -1, :]
    answer_logits = final_logits.gather(dim=-1, index=answer_tokens)
    answer_logit_diff = answer_logits[:, 0] - answer_logits[:, 1]
    return answer_logit_diff if per_prompt else answer_logit_diff.mean()


original_average_logit_diff = logits_to_ave_logit_diff(original_logits)
assert (logits_to_ave_logit_diff(original_logits, per_prompt=True) > 2).all()

# ------------------------------------------------------------------------------------------- direct logit attribution

answer_residual_directions = model.tokens_to_residual_directions(answer_tokens)
logit_diff_directions = answer_residual_directions[:, 0] - answer_residual_directions[:, 1]
assert logit_diff_directions.shape == (len(prompts), model.cfg.d_model)

final_token_residual_stream = cache["resid_post", -1][:, -1, :]
scaled = cache.apply_ln_to_stack(final_token_residual_stream, layer=-1, pos_slice=-1)
average_logit_diff = einops.einsum(scaled, logit_diff_directions, "batch d, batch d ->") / len(prompts)
torch.testing.assert_close(average_logit_diff, original_average_logit_diff, rtol=1e-3, atol=1e-3)


def residual_stack_to_logit_diff(residual_stack: Tensor, cache: ActivationCache) -> Tensor:
    scaled_residual_stack = cache.apply_ln_to_stack(residual_stack, layer=-1, pos_slice=-1)
    return einops.einsum(scaled_residual_stack, logit_diff_directions, "... batch d, batch d -> ...") / len(prompts)


accumulated_residual, labels = cache.accumulated_resid(layer=-1, incl_mid=True, pos_slice=-1, return_labels=True)
logit_lens_logit_diffs = residual_stack_to_logit_diff(accumulated_residual, cache)
assert labels[0] == "0_pre"
assert labels[-1] == "final_post"
assert len(labels) == 2 * model.cfg.n_layers + 1
torch.testing.assert_close(logit_lens_logit_diffs[-1], original_average_logit_diff, rtol=1e-3, atol=1e-3)
assert logit_lens_logit_diffs[0].abs() < 0.1

per_layer_residual, labels = cache.decompose_resid(layer=-1, pos_slice=-1, return_labels=True)
per_layer_logit_diffs = residual_stack_to_logit_diff(per_layer_residual, cache)
assert labels[:3] == ["embed", "pos_embed", "0_attn_out"]
torch.testing.assert_close(per_layer_logit_diffs.sum(), original_average_logit_diff, rtol=1e-3, atol=1e-3)

per_head_residual, labels = cache.stack_head_results(layer=-1, pos_slice=-1, return_labels=True)
per_head_logit_diffs = residual_stack_to_logit_diff(per_head_residual, cache)
per_head_logit_diffs = einops.rearrange(
    per_head_logit_diffs,
    "(layer head_index) -> layer head_index",
    layer=model.cfg.n_layers,
    head_index=model.cfg.n_heads,
)
top_layer, top_head = divmod(int(per_head_logit_diffs.argmax()), model.cfg.n_heads)
assert labels[top_layer * model.cfg.n_heads + top_head] == f"L{top_layer}H{top_head}"

# --------------------------------------------------------------------------------------------------- attention patterns

top_pattern = cache["pattern", top_layer][:, top_head].mean(dim=0)
str_tokens = model.to_str_tokens(tokens[0])
assert top_pattern.shape == (len(str_tokens), len(str_tokens))
attended = str_tokens[int(cache["attn", top_layer][0, top_head, -1].argmax())]
assert attended == answers[0][0], f"the strongest writer looks at {attended!r}"
assert utils.to_numpy(top_pattern).sum(-1).round(4).tolist() == [1.0] * len(str_tokens)

# ------------------------------------------------------------------------------------------------------------- patching

corrupted_prompts = [prompts[i + 1 - 2 * (i % 2)] for i in range(len(prompts))]
corrupted_tokens = model.to_tokens(corrupted_prompts, prepend_bos=True)
corrupted_logits, corrupted_cache = model.run_with_cache(corrupted_tokens, return_type="logits")
corrupted_average_logit_diff = logits_to_ave_logit_diff(corrupted_logits)
torch.testing.assert_close(corrupted_average_logit_diff, -original_average_logit_diff)


def normalize_patched_logit_diff(patched_logits: Tensor) -> Tensor:
    patched_logit_diff = logits_to_ave_logit_diff(patched_logits)
    difference = original_average_logit_diff - corrupted_average_logit_diff
    return (patched_logit_diff - corrupted_average_logit_diff) / difference


def patch_residual_component(
    corrupted_residual_component: Float[Tensor, "batch pos d_model"], hook: HookPoint, pos: int, clean: ActivationCache
) -> Tensor:
    corrupted_residual_component[:, pos, :] = clean[hook.name][:, pos, :]
    return corrupted_residual_component


by_hand = torch.zeros(model.cfg.n_layers, tokens.shape[1], device=device)
for layer in range(model.cfg.n_layers):
    for position in range(tokens.shape[1]):
        hook_fn = partial(patch_residual_component, pos=position, clean=cache)
        patched_logits = model.run_with_hooks(
            corrupted_tokens,
            fwd_hooks=[(utils.get_act_name("resid_pre", layer), hook_fn)],
            return_type="logits",
        )
        by_hand[layer, position] = normalize_patched_logit_diff(patched_logits)

resid_pre = patching.get_act_patch_resid_pre(model, corrupted_tokens, cache, normalize_patched_logit_diff)
torch.testing.assert_close(resid_pre, by_hand, rtol=1e-4, atol=1e-4)
assert resid_pre[0].argmax() == str_tokens.index(",") + 1, "the second mention of the subject"

head_out = patching.get_act_patch_attn_head_out_all_pos(model, corrupted_tokens, cache, normalize_patched_logit_diff)
assert head_out.shape == (model.cfg.n_layers, model.cfg.n_heads)


def patch_head_vector(z: Float[Tensor, "batch pos head d_head"], hook: HookPoint, head: int) -> Tensor:
    z[:, :, head] = cache[hook.name][:, :, head]
    return z


one_head = model.run_with_hooks(
    corrupted_tokens, fwd_hooks=[(utils.get_act_name("z", top_layer), partial(patch_head_vector, head=top_head))]
)
torch.testing.assert_close(head_out[top_layer, top_head], normalize_patched_logit_diff(one_head), rtol=1e-4, atol=1e-4)

every_block = patching.get_act_patch_block_every(model, corrupted_tokens, cache, normalize_patched_logit_diff)
assert every_block.shape == (3, model.cfg.n_layers, tokens.shape[1])
torch.testing.assert_close(every_block[0], resid_pre)

every_head = patching.get_act_patch_attn_head_all_pos_every(
    model, corrupted_tokens, cache, normalize_patched_logit_diff
)
torch.testing.assert_close(every_head[0], head_out)
print("done")
