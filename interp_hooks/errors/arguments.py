"""Arguments that are not what a function's annotations say are refused when the function is called.

    @checked
    def patch(model: HookedTransformer, ..., window: int = 1): ...

    patch(model, ..., window="3")      BadInput: window must be an int, got '3'

Only the kind of a value is checked: tensors by dtype and number of axes, lists and mappings by what they hold. Values
that can stand in for a kind are accepted: a numpy integer for an int, a range or an array for a list. A word is one of
those that a `Literal` lists. Whether a number is in range is checked by the function itself, unless the annotation says
it: a `Count` of samples or steps is an int of at most a million, so that an absurd one is refused before anything is
computed, and `Positive` is one of which there must be at least 1.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from types import FunctionType, NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeGuard, TypeVar, Union, get_args, get_origin

import numpy as np
import torch
from jaxtyping import AbstractArray
from torch import Tensor

from interp_hooks.errors import BadInput, TokenError, UnknownHook, WrongType, nearest

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
ANY = "**"  # among the names of arguments: whatever else is given


@dataclass(frozen=True, kw_only=True)
class Within:
    """The range of a number, both ends included, as a part of its annotation: `Annotated[int, Within(most=9)]`."""

    most: int
    least: int | None = None

    def __contains__(self, value: int) -> bool:
        return value <= self.most and (self.least is None or value >= self.least)

    def __str__(self) -> str:
        return f"at most {self.most}" if self.least is None else f"{self.least} to {self.most}"


@dataclass(frozen=True)
class Words:
    """What messages call the values of an annotation of many kinds: `Annotated[int | str, Words("a layer")]`."""

    words: str

    def __contains__(self, value: Any) -> bool:
        return True


@dataclass(frozen=True)
class Elsewhere:
    """Says of an annotation that its values are checked where they are used, in words of that place."""


Count = Annotated[int, Within(most=1_000_000)]
"""How many of something are drawn or computed one after the other. How few there may be, the function itself says."""
Positive = Annotated[int, Within(least=1, most=1_000_000)]
"""The same, where there must be at least one."""
Seed = Annotated[int, Within(least=-(2**63), most=2**63 - 1)]
"""What random numbers begin with."""
Device = Annotated[torch.device | str, Elsewhere()]
"""A device; `as_device` checks it."""

OPERATORS = ("__getitem__", "__mul__", "__rmul__", "__truediv__")
WORDS: dict[Any, str] = {
    int: "an int",
    float: "a number",
    bool: "a bool",
    str: "text",
    Tensor: "a tensor",
    NoneType: "None",
    Any: "anything",
}


def refuse_outside(name: str, value: float, least: float, most: float, what: str = "") -> None:
    """Raises BadInput unless a number is in a range, both ends included; `what` says what its most is."""
    if not least <= value <= most:
        raise BadInput(f"{name} must be {least}..{most}{what and ', '}{what}, got {value}")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, refusing arguments that do not fit its annotations.

    Raises:
        BadInput: when called with such an argument.
        WrongType: when called with a name that it does not have, too many arguments or too few.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.compiler.is_compiling():  # which needs graphs without such checks
            with binding(function, kwargs):
                bound = signature.bind(*args, **kwargs)
            check_arguments(function, bound.arguments)
        return function(*args, **kwargs)

    return called


def checked_methods(cls: C) -> C:
    """The class, with all its own public methods, and operators that take a number or an index, checked.

    Properties and the constructor are left as they are.
    """
    for name, value in list(vars(cls).items()):
        if name.startswith("_") and name not in OPERATORS:
            continue
        if isinstance(value, FunctionType):
            setattr(cls, name, checked(value))
        elif isinstance(value, classmethod | staticmethod):
            setattr(cls, name, type(value)(checked(value.__func__)))
    return cls


def check_names(given: Iterable[str], function: Callable[..., Any], onward: Callable[..., Any] | None = None) -> None:
    """Find out whether a function has arguments of these names, or `onward`, to which it passes on what it has not.

    Raises:
        WrongType: the first name that neither has, with those that are close to it.
    """
    if not (given := list(given)):
        return
    takes = [_names(one) for one in (function, onward) if one is not None]
    known = sorted({*chain.from_iterable(takes)} - {"self", ANY})
    for name in given if ANY not in takes[-1] else ():
        if name not in known:
            passed = "" if onward is None else f", nor has {onward.__name__}, to which it passes others on"
            raise WrongType(f"{function.__name__} has no argument {name!r}{passed}.{nearest(name, known)}")


def _names(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's arguments, with `ANY` if it takes others too."""
    own = getattr(function, "__func__", function)
    return _names_of(own) if isinstance(own, FunctionType) else _names_of.__wrapped__(own)


