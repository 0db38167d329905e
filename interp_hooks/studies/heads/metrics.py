"""What each head attends to: sums over the queries of a batch, which add up over batches and over machines.

    previous_token     attention to the token right before the query
    duplicate_token    to all earlier copies of the query's token
    induction          to the tokens right after these copies
    current_token      to the query itself
    sink               to the sink, at which a head rests that has nothing to do: the first real token, or BOS

Each is a mean over the queries that have such a token, and another one to look at. Beside it stands what attention
scores at the same queries that is the same for all keys that they see. On repeated random tokens the queries that count
for "induction" are the second copy.

    entropy, distance   in nats and in tokens, of the attention beside the sink: each row is divided by what it pays
                        there, and weighs by it, so that queries at which the head rests hardly count
    <name>_share        the part of sum(A |v W_O|), over all queries, that goes to tokens of that kind: how much of what
                        the head does the name covers
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.corpus.evals import repeat_length, repeated_tokens
from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Positive
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.runs import PromptsLike, Run, as_run
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.attending import refuse_unweighted
from interp_hooks.studies.heads.criteria import norm_factor, written_norms

SinkRule = Literal["first", "bos", "none"]
"""Which token is the sink: the first real one of a row, that one if it is BOS, or none."""
TARGETS = ("previous_token", "duplicate_token", "induction", "current_token", "sink")
SPREAD = ("entropy", "distance")
SHARES = tuple(f"{name}_share" for name in TARGETS)
METRICS = (*TARGETS, *SPREAD, *SHARES)


def sink_mask(
    tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"], rule: SinkRule = "first", bos: int | None = None
) -> Bool[Tensor, "batch pos"]:
    """True at the sink of each row, by a rule; "bos" needs the token's id.

    Raises:
        BadInput: an unknown rule, or "bos" where nobody says what BOS is.
    """
    first = real & real.cumsum(1).eq(1)
    if rule == "bos":
        if bos is None:
            raise BadInput("sink='bos' needs the id of BOS, and there is no tokenizer that knows it; use sink='first'")
        return first & tokens.eq(bos)
    return first if rule == "first" else torch.zeros_like(first)


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """Where a head of each kind would attend on a batch of tokens, the same for all heads that see the same keys.

    `wanted` has a row for each query and key, and a column for each of `TARGETS`, 1 where the query counts and the key
    is of that kind. `beside` is 1 where a query sees a key that is no sink, `distance` how far apart the two are.
    """

    visible: Float[Tensor, "batch query key"]
    wanted: Float[Tensor, "batch query_key target"]
    beside: Float[Tensor, "batch query_key"]
    distance: Float[Tensor, "query key"]
    no_sink: Float[Tensor, "batch key"]

    @classmethod
    def of(
        cls,
        tokens: Int[Tensor, "batch pos"],
        real: Bool[Tensor, "batch pos"],
        *,
        sinks: Bool[Tensor, "batch pos"],
        causal: bool = True,
        window: int | None = None,
        visible: Bool[Tensor, "batch query key"] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Targets:
        """The targets among the keys that a query sees: real ones, in a causal model up to its own position, in the
        last `window` of these; and, if given, those that `visible` names (the query's own document, say)."""
        at = torch.arange(tokens.shape[1], device=tokens.device)
        behind = at[:, None] - at  # how far the key stands before the query
        seen = real[:, :, None] & real[:, None] & (behind >= 0 if causal else True)
        seen = seen if window is None else seen & (behind < window)
        seen = seen if visible is None else seen & visible
        same = (tokens[:, :, None] == tokens[:, None]) & real[:, :, None] & real[:, None]
        after = torch.zeros_like(same)
        after[:, :, 1:] = same[:, :, :-1]
        choice = seen & (seen.sum(-1, keepdim=True) > 1)
        columns = {
            "previous_token": choice & (behind == 1),
            "duplicate_token": choice & same & (behind > 0),
            "induction": choice & after & (behind >= 0),
            "current_token": choice & (behind == 0),
            "sink": choice & sinks[:, None] & (behind != 0),
        }
        beside = seen & ~sinks[:, None]
        return cls(
            visible=seen.to(dtype),
            wanted=torch.stack([columns[name].flatten(1) for name in TARGETS], dim=-1).to(dtype),
            beside=beside.flatten(1).to(dtype),
            distance=behind.abs().to(dtype),
            no_sink=(real & ~sinks).to(dtype),
        )

    @property
    def uniform(self) -> Float[Tensor, "batch 1 query key"]:
        """Attention that is the same for all keys that a query sees, as the pattern of a single head."""
        return (self.visible / self.visible.sum(-1, keepdim=True).clamp(min=1))[:, None]

    @property
    def asking(self) -> Float[Tensor, " target"]:
        """How many queries count for each target."""
        return self.wanted.unflatten(1, self.visible.shape[1:]).amax(2).sum((0, 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadMetrics:
    """Sums of the attention metrics of some heads, float64: what two batches give is added with +.

    `totals` and `weights` are [*head, metric], and their quotient is the metric; `uniform_totals` and `uniform_weights`
    are those of uniform attention over the same tokens. The last axis is `METRICS`.
    """

    totals: Float[Tensor, "*head metric"]
    weights: Float[Tensor, "*head metric"]
    uniform_totals: Float[Tensor, "*head metric"]
    uniform_weights: Float[Tensor, "*head metric"]

    def __add__(self, other: HeadMetrics) -> HeadMetrics:
        return HeadMetrics(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    @classmethod
    def stacked(cls, layers: Sequence[HeadMetrics]) -> HeadMetrics:
        """The metrics of several layers in one, with an axis of layers in front."""
        return cls(**{name: torch.stack([getattr(one, name) for one in layers]) for name in vars(layers[0])})

    def mean(self, metric: str) -> Float[Tensor, "*head"]:
        """A metric of every head; nan where no query counted."""
        return self._of(metric, self.totals, self.weights)

    def uniform(self, metric: str) -> Float[Tensor, "*head"]:
        """The same for uniform attention."""
        return self._of(metric, self.uniform_totals, self.uniform_weights)

    def above_uniform(self, metric: str) -> Float[Tensor, "*head"]:
        """A metric minus that of uniform attention: 0 for a head that attends to all alike."""
        return self.mean(metric) - self.uniform(metric)

    def corrected(self, metric: str) -> Float[Tensor, "*head"]:
        """`above_uniform`, as a part of what a perfect head has: 1 for one that attends to nothing else."""
        return self.above_uniform(metric) / (1 - self.uniform(metric))

    def table(self) -> pd.DataFrame:
        """A row for each head. Attention to a kind of token stands there minus that of uniform attention; entropy,
        distance and shares stand as they are."""
        layers, heads, _ = self.totals.shape
        cells = torch.cartesian_prod(torch.arange(layers), torch.arange(heads)).reshape(-1, 2)
        columns: dict[str, Any] = {"layer": cells[:, 0].tolist(), "head": cells[:, 1].tolist()}
        for name in METRICS:
            values = self.above_uniform(name) if name in TARGETS else self.mean(name)
            columns[name] = values.flatten().tolist()
        return pd.DataFrame(columns)

    def _of(self, metric: str, totals: Tensor, weights: Tensor) -> Tensor:
        if metric not in METRICS:
            raise BadInput(f"there is no metric {metric!r}; there are {', '.join(METRICS)}.{nearest(metric, METRICS)}")
        at = METRICS.index(metric)
        return totals[..., at] / weights[..., at]


def measured(
    pattern: Float[Tensor, "batch head query key"],
    targets: Targets,
    value_norms: Float[Tensor, "batch key head"] | None = None,
) -> HeadMetrics:
    """The metrics of the heads of one layer on one batch; without the norms of what keys write there are no shares."""
    pattern = pattern.to(targets.wanted.dtype)
    heads, real = pattern.shape[1], targets.visible.amax(-1)[:, None]
    if value_norms is None:
        value_norms = pattern.new_zeros(pattern.shape[0], pattern.shape[3], heads)
    value_norms = value_norms.to(pattern)

    def sums(attention: Tensor) -> tuple[Tensor, Tensor]:
        flat, kept = attention.flatten(2), real * (attention @ targets.no_sink[:, None, :, None])[..., 0]
        paid = (flat @ targets.wanted).sum(0).expand(heads, -1)  # head target
        spent = (torch.xlogy(flat, flat) @ targets.beside[..., None]).sum((0, 2))
        entropy = torch.xlogy(kept, kept).sum((0, 2)) - spent
        far = (flat @ (targets.beside * targets.distance.flatten())[..., None]).sum((0, 2))
        weighed = attention * value_norms.transpose(1, 2)[:, :, None] * real[..., None]
        covered = (weighed.flatten(2) @ targets.wanted).sum(0)
        spread, beside = torch.stack((entropy, far), -1).expand(heads, -1), kept.sum((0, 2)).expand(heads)[:, None]
        whole = weighed.sum((0, 2, 3))[:, None]
        asking = targets.asking.expand(heads, -1)
        totals = torch.cat((paid, spread, covered), dim=-1)
        weights = torch.cat((asking, beside.expand(-1, len(SPREAD)), whole.expand(-1, len(SHARES))), dim=-1)
        return totals.double(), weights.double()

    own, uniform = sums(pattern), sums(targets.uniform)
    return HeadMetrics(totals=own[0], weights=own[1], uniform_totals=uniform[0], uniform_weights=uniform[1])


@study
def attention_metrics(
    pattern: Float[Tensor, "batch head query key"],
    tokens: Int[Tensor, "batch pos"],
    real: Bool[Tensor, "batch pos"] | None = None,
    *,
    value_norms: Float[Tensor, "batch key head"] | None = None,
    sink: SinkRule | Bool[Tensor, "batch pos"] = "first",
    bos: int | None = None,
    causal: bool = True,
    window: int | None = None,
    visible: Bool[Tensor, "batch query key"] | None = None,
) -> HeadMetrics:
    """The metrics of the heads of one layer on one batch of prompts, to be added to those of other batches.

    `real` is False for padding. `value_norms` are the lengths |v W_O| of what each head would write for each key
    (`criteria.written_norms`); without them there are no shares. `sink` is a rule, or True at every sink. `window` and
    `visible` say which keys a query sees if that is not all before it. Several layers on one batch do better to make
    `Targets.of` the tokens once, and call `measured`.

    Raises:
        BadInput: shapes that do not fit, or an unknown rule.

    >>> _, cache = model.run_with_cache(tokens := model.to_tokens(clean))
    >>> attention_metrics(cache["pattern", 0], tokens).above_uniform("previous_token").shape
    torch.Size([4])
    """
    real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real.bool()
    if pattern.shape[0] != len(tokens) or pattern.shape[2:] != (tokens.shape[1],) * 2 or real.shape != tokens.shape:
        raise BadInput(
            f"expected a pattern [batch, head, query, key] and a mask [batch, pos] of tokens {list(tokens.shape)}, got "
            f"{list(pattern.shape)} and {list(real.shape)}"
        )
    sinks = sink if isinstance(sink, Tensor) else sink_mask(tokens, real, sink, bos)
    dtype = torch.promote_types(pattern.dtype, torch.float32)
    targets = Targets.of(tokens, real, sinks=sinks, causal=causal, window=window, visible=visible, dtype=dtype)
    return measured(pattern, targets, value_norms)


# ------------------------------------------------------------------------------------------------------ a whole model


def bos_of(model: HookedTransformer) -> int | None:
    """The id of BOS, if a tokenizer knows one."""
    id: Any = None if model.tokenizer is None else model.tokenizer.bos_token_id
    return id


def metrics_of_batch(model: HookedTransformer, run: Run, sink: SinkRule = "first") -> HeadMetrics:
    """The metrics of all heads, [layer, head, metric], on the prompts of one run.

    A pass of its own, in which the pattern of one layer is gone before the next is made.
    """
    refuse_unweighted(model)
    cfg, real, found = model.cfg, run.real, {}
    sinks, norms = sink_mask(run.tokens, real, sink, bos_of(model)), {}
    windows = {cfg.window_at(layer) for layer in range(cfg.n_layers)}
    dtype, causal = torch.promote_types(model.dtype, torch.float32), cfg.attention_dir == "causal"
    targets = {
        window: Targets.of(run.tokens, real, sinks=sinks, causal=causal, window=window, dtype=dtype)
        for window in windows
    }

    def see_values(v: Tensor, hook: Any, layer: int) -> None:
        norms[layer] = written_norms(v, norm_factor(model.whole(model.blocks[layer].attn.W_O)))

    def see_pattern(pattern: Tensor, hook: Any, layer: int) -> None:
        found[layer] = measured(pattern, targets[cfg.window_at(layer)], norms.pop(layer))

    hooks = [
        (f"blocks.{layer}.attn.{name}", partial(see, layer=layer))
        for layer in range(cfg.n_layers)
        for name, see in (("hook_v", see_values), ("hook_pattern", see_pattern))
    ]
    model.run_with_hooks(run.tokens, attention_mask=run.attention_mask, return_type=None, fwd_hooks=hooks)
    return HeadMetrics.stacked([found[layer] for layer in range(cfg.n_layers)])


def added(batches: Iterable[HeadMetrics]) -> HeadMetrics:
    """The metrics over all batches."""
    first, *others = batches
    for one in others:
        first = first + one
    return first


@study
def head_metrics(
    model: HookedTransformer,
    prompts: PromptsLike | None = None,
    *,
    n: Positive = 16,
    subseq_len: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: Positive = 8,
    sink: SinkRule = "first",
) -> HeadMetrics:
    """What every head attends to on some prompts; without prompts, on `n` rows of random tokens that come twice.

    The random tokens are those of `head_scores`: `subseq_len` different ones (at most 50), drawn with `generator`. The
    sink is the first token of each prompt, or as `sink` says.

    Raises:
        BadInput: no prompts, an unknown rule for the sink, or copies that do not fit.

    >>> metrics = head_metrics(model, generator=torch.Generator().manual_seed(0))
    >>> metrics.table().columns.tolist()[:4]
    ['layer', 'head', 'previous_token', 'duplicate_token']
    """
    if prompts is None:
        size = repeat_length(model) if subseq_len is None else subseq_len
        prompts = repeated_tokens(model, n, size, generator=generator)
        run = Run(prompts, (), torch.ones_like(prompts))
    else:
        run = as_run(model, prompts)
    rows = range(0, len(run.tokens), batch_size)
    mask = run.attention_mask
    return added(
        metrics_of_batch(
            model,
            Run(
                run.tokens[first : first + batch_size],
                (),
                None if mask is None else mask[first : first + batch_size],
            ),
            sink,
        )
        for first in rows
    )
