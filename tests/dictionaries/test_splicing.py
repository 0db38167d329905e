"""Dictionaries in a model: the same logits with the error term; their hook points are patched, recorded, attributed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    HookPoint,
    Intervention,
    LogitDiff,
    Result,
    Run,
    ablate,
    at,
    attribution_patch,
    eap,
    eap_ig,
    evaluate,
    patch,
    record,
    sweep,
)
from interp_hooks.circuits import ComputationGraph, circuit_metric, mask_gradient
from interp_hooks.dictionaries import SAE, Dictionary, TopK
from interp_hooks.errors import BadInput, HookConflict, HookDidNotFire, UnknownHook
from interp_hooks.model.stream import Stream
from tests.dictionaries.random_ones import F, cross_layer, crosscoder, randoms, sae, transcoder
from tests.interventions.test_memory import peak
from tests.tiny import assert_close, build, random_tokens, unchecked_types

TOKENS, OTHER = random_tokens(d_vocab=23), random_tokens(d_vocab=23, seed=1)
DIFF = LogitDiff([4, 11], [7, 2])
FEATURES = "blocks.1.hook_mlp_out.dictionary.hook_features"
EVERY = "blocks.{layer}.hook_mlp_out.dictionary.hook_features"
ALL: dict[str, Dictionary] = {
    "sae": sae("jumprelu"),
    "of the stream": sae("topk", hook="resid_post0"),
    "of heads": sae("relu", hook="z1", d=16),
    "of one head": sae("gated", hook="z1", d=4, of_head=2),
    "transcoder": transcoder("batchtopk"),
    "cross-layer": cross_layer(),
}


@pytest.fixture
def model() -> HookedTransformer:
    return build()


def scaled(one: Any, by: float = 0.3) -> Any:
    return one.mapped(lambda weight: by * weight)


# ---------------------------------------------------------------------------------------------------- the same logits


@pytest.mark.parametrize("kind", ALL)
@torch.no_grad()
def test_with_the_error_term_logits_are_the_same(kind: str, model: HookedTransformer) -> None:
    """To the bit, whether somebody looks or not; without it they are those of the reconstruction.

    What a transcoder reads is looked at in both passes, since a norm that is looked at is computed step by step.
    """
    one, points = ALL[kind], list(model.hook_dict)
    looks: Any = [(hook, lambda value, hook: None) for hook in one.hooks_in]
    before = model.run_with_hooks(TOKENS, fwd_hooks=looks)
    with model.spliced(one, error_term=True) as inside:
        assert inside is model
        assert torch.equal(model(TOKENS), before)
        watched = [name for name in model.hook_dict if ".dictionary." in name]
        assert {name.rpartition("hook_")[2] for name in watched} >= {"pre", "features", "reconstruction", "error"}
        logits, cache = model.run_with_cache(TOKENS, names_filter=watched)
        assert torch.equal(logits, before)
        assert all(name in cache for name in watched)
        same: Any = [(name, lambda value, hook: value + 0) for name in watched]
        assert torch.equal(model.run_with_hooks(TOKENS, fwd_hooks=same), before)
    assert list(model.hook_dict) == points
    assert torch.equal(model.run_with_hooks(TOKENS, fwd_hooks=looks), before)
    with model.spliced(one):
        assert float((model(TOKENS) - before).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["sae", "of heads", "of one head", "transcoder"])
@torch.no_grad()
def test_without_it_the_reconstruction_takes_the_place(kind: str, model: HookedTransformer) -> None:
    one: Any = ALL[kind]
    _, cache = model.run_with_cache(TOKENS)
    whole = cache[one.hooks_out[0]].clone()
    x = cache[one.hooks_in[0]]
    if one.head is None:
        whole = one(x.flatten(2)).view_as(whole)
    else:
        whole[:, :, one.head] = one(x[:, :, one.head])
    expected = model.run_with_hooks(TOKENS, fwd_hooks=[(one.hooks_out[0], lambda value, hook: whole)])
    with model.spliced(one):
        assert_close(model(TOKENS), expected, 1e-12)
        features = model.run_with_cache(TOKENS)[1][f"{one.hooks_out[0]}.dictionary.hook_features"]
    assert_close(features, one.encode(x.flatten(2) if one.head is None else x[:, :, one.head]), 1e-12)


@torch.no_grad()
def test_a_cross_layer_transcoder_runs_through_the_layers(model: HookedTransformer) -> None:
    """By hand: each layer's reconstruction, of the inputs that earlier reconstructions gave."""
    one = cross_layer()
    found: list[Tensor] = []
    features: list[Tensor] = []

    def read(value: Tensor, hook: HookPoint) -> None:
        found.append(value)

    def written(value: Tensor, hook: HookPoint) -> Tensor:
        layer = hook.layer()
        features.append(one.encode_layer(layer, found[layer]))
        return one.decode_layer(layer, features, found[layer])

    hooks: list[Any] = [(f"mlp_in{layer}", read) for layer in range(3)]
    hooks += [(f"mlp_out{layer}", written) for layer in range(3)]
    expected = model.run_with_hooks(TOKENS, fwd_hooks=hooks)
    with model.spliced(one):
        assert_close(model(TOKENS), expected, 1e-12)


