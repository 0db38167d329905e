"""Text to tokens and back: exactly one BOS where it is wanted, padding on the side asked for, and nothing lost."""

from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, NoTokenizer, TokenError
from interp_hooks.tokens import TextInterface
from tests.tiny import SHARED, assert_close, build, our_logits, unchecked_types

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran"]


def word_tokenizer(*, adds_bos: bool = False, bos: bool = True, pad: bool = False) -> PreTrainedTokenizerFast:
    """One token per word; with `adds_bos` the tokenizer itself puts a BOS in front, as Llama's does."""
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", "<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<pad>")])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"bos_token": "<s>" if bos else None, "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>" if pad else None, **special)


def text_model(tokenizer: Any, **options: Any) -> HookedTransformer:
    model = build()
    return HookedTransformer(model.cfg, tokenizer, **options).eval()


THE, CAT, SAT = 4, 5, 6

# --------------------------------------------------------------------------------------------------------- BOS, once


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize(
    ("text", "prepend_bos", "ids"),
    [
        ("the cat", None, [0, THE, CAT]),
        ("the cat", True, [0, THE, CAT]),
        ("the cat", False, [THE, CAT]),
        ("<s> the cat", None, [0, THE, CAT]),
        ("<s> the cat", True, [0, THE, CAT]),
        ("<s>the cat", True, [0, THE, CAT]),
        ("<s>", None, [0]),
        ("", None, [0]),
    ],
)
def test_a_row_begins_with_exactly_one_bos(adds_bos: bool, text: str, prepend_bos: Any, ids: list[int]) -> None:
    model = text_model(word_tokenizer(adds_bos=adds_bos))
    assert model.to_tokens(text, prepend_bos=prepend_bos).tolist() == [ids]


@pytest.mark.parametrize("default", [False, True])
def test_the_models_default_holds_where_nothing_is_said(default: bool) -> None:
    cfg = build().cfg.replace(default_prepend_bos=default)
    model = HookedTransformer(cfg, word_tokenizer(adds_bos=True))
    assert model.to_tokens("the cat").tolist() == [[0] * default + [THE, CAT]]
    assert model.to_tokens("the cat", prepend_bos=not default).tolist() == [[0] * (not default) + [THE, CAT]]


def test_a_tokenizer_without_bos() -> None:
    model = text_model(word_tokenizer(bos=False))
    assert model.to_tokens("the cat").tolist() == [[THE, CAT]], "there is none to put in front"
    with pytest.raises(TokenError, match="prepend_bos=True, but the tokenizer has no BOS token"):
        model.to_tokens("the cat", prepend_bos=True)
    with pytest.raises(TokenError, match="the text '' has no tokens"):
        model.to_tokens("")


def test_a_forward_pass_reads_text_as_to_tokens_does() -> None:
    model = text_model(word_tokenizer(adds_bos=True))
    for options in ({}, {"prepend_bos": False}):
        from_text = our_logits(model, "the cat sat", **options)
        assert torch.equal(from_text, our_logits(model, model.to_tokens("the cat sat", **options)))
    assert model("the cat", return_type="loss", prepend_bos=True) == model(torch.tensor([[0, THE, CAT]]), "loss")


# ------------------------------------------------------------------------------------------------------------- padding

TEXTS = ["the cat sat on", "a", "dog ran"]


@pytest.mark.parametrize("pad", [False, True])
def test_rows_are_filled_on_the_side_asked_for(pad: bool) -> None:
    """With the padding token, or the EOS of a tokenizer without one."""
    fill = 2 if pad else 1
    for side, options in (("right", {}), ("left", {"padding_side": "left"})):
        tokens = text_model(word_tokenizer(pad=pad)).to_tokens(TEXTS, **options)
        for row, text in zip(tokens.tolist(), TEXTS, strict=True):
            ids = [0] + [4 + WORDS.index(word) for word in text.split()]
            padding = [fill] * (5 - len(ids))
            assert row == (ids + padding if side == "right" else padding + ids)
    left = text_model(word_tokenizer(pad=pad), default_padding_side="left")
    assert torch.equal(left.to_tokens(TEXTS), tokens), "the model's default"


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_text_gives_each_prompts_own_logits(side: Any, pad: bool) -> None:
    model = text_model(word_tokenizer(pad=pad), default_padding_side=side)
    together = our_logits(model, TEXTS)
    for row, text in enumerate(TEXTS):
        alone = our_logits(model, text)[0]
        real = together[row, -len(alone) :] if side == "left" else together[row, : len(alone)]
        assert_close(real, alone, 1e-10)  # float64, another kernel for masks


@pytest.mark.parametrize("pad", [False, True])
def test_left_padded_tokens_are_masked_like_the_text(pad: bool) -> None:
    model = text_model(word_tokenizer(pad=pad), default_padding_side="left")
    assert_close(our_logits(model, model.to_tokens(TEXTS)), our_logits(model, TEXTS), 1e-12)


