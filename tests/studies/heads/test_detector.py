"""Scores of heads whose attention is known: written by hand, or circuits made of them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, TokenError
from interp_hooks.model.cache.activation_cache import ActivationCache
from interp_hooks.studies import heads as head_detector
from interp_hooks.studies.heads import (
    HEAD_NAMES,
    compute_head_attention_similarity_score,
    detect_head,
    get_duplicate_token_head_detection_pattern,
    get_induction_head_detection_pattern,
    get_previous_token_head_detection_pattern,
    head_scores,
)
from tests.experiments.by_hand import word_tokenizer
from tests.experiments.gates import induction
from tests.tiny import assert_close, build, unchecked_types

REPEATED = torch.tensor([[0, 3, 1, 4, 5, 9, 3, 1, 4, 5, 9]])  # BOS, five different tokens, and the same again
LENGTH = REPEATED.shape[1]


@pytest.fixture(scope="module")
def circuit() -> HookedTransformer:
    """Heads 0.0 (previous token) and 1.0 (induction); 0.1 and 1.1 attend to all tokens alike."""
    return induction()


@pytest.fixture(scope="module")
def reader() -> HookedTransformer:
    """A random model that reads words."""
    words = [f"w{number}" for number in range(20)]
    cfg = build().cfg
    model = HookedTransformer(cfg, tokenizer=word_tokenizer(*words))
    model.load_state_dict(build().state_dict())
    return model


# ------------------------------------------------------------------------------------------------------------ patterns


def test_patterns_by_hand() -> None:
    tokens = torch.tensor([[5, 7, 5, 7, 7]])
    duplicate = torch.zeros(5, 5)
    for query, key in ((2, 0), (3, 1), (4, 1), (4, 3)):
        duplicate[query, key] = 1.0
    after = torch.zeros(5, 5)
    for query, key in ((2, 1), (3, 2), (4, 2), (4, 4)):
        after[query, key] = 1.0
    before = torch.zeros(5, 5)
    for query in range(1, 5):
        before[query, query - 1] = 1.0
    for row in (tokens, tokens[0]):
        assert torch.equal(get_previous_token_head_detection_pattern(row), before)
        assert torch.equal(get_duplicate_token_head_detection_pattern(row), duplicate)
        assert torch.equal(get_induction_head_detection_pattern(row), after)


@pytest.mark.parametrize("name", HEAD_NAMES)
def test_a_pattern_is_of_one_prompt(name: str) -> None:
    with pytest.raises(BadInput, match="one prompt"):
        head_detector.PATTERNS[name](torch.zeros(2, 3, dtype=torch.long))
    assert head_detector.PATTERNS[name](torch.tensor([4])).tolist() == [[0.0]]


def test_supported_heads_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    head_detector.get_supported_heads()
    assert "previous_token_head, duplicate_token_head, induction_head" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------- scores

ATTENTION = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.125, 0.375]])
WANTED = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("options", "mul", "distance"),
    [
        ({}, 0.375 / 3, (1 + 0.75 + 0.75 + 0.5 + 0.875 + 0.375) / 3),
        ({"exclude_bos": True}, 0.125 / 1.25, (0.75 + 0.875 + 0.375) / 3),
        ({"exclude_current_token": True}, 0.375 / 0.875, (0.75 + 0.5 + 0.875) / 3),
        ({"exclude_bos": True, "exclude_current_token": True}, 0.125 / 0.125, 0.875 / 3),
    ],
)
def test_scores_by_hand(options: dict[str, Any], mul: float, distance: float) -> None:
    before = ATTENTION.clone(), WANTED.clone()
    assert compute_head_attention_similarity_score(ATTENTION, WANTED, **options) == pytest.approx(mul, abs=1e-7)
    found = compute_head_attention_similarity_score(ATTENTION, WANTED, **options, error_measure="abs")
    assert found == pytest.approx(1 - distance, abs=1e-6), "not rounded"
    assert torch.equal(ATTENTION, before[0])
    assert torch.equal(WANTED, before[1])


def test_extremes() -> None:
    known: dict[str, Any] = dict(error_measure="abs")
    assert compute_head_attention_similarity_score(ATTENTION, ATTENTION, **known) == 1.0
    elsewhere = torch.eye(3).roll(1, 1)
    assert compute_head_attention_similarity_score(torch.eye(3), elsewhere, **known) == -1.0
    nothing_left = torch.eye(3)
    score = compute_head_attention_similarity_score(nothing_left, WANTED, exclude_current_token=True)
    assert score != score, "nan: there is no attention to take a share of"
    with pytest.raises(BadInput, match="square"):
        compute_head_attention_similarity_score(torch.ones(2, 3), torch.ones(2, 3))


# -------------------------------------------------------------------------------------------------------------- heads


def test_known_heads_score_one(circuit: HookedTransformer) -> None:
    previous = detect_head(circuit, REPEATED, "previous_token_head", exclude_current_token=True)
    assert previous[0, 0] == pytest.approx(1, abs=1e-6)
    assert detect_head(circuit, REPEATED, "induction_head", exclude_bos=True)[1, 0] == pytest.approx(1, abs=1e-6)
    # the first token can only attend to itself, and without an earlier copy, head 1.0 attends to BOS
    assert detect_head(circuit, REPEATED, "previous_token_head")[0, 0] == pytest.approx((LENGTH - 1) / LENGTH, abs=1e-6)
    assert detect_head(circuit, REPEATED, "induction_head")[1, 0] == pytest.approx(5 / LENGTH, abs=1e-6)
    apart = detect_head(circuit, REPEATED, "previous_token_head", error_measure="abs")
    assert apart[0, 0] == pytest.approx(1 - 1 / LENGTH, abs=1e-6)


def test_uniform_attention(circuit: HookedTransformer) -> None:
    """At query i every pattern of one key catches 1 / (i + 1)."""
    previous = sum(1 / (query + 1) for query in range(1, LENGTH)) / LENGTH
    repeated = sum(1 / (query + 1) for query in range(6, LENGTH)) / LENGTH
    for name, expected in zip(HEAD_NAMES, (previous, repeated, repeated), strict=True):
        scores = detect_head(circuit, REPEATED, name)
        assert_close(scores[:, 1], torch.full((2,), expected, dtype=scores.dtype), 1e-12)


@pytest.mark.parametrize(
    ("name", "head"), [("previous_token_head", (0, 0)), ("induction_head", (1, 0))], ids=["previous token", "induction"]
)
def test_a_perfect_head_has_the_score_of_one_and_uniform_attention_that_of_the_baseline(
    circuit: HookedTransformer, name: Any, head: tuple[int, int]
) -> None:
    """`detect_head` says 0.45 for this induction head, since half of the queries have nothing to go on."""
    queries = range(1, LENGTH) if name == "previous_token_head" else range(6, LENGTH)
    uniform = sum(1 / (query + 1) for query in queries) / len(queries)
    result = head_scores(circuit, name, REPEATED)
    assert_close(result.mean[head], torch.tensor(1.0, dtype=torch.float64), 1e-6)
    assert_close(result.mean[:, 1], torch.full((2,), uniform, dtype=torch.float64), 1e-12)
    assert_close(result.baselines["uniform"], torch.tensor([uniform], dtype=torch.float64), 1e-12)
    assert float(result.change[:, 1].abs().max()) < 1e-12
    best = result.top(1)
    assert (best["layer"].item(), best["head"].item()) == head
    assert best["change"].item() == pytest.approx(1 - uniform, abs=1e-6)


def test_the_induction_score_is_the_mean_along_its_diagonal() -> None:
    """As everybody writes it: attention of the second copy to what followed in the first one."""
    model, n = HookedTransformer.from_pretrained("induction-2l", device="cpu"), 20
    words = torch.stack([torch.randperm(63, generator=torch.Generator().manual_seed(row))[:n] + 1 for row in range(3)])
    tokens = torch.cat((torch.zeros(3, 1, dtype=torch.long), words, words), dim=1)
    _, cache = model.run_with_cache(tokens)
    result = head_scores(model, "induction_head", tokens)
    again = head_scores(model, "duplicate_token_head", tokens)
    for layer in range(2):
        pattern = cache["pattern", layer].double()
        after = pattern.diagonal(1 - n, dim1=-2, dim2=-1)[..., -n:].mean(-1)
        same = pattern.diagonal(-n, dim1=-2, dim2=-1)[..., -n:].mean(-1)
        assert_close(result.values[layer].T.double(), after, 1e-5)
        assert_close(again.values[layer].T.double(), same, 1e-5)
    assert result.mean[1].max() > 0.9
    assert detect_head(model, tokens, "induction_head").max() < 0.5


def test_tokens_that_come_by_chance_are_no_induction(reader: HookedTransformer) -> None:
    """On few words uniform attention scores much, which the change leaves out."""
    tokens = torch.randint(1, 3, (4, 9), generator=torch.Generator().manual_seed(0))
    result = head_scores(build(), "induction_head", tokens)
    assert float(result.baselines["uniform"].mean()) > 0.4
    assert float(result.change.abs().max()) < 0.4


def test_prompts_are_drawn_with_the_generator_and_fit() -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    one, same, other = (
        head_scores(model, "induction_head", n=2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one.values, same.values)
    assert not torch.equal(one.values, other.values)
    assert one.values.shape == (3, 4, 2)
    assert one.metric == "induction_score"


def test_a_text_without_repetition_has_no_score(reader: HookedTransformer) -> None:
    with pytest.raises(BadInput, match="prompt 1 has no token to attend to"):
        head_scores(reader, "induction_head", ["w1 w2 w1 w2", "w3 w4 w5"])


@pytest.mark.parametrize("measure", ["mul", "abs"])
@pytest.mark.parametrize("options", [{}, {"exclude_bos": True}, {"exclude_current_token": True}], ids=str)
def test_every_head_by_its_formula(options: dict[str, Any], measure: Any) -> None:
    model = build()
    tokens = torch.tensor([[4, 6, 4, 9, 6, 4]])
    weights = torch.rand(6, 6, dtype=torch.float64).tril()
    found = detect_head(model, tokens, weights, error_measure=measure, **options)
    keep = torch.ones(6, 6, dtype=torch.float64)
    if "exclude_bos" in options:
        keep[:, 0] = 0
    if "exclude_current_token" in options:
        keep -= torch.eye(6, dtype=torch.float64)
    _, cache = model.run_with_cache(tokens)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            attention = cache[f"blocks.{layer}.attn.hook_pattern"][0, head]
            share = (attention * weights * keep).sum() / (attention * keep).sum()
            apart = ((attention - weights).abs() * keep).mean() * 6
            assert_close(found[layer, head], share if measure == "mul" else 1 - apart, 1e-12)


def test_several_prompts_are_averaged_with_their_options(reader: HookedTransformer) -> None:
    prompts = ["w1 w2 w1 w2 w3", "w4 w4 w5 w4"]
    options: dict[str, Any] = dict(exclude_bos=True, exclude_current_token=True, error_measure="abs", heads=[(1, 2)])
    both = detect_head(reader, prompts, "induction_head", **options)
    each = [detect_head(reader, prompt, "induction_head", **options) for prompt in prompts]
    assert_close(both, torch.stack(each).mean(0), 1e-12)
    assert both[1, 2] != -1
    assert (both == -1).sum() == both.numel() - 1
    tokens = torch.cat([reader.to_tokens("w1 w2 w1"), reader.to_tokens("w3 w3 w2")])
    listed = detect_head(reader, ["w1 w2 w1", "w3 w3 w2"], "duplicate_token_head")
    assert_close(detect_head(reader, tokens, "duplicate_token_head"), listed, 1e-12)


@pytest.mark.parametrize("heads", [[(0, 1), (2, 3), (2, 0)], {0: [1], 2: (3, 0)}], ids=str)
def test_only_some_heads(heads: Any) -> None:
    model, tokens = build(), REPEATED[:, :8]
    every, some = (detect_head(model, tokens, "previous_token_head", heads=chosen) for chosen in (None, heads))
    wanted = torch.zeros_like(every, dtype=torch.bool)
    wanted[0, 1] = wanted[2, 3] = wanted[2, 0] = True
    assert_close(some[wanted], every[wanted], 1e-12)
    assert bool((some[~wanted] == -1).all())


@pytest.mark.parametrize("without_batch", [True, False])
def test_a_cache_is_read_and_left_alone(without_batch: bool, circuit: HookedTransformer) -> None:
    _, cache = circuit.run_with_cache(REPEATED, remove_batch_dim=without_batch)
    before = {name: value.clone() for name, value in cache.items()}
    expected = detect_head(circuit, REPEATED, "induction_head", exclude_bos=True, exclude_current_token=True)
    with circuit.hooks(fwd_hooks=[("hook_embed", _never)]):
        options: dict[str, Any] = dict(exclude_bos=True, exclude_current_token=True)
        found = detect_head(circuit, REPEATED, "induction_head", cache=cache, **options)
    assert_close(found, expected, 1e-12)
    assert all(torch.equal(cache[name], value) for name, value in before.items())


def _never(value: Tensor, hook: Any) -> None:
    raise AssertionError("the model was run")


def test_only_the_patterns_that_are_needed_are_computed(circuit: HookedTransformer) -> None:
    with circuit.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", _never)]):
        detect_head(circuit, REPEATED, "previous_token_head", heads=[(0, 0)])


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"detection_pattern": "induction_haed"}, "Did you mean induction_head"),
        (
            {"detection_pattern": torch.ones(3, 3).tril()},
            r"triangular matrix \[query, key\] = \[11, 11\].*got \[3, 3\]",
        ),
        (
            {"detection_pattern": torch.ones(LENGTH, LENGTH)},
            "lower triangular matrix: it asks for attention to later tokens",
        ),
        ({"error_measure": "mse"}, "'abs' or 'mul'"),
        ({"heads": [(0, 2)]}, "no head 2 in layer 0"),
        ({"heads": {2: [0]}}, "no head 0 in layer 2"),
        ({"heads": [(-1, 0)]}, "no head 0 in layer -1"),
        ({"heads": []}, "empty"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str, circuit: HookedTransformer) -> None:
    whole: dict[str, Any] = {"detection_pattern": "induction_head"} | arguments
    with unchecked_types(), pytest.raises(BadInput, match=message):
        detect_head(circuit, REPEATED, **whole)


def test_a_cache_of_something_else(circuit: HookedTransformer, reader: HookedTransformer) -> None:
    _, cache = circuit.run_with_cache(REPEATED[:, :6])
    with pytest.raises(BadInput, match="of this prompt"):
        detect_head(circuit, REPEATED, "induction_head", cache=cache)
    with pytest.raises(BadInput, match="cannot be reused across multiple prompts, got 2"):
        detect_head(circuit, REPEATED.expand(2, -1), "induction_head", cache=cache)
    with pytest.raises(KeyError, match="was not cached"):
        detect_head(circuit, REPEATED, "induction_head", cache=ActivationCache({}, circuit))
    with pytest.raises(TokenError, match="at least one string"):
        detect_head(reader, [], "induction_head")


def test_bidirectional_models_may_be_asked_for_later_tokens() -> None:
    model = build(attention_dir="bidirectional")
    tokens = torch.tensor([[3, 1, 2]])
    following = torch.eye(3, dtype=torch.float64).roll(1, 1).triu()
    attention = model.run_with_cache(tokens)[1]["pattern", 0][0]
    expected = (attention * following).sum((-2, -1)) / 3
    assert_close(detect_head(model, tokens, following)[0], expected, 1e-12)
