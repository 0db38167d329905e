"""The parts whose sum is the residual stream of a run, and what each part adds to the logits.

The parts can be whole sublayers (`decompose_resid`) or heads and neurons (`get_full_resid_decomposition`). Since a norm
is linear once its scale is fixed, each part has a direct effect on each logit:

    logit[token] = sum over parts c of  (c - mean c) / scale * w @ W_U[:, token]   +   b @ W_U[:, token] + b_U[token]

The norm's gain w is a factor of every part; its bias b and b_U are a row "bias" of their own where asked for. In all
methods `layer` counts layers: parts are those that stand before that layer, and None and -1 mean all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked_methods
from interp_hooks.hooks.slices import Slice, SliceInput
from interp_hooks.model.cache.activations import Activations
from interp_hooks.model.cache.frozen_norm import Reading
from interp_hooks.model.cache.parts import Parts, norm_reading
from interp_hooks.model.stream import ADDED, BEFORE_MLP, Stream


@checked_methods
class Decomposition(Activations):
    """The methods of a cache that take the stream apart; the rows of what they return are collected by `Parts`."""

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "attn", "mlp"] = "all",
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """What embeddings, attention and MLPs before `layer` added to the stream: [part, batch, pos, d_model].

        The parts sum to the stream that enters `layer` (by default: that leaves the last layer). `mlp_input` adds the
        attention of `layer` itself, if its MLP reads it. `mode` "attn" or "mlp" keeps only attention or MLPs. With
        `apply_ln` the parts are as the norm that reads the stream makes them (`apply_ln_to_stack`); if that norm has a
        bias, it is a last part, "bias", so that the parts still add up. Labels are "embed", "pos_embed", "0_attn_out",
        "0_mlp_out", ...
        """
        if mode not in ("all", "attn", "mlp"):
            raise BadInput(f"mode must be 'all', 'attn' or 'mlp', got {mode!r}")
        layer = self.layers_before(layer, mlp_input)
        names = self._embeddings() if incl_embeds else {}
        kept = ADDED if mode == "all" else (f"{mode}_out",)
        for at in range(layer):
            names |= self._added(at, kept)
        if self._attention_before(layer, mlp_input) > layer:
            names |= self._added(layer, [label for label in BEFORE_MLP if label in kept])
        parts = self._parts(layer, mlp_input, pos_slice, apply_ln)
        parts.add_stored(names)
        return parts.stacked(layer, return_labels)

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The whole stream as it enters each layer up to `layer`, for a logit lens: [point, batch, pos, d_model].

        Labels are "0_pre", "0_mid" (with `incl_mid`), ... and "final_post". With `apply_ln` each stream goes through
        the norm that reads `layer`, with statistics of its own, gain and bias included.
        """
        layer, cfg = self.layers_before(layer, mlp_input), self.known_model.cfg
        mids = incl_mid and "blocks.0.hook_resid_mid" in self.known_model.hook_dict
        names: dict[str, str] = {}
        for at in range(layer):
            names[f"{at}_pre"] = f"blocks.{at}.hook_resid_pre"
            if mids:
                names[f"{at}_mid"] = f"blocks.{at}.hook_resid_mid"
        if layer == cfg.n_layers:
            kind = "normalized_resid_post" if cfg.norm_placement == "post" else "resid_post"
            names["final_post"] = f"blocks.{layer - 1}.hook_{kind}"
        else:
            names[f"{layer}_pre"] = f"blocks.{layer}.hook_resid_pre"
            if mlp_input and not cfg.parallel_attn_mlp:
                names[f"{layer}_mid"] = f"blocks.{layer}.hook_resid_mid"
        stack = torch.stack([self.at(name, Slice(pos_slice)) for name in names.values()])
        if apply_ln:
            stack = self.known_model.norm_reading(layer, mlp_input).fused(stack)
        return (stack, list(names)) if return_labels else stack

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: SliceInput = None,
        apply_ln: bool = False,
    ) -> Any:
        """What every head before `layer` adds to the stream: [head, batch, pos, d_model], labels "L0H3".

        It is computed from the cached z, unless `hook_result` is cached. If attention's output passes a norm
        (`ln1_post`), so does what each head adds, with the norm's scale of this run. `incl_remainder` adds the rest of
        the stream (embeddings, MLPs, biases) as a last row, "remainder".
        """
        layer = self.layers_before(layer)
        parts = self._parts(layer, False, pos_slice, apply_ln)
        parts.add_heads(layer)
        if incl_remainder:
            parts.add_remainder(layer)
        return parts.stacked(layer, return_labels)

    def stack_neuron_results(
        self,
        layer: int | None = -1,
        pos_slice: SliceInput = None,
        neuron_slice: SliceInput = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Float[Tensor, "d_model *out"] | None = None,
    ) -> Any:
        """What every neuron before `layer` adds to the stream: [neuron, batch, pos, d_model], labels "L0N3".

        This tensor is n_layers * d_mlp times as large as the stream. With `project_output_onto`, directions [d_model]
        or [d_model, out], it is [neuron, batch, pos] or [neuron, batch, pos, out], and nothing larger is ever made.
        The other arguments are as in `stack_head_results` and `get_neuron_results`.
        """
        layer = self.layers_before(layer)
        parts = self._parts(layer, False, pos_slice, apply_ln, project_output_onto)
        parts.add_neurons(layer, Slice.unwrap(neuron_slice))
        if incl_remainder:
            parts.add_remainder(layer)
        return parts.stacked(layer, return_labels)

    def get_neuron_results(
        self,
        layer: int,
        neuron_slice: SliceInput = None,
        pos_slice: SliceInput = None,
        project_output_onto: Float[Tensor, "d_model *out"] | None = None,
    ) -> Float[Tensor, "..."]:
        """What each neuron of this one layer (-1: the last) adds to the stream: [batch, pos, neuron, d_model].

        Neurons and `b_out` sum to `mlp_out`. If the MLP's output passes a norm (`ln2_post`), so does what each neuron
        adds, with the norm's scale of this run. With `project_output_onto` [d_model, out] the last axis is `out`
        instead of d_model, and with [d_model] it is gone.

        Raises:
            BadInput: a layer without neurons, or one whose neurons belong to experts.
        """
        n_layers = self.known_model.cfg.n_layers
        if not -n_layers <= layer < n_layers:
            raise BadInput(f"layer must be one of 0..{n_layers - 1}, or count from the end, got {layer}")
        neurons, reading = Slice(neuron_slice), Reading(onto=self._directions(project_output_onto))
        parts = Parts(self, Slice(pos_slice), reading)
        results = parts.of_neurons(layer % n_layers, Slice.unwrap(neurons))
        if neurons.mode == "int":
            return results[0]
        return results.movedim(0, results.ndim - (2 if reading.onto is None else reading.onto.ndim))

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        return_labels: bool = False,
        project_output_onto: Float[Tensor, "d_model *out"] | None = None,
    ) -> Any:
        """What heads, neurons (or whole MLPs), embeddings and biases add to the stream that enters `layer`.

        [part, batch, pos, d_model], or projected as in `stack_neuron_results`; the parts sum to the stream. Labels are
        "L0H0", ..., "L0N0", ... (or "0_mlp_out", ...), "embed", "pos_embed" and "bias". The last holds all `b_O`, with
        `expand_neurons` all `b_out`, and with `apply_ln` the bias of the norm.
        """
        layer = self.layers_before(layer, mlp_input)
        attention, mlps = self._attention_before(layer, mlp_input), 0 if self.known_model.cfg.attn_only else layer
        parts = self._parts(layer, mlp_input, pos_slice, apply_ln, project_output_onto)
        parts.add_heads(attention)
        if expand_neurons:
            parts.add_neurons(mlps, Slice())
        else:
            parts.add_stored({f"{at}_mlp_out": f"blocks.{at}.hook_mlp_out" for at in range(mlps)})
        for at in range(attention):
            rest = [label for label in ADDED if label not in ("attn_out", "mlp_out")]
            parts.add_stored(self._added(at, rest if at < layer else [one for one in rest if one in BEFORE_MLP]))
        parts.add_stored(self._embeddings())
        parts.add_biases(attention, mlps if expand_neurons else 0)
        return parts.stacked(layer, return_labels, with_bias=False)

    # ------------------------------------------------------------------------------------------- how they are made

    def _parts(
        self, layer: int, mlp_input: bool, pos_slice: SliceInput, apply_ln: bool, onto: Tensor | None = None
    ) -> Parts:
        """No parts yet of the stream that enters a layer, and how they are to be read.

        Raises:
            BadInput: the stream is no sum of parts.
        """
        model, pos = self.known_model, pos_slice if isinstance(pos_slice, Slice) else Slice(pos_slice)
        if model.cfg.norm_placement == "post":
            raise BadInput(
                "a post-norm model normalizes its stream after every addition, so that it is no sum of what was written"
            )
        if model.splices:
            raise BadInput(
                f"a module is spliced in at {', '.join(model.splices)}, where hooks show the value before it, so that "
                "parts no longer sum to the stream; remove() it to take the stream of a pass without it apart"
            )
        norms = norm_reading(self, layer, mlp_input, pos) if apply_ln else ()
        return Parts(self, pos, Reading(norms=norms, onto=self._directions(onto)))

    def _attention_before(self, layer: int, mlp_input: bool) -> int:
        """The number of layers whose attention was added to the stream before it enters a layer, or its MLP."""
        return layer + (mlp_input and not self.known_model.cfg.parallel_attn_mlp)

    def _added(self, layer: int, labels: Collection[str]) -> dict[str, str]:
        """The hooks of what a layer adds to the stream, of those that are labelled so."""
        found = Stream(self.known_model).sublayers(layer)
        return {f"{layer}_{label}": hook for label, hook in found.items() if label in labels}

    def _embeddings(self) -> dict[str, str]:
        """The hooks of embeddings in the stream, by label; one for all where they are normalized or mixed together."""
        model = self.known_model
        if model.cfg.maps_embeddings:
            return {"embed": "blocks.0.hook_resid_pre"}
        return {name.removeprefix("hook_"): name for name in Stream(model).embeddings}

    def _directions(self, onto: Tensor | None) -> Tensor | None:
        d_model = self.known_model.cfg.d_model
        if onto is not None and (onto.ndim not in (1, 2) or len(onto) != d_model):
            raise BadInput(f"project_output_onto must be [d_model={d_model}] or [{d_model}, n], got {list(onto.shape)}")
        return onto
