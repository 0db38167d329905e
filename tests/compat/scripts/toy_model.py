"""A model made from a config, trained with plain torch to repeat what it read, and looked into."""

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.train import HookedTransformerTrainConfig, train
from transformer_lens.utils import lm_accuracy

cfg = HookedTransformerConfig(
    n_layers=2,
    d_model=32,
    n_ctx=16,
    d_head=8,
    n_heads=4,
    d_vocab=12,
    attn_only=True,
    normalization_type="LN",
    init_weights=True,
    seed=0,
    device="cpu",
)
model = HookedTransformer(cfg)
assert model.W_Q.shape == (2, 4, 32, 8)

torch.manual_seed(1)


def batch_of(size: int) -> torch.Tensor:
    half = torch.randint(1, cfg.d_vocab, (size, 8))
    return torch.cat((half, half), dim=1)


optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.01)
losses = []
for _step in range(50):
    tokens = batch_of(64)
    loss = model(tokens, return_type="loss")
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert losses[-1] < losses[0] - 0.05, f"from {losses[0]:.2f} to {losses[-1]:.2f}"

tokens = batch_of(64)
logits, loss = model(tokens, return_type="both")
correct = lm_accuracy(logits, tokens, per_token=True)
assert correct.shape == (64, 15)
assert (lm_accuracy(logits, tokens) - correct.float().mean()).abs() < 1e-6

_, cache = model.run_with_cache(tokens)
assert cache["resid_post", -1].shape == (64, 16, 32)
assert len(cache) > 20

rows = [{"tokens": row} for row in batch_of(128)]
settings = HookedTransformerTrainConfig(num_epochs=3, batch_size=32, lr=2e-3, print_every=None)
before = model(tokens, return_type="loss").item()
model = train(model, settings, rows)
assert model(tokens, return_type="loss").item() < before
print("done")
