"""Tasks: pairs of prompts that differ where it matters, with the answers that tell whether a model can do it.

`templates.py` has tasks in words, for any tokenizer, `symbols.py` tasks in tokens, for models without one;
`ioi_text.py` has the sentences that `ioi-tiny` was trained on.
"""

from interp_hooks.experiments.task import Task
from interp_hooks.tasks.ioi_text import PromptPairs, ioi_pairs
from interp_hooks.tasks.symbols import brackets, induction, key_value_recall, modular_addition
from interp_hooks.tasks.templates import (
    acronyms,
    agreement,
    capitals,
    docstring,
    gendered_pronoun,
    greater_than,
    ioi,
)

__all__ = [
    "PromptPairs",
    "Task",
    "acronyms",
    "agreement",
    "brackets",
    "capitals",
    "docstring",
    "gendered_pronoun",
    "greater_than",
    "induction",
    "ioi",
    "ioi_pairs",
    "key_value_recall",
    "modular_addition",
]