@torch.no_grad()
def test_several_at_once(model: HookedTransformer) -> None:
    """An SAE of the stream that a transcoder reads, and one of its output's layer, all with the error term."""
    first, second, third = sae(hook="resid_mid1"), transcoder(), sae(hook="resid_post1", seed=4)
    reads_stream = copy.copy(second)
    object.__setattr__(reads_stream, "hook_in", "blocks.1.hook_resid_mid")
    before = model(TOKENS)
    with model.spliced(first, reads_stream, third, error_term=True):
        assert torch.equal(model(TOKENS), before)
        assert len([name for name in model.hook_dict if name.endswith("hook_error")]) == 3
    with model.spliced(first), model.spliced(reads_stream, name="transcoder"):
        cache = model.run_with_cache(TOKENS)[1]
        read = cache["blocks.1.hook_resid_mid.dictionary.hook_reconstruction"]
        assert_close(
            cache["blocks.1.hook_mlp_out.transcoder.hook_features"], reads_stream.encode(read), 1e-12
        )  # it reads what the SAE passes on
    assert not model.splices


# -------------------------------------------------------------------------------------------------------- experiments


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
@torch.no_grad()
def test_features_are_patched_one_by_one(kind: str, model: HookedTransformer) -> None:
    """y + (f'_j - f_j) W_dec[j], whatever else is there."""
    one: Any = ALL[kind]
    hook_in, hook_out = one.hooks_in[0], one.hooks_out[0]
    here, there = (model.run_with_cache(tokens, names_filter=[hook_in, hook_out])[1] for tokens in (OTHER, TOKENS))
    change = one.encode(there[hook_in]) - one.encode(here[hook_in])
    with model.spliced(one, error_term=True):
        site = f"{hook_out}.dictionary.hook_features"
        result = sweep(
            model,
            lambda pos, feature: Run(OTHER, [Intervention(at(site, pos=pos, feature=feature), Run(TOKENS))]),
            DIFF,
            over={"pos": range(7), "feature": range(F)},
            progress=False,
        )
    for pos, feature in ((0, 0), (3, 2), (6, 4), (5, 16)):
        new = here[hook_out].clone()
        new[:, pos] += change[:, pos, feature, None] * one.W_dec[feature]
        expected = DIFF(model.run_with_hooks(OTHER, fwd_hooks=[(hook_out, lambda value, hook, new=new: new)]))
        assert_close(result.values[pos, feature], expected, 1e-9)
    assert float(result.values.std()) > 1e-3


@torch.no_grad()
def test_everything_patched_is_the_other_run(model: HookedTransformer) -> None:
    """Features and error of the other run together are the other run's activation."""
    with model.spliced(sae("topk"), error_term=True):
        error = FEATURES.replace("features", "error")
        both = Run(OTHER, [Intervention(at(site), Run(TOKENS)) for site in (FEATURES, error)])
        found = evaluate(model, [both], DIFF, progress=False)[0]
    new = model.run_with_cache(TOKENS)[1]["mlp_out", 1]
    expected = DIFF(model.run_with_hooks(OTHER, fwd_hooks=[("mlp_out1", lambda value, hook: new)]))
    assert_close(found, expected, 1e-9)


@torch.no_grad()
def test_ablation_recording_and_runs_elsewhere(model: HookedTransformer) -> None:
    with model.spliced(sae(), error_term=True):
        by_feature = ablate(model, TOKENS, DIFF, EVERY, over=("layer", "feature"), layers=[1], progress=False)
        assert by_feature.values.shape == (1, F, 2)
        recorded = record(model, Run(TOKENS), FEATURES)[FEATURES]
        assert torch.equal(recorded, model.run_with_cache(TOKENS, names_filter=FEATURES)[1][FEATURES])
        for hook in ("blocks.0.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.2.hook_resid_pre"):
            inside = evaluate(model, [Run(OTHER, [Intervention(at(hook), Run(TOKENS))])], DIFF, progress=False)
            model_alone = build()
            alone = evaluate(model_alone, [Run(OTHER, [Intervention(at(hook), Run(TOKENS))])], DIFF, progress=False)
            assert_close(inside[0], alone[0], 1e-9)


