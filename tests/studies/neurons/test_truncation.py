"""Truncation, importance and minimal examples, where it is known which tokens a neuron needs."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.corpus import Units
from interp_hooks.errors import BadInput
from interp_hooks.studies import and_ness, minimal_example, neuron, random_direction, token_importance, truncated_prompt
from interp_hooks.studies.neurons import truncation
from interp_hooks.studies.neurons.contexts import Found, neuron_reducers, top_contexts
from tests.studies.neurons.planted import AND, CAT, CREAM, ICE, LAST, SUM, documents, pair_model, scanned
from tests.tiny import build, unchecked_types

PROMPT = torch.tensor([5, CREAM, 7, ICE, CREAM])
REPLACEMENTS = ["mean", "delete", 9]


@pytest.fixture(scope="module")
def planted() -> HookedTransformer:
    return pair_model()


@pytest.fixture(scope="module")
def spoken() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny", device="cpu")


def activation(model: HookedTransformer, layer: int, number: int, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model.run_with_cache(tokens[None])[1]["post", layer][0, -1, number])


def test_top_contexts_are_those_with_the_pair(planted: HookedTransformer) -> None:
    texts, where = documents(ICE, CREAM)
    found = Found(scanned(planted, texts))
    values, listed, positions = (found.top[0][name][AND] for name in ("values", "documents", "positions"))
    firing = values > 0
    assert dict(zip(listed[firing].tolist(), positions[firing].tolist(), strict=True)) == where
    contexts = top_contexts(planted, found, 0, AND, k=len(where))
    for row, at, document in zip(contexts.rows, contexts.at.tolist(), listed[firing].tolist(), strict=True):
        assert row.tolist() == texts[document][: where[document] + 2].tolist()
        assert row[at - 1 : at + 1].tolist() == [ICE, CREAM]


def test_the_minimal_example_is_the_pair(planted: HookedTransformer) -> None:
    for shortened in (truncated_prompt, minimal_example):
        found = shortened(planted, neuron(0, AND), PROMPT)
        assert found.tokens.tolist() == [ICE, CREAM]
        assert found.places.tolist() == [3, 4]
        assert found.kept == found.activation == found.whole == 1


def test_a_token_between_is_deleted_by_the_minimal_example_alone() -> None:
    model = build(seed=3)
    unit, tokens = neuron(1, 4), torch.tensor([3, 8, 1, 15, 2, 9, 4])
    end, least = truncated_prompt(model, unit, tokens, keep=0.9), minimal_example(model, unit, tokens, keep=0.9)
    assert end.places.tolist() == list(range(len(tokens) - len(end.places), len(tokens)))
    assert set(least.places.tolist()) <= set(end.places.tolist())
    for found in (end, least):
        assert found.activation == pytest.approx(activation(model, 1, 4, found.tokens))
        assert found.whole == pytest.approx(activation(model, 1, 4, tokens))
        assert found.kept >= 0.9


@pytest.mark.parametrize("number", range(6))
def test_minimal_examples_are_minimal_and_ends_shortest(number: int) -> None:
    model, tokens = build(seed=2), torch.tensor([3, 8, 1, 15, 2, 9, 4, 20])
    least = minimal_example(model, neuron(1, number), tokens, keep=0.8)
    for place in range(len(least.tokens)) if len(least.tokens) > 1 else ():
        rest = torch.cat((least.tokens[:place], least.tokens[place + 1 :]))
        assert activation(model, 1, number, rest) / least.whole < 0.8
    end = truncated_prompt(model, neuron(1, number), tokens, keep=0.8)
    for length in range(1, len(end.tokens)):
        assert activation(model, 1, number, tokens[-length:]) / end.whole < 0.8


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_both_words_are_all_that_matters(planted: HookedTransformer, replacement: Any) -> None:
    found = token_importance(planted, neuron(0, AND), PROMPT, replacement=replacement)
    assert found.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("replacement", [9, "mean"])
def test_and_ness_tells_and_from_sum(planted: HookedTransformer, replacement: Any) -> None:
    assert and_ness(planted, neuron(0, AND), PROMPT, (3, 4), replacement=replacement) == 1
    assert and_ness(planted, neuron(0, SUM), PROMPT, (3, 4), replacement=replacement) == pytest.approx(0, abs=1e-12)
    assert and_ness(planted, neuron(0, AND), PROMPT, (0, 3, 4), replacement=replacement) == 0


def test_and_ness_is_the_sum_over_subsets() -> None:
    model, tokens = build(seed=1), torch.tensor([3, 8, 1, 15])
    found = and_ness(model, neuron(2, 5), tokens, (1, 3), replacement=7)
    subsets = ([3, 8, 1, 15], [3, 7, 1, 15], [3, 8, 1, 7], [3, 7, 1, 7])
    by_hand = [activation(model, 2, 5, torch.tensor(row)) for row in subsets]
    assert found == pytest.approx(by_hand[0] - by_hand[1] - by_hand[2] + by_hand[3])


def test_a_mean_embedding_stands_where_a_token_was() -> None:
    model, tokens = build(seed=4, embed_scale=2.0), torch.tensor([3, 8, 1, 15])

    def replaced(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value[0, 1] = 2.0 * model.W_E.mean(0)
        return value

    store: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        keep = lambda value, hook: store.update(post=value)  # noqa: E731
        model.run_with_hooks(tokens[None], fwd_hooks=[("hook_embed", replaced), ("blocks.2.mlp.hook_post", keep)])
    expected = 1 - store["post"][0, -1, 6] / activation(model, 2, 6, tokens)
    assert float(token_importance(model, neuron(2, 6), tokens)[1]) == pytest.approx(float(expected))


def test_many_rows_are_read_in_several_passes(planted: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [token_importance(planted, neuron(0, AND), PROMPT, replacement=one) for one in REPLACEMENTS]
    monkeypatch.setattr(truncation, "BLOCK", 1)
    monkeypatch.setattr(truncation.split_by_size, "__defaults__", (7,))
    for one, expected in zip(REPLACEMENTS, whole, strict=True):
        assert torch.equal(token_importance(planted, neuron(0, AND), PROMPT, replacement=one), expected)
    assert minimal_example(planted, neuron(0, AND), PROMPT).places.tolist() == [3, 4]


def test_bos_stays(spoken: HookedTransformer) -> None:
    tokens = spoken.to_tokens("When Mary and John went to the store, John gave a drink to")[0]
    bos = tokens[0]
    assert bos == spoken.tokenizer.bos_token_id
    for shortened in (truncated_prompt, minimal_example):
        found = shortened(spoken, neuron(1, 3), tokens)
        assert found.tokens[0] == bos
        assert found.activation == pytest.approx(activation(spoken, 1, 3, found.tokens), rel=1e-4)
    importance = token_importance(spoken, neuron(1, 3), tokens)
    assert importance.isnan().tolist() == [True] + [False] * (len(tokens) - 1)


PARALLEL = dict(parallel_attn_mlp=True)
KINDS: list[dict[str, Any]] = [{}, dict(normalization_type=None), PARALLEL, PARALLEL | dict(parallel_shared_norm=True)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_random_direction_reads_what_neurons_read(kind: dict[str, Any]) -> None:
    model, tokens = build(**kind), torch.tensor([3, 8, 1, 15])
    unit = random_direction(model, 1, torch.Generator().manual_seed(5))
    with torch.no_grad():
        cache = model.run_with_cache(tokens[None])[1]
        stream = cache["resid_pre", 1] if kind.get("parallel_attn_mlp") else cache["resid_mid", 1]
        read = model.norm_reading(1, mlp=True)(stream)
    vector = torch.randn(12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    expected = float(read[0, -1] @ vector / vector.norm())
    assert truncated_prompt(model, unit, tokens).whole == pytest.approx(expected)
    assert minimal_example(model, unit, tokens).kept >= 0.5


def test_wrong_arguments_are_told(planted: HookedTransformer) -> None:
    with pytest.raises(BadInput, match="keep must lie between 0 and 1"):
        truncated_prompt(planted, neuron(0, AND), PROMPT, keep=0)
    with pytest.raises(BadInput, match="activation at the last token is 0"):
        minimal_example(planted, neuron(0, LAST), PROMPT)
    with pytest.raises(BadInput, match="replacement must be 'mean', 'delete' or a token id below 12, got 12"):
        token_importance(planted, neuron(0, AND), PROMPT, replacement=12)
    with unchecked_types(), pytest.raises(BadInput, match=r"replacement must be .*got 'zero'"):
        token_importance(planted, neuron(0, AND), PROMPT, replacement="zero")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="places must be 1 to 10 different ones below 5"):
        and_ness(planted, neuron(0, AND), PROMPT, (3, 3))
    with pytest.raises(BadInput, match="expected a single unit"):
        token_importance(planted, Units("all", ("post",), layers=(0,)), PROMPT)
    with pytest.raises(BadInput, match="expected a prompt"):
        token_importance(planted, neuron(0, AND), PROMPT[:0])


def test_reducers_that_a_scan_lacks_are_told(planted: HookedTransformer) -> None:
    from interp_hooks.corpus import scan

    texts, _ = documents(CAT)
    found = Found(scan(planted, texts, {"top": neuron_reducers()["top"]}, progress=False))
    with pytest.raises(BadInput, match=r"needs a scan with Statistics\(neurons\(\)\)"):
        _ = found.statistics
    with pytest.raises(BadInput, match="did not measure unit 4"):
        found.place(0, 4)
    with pytest.raises(BadInput, match="in layer 1"):
        found.place(1, 0)
