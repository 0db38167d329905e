"""A model around one prompt, with its MLPs in terms of transcoder features: the local replacement model.

Attention patterns, gates on heads and the scales of norms are held as they were, and of an MLP's output only a
transcoder's skip follows its input. What is left is linear (Ameisen et al. 2025,
transformer-circuits.pub/2025/attribution-graphs):

    source    the embedding of a token, a feature that is active at a position (its activation times its decoder row),
              an error at a position (what an MLP writes and its features don't)
    target    a feature's pre-activation, a logit less the mean over the vocabulary
    target value = sum over sources of their contributions + bias

The bias holds whatever does not depend on the sources: position embeddings, biases of the model and of transcoders.
A linear pass is a pass of its own: all patterns and scales are held in it, and one graph serves many targets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.circuits.attribution_graphs.nodes import ERROR, FEATURE, KINDS, TOKEN, Features, Places, Sources
from interp_hooks.dictionaries import CrossLayerTranscoder, Transcoder
from interp_hooks.errors import BadInput
from interp_hooks.hooks.modes import no_gradients, with_constant_weights
from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Run
from interp_hooks.model.cache.frozen_norm import FrozenNorm
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

EMBED = "hook_embed"
GATHERED = 2**24  # numbers of gathered gradients that are held at once
Transcoders = CrossLayerTranscoder | Sequence[Transcoder]


class LocalModel:
    """The linear model around a prompt [pos]: what its sources are, and what they contribute to targets.

    With `first_as_error` the first position's features count as part of its errors: on a BOS token, where attention
    rests, activations are unlike all others.

    Raises:
        BadInput: MLPs or attention of another kind, or transcoders that read or write elsewhere.
    """

    @no_gradients
    def __init__(
        self,
        model: HookedTransformer,
        tokens: Int[Tensor, " pos"],
        transcoders: Transcoders,
        *,
        first_as_error: bool = False,
    ) -> None:
        one = CrossLayerTranscoder.of(transcoders) if isinstance(transcoders, Sequence) else transcoders
        self.model, self.transcoders, self.first_as_error = model, one.to(model.device), first_as_error
        self.tokens, self.n_pos = tokens[None].to(model.device), len(tokens)
        self.stream = Stream(model)
        one.refuse_unfit(model)
        self.writers = _writers(model, one)
        self.final = self.stream.entering(model.cfg.n_layers)
        held = [
            name for name in model.hook_dict if name.endswith(("hook_scale", "attn.hook_pattern", "attn.hook_gate"))
        ]
        self.recording = record(model, Run(self.tokens), {*held, *one.layers_in, *self.writers, EMBED, self.final})
        self.held = {name: self.recording[name] for name in held}
        self.reads = [self.recording[hook][0] for hook in one.layers_in]
        self._encode(first_as_error)

    def _encode(self, first_as_error: bool) -> None:
        """Find active features, what they and the skips reconstruct, and the errors."""
        one, features, self.features = self.transcoders, [], []
        for layer, read in enumerate(self.reads):
            pre = one.pre_of(layer, read)
            found = one.activations[layer](pre)
            if first_as_error:
                found[0] = 0.0
            pos, index = found.nonzero().unbind(1)
            activation = found[pos, index]
            vectors = one.decoder_rows(layer, index) * activation[:, None, None]
            self.features.append(
                Features(
                    pos=pos,
                    index=index,
                    activation=activation,
                    pre_activation=pre[pos, index],
                    vectors=vectors.to(read),
                )
            )
            features.append(found)
        self.errors = torch.stack(
            [
                self.recording[hook][0]
                if layer is None
                else self.recording[hook][0] - one.decode_layer(layer, features[: layer + 1], self.reads[layer])
                for hook, layer in self.writers.items()
            ]
        )

    # -------------------------------------------------------------------------------------------------- linear passes

    @property
    def layers(self) -> list[int]:
        """The model's layer of each layer of the transcoders."""
        return [self.stream.place(hook).layer for hook in self.transcoders.layers_out]

    @cached_property
    def places(self) -> Places:
        """All sources, in the order of `Sources.flat`."""
        counts = [len(found) for found in self.features]
        writers = [self.stream.place(hook).layer for hook in self.writers]
        n_errors, positions = len(writers) * self.n_pos, torch.arange(self.n_pos)
        of_kind = torch.tensor([sum(counts), n_errors, self.n_pos])
        of_layer = torch.tensor([*counts, *[self.n_pos] * len(writers), self.n_pos])
        kind = torch.tensor([FEATURE, ERROR, TOKEN]).repeat_interleave(of_kind)
        layer = torch.tensor([*self.layers, *writers, -1]).repeat_interleave(of_layer)
        pos = [*(found.pos.cpu() for found in self.features), positions.repeat(len(writers)), positions]
        index = [*(found.index.cpu() for found in self.features), torch.full((n_errors,), -1), self.tokens[0].cpu()]
        return Places(kind=kind, layer=layer, pos=torch.cat(pos), index=torch.cat(index))

    def written_by(self, kind: int, layer: int, pos: int, index: int) -> dict[str, Float[Tensor, "pos d_model"]]:
        """What one source adds where embedding and MLPs write, by hook; layers are the model's.

        Raises:
            BadInput: there is no such source.
        """
        hooks, zero = list(self.writers), torch.zeros_like(self.recording[EMBED][0])
        if kind == TOKEN:
            hook, vector = EMBED, self.recording[EMBED][0, pos]
            return {hook: zero.index_copy(0, torch.tensor([pos], device=zero.device), vector[None])}
        hook = next((hook for hook in hooks if self.stream.place(hook).layer == layer), None)
        if hook is None or not 0 <= pos < self.n_pos:
            raise BadInput(f"there is no {KINDS[kind]} in layer {layer} at position {pos}")
        at = torch.tensor([pos], device=zero.device)
        if kind == ERROR:
            return {hook: zero.index_copy(0, at, self.errors[hooks.index(hook), pos][None].to(zero))}
        place = self.writers[hook]
        assert place is not None
        found = self.features[place]
        which = ((found.pos == pos) & (found.index == index)).nonzero()[:, 0]
        if not len(which):
            raise BadInput(f"feature {index} of layer {layer} is not active at position {pos}")
        outputs = [self.transcoders.layers_out[output] for output in self.transcoders.outputs(place)]
        vectors = found.vectors[int(which[0])]
        return {hook: zero.index_copy(0, at, vector[None]) for hook, vector in zip(outputs, vectors, strict=True)}

    def skip(self, layer: int | None, x: Tensor) -> Tensor | float:
        """What passes by a layer's features."""
        skip = None if layer is None else self.transcoders.W_skip[layer]
        return 0.0 if skip is None else x @ skip.to(x)

    def run(
        self, given: Mapping[str, Tensor], watch: Collection[str], *, attention: bool = True
    ) -> dict[str, Float[Tensor, "copy pos ..."]]:
        """A linear pass: `given` [copy, pos, d_model] are what embedding and MLPs write, but for skips.

        Without `attention` nothing comes from other positions, nor from the same one through values.
        """
        copies, seen = len(next(iter(given.values()))), dict[str, Tensor]()
        by_writer = {
            hook: self.transcoders.layers_in[layer] for hook, layer in self.writers.items() if layer is not None
        }

        def hold(value: Tensor, hook: HookPoint) -> Tensor:
            fixed = self.held[hook.name]
            return torch.zeros_like(value) if not attention and _is_pattern(hook.name) else fixed.expand_as(value)

        def see(value: Tensor, hook: HookPoint) -> None:
            seen[hook.name] = value

        def write(value: Tensor, hook: HookPoint) -> Tensor:
            layer = self.writers.get(hook.name)
            return given[hook.name] + self.skip(layer, seen[by_writer[hook.name]] if layer is not None else value)

        looked = {*watch, *by_writer.values()}
        hooks: list[tuple[str, Callable[..., Tensor | None]]] = [(name, hold) for name in self.held if self._used(name)]
        hooks += [(name, see) for name in looked] + [(name, write) for name in (EMBED, *self.writers)]
        self.model.run_with_hooks(
            self.tokens.expand(copies, -1),
            return_type=None,
            stop_at_layer=self.model.cfg.n_layers,
            fwd_hooks=hooks,
        )
        return {name: seen[name] for name in watch}

    def _used(self, held: str) -> bool:
        return self.stream.place(held).layer < self.model.cfg.n_layers

    @cached_property
    def written(self) -> dict[str, Float[Tensor, "pos d_model"]]:
        """What embedding and MLPs wrote, but for skips."""
        values = {EMBED: self.recording[EMBED][0]}
        for hook, layer in self.writers.items():
            skipped = 0.0 if layer is None else self.skip(layer, self.reads[layer])
            values[hook] = self.recording[hook][0] - skipped
        return values

    @cached_property
    def constants(self) -> dict[str, Float[Tensor, "pos d_model"]]:
        """What they write without any source."""
        values = {EMBED: torch.zeros_like(self.recording[EMBED][0])}
        for hook, layer in self.writers.items():
            still = torch.zeros_like(self.recording[hook][0])
            values[hook] = still if layer is None else still + self.transcoders.b_dec[layer].to(still)
        return values

    @no_gradients
    def without_sources(self, watch: Collection[str]) -> dict[str, Tensor]:
        """What hooks show where there is no source: their bias."""
        return self.run({hook: value[None] for hook, value in self.constants.items()}, watch)

    # -------------------------------------------------------------------------------------------------------- targets

    def asker(self, copies: int, watch: Collection[str], *, attention: bool = True) -> Asker:
        """A pass with a graph, which answers for so many targets at a time at the hooks `watch`."""
        return Asker(self, copies, watch, attention)

    def contributions(self, gradients: Mapping[str, Tensor]) -> Sources:
        """What every source contributes, from the gradients [target, pos, d_model] where it writes."""
        hooks = list(self.writers)
        by_layer = {layer: hook for hook, layer in self.writers.items() if layer is not None}
        features = []
        for layer, found in enumerate(self.features):
            total = 0.0
            for place, output in enumerate(self.transcoders.outputs(layer)):
                total = total + _products(gradients[by_layer[output]], found.pos, found.vectors[:, place])
            features.append(total)
        errors = torch.stack(
            [(gradients[hook] * error).sum(-1) for hook, error in zip(hooks, self.errors, strict=True)]
        )
        tokens = (gradients[EMBED] * self.recording[EMBED][0]).sum(-1)
        return Sources(features=features, errors=errors.movedim(0, -2), tokens=tokens)

    # --------------------------------------------------------------------------------------------------------- logits

    @cached_property
    def logits(self) -> Float[Tensor, " d_vocab"]:
        """The logits at the last position, as the model gives them."""
        return self.model.logits(self.recording[self.final][:, -1:])[0, 0]

    def onto_logits(self, ids: Int[Tensor, " n"]) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
        """Directions of the final stream at the last position whose products with it, and a number added to each, are
        some logits before any soft cap, less the mean over the vocabulary."""
        unembed, norm = self.model.unembed, self.model.ln_final
        onto = (unembed.W_U[:, ids] - unembed.W_U.mean(1, keepdim=True)).T.detach() * unembed.scale
        bias = (unembed.b_U[ids] - unembed.b_U.mean()).detach() * unembed.scale
        if norm.kind is None:
            return onto, bias
        frozen = FrozenNorm.of(norm, self.held["ln_final.hook_scale"][0, -1])
        if frozen.bias is not None:
            bias = bias + onto @ frozen.bias.to(onto)
        return (frozen.pulled_back(onto) / frozen.scale).to(onto), bias


