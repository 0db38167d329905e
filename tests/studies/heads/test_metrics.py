"""Attention metrics, by loops over queries and keys, on heads whose attention is known, and added over batches."""

import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Run, head_scores
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.handmade import induction
from interp_hooks.studies.heads import metrics
from interp_hooks.studies.heads.criteria import norm_factor, written_norms
from interp_hooks.studies.heads.metrics import (
    METRICS,
    SHARES,
    SPREAD,
    TARGETS,
    HeadMetrics,
    attention_metrics,
    head_metrics,
    sink_mask,
)
from tests.tiny import assert_close, build, unchecked_types

TOKENS = torch.tensor([[7, 3, 3, 5, 3, 5, 0], [0, 0, 4, 9, 4, 9, 4]])
REAL = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]]).bool()


def some_attention(visible: Tensor, heads: int = 3) -> Tensor:
    """Random rows that sum to one over the keys that are seen."""
    drawn = torch.rand(len(visible), heads, *visible.shape[1:], generator=torch.Generator().manual_seed(0)).double()
    kept = drawn * visible[:, None]
    return kept / kept.sum(-1, keepdim=True).clamp(min=1e-12)


def seen(real: Tensor, window: int = 99) -> Tensor:
    behind = torch.arange(real.shape[1])[:, None] - torch.arange(real.shape[1])
    return real[:, :, None] & real[:, None] & (behind >= 0) & (behind < window)


def by_loops(pattern: Tensor, visible: Tensor, norms: Tensor, sinks: Tensor) -> dict[str, Tensor]:
    """Every metric of every head, and of uniform attention as a last head."""
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for head in range(pattern.shape[1]):
        attention, size = pattern[:, head], norms[:, :, head]
        sums = {name: [0.0, 0.0] for name in METRICS}
        for b in range(len(pattern)):
            for q in range(pattern.shape[2]):
                keys = [k for k in range(pattern.shape[3]) if visible[b, q, k]]
                if not keys:
                    continue
                kinds = {
                    "previous_token": [k for k in keys if k == q - 1],
                    "duplicate_token": [k for k in keys if k < q and TOKENS[b, k] == TOKENS[b, q]],
                    "induction": [k for k in keys if k > 0 and REAL[b, k - 1] and TOKENS[b, k - 1] == TOKENS[b, q]],
                    "current_token": [q],
                    "sink": [k for k in keys if sinks[b, k] and k != q],
                }
                kinds["induction"] = [k for k in kinds["induction"] if k <= q]
                for name, wanted in kinds.items():
                    if wanted and len(keys) > 1:
                        sums[name][0] += sum(float(attention[b, q, k]) for k in wanted)
                        sums[name][1] += 1
                        sums[f"{name}_share"][0] += sum(float(attention[b, q, k] * size[b, k]) for k in wanted)
                for name in TARGETS:
                    sums[f"{name}_share"][1] += sum(float(attention[b, q, k] * size[b, k]) for k in keys)
                rest = {k: float(attention[b, q, k]) for k in keys if not sinks[b, k]}
                paid = sum(rest.values())
                if paid:
                    shares = [value / paid for value in rest.values() if value]
                    sums["entropy"][0] -= paid * sum(share * math.log(share) for share in shares)
                    sums["distance"][0] += sum(value * (q - k) for k, value in rest.items())
                for name in SPREAD:
                    sums[name][1] += paid
        for name, (total, weight) in sums.items():
            found[name].append(total / weight if weight else float("nan"))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


@pytest.mark.parametrize("window", [99, 3])
@pytest.mark.parametrize("sink", ["first", "bos", "none"])
def test_every_metric_by_loops(window: int, sink: Any) -> None:
    visible = seen(REAL, window)
    pattern, sinks = some_attention(visible), sink_mask(TOKENS, REAL, sink, bos=7)
    norms = torch.rand(2, 7, 3, generator=torch.Generator().manual_seed(1)).double()
    found = attention_metrics(pattern, TOKENS, REAL, value_norms=norms, sink=sink, bos=7, window=window)
    uniform = visible.double() / visible.sum(-1, keepdim=True).clamp(min=1)
    ours, theirs = by_loops(pattern, visible, norms, sinks), by_loops(uniform[:, None], visible, norms, sinks)
    same = by_loops(uniform[:, None].expand(-1, 3, -1, -1), visible, norms, sinks)
    for name in METRICS:
        torch.testing.assert_close(found.mean(name), ours[name], rtol=1e-10, atol=1e-12, equal_nan=True)
        expected = same[name] if name in SHARES else theirs[name].expand(3)
        torch.testing.assert_close(found.uniform(name), expected, rtol=1e-10, atol=1e-12, equal_nan=True)


def test_documents_in_one_row_have_sinks_of_their_own() -> None:
    """What `visible` leaves out is nobody's target, and two documents in a row are as two rows."""
    tokens = torch.tensor([[1, 2, 1, 2], [1, 3, 1, 3]])
    pattern = some_attention(seen(torch.ones(2, 4).bool()))
    apart = attention_metrics(pattern, tokens)
    packed = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    packed[0, :, :4, :4], packed[0, :, 4:, 4:] = pattern
    visible = torch.block_diag(torch.ones(4, 4), torch.ones(4, 4)).bool()[None]
    starts = torch.tensor([[True, False, False, False] * 2])
    together = attention_metrics(packed, tokens.reshape(1, 8), sink=starts, visible=visible)
    for name in (*TARGETS, *SPREAD):
        assert_close(together.mean(name), apart.mean(name), 1e-12)
        assert_close(together.uniform(name), apart.uniform(name), 1e-12)


