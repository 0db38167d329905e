"""Dictionaries in a model: their features, errors and reconstructions are hook points like all others.

    with model.spliced(sae, error_term=True): ...

    blocks.1.hook_mlp_out.sae.hook_pre               [batch pos feature]   before the activation function
    blocks.1.hook_mlp_out.sae.hook_features          [batch pos feature]
    blocks.1.hook_mlp_out.sae.hook_reconstruction    what features say together, with the decoder's bias and the skip
    blocks.1.hook_mlp_out.sae.hook_error             what they leave out; only with an error term
    blocks.1.hook_mlp_out.sae.hook_skip              what passes by the features; only of transcoders with a skip

Without error term the pass goes on with the reconstruction. With it, it goes on with

    y + (reconstruction - reconstruction of untouched features) + (error - untouched error)

which is y to the bit until somebody changes one of them. A transcoder reads its input behind all hooks there. What one
layer gives to another within a pass waits in an inbox of the thread, and is taken out when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp_hooks.errors import BadInput, HookDidNotFire
from interp_hooks.hooks.points import HookPoint
from interp_hooks.hooks.scopes import Own
from interp_hooks.hooks.splicing import Splice, SplicedPoint
from interp_hooks.model.stream import Stop, Stream

if TYPE_CHECKING:
    from interp_hooks.model.transformer import HookedTransformer

VALUE = "value"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dictionary, or one layer of it, as a model sees it: functions of activations [..., d], and its weights.

    `decode` is given the features of all layers of the dictionary up to this one. `rows` are the decoder rows with
    which these features write here, times a number of each token if it `rescales` tokens.
    """

    hook_in: str
    hook_out: str
    head: int | None
    n_features: int
    weights: Mapping[str, Tensor]
    pre: Callable[[Tensor], Tensor]
    activate: Callable[[Tensor], Tensor]
    decode: Callable[[Sequence[Tensor], Tensor], Tensor]
    skip: Callable[[Tensor], Tensor] | None
    rows: Callable[[], Float[Tensor, "feature d_out"]]
    rescales: bool = False


