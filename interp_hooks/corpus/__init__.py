"""Many texts as rows of tokens, and how well a model predicts them."""

from interp_hooks import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "texts": ["corpus_texts", "tokenize_and_concatenate"],
        "evals": ["induction_loss", "lm_accuracy"],
    },
)


def __dir__() -> list[str]:
    return __all__
