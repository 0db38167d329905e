"""Examples, explanations and their scores, where neurons are planted and the language model is scripted."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.cli import main
from interp_hooks.corpus import Bands, Scan, Units, neurons, scan
from interp_hooks.dictionaries import SAE
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.handmade import blank
from interp_hooks.studies import (
    Explanations,
    ExplanationScores,
    UnitExamples,
    Wiki,
    explain,
    find_intruders,
    score_explanations,
    unit_examples,
    wiki,
)
from interp_hooks.studies.explanations.scoring import CONSTANT, OTHER, OWN, RULE, wilson
from interp_hooks.studies.explanations.trials import Trial, listed, roc_auc
from interp_hooks.studies.wikis.units import HEADS
from tests.studies.explanations.planted import (
    FIRES_ON,
    N_CTX,
    N_WORDS,
    documents,
    oracle,
    scanned,
    with_probabilities,
    word_model,
)
from tests.studies.explanations.scripted import TEXTS, Reply, endpoint_of, question, says, serving
from tests.tiny import unchecked_types
from tests.views.small import save_checkpoint

UNITS = [(0, 0), (0, 1), (0, 2)]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return word_model()


@pytest.fixture(scope="module")
def texts() -> list[Tensor]:
    return documents()


@pytest.fixture(scope="module")
def found(model: HookedTransformer, texts: list[Tensor]) -> Scan:
    return scanned(model, texts)


@pytest.fixture(scope="module")
def examples(model: HookedTransformer, found: Scan) -> dict[str, UnitExamples]:
    return unit_examples(model, found, UNITS, width=10, train=12, test=13)


# ------------------------------------------------------------------------------------------------------------ examples


def test_a_unit_fires_where_it_was_planted(examples: dict[str, UnitExamples], texts: list[Tensor]) -> None:
    assert list(examples) == ["L0N0", "L0N1", "L0N2"]
    for neuron, one in enumerate(examples.values()):
        assert one.largest == pytest.approx(max(FIRES_ON[neuron].values()))
        for example in (*one.train, *one.test, *one.silent):
            tokens = texts[example.document][example.start : example.start + 10].tolist()
            assert example.tokens == tuple(f" {token}" for token in tokens)
            fires = [place for place, token in enumerate(tokens) if token in FIRES_ON[neuron]]
            assert example.firing(one.threshold) == fires
            assert bool(fires) == (example not in one.silent)


def test_no_document_stands_in_two_lists(examples: dict[str, UnitExamples]) -> None:
    """The well-known mistake is to draw train and test from one pool."""
    for one in examples.values():
        assert (len(one.train), len(one.test), len(one.silent)) == (12, 13, 13)
        listed = [example.document for example in (*one.train, *one.test, *one.silent)]
        assert len(set(listed)) == len(listed)


def test_one_who_draws_from_one_pool_is_refused(examples: dict[str, UnitExamples]) -> None:
    one = examples["L0N0"]
    with pytest.raises(BadInput, match="has a document among the train and the test examples"):
        replace(one, test=[*one.test, one.train[0]])
    copied = replace(one.train[0], document=10**6)
    with pytest.raises(BadInput, match="has a text among the train and the test examples"):
        replace(one, test=[*one.test, copied])
    with pytest.raises(BadInput, match="fires in one of its silent examples"):
        replace(one, silent=[replace(one.silent[0], activations=(one.largest,) * 10)])


def test_copies_of_a_text_are_one_example(model: HookedTransformer, texts: list[Tensor]) -> None:
    twice = [text for text in texts[:80] for _ in range(2)]
    for one in unit_examples(model, scanned(model, twice), UNITS, width=N_CTX, train=9, test=9).values():
        listed = [example.text for example in (*one.train, *one.test, *one.silent)]
        assert len(listed) == len(set(listed))


def test_both_lists_have_all_bands(examples: dict[str, UnitExamples]) -> None:
    """Neuron 1 is 2 on one word and 1.2 on another: two bands."""
    for part in (examples["L0N1"].train, examples["L0N1"].test):
        bands = Counter(example.band for example in part)
        assert set(bands) == {"1 to 2", "2 to 4"}
        assert max(bands.values()) - min(bands.values()) <= 1


def test_neither_place_nor_length_tells_silent_texts(examples: dict[str, UnitExamples]) -> None:
    for one in examples.values():
        for part in (one.train, one.test, one.silent):
            assert {len(example.tokens) for example in part} == {10}
        places = {place for example in (*one.train, *one.test) for place in example.firing(one.threshold)}
        assert len(places) > 4


def test_another_length_or_model_than_that_of_the_scan_is_noticed(model: HookedTransformer, found: Scan) -> None:
    other = word_model()
    with torch.no_grad():
        other.blocks[0].mlp.W_in.mul_(2)
    with pytest.raises(BadInput, match="length= must be that of the scan, and the model the same"):
        unit_examples(other, found, UNITS)


def test_what_cannot_be_had_is_said(model: HookedTransformer, found: Scan) -> None:
    with pytest.raises(BadInput, match="L0N3 fires in no example"):
        unit_examples(model, found, [(0, 3)])
    with pytest.raises(BadInput, match="did not measure unit 9"):
        unit_examples(model, found, [(0, 9)])
    with pytest.raises(BadInput, match="Bands of the units 'head'"):
        unit_examples(model, found, [(0, 0)], kind="head")
    with pytest.raises(BadInput, match="where they are smallest"):
        unit_examples(model, found, [(0, 0)], side="smallest")
    with pytest.raises(BadInput, match="active must be a share"):
        unit_examples(model, found, [(0, 0)], active=0.0)
    few = scanned(model, [torch.tensor([1, 5, 6]), torch.tensor([7, 5, 6])])
    said = r"fires in 1 different examples.*silent in 1 random texts.*interp-hooks wiki --per-band 20"
    with pytest.raises(BadInput, match=said):
        unit_examples(model, few, [(0, 0)])


def test_the_smallest_side_is_the_largest_of_minus_the_unit(model: HookedTransformer, texts: list[Tensor]) -> None:
    def minus(shown: Any, model: HookedTransformer, layer: int | None) -> Tensor:
        return -shown["post"]

    units = replace(neurons(), name="minus", of=minus)
    reducers = {"bands": Bands(units, n=30, side="smallest")}
    found = scan(model, texts, reducers, progress=False)
    one = unit_examples(model, found, [(0, 0)], kind="minus", side="smallest")["L0 minus 0"]
    assert one.largest == pytest.approx(2.0)
    assert all(" 1" in example.tokens for example in (*one.train, *one.test))


# ------------------------------------------------------------------------------------------------------- explanations


def test_an_oracle_explains_and_its_explanations_score_1(examples: dict[str, UnitExamples], tmp_path: Path) -> None:
    with serving(oracle) as server:
        endpoint = endpoint_of(server, tmp_path / "answers")
        explanations = explain(endpoint, examples)
        assert explanations.texts == {"L0N0": "fires on 1", "L0N1": "fires on 2 3", "L0N2": "fires on 4"}
        scores = score_explanations(endpoint, examples, explanations)
        n_asked = len(server.bodies)
    table = scores.table().set_index(["scorer", "explanation", "unit"])["balanced_accuracy"].sort_index()
    for scorer in ("detection", "fuzzing"):
        assert table[scorer, OWN].tolist() == [1.0, 1.0, 1.0]
        assert table[scorer, CONSTANT].tolist() == [0.5, 0.5, 0.5]
        assert table[scorer, RULE]["L0N0"] == table[scorer, RULE]["L0N2"] == 1.0
        assert 0.5 < table[scorer, RULE]["L0N1"] < 1.0  # it fires on two words
    assert table["detection", OTHER].mean() < 0.75
    assert table["fuzzing", OTHER].tolist() == [0.5, 0.5, 0.5]  # neither marked tokens are the other unit's
    assert not scores.table()["unread"].any()
    assert n_asked == 3 + 2 * 2 * 3 * 6  # 26 texts, 5 at once, the last alone

    again = score_explanations(endpoint, examples, explain(endpoint, examples))  # the server is gone
    assert torch.equal(again.correct, scores.correct)
    assert explanations.again(endpoint).texts == explanations.texts
    assert endpoint.dry_run(score_explanations, examples, explanations).n_answered == n_asked - 3


def test_the_result_is_labelled_and_its_mean_is_the_balanced_accuracy(examples: dict[str, UnitExamples]) -> None:
    with serving(oracle) as server:
        scores = score_explanations(endpoint_of(server), examples, dict.fromkeys(examples, "fires on 2"))
    result = scores.result
    assert {axis: len(labels) for axis, labels in result.axes.items()} == {"scorer": 2, "explanation": 4, "unit": 3}
    assert result.values.shape == (2, 4, 3, 13)
    rates = scores.correct.double().mean(-2)  # of texts in which it fires, and of silent ones
    assert torch.allclose(result.mean, rates.mean(-1))
    assert torch.allclose(result.change, result.mean - 0.5)
    lower, upper = result.interval()
    assert bool((lower <= result.mean).all() & (result.mean <= upper).all())


def test_explanations_are_made_of_train_examples_alone(examples: dict[str, UnitExamples]) -> None:
    with serving(oracle) as server:
        explanations = explain(endpoint_of(server), examples)
    for one, body in zip(examples.values(), server.bodies, strict=True):
        shown = [text.replace("<<", "").replace(">>", "") for _, text in TEXTS.findall(question(body))]
        ours = next(unit for unit in examples.values() if unit.train[0].text in shown)
        assert sorted(shown) == sorted(example.text for example in ours.train)
        assert not {example.text for example in (*one.test, *one.silent)} & {*shown} or ours is not one
    shown_places = explanations.shown["L0N1"]
    assert {document for document, _ in shown_places} == {example.document for example in examples["L0N1"].train}


def test_the_strongest_text_comes_first_with_its_levels(examples: dict[str, UnitExamples]) -> None:
    with serving(oracle) as server:
        explain(endpoint_of(server), {"L0N1": examples["L0N1"]})
    asked = question(server.bodies[0])
    levels = [int(line.split()[-1]) for line in re.findall(r"^Active: (.*)$", asked, re.MULTILINE) if "," not in line]
    assert levels == sorted(levels, reverse=True)
    assert set(levels) == {10, 6}  # 2.0 and 1.2 of 2.0


def test_an_answer_without_explanation_is_told_and_cannot_be_scored(examples: dict[str, UnitExamples]) -> None:
    with serving(lambda body: says("I cannot say.")) as server:
        endpoint = endpoint_of(server)
        explanations = explain(endpoint, examples)
        assert explanations.texts == {}
        assert explanations.failed == list(examples)
        assert explanations.table()["explanation"].tolist() == ["", "", ""]
        with pytest.raises(BadInput, match="no explanation of L0N0, L0N1, L0N2"):
            score_explanations(endpoint, examples, explanations)


def test_everything_is_kept_and_the_key_is_not(
    examples: dict[str, UnitExamples], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-0123456789-secret"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(oracle) as server:
        endpoint = endpoint_of(server, tmp_path / "answers")
        explanations = explain(endpoint, examples)
        scores = score_explanations(endpoint, examples, explanations)
    assert server.headers[0]["authorization"] == f"Bearer {key}"
    explanations.save(tmp_path / "explanations")
    scores.save(tmp_path / "scores")
    scores.result.save(tmp_path / "result")
    loaded = Explanations.load(tmp_path / "explanations")
    assert loaded.texts == explanations.texts
    assert loaded.requests == explanations.requests
    assert loaded.again(endpoint).texts == explanations.texts
    assert loaded.asked == endpoint.told
    assert torch.equal(ExplanationScores.load(tmp_path / "scores").correct, scores.correct)
    assert repr(ExplanationScores.load(tmp_path / "scores")) == repr(scores)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes()
    for one in (explanations, scores, examples):
        assert key not in repr(one) + repr(vars(one) if hasattr(one, "__dict__") else "")


# ------------------------------------------------------------------------------------------------------------- scoring


def test_one_who_guesses_scores_a_half(examples: dict[str, UnitExamples]) -> None:
    rng = random.Random(0)

    def guess(body: dict[str, Any]) -> Reply:
        return says(str([rng.randrange(2) for _ in TEXTS.findall(question(body))]))

    with serving(guess) as server:
        scores = score_explanations(endpoint_of(server, concurrency=1), examples, dict.fromkeys(examples, "anything"))
    table = scores.table(level=0.99)
    asked = table[table["explanation"].isin([OWN, OTHER])]
    assert bool(((asked["lower"] < 0.5) & (asked["upper"] > 0.5)).all())
    assert abs(asked["balanced_accuracy"].mean() - 0.5) < 0.1  # of 312 answers


def test_marks_of_silent_texts_are_as_many_and_lie_as_the_others(examples: dict[str, UnitExamples]) -> None:
    one = examples["L0N1"]
    trial = Trial.of("fuzzing", one, 13, 5, random.Random(0))

    def marked(text: str) -> tuple[int, ...]:
        places, inside = [], False
        for place, token in enumerate(re.findall(r"(?:<<|>>)* \d+", text)):
            inside = "<<" in token or (inside and ">>" not in token)
            if inside:
                places.append(place)
        return tuple(places)

    of_label = {label: Counter(marked(item.text) for item in trial.items if item.label == label) for label in (0, 1)}
    assert of_label[0] == of_label[1]
    assert all(of_label[1])
    assert len(of_label[1]) > 4


def test_all_texts_are_asked_of_once_and_short_last_requests_are_read(examples: dict[str, UnitExamples]) -> None:
    for per_request in (1, 4, 26, 100):
        with serving(oracle) as server:
            options = dict(scorers=["detection"], per_request=per_request)
            scores = score_explanations(
                endpoint_of(server), {"L0N0": examples["L0N0"]}, {"L0N0": "fires on 1"}, **options
            )
        shown = [text for body in server.bodies for _, text in TEXTS.findall(question(body))]
        one = examples["L0N0"]
        assert sorted(shown) == sorted(example.text for example in (*one.test, *one.silent))
        assert scores.explanations == [OWN, RULE, CONSTANT]
        assert scores.result.mean[0, 0, 0] == 1.0
        assert len(server.bodies) == -(-26 // per_request)


@pytest.mark.parametrize("bad", ["", "yes", "[1, 0]", "[2, 2, 2, 2, 2]", "[[1], 0, 0, 0, 0]", "[null]", '{"1": 1}'])
def test_answers_that_cannot_be_read_are_counted_and_wrong(bad: str, examples: dict[str, UnitExamples]) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return says(bad) if len(TEXTS.findall(question(body))) == 5 else oracle(body)

    with serving(script) as server:
        scores = score_explanations(
            endpoint_of(server), {"L0N0": examples["L0N0"]}, {"L0N0": "fires on 1"}, scorers=["detection"]
        )
    table = scores.table().set_index("explanation")
    assert table.loc[OWN, "unread"] == 25
    assert table.loc[OWN, "balanced_accuracy"] == pytest.approx(1 / 26)
    assert "answers about 25 texts could not be read" in repr(scores)


def test_lists_of_numbers_are_read_as_models_write_them() -> None:
    assert listed("[1, 0]", 2, (0, 1)) == [1, 0]
    assert listed('Well: ```json\n["1","0"]\n```', 2, (0, 1)) == [1, 0]
    assert listed("[true, false]", 2, (0, 1)) == [1, 0]
    assert listed("[3]", 1, range(1, 6)) == [3]
    for other in ("[1, 0, 1]", "[]", "[1.0.0]", "[-1, 0]", "[nan, 1]", "1, 0"):
        assert listed(other, 2, (0, 1)) is None


def test_probabilities_give_an_area_under_the_curve(examples: dict[str, UnitExamples]) -> None:
    with serving(with_probabilities(oracle)) as server:
        given = dict.fromkeys(examples, "fires on 2 3")
        scores = score_explanations(endpoint_of(server, log_probs=True), examples, given, scorers=["detection"])
    table = scores.table().set_index(["explanation", "unit"]).sort_index()
    assert table.loc[(OWN, "L0N1"), "auc"] == 1.0
    # two probabilities alone: the area is the mean of the rates at which both kinds are right
    own = table.loc[OWN]
    assert own["auc"].tolist() == pytest.approx(own["balanced_accuracy"].tolist())
    assert bool(table.loc[RULE, "auc"].isna().all())
    assert scores.note == ""


def test_a_unit_that_limits_the_others_is_told_of(examples: dict[str, UnitExamples]) -> None:
    one = examples["L0N2"]
    fewer = examples | {"L0N2": replace(one, test=one.test[:4])}
    with serving(oracle) as server:
        scores = score_explanations(endpoint_of(server), fewer, dict.fromkeys(examples, "fires on 4"))
    assert scores.result.values.shape[-1] == 4
    assert scores.note == "4 pairs of texts of each unit were asked of, as many as L0N2 has"


def test_a_server_without_probabilities_is_told_of(examples: dict[str, UnitExamples]) -> None:
    with serving(oracle) as server:
        given = {"L0N0": "fires on 1"}
        scores = score_explanations(endpoint_of(server, log_probs=True), {"L0N0": examples["L0N0"]}, given)
    assert "gave no probabilities" in scores.note
    assert bool(scores.table()["auc"].isna().all())


def test_the_area_under_the_curve_is_that_of_counting_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.randint(5, (40,), generator=generator) / 4.0
    label = torch.randint(2, (40,), generator=generator)
    yes, no = probability[label == 1].tolist(), probability[label == 0].tolist()
    by_hand = sum((a > b) + 0.5 * (a == b) for a in yes for b in no) / (len(yes) * len(no))
    assert roc_auc(probability.double(), label) == pytest.approx(by_hand)
    probability[0] = torch.nan
    assert roc_auc(probability.double(), label) == pytest.approx(roc_auc(probability[1:].double(), label[1:]))


def test_wilsons_interval() -> None:
    """Agresti and Coull 1998: the ends solve |p - share| = z sqrt(p (1 - p) / n)."""
    share = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
    for ends in wilson(share, 20, 0.95):
        assert torch.allclose((ends - share).abs(), 1.959963984540054 * (ends * (1 - ends) / 20).sqrt(), atol=1e-9)


def test_intruders_are_found_by_one_who_knows_the_unit(examples: dict[str, UnitExamples]) -> None:
    def knows(body: dict[str, Any]) -> Reply:
        counts = Counter(re.findall(r"<< (\d+)>>", question(body)))
        ((common, _),) = counts.most_common(1)
        strange = [number for number, text in TEXTS.findall(question(body)) if common not in re.findall(r"\d+", text)]
        return says(f"The intruder is [{strange[0] if len(strange) == 1 else 1}]")

    with serving(knows) as server:
        result = find_intruders(endpoint_of(server), {"L0N0": examples["L0N0"], "L0N2": examples["L0N2"]})
    assert result.mean.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    places = [[int(n) for n, text in TEXTS.findall(question(body))] for body in server.bodies]
    assert all(one == [1, 2, 3, 4, 5] for one in places)


def test_intruders_by_guessing_and_by_nonsense(examples: dict[str, UnitExamples]) -> None:
    with serving(lambda body: says("[1]")) as server:
        first = find_intruders(endpoint_of(server), examples)
    assert 0.05 < float(first.mean[0].mean()) < 0.45  # chance is 0.2, of 39
    with serving(lambda body: says("[7]")) as server:
        assert find_intruders(endpoint_of(server), examples).mean.tolist() == [[0.0] * 3, [1.0] * 3]
    with pytest.raises(BadInput, match="has 13 test examples, of which 29 are needed"):
        find_intruders(endpoint_of(server), examples, among=30)


def test_wrong_arguments_of_scoring(examples: dict[str, UnitExamples]) -> None:
    with serving(oracle) as server:
        endpoint = endpoint_of(server)
        with unchecked_types(), pytest.raises(BadInput, match="scorers must be a list of 'detection' or 'fuzzing'"):
            score_explanations(endpoint, examples, {}, scorers=["simulation"])  # pyright: ignore[reportArgumentType]
        with pytest.raises(BadInput, match="no explanation of L0N1, L0N2"):
            score_explanations(endpoint, examples, {"L0N0": "x"})
        with pytest.raises(BadInput, match="at least 1"):
            score_explanations(endpoint, examples, dict.fromkeys(examples, "x"), per_request=0)
        with pytest.raises(BadInput, match="no units to explain"):
            explain(endpoint, {})
    assert server.bodies == []
    assert json.dumps(endpoint.told)


# ------------------------------------------------------------------------------------------------------ heads, wikis


def head_model() -> HookedTransformer:
    """A head that looks at the token before, and writes only if that is word 1."""
    model = blank(
        n_layers=1, d_model=N_WORDS + N_CTX + 1, n_ctx=N_CTX, d_vocab=N_WORDS, n_heads=2, d_head=N_CTX, d_mlp=1,
        act_fn="relu", attn_scale=1.0, positional_embedding_type="standard",
    )  # fmt: skip
    attn: Any = model.blocks[0].attn
    places = torch.eye(N_CTX).double()
    with torch.no_grad():
        model.embed.W_E[:, :N_WORDS] = torch.eye(N_WORDS)
        model.pos_embed.W_pos[:, N_WORDS:-1] = places
        attn.W_Q[1, N_WORDS:-1] = 100 * places
        attn.W_K[1, N_WORDS:-1] = places.roll(1, dims=1)
        attn.W_V[1, 1, 0] = 1.0
        attn.W_O[1, 0, -1] = 3.0
    return model


def test_a_head_is_shown_with_what_its_strongest_token_attends_to(texts: list[Tensor]) -> None:
    model = head_model()
    found = scan(model, texts, {"bands": Bands(HEADS.units, n=30)}, progress=False)
    (one,) = unit_examples(model, found, [(0, 1)], kind="head", width=8).values()
    assert one.name == "L0H1"
    for example in one.train:
        strongest = max(range(8), key=example.activations.__getitem__)
        first = example.start + strongest == 0  # which has none before it
        assert example.attended[0] == (" 1", 0 if first else 1, 1.0)
    with serving(oracle) as server:
        explain(endpoint_of(server), {"L0H1": one})
    assert "attention head" in server.bodies[0]["messages"][0]["content"]
    assert question(server.bodies[0]).count("The strongest attends to: ' 1' (") == len(one.train)


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="tables of a wiki need pyarrow")
def test_the_examples_of_a_wiki_are_those_of_its_scan(
    model: HookedTransformer, texts: list[Tensor], tmp_path: Path
) -> None:
    made = wiki(model, texts, tmp_path / "wiki", causal=False, per_band=30, top=10, progress=False)
    again = Wiki(made.path)
    of_wiki = unit_examples(model, again, UNITS, width=10, train=12, test=13)
    for neuron, one in enumerate(of_wiki.values()):
        assert (len(one.train), len(one.test), len(one.silent)) == (12, 13, 13)
        for example in (*one.train, *one.test):
            assert set(example.tokens) & {f" {word}" for word in FIRES_ON[neuron]}
    other = word_model()
    with torch.no_grad():
        other.blocks[0].mlp.W_in.mul_(2)
    with pytest.raises(BadInput, match="this model's weights are not those of the wiki"):
        unit_examples(other, again, UNITS)
    with pytest.raises(BadInput, match="kind must be one of"):
        unit_examples(model, again, UNITS, kind="feature")
    with pytest.raises(BadInput, match="the wiki has no L0N9"):
        unit_examples(model, again, [(0, 9)])


def test_features_of_a_spliced_dictionary_are_units_like_others(model: HookedTransformer, texts: list[Tensor]) -> None:
    """A dictionary with a feature for word 7, and one for words 8 and 9."""
    W_enc = torch.zeros(N_WORDS, 2, dtype=torch.float64)
    W_enc[7, 0], W_enc[8, 1], W_enc[9, 1] = 1.0, 1.0, 0.8
    biases = dict(b_enc=torch.zeros(2, dtype=torch.float64), b_dec=torch.zeros(N_WORDS, dtype=torch.float64))
    sae = SAE(hook="blocks.0.hook_resid_pre", W_enc=W_enc, W_dec=W_enc.T.contiguous(), **biases)
    with model.spliced(sae):
        units = Units("feature", ("blocks.0.hook_resid_pre.dictionary.hook_features",))
        found = scan(model, texts, {"bands": Bands(units, n=30)}, progress=False)
        examples = unit_examples(model, found, [(None, 0), (None, 1)], kind="feature", width=10)
    assert list(examples) == ["feature 0", "feature 1"]
    with serving(oracle) as server:
        explanations = explain(endpoint_of(server), examples)
        scores = score_explanations(endpoint_of(server), examples, explanations)
    assert explanations.texts == {"feature 0": "fires on 7", "feature 1": "fires on 8 9"}
    assert bool((scores.result.mean[:, 0] == 1).all())


# ---------------------------------------------------------------------------------------------------- the command line


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="tables of a wiki need pyarrow")
def test_the_command_explains_units_of_a_wiki(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(save_checkpoint(tmp_path / "model"))
    model = HookedTransformer.from_pretrained(checkpoint, device="cpu")
    made = wiki(model, None, tmp_path / "wiki", causal=False, per_band=12, limit=80, progress=False)

    def explain_here(url: str, *more: str) -> int:
        begin = ["explain", checkpoint, str(made.path), "L1N1", "L0H0", "--base-url", url, "--asked", "scripted"]
        return main([*begin, "--cache", str(tmp_path / "answers"), "--active", "0.5", *more])

    with serving(lambda body: says("EXPLANATION: names [1, 0, 1, 0, 1]")) as server:
        assert explain_here(server.url, "--dry-run", "--prices", "1", "2") == 0
        printed = capsys.readouterr().out
        assert server.bodies == []
        assert re.search(r"explaining: 2 requests.*for 0.00\d+ at most", printed)
        assert "scoring: " in printed
        assert explain_here(server.url, "--out", str(tmp_path / "out")) == 0
        printed = capsys.readouterr().out
        n = len(server.bodies)
    assert "balanced_accuracy" in printed
    assert "L0H0" in printed
    assert explain_here(server.url, "--out", str(tmp_path / "out")) == 0  # from the cache, over what was saved
    assert capsys.readouterr().out == printed
    assert len(server.bodies) == n
    assert Explanations.load(tmp_path / "out" / "explanations").texts["L1N1"].startswith("names")
    assert explain_here("not an address") == 2
    assert "base_url must be an address" in capsys.readouterr().err


def test_a_unit_that_is_never_silent_fires_from_between_its_mean_and_its_largest_on(
    model: HookedTransformer, texts: list[Tensor]
) -> None:
    """As heads are: here neuron 0 and 10 more, everywhere."""

    def raised(shown: Any, model: HookedTransformer, layer: int | None) -> Tensor:
        return shown["post"] + 10

    found = scan(model, texts, {"bands": Bands(replace(neurons(), name="raised", of=raised), n=60)}, progress=False)
    (one,) = unit_examples(model, found, [(0, 0)], kind="raised", width=10, active=0.5).values()
    assert 11.0 < one.threshold < 11.1  # the mean is a little above 10, the largest 12
    assert all(" 1" in example.tokens for example in (*one.train, *one.test))
    assert not any(" 1" in example.tokens for example in one.silent)
