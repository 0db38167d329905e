"""Quiet `transformers`, and fixtures that several test files read."""

import gc
import os
import zlib
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before it is imported: no test asks the hub, or waits for it in vain

import pytest
import torch
import transformers
from torch import Tensor

from interp_hooks import HookedTransformer
from tests import calls
from tests.tiny import SHARED, build, random_tokens, unchecked_types

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
# without a GPU the generator alone: looking for other devices takes longer than a small test
seed = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed
torch.set_num_threads(1)  # for tensors this small, waking other threads takes longer than the arithmetic
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in notebooks and scripts too, beside which another worker computes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks and demos first: they take minutes, for which another worker would otherwise wait at the end.

    Tests of one member of a family stand together, so that its models are built in one worker.
    """
    slow = ("tests/test_notebooks", "tests/test_week", "tests/test_demos", "tests/circuits/test_brackets_model")
    files = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (not item.nodeid.startswith(slow), files[item.path], member_of(item)))


def member_of(item: pytest.Item) -> str:
    """The name of a tiny model of HuggingFace's that a test of families takes."""
    case = getattr(item, "callspec", None)
    return case.params.get("name", "") if case and item.path.name == "test_families.py" else ""


def pytest_collection_finish() -> None:
    """What was imported and collected stays until the end: the garbage collector need not look at it ever again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    seed(0)


@pytest.fixture(autouse=True)
def _checked_types(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runtime type checks take more than half of a test's time, and see in one case what they see in the next.

    So they are on in half of the tests without parameters, and in an eighth of the cases of the others, chosen by their
    names, so that one architecture is checked in some tests and another one in others; with CHECK_TYPES=all in all.
    Within a test they see the first calls of each function.
    """
    calls.clear()
    name = request.node.nodeid
    one_in = 1 if request.node.get_closest_marker("types") else 8 if "[" in name else 2
    if zlib.crc32(name.encode()) % one_in == 0 or os.environ.get("CHECK_TYPES") == "all":
        yield
        return
    with unchecked_types():
        yield


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is gone goes at once, and no cycle is collected meanwhile.

    Runtime type checks are off too: what they raise and remember is no business of the package's.
    """
    with unchecked_types():
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


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
