"""Text to tokens and back: exactly one BOS where it is wanted, padding on the side asked for, and nothing lost."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from interp_hooks import HookedTransformer, LogitDiff, evaluate, patch
from interp_hooks.errors import BadInput, CheckpointError, NoTokenizer, TokenError
from interp_hooks.interventions.runs import as_run
from interp_hooks.loading.checkpoints import read_tokenizer
from interp_hooks.model.tokenization import TextInterface
from interp_hooks.model.tokens import overridden_defaults
from interp_hooks.studies.heads import detect_head
from interp_hooks.studies.lenses import logit_lens
from tests.tiny import SHARED, assert_close, build, our_logits, unchecked_types

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran"]


def word_tokenizer(
    *, adds_bos: bool = False, adds_eos: bool = False, bos: bool = True, pad: bool = False, **options: Any
) -> PreTrainedTokenizerFast:
    """One token per word; with `adds_bos` the tokenizer itself puts a BOS in front, as Llama's does."""
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", "<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<s>", "</s>", "<pad>")])
    template = "<s> " * adds_bos + "$A" + " </s>" * adds_eos
    if adds_bos or adds_eos:
        special = [("<s>", 0), ("</s>", 1)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    named = {"bos_token": "<s>" if bos else None, "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>" if pad else None, **named, **options)


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


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tokenizer_that_adds_an_eos_adds_none_here(adds_bos: bool, side: Any) -> None:
    model = text_model(word_tokenizer(adds_bos=adds_bos, adds_eos=True, pad=True), default_padding_side=side)
    assert model.tokenizer_prepends_bos is adds_bos
    assert model.to_tokens("the cat").tolist() == [[0, THE, CAT]]
    assert model.to_tokens("the cat", prepend_bos=False).tolist() == [[THE, CAT]]
    assert model.to_single_token("cat") == CAT
    padded = model.to_tokens(["the cat", "sat"], prepend_bos=False).tolist()
    assert padded == [[THE, CAT], [SAT, 2] if side == "right" else [2, SAT]]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_whether_the_tokenizer_itself_adds_a_bos_is_told(adds_bos: bool) -> None:
    model = text_model(word_tokenizer(adds_bos=adds_bos))
    assert model.tokenizer_prepends_bos is model.cfg.tokenizer_prepends_bos is adds_bos
    model.set_tokenizer(word_tokenizer(adds_bos=not adds_bos))
    assert model.tokenizer_prepends_bos is model.cfg.tokenizer_prepends_bos is not adds_bos
    assert text_model(word_tokenizer(bos=False)).tokenizer_prepends_bos is False
    assert build().cfg.tokenizer_prepends_bos is None
    with pytest.raises(NoTokenizer):
        build().tokenizer_prepends_bos  # noqa: B018


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


def test_the_default_may_be_changed() -> None:
    model = text_model(word_tokenizer(adds_bos=True))
    assert model.default_prepend_bos is True
    model.default_prepend_bos = False
    assert model.cfg.default_prepend_bos is False
    assert model.to_tokens("the cat").tolist() == [[THE, CAT]]
    assert torch.equal(our_logits(model, "the cat"), our_logits(model, torch.tensor([[THE, CAT]])))
    assert len(model.to_str_tokens("the cat")) == 2
    assert model.get_token_position("cat", "the cat") == 1
    model.default_prepend_bos = True
    assert model.to_tokens("the cat").tolist() == [[0, THE, CAT]]
    without = text_model(word_tokenizer(bos=False))
    with pytest.raises(TokenError, match="no BOS token"):
        without.default_prepend_bos = True


def test_defaults_may_differ_for_a_while() -> None:
    model = text_model(word_tokenizer(pad=True))
    with overridden_defaults(model, prepend_bos=False, padding_side="left"):
        assert model.to_tokens(["the cat", "sat"]).tolist() == [[THE, CAT], [2, SAT]]
        with overridden_defaults(model, prepend_bos=True):
            assert model.to_tokens(["the cat", "sat"]).tolist() == [[0, THE, CAT], [2, 0, SAT]]
        with pytest.raises(ZeroDivisionError), overridden_defaults(model, padding_side="right"):
            raise ZeroDivisionError
        assert (model.default_prepend_bos, model.default_padding_side) == (False, "left")
    assert (model.default_prepend_bos, model.default_padding_side) == (True, "right")
    assert model.to_tokens(["the cat", "sat"]).tolist() == [[0, THE, CAT], [0, SAT, 2]]


def test_overriding_what_cannot_be_is_told_and_leaves_the_defaults() -> None:
    model = text_model(word_tokenizer(bos=False))
    with pytest.raises(TokenError, match="no BOS token"):
        overridden_defaults(model, prepend_bos=True).__enter__()
    with unchecked_types(), pytest.raises(BadInput, match="padding_side"):
        overridden_defaults(model, prepend_bos=False, padding_side="middle").__enter__()
    assert (model.default_prepend_bos, model.default_padding_side) == (False, "right")
    untold = build()
    with overridden_defaults(untold, prepend_bos=False, padding_side="left"):
        assert (untold.default_prepend_bos, untold.default_padding_side) == (False, "left")
    assert (untold.default_prepend_bos, untold.default_padding_side) == (True, "right")


def test_what_is_set_within_a_block_ends_with_it() -> None:
    model = text_model(word_tokenizer(pad=True))
    with overridden_defaults(model, padding_side="left"):
        model.default_prepend_bos = False
        assert model.to_tokens("the cat").tolist() == [[THE, CAT]]
        with pytest.raises(BadInput, match="set the tokenizer before the block"):
            model.set_tokenizer(word_tokenizer())
    assert model.default_prepend_bos
    assert model.cfg.default_prepend_bos
    assert model.to_tokens("the cat").tolist() == [[0, THE, CAT]]


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


def test_the_side_is_the_tokenizers_also_when_it_changes() -> None:
    model, tokenizer = build(), word_tokenizer(pad=True, padding_side="left")
    left, right = [[0, THE, CAT], [2, 0, SAT]], [[0, THE, CAT], [0, SAT, 2]]
    model.set_tokenizer(tokenizer)
    assert model.tokenizer is tokenizer
    assert model.default_padding_side == "left"
    assert model.to_tokens(["the cat", "sat"]).tolist() == left
    tokenizer.padding_side = "right"
    assert model.to_tokens(["the cat", "sat"]).tolist() == right
    model.default_padding_side = "left"
    assert model.to_tokens(["the cat", "sat"]).tolist() == left
    assert model.tokenizer.padding_side == "left"
    assert tokenizer.padding_side == "right", "a side of the model's own is nobody else's"
    model.tokenizer.padding_side = "right"
    assert model.to_tokens(["the cat", "sat"]).tolist() == right
    assert model.to_tokens(["the cat", "sat"], padding_side="left").tolist() == left
    assert model.default_padding_side == "right", "an argument changes no default"


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
    """n_ctx is 9; to cut a text without a word would give the numbers of another one."""
    model = text_model(word_tokenizer())
    long = "the cat " * 10
    assert torch.equal(model.to_tokens(long, truncate=True), model.to_tokens("the cat " * 4))
    assert model.to_tokens(long, truncate=False).shape == (1, 21)
    refused = "21 tokens, but this model reads at most n_ctx=9.*truncate=True"
    for call in (
        lambda: model.to_tokens(long),
        lambda: model(long),
        lambda: model(["sat", long], return_type="loss"),
        lambda: model.run_with_cache(long),
        lambda: detect_head(model, long, "previous_token_head"),
        lambda: detect_head(model, ["sat", long], "previous_token_head"),
        lambda: logit_lens(model, long),
    ):
        with pytest.raises(BadInput, match=refused):
            call()
    with pytest.raises(BadInput, match="21 tokens, but this model reads at most n_ctx=9"):
        model(model.to_tokens(long, truncate=False))
    with pytest.raises(BadInput, match="21 tokens and 2 new ones do not fit"):
        model.generate(long, 2, verbose=False)
    assert model.get_token_position("cat", long, mode="last") == 20


# ------------------------------------------------------------------------------------------------------- single tokens


def test_single_tokens() -> None:
    model = text_model(word_tokenizer(adds_bos=True))
    assert model.to_single_token("cat") == CAT
    with pytest.raises(TokenError, match=r"'the cat' is 2 tokens \(.*the.*cat.*\); expected exactly one"):
        model.to_single_token("the cat")
    with pytest.raises(TokenError, match=r"'' is 0 tokens \(nothing\)"):
        model.to_single_token("")


def test_an_unknown_word_is_no_single_token() -> None:
    model = text_model(word_tokenizer())
    assert model.to_single_token("<unk>") == 3
    with pytest.raises(TokenError, match="does not know 'zebra'; it reads the unknown token 3"):
        model.to_single_token("zebra")
    assert model.to_tokens("the zebra").tolist() == [[0, THE, 3]], "in a prompt it is read as what it is"


@pytest.mark.parametrize("given", [CAT, np.int64(CAT), torch.tensor(CAT), torch.tensor([CAT])])
def test_the_string_of_a_single_token(given: Any) -> None:
    with unchecked_types():
        assert text_model(word_tokenizer()).to_single_str_token(given) == " cat"


@pytest.mark.parametrize("wrong", [-1, 23, True, 2.0, "cat"])
def test_what_is_no_single_token_id(wrong: Any) -> None:
    with unchecked_types(), pytest.raises(BadInput, match="token ids"):
        text_model(word_tokenizer()).to_single_str_token(wrong)


PROMPT = [0, THE, CAT, SAT, THE, CAT]


@pytest.mark.parametrize("wanted", ["cat", CAT, torch.tensor(CAT)])
@pytest.mark.parametrize(
    "prompt",
    ["the cat sat the cat", PROMPT, [PROMPT], torch.tensor(PROMPT), torch.tensor([PROMPT]), np.array(PROMPT)],
)
def test_where_a_token_is(wanted: Any, prompt: Any) -> None:
    model = text_model(word_tokenizer(adds_bos=True))
    assert model.get_token_position(wanted, prompt) == 2
    assert model.get_token_position(wanted, prompt, "first") == 2
    assert model.get_token_position(wanted, prompt, mode="last") == 5
    without_bos = model.get_token_position(wanted, prompt, prepend_bos=False, padding_side="left")
    assert without_bos == (1 if isinstance(prompt, str) else 2), "the argument is about text"


def test_where_a_token_is_not() -> None:
    model = text_model(word_tokenizer())
    for wanted in ("mat", 8):
        with pytest.raises(TokenError, match=r"\(token 8\) does not occur in the prompt, whose tokens are \[0, 4, 5\]"):
            model.get_token_position(wanted, "the cat")
    with pytest.raises(TokenError, match="expected exactly one"):
        model.get_token_position("the cat", "the cat")
    with pytest.raises(BadInput, match="one row of token ids, got 2 rows"):
        model.get_token_position("cat", torch.tensor([[4, 5], [5, 4]]))
    with unchecked_types(), pytest.raises(BadInput, match="mode must be 'first' or 'last', got 'all'"):
        model.get_token_position("cat", "the cat", "all")


def test_where_a_token_is_needs_no_tokenizer_for_ids() -> None:
    assert build().get_token_position(7, torch.tensor([3, 7, 7]), "last") == 2


@pytest.mark.parametrize(
    ("answer", "ids"),
    [("cat", CAT), (["cat", "the"], [CAT, THE]), (5, 5), ([5, "the"], [5, THE]), (("cat",), [CAT]),
     (torch.tensor([[5, 4]]), [[5, 4]])],
)  # fmt: skip
def test_answers_as_ids(answer: Any, ids: Any) -> None:
    assert text_model(word_tokenizer()).token_ids(answer).tolist() == ids


# ------------------------------------------------------------------------------------------- every form of token ids


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([THE, CAT], "the cat"),
        ((THE, CAT), "the cat"),
        (torch.tensor([THE, CAT]), "the cat"),
        (np.array([THE, CAT]), "the cat"),
        ([torch.tensor(THE), np.int64(CAT)], "the cat"),
        (CAT, "cat"),
        (torch.tensor(CAT), "cat"),
        (torch.tensor([[THE, CAT]]), ["the cat"]),
        (np.array([[THE, CAT], [CAT, SAT]]), ["the cat", "cat sat"]),
        ([[THE, CAT], [SAT]], ["the cat", "sat"]),
        ([torch.tensor([THE, CAT]), torch.tensor([SAT])], ["the cat", "sat"]),
        (torch.tensor([THE, CAT], dtype=torch.int32), "the cat"),
    ],
)
def test_ids_as_text(ids: Any, text: Any) -> None:
    assert text_model(word_tokenizer()).to_string(ids) == text


