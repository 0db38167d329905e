"""Which heads attend as a head of some kind would: each head's attention A is compared with a pattern P [query, key].

    previous_token_head     P is 1 at the token before the query
    duplicate_token_head    P is 1 at every earlier copy of the query's token
    induction_head          P is 1 right after every earlier copy of the query's token

`head_scores` gives the field's scores: what a query pays to such tokens, sum(A * P) over keys, averaged over queries
that have any. On repeated random tokens these are the second copy, and a perfect head scores 1. Beside it stands what
uniform attention scores. `detect_head` compares whole patterns, queries with nothing to attend to included, so that on
such prompts a perfect induction head scores about a half:

    "mul"    sum(A * P) / sum(A)          the share of a head's attention that falls where P is 1
    "abs"    1 - sum(|A - P|) / pos       1 where the two are equal, -1 where no query attends as P says

Attention to the first position (`exclude_bos`) and of each token to itself (`exclude_current_token`) can be left out of
both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.evals import repeat_length, repeated_tokens
from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Positive, checked
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import study
from interp_hooks.hooks.names import get_act_name
from interp_hooks.interventions.runs import PromptsLike, as_run
from interp_hooks.model.cache.activation_cache import ActivationCache
from interp_hooks.model.transformer import HookedTransformer

HeadName = Literal["previous_token_head", "duplicate_token_head", "induction_head"]
HEAD_NAMES: list[HeadName] = list(get_args(HeadName))
ErrorMeasure = Literal["abs", "mul"]
Heads = Sequence[tuple[int, int]] | Mapping[int, Sequence[int]]
"""(layer, head) pairs, or the heads of each layer."""


@study
def head_scores(
    model: HookedTransformer,
    head: HeadName,
    seq: str | Sequence[str] | Int[Tensor, "*batch pos"] | None = None,
    *,
    n: Positive = 16,
    subseq_len: int | None = None,
    generator: torch.Generator | None = None,
) -> Result:
    """How much every head attends as a "previous_token_head", a "duplicate_token_head" or an "induction_head" does.

    A score is the attention that a query pays to the tokens that such a head attends to, averaged over the queries that
    have any. The baseline "uniform" is the score on the same prompts of a head that attends to all tokens up to its own
    alike, and the result's `change` what a head has above that. By default prompts are `n` rows of `subseq_len`
    different random tokens, drawn with `generator`, that come twice (after a BOS, if the model's prompts have one); of
    50 tokens, if two copies fit into the context.

    Raises:
        BadInput: an unknown kind, prompts none of whose queries has such a token, or copies that do not fit.

    >>> scores = head_scores(model, "induction_head", generator=torch.Generator().manual_seed(0))
    >>> scores.top(3)["layer"].tolist()
    [1, 1, 1]
    """
    if seq is None:
        size = repeat_length(model) if subseq_len is None else subseq_len
        seq = repeated_tokens(model, n, size, generator=generator)
    layers, prompts = range(model.cfg.n_layers), _prompts(model, seq)
    scores, uniform = [], []
    for row, tokens in enumerate(prompts):
        wanted = PATTERNS[head](tokens).double()
        asks = wanted.sum(-1) > 0
        if not bool(asks.any()):
            raise BadInput(
                f"prompt {row} has no token to attend to as a {head} would; seq needs tokens that come again"
            )
        attention = torch.stack([one.to(wanted) for one in _attention(model, tokens, None, layers).values()])
        scores.append((attention * wanted).sum(-1)[..., asks].mean(-1))
        seen = torch.ones_like(wanted).tril() if model.cfg.attention_dir == "causal" else torch.ones_like(wanted)
        uniform.append((wanted.sum(-1) / seen.sum(-1))[asks].mean())
    dtype = torch.promote_types(model.dtype, torch.float32)
    return Result(
        metric=f"{head.removesuffix('_head')}_score",
        axes={"layer": layers, "head": range(model.cfg.n_heads)},
        values=torch.stack(scores, dim=-1).to("cpu", dtype),
        baselines={"uniform": torch.stack(uniform).to("cpu", dtype)},
    )


@study
def detect_head(
    model: HookedTransformer,
    seq: PromptsLike,
    detection_pattern: HeadName | Float[Tensor, "pos pos"],
    heads: Heads | None = None,
    cache: ActivationCache | None = None,
    *,
    exclude_bos: bool = False,
    exclude_current_token: bool = False,
    error_measure: ErrorMeasure = "mul",
) -> Float[Tensor, "layer head"]:
    """Score every head by how much it attends as a named pattern, or a pattern that you give, says.

    All queries count, so that on repeated tokens a perfect induction head scores about a half; `head_scores` has the
    score by which such heads are known. Scores are means over prompts; with `heads` all other heads score -1. With
    `cache`, which holds the attention of a single prompt, the model is not run. With "mul" a head scores nan if all
    that it attends to is excluded.

    >>> scores = detect_head(model, clean, "previous_token_head")
    >>> layer, head = divmod(int(scores.argmax()), model.cfg.n_heads)

    Raises:
        BadInput: an unknown pattern, measure or head, a pattern that does not fit, or a cache beside several prompts.
    """
    if isinstance(detection_pattern, str) and detection_pattern not in HEAD_NAMES:
        raise BadInput(
            f"there is no pattern {detection_pattern!r}; give one of {', '.join(HEAD_NAMES)}, or a tensor [pos, pos]."
            f"{nearest(detection_pattern, HEAD_NAMES)}"
        )
    chosen, prompts = _chosen(model, heads), _prompts(model, seq)
    if cache is not None and len(prompts) > 1:
        raise BadInput(
            "a cache holds the patterns of one prompt and cannot be reused across multiple prompts, "
            f"got {len(prompts)}; leave out cache="
        )
    scores = torch.zeros(model.cfg.n_layers, model.cfg.n_heads, dtype=torch.promote_types(model.dtype, torch.float32))
    for tokens in prompts:
        expected = _expected(model, tokens, detection_pattern)
        for layer, attention in _attention(model, tokens, cache, list(chosen)).items():
            wanted = expected.to(attention.device)
            found = _similarity(attention, wanted, exclude_bos, exclude_current_token, error_measure)
            scores[layer] += found.to(scores) / len(prompts)
    for layer in range(model.cfg.n_layers):
        left_out = [head for head in range(model.cfg.n_heads) if head not in chosen.get(layer, ())]
        scores[layer, left_out] = -1.0
    return scores


def _prompts(model: HookedTransformer, seq: PromptsLike) -> list[Int[Tensor, "1 pos"]]:
    """The real tokens of each prompt by itself."""
    run = as_run(model, seq)
    return [row[real][None] for row, real in zip(run.tokens, run.real, strict=True)]


def _chosen(model: HookedTransformer, heads: Heads | None) -> dict[int, list[int]]:
    if heads is None:
        return {layer: list(range(model.cfg.n_heads)) for layer in range(model.cfg.n_layers)}
    if isinstance(heads, Mapping):
        heads = [(layer, head) for layer, listed in heads.items() for head in listed]
    chosen: dict[int, list[int]] = {}
    for layer, head in heads:
        if not (0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads):
            raise BadInput(
                f"there is no head {head} in layer {layer}: this model has layers 0..{model.cfg.n_layers - 1} of heads "
                f"0..{model.cfg.n_heads - 1}"
            )
        chosen.setdefault(layer, []).append(head)
    if not chosen:
        raise BadInput("heads is empty; leave it out to score every head")
    return chosen


def _expected(
    model: HookedTransformer, tokens: Int[Tensor, "1 pos"], pattern: str | Tensor
) -> Float[Tensor, "pos pos"]:
    expected = PATTERNS[pattern](tokens) if isinstance(pattern, str) else pattern.to(tokens.device)
    length = tokens.shape[1]
    causal = model.cfg.attention_dir == "causal"
    kind = "The detection pattern must be a lower triangular" if causal else "The detection pattern must be a"
    if list(expected.shape) != [length, length]:
        raise BadInput(f"{kind} matrix [query, key] = {[length, length]} as the prompt, got {list(expected.shape)}")
    if causal and bool(expected.triu(1).any()):
        raise BadInput(f"{kind} matrix: it asks for attention to later tokens, which a causal model cannot pay")
    return expected


def _attention(
    model: HookedTransformer, tokens: Int[Tensor, "1 pos"], cache: ActivationCache | None, layers: Sequence[int]
) -> dict[int, Float[Tensor, "head query key"]]:
    """The attention patterns of a prompt in some layers, from the cache or, without one, a pass of its own."""
    if cache is None:
        names = [get_act_name("pattern", layer) for layer in layers]
        real = torch.ones_like(tokens)  # there is no padding left
        _, cache = model.run_with_cache(tokens, attention_mask=real, names_filter=names, stop_at_layer=max(layers) + 1)
    assert cache is not None
    found: dict[int, Tensor] = {}
    for layer in layers:
        pattern = cache["pattern", layer]
        expected = [model.cfg.n_heads, tokens.shape[1], tokens.shape[1]]
        if list(pattern.shape) not in (expected, [1, *expected]):
            raise BadInput(f"the cache must hold patterns {expected} of this prompt, got {list(pattern.shape)}")
        found[layer] = pattern.reshape(expected)
    return found


def _similarity(
    attention: Float[Tensor, "*head query key"],
    expected: Float[Tensor, "query key"],
    exclude_bos: bool,
    exclude_current_token: bool,
    error_measure: ErrorMeasure,
) -> Float[Tensor, "*head"]:
    precise = torch.promote_types(attention.dtype, torch.float32)
    counted = torch.ones_like(expected, dtype=precise)
    if exclude_bos:
        counted[:, 0] = 0.0
    if exclude_current_token:
        counted.fill_diagonal_(0.0)
    attention, expected = attention * counted, expected * counted
    if error_measure == "mul":
        return (attention * expected).sum((-2, -1)) / attention.sum((-2, -1))
    return 1.0 - (attention - expected).abs().sum((-2, -1)) / len(expected)


@checked
def compute_head_attention_similarity_score(
    attention_pattern: Float[Tensor, "query key"],
    detection_pattern: Float[Tensor, "query key"],
    *,
    exclude_bos: bool = False,
    exclude_current_token: bool = False,
    error_measure: ErrorMeasure = "mul",
) -> float:
    """Score one attention pattern against another; neither is changed.

    Raises:
        BadInput: patterns that are not square, or an unknown measure.
    """
    if attention_pattern.shape[0] != attention_pattern.shape[1]:
        raise BadInput(f"an attention pattern is square, got {list(attention_pattern.shape)}")
    return _similarity(attention_pattern, detection_pattern, exclude_bos, exclude_current_token, error_measure).item()


def get_supported_heads() -> None:
    """Print the names of the patterns that `detect_head` accepts."""
    print(f"Supported heads: {', '.join(HEAD_NAMES)}")


def _row(tokens: Int[Tensor, "*batch pos"]) -> Int[Tensor, " pos"]:
    if tokens.ndim > 2 or (tokens.ndim == 2 and len(tokens) != 1):
        raise BadInput(f"a detection pattern is of one prompt, tokens [pos] or [1, pos], got {list(tokens.shape)}")
    return tokens.reshape(-1)


def get_previous_token_head_detection_pattern(tokens: Int[Tensor, "*batch pos"]) -> Float[Tensor, "pos pos"]:
    """1 where the key stands right before the query."""
    return torch.ones(len(_row(tokens)) - 1, device=tokens.device).diag(-1)


def get_duplicate_token_head_detection_pattern(tokens: Int[Tensor, "*batch pos"]) -> Float[Tensor, "pos pos"]:
    """1 where the key is an earlier copy of the query's token."""
    row = _row(tokens)
    return (row[:, None] == row).tril(-1).float()


def get_induction_head_detection_pattern(tokens: Int[Tensor, "*batch pos"]) -> Float[Tensor, "pos pos"]:
    """1 where the token before the key is an earlier copy of the query's token."""
    row = _row(tokens)
    after = torch.zeros(len(row), len(row), dtype=torch.bool, device=row.device)
    after[:, 1:] = (row[:, None] == row)[:, :-1]
    return after.tril().float()


PATTERNS: dict[str, Callable[[Tensor], Tensor]] = {
    "previous_token_head": get_previous_token_head_detection_pattern,
    "duplicate_token_head": get_duplicate_token_head_detection_pattern,
    "induction_head": get_induction_head_detection_pattern,
}
