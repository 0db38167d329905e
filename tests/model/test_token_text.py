"""The text of every token leads back to it, an answer is what follows its prompt, and nothing of a text is dropped."""

import functools
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from interp_hooks import HookedTransformer, LogitDiff
from interp_hooks.compat import IOIDataset, ioi_eval, mmlu_eval
from interp_hooks.compat import test_prompt as prompt_test
from interp_hooks.corpus import tokenize_and_concatenate
from interp_hooks.errors import TokenError
from interp_hooks.model.tokenization import TextInterface
from interp_hooks.tasks import capitals, ioi, ioi_pairs
from tests.tiny import SHARED, redraw, unchecked_types
from tests.tokenizers_like import KINDS, dropping_tokenizer, tokenizer_like

PROMPT = "When Mary and John went to the store, John gave a drink to"


@functools.cache
def llama(kind: str = "llama") -> LlamaForCausalLM:
    """A random Llama that HuggingFace computes."""
    size = dict(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=8)
    model = LlamaForCausalLM(
        LlamaConfig(**size, vocab_size=len(tokenizer_like(kind)), max_position_embeddings=64)
    ).eval()
    redraw(model)
    return model


@functools.cache
def reader(kind: str = "llama") -> HookedTransformer:
    options: dict[str, Any] = dict(hf_model=llama(kind), tokenizer=tokenizer_like(kind))
    return HookedTransformer.from_pretrained_no_processing(kind, **options)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """With the BOS in front that Llama's own tokenizer has."""
    return [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]


# ---------------------------------------------------------------------------------------------------------- round trip


def assert_round_trip(tokenizer: PreTrainedTokenizerBase, ids: Any) -> list[str]:
    text = TextInterface(tokenizer, 99)
    pieces = text.pieces(list(ids))
    assert [text.single_id(piece) for piece in pieces] == list(ids)
    assert len(set(pieces)) == len(pieces), "no two tokens have the same text"
    return pieces


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_of_every_token_leads_back_to_it(kind: str) -> None:
    pieces = assert_round_trip(tokenizer_like(kind), range(len(tokenizer_like(kind))))
    assert {" Mary", "Mary", "<0xF0>", "<s>"} <= {*pieces}
    assert "\ufffd" not in "".join(pieces)


def test_the_text_of_every_token_of_gpt2_leads_back_to_it(gpt2_tokenizer: Any) -> None:
    with unchecked_types():  # which would take six times as long
        pieces = assert_round_trip(gpt2_tokenizer, range(len(gpt2_tokenizer)))
    assert (pieces[5335], pieces[24119], pieces[8582], pieces[4210]) == (
        *(" Mary", "Mary", "<0xF0><0x9F>"),
        "<0xEF><0xBF><0xBD>",  # the sign for what is no character, which other pieces decode to
    )


def test_the_text_of_every_token_of_a_real_llama_leads_back_to_it() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models" / "stories260k")
    pieces = assert_round_trip(tokenizer, range(len(tokenizer)))
    assert pieces[tokenizer.convert_tokens_to_ids("<0x0A>")] == "\n", "its only token for a new line"
    assert pieces[tokenizer.convert_tokens_to_ids("<0x20>")] == "<0x20>", "'▁' is the one for a space"


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_text(kind: str) -> None:
    tokenizer = tokenizer_like(kind)
    ids = tokenizer.encode(f'{PROMPT}\n\n  ("Mary")', add_special_tokens=False)
    text = "".join(TextInterface(tokenizer, 99).pieces(ids))
    assert text.removeprefix(" ") == f'{PROMPT}\n\n  ("Mary")', "but for the space that some put in front"


def test_a_sign_for_lost_bytes_is_no_token(gpt2_tokenizer: Any) -> None:
    """It is what a part of any emoji decodes to, and also a character that GPT-2 has a token for."""
    assert gpt2_tokenizer.encode("\ufffd") == [4210]
    with pytest.raises(TokenError, match="is no token: it is read as token 4210"):
        TextInterface(gpt2_tokenizer, 99).single_id("\ufffd")


