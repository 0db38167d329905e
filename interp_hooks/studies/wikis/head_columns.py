"""What a wiki knows of heads: what they attend to, which roles they have, what is lost without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.evals import repeat_length
from interp_hooks.corpus.packing import Piece
from interp_hooks.experiments.ablation import ablate
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.names import get_act_name
from interp_hooks.interventions.metrics import Loss
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Run
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.metrics import head_metrics
from interp_hooks.studies.heads.roles import head_roles
from interp_hooks.studies.heads.vocabulary import copying_scores
from interp_hooks.studies.wikis.material import LISTED, Column, Listing, Material, Sizes, columns_from

PAID = {
    "previous_token": "attention to the token right before the query",
    "duplicate_token": "attention to earlier copies of the query's token",
    "induction": "attention to the tokens right after earlier copies of the query's token",
    "current_token": "attention of a token to itself",
    "sink": "attention to the first token, at which heads rest that have nothing to do",
}
SPREAD = {
    "entropy": ("nats", "entropy of attention, the first token left out"),
    "distance": ("tokens", "mean distance of attention, the first token left out"),
}
ABOVE, WEIGHTED = "probability above uniform attention", "share of attention times value norm"
REPEATED = 25  # random tokens that come twice, at most


def attention_columns(material: Material) -> list[Column]:
    """What heads attend to on the sample, and on random tokens that come twice."""
    model, run = material.model, material.run
    on_text = head_metrics(model, run)
    above = {name: (ABOVE, f"mean {about}") for name, about in PAID.items()}
    shares = {f"{name}_share": (WEIGHTED, f"how much of what the head does goes by {PAID[name]}") for name in PAID}
    columns = columns_from(above, on_text.above_uniform) + columns_from(SPREAD | shares, on_text.mean)
    size = repeat_length(model, REPEATED)
    if size < 2:
        return columns
    repeated = head_metrics(model, n=8, subseq_len=size, generator=torch.Generator().manual_seed(0))
    names = ("previous_token", "duplicate_token", "induction")
    told = {f"repeated_{name}": (ABOVE, f"mean {PAID[name]}, on random tokens that come twice") for name in names}
    return columns + columns_from(told, lambda name: repeated.above_uniform(name.removeprefix("repeated_")))


def head_weight_columns(material: Material) -> list[Column]:
    """What heads' weights do to a token's own logit."""
    model = material.model
    if model.cfg.kv_latent or model.cfg.mlm_head:
        return []
    scores = copying_scores(model, n=100, generator=torch.Generator().manual_seed(0))
    of = "share of 100 random tokens of which the head's value and output weights"
    told = {"copying": "raise that token's own logit most of all", "suppression": "lower it most of all"}
    described = {name: ("share of tokens", f"{of} {told[name]}") for name in scores}
    return columns_from(described, lambda name: scores[name].mean.cpu())


def role_columns(material: Material) -> list[Column]:
    """The roles of heads by attention and cause, on random tokens that come twice."""
    model = material.model
    size = repeat_length(model, REPEATED)
    if not material.has_effects or model.cfg.kv_latent or size < 2:
        return []
    generator = torch.Generator().manual_seed(0)
    table = head_roles(model, n=8, subseq_len=size, generator=generator, every_cause=False).table()
    roles: dict[tuple[int, int], list[str]] = {}
    for row in table.to_dict("records"):
        name = row["role"] if row["verdict"] == "role" else f"{row['role']} (candidate)"
        roles.setdefault((row["layer"], row["head"]), []).append(name)
    labels = {
        layer: [", ".join(roles.get((layer, head), ())) for head in range(n)]
        for layer, n in material.sizes["head"].items()
    }
    about = "roles by attention and by cause on random tokens that come twice; a candidate meets one of the two"
    return [Column(name="role", unit="label", about=about, values=labels)]


def patterns_of(
    model: HookedTransformer, piece: Piece, layers: Sizes | Sequence[int]
) -> dict[int, Float[Tensor, "head query key"]]:
    """The attention of the heads of some layers on a piece that is read by itself."""
    tokens = piece.tokens[None].to(model.device)
    names = {get_act_name("pattern", layer): layer for layer in layers}
    names = {model.points(name)[0].name: layer for name, layer in names.items() if name in model.hook_dict}
    found = record(model, Run(tokens, (), torch.ones_like(tokens)), list(names)) if names else {}
    return {layer: found[name][0] for name, layer in names.items()}


def causal_columns(material: Material) -> list[Column]:
    """What the loss on the sample gains if one head writes its mean."""
    model = material.model
    if not material.has_effects:
        return []
    lost = ablate(model, material.run, Loss(), "z", method="mean", progress=material.progress)
    increase = (lost.values - lost.baselines["original"]).mean(-1)
    return [
        Column(
            name="mean_ablation_loss_increase",
            unit="nats per token",
            about="by how much the next-token loss on a sample of the corpus rises if the head writes its mean",
            values=increase.cpu(),
        )
    ]


@no_gradients
def attended_tokens(material: Material) -> list[Listing]:
    """The tokens that get most of a head's attention on the sample, the first of each piece left out."""
    model, sizes = material.model, material.sizes["head"]
    ids, place = torch.cat([piece.tokens for piece in material.sample]).unique(return_inverse=True)
    sums = {layer: torch.zeros(n, len(ids), dtype=torch.float64) for layer, n in sizes.items()}
    columns = place.split([len(piece.tokens) for piece in material.sample])
    for piece, column in zip(material.sample, columns, strict=True):
        for layer, pattern in patterns_of(model, piece, sizes).items():
            sums[layer].index_add_(1, column[1:], pattern[:, :, 1:].sum(1).double().cpu())
    entries = {}
    for layer, paid in sums.items():
        share = paid / paid.sum(1, keepdim=True).clamp(min=1e-30)
        top = share.topk(min(LISTED, len(ids)), dim=1)
        entries[layer] = [
            [(material.words(int(ids[id])), value) for value, id in zip(*row, strict=True) if value > 0]
            for row in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
    about = "tokens that get most of the head's attention on a sample of the corpus, the first token left out"
    return [Listing(name="attends to", unit="share of attention", about=about, entries=entries)]