class Gives(nn.Module):
    """A module at a hook, which leaves what it passes on in the inboxes of those that read it later in the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inboxes: list[Own] = []

    def given(self, value: Tensor) -> Tensor:
        """The value, which readers have now too."""
        for inbox in self.inboxes:
            inbox.here[VALUE] = value
        return value


class Tap(Gives):
    """A module at a hook that only is read there."""

    def forward(self, value: Tensor) -> Tensor:
        return self.given(value)


class SplicedDictionary(Gives):
    """A dictionary, or one layer of it, at the hook that it writes.

    `first_hook` is the hook from which on a pass has to be computed for it.
    """

    def __init__(
        self, part: Part, point: HookPoint, first_hook: str, *, error_term: bool, through_error: bool, place: int = 0
    ) -> None:
        super().__init__()
        self.part, self.first_hook, self.error_term, self.through_error = part, first_hook, error_term, through_error
        self.place = place
        self.reads = Own() if part.hook_in != part.hook_out else None
        self.earlier = Own()  # features of earlier layers of the dictionary, untouched and as they are
        self.group: tuple[SplicedDictionary, ...] = (self,)
        for name, weight in part.weights.items():
            assert isinstance(weight, nn.Parameter)
            self.register_parameter(name.replace(".", "_"), weight)
        axes, sizes = "batch pos d_out", {"d_out": part.rows().shape[-1]}
        if len(point.axes) == 3:
            axes, sizes = " ".join(point.axes), dict(point.sizes)
        self.hook_pre = HookPoint("batch pos feature", feature=part.n_features)
        self.hook_features = HookPoint("batch pos feature", feature=part.n_features)
        if part.skip is not None:
            self.hook_skip = HookPoint(axes, collected=True, **sizes)
        self.hook_reconstruction = HookPoint(axes, collected=True, **sizes)
        if error_term:
            self.hook_error = HookPoint(axes, collected=True, **sizes)

    @property
    def hooked(self) -> bool:
        """Whether anything is attached to a hook point of the dictionary, in any of its layers."""
        points = (point for part in self.group for point in part.children() if isinstance(point, HookPoint))
        return any(point.hooked for point in points)

    def forward(self, value: Tensor) -> Tensor:
        read = self._read(value)
        if self.error_term and self.through_error and not self.hooked:
            return self.given(value)
        head = self.part.head
        y = value.flatten(2) if head is None else value[:, :, head]
        written = self._written(y if read is value else read.flatten(2), y)
        if head is None:
            return self.given(written.view_as(value))
        whole = value.clone()
        whole[:, :, head] = written
        return self.given(whole)

    def _read(self, value: Tensor) -> Tensor:
        return value if self.reads is None else self._taken(self.reads, VALUE, self.part.hook_in)

    def _taken(self, inbox: Own, key: str | int, hook: str) -> Any:
        """What an inbox has, which then is empty.

        Raises:
            HookDidNotFire: nothing.
        """
        if key not in inbox.here:
            raise HookDidNotFire(
                f"the dictionary at {self.part.hook_out} needs what is at {hook}, where this pass did not come by "
                "before it: start the pass earlier"
            )
        return inbox.here.pop(key)

    def forget(self, *_: object) -> None:
        """Empty the inboxes, for a pass that begins."""
        for inbox in (self.earlier, self.reads):
            if inbox is not None:
                inbox.here.clear()

    def _written(self, x: Tensor, y: Tensor) -> Tensor:
        """What is written in place of y [batch pos d_out], from the input x [batch pos d_in]."""
        part = self.part
        untouched, features, skips = self._features(x)
        plain = part.decode(untouched, x)
        reconstruction = plain
        if any(one is not other for one, other in zip(features, untouched, strict=True)):
            reconstruction = part.decode(features, x)
        if skips is not None:
            reconstruction = reconstruction + (skips[1] - skips[0])
        reconstruction = self.hook_reconstruction(reconstruction)
        if not self.error_term:
            return reconstruction.to(y.dtype)
        error = y.to(plain.dtype) - plain
        if not self.through_error:
            y, plain, error = y.detach(), plain.detach(), error.detach()
        change = (reconstruction - plain) + (self.hook_error(error) - error)
        return y + change.to(y.dtype)

    def _features(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, Tensor] | None]:
        """Features of all layers up to this one, untouched and as they are; and the skip, both ways."""
        part = self.part
        pre = part.pre(x)
        own = part.activate(pre)
        shown = self.hook_pre(pre)
        new = self.hook_features(own if shown is pre else part.activate(shown))
        before = [self._taken(self.earlier, place, self.group[place].part.hook_out) for place in range(self.place)]
        for later in self.group[self.place + 1 :]:
            later.earlier.here[self.place] = (own, new)
        untouched, features = [*(one for one, _ in before), own], [*(one for _, one in before), new]
        if part.skip is None:
            return untouched, features, None
        skip = part.skip(x)
        return untouched, features, (skip, self.hook_skip(skip))

    # --------------------------------------------------------------------------------------- what it writes, in parts

    def stops(self, prefix: str, layer: int) -> Sequence[Stop]:
        """Its writers: the error, the skip, and every feature.

        Raises:
            BadInput: it does not stand at the output of an MLP, is one layer of several that write there, or normalizes
                tokens.
        """
        if self.part.rescales:
            raise BadInput(
                f"the dictionary at {self.part.hook_out} undoes a normalization of each token, so that what a feature "
                "writes is no fixed vector times the feature: for edges, take it out"
            )
        if self.part.hook_out != f"blocks.{layer}.hook_mlp_out" or len(self.group) > 1:
            raise BadInput(
                f"features are parts of the stream where a dictionary of one layer stands at mlp_out; at "
                f"{self.part.hook_out} heads write too, or features of several layers do: for edges, take others out, "
                "or use circuits.feature_circuit, for SAEs anywhere, or circuits.attribution_graph, for transcoders"
            )
        features = tuple(f"m{layer}.f{feature}" for feature in range(self.part.n_features))
        error = [Stop("write", f"{prefix}.hook_error", layer, (f"m{layer}.error",))] if self.error_term else []
        skip = [Stop("write", f"{prefix}.hook_skip", layer, (f"m{layer}.skip",))] if self.part.skip is not None else []
        return [*error, *skip, Stop("write", f"{prefix}.hook_features", layer, features)]

    def adds(self, hook: str, value: Tensor, parts: Sequence[int]) -> Float[Tensor, "batch pos part d_model"]:
        """What some features add to the stream, or the error or the skip as a whole."""
        rows = self.rows_at(hook)
        return value[:, :, None] if rows is None else value[..., parts, None] * rows[parts]

    def rows_at(self, hook: str) -> Float[Tensor, "feature d_model"] | None:
        """The decoder rows that features write with; None for the error and the skip, which are single vectors."""
        return self.part.rows() if hook.endswith("hook_features") else None


class Spliced:
    """The handle of spliced dictionaries: `remove()`, or the end of a `with` block, takes them out again."""

    def __init__(
        self, splices: Sequence[Splice], readings: Sequence[tuple[Gives, Own]], listening: Sequence[RemovableHandle]
    ) -> None:
        self.splices, self._readings, self._listening = splices, readings, listening

    @property
    def modules(self) -> list[SplicedDictionary]:
        """The modules, one for each hook that is written."""
        return [one.module for one in self.splices if isinstance(one.module, SplicedDictionary)]

    def remove(self) -> None:
        """Take the dictionaries out, and what reads for them alone."""
        for handle in self._listening:
            handle.remove()
        for giver, inbox in self._readings:
            giver.inboxes[:] = [one for one in giver.inboxes if one is not inbox]
        for splice in reversed(self.splices):
            splice.remove()

    def __enter__(self) -> Spliced:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def parameters(tensor: Tensor) -> nn.Parameter:
    """A weight of a spliced dictionary: part of the model's state, and constant."""
    return nn.Parameter(tensor.detach(), requires_grad=False)


