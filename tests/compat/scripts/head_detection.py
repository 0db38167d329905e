"""Induction heads, found by their attention to repeated random tokens."""

import einops
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer, evals
from transformer_lens.head_detector import detect_head, get_induction_head_detection_pattern
from transformer_lens.hook_points import HookPoint

torch.set_grad_enabled(False)
model = HookedTransformer.from_pretrained("ioi-tiny")

batch, seq_len = 8, 30
torch.manual_seed(0)
random_tokens = torch.randint(1, model.cfg.d_vocab, (batch, seq_len))
repeated_tokens = einops.repeat(random_tokens, "batch seq_len -> batch (2 seq_len)")
bos = torch.full((batch, 1), model.tokenizer.bos_token_id)
repeated_tokens = torch.cat((bos, repeated_tokens), dim=1)

induction_score_store = torch.zeros((model.cfg.n_layers, model.cfg.n_heads), device=model.cfg.device)


def induction_score_hook(pattern: Float[Tensor, "batch head dest_pos source_pos"], hook: HookPoint):
    induction_stripe = pattern.diagonal(dim1=-2, dim2=-1, offset=1 - seq_len)
    induction_score = einops.reduce(induction_stripe, "batch head position -> head", "mean")
    induction_score_store[hook.layer(), :] = induction_score


model.run_with_hooks(
    repeated_tokens,
    return_type=None,
    fwd_hooks=[(lambda name: name.endswith("pattern"), induction_score_hook)],
)
layer, head = divmod(int(induction_score_store.argmax()), model.cfg.n_heads)
assert induction_score_store[layer, head] > 0.5, "there is an induction head"

prompt = "When Mary met Tom at the park, Tom gave a ring to Lucy." * 2
scores = detect_head(model, prompt, "induction_head", exclude_bos=True)
assert scores.shape == (model.cfg.n_layers, model.cfg.n_heads)

_, cache = model.run_with_cache(prompt, remove_batch_dim=True)
chosen = detect_head(model, prompt, "induction_head", heads=[(layer, head)], cache=cache, exclude_bos=True)
torch.testing.assert_close(chosen[layer, head], scores[layer, head], rtol=1e-4, atol=1e-5)
assert (chosen == -1).sum() == scores.numel() - 1

tokens = model.to_tokens(prompt)
pattern, wanted = cache["pattern", layer][head], get_induction_head_detection_pattern(tokens)
by_hand = (pattern * wanted)[:, 1:].sum() / pattern[:, 1:].sum()
torch.testing.assert_close(scores[layer, head], by_hand, rtol=1e-4, atol=1e-5)

previous = detect_head(model, prompt, "previous_token_head")
torch.testing.assert_close(previous[0, 0], cache["pattern", 0][0].diagonal(offset=-1).sum() / tokens.shape[1])
assert evals.induction_loss(model, subseq_len=seq_len, device="cpu") < 1
assert evals.sanity_check(model) > 0
print("done")
