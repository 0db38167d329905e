"""What a model would say of the stream at some points, through an affine map, the final norm and the unembedding.

    point        "0_pre" (the stream that enters layer 0), "0_mid" (after its attention), ..., "final_post"
    the map      h -> maps[layer] h + biases[layer]; None is the identity, of which no matrix is made
    the norm     the model's own, with the statistics of what it is given

"final_post" is the model's own prediction. Multipliers, soft caps and masked-LM heads are the model's own too. Rows of
the vocabulary for which the tokenizer has no token are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, about, checked, refuse_outside
from interp_hooks.experiments.results.record import on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.readout import MetricLike, Readout, checked_score, metric_name, reading, said
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import PromptsLike, Run, as_run, masked
from interp_hooks.model.components.block import at_positions
from interp_hooks.model.stream import Stage, Stream
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer

FINAL = "final_post"
CHUNK = 2**25  # log-probabilities that are computed at once
Maps = Mapping[int, Tensor | None]
Biases = Mapping[int, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LensResult(Result):
    """What a lens says: a `Result` whose cells are points of the stream, and at `pos=None` positions too.

    Its values are those of the metric that was asked for, or `kl`. `streams` are the mapped streams, of which log-probs
    and ranks of any token are computed when they are asked for. Where all positions were read, `tokens` are the
    prompts', and `real` says which of them are no padding (None: all). `model` is the model, which must not be changed
    before that.
    """

    streams: Float[Tensor, "*grid prompt d_model"]
    model: HookedTransformer
    tokens: Int[Tensor, "prompt pos"] | None = None
    real: Bool[Tensor, "prompt pos"] | None = None

    @property
    def labels(self) -> list[str]:
        """The names of the points."""
        return list(self.axes["point"])

    @property
    def log_probs(self) -> Float[Tensor, "*grid prompt d_vocab"]:
        """The log-probability of every token in nats; -inf in rows of the vocabulary that stand for no token."""
        parts = [part.flatten(1) for part in self._each(lambda log_probs, _: log_probs)]
        found = torch.cat(parts, 1).reshape(*self.streams.shape[:-1], -1)
        missing = self.model.cfg.d_vocab_out - found.shape[-1]
        return torch.nn.functional.pad(found, (0, missing), value=-torch.inf)

    @cached_property
    def kl(self) -> Float[Tensor, "*grid prompt"]:
        """How far each point is from the model's own prediction: KL(final || point) in nats; nan at padding."""
        return self._over_vocabulary(lambda log_probs, _: _kl(log_probs))

    def log_prob(self, answer: Any) -> Float[Tensor, "*grid prompt"]:
        """The log-probability in nats of an answer for each prompt, or one for all; of ids [prompt, pos], of each."""
        return self._over_vocabulary(lambda log_probs, ids: _picked(log_probs, ids), self._answers(answer))

    def rank(self, answer: Any) -> Tensor:
        """How many tokens each point finds likelier than the answer, [*grid, prompt]: 0 where it is the likeliest."""

        def likelier(log_probs: Tensor, ids: Tensor | None) -> Tensor:
            return (log_probs > _picked(log_probs, ids)[..., None]).sum(-1)

        return self._over_vocabulary(likelier, self._answers(answer))

    @checked
    def top_tokens(self, k: Count = 5) -> tuple[Int[Tensor, "*grid prompt k"], Float[Tensor, "*grid prompt k"]]:
        """The ids of the `k` likeliest tokens at each point, and their log-probabilities in nats.

        Raises:
            BadInput: a `k` beyond the vocabulary.
        """
        most = vocabulary_size(self.model)
        refuse_outside("k", k, 1, most, "the size of the vocabulary")
        found = [(one.indices, one.values) for one in self._each(lambda log_probs, _: log_probs.topk(k))]
        ids, values = (torch.cat(parts, 1).reshape(*self.streams.shape[:-1], k) for parts in zip(*found, strict=True))
        return ids, values

    def words(self, k: Count = 1) -> Any:
        """The texts of the `k` likeliest tokens, as nested lists [*grid, prompt, k]."""
        text_of = names_of(self.model)

        def texts(nested: Any) -> Any:
            return list(map(texts, nested)) if isinstance(nested, list) else text_of(nested)

        return texts(self.top_tokens(k)[0].tolist())

    def table(  # pyright: ignore[reportIncompatibleMethodOverride]  (the answer comes first, as it always did)
        self,
        answer: Any = None,
        interval: float | None = None,
        samples: Count = 1000,
        generator: torch.Generator | None = None,
    ) -> pd.DataFrame:
        """The table of a `Result` and, with `answer`, the mean over prompts of its log-prob and rank at every point."""
        table = super().table(interval, samples, generator)
        if answer is not None:
            table["logprob_nats"] = self.log_prob(answer).mean(-1).flatten().tolist()
            table["rank"] = self.rank(answer).double().mean(-1).flatten().tolist()
        return table

    def _answers(self, answer: Any) -> Int[Tensor, "#cells prompt"]:
        """The ids of answers for every cell of the grid after the point."""
        prompts = self.streams.shape[-2]
        with about("answer"):
            ids = self.model.token_ids(answer)
            if ids.ndim == 2 and self.streams.ndim == 4:
                if ids.shape != (prompts, self.streams.shape[1]):
                    expected = [prompts, self.streams.shape[1]]
                    raise BadInput(f"expected answers [prompt, pos] = {expected}, got {list(ids.shape)}")
                return ids.T
            ids = ids.reshape(-1)
            if len(ids) not in (1, prompts):
                raise BadInput(f"expected one answer for each of {prompts} prompts, or one for all, got {len(ids)}")
        return ids.expand(prompts)[None]

    def _over_vocabulary(
        self, of: Callable[[Tensor, Tensor | None], Tensor], ids: Int[Tensor, "#cells prompt"] | None = None
    ) -> Tensor:
        """Numbers of each point, from its log-probabilities; nan (of integers 0) at padding."""
        found = torch.cat(list(self._each(of, ids)), 1).reshape(self.streams.shape[:-1])
        if self.real is None:
            return found
        return found.masked_fill(~self.real.T.to(found.device), float("nan") if found.is_floating_point() else 0)

    def _each(self, of: Callable[[Tensor, Tensor | None], Any], ids: Tensor | None = None) -> Iterator[Any]:
        """What a function makes of log-probabilities [point, row, token] of some rows, and of the ids [row] there.

        Raises:
            BadInput: the model's weights were changed since.
        """
        if self.record is not None:
            self.record.model.refuse_others(self.model)
        rows = self.streams.flatten(1, -2)
        if ids is not None:
            ids = (
                ids.expand(self.streams[0, ..., 0].reshape(-1, self.streams.shape[-2]).shape).flatten().to(rows.device)
            )
        size = max(1, CHUNK // (len(rows) * self.model.cfg.d_vocab_out))
        for start in range(0, rows.shape[1], size):
            part = slice(start, start + size)
            yield of(no_gradients(log_probs_of)(self.model, rows[:, part]), None if ids is None else ids[part])


def _kl(log_probs: Float[Tensor, "point row d_vocab"]) -> Float[Tensor, "point row"]:
    final = log_probs[-1]
    return (final.exp() * (final - log_probs)).sum(-1)


def _picked(log_probs: Float[Tensor, "point row d_vocab"], ids: Tensor | None) -> Float[Tensor, "point row"]:
    """Those of one token of each row; -inf for an id that stands for no token."""
    assert ids is not None
    known = ids < log_probs.shape[-1]
    index = ids.where(known, 0).expand(log_probs.shape[:-1])[..., None]
    return log_probs.gather(-1, index)[..., 0].masked_fill(~known, -torch.inf)


def log_probs_of(
    model: HookedTransformer, streams: Float[Tensor, "point row d_model"]
) -> Float[Tensor, "point row d_vocab"]:
    """The log-probabilities, at least in float32, that the model gives after these final streams, of real tokens."""
    logits = model.logits(streams)[..., : vocabulary_size(model)]
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def vocabulary_size(model: HookedTransformer) -> int:
    """How many rows of the output vocabulary stand for tokens; checkpoints pad it to a round number."""
    rows = model.cfg.d_vocab_out
    if model.tokenizer is None or rows != model.cfg.d_vocab:
        return rows
    return min(rows, 1 + max(model.tokenizer.get_vocab().values(), default=rows - 1))


# ---------------------------------------------------------------------------------------------------------- the reading


def run_to_read(model: HookedTransformer, prompts: PromptsLike, attention_mask: Tensor | None = None) -> Run:
    """Prompts as a run; a run keeps its interventions, so that a lens sees the stream that they make.

    Raises:
        BadInput: prompts that do not fit, or an intervention after the blocks, which no stream shows.
    """
    if not isinstance(prompts, Run) or attention_mask is not None:
        return as_run(model, prompts, attention_mask)
    stream = Stream(model)
    if late := [made.site.hook for made in prompts.interventions if stream.place(made.site.hook).stage == Stage.FINAL]:
        raise BadInput(f"a lens reads the stream, and does not see what is done at {late[0]}, after the last block")
    return masked(model, prompts)


@on_data
@no_gradients
def read_points(
    model: HookedTransformer,
    run: Run,
    maps: Maps,
    biases: Biases,
    metric: MetricLike | None,
    pos: int | Tensor | None,
    incl_mid: bool,
) -> LensResult:
    """The points of a run that have maps, and the final one."""
    hooks = _points(model, maps, incl_mid)
    recorded = record(model, run, list(hooks.values()))
    device = recorded[hooks[FINAL]].device
    rows = None if pos is None else Readout(pos=said(model, pos)).positions(run)

    def mapped(label: str, every: bool) -> Tensor:
        """The mapped stream of a point [prompt, pos, d_model], at the position that is read or at `every` one."""
        value = recorded[hooks[label]].to(device)
        value = value if every or rows is None else at_positions(value, rows)
        layer = None if label == FINAL else int(label.partition("_")[0])
        return value if layer is None else through(value, maps.get(layer), biases.get(layer))

    streams = torch.stack([mapped(label, every=False) for label in hooks]).transpose(1, 2)  # point pos prompt d_model
    axes: dict[str, Any] = {"point": list(hooks)}
    if pos is not None:
        streams = streams[:, 0]
    found = LensResult(metric="kl_nats", axes=axes, values=streams[..., 0], streams=streams, model=model)
    if pos is None:
        real = None if bool(run.real.all()) else run.real.cpu()
        axes["pos"] = range(run.tokens.shape[1])
        found = replace(found, tokens=run.tokens.cpu(), real=real)
    if metric is None:
        return replace(found, values=found.kl)
    readout, score = reading(model, metric)
    prompts = len(run.tokens)
    scores = [
        checked_score(score(readout.read(model, mapped(label, every=True), run)[0]), label, prompts) for label in hooks
    ]
    values = torch.stack([one.expand(prompts) for one in scores])
    return replace(found, metric=metric_name(metric), values=values, baselines={"model": values[-1]})


def through(
    stream: Float[Tensor, "*rows d_model"], map: Float[Tensor, "d_model d_model"] | None, bias: Tensor | None
) -> Float[Tensor, "*rows d_model"]:
    """The stream after an affine map, computed at least in the map's precision; None is the identity."""
    if map is None:
        return stream
    precise = torch.promote_types(stream.dtype, map.dtype)
    mapped = stream.to(precise) @ map.to(stream.device, precise).T
    return (mapped if bias is None else mapped + bias.to(mapped)).to(stream.dtype)


def _points(model: HookedTransformer, maps: Maps, incl_mid: bool) -> dict[str, str]:
    """The hooks of the points that are read, by label."""
    stream, found = Stream(model), dict[str, str]()
    for layer in sorted(maps):
        found[f"{layer}_pre"] = stream.entering(layer)
        middle = f"blocks.{layer}.hook_resid_mid"
        if incl_mid and middle in model.hook_dict:
            found[f"{layer}_mid"] = middle
    return found | {FINAL: stream.entering(model.cfg.n_layers)}
