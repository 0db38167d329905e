"""The table of neurons holds what the scan, the effects and the weights say of each."""

import pytest
import torch

from interp_hooks.corpus import Statistics, Units, scan
from interp_hooks.studies import neuron_table, vocabulary_effect
from tests.studies.neurons.planted import scanned
from tests.studies.neurons.test_causes import texts
from tests.tiny import build, hooked


def test_a_row_for_each_neuron() -> None:
    model = build(gated_mlp=True, act_fn="silu")
    documents = texts()
    table = neuron_table(model, scanned(model, documents), k=3)
    with torch.no_grad():
        post = torch.cat([model.run_with_cache(row[None])[1]["post", 2][0] for row in documents])
    layer = table[table["layer"] == 2].reset_index(drop=True)
    assert layer["neuron"].tolist() == list(range(20))
    assert len(table) == 60
    assert layer["mean"].tolist() == pytest.approx(post.mean(0).tolist())
    assert layer["std"].tolist() == pytest.approx(post.std(0, correction=0).tolist())
    assert layer["max"].tolist() == pytest.approx(post.amax(0).tolist(), rel=1e-6)
    assert layer["active"].tolist() == pytest.approx((post > 0).double().mean(0).tolist())
    effect = vocabulary_effect(model, [2], k=3)
    assert layer["kurtosis"].tolist() == pytest.approx(effect.kurtosis.tolist())
    assert layer["label"].tolist() == effect.labels()
    assert layer["raises"].tolist() == [effect.words(place)[0] for place in range(20)]


def test_cosines_are_of_what_is_read_and_written() -> None:
    model = build(gated_mlp=True, act_fn="silu", normalization_type="RMS")
    table = neuron_table(model, layers=[1])
    mlp, gain = model.blocks[1].mlp, model.blocks[1].get_parameter("ln2.w").detach()
    for name, column in (("W_in", "cos_in"), ("W_gate", "cos_gate")):
        read, written = mlp.get_parameter(name)[:, 5].detach() * gain, mlp.get_parameter("W_out")[5].detach()
        expected = float(read @ written / read.norm() / written.norm())
        assert table[column][5] == pytest.approx(expected)
    assert "mean" not in table.columns


def test_neurons_that_were_not_measured_are_nan() -> None:
    model = hooked("experts")
    some = scan(
        model, texts(), {"some": Statistics(Units("neuron", ("post",), layers=(0,), select=(4, 2)))}, progress=False
    )
    table = neuron_table(model, some)
    known = table[table["mean"].notna()]
    assert list(zip(known["layer"], known["part"], known["neuron"], strict=True)) == [(0, "mlp", 2), (0, "mlp", 4)]
    assert known["mean"].tolist() == some["some"][0]["mean"][[1, 0]].tolist()
    assert set(table["part"]) == {"mlp", "experts", "shared"}
