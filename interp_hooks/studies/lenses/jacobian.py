"""The Jacobian lens (Gurnee et al. 2026, transformer-circuits.pub): what the rest of a model does to the stream.

    J_l = mean over texts of 1/|V| sum over t, t' in V of d h_L[t'] / d h_l[t]        V = skip_first ... T-2

h_l is the stream that enters layer l, h_L the final one before its norm. In a causal model only t' >= t count: a map of
what a position says to the positions after it too, averaged over texts, and so not of what this position will say.

A row of J_l is the gradient of one coordinate of h_L, summed over V, so that one backward pass gives that row of every
layer; `dims_at_once` of them are made on copies of the texts, and no position's own Jacobian ever exists. A batch is a
pass of its own, since no metric is read, and one graph serves all rows. States are sums over texts in fixed point, so
that parts of a corpus merge without rounding (`interp_hooks.corpus.scanning`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.corpus.packing import Excluded, Rows
from interp_hooks.corpus.reading import Corpus
from interp_hooks.corpus.reducers.base import Merges, State, States, added, exact, number
from interp_hooks.corpus.scanning import Scan, gather, scan_by
from interp_hooks.corpus.store import read_about
from interp_hooks.corpus.units import Units
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.hooks.modes import with_constant_weights
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.lenses.base import Lens, stream_is_centred

NAME = "jacobian"  # of the states of a fit


@checked
def fit_jacobian_lens(
    model: HookedTransformer,
    corpus: Corpus,
    *,
    layers: Sequence[int] | None = None,
    skip_first: int = 16,
    length: Count = 128,
    limit: int | None = 100,
    column: str = "text",
    exclude: Sequence[Excluded] = (),
    dims_at_once: Count = 8,
    per_batch: Count = 8,
    tokens_at_once: Count = 1024,
    save_to: str | Path | None = None,
    save_every: Count = 1,
    part: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> Lens:
    """Fit a Jacobian lens to the first `length` tokens of `limit` texts of a corpus.

    Positions before `skip_first` are left out, since attention rests on the first tokens, and so are the last one of
    each text and what `exclude` names; texts that have no other are passed over. 100 texts give a usable lens, and
    published ones have up to 1000.

    Time: d_model / `dims_at_once` backward passes over so many copies of the texts. Memory: a pass with its graph over
    `tokens_at_once` times `dims_at_once` tokens, and 16 d_model^2 bytes for each layer.

    `corpus` and `column` are those of `scan`, as are `per_batch` and `tokens_at_once`. With `save_to` the sums are kept
    in that folder, and a fit that was killed goes on there; `part=(2, 4)` is the third of four workers, whose parts
    `gather_jacobian_lens` puts together. How many there are changes no bit of the lens.

    Raises:
        BadInput: no text is long enough, a layer that there is not, or a folder of another fit.
        FolderInUse: another process fits in that folder.

    >>> from interp_hooks.studies import fit_jacobian_lens
    >>> lens = fit_jacobian_lens(model, clean, layers=[2], skip_first=1, progress=False)
    >>> lens.maps[2].shape, lens.n_prompts
    (torch.Size([128, 128]), 4)
    """
    n_layers = model.cfg.n_layers
    chosen = tuple(range(n_layers) if layers is None else sorted(set(layers)))
    if not chosen or not all(0 <= layer < n_layers for layer in chosen):
        raise BadInput(f"layers must be some of 0..{n_layers - 1}, got {layers}")
    if skip_first < 0 or length < skip_first + 2:
        raise BadInput(f"skip_first must leave room for two tokens of the {length} that are read, got {skip_first}")
    sums = JacobianSums(layers=chosen, skip_first=skip_first, of_centred=stream_is_centred(model))
    found = scan_by(
        model,
        corpus,
        lambda: _Backwards(model, sums, dims_at_once),
        save_to=save_to,
        column=column,
        limit=limit,
        length=min(length, model.cfg.n_ctx),
        longer="cut",
        exclude=exclude,
        per_batch=per_batch,
        tokens_at_once=tokens_at_once,
        save_every=save_every,
        part=part,
        progress=progress,
    )
    return sums.lens(found, {"model": model.cfg.model_name}, _precise(model))


@checked
def gather_jacobian_lens(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Lens:
    """The Jacobian lens that the workers of a fit found together in a folder, or that was fitted there earlier.

    Raises:
        BadInput: a worker's part is missing or not finished, or the folder holds something else.

    >>> from interp_hooks.studies import fit_jacobian_lens, gather_jacobian_lens
    >>> for worker in range(2):
    ...     _ = fit_jacobian_lens(model, clean, layers=[2], skip_first=1, per_batch=1, part=(worker, 2),
    ...                           save_to="fit", progress=False)
    >>> gather_jacobian_lens("fit").n_prompts
    4
    """
    about = read_about(Path(folder))
    told = dict(about.get("reducers") or {}).get(NAME)
    if told is None:
        raise BadInput(f"{folder} holds a scan, and no fit of a Jacobian lens")
    sums = JacobianSums(layers=tuple(told["layers"]), skip_first=told["skip_first"], of_centred=told["of_centred"])
    return sums.lens(gather(folder, {NAME: sums}), {"model": about["model"]["name"]}, dtype)


@dataclass(frozen=True, kw_only=True)
class JacobianSums(Merges):
    """The sums of texts' Jacobians of each layer, and of how many texts they are."""

    layers: tuple[int, ...]
    skip_first: int
    of_centred: bool

    def merge(self, one: State, other: State) -> State:
        return {"texts": one["texts"] + other["texts"], "sum": added(one["sum"], other["sum"])}

    def result(self, state: State) -> Float[Tensor, "d_model d_model"]:
        """The mean over texts."""
        return number(state["sum"]) / state["texts"]

    def lens(self, scan: Scan, facts: Mapping[str, Any], dtype: torch.dtype) -> Lens:
        """The lens of what was found.

        Raises:
            BadInput: no text was long enough.
        """
        states = scan.states.get(NAME, {})
        if not states:
            raise BadInput(
                f"none of {scan.n_documents} texts has a token after the first {self.skip_first} and before its last; "
                "give longer ones, or a smaller skip_first"
            )
        return Lens(
            maps={layer: scan[NAME][layer].to(dtype) for layer in self.layers},
            kind="jacobian",
            n_prompts=int(states[self.layers[0]]["texts"]),
            of_centred=self.of_centred,
            facts={**facts, "skip_first": self.skip_first},
        )


