"""How good is a dictionary? Measured over a corpus, at stated positions, beside stated references.

    explained_variance   1 - sum |y - r|^2 / sum |y - mean y|^2, all sums over the whole corpus
    l0, dead, dense      features active at a token; share never active; share active at more than a tenth of all tokens
    norm_ratio           mean |r| / |y|: below 1 if reconstructions are shrunk
    relative_bias        sum |r|^2 / sum y.r: 1 if no multiple of r is nearer to y (Rajamanoharan et al. 2404.16014)
    ce_recovered         (CE_ablated - CE_reconstructed) / (CE_ablated - CE), next-token losses in nats
    kl_recovered         1 - KL(model || reconstructed) / KL(model || ablated), in nats

y is what is reconstructed and r the reconstruction. They are exchanged, and y is ablated, at the same positions: those
that count; at others (BOS, by default) all three runs have y. Sums are in float64. These passes are made here and not
by the engine: what hooks show is reduced as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.corpus.packing import Excluded, Packer, Rows
from interp_hooks.corpus.reading import Corpus, documents
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.single import SAE, Transcoder
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Seed, checked
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.transformer import HookedTransformer

Ablation = Literal["zero", "mean"]
Values = dict[str, Tensor]
DENSE = 0.1  # share of tokens
MEASURES = ("l0", "explained_variance", "cosine", "norm_ratio", "relative_bias", "dead", "dense")
LOSSES = ("ce", "ce_reconstructed", "ce_ablated", "ce_recovered", "kl_reconstructed", "kl_ablated", "kl_recovered")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DictionaryMetrics(Result):
    """A table of dictionaries by measures, and of each the share of tokens at which every feature is active.

    (`save` keeps the table.)
    """

    densities: Mapping[str, Float[Tensor, "*layer feature"]] = field(default_factory=dict, repr=False)


@study
def dictionary_metrics(
    model: HookedTransformer,
    dictionaries: Dictionary | Mapping[str, Dictionary],
    corpus: Corpus,
    *,
    ablation: Ablation = "zero",
    length: Count | None = None,
    exclude: Sequence[Excluded] = ("bos",),
    column: str = "text",
    limit: Count | None = None,
    tokens_at_once: Count = 4096,
) -> DictionaryMetrics:
    """How well dictionaries do on a corpus: one, or several by name (with `random_dictionary` of each, as a control).

    Documents longer than `length` (default: the context) are split. Tokens that `exclude` names are read, and neither
    counted nor changed. `ablation` says what stands for no dictionary at all: 0, or the mean over the corpus, which is
    the harder one to beat. A crosscoder's sites are exchanged for reconstructions of the untouched pass, all at once.
    Another control is a dictionary that was trained in the same way on a copy of the model with random weights
    (`init_weights`): what it scores, too, the model's weights are not needed for (arXiv 2501.17727).

    Raises:
        BadInput: a corpus without tokens that count, a dictionary of another model, or measures out of range.

    >>> from interp_hooks.dictionaries import SAE, dictionary_metrics
    >>> eye = torch.cat((torch.eye(128), -torch.eye(128)), 1)
    >>> sae = SAE(hook="mlp_out1", W_enc=eye, b_enc=torch.zeros(256), W_dec=eye.T, b_dec=torch.zeros(128))
    >>> found = dictionary_metrics(model, sae, clean)
    >>> print(f"{float(found.mean[0, found.axes['measure'].index('ce_recovered')]):.4f}")
    1.0000
    """
    named = {"dictionary": dictionaries} if isinstance(dictionaries, Dictionary) else dict(dictionaries)
    if not named:
        raise BadInput("dictionaries must be a dictionary, or several by name; got none")
    for one in named.values():
        one.refuse_unfit(model)
    named = {name: one.to(model.device) for name, one in named.items()}
    length = model.cfg.n_ctx if length is None else length
    packer = Packer(model=model, length=length, longer="split", exclude=tuple(exclude), tokens_at_once=tokens_at_once)
    rows = _rows_of(model, packer, corpus, column, limit)
    sums = {name: _Sums(model, one) for name, one in named.items()}
    for part in rows if ablation == "mean" else ():
        values = _shown(model, part, {hook for one in named.values() for hook in one.hooks_out})[1]
        for one in sums.values():
            one.add_means(values, part)
    for part in rows:
        logits, values = _shown(model, part, {hook for one in named.values() for hook in one.hooks})
        for one in sums.values():
            one.add(part, logits, values, ablation)
    found = [one.measures() for one in sums.values()]
    table = torch.tensor([[one[name] for name in (*MEASURES, *LOSSES)] for one in found], dtype=torch.float64)
    return DictionaryMetrics(
        metric="value",
        axes={"dictionary": list(named), "measure": [*MEASURES, *LOSSES]},
        values=table[..., None],
        densities={name: (one.active.double() / one.tokens).cpu() for name, one in sums.items()},
    )


@checked
def random_dictionary(dictionary: SAE | Transcoder, seed: Seed = 0) -> SAE | Transcoder:
    """A control: directions drawn at random, each with the norm that it has in the dictionary; biases stay.

    Encoder and decoder of a feature point the same way where they are of the same width.

    >>> from interp_hooks import dictionaries
    >>> sae = dictionaries.load("ioi-tiny/sae")
    >>> control = dictionaries.random_dictionary(sae)
    >>> bool(torch.allclose(control.decoder_norms, sae.decoder_norms, atol=1e-4))
    True
    """
    generator = torch.Generator().manual_seed(seed)

    def directions(width: int) -> Tensor:
        drawn = torch.randn(dictionary.n_features, width, generator=generator, dtype=torch.float64)
        return (drawn / drawn.norm(dim=-1, keepdim=True)).to(dictionary.W_enc)

    decoder = directions(dictionary.d_out)
    encoder = decoder if dictionary.d_in == dictionary.d_out else directions(dictionary.d_in)
    norms = dictionary.W_enc.norm(dim=0)
    return replace(dictionary, W_enc=encoder.T * norms, W_dec=decoder * dictionary.decoder_norms[:, None])


# -------------------------------------------------------------------------------------------------------------- passes


def _rows_of(
    model: HookedTransformer, packer: Packer, corpus: str | Path | Any, column: str, limit: int | None
) -> list[Rows]:
    rows = list(packer.batches(enumerate(islice(documents(model, corpus, column), limit))))
    if not any(bool(_predicting(part).any()) for part in rows):
        raise BadInput(
            "the corpus has no token that counts and is followed by another; give longer texts, or exclude=()"
        )
    return rows


def _predicting(rows: Rows) -> Tensor:
    """Which tokens count, and are followed by another of their piece [row, pos-1]."""
    return rows.counted[:, :-1] & (rows.pieces[:, 1:] == rows.pieces[:, :-1])


def _shown(model: HookedTransformer, rows: Rows, hooks: set[str]) -> tuple[Tensor, Values]:
    values: Values = {}

    def keep(value: Tensor, hook: HookPoint) -> None:
        values[hook.name] = value

    return _run(model, rows, [(hook, keep) for hook in sorted(hooks)]), values


def _run(model: HookedTransformer, rows: Rows, hooks: list[tuple[str, Callable[..., Any]]]) -> Tensor:
    return model.run_with_hooks(
        rows.tokens.to(model.device), **rows.told_apart(model.device), fwd_hooks=hooks, return_type="logits"
    )


class _Sums:
    """What is added up of one dictionary."""

    def __init__(self, model: HookedTransformer, dictionary: Dictionary) -> None:
        self.model, self.dictionary = model, dictionary
        self.active: Tensor = torch.zeros((), dtype=torch.long, device=model.device)
        self.summed: Tensor = torch.zeros((), dtype=torch.float64, device=model.device)
        self.tokens = self.predicted = 0
        self.l0 = self.error = self.squares = self.product = self.norms = self.ratio = self.cosine = 0.0
        self.mean: dict[str, Tensor] = {}
        self.counted: int = 0
        self.totals: dict[str, float] = dict.fromkeys(("ce", "ce_r", "ce_a", "kl_r", "kl_a"), 0.0)

    # ------------------------------------------------------------------------------------------ vectors of the tokens

    def vectors(self, values: Values, hooks: Sequence[str], rows: Rows) -> Float[Tensor, "token site d"]:
        """What some hooks show at the tokens that count."""
        counted, head = rows.counted.to(self.model.device), self.dictionary.head
        found = [values[hook].flatten(2) if head is None else values[hook][:, :, head] for hook in hooks]
        return torch.stack([one[counted] for one in found], 1).to(self.dictionary.dtype)

    def _single(self, x: Tensor) -> Tensor:
        return x[:, 0] if len(self.dictionary.hooks_in) == 1 else x

    def add_means(self, values: Values, rows: Rows) -> None:
        """Take note of what is ablated by its mean."""
        found = self.vectors(values, self.dictionary.hooks_out, rows).double()
        self.counted += len(found)
        for place, hook in enumerate(self.dictionary.hooks_out):
            self.mean[hook] = self.mean.get(hook, torch.zeros((), device=found.device)) + found[:, place].sum(0)

    def add(self, rows: Rows, logits: Tensor, values: Values, ablation: Ablation) -> None:
        """Count some rows: their features and reconstructions, and the losses with these in their place."""
        one = self.dictionary
        x, y = (self.vectors(values, hooks, rows) for hooks in (one.hooks_in, one.hooks_out))
        features = one.encode(self._single(x))
        r = one.decode(features, self._single(x)).view_as(y)
        on = features.ne(0)
        self.active = self.active + on.sum(0)
        self.l0 += float(on.sum())
        self.tokens += len(y)
        self._add_moments(y.double(), r.double())
        predicting = _predicting(rows).to(logits.device)
        targets = rows.tokens[:, 1:].to(logits.device)[predicting]
        said = logits[:, :-1][predicting].double().log_softmax(-1)
        self.predicted += len(targets)
        self.totals["ce"] -= float(said.gather(1, targets[:, None]).sum())
        for kind, hooks in (("r", self._exchanged(rows, r)), ("a", self._ablated(rows, ablation))):
            other = _run(self.model, rows, hooks)[:, :-1][predicting].double().log_softmax(-1)
            self.totals[f"ce_{kind}"] -= float(other.gather(1, targets[:, None]).sum())
            self.totals[f"kl_{kind}"] += float((said.exp() * (said - other)).sum())

    def _add_moments(self, y: Tensor, r: Tensor) -> None:
        self.error += float((y - r).square().sum())
        self.squares += float(y.square().sum())
        self.product += float((y * r).sum())
        self.norms += float(r.square().sum())
        sizes, rebuilt = y.norm(dim=-1), r.norm(dim=-1)
        self.ratio += float((rebuilt / sizes).nan_to_num(1.0, posinf=1.0).mean(-1).sum())
        self.cosine += float(((y * r).sum(-1) / (sizes * rebuilt)).nan_to_num(0.0).mean(-1).sum())
        self.summed = self.summed + y.sum(0)

    # ------------------------------------------------------------------------------------------------- other passes

    def _put(self, value: Tensor, counted: Tensor, new: Tensor) -> Tensor:
        """An activation with other vectors where tokens count."""
        whole, head = value.clone(), self.dictionary.head
        place = whole if head is None else whole[:, :, head]
        place[counted] = new.to(value.dtype).view_as(place[counted])
        return whole

    def _exchanged(self, rows: Rows, r: Tensor) -> list[tuple[str, Callable[..., Any]]]:
        """Hooks by which the dictionary takes the place of what it reconstructs, layer by layer as in a splice."""
        one, counted = self.dictionary, rows.counted.to(self.model.device)
        try:
            parts = one.parts()
        except BadInput:  # a crosscoder
            return [
                (hook, lambda value, hook, place=place: self._put(value, counted, r[:, place]))
                for place, hook in enumerate(one.hooks_out)
            ]
        read: dict[int, Tensor] = {}
        features: list[Tensor] = []

        def keep(value: Tensor, hook: HookPoint, place: int) -> None:
            read[place] = (value.flatten(2) if one.head is None else value[:, :, one.head])[counted]

        def write(value: Tensor, hook: HookPoint, place: int) -> Tensor:
            part, x = parts[place], read.pop(place).to(one.dtype)
            features.append(part.activate(part.pre(x)))
            return self._put(value, counted, part.decode(features, x))

        hooks: list[tuple[str, Callable[..., Any]]] = []
        for place, part in enumerate(parts):
            hooks.append((part.hook_in, lambda value, hook, place=place: keep(value, hook, place)))
            hooks.append((part.hook_out, lambda value, hook, place=place: write(value, hook, place)))
        return hooks

    def _ablated(self, rows: Rows, ablation: Ablation) -> list[tuple[str, Callable[..., Any]]]:
        counted, d_out = rows.counted.to(self.model.device), self.dictionary.d_out

        def ablate(value: Tensor, hook: HookPoint) -> Tensor:
            mean = self.mean[hook.name] / self.counted if ablation == "mean" else value.new_zeros(d_out)
            return self._put(value, counted, mean.expand(int(counted.sum()), -1))

        return [(hook, ablate) for hook in dict.fromkeys(self.dictionary.hooks_out)]

    def measures(self) -> dict[str, float]:
        """All measures, by name."""
        density = self.active.double() / self.tokens
        variance = self.squares - float((self.summed / self.tokens).square().sum()) * self.tokens
        means = {name: total / self.predicted for name, total in self.totals.items()}
        ce, ce_r, ce_a, kl_r, kl_a = (means[name] for name in ("ce", "ce_r", "ce_a", "kl_r", "kl_a"))
        nan = float("nan")
        return {
            "l0": self.l0 / self.tokens,
            "explained_variance": 1 - self.error / variance if variance > 0 else nan,
            "cosine": self.cosine / self.tokens,
            "norm_ratio": self.ratio / self.tokens,
            "relative_bias": self.norms / self.product if self.product else nan,
            "dead": float((density == 0).double().mean()),
            "dense": float((density > DENSE).double().mean()),
            "ce": ce,
            "ce_reconstructed": ce_r,
            "ce_ablated": ce_a,
            "ce_recovered": (ce_a - ce_r) / (ce_a - ce) if ce_a != ce else nan,
            "kl_reconstructed": kl_r,
            "kl_ablated": kl_a,
            "kl_recovered": 1 - kl_r / kl_a if kl_a else nan,
        }