@torch.no_grad()
def test_runs_start_early_enough_for_a_cross_layer_transcoder(model: HookedTransformer) -> None:
    """A run that changes layer 2 still needs the features of layer 0."""
    one, site = cross_layer(), "blocks.2.hook_mlp_out.dictionary.hook_features"
    with model.spliced(one):
        run = Run(OTHER, [Intervention(at(site, feature=3, pos=4), Run(TOKENS))])
        new = model.run_with_cache(TOKENS)[1][site]

        def put(value: Tensor, hook: HookPoint) -> None:
            value[:, 4, 3] = new[:, 4, 3]

        expected = DIFF(model.run_with_hooks(OTHER, fwd_hooks=[(site, put)]))
        assert_close(evaluate(model, [run], DIFF, progress=False)[0], expected, 1e-9)
        early = Run(OTHER, [Intervention(at("blocks.0.hook_mlp_out.dictionary.hook_features"), Run(TOKENS))])
        both = evaluate(model, [run, early], DIFF, progress=False)
        assert_close(both[0], expected, 1e-9)
        with pytest.raises(HookDidNotFire, match="start the pass earlier"):
            model(model.run_with_cache(TOKENS)[1]["resid_pre", 1], start_at_layer=2)


@pytest.mark.parametrize("kind", ["sae", "transcoder", "of the stream"])
def test_attribution_is_the_gradient(kind: str, model: HookedTransformer) -> None:
    """Attribution patching of features against the difference that a small step makes."""
    one: Any = ALL[kind]
    site, layer = f"{one.hooks_out[0]}.dictionary.hook_features", 0 if kind == "of the stream" else 1
    every = site.replace(f"blocks.{layer}", "blocks.{layer}")
    with model.spliced(one, error_term=True):
        grid: Any = dict(over=("layer", "pos", "feature"), layers=[layer], progress=False)
        found = attribution_patch(model, TOKENS, OTHER, DIFF, every, **grid)
        here, there = (record(model, Run(tokens), site)[site] for tokens in (OTHER, TOKENS))
        cells = (there - here).abs().amin(0).flatten().topk(3).indices.tolist()
        for pos, feature in (divmod(cell, F) for cell in cells):
            step = 1e-5 * (there - here)[:, pos, feature]
            scores = []
            for sign in (1, -1):

                def move(value: Tensor, hook: HookPoint, by: Tensor = sign * step) -> None:
                    value[:, pos, feature] += by

                with torch.no_grad():
                    scores.append(DIFF(model.run_with_hooks(OTHER, fwd_hooks=[(site, move)])))
            estimated = found.values[0, pos, feature] - found.baselines["corrupt"]
            assert float(estimated.abs().max()) > 1e-6
            assert_close(estimated, (scores[0] - scores[1]) / 2e-5, 1e-5)


def gradient(model: HookedTransformer, hook: str) -> Tensor:
    found: list[Tensor] = []
    with torch.enable_grad():
        logits = model.run_with_hooks(
            TOKENS, bwd_hooks=[(hook, lambda value, hook: found.append(value.clone()))], fwd_hooks=[]
        )
        DIFF(logits).sum().backward()
    return found[0]


def test_gradients_are_those_of_what_is_computed(model: HookedTransformer) -> None:
    """With the error term the function is the model's, and so are its gradients; or they run through features alone."""
    one = sae("jumprelu")
    alone, at_out = gradient(model, "mlp_out1"), gradient(model, "resid_post1")
    with model.spliced(one, error_term=True):
        assert_close(gradient(model, "mlp_out1"), alone, 1e-12)
        both = [f"blocks.1.hook_mlp_out.dictionary.hook_{name}" for name in ("features", "error")]
        assert_close(gradient(model, both[0]), at_out @ one.W_dec.T, 1e-12)
        assert_close(gradient(model, both[1]), at_out, 1e-12)
    with model.spliced(one, error_term=True, through_error=False):
        assert torch.equal(model(TOKENS), build()(TOKENS))
        x = build().run_with_cache(TOKENS)[1]["mlp_out", 1]
        through = (at_out @ one.W_dec.T * (one.encode(x) > 0)) @ one.W_enc.T
        assert_close(gradient(model, "mlp_out1"), through, 1e-12)


