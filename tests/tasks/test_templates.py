"""Tasks in words: what is labelled stands where the label says, answers are tokens, and pairs differ where claimed."""

import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
import tokenizers
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from interp_hooks import HookedTransformer, HookedTransformerConfig, Run, evaluate, tasks
from interp_hooks.errors import BadInput, TokenError
from interp_hooks.interventions.metrics import LogitDiff, LogitMargin
from interp_hooks.tasks import ioi_text
from interp_hooks.tasks.ioi_text import NAMES, IOICorruption
from interp_hooks.tasks.templates import ANTONYMS, CAPITALS, EVENTS, WOMEN
from tests.experiments.by_hand import word_tokenizer
from tests.tiny import assert_close, build, unchecked_types

IN_WORDS: list[Callable[..., tasks.Task]] = [
    tasks.ioi,
    tasks.greater_than,
    tasks.gendered_pronoun,
    tasks.docstring,
    tasks.acronyms,
    tasks.capitals,
    tasks.in_context,
    tasks.repeated_words,
    tasks.subject_verb_agreement,
]
SIZES = dict(n_layers=1, d_model=8, n_ctx=128, n_heads=2, d_mlp=8, act_fn="gelu", seed=0)


@pytest.fixture(scope="module")
def reader(gpt2_tokenizer: PreTrainedTokenizerBase) -> HookedTransformer:
    return HookedTransformer(HookedTransformerConfig(**SIZES, d_vocab=50257), gpt2_tokenizer)


def token_at(model: HookedTransformer, prompts: Any, row: int, pos: torch.Tensor) -> str:
    return model.to_string(model.to_tokens(prompts)[row, pos[row]])


@pytest.mark.parametrize("task", IN_WORDS)
def test_pairs_are_of_equal_length_and_answers_are_tokens(reader: HookedTransformer, task: Any) -> None:
    found = task(reader, 12)
    assert len(found) == len(found.clean) == len(found.corrupt) == 12
    for row in range(12):
        clean, corrupt = (reader.to_tokens(side[row])[0] for side in (found.clean, found.corrupt))
        assert len(clean) == len(corrupt)
        assert not torch.equal(clean, corrupt)
        for answer in (found.answer[row], *found.wrong[row]):
            with_answer = reader.to_tokens(found.clean[row] + reader.to_string(answer[None]))[0]
            assert torch.equal(with_answer, torch.cat((clean, answer[None])))
        assert found.answer[row] not in found.wrong[row]
        assert found.positions["end"][row] == len(clean) - 1
    assert len(set(found.clean)) > 8


@pytest.mark.parametrize("task", IN_WORDS)
def test_a_seed_draws_the_same_again(reader: HookedTransformer, task: Any) -> None:
    one, again, other = task(reader, 5, seed=3), task(reader, 5, seed=3), task(reader, 5, seed=4)
    assert one.clean == again.clean
    assert one.corrupt == again.corrupt
    assert torch.equal(one.answer, again.answer)
    assert one.clean != other.clean


def test_ioi_is_what_it_says(reader: HookedTransformer) -> None:
    task = tasks.ioi(reader, 40)
    orders = set()
    for row, prompt in enumerate(task.clean):
        io, s1, s2 = (token_at(reader, task.clean, row, task.positions[label]) for label in ("IO", "S1", "S2"))
        names = [" " + word for word in re.findall(r"\w+", prompt) if word in NAMES]
        assert sorted(names) == sorted([io, s1, s2])
        assert s1 == s2 != io
        assert reader.to_string(task.answer[row, None]) == io
        assert reader.to_string(task.wrong[row]) == s1
        orders.add(bool(task.positions["IO"][row] < task.positions["S1"][row]))
    assert orders == {True, False}
    assert len(task.template.unique()) > 10


CHANGED = {
    "S2->IO": ["S2"],
    "S2->RAND": ["S2"],
    "IO->RAND": ["IO"],
    "S1->RAND": ["S1"],
    "S->RAND": ["S1", "S2"],
    "IO<->S1": ["IO", "S1"],
    "ABC": ["IO", "S1", "S2"],
}


