"""Quiet `transformers`, and fixtures that several test files read."""

import pytest
import torch
import transformers
from torch import Tensor

from interp_hooks import HookedTransformer
from tests.tiny import SHARED, build, random_tokens

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # for tensors this small, waking other threads takes longer than the arithmetic


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def plain() -> HookedTransformer:
    """A GPT-2-like model (LayerNorm, learned positions, plain MLP) in float64 that nobody may change."""
    return build()


@pytest.fixture
def own(request: pytest.FixtureRequest) -> HookedTransformer:
    """The same model, of which the test may change weights, hooks and all."""
    return build()


@pytest.fixture(scope="session")
def tokens() -> Tensor:
    return random_tokens(batch=2, pos=7, d_vocab=23)


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> transformers.PreTrainedTokenizerBase:
    folder = SHARED / "tokenizers" / "gpt2"
    if not folder.exists():
        pytest.skip("GPT-2's tokenizer does not lie beside the checkout (../shared/tokenizers/gpt2)")
    return transformers.AutoTokenizer.from_pretrained(folder)
