"""Tasks: pairs of prompts that differ where it matters, with the answers that tell whether a model can do it.

`ioi_text.py` has indirect object identification, with the sentences that `ioi-tiny` was trained on; `templates.py` has
other tasks in words, for any tokenizer, and `symbols.py` tasks in tokens, for models without one.
"""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "ioi_text": ["PromptPairs", "Task", "ioi", "ioi_pairs"],
        "symbols": ["brackets", "induction", "key_value_recall", "modular_addition"],
        "templates": [
            *("acronyms", "agreement", "capitals", "docstring", "gendered_pronoun", "greater_than"),
            *("in_context", "repeated_words", "subject_verb_agreement"),
        ],
    },
)
