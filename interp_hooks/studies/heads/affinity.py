"""Whether the weights of two heads fit together more than chance would have it, and how far they could.

    score     |W_OV W_QK| / |W_OV| |W_QK|      how much of what one head writes the other reads, strong directions first
                                             (Elhage et al. 2021, transformer-circuits.pub/2021/framework)
    kernel    |U^T V|^2                        how many dimensions the two subspaces share, U spanning what is written
                                             and V what is read, whatever their strengths and bases

Both are sums over pairs of directions of a_i b_j (u_i . v_j)^2: with a and b the shares of squared singular values it
is the square of the score, with equal ones the kernel over the product of ranks. If the directions of one side are
drawn at random in d dimensions, such a sum has the mean 1/d, and a variance that depends on sum a^2 and sum b^2 alone
(fourth moments of random rotations, Collins and Sniady 2006, arxiv.org/abs/math-ph/0402073). So z-scores are exact,
with the spectra that the heads have; no sum is larger than that of a_i b_i with both in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.results.record import on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.experiments.results.shown import Shown
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.tables import pd
from interp_hooks.model.cache.frozen_norm import CENTRED, FrozenNorm, centred
from interp_hooks.model.components.positions import rotate
from interp_hooks.model.factored import FactoredMatrix, composition_scores
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.model.weights import Composition
from interp_hooks.studies.heads.attending import makes_keys


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WeightComposition(Shown):
    """How the weights of every head fit those of each later one; results have the axes sender and reader.

    `bound` is the highest score that these singular values allow, and the baseline "chance" of the score the root mean
    square of scores by chance; `kernel_chance` is the mean of kernels by chance, the product of ranks over dimensions.
    The z-scores are those of the squared score, and of the kernel. Pairs whose sender is in no earlier layer are nan,
    and so are heads without weights. Prints as its table.
    """

    score: Result
    score_z: Result
    bound: Result
    kernel: Result
    kernel_chance: Result
    kernel_z: Result

    def table(self) -> pd.DataFrame:
        """A row for each pair, the highest z-scores of the score first."""
        axes, rows = self.score.axes, (~self.score.mean.isnan()).nonzero().tolist()
        table = pd.DataFrame([(axes["sender"][a], axes["reader"][b]) for a, b in rows], columns=["sender", "reader"])
        for name, result in vars(self).items():
            table[name] = [float(result.mean[a, b]) for a, b in rows]
        return table.sort_values("score_z", ascending=False, kind="stable").reset_index(drop=True)


@checked
def weight_composition(model: HookedTransformer, via: Composition, *, offset: int = 0) -> WeightComposition:
    """How the weights of every head fit those of each later one, by its queries, keys or values.

    Gains of the norms on the way count, and where a norm subtracts the mean, so is it from all weights, which leaves
    d_model - 1 dimensions: folded or not, the numbers are the same. With rotary positions W_Q W_K^T, but not the
    subspaces, depends on the `offset`, how far the key stands before the query. MLPs between, biases, and norms of
    queries and keys are left out.

    Raises:
        BadInput: an unknown `via`, latent attention, whose heads have no weights of their own, or a single layer.

    >>> weight_composition(model, "K").table().columns.tolist()
    ['sender', 'reader', 'score', 'score_z', 'bound', 'kernel', 'kernel_chance', 'kernel_z']
    """
    return WeightComposition(**composition(model, via, offset))


@on_data
@no_gradients
def composition(model: HookedTransformer, via: Composition, offset: int) -> dict[str, Result]:
    """The results of `weight_composition`, by their names."""
    cfg, labels = model.cfg, model.all_head_labels()
    if cfg.kv_latent:
        raise BadInput("the heads of this model share a low-rank summary of the stream, so none has weights of its own")
    if cfg.n_layers < 2:
        raise BadInput("heads work with those of earlier layers, and this model has a single layer")
    heads = [HeadWeights.of(model, layer, via, offset) for layer in range(cfg.n_layers)]
    dims = cfg.d_model - (model.norm_reading(0).kind in CENTRED)
    n = cfg.n_heads
    found = {name: torch.full((len(labels), len(labels)), float("nan")).to(heads[0].precise) for name in NAMES}
    for earlier in range(cfg.n_layers):
        for later in range(earlier + 1, cfg.n_layers):
            cells = slice(earlier * n, (earlier + 1) * n), slice(later * n, (later + 1) * n)
            for name, values in heads[earlier].fit(heads[later], dims).items():
                found[name][cells] = values.cpu()
    axes = {"sender": labels, "reader": labels}
    chance = {"score": {"chance": torch.tensor([dims**-0.5])}}
    return {
        name: Result(metric=name, axes=axes, values=values[..., None], baselines=chance.get(name, {}))
        for name, values in found.items()
    }


NAMES = ("score", "score_z", "bound", "kernel", "kernel_chance", "kernel_z")


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadWeights:
    """The weights of the heads of a layer, as norms leave them: what they write, what they read, and in which bases."""

    writes: FactoredMatrix
    reads: FactoredMatrix
    written: Float[Tensor, "head d_model _"]
    read: Float[Tensor, "head d_model _"]

    @classmethod
    def of(cls, model: HookedTransformer, layer: int, via: Composition, offset: int) -> HeadWeights:
        """Those of a layer's heads, of which `via` are read."""
        attn = makes_keys(model, layer)
        groups = model.cfg.n_heads // model.cfg.kv_heads_at(layer)
        W_Q, W_K, W_V, W_O = (getattr(attn, f"W_{name}").detach() for name in "QKVO")
        W_K, W_V = (weight.repeat_interleave(groups, dim=0) for weight in (W_K, W_V * model.cfg.value_scale))
        rotation = None if model.rotary is None else model.rotary(torch.tensor([[offset]]), model.dtype)[layer]
        reader, own = model.norm_reading(layer), model.blocks[layer].ln1_post
        centres = model.norm_reading(0).kind in CENTRED
        Q, K, V = (_through(weight.mT, reader, pulled=True).mT for weight in (W_Q, W_K, W_V))
        turned = Q
        if rotation is not None:
            turned = rotate(Q[:, :, None], rotation.to(Q.device))[:, :, 0]
        written = _through(W_O, own, pulled=False)
        written = centred(written) if centres else written
        QK, OV = FactoredMatrix(turned, K.mT), FactoredMatrix(V, written)
        return cls(
            writes=OV,
            reads={"Q": QK, "K": QK.T, "V": OV}[via],
            written=_basis(written.mT),
            read=_basis({"Q": Q, "K": K, "V": V}[via]),
        )

    @property
    def precise(self) -> torch.dtype:
        return self.written.dtype

    def fit(self, later: HeadWeights, dims: int) -> dict[str, Float[Tensor, "sender reader"]]:
        """How what these heads write fits what later ones read, in so many dimensions."""
        written, read = ((one.S**2) / (one.S**2).sum(-1, keepdim=True) for one in (self.writes, later.reads))
        n = min(written.shape[-1], read.shape[-1])
        score = composition_scores(self.writes, later.reads)
        kernel = torch.einsum("xdi,ydj->xyij", self.written, later.read).pow(2).sum((-1, -2))
        ranks = [(one != 0).any(1).sum(-1).to(kernel) for one in (self.written, later.read)]
        product = torch.outer(*ranks)
        return {
            "score": score,
            "score_z": _standardized(score**2, (written**2).sum(-1), (read**2).sum(-1), dims),
            "bound": (written[:, :n] @ read[:, :n].mT).sqrt(),
            "kernel": kernel.where(product > 0, float("nan")),
            "kernel_chance": (product / dims).where(product > 0, float("nan")),
            "kernel_z": _standardized(kernel / product, 1 / ranks[0], 1 / ranks[1], dims),
        }


