"""The architecture of a mixture of experts, as one frozen value."""

from dataclasses import dataclass
from typing import Literal

from interp_hooks.errors import ConfigError
from interp_hooks.model.field_types import check_fields, make_tuples

RouterScores = Literal["softmax", "sigmoid", "sparsemixer"]
GroupScore = Literal["max", "top2"]
Choice = Literal["scores", "logits"]


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """A mixture of experts in place of the MLP (Shazeer et al. 2017, arxiv.org/abs/1701.06538).

        >>> experts = ExpertsConfig(n_experts=4, experts_per_token=2, d_expert=8, layers=(False, True))
        >>> sizes = dict(n_layers=2, d_model=16, n_ctx=8, n_heads=2, d_vocab=50, act_fn="relu")
        >>> HookedTransformerConfig(**sizes, experts=experts).has_experts(1)
        True

    `layers` says for each layer whether it has experts. `scores` is the function that turns router logits into weights.
    Of these the `experts_per_token` highest are kept; with `biased_choice` a learned bias is added for the choice, to
    the scores or, with `choice="logits"`, to what they are made from. With `n_groups` groups of experts, only the
    `groups_kept` best groups are considered; a group is rated by its best expert, or by the sum of its best two
    (`group_score`). `normalize_weights` divides the kept weights by their sum (at least `min_weight_sum`) plus
    `weight_sum_offset`, and `weight_scale` multiplies them; with `weighted_inputs` they multiply what neurons get, not
    what experts write. `d_shared` is the width of an MLP that every token passes (0: none), `shared_gate` multiplies
    its output by a sigmoid, and `shared_scale` by a number. `jitter` is the width of the sparse mixer's comparison (Liu
    et al. 2024, arxiv.org/abs/2409.12136). With `precise_router` the router computes in float32, also in a
    half-precision model. With `own_norms` router, experts and shared MLP each read the stream through an RMSNorm of
    their own, and what experts and shared MLP write passes one each; `router_scale` multiplies router logits, and with
    `expert_scales` a learned number for each expert multiplies its weight in the end. With `output_norm` what a mixture
    writes, shared MLP included, passes an RMSNorm of its own. With `output_bias` a bias is added in the end.
    """

    n_experts: int
    experts_per_token: int
    d_expert: int
    layers: tuple[bool, ...]
    scores: RouterScores = "softmax"
    normalize_weights: bool = True
    weight_scale: float = 1.0
    min_weight_sum: float = 0.0
    weight_sum_offset: float = 0.0
    biased_choice: bool = False
    choice: Choice = "scores"
    n_groups: int = 1
    groups_kept: int = 1
    group_score: GroupScore = "max"
    jitter: float = 0.0
    weighted_inputs: bool = False
    d_shared: int = 0
    shared_gate: bool = False
    shared_scale: float = 1.0
    precise_router: bool = False
    own_norms: bool = False
    router_scale: float = 1.0
    expert_scales: bool = False
    output_norm: bool = False
    output_bias: bool = False

    def __post_init__(self) -> None:
        make_tuples(self)
        check_fields(self)
        if not 0 < self.experts_per_token <= self.n_experts:
            raise ConfigError(f"experts_per_token must be 1..n_experts={self.n_experts}, got {self.experts_per_token}")
        if self.n_groups < 1 or self.n_experts % self.n_groups or not 0 < self.groups_kept <= self.n_groups:
            raise ConfigError(
                f"n_groups={self.n_groups} must divide n_experts={self.n_experts} and be at least "
                f"groups_kept={self.groups_kept}"
            )
        if self.experts_per_token > self.n_experts // self.n_groups * self.groups_kept:
            raise ConfigError(
                f"experts_per_token={self.experts_per_token} is more than groups_kept={self.groups_kept} groups of "
                f"{self.n_experts // self.n_groups} experts have"
            )