class Asker:
    """Gradients of targets with respect to what embedding and MLPs write, some targets at a time."""

    @with_constant_weights
    def __init__(self, local: LocalModel, copies: int, watch: Collection[str], attention: bool) -> None:
        self.copies = copies
        self.leaves = {
            hook: value.expand(copies, -1, -1).clone().requires_grad_() for hook, value in local.written.items()
        }
        self.seen = local.run(self.leaves, watch, attention=attention)

    def gradients(
        self, hook: str, cotangents: Tensor, of: Sequence[str] | None = None
    ) -> dict[str, Float[Tensor, "target pos ..."]]:
        """Those of products of a hook's activation with cotangents [target, pos, ...], at most `copies` of them.

        They are with respect to what embedding and MLPs write, or to the activations of watched hooks.
        """
        n, asked = len(cotangents), self.leaves if of is None else {name: self.seen[name] for name in of}
        if n < self.copies:
            cotangents = torch.cat((cotangents, cotangents.new_zeros(self.copies - n, *cotangents.shape[1:])))
        value = self.seen[hook]
        found = torch.autograd.grad(
            value, list(asked.values()), cotangents.to(value), retain_graph=True, materialize_grads=True
        )
        return {name: gradient[:n] for name, gradient in zip(asked, found, strict=True)}


