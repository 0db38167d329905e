"""A mixture of experts in place of the MLP: a router weights a few experts per token, and their outputs are summed.

    router logits = x W_router + b_router   --scores, choice-->   weights [.., expert], zero for experts not chosen
    experts.hook_out[e] = weights[e] * expert_e(x)                out = sum over e (+ an MLP shared by all tokens)
                          or expert_e with neurons that get weights[e] times what they read (`weighted_inputs`)

With `output_norm` out passes a norm before it leaves (`ln_post`), and with `output_bias` `b_out` is added then.
With `own_norms` x is the stream itself: router, experts and shared MLP read it through norms of their own, and the two
sums pass a norm each before they are added.

Every hook has an axis over all experts. Unless a hook of `experts` is in use, only chosen experts are computed. While
one is, all experts are computed for every token: an expert that was not chosen has neurons to look at and, with weight
zero, adds nothing.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.hooks.autograd import transformed
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.mlp import Gating, activation, mlp
from interp_hooks.model.components.norm import norm
from interp_hooks.model.components.weights import TRANSPOSED, TRANSPOSED_PER_EXPERT, Spreadable, linear, parameter
from interp_hooks.model.config import ExpertsConfig, HookedTransformerConfig


def _best_of(scores: Tensor, choice: Tensor, experts: ExpertsConfig) -> Tensor:
    """Weights that are the scores of the best by `choice`, within the best groups of experts, normalized and scaled."""
    if experts.n_groups > 1:
        grouped = choice.unflatten(-1, (experts.n_groups, -1))
        best = grouped.topk(2, dim=-1).values.sum(-1) if experts.group_score == "top2" else grouped.amax(-1)
        kept = torch.zeros_like(best, dtype=torch.bool)
        kept = kept.scatter(-1, best.topk(experts.groups_kept, dim=-1).indices, True)
        choice = grouped.masked_fill(~kept[..., None], -torch.inf).flatten(-2)
    chosen = choice.topk(experts.experts_per_token, dim=-1).indices
    weights = scores.gather(-1, chosen)
    if experts.normalize_weights:
        total = weights.sum(-1, keepdim=True)
        total = total.clamp(min=experts.min_weight_sum) if experts.min_weight_sum else total
        weights = weights / (total + experts.weight_sum_offset if experts.weight_sum_offset else total)
    weights = weights if experts.weight_scale == 1 else weights * experts.weight_scale
    return torch.zeros_like(scores).scatter(-1, chosen, weights)


def _sparse_mixer(logits: Tensor, experts: ExpertsConfig) -> Tensor:
    """Choose experts one by one: the best of those left, weighted by a softmax over all that are nearly as good."""
    left, weights = logits, torch.zeros_like(logits)
    for _ in range(experts.experts_per_token):
        best, chosen = left.max(-1, keepdim=True)
        far = (best - logits) / logits.abs().clamp(min=best) > 2 * experts.jitter
        weight = left.masked_fill(far, -torch.inf).softmax(-1).gather(-1, chosen)
        weights = weights.scatter(-1, chosen, weight)
        left = left.scatter(-1, chosen, -torch.inf)
    return weights


class Router:
    """Turns router logits [token, expert] into weights, zero for every expert that a token does not pass."""

    def __init__(self, experts: ExpertsConfig) -> None:
        self.experts = experts

    def __call__(self, logits: Tensor, choice_bias: Tensor | None) -> Float[Tensor, "... expert"]:
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.experts.scores == "sparsemixer":
            weights = _sparse_mixer(precise, self.experts)
        else:
            scores = precise.softmax(-1) if self.experts.scores == "softmax" else precise.sigmoid()
            choice = scores if self.experts.choice == "scores" else precise
            weights = _best_of(scores, choice if choice_bias is None else choice + choice_bias, self.experts)
        return weights.to(logits.dtype)


class Experts(Spreadable):
    """MLPs side by side, each with weights of its own, stacked along an axis `expert`."""

    def __init__(self, cfg: HookedTransformerConfig, experts: ExpertsConfig) -> None:
        super().__init__()
        count, width, self.weighted_inputs = experts.n_experts, experts.d_expert, experts.weighted_inputs
        d_model, self.gated = cfg.d_model, cfg.gated_mlp
        self.act_fn: Callable[..., Tensor] = Gating(cfg) if self.gated else activation(cfg)
        if self.gated:
            self.W_gate = parameter(count, d_model, width, lies=TRANSPOSED_PER_EXPERT)
            self.b_gate = parameter(count, width)
        self.W_in, self.b_in = parameter(count, d_model, width, lies=TRANSPOSED_PER_EXPERT), parameter(count, width)
        self.W_out, self.b_out = parameter(count, width, d_model, lies=TRANSPOSED_PER_EXPERT), parameter(count, d_model)
        sizes = {"collected": False, "expert": count}
        self.hook_pre = HookPoint("batch pos expert neuron", neuron=width, **sizes)
        if self.gated:
            self.hook_pre_linear = HookPoint("batch pos expert neuron", neuron=width, **sizes)
        self.hook_post = HookPoint("batch pos expert neuron", neuron=width, **sizes)
        self.hook_out = HookPoint("batch pos expert d_model", d_model=d_model, **sizes)

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], weights: Float[Tensor, "batch pos expert"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The weighted sum of what the experts write."""
        if self.ranks is None:
            return self._written(x, weights)
        x, weights = self.ranks.read(x), self.ranks.part(weights, 2)
        zero = x[..., :0].sum() + weights[..., :0].sum().to(x.dtype)  # a rank without chosen experts has gradients too
        return self.ranks.total(self._written(x, weights) + zero)

    def _written(self, x: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of what the experts of this process write, which `weights` are of."""
        points = [self.hook_pre, self.hook_post, self.hook_out] + ([self.hook_pre_linear] if self.gated else [])
        if transformed() or any(point.edited for point in points):  # a transform hides who is chosen
            return self._all(x, weights)
        if any(point.hooked for point in points):
            self._all(x.detach(), weights.detach())
        return self._chosen(x, weights)

    def _chosen(self, x: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum, each expert being computed on the tokens that it has a weight for."""
        tokens, weights = x.flatten(0, 1), weights.flatten(0, 1)
        chosen, rows = weights.T.nonzero(as_tuple=True)  # one after the other, for each expert its tokens
        counts = chosen.bincount(minlength=weights.shape[1]).tolist()
        of_tokens = (rows, tokens[rows], weights[rows, chosen, None])
        of_experts = (self.W_in, self.b_in, self.W_out, self.b_out) + ((self.W_gate, self.b_gate) if self.gated else ())
        split, own = (part.split(counts) for part in of_tokens), (self._own(part).unbind() for part in of_experts)
        out = torch.zeros_like(tokens)
        for rows, read, weight, W_in, b_in, W_out, b_out, *gate in zip(*split, *own, strict=True):
            if not len(rows):
                continue
            of_neurons, of_written = (weight, None) if self.weighted_inputs else (None, weight)
            pre = _times(linear(read, W_in, b_in), of_neurons)
            post = self.act_fn(_times(linear(read, *gate), of_neurons), pre) if gate else self.act_fn(pre)
            written = _times(linear(post, W_out, b_out), of_written)
            out.index_add_(0, rows, written.to(out.dtype))
        return out.view_as(x)

    def _all(self, x: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum, every expert being computed on every token."""
        weight = weights[..., None]
        of_neurons, of_written = (weight, weight.ne(0)) if self.weighted_inputs else (None, weight)
        pre = _times(torch.einsum("bpd,edm->bpem", x, self._own(self.W_in)) + self._own(self.b_in), of_neurons)
        if self.gated:
            gate = _times(torch.einsum("bpd,edm->bpem", x, self._own(self.W_gate)) + self._own(self.b_gate), of_neurons)
            post = self.act_fn(self.hook_pre(gate), self.hook_pre_linear(pre))
        else:
            post = self.act_fn(self.hook_pre(pre))
        written = torch.einsum("bpem,emd->bped", self.hook_post(post), self._own(self.W_out)) + self._own(self.b_out)
        return self.hook_out((written * of_written).to(x.dtype)).sum(2)


def _times(value: Tensor, weight: Tensor | None) -> Tensor:
    return value if weight is None else value * weight


class MoE(nn.Module):
    """A router, its experts, and perhaps an MLP that every token passes (`shared`), times a gate."""

    def __init__(self, cfg: HookedTransformerConfig, experts: ExpertsConfig, layer: int = 0) -> None:
        super().__init__()
        count, d_model = experts.n_experts, cfg.d_model
        reads, writes = (norm(cfg, "RMS" if experts.own_norms else None, at) for at in (layer, 0))
        self.ln_router, self.ln_experts, self.ln_shared = reads, copy.deepcopy(reads), copy.deepcopy(reads)
        self.ln_experts_post, self.ln_shared_post = writes, copy.deepcopy(writes)
        self.ln_post = norm(cfg, "RMS" if experts.output_norm else None)
        self.b_out = parameter(d_model) if experts.output_bias else None
        self.expert_scale = parameter(count) if experts.expert_scales else None
        self.router_scale = experts.router_scale
        self.route, self.precise_router = Router(experts), experts.precise_router
        self.W_router, self.b_router = parameter(d_model, count, lies=TRANSPOSED), parameter(count)
        self.choice_bias = parameter(count) if experts.biased_choice else None
        self.experts = Experts(cfg, experts)
        self.shared = mlp(cfg, experts.d_shared) if experts.d_shared else None
        self.has_shared_gate, self.shared_scale = experts.shared_gate, experts.shared_scale
        if experts.shared_gate:
            self.W_shared_gate, self.b_shared_gate = parameter(d_model, 1, lies=TRANSPOSED), parameter(1)
        self.hook_router_logits = HookPoint("batch pos expert", expert=count)
        self.hook_expert_weights = HookPoint("batch pos expert", expert=count)
        if experts.d_shared:
            self.hook_shared_out = HookPoint("batch pos d_model", d_model=d_model)

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        out = self._written(x)
        return out if self.b_out is None else out + self.b_out

    def _written(self, x: Tensor) -> Tensor:
        """What experts and shared MLP write."""
        logits = self.hook_router_logits(self._router_logits(self.ln_router(x)))
        weights = self.route(logits, self.choice_bias)
        weights = weights if self.expert_scale is None else weights * self.expert_scale
        out = self.ln_experts_post(self.experts(self.ln_experts(x), self.hook_expert_weights(weights)))
        if self.shared is None:
            return self.ln_post(out)
        shared = self.ln_shared_post(self.shared(self.ln_shared(x)))
        if self.has_shared_gate:
            shared = torch.sigmoid(linear(x, self.W_shared_gate, self.b_shared_gate)) * shared
        shared = shared if self.shared_scale == 1 else shared * self.shared_scale
        return self.ln_post(out + self.hook_shared_out(shared))

    def _router_logits(self, x: Tensor) -> Float[Tensor, "batch pos expert"]:
        parts = (x, self.W_router, self.b_router)
        if self.precise_router:
            parts = tuple(part.to(torch.promote_types(x.dtype, torch.float32)) for part in parts)
        logits = linear(*parts)
        return logits if self.router_scale == 1 else logits * self.router_scale

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MoE":
        """A cast to half precision leaves the choice bias in float32: rounded, it would choose other experts."""
        before = None if self.choice_bias is None else self.choice_bias.detach()
        super()._apply(fn, recurse)
        if before is not None and self.choice_bias is not None and self.choice_bias.dtype.itemsize < 4:
            self.choice_bias.data = before.to(self.choice_bias.device, torch.float32)
        return self
