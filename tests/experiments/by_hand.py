"""Runs as one would write them out with plain hooks: the slow, obvious way that the interpreter has to agree with.

Every run is a full forward pass of its own, every source is computed anew, and a selection is a mask over the whole
activation. `agree` alone, which compares, calls the code under test.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp_hooks import HookedTransformer, HookPoint, Intervention, Mean, Readout, Resample, Run, Site, at
from interp_hooks.interventions.engine import evaluation
from interp_hooks.interventions.readout import Metric
from tests.tiny import CUSTOM, assert_close, build, random_tokens, unchecked_types

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
ALSO: dict[str, dict[str, Any]] = CUSTOM | {"shortformer": dict(positional_embedding_type="shortformer")}
SITES = (
    *("resid_pre", "resid_mid", "attn_out", "mlp_out", "q", "k", "v", "rot_q", "z", "pattern", "attn_scores", "result"),
    *("pre", "post", "q_input", "hook_embed", "hook_pos_embed", "ln_final.hook_normalized", "unembed.hook_out"),
)
LACKS: dict[str, set[str]] = {
    "gpt2": {"rot_q"},
    "llama": {"hook_pos_embed"},
    "neox": {"hook_pos_embed", "resid_mid"},
    "attn-only": {"rot_q", "resid_mid", "mlp_out", "pre", "post"},
    "no-norm": {"rot_q", "hook_pos_embed", "ln_final.hook_normalized"},
    "bidirectional": {"rot_q"},
    "alibi-windows": {"rot_q", "hook_pos_embed"},
    "sinks-capped": {"rot_q"},
    "score-cap-clipped": {"rot_q"},
    "output-norms": {"hook_pos_embed"},  # and layer 1 has no rotation
    "shared-norm": {"hook_pos_embed", "resid_mid"},
    "post-norm": {"rot_q", "ln_final.hook_normalized"},
    "experts": {"rot_q"},  # and layers 1 and 2 have experts in place of neurons
    "latent": {"hook_pos_embed", "q_input"},
    "shortformer": {"rot_q"},
}

TOKENS, OTHER, THIRD = (random_tokens(batch=2, pos=5, d_vocab=23, seed=seed) for seed in range(3))


@functools.cache
def model_of(kind: str) -> HookedTransformer:
    """A model of that kind in float64 with random parameters; built once, so nobody may change it."""
    return build(**(ALSO | KINDS)[kind])


def site(name: str, layer: int, **select: Any) -> Site:
    """A site that has a layer only if its name needs one."""
    return at(name, **select) if name.startswith("hook_") or "." in name else at(name, layer, **select)


PLACES = ("pos", "query", "key")


def put(
    value: Tensor, axes: Sequence[str], select: Mapping[str, Any], new: Tensor | float, run: Run | None = None
) -> Tensor:
    """`value` with `new` at those places whose index along every selected axis is selected.

    Negative positions count back from the last real token of each of the run's prompts (without one: the last token).
    """
    chosen = torch.ones(value.shape, dtype=torch.bool)
    for axis, wanted in select.items():
        dim = axes.index(axis)
        for row in range(len(value)):
            own = wanted[row].reshape(-1).tolist() if isinstance(wanted, Tensor) else wanted
            listed = [own] if isinstance(own, int) else list(own)
            size = value.shape[dim] if run is None or axis not in PLACES else last_real(run, row) + 1
            places = [one if one >= 0 else size + one for one in listed]
            others = [place for place in range(value.shape[dim]) if place not in places]
            if dim:
                chosen[row].index_fill_(dim - 1, torch.tensor(others, dtype=torch.long), False)
            elif row in others:
                chosen[row] = False
    return torch.where(chosen, new, value)


def last_real(run: Run, row: int) -> int:
    """Where the last real token of a prompt is."""
    return run.tokens.shape[1] - 1 if run.attention_mask is None else int(run.attention_mask[row].nonzero().max())


class ByHand(NamedTuple):
    """What one full forward pass gave: whether each intervention changed a value, and what was watched."""

    logits: Tensor
    changed: list[bool]
    seen: dict[str, Tensor]


def logits_of(model: HookedTransformer, run: Run, known: dict[Any, Any] | None = None) -> Tensor:
    """The logits of a run, as one full forward pass. `known` keeps what sources were found to be, to save time."""
    return by_hand(model, run, {} if known is None else known).logits


def value_at(model: HookedTransformer, run: Run, hook: str) -> Tensor:
    """The activation that a run has at a hook, after the run's own interventions there."""
    return by_hand(model, run, {}, hook).seen[hook]


