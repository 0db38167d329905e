"""Why a head looks where it looks: its score of a query and a key, as a sum over what wrote the one and the other.

    score[i, j] = sum over parts a of the stream at i, b of that at j    R_i q_a . R_j k_b / attn_scale

Norms have the scales of the run, and biases are parts, so the sum is exact (Elhage et al. 2021,
transformer-circuits.pub/2021/framework, for models without norms and rotations). With rotary positions R the sum over
pairs of dimensions splits every term by frequency. Softmax sees differences alone, so that scores are compared with the
mean over the keys that the query sees, or with another key's, before they say anything.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.patching import named_index, named_positions
from interp_hooks.experiments.results.record import on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.slices import RowSlice, Slice
from interp_hooks.interventions.runs import PromptsLike, Run, TaskLike, as_run
from interp_hooks.model.components.positions import by_dimension
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.heads.attending import attention_of
from interp_hooks.studies.heads.inputs import ReadRun, Unit

P = ParamSpec("P")
R = TypeVar("R")
Place = int | str | Tensor
"""A position of all prompts, a tensor [prompt] of each prompt's own, or a position that the task names."""
AGAINST = ("visible", "nothing")
PLACES = ("query", "key", "against")  # the arguments that are one


def at_places(function: Callable[P, R]) -> Callable[P, R]:
    """A study of heads that users call: arguments are checked, and it is computed on data and without gradients.

    Its places may be named by a task: then it is called with the positions of these names.
    """
    signature, on_places = inspect.signature(function), on_data(no_gradients(function))

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        model, task = given.arguments["model"], given.arguments["prompts"]
        if isinstance(task, TaskLike):
            run = given.arguments["prompts"] = as_run(model, task)
            named = named_positions(run, task.positions)
            for name in PLACES:
                if name in given.arguments and given.arguments[name] not in AGAINST:
                    given.arguments[name] = named_index(named, given.arguments[name])
        return on_places(*given.args, **given.kwargs)

    return checked(called)


@at_places
def score_split(
    model: HookedTransformer,
    prompts: PromptsLike,
    layer: int,
    head: int,
    query: Place,
    key: Place,
    *,
    query_unit: Unit = "head",
    key_unit: Unit = "head",
    against: Place = "visible",
    frequencies: bool = False,
) -> Result:
    """A head's attention score of a key, for a query, as a sum over the parts of the stream that made the two.

    The result's axes are query_part and key_part and, with `frequencies`, frequency: the number of a pair of rotary
    dimensions, 0 the fastest, or "plain" for dimensions that do not turn. A unit says into what a stream is split:
    "head", heads, MLPs and embeddings; "component", attention layers instead of heads; "neuron", neurons instead of
    MLPs; "whole", nothing. "bias" is what biases add. A score is measured `against` the mean over the "visible" keys,
    another key's, or "nothing". It is in units of softmax's input, before a soft cap; baselines have it as the run has
    it ("score"), before cap and ALiBi ("product"), and ALiBi's part ("alibi"), where these differ. Sinks are no keys.

    Raises:
        BadInput: no such head or unit, a key that the query does not see, frequencies without rotary positions, queries
            or keys that are clipped, or a stream that is not a sum of parts (post-norm models, splices).

    >>> split = score_split(model, pairs, 2, 1, "end", "IO", key_unit="component")
    >>> torch.allclose(split.values.sum((0, 1)), split.baselines["score"], atol=1e-4)
    True
    """
    _check(model, layer, head)
    run = as_run(model, prompts)
    rows = {name: place_of(run, where, name) for name, where in (("query", query), ("key", key))}
    neurons = ["mlp.hook_post"] if "neuron" in (query_unit, key_unit) else []
    read = ReadRun.of(model, run, layer, "attn.hook_attn_scores", *neurons)
    other = against if against in AGAINST else place_of(run, against, "against")
    weights = weights_of(read, layer, rows["query"], rows["key"], other)
    at_query = RowSlice(rows["query"])
    here = torch.ones_like(rows["query"], dtype=torch.bool)
    of_query, q = read.split(layer, head, "Q", query_unit, at_query, here)
    of_key, k = read.split(layer, head, "K", key_unit, Slice(), weights != 0)
    k = torch.einsum("ybpd,bp->ybd", k, weights.to(k))
    scale = model.cfg.attn_scale_at(layer)
    axes: dict[str, Any] = {"query_part": of_query, "key_part": of_key}
    if frequencies:
        axes["frequency"], member = frequency_pairs(model, layer)
        values = torch.einsum("xbd,ybd,df->xyfb", q[:, :, 0], k, member.to(k)) / scale
    else:
        values = torch.einsum("xbd,ybd->xyb", q[:, :, 0], k) / scale
    baselines = _baselines(read, layer, head, rows["query"], weights, values.sum((0, 1, *range(2, values.ndim - 1))))
    parts_of = "product" if "product" in baselines else "score"
    return Result(metric="score", axes=axes, values=values.cpu(), baselines=baselines, parts_of=parts_of)


