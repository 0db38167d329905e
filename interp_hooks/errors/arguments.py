"""Arguments that are not what a function's annotations say are refused when the function is called.

    @checked
    def patch(model: HookedTransformer, ..., window: int = 1): ...

    patch(model, ..., window="3")      BadInput: window must be an int, got '3'

Only the kind of a value is checked: tensors by dtype and number of axes, lists and mappings by what they hold. Values
that can stand in for a kind are accepted: a numpy integer for an int, a range or an array for a list. Whether a value
is in range, or a word is known, is checked by the function itself.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
import torch
from jaxtyping import AbstractArray
from torch import Tensor

from interp_hooks.errors import BadInput

P = ParamSpec("P")
R = TypeVar("R")

WORDS: dict[Any, str] = {
    int: "an int",
    float: "a number",
    bool: "a bool",
    str: "text",
    Tensor: "a tensor",
    NoneType: "None",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, refusing arguments that do not fit its annotations.

    Raises:
        BadInput: when called with such an argument.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        check_arguments(function, signature.bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return called


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raises BadInput for the first of a function's arguments that does not fit its annotation."""
    kinds = _kinds(inspect.unwrap(function))
    for name, value in arguments.items():
        if name in kinds and not fits(value, kinds[name]):
            raise BadInput(f"{name} must be {described(kinds[name])}, got {told(value)}")


@functools.cache
def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotation of each argument, without those whose names are imported for type checkers only."""
    kinds: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = parameter.annotation
        if kind is parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if isinstance(kind, str):
            try:
                kind = eval(kind, function.__globals__)
            except NameError:
                continue
        kinds[name] = kind
    return kinds


def fits(value: Any, kind: Any) -> bool:
    """Whether a value fits an annotation."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) for part in parts)
    if kind in KINDS:
        return KINDS[kind](value)
    if origin in CONTAINERS:
        return CONTAINERS[origin](value, parts)
    if isinstance(kind, type):
        return isinstance(value, kind) and not _without_numbers(value)
    return True


def _without_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _is_sequence(value: Any, parts: Sequence[Any]) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim > 0 and not _without_numbers(value)
    return isinstance(value, Sequence) and _all_fit(value, parts)


def _all_fit(values: Iterable[Any], parts: Sequence[Any]) -> bool:
    (kind,) = parts
    if isinstance(values, str):
        return kind in (str, Any)
    return all(fits(one, kind) for one in values)


def _is_mapping(value: Any, parts: Sequence[Any]) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(fits(key, parts[0]) and fits(one, parts[1]) for key, one in value.items())


def _is_tuple(value: Any, parts: Sequence[Any]) -> bool:
    if not isinstance(value, tuple | list):
        return False
    if Ellipsis in parts:
        return all(fits(one, parts[0]) for one in value)
    return len(value) == len(parts) and all(map(fits, value, parts))


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) or _is_single(value, floating=False)


def _is_single(value: Any, floating: bool) -> bool:
    """Whether a value is a tensor of one number without axes."""
    return isinstance(value, Tensor) and value.ndim == 0 and (floating or not value.is_floating_point())


KINDS: dict[Any, Callable[[Any], bool]] = {
    Any: lambda value: True,
    int: _is_integer,
    float: lambda value: isinstance(value, Real) or _is_single(value, floating=True),
    bool: lambda value: isinstance(value, bool | np.bool_) or (isinstance(value, int) and value in (0, 1)),
    str: lambda value: isinstance(value, str),
    NoneType: lambda value: value is None,
    None: lambda value: value is None,
}
CONTAINERS: dict[Any, Callable[[Any, Sequence[Any]], bool]] = {
    collections.abc.Sequence: _is_sequence,
    collections.abc.Iterable: lambda value, parts: isinstance(value, Iterable),
    collections.abc.Mapping: _is_mapping,
    collections.abc.Callable: lambda value, parts: callable(value),
    tuple: _is_tuple,
}


def as_device(device: Any) -> torch.device:
    """The device as a torch.device.

    Raises:
        BadInput: not a device, or one that torch cannot use here.
    """
    try:
        return torch.empty(0, device=device).device
    except (TypeError, RuntimeError, AssertionError) as error:
        raise BadInput(f"device must be one that torch can use here, such as 'cpu', got {told(device)}") from error


# -------------------------------------------------------------------------------------------------------------- words


def described(kind: Any) -> str:
    """An annotation in words, such as 'text or a list of text'; a None that stands for a default is left out."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _alternatives(dict.fromkeys(described(part) for part in parts if part is not NoneType))
    if origin is Literal:
        return _alternatives(map(repr, parts))
    if origin in (collections.abc.Sequence, collections.abc.Iterable):
        return "a list" if parts[0] is Any else f"a list of {_several(described(parts[0]))}"
    if origin is tuple and Ellipsis in parts:
        return f"a list of {_several(described(parts[0]))}"
    if origin is tuple:
        return f"({', '.join(map(described, parts))})"
    if origin is collections.abc.Mapping:
        return f"a mapping from {described(parts[0])} to {described(parts[1])}"
    if origin is collections.abc.Callable:
        return "a function"
    if isinstance(kind, type) and issubclass(kind, AbstractArray):
        return f"a tensor [{kind.dim_str.strip()}] ({kind.__name__.partition('[')[0].lower()})"
    return WORDS.get(kind, f"a {kind.__name__}" if isinstance(kind, type) else "anything")


def _several(words: str) -> str:
    """The plural: 'ints' for 'an int'."""
    article, _, noun = words.partition(" ")
    return f"{noun}s" if article in ("a", "an") and " " not in noun else words


def _alternatives(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def told(value: Any) -> str:
    """A value in a few words, for the message of an error."""
    if isinstance(value, Tensor):
        where = "" if value.device == torch.device("cpu") else f" on {value.device}"
        return f"a {value.dtype} tensor {list(value.shape)}{where}"
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, int | float | list | tuple):
        return f"{type(value).__name__} {_shortened(value)}"
    return type(value).__name__


def told_shape(value: Any) -> str:
    """A value in a few words where only the shape of a tensor matters."""
    return str(list(value.shape)) if isinstance(value, Tensor) else told(value)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
