"""What may be drawn, and how often: against probabilities worked out number by number, and the peer's own draws."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.model.sampling import Sampling, sample_logits, token_counts
from tests.tiny import build

DATA = Path(__file__).parents[1] / "data"
RECORDED = json.loads((DATA / "sampling" / "draws.json").read_text())  # by benchmarks/reference_sampling.py

LOGITS = torch.tensor([[1.5, -0.5, 0.7, 2.0, -1.0, 0.2], [0.1, 0.0, -0.3, 0.4, 2.5, -2.0]], dtype=torch.float64)
TOKENS = torch.tensor([[3, 3, 0, 1], [5, 4, 4, 4]])
RULES: list[dict[str, Any]] = [
    dict(),
    dict(temperature=0.6),
    dict(temperature=3.0),
    dict(top_k=1),
    dict(top_k=3, temperature=0.5),
    dict(top_k=9),
    dict(top_p=0.5),
    dict(top_p=0.9, temperature=2.0),
    dict(top_p=1.0),
    dict(top_k=4, top_p=0.6),
    dict(freq_penalty=0.5),
    dict(freq_penalty=-0.5),
    dict(freq_penalty=1.2, temperature=0.5, top_k=3),
    dict(repetition_penalty=1.7),
    dict(repetition_penalty=0.6, temperature=2.0, freq_penalty=0.3, top_p=0.7),
]


def by_hand(
    logits: list[float],
    tokens: list[int],
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float = 1.0,
    freq_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
) -> list[float]:
    """The probability of every token of one row."""
    scores = []
    for token, logit in enumerate(logits):
        if token in tokens:
            logit = logit / repetition_penalty if logit > 0 else logit * repetition_penalty
        scores.append(logit / temperature - freq_penalty * tokens.count(token))
    likeliest = sorted(range(len(scores)), key=lambda token: -scores[token])[: top_k or len(scores)]
    total = sum(math.exp(scores[token]) for token in likeliest)
    kept, reached = [], 0.0
    for token in likeliest:
        if reached >= (1.0 if top_p is None else top_p):
            break
        kept.append(token)
        reached += math.exp(scores[token]) / total
    weights = [math.exp(score) if token in kept else 0.0 for token, score in enumerate(scores)]
    return [weight / sum(weights) for weight in weights]


def probabilities(rule: dict[str, Any]) -> Tensor:
    rows = zip(LOGITS.tolist(), TOKENS.tolist(), strict=True)
    return torch.tensor([by_hand(*row, **rule) for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_distribution_in_closed_form(rule: dict[str, Any], dtype: torch.dtype) -> None:
    scores = Sampling(**rule).scores(LOGITS.to(dtype), token_counts(TOKENS, 6))
    assert float((scores.double().softmax(-1) - probabilities(rule)).abs().max()) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    rule, counts = Sampling(temperature=0.7, freq_penalty=0.3), token_counts(TOKENS, 6)
    assert torch.equal(rule.scores(LOGITS.to(dtype), counts), rule.scores(LOGITS.to(dtype).float(), counts))


# --------------------------------------------------------------------------------------------------------------- draws

DRAWS = 20_000


def chi_square(drawn: Tensor, expected: Tensor) -> float:
    """How many standard deviations the chi-square statistic lies above its mean; inf for what must not be drawn."""
    counts = torch.bincount(drawn, minlength=len(expected)).double()
    possible = expected > 0
    if counts[~possible].any():
        return math.inf
    wanted = expected[possible] * len(drawn)
    free = int(possible.sum()) - 1
    if free == 0:
        return 0.0
    return float((((counts[possible] - wanted) ** 2 / wanted).sum() - free) / math.sqrt(2 * free))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_draws_have_these_frequencies(rule: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    for row, expected in enumerate(probabilities(rule)):
        rows, tokens = LOGITS[row].expand(DRAWS, -1), TOKENS[row].expand(DRAWS, -1)
        drawn = sample_logits(rows, **rule, tokens=tokens, generator=generator)
        assert drawn.shape == (DRAWS,)
        assert chi_square(drawn, expected) < 4


def test_other_frequencies_are_noticed() -> None:
    """A mutant for the check above: a temperature that is 10 % off, and a token too many."""
    drawn = sample_logits(LOGITS[0].expand(DRAWS, -1), temperature=1.1, generator=torch.Generator().manual_seed(0))
    assert chi_square(drawn, probabilities({})[0]) > 4
    assert chi_square(drawn, probabilities(dict(top_k=5))[0]) == math.inf


def test_a_generator_is_a_seed_and_the_global_one_is_left_alone() -> None:
    torch.manual_seed(7)
    expected = [sample_logits(LOGITS).tolist() for _ in range(9)]
    before, generator = torch.get_rng_state(), torch.Generator().manual_seed(7)
    assert [sample_logits(LOGITS, generator=generator).tolist() for _ in range(9)] == expected
    assert torch.equal(torch.get_rng_state(), before)
    generator.manual_seed(7)
    assert [sample_logits(LOGITS.float(), generator=generator).tolist() for _ in range(9)] == expected


def same_stream() -> None:
    torch.manual_seed(3)
    logits = (torch.arange(300.0, dtype=torch.float64) * 1.7).sin().reshape(6, 50).float() * 4
    if torch.multinomial(logits.softmax(-1), 1).tolist() != RECORDED["stream"][1]:
        pytest.skip("this torch draws other random numbers from the same seed")
    torch.manual_seed(3)


@pytest.mark.parametrize(("rule", "drawn"), RECORDED["tokens"], ids=str)
def test_a_seed_draws_what_the_peer_draws(rule: dict[str, Any], drawn: list[list[int]]) -> None:
    same_stream()
    logits = (torch.arange(300.0, dtype=torch.float64) * 1.7).sin().reshape(6, 50).float() * 4
    tokens = (torch.arange(54) ** 2 % 17).reshape(6, 9)
    assert [sample_logits(logits, **rule, tokens=tokens).tolist() for _ in range(6)] == drawn


@pytest.mark.parametrize("name", ["generate", "generate_stream"])
def test_a_seed_generates_what_the_peer_generates(name: str) -> None:
    model = HookedTransformer.from_pretrained_no_processing(str(DATA / "patching" / "gpt2"), device="cpu")
    prompts = torch.tensor([[3, 5, 7], [1, 2, 4]])
    for options, written in RECORDED[name]:
        same_stream()
        ours = getattr(model, name)(prompts, 5, stop_at_eos=False, verbose=False, **options)
        assert (ours.tolist() if isinstance(ours, Tensor) else [piece.tolist() for piece in ours]) == written


# --------------------------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("rule", [dict(), dict(top_k=2), dict(top_p=0.3)], ids=str)
def test_temperature_zero_is_the_largest_logit(rule: dict[str, Any]) -> None:
    assert sample_logits(LOGITS, temperature=0.0, **rule).tolist() == [3, 4]


def test_only_the_repetition_penalty_acts_at_temperature_zero() -> None:
    assert sample_logits(LOGITS, temperature=0.0, repetition_penalty=1.5, tokens=TOKENS).tolist() == [3, 4]
    assert sample_logits(LOGITS, temperature=0.0, repetition_penalty=4.0, tokens=TOKENS).tolist() == [2, 4]
    assert sample_logits(LOGITS, temperature=0.0, repetition_penalty=9.0, tokens=TOKENS).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.01, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.96, 4), (1.0, 4)]
)
def test_top_p_keeps_the_token_that_reaches_p_and_none_beyond(top_p: float, kept: int) -> None:
    scores = Sampling(top_p=top_p).scores(torch.tensor([0.05, 0.25, 0.5, 0.2]).log(), None)
    likeliest = [2, 1, 3, 0][:kept]
    assert scores.isfinite().nonzero().flatten().tolist() == sorted(likeliest)


def test_top_p_of_equally_likely_tokens_keeps_no_more_than_needed() -> None:
    """Four of eight have exactly one half."""
    scores = Sampling(top_p=0.5).scores(torch.zeros(8, dtype=torch.float64), None)
    assert scores.isfinite().tolist() == [True] * 4 + [False] * 4


def test_top_k_keeps_what_equals_the_smallest() -> None:
    scores = Sampling(top_k=2).scores(torch.tensor([3.0, 1.0, 0.0, 1.0]), None)
    assert scores.isfinite().tolist() == [True, True, False, True]


def test_what_a_hook_forbids_is_never_drawn() -> None:
    logits = LOGITS.masked_fill(torch.arange(6) == 3, -torch.inf)
    drawn = torch.stack([sample_logits(logits, top_p=0.9, temperature=5.0) for _ in range(200)])
    assert not (drawn == 3).any()


def test_one_row_without_batch_axis() -> None:
    drawn = sample_logits(LOGITS[0], top_k=1, freq_penalty=0.1, tokens=TOKENS[0])
    assert drawn.shape == ()
    assert int(drawn) == 3
    assert sample_logits(LOGITS[None].repeat(3, 1, 1), top_k=1).tolist() == [[3, 4]] * 3


def test_padding_and_tokens_that_cannot_be_written_are_not_counted() -> None:
    real = torch.tensor([[False, True, True, True], [True, True, True, True]])
    assert token_counts(TOKENS, 5, real).tolist() == [[1, 1, 0, 1, 0], [0, 0, 0, 0, 3]]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (dict(top_k=0), "top_k must be at least 1, got 0"),
        (dict(top_p=0.0), "top_p must be above 0 and at most 1, got 0.0"),
        (dict(top_p=1.1), "top_p must be above 0 and at most 1, got 1.1"),
        (dict(temperature=-1.0), "temperature must be finite and at least 0, got -1.0"),
        (dict(temperature=math.nan), "temperature must be finite and at least 0, got nan"),
        (dict(freq_penalty=math.inf, tokens=TOKENS), "freq_penalty must be finite, got inf"),
        (dict(repetition_penalty=0.0, tokens=TOKENS), "repetition_penalty must be finite and above 0, got 0.0"),
        (dict(freq_penalty=0.5), r"count the tokens so far: pass tokens="),
        (dict(repetition_penalty=2.0), r"count the tokens so far: pass tokens="),
        (dict(freq_penalty=0.5, temperature=0.0, tokens=TOKENS), "greedy decoding .* would ignore it"),
    ],
    ids=str,
)
def test_what_makes_no_rule_is_refused(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        sample_logits(LOGITS, **rule)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("number", "told"), [(torch.nan, "are nan"), (torch.inf, "are inf at most"), (-torch.inf, "are -inf at most")]
)
def test_no_token_is_drawn_from_what_is_no_number(number: float, told: str, temperature: float) -> None:
    logits = torch.zeros(3, 5)
    logits[1, 2:] = number
    if number == -torch.inf:
        assert int(sample_logits(logits, temperature=temperature)[1]) < 2, "masked tokens are never drawn"
        logits[1] = number
    with pytest.raises(BadInput, match=rf"logits must be finite to draw a token from; those of row 1 {told}"):
        sample_logits(logits, temperature=temperature)


@pytest.mark.parametrize("do_sample", [False, True])
def test_generation_stops_at_nan(do_sample: bool) -> None:
    model = build(d_vocab_out=23)
    with torch.no_grad():
        model.unembed.b_U[4] = torch.nan
    with pytest.raises(BadInput, match="those of row 0 are nan"):
        model.generate(torch.tensor([[1, 2]]), 2, do_sample=do_sample, verbose=False)
