"""Named places in a forward pass, and the modules that have them."""

from interp_hooks import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "points": ["HookPoint"],
        "root_module": ["HookedRootModule"],
        "names": ["get_act_name"],
        "slices": ["Slice"],
    },
)


def __dir__() -> list[str]:
    return __all__
