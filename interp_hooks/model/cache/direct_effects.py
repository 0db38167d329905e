"""Direct effects: parts of the stream as the norm that reads them makes them, and what they then add to logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import about, fits, told
from interp_hooks.hooks.slices import Slice, SliceInput
from interp_hooks.model.cache.decomposition import Decomposition
from interp_hooks.model.cache.parts import norm_reading


class DirectEffects(Decomposition):
    """The methods of a cache that read parts of the stream with the norms' scales of the run."""

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "*parts_and_place d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "*parts_and_place_out d_model"]:
        """Parts of the stream after the norm that reads `layer` (by default the final norm).

        They are centred (LayerNorm), divided by the scale of this run, and multiplied by the gain if it is not folded;
        the bias is left out, since it belongs to no part. The stack is [part, batch, pos, d_model], or has fewer or
        more axes for parts. Its positions must be those of `pos_slice` already, while `batch_slice` is applied here.
        With `has_batch_dim=False` the stack belongs to one prompt, which `batch_slice` names. `recompute_ln` treats
        each row as a whole stream, as a logit lens does: with statistics of its own, and with the bias.

        Raises:
            BadInput: a stack that does not fit the cached scale.
        """
        layer = self.layers_before(layer, mlp_input)
        norm = self.known_model.norm_reading(layer, mlp_input)
        _check_flags(recompute_ln=recompute_ln)
        stack = self._chosen_prompts(residual_stack, pos_slice, batch_slice, has_batch_dim)
        if recompute_ln or norm.kind is None:
            return norm.fused(stack)
        (frozen,) = norm_reading(self, layer, mlp_input, Slice(pos_slice))
        scale = frozen.scale
        if self.has_batch_dim:
            scale = Slice(batch_slice if has_batch_dim else self._one_prompt(batch_slice)).apply(scale, 0)
        place = scale.shape[:-1]
        if list(stack.shape[-1 - len(place) : -1]) != list(place):
            raise BadInput(
                f"a stack of shape {list(stack.shape)} does not end in the places of this norm's scale and d_model: "
                f"expected [..., {', '.join(map(str, (*place, stack.shape[-1])))}]; the stack must have been through "
                "pos_slice, and has_batch_dim tell whether it has an axis of prompts"
            )
        return replace(frozen, scale=scale)(stack)

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "*parts_and_place d_model"],
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
        include_bias: bool = False,
    ) -> Float[Tensor, "..."]:
        """What every part of the final stream adds to a logit, or to the difference of two logits (`incorrect_tokens`).

        Stack and slices are as in `apply_ln_to_stack`. `tokens` are a token id, a string that is one token, or one of
        these for each prompt, or for each prompt and position [batch, pos], of what is returned. The effects of a full
        decomposition sum to the logit minus a constant; `include_bias` adds that constant (from the final norm's bias
        and b_U) as a last row, so that the rows sum to the logit (before its soft cap, if the model has one).

        Raises:
            BadInput: tokens that don't fit the stack, or a model with a masked-LM head, whose activation function lies
                between stream and logits.
        """
        _check_flags(include_bias=include_bias)
        if self.known_model.cfg.mlm_head:
            raise BadInput("a masked-LM head is not linear, so that a logit is no sum over parts of the stream")
        parts = self.apply_ln_to_stack(residual_stack, None, False, pos_slice, batch_slice, has_batch_dim)
        axes = ["batch"] * (self.has_batch_dim and has_batch_dim and Slice(batch_slice).mode != "int")
        axes += ["pos"] * (Slice(pos_slice).mode != "int")
        place = dict(zip(axes, parts.shape[-1 - len(axes) : -1], strict=True))
        directions, constants = self._logit_directions(tokens, place, "tokens")
        if incorrect_tokens is not None:
            wrong_directions, wrong_constants = self._logit_directions(incorrect_tokens, place, "incorrect_tokens")
            directions, constants = directions - wrong_directions, constants - wrong_constants
        effects = (parts * directions.to(parts.device)).sum(-1)
        if include_bias:
            effects = torch.cat((effects, constants.to(effects).expand_as(effects[:1])))
        return effects

    def _chosen_prompts(
        self, stack: Tensor, pos_slice: SliceInput, batch_slice: SliceInput, has_batch_dim: bool
    ) -> Tensor:
        """The stack at the prompts that `batch_slice` chooses."""
        if not isinstance(stack, Tensor) or not stack.is_floating_point() or not stack.ndim:
            raise BadInput(f"residual_stack must be a floating tensor [..., d_model], got {told(stack)}")
        _check_flags(has_batch_dim=has_batch_dim)
        chosen = Slice(batch_slice)
        if chosen.mode == "identity" or not has_batch_dim:
            return stack
        if not self.has_batch_dim:
            raise BadInput("batch_slice needs an axis of prompts, which this cache has lost (remove_batch_dim)")
        batch_axis = -2 if Slice(pos_slice).mode == "int" else -3
        prompts = len(next(iter(self.values())))
        if stack.ndim <= -batch_axis or stack.shape[batch_axis] != prompts:
            raise BadInput(
                f"batch_slice chooses among the {prompts} prompts of this cache, but the stack has shape "
                f"{list(stack.shape)}; pass parts at all prompts, or has_batch_dim=False for parts at one"
            )
        return chosen.apply(stack, batch_axis)

    def _one_prompt(self, batch_slice: SliceInput) -> Slice:
        """The prompt to which a stack without an axis of prompts belongs."""
        chosen, prompts = Slice(batch_slice), len(next(iter(self.values())))
        if chosen.mode == "int":
            return chosen
        if chosen.mode == "identity" and prompts == 1:
            return Slice(0)
        raise BadInput(f"has_batch_dim=False needs batch_slice to be one of the {prompts} prompts, got {batch_slice!r}")

    def _logit_directions(
        self, tokens: Any, place: dict[str, int], argument: str
    ) -> tuple[Float[Tensor, "*rest d_model"], Float[Tensor, "*rest"]]:
        """For each token its column of W_U, and the constant that the final norm's bias and b_U add to its logit."""
        model = self.known_model
        with about(argument):
            ids = _placed(model.token_ids(tokens), place)
        scale = model.cfg.logits_scale
        directions = model.W_U.detach().T[ids] * scale
        bias, constants = model.ln_final.b, model.b_U.detach()[ids] * scale
        return directions, constants if bias is None else constants + directions @ bias.detach()


def _check_flags(**flags: Any) -> None:
    """Raises BadInput for a flag that is no bool."""
    for name, value in flags.items():
        if not fits(value, bool):
            raise BadInput(f"{name} must be a bool, got {told(value)}")


def _placed(ids: Int[Tensor, "*given"], place: dict[str, int]) -> Int[Tensor, "*places"]:
    """Token ids for one, each prompt, or each prompt and position, with an axis for each of `place`."""
    if ids.numel() == 1:
        return ids.reshape(())
    named = ["batch", "pos"] if ids.ndim == 2 else [next(iter(place), "batch")]
    sizes = dict(zip(named, ids.shape, strict=False))
    if ids.ndim > 2 or any(size not in (1, place.get(axis, 1)) for axis, size in sizes.items()):
        expected = ", ".join(f"{axis}={size}" for axis, size in place.items())
        raise BadInput(
            f"expected one token, one for each prompt, or one for each prompt and position of the stack [{expected}], "
            f"got shape {list(ids.shape)}"
        )
    return ids.reshape([sizes.get(axis, 1) for axis in place])
