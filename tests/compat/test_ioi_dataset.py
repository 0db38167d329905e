"""What samples say, and that no template or list of words can break them quietly."""

import random
from collections import Counter
from typing import Any

import pytest
import torch
from tokenizers import processors

from interp_hooks import HookedTransformer
from interp_hooks.compat.ioi_dataset import IOIDataset, ioi_eval
from interp_hooks.errors import BadInput, TokenError
from interp_hooks.tasks.ioi_text import IOI_TEMPLATES, NAMES, OBJECTS, PLACES
from tests.experiments.by_hand import word_tokenizer
from tests.tiny import build, redraw

TOKENIZER = word_tokenizer("Ada", "Bo", "Cy", "and", "met", "gave", "the", "cup", "pen", "to")
TEMPLATES = ["[A] and [B] met; [B] gave the [THING] to [A]"]
NOUNS = {"THING": ["cup", "pen"]}


def dataset(**options: Any) -> IOIDataset:
    defaults: dict[str, Any] = dict(templates=TEMPLATES, names=["Ada", "Bo", "Cy"], nouns=NOUNS, num_samples=40, seed=0)
    defaults |= options
    return IOIDataset(TOKENIZER, **defaults)


def test_samples_by_hand() -> None:
    for sample in dataset().samples:
        io, s = sample["IO"].strip(), sample["S"].strip()
        assert sample["IO"] == f" {io}"
        assert io != s
        things = {f"{io} and {s} met; {s} gave the {thing} to {io}" for thing in ("cup", "pen")}
        assert sample["text"] in things
    drawn = Counter((sample["IO"], sample["S"]) for sample in dataset(num_samples=600).samples)
    assert len(drawn) == 6
    assert min(drawn.values()) > 60, "uniformly"


@pytest.mark.parametrize("prepend_bos", [True, False])
def test_items_are_tokens(prepend_bos: bool) -> None:
    data = dataset(prepend_bos=prepend_bos)
    assert len(data) == 40
    for item, sample in zip(data, data.samples, strict=True):  # pyright: ignore[reportArgumentType]
        words = TOKENIZER.convert_ids_to_tokens(item["prompt"].tolist())
        assert words == ["<s>"] * prepend_bos + sample["text"].replace("; ", " <unk> ").split()
        assert TOKENIZER.decode(item["IO"]) == sample["IO"].strip()
        assert TOKENIZER.decode(item["S"]) == sample["S"].strip()


def test_what_the_tokenizer_adds_by_itself_is_left_out() -> None:
    tokenizer = word_tokenizer("Ada", "Bo", "and", "met", "to")
    begins = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.backend_tokenizer.post_processor = begins
    assert tokenizer.encode("Ada") == [0, 3]
    (item,) = IOIDataset(tokenizer, ["[B] met [A]"], ["Ada", "Bo"], {}, num_samples=1)  # pyright: ignore
    assert item["prompt"][0] == 0
    assert (item["prompt"] == 0).sum() == 1
    assert len(item["IO"]) == len(item["S"]) == 1


def test_symmetric_pairs() -> None:
    samples = dataset(symmetric=True).samples
    assert len(samples) == 40
    for one, other in zip(samples[::2], samples[1::2], strict=True):
        assert (one["IO"], one["S"]) == (other["S"], other["IO"])
        swapped = {one["IO"].strip(): one["S"].strip(), one["S"].strip(): one["IO"].strip()}
        assert other["text"].split() == [swapped.get(word, word) for word in one["text"].split()]


def test_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        for draw in ("choice", "sample", "getrandbits", "seed"):
            patched.setattr(random, draw, None)  # a seed of its own leaves Python's generator alone
        assert dataset(seed=4).samples == dataset(seed=4).samples != dataset(seed=5).samples
    drawn = []
    for _ in range(2):
        random.seed(1)
        drawn.append(dataset(seed=None).samples)
    assert drawn[0] == drawn[1] != dataset(seed=None).samples


