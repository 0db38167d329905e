"""Named places in a forward pass, and the modules that have them."""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "points": ["HookPoint"],
        "root_module": ["HookedRootModule"],
        "names": ["get_act_name"],
        "slices": ["Slice"],
    },
)