def splice_parts(
    model: HookedTransformer, parts: Sequence[Part], name: str, *, error_term: bool, through_error: bool
) -> Spliced:
    """Put the parts of a dictionary where they write, and read where they read; all of them or none.

    Raises:
        UnknownHook: there is no such hook.
        HookConflict: another module stands where one writes.
        BadInput: a part writes before its input is there.
    """
    _refuse_acausal(model, parts)
    made: list[Splice] = []
    readings: list[tuple[Gives, Own]] = []
    modules: list[SplicedDictionary] = []
    try:
        for place, part in enumerate(parts):
            point = model.points(part.hook_out)[0]
            module = SplicedDictionary(
                part, point, parts[0].hook_in, error_term=error_term, through_error=through_error, place=place
            )
            if module.reads is not None:
                giver = _giver(model, part.hook_in, made, name)
                giver.inboxes.append(module.reads)
                readings.append((giver, module.reads))
            made.append(model.splice(part.hook_out, module, name))
            modules.append(module)
    except BaseException:
        Spliced(made, readings, ()).remove()
        raise
    for module in modules:
        module.group = tuple(modules)
    return Spliced(made, readings, [model.register_forward_pre_hook(module.forget) for module in modules])


def _giver(model: HookedTransformer, hook: str, made: list[Splice], name: str) -> Gives:
    """The module that shows what passes on at a hook: the one that stands there, or a new one."""
    point = model.points(hook)[0]
    if isinstance(point, SplicedPoint) and isinstance(there := point.spliced[1], Gives):
        return there
    tap = Tap()
    made.append(model.splice(hook, tap, f"{name}_in"))
    return tap


def _refuse_acausal(model: HookedTransformer, parts: Sequence[Part]) -> None:
    stream = Stream(model)
    for part in parts:
        read, written = (stream.place(hook) for hook in (part.hook_in, part.hook_out))
        if (read.layer, read.stage) > (written.layer, written.stage):
            raise BadInput(f"what reads {part.hook_in} cannot write {part.hook_out}, which comes before it")