@pytest.mark.parametrize(
    ("ids", "pieces"),
    [
        ([THE, CAT], [" the", " cat"]),
        (torch.tensor([THE, CAT]), [" the", " cat"]),
        (np.array([THE, CAT]), [" the", " cat"]),
        (torch.tensor([[THE, CAT]]), [" the", " cat"]),
        (np.array([[THE, CAT]]), [" the", " cat"]),
        (torch.tensor(CAT), [" cat"]),
        ([torch.tensor([THE, CAT]), np.array([SAT])], [[" the", " cat"], [" sat"]]),
        ([[THE, CAT], [SAT]], [[" the", " cat"], [" sat"]]),
        (["the cat", torch.tensor([[SAT]])], [[" <s>", " the", " cat"], [" sat"]]),
    ],
)
def test_ids_as_pieces(ids: Any, pieces: Any) -> None:
    """Every word has the space that stands before it inside a text."""
    assert text_model(word_tokenizer()).to_str_tokens(ids) == pieces


def test_texts_are_read_one_by_one() -> None:
    model = text_model(word_tokenizer(pad=True))
    assert model.to_str_tokens(["the cat", "sat"]) == [[" <s>", " the", " cat"], [" <s>", " sat"]]
    assert model.to_str_tokens(["the cat", "sat"], False, "left") == [[" the", " cat"], [" sat"]]
    assert len(model.to_str_tokens("the cat " * 10)) == 21, "nothing is cut"


