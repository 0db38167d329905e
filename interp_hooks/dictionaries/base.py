"""What all dictionaries are: frozen weights that turn activations into features, and features into activations.

    features = encode(x)        which features are there, and how much: most are 0
    y = decode(features, x)     what they say together: x again (an SAE), or what a layer makes of it (a transcoder)
    dictionary(x)               both

    kind                  x                                y                            features
    SAE                   hook_in [..., d_in]              the same hook                [..., feature]
    Transcoder            hook_in [..., d_in]              hook_out [..., d_out]        [..., feature]
    CrossLayerTranscoder  hooks_in [..., layer, d_in]      hooks_out [..., layer, d]    [..., layer, feature]
    Crosscoder            hooks_in [..., site, d]          the same hooks               [..., feature]

A dictionary knows no model: its hooks are names, and `refuse_unfit` says whether a model has them at this width.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.dictionaries.activations import Activation
from interp_hooks.dictionaries.splicing import Part, Spliced, parameters, splice_parts
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import as_device, told
from interp_hooks.experiments.results.archive import Recordable
from interp_hooks.hooks.names import get_act_name
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.transformer import HookedTransformer

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Dictionary(Recordable, ABC):
    """Weights of features, and the hooks whose activations they read and write.

    `facts` are what is known beside the weights: the model's name, the format it came from, how it was trained.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    @abstractmethod
    def hooks_in(self) -> tuple[str, ...]:
        """The full names of the hooks that are read."""

    @property
    @abstractmethod
    def hooks_out(self) -> tuple[str, ...]:
        """The full names of the hooks whose activations are reconstructed."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """How many features there are; of a cross-layer transcoder, in each layer."""

    @property
    @abstractmethod
    def d_in(self) -> int:
        """The width of each activation that is read."""

    @property
    @abstractmethod
    def d_out(self) -> int:
        """The width of each activation that is reconstructed."""

    @abstractmethod
    def pre_activations(self, x: Float[Tensor, "*tokens d_in"]) -> Tensor:
        """What the encoder's linear map gives, before the activation function."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "*tokens d_in"]) -> Tensor:
        """The features of some activations."""

    @abstractmethod
    def decode(self, features: Tensor, x: Tensor | None = None) -> Tensor:
        """The reconstruction that features make.

        `x` is what the features were read from, which dictionaries that normalize their input or have a skip need.
        """

    @abstractmethod
    def parts(self) -> list[Part]:
        """The dictionary as a model sees it: a part for every hook that it writes, in the order of a pass.

        Raises:
            BadInput: it writes before it has read all that it reads.
        """

    def __call__(self, x: Tensor) -> Tensor:
        """The reconstruction of, or from, some activations."""
        return self.decode(self.encode(x), x)

    # ----------------------------------------------------------------------------------------------------- weights

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name: "W_enc", "activation.threshold", and "W_dec.3" of a layer's own."""
        return dict(_tensors(self, ""))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The dictionary with every weight changed."""
        return _mapped(self, change)

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.tensors().values())).dtype

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors().values())).device

    def to(self, to: torch.device | torch.dtype | str) -> Self:
        """The same on a device, or in a dtype."""
        where = to if isinstance(to, torch.dtype) else as_device(to)
        return self.mapped(lambda weight: weight.to(where))

    # ------------------------------------------------------------------------------------------------------- models

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks that are read and those that are reconstructed, each once."""
        return tuple(dict.fromkeys((*self.hooks_in, *self.hooks_out)))

    def refuse_unfit(self, model: HookedTransformer) -> None:
        """Refuse a model that lacks a hook, or has activations of another width there.

        Raises:
            UnknownHook: there is no such hook.
            BadInput: another width.
        """
        for hooks, width in ((self.hooks_in, self.d_in), (self.hooks_out, self.d_out)):
            for hook in hooks:
                point = model.points(hook)[0]
                size = width_of(point, self.head)
                if width != size:
                    raise BadInput(
                        f"this dictionary is of activations of width {width}, {hook} of this model has {size}: it was "
                        f"made for {self.facts.get('model_name') or 'another model'}"
                    )

    def splice_into(
        self, model: HookedTransformer, *, name: str, error_term: bool = False, through_error: bool = True
    ) -> Spliced:
        """Let the dictionary stand in a model until `remove()` of what is returned; see `model.spliced`."""
        self.refuse_unfit(model)
        parts = self.to(model.device).mapped(parameters).parts()
        return splice_parts(model, parts, name, error_term=error_term, through_error=through_error)

    @property
    def head(self) -> int | None:
        """The head whose part of an activation is meant, if only one is."""
        return None

    def __repr__(self) -> str:
        where = f"{', '.join(self.hooks_in[:2])}{', ...' * (len(self.hooks_in) > 2)}"
        if self.hooks_out != self.hooks_in:
            where += f" -> {', '.join(self.hooks_out[:2])}{', ...' * (len(self.hooks_out) > 2)}"
        return f"{type(self).__name__}({where}, d_in={self.d_in}, n_features={self.n_features})"