def test_a_side_given_with_tokens_counts() -> None:
    """As it does with text; tokens padded on the left are no other prompt for a model that pads on the right."""
    model = text_model(word_tokenizer(pad=True))
    tokens = model.to_tokens(TEXTS, padding_side="left")
    from_text = our_logits(model, TEXTS, padding_side="left")
    assert_close(our_logits(model, tokens, padding_side="left"), from_text, 1e-12)


def test_a_bos_that_is_also_the_padding_is_one_real_token() -> None:
    """GPT-2 has one special token for everything."""
    tokenizer = word_tokenizer()
    tokenizer.pad_token = "<s>"
    model = text_model(tokenizer, default_padding_side="left")
    tokens = model.to_tokens(TEXTS)
    assert tokens[1].tolist() == [0, 0, 0, 0, 4 + WORDS.index("a")]
    for row, text in enumerate(TEXTS):
        alone = our_logits(model, text)[0]
        assert_close(our_logits(model, tokens)[row, -len(alone) :], alone, 1e-10)


def test_the_loss_counts_real_tokens_only() -> None:
    model = text_model(word_tokenizer(pad=True))
    per_prompt = [model(text, return_type="loss", loss_per_token=True)[0] for text in TEXTS]
    together = model(TEXTS, return_type="loss")
    assert_close(together.detach(), torch.cat(per_prompt).mean().detach(), 1e-10)
    per_token = model(TEXTS, return_type="loss", loss_per_token=True)
    assert_close(per_token[1, : len(per_prompt[1])].detach(), per_prompt[1].detach(), 1e-10)
    assert not per_token[1, len(per_prompt[1]) :].any()


@pytest.mark.parametrize("side", ["middle", "LEFT"])
def test_a_side_that_is_none(side: Any) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=f"padding_side must be 'left' or 'right', got '{side}'"):
        text_model(word_tokenizer()).to_tokens(TEXTS, padding_side=side)
    with unchecked_types(), pytest.raises(BadInput, match="padding_side"):
        text_model(word_tokenizer(), default_padding_side=side)


def test_long_text_is_cut_only_where_asked() -> None:
    model = text_model(word_tokenizer())
    long = "the cat " * 10
    assert model.to_tokens(long).shape == (1, 9)
    assert model.to_tokens(long, truncate=False).shape == (1, 21)
    with pytest.raises(BadInput, match="21 tokens, but this model reads at most n_ctx=9"):
        model(model.to_tokens(long, truncate=False))


# ------------------------------------------------------------------------------------------------------- single tokens


def test_single_tokens() -> None:
    model = text_model(word_tokenizer(adds_bos=True))
    assert model.to_single_token("cat") == CAT
    with pytest.raises(TokenError, match=r"'the cat' is 2 tokens \(.*the.*cat.*\); expected exactly one"):
        model.to_single_token("the cat")
    with pytest.raises(TokenError, match=r"'' is 0 tokens \(nothing\)"):
        model.to_single_token("")


@pytest.mark.parametrize(
    ("answer", "ids"),
    [("cat", CAT), (["cat", "the"], [CAT, THE]), (5, 5), ([5, "the"], [5, THE]), (("cat",), [CAT]),
     (torch.tensor([[5, 4]]), [[5, 4]])],
)  # fmt: skip
def test_answers_as_ids(answer: Any, ids: Any) -> None:
    assert text_model(word_tokenizer()).token_ids(answer).tolist() == ids


# ------------------------------------------------------------------------------------------------------- no tokenizer


def test_text_needs_a_tokenizer(plain: HookedTransformer) -> None:
    assert plain.tokenizer is None
    for call in (
        lambda: plain("hello"),
        lambda: plain(["hello", "you"]),
        lambda: plain.to_tokens("hello"),
        lambda: plain.to_string(torch.tensor([1])),
        lambda: plain.to_str_tokens("hello"),
        lambda: plain.to_str_tokens(torch.tensor([1])),
        lambda: plain.to_single_token("hello"),
    ):
        with pytest.raises(NoTokenizer, match=r"this model has no tokenizer.* pass tokenizer="):
            call()


@pytest.mark.parametrize(
    ("text", "said"), [([], "at least one string"), (["the", 3], "an item of type int"), (3, "int")]
)
def test_what_is_no_text(text: Any, said: str) -> None:
    with unchecked_types(), pytest.raises((TokenError, TypeError), match=said):
        TextInterface(word_tokenizer(), 9).encode(text)


# ---------------------------------------------------------------------------------------------------- GPT-2's tokenizer

TEXT_SAMPLES = [
    "Hello world",
    " leading space",
    "two  spaces   three",
    "tabs\tand\nnewlines\n\n",
    "   ",
    "\n",
    "naïve café Ωmega",
    "日本語のテキスト",
    "emoji 👩‍👩‍👧‍👦🎉 end",
    "don't won't I'll",
    "<|endoftext|>",
    "1234567890 3.14",
    "x" * 50,
]