def test_defaults_are_the_packages_task() -> None:
    templates = IOIDataset.get_default_templates()
    assert len(set(templates)) == 2 * len(IOI_TEMPLATES)
    assert templates[:2] == [
        "When [A] and [B] went to the [PLACE], [B] gave a [OBJECT] to [A]",
        "When [B] and [A] went to the [PLACE], [B] gave a [OBJECT] to [A]",
    ]
    assert IOIDataset.get_default_names() == list(NAMES)
    assert IOIDataset.get_default_nouns() == {"PLACE": list(PLACES), "OBJECT": list(OBJECTS)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": ["[A] gave it to [A]"]}, r"names \[A\] and \[B\]"),
        ({"templates": ["[A] saw that [A] met [B]"]}, r"ends with ' \[A\]'"),
        ({"templates": ["[B] gave the [TOY] to [A]"]}, r"slot \[TOY\]"),
        ({"templates": []}, "at least one choice"),
        ({"nouns": {"THING": []}}, "at least one choice"),
        ({"names": ["Ada"]}, "2 different names"),
        ({"names": ["Ada", "Ada", "Bo"]}, "2 different names"),
        ({"num_samples": 0}, "must be positive"),
        ({"num_samples": 3, "symmetric": True}, "even if symmetric"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        dataset(**options)


def test_a_bos_that_is_not_there() -> None:
    tokenizer = word_tokenizer("Ada", "Bo")
    tokenizer.bos_token = None
    with pytest.raises(TokenError, match="no BOS token"):
        IOIDataset(tokenizer)


# ------------------------------------------------------------------------------------------------------ a model on them

WITHOUT_NOUNS = ["[A] and [B] and [B] gave it to [A]", "[B] and [A] and it to [A]"]

WORDS = ["Mary", "John", "Van", "Gogh", "Cliburn", "gave", "it", "to", "and"]


@pytest.fixture(scope="module")
def reader() -> Any:
    """A random model with a tokenizer of words."""
    model = HookedTransformer(build(n_ctx=12, d_vocab=20, d_vocab_out=20).cfg, tokenizer=word_tokenizer(*WORDS))
    redraw(model, std=0.4)
    return model


def test_ioi_by_hand(reader: Any) -> None:
    data = IOIDataset(reader.tokenizer, WITHOUT_NOUNS, ["Mary", "John"], {}, num_samples=7, seed=0)
    diffs = []
    for sample in data.samples:
        before = reader.to_tokens(sample["text"].rpartition(" ")[0])
        logits = reader(before)[0, -1]
        io, s = (reader.to_single_token(sample[who].strip()) for who in ("IO", "S"))
        diffs.append((logits[io] - logits[s]).item())
    found = ioi_eval(reader, data, batch_size=3)
    assert found["Logit Difference"] == pytest.approx(sum(diffs) / 7, rel=1e-10)
    assert found["Accuracy"] == pytest.approx(sum(diff > 0 for diff in diffs) / 7)
    assert len({len(item["prompt"]) for item in data}) == 2, "prompts of two lengths, which are padded"  # pyright: ignore


def test_names_that_begin_alike_are_compared_where_they_part(reader: Any) -> None:
    data = IOIDataset(reader.tokenizer, WITHOUT_NOUNS[1:], ["Van Gogh", "Van Cliburn"], {}, num_samples=1, seed=0)
    (sample,) = data.samples
    read = reader.to_tokens(sample["text"].rpartition(" ")[0])  # ends with "Van"
    logits = reader(read)[0, -1]
    io, s = (reader.to_single_token(sample[who].rpartition(" ")[2]) for who in ("IO", "S"))
    expected = (logits[io] - logits[s]).item()
    assert ioi_eval(reader, data)["Logit Difference"] == pytest.approx(expected, rel=1e-10)
    nested = IOIDataset(reader.tokenizer, WITHOUT_NOUNS, ["Van", "Van Gogh"], {}, num_samples=1)
    with pytest.raises(TokenError, match="begin the other's"):
        ioi_eval(reader, nested)


def test_samples_that_cannot_be_read(reader: Any) -> None:
    with pytest.raises(BadInput, match="empty"):
        ioi_eval(reader, [])
    other = {"prompt": torch.tensor([0, 3, 4]), "IO": torch.tensor([3]), "S": torch.tensor([4])}
    with pytest.raises(TokenError, match="does not end with"):
        ioi_eval(reader, [other])
    with pytest.raises(BadInput, match="causal"):
        ioi_eval(build(attention_dir="bidirectional"), [other])


def test_the_bundled_model_does_its_task() -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny")
    found = ioi_eval(model, num_samples=24, symmetric=True)
    assert found["Accuracy"] == 1.0
    assert found["Logit Difference"] > 3  # of prompts that are drawn anew each time: 5.6, give or take 0.5
