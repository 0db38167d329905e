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

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.circuits.attribution_graphs.nodes import ERROR, FEATURE, KINDS, TOKEN, Features, Places, Sources
from interp_hooks.dictionaries import CrossLayerTranscoder, Transcoder
from interp_hooks.errors import BadInput
from interp_hooks.hooks.modes import no_gradients, with_constant_weights, with_gradients
from interp_hooks.hooks.points import HookPoint
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Run
from interp_hooks.model.cache.frozen_norm import FrozenNorm
from interp_hooks.model.stream import Stream
from interp_hooks.model.transformer import HookedTransformer

EMBED = "hook_embed"
GATHERED = 2**24  # numbers of decoder rows that are held at once
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
        one, self.features = self.transcoders, list[Features]()
        said = [one.b_dec[layer] + self.skip(layer, read.to(one.dtype)) for layer, read in enumerate(self.reads)]
        said = [value.expand(self.n_pos, -1).clone() for value in said]
        for layer, read in enumerate(self.reads):
            pre = one.pre_of(layer, read)
            found = one.activations[layer](pre)
            if first_as_error:
                found[0] = 0.0
            pos, index = found.nonzero().unbind(1)
            self.features.append(
                Features(pos=pos, index=index, activation=found[pos, index], pre_activation=pre[pos, index])
            )
            for some, vectors in self.vectors(layer):
                for output, part in zip(one.outputs(layer), vectors.unbind(1), strict=True):
                    said[output].index_add_(0, pos[some], part)
        self.errors = torch.stack(
            [
                self.recording[hook][0] if layer is None else self.recording[hook][0] - said[layer]
                for hook, layer in self.writers.items()
            ]
        )

    def vectors(self, layer: int) -> Iterator[tuple[slice, Float[Tensor, "feature output d_model"]]]:
        """What the active features of a layer write to each of its outputs, some features at a time.

        Rows of the decoder are gathered as they are asked for: all at once, a long prompt's would fill the memory.
        """
        found, size = self.features[layer], self.transcoders.W_dec[layer][0].numel()
        for start in range(0, len(found), max(1, GATHERED // size)):
            some = slice(start, start + max(1, GATHERED // size))
            rows = self.transcoders.decoder_rows(layer, found.index[some])
            yield some, rows * found.activation[some, None, None]

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
        vectors = (self.transcoders.decoder_rows(place, found.index[which])[0] * found.activation[which]).to(zero)
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

    def asker(self, watch: Collection[str], *, attention: bool = True) -> Asker:
        """A pass with a graph, which answers for targets at the hooks `watch`."""
        return Asker(self, watch, attention)

    def contributions(self, gradients: Mapping[str, Tensor]) -> Sources:
        """What every source contributes, from the gradients [target, pos, d_model] where it writes.

        Hooks and positions without a gradient, those after the targets, contribute nothing.
        """
        n = gradients[EMBED].shape[1]
        nothing = torch.zeros_like(gradients[EMBED][..., 0])
        written = [*zip(self.writers, self.errors, strict=True), (EMBED, self.recording[EMBED][0])]
        found = [
            torch.einsum("tpd,pd->tp", gradients[hook], value[:n].to(nothing)) if hook in gradients else nothing
            for hook, value in written
        ]
        *errors, tokens = [torch.nn.functional.pad(one, (0, self.n_pos - n)) for one in found]
        features = [self._of_features(layer, gradients) for layer in range(len(self.features))]
        return Sources(features=features, errors=torch.stack(errors, -2), tokens=tokens)

    def _of_features(self, layer: int, gradients: Mapping[str, Tensor]) -> Float[Tensor, "target feature"]:
        """What the features of a layer contribute: products of what they write with gradients at their positions."""
        hooks, pos = {layer: hook for hook, layer in self.writers.items()}, self.features[layer].pos
        asked = [gradients[hook] for one in self.transcoders.outputs(layer) if (hook := hooks[one]) in gradients]
        total = gradients[EMBED].new_zeros(len(gradients[EMBED]), len(pos))
        for some, vectors in self.vectors(layer) if asked else ():
            vectors = vectors[:, : len(asked)].flatten(1).to(total)
            at, counts = pos[some].unique_consecutive(return_counts=True)
            parts = [total[:, some].split(counts.tolist(), 1), vectors.split(counts.tolist())]
            for place, part, rows in zip(at.tolist(), *parts, strict=True):
                if place >= asked[0].shape[1]:
                    return total
                part.copy_(torch.cat([gradient[:, place] for gradient in asked], 1) @ rows.T)
        return total

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
    """Gradients of targets with respect to what embedding and MLPs write, from one pass of the prompt for all."""

    @with_constant_weights
    def __init__(self, local: LocalModel, watch: Collection[str], attention: bool) -> None:
        self.leaves = {hook: value[None].clone().requires_grad_() for hook, value in local.written.items()}
        self.seen = local.run(self.leaves, watch, attention=attention)

    @property
    def bytes(self) -> int:
        """What the gradients of one target take, with those of its activations on the way."""
        return 2 * sum(leaf.nbytes for leaf in self.leaves.values())

    @with_gradients
    def gradients(
        self, hook: str, cotangents: Tensor, of: Sequence[str] | None = None
    ) -> dict[str, Float[Tensor, "target pos ..."]]:
        """Those of products of a hook's activation with cotangents [target, pos, ...] at the first positions.

        They are with respect to what embedding and MLPs write, or to the activations of watched hooks, at these
        positions; hooks that the activation does not depend on are left out.
        """
        asked = self.leaves if of is None else {name: self.seen[name] for name in of}
        n, value = cotangents.shape[1], self.seen[hook]
        found = torch.autograd.grad(
            value[:, :n],
            list(asked.values()),
            cotangents[:, None].to(value),
            retain_graph=True,
            is_grads_batched=True,
            allow_unused=True,
        )
        return {name: one[:, 0, :n] for name, one in zip(asked, found, strict=True) if one is not None}


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
    stream = Stream(model)
    stream.refuse_other_streams()
    stops = [
        stop for stop in stream.stops if stop.does == "write" and stop.names and stop.hook != "blocks.0.hook_resid_pre"
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