def full_name(hook: str) -> str:
    """The full name of a hook, from its full or short one.

    Raises:
        BadInput: no name.
    """
    if not isinstance(hook, str) or not hook:
        raise BadInput(f"a dictionary reads and writes hooks, by their names, got {hook!r}")
    return get_act_name(hook)


def full_names(argument: str, hooks: Sequence[str]) -> tuple[str, ...]:
    """The full names of the hooks that an argument lists.

    Raises:
        BadInput: it lists something else.
    """
    if isinstance(hooks, str) or not isinstance(hooks, Sequence):
        raise BadInput(f"{argument} must be a list of names of hooks, got {told(hooks)}")
    return tuple(full_name(hook) for hook in hooks)


def width_of(point: HookPoint, head: int | None = None) -> int:
    """The width of the vectors at a hook, the axes after batch and position taken together; or that of one head.

    Raises:
        BadInput: there is no vector at each position, or no such head.
    """
    after = point.axes[2:]
    if point.axes[:2] != ("batch", "pos") or not after or any(axis not in point.sizes for axis in after):
        raise BadInput(f"{point.name} has the axes {' '.join(point.axes)}: no vector at each position")
    if head is None:
        return prod(point.sizes[axis] for axis in after)
    if after[0] != "head" or not 0 <= head < point.sizes["head"]:
        raise BadInput(f"{point.name}, with the axes {' '.join(point.axes)}, has no head {head}")
    return point.sizes[after[-1]]


def refuse_unlike(tensors: Mapping[str, tuple[Tensor | None, tuple[int, ...]]], *, finite: bool = True) -> None:
    """Refuse weights of other shapes than expected, that are no floating-point numbers, or not finite.

    Raises:
        BadInput: such a weight.
    """
    for name, (tensor, shape) in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise BadInput(f"{name} must be a floating-point tensor, got {type(tensor).__name__}")
        if tuple(tensor.shape) != shape:
            raise BadInput(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")
        if finite and not tensor.is_meta and not bool(tensor.isfinite().all()):
            raise BadInput(f"{name} has numbers that are nan or infinite")


def _parts(one: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(one):
        yield from ((part.name, getattr(one, part.name)) for part in dataclasses.fields(one))
    elif isinstance(one, tuple):
        yield from ((str(place), part) for place, part in enumerate(one))


def _tensors(one: Any, before: str) -> Iterator[tuple[str, Tensor]]:
    for name, part in _parts(one):
        if isinstance(part, Tensor):
            yield before + name, part
        elif isinstance(part, tuple | Activation):
            yield from _tensors(part, f"{before}{name}.")


def _mapped(one: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(one, Tensor):
        return change(one)
    if isinstance(one, tuple):
        return tuple(_mapped(part, change) for part in one)
    if isinstance(one, Activation | Dictionary):
        changed = {name: _mapped(part, change) for name, part in _parts(one) if name != "facts"}
        return replace(one, **changed)  # pyright: ignore[reportArgumentType]
    return one
