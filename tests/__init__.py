"""The runtime type checker of the test run: beartype, with an int accepted where a float is declared (PEP 484).

`jaxtyping` compiles the checks of a function when that is defined, which takes milliseconds: of all that nobody calls,
and of a function within another one at every call of that. Here it does at a function's first call with checks on, and
of each function's calls within a test the first are checked: the three-hundredth step of a training has the types of
the first ones.
"""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
from beartype import BeartypeConf, beartype

Made = TypeVar("Made", bound=Callable[..., Any])

FIRST_CALLS = float("inf") if os.environ.get("CHECK_TYPES") == "all" else 20
calls = Counter[object]()  # of each function with checks on, by its code; a test starts anew

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped


def jaxtyped_when_called(*, typechecker: Any) -> Callable[[Made], Made]:
    """What stands for `jaxtyping.jaxtyped`, which its import hook writes above each function and class."""

    def decorate(made: Any) -> Any:
        if isinstance(made, type):
            if dataclasses.is_dataclass(made) and getattr(made.__init__, "__globals__", None) is not globals():
                made.__init__ = decorate(made.__init__)
            return made
        with_checks: Callable[..., Any] | None = None
        code = getattr(made, "__code__", made)

        @functools.wraps(made)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal with_checks
            if jaxtyping.config.jaxtyping_disable:
                return made(*args, **kwargs)
            if calls[code] >= FIRST_CALLS:
                with _jaxtyped("context"):  # sizes of axes are those of this call, and not of who calls
                    return made(*args, **kwargs)
            calls[code] += 1
            if with_checks is None:
                with_checks = _jaxtyped(made, typechecker=typechecker)
            return with_checks(*args, **kwargs)

        return call

    return decorate


jaxtyping.jaxtyped = jaxtyped_when_called
