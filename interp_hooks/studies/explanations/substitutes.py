"""Similar texts by a masked language model: which words could stand in an example, and whether the unit still fires.

    found = similar_texts(model, neuron(3, 17), encoder, "When Mary and John went to the")
    found.table()           for each token, what else a reader of both sides expects there, and whether the unit fires
    found.result            [position, rank]: the share of the activation that is kept

A token that the unit does not need can be anything; at one that it needs, its substitutes show what it takes for the
same. The encoder is a bidirectional model of this package with a mask token, and may have another tokenizer: a
substitute is a text, and counts if it is a single token of the model in the same place, with all others as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.units import Units
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Positive, checked
from interp_hooks.experiments.results.kept import Kept
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.runs import as_run
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.neurons.contexts import measured, split_by_size, stacked

CANDIDATES = 8  # of the encoder, for each substitute that is asked for


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Substitutes(Kept):
    """What could stand at some positions of a text, the most probable first, and a unit's activation with it.

    `tokens` are those of the text, `at` is where the unit is looked at, and its `activation` there with the text as it
    is. `texts` are the substitutes at each of `positions`, "" where there are fewer; `probability` is what the encoder
    gives them (the sum over its tokens of one text), `activations` what the unit is with each: nan for none.
    `rejected` counts what the encoder proposed and the model's tokenizer does not read as one token in that place.
    """

    tokens: Sequence[str]
    at: int
    activation: float
    positions: Sequence[int]
    texts: Sequence[Sequence[str]]
    probability: Float[Tensor, "position rank"]
    activations: Float[Tensor, "position rank"]
    rejected: int

    @property
    def kept(self) -> Float[Tensor, "position rank"]:
        """The share of the activation that is left."""
        return self.activations / self.activation

    @property
    def result(self) -> Result:
        """The share that is left [position, rank], of this one text."""
        labels = [f"{place} {self.tokens[place]!r}" for place in self.positions]
        axes: Mapping[str, Sequence[str] | range] = {"position": labels, "rank": range(self.kept.shape[1])}
        return Result(metric="kept_activation", axes=axes, values=self.kept[..., None])

    @checked
    def table(self, keep: float = 0.5) -> pd.DataFrame:
        """A row for each substitute, and whether the unit `fires`: with at least the share `keep` of its activation."""
        rows = [
            (place, self.tokens[place], text, float(p), float(value), float(share), float(share) >= keep)
            for place, texts, *numbers in zip(
                self.positions, self.texts, self.probability, self.activations, self.kept, strict=True
            )
            for text, p, value, share in zip(texts, *numbers, strict=True)
            if text
        ]
        columns = ["position", "token", "substitute", "probability", "activation", "kept", "fires"]
        return pd.DataFrame(rows, columns=columns)


@checked
def similar_texts(
    model: HookedTransformer,
    unit: Units,
    encoder: HookedTransformer,
    text: str,
    *,
    k: Positive = 8,
    at: int | None = None,
) -> Substitutes:
    """Replace each token of a text by what a masked language model expects in its place, and measure a unit each time.

    The unit is looked at where it is largest in the text, or at the token `at`; tokens after it are not replaced, if
    the model does not see them from there. `k` substitutes of each token are the texts that are most probable among
    those that fit.

    Raises:
        BadInput: an encoder that reads one side only or has no mask token, a position outside the text, or an
            activation of 0 there.
        NoTokenizer: one of the models has none.

    >>> from interp_hooks.studies import neuron, similar_texts
    >>> similar_texts(model, neuron(1, 17), model, clean[0])
    Traceback (most recent call last):
        ...
    interp_hooks.errors.BadInput: the encoder must read both sides of a token; this one is causal
    """
    if encoder.cfg.attention_dir != "bidirectional":
        raise BadInput("the encoder must read both sides of a token; this one is causal")
    mask: str | None = encoder.text.tokenizer.mask_token
    if mask is None:
        raise BadInput("the encoder's tokenizer has no mask token")
    ids = model.text.fitted(text).tokens[0]
    texts = [str(one) for one in model.to_str_tokens(ids)]
    special = {*model.text.tokenizer.all_special_ids}
    values = measured(model, unit, stacked(model, [ids]))[0].double().cpu()
    real = [place for place, id in enumerate(ids.tolist()) if id not in special]
    place = _looked_at(values, real, len(ids), at)
    seen = place + 1 if model.cfg.attention_dir == "causal" else len(ids)
    positions = [one for one in real if one < seen]
    rows: list[Int[Tensor, " pos"]] = []
    found: list[list[tuple[str, float]]] = []
    rejected = 0
    for one, expected in zip(positions, _expected(model, encoder, ids, positions, mask, CANDIDATES * k), strict=True):
        fitting: list[tuple[str, float]] = []
        for word, probability in expected.items():
            row = _with(model, ids, one, word)
            if row is None:
                rejected += 1
            elif not torch.equal(row, ids):
                rows.append(row)
                fitting.append((str(model.to_str_tokens(row)[one]), probability))
            if len(fitting) == k:
                break
        found.append(fitting)
    activations = torch.full((len(positions), k), torch.nan, dtype=torch.float64)
    probability = activations.clone()
    there = torch.tensor([[rank < len(one) for rank in range(k)] for one in found])
    activations[there] = _at(model, unit, rows, place)
    probability[there] = torch.tensor([p for one in found for _, p in one], dtype=torch.float64)
    return Substitutes(
        tokens=texts,
        at=place,
        activation=float(values[place]),
        positions=positions,
        texts=[[word for word, _ in one] + [""] * (k - len(one)) for one in found],
        probability=probability,
        activations=activations,
        rejected=rejected,
    )


def _looked_at(values: Float[Tensor, " pos"], real: Sequence[int], n: int, at: int | None) -> int:
    """Where the unit is looked at."""
    if at is not None and not -n <= at < n:
        raise BadInput(f"at must be a token of the text, 0..{n - 1}, got {at}")
    if not real:
        raise BadInput("the text has no token that is not special")
    place = max(real, key=values.tolist().__getitem__) if at is None else at % n
    if values[place] == 0:
        raise BadInput(f"the unit's activation at token {place} is 0, so that there is nothing to keep")
    return place


def _expected(
    model: HookedTransformer,
    encoder: HookedTransformer,
    ids: Int[Tensor, " pos"],
    positions: Sequence[int],
    mask: str,
    n: int,
) -> list[dict[str, float]]:
    """What an encoder expects in the place of each of some tokens: about the `n` likeliest texts and how likely."""
    masked = ["".join(_around(model, ids, one, mask)) for one in positions]
    run = as_run(encoder, masked)
    tokenizer = encoder.text.tokenizer
    at_mask = torch.eq(run.tokens, tokenizer.mask_token_id)
    if not bool((at_mask.sum(1) == 1).all()):
        raise BadInput(f"the text has a {mask} of its own, or the encoder's tokenizer does not read it back")
    special = list(tokenizer.all_special_ids)

    def at_masks(logits: Float[Tensor, "row pos vocab"]) -> Float[Tensor, "row vocab"]:
        return logits[at_mask.to(logits.device)].double().log_softmax(-1)

    log_probs = evaluate(encoder, [run], at_masks)[0].cpu()
    log_probs[:, special] = -torch.inf
    best = log_probs.topk(min(n, log_probs.shape[1] - len(special)), dim=1)
    found = []
    for values, chosen in zip(best.values.exp().tolist(), best.indices.tolist(), strict=True):
        words: dict[str, float] = {}
        for p, id in zip(values, chosen, strict=True):
            name = str(tokenizer.convert_ids_to_tokens(id))
            word = str(encoder.to_string([id])).strip()
            if word and not name.startswith("##"):  # which goes on with a word
                words[word] = words.get(word, 0.0) + p
        found.append(words)
    return found


def _around(model: HookedTransformer, ids: Int[Tensor, " pos"], place: int, word: str) -> tuple[str, str, str]:
    """A text with another word in the place of a token: what stands before it, the word, what stands after it."""
    special = {*model.text.tokenizer.all_special_ids}
    before, after = (
        str(model.to_string(torch.tensor(part))) if part else ""
        for part in (
            [id for id in half if id not in special] for half in (ids[:place].tolist(), ids[place + 1 :].tolist())
        )
    )
    space = " " * str(model.to_single_str_token(int(ids[place]))).startswith(" ")
    return before, space + word, after


def _with(model: HookedTransformer, ids: Int[Tensor, " pos"], place: int, word: str) -> Int[Tensor, " pos"] | None:
    """The tokens with another word in one place, None if it is not one token there or changes others."""
    row = model.text.encode("".join(_around(model, ids, place, word))).tokens[0]
    if len(row) != len(ids) or int((row != ids).sum()) > int(row[place] != ids[place]):
        return None
    return None if int(row[place]) in model.text.tokenizer.all_special_ids else row


def _at(model: HookedTransformer, unit: Units, rows: Sequence[Int[Tensor, " pos"]], place: int) -> Tensor:
    """A unit's activation at one position of texts of one length."""
    found = [torch.zeros(0, dtype=torch.float64)]
    for group in split_by_size(rows):
        values = measured(model, unit, stacked(model, [rows[number] for number in group]))
        found.append(values[:, place].double().cpu())
    return torch.cat(found)
