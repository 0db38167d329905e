"""Runs as one would write them out with plain hooks: the slow, obvious way that the interpreter has to agree with.

Every run is a full forward pass of its own, every source is computed anew, and a selection is a mask over the whole
activation. Nothing here calls the code under test beyond the plain values that describe a run.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp_hooks import HookedTransformer, HookPoint, Mean, Resample, Run, Site, at
from tests.tiny import assert_close, build, random_tokens

RTOL = 1e-10  # of the largest value: float64, and stacked runs or another kernel may sum in another order

KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": dict(
        normalization_type="RMS",
        positional_embedding_type="rotary",
        n_key_value_heads=2,
        gated_mlp=True,
        act_fn="silu",
    ),
    "neox": dict(positional_embedding_type="rotary", rotary_dim=2, parallel_attn_mlp=True),
    "attn-only": dict(attn_only=True),
}
SITES = (
    *("resid_pre", "resid_mid", "attn_out", "mlp_out", "q", "k", "v", "rot_q", "z", "pattern", "attn_scores", "result"),
    *("pre", "post", "q_input", "hook_embed", "hook_pos_embed", "ln_final.hook_normalized", "unembed.hook_out"),
)
LACKS: dict[str, set[str]] = {
    "gpt2": {"rot_q"},
    "llama": {"hook_pos_embed"},
    "neox": {"hook_pos_embed", "resid_mid"},
    "attn-only": {"rot_q", "resid_mid", "mlp_out", "pre", "post"},
}

TOKENS, OTHER, THIRD = (random_tokens(batch=2, pos=5, d_vocab=23, seed=seed) for seed in range(3))


@functools.cache
def model_of(kind: str) -> HookedTransformer:
    """A model of that kind in float64 with random parameters; built once, so nobody may change it."""
    return build(**KINDS[kind])


def site(name: str, layer: int, **select: Any) -> Site:
    """A site that has a layer only if its name needs one."""
    return at(name, **select) if name.startswith("hook_") or "." in name else at(name, layer, **select)


def put(value: Tensor, axes: Sequence[str], select: Mapping[str, Any], new: Tensor | float) -> Tensor:
    """`value` with `new` at those places whose index along every selected axis is selected."""
    chosen = torch.ones(value.shape, dtype=torch.bool)
    for axis, wanted in select.items():
        dim = axes.index(axis)
        size = value.shape[dim]
        along = torch.arange(size).view(*(size if d == dim else 1 for d in range(value.ndim)))
        if isinstance(wanted, Tensor):
            chosen &= along == (wanted % size).view(-1, *[1] * (value.ndim - 1))
        else:
            listed = [wanted] if isinstance(wanted, int) else wanted
            chosen &= sum(along == one % size for one in listed).bool()
    return torch.where(chosen, new, value)


def logits_of(model: HookedTransformer, run: Run, known: dict[Any, Any] | None = None) -> Tensor:
    """The logits of a run, as one full forward pass. `known` keeps what sources were found to be, to save time."""
    return _pass(model, run, None, {} if known is None else known)[0]


def value_at(model: HookedTransformer, run: Run, hook: str) -> Tensor:
    """The activation that a run has at a hook, after the run's own interventions there."""
    return _pass(model, run, hook, {})[1]


def _pass(model: HookedTransformer, run: Run, watched: str | None, known: dict[Any, Any]) -> tuple[Tensor, Any]:
    seen: dict[str, Tensor] = {}
    hooks: list[tuple[str, Callable[..., Any]]] = []
    for one in run.interventions:
        new = source_of(model, one.source, one.site.hook, known)
        hooks.append((one.site.hook, _writer(new, one.site.select)))
    if watched is not None:
        hooks.append((watched, lambda value, hook: seen.update(value=value)))
    with torch.no_grad():
        logits = model.run_with_hooks(run.tokens, fwd_hooks=hooks, attention_mask=run.attention_mask)
    return logits, seen.get("value")


def _writer(new: Any, select: Mapping[str, Any]) -> Callable[..., Tensor]:
    return lambda value, hook: put(value, hook.axes, select, new)


def source_of(model: HookedTransformer, source: Any, hook: str, known: dict[Any, Any]) -> Any:
    """What a source puts at a hook."""
    if isinstance(source, Mapping):
        return source[hook]
    if not isinstance(source, Run | Mean | Resample):
        return source
    if (source, hook) not in known:
        run = source if isinstance(source, Run) else source.run
        value = _pass(model, run, hook, known)[1]
        if isinstance(source, Resample):
            value = torch.stack([value[int(row)] for row in source.order])
        if isinstance(source, Mean):
            value = _mean(value, source, model.hook_dict[hook])
        known[source, hook] = value
    return known[source, hook]


def _mean(value: Tensor, source: Mean, point: HookPoint) -> Tensor:
    mask = source.run.attention_mask
    if point.axes[1] != "pos":
        return sum(value.unbind(0)) / len(value)
    real = torch.ones(value.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
    if source.per_position:
        return torch.stack([value[real[:, pos], pos].mean(0) for pos in range(value.shape[1])])
    return value[real].mean(0)


@contextlib.contextmanager
def rows_counted(model: HookedTransformer, *hooks: str) -> Iterator[dict[str, list[int]]]:
    """For each of these hooks, the batch size of every pass that comes by."""
    counts: dict[str, list[int]] = {hook: [] for hook in hooks}

    def count(value: Tensor, hook: HookPoint) -> None:
        counts[hook.name].append(len(value))

    with model.hooks(fwd_hooks=[(hook, count) for hook in hooks]):
        yield counts


@contextlib.contextmanager
def left_alone(model: HookedTransformer) -> Iterator[None]:
    """Check that what happens inside leaves no hook behind, no changed weight, and the gradient mode as it was."""
    hooks = {name: list(point.hooks) for name, point in model.hook_dict.items()}
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        logits, gradients = model(TOKENS), torch.is_grad_enabled()
    yield
    assert {name: list(point.hooks) for name, point in model.hook_dict.items()} == hooks
    assert torch.is_grad_enabled() != gradients, "gradients were on before"
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    with torch.no_grad():
        assert torch.equal(model(TOKENS), logits)


def assert_same(ours: Tensor, theirs: Tensor, where: object = "") -> None:
    """Equal to rounding."""
    try:
        assert_close(ours, theirs, RTOL)
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from None


def word_tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """A tokenizer for which every word and every punctuation mark is a token, the unknown ones the same one."""
    vocab = {word: id for id, word in enumerate(("<s>", "<pad>", "<unk>", *words))}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", unk_token="<unk>")
