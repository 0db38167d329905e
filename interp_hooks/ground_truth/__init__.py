"""Models whose circuit is known, to check methods against."""

from interp_hooks import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "compiler": ["compile_program"],
        "superposition": ["superposition"],
        "system": ["KnownModel"],
    },
)


def __dir__() -> list[str]:
    return __all__
