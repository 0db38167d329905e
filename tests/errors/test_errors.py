"""Errors are this package's and a builtin at once, and the docstring draws all of them."""

import builtins
import inspect

import pytest

from interp_hooks import errors
from interp_hooks.errors import InterpHooksError, UnknownHook, nearest

ALL = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, InterpHooksError)]


@pytest.mark.parametrize("error", [error for error in ALL if error is not InterpHooksError])
def test_each_error_is_also_a_builtin(error: type[InterpHooksError]) -> None:
    bases = [base for base in error.__mro__ if base.__module__ == builtins.__name__]
    assert {base.__name__ for base in bases} - {"object", "BaseException", "Exception"}


@pytest.mark.parametrize("error", ALL)
def test_each_error_is_in_the_drawing_and_documented(error: type[InterpHooksError]) -> None:
    assert error.__name__ in str(errors.__doc__)
    assert error.__doc__


def test_a_key_error_prints_its_message_plainly() -> None:
    assert str(UnknownHook("no 'x' here")) == "no 'x' here"


def test_nearest_names() -> None:
    known = ["hook_embed", "hook_pos_embed", "blocks.0.hook_resid_pre"]
    assert nearest("hook_embd", known).startswith(" Did you mean hook_embed")
    assert nearest("hook_embd", known, count=1) == " Did you mean hook_embed?"
    assert " or " in nearest("hook_embd", known)
    assert nearest("zzzz", known) == ""
    assert nearest("x", []) == ""