@pytest.mark.parametrize("corruption", get_args(IOICorruption))
def test_corruptions_change_what_they_name(reader: HookedTransformer, corruption: Any) -> None:
    task = tasks.ioi(reader, 6, corruption=corruption, templates=[0, 3])
    for row in range(6):
        clean, corrupt = (reader.to_tokens(side[row])[0] for side in (task.clean, task.corrupt))
        changed = (clean != corrupt).nonzero()[:, 0].tolist()
        assert changed == sorted(int(task.positions[label][row]) for label in CHANGED[corruption])
        if corruption == "S2->IO":
            assert corrupt[task.positions["S2"][row]] == task.answer[row]
        if corruption == "ABC":
            assert len({int(corrupt[task.positions[label][row]]) for label in CHANGED["ABC"]}) == 3


def test_pairs_are_one_sentence_of_one_length(reader: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are text, positions are labelled, and what all prompts share has its own name on a figure."""
    monkeypatch.setattr(ioi_text, "OBJECTS", ("ring", "gift", "gold coin"))
    pairs = tasks.ioi_pairs(reader, 40, template=15)
    assert isinstance(pairs, tasks.PromptPairs)
    tokens = reader.to_tokens(pairs.clean)
    assert {len(reader.to_tokens(prompt)[0]) for prompt in pairs.clean} == {tokens.shape[1]}
    assert not any("gold" in prompt for prompt in pairs.clean)
    assert list(pairs.left_out) == ["it has another number of tokens than most"]
    for row, (clean, answer, wrong) in enumerate(zip(pairs.clean, pairs.answer, pairs.wrong, strict=True)):
        named = [token_at(reader, pairs.clean, row, pairs.positions[label]) for label in ("IO", "S1", "S2")]
        assert named == [answer, wrong, wrong]
        before, after = clean.rsplit(wrong, 1)
        assert pairs.corrupt[row] == before + answer + after
    first = reader.to_str_tokens(pairs.clean[0])
    same = (tokens == tokens[0]).all(0).tolist()
    assert pairs.labels == [one if shared else f"<{one}>" for one, shared in zip(first, same, strict=True)]
    ids = LogitDiff(reader.token_ids(pairs.answer), reader.token_ids(pairs.wrong))
    assert torch.equal(*(evaluate(reader, [Run(tokens)], metric) for metric in (pairs.metric, ids)))
    assert not tasks.ioi(reader, 8).labels, "prompts of several lengths share no positions"


def test_greater_than_sums_the_years(reader: HookedTransformer) -> None:
    """p(later) - p(not later), over all endings that are tokens."""
    task = tasks.greater_than(reader, 4)
    scores = evaluate(reader, [Run(reader.to_tokens(task.clean))], task.metric)[0]
    with torch.no_grad():
        probs = reader(task.clean)[:, -1].softmax(-1)
    for row, prompt in enumerate(task.clean):
        (century, year), (last,) = re.findall(r"(\d\d)(\d\d) to", prompt)[0], re.findall(r"(\d\d)$", prompt)
        assert century == last
        endings = [(ending, reader.to_tokens(f"the year 17{ending:02}")[0]) for ending in range(100)]
        by_hand = sum(
            (1 if ending > int(year) else -1) * probs[row, ids[-1]]
            for ending, ids in endings
            if len(ids) == len(reader.to_tokens("the year 17")[0]) + 1
        )
        assert abs(scores[row] - by_hand) < 1e-6
        assert task.corrupt[row] == prompt.replace(f"{century}{year} to", f"{century}01 to")


@pytest.fixture(scope="module")
def digits() -> HookedTransformer:
    """A model whose tokenizer writes numbers digit by digit, as those of Llama, Gemma and Qwen do."""
    words = [
        "The",
        *(f" {word}" for word in (*EVENTS, "lasted", "from", "the", "year", "to")),
        "the",
        " ",
        *"0123456789",
    ]
    vocab = {word: id for id, word in enumerate(("<s>", *words))}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<s>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(" ?[A-Za-z]+|[0-9]| "), "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<s>")
    return HookedTransformer(HookedTransformerConfig(**SIZES, d_vocab=len(vocab)), tokenizer)


def test_greater_than_asks_for_the_decade_where_years_are_written_in_digits(digits: HookedTransformer) -> None:
    """p(later digits) - p(earlier digits): the year's own decade may be right or wrong, by the next digit."""
    task = tasks.greater_than(digits, 8)
    scores = evaluate(digits, [Run(digits.to_tokens(task.clean))], task.metric)[0]
    with torch.no_grad():
        probs = digits(task.clean)[:, -1].softmax(-1)
    for row, prompt in enumerate(task.clean):
        century, decade, year = re.findall(r"1(\d)(\d)(\d) to", prompt)[0]
        ids = [digits.to_single_token(str(digit)) for digit in range(10)]
        later, earlier = probs[row, ids[int(decade) + 1 :]].sum(), probs[row, ids[: int(decade)]].sum()
        assert abs(scores[row] - (later - earlier)) < 1e-6
        assert task.corrupt[row] == prompt.replace(f"1{century}{decade}{year} to", f"1{century}01 to")
        assert token_at(digits, task.clean, row, task.positions["XX"]) == century
        assert token_at(digits, task.clean, row, task.positions["YY"]) == decade
        assert digits.to_string(task.answer[row, None]) == str(int(decade) + 1)
        assert digits.to_string(task.wrong[row]) == str(int(decade) - 1)
    assert len(set(task.clean)) == 8


def test_years_that_are_neither_pairs_nor_digits_are_refused() -> None:
    model = HookedTransformer(HookedTransformerConfig(**SIZES, d_vocab=9), word_tokenizer("the", "year"))
    with pytest.raises(TokenError, match="years are not written digit by digit either"):
        tasks.greater_than(model, 2)


def test_answers_by_rule(reader: HookedTransformer) -> None:
    def answers(task: tasks.Task) -> list[str]:
        return [reader.to_string(one[None]) for one in task.answer]

    pronouns = tasks.gendered_pronoun(reader, 8)
    named = [token_at(reader, pronouns.clean, row, pronouns.positions["name"])[1:] for row in range(8)]
    assert answers(pronouns) == [" she" if name in WOMEN else " he" for name in named]
    facts = tasks.capitals(reader, 8)
    country = [token_at(reader, facts.clean, row, facts.positions["country"])[1:] for row in range(8)]
    assert answers(facts) == [" " + CAPITALS[name] for name in country]
    letters = tasks.acronyms(reader, 8)
    assert answers(letters) == [re.findall(r"[A-Z]", prompt)[3] for prompt in letters.clean]
    verbs = tasks.subject_verb_agreement(reader, 8)
    assert answers(verbs) == [" are" if prompt.split()[1].endswith("s") else " is" for prompt in verbs.clean]
    repeated = tasks.repeated_words(reader, 8, length=5)
    for row, (clean, corrupt) in enumerate(zip(repeated.clean, repeated.corrupt, strict=True)):
        words, others = clean.split()[1:], corrupt.split()[1:]
        assert words[5:] == others[5:] == words[: len(words) - 5], "the repetition begins with the first word"
        following = words[len(words) - 5]
        assert answers(repeated)[row] == " " + following
        (other,) = (b for a, b in zip(words, others, strict=True) if a != b)
        assert reader.to_string(repeated.wrong[row]).split() == [other, *(one for one in words[:5] if one != following)]
        for label, word in (("first", words[-1]), ("next", following), ("end", words[-1])):
            assert token_at(reader, repeated.clean, row, repeated.positions[label]) == " " + word
    documented = tasks.docstring(reader, 8)
    assert isinstance(documented.metric, LogitMargin)
    for row, prompt in enumerate(documented.clean):
        arguments = re.findall(r"\w+", prompt.split("(")[1].split(")")[0])[1:]
        assert answers(documented)[row] == " " + arguments[4]
        assert re.findall(r":param (\w+)", prompt) == arguments[2:4]
        assert {reader.to_string(one[None])[1:] for one in documented.wrong[row]} == set(arguments) - {arguments[4]}


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_padding(gpt2_tokenizer: PreTrainedTokenizerBase, side: Any) -> None:
    cfg = HookedTransformerConfig(**SIZES, d_vocab=50257)
    model = HookedTransformer(cfg, gpt2_tokenizer, default_padding_side=side)
    task = tasks.ioi(model, 8)
    assert len({len(model.to_tokens(prompt)[0]) for prompt in task.clean}) > 1
    for row in range(8):
        assert token_at(model, task.clean, row, task.positions["S2"]) == model.to_string(task.wrong[row])
        assert token_at(model, task.clean, row, task.positions["end"]) in (" to", " it to")


def test_a_trained_model_does_its_task() -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    result = tasks.ioi(model, 32).check(model)
    accuracy, difference = result.mean.tolist()
    assert accuracy == 1.0
    assert difference > 3
    low, high = (ends[1].item() for ends in result.interval(generator=torch.Generator().manual_seed(0)))
    assert 0 < low < difference < high


def test_a_tokenizer_of_words_is_enough() -> None:
    """Words that it does not have are no tokens of their own: what cannot be told apart is left out and counted."""
    names = ["Alice", "Bob", "Carl", "Emma", "Fred", "Helen"]
    words = ["When", "and", "went", "to", "the", ",", "gave", "a"]
    tokenizer = word_tokenizer(*names, *words)
    model = HookedTransformer(build().cfg.replace(d_vocab=60, d_vocab_out=60, n_ctx=40), tokenizer)
    task = tasks.ioi(model, 5, templates=[0], names=names)
    assert len(task) == 5
    assert {model.to_string(one[None]).strip() for one in task.answer} <= set(names)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model: tasks.ioi(model, 0), BadInput, "n must be at least 1, got 0"),
        (lambda model: tasks.ioi(model, 2, corruption="S3"), BadInput, "corruption must be .*S2->IO.*got 'S3'"),
        (lambda model: tasks.ioi(model, 2, templates=[99]), BadInput, "there is no template 99; there are 0 to 15"),
        (lambda model: tasks.ioi(model, 2, names=["Mary", "John"]), BadInput, "at least 5 different names, got 2"),
        (lambda model: tasks.ioi(model, 2, templates=[]), BadInput, "at least one template, got none"),
        (lambda model: tasks.ioi(model, 2, names=["A", "B", "C", "D", "E]"]), BadInput, r"cannot have any, got 'E\]'"),
        (lambda model: tasks.ioi_pairs(model, 0), BadInput, "n must be at least 1, got 0"),
        (lambda model: tasks.ioi_pairs(model, template=16), BadInput, "there is no template 16; there are 0 to 15"),
        (
            lambda model: tasks.ioi(model, 2, names=["Xaviera", "Quillonius", "Zbigniew", "Wolfram", "Przemek"]),
            TokenError,
            r"only 0 of 2 prompts of 'ioi' fit this model's tokenizer \(.* is not one token\)",
        ),
    ],
)
def test_mistakes_are_told(reader: HookedTransformer, call: Any, error: type[Exception], message: str) -> None:
    with unchecked_types(), pytest.raises(error, match=message):
        call(reader)


