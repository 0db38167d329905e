"""What a metric reads of a run, or of a pass that an experiment makes by itself, and the number it makes of it.

Nothing else has to be computed than what is read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, MetricError
from interp_hooks.errors.arguments import is_integral, told
from interp_hooks.interventions.lazy_logits import LazyLogits
from interp_hooks.interventions.runs import Run
from interp_hooks.model.components.block import at_positions
from interp_hooks.model.padding import counted_back
from interp_hooks.model.stream import Stage, Stream
from interp_hooks.model.transformer import HookedTransformer


def for_each_prompt(values: Tensor, batch: int, what: str) -> Tensor:
    """One row of `values` for each prompt; a single one serves all.

    Raises:
        BadInput: another number of rows.
    """
    if len(values) not in (1, batch):
        raise BadInput(f"expected one {what} for each of {batch} prompts, or one for all, got {len(values)}")
    return values.expand(batch, *values.shape[1:])


@dataclass(frozen=True, kw_only=True)
class Readout:
    """Which logits a metric reads: a position of each prompt (None: all), and tokens of each prompt (None: all).

    `pos` is an int or a tensor [batch]; a negative one counts back from the last real token, others count from the
    first, padding included, and may lie in it. `tokens` is [batch, n].
    `next_tokens` reads what every position says about the token that follows, [batch, pos-1, 2]: its log-probability in
    nats, and 1 (0 where one of the two is padding, with a log-probability of 0). `on_demand` is for plain functions:
    they get logits [batch, pos, d_vocab] that are computed when they are read (`LazyLogits`), where `pos` says which
    position is there at all.

    >>> at_the_end = Readout(pos=-1, tokens=model.token_ids(pairs.answer)[:, None])
    """

    pos: int | Tensor | None = None
    tokens: Int[Tensor, "batch n"] | None = None
    next_tokens: bool = False
    on_demand: bool = False

    def positions(self, run: Run) -> Int[Tensor, "batch 1"]:
        """The position as one non-negative index for each prompt.

        Raises:
            BadInput: outside the prompts' tensor, before the first token of a prompt if it counts from the end, or for
                another number of prompts.
        """
        if not (
            (is_integral(self.pos) and not self.pos.is_meta)
            or (isinstance(self.pos, Integral) and not isinstance(self.pos, bool))
        ):
            raise BadInput(f"pos must be an int or a tensor [batch] of integers, got {told(self.pos)}")
        if isinstance(self.pos, int) and abs(self.pos) > LARGEST:
            raise BadInput(f"pos must be a position of the prompts, got {self.pos}")
        pos = torch.as_tensor(self.pos, device=run.tokens.device).reshape(-1)
        return counted_back(for_each_prompt(pos, len(run.tokens), "position")[:, None], run.real)

    def select(self, logits: Float[Tensor, "batch pos d_vocab"], run: Run) -> Tensor:
        """The part of a run's full logits that is read."""
        if self.next_tokens:
            return _next_log_probs(logits[:, :-1], run)
        if self.on_demand:
            return logits
        if self.pos is not None:
            logits = at_positions(logits, self.positions(run))
        if self.tokens is not None:
            logits = logits.gather(-1, self._tokens(run, logits)[:, None].expand(-1, logits.shape[1], -1))
        return logits if self.pos is None else logits[:, 0]

    def read(
        self, model: HookedTransformer, streams: Float[Tensor, "rows pos d_model"], run: Run, cut: bool = False
    ) -> list[Tensor]:
        """The same from the final streams of copies of the run's prompts, one below the other: one tensor for each.

        The streams are at all positions or, if they are `cut`, at those that are read, and no others.
        """
        copies = len(streams) // len(run.tokens)
        if self.on_demand:
            positions = self.positions(run) if cut else None
            length = run.tokens.shape[1]
            return [LazyLogits.of(model, stream, length, positions) for stream in streams.chunk(copies)]
        if self.next_tokens:
            return [_next_log_probs(model.logits(stream[:, :-1]), run) for stream in streams.chunk(copies)]
        if self.pos is not None and not cut:
            streams = at_positions(streams, self.positions(run).repeat(copies, 1))
        tokens = None if self.tokens is None else self._tokens(run, streams).repeat(copies, 1)
        logits = model.logits(streams, tokens)
        return list((logits if self.pos is None else logits[:, 0]).chunk(copies))

    def _tokens(self, run: Run, like: Tensor) -> Int[Tensor, "batch n"]:
        assert self.tokens is not None
        return for_each_prompt(self.tokens.to(like.device), len(run.tokens), "answer")


def _next_log_probs(logits: Float[Tensor, "rows before d_vocab"], run: Run) -> Float[Tensor, "rows before 2"]:
    """What the tokens that follow get, at least in float32, for copies of the run's prompts, stacked."""
    copies = len(logits) // len(run.tokens)
    following = run.tokens[:, 1:].to(logits.device)
    counted = (run.real[:, :-1] & run.real[:, 1:]).to(logits.device).repeat(copies, 1)
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32)).transpose(1, 2)
    log_probs = -F.cross_entropy(precise, following.repeat(copies, 1), reduction="none")
    return torch.stack((log_probs.masked_fill(~counted, 0.0), counted.to(log_probs)), dim=-1)


