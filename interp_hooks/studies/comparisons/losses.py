"""How well two models predict the same texts, aligned on characters, so that their tokenizers may differ.

    text       W h e n   M a r y
    model      [W h e n] [  M a r y]        losses of tokens, in nats
    other      [W h][e n] [  M a][r y]
    spans      |W h e n|   M a r y |        between places where both have a token's end; losses add up within them

Every span so has a loss of each model for the same characters: bits per character compare whatever tokenizers there
are. Models that read the same token ids are compared token by token, in bits per token, where the corpus is ids.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.packing import TOGETHER, Packer
from interp_hooks.corpus.reading import Corpus, Document, documents
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.metrics import Loss
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.comparisons.pairs import AT_ONCE, refuse_other_vocabulary

Group = Literal["repetition", "kind", "position", "span", "bigram"]
MODELS = ("model", "other")
GROUP_MEASURES = ("model", "other", "difference", "effect", "contrast", "spans")
CONTEXT = {str: 60, list: 12}  # characters, or tokens, that are shown before a span
KINDS = {  # of spans of text; the first that matches
    "number": r"\s*\d",
    "punctuation": r"\s*[^\w\s]",
    "space": r"\s+$",
    "word": r"\s",
    "inside a word": r"\w",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LossComparison(Kept):
    """What two models pay for each span of some texts. Prints as the totals.

    `losses` are [span, 2] in nats, of the model and of the other; `document`, `start` and `end` say where a span is,
    counted in characters of the text, or in tokens where documents are ids (`unit`). `texts` are the documents: text,
    or lists of the tokens' texts.
    """

    unit: Literal["character", "token"]
    losses: Float[Tensor, "span 2"]
    document: Int[Tensor, " span"]
    start: Int[Tensor, " span"]
    end: Int[Tensor, " span"]
    texts: Sequence[Any]

    @property
    def bits(self) -> Float[Tensor, "span 2"]:
        """The losses in bits."""
        return self.losses / math.log(2)

    @property
    def spans(self) -> list[str]:
        """The text of every span."""
        return [_joined(self.texts[d][s:e]) for d, s, e in self._places()]

    def result(self) -> Result:
        """Bits per character (or token) of both models: the axis is "model", and prompts are documents."""
        ids, place = self.document.unique(return_inverse=True)
        sizes = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, place, (self.end - self.start).double())
        sums = torch.zeros(len(ids), 2, dtype=torch.float64).index_add_(0, place, self.bits)
        return Result(metric=f"bits_per_{self.unit}", axes={"model": list(MODELS)}, values=(sums / sizes[:, None]).T)

    def table(self) -> pd.DataFrame:
        """Bits per character (or token) over all texts together, and how many spans and documents that is of."""
        bits = self.bits.sum(0) / (self.end - self.start).sum()
        return pd.DataFrame(
            {
                "model": MODELS,
                f"bits_per_{self.unit}": bits.tolist(),
                "spans": len(self.losses),
                "documents": len(self.document.unique()),
            }
        )

    @checked
    def by(self, group: Group, least: Count = 10) -> Result:
        """Spans in groups: axes `group` and "measure"; groups of fewer than `least` spans are left out.

            repetition   "continues a repetition": this span followed the same one before, earlier in the text; "seen
                         before": it came before, after something else; "new"
            kind         of the text: word, inside a word, number, punctuation, space
            position     which span of the document it is, from 1 on, in octaves
            span         what it is
            bigram       the one before and what it is

        Measures: the mean bits of a span in each model; their `difference`, other less model: negative where the other
        predicts better; the `effect`, that difference in standard deviations of all spans' losses; the `contrast`, how
        much it is another difference than that of all other spans, in standard deviations of differences within the two
        (Cohen's d); the number of `spans`. The group that stands out most by contrast comes first.

        Raises:
            BadInput: an unknown group, or none of so many spans.
        """
        labels = GROUPED[group](self)
        counts = Counter(labels)
        kept = [label for label, count in counts.items() if label is not None and count >= least]
        if not kept:
            raise BadInput(f"no {group} has {least} spans; give more text, or a smaller least=")
        number: dict[str | None, int] = {label: place for place, label in enumerate(kept)}
        place = torch.tensor([number.get(label, len(kept)) for label in labels])
        rows = _grouped(self.bits, place, len(kept))
        order = rows[:, GROUP_MEASURES.index("contrast")].abs().argsort(descending=True, stable=True)
        return Result(
            metric="value",
            axes={group: [kept[one] for one in order.tolist()], "measure": list(GROUP_MEASURES)},
            values=rows[order, :, None],
        )

    @checked
    def largest(self, k: Count = 10, better: Literal["model", "other"] = "other") -> pd.DataFrame:
        """The `k` spans that one of the two predicts better by most, each with what comes before it.

        Columns: `document`, `start`, `before`, `span`, `model` and `other` (bits), `difference` (other less model).
        """
        bits = self.bits
        gains = (bits[:, 0] - bits[:, 1]) * (1 if better == "other" else -1)
        best = gains.argsort(descending=True, stable=True)[:k]
        rows, places = [], self._places()
        for one in best[gains[best] > 0].tolist():
            document, start, end = places[one]
            text = self.texts[document]
            before = _joined(text[max(0, start - CONTEXT[type(text)]) : start])
            a, b = bits[one].tolist()
            rows.append((document, start, before, _joined(text[start:end]), a, b, b - a))
        return pd.DataFrame(rows, columns=["document", "start", "before", "span", *MODELS, "difference"])

    def _places(self) -> list[tuple[int, int, int]]:
        return list(zip(self.document.tolist(), self.start.tolist(), self.end.tolist(), strict=True))


@study
def compare_losses(
    model: HookedTransformer,
    other: HookedTransformer,
    corpus: Corpus,
    *,
    column: str = "text",
    limit: Count | None = None,
    length: Count | None = None,
    tokens_at_once: Count = AT_ONCE,
) -> LossComparison:
    """How well two models predict the texts of a corpus, span by span: any two, with tokenizers of their own.

    Documents longer than `length` tokens (default: each model's context) are read in pieces. A text's first token has a
    loss only where a model puts a BOS before it; what not both models predict is left out. Documents of token ids are
    for models with the same vocabulary.

    Raises:
        BadInput: a corpus without anything to predict, texts and ids mixed, ids for models with other vocabularies, or
            a tokenizer that does not tell which characters a token is.
        NoTokenizer: texts, and a model that reads ids alone.

    >>> from interp_hooks.studies import compare_losses
    >>> compare_losses(model, model, clean).by("kind", least=2).axes["kind"]
    ['word', 'punctuation']
    """
    models = (model, other)
    for one in models:
        Loss().on(one)
    packers = [
        Packer(
            model=one,
            length=one.cfg.n_ctx if length is None else min(length, one.cfg.n_ctx),
            longer="split",
            exclude=(),
            tokens_at_once=tokens_at_once,
        )
        for one in models
    ]
    found, texts = list[_Spans](), list[Any]()
    numbered = enumerate(itertools.islice(documents(model, corpus, column), limit))
    while batch := list(itertools.islice(numbered, TOGETHER)):
        if len({isinstance(one, str) for _, one in batch}) > 1 or (texts and type(texts[0]) is not _kind(batch[0][1])):
            raise BadInput("the documents of a corpus must be either all texts or all token ids")
        if not isinstance(batch[0][1], str):
            refuse_other_vocabulary(model, other)
        tokens = [{number: packer.tokens(number, one) for number, one in batch} for packer in packers]
        paid = [_losses(packer, ids) for packer, ids in zip(packers, tokens, strict=True)]
        for number, document in batch:
            ids, losses = [one[number] for one in tokens], [one[number] for one in paid]
            if isinstance(document, str):
                ends = [_ends(one, document, row) for one, row in zip(models, ids, strict=True)]
                texts.append(document)
            else:
                ends = [[(place, place + 1) for place in range(len(row))] for row in ids]
                texts.append(list(map(names_of(model), ids[0].tolist())))
            found.append(_aligned(*(_cumulated(*one) for one in zip(ends, losses, strict=True))))
    spans = _Spans(*(list(itertools.chain.from_iterable(one)) for one in zip(*found, strict=True))) if found else None
    if spans is None or not spans.starts:
        raise BadInput("the corpus has no text of which both models predict something; give longer texts")
    return LossComparison(
        unit="character" if isinstance(texts[0], str) else "token",
        losses=torch.tensor(spans.losses, dtype=torch.float64),
        document=torch.tensor([number for number, one in enumerate(found) for _ in one.starts]),
        start=torch.tensor(spans.starts),
        end=torch.tensor(spans.ends),
        texts=texts,
    )


def _kind(document: Document) -> type:
    return str if isinstance(document, str) else list


def _joined(part: Any) -> str:
    return part if isinstance(part, str) else " ".join(part)


def _losses(packer: Packer, ids: Mapping[int, Tensor]) -> dict[int, Float[Tensor, " pos"]]:
    """The loss of every token of some documents, in nats; nan where nothing comes before it."""
    model = packer.model
    found = {number: torch.full(row.shape, torch.nan, dtype=torch.float64) for number, row in ids.items()}
    for rows in packer.rows(piece for number, row in ids.items() for piece in packer.pieces(number, row)):
        tokens = rows.tokens.to(model.device)
        logits = model(tokens, return_type="logits", **rows.told_apart(model.device))
        precise = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(precise.transpose(1, 2), tokens[:, 1:], reduction="none").double().cpu()
        predicted = rows.real[:, 1:] & (rows.pieces[:, 1:] == rows.pieces[:, :-1]) & (rows.positions[:, 1:] >= 0)
        for number in rows.documents[rows.real].unique().tolist():
            here = predicted & (rows.documents[:, 1:] == number)
            found[number][rows.positions[:, 1:][here]] = losses[here]
    return found


def _ends(model: HookedTransformer, text: str, ids: Int[Tensor, " pos"]) -> list[tuple[int, int]]:
    """Which characters of a text each token is: the first, and the one after the last.

    Raises:
        BadInput: the tokenizer does not tell.
    """
    tokenizer, enclosed = model.text.tokenizer, model.text.prepend_bos and model.text.encloses
    if not tokenizer.is_fast:
        raise BadInput("a tokenizer must tell which characters a token is, as fast ones do (use_fast=True)")
    encoded = tokenizer(text, add_special_tokens=enclosed, return_offsets_mapping=True, verbose=False)
    places = [(start, end) for start, end in encoded["offset_mapping"]]
    return [(0, 0)] * (len(ids) - len(places)) + places


class _Cumulated(NamedTuple):
    """What a model has paid up to a place in a text, and since which place that is counted."""

    paid: float
    since: int


def _cumulated(places: Sequence[tuple[int, int]], losses: Float[Tensor, " pos"]) -> dict[int, _Cumulated]:
    """What was paid up to each end of a token, where no later one has a part of the same character.

    A token without a loss begins anew; one without characters (BOS, or EOS) is paid for, and ends nowhere.
    """
    later = [max(end for _, end in places)]  # where the next token with characters begins, or the text ends
    for start, end in reversed(places[1:]):
        later.append(start if start < end else later[-1])
    found, paid, since = dict[int, _Cumulated](), 0.0, 0
    for (start, end), loss, following in zip(places, losses.tolist(), reversed(later), strict=True):
        if math.isnan(loss):
            paid, since = 0.0, end
            found[end] = _Cumulated(paid, since)
            continue
        paid += loss
        if start < end <= following:
            found[end] = _Cumulated(paid, since)
    return found


class _Spans(NamedTuple):
    starts: list[int]
    ends: list[int]
    losses: list[tuple[float, float]]


def _aligned(one: Mapping[int, _Cumulated], other: Mapping[int, _Cumulated]) -> _Spans:
    """The spans between places where both have an end, and what each paid for them."""
    spans = _Spans([], [], [])
    for start, end in itertools.pairwise(sorted({*one} & {*other})):
        if all(each[start].since == each[end].since for each in (one, other)):
            spans.starts.append(start)
            spans.ends.append(end)
            spans.losses.append((one[end].paid - one[start].paid, other[end].paid - other[start].paid))
    return spans


# -------------------------------------------------------------------------------------------------------------- groups


def _by_document(found: LossComparison) -> Iterator[list[str]]:
    """The spans of each document, in order, after what stands before the first one."""
    pairs = zip(found._places(), found.spans, strict=True)
    for document, some in itertools.groupby(pairs, key=lambda one: one[0][0]):
        ((_, start, _), first), *rest = some
        yield [_joined(found.texts[document][:start]), first, *(span for _, span in rest)]


def _repetition(found: LossComparison) -> list[str]:
    labels = []
    for spans in _by_document(found):
        seen, pairs = {spans[0]}, set[tuple[str, str]]()
        for before, span in itertools.pairwise(spans):
            known = "continues a repetition" if (before, span) in pairs else "seen before" if span in seen else "new"
            labels.append(known)
            seen.add(span)
            pairs.add((before, span))
    return labels


def _kinds(found: LossComparison) -> list[str | None]:
    if found.unit == "token":
        return [None] * len(found.losses)
    labels = []
    for (document, start, _), span in zip(found._places(), found.spans, strict=True):
        begins = start == 0 or not found.texts[document][start - 1].isalnum()
        kind = next((kind for kind, form in KINDS.items() if re.match(form, span)), "other")
        labels.append("word" if kind == "inside a word" and begins else kind)
    return labels


def _positions(found: LossComparison) -> list[str]:
    octaves = [place.bit_length() for spans in _by_document(found) for place in range(1, len(spans))]
    return ["1" if octave == 1 else f"{2 ** (octave - 1)} to {2**octave - 1}" for octave in octaves]


def _bigrams(found: LossComparison) -> list[str]:
    glue = "" if found.unit == "character" else " "
    return [before + glue + span for spans in _by_document(found) for before, span in itertools.pairwise(spans)]


GROUPED: dict[str, Callable[[LossComparison], Sequence[str | None]]] = {
    "repetition": _repetition,
    "kind": _kinds,
    "position": _positions,
    "span": lambda found: found.spans,
    "bigram": _bigrams,
}


def _grouped(bits: Float[Tensor, "span 2"], place: Int[Tensor, " span"], groups: int) -> Float[Tensor, "group measure"]:
    """`GROUP_MEASURES` of each group, by sums: spans of place `groups` belong to none."""
    change = bits[:, 1] - bits[:, 0]
    columns = torch.stack((torch.ones_like(change), *bits.T, change, change.square()), dim=1)
    within = torch.zeros(groups + 1, 5, dtype=bits.dtype).index_add_(0, place, columns)[:groups]
    rest = columns.sum(0) - within
    n, rest_n = within[:, 0], rest[:, 0].clamp(min=1)
    mean, rest_mean = within[:, 1:4] / n[:, None], rest[:, 3] / rest_n
    scatter = (within[:, 4] - within[:, 3].square() / n).clamp(min=0)
    scatter = scatter + (rest[:, 4] - rest[:, 3].square() / rest_n).clamp(min=0)
    apart = torch.where(rest[:, 0] > 0, mean[:, 2] - rest_mean, 0.0)
    effect = standardized(mean[:, 2], bits.var(0, unbiased=False).mean().sqrt())
    return torch.stack((*mean.T, effect, standardized(apart, (scatter / len(bits)).sqrt()), n), dim=1)


def standardized(difference: Tensor, deviation: Tensor) -> Tensor:
    """A difference in standard deviations; no difference is 0 of any."""
    return torch.where(difference == 0, torch.zeros_like(difference), difference / deviation)
