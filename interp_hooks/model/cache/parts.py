"""Parts of the residual stream of a run, collected row by row, as one reader sees them at some positions.

parts = Parts(cache, pos, reading)
parts.add_heads(3)               "L0H0", "L0H1", ...     what the heads of three layers wrote
parts.add_remainder(3)           "remainder"             the rest of the stream that enters layer 3
parts.stacked(3, False)          [part, batch, pos, d_model]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.slices import Slice
from interp_hooks.model.cache.activations import Activations
from interp_hooks.model.cache.frozen_norm import FrozenNorm, Reading


def frozen(cache: Activations, norm: Any, hook: str, pos: Slice) -> tuple[FrozenNorm, ...]:
    """A norm with the scales that it had in the run, at some positions; none if nothing is normalized."""
    return () if norm.kind is None else (FrozenNorm.of(norm, cache.at(f"{hook}.hook_scale", pos)),)


def norm_reading(cache: Activations, layer: int, mlp_input: bool, pos: Slice) -> tuple[FrozenNorm, ...]:
    """The norm through which a layer reads the stream, with its scales of the run."""
    cfg = cache.known_model.cfg
    kind = "ln2" if mlp_input and not cfg.parallel_shared_norm else "ln1"
    name = "ln_final" if layer == cfg.n_layers else f"blocks.{layer}.{kind}"
    return frozen(cache, cache.known_model.norm_reading(layer, mlp_input), name, pos)


class Parts:
    """Labelled rows of a stack, each a part of the stream as `reading` sees it at the positions `pos`."""

    def __init__(self, cache: Activations, pos: Slice, reading: Reading) -> None:
        self.cache, self.model, self.pos, self.reading = cache, cache.known_model, pos, reading
        self.labels: list[str] = []
        self.rows: list[Float[Tensor, "_row ..."]] = []

    def add(self, labels: Sequence[str], rows: Float[Tensor, "_row ..."]) -> None:
        self.labels += labels
        self.rows.append(rows)

    def add_stored(self, names: Mapping[str, str]) -> None:
        """Activations of the run: their hooks by their labels."""
        if names:
            stored = torch.stack([self.cache.at(name, self.pos) for name in names.values()])
            self.add(list(names), self.reading.of(stored))

    def add_heads(self, layers: int) -> None:
        """What every head of the first layers wrote, from `hook_result`, or else from z."""
        for at, block in enumerate(self.model.blocks[:layers]):
            name, W_O = f"blocks.{at}.attn.hook_result", self.model.whole(block.attn.W_O.detach())
            if name in self.cache:
                result = self.cache.at(name, self.pos)
            else:
                z = self.cache.at(f"blocks.{at}.attn.hook_z", self.pos)
                result = torch.einsum("...hk,hkd->...hd", z, W_O.to(z))
            read = self._as_written(at, "attn", self.reading).of(self._scaled(at, result).movedim(-2, 0))
            self.add([f"L{at}H{head}" for head in range(len(W_O))], read)

    def add_neurons(self, layers: int, chosen: Slice) -> None:
        """What the chosen neurons of each of the first layers wrote."""
        for at in range(layers):
            listed = chosen.indices(self.model.cfg.d_mlp_at(at))
            self.add([f"L{at}N{neuron}" for neuron in listed], self.of_neurons(at, chosen))

    def of_neurons(self, layer: int, chosen: Slice) -> Float[Tensor, "neuron ..."]:
        """What the chosen neurons of one layer wrote, as it is read.

        Raises:
            BadInput: the layer has no neurons, or its neurons belong to experts.
        """
        cfg = self.model.cfg
        if not cfg.has_mlp(layer) or cfg.has_experts(layer):
            why = (
                "has no MLP"
                if not cfg.has_mlp(layer)
                else "is a mixture of experts, whose neurons stand in mlp.experts"
            )
            raise BadInput(f"layer {layer} {why}: it has no neurons of its own to list; take mlp_out as a whole")
        post = chosen.apply(self.cache.at(f"blocks.{layer}.mlp.hook_post", self.pos), -1)
        W_out = self.model.whole(self.model.blocks[layer].mlp.W_out.detach())
        W_out = chosen.apply(W_out, 0).to(post.device)
        return self._as_written(layer, "mlp", self.reading).of_neurons(self._scaled(layer, post), W_out)

    def add_biases(self, attentions: int, mlps: int) -> None:
        """The sum of what the biases of attention and MLPs of the first layers, and of the reader's norm, add."""
        biases = [self._bias(at, "attn") for at in range(attentions)] + [self._bias(at, "mlp") for at in range(mlps)]
        like = self.rows[-1][:1]
        bias = self.reading.of(sum(biases, like.new_zeros(self.model.cfg.d_model)))
        self.add(["bias"], (bias if self.reading.bias is None else bias + self.reading.bias).expand_as(like))

    def add_remainder(self, layer: int) -> None:
        """The stream that enters a layer, without the parts so far."""
        last = layer == self.model.cfg.n_layers
        stream = self.cache.at(f"blocks.{layer - last}.hook_resid_{'post' if last else 'pre'}", self.pos)
        rest = self.reading.of(stream)
        self.add(["remainder"], (rest - sum((rows.sum(0) for rows in self.rows), torch.zeros_like(rest)))[None])

    def stacked(self, layer: int, return_labels: bool, with_bias: bool = True) -> Any:
        """All rows, of what stands before a layer.

        If the reader's norm has a bias, that is a last row "bias", so that the rows still add up.

        Raises:
            BadInput: there are none.
        """
        if not self.rows:
            raise BadInput(
                f"there is nothing to stack: no part of that kind stands before layer {layer}; ask for a later layer, "
                "or for incl_remainder=True where there is that argument"
            )
        if with_bias and self.reading.bias is not None:
            self.add(["bias"], self.reading.bias.to(self.rows[0]).expand_as(self.rows[0][:1]))
        stack = torch.cat(self.rows)
        return (stack, self.labels) if return_labels else stack

    def _as_written(self, layer: int, sublayer: str, reading: Reading) -> Reading:
        """How a part of what a sublayer writes is read: a norm of its own may come before the reader's."""
        name = "ln1_post" if sublayer == "attn" else "ln2_post"
        norm = self.model.blocks[layer].get_submodule(name)
        return reading.after(frozen(self.cache, norm, f"blocks.{layer}.{name}", self.pos))

    def _bias(self, layer: int, sublayer: str) -> Float[Tensor, "... d_model"]:
        """What the biases of a sublayer add to the stream: the same everywhere, unless its output is normalized."""
        block = self.model.blocks[layer]
        bias: Tensor = block.attn.b_O if sublayer == "attn" else block.mlp.b_out
        reading = self._as_written(layer, sublayer, Reading())
        bias = reading.of(bias.detach().to(self.cache[f"blocks.{layer}.hook_{sublayer}_out"].device))
        return self._scaled(layer, bias if reading.bias is None else bias + reading.bias)

    def _scaled(self, layer: int, written: Tensor) -> Tensor:
        scale = self.model.blocks[layer].residual_scale
        return written if scale == 1 else written * scale