def test_known_heads_have_one_and_uniform_ones_nothing() -> None:
    model = induction(30, 20).model
    words = 1 + torch.stack([torch.randperm(29, generator=torch.Generator().manual_seed(row))[:8] for row in range(4)])
    tokens = torch.cat((torch.zeros(4, 1, dtype=torch.long), words, words), dim=1)
    found = head_metrics(model, tokens)
    assert found.corrected("previous_token")[0, 0] == pytest.approx(1, abs=1e-6)
    assert found.corrected("induction")[1, 0] == pytest.approx(1, abs=1e-6)
    assert found.mean("distance")[1, 0] == pytest.approx(7, abs=1e-4), "what it pays to BOS has no weight"
    assert found.mean("entropy")[1, 0] == pytest.approx(0, abs=1e-4)
    for name in (*TARGETS, *SPREAD):
        assert float(found.above_uniform(name)[:, 1].abs().max()) < 1e-9
    looks = sum(1 / (query + 1) for query in range(9, 17)) / 8
    assert_close(found.uniform("induction"), torch.full((2, 2), looks, dtype=torch.float64), 1e-12)
    rest = [query / (query + 1) for query in range(1, 17)]
    entropy = sum(paid * math.log(query) for query, paid in enumerate(rest, start=1)) / sum(rest)
    assert_close(found.uniform("entropy"), torch.full((2, 2), entropy, dtype=torch.float64), 1e-12)


def test_a_random_model_is_near_uniform() -> None:
    found = head_metrics(build(std=0.1, n_ctx=21), n=64, generator=torch.Generator().manual_seed(0))
    for name in ("previous_token", "duplicate_token", "induction"):
        assert float(found.above_uniform(name).abs().max()) < 0.05


def test_the_scores_are_those_of_head_scores() -> None:
    model = HookedTransformer.from_pretrained("induction-2l", device="cpu")
    found = head_metrics(model, n=5, generator=torch.Generator().manual_seed(3))
    for name in ("previous_token", "duplicate_token", "induction"):
        kind: Any = f"{name}_head"
        scores = head_scores(model, kind, n=5, generator=torch.Generator().manual_seed(3))
        assert_close(found.mean(name), scores.mean.double(), 1e-5)
        assert_close(found.above_uniform(name), scores.change.double(), 1e-4)


@pytest.mark.parametrize("fields", [{}, dict(n_key_value_heads=2), dict(window_sizes=(3, None, 2))], ids=str)
def test_batches_add_up(fields: dict[str, Any]) -> None:
    """Prompts of several lengths, one by one or together."""
    model = build(**fields)
    run = Run(TOKENS, (), REAL.long())
    whole, parts = head_metrics(model, run), head_metrics(model, run, batch_size=1)
    for name, value in vars(whole).items():
        assert_close(getattr(parts, name), value, 1e-10)
    assert whole.totals.shape == (3, 4, len(METRICS))


def test_a_model_is_read_as_its_cache_says() -> None:
    model = build(n_key_value_heads=2, window_sizes=(3, None, 2))
    tokens = TOKENS[:, 2:6]
    _, cache = model.run_with_cache(tokens)
    found = head_metrics(model, tokens)
    for layer in range(3):
        norms = written_norms(cache["v", layer], norm_factor(model.blocks[layer].attn.W_O))
        window = model.cfg.window_at(layer)
        one = attention_metrics(cache["pattern", layer], tokens, value_norms=norms, window=window)
        assert_close(found.totals[layer], one.totals, 1e-12)
        assert_close(found.uniform_totals[layer], one.uniform_totals, 1e-12)


def test_one_pattern_at_a_time_is_held() -> None:
    """The pattern of a layer is gone when the next one is made."""
    alive: list[Any] = []
    model = build()

    def look(pattern: Tensor, hook: Any) -> None:
        assert not [ref for ref in alive if ref() is not None]
        alive.append(weakref.ref(pattern))

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", look) for layer in range(3)]):
        head_metrics(model, TOKENS[:, :5])
    assert len(alive) == 3


def test_the_table_has_a_row_for_each_head() -> None:
    found = head_metrics(build(), TOKENS[:, :6])
    table = found.table()
    assert table.columns.tolist() == ["layer", "head", *METRICS]
    assert len(table) == 12
    assert table["previous_token"].tolist() == pytest.approx(found.above_uniform("previous_token").flatten().tolist())
    assert table["entropy"].tolist() == pytest.approx(found.mean("entropy").flatten().tolist())
    assert isinstance(found + found, HeadMetrics)
    assert_close((found + found).mean("sink"), found.mean("sink"), 1e-12)


def test_what_is_refused() -> None:
    model, pattern = build(), some_attention(seen(REAL))
    wrong: Any = "last"
    with unchecked_types():
        for call, message in (
            (lambda: attention_metrics(pattern[:, :, :5], TOKENS, REAL), "expected a pattern"),
            (lambda: attention_metrics(pattern, TOKENS, REAL, sink=wrong), "'first', 'bos' or 'none' .*got 'last'"),
            (lambda: attention_metrics(pattern, TOKENS, REAL, sink="bos"), "needs the id of BOS"),
            (lambda: head_metrics(model, TOKENS, sink="bos"), "needs the id of BOS"),
            (lambda: head_metrics(model, n=0), "at least 1, got 0"),
            (lambda: attention_metrics(pattern, TOKENS, REAL).mean("inductoin"), "Did you mean induction"),
        ):
            with pytest.raises(BadInput, match=message):
                call()
    assert metrics.bos_of(model) is None
