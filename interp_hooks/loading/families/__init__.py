"""Every family that converts, by the `model_type` of its HuggingFace config. A new family is one more entry here."""

from interp_hooks.loading.families.gpt2 import GPT2
from interp_hooks.loading.families.gpt_neox import GPT_NEOX
from interp_hooks.loading.families.llama import LLAMA
from interp_hooks.loading.guard import Family

FAMILIES: dict[str, Family] = {family.model_type: family for family in (GPT2, GPT_NEOX, LLAMA)}
