"""How does a small transformer tell that brackets are balanced? Claims about its heads, tested by causal scrubbing.

    python demos/brackets.py

`brackets` reads up to 40 brackets and answers at START. A row can fail in two ways: the count, if there are not as many
"(" as ")", and the horizon, if some suffix has more "(" than ")". The near misses of the task show which heads tell of
which. What these heads are said to tell is then tested (Chan et al. 2022, Causal Scrubbing): all that is said to be of
no consequence is exchanged for what it is in another prompt. Takes seconds; prints tables and writes a figure as HTML
into the current folder.
"""

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    Hypothesis,
    LogitDiff,
    LogProb,
    Node,
    Result,
    at,
    bars,
    direct_logit_attribution,
    patch,
    scrub,
    tasks,
)
from interp_hooks.tasks import symbols

LENGTH, PROMPTS = 40, 400
COLUMNS = ["count heads; horizon heads", "logprob_nats", "recovered", "from", "to"]
KINDS = ["balanced", "one turned", "two exchanged", "random"]

model = HookedTransformer.from_pretrained("brackets", device="cpu")
heads = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]

# %% Prompts: half of them balanced, the others near misses of both kinds and random ones.

task = tasks.brackets(PROMPTS, length=LENGTH, near_misses=0.8)
prompts, metric = torch.as_tensor(task.clean), LogProb(task.answer, pos=0)


def by_kind(right: Tensor) -> list[float]:
    """The share of prompts that are told right [prompt], of each kind."""
    return [right[task.template == kind].double().mean().item() for kind in range(len(KINDS))]


accuracy = by_kind(task.check(model).values[0])
print("told right:", ", ".join(f"{share:.3f} of {kind}" for kind, share in zip(KINDS, accuracy, strict=True)))

# %% Which heads tell START what is wrong? Pairs of a row that fails in one way alone and its balanced twin: how much of
# the difference in the answer comes with a head's output at START, and how much (in logits) does it write directly?

generator = torch.Generator().manual_seed(0)
rows = symbols.balanced_rows(PROMPTS, LENGTH, generator)
near_misses = {"count": symbols.one_turned(rows, generator), "horizon": symbols.two_exchanged(rows, generator)}
told, direct = {}, {}
for name, missed in near_misses.items():
    alone = symbols.count_is_right(missed) != symbols.horizon_is_kept(missed)
    balanced, failing = symbols.enclosed(rows[alone]), symbols.enclosed(missed[alone])
    n = len(failing)
    difference = LogitDiff(torch.full((n,), symbols.BALANCED), torch.full((n,), symbols.UNBALANCED), pos=0)
    restored = patch(
        model, balanced, failing, difference, "z", over=("layer", "head"), select={"pos": 0}, progress=False
    )
    told[name] = restored.recovered_fraction.flatten()
    effects = [
        direct_logit_attribution(model, tokens, symbols.BALANCED, symbols.UNBALANCED, unit="head", pos=0).mean
        for tokens in (balanced, failing)
    ]
    direct[f"{name}, direct"] = (effects[0] - effects[1])[: len(heads)]  # in logits; the rest are no heads

# %% A head tells of what it restores more of, in parts of the most that any head does; below a tenth it counts as idle.

shares = torch.stack([restored / restored.max() for restored in told.values()], dim=1)
role = [list(told)[int(share.argmax())] if share.max() > 0.1 else "idle" for share in shares]
names = [f"L{layer}H{head}" for layer, head in heads]
print()
print(pd.DataFrame({"head": names, **told, **direct, "tells of": role}).round(3).to_string(index=False))
groups = {
    name: [at("z", layer, head=head, pos=0) for (layer, head), one in zip(heads, role, strict=True) if one == name]
    for name in told
}

# %% The story as hypotheses: at START, the value of some heads depends on this alone. Other heads are exchanged freely.


def claim(**depends_on: str) -> Hypothesis:
    """By name of a group of heads, the feature that their output at START stands for."""
    nodes = {f"{group} heads": Node(sites=groups[group], feature=feature) for group, feature in depends_on.items()}
    return Hypothesis(nodes={"output": Node(children=list(nodes)), **nodes})


features = {
    "elevation": symbols.elevation(prompts)[:, 0],
    "count": symbols.count_is_right(prompts),
    "horizon": symbols.horizon_is_kept(prompts),
}
features["both"] = torch.stack((features["count"], features["horizon"]), dim=1)
claims = {
    "all they write": claim(count="exact", horizon="exact"),
    "count; horizon": claim(count="elevation", horizon="horizon"),
    "count; both": claim(count="elevation", horizon="both"),
    "horizon; count": claim(count="horizon", horizon="elevation"),
    "count; count": claim(count="elevation", horizon="count"),
    "count; -": claim(count="elevation"),
    "-; horizon": claim(horizon="horizon"),
    "-; -": claim(count="anything", horizon="anything"),
}

# %% What is left of the answers.

results = {
    name: scrub(model, one, prompts, metric, features, generator=torch.Generator().manual_seed(1))
    for name, one in claims.items()
}
table = []
for name, result in results.items():
    low, high = (end.item() for end in result.interval(recovered=True, generator=torch.Generator().manual_seed(2)))
    table.append((name, result.mean.item(), result.recovered_fraction.item(), low, high))
print()
print(pd.DataFrame(table, columns=COLUMNS).round(3).to_string(index=False))
model_itself, random = (results["-; -"].baselines[name].mean() for name in ("model", "random"))
print(f"\nThe model itself: {model_itself:.4f} nats; its answers to other prompts: {random:.2f}.")

# %% A prediction: a model whose horizon heads hear of the count alone takes near misses of the horizon for balanced.

right = by_kind(results["count; count"].values[0] > torch.tensor(0.5).log())
print("\nHorizon heads that hear of the count alone, told right:")
print(", ".join(f"{share:.3f} of {kind}" for kind, share in zip(KINDS, right, strict=True)))

left = torch.cat([result.values for result in results.values()])
figure = bars(
    Result(metric=metric.name, axes={COLUMNS[0]: list(results)}, values=left), title="What is left of the answers"
)
name = "brackets.html"
Path(name).write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
print(f"\nfigure written to {name}")