# --------------------------------------------------------------------------------------------------- edges and circuits


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
def test_features_are_writers_of_the_stream(kind: str, model: HookedTransformer) -> None:
    one = ALL[kind]
    with model.spliced(scaled(one, 0.5), error_term=True):
        graph = ComputationGraph(model)
        assert ("m1.f3", "m2") in graph.edges
        assert ("m1.error", "logits") in graph.edges
        assert ("m1.skip" in graph.writers) == (kind == "transcoder")
        ends = evaluate(model, [Run(TOKENS), Run(OTHER)], DIFF)
        assert_close(circuit_metric(model, graph.circuit(), TOKENS, OTHER, DIFF), ends[0], 1e-9)
        assert_close(circuit_metric(model, graph.circuit([]), TOKENS, OTHER, DIFF), ends[1], 1e-9)
        ours, masks = (method(model, TOKENS, OTHER, DIFF) for method in (eap, mask_gradient))
        assert ours.scores is not None
        assert masks.scores is not None
        assert_close(ours.scores.matrix, masks.scores.matrix, 1e-9)


def test_edges_of_features_are_those_of_vectors(model: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With features some at a time, and those alone that change: the numbers of what each writes, as a vector."""
    one = scaled(ALL["sae"], 0.5)
    data: Any = (model, TOKENS, OTHER, DIFF)
    methods = {
        "eap": lambda: eap(*data),
        "at positions": lambda: eap(*data, positions=[1, -1]),
        "of zero": lambda: eap(*data, ablation="zero"),
        "of steps": lambda: eap_ig(*data, steps=2, progress=False),
        "masks": lambda: mask_gradient(*data),
    }
    with model.spliced(one, error_term=True):
        monkeypatch.setattr("interp_hooks.circuits.changes.BLOCK", 3)
        ours = {name: method().scores for name, method in methods.items()}
        graph = ComputationGraph(model)
        circuits = [graph.circuit(graph.edges[place::3]) for place in range(3)]
        of_circuits = [circuit_metric(model, circuit, TOKENS, OTHER, DIFF) for circuit in circuits]
        monkeypatch.setattr(Stream, "rows_of", lambda *_: None)  # each feature is a writer as a head is
        for name, method in methods.items():
            scores, dense = ours[name], method().scores
            assert scores is not None
            assert dense is not None
            assert dense.matrix[[graph.writer_index[f"m1.f{f}"] for f in range(F)]].abs().max() > 1e-3
            assert_close(scores.matrix, dense.matrix, 1e-9)
        for circuit, value in zip(circuits, of_circuits, strict=True):
            assert_close(value, circuit_metric(model, circuit, TOKENS, OTHER, DIFF), 1e-9)


def test_an_edge_of_a_feature_is_an_intervention(model: HookedTransformer) -> None:
    """A circuit without one edge is the run in which that edge alone carries what it carries in the other run."""
    with model.spliced(scaled(ALL["sae"], 0.5), error_term=True):
        graph = ComputationGraph(model)
        scores = eap(model, TOKENS, OTHER, DIFF).scores
        assert scores is not None
        feature = max(range(F), key=lambda f: abs(scores[f"m1.f{f}", "m2"]))
        edge = Intervention(at(FEATURES, feature=feature), Run(OTHER), into=at("mlp_in", 2))
        (patched,) = evaluate(model, [Run(TOKENS, [edge])], DIFF)
        without = graph.circuit() - graph.circuit([(f"m1.f{feature}", "m2")])
        ours = circuit_metric(model, without, TOKENS, OTHER, DIFF)
        assert_close(ours, patched, 1e-9)
        assert (ours - circuit_metric(model, graph.circuit(), TOKENS, OTHER, DIFF)).abs().max() > 1e-6


@pytest.mark.parametrize("method", [eap, mask_gradient])
def test_edges_of_many_features_take_little_memory(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a third of what it takes if all 4,000 features write a vector at each token, as heads do."""
    draw, n, d = randoms(), 4000, 128
    model = build(d_model=d, n_ctx=16)
    tokens, other = (random_tokens(pos=16, d_vocab=23, seed=seed) for seed in range(2))
    weights = dict(W_enc=draw(d, n), b_enc=draw(n), W_dec=draw(n, d) / n, b_dec=draw(d))
    with model.spliced(SAE(hook="mlp_out1", activation=TopK(5), **weights), error_term=True):
        ours = peak(lambda: method(model, tokens, other, DIFF))
        monkeypatch.setattr(Stream, "rows_of", lambda *_: None)
        assert ours < peak(lambda: method(model, tokens, other, DIFF)) / 3


def test_features_that_are_no_parts_of_the_stream_are_refused(model: HookedTransformer) -> None:
    for one in (sae(hook="attn_out1"), cross_layer()):
        with model.spliced(one, error_term=True), pytest.raises(BadInput, match="stands at mlp_out"):
            ComputationGraph(model)
    normalizes = sae(normalization="layer_norm")
    with model.spliced(normalizes, error_term=True), pytest.raises(BadInput, match="normalization of each token"):
        ComputationGraph(model)


# ------------------------------------------------------------------------------------------- generation, disk, copies


@pytest.mark.parametrize("kind", ["sae", "transcoder", "cross-layer"])
@pytest.mark.parametrize("error_term", [True, False])
def test_generation_goes_through_it(kind: str, error_term: bool, model: HookedTransformer) -> None:
    options: Any = dict(do_sample=False, verbose=False)
    before = model.generate(TOKENS[:, :4], 4, **options)
    with model.spliced(ALL[kind], error_term=error_term):
        written = model.generate(TOKENS[:, :4], 4, **options)
        assert torch.equal(written, model.generate(TOKENS[:, :4], 4, use_past_kv_cache=False, **options))
    assert not error_term or torch.equal(written, before)


def test_steering_a_feature_while_it_writes(model: HookedTransformer) -> None:
    def more(value: Tensor, hook: HookPoint) -> None:
        value[..., 3] += 20.0

    with model.spliced(sae(), error_term=True), model.hooks(fwd_hooks=[(FEATURES, more)]):
        options: Any = dict(do_sample=False, verbose=False)
        written = model.generate(TOKENS[:, :4], 4, **options)
        assert torch.equal(written, model.generate(TOKENS[:, :4], 4, use_past_kv_cache=False, **options))
    assert not torch.equal(written, model.generate(TOKENS[:, :4], 4, **options))


def test_results_keep_which_dictionary_it_was(model: HookedTransformer, tmp_path: Path) -> None:
    with model.spliced(sae(), error_term=True):
        result = ablate(model, TOKENS, DIFF, EVERY, over=("layer", "feature"), layers=[1], progress=False)
        result.save(tmp_path / "one")
        back = Result.load(tmp_path / "one")
        assert_close(back.rerun(model, progress=False).values, result.values, 1e-12)
    with pytest.raises(BadInput):
        back.rerun(model, progress=False)
    with model.spliced(sae(seed=1), error_term=True), pytest.raises(BadInput, match="weights are not those"):
        back.rerun(model, progress=False)


def test_copies_of_a_model_have_their_own(model: HookedTransformer) -> None:
    with model.spliced(transcoder()):
        before = model(TOKENS)
        other = copy.deepcopy(model)
    assert torch.equal(other(TOKENS), before)
    assert not torch.equal(model(TOKENS), before)
    assert not [name for name, weight in other.named_parameters() if ".dictionary." in name and weight.requires_grad]


@torch.no_grad()
def test_half_precision_models_stay_the_same_too() -> None:
    model = build(dtype=torch.bfloat16)
    before = model(TOKENS)
    with model.spliced(sae("jumprelu").to(torch.float32), sae("topk", hook="z2", d=16), error_term=True):
        assert torch.equal(model(TOKENS), before)
        logits, cache = model.run_with_cache(TOKENS, names_filter=lambda name: ".dictionary." in name)
        assert torch.equal(logits, before)
        assert cache[FEATURES].dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------- refused


def test_what_does_not_fit_is_refused_and_leaves_nothing(model: HookedTransformer) -> None:
    points = list(model.hook_dict)
    backwards = transcoder()
    object.__setattr__(backwards, "hook_in", "blocks.2.ln2.hook_normalized")
    cases: list[tuple[Dictionary, type[Exception], str]] = [
        (sae(d=9), BadInput, "of width 9"),
        (sae(hook="mlp_out9"), UnknownHook, r"blocks\.9"),
        (crosscoder(), BadInput, "needs? all of its sites"),
        (backwards, BadInput, "comes before it"),
    ]
    for one, error, message in cases:
        with pytest.raises(error, match=message), model.spliced(transcoder(layer=0), one):
            pass
        assert list(model.hook_dict) == points
    with (
        model.spliced(transcoder()),
        pytest.raises(HookConflict, match="has a module spliced in already"),
        model.spliced(sae(), name="other"),
    ):
        pass
    with unchecked_types(), pytest.raises(BadInput, match="are spliced in"), model.spliced(torch.nn.Identity()):  # pyright: ignore
        pass
    assert list(model.hook_dict) == points
    assert patch(model, TOKENS, OTHER, DIFF, "resid_pre", over=("layer",), progress=False).values.shape[0] == 3
