"""How does a model come to add? A small one watched over its training, by the waves that it computes with.

    python demos/grokking.py

`mod-add` answers "a b =" with (a + b) mod 53. It learned the sums that it was trained on by heart within some hundred
steps, and thousands of steps later all others came right too: it grokked. Nanda et al. 2023 (arXiv 2301.05217) read how
such models add, with waves: the logit of c is a sum of cos(w_k (a + b - c)), w_k = 2 pi k / 53, for a few key
frequencies k. Their progress measures show these waves grow long before the answers change. Takes seconds; prints
tables and writes a figure as HTML into the current folder.
"""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp_hooks import HookedTransformer
from interp_hooks.loading.training_steps import checkpoint_labels
from interp_hooks.studies.fourier import along_sums, cosines, fourier_basis, fourier_power
from interp_hooks.tasks import modular_addition

P, TRAINED_ON = 53, 0.4

# %% All sums, of which these were trained on.

task = modular_addition(P)
order = torch.randperm(P * P, generator=torch.Generator().manual_seed(1))
trained_on, held_out = order.tensor_split([round(TRAINED_ON * P * P)])


@torch.no_grad()
def all_logits(model: HookedTransformer) -> Tensor:
    """Logits [a, b, c] at "="."""
    return model(task.clean)[:, -1].reshape(P, P, P)


def loss(logits: Tensor, rows: Tensor = order) -> float:
    return cross_entropy(logits.reshape(-1, P)[rows].double(), task.answer[rows]).item()


def accuracy(logits: Tensor, rows: Tensor = order) -> float:
    return (logits.reshape(-1, P).argmax(-1) == task.answer)[rows].double().mean().item()


# %% At the end of training: which frequencies explain the logits?

model = HookedTransformer.from_pretrained_no_processing("mod-add", device="cpu")
logits = all_logits(model)
explained = cosines(logits).explained_variance
keys = (explained > 0.01).nonzero().flatten().tolist()
print(f"Key frequencies, each with more than 1% of the logits' variance: {', '.join(map(str, keys))}")
print(f"together {explained[keys].sum():.1%} of the variance, all others {explained.sum() - explained[keys].sum():.1%}")

# %% Are they needed? Each frequency taken out of the logits, and out of the embedding.


@torch.no_grad()
def without_in_embedding(frequency: int) -> Tensor:
    """Logits of the model whose embedding of numbers has no waves of this frequency."""
    waves = fourier_basis(P)[2 * frequency - 1 : 2 * frequency + 1].float()
    W_E = model.W_E.clone()
    model.W_E[:P] -= waves.T @ (waves @ W_E[:P])
    changed = all_logits(model)
    model.W_E.copy_(W_E)
    return changed


rows = []
for frequency in range(1, P // 2 + 1):
    of_logits, of_embedding = logits - along_sums(logits, [frequency]), without_in_embedding(frequency)
    is_key = "key" if frequency in keys else ""
    rows.append((frequency, is_key, loss(of_logits), accuracy(of_logits), loss(of_embedding), accuracy(of_embedding)))
columns = ["frequency", "", "loss", "accuracy", "embedding_loss", "embedding_accuracy"]
needed = pd.DataFrame(rows, columns=columns).sort_values("loss", ascending=False)
print(f"\nWithout a frequency in the logits, or in the embedding (nothing removed: loss {loss(logits):.2g} nats):")
print(needed.head(len(keys) + 3).to_string(index=False, float_format="{:.3g}".format))

# %% The way there. Restricted: only waves of a + b with the key frequencies are left of the logits (and the constant).
# Excluded: they are removed; on the sums trained on, what is learned by heart survives that.

rows, powers = [], []
for step in checkpoint_labels("mod-add")[0]:
    state = HookedTransformer.from_pretrained_no_processing("mod-add", checkpoint_value=step, device="cpu")
    logits, power = all_logits(state), fourier_power(state.W_E[:P].detach())[1:]
    powers.append(power / power.sum())
    rows.append(
        dict(
            step=step,
            trained_on=loss(logits, trained_on),
            held_out=loss(logits, held_out),
            restricted=loss(along_sums(logits, [0, *keys])),
            excluded=loss(logits - along_sums(logits, keys), trained_on),
            accuracy_trained_on=accuracy(logits, trained_on),
            accuracy_held_out=accuracy(logits, held_out),
            power_on_keys=powers[-1][[key - 1 for key in keys]].sum().item(),
            logits_explained=cosines(logits).explained_variance[keys].sum().item(),
        )
    )
way = pd.DataFrame(rows)
print("\nOver the training (losses in nats, then shares):")
print(way.to_string(index=False, float_format="{:.3g}".format))

# %% The figure.

figure = make_subplots(
    rows=2,
    cols=2,
    specs=[[{}, {}], [dict(colspan=2), None]],
    subplot_titles=("Losses (nats)", "Shares", "Fourier power of the embedding, share of each frequency"),
    vertical_spacing=0.17,
    horizontal_spacing=0.1,
)
lines = {
    "trained_on": ("loss, trained on", 1, "#24292f", "solid"),
    "held_out": ("loss, held out", 1, "#b2182b", "solid"),
    "restricted": ("restricted loss", 1, "#2166ac", "dash"),
    "excluded": ("excluded loss", 1, "#ef8a62", "dash"),
    "accuracy_trained_on": ("accuracy, trained on", 2, "#24292f", "solid"),
    "accuracy_held_out": ("accuracy, held out", 2, "#b2182b", "solid"),
    "power_on_keys": ("embedding's power on key frequencies", 2, "#2166ac", "dash"),
    "logits_explained": ("logits explained by their cosines", 2, "#67a9cf", "dash"),
}
for name, (text, column, colour, dash) in lines.items():
    style = dict(
        mode="lines+markers", line=dict(color=colour, dash=dash), legend="legend" if column == 1 else "legend2"
    )
    figure.add_scatter(x=way.step, y=way[name], name=text, **style, row=1, col=column)
shares = go.Heatmap(
    z=torch.stack(powers).tolist(),
    x=list(range(1, P // 2 + 1)),
    y=[str(step) for step in way.step],
    colorscale=[[0.0, "#ffffff"], [0.5, "#67a9cf"], [1.0, "#08306b"]],
    colorbar=dict(len=0.42, y=0.19, thickness=12),
    hovertemplate="step %{y}<br>frequency %{x}<br>share %{z:.3f}<extra></extra>",
)
figure.add_trace(shares, row=2, col=1)
figure.update_xaxes(title="step", row=1)
figure.update_xaxes(title="frequency", dtick=1, row=2)
figure.update_yaxes(type="log", exponentformat="power", row=1, col=1)
figure.update_yaxes(title="step", autorange="reversed", type="category", row=2)
inside = dict(yanchor="bottom", bgcolor="rgba(255,255,255,0.7)")
figure.update_layout(
    template="plotly_white",
    height=900,
    legend=dict(x=0.1, y=0.7, **inside),
    legend2=dict(x=0.72, y=0.6, **inside),
    modebar=dict(remove=["sendChartToCloud", "select2d", "lasso2d"]),  # the first uploads the chart
)

name = "grokking.html"
Path(name).write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
print(f"\nfigure written to {name}")