@pytest.mark.parametrize(
    "wrong",
    [torch.tensor([1.0]), torch.tensor([True]), torch.zeros(0, dtype=torch.bool), {4: 5}, [4, "cat"],
     torch.zeros(1, 1, 1, dtype=torch.long), [[THE], [[CAT], [SAT]]]],
)  # fmt: skip
def test_what_are_no_ids(wrong: Any) -> None:
    with unchecked_types(), pytest.raises(BadInput, match="token ids"):
        text_model(word_tokenizer()).to_string(wrong)


# ------------------------------------------------------------------------------------------------- another tokenizer


def test_a_tokenizer_may_be_set_later() -> None:
    model = build()
    model.set_tokenizer(word_tokenizer(pad=True), default_padding_side="left")
    assert model.to_tokens(["the cat", "sat"]).tolist() == [[0, THE, CAT], [2, 0, SAT]]
    model.set_tokenizer(word_tokenizer(bos=False))
    assert model.to_tokens("the cat").tolist() == [[THE, CAT]]
    assert model.default_prepend_bos is False
    model.set_tokenizer(word_tokenizer(adds_bos=True))
    assert model.to_tokens("the cat").tolist() == [[0, THE, CAT]], "a model reads a BOS where there is one"
    for wrong, options in (("gpt2", {}), (None, {}), (word_tokenizer(), {"default_padding_side": "middle"})):
        with unchecked_types(), pytest.raises(BadInput):
            model.set_tokenizer(wrong, **options)
    assert model.to_tokens("the cat").tolist() == [[0, THE, CAT]]


