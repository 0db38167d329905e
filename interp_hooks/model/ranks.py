"""One model on several processes (ranks): its heads, neurons and experts are spread over them, the stream is on all.

    x [whole] --columns of W_Q, W_K, W_V, W_in--> own heads, neurons --rows of W_O, W_out, sum over ranks--> [whole]

This is tensor parallelism (Shoeybi et al. 2019, Megatron-LM, arxiv.org/abs/1909.08053), with the tensors and
collectives of `torch.distributed.tensor`: a weight that is spread is a `DTensor`, and what a pass computes of it
becomes one where ranks have to talk. All ranks run the same program on the same tokens and get the same results. A hook
point that is hooked shows the whole value to every rank, each of which goes on with its own part of what the functions
leave; one that is not hooked costs nothing. Embeddings, norms, routers and the unembedding are whole on every rank.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.attention import Attention
from interp_hooks.model.components.mlp import MLP, XIELU, GatedMLP
from interp_hooks.model.components.moe import MoE
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.components.weights import Spreadable
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.network import Network

# Along which axis each weight is spread; a weight that is in none of them is whole on every rank.
OF_HEADS: dict[str, int] = dict.fromkeys(("W_Q", "W_K", "W_V", "W_O", "W_G", "b_Q", "b_K", "b_V", "b_G", "sinks"), 0)
OF_NEURONS = {"W_in": 1, "W_gate": 1, "W_out": 0, "b_in": 0, "b_gate": 0}
OF_EXPERTS: dict[str, int] = dict.fromkeys(("W_in", "W_gate", "W_out", "b_in", "b_gate", "b_out"), 0)
OF_GAINS = {"w": 0, "b": 0}


class MeshRanks:
    """The ranks of a device mesh of one axis: what `components.weights.TensorParallel` asks for."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh

    def __deepcopy__(self, memo: Any) -> "MeshRanks":
        return self  # the processes are the same

    def own(self, weight: Tensor) -> Tensor:
        return weight.to_local() if isinstance(weight, DTensor) else self.read(weight)

    def read(self, value: Tensor) -> Tensor:
        return self._as(value, Replicate()).to_local(grad_placements=[Partial()]) if value.requires_grad else value

    def part(self, value: Tensor, axis: int) -> Tensor:
        return self._as(value, Replicate()).redistribute(placements=[Shard(axis)]).to_local()

    def whole(self, value: Tensor, axis: int) -> Tensor:
        return self._as(value, Shard(axis)).full_tensor()

    def total(self, value: Tensor) -> Tensor:
        return self._as(value, Partial()).full_tensor()

    def gathered(self, weight: Tensor) -> Tensor:
        """The whole of a weight, on every rank."""
        return weight.full_tensor() if isinstance(weight, DTensor) else weight

    def agreed(self, value: Tensor) -> Tensor:
        """What the first rank has, on all ranks."""
        return self._as(value, Replicate(), check=True).to_local()

    def least(self, number: int) -> int:
        """The smallest of the numbers that ranks have."""
        return int(self._as(torch.tensor(number, device=self.mesh.device_type), Partial("min")).full_tensor())

    def spread(self, weight: Tensor, axis: int, device: torch.device) -> DTensor:
        """A weight of which this rank keeps a part along an axis, which lies in memory as the whole did."""
        part = weight.detach().chunk(self.mesh.size(), axis)[self.mesh.get_local_rank()]
        lies = sorted(range(part.ndim), key=lambda one: -part.stride(one))
        reads = sorted(range(part.ndim), key=lies.__getitem__)
        own = part.permute(lies).to(device, copy=True, memory_format=torch.contiguous_format).permute(reads)
        return self._as(own, Shard(axis))

    def _as(self, value: Tensor, placement: Placement, check: bool = False) -> DTensor:
        return DTensor.from_local(value, self.mesh, [placement], run_check=check)


@dataclass(frozen=True)
class Along:
    """The parts of a hook point's value, along one of its axes."""

    ranks: MeshRanks
    axis: int

    def whole(self, part: Tensor) -> Tensor:
        return self.ranks.whole(part, self.axis)

    def part(self, whole: Tensor) -> Tensor:
        return self.ranks.part(whole, self.axis)