def place_of(run: Run, where: Place, what: str) -> Int[Tensor, "batch 1"]:
    """A place as one position of each prompt.

    Raises:
        BadInput: a position outside the prompts or in their padding, or a name, which no task gives.
    """
    length = run.tokens.shape[1]
    if isinstance(where, int) and not -length <= where < length:
        raise BadInput(f"{what}: position {where} is out of range for prompts of {length} tokens")
    return named_positions(run, {what: named_index({}, where)})[what][:, None]


def _check(model: HookedTransformer, layer: int, head: int) -> None:
    if not (0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads):
        raise BadInput(f"there is no head {head} in layer {layer}")


def weights_of(
    read: ReadRun, layer: int, query: Tensor, key: Tensor, against: str | Tensor
) -> Float[Tensor, "batch key"]:
    """How much the score of each key counts: 1 for the key that is asked for, less what it is measured against.

    Raises:
        BadInput: a key that the query does not see.
    """
    length, visible = read.run.tokens.shape[1], read.visible(layer)
    seen = visible.gather(1, query.to(visible.device)[..., None].expand(-1, -1, length))[:, 0]

    def one(rows: Tensor, what: str) -> Tensor:
        rows = rows.to(seen.device)
        if not bool(seen.gather(1, rows).all()):
            raise BadInput(
                f"the {what} must be one that the query sees: no later position, padding, out of a window, or one "
                "that its indexer has not chosen"
            )
        return torch.zeros(seen.shape, dtype=torch.float64, device=seen.device).scatter(1, rows, 1.0)

    weights = one(key, "key")
    if isinstance(against, Tensor):
        return weights - one(against, "key to compare with")
    return weights - seen.double() / seen.sum(-1, keepdim=True) if against == "visible" else weights


def frequency_pairs(model: HookedTransformer, layer: int) -> tuple[list[Any], Float[Tensor, "d_head frequency"]]:
    """The numbers of pairs of rotary dimensions, and which dimensions belong to each; "plain" ones do not turn.

    Raises:
        BadInput: the layer does not rotate.
    """
    attn = attention_of(model, layer)
    rope, d_head = model.cfg.rotary_at(layer), model.cfg.d_head_at(layer)
    if rope is None or model.rotary is None:
        raise BadInput("only layers with rotary positions have frequencies")
    pairs = model.rotary.frequencies(rope, torch.zeros(1, 1, dtype=torch.long))[0].shape[-1]
    first = getattr(attn, "plain", 0)
    owner = torch.full((d_head,), pairs)
    number = torch.arange(pairs)
    owner[first : first + 2 * pairs] = by_dimension(number, number, model.cfg.rotary_adjacent_pairs)
    labels = [*range(pairs), *(["plain"] if bool((owner == pairs).any()) else [])]
    return labels, torch.nn.functional.one_hot(owner, len(labels)).double()


def _baselines(
    read: ReadRun, layer: int, head: int, query: Tensor, weights: Tensor, product: Tensor
) -> dict[str, Float[Tensor, " prompt"]]:
    """The score of the run, and what of it is no product of query and key."""
    attn = attention_of(read.model, layer)
    length = read.run.tokens.shape[1]
    scores = read.cache[f"blocks.{layer}.attn.hook_attn_scores"][:, head]
    rows = query.to(scores.device)[..., None].expand(-1, -1, length)
    weights = weights.to(scores)

    def at_query(table: Tensor) -> Tensor:
        seen = table.gather(1, rows)[:, 0].masked_fill(weights == 0, 0.0)
        return (seen * weights).sum(-1).cpu()

    found = {"score": at_query(scores)}
    if attn.slopes:
        distance = read.visibility.distance[:, 0].expand_as(scores)
        found["alibi"] = at_query(-attn.slopes[head] * distance.to(scores))
    if attn.soft_cap:
        return {"product": product.cpu()} | found
    return {"product": found["score"] - found["alibi"]} | found if attn.slopes else found
