"""The activations of one forward pass, and what they add up to.

`ActivationCache` is a mapping from hook name to tensor that also understands short keys: `cache["q", 3]`,
`cache["resid_post", -1]`, `cache["scale", 0, "ln1"]`, `cache["mlp_out0"]`. In a key, layer -1 is the last layer.

The residual stream is a sum, so its parts can be listed (`decompose_resid`, `stack_head_results`), and since the final
norm is linear once its scale is fixed, each part has a direct effect on each logit:

    logit[token] = sum over parts c of  (c - mean c) / scale * w @ W_U[:, token]   +   b @ W_U[:, token] + b_U[token]

The norm's gain w is always inside a part's effect; its bias b and b_U are a row "bias" of their own where asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, UnknownHook, nearest
from interp_hooks.names import get_act_name

SliceInput = int | tuple[int, ...] | Sequence[int] | Tensor | slice | None

CENTRED = ("LN", "LNPre")  # the kinds of norm that subtract the mean


def take(tensor: Tensor, where: SliceInput, dim: int) -> Tensor:
    """Index one axis: an int drops it, a tuple is a slice, a list, array or tensor picks, None takes all.

    Raises:
        BadInput: an index outside the axis.
    """
    if where is None:
        return tensor
    size = tensor.shape[dim]
    if isinstance(where, tuple):
        where = slice(*where)
    if isinstance(where, slice):
        where = range(*where.indices(size))
    listed = [where] if isinstance(where, int) else [int(one) for one in where]
    if outside := [one for one in listed if not -size <= one < size]:
        raise BadInput(f"position (or prompt) {outside[0]} is out of range for an axis of {size}")
    if isinstance(where, int):
        return tensor.select(dim, where)
    return tensor.index_select(dim, torch.tensor(listed, device=tensor.device) % size)


def normalize(
    parts: Float[Tensor, "*rest d_model"], scale: Tensor, centre: bool, gain: Tensor | None
) -> Float[Tensor, "*rest d_model"]:
    """A norm with its scale held fixed, which is linear: applied to parts of a stream, without the bias."""
    if centre:
        parts = parts - parts.mean(-1, keepdim=True)
    parts = parts / scale
    return parts if gain is None else parts * gain


class ActivationCache(Mapping[str, Tensor]):
    """What `run_with_cache` returns: activations by hook name, in order of execution.

    Entries may share memory with each other (one block's `resid_post` is the next one's `resid_pre`): to change one,
    `clone()` it first. `has_batch_dim` is False once the batch axis of a single prompt was removed.
    """

    def __init__(self, cache_dict: Mapping[str, Tensor], model: Any, has_batch_dim: bool = True) -> None:
        self.cache_dict = dict(cache_dict)
        self.model = model
        self.has_batch_dim = has_batch_dim

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        name = self._full_name(key)
        if name not in self.cache_dict:
            known = name in self.model.hook_dict
            why = "was not cached in this run" if known else "is no hook point"
            raise UnknownHook(f"{key!r} ({name}) {why}.{nearest(name, self.cache_dict)}")
        return self.cache_dict[name]

    def _full_name(self, key: Any) -> str:
        if isinstance(key, str):
            return get_act_name(key)
        if not (isinstance(key, tuple) and 2 <= len(key) <= 3 and isinstance(key[0], str)):
            raise UnknownHook(f"a key is a hook name or (name, layer) or (name, layer, sublayer), got {key!r}")
        name, layer, *kind = key
        if isinstance(layer, int) and layer < 0:
            layer += self.model.cfg.n_layers
        return get_act_name(name, layer, kind[0] if kind else None)

    def __contains__(self, key: object) -> bool:
        try:
            return key in self.cache_dict or self._full_name(key) in self.cache_dict
        except (UnknownHook, TypeError):
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache_dict)

    def __len__(self) -> int:
        return len(self.cache_dict)

    def __repr__(self) -> str:
        return f"ActivationCache({len(self)} activations: {', '.join(list(self)[:4])}, ...)"

    def to(self, device: torch.device | str) -> ActivationCache:
        """A cache of the same activations on another device."""
        moved = {name: value.to(device) for name, value in self.cache_dict.items()}
        return ActivationCache(moved, self.model, self.has_batch_dim)

    def remove_batch_dim(self) -> ActivationCache:
        """This cache without the batch axis of its only prompt, in place.

        Raises:
            BadInput: there are several prompts.
        """
        if not self.has_batch_dim:
            return self
        several = {name: value.shape[0] for name, value in self.cache_dict.items() if value.shape[0] != 1}
        if several:
            name, size = next(iter(several.items()))
            raise BadInput(f"the batch axis can only be removed from a single prompt, but {name} has {size}")
        self.cache_dict = {name: value[0] for name, value in self.cache_dict.items()}
        self.has_batch_dim = False
        return self

    def _layer(self, layer: int | None, mlp_input: bool = False) -> int:
        """How many layers count: None and -1 are all of them."""
        n_layers: int = self.model.cfg.n_layers
        if layer is None or layer == -1:
            layer = n_layers
        if not 0 <= layer <= n_layers:
            raise BadInput(f"layer must be 0..{n_layers}, or -1 or None for the whole model, got {layer}")
        if mlp_input and (layer == n_layers or self.model.cfg.attn_only):
            raise BadInput(f"mlp_input=True needs a layer 0..{n_layers - 1} that has an MLP, got layer {layer}")
        return layer

    @property
    def _pos_dim(self) -> int:
        return 1 if self.has_batch_dim else 0

    def _check_additive(self) -> None:
        if self.model.cfg.norm_placement == "post":
            raise BadInput(
                "a post-norm model normalizes its stream after every addition, so that it is no sum of what was written"
            )

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
        bias, it is a last part, labelled "bias", so that the parts still add up.
        """
        if mode not in ("all", "attn", "mlp"):
            raise BadInput(f"mode must be 'all', 'attn' or 'mlp', got {mode!r}")
        layer = self._layer(layer, mlp_input)
        parts: dict[str, Tensor] = {}
        self._check_additive()
        if incl_embeds and self.model.cfg.embed_norm_type is not None:
            parts["embed"] = self["resid_pre", 0]  # normalized together
        elif incl_embeds:
            names = {f"{kind}embed": f"hook_{kind}embed" for kind in ("", "pos_", "token_type_")}
            parts |= {label: self[name] for label, name in names.items() if name in self.model.hook_dict}
        for at in range(layer):
            if mode != "mlp":
                parts[f"{at}_attn_out"] = self["attn_out", at]
            if mode != "attn" and not self.model.cfg.attn_only:
                parts[f"{at}_mlp_out"] = self["mlp_out", at]
        if mlp_input and mode != "mlp" and not self.model.cfg.parallel_attn_mlp:
            parts[f"{layer}_attn_out"] = self["attn_out", layer]
        return self._stack(parts, layer, mlp_input, apply_ln, pos_slice, return_labels)

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
        layer = self._layer(layer, mlp_input)
        mids = incl_mid and "blocks.0.hook_resid_mid" in self.model.hook_dict
        streams: dict[str, Tensor] = {}
        for at in range(layer):
            streams[f"{at}_pre"] = self["resid_pre", at]
            if mids:
                streams[f"{at}_mid"] = self["resid_mid", at]
        if layer == self.model.cfg.n_layers:
            post_norm = self.model.cfg.norm_placement == "post"
            streams["final_post"] = self["normalized_resid_post" if post_norm else "resid_post", -1]
        else:
            streams[f"{layer}_pre"] = self["resid_pre", layer]
            if mlp_input and not self.model.cfg.parallel_attn_mlp:
                streams[f"{layer}_mid"] = self["resid_mid", layer]
        stack = torch.stack([take(stream, pos_slice, self._pos_dim) for stream in streams.values()])
        if apply_ln:
            stack = self.model.norm_reading(layer, mlp_input).fused(stack)
        return (stack, list(streams)) if return_labels else stack

    def stack_head_results(
        self,
        layer: int = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: SliceInput = None,
        apply_ln: bool = False,
    ) -> Any:
        """What every head before `layer` adds to the stream: [head, batch, pos, d_model], labels "L0H3".

        Computed from the cached z; where attention's output passes a norm (`ln1_post`), with its scale of this run.
        `incl_remainder` adds the rest of the stream (embeddings, MLPs, biases) as a last row.
        """
        self._check_additive()
        layer = self._layer(layer)
        results: dict[str, Tensor] = {}
        for at in range(layer):
            z, W_O = take(self["z", at], pos_slice, self._pos_dim), self.model.blocks[at].attn.W_O
            heads = torch.einsum("...hk,hkd->h...d", z, W_O.detach()) * self.model.cfg.residual_scale
            norm = self.model.blocks[at].ln1_post
            if norm.kind is not None:
                scale = take(self[f"blocks.{at}.ln1_post.hook_scale"], pos_slice, self._pos_dim)
                heads = normalize(heads, scale, norm.kind in CENTRED, norm.gain).to(z.dtype).detach()
            results |= {f"L{at}H{head}": result for head, result in enumerate(heads)}
        if incl_remainder:
            stream = self["resid_post", -1] if layer == self.model.cfg.n_layers else self["resid_pre", layer]
            stream = take(stream, pos_slice, self._pos_dim)
            results["remainder"] = stream - sum(results.values(), torch.zeros_like(stream))
        if not results:
            raise BadInput("no head stands before layer 0; ask for a later layer, or incl_remainder=True")
        return self._stack(results, layer, False, apply_ln, None, return_labels, pos_slice)

    def _stack(
        self,
        parts: dict[str, Tensor],
        layer: int,
        mlp_input: bool,
        apply_ln: bool,
        pos_slice: SliceInput,
        return_labels: bool,
        taken: SliceInput = None,
    ) -> Any:
        """Stack labelled parts; `taken` is the position slice that they already went through."""
        if not parts:
            raise BadInput(f"there is nothing to stack before layer {layer}")
        stack = torch.stack([take(part, pos_slice, self._pos_dim) for part in parts.values()])
        labels = list(parts)
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input, pos_slice if taken is None else taken)
            bias = self.model.norm_reading(layer, mlp_input).b
            if bias is not None:
                stack = torch.cat((stack, bias.detach().expand_as(stack[:1])))
                labels.append("bias")
        return (stack, labels) if return_labels else stack

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "part *rest d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "part *rest d_model"]:
        """What the norm that reads `layer` (the final one by default) makes of parts of its input.

        Centred (LayerNorm), divided by the scale of this run, times the gain if it is not folded. The bias is left out,
        since it belongs to no part. `pos_slice` and `batch_slice` are the slices that the stack already went through.
        `recompute_ln` gives each part the statistics that it would have by itself.
        """
        layer = self._layer(layer, mlp_input)
        norm = self.model.norm_reading(layer, mlp_input)
        if norm.kind is None:
            return residual_stack
        centre, gain = norm.kind in CENTRED, None if norm.gain is None else norm.gain.detach()
        if recompute_ln:
            scale = norm.statistics(residual_stack)[1]
        else:
            final = layer == self.model.cfg.n_layers
            scale = self["ln_final.hook_scale"] if final else self["scale", layer, self._norm_before(mlp_input)]
            if self.has_batch_dim:
                scale = take(scale, batch_slice, 0)
            batch_kept = self.has_batch_dim and has_batch_dim and not isinstance(batch_slice, int)
            scale = take(scale, pos_slice, 1 if batch_kept else 0)
        return normalize(residual_stack, scale, centre, gain).to(residual_stack.dtype)

    def _norm_before(self, mlp_input: bool) -> str:
        return "ln2" if mlp_input and not self.model.cfg.parallel_shared_norm else "ln1"

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "part *rest d_model"],
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
        include_bias: bool = False,
    ) -> Float[Tensor, "row ..."]:
        """The direct effect of every part of the final stream on a logit, or on a difference of two logits.

        `tokens` (and `incorrect_tokens`) are a token, a string, one per prompt, or a tensor [batch, pos]. The effects
        of a full decomposition sum to the logit minus a constant; `include_bias` adds that constant (the final norm's
        bias and b_U) as a last row, so that the rows sum to the logit (before its soft cap, if the model has one).

        Raises:
            BadInput: a model with a masked-LM head, whose activation function lies between stream and logits.
        """
        if self.model.cfg.mlm_head:
            raise BadInput("a masked-LM head is not linear, so that a logit is no sum over parts of the stream")
        directions, constants = self._logit_directions(tokens)
        if incorrect_tokens is not None:
            wrong_directions, wrong_constants = self._logit_directions(incorrect_tokens)
            directions, constants = directions - wrong_directions, constants - wrong_constants
        if has_batch_dim and isinstance(batch_slice, int):
            has_batch_dim = False
        if directions.ndim > 1:
            directions, constants = take(directions, batch_slice, 0), take(constants, batch_slice, 0)
        if directions.ndim == 3:
            directions, constants = take(directions, pos_slice, 1), take(constants, pos_slice, 1)
        elif directions.ndim == 2 and not isinstance(pos_slice, int) and residual_stack.ndim > 3:
            directions, constants = directions[:, None], constants[:, None]
        normalized = self.apply_ln_to_stack(residual_stack, None, False, pos_slice, batch_slice, has_batch_dim)
        effects = (normalized * directions).sum(-1)
        if include_bias:
            effects = torch.cat((effects, constants.expand_as(effects[0])[None]))
        return effects

    def _logit_directions(self, tokens: Any) -> tuple[Float[Tensor, "*rest d_model"], Float[Tensor, "*rest"]]:
        """Per token its column of W_U, and the constant that the final norm's bias and b_U add to its logit."""
        ids: Int[Tensor, "*rest"] = self.model.token_ids(tokens)
        scale = self.model.cfg.logits_scale
        W_U, b_U = self.model.W_U.detach(), self.model.b_U.detach() * scale
        directions = W_U.T[ids] * scale
        bias = self.model.ln_final.b
        constants = b_U[ids] if bias is None else b_U[ids] + directions @ bias.detach()
        return directions, constants
