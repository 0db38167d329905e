"""What is known of every unit: columns of numbers or labels, and lists of tokens.

`HEAD_COLUMNS`, `NEURON_COLUMNS`, `HEAD_LISTINGS` and `NEURON_LISTINGS` are the one place where metrics join the wiki:
tables of functions, each of which makes some columns (or listings) of the `Material` that a wiki is made from. Users
add columns of their own with `wiki(..., columns={"head": [Column(...)]})`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.packing import Piece
from interp_hooks.corpus.scanning import Scan
from interp_hooks.errors import BadInput
from interp_hooks.experiments.ablation import ablate
from interp_hooks.experiments.gradients import integrated_gradients
from interp_hooks.hooks.names import get_act_name
from interp_hooks.interventions.metrics import Loss
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Mean, Run
from interp_hooks.interventions.sites import at
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.metrics import head_metrics
from interp_hooks.studies.heads.roles import head_roles
from interp_hooks.studies.heads.vocabulary import copying_scores
from interp_hooks.studies.neurons.causes import ablation_effects
from interp_hooks.studies.neurons.tables import neuron_table
from interp_hooks.studies.neurons.vocabulary import VocabularyEffect, vocabulary_effect
from interp_hooks.studies.wikis.units import UnitKind

RUNS = 8  # documents of the sample on which effects are measured

Sizes = Mapping[int, int]
"""How many units of a kind each layer has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """Something that is known of every unit of a kind: a number, in some `unit`, or a label (a str; "" is none).

    `values` are [layer, unit], a tensor or nested sequences, or a mapping from layers to [unit]. A number that is not
    known is nan.
    """

    name: str
    unit: str
    about: str
    values: Tensor | Sequence[Sequence[Any]] | Mapping[int, Any]

    def of_layer(self, layer: int) -> list[Any]:
        values = self.values[layer]
        return values.tolist() if isinstance(values, Tensor) else list(values)

    @property
    def is_label(self) -> bool:
        layers = self.values if isinstance(self.values, Mapping) else range(len(self.values))
        return any(isinstance(one, str) for layer in layers for one in self.of_layer(layer)[:1])

    def check(self, sizes: Sizes) -> None:
        """Raises BadInput unless there is one value for each unit."""
        try:
            found = {layer: len(self.of_layer(layer)) for layer in sizes}
        except (KeyError, IndexError):
            found = None
        if found != dict(sizes):
            raise BadInput(f"the column {self.name!r} needs a value for each unit, {dict(sizes)} by layer, got {found}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """Some texts for every unit, with a number each (or None): tokens that it raises, prompts that drive it.

    `entries` are, by layer, a list for each unit.
    """

    name: str
    unit: str
    about: str
    entries: Mapping[int, Sequence[Sequence[tuple[str, float | None]]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """What columns are made from: a model, what a scan found, and some pieces of documents that were drawn for more.

    `words` gives the text of a token id; `causal` asks for effects, which take many passes. `n_examined` neurons of
    each layer, those whose largest activation stands out most, get metrics that take passes of their own.
    """

    model: HookedTransformer
    found: Scan
    sample: Sequence[Piece] = field(repr=False)
    words: Callable[[int], str]
    sizes: Mapping[UnitKind, Sizes]
    causal: bool
    progress: bool
    n_examined: int

    @cached_property
    def vocabulary(self) -> VocabularyEffect:
        """What every neuron does to the vocabulary by its weights."""
        return vocabulary_effect(self.model, k=LISTED)

    @cached_property
    def examined(self) -> list[tuple[int, int]]:
        """The neurons that are examined, as (layer, neuron)."""
        if self.model.cfg.experts is not None or self.model.cfg.mlm_head:
            return []
        chosen = []
        for layer, one in self.found["neuron_statistics"].items() if "neuron" in self.sizes else ():
            outstanding = ((one["max"] - one["mean"]) / one["std"]).nan_to_num(0.0, 0.0, 0.0)
            chosen += [
                (layer, unit) for unit in outstanding.topk(min(self.n_examined, len(outstanding))).indices.tolist()
            ]
        return chosen

    @cached_property
    def run(self) -> Run:
        """The first `RUNS` of the sample as a run, padded on the right, for effects of all heads."""
        pieces = self.sample[:RUNS]
        width = max(len(piece.tokens) for piece in pieces)
        tokens, real = (torch.zeros(len(pieces), width, dtype=torch.long) for _ in range(2))
        for row, piece in enumerate(pieces):
            tokens[row, : len(piece.tokens)], real[row, : len(piece.tokens)] = piece.tokens, 1
        device = self.model.device
        return Run(tokens.to(device), (), real.to(device))


def activation_columns(kind: UnitKind) -> Callable[[Material], list[Column]]:
    """What the scan says of activations."""
    of = "norm of its output" if kind == "head" else "activation"
    described = {
        "mean": ("mean_activation", "activation", f"mean {of} over the counted tokens of the corpus"),
        "std": ("std_activation", "activation", f"standard deviation of the {of} over these tokens"),
        "max": ("max_activation", "activation", f"largest {of} in the corpus"),
        "active": ("active_share", "share of tokens", "share of tokens at which the activation is above 0"),
    }
    chosen = described if kind == "neuron" else {name: described[name] for name in ("mean", "std", "max")}

    def columns(material: Material) -> list[Column]:
        found = {int(layer): one for layer, one in material.found[f"{kind}_statistics"].items() if layer is not None}
        return [
            Column(
                name=name,
                unit=unit,
                about=about,
                values={layer: one[key] for layer, one in found.items()},
            )
            for key, (name, unit, about) in chosen.items()
        ]

    return columns


PAID = {
    "previous_token": "attention to the token right before the query",
    "duplicate_token": "attention to earlier copies of the query's token",
    "induction": "attention to the tokens right after earlier copies of the query's token",
    "current_token": "attention of a token to itself",
    "sink": "attention to the first token, at which heads rest that have nothing to do",
}
ABOVE = "above uniform attention"


def attention_columns(material: Material) -> list[Column]:
    """What heads attend to on the sample, and on random tokens that come twice."""
    model, run = material.model, material.run
    on_text = head_metrics(model, run)
    columns = [
        Column(name=name, unit=f"probability {ABOVE}", about=f"mean {about}", values=on_text.above_uniform(name))
        for name, about in PAID.items()
    ]
    spread = {
        "entropy": ("nats", "entropy of attention"),
        "distance": ("tokens", "mean distance of attention"),
    }
    columns += [
        Column(name=name, unit=unit, about=f"{about}, the first token left out", values=on_text.mean(name))
        for name, (unit, about) in spread.items()
    ]
    columns += [
        Column(
            name=f"{name}_share",
            unit="share of attention times value norm",
            about=f"how much of what the head does goes by {about}",
            values=on_text.mean(f"{name}_share"),
        )
        for name, about in PAID.items()
    ]
    size = min(25, (model.cfg.n_ctx - 1) // 2, model.cfg.d_vocab // 2)
    if size < 2:
        return columns
    repeated = head_metrics(model, n=8, subseq_len=size, generator=torch.Generator().manual_seed(0))
    return columns + [
        Column(
            name=f"repeated_{name}",
            unit=f"probability {ABOVE}",
            about=f"mean {PAID[name]}, on random tokens that come twice",
            values=repeated.above_uniform(name),
        )
        for name in ("previous_token", "duplicate_token", "induction")
    ]


def weight_columns(material: Material) -> list[Column]:
    """What heads' weights do to a token's own logit."""
    model = material.model
    if model.cfg.kv_latent or model.cfg.mlm_head:
        return []
    scores = copying_scores(model, n=100, generator=torch.Generator().manual_seed(0))
    about = {"copying": "raise that token's own logit most of all", "suppression": "lower it most of all"}
    return [
        Column(
            name=name,
            unit="share of tokens",
            about=f"share of 100 random tokens of which the head's value and output weights {about[name]}",
            values=result.mean.cpu(),
        )
        for name, result in scores.items()
    ]


def role_columns(material: Material) -> list[Column]:
    """The roles of heads by attention and cause, on random tokens that come twice."""
    model = material.model
    size = min(25, (model.cfg.n_ctx - 1) // 2, model.cfg.d_vocab // 2)
    if not material.causal or model.cfg.attention_dir == "bidirectional" or model.cfg.kv_latent or size < 2:
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
    predicts = model.cfg.attention_dir == "causal" and model.cfg.d_vocab_out == model.cfg.d_vocab
    if not (material.causal and predicts):
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


def neuron_columns(material: Material) -> list[Column]:
    """What neurons' weights do to the vocabulary, and how what they read and write agree."""
    if material.model.cfg.mlm_head or material.model.cfg.experts is not None:
        return []
    table = neuron_table(material.model, material.found, effect=material.vocabulary)
    return [
        Column(
            name=name,
            unit=unit,
            about=about,
            values={layer: table[name][table["layer"] == layer].tolist() for layer in material.sizes["neuron"]},
        )
        for name, (unit, about) in NEURONS.items()
        if name in table
    ]


NEURONS = {
    "label": (
        "label",
        "the kind of its effect on logits (prediction, suppression, partition, entropy) if positive",
    ),
    "negative_label": ("label", "the same where its activation is negative"),
    "kurtosis": ("none", "kurtosis of its effect on logits over the vocabulary"),
    "skew": ("none", "skew of that effect"),
    "variance": ("logits squared", "variance of that effect for an activation of 1, but for the final norm's scale"),
    "norm": ("length of a vector in the residual stream", "norm of its output weights"),
    "null_share": ("share of the norm squared", "how much of its output weights hardly reaches logits"),
    "cos_in": ("cosine", "of what it reads and what it writes"),
    "cos_gate": ("cosine", "of what its gate reads and what it writes"),
    "top_mass": ("share of activation", "share of its positive activation in the highest octave that it reaches"),
}


def estimated_columns(material: Material) -> list[Column]:
    """What the loss on the sample gains if one neuron gives its mean, to the order of a gradient half way there."""
    model, run = material.model, material.run
    if not material.causal or model.cfg.attention_dir == "bidirectional" or model.cfg.experts is not None:
        return []
    found = {
        layer: -integrated_gradients(
            model, run, Loss(), at("post", layer), baseline=Mean(run), steps=1, over=("neuron",), progress=False
        ).mean.cpu()
        for layer in material.sizes["neuron"]
    }
    about = "about how much the next-token loss on a sample of the corpus rises if the neuron gives its mean"
    return [Column(name="ablation_loss_estimate", unit="nats per token", about=about, values=found)]


def ablation_columns(material: Material) -> list[Column]:
    """What is lost if one neuron gives its mean, on its top contexts and on random ones, for those examined."""
    if not material.causal or material.model.cfg.attention_dir == "bidirectional" or not material.examined:
        return []
    effects = ablation_effects(material.model, material.found, material.examined, k=5, n_random=16)
    rows = {(row["contexts"], row["layer"], row["neuron"]): row for row in effects.table().to_dict("records")}
    columns = []
    for contexts in ("top", "random"):
        for name, what in (("loss_change_nats", "loss"), ("kl_nats", "kl")):
            values = {layer: [math.nan] * n for layer, n in material.sizes["neuron"].items()}
            for layer, unit in material.examined:
                values[layer][unit] = float(rows[contexts, layer, unit][name])
            told = "next-token loss rises" if what == "loss" else "predictions diverge"
            about = f"by how much {told} on {contexts} contexts if the neuron gives its mean (of those examined)"
            columns.append(Column(name=f"{contexts}_{what}_if_ablated", unit="nats", about=about, values=values))
    return columns


# ------------------------------------------------------------------------------------------------------------ listings

LISTED = 10
AT_ONCE = 256  # neurons whose effects on the vocabulary are made together


@torch.no_grad()
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


def vocabulary_listings(material: Material) -> list[Listing]:
    """The tokens whose logits a neuron raises and lowers most by its output weights."""
    if material.model.cfg.mlm_head or material.model.cfg.experts is not None:
        return []
    onto = unembedding(model)
    raised: dict[int, list[list[tuple[str, float]]]] = {}
    lowered: dict[int, list[list[tuple[str, float]]]] = {}
    for layer in material.sizes["neuron"]:
        mlp: Any = model.blocks[layer].mlp
        raised[layer], lowered[layer] = [], []
        for part in mlp.W_out.detach().split(AT_ONCE):
            effects = part.to(onto) @ onto
            for entries, largest in ((raised, True), (lowered, False)):
                top = effects.topk(min(LISTED, effects.shape[1]), dim=1, largest=largest)
                entries[layer] += [
                    [(material.words(id), value) for value, id in zip(*row, strict=True)]
                    for row in zip(top.values.tolist(), top.indices.tolist(), strict=True)
                ]
    of = "by its output weights alone (the final norm's scale left out, less the mean over the vocabulary)"
    return [
        Listing(name=name, unit=unit, about=f"tokens that it {name} most {of}", entries=listed)
        for name, listed in entries.items()
    ]


def unembedding(model: HookedTransformer) -> Float[Tensor, "d_model d_vocab_out"]:
    """What turns a vector in the stream into logits, less their mean and but for the final norm's scale."""
    W_U = model.W_U.detach()
    onto = W_U.to(torch.promote_types(W_U.dtype, torch.float32)).T * model.cfg.logits_scale
    onto = onto - onto.mean(0)
    if model.ln_final.kind is not None:
        onto = FrozenNorm.of(model.ln_final, onto.new_ones(1)).pulled_back(onto)
    return onto.T


# ------------------------------------------------------------------------------------------ where metrics are joined in

Columns = Sequence[Callable[[Material], list[Column]]]
Listings = Sequence[Callable[[Material], list[Listing]]]

COLUMNS: Mapping[UnitKind, Columns] = {
    "head": (role_columns, attention_columns, weight_columns, activation_columns("head"), causal_columns),
    "neuron": (neuron_columns, activation_columns("neuron"), estimated_columns, ablation_columns),
}
LISTINGS: Mapping[UnitKind, Listings] = {"head": (attended_tokens,), "neuron": (vocabulary_listings, minimal_listings)}


def columns_of(material: Material, kind: UnitKind, own: Sequence[Column] = ()) -> list[Column]:
    """All columns of a kind of units, and the user's own.

    Raises:
        BadInput: two of one name, or one that has not a value for each unit.
    """
    made = [column for make in COLUMNS[kind] for column in make(material)] + list(own)
    for column in made:
        column.check(material.sizes[kind])
        if sum(one.name == column.name for one in made) > 1 or column.name in ("layer", kind):
            raise BadInput(f"there is a column {column.name!r} of every {kind} already; give yours another name")
    return made


def listings_of(material: Material, kind: UnitKind) -> list[Listing]:
    """All listings of a kind of units."""
    return [listing for make in LISTINGS[kind] for listing in make(material)]
