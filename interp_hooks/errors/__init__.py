"""The errors that this package raises on purpose. Each is also the builtin errors that a caller would expect.

InterpHooksError
├── ConfigError (ValueError, AssertionError) a model description that contradicts itself
├── UnknownHook (KeyError)               no hook point, cache entry or filter match of that name
├── HookDidNotFire (RuntimeError)        a hook was attached where this pass never came by
├── BadHookValue (ValueError)            a hook returned something that cannot stand in for the activation
├── HookConflict (RuntimeError)          two hooks ask for things that exclude each other
├── CheckpointError (ValueError)         a checkpoint that cannot be found, read or converted
│   ├── UnsupportedArchitecture          no family converts this architecture
│   ├── UnsupportedConfig                the checkpoint sets a value that is not implemented
│   └── WeightMismatch                   tensors left over, missing, or of the wrong shape
├── TokenError (ValueError, AssertionError)  text that does not become the tokens asked for
│   └── NoTokenizer                      text given to a model without tokenizer
├── BadInput (ValueError, AssertionError)    tokens, masks, layers or positions out of range
│   ├── OutOfRange (IndexError)          an index beyond the end of an axis
│   ├── ShapeMismatch (RuntimeError)     tensors whose shapes do not fit each other
│   └── WrongType (TypeError)            something of a type, or an argument, that is not taken
├── DiskError (OSError)                  a file or folder that cannot be written
│   └── FolderInUse (BlockingIOError)    another process is writing to the same folder
├── EndpointError (ConnectionError)      a server that refuses, does not answer, or says something else than it should
└── MetricError (ValueError)             a metric that does not give one finite number per prompt
"""

import difflib
from collections.abc import Iterable


class InterpHooksError(Exception):
    """Base of all errors raised on purpose by interp_hooks."""


class ConfigError(InterpHooksError, ValueError, AssertionError):
    """A model description that contradicts itself or asks for what does not exist."""


class UnknownHook(InterpHooksError, KeyError):
    """No hook point, cache entry or filter match of that name."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class HookDidNotFire(InterpHooksError, RuntimeError):
    """A hook was attached where this forward pass never came by."""


class BadHookValue(InterpHooksError, ValueError):
    """A hook returned something that cannot stand in for the activation it was given."""


class HookConflict(InterpHooksError, RuntimeError):
    """Two hooks of one pass ask for things that exclude each other."""


class CheckpointError(InterpHooksError, ValueError):
    """A checkpoint that cannot be found, read or converted."""


class UnsupportedArchitecture(CheckpointError):
    """No family in `interp_hooks.loading.families` converts this architecture."""


class UnsupportedConfig(CheckpointError):
    """The checkpoint's configuration sets a value that is not implemented."""


class WeightMismatch(CheckpointError):
    """Tensors left over, missing, or of the wrong shape."""


class TokenError(InterpHooksError, ValueError, AssertionError):
    """Text that does not become the tokens asked for."""


class NoTokenizer(TokenError):
    """Text was given to a model that has no tokenizer."""


class BadInput(InterpHooksError, ValueError, AssertionError):
    """Tokens, masks, layers, heads or positions out of range; elsewhere such things are often asserted."""


class OutOfRange(BadInput, IndexError):
    """An index beyond the end of an axis."""


class ShapeMismatch(BadInput, RuntimeError):
    """Tensors whose shapes do not fit each other, of which torch would raise a RuntimeError."""


class WrongType(BadInput, TypeError):
    """Something of a type that is not taken, or an argument that a function does not have."""


class DiskError(InterpHooksError, OSError):
    """A file or folder that cannot be written: the disk is full, say, or the folder is somebody else's."""


class FolderInUse(DiskError, BlockingIOError):
    """Another process, or another thread of this one, is writing to the same folder."""


class EndpointError(InterpHooksError, ConnectionError):
    """A server that refuses a request, does not answer it, or answers with something else than it should."""


class MetricError(InterpHooksError, ValueError):
    """A metric that does not give one finite number per prompt."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The end of a message, ' Did you mean a, b or c?', with the known names closest to `name`; '' if none is close."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    if not close:
        return ""
    listed = close[0] if len(close) == 1 else f"{', '.join(close[:-1])} or {close[-1]}"
    return f" Did you mean {listed}?"