def mesh_ranks(tp: int, device: torch.device) -> MeshRanks:
    """The ranks of this process's group of `tp`, under torchrun; there may be several groups, each with a whole model.

    Raises:
        BadInput: not under torchrun, or a number of processes that is no multiple of `tp`.
    """
    group = torch.distributed
    if not group.is_initialized() and "RANK" not in os.environ:
        raise BadInput(f"tp={tp} runs under torchrun (RANK is not set): torchrun --nproc-per-node {tp} program.py")
    world = group.get_world_size() if group.is_initialized() else int(os.environ["WORLD_SIZE"])
    if tp < 1 or world % tp:
        raise BadInput(f"tp={tp} must divide the number of processes, which is {world} (torchrun --nproc-per-node)")
    mesh = init_device_mesh(device.type, (world // tp, tp), mesh_dim_names=("replica", "tp"))
    return MeshRanks(mesh["tp"])


def own_device() -> torch.device:
    """The device of this process: the GPU of its local rank if there are GPUs, else the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def refuse_to_spread(cfg: HookedTransformerConfig, tp: int) -> None:
    """Raises BadInput if such a model cannot be spread over `tp` ranks."""
    if others := sorted({*cfg.mixer_kinds} - {"attention"}):
        raise BadInput(
            f"tp={tp}: only attention is spread over ranks, and this model has layers of {', '.join(others)}"
        )
    if cfg.kv_latent:
        raise BadInput(f"tp={tp}: latent attention is not spread over ranks")
    if not cfg.attn_only and (cfg.normalizes_neurons or str(cfg.act_fn).startswith("solu")):
        raise BadInput(f"tp={tp}: act_fn={cfg.act_fn!r} compares all neurons of a layer, which must be on one rank")
    if any(cfg.mlp_sparsity_layers):
        raise BadInput(f"tp={tp}: mlp_sparsity_layers compares all neurons of a layer, which must be on one rank")
    dense = not cfg.attn_only and any(cfg.has_mlp(at) and not cfg.has_experts(at) for at in range(cfg.n_layers))
    sizes = {"n_heads": cfg.n_heads, "n_key_value_heads": cfg.n_key_value_heads, "d_mlp": cfg.d_mlp if dense else 0}
    if cfg.experts is not None:
        sizes |= {"n_experts": cfg.experts.n_experts, "d_shared": cfg.experts.d_shared}
    for name, size in sizes.items():
        if size % tp:
            raise BadInput(f"tp={tp} must divide {name}={size}: take another number of processes")


@checked
@no_gradients
def spread_over_ranks(model: Network, tp: int, device: torch.device | str | None = None) -> None:
    """Leave on this rank its part of a model that all ranks have, on `device` (default: the GPU of its local rank).

    Call it on all ranks, started by torchrun. `HookedTransformer.from_pretrained(..., tp=2)` does so after loading.
    Weights that are spread are then DTensors; `model.whole(weight)`, called on all ranks, gives the whole one.

    >>> spread_over_ranks(model, 2)  # doctest: +SKIP

    Raises:
        BadInput: not under torchrun; processes, heads, neurons or experts that `tp` does not divide; a model with parts
            that cannot be spread, with spliced modules, or that is spread already. Nothing is changed then.
    """
    refuse_to_spread(model.cfg, tp)
    if model.splices or model.ranks is not None:
        raise BadInput(f"tp={tp}: spread a model once, and before modules are spliced in")
    device = own_device() if device is None else torch.device(device)
    ranks = mesh_ranks(tp, device)
    for block in model.blocks:
        _spread_attention(block.attn, ranks, device)
        if not model.cfg.attn_only:
            _spread_mlp(block.mlp, ranks, device)
        _move_rest(block, device)
    _move_rest(model, device)
    model.ranks = ranks
    model._reconfigure(device=device)


def _move_rest(part: nn.Module, device: torch.device) -> None:
    """Move what every rank has whole to its device."""
    for weight in part.parameters():
        if not isinstance(weight, DTensor):
            weight.data = weight.data.to(device)


def _spread_attention(attn: nn.Module, ranks: MeshRanks, device: torch.device) -> None:
    assert isinstance(attn, Attention)
    _spread(attn, OF_HEADS, "head", ranks, device)
    for norm in (attn.q_norm, attn.k_norm):
        if isinstance(norm, Norm) and len(norm.over) == 1:
            _spread(norm, OF_GAINS if norm.w is not None and norm.w.ndim == 2 else {}, "head", ranks, device)


def _spread_mlp(mlp: nn.Module, ranks: MeshRanks, device: torch.device) -> None:
    if isinstance(mlp, MoE):
        _spread(mlp.experts, OF_EXPERTS, "expert", ranks, device)
        if mlp.shared is not None:
            _spread_mlp(mlp.shared, ranks, device)
    elif isinstance(mlp, MLP | GatedMLP):
        _spread(mlp, OF_NEURONS, "neuron", ranks, device)


def _spread(part: Spreadable, weights: Mapping[str, int], axis: str, ranks: MeshRanks, device: torch.device) -> None:
    """Spread some weights of a part of the model, and let its hook points show what all ranks have."""
    part.ranks = ranks
    for name, weight in list(part._parameters.items()):
        if weight is not None and name in weights:
            spread = ranks.spread(weight, weights[name], device)
            part.register_parameter(name, nn.Parameter(spread, weight.requires_grad))
    for inner in part.children():
        if isinstance(inner, HookPoint) and axis in inner.axes:
            inner.parts = Along(ranks, inner.axes.index(axis))
        if isinstance(inner, XIELU):
            inner.ranks = ranks