def test_a_word_that_is_a_token_only_at_the_start_is_that_token() -> None:
    """No other text would be meant, since these have one of their own."""
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models" / "stories260k")
    (lily,) = tokenizer.encode("Lily", add_special_tokens=False)
    text = TextInterface(tokenizer, 99)
    assert text.single_id("Lily") == text.single_id(" Lily") == lily
    assert (text.pieces([lily]), tokenizer.convert_ids_to_tokens(lily)) == ([" Lily"], "▁Lily")


# ------------------------------------------------------------------------------------------------ nothing is left out


@pytest.mark.parametrize(("text", "lost"), [("🎉", "🎉"), ("a🎉", "🎉"), ("a字b文 ", "字文"), ("xa", "x")])
def test_what_a_tokenizer_drops_is_told(text: str, lost: str) -> None:
    reading = TextInterface(dropping_tokenizer(), 99)
    for read in (reading.encode, reading.single_id, lambda text: reading.answer("a b", text)):
        with pytest.raises(TokenError, match=f"no tokens for '{lost}' in .*, and would drop it"):
            read(text)


def test_corpora_and_data_sets_are_not_cut_either() -> None:
    tokenizer = dropping_tokenizer()
    tokenizer.eos_token = tokenizer.bos_token = "a"
    with pytest.raises(TokenError, match="no tokens for '🎉'"):
        tokenize_and_concatenate(["abc 🎉" * 9], tokenizer, max_length=4)
    with pytest.raises(TokenError, match="no tokens for"):
        IOIDataset(tokenizer, num_samples=1)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a 🎉 字", "e\u0301\u1112\u1161\u11ab", "a\u200db \t c\n\n", "", " ", "ﬁ½ﷺ"])
def test_what_is_read_byte_by_byte_is_no_loss(kind: str, text: str) -> None:
    tokenizer = tokenizer_like(kind)
    assert TextInterface(tokenizer, 99).encode(text).tokens[0].tolist() == ids_of(tokenizer, text)


def test_composed_characters_are_no_loss() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: place for place, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    for normalizer in (normalizers.NFC(), normalizers.NFKC(), normalizers.BertNormalizer()):
        tokenizer.normalizer = normalizer
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
        for text in ("\u1112\u1161\u11ab \u1100\u1173\u11af", "cafe\u0301", "a\u200bb"):
            assert TextInterface(wrapped, 99).encode(text).tokens.tolist() == [wrapped.encode(text)]


