"""All families that convert, by the `model_type` of their HuggingFace configs: those of the modules in this folder."""

import importlib
import pkgutil

from interp_hooks.loading.guard import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for module in pkgutil.iter_modules(__path__)
    for family in vars(importlib.import_module(f"{__name__}.{module.name}")).values()
    if isinstance(family, Family)
}
