"""Which earlier heads a head works with, on given prompts: how much of its scores and of its output comes through each.

    Q, K    its score of a key is linear in the stream at the query, and in that at the key (`scores`)
    V       so is its output, attention as it is, in the streams at the keys

Every part of the stream has an exact share, and shares sum to one (as Elhage et al. 2021 count composition on weights,
transformer-circuits.pub/2021/framework, here on inputs). The other side, attention, and norms are as in the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import about, checked
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.slices import RowSlice
from interp_hooks.interventions.runs import PromptsLike, as_run
from interp_hooks.model.cache.parts import frozen
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.model.weights import Composition
from interp_hooks.studies.heads.attending import refuse_unweighted
from interp_hooks.studies.heads.inputs import HeadInput, ReadRun, precise
from interp_hooks.studies.heads.scores import AGAINST, Place, at_places, place_of, weights_of
from interp_hooks.studies.heads.sources import logit_directions

UNITS = {"Q": "score", "K": "score", "V": "squared_output"}


@at_places
def composition_parts(
    model: HookedTransformer,
    prompts: PromptsLike,
    via: Composition,
    *,
    query: Place | None = None,
    key: Place | None = None,
    against: Place = "visible",
    answer: Any = None,
    wrong: Any = None,
    corrupt: PromptsLike | None = None,
) -> Result:
    """What reaches every head through each part of the stream, by its queries, keys or values.

    The result's axes are sender (heads, MLPs, embeddings, "bias") and reader (heads); a reader's senders sum to

        Q, K   its score of `key` for `query`, measured `against` something, as in `score_split`. Without a key: the
               mean score of the keys that it attends to, less that of those that it sees, at `query` or as a mean over
               all queries
        V      the squared length of its output, at `query` or as a mean over all queries. With `answer` its direct
               effect on that logit, less that of `wrong`, at `query` (default: the last position)

    With `corrupt` it is how much of this would go if the sender wrote to this reader what it writes in the corrupt
    prompts, while norms and attention stay as they are: without norms, exactly what patching that one edge takes away.
    ALiBi is no product of two streams, and no part of this; soft caps come after it. What every sender writes on all
    prompts is held at once.

    Raises:
        BadInput: a `key` without a `query`, a key that a query does not see, heads that clip, corrupt prompts of
            another shape, or a stream that is not a sum of parts.

    >>> parts = composition_parts(model, pairs, "Q", query="end", key="IO")
    >>> shares_of(parts).mean.shape[1]
    12
    """
    reached = Reached.of(model, prompts, via, query=query, key=key, against=against, answer=answer, wrong=wrong)
    read, other = reached.read, None if corrupt is None else as_run(model, corrupt)
    if other is not None and other.tokens.shape != read.run.tokens.shape:
        shapes = f"{list(read.run.tokens.shape)} and {list(other.tokens.shape)}"
        raise BadInput(f"the corrupt prompts must correspond to the prompts token by token, got shapes {shapes}")
    instead = None if other is None else ReadRun.of(model, other, model.cfg.n_layers)
    names, readers = _senders(read), model.all_head_labels()
    dtype = torch.promote_types(model.dtype, torch.float32)
    values = torch.zeros(len(names), len(readers), len(read.run.tokens), dtype=dtype)
    row = {name: place for place, name in enumerate(names)}
    for layer in range(model.cfg.n_layers):
        parts, labels = read.cache.get_full_resid_decomposition(layer, expand_neurons=False, return_labels=True)
        if instead is not None:
            parts = parts - instead.cache.get_full_resid_decomposition(layer, expand_neurons=False)
        first, pulled = layer * model.cfg.n_heads, list[Tensor]()
        for head in range(model.cfg.n_heads):
            stream, made, onto = reached.gradient(layer, head)
            pulled.append(made.pulled_back(stream, onto))
            if instead is None:
                values[row["bias"], first + head] = _product(made.constant(stream), onto)
            if instead is None and (aside := made.read_aside) is not None:
                values[row["pos_embed"], first + head] = _product(made.of(aside), onto)
        rows = torch.tensor([row[label] for label in labels])
        readers_here = slice(first, first + model.cfg.n_heads)
        values[rows, readers_here] += torch.einsum("xbpd,hbpd->xhb", parts, torch.stack(pulled)).to(values)
    return Result(metric=reached.metric, axes={"sender": names, "reader": readers}, values=values)


@checked
def shares_of(parts: Result) -> Result:
    """The share of each sender in what reaches a reader: its part over the sum of all, which is the mean over prompts.

    So the means of a reader's senders sum to 1; nan for a reader that nothing reaches.

    >>> shares_of(composition_parts(model, clean, "K")).metric
    'K_score_share'
    """
    whole = parts.values.sum(0).mean(-1)
    values = parts.values / whole.where(whole != 0, float("nan"))[None, :, None]
    return Result(metric=f"{parts.metric}_share", axes=parts.axes, values=values)


def _check(via: Composition, query: Any, key: Any, answer: Any, wrong: Any) -> None:
    if via == "V" and key is not None:
        raise BadInput("values are read from all keys, weighed by attention: via='V' takes a query alone")
    if key is not None and query is None:
        raise BadInput("a key is one of a query's: pass query too")
    if via != "V" and answer is not None:
        raise BadInput("an answer is what the output of a head adds to: use it with via='V'")
    if answer is None and wrong is not None:
        raise BadInput("wrong needs an answer, whose logit it is subtracted from")


def _senders(read: ReadRun) -> list[str]:
    """Everything that is a part of the stream that enters the last layer, or is read beside it."""
    _, labels = read.cache.get_full_resid_decomposition(
        read.model.cfg.n_layers - 1, expand_neurons=False, return_labels=True
    )
    return [*(["pos_embed"] if read.model.cfg.positional_embedding_type == "shortformer" else []), *labels]


def _product(
    made: Float[Tensor, "batch pos d_head"], onto: Float[Tensor, "batch pos d_head"]
) -> Float[Tensor, " batch"]:
    return torch.einsum("bpk,bpk->b", made, onto).cpu()


@dataclass(frozen=True, kw_only=True, eq=False)
class Reached:
    """What is asked about every head: the score of a key, or what it attends to, or its output, at a query or at all.

    `logits` is what an output is projected onto, else it is itself.
    """

    read: ReadRun
    via: Composition
    query: Int[Tensor, "batch 1"] | None
    key: Int[Tensor, "batch 1"] | None
    against: str | Int[Tensor, "batch 1"]
    logits: Float[Tensor, "batch 1 d_model"] | None

    @classmethod
    def of(
        cls,
        model: HookedTransformer,
        prompts: PromptsLike,
        via: Composition,
        *,
        query: Place | None,
        key: Place | None,
        against: Place,
        answer: Any,
        wrong: Any,
    ) -> Reached:
        """What `composition_parts` is asked.

        Raises:
            BadInput: what does not go together, or is not in the prompts.
        """
        _check(via, query, key, answer, wrong)
        refuse_unweighted(model)
        run = as_run(model, prompts)
        read = ReadRun.of(model, run, model.cfg.n_layers, "attn.hook_pattern", "ln_final.hook_scale")
        at_query = place_of(run, -1 if query is None else query, "query")
        return cls(
            read=read,
            via=via,
            query=None if query is None and answer is None else at_query,
            key=None if key is None else place_of(run, key, "key"),
            against=place_of(run, against, "against") if against not in AGAINST else against,
            logits=None if answer is None else _logit_direction(read, answer, wrong, at_query),
        )

    @property
    def metric(self) -> str:
        """What the numbers are."""
        return f"{self.via}_{UNITS[self.via] if self.logits is None else 'direct_effect'}"

    def gradient(
        self, layer: int, head: int
    ) -> tuple[Float[Tensor, "batch pos d_model"], HeadInput, Float[Tensor, "batch pos d_head"]]:
        """What a head reads, how it makes queries (keys, values) of it, and how what is asked depends on those."""
        stream = self.read.cache[f"blocks.{layer}.hook_resid_pre"]
        made = self.read.input(layer, head, self.via)
        weights = self._of_output(layer, head) if self.via == "V" else self._of_scores(layer, head)
        at_queries, at_keys = weights.any(2), weights.any(1)
        own = made.whole(stream, at_queries if self.via == "Q" else at_keys)
        if self.via == "V":
            return stream, made, torch.einsum("bij,bik->bjk", weights, self._through(layer, head, own))
        scale = self.read.model.cfg.attn_scale_at(layer)
        other = self.read.input(layer, head, "K" if self.via == "Q" else "Q")
        whole = other.whole(stream, at_keys if self.via == "Q" else at_queries) / scale
        return stream, made, torch.einsum("bij,bjd->bid" if self.via == "Q" else "bij,bid->bjd", weights, whole)

    @property
    def _asked(self) -> Float[Tensor, "batch pos"]:
        """How much each query counts: all real ones alike, or one alone."""
        real = self.read.run.real.to(self.read.model.device, torch.float64)
        if self.query is not None:
            return torch.zeros_like(real).scatter(1, self.query.to(real.device), 1.0)
        return real / real.sum(1, keepdim=True)

    def _of_scores(self, layer: int, head: int) -> Float[Tensor, "batch query key"]:
        """How much each score counts."""
        pattern = self.read.cache[f"blocks.{layer}.attn.hook_pattern"][:, head]
        if self.key is not None:
            assert self.query is not None
            weights = weights_of(self.read, layer, self.query, self.key, self.against)
            return (self._asked[:, :, None] * weights[:, None]).to(pattern)
        seen = self.read.visible(layer).to(pattern)
        uniform = seen / seen.sum(-1, keepdim=True) * pattern.sum(-1, keepdim=True)  # less than one beside a sink
        return (pattern - uniform) * self._asked.to(pattern)[..., None]

    def _of_output(self, layer: int, head: int) -> Float[Tensor, "batch query key"]:
        """How much the value of each key counts at each query."""
        pattern = self.read.cache[f"blocks.{layer}.attn.hook_pattern"][:, head]
        return pattern * self._asked.to(pattern)[..., None]

    def _through(
        self, layer: int, head: int, values: Float[Tensor, "batch key d_head"]
    ) -> Float[Tensor, "batch #query d_head"]:
        """What mixed values are projected onto: the logits' direction through W_O, or what the head writes itself."""
        block: Any = self.read.model.blocks[layer]
        W_O = precise(self.read.model.whole(block.attn.W_O)[head])
        if self.logits is None:
            pattern = self.read.cache[f"blocks.{layer}.attn.hook_pattern"][:, head]
            return pattern @ values @ (W_O @ W_O.T)
        assert self.query is not None
        onto = self.logits * block.residual_scale
        for norm in frozen(self.read.cache, block.ln1_post, f"blocks.{layer}.ln1_post", RowSlice(self.query)):
            onto = norm.pulled_back(onto) / norm.scale
        length = values.shape[1]
        return (onto @ W_O.T).to(values).expand(-1, length, -1)


def _logit_direction(
    read: ReadRun, answer: Any, wrong: Any, query: Int[Tensor, "batch 1"]
) -> Float[Tensor, "batch 1 d_model"]:
    """What a part of the final stream at the query is multiplied by to give its direct effect on the answer's logit."""
    model, batch = read.model, len(read.run.tokens)
    with about("answer"):
        onto = logit_directions(model, answer, batch)
    if wrong is not None:
        with about("wrong"):
            onto = onto - logit_directions(model, wrong, batch)
    onto = onto[:, None]
    for norm in frozen(read.cache, model.ln_final, "ln_final", RowSlice(query)):
        onto = norm.pulled_back(onto) / norm.scale
    return onto
