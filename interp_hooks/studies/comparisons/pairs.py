"""Which models may be compared in which way, and passes of both over the same rows of a corpus.

Rows are packed once, and both models read them; what they show at the tokens that count becomes sums of both together,
which merge exactly, as those of any scan.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.corpus.packing import Rows
from interp_hooks.corpus.reading import Corpus
from interp_hooks.corpus.reducers.base import Merges, State, States, added
from interp_hooks.corpus.scanning import Scan, scan_by
from interp_hooks.corpus.units import Units
from interp_hooks.errors import BadInput, WrongType, nearest
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

AT_ONCE = 1024  # tokens of a pass: the activations of two models, or two rows of logits for each, are held together


def refuse_other_weights(model: HookedTransformer, other: HookedTransformer) -> None:
    """Raises BadInput unless both models have weights of the same names and shapes."""
    ours, theirs = ({name: list(one.shape) for name, one in each.named_parameters()} for each in (model, other))
    if odd := next((name for name in [*ours, *theirs] if ours.get(name) != theirs.get(name)), None):
        raise BadInput(
            f"weights are compared one by one, and {odd} is {ours.get(odd, 'not there')} in one model and "
            f"{theirs.get(odd, 'not there')} in the other: load both alike (the same family, size and processing)"
        )


def refuse_other_vocabulary(model: HookedTransformer, other: HookedTransformer) -> None:
    """Raises BadInput unless a token id means the same to both models, in what they read and in what they say."""
    sizes = [(one.cfg.d_vocab, one.cfg.d_vocab_out) for one in (model, other)]
    if sizes[0] != sizes[1] or not same_tokenizer(model, other):
        raise BadInput(
            f"these models have other vocabularies ({sizes[0][0]} and {sizes[1][0]} tokens), so that a token id does "
            "not mean the same in both; studies.compare_losses and studies.compare_on_tasks compare them by text"
        )


def same_tokenizer(model: HookedTransformer, other: HookedTransformer) -> bool:
    """Whether both read text as the same token ids, or both read token ids alone."""
    one, two = model.tokenizer, other.tokenizer
    if one is None or two is None:
        return one is two
    begins = model.default_prepend_bos == other.default_prepend_bos
    return begins and (one is two or one.get_vocab() == two.get_vocab())


def common_length(model: HookedTransformer, other: HookedTransformer, length: int | None) -> int:
    """How many tokens both models read at once: `length`, or the shorter of their contexts.

    Raises:
        BadInput: more than that.
    """
    most = min(model.cfg.n_ctx, other.cfg.n_ctx)
    if length is not None and not 2 <= length <= most:
        raise BadInput(f"length must be 2..{most}, which both models can read, got {length}")
    return most if length is None else length


class PairSums(Merges):
    """Sums over what a hook shows in both models, which merge."""

    @abstractmethod
    def reduce(
        self, a: Float[Tensor, "token *width"], b: Float[Tensor, "token *width"], positions: Int[Tensor, " token"]
    ) -> State:
        """The state that some tokens give; `positions` are those of the tokens in their documents."""

    def merge(self, one: State, other: State) -> State:
        """Counts, and sums that are exact, of both."""
        return {name: one[name] + other[name] if name == "count" else added(one[name], other[name]) for name in one}


@dataclass
class PairReading:
    """What a scan does with rows: both models read them, and what each hook shows is summed up."""

    models: tuple[HookedTransformer, HookedTransformer]
    hooks: Sequence[str]
    sums: PairSums
    keep: Sequence[Units] = field(default=())

    def __post_init__(self) -> None:
        for hook in self.hooks:
            points = [model.points(hook)[0] for model in self.models]
            if points[0].sizes != points[1].sizes:
                sizes = " and ".join(str(dict(point.sizes)) for point in points)
                raise BadInput(f"{hook} is of other sizes in these models, {sizes}, so that it cannot be compared")

    @property
    def reducers(self) -> Mapping[str, Merges]:
        return {"pair": self.sums}

    @no_gradients
    def read(self, rows: Rows) -> tuple[States, dict[str, Tensor]]:
        if not bool(rows.counted.any()):
            return {}, {}
        a, b = (shown(model, rows, self.hooks) for model in self.models)
        positions = rows.positions[rows.counted]
        found: dict[int | None, State] = {}
        for place, hook in enumerate(self.hooks):
            one, two = (values[hook].double().cpu() for values in (a, b))
            found[place] = self.sums.reduce(one, two, positions)
        return {"pair": found}, {}


def shown(model: HookedTransformer, rows: Rows, hooks: Sequence[str]) -> dict[str, Float[Tensor, "token *width"]]:
    """What hooks show at the tokens that count, of attention at those that attend: a pass of its own over some rows."""
    found, counted = dict[str, Tensor](), rows.counted.to(model.device)
    last = max(Stream(model).place(hook).layer for hook in hooks)

    def keep(value: Tensor, hook: HookPoint) -> None:
        by_token = value if hook.axes[1] == "pos" else value.movedim(hook.axes.index("query"), 1)
        found[hook.name] = by_token[counted.to(value.device)]

    model.run_with_hooks(
        rows.tokens.to(model.device),
        **rows.told_apart(model.device),
        stop_at_layer=last + 1 if last < model.cfg.n_layers else None,
        return_type="logits" if last >= model.cfg.n_layers else None,
        fwd_hooks=[(hook, keep) for hook in hooks],
    )
    return found


def scan_pair(model: HookedTransformer, other: HookedTransformer, corpus: Corpus, reading: Any, **options: Any) -> Scan:
    """One pass of two models over a corpus, of whose documents both read the first `length` tokens, or pieces of it.

    Raises:
        BadInput: other vocabularies, or what `scan` raises.
        WrongType: an option that such a scan does not have.
    """
    refuse_other_vocabulary(model, other)
    given = dict[str, Any](
        column="text", limit=None, longer="split", exclude=("bos",), per_batch=64, tokens_at_once=AT_ONCE, progress=True
    )
    known = {*given, "length"}
    if unknown := [name for name in options if name not in known]:
        raise WrongType(f"scans of two models have no option {unknown[0]!r}.{nearest(unknown[0], known)}")
    given |= options | {"length": common_length(model, other, options.get("length"))}
    return scan_by(model, corpus, lambda: reading, save_to=None, save_every=1, part=(0, 1), **given)


def relative(change: Tensor, whole: Tensor) -> Tensor:
    """One size as a share of another; nothing of nothing is 0."""
    return torch.where(change == 0, torch.zeros_like(change), change / whole)