def test_the_margin_is_over_the_best_distractor() -> None:
    metric = LogitMargin(torch.tensor([1, 2]), torch.tensor([[0, 3], [0, 1]]))
    logits = torch.tensor([[0.5, 2.0, 9.0, 1.5], [4.0, 1.0, 2.5, 9.0]])
    read = torch.stack([logits[0, [1, 0, 3]], logits[1, [2, 0, 1]]])
    assert_close(metric.score(read), torch.tensor([0.5, -1.5]), 1e-6)
    assert metric.readout.tokens is not None
    assert metric.readout.tokens.tolist() == [[1, 0, 3], [2, 0, 1]]


def test_examples_in_context_lose_their_own_labels(reader: HookedTransformer) -> None:
    found = tasks.in_context(reader, 8, shots=3)
    assert sorted(found.positions) == ["end", "label1", "label2", "label3"]
    for row, (clean, corrupt) in enumerate(zip(found.clean, found.corrupt, strict=True)):
        *examples, asked = clean.split("\n")
        told = dict(example.split(": ") for example in examples)
        answer = reader.to_string(found.answer[row][None])
        assert ANTONYMS.items() >= {*told.items(), (asked[:-1], answer[1:])}
        exchanged = dict(example.split(": ") for example in corrupt.split("\n")[:-1])
        assert sorted(exchanged.values()) == sorted(told.values())
        assert not exchanged.items() & told.items()
        for number, label in enumerate(told.values(), 1):
            assert token_at(reader, found.clean, row, found.positions[f"label{number}"]) == f" {label}"
    with pytest.raises(BadInput, match=r"shots must be 2\.\.2"):
        tasks.in_context(reader, pairs={"a": "b", "c": "d", "e": "f"}, shots=3)


def test_a_capital_is_a_fact_of_subject_and_relation(reader: HookedTransformer) -> None:
    found = tasks.capitals(reader, 8)
    assert sorted(found.positions) == ["country", "end", "relation", "subject"]
    for row in range(8):
        assert token_at(reader, found.clean, row, found.positions["relation"]) == " capital"
        assert token_at(reader, found.clean, row, found.positions["subject"])[1:] in CAPITALS