def test_a_model_that_wants_no_bos_wants_none_of_another_tokenizer() -> None:
    model = HookedTransformer(build().cfg.replace(default_prepend_bos=False), word_tokenizer())
    model.set_tokenizer(word_tokenizer(adds_bos=True))
    assert model.to_tokens("the cat").tolist() == [[THE, CAT]]
    assert copy.deepcopy(model).to_tokens("the cat", prepend_bos=True).tolist() == [[0, THE, CAT]]


def test_tokens_lie_where_the_model_is_unless_told() -> None:
    model = text_model(word_tokenizer()).to("meta")
    assert model.to_tokens("the cat").device.type == "meta"
    assert model.to_tokens("the cat", move_to_device=False).tolist() == [[0, THE, CAT]]


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
    with pytest.raises(BadInput, match="one row of token ids, got 2 rows"):
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


# ------------------------------------------------------------------------------------------- beyond the vocabulary


def test_tokens_that_were_added_to_the_tokenizer_alone_are_told() -> None:
    """The model has no embedding for them."""
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([f"new{number}" for number in range(12)])
    model = text_model(tokenizer)
    assert model.to_tokens("the new11").tolist() == [[0, THE, 23]], "and d_vocab is 23"
    told = r"token ids must be 0\.\.22, got 23, ' new11': a token that was added to the tokenizer, and for which"
    metric = LogitDiff(1, 2)
    for read in (
        model,
        model.run_with_cache,
        lambda text: model.generate(text, 1, verbose=False),
        lambda text: model.input_to_embed(text),
        lambda text: evaluate(model, [as_run(model, text)], metric),
        lambda text: patch(model, text, "the cat", metric, "resid_pre", progress=False),
    ):
        with pytest.raises(BadInput, match=told):
            read("the new11")
    with pytest.raises(BadInput, match=r"must be 0\.\.18, got \[23\]"):
        model.token_ids("new11")