def by_hand(model: HookedTransformer, run: Run, known: dict[Any, Any], *watched: str) -> ByHand:
    seen: dict[str, Tensor] = {}
    changed = [False] * len(run.interventions)
    hooks: list[tuple[str, Callable[..., Any]]] = []
    for number, one in enumerate(run.interventions):
        new = source_of(model, one.source, one.site.hook, known)
        acts = [(one.site.hook, _writer(new, run, one))] if one.into is None else _edge(model, run, one, new, known)
        hooks += [(hook, _compared(act, changed, number)) for hook, act in acts]
    hooks += [(hook, lambda value, hook: seen.update({hook.name: value})) for hook in watched]
    with torch.no_grad():
        logits = model.run_with_hooks(run.tokens, fwd_hooks=hooks, attention_mask=run.attention_mask)
    return ByHand(logits, changed, seen)


def _compared(act: Callable[..., Tensor | None], changed: list[bool], number: int) -> Callable[..., Tensor | None]:
    def fn(value: Tensor, hook: HookPoint) -> Tensor | None:
        new = act(value, hook)
        if new is not None:
            changed[number] = not torch.equal(new, value)
        return new

    return fn


def _writer(new: Any, run: Run, one: Intervention) -> Callable[..., Tensor]:
    def act(value: Tensor, hook: HookPoint) -> Tensor:
        there = torch.as_tensor(new, dtype=value.dtype)
        if one.mask is not None:
            there = value + torch.as_tensor(one.mask, dtype=value.dtype) * (there - value)
        return put(value, hook.axes, one.site.select, there, run)

    return act


def _edge(
    model: HookedTransformer, run: Run, one: Intervention, new: Any, known: dict[Any, Any]
) -> list[tuple[str, Any]]:
    """Note what the sender writes here and in the source; add the difference to what the reader reads."""
    assert one.into is not None
    hook, into, noted = one.site.hook, one.into, dict[str, Tensor]()
    scale = hook.replace("attn.hook_z", "ln1_post.hook_scale")
    normalized = scale != hook and scale in model.hook_dict
    constant = not isinstance(one.source, Run | Resample | Mapping)  # which is normalized as this run is
    of_source = source_of(model, one.source, scale, known) if normalized and not constant else None

    def note(value: Tensor, hook: HookPoint) -> None:
        there = torch.as_tensor(new, dtype=value.dtype)
        noted["old"], noted["new"] = value, put(value, hook.axes, one.site.select, there, run)

    def note_scale(value: Tensor, hook: HookPoint) -> None:
        noted["old scale"], noted["new scale"] = value, value if of_source is None else of_source

    def add(value: Tensor, hook: HookPoint) -> Tensor:
        change = written(model, one.site.hook, noted["new"], noted.get("new scale"))
        change = change - written(model, one.site.hook, noted["old"], noted.get("old scale"))
        if "new scale" in noted:  # only what is selected, although the other heads' shares have another scale now
            axes = ("batch", "pos", "head", "d_model")
            change = put(torch.zeros_like(change), axes, one.site.select, change, run)
        if "pos" in into.select:
            change = put(torch.zeros_like(change), ("batch", "pos"), {"pos": into.select["pos"]}, change, run)
        senders, readers = _several(one.site, change.shape[2]), _several(into, value.shape[2])
        weight = torch.as_tensor(1.0 if one.mask is None else one.mask).expand(len(senders), len(readers))
        value = value.clone()
        for s, sender in enumerate(senders):
            for r, reader in enumerate(readers):
                if "head" in hook.axes:
                    value[:, :, reader] += weight[s, r] * change[:, :, sender]
                elif r == 0:
                    value += weight[s, 0] * change[:, :, sender]
        return value

    return [(hook, note), *([(scale, note_scale)] if normalized else []), (into.hook, add)]


def _several(site: Site, size: int) -> list[int]:
    wanted = site.select.get("head", tuple(range(size)))
    return [wanted] if isinstance(wanted, int) else list(wanted)


@torch.no_grad()
def written(model: HookedTransformer, hook: str, value: Tensor, scale: Tensor | None) -> Tensor:
    """What a sender adds to the stream, for each of its heads [batch, pos, head, d_model], but for a norm's bias."""
    if not hook.endswith("hook_z"):
        return value[:, :, None]
    block = model.blocks[int(hook.split(".")[1])]
    shares = torch.stack([value[:, :, head] @ block.attn.W_O[head] for head in range(value.shape[2])], dim=2)
    if scale is not None:
        shares = shares + block.attn.b_O / value.shape[2]
        if block.ln1_post.kind == "LN":
            shares = shares - shares.mean(-1, keepdim=True)
        shares = shares / scale[:, :, None] * (block.ln1_post.w + model.cfg.norm_gain_offset)
    return shares * block.residual_scale


def source_of(model: HookedTransformer, source: Any, hook: str, known: dict[Any, Any]) -> Any:
    """What a source puts at a hook."""
    if isinstance(source, Mapping):
        return source[hook]
    if not isinstance(source, Run | Mean | Resample):
        return source
    if (source, hook) not in known:
        run = source if isinstance(source, Run) else source.run
        value = by_hand(model, run, known, hook).seen[hook]
        if isinstance(source, Resample):
            value = torch.stack([value[int(row)] for row in source.order])
        if isinstance(source, Mean):
            value = _mean(model, value, source, model.hook_dict[hook])
        known[source, hook] = value
    return known[source, hook]