def test_a_tokenizer_that_lowers_letters_knows_them() -> None:
    """As those of uncased models do: that is how they read, and nothing is dropped."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "paris": 1, "##is": 2, "par": 3, "is": 4}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.decoder = normalizers.BertNormalizer(), decoders.WordPiece()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    text = TextInterface(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"), 99)
    assert [text.single_id(word) for word in ("paris", "Paris", " paris", "##is", "is")] == [1, 1, 1, 2, 4]
    assert text.pieces([1, 2, 4]) == [" paris", "##is", " is"]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "the \ud83d"])
def test_half_a_surrogate_pair_is_told(text: str, gpt2_tokenizer: Any) -> None:
    reading = TextInterface(gpt2_tokenizer, 99)
    for read in (reading.encode, reading.single_id, lambda text: reading.answer("a", text)):
        with pytest.raises(TokenError, match=r"holds '\\ud\w+' at \d: half of a surrogate pair"):
            read(text)


# -------------------------------------------------------------------------------------------- answers go on the prompt


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("Once upon a time, there was a little girl named", " Lily"), ("Lily and Ben went to the", " park")],
)
def test_the_ranks_of_a_real_llamas_answers_are_huggingfaces(prompt: str, answer: str) -> None:
    folder = SHARED / "models" / "stories260k"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    alone, together = (tokenizer(text)["input_ids"] for text in (prompt, prompt + answer))
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([together])).logits[0]
    ranks = [int((logits[at - 1] > logits[at - 1, together[at]]).sum()) for at in range(len(alone), len(together))]
    assert not any(ranks), "it has read this story"
    model = HookedTransformer.from_pretrained(str(folder), device="cpu")
    assert [rank for _, rank in prompt_test(prompt, answer, model, print_details=False)] == ranks
    assert [rank for _, rank in prompt_test(prompt, answer.strip(), model, print_details=False)] == ranks


@pytest.mark.parametrize("kind", KINDS)
def test_answers_as_text_are_the_tokens_that_follow_the_prompt(kind: str) -> None:
    tokenizer, model = tokenizer_like(kind), reader(kind)
    mary, john = (ids_of(tokenizer, PROMPT + name)[-1] for name in (" Mary", " John"))
    with torch.no_grad():
        logits = llama(kind)(torch.tensor([ids_of(tokenizer, PROMPT)])).logits[0, -1]
        ours = LogitDiff(" Mary", " John").on(model)(model(PROMPT))
    assert (ours - (logits[mary] - logits[john])).abs() < 1e-4
    assert model.to_single_token(" Mary") == mary != model.to_single_token("Mary")
    (found,) = prompt_test(PROMPT, [" Mary"], model, print_details=False)
    assert found == (" Mary", int((logits > logits[mary]).sum()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_ioi_data_set_reads_names_as_its_sentences_do(kind: str) -> None:
    tokenizer, model = tokenizer_like(kind), reader(kind)
    data = IOIDataset(tokenizer, num_samples=6, seed=0)
    diffs = []
    for sample, item in zip(data.samples, [data[place] for place in range(len(data))], strict=True):
        before = ids_of(tokenizer, sample["text"].removesuffix(sample["IO"]))
        io, s = (ids_of(tokenizer, sample["text"].removesuffix(sample["IO"]) + sample[of]) for of in ("IO", "S"))
        assert item["prompt"].tolist() == io
        assert (item["IO"].tolist(), item["S"].tolist()) == (io[len(before) :], s[len(before) :])
        with torch.no_grad():
            logits = llama(kind)(torch.tensor([before])).logits[0, -1]
        diffs.append((logits[io[len(before)]] - logits[s[len(before)]]).item())
    found = ioi_eval(model, data)
    assert found["Logit Difference"] == pytest.approx(sum(diffs) / 6, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_are_made_for_tokenizers_with_a_space_in_front(kind: str) -> None:
    model, tokenizer = reader(kind), tokenizer_like(kind)
    pairs = ioi_pairs(model, 4)
    ids = model.token_ids(pairs.answer).tolist()
    assert ids == [ids_of(tokenizer, text + name)[-1] for text, name in zip(pairs.clean, pairs.answer, strict=True)]
    task = ioi(model, 4)
    named = [model.to_single_str_token(id) for id in task.answer.tolist()]
    assert all(text.count(name) == 1 for text, name in zip(task.clean, named, strict=True))
    with pytest.raises(TokenError, match="only 0 of 1"):
        capitals(model, 1)  # its words are none of these tokenizers' tokens


def test_the_letters_of_questions_follow_the_colon() -> None:
    from interp_hooks.compat.mmlu import _letter

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models" / "stories260k")
    model = HookedTransformer.from_pretrained(str(SHARED / "models" / "stories260k"), device="cpu")
    assert mmlu_eval.__name__ == "mmlu_eval"
    for letter in "ABC":
        assert _letter(model, letter) == tokenizer.encode(f"Answer: {letter}")[-1]


def test_an_answer_that_changes_the_prompts_last_token_is_refused(gpt2_tokenizer: Any) -> None:
    text = TextInterface(gpt2_tokenizer, 99)
    assert text.answer("went to", " Mary") == gpt2_tokenizer.encode(" Mary")
    with pytest.raises(TokenError, match=r"'Mary' does not begin with a token of its own: .* ends in \[' '\]"):
        text.answer("went to ", "Mary")
    with pytest.raises(TokenError, match="'' does not begin"):
        text.answer("went to", "")