# --------------------------------------------------------------------------------------------- without a vocabulary


def tokenizers_without_vocabulary() -> list[Any]:
    from transformers import BertTokenizer, GPT2Tokenizer, LlamaTokenizer

    return [make() for make in (LlamaTokenizer, GPT2Tokenizer, BertTokenizer)]


def test_a_tokenizer_without_vocabulary_is_refused() -> None:
    """As transformers makes it of a folder that lacks the file: it reads every text as the same few ids."""
    for tokenizer in tokenizers_without_vocabulary():
        assert set(tokenizer.get_vocab()) == {token.content for token in tokenizer.added_tokens_decoder.values()}
        for give in (text_model, build().set_tokenizer, lambda one: TextInterface(one, 9)):
            with pytest.raises(TokenError, match="the tokenizer knows no word"):
                give(tokenizer)


def test_a_folder_without_the_vocabularys_file_is_refused(tmp_path: Path) -> None:
    from tests.tiny import fresh_hf

    fresh_hf("llama").save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"}', encoding="utf-8")
    for load in (HookedTransformer.from_pretrained, lambda name: read_tokenizer(name)):
        with pytest.raises(CheckpointError, match=r"knows no word: the file of its vocabulary \(tokenizer.json"):
            load(str(tmp_path))
    assert HookedTransformer.from_pretrained(str(tmp_path), tokenizer=word_tokenizer()).to_tokens("cat").tolist() == [
        [0, CAT]
    ]
    native = tmp_path / "native"
    HookedTransformer(build().cfg, word_tokenizer()).save_pretrained(native)
    (native / "tokenizer.json").unlink()
    config.replace(native / config.name)
    with pytest.raises(CheckpointError, match="knows no word"):
        HookedTransformer.from_pretrained(str(native))
    config_of_a_name = {**build().cfg.to_dict(), "tokenizer_name": str(native)}
    with pytest.raises(CheckpointError, match="knows no word"):
        HookedTransformer(config_of_a_name)
