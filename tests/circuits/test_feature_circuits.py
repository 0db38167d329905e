"""Feature circuits beside what they stand for: patched features, sums over all edges, the metric's difference."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, LogitDiff, Run, at, evaluate
from interp_hooks.circuits import FeatureCircuit, feature_circuit, feature_faithfulness
from interp_hooks.dictionaries import SAE
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.grammar import MOVED, NUMBER, PLURAL, SINGULAR, SUBJECT_AT, number_agreement
from tests.dictionaries.random_ones import F, sae, transcoder
from tests.tiny import assert_close, build, random_tokens

CLEAN, CORRUPT = random_tokens(d_vocab=23), random_tokens(d_vocab=23, seed=1)
DIFF = LogitDiff([4, 11], [7, 2])
SAES: dict[str, Any] = {
    "mlp0": sae("relu", hook="mlp_out0", seed=1),
    "attn1": sae("jumprelu", hook="attn_out1", seed=2),
    "stream1": sae("relu", hook="resid_post1", seed=3),
    "mlp2": sae("topk", hook="mlp_out2", seed=4),
}
HOOKS = [one.hook for one in SAES.values()]


@pytest.fixture
def model() -> HookedTransformer:
    return build()


def found(model: HookedTransformer, saes: Any = SAES, **how: Any) -> FeatureCircuit:
    options = dict(steps=None, node_threshold=0.0, edge_threshold=0.0, progress=False) | how
    return feature_circuit(model, CLEAN, CORRUPT, DIFF, saes, **options)


@pytest.mark.parametrize("by_position", [False, True])
def test_a_nodes_effect_is_the_sum_of_the_edges_out_of_it(model: HookedTransformer, by_position: bool) -> None:
    """By the chain rule, as all nodes are there: paths are told apart by the next hook that they pass."""
    circuit = found(model, by_position=by_position)
    out = torch.zeros(len(circuit), dtype=torch.float64).index_add_(0, circuit.source, circuit.weight)
    assert_close(out, circuit.effect, 1e-9)
    assert float(circuit.effect.abs().max()) > 1e-2
    assert {int(site) for site in circuit.site} == {0, 1, 2, 3}
    between = circuit.weight[circuit.target < len(circuit)]
    assert float(between.abs().max()) > 1e-3
    sites = [*circuit.site.tolist(), len(SAES)]
    assert all(
        sites[a] < sites[b]
        for a, b in zip(circuit.source.tolist(), circuit.target.tolist(), strict=True)
        if b < len(sites)
    )


def test_positions_sum_to_nodes_without_positions(model: HookedTransformer) -> None:
    summed, apart = found(model), found(model, by_position=True)
    for site in range(4):
        for feature in (-1, 0, 5):
            of = [(one.site == site) & (one.feature == feature) for one in (summed, apart)]
            sums = (float(one.effect[which].sum()) for one, which in zip((summed, apart), of, strict=True))
            assert next(sums) == pytest.approx(next(sums), abs=1e-10)


def test_effects_of_a_hook_sum_to_the_metrics_difference(model: HookedTransformer) -> None:
    """Along the line from the clean to the corrupt activation, with steps enough; with one gradient they do not."""
    many, one = found(model, steps=30, edge_threshold=1e9), found(model)
    for place, hook in enumerate(HOOKS):
        runs = [Run(CLEAN), Run(CLEAN, [Intervention(at(hook), Run(CORRUPT))])]
        before, after = evaluate(model, runs, DIFF)
        assert float(many.changes[place]) == pytest.approx(float((after - before).mean()), abs=1e-9)
        assert float(many.effect[many.site == place].sum()) == pytest.approx(float(many.explained[place]), abs=1e-9)
    assert_close(many.explained, many.changes, 2e-3)
    assert float((one.explained - one.changes).abs().max()) > 1e-2


@torch.no_grad()
def test_where_the_rest_is_linear_effects_are_those_of_patching_a_feature(model: HookedTransformer) -> None:
    """The final norm held still, the logits are linear in what the last MLP writes: one gradient tells all."""
    scale = model.run_with_cache(CLEAN)[1]["ln_final.hook_scale"]
    model.add_hook("ln_final.hook_scale", lambda value, hook: scale.repeat(len(value) // 2, 1, 1)[:, -value.shape[1] :])
    one = SAES["mlp2"]
    circuit = found(model, {"mlp2": one}, steps=1)
    before = mean_diff(model(CLEAN))
    here, there = (model.run_with_cache(tokens)[1]["mlp_out", 2] for tokens in (CLEAN, CORRUPT))
    f, f_there = one.encode(here), one.encode(there)
    assert int((circuit.feature >= 0).sum()) > 3
    for feature, effect in zip(circuit.feature.tolist(), circuit.effect.tolist(), strict=True):
        if feature < 0:
            change = (there - one(there)) - (here - one(here))
        else:
            change = (f_there - f)[..., feature, None] * one.W_dec[feature]
        after = mean_diff(
            model.run_with_hooks(CLEAN, fwd_hooks=[("mlp_out2", lambda value, hook, c=change: value + c)])
        )
        assert effect == pytest.approx(float(after - before), abs=1e-9)


def mean_diff(logits: Tensor) -> Tensor:
    rows = torch.arange(2)
    return (logits[rows, -1, torch.tensor([4, 11])] - logits[rows, -1, torch.tensor([7, 2])]).mean()


def test_direct_edges_are_gradients_past_frozen_hooks(model: HookedTransformer) -> None:
    """From one feature to another by finite differences, with the activations of the hooks in between put back."""
    circuit = found(model)
    cache = model.run_with_cache(CLEAN)[1]
    mlp, stream = SAES["mlp0"], SAES["stream1"]
    gradient: list[Tensor] = []

    def leaf(value: Tensor, hook: Any) -> Tensor:
        gradient.append(value.detach().requires_grad_())
        return gradient[-1]

    logits = model.run_with_hooks(CLEAN, fwd_hooks=[("resid_post1", leaf)])
    (g,) = torch.autograd.grad(2 * mean_diff(logits), gradient[0])
    f, f_there = (mlp.encode(model.run_with_cache(tokens)[1]["mlp_out", 0]) for tokens in (CLEAN, CORRUPT))
    seen = 0
    for source, target, weight in zip(
        *(x.tolist() for x in (circuit.source, circuit.target, circuit.weight)), strict=True
    ):
        if target == len(circuit) or (int(circuit.site[source]), int(circuit.site[target])) != (0, 2):
            continue
        i, j = int(circuit.feature[source]), int(circuit.feature[target])
        if i < 0 or j < 0 or seen > 12:
            continue
        eps, change = 1e-6, ((f_there - f)[..., i, None] * mlp.W_dec[i]).detach()
        ends = []
        for sign in (1, -1):
            hooks: Any = [
                ("mlp_out0", lambda value, hook, s=sign: value + s * eps * change),
                ("attn_out1", lambda value, hook: cache["attn_out", 1]),
            ]
            noted: list[Tensor] = []
            model.run_with_hooks(
                CLEAN, fwd_hooks=[*hooks, ("resid_post1", lambda value, hook: noted.append(value.detach()))]
            )
            ends.append((stream.encode(noted[0])[..., j] * (g @ stream.W_dec[j])).sum())
        assert weight == pytest.approx(float((ends[0] - ends[1]) / (2 * eps) / 2), abs=1e-6)
        seen += 1
    assert seen > 5


@torch.no_grad()
def test_faithfulness_is_that_of_hooks_by_hand(model: HookedTransformer) -> None:
    everything, nothing = found(model, edge_threshold=1e9), found(model, node_threshold=1e9)
    whole = feature_faithfulness(model, everything, SAES, CLEAN, DIFF, means=CORRUPT, ablate_errors=False)
    assert len(nothing) == 0
    none = feature_faithfulness(model, nothing, SAES, CLEAN, DIFF, means=CORRUPT)
    assert none.faithfulness == 0
    assert none.full == pytest.approx(float(mean_diff(model(CLEAN))), abs=1e-9)
    saes = {"mlp2": SAES["mlp2"]}
    one = saes["mlp2"]
    for by_position in (False, True):
        circuit = found(model, saes, by_position=by_position, node_threshold=0.05)
        assert 1 < len(circuit) < 7 * (F + 1)
        got = feature_faithfulness(model, circuit, saes, CLEAN, DIFF, means=CORRUPT)
        here, there = (model.run_with_cache(tokens)[1]["mlp_out", 2] for tokens in (CLEAN, CORRUPT))
        (f, e), (g, d) = ((one.encode(y), y - one(y)) for y in (here, there))
        mean_f, mean_e = (x.mean(0) if by_position else x.mean((0, 1)) for x in (g, d))
        new_f, new_e = (m.expand_as(x).clone() for m, x in ((mean_f, f), (mean_e, e)))
        for pos, feature in zip(circuit.pos.tolist(), circuit.feature.tolist(), strict=True):
            where = slice(None) if pos < 0 else pos
            if feature < 0:
                new_e[:, where] = e[:, where]
            else:
                new_f[:, where, feature] = f[:, where, feature]
        y = one.decode(new_f) + new_e
        expected = mean_diff(model.run_with_hooks(CLEAN, fwd_hooks=[("mlp_out2", lambda value, hook: y)]))
        assert got.circuit == pytest.approx(float(expected), abs=1e-9)
        assert got.faithfulness == pytest.approx((got.circuit - got.empty) / (got.full - got.empty))
    assert whole.circuit != whole.empty


def test_thresholds_choose_and_circuits_are_kept(model: HookedTransformer, tmp_path: Path) -> None:
    everything, some = found(model), found(model, node_threshold=0.02, edge_threshold=0.005)
    assert 0 < len(some) < len(everything)
    assert len(some) == int((everything.effect.abs() >= 0.02).sum())
    assert float(some.weight.abs().min()) >= 0.005
    some.save(tmp_path / "circuit")
    again = FeatureCircuit.load(tmp_path / "circuit")
    for name, value in vars(replace(some, record=None)).items():
        same = getattr(replace(again, record=None), name)
        assert torch.equal(same, value) if isinstance(value, Tensor) else same == value
    assert again.table().equals(some.table())
    assert again.edges().equals(some.edges())
    assert set(some.edges()["target"]) <= {some.name(node) for node in range(len(some) + 1)}


@pytest.mark.parametrize("by_position", [False, True])
def test_a_circuit_on_disk_is_found_again(model: HookedTransformer, by_position: bool, tmp_path: Path) -> None:
    """Its record holds the dictionaries, of all kinds, which come back as they were; another model is refused."""
    circuit = found(model, node_threshold=0.02, by_position=by_position)
    circuit.save(tmp_path / "circuit")
    again = FeatureCircuit.load(tmp_path / "circuit").rerun(model)
    for name in ("site", "pos", "feature", "source", "target"):
        assert torch.equal(getattr(again, name), getattr(circuit, name))
    assert_close(again.effect, circuit.effect, 1e-12)
    assert_close(again.weight, circuit.weight, 1e-12)
    assert again.record is not None
    held = again.record.calls[0].arguments["dictionaries"]
    for name, one in SAES.items():
        assert type(held[name].activation) is type(one.activation)
        assert all(torch.equal(value, held[name].tensors()[key]) for key, value in one.tensors().items())
    other = build(seed=5)
    with pytest.raises(BadInput, match="model"):
        again.rerun(other)
    assert again.rerun(other, any_model=True).clean != pytest.approx(circuit.clean)
    with pytest.raises(BadInput, match="no record"):
        replace(circuit, record=None).rerun(model)


def test_bad_input_is_refused_and_leaves_nothing(model: HookedTransformer) -> None:
    points = list(model.hook_dict)
    one: SAE = SAES["mlp0"]
    cases: list[tuple[Any, str]] = [
        ({}, "different hooks"),
        ({"a": one, "b": one}, "different hooks"),
        ({"a": transcoder()}, "must be an SAE"),
        ({"a": replace(one, normalization="layer_norm")}, "does not normalize"),
        ({"a": sae(hook="mlp_out0", d=5)}, "width"),
    ]
    for saes, words in cases:
        with pytest.raises(BadInput, match=words):
            found(model, saes)
    for how, words in ((dict(steps=0), "steps must be"), (dict(node_threshold=-1.0), "node_threshold must be")):
        with pytest.raises(BadInput, match=words):
            found(model, **how)
    circuit = found(model, {"a": one})
    with pytest.raises(BadInput, match="this circuit is one of"):
        feature_faithfulness(model, circuit, SAES, CLEAN, DIFF, means=CORRUPT)
    short = found(model, {"a": one}, by_position=True)
    with pytest.raises(BadInput, match="these prompts have 3 tokens"):
        feature_faithfulness(model, short, {"a": one}, CLEAN[:, :3], DIFF, means=CORRUPT[:, :3])
    assert list(model.hook_dict) == points


# ---------------------------------------------------------------------------------------------- features that are known


def dictionary(hook: str, rows: Tensor) -> SAE:
    """The features that are directions at right angles, of norm 1."""
    d, n = rows.shape[1], len(rows)
    zeros = (torch.zeros(size, dtype=torch.float64) for size in (n, d))
    return SAE(hook=hook, W_enc=rows.T, b_enc=next(zeros), W_dec=rows, b_dec=next(zeros))


def known_features(d: int) -> dict[str, SAE]:
    """Each dimension and its opposite, at every hook: feature i says dimension i, feature d + i that it is negative."""
    both = torch.cat((torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)))
    return {
        "embed": dictionary("resid_pre0", both),
        "attn": dictionary("attn_out0", both),
        "mlp": dictionary("mlp_out0", both),
    }


@pytest.mark.parametrize("steps", [10, None])
def test_the_features_of_agreement_are_found_and_no_others(steps: int | None) -> None:
    """The number of the subject where it stands, where it was moved to, and what an MLP makes of it; exact effects."""
    known = number_agreement()
    model, task, d = known.model, known.task, known.model.cfg.d_model
    saes, last = known_features(d), 5
    singular = task.answer[:, -1] == len(known.vocabulary) - 2
    circuit = feature_circuit(
        model,
        task.clean,
        task.corrupt,
        task.metric,
        saes,
        steps=steps,
        by_position=True,
        node_threshold=1e-6,
        edge_threshold=1e-6,
        progress=False,
    )
    planted = {
        *(("embed", SUBJECT_AT, feature) for feature in (NUMBER, d + NUMBER)),
        *(("attn", last, feature) for feature in (d + MOVED, 2 * d + MOVED)),
        *(("mlp", last, feature) for feature in (d + SINGULAR, d + PLURAL)),
    }
    listed = zip(circuit.site.tolist(), circuit.pos.tolist(), circuit.feature.tolist(), strict=True)
    assert {(circuit.names[site], pos, feature) for site, pos, feature in listed} == planted
    assert circuit.clean == pytest.approx(2.0)
    assert circuit.corrupt == pytest.approx(-2.0)
    assert circuit.changes.tolist() == pytest.approx([-4.0] * 3)
    if steps:
        assert circuit.effect.tolist() == pytest.approx([-2.0] * 6)
        assert circuit.explained.tolist() == pytest.approx([-4.0] * 3)
    steps_taken = {
        (circuit.names[int(circuit.site[a])], b) for a, b in zip(circuit.source, circuit.target.tolist(), strict=True)
    }
    sites = [*(circuit.names[site] for site in circuit.site.tolist()), "metric"]
    assert {(a, sites[b]) for a, b in steps_taken} == {("embed", "attn"), ("attn", "mlp"), ("mlp", "metric")}
    assert bool(singular.any() and (~singular).any())


def test_the_circuit_of_agreement_is_faithful_and_that_of_the_nearer_noun_is_not() -> None:
    known = number_agreement()
    task, d = known.task, known.model.cfg.d_model
    saes, how = known_features(d), dict(steps=4, by_position=True, node_threshold=0.1, progress=False)
    circuit = feature_circuit(known.model, task.clean, task.corrupt, task.metric, saes, **how)  # pyright: ignore

    def measured(circuit: FeatureCircuit) -> float:
        return feature_faithfulness(known.model, circuit, saes, task.clean, task.metric, means=task.clean).faithfulness

    assert measured(circuit) == pytest.approx(1.0)
    for site in range(3):
        nearer = torch.where(circuit.site == site, (circuit.pos + 3) % 6, circuit.pos)
        assert abs(measured(replace(circuit, pos=nearer))) < 1e-6