@pytest.fixture(scope="module")
def gpt2_like(gpt2_tokenizer: PreTrainedTokenizerBase) -> HookedTransformer:
    cfg = dict(n_layers=1, d_model=8, n_ctx=64, d_vocab=50257, n_heads=2, act_fn="relu", d_mlp=8)
    return HookedTransformer(cfg, gpt2_tokenizer).eval()


@pytest.mark.parametrize("text", TEXT_SAMPLES)
def test_text_survives_the_round_trip(gpt2_like: HookedTransformer, text: str) -> None:
    without = gpt2_like.to_tokens(text, prepend_bos=False)
    assert gpt2_like.to_string(without) == [text]
    assert gpt2_like.to_string(without[0]) == text
    with_bos = gpt2_like.to_tokens(text)
    assert with_bos[0].tolist().count(50256) == 1, "BOS once, also where the text begins with it"
    assert gpt2_like.to_string(with_bos[0]) == "<|endoftext|>" + text.removeprefix("<|endoftext|>")


@pytest.mark.parametrize("text", [text for text in TEXT_SAMPLES if text.isascii()])
def test_pieces_join_to_the_text(gpt2_like: HookedTransformer, text: str) -> None:
    pieces = gpt2_like.to_str_tokens(text, prepend_bos=False)
    assert "".join(pieces) == text
    assert len(pieces) == gpt2_like.to_tokens(text, prepend_bos=False).shape[1]


def test_pieces(gpt2_like: HookedTransformer) -> None:
    assert gpt2_like.to_str_tokens("Hello world") == ["<|endoftext|>", "Hello", " world"]
    assert gpt2_like.to_str_tokens(torch.tensor([15496, 995])) == ["Hello", " world"]
    assert gpt2_like.to_str_tokens(torch.tensor([[15496, 995]])) == ["Hello", " world"]
    assert gpt2_like.to_str_tokens([15496, 995]) == ["Hello", " world"]
    assert gpt2_like.to_str_tokens(["Hello", " world"], prepend_bos=False) == [["Hello"], [" world"]]
    with pytest.raises(BadInput, match=r"one row of token ids, got shape \[2, 2\]"):
        gpt2_like.to_str_tokens(torch.zeros(2, 2, dtype=torch.long))


@pytest.mark.parametrize("text", [text for text in TEXT_SAMPLES if not text.isascii()])
def test_there_is_a_piece_for_every_token(gpt2_like: HookedTransformer, text: str) -> None:
    """A character may be several tokens, none of which is text by itself; it shows as the replacement sign."""
    pieces = gpt2_like.to_str_tokens(text, prepend_bos=False)
    assert len(pieces) == gpt2_like.to_tokens(text, prepend_bos=False).shape[1]
    assert all(pieces)


def test_words_inside_a_sentence_begin_with_a_space(gpt2_like: HookedTransformer) -> None:
    assert gpt2_like.to_single_token(" Mary") == 5335
    with pytest.raises(TokenError, match=r"'Johnathan' is 2 tokens .*try ' Johnathan'"):
        gpt2_like.to_single_token("Johnathan")
    with pytest.raises(TokenError) as error:
        gpt2_like.to_single_token(" Mary Jane")
    assert "try" not in str(error.value), "it begins with a space already"


def test_a_batch_of_texts(gpt2_like: HookedTransformer) -> None:
    tokens = gpt2_like.to_tokens(["Hello", "Hello world"])
    assert tokens.tolist() == [[50256, 15496, 50256], [50256, 15496, 995]]
    assert gpt2_like.to_string(tokens[1:]) == ["<|endoftext|>Hello world"]


# ------------------------------------------------------------------------------------------- a tokenizer that adds BOS


@pytest.fixture(scope="module")
def llama_like() -> HookedTransformer:
    folder = SHARED / "models" / "stories260k"
    if not folder.exists():
        pytest.skip("the stories260k checkpoint does not lie beside the checkout (../shared/models/stories260k)")
    cfg = dict(n_layers=1, d_model=8, n_ctx=64, d_vocab=512, n_heads=2, act_fn="relu", d_mlp=8)
    return HookedTransformer(cfg, AutoTokenizer.from_pretrained(folder)).eval()


@pytest.mark.parametrize("text", ["Once upon a time", "<s>Once upon a time", "a", "é 日本 🎉"])
def test_bos_stays_single_where_the_tokenizer_adds_it(llama_like: HookedTransformer, text: str) -> None:
    assert llama_like.to_tokens(text)[0].tolist().count(1) == 1
    assert llama_like.to_tokens(text)[0, 0] == 1
    if not text.startswith("<s>"):
        without = llama_like.to_tokens(text, prepend_bos=False)
        assert 1 not in without
        assert llama_like.to_string(without[0]).removeprefix(" ") == text


def test_pieces_keep_the_space_that_decoding_drops(llama_like: HookedTransformer) -> None:
    pieces = llama_like.to_str_tokens("Once upon a time", prepend_bos=False)
    assert "".join(pieces) == " Once upon a time"