def random_moments(
    a: Float[Tensor, "*#pair"], b: Float[Tensor, "*#pair"], dims: int
) -> tuple[float, Float[Tensor, "*pair"]]:
    """The mean and variance of sum_ij a_i b_j (u_i . v_j)^2 for shares a and b of two orthonormal sets, one at random.

    `a` and `b` are the sums of squared shares; of equal ones, one over how many there are.
    """
    same, crossed = 1 / (dims * (dims + 2)), (dims + 1) / (dims * (dims - 1) * (dims + 2))
    second = 3 * a * b * same + (a * (1 - b) + b * (1 - a)) * same + (1 - a) * (1 - b) * crossed
    return 1 / dims, second - 1 / dims**2


def _standardized(sums: Tensor, a: Tensor, b: Tensor, dims: int) -> Float[Tensor, "sender reader"]:
    """How many standard deviations sums lie above what is expected at random; nan where that has no spread."""
    mean, variance = random_moments(a[:, None], b[None], dims)
    deviation = variance.clamp(min=0).sqrt()
    return (sums - mean) / deviation.where(deviation > 1e-9 / dims, float("nan"))


def _through(rows: Float[Tensor, "head row d_model"], norm: Any, pulled: bool) -> Float[Tensor, "head row d_model"]:
    """What is written through a norm, or directions pulled back through the one that reads, but for its scale."""
    precise = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if norm.kind is None:
        return precise
    frozen = FrozenNorm.of(norm, precise.new_ones(1))
    return frozen.pulled_back(precise) if pulled else frozen.unscaled(precise)


def _basis(columns: Float[Tensor, "head d_model width"]) -> Float[Tensor, "head d_model width"]:
    """Orthonormal columns that span the same space, and zeros where there are fewer."""
    U, S, _ = torch.linalg.svd(columns, full_matrices=False)
    most = S.amax(-1, keepdim=True)
    tolerance = most * max(columns.shape[-2:]) * torch.finfo(S.dtype).eps
    return U * (tolerance < S)[:, None]
