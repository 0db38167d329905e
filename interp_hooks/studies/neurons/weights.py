"""The neurons of a layer: what each reads and writes, and the hook that shows what its output weights multiply.

plain      post = act(x W_in)                  one row that is read       "blocks.3.mlp.hook_post"
gated      post = act(x W_gate) * (x W_in)     two                        "blocks.3.mlp.hook_post"
SoLU       post = LayerNorm(mid)               one; post, not mid, is multiplied by W_out
experts    post of every expert in turn        times the router's weight  "blocks.3.mlp.experts.hook_post"
shared     the MLP that all tokens pass        times its gate, if any     "blocks.3.mlp.shared.hook_post"

Rows are as the stream sees them: what is read includes the gain of the norm before the MLP, and what is written passes
the norm after it, but for that norm's scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import refuse_outside
from interp_hooks.model.cache.frozen_norm import FrozenNorm
from interp_hooks.model.components.moe import MoE
from interp_hooks.model.transformer import HookedTransformer

SIGNED = ("tanh", "xielu")  # activation functions with large negative values


@dataclass(frozen=True, kw_only=True, eq=False)
class Neurons:
    """The neurons of one `part` of a layer: "mlp", "experts" (of all experts in turn) or "shared".

    `reads` has the rows of "in" and, in a gated MLP, of "gate". `signed` says whether what they give on may well be
    negative, so that what they do to logits has two sides.
    """

    layer: int
    part: str
    hook: str
    reads: Mapping[str, Float[Tensor, "neuron d_model"]]
    writes: Float[Tensor, "neuron d_model"]
    signed: bool


def neurons_of(model: HookedTransformer, layer: int) -> list[Neurons]:
    """The neurons of a layer, by part; none in a model without MLPs.

    Raises:
        BadInput: no such layer, or its MLP is of another kind.
    """
    refuse_outside("layer", layer, 0, model.cfg.n_layers - 1)
    if model.cfg.attn_only:
        return []
    mlp, name = model.blocks[layer].mlp, f"blocks.{layer}.mlp"
    if (experts := model.cfg.experts) is not None and (experts.own_norms or experts.output_norm):
        raise BadInput("experts of this model read and write through norms of their own, which their weights leave out")
    if not isinstance(mlp, MoE):
        return [_neurons(model, layer, "mlp", name, mlp)]
    found = [_neurons(model, layer, "experts", f"{name}.experts", mlp.experts)]
    return found + ([] if mlp.shared is None else [_neurons(model, layer, "shared", f"{name}.shared", mlp.shared)])


def _neurons(model: HookedTransformer, layer: int, part: str, name: str, module: nn.Module) -> Neurons:
    weights = {one: weight.detach() for one, weight in module.named_parameters(recurse=False) if one.startswith("W_")}
    if not weights.keys() >= {"W_in", "W_out"}:
        raise BadInput(f"{name} is a {type(module).__name__}, which has no W_in and W_out")
    norm: Any = model.norm_reading(layer, mlp=True)
    block: Any = model.blocks[layer]
    after = block.ln2_post
    reads = {one.removeprefix("W_"): weight.mT for one, weight in weights.items() if one != "W_out"}
    flat = {one: _precise(weight.reshape(-1, weight.shape[-1])) for one, weight in reads.items()}
    writes = _precise(weights["W_out"].reshape(-1, model.cfg.d_model))
    return Neurons(
        layer=layer,
        part=part,
        hook=f"{name}.hook_post",
        reads=flat if norm.kind is None else {one: _of(norm, rows).pulled_back(rows) for one, rows in flat.items()},
        writes=(writes if after.kind is None else _of(after, writes).unscaled(writes)) * block.residual_scale,
        signed=signed(model),
    )


def signed(model: HookedTransformer) -> bool:
    """Whether what a model's neurons give on may well be negative."""
    cfg = model.cfg
    return cfg.gated_mlp or cfg.normalizes_neurons or cfg.act_fn in SIGNED


def _precise(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _of(norm: Any, like: Tensor) -> FrozenNorm:
    """A norm without its scale."""
    return FrozenNorm.of(norm, like.new_ones(1))
