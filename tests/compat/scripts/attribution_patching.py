"""Attribution patching by hand: one forward and backward pass estimates what patching each activation would do."""

import einops
import torch
import transformer_lens.patching as patching
import transformer_lens.utils as utils
from torch import Tensor
from transformer_lens import ActivationCache, HookedTransformer

model = HookedTransformer.from_pretrained("ioi-tiny")
model.set_use_attn_result(True)

prompts = [
    "When Mary and John went to the store, John gave a ring to",
    "When Mary and John went to the store, Mary gave a ring to",
    "When Tom and Lucy went to the park, Lucy gave a book to",
    "When Tom and Lucy went to the park, Tom gave a book to",
]
answers = [(" Mary", " John"), (" John", " Mary"), (" Tom", " Lucy"), (" Lucy", " Tom")]

clean_tokens = model.to_tokens(prompts)
corrupted_tokens = clean_tokens[[1, 0, 3, 2]]
answer_token_indices = torch.tensor([[model.to_single_token(one) for one in pair] for pair in answers])


def get_logit_diff(logits: Tensor, answer_token_indices: Tensor = answer_token_indices) -> Tensor:
    if logits.ndim == 3:
        logits = logits[:, -1, :]
    correct_logits = logits.gather(1, answer_token_indices[:, 0].unsqueeze(1))
    incorrect_logits = logits.gather(1, answer_token_indices[:, 1].unsqueeze(1))
    return (correct_logits - incorrect_logits).mean()


with torch.no_grad():
    CLEAN_BASELINE = get_logit_diff(model(clean_tokens)).item()
    CORRUPTED_BASELINE = get_logit_diff(model(corrupted_tokens)).item()


def ioi_metric(logits: Tensor) -> Tensor:
    return (get_logit_diff(logits) - CORRUPTED_BASELINE) / (CLEAN_BASELINE - CORRUPTED_BASELINE)


def filter_not_qkv_input(name: str) -> bool:
    return not name.endswith(("_input", "attn_in", "mlp_in"))


def get_cache_fwd_and_bwd(
    model: HookedTransformer, tokens: Tensor, metric
) -> tuple[float, ActivationCache, ActivationCache]:
    model.reset_hooks()
    cache = {}

    def forward_cache_hook(act, hook):
        cache[hook.name] = act.detach()

    model.add_hook(filter_not_qkv_input, forward_cache_hook, "fwd")
    grad_cache = {}

    def backward_cache_hook(act, hook):
        grad_cache[hook.name] = act.detach()

    model.add_hook(filter_not_qkv_input, backward_cache_hook, "bwd")
    value = metric(model(tokens))
    value.backward()
    model.reset_hooks()
    return value.item(), ActivationCache(cache, model), ActivationCache(grad_cache, model)


clean_value, clean_cache, clean_grad_cache = get_cache_fwd_and_bwd(model, clean_tokens, ioi_metric)
corrupted_value, corrupted_cache, corrupted_grad_cache = get_cache_fwd_and_bwd(model, corrupted_tokens, ioi_metric)
assert abs(clean_value - 1) < 1e-5
assert abs(corrupted_value) < 1e-5
assert set(corrupted_grad_cache.keys()) <= set(corrupted_cache.keys())

# ------------------------------------------------------------------------------------------------ the residual stream

clean_residual, residual_labels = clean_cache.accumulated_resid(-1, incl_mid=True, return_labels=True)
corrupted_residual = corrupted_cache.accumulated_resid(-1, incl_mid=True, return_labels=False)
corrupted_grad_residual = corrupted_grad_cache.accumulated_resid(-1, incl_mid=True, return_labels=False)
residual_attr = einops.reduce(
    corrupted_grad_residual * (clean_residual - corrupted_residual),
    "component batch pos d_model -> component pos",
    "sum",
)
assert residual_attr.shape == (len(residual_labels), clean_tokens.shape[1])

# --------------------------------------------------------------------------------------------------------------- heads


def stack_head_vector_from_cache(cache: ActivationCache, activation_name: str) -> Tensor:
    stacked = torch.stack([cache[activation_name, layer] for layer in range(model.cfg.n_layers)], dim=0)
    return einops.rearrange(stacked, "layer batch pos head d_head -> (layer head) batch pos d_head")


z_difference = stack_head_vector_from_cache(clean_cache, "z") - stack_head_vector_from_cache(corrupted_cache, "z")
head_attr = einops.reduce(
    stack_head_vector_from_cache(corrupted_grad_cache, "z") * z_difference,
    "(layer head) batch pos d_head -> layer head",
    "sum",
    layer=model.cfg.n_layers,
)
pattern_attr = corrupted_cache["pattern", 1] * corrupted_grad_cache["pattern", 1]
assert pattern_attr.shape[1] == model.cfg.n_heads

with torch.no_grad():
    head_patch = patching.get_act_patch_attn_head_out_all_pos(model, corrupted_tokens, clean_cache, ioi_metric)
assert head_patch.shape == head_attr.shape

layer, head = divmod(int(head_attr.abs().argmax()), model.cfg.n_heads)
name = utils.get_act_name("z", layer)


def a_step_towards_clean(z, hook, size=0.01):
    z[:, :, head] += size * (clean_cache[hook.name] - corrupted_cache[hook.name])[:, :, head]
    return z


with torch.no_grad():
    step = ioi_metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=[(name, a_step_towards_clean)])) / 0.01
torch.testing.assert_close(head_attr[layer, head], step, rtol=0.05, atol=1e-3)

# ------------------------------------------------- the estimate of one activation, by differentiating the pass after it

name = utils.get_act_name("resid_pre", 2)
stream = corrupted_cache[name].clone().requires_grad_(True)
(gradient,) = torch.autograd.grad(ioi_metric(model(stream, start_at_layer=2)), stream)
torch.testing.assert_close(corrupted_grad_cache[name], gradient, rtol=1e-4, atol=1e-6)
row = residual_labels.index("2_pre")
expected = (gradient * (clean_cache[name] - corrupted_cache[name])).sum((0, 2))
torch.testing.assert_close(residual_attr[row], expected, rtol=1e-3, atol=1e-5)
print("done")
