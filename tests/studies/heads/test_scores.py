"""The parts of a score sum to the score of a plain run, whatever positions and norms the model has."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer, Run
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.handmade import induction
from interp_hooks.ground_truth.heads import pointer_induction
from interp_hooks.studies.heads.scores import score_split
from tests.tiny import CUSTOM, FAMILY_CONFIGS, assert_close, build, hooked, random_tokens, unchecked_types

ROTARY: dict[str, Any] = dict(positional_embedding_type="rotary")
FIELDS: dict[str, dict[str, Any]] = {
    **{
        name: CUSTOM[name]
        for name in CUSTOM
        if name not in ("post-norm", "score-cap-clipped", "borrowed-keys", "indexed")
    },
    "cap": dict(attn_scores_soft_cap=2.0, qkv_clip=1000.0),
    "cap and alibi": dict(
        attn_scores_soft_cap=2.0, positional_embedding_type="alibi", alibi_slopes=(0.5, 0.25, 0.125, 0.0625)
    ),
    "rotary": ROTARY,
    "adjacent": ROTARY | dict(rotary_adjacent_pairs=True),
    "partial": ROTARY | dict(rotary_dim=2, n_key_value_heads=2),
    "yarn": ROTARY
    | dict(rotary_scaling=dict(rope_type="yarn", rope_theta=100.0, factor=4.0, max_position_embeddings=4)),
    "dynamic": ROTARY
    | dict(rotary_scaling=dict(rope_type="dynamic", rope_theta=100.0, factor=4.0, max_position_embeddings=4)),
    "head norms": ROTARY | dict(qk_norm="per_head", qk_norm_type="LN", qkv_clip=1000.0),
    "shared head norm": ROTARY | dict(qk_norm="shared", qk_norm_type="RMS", n_key_value_heads=2),
    "norm over all heads": ROTARY | dict(qk_norm="all_heads", qk_norm_type="LN", n_key_value_heads=2),
    "norm after": ROTARY | dict(qk_norm="per_head", qk_norm_type="LN", qk_norm_after_rotary=True),
    "latent, plain queries": ROTARY | dict(rotary_dim=2, kv_latent=5, d_value=3, normalization_type="RMS"),
}


def scores_of(model: HookedTransformer, run: Run, layer: int) -> torch.Tensor:
    _, cache = model.run_with_cache(run.tokens, attention_mask=run.attention_mask)
    return cache["attn_scores", layer].detach()


@pytest.mark.parametrize("unit", ["whole", "component", "head", "neuron"])
@pytest.mark.parametrize("name", FIELDS)
def test_terms_sum_to_the_score_of_the_run(name: str, unit: Any) -> None:
    model, tokens = build(**FIELDS[name]), random_tokens(2, d_vocab=23)
    if unit == "neuron" and model.cfg.experts is not None:
        unit = "head"
    found = score_split(model, tokens, 2, 3, 5, 4, query_unit=unit, key_unit="head", against="nothing")
    scores = scores_of(model, Run(tokens), 2)[:, 3, 5, 4]
    assert_close(found.baselines["score"], scores, 1e-10)
    whole = found.values.sum((0, 1)).detach()
    assert_close(whole, found.baselines[found.parts_of or ""], 1e-10)
    if cap := model.cfg.attn_scores_soft_cap:
        whole = cap * torch.tanh(whole / cap)
    assert_close(whole + found.baselines.get("alibi", 0.0), scores, 1e-10)


@pytest.mark.parametrize("name", ["folded", "latent", "shared-norm", "output-norms"])
def test_half_precision(name: str) -> None:
    """Parts are read in float32, up to the rounding of what the run itself wrote."""
    model, tokens = build(**FIELDS[name] | dict(dtype=torch.float16)), random_tokens(2, d_vocab=23)
    found = score_split(model, tokens, 2, 3, 5, 4, key_unit="neuron")
    assert found.values.dtype == torch.float32
    assert_close(found.values.sum((0, 1)), found.baselines["score"], 0.02)


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_families_too(name: str) -> None:
    model, tokens = hooked(name), random_tokens()
    found = score_split(model, tokens, 2, 1, -1, 3, query_unit="neuron", against="nothing")
    assert_close(found.values.sum((0, 1)).detach(), scores_of(model, Run(tokens), 2)[:, 1, -1, 3], 1e-10)


@pytest.mark.parametrize("name", ["rotary", "folded", "alibi-windows", "bidirectional", "sinks-capped"])
def test_terms_are_centred_over_the_keys_that_are_seen(name: str) -> None:
    model, real = build(**FIELDS[name]), torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]])
    run = Run(random_tokens(2, d_vocab=23), (), real)
    query, key = torch.tensor([6, 4]), torch.tensor([5, 3])
    found = score_split(model, run, 2, 3, query, key)
    every = scores_of(model, run, 2)[:, 3]
    for prompt in range(2):
        row = every[prompt, query[prompt]]
        expected = row[key[prompt]] - row[row.isfinite()].mean()
        assert_close(found.baselines["score"][prompt], expected, 1e-10)
    whole = found.baselines["score"] - found.baselines.get("alibi", 0.0)
    assert_close(found.values.sum((0, 1)).detach(), whole, 1e-10)
    one = score_split(model, run, 2, 3, query, key, against=query)
    other = score_split(model, run, 2, 3, query, query, against="nothing")
    alone = score_split(model, run, 2, 3, query, key, against="nothing")
    assert_close(one.values, alone.values - other.values, 1e-10)


@pytest.mark.parametrize(
    "name", ["rotary", "partial", "adjacent-pairs", "yarn", "dynamic", "latent", "norm after", "shared-norm"]
)
def test_frequencies_sum_to_the_terms(name: str) -> None:
    model, tokens = build(**FIELDS[name]), random_tokens(2, d_vocab=23)
    found = score_split(model, tokens, 2, 3, 5, 2, frequencies=True)
    assert_close(found.values.sum(2), score_split(model, tokens, 2, 3, 5, 2).values, 1e-10)
    turned = model.cfg.rotary_dim
    assert found.axes["frequency"] == [*range(turned // 2), *(["plain"] if turned < model.cfg.d_head else [])]


@pytest.mark.parametrize("name", ["rotary", "adjacent", "partial", "yarn", "head norms", "latent"])
def test_each_term_depends_on_the_distance_alone(name: str) -> None:
    """In the first layer a stream is an embedding wherever it stands."""
    model, tokens = build(**FIELDS[name]), random_tokens(2, d_vocab=23)
    before = random_tokens(2, pos=2, d_vocab=23, seed=1)
    options: dict[str, Any] = dict(against="nothing", frequencies=True)
    here = score_split(model, tokens, 0, 1, 5, 2, **options)
    later = score_split(model, torch.cat((before, tokens), dim=1), 0, 1, 7, 4, **options)
    assert_close(here.values, later.values, 1e-10)
    nearer = score_split(model, torch.cat((tokens[:, :3], tokens[:, 5:]), dim=1), 0, 1, 3, 2, **options)
    plain = here.axes["frequency"].index("plain") if "plain" in here.axes["frequency"] else None
    changed = (here.values - nearer.values).abs().amax((0, 1, 3)) > 1e-6
    assert all(bool(one) == (place != plain) for place, one in enumerate(changed)), "and only turned pairs on that"


def test_a_term_is_what_cutting_its_edges_takes_away() -> None:
    """Without norms a head that says nothing takes its terms away, and nothing else."""
    model, tokens = build(normalization_type=None, attn_only=True), random_tokens(2, d_vocab=23)
    found = score_split(model, tokens, 1, 2, 5, 3, against="nothing")
    row = found.axes["query_part"].index("L0H1")
    with torch.no_grad():
        cut = build(normalization_type=None, attn_only=True)
        cut.blocks[0].attn.W_O[1] = 0.0
    left = scores_of(cut, Run(tokens), 1)[:, 2, 5, 3]
    gone = found.values[row].sum(0) + found.values[:, row].sum(0) - found.values[row, row]
    assert_close(found.baselines["score"] - left, gone, 1e-10)


def test_the_induction_head_finds_its_key_by_the_previous_token_head() -> None:
    known = induction()
    copies = known.task.clean[:8]  # <bos> A B C D E A B C D E: at the second A, the key is the first B
    found = score_split(known.model, copies, 1, 0, 6, 2, against=3)
    by_key = dict(zip(found.axes["key_part"], found.values.sum(0), strict=True))
    assert_close(by_key["L0H0"], found.baselines["score"], 1e-12)
    assert all(not bool(part.any()) for name, part in by_key.items() if name != "L0H0")
    by_query = dict(zip(found.axes["query_part"], found.values.sum(1), strict=True))
    assert_close(by_query["embed"], found.baselines["score"], 1e-12)


def test_the_pointing_head_finds_its_key_by_its_query() -> None:
    known = pointer_induction()
    found = score_split(known.model, known.task.clean[:8], 1, 0, 6, 2, against=3)
    by_query = dict(zip(found.axes["query_part"], found.values.sum(1), strict=True))
    assert_close(by_query["L0H0"], found.baselines["score"], 1e-12)
    by_key = dict(zip(found.axes["key_part"], found.values.sum(0), strict=True))
    assert_close(by_key["pos_embed"], found.baselines["score"], 1e-12)


def test_what_is_refused() -> None:
    model, tokens = build(window_sizes=(None, None, 2)), random_tokens(2, d_vocab=23)
    after: dict[str, Any] = dict(qk_norm="all_heads", qk_norm_type="LN", qk_norm_after_rotary=True)
    options: Any = dict(query_unit="layer")
    for call, message in (
        (lambda: score_split(model, tokens, 3, 0, 5, 4), "no head 0 in layer 3"),
        (lambda: score_split(model, tokens, 1, 0, 5, 4, **options), "unit must be"),
        (lambda: score_split(model, tokens, 1, 0, 4, 5), "the key must be one that the query sees"),
        (lambda: score_split(model, tokens, 2, 0, 5, 3), "the key must be one that the query sees"),
        (lambda: score_split(model, tokens, 1, 0, 5, 4, against=6), "the key to compare with"),
        (lambda: score_split(model, tokens, 1, 0, 5, 9), "position 9 is out of range"),
        (lambda: score_split(model, tokens, 1, 0, "end", 4), "no position 'end'"),
        (lambda: score_split(model, tokens, 1, 0, 5, 4, frequencies=True), "rotary positions"),
        (lambda: score_split(build(**CUSTOM["post-norm"]), tokens, 1, 0, 5, 4), "post-norm"),
        (
            lambda: score_split(build(**CUSTOM["score-cap-clipped"]), tokens, 1, 0, 5, 4),
            "clips queries, keys and values",
        ),
        (lambda: score_split(build(**CUSTOM["experts"]), tokens, 2, 0, 5, 4, key_unit="neuron"), "experts"),
        (lambda: score_split(build(**ROTARY, **after), tokens, 1, 0, 5, 4), "centres over all heads"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
