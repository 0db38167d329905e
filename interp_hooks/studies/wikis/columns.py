"""What is known of every unit: columns of numbers or labels, and lists of tokens.

`HEAD_COLUMNS`, `NEURON_COLUMNS`, `HEAD_LISTINGS` and `NEURON_LISTINGS` are the one place where metrics join the wiki:
tables of functions, each of which makes some columns (or listings) of the `Material` that a wiki is made from. Users
add columns of their own with `wiki(..., columns={"head": [Column(...)]})`.
"""

from __future__ import annotations

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
from interp_hooks.hooks.names import get_act_name
from interp_hooks.interventions.metrics import Loss
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Run
from interp_hooks.model.cache.frozen_norm import FrozenNorm
from interp_hooks.model.transformer import HookedTransformer
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

    `words` gives the text of a token id; `causal` asks for effects, which take many passes.
    """

    model: HookedTransformer
    found: Scan
    sample: Sequence[Piece] = field(repr=False)
    words: Callable[[int], str]
    sizes: Mapping[UnitKind, Sizes]
    causal: bool
    progress: bool

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
            Column(name=name, unit=unit, about=about, values={layer: one[key] for layer, one in found.items()})
            for key, (name, unit, about) in chosen.items()
        ]

    return columns


ATTENTION = {
    "previous_token_attention": "mean attention to the token right before the query",
    "current_token_attention": "mean attention of a token to itself",
    "first_token_attention": "mean attention to the first token (BOS, where there is one), at which heads rest",
}


@torch.no_grad()
def attention_columns(material: Material) -> list[Column]:
    """Where heads attend on the sample, over all queries but the first of each piece; and a label for clear cases."""
    model, sizes = material.model, material.sizes["head"]
    sums = {layer: torch.zeros(4, n, dtype=torch.float64) for layer, n in sizes.items()}
    queries = 0
    for piece in material.sample:
        queries += len(piece.tokens) - 1
        for layer, pattern in patterns_of(model, piece, sizes).items():
            seen = pattern[:, 1:].double()
            diagonals = [pattern.diagonal(offset, 1, 2).double() for offset in (-1, 0)]
            paid = [diagonals[0].sum(1), diagonals[1][:, 1:].sum(1), seen[..., 0].sum(1)]
            entropy = -torch.xlogy(seen, seen).sum((1, 2))
            sums[layer] += torch.stack([*paid, entropy]).cpu()
    means = {layer: one / max(queries, 1) for layer, one in sums.items()}
    columns = [
        Column(name=name, unit="attention probability", about=about, values={n: one[row] for n, one in means.items()})
        for row, (name, about) in enumerate(ATTENTION.items())
    ]
    entropy = {layer: one[3] for layer, one in means.items()}
    labels = {layer: [_label(one) for one in values[:3].T.tolist()] for layer, values in means.items()}
    return [
        *columns,
        Column(name="attention_entropy", unit="nats", about="mean entropy of where a query attends", values=entropy),
        Column(name="label", unit="label", about="what gets more than half of the head's attention", values=labels),
    ]


def _label(paid: Sequence[float]) -> str:
    most = max(range(3), key=lambda place: paid[place])
    return ("previous token", "current token", "first token")[most] if paid[most] > 0.5 else ""


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
    for piece, at in zip(material.sample, columns, strict=True):
        for layer, pattern in patterns_of(model, piece, sizes).items():
            sums[layer].index_add_(1, at[1:], pattern[:, :, 1:].sum(1).double().cpu())
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


@torch.no_grad()
def vocabulary_listings(material: Material) -> list[Listing]:
    """The tokens whose logits a neuron raises and lowers most by its output weights."""
    model = material.model
    if model.cfg.mlm_head or model.cfg.experts is not None:
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
        Listing(name="raises", unit="logit per activation", about=f"tokens that it raises most, {of}", entries=raised),
        Listing(name="lowers", unit="logit per activation", about=f"tokens that it lowers most, {of}", entries=lowered),
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
    "head": (attention_columns, activation_columns("head"), causal_columns),
    "neuron": (activation_columns("neuron"),),
}
LISTINGS: Mapping[UnitKind, Listings] = {"head": (attended_tokens,), "neuron": (vocabulary_listings,)}


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
