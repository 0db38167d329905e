"""Which parts of a model find the indirect object? Activation patching and direct logit attribution by hand.

    python demos/ioi_patching.py                  # the bundled ioi-tiny model
    python demos/ioi_patching.py gpt2-small       # any checkpoint that the package converts

Prints tables and writes figures as HTML files (with one plotly.min.js beside them) into the current folder.
"""

import sys

import torch

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    Run,
    at,
    attention_pattern,
    bars,
    direct_logit_attribution,
    evaluate,
    heatmap,
    ioi_pairs,
    patch,
)

model = HookedTransformer.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else "ioi-tiny")

# %% Prompts: "When Mary and John went to the store, John gave a ring to" is answered by " Mary". The corrupt prompt has
# the other name at the second mention, so that it is as long, word for word, and has the opposite answer.

pairs = ioi_pairs(model, n=32, seed=0)
metric = LogitDiff(pairs.answer, pairs.wrong)  # logit[answer] - logit[wrong] at the last token, one number per prompt

for kind, prompts in {"clean": pairs.clean, "corrupt": pairs.corrupt}.items():
    differences = metric.on(model)(model(prompts))
    print(f"{kind:8} {prompts[0]!r}: logit difference {differences.mean():.2f} over {len(prompts)} prompts")

# %% Activation patching: run on the corrupt prompt, with one activation at a time from the clean one. A recovered
# fraction of 0 means no effect, 1 that the clean answer is fully back.

by_position = patch(model, pairs.clean, pairs.corrupt, metric, "resid_pre", over=("layer", "pos"), progress=False)
by_head = patch(model, pairs.clean, pairs.corrupt, metric, "z", over=("layer", "head"), progress=False)
print("\npatching heads (z)\n", by_head.top(5).to_string(index=False), sep="")

# %% Direct logit attribution: how much of the answer each head writes to the output itself.

effects = direct_logit_attribution(model, pairs.clean, pairs.answer, pairs.wrong, unit="head")
print("\ndirect effect on the logit difference\n", effects.top(5).to_string(index=False), sep="")
print("sum of all parts:", round(effects.mean.sum().item(), 3))

# %% The head that writes the answer most: where does it look from the last token?

heads = effects.mean[:-2]  # the last two parts, "remainder" and "bias", are no heads
layer, head = divmod(int(heads.argmax()), model.cfg.n_heads)
_, cache = model.run_with_cache(pairs.clean[0], names_filter=f"blocks.{layer}.attn.hook_pattern")
pattern, tokens = cache["pattern", layer][0, head], model.to_str_tokens(pairs.clean[0])
print(f"\nL{layer}H{head} looks from {tokens[-1]!r} mostly at {tokens[int(pattern[-1].argmax())]!r}")

# %% `patch` is a sweep over runs that can also be written one by one: the same cell, by hand.

clean, corrupt = Run(model.to_tokens(pairs.clean)), Run(model.to_tokens(pairs.corrupt))
patched = Run(corrupt.tokens, [Intervention(at("z", layer, head=head), clean)])
by_hand = evaluate(model, [patched], metric)[0]
torch.testing.assert_close(by_hand, by_head.values[layer, head])

# %% Figures. In a notebook the figure itself is shown; in a script, `figure.show()` opens a browser.

figures = {
    "patching_resid_pre": heatmap(by_position, labels={"pos": pairs.labels}, title="Patching the residual stream"),
    "patching_heads": heatmap(by_head, title="Patching each head's z"),
    "direct_effects": bars(effects, top=12, title="Direct effect on the logit difference"),
    "attention": attention_pattern(pattern, tokens, title=f"Attention of L{layer}H{head}"),
}
for name, figure in figures.items():
    figure.write_html(f"{name}.html", include_plotlyjs="directory", config={"displaylogo": False})
print("\nwrote", ", ".join(f"{name}.html" for name in figures))
