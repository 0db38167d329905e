"""What is measured of each checkpoint: functions of a model that give a number, numbers by name, or a `Result`.

    NextTokenLoss     the loss per token, in nats, on rows of tokens, everywhere or where a mask says
    InContextScore    the loss late in a row minus that early in it
    HeadAttention     how much each head attends as one of a kind, above uniform attention
    HeadComposition   how much of what each head writes later ones read, by their weights
    WeightNorms       the length of each weight
    FourierShares     the share of each frequency in the embedding of residues

These are values: they are made once, with their tokens, so that every checkpoint is measured on the same. A function of
your own does as well, `lambda model: ...`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.corpus.evals import repeat_length, repeated_tokens
from interp_hooks.corpus.reading import documents
from interp_hooks.corpus.texts import first_rows, token_rows
from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Positive, Seed, check_arguments, checked, refuse_outside
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.interventions.runs import Run
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.model.weights import Composition
from interp_hooks.studies.fourier import fourier_power
from interp_hooks.studies.heads.affinity import weight_composition
from interp_hooks.studies.heads.metrics import METRICS, TARGETS, head_metrics

Measured = float | Tensor | Mapping[str, float] | Result
MeasureLike = Callable[[HookedTransformer], Measured]

AT_ONCE = 2**14  # tokens of a pass whose logits are all needed


class Measure(ABC):
    """A number, or a grid of them with labelled axes, that is measured of a model.

    Those below are dataclasses, whose fields are checked: BadInput says which is of another kind.
    """

    def __post_init__(self) -> None:
        check_arguments(type(self).__init__, vars(self))

    @abstractmethod
    def __call__(self, model: HookedTransformer) -> Result:
        """Measure it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NextTokenLoss(Measure):
    """The mean loss of the next token of each row, in nats per token; a Result without axes, [row].

    `counted` [batch, pos] is True at the tokens whose prediction counts; by default all but the first of each row.
    """

    tokens: Int[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rows(self.tokens)
        if self.counted is None:
            return
        if self.counted.shape != self.tokens.shape:
            raise BadInput(f"counted must be [batch, pos] = {list(self.tokens.shape)}, got {list(self.counted.shape)}")
        if not bool(self.counted[:, 1:].any(1).all()):
            row = int((~self.counted[:, 1:].any(1)).nonzero()[0])
            raise BadInput(f"row {row} has no token that counts, so it has no loss (the first is not predicted)")

    def __call__(self, model: HookedTransformer) -> Result:
        each = losses(model, self.tokens)
        counted = torch.ones_like(each) if self.counted is None else self.counted[:, 1:].to(each)
        return Result(metric="loss_nats", axes={}, values=(each * counted).sum(1) / counted.sum(1))


@dataclass(frozen=True, kw_only=True, eq=False)
class InContextScore(Measure):
    """The loss at token `late` minus that at token `early`, in nats: below 0 where context helps; [row], no axes.

    Olsson et al. 2022 (In-context Learning and Induction Heads, arxiv.org/abs/2209.11895) take the 500th token and the
    50th. Positions count from 0, and the token there is the one that is predicted. A single token is noisy: give many
    rows.
    """

    tokens: Int[Tensor, "batch pos"]
    early: int = 50
    late: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rows(self.tokens)
        if not 1 <= self.early < self.late < self.tokens.shape[1]:
            raise BadInput(
                f"early and late must be positions 1 <= early < late < {self.tokens.shape[1]} of the rows, got "
                f"{self.early} and {self.late}; give others, or longer rows"
            )

    def __call__(self, model: HookedTransformer) -> Result:
        each = losses(model, self.tokens)
        return Result(metric="in_context_score_nats", axes={}, values=each[:, self.late - 1] - each[:, self.early - 1])


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadAttention(Measure):
    """How much every head attends as one of a kind does, minus what uniform attention does on the same tokens; [head].

    The kinds are those of `head_metrics`: "induction", "previous_token", "duplicate_token", "current_token", "sink";
    its "entropy", "distance" and shares stand as they are.
    """

    kind: str
    tokens: Int[Tensor, "batch pos"]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rows(self.tokens)
        if self.kind not in METRICS:
            raise BadInput(f"kind must be one of {', '.join(METRICS)}, got {self.kind!r}.{nearest(self.kind, METRICS)}")

    def __call__(self, model: HookedTransformer) -> Result:
        tokens = self.tokens.to(model.device)
        found = head_metrics(model, Run(tokens, (), torch.ones_like(tokens)))
        values = found.above_uniform(self.kind) if self.kind in TARGETS else found.mean(self.kind)
        return Result(metric=self.kind, axes={"head": model.all_head_labels()}, values=values.reshape(-1, 1))


@dataclass(frozen=True, kw_only=True)
class HeadComposition(Measure):
    """The composition of every head with each later one by its queries, keys or values: "Q", "K" or "V"; [heads].

    `statistic` is the "score" of Elhage et al. 2021, |W_OV W_QK| / (|W_OV| |W_QK|), or "score_z", how many standard
    deviations its square lies above that of heads with such spectra in random directions (`weight_composition`).
    """

    via: Composition
    statistic: Literal["score", "score_z"] = "score"

    def __call__(self, model: HookedTransformer) -> Result:
        found = weight_composition(model, self.via)
        scores = {"score": found.score, "score_z": found.score_z}.get(self.statistic)
        if scores is None:
            raise BadInput(f"statistic must be 'score' or 'score_z', got {self.statistic!r}")
        there = (~found.kernel.mean.isnan()).nonzero().tolist()
        axes = scores.axes
        pairs = [f"{axes['sender'][sender]} > {axes['reader'][reader]}" for sender, reader in there]
        values = torch.stack([scores.mean[sender, reader] for sender, reader in there])
        return Result(metric=f"{self.via}_composition", axes={"heads": pairs}, values=values[:, None])


@dataclass(frozen=True, kw_only=True)
class WeightNorms(Measure):
    """The length of every weight, the root of the sum of its squares, [weight], and "all", that of all together.

    Weights are those of the model as it was loaded: folded or not, which these do depend on.
    """

    def __call__(self, model: HookedTransformer) -> Result:
        norms = {name: weight.detach().double().norm().cpu() for name, weight in model.named_parameters()}
        norms["all"] = torch.stack(list(norms.values())).norm()
        return Result(metric="norm", axes={"weight": list(norms)}, values=torch.stack(list(norms.values()))[:, None])


@dataclass(frozen=True, kw_only=True)
class FourierShares(Measure):
    """The share of each frequency 1..p//2 in the power of the embedding of residues, the tokens 0..p-1.

    The constant, frequency 0, is left out of the whole (Nanda et al. 2023, arxiv.org/abs/2301.05217); [frequency].
    """

    p: int

    def __call__(self, model: HookedTransformer) -> Result:
        refuse_outside("p", self.p, 3, model.cfg.d_vocab, "the tokens of this model")
        power = fourier_power(model.W_E[: self.p].detach())[1:].cpu()
        frequencies = range(1, self.p // 2 + 1)
        return Result(metric="share", axes={"frequency": frequencies}, values=(power / power.sum())[:, None])


@no_gradients
def losses(model: HookedTransformer, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos-1"]:
    """The loss of every next token, in nats and float64, some rows at a time."""
    parts = tokens.split(max(1, AT_ONCE // tokens.shape[1]))
    options = dict(return_type="loss", loss_per_token=True)
    each = [model(part, attention_mask=torch.ones_like(part), **options).double().cpu() for part in parts]
    return torch.cat(each)


@checked
def usual_measures(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"] | None = None,
    *,
    modulus: int | None = None,
    n: Positive = 32,
    seed: Seed = 0,
) -> dict[str, Measure]:
    """What is usually measured of a model's training, by name; what a model has no place for is left out.

    - `loss` on `tokens`, if some are given, and `in_context_score`, if these rows have 501 tokens or more;
    - on `n` rows of random tokens that come twice, drawn from `seed`: `repetition_loss`, that of the second copy from
      its second token on, and how much each head does `induction`, and attends to the `previous_token`;
    - `K_composition` of every two heads, in a model of several layers of attention;
    - `fourier_shares` of the embedding of residues, if there is a `modulus`;
    - `weight_norms`.

    Raises:
        BadInput: `n` below 1, tokens or a modulus that this model does not have.

    >>> from interp_hooks.studies import usual_measures
    >>> list(usual_measures(model))
    ['repetition_loss', 'induction', 'previous_token', 'K_composition', 'weight_norms']
    """
    cfg, found = model.cfg, dict[str, Measure]()
    if tokens is not None:
        found["loss"] = NextTokenLoss(tokens=model.checked_tokens(tokens).cpu())
        if tokens.shape[1] > InContextScore.late:
            found["in_context_score"] = InContextScore(tokens=tokens.cpu())
    attends = all(getattr(block, "attends", False) for block in model.blocks) and cfg.n_layers > 0
    if (size := repeat_length(model)) >= 2 and cfg.attention_dir == "causal":
        repeated = repeated_tokens(model, n, size, generator=torch.Generator().manual_seed(seed))
        counted = torch.zeros_like(repeated, dtype=torch.bool)
        counted[:, 1 - size :] = True
        found["repetition_loss"] = NextTokenLoss(tokens=repeated, counted=counted)
        if attends and not cfg.gated_attn:
            found["induction"] = HeadAttention(kind="induction", tokens=repeated)
            found["previous_token"] = HeadAttention(kind="previous_token", tokens=repeated)
    if attends and cfg.n_layers > 1 and not cfg.kv_latent:
        found["K_composition"] = HeadComposition(via="K")
    if modulus is not None:
        found["fourier_shares"] = FourierShares(p=modulus)
        found["fourier_shares"](model)  # which refuses another modulus
    return {**found, "weight_norms": WeightNorms()}


def rows_of(model: HookedTransformer, corpus: str | Path, n: int) -> Int[Tensor, "batch pos"]:
    """The first `n` rows of a corpus in a file, each as long as the context of a model, at most 513 tokens.

    Raises:
        BadInput: no such file, or texts that do not fill a row; NoTokenizer, TokenError: a model that reads no text.
    """
    length = min(model.cfg.n_ctx, InContextScore.late + 13)
    texts = (str(document) for document in documents(model, corpus))
    rows = token_rows(texts, model.text.tokenizer, length, add_bos_token=model.text.prepend_bos)
    return first_rows(rows, length, n)


def _check_rows(tokens: Tensor) -> None:
    if tokens.ndim != 2 or not len(tokens) or tokens.shape[1] < 2:
        raise BadInput(f"tokens must be rows of at least two tokens, [batch, pos], got {list(tokens.shape)}")