def _mean(model: HookedTransformer, value: Tensor, source: Mean, point: HookPoint) -> Tensor:
    run, mask = source.run, source.run.attention_mask
    if point.axes[1] != "pos":
        return value.mean(0)
    counted = torch.ones(value.shape[:2], dtype=torch.bool)
    if mask is not None and "padding" in source.exclude:
        counted = mask.bool()
    if source.per_position:
        return torch.stack([value[counted[:, pos], pos].mean(0) for pos in range(value.shape[1])])
    if model.tokenizer is not None and "bos" in source.exclude:
        for row, tokens in enumerate(run.tokens):
            begins = 0 if mask is None else int(mask[row].argmax())
            if tokens[begins] == model.tokenizer.bos_token_id:
                counted = counted.clone()
                counted[row, begins] = False
    return value[counted].mean(0)


@contextlib.contextmanager
def rows_counted(model: HookedTransformer, *hooks: str) -> Iterator[dict[str, list[int]]]:
    """For each of these hooks, the batch size of every pass that comes by."""
    counts: dict[str, list[int]] = {hook: [] for hook in hooks}

    def count(value: Tensor, hook: HookPoint) -> None:
        counts[hook.name].append(len(value))

    with model.hooks(fwd_hooks=[(hook, count) for hook in hooks]):
        yield counts


@contextlib.contextmanager
def shapes_counted(model: HookedTransformer, *modules: str) -> Iterator[dict[str, list[tuple[int, int]]]]:
    """For each of these modules, (rows, positions) of what it gives whenever it is called; no hook point is hooked."""
    shapes: dict[str, list[tuple[int, int]]] = {module: [] for module in modules}

    def counting(module: str) -> Callable[..., None]:
        return lambda called, read, given: shapes[module].append((given.shape[0], given.shape[1]))

    handles = [model.get_submodule(module).register_forward_hook(counting(module)) for module in modules]
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()


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


# ---------------------------------------------------------------------------------------------- what a metric reads


@dataclasses.dataclass(frozen=True, eq=False)
class Reads(Metric):
    """A metric that returns all it may read."""

    what: Readout

    @property
    def readout(self) -> Readout:
        return self.what

    def score(self, logits: Tensor) -> Tensor:
        return logits


def all_logits(logits: Tensor) -> Tensor:
    """The metric that leaves nothing out."""
    return logits


def part_of(logits: Tensor, readout: Readout, run: Run) -> Tensor:
    """What a readout reads of a run's full logits."""
    batch, length = run.tokens.shape
    real = torch.ones(batch, length) if run.attention_mask is None else run.attention_mask
    if readout.next_tokens:
        return _next_log_probs(logits, run.tokens, real)
    rows = []
    for row, one in enumerate(logits):
        if readout.pos is not None:
            pos = int(torch.as_tensor(readout.pos).expand(batch)[row])
            one = one[pos if pos >= 0 else last_real(run, row) + 1 + pos]
        rows.append(one if readout.tokens is None else one[..., readout.tokens[row]])
    return torch.stack(rows)


def _next_log_probs(logits: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
    pairs = torch.zeros(len(tokens), tokens.shape[1] - 1, 2, dtype=logits.dtype)
    for row, pos in itertools.product(range(len(tokens)), range(tokens.shape[1] - 1)):
        if real[row, pos] and real[row, pos + 1]:
            pairs[row, pos, 0] = logits[row, pos].log_softmax(-1)[tokens[row, pos + 1]]
            pairs[row, pos, 1] = 1.0
    return pairs


def agree(
    model: HookedTransformer,
    runs: Sequence[Run],
    readouts: Sequence[Readout],
    expected: Sequence[ByHand] | None = None,
    within: float = RTOL,
    **options: Any,
) -> None:
    """Evaluated in one call, every run gives that part of its own pass's logits, and has changed what that changed.

    Types are not checked on the way: these are thousands of passes.
    """
    known: dict[Any, Any] = {}
    with unchecked_types():
        expected = [by_hand(model, run, known) for run in runs] if expected is None else expected
        for readout in readouts:
            scores, changed = evaluation(model, runs, Reads(readout), **options)
            for run, score, did, alone in zip(runs, scores, changed, expected, strict=True):
                assert_same(score, part_of(alone.logits, readout, run), (run, readout), within)
                assert did == alone.changed, (run, readout)


def assert_same(ours: Tensor, theirs: Tensor, where: object = "", within: float = RTOL) -> None:
    """Equal to rounding."""
    try:
        assert_close(ours, theirs, within)
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from None


def word_tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """A tokenizer for which every word and every punctuation mark is a token, the unknown ones the same one."""
    vocab = {word: id for id, word in enumerate(("<s>", "<pad>", "<unk>", *words))}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", unk_token="<unk>")
