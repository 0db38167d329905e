"""A tiny model that reads text, and texts that it reads, for the tests of wikis and their pages."""

import pytest

from interp_hooks import HookedTransformer
from tests.views.small import save_checkpoint

TEXTS = [
    "When Mary and John went to the store, John gave a drink to",
    "Mary and Tom went to the park. Tom gave a ring to Mary",
    "John gave a book to Mary",
    "Then Kate and Paul had a long argument",
    "Paul and Kate went to the school, Kate gave a drink to Paul and",
]


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> HookedTransformer:
    """A tiny random model with a tokenizer of words."""
    return HookedTransformer.from_pretrained(str(save_checkpoint(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def texts(reads: HookedTransformer) -> list[str]:
    """The words of some texts that the model knows."""
    known = set(reads.tokenizer.get_vocab())
    return [" ".join(word for word in text.split() if {word, f" {word}"} & known) for text in TEXTS]