@functools.lru_cache(maxsize=64)
def _names_of(function: Callable[..., Any]) -> frozenset[str]:
    taken = inspect.signature(function).parameters.values()
    named = {one.name for one in taken if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    return frozenset(named | {ANY for one in taken if one.kind is one.VAR_KEYWORD})


@contextmanager
def binding(function: Callable[..., Any], given: Iterable[str]) -> Iterator[None]:
    """A block that binds arguments to a function, some of them by name; what does not fit is told with its name.

    Raises:
        WrongType: a name that it does not have, too many arguments or too few.
    """
    try:
        yield
    except TypeError as error:
        check_names(given, function)
        raise WrongType(f"{function.__name__}: {error}") from None


@contextmanager
def about(argument: str) -> Iterator[None]:
    """A block that looks something up for an argument, whose name is put before what it raises."""
    try:
        yield
    except (BadInput, TokenError, UnknownHook) as error:
        raise type(error)(f"{argument}: {error}") from error


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raises BadInput for the first of a function's arguments that does not fit its annotation."""
    kinds = _kinds(inspect.unwrap(function))
    for name, value in arguments.items():
        if name in kinds and not fits(value, kinds[name]):
            if type(value) is int and (least := _least(kinds[name])) is not None and value < least:
                raise BadInput(f"{name} must be at least {least}, got {value}")
            raise BadInput(misfit(name, value, kinds[name]))


def misfit(name: str, value: Any, kind: Any) -> str:
    """The message about a value that does not fit an annotation: what was expected, what came, the nearest words."""
    words = _choices(kind)
    given = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    unknown = next((one for one in given if isinstance(one, str) and one not in words), None)
    close = "" if unknown is None else nearest(unknown, words)
    return f"{name} must be {described(kind)}, got {told(value)}{close and '.' + close}"


def _least(kind: Any) -> int | None:
    """The least that an annotation allows of a number, if it says one."""
    ranges = [one for part in (kind, *get_args(kind)) for one in getattr(part, "__metadata__", ())]
    return next((one.least for one in ranges if isinstance(one, Within)), None)


def _choices(kind: Any) -> list[str]:
    """The words that an annotation lists, in a `Literal` or several."""
    if get_origin(kind) is Literal:
        return [part for part in get_args(kind) if isinstance(part, str)]
    return [word for part in get_args(kind) for word in _choices(part)]


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
    if origin is Annotated:
        return Elsewhere() in parts or (fits(value, parts[0]) and all(value in one for one in parts[1:]))
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if kind in KINDS:
        return KINDS[kind](value)
    if origin in CONTAINERS:
        return CONTAINERS[origin](value, parts)
    kind = origin if isinstance(origin, type) else kind
    if isinstance(kind, type):
        return isinstance(value, kind) and not _without_numbers(value)
    return True


def _without_numbers(value: Any) -> bool:
    """Whether a value is a tensor without memory, or one whose numbers are not laid out as those of others."""
    return isinstance(value, Tensor) and (value.is_meta or value.layout != torch.strided)


def _is_sequence(value: Any, parts: Sequence[Any]) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        if value.ndim == 0 or _without_numbers(value):
            return False
        return len(value) == 0 or _all_fit([value[0] if value.ndim > 1 else value[0].item()], parts)
    return isinstance(value, Sequence) and _all_fit(value, parts)


def _is_iterable(value: Any, parts: Sequence[Any]) -> bool:
    """Whether a value can be gone through; only plain collections are looked into, others may make their items then."""
    if isinstance(value, np.ndarray | Tensor):
        return _is_sequence(value, parts)
    if isinstance(value, str | list | tuple | set | frozenset):
        return _all_fit(value, parts)
    return isinstance(value, Iterable)


def _all_fit(values: Iterable[Any], parts: Sequence[Any]) -> bool:
    (kind,) = parts
    if isinstance(values, str):
        return kind in (str, Any)
    return all(fits(one, kind) for one in values)


def _is_mapping(value: Any, parts: Sequence[Any]) -> bool:
    if not isinstance(value, Mapping):
        return False
    if parts[0] is Any and parts[1] is Any:  # nothing to look at, in what may be millions
        return True
    return all(fits(key, parts[0]) and fits(one, parts[1]) for key, one in value.items())


def _is_tuple(value: Any, parts: Sequence[Any]) -> bool:
    if not isinstance(value, tuple | list):
        return False
    if Ellipsis in parts:
        return all(fits(one, parts[0]) for one in value)
    return len(value) == len(parts) and all(map(fits, value, parts))


def _is_integer(value: Any) -> bool:
    return (isinstance(value, Integral) and not isinstance(value, bool)) or _is_single(value, floating=False)


def _is_single(value: Any, floating: bool) -> bool:
    """Whether a value is a tensor of one real number without axes."""
    if not isinstance(value, Tensor) or value.ndim or _without_numbers(value) or value.is_complex():
        return False
    return is_integral(value) or (floating and value.is_floating_point())


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
    collections.abc.Iterable: _is_iterable,
    collections.abc.Mapping: _is_mapping,
    collections.abc.Callable: lambda value, parts: callable(value),
    tuple: _is_tuple,
}


def is_integral(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor of integers; a mask, whose True is no index, is none."""
    if not isinstance(value, Tensor):
        return False
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


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
    if origin is Annotated:
        return parts[1].words if isinstance(parts[1], Words) else f"{described(parts[0])} of {parts[1]}"
    if origin is Literal:
        return _alternatives(map(repr, parts))
    if origin in (collections.abc.Sequence, collections.abc.Iterable):
        return "a list" if parts[0] is Any else f"a list of {_several(described(parts[0]))}"
    if origin is tuple:
        listed = [described(part) for part in parts if part is not Ellipsis]
        return f"a tuple of {_several(listed[0])}" if Ellipsis in parts else f"a tuple ({', '.join(listed)})"
    if origin is collections.abc.Mapping:
        return f"a mapping from {described(parts[0])} to {described(parts[1])}"
    if origin is collections.abc.Callable:
        return "a function"
    if isinstance(kind, type) and issubclass(kind, AbstractArray):
        return f"a tensor [{kind.dim_str.strip().replace('*_', '...')}] ({kind.__name__.partition('[')[0].lower()})"
    kind = origin if isinstance(origin, type) else kind
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
        layout = "" if value.layout == torch.strided else " (sparse)"
        return f"a {value.dtype} tensor {list(value.shape)}{where}{layout}"
    if isinstance(value, str):
        return _shortened(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int | float | list | tuple):
        return f"{type(value).__name__} {_shortened(value)}"
    return type(value).__name__


def told_shape(value: Any) -> str:
    """A value in a few words where only the shape of a tensor matters."""
    return str(list(value.shape)) if isinstance(value, Tensor) else told(value)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
