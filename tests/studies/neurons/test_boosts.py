"""What a neuron adds to logits on its top contexts is its direct logit attribution there."""

from typing import Any

import pytest
import torch

from interp_hooks import direct_logit_attribution
from interp_hooks.errors import BadInput
from interp_hooks.studies import logit_boost
from interp_hooks.studies.neurons import contexts
from interp_hooks.studies.neurons.contexts import Found, top_contexts
from tests.studies.neurons.planted import scanned
from tests.studies.neurons.test_causes import texts
from tests.tiny import CUSTOM, build, hooked

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no-norm": dict(normalization_type=None),
    "gated": dict(gated_mlp=True, act_fn="silu", normalization_type="RMS"),
    "output-norms": CUSTOM["output-norms"],
}
UNITS = [(1, 3), (2, 7), (1, 12)]
WORDS = 7


@pytest.mark.parametrize("side", ["largest", "smallest"])
@pytest.mark.parametrize("kind", KINDS)
def test_boosts_are_direct_logit_attribution(kind: str, side: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(**KINDS[kind] | dict(d_vocab=WORDS, d_vocab_out=WORDS))
    scan = scanned(model, texts(5, WORDS), k=3)
    monkeypatch.setattr(contexts.split_by_size, "__defaults__", (30,))
    boost = logit_boost(model, scan, UNITS, k=WORDS, n_contexts=3, side=side)
    for place, (layer, neuron) in enumerate(UNITS):
        examples = top_contexts(model, Found(scan), layer, neuron, k=3, side=side).followed()
        assert len(examples) == len(boost.next_boost[place])
        if not len(examples):
            assert bool(boost.top_boosts[place].isnan().all())
            continue
        mean = dict(zip(boost.top[place].tolist(), boost.top_boosts[place].tolist(), strict=True))
        total = torch.zeros(WORDS).double()
        for number, (row, at) in enumerate(zip(examples.rows, examples.at.tolist(), strict=True)):
            options: dict[str, Any] = dict(unit="neuron", pos=at)
            parts = direct_logit_attribution(model, row[None].expand(WORDS, -1), range(WORDS), **options)
            effects = parts.values[parts.labels.index(f"L{layer}N{neuron}")]
            effects = effects - effects.mean()
            total += effects
            assert float(boost.next_boost[place][number]) == pytest.approx(float(effects[row[at + 1]]))
        assert [mean[token] for token in range(WORDS)] == pytest.approx((total / len(examples)).tolist())
        assert boost.bottom[place].tolist() == boost.top[place].flip(0).tolist()


def test_the_table_has_a_row_for_each_unit() -> None:
    model = build(d_vocab_out=23)
    boost = logit_boost(model, scanned(model, texts()), UNITS, k=2)
    table = boost.table()
    assert list(zip(table["layer"], table["neuron"], strict=True)) == UNITS
    assert table["next_boost"].tolist() == pytest.approx([float(one.mean()) for one in boost.next_boost])
    assert table["boosted"].map(len).tolist() == [2, 2, 2]


def test_models_without_such_boosts_are_told() -> None:
    model = build()
    with pytest.raises(BadInput, match="got none"):
        logit_boost(model, scanned(model, texts()), [])
    with pytest.raises(BadInput, match="normalizes its stream"):
        logit_boost(hooked("post-norm"), scanned(model, texts()), UNITS)
