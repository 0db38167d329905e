"""Backward passes by other rules than the plain gradient, whose estimates of patching are often far better.

    relp             norms hold their scale, an activation function f(x) counts as x times the constant f(x) / x, and a
                     product of two parts as half of each with the other held (RelP: Jafari et al. 2025,
                     arxiv.org/abs/2508.21258)
    relp_attention   the same, and patterns are held
    detached         norms hold their scale, patterns are held, activation functions as above, and of a product the
                     activated part is held: what is left is linear in the stream (Golden 2025,
                     arxiv.org/abs/2505.24293)

The forward pass stays as it is. In a model without biases the sum of x times its gradient is the metric itself, for any
logit, by the last two rules: they say where it comes from, down to the last part (`gradient_x_input`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import told
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.transformer import HookedTransformer

BackwardRule = Literal["relp", "relp_attention", "detached"]


@dataclass(frozen=True, kw_only=True)
class BackwardRules:
    """What is held in a backward pass, beside the scales of norms and the slopes of activation functions.

    Of the product in a gated MLP either factor counts for "half", or the "linear" one alone.
    """

    products: Literal["half", "linear"]
    holds_patterns: bool

    def hooks(self, model: HookedTransformer) -> list[tuple[str, Callable[..., Tensor | None]]]:
        """What one pass needs beside `norm.holding_scales`.

        Raises:
            BadInput: the model has parts for which there is no rule.
        """
        cfg = model.cfg
        if cfg.experts is not None or cfg.mlp_linear_offset:
            what = "experts" if cfg.experts is not None else "MLPs that add a number to a factor"
            raise BadInput(f"there are no backward rules for {what}; leave rules= out")
        parts: dict[str, Tensor] = {}

        def note(value: Tensor, hook: HookPoint) -> None:
            parts[hook.name] = value

        def held(value: Tensor, hook: HookPoint) -> Tensor:
            return value.detach()

        found: list[tuple[str, Callable[..., Tensor | None]]] = []
        for layer in range(cfg.n_layers):
            name = f"blocks.{layer}.mlp.hook_"
            if self.holds_patterns:
                found.append((f"blocks.{layer}.attn.hook_pattern", held))
            if not cfg.attn_only:
                factors = [one for one in (f"{name}pre", f"{name}pre_linear") if one in model.hook_dict]
                activated = f"{name}mid" if f"{name}mid" in model.hook_dict else f"{name}post"
                found += [*((one, note) for one in factors), (activated, self._linear_in(parts, factors))]
        return found

    def _linear_in(self, parts: dict[str, Tensor], factors: list[str]) -> Callable[..., Tensor]:
        counted = factors[1:] if self.products == "linear" and len(factors) > 1 else factors

        def linear(value: Tensor, hook: HookPoint) -> Tensor:
            """The same value, linear in the factors that count."""
            given = {factor: parts.pop(factor) for factor in factors}
            shares = [given[factor] * _slope(value, given[factor]) for factor in counted]
            share = torch.stack(shares).mean(0) if len(shares) > 1 else shares[0]
            return value.detach() + (share - share.detach())

        return linear


def _slope(value: Tensor, x: Tensor) -> Tensor:
    """value / x as a constant; 0 where x is."""
    return (value / x).masked_fill(x == 0, 0.0).detach()


RULES: dict[BackwardRule, BackwardRules] = {
    "relp": BackwardRules(products="half", holds_patterns=False),
    "relp_attention": BackwardRules(products="half", holds_patterns=True),
    "detached": BackwardRules(products="linear", holds_patterns=True),
}


def rules_named(name: BackwardRule | None) -> BackwardRules | None:
    """The rules of that name; None is the plain gradient.

    Raises:
        BadInput: there are none.
    """
    if name is not None and name not in RULES:
        raise BadInput(f"rules must be {', '.join(RULES)} or None, got {told(name)}.{nearest(str(name), RULES)}")
    return None if name is None else RULES[name]