def _products(
    gradients: Float[Tensor, "target pos d"], pos: Int[Tensor, " n"], vectors: Float[Tensor, "n d"]
) -> Float[Tensor, "target n"]:
    """The product of each vector with the gradients at its position."""
    size = max(1, GATHERED // max(1, len(gradients) * vectors.shape[1]))
    parts = zip(pos.split(size), vectors.split(size), strict=True)
    found = [torch.einsum("tnd,nd->tn", gradients[:, at], part) for at, part in parts]
    return torch.cat(found, dim=1) if found else gradients.new_zeros(len(gradients), 0)


def _is_pattern(hook: str) -> bool:
    return hook.endswith("attn.hook_pattern")


def _writers(model: HookedTransformer, transcoders: CrossLayerTranscoder) -> dict[str, int | None]:
    """The hooks where MLPs write, in the order of layers, and which layer of the transcoders replaces each.

    Raises:
        BadInput: the transcoders write elsewhere, or the model has other parts than attention and MLPs.
    """
    cfg = model.cfg
    if cfg.attn_only or cfg.mlm_head or cfg.attention_dir != "causal" or cfg.mixers is not None:
        raise BadInput("attribution graphs are of causal language models whose layers have attention and MLPs")
    stops = [
        stop
        for stop in Stream(model).stops
        if stop.does == "write" and stop.names and stop.hook != "blocks.0.hook_resid_pre"
    ]
    mlps = [stop.hook for stop in stops if stop.hook.endswith(".hook_mlp_out")]
    other = [stop.hook for stop in stops if not stop.hook.endswith((".hook_mlp_out", ".attn.hook_z"))]
    if other:
        raise BadInput(f"attribution graphs hold attention patterns; {other[0]} is written by something else")
    if wrong := [hook for hook in transcoders.layers_out if hook not in mlps]:
        raise BadInput(f"attribution graphs replace MLPs, so transcoders must write hook_mlp_out, not {wrong[0]}")
    if len(set(transcoders.layers_out)) < transcoders.n_layers:
        raise BadInput("two of the transcoders replace the same MLP")
    places = {hook: layer for layer, hook in enumerate(transcoders.layers_out)}
    return {hook: places.get(hook) for hook in mlps}
