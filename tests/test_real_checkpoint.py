"""A trained checkpoint: HuggingFace's numbers, and the text that its authors publish."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from interp_hooks import HookedTransformer
from tests.tiny import SHARED, assert_close, hf_logits, log_probs, our_logits

FOLDER = SHARED / "models" / "stories260k"

pytestmark = pytest.mark.skipif(
    not FOLDER.exists(),
    reason="the stories260k checkpoint does not lie beside the checkout (../shared/models/stories260k)",
)

FLOAT32 = 1e-4  # as in tests/test_families.py
PROMPT = "Once upon a time, there was a boy named Tim. He liked to"


@pytest.fixture(scope="module")
def hf() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def raw() -> HookedTransformer:
    return HookedTransformer.from_pretrained_no_processing(str(FOLDER))


@pytest.fixture(scope="module")
def processed() -> HookedTransformer:
    return HookedTransformer.from_pretrained(str(FOLDER))


def test_logits(hf: PreTrainedModel, raw: HookedTransformer) -> None:
    tokens = raw.to_tokens(PROMPT)
    assert_close(our_logits(raw, PROMPT), hf_logits(hf, tokens), FLOAT32)


def test_log_probabilities(hf: PreTrainedModel, processed: HookedTransformer) -> None:
    tokens = processed.to_tokens(PROMPT)
    assert_close(log_probs(our_logits(processed, PROMPT)), log_probs(hf_logits(hf, tokens)), FLOAT32)


def test_the_description(processed: HookedTransformer) -> None:
    cfg = processed.cfg
    assert (cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.n_key_value_heads) == (5, 64, 8, 4)
    assert (cfg.d_mlp, cfg.d_vocab, cfg.n_ctx, cfg.eps) == (172, 512, 512, 1e-5)
    assert cfg.normalization_type == "RMSPre"
    assert cfg.gated_mlp


@pytest.mark.parametrize("which", ["raw", "processed"])
def test_it_tells_the_published_story(which: str, request: pytest.FixtureRequest) -> None:
    """Greedily, from the BOS token alone."""
    model = request.getfixturevalue(which)
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    published = re.search(r'"(Once upon a time.*?)"', readme, re.DOTALL)
    assert published is not None
    expected = " ".join(published[1].split())
    tokens = model.to_tokens("<s>")
    assert tokens.tolist() == [[1]]
    text = ""
    with torch.no_grad():
        while len(text) < len(expected):
            tokens = torch.cat((tokens, model(tokens, logits_pos=-1).argmax(-1)), dim=1)
            text = model.to_string(tokens[0, 1:]).strip()
    assert text[: len(expected)] == expected


def test_the_loss_is_that_of_a_trained_model(raw: HookedTransformer) -> None:
    """Far below log(512) = 6.2, which guessing gives."""
    assert float(raw(PROMPT, return_type="loss").detach()) < 2.0
