"""A scene in which heads show what they are for: prompts, the same prompts without what matters, and what they score.

A scene is made of a task, or of random tokens that come twice, whose counterpart has other tokens in the first copy so
that nothing repeats. `attention` measures where heads look; the methods under "cause" say how much goes if one thing
of one head comes from the counterpart: 0 nothing, 1 all of the difference between the two prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.corpus.evals import ordinary_tokens
from interp_hooks.errors import BadInput
from interp_hooks.experiments.patching import Direction, named_positions
from interp_hooks.experiments.paths import path_patch
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.metrics import Metric
from interp_hooks.interventions.readout import MetricLike, Readout
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Intervention, PromptsLike, Run, TaskLike, as_run
from interp_hooks.interventions.sites import at
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.metrics import HeadMetrics, attention_metrics, bos_of, metrics_of_batch

Place = tuple[str, int]
"""A named position, and how many tokens after it."""
LIKELY = 10  # tokens that count as predicted
SURE = 3.0  # standard errors by which a model must do better on the prompts than on their counterparts
MOST = 0.75  # of the pairs must be so


@dataclass(frozen=True, eq=False)
class RepetitionLogProb(Metric):
    """The log-probability in nats of the tokens of a repetition from its second one on; `start` is where it begins."""

    start: int
    name = "repetition_logprob_nats"

    @property
    def readout(self) -> Readout:
        return Readout(next_tokens=True)

    def score(self, logits: Float[Tensor, "batch before 2"]) -> Float[Tensor, " batch"]:
        return logits[:, self.start :, 0].mean(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Prompts and their counterparts, both left alone, with named positions; `repeats` tells random repeated tokens.

    Without counterparts (`corrupt` is None) there is nothing to lose, and only attention and direct effects are there.
    `paths` keeps what was found out about paths, since several roles may ask for the same.
    """

    model: HookedTransformer
    clean: Run
    corrupt: Run | None
    metric: MetricLike | None
    positions: Mapping[str, Int[Tensor, " prompt"]] = field(default_factory=dict)
    answer: Any = None
    wrong: Any = None
    repeats: bool = False
    every_cause: bool = True
    paths: dict[Any, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: HookedTransformer, prompts: PromptsLike) -> Scene:
        """The scene of a task, or of prompts alone."""
        run = as_run(model, prompts)
        if not isinstance(prompts, TaskLike):
            return cls(model=model, clean=run, corrupt=None, metric=None)
        task: Any = prompts
        return cls(
            model=model,
            clean=run,
            corrupt=as_run(model, task.corrupt),
            metric=task.metric,
            positions=named_positions(run, task.positions),
            answer=task.answer,
            wrong=task.wrong,
        )

    @classmethod
    def repetition(
        cls, model: HookedTransformer, n: int, length: int | None, generator: torch.Generator | None, bos: int | None
    ) -> Scene:
        """Rows of BOS and `length` different tokens that come twice, beside rows in which other tokens stand first.

        Raises:
            BadInput: two copies that do not fit, or too few tokens for a first copy that shares none with the second.
        """
        bos = bos_of(model) if bos is None and model.text.prepend_bos else bos
        ordinary = ordinary_tokens(model, model.tokenizer, bos)
        begins = torch.tensor([] if bos is None else [bos], dtype=torch.long).expand(n, -1)
        most = min((model.cfg.n_ctx - begins.shape[1]) // 2, len(ordinary) // 2)
        length = min(50, most) if length is None else length
        if not 2 <= length <= most:
            raise BadInput(f"subseq_len must be 2..{most} for this context and vocabulary, got {length}")
        drawn = torch.stack([ordinary[torch.randperm(len(ordinary), generator=generator)] for _ in range(n)])
        half, others = drawn[:, :length], drawn[:, length : 2 * length]
        rows = (torch.cat((begins, first, half), dim=1).to(model.device) for first in (half, others))
        clean, corrupt = (Run(tokens, (), torch.ones_like(tokens)) for tokens in rows)
        start = begins.shape[1] + length
        return cls(model=model, clean=clean, corrupt=corrupt, metric=RepetitionLogProb(start), repeats=True)

    # ------------------------------------------------------------------------------------------------------ attention

    @cached_property
    def metrics(self) -> HeadMetrics:
        """The attention metrics of all heads."""
        return metrics_of_batch(self.model, self.clean)

    def place(self, place: Place) -> Int[Tensor, " prompt"]:
        """Where a place is in each prompt."""
        name, after = place
        return self.positions[name] + after

    def patterns(self, run: Run | None = None) -> list[Float[Tensor, "batch head query key"]]:
        """The attention of every layer, in the clean run or another one."""
        if run is not None:
            return self._patterns(run)
        return self._clean_patterns

    @cached_property
    def _clean_patterns(self) -> list[Tensor]:
        return self._patterns(self.clean)

    def _patterns(self, run: Run) -> list[Tensor]:
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(self.model.cfg.n_layers)]
        found = record(self.model, run, names)
        return [found[name] for name in names]

    def attention(self, query: Place, key: Place, run: Run | None = None) -> Float[Tensor, "layer head prompt"]:
        """What every head pays from one place to another."""
        rows, q, k = torch.arange(len(self.clean.tokens)), self.place(query), self.place(key)
        return torch.stack([pattern[rows, :, q, k].T for pattern in self.patterns(run)])

    def uniform(self, query: Place) -> Float[Tensor, " prompt"]:
        """What uniform attention pays from a place to each key that it sees."""
        real, at_query = self.clean.real, self.place(query)[:, None]
        seen = real.cumsum(1).gather(1, at_query)[:, 0] if self.model.cfg.attention_dir == "causal" else real.sum(1)
        return 1 / seen

    @cached_property
    def predicted(self) -> list[tuple[Bool[Tensor, "batch query key"], Int[Tensor, "batch query"]]]:
        """For each layer, where a token stands already that is among the likeliest to come, and the likeliest of these.

        The likeliest are those of the logit lens of the stream before the layer: ten, or a thousandth of a vocabulary
        that is small. The first token of a prompt is the sink, and does not count.
        """
        tokens, real, n = self.clean.tokens, self.clean.real, max(1, min(LIKELY, self.model.cfg.d_vocab_out // 1000))
        seen = (real[:, :, None] & (real & real.cumsum(1).gt(1))[:, None]).tril()
        names, found = [f"blocks.{layer}.hook_resid_pre" for layer in range(self.model.cfg.n_layers)], []
        streams = record(self.model, self.clean, names)
        for name in names:
            likely = torch.cat([self.model.logits(row[None]).topk(n).indices for row in streams[name]])
            stands = seen[..., None] & (likely[:, :, None] == tokens[:, None, :, None])  # batch query key likely
            best = stands.any(2).int().argmax(-1, keepdim=True)
            found.append((stands.any(-1), likely.gather(-1, best)[..., 0]))
        return found

    # ---------------------------------------------------------------------------------------------------------- cause

    @property
    def counterpart(self) -> Run:
        """The prompts without what matters, which a scene of prompts alone lacks."""
        if self.corrupt is None:
            raise BadInput("prompts alone have no counterparts; give a task, whose corrupt prompts are these")
        return self.corrupt

    @property
    def asked(self) -> MetricLike:
        """What is asked of the model, which a scene of prompts alone does not say."""
        if self.metric is None:
            raise BadInput("prompts alone do not say what is asked of the model; give a task, which has a metric")
        return self.metric

    @cached_property
    def scores(self) -> Float[Tensor, "2 prompt"]:
        """The metric of the prompts and of their counterparts."""
        return evaluate(self.model, [self.clean, self.counterpart], self.asked)

    @cached_property
    def works(self) -> bool:
        """Whether the model does better on the prompts than on their counterparts: in most pairs, and not by chance."""
        gain = self.scores[0] - self.scores[1]
        error = gain.std() / len(gain) ** 0.5 if len(gain) > 1 else torch.zeros(())
        sure = bool(gain.mean() > SURE * error) and bool(gain.mean() > 1e-9)
        return sure and float((gain > 0).double().mean()) >= MOST

    @property
    def unknown(self) -> Float[Tensor, "layer head"]:
        """No number for any head."""
        return torch.full((self.model.cfg.n_layers, self.model.cfg.n_heads), float("nan"))

    def moved_by_paths(
        self,
        hooks: tuple[str, ...],
        place: Place | None,
        direction: Direction = "noise",
        heads: Bool[Tensor, "layer head"] | None = None,
    ) -> Float[Tensor, "layer head"]:
        """The share that is lost if what each of these heads (default: all) writes reaches some inputs as in the
        counterpart.

        Inputs are those of all heads of later layers ("k_input", ...), at a place or everywhere, or "logits". With
        "denoise": the share that is won if it reaches them in the counterpart as in the prompts.
        """
        heads = torch.ones_like(self.unknown).bool() if heads is None else heads
        asked = (hooks, place, direction, str(heads.nonzero().tolist()))
        if asked not in self.paths:
            self.paths[asked] = self._moved_by_paths(hooks, place, direction, heads)
        return self.paths[asked]

    def _moved_by_paths(
        self, hooks: tuple[str, ...], place: Place | None, direction: Direction, heads: Bool[Tensor, "layer head"]
    ) -> Float[Tensor, "layer head"]:
        found, senders = (
            self.unknown,
            {f"L{layer}H{head}": at("z", layer, head=head) for layer, head in heads.nonzero().tolist()},
        )
        if not self.works or not senders:
            return found
        where = {} if place is None else {"pos": self.place(place)}
        layers = range(1, self.model.cfg.n_layers)
        receivers: Any = [at(hook, layer, **where) for hook in hooks for layer in layers]
        if hooks == ("logits",):
            receivers = "logits"
        elif not receivers:
            return found.masked_fill(heads, 0.0)
        options: dict[str, Any] = dict(senders=senders, receivers=receivers, direction=direction, progress=False)
        patched = path_patch(self.model, self.clean, self.counterpart, self.asked, **options)
        found[heads] = patched.recovered_fraction.cpu().to(found)
        return found

    def moved_by(
        self, heads: Bool[Tensor, "layer head"], direction: Direction = "noise"
    ) -> Float[Tensor, "layer head"]:
        """The share that is lost if one of these heads alone writes what it writes in the counterpart.

        With "denoise": the share that is won if it writes in the counterpart what it writes in the prompts.
        """
        other = self.clean if direction == "denoise" else self.counterpart
        return self.moved_to(heads, lambda layer, head: Intervention(at("z", layer, head=head), other), direction)

    def moved_to(
        self,
        heads: Bool[Tensor, "layer head"],
        change: Callable[[int, int], Intervention],
        direction: Direction,
    ) -> Float[Tensor, "layer head"]:
        """The share that is lost if one of these heads alone is changed in the prompts; with "denoise" the share that
        is won if it is changed in the counterparts."""
        found = self.unknown
        cells = heads.nonzero().tolist()
        if not self.works or not cells:
            return found
        base = self.clean if direction == "noise" else self.counterpart
        runs = [replace(base, interventions=[change(layer, head)]) for layer, head in cells]
        after, (clean, corrupt) = evaluate(self.model, runs, self.asked).mean(-1).cpu(), self.scores.mean(-1).cpu()
        before, whole = (clean, corrupt - clean) if direction == "noise" else (corrupt, clean - corrupt)
        found[heads] = ((after - before) / whole).to(found)
        return found

    def attention_lost(self, metric: str, hook: str, heads: Bool[Tensor, "layer head"]) -> Float[Tensor, "layer head"]:
        """The share of these heads' attention of a kind that goes if their own queries or keys ("q_input", "k_input")
        are made as in the counterpart."""
        found = self.unknown
        for layer in heads.any(1).nonzero()[:, 0].tolist():
            chosen = heads[layer].nonzero()[:, 0].tolist()
            run = replace(self.clean, interventions=[Intervention(at(hook, layer, head=chosen), self.counterpart)])
            after = self._attending(run, layer).corrected(metric)[chosen].cpu()
            found[layer, chosen] = (1 - after / self.metrics.corrected(metric)[layer, chosen].cpu()).to(found)
        return found

    def moved_with_positions(self) -> Float[Tensor, "layer head"]:
        """Of the attention to the token after the earlier copy, and to that whose position embedding takes the token's
        place in the keys' eyes, the part that goes to the latter; `follows_positions` says how."""
        run, found = self.clean, []
        assert isinstance(self.metric, RepetitionLogProb)
        second = self.metric.start
        length = run.tokens.shape[1] - second
        first = second - length
        own = record(self.model, run, "hook_pos_embed")["hook_pos_embed"]
        swapped = own.clone()
        swapped[:, first:second] = own[:, first:second].roll(-1, dims=1)  # each has its right neighbour's
        moved = replace(run, interventions=[Intervention(at("hook_pos_embed"), {"hook_pos_embed": swapped})])
        steps = torch.arange(1, length - 2)  # queries whose targets are inside the first copy
        queries, target = second + steps, first + steps + 1
        for layer in range(self.model.cfg.n_layers):
            seen = Intervention(at("k_input", layer), moved)
            name = f"blocks.{layer}.attn.hook_pattern"
            pattern = record(self.model, replace(run, interventions=[seen]), name)[name]
            stays, goes = (pattern[:, :, queries, key].sum((0, 2)) for key in (target, target - 1))
            found.append((goes / (goes + stays)).cpu())
        return torch.stack(found)

    def _attending(self, run: Run, layer: int) -> HeadMetrics:
        """The attention metrics of one layer in a run on these prompts."""
        name = f"blocks.{layer}.attn.hook_pattern"
        options: dict[str, Any] = dict(causal=self.model.cfg.attention_dir == "causal")
        options |= dict(window=self.model.cfg.window_at(layer))
        return attention_metrics(record(self.model, run, name)[name], run.tokens, run.real, **options)


@contextmanager
def heads_apart(model: HookedTransformer) -> Iterator[None]:
    """A block in which every query head has keys and values of its own, so that its inputs can be changed alone."""
    shared = model.cfg.n_key_value_heads != model.cfg.n_heads
    if shared:
        model.set_ungroup_grouped_query_attention(True)
    try:
        yield
    finally:
        if shared:
            model.set_ungroup_grouped_query_attention(False)
