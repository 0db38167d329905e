"""How do induction heads work? Claims about a small trained model, tested by causal scrubbing.

    python demos/scrubbing_induction.py

`induction-2l` continues random tokens that come again. The story told of such models (Olsson et al. 2022, In-context
Learning and Induction Heads): a head of layer 0 writes at each token which one was before it; heads of layer 1 look for
a token that follows one like their own, and copy it. Causal scrubbing (Chan et al. 2022) exchanges everything that the
story says is of no consequence for what it is in another prompt, and asks how much of the answers is left. Takes
seconds; prints tables and writes a figure as HTML into the current folder.
"""

from pathlib import Path

import pandas as pd
import torch

from interp_hooks import HookedTransformer, Hypothesis, LogProb, Node, at, bars, detect_head, scrub

LENGTH, REPEATED, PROMPTS = 30, 16, 250

model = HookedTransformer.from_pretrained("induction-2l", device="cpu")

# %% Prompts: BOS, 30 different words, and the first 16 of them again; the answer is the 17th.

generator = torch.Generator().manual_seed(0)
words = 1 + torch.rand(PROMPTS, model.cfg.d_vocab - 1, generator=generator).argsort(dim=1)[:, :LENGTH]
prompts = torch.cat((torch.zeros(PROMPTS, 1, dtype=torch.long), words, words[:, :REPEATED]), dim=1)
answers = words[:, REPEATED]
metric = LogProb(answers)

# %% Which heads look at the token before, and which at the one that followed the same token?

before = detect_head(model, prompts[:16], "previous_token_head")[0]
after = detect_head(model, prompts[:16], "induction_head")[1]
print("attention of layer 0's heads to the token before:   ", [round(score, 2) for score in before.tolist()])
print("attention of layer 1's heads to what followed theirs:", [round(score, 2) for score in after.tolist()])
best, second = before.argsort(descending=True).tolist()[:2]

# %% The story as hypotheses. Values are exact; what a node reads beside its children comes from another prompt.


def story(previous: list[int], inductive: list[int]) -> Hypothesis:
    """Heads of layer 1 match their own token against what these heads of layer 0 wrote, and copy the token there."""

    def reads(what: str) -> list:
        return [at(f"{what}_input", 1, head=inductive)]

    embeddings = at("resid_pre", 0)
    exact = dict(feature="exact")
    return Hypothesis(
        nodes={
            "output": Node(children=["induction"]),
            "induction": Node(
                sites=[at("z", 1, head=inductive, pos=-1)], children=["queries", "keys", "values"], **exact
            ),
            "queries": Node(sites=reads("q"), children=["own token"], **exact),
            "own token": Node(sites=[embeddings], into=reads("q"), **exact),
            "keys": Node(sites=reads("k"), children=["token before"], **exact),
            "token before": Node(sites=[at("z", 0, head=previous)], into=reads("k"), **exact),
            "values": Node(sites=reads("v"), children=["token there"], **exact),
            "token there": Node(sites=[embeddings], into=reads("v"), **exact),
        }
    )


everyone = [0, 1, 2, 3]
others = [head for head in everyone if head not in (best, second)]
claims = {
    f"L0H{best} tells what was before": story([best], everyone),
    f"L0H{second} tells what was before": story([second], everyone),
    f"L0H{best} and L0H{second} do": story([best, second], everyone),
    f"L0H{others[0]} and L0H{others[1]} do": story(others, everyone),
    "... and only L1H0 listens": story([best, second], [0]),
}

# %% What is left of the answers.

rows = []
for claim, hypothesis in claims.items():
    result = scrub(model, hypothesis, prompts, metric, generator=torch.Generator().manual_seed(1))
    low, high = (end.item() for end in result.interval(recovered=True, generator=torch.Generator().manual_seed(2)))
    rows.append((claim, result.mean.item(), result.recovered_fraction.item(), low, high))
table = pd.DataFrame(rows, columns=["claim", "logprob_nats", "recovered", "from", "to"])
print()
print(table.round(3).to_string(index=False))
print()
print(f"The model itself: {result.baselines['model'].mean():.4f} nats; its answers to other prompts:", end=" ")
print(f"{result.baselines['random'].mean():.2f}.")

# %% Each claim of the refined story alone, all else exact: where it costs something.

refined = scrub(model, claims[f"L0H{best} and L0H{second} do"], prompts, metric, each=True, generator=generator)
print()
print(refined.table().round(4).to_string(index=False))

name = "scrubbing_induction.html"
Path(name).write_text(bars(refined).to_html(include_plotlyjs=True), encoding="utf-8")
print(f"\nfigure written to {name}")