def read_pass(
    stream: Stream,
    readout: Readout,
    run: Run,
    copies: int,
    layer: int,
    streams: Mapping[str, Tensor],
    hooks: Sequence[tuple[str, Callable[..., Any]]],
) -> list[Tensor]:
    """What a readout reads of one pass with these hooks, for each copy of the prompts.

    Nothing before `layer` is touched by the hooks; `streams` has what `Stream.resumed` asks for. Only what is read is
    unembedded, unless one of the hooks, or somebody's own, is behind the blocks and waits for the rest.
    """
    model, mask = stream.model, run.attention_mask
    entering, arguments = stream.resumed(layer, streams, run.tokens)
    arguments |= {
        "attention_mask": None if mask is None else mask.repeat(copies, 1),
        "fwd_hooks": hooks,
    }
    entering = entering.repeat(copies, *[1] * (entering.ndim - 1))
    if stream.watched_at_the_end or any(stream.place(name).stage == Stage.FINAL for name, _ in hooks):
        return [readout.select(one, run) for one in model.run_with_hooks(entering, **arguments).chunk(copies)]
    reads = None if readout.pos is None else readout.positions(run)
    if reads is not None:
        arguments["logits_pos"] = reads.repeat(copies, 1)
    final = model.run_with_hooks(entering, stop_at_layer=stream.n_layers, **arguments)
    return readout.read(model, final, run, cut=reads is not None)


class Metric(ABC):
    """A number for each prompt, computed from the logits that `readout` names. `name` has the unit in it.

    `highest` is the largest value that it can have, if there is one.

    >>> class Entropy(Metric):
    ...     name = "entropy_nats"
    ...     readout = Readout(pos=-1)
    ...     def score(self, logits):
    ...         return torch.distributions.Categorical(logits=logits).entropy()
    >>> scores = evaluate(model, [Run(model.to_tokens(clean))], Entropy())
    """

    name: str = "metric"
    lower_is_better: bool = False
    highest: float | None = None

    @property
    @abstractmethod
    def readout(self) -> Readout:
        """What is read of the logits; nothing else needs to be computed."""

    @abstractmethod
    def score(self, logits: Tensor) -> Float[Tensor, " batch"]:
        """One number for each prompt, from what `readout` selects."""

    def on(self, model: HookedTransformer) -> Metric:
        """The same metric with its tokens looked up in, and checked against, the model's vocabulary."""
        return self

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """One number for each prompt, from full logits of prompts without padding."""
        positions_only = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
        return self.score(self.readout.select(logits, Run(positions_only)))


class _Unsaid(int):
    """A position that nobody said."""


LARGEST = 2**62  # of any position that a tensor can say
LAST: int = _Unsaid(-1)
"""As a default: the last real token, whose logits predict what follows. A model that reads both ways has none."""


def or_last(pos: int | Tensor | None) -> int | Tensor:
    """A position, or `LAST` where there is none."""
    return LAST if pos is None else pos


def said(model: HookedTransformer, pos: int | Tensor | None) -> Any:
    """A position as it is; -1 where nobody said one.

    Raises:
        BadInput: it is only the default, in a model that reads both ways.
    """
    if not isinstance(pos, _Unsaid):
        return pos
    if model.cfg.attention_dir == "bidirectional":
        raise BadInput(
            "pos= is needed: this model reads in both directions, so that the last token (a [SEP], perhaps) predicts "
            "nothing that follows; say which position is meant, such as that of [MASK]"
        )
    return -1


MetricLike = Metric | Callable[[Tensor], Tensor]


def reading(model: HookedTransformer, metric: MetricLike) -> tuple[Readout, Callable[[Tensor], Tensor]]:
    """What a metric reads of a model's logits, and how it scores that; a plain function reads what it likes."""
    if not callable(metric) or isinstance(metric, type):
        raise MetricError(f"the metric must be a Metric or a function of logits, got {told(metric)}")
    if not isinstance(metric, Metric):
        return Readout(on_demand=True), metric
    metric = metric.on(model)
    said(model, metric.readout.pos)
    return metric.readout, metric.score


def better(metric: MetricLike) -> int:
    """1 if a high metric is good, -1 if a low one is; of plain functions the high one."""
    return -1 if isinstance(metric, Metric) and metric.lower_is_better else 1


def metric_name(metric: MetricLike) -> str:
    """What a metric is called in results."""
    return metric.name if isinstance(metric, Metric) else getattr(metric, "__name__", "metric")


def counted_score(score: object, what: str, prompts: int) -> Tensor:
    """What a metric gave, if it is a real number for each prompt or one for all; `what` says of which run.

    Raises:
        MetricError: it is not.
    """
    if isinstance(score, LazyLogits):
        score = score.whole()
    if not isinstance(score, Tensor):
        raise MetricError(f"the metric must return a tensor (a number for each prompt), got {type(score).__name__}")
    if score.is_complex() or score.numel() == 0 or (score.ndim and len(score) not in (1, prompts)):
        raise MetricError(
            f"the metric must give a real number for each of {prompts} prompts, or one for all, got {told(score)} for "
            f"{what}"
        )
    return score


def checked_score(score: object, what: str, prompts: int) -> Tensor:
    """What a metric gave, checked as by `counted_score`, as a tensor of floats.

    Raises:
        MetricError: as there; also for nan.
    """
    score = counted_score(score, what, prompts)
    if bool(score.isnan().any()):
        raise MetricError(
            f"the metric gives nan for {what}: {score.tolist()}. Look for infinite logits on both sides of a "
            "difference, a division by zero, or an intervention that overflows"
        )
    if not score.is_floating_point():
        return score.float()
    part = score.untyped_storage().nbytes() > score.nbytes  # a view, which would keep all that it is a part of
    return score.clone() if part else score
