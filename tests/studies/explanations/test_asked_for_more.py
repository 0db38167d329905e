"""Counterfactual prompts, names of supernodes, similar texts: what is asked, and which answers are let through."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from interp_hooks import HookedTransformer, Prob, Result, patch
from interp_hooks.circuits import AttributionGraph, attribution_graph, load_graph, load_supernodes, save_graph
from interp_hooks.errors import BadInput, TokenError
from interp_hooks.ground_truth.handmade import blank
from interp_hooks.studies import Substitutes, counterfactuals, name_supernodes, neuron, similar_texts
from tests.circuits.test_attribution_graphs import TOKENS
from tests.dictionaries.random_ones import cross_layer
from tests.studies.explanations.planted import N_CTX, N_WORDS, word_model
from tests.studies.explanations.scripted import Reply, endpoint_of, question, says, serving
from tests.tiny import build

# ----------------------------------------------------------------------------------------------------- counterfactuals

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny", device="cpu")


def proposing(*proposals: Any) -> Any:
    return lambda body: says("Here they are:\n" + json.dumps([*proposals]))


def proposal(prompt: str, answer: str) -> dict[str, str]:
    return {"prompt": prompt, "answer": answer}


FLIPPED = PROMPT.replace("John gave", "Mary gave")


def test_what_holds_becomes_a_task_and_the_rest_is_counted(model: HookedTransformer) -> None:
    other = PROMPT.replace("Mary and John", "Mary and Lisa").replace("John gave", "Mary gave")
    script = proposing(
        proposal(FLIPPED, "John"),
        proposal(PROMPT, "John"),
        proposal(FLIPPED, "Lisa"),
        proposal(other, " Lisa"),
        proposal(PROMPT.replace("the store", "the big old store"), "John"),
        proposal(PROMPT.replace("drink", "ring"), "John"),
        proposal(PROMPT.replace("drink", "ring"), "Mary"),
        proposal(PROMPT.replace("the store", "the park"), "John"),
        proposal(PROMPT.replace("Mary", "Lisa").replace("John", "Tom").replace("store", "park"), "Lisa"),
        {"prompt": FLIPPED},
        "text",
        proposal(FLIPPED + " ", ""),
        proposal(PROMPT.replace("When", "Then"), "Mississippi"),
    )
    with serving(script) as server:
        found = counterfactuals(endpoint_of(server), model, [PROMPT], [" Mary"])
    table = found.table()
    assert table["corrupt"].tolist() == [FLIPPED, other]
    assert table["wrong"].tolist() == [" John", " Lisa"]
    ids = [model.to_tokens(text)[0] for text in (PROMPT, FLIPPED, other)]
    assert table["differing"].tolist() == [(ids[0] != one).nonzero()[:, 0].tolist() for one in ids[1:]]
    assert found.rejected == {
        "the prompt is the same": 1,
        "it was proposed before": 2,
        "another number of tokens": 1,
        "too many tokens differ": 1,
        "no prompt with an answer": 3,
        "the answer is not one token": 1,
        "the model's answer does not flip": 2,
    }
    assert found.rejected == dict(found.task.left_out)
    assert "times another number of tokens" in repr(found)


def test_the_task_is_one_that_the_model_does_and_experiments_take(model: HookedTransformer) -> None:
    with serving(proposing(proposal(FLIPPED, "John"))) as server:
        found = counterfactuals(endpoint_of(server), model, [PROMPT, FLIPPED], [" Mary", " John"])
        assert "It goes on with: Mary" in question(server.bodies[0]) + question(server.bodies[1])
    task = found.task
    assert task.check(model).mean[0] == 1.0
    assert list(task.clean) == [PROMPT]
    for text, column in ((PROMPT, "before"), (FLIPPED, "after")):
        for name, answer in (("answer", " Mary"), ("wrong", " John")):
            wanted = Prob([answer]).on(model)(model([text]))
            assert found.table()[f"p_{name}_{column}"].tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
    (place,) = found.differing[0]
    assert task.positions["first_difference"].tolist() == [place]
    assert task.labels[place] == " John"
    assert isinstance(patch(model, task, site="resid_pre", over=("pos",), layers=[0], progress=False), Result)
    recovered = patch(model, task, site="resid_pre", over=("pos",), layers=[0], progress=False).recovered_fraction
    assert int(recovered.argmax()) == place


def test_positions_are_those_of_padded_prompts(model: HookedTransformer) -> None:
    longer = PROMPT.replace("When", "Then, when").replace("store", "store")
    shorter = [PROMPT, PROMPT.replace(" a drink", " a kiss")]

    def script(body: dict[str, Any]) -> Reply:
        prompt = question(body).removeprefix("Prompt: ").partition("\n")[0]
        return proposing(proposal(prompt.replace("John gave", "Mary gave"), "John"))(body)

    with serving(script) as server:
        found = counterfactuals(endpoint_of(server), model, [*shorter, longer], [" Mary"] * 3)
    tokens = model.to_tokens(list(found.task.clean))
    others = model.to_tokens(list(found.task.corrupt))
    for row, (one, other) in enumerate(zip(tokens, others, strict=True)):
        first = int((one != other).nonzero()[0])
        assert int(found.task.positions["first_difference"][row]) == first
        end = int(found.task.positions["end"][row])
        assert model.to_single_str_token(int(one[end])) == " to"


def test_nothing_that_holds_is_an_error_with_the_reasons(model: HookedTransformer) -> None:
    with serving(proposing(proposal(PROMPT.replace("drink", "ring"), "John"), 3)) as server:
        with pytest.raises(TokenError, match="1 times no prompt with an answer, 1 times the model's answer does not"):
            counterfactuals(endpoint_of(server), model, [PROMPT], [" Mary"])
    with serving(proposing(proposal(FLIPPED, "Mary"))) as server:
        with pytest.raises(TokenError, match="1 times the model does not prefer the answer to the prompt itself"):
            counterfactuals(endpoint_of(server), model, [PROMPT], [" John"])
    with serving(lambda body: says("I will not.")) as server:
        with pytest.raises(TokenError, match="1 times an answer without a list"):
            counterfactuals(endpoint_of(server), model, [PROMPT], [" Mary"])
        with pytest.raises(BadInput, match="an answer for each, got 1 and 2"):
            counterfactuals(endpoint_of(server), model, [PROMPT], [" Mary", " John"])
        with pytest.raises(TokenError, match=r"the answer ' Mary and John' to .* is not one token"):
            counterfactuals(endpoint_of(server), model, [PROMPT], [" Mary and John"])


# ---------------------------------------------------------------------------------------------------------- supernodes


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    return attribution_graph(build(), TOKENS, cross_layer(), progress=False).pruned()


def test_names_of_supernodes_go_through_a_file(graph: AttributionGraph, tmp_path: Path) -> None:
    groups = [graph.features[:2], graph.features[2:5], [graph.logits[0]], graph.features[5:6]]
    label = {graph.features[0]: "fires on capitals"}

    def script(body: dict[str, Any]) -> Reply:
        n = question(body).count("\nNode: ")
        return says({2: "Both are.\nName: two of them", 3: "**NAME:** others", 1: "NAME: alone"}[n])

    with serving(script) as server:
        named = name_supernodes(endpoint_of(server), graph, groups, label)
    assert named == dict(zip(["two of them", "others", "alone", "alone (2)"], groups, strict=True))
    asked = next(question(body) for body in server.bodies if question(body).count("\nNode: ") == 2)
    assert f"Node: {graph.name(groups[0][0])} (fires on capitals)" in asked
    strongest = graph.into(groups[0][0], 1)
    assert strongest.empty or f"fed by: {graph.name(int(strongest['source'][0]))}" in asked

    save_graph(graph, tmp_path / "graph.json", supernodes=named, labels=label)
    assert load_supernodes(tmp_path / "graph.json") == named
    assert len(load_graph(tmp_path / "graph.json")) == len(graph)
    told = json.loads((tmp_path / "graph.json").read_text())
    ids = [node["node_id"] for node in told["nodes"]]
    assert told["qParams"]["supernodes"][1] == ["others", *(ids[node] for node in groups[1])]
    assert told["qParams"]["pinnedIds"] == [ids[node] for group in groups for node in group]
    assert told["nodes"][graph.features[0]]["clerp"] == "fires on capitals"


def test_a_group_without_a_name_is_called_so(graph: AttributionGraph) -> None:
    with serving(lambda body: says("I cannot tell.")) as server:
        named = name_supernodes(endpoint_of(server), graph, [[0], [1]])
    assert list(named) == ["unnamed", "unnamed (2)"]


def test_supernodes_that_are_none_are_refused(graph: AttributionGraph, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    with pytest.raises(BadInput, match="stands in two supernodes"):
        save_graph(graph, path, supernodes={"a": [0, 1], "b": [1]})
    with pytest.raises(BadInput, match=f"nodes must be 0..{len(graph) - 1}, got {len(graph)}"):
        save_graph(graph, path, supernodes={"a": [len(graph)]})
    assert not path.exists()
    save_graph(graph, path)
    assert load_supernodes(path) == {}
    told = json.loads(path.read_text())
    for wrong in ([["a", "no such node"]], [[]], 3, [["a"], ["a"]]):
        told["qParams"]["supernodes"] = wrong
        path.write_text(json.dumps(told))
        with pytest.raises(BadInput, match="supernodes"):
            load_supernodes(path)
    with serving(lambda body: says("NAME: x")) as server:
        for groups in ([], [[]], [[len(graph)]]):
            with pytest.raises(BadInput):
                name_supernodes(endpoint_of(server), graph, groups)
    assert server.bodies == []


# -------------------------------------------------------------------------------------------------------- similar texts


def worded() -> HookedTransformer:
    """The model of words with a tokenizer: "▁w7" is word 7."""
    vocabulary = {f"▁w{word}": word for word in range(N_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="▁w39"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="never")
    model = word_model()
    model.set_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="▁w39"), default_padding_side="right"
    )
    model.default_prepend_bos = False
    return model


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LIKELY = {"w3": 3.0, "w8": 2.5, "zebra": 2.0, "##ing": 1.5, "w2": 1.0, "w9": 0.5}


def encoder() -> HookedTransformer:
    """An encoder that expects the same words everywhere, of which one is unknown to the model."""
    words = [*SPECIAL, *LIKELY, "w5"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )
    model = blank(
        n_layers=1, d_model=4, n_ctx=N_CTX, d_vocab=len(words), n_heads=1, d_head=1, d_mlp=2, act_fn="relu",
        attention_dir="bidirectional",
    )  # fmt: skip
    model.set_tokenizer(made)
    with torch.no_grad():
        model.unembed.b_U[:5] = 9.0  # special ones, which no text has
        for word, logit in LIKELY.items():
            model.unembed.b_U[words.index(word)] = logit
        model.unembed.b_U[words.index("w5")] = -9.0
    return model


def test_what_could_stand_in_each_place_and_what_the_unit_makes_of_it(tmp_path: Path) -> None:
    """Neuron 1 is 2 on w2 and 1.2 on w3, and reads no other place."""
    found = similar_texts(worded(), neuron(0, 1), encoder(), " w7 w9 w2 w6", k=3)
    assert (found.at, found.activation) == (2, 2.0)
    assert list(found.tokens) == [" w7", " w9", " w2", " w6"]
    assert list(found.positions) == [0, 1, 2]  # nothing that comes later is seen
    assert [list(one) for one in found.texts] == [[" w3", " w8", " w2"], [" w3", " w8", " w2"], [" w3", " w8", " w9"]]
    assert torch.allclose(found.kept, torch.tensor([[1.0] * 3, [1.0] * 3, [0.6, 0.0, 0.0]], dtype=torch.float64))
    assert found.rejected == 3  # the word that the model does not know; "##ing" goes on with another
    logits = torch.tensor([9.0] * 5 + [*LIKELY.values(), -9.0], dtype=torch.float64)
    assert torch.allclose(found.probability[0], logits.softmax(0)[[5, 6, 9]])
    assert found.table()["fires"].tolist() == [True] * 6 + [True, False, False]
    assert found.result.axes["position"] == ["0 ' w7'", "1 ' w9'", "2 ' w2'"]
    assert torch.allclose(found.result.mean, found.kept)
    found.save(tmp_path / "found")
    assert repr(Substitutes.load(tmp_path / "found")) == repr(found)


def test_fewer_substitutes_than_asked_for_are_nan() -> None:
    found = similar_texts(worded(), neuron(0, 1), encoder(), " w2", k=8)
    assert [text for text in found.texts[0] if text] == [" w3", " w8", " w9", " w5"]
    assert found.kept[0].isnan().tolist() == [False] * 4 + [True] * 4
    assert len(found.table()) == 4


def test_the_place_can_be_chosen() -> None:
    found = similar_texts(worded(), neuron(0, 1), encoder(), " w3 w7 w2", k=1, at=0)
    assert (found.at, found.activation) == (0, pytest.approx(1.2))
    assert [list(one) for one in found.texts] == [[" w8"]]


def test_what_cannot_be_asked_is_refused() -> None:
    model, of_words = worded(), encoder()
    for arguments, message in [
        (dict(text=" w7 w8"), "is 0, so that there is nothing to keep"),
        (dict(text=" w2", at=4), r"at must be a token of the text, 0\.\.0, got 4"),
        (dict(text=" w2", k=0), "k must be at least 1"),
    ]:
        with pytest.raises(BadInput, match=message):
            similar_texts(model, neuron(0, 1), of_words, **arguments)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="this one is causal"):
        similar_texts(model, neuron(0, 1), model, " w2")
    of_words.tokenizer.mask_token = None
    with pytest.raises(BadInput, match="no mask token"):
        similar_texts(model, neuron(0, 1), of_words, " w2")
