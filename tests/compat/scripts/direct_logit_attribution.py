"""How much every component and head writes towards the answer, by `logit_attrs` and with plain tensors."""

import torch
from transformer_lens import HookedTransformer
from transformer_lens.utils import get_act_name, get_corner, to_numpy

torch.set_grad_enabled(False)
model = HookedTransformer.from_pretrained("ioi-tiny")
prompt = "After Lucy and Tom met at the park, Tom handed a book to"
answer, wrong = " Lucy", " Tom"

tokens = model.to_tokens(prompt)
logits, cache = model.run_with_cache(tokens)
logit_diff = (logits[0, -1, model.to_single_token(answer)] - logits[0, -1, model.to_single_token(wrong)]).item()
assert logit_diff > 1

residual_stack, labels = cache.get_full_resid_decomposition(expand_neurons=False, pos_slice=-1, return_labels=True)
attributions = cache.logit_attrs(residual_stack, tokens=answer, incorrect_tokens=wrong, pos_slice=-1)[:, 0]

scale = cache["ln_final.hook_scale"][0, -1]
direction = model.W_U[:, model.to_single_token(answer)] - model.W_U[:, model.to_single_token(wrong)]
by_hand = residual_stack[:, 0] / scale @ direction
torch.testing.assert_close(attributions, by_hand, rtol=1e-3, atol=1e-3)

bias = model.b_U[model.to_single_token(answer)] - model.b_U[model.to_single_token(wrong)]
assert abs(attributions.sum() + bias - logit_diff) < 1e-2

heads, head_labels = cache.stack_head_results(layer=-1, pos_slice=-1, return_labels=True)
per_head = cache.logit_attrs(heads, tokens=answer, incorrect_tokens=wrong, pos_slice=-1)[:, 0]
best = head_labels[int(per_head.argmax())]
layer, head = int(best[1 : best.index("H")]), int(best[best.index("H") + 1 :])
z = cache[get_act_name("z", layer)][0, -1, head]
torch.testing.assert_close(heads[int(per_head.argmax()), 0], z @ model.W_O[layer, head], rtol=1e-4, atol=1e-4)
assert labels.count(best) == 1

assert get_corner(residual_stack).shape == (3, 1, 3)
assert to_numpy(per_head).shape == (model.cfg.n_layers * model.cfg.n_heads,)
print("done")
