"""Which rotary frequencies tell positions, and which tell contents? An induction circuit that is trained here.

    python demos/rotary_induction.py

A rotary model turns pair f of a head's dimensions by the position times a frequency, so that each pair is a clock of
its own: fast ones tell how far a key stands from its query, slow ones hardly turn and can compare what the two hold
(Barbero et al. 2024, arxiv.org/abs/2410.06205). Two layers of attention learn, in less than a minute, to continue
random words that come again. Their scores are then taken apart, exactly, by what wrote query and key and by frequency;
and what that says is put to the test, by taking away fast or slow pairs. Prints tables and writes a figure as HTML into
the current folder.
"""

import math
from pathlib import Path

import pandas as pd
import plotly.express as px
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    HookedTransformerConfig,
    Intervention,
    LogProb,
    Run,
    at,
    detect_head,
    evaluate,
)
from interp_hooks.studies import composing_heads, path_effects, position_profile, rotary_wavelengths, score_split

WORDS, LENGTH, STEPS, RATE = 32, 48, 400, 5e-3

# %% Two layers of four heads, without MLPs. Of 20 dimensions of a head 16 turn, in 8 pairs, and 4 do not.

model = HookedTransformer(
    HookedTransformerConfig(
        n_layers=2,
        d_model=64,
        n_heads=4,
        d_head=20,
        rotary_dim=16,
        n_ctx=LENGTH,
        d_vocab=WORDS + 1,
        attn_only=True,
        normalization_type="LN",
        positional_embedding_type="rotary",
        seed=0,
        device="cpu",
    )
)
generator = torch.Generator().manual_seed(1)


def rows(n: int) -> tuple[Tensor, Tensor]:
    """BOS, then 6 to 19 different words that come again and again; and where a word is told by what came before."""
    sizes = torch.randint(6, 20, (n, 1), generator=generator)
    words = 1 + torch.rand(n, WORDS, generator=generator).argsort(dim=1)
    places = torch.arange(LENGTH - 1)
    return torch.cat((torch.zeros(n, 1, dtype=torch.long), words.gather(1, places % sizes)), dim=1), places > sizes


optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
for step in range(STEPS):
    optimizer.param_groups[0]["lr"] = RATE * min(1, step / 50) * (1 + math.cos(math.pi * step / STEPS)) / 2
    tokens, told = rows(64)
    losses = model(tokens, return_type="loss", loss_per_token=True)
    loss = losses[told].mean() + 0.1 * losses[~told].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0 or step == STEPS - 1:
        print(f"step {step}: loss {losses[told].mean():.3f} nats where the row has told what comes")
model.requires_grad_(False)

# %% Prompts: 16 words, and the first five of them again. At the end, the key of induction is the sixth token.

drawn = 1 + torch.rand(256, WORDS, generator=generator).argsort(dim=1)[:, :16]
prompts = torch.cat((torch.zeros(256, 1, dtype=torch.long), drawn, drawn[:, :5]), dim=1)
END, KEY = prompts.shape[1] - 1, 6
metric = LogProb(drawn[:, 5])
before = int(detect_head(model, prompts[:32], "previous_token_head")[0].argmax())
after = int(detect_head(model, prompts[:32], "induction_head")[1].argmax())
print(f"\nL0H{before} looks at the token before, L1H{after} at the one that followed the same token")

# %% Each head's score of its key, above the keys that it sees, by frequency.

wavelengths = [*(f"{turn:.0f}" for turn in rotary_wavelengths(model).tolist()), "never"]
position = score_split(model, prompts, 0, before, END, END - 1, frequencies=True)
content = score_split(model, prompts, 1, after, END, KEY, frequencies=True)
table = pd.DataFrame({"tokens a turn": wavelengths})
for name, split in (("previous token", position), ("induction", content)):
    by_frequency = split.mean.sum((0, 1))
    table[name] = (by_frequency / by_frequency.sum()).tolist()
profile = position_profile(model, rows(256)[0], 0, range(16), frequencies=True)
table["position alone"] = (profile.mean[before, 1] / profile.mean[before, 1].sum()).tolist()
print("\nShare of each head's score, by how many tokens a pair takes to turn around:")
print(table.round(2).to_string(index=False))

by_key = pd.Series(content.mean.sum((0, 2)).tolist(), content.axes["key_part"]).sort_values(ascending=False)
print(f"\nWhat tells L1H{after} where to look, in its score's units, by what wrote the key:")
print(by_key.round(2).to_string())

# %% The test: take pairs away. What is left of the answer if fast or slow pairs of queries say nothing?

pairs = model.cfg.rotary_dim // 2
fast = [pair + half for pair in range(3) for half in (0, pairs)]
slow = [dim for dim in range(model.cfg.d_head) if dim not in fast]
kinds = {"fast": fast, "slow": slow}
cases = [(layer, kind) for layer in range(2) for kind in kinds]
runs = [Run(prompts, [Intervention(at("rot_q", layer, d_head=kinds[kind]), 0.0)]) for layer, kind in cases]
whole, *left = evaluate(model, [Run(prompts), *runs], metric)
print(f"\nProbability of the right word: {whole.exp().mean():.2f}. Without some pairs of the queries:")
for (layer, kind), scores in zip(cases, left, strict=True):
    print(f"  layer {layer}, {kind}: {scores.exp().mean():.2f}")

# %% Which heads feed which: exact shares of scores, beside what path patching says.

others = torch.cat(
    (prompts[:, :1], 1 + torch.rand(256, WORDS, generator=generator).argsort(dim=1)[:, :16], drawn[:, :5]), dim=1
)
found = composing_heads(model, prompts, others, via=["K"], query=END)
effects = path_effects(model, prompts, others, metric, via=["K"])
print("\nWho tells whom through keys (part of the score, share of it, composition of weights):")
print(found.table().head(6).round(2).to_string(index=False))
print("\nHow the three correlate with the effects of path patching:")
print(found.against(effects).round(2).to_string(index=False))

# %% A figure.

figure = px.bar(
    table.melt("tokens a turn", var_name="score of", value_name="share"),
    x="tokens a turn",
    y="share",
    color="score of",
    barmode="group",
    title="Fast pairs find the token before, slow ones the same word",
)
figure.update_xaxes(type="category", title="tokens in which a pair turns around")
name = "rotary_induction.html"
Path(name).write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
print(f"\nfigure written to {name}")
