"""Which directions of the stream hold one variable? Distributed alignment search in a model whose answer is known.

    python demos/das.py

The model adds two numbers modulo 7, in weights written by hand: attention copies each number to the last token, as a
point on a circle in a plane of its own, and squares in the MLP multiply them (cos(a + b) = cos a cos b - sin a sin b).
The planes lie askew in a stream of 16 dimensions, so no single coordinate means anything. Distributed alignment search
(Geiger et al. 2024, arxiv.org/abs/2303.02536) looks for two dimensions whose swap between two prompts swaps the first
number alone, and says beside it what such a search finds where nothing is. Takes seconds; prints tables and writes a
figure as HTML into the current folder.
"""

import math

import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookedTransformerConfig, Intervention, LogitDiff, Run, at, heatmap, sweep
from interp_hooks.studies import fit_das

N = 7  # numbers are the tokens 0..6, and 7 is "="
NUMBER, FIRST, SECOND, SUM, POSITION = (slice(start, start + 2) for start in (0, 2, 4, 6, 8))
torch.manual_seed(0)


def circle(numbers: Tensor) -> Tensor:
    """Points [number, 2], a seventh of a turn from one to the next."""
    angle = 2 * math.pi * numbers / N
    return torch.stack((angle.cos(), angle.sin()), dim=-1)


# %% The model: "a b =" is answered by (a + b) mod 7. `axes` turns the coordinates named above into the stream's own.


@torch.no_grad()
def modular_addition(axes: Tensor) -> HookedTransformer:
    """Two heads, the first looks at the first token and the second at the second; then four products of two numbers."""
    cfg = HookedTransformerConfig(
        n_layers=1, d_model=16, n_ctx=3, d_vocab=N + 1, d_vocab_out=N, n_heads=2, d_head=2, d_mlp=16, act_fn="relu2",
        normalization_type=None,
    )  # fmt: skip
    model = HookedTransformer(cfg)
    for weight in model.parameters():
        weight.zero_()
    block = model.blocks[0]
    model.embed.W_E[:N] = circle(torch.arange(N)) @ axes[NUMBER]
    model.pos_embed.W_pos[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]) @ axes[POSITION]
    for head, plane in enumerate((FIRST, SECOND)):
        block.attn.W_K[head, :, 0] = axes[POSITION][head]
        block.attn.b_Q[head, 0] = 100.0  # so that the head looks nowhere else
        block.attn.W_V[head] = axes[NUMBER].T
        block.attn.W_O[head] = axes[plane]
    # relu2(u) + relu2(-u) = u^2, and (x + y)^2 - (x - y)^2 = 4xy
    products = [(0, 0, 0, 1.0), (1, 1, 0, -1.0), (0, 1, 1, 1.0), (1, 0, 1, 1.0)]  # cos cos - sin sin, cos sin + sin cos
    for i, (x, y, into, sign) in enumerate(products):
        first, second, total = axes[FIRST][x], axes[SECOND][y], axes[SUM][into]
        for neuron, u, weight in ((0, first + second, 0.25), (2, first - second, -0.25)):
            for turned in (0, 1):
                block.mlp.W_in[:, 4 * i + neuron + turned] = u if turned == 0 else -u
                block.mlp.W_out[4 * i + neuron + turned] = sign * weight * total
    model.unembed.W_U[:] = 10 * axes[SUM].T @ circle(torch.arange(N)).T
    return model


axes = torch.linalg.qr(torch.randn(16, 16)).Q
model = modular_addition(axes).requires_grad_(False)
a, b = torch.cartesian_prod(torch.arange(N), torch.arange(N)).T
prompts = torch.stack((a, b, torch.full_like(a, N)), dim=1)
print("answers that are right:", f"{(model(prompts)[:, -1].argmax(-1) == (a + b) % N).float().mean():.0%}")

# %% Pairs of prompts: with the first number of `source` in place of its own, `base` has the counterfactual answer.

pairs = torch.randint(len(prompts), (2, 256))
base, source = prompts[pairs[0]], prompts[pairs[1]]
counterfactual = (source[:, 0] + base[:, 1]) % N

# %% The search, with its controls: what is right without a swap, with all of the stream swapped, with random planes,
# and with changes as long in other directions; and how many of the answers it would fit if these were in random order.

das = fit_das(
    model, base, source, counterfactual, "resid_mid0", rank=2, steps=300,
    generator=torch.Generator().manual_seed(0), progress=False,
)  # fmt: skip
print(f"\nloss {das.losses[0]:.3f} at first, {das.losses[-1]:.3f} at last; counterfactual answers:\n", das, sep="")
assert das.accuracy == 1.0

# %% What was found, beside what is there. The cosines of the angles between two planes are 1 where they are the same.

found = das.directions.float()
for name, plane in {"first number": axes[FIRST], "second number": axes[SECOND]}.items():
    cosines = torch.linalg.svdvals(found @ plane.T)
    print(f"found plane against that of the {name}: cosines {cosines[0]:.3f}, {cosines[1]:.3f}")

# %% The same swap as an experiment: how much of the counterfactual answer comes back, at each place, along which plane?

answer, before = counterfactual[:64], (base[:64, 0] + base[:64, 1]) % N
changed = Run(torch.cat((source[:64, :1], base[:64, 1:]), dim=1))  # the prompts of the counterfactual answers
planes = {"found": found, "first number": axes[FIRST], "second number": axes[SECOND], "random": torch.randn(2, 16)}
result = sweep(
    model,
    lambda plane, pos: Run(base[:64], [Intervention(at("resid_mid", 0, pos=pos), changed, along=planes[plane])]),
    LogitDiff(answer, before),
    over={"plane": list(planes), "pos": range(3)},
    baselines={"base": Run(base[:64]), "changed": changed},
    scale=("base", "changed"),
    progress=False,
)
print("\n", result.table().pivot(index="plane", columns="pos", values="recovered_fraction").round(3), sep="")

torch.testing.assert_close(result.recovered_fraction[0], result.recovered_fraction[1], atol=0.02, rtol=0)

figure = heatmap(result, labels={"pos": ["a", "b", "="]}, title="Swapping a plane of the stream between two prompts")
figure.write_html("das.html", include_plotlyjs="directory", config={"displaylogo": False})
print("\nwrote das.html")
