"""What the residual stream of a run is the sum of, and what each part does to the logits.

The stream is a sum, so its parts can be listed, coarsely (`decompose_resid`) or down to heads and neurons
(`get_full_resid_decomposition`), and since a norm is linear once its scale is fixed, each part has a direct effect on
each logit:

    logit[token] = sum over parts c of  (c - mean c) / scale * w @ W_U[:, token]   +   b @ W_U[:, token] + b_U[token]

The norm's gain w is always inside a part's effect; its bias b and b_U are a row "bias" of their own where asked for.
Everywhere here `layer` counts layers: parts are those that stand before that layer, and None and -1 mean all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.slices import Slice, SliceInput
from interp_hooks.model.cache.frozen_norm import FrozenNorm, Reading
from interp_hooks.model.stream import Stream

Rows = tuple[list[str], Float[Tensor, "_row ..."]]
"""Labelled parts."""


class Decomposition(Mapping[str, Tensor]):
    """What stored activations add up to, for a mapping that has `model` and `has_batch_dim`."""

    model: Any
    has_batch_dim: bool

    @property
    @abstractmethod
    def known_model(self) -> Any:
        """The model; raises BadInput without one."""

    # -------------------------------------------------------------------------------------------------------- parts

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """The parts whose sum is the stream that enters `layer` (all of it by default): [part, batch, pos, d_model].

        `mlp_input` adds the attention of `layer` itself, where the MLP reads it. `mode` "attn" or "mlp" keeps only
        these parts. With `apply_ln` the parts are what the norm makes of them (`apply_ln_to_stack`); if that norm has a
        bias, it is a last part, labelled "bias", so that the parts still add up. Labels are "embed", "pos_embed",
        "0_attn_out", "0_mlp_out", ...
        """
        if mode not in ("all", "attn", "mlp"):
            raise BadInput(f"mode must be 'all', 'attn' or 'mlp', got {mode!r}")
        layer, pos = self._layer(layer, mlp_input), Slice(pos_slice)
        names = self._embeddings() if incl_embeds else {}
        for at in range(layer):
            if mode != "mlp":
                names[f"{at}_attn_out"] = f"blocks.{at}.hook_attn_out"
            if mode != "attn" and not self.known_model.cfg.attn_only:
                names[f"{at}_mlp_out"] = f"blocks.{at}.hook_mlp_out"
        if mode != "mlp" and self._attention_before(layer, mlp_input) > layer:
            names[f"{layer}_attn_out"] = f"blocks.{layer}.hook_attn_out"
        reading = self._reading(layer, mlp_input, pos, apply_ln)
        return self._joined([self._stored(names, pos, reading)], reading, return_labels)

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The stream at each point up to `layer`, as a logit lens reads it: [point, batch, pos, d_model].

        Labels are "0_pre", "0_mid" (with `incl_mid`), ... and "final_post". With `apply_ln` each stream goes through
        the norm that reads `layer`, whose statistics are recomputed for it, gain and bias included.
        """
        layer, cfg = self._layer(layer, mlp_input), self.known_model.cfg
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
        labels, stack = self._stored(names, Slice(pos_slice), Reading())
        if apply_ln:
            stack = self.known_model.norm_reading(layer, mlp_input).fused(stack)
        return (stack, labels) if return_labels else stack

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: SliceInput = None,
        apply_ln: bool = False,
    ) -> Any:
        """What every head before `layer` adds to the stream: [head, batch, pos, d_model], labels "L0H3".

        Computed from the cached z, unless `hook_result` is cached; where attention's output passes a norm (`ln1_post`),
        with its scale of this run. `incl_remainder` adds the rest of the stream (embeddings, MLPs, biases) as a last
        row, "remainder".
        """
        layer, pos = self._layer(layer), Slice(pos_slice)
        reading = self._reading(layer, False, pos, apply_ln)
        groups = self._heads(layer, pos, reading)
        if incl_remainder:
            groups.append(self._remainder(groups, layer, pos, reading))
        return self._joined(groups, reading, return_labels)

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

        That is n_layers * d_mlp times the size of the stream. With `project_output_onto`, directions [d_model] or
        [d_model, out], it is [neuron, batch, pos] or [neuron, batch, pos, out], and nothing larger is ever made.
        Otherwise as `stack_head_results` and `get_neuron_results`.
        """
        layer, pos = self._layer(layer), Slice(pos_slice)
        reading = self._reading(layer, False, pos, apply_ln, project_output_onto)
        groups = self._neurons(layer, pos, Slice.unwrap(neuron_slice), reading)
        if incl_remainder:
            groups.append(self._remainder(groups, layer, pos, reading))
        return self._joined(groups, reading, return_labels)

    def get_neuron_results(
        self,
        layer: int,
        neuron_slice: SliceInput = None,
        pos_slice: SliceInput = None,
        project_output_onto: Float[Tensor, "d_model *out"] | None = None,
    ) -> Float[Tensor, "..."]:
        """What each neuron of this one layer (-1: the last) adds to the stream: [batch, pos, neuron, d_model].

        Neurons and `b_out` sum to `mlp_out`; where the MLP's output passes a norm (`ln2_post`), each goes through it
        with its scale of this run. With `project_output_onto` the last axis is that of its columns, or is gone.

        Raises:
            BadInput: a layer without neurons, or one whose neurons belong to experts.
        """
        n_layers = self.known_model.cfg.n_layers
        if not -n_layers <= layer < n_layers:
            raise BadInput(f"layer must be one of 0..{n_layers - 1}, or count from the end, got {layer}")
        neurons, reading = Slice(neuron_slice), Reading(onto=self._directions(project_output_onto))
        results = self._neurons_of(layer % n_layers, Slice(pos_slice), Slice.unwrap(neurons), reading)
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
        """The stream that enters `layer` as heads, neurons (or MLPs), embeddings and biases, which sum to it.

        [part, batch, pos, d_model], or projected as in `stack_neuron_results`. Rows are labelled "L0H0", ..., "L0N0",
        ... (or "0_mlp_out", ...), "embed", "pos_embed" and "bias": all `b_O` and, beside neurons, `b_out`; with
        `apply_ln` also the bias of the norm.
        """
        layer, pos = self._layer(layer, mlp_input), Slice(pos_slice)
        reading = self._reading(layer, mlp_input, pos, apply_ln, project_output_onto)
        attention, mlps = self._attention_before(layer, mlp_input), 0 if self.known_model.cfg.attn_only else layer
        groups = self._heads(attention, pos, reading)
        if expand_neurons:
            groups += self._neurons(mlps, pos, Slice(), reading)
        elif mlps:
            groups.append(
                self._stored({f"{at}_mlp_out": f"blocks.{at}.hook_mlp_out" for at in range(mlps)}, pos, reading)
            )
        groups.append(self._stored(self._embeddings(), pos, reading))
        biases = [self._bias(at, "attn", pos) for at in range(attention)]
        biases += [self._bias(at, "mlp", pos) for at in range(mlps) if expand_neurons]
        like = groups[-1][1][:1]
        bias = reading.of(sum(biases, like.new_zeros(self.known_model.cfg.d_model)))
        bias = bias if reading.bias is None else bias + reading.bias
        groups.append((["bias"], bias.expand_as(like)))
        return self._joined(groups, Reading(), return_labels)

    # ------------------------------------------------------------------------------------------- how they are made

    def _layer(self, layer: int | None, mlp_input: bool = False) -> int:
        """How many layers count: None and -1 are all of them."""
        cfg = self.known_model.cfg
        n_layers: int = cfg.n_layers
        if layer is None or layer == -1:
            layer = n_layers
        if not 0 <= layer <= n_layers:
            raise BadInput(f"layer must be 0..{n_layers}, or -1 or None for the whole model, got {layer}")
        if mlp_input and (layer == n_layers or cfg.attn_only):
            raise BadInput(f"mlp_input=True needs a layer 0..{n_layers - 1} that has an MLP, got layer {layer}")
        return layer

    def _attention_before(self, layer: int, mlp_input: bool) -> int:
        """How many layers' attention has been added to the stream by then."""
        return layer + (mlp_input and not self.known_model.cfg.parallel_attn_mlp)

    @property
    def _pos_dim(self) -> int:
        return 1 if self.has_batch_dim else 0

    def _at(self, name: str, pos: Slice) -> Tensor:
        """An activation at some positions."""
        return pos.apply(self[name], self._pos_dim)

    def _embeddings(self) -> dict[str, str]:
        """The hooks of embeddings in the stream, by label; one for all where they are normalized together."""
        model = self.known_model
        if model.cfg.embed_norm_type is not None:
            return {"embed": "blocks.0.hook_resid_pre"}
        return {name.removeprefix("hook_"): name for name in Stream(model).embeddings}

    def _stored(self, names: Mapping[str, str], pos: Slice, reading: Reading) -> Rows:
        """Activations by label, as they are read."""
        if not names:
            raise BadInput("there is nothing to stack: no part of that kind stands before this layer")
        return list(names), reading.of(torch.stack([self._at(name, pos) for name in names.values()]))

    def _heads(self, layers: int, pos: Slice, reading: Reading) -> list[Rows]:
        model = self.known_model
        groups: list[Rows] = []
        for at in range(layers):
            name, W_O = f"blocks.{at}.attn.hook_result", model.blocks[at].attn.W_O.detach()
            if name in self:
                result = self._at(name, pos)
            else:
                z = self._at(f"blocks.{at}.attn.hook_z", pos)
                result = torch.einsum("...hk,hkd->...hd", z, W_O.to(z.device))
            labels = [f"L{at}H{head}" for head in range(len(W_O))]
            groups.append((labels, self._added(at, "attn", pos, reading).of(self._scaled(result).movedim(-2, 0))))
        return groups

    def _neurons(self, layers: int, pos: Slice, neurons: Slice, reading: Reading) -> list[Rows]:
        listed = neurons.indices(self.known_model.cfg.d_mlp) if layers else []
        return [
            ([f"L{at}N{neuron}" for neuron in listed], self._neurons_of(at, pos, neurons, reading))
            for at in range(layers)
        ]

    def _neurons_of(self, layer: int, pos: Slice, neurons: Slice, reading: Reading) -> Float[Tensor, "neuron ..."]:
        cfg = self.known_model.cfg
        if cfg.attn_only or cfg.has_experts(layer):
            why = "has no MLP" if cfg.attn_only else "is a mixture of experts, whose neurons stand in mlp.experts"
            raise BadInput(f"layer {layer} {why}: it has no neurons of its own to list; take mlp_out as a whole")
        post = neurons.apply(self._at(f"blocks.{layer}.mlp.hook_post", pos), -1)
        W_out = neurons.apply(self.known_model.blocks[layer].mlp.W_out.detach(), 0).to(post.device)
        return self._added(layer, "mlp", pos, reading).of_neurons(self._scaled(post), W_out)

    def _bias(self, layer: int, sublayer: str, pos: Slice) -> Float[Tensor, "... d_model"]:
        """What the biases of a sublayer add to the stream: the same everywhere, unless its output is normalized."""
        block = self.known_model.blocks[layer]
        bias: Tensor = block.attn.b_O if sublayer == "attn" else block.mlp.b_out
        added = self._added(layer, sublayer, pos, Reading())
        bias = added.of(bias.detach().to(self[f"blocks.{layer}.hook_{sublayer}_out"].device))
        return self._scaled(bias if added.bias is None else bias + added.bias)

    def _remainder(self, groups: Sequence[Rows], layer: int, pos: Slice, reading: Reading) -> Rows:
        """The stream that enters a layer, without these parts."""
        last = layer == self.known_model.cfg.n_layers
        stream = reading.of(self._at(f"blocks.{layer - last}.hook_resid_{'post' if last else 'pre'}", pos))
        return ["remainder"], (stream - sum((rows.sum(0) for _, rows in groups), torch.zeros_like(stream)))[None]

    def _scaled(self, written: Tensor) -> Tensor:
        scale = self.known_model.cfg.residual_scale
        return written if scale == 1 else written * scale

    def _frozen(self, norm: Any, hook: str, pos: Slice) -> tuple[FrozenNorm, ...]:
        """That norm at some positions of the run; none if nothing is normalized."""
        if norm.kind is None:
            return ()
        return (FrozenNorm.of(norm, self._at(f"{hook}.hook_scale", pos)),)

    def _norm_reading(self, layer: int, mlp_input: bool, pos: Slice) -> tuple[FrozenNorm, ...]:
        """The norm through which a layer reads the stream."""
        cfg = self.known_model.cfg
        kind = "ln2" if mlp_input and not cfg.parallel_shared_norm else "ln1"
        name = "ln_final" if layer == cfg.n_layers else f"blocks.{layer}.{kind}"
        return self._frozen(self.known_model.norm_reading(layer, mlp_input), name, pos)

    def _added(self, layer: int, sublayer: str, pos: Slice, reading: Reading) -> Reading:
        """How a part of what a sublayer writes is read: its output may be normalized before."""
        name = "ln1_post" if sublayer == "attn" else "ln2_post"
        norm = getattr(self.known_model.blocks[layer], name)
        return reading.after(self._frozen(norm, f"blocks.{layer}.{name}", pos))

    def _reading(self, layer: int, mlp_input: bool, pos: Slice, apply_ln: bool, onto: Tensor | None = None) -> Reading:
        """How the stream that enters a layer is read."""
        if self.known_model.cfg.norm_placement == "post":
            raise BadInput(
                "a post-norm model normalizes its stream after every addition, so that it is no sum of what was written"
            )
        norms = self._norm_reading(layer, mlp_input, pos) if apply_ln else ()
        return Reading(norms=norms, onto=self._directions(onto))

    def _directions(self, onto: Tensor | None) -> Tensor | None:
        d_model = self.known_model.cfg.d_model
        if onto is not None and (onto.ndim not in (1, 2) or len(onto) != d_model):
            raise BadInput(f"project_output_onto must be [d_model={d_model}] or [{d_model}, n], got {list(onto.shape)}")
        return onto

    def _joined(self, groups: Sequence[Rows], reading: Reading, return_labels: bool) -> Any:
        if not groups:
            raise BadInput("there is nothing to stack before layer 0; ask for a later layer, or incl_remainder=True")
        labels, stack = [label for names, _ in groups for label in names], torch.cat([rows for _, rows in groups])
        if reading.bias is not None:
            stack, labels = torch.cat((stack, reading.bias.to(stack).expand_as(stack[:1]))), [*labels, "bias"]
        return (stack, labels) if return_labels else stack