@dataclass
class _Backwards:
    """What reads the rows of a fit: one pass forward with a graph, and a pass back for every coordinate."""

    model: HookedTransformer
    sums: JacobianSums
    dims_at_once: int

    def __post_init__(self) -> None:
        stream = Stream(self.model)
        self.hooks = {layer: stream.entering(layer) for layer in self.sums.layers}

    @property
    def reducers(self) -> Mapping[str, Merges]:
        return {NAME: self.sums}

    @property
    def keep(self) -> Sequence[Units]:
        return ()

    def read(self, rows: Rows) -> tuple[States, dict[str, Tensor]]:
        read = self._positions(rows)
        if not bool(read.any()):
            return {}, {}
        pieces = rows.pieces.where(read, -1)
        _, which, sizes = pieces.unique(return_inverse=True, return_counts=True)
        weights = torch.where(read, 1 / sizes[which].double(), 0.0)  # of a text's positions, one over their number
        found = self._sums(rows, read, weights)
        texts = len(pieces[read].unique())
        return {NAME: {layer: {"texts": torch.tensor(texts), "sum": exact(one)} for layer, one in found.items()}}, {}

    def _positions(self, rows: Rows) -> Bool[Tensor, "row pos"]:
        """Which tokens are read: not the first ones of a text, nor its last one."""
        following = torch.nn.functional.pad(rows.pieces[:, 1:], (0, 1), value=-1)
        return rows.counted & (rows.positions >= self.sums.skip_first) & (rows.pieces == following)

    @with_constant_weights
    def _sums(
        self, rows: Rows, read: Bool[Tensor, "row pos"], weights: Float[Tensor, "row pos"]
    ) -> dict[int, Float[Tensor, "d_model d_model"]]:
        """For each layer the Jacobians at the positions that are read, summed with these weights."""
        model, d_model = self.model, self.model.cfg.d_model
        copies = min(self.dims_at_once, d_model)
        streams, final = self._forward(rows, copies)
        read, dtype = read.to(final.device), _precise(model)
        found = [torch.zeros(d_model, d_model, dtype=dtype) for _ in streams]
        for start in range(0, d_model, copies):
            dims = torch.arange(start, min(start + copies, d_model), device=final.device)
            asked = final.unflatten(0, (copies, -1))[: len(dims)]  # copy row pos d_model
            asked = asked.gather(-1, dims[:, None, None, None].expand(*asked.shape[:-1], 1))[..., 0]
            gradients = torch.autograd.grad(asked[:, read].sum(), streams, retain_graph=True)
            for one, gradient in zip(found, gradients, strict=True):
                of_copies = gradient.unflatten(0, (copies, -1))[: len(dims)].to(dtype)
                one[start : start + len(dims)] = torch.einsum("crpd,rp->cd", of_copies, weights.to(of_copies)).cpu()
        return dict(zip(self.hooks, found, strict=True))

    def _forward(self, rows: Rows, copies: int) -> tuple[list[Tensor], Tensor]:
        """The stream that enters each layer, and the final one, of copies of some rows, with the graph between them."""
        model, streams = self.model, dict[str, Tensor]()

        def keep(value: Tensor, hook: HookPoint) -> Tensor:
            streams[hook.name] = value.requires_grad_()
            return value

        final = model.run_with_hooks(
            rows.tokens.repeat(copies, 1).to(model.device),
            **rows.told_apart(model.device, copies),
            stop_at_layer=model.cfg.n_layers,
            fwd_hooks=[(hook, keep) for hook in self.hooks.values()],
        )
        return [streams[hook] for hook in self.hooks.values()], final


def _precise(model: HookedTransformer) -> torch.dtype:
    return torch.promote_types(model.dtype, torch.float32)
