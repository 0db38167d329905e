"""Erasure by what it promises: no covariance, no probe, and the least change of all that do so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import Intervention, LogitDiff, Run, ablate, at, evaluate, patch, patch_along, steer
from interp_hooks.corpus import LabelledMoments, Labels, Units, by_document, by_token, gather, scan
from interp_hooks.corpus.reducers.labelled import part_of
from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.interventions import Eraser
from interp_hooks.interventions.recording import record
from interp_hooks.studies import Erasure, JointMoments, erase_concept, erase_concept_of_corpus, leace
from tests.corpus.reducers.test_statistics import PARTS, WHOLE
from tests.corpus.streams import assert_merges
from tests.tiny import assert_close, build, random_tokens, unchecked_types

N, WIDTH = 400, 8
GENERATOR = torch.Generator().manual_seed(0)
Z = torch.randint(3, (N,), generator=GENERATOR)
MIXED = torch.randn(WIDTH, WIDTH, generator=GENERATOR).double()
X = (
    torch.randn(N, WIDTH, generator=GENERATOR).double() @ MIXED
    + torch.randn(3, WIDTH, generator=GENERATOR).double()[Z]
    + 5
)
TOKENS = random_tokens(batch=24, pos=6, d_vocab=23, seed=3)
LABELS = (TOKENS[:, 2] % 2).tolist()


def changed(x: Tensor, eraser: Eraser) -> float:
    return float((eraser(x) - x).square().sum())


@pytest.mark.parametrize("method", ["leace", "projection"])
@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_no_covariance_is_left(method: Any, shrinkage: float) -> None:
    moments = JointMoments.of(X, Z)
    eraser = leace(moments, method=method, shrinkage=shrinkage)
    after = JointMoments.of(eraser(X), Z)
    assert float(after.cross.abs().max()) < 1e-13 * float(moments.cross.abs().max()) * WIDTH
    means = torch.stack([eraser(X)[one == Z].mean(0) for one in range(3)])
    assert_close(means, X.mean(0).expand(3, -1), 1e-12)
    assert eraser.rank == 2


def test_it_is_the_formula() -> None:
    """r(x) = x - W^+ P W (x - mean), written out with matrix functions."""
    centred = X - X.mean(0)
    covariance, one_hot = centred.T @ centred / N, torch.nn.functional.one_hot(Z).double()
    cross = centred.T @ (one_hot - one_hot.mean(0)) / N
    values, axes = torch.linalg.eigh(covariance)
    W = axes @ values.rsqrt().diag() @ axes.T
    P = W @ cross @ torch.linalg.pinv(W @ cross, rtol=1e-9)
    by_hand = X - centred @ (torch.linalg.inv(W) @ P @ W).T
    assert_close(leace(JointMoments.of(X, Z))(X), by_hand, 1e-10)


def test_a_probe_that_is_fitted_anew_is_the_constant() -> None:
    """Logistic regression by gradient descent, and least squares: both find the classes before, and nothing after."""
    classes = (Z > 0).long()
    eraser = leace(JointMoments.of(X, classes))
    shares = torch.bincount(classes).double() / N
    constant = float(-(shares * shares.log()).sum())
    losses = []
    for x in (X, eraser(X)):
        x = (x - x.mean(0)) / x.std(0)
        weights = torch.zeros(WIDTH + 1, 2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def loss(x: Tensor = x, weights: Tensor = weights) -> Tensor:
            return torch.nn.functional.cross_entropy(x @ weights[1:] + weights[0], classes)

        def closure(loss: Any = loss, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        losses.append(float(loss().detach()))
        design, target = torch.cat((x, torch.ones(N, 1).double()), 1), classes.double()
        misses = target - design @ (torch.linalg.pinv(design, rtol=1e-9) @ target)
        losses.append(float(misses.square().mean() / target.var(unbiased=False)))
    assert losses[0] < 0.9 * constant
    assert losses[1] < 0.9
    assert losses[2:] == pytest.approx([constant, 1.0], abs=1e-9)


def test_it_changes_least() -> None:
    """Less than the orthogonal projection, and less than any of the same kind with another matrix in place of W."""
    moments = JointMoments.of(X, Z)
    ours, projected = leace(moments), leace(moments, method="projection")
    assert changed(X, ours) < 0.9 * changed(X, projected)
    for seed in range(10):
        W = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)).double()
        basis = torch.linalg.svd(W @ moments.cross)[0][:, :2]
        other = Eraser(mean=moments.mean, reads=basis.T @ W, writes=(torch.linalg.inv(W) @ basis).T)
        assert float(JointMoments.of(other(X), Z).cross.abs().max()) < 1e-9
        assert changed(X, ours) < changed(X, other)


def test_twice_is_once_and_coordinates_do_not_matter() -> None:
    eraser = leace(JointMoments.of(X, Z))
    assert_close(eraser(eraser(X)), eraser(X), 1e-12)
    A, b = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(9)).double(), torch.arange(8.0).double()
    other = leace(JointMoments.of(X @ A.T + b, Z))
    assert_close(other(X @ A.T + b), eraser(X) @ A.T + b, 1e-8)


def test_labels_that_are_numbers_and_labels_that_say_nothing() -> None:
    z = torch.stack((X[:, 0] + torch.randn(N, generator=GENERATOR), torch.randn(N, generator=GENERATOR)), 1).double()
    eraser = leace(JointMoments.of(X, z))
    assert eraser.rank == 2
    assert float(JointMoments.of(eraser(X), z).cross.abs().max()) < 1e-12
    x = torch.tensor([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]]).double()
    assert leace(JointMoments.of(x, torch.tensor([0, 1, 1, 0]))).rank == 0


def test_it_is_exact_where_activations_hardly_vary() -> None:
    """Fewer dimensions than coordinates, and the concept along one that varies by 1e-5 of the others."""
    x = torch.cat((X, X @ torch.ones(WIDTH, 3).double()), 1)
    x[:, 0] = 1e-5 * Z.double()
    moments = JointMoments.of(x, Z)
    after = JointMoments.of(leace(moments)(x), Z)
    assert float(after.cross[0].abs().max()) < 1e-9 * float(moments.cross[0].abs().max())


# ---------------------------------------------------------------------------------------------------------- streaming


def by_parity() -> Labels:
    return Labels("parity", ("even", "odd"), of=lambda seen: torch.where(seen.tokens == 0, -1, seen.tokens % 2))


def test_labelled_moments_merge_exactly() -> None:
    assert_merges(LabelledMoments(Units("neuron", ("post",)), by_parity(), parts=3))


@pytest.mark.parametrize("parts", [None, [0], [1, 2]])
def test_labelled_moments_are_those_in_memory(parts: list[int] | None) -> None:
    reducer = LabelledMoments(Units("neuron", ("post",)), by_parity(), parts=3)
    state = reducer.reduce(PARTS[0])
    for part in PARTS[1:]:
        state = reducer.merge(state, reducer.reduce(part))
    streamed = JointMoments.of_scan(reducer.result(state), parts)
    dealt = part_of(WHOLE.documents, 3)
    chosen = (WHOLE.tokens != 0) & (torch.isin(dealt, torch.tensor(parts)) if parts else True)
    memory = JointMoments.of(WHOLE.values[chosen], WHOLE.tokens[chosen] % 2)
    assert streamed.count == memory.count
    for name in ("mean", "covariance", "label_mean", "label_covariance", "cross"):
        torch.testing.assert_close(getattr(streamed, name), getattr(memory, name), rtol=1e-9, atol=1e-12)


def test_a_corpus_is_erased_as_prompts_are(tmp_path: Path) -> None:
    model, texts = build(), [*TOKENS]
    by_token_of = [[int(id) % 2 if id > 3 else -1 for id in row] for row in TOKENS.tolist()]
    ours = erase_concept(model, TOKENS, by_token_of)
    streamed = erase_concept_of_corpus(
        model, texts, by_token({id: id % 2 for id in range(4, 23)}), per_batch=5, progress=False
    )
    assert list(ours.erasers) == list(streamed.erasers)
    for name, one in ours.erasers.items():
        assert_close(streamed.erasers[name](X[:, :1].expand(-1, 12)), one(X[:, :1].expand(-1, 12)), 1e-6)
    with pytest.raises(BadInput, match="only once"):
        erase_concept_of_corpus(model, iter(texts), by_document([0, 1] * 12), progress=False)
    reducer = {"m": LabelledMoments(Units("stream", ("resid_pre",), layers=(1,)), by_document([0, 1] * 12))}
    scan(model, texts, reducer, save_to=tmp_path, progress=False)
    assert JointMoments.of_scan(gather(tmp_path, reducer)["m"][1]).count == TOKENS.numel()


# -------------------------------------------------------------------------------------------------------- in the model


def test_later_layers_are_fitted_on_what_is_erased_already() -> None:
    """Each layer's covariance is 0 in the run with all erasers; of erasers fitted one by one it is not."""
    model = build()
    erasure = erase_concept(model, TOKENS, LABELS, pos=-1)
    hooks = list(erasure.erasers)
    run = Run(TOKENS, erasure.interventions())
    alone = {
        name: eraser
        for layer in range(3)
        for name, eraser in erase_concept(model, TOKENS, LABELS, layers=[layer]).erasers.items()
    }
    apart = Run(TOKENS, [Intervention(at(name), eraser) for name, eraser in alone.items()])
    left = {"by layer": [], "apart": []}
    for key, one in (("by layer", run), ("apart", apart)):
        for value in record(model, one, hooks).values():
            left[key].append(float(JointMoments.of(value[:, -1], torch.tensor(LABELS)).cross.abs().max()))
    assert max(left["by layer"]) < 1e-12
    assert max(left["apart"]) > 1e-4
    assert max(erasure.left) < 1e-12
    assert len(erasure.table()) == 3


def test_it_is_a_source_for_whatever_takes_one() -> None:
    model = build()
    erasure = erase_concept(model, TOKENS, LABELS, pos=None)
    eraser = erasure["resid_post1"]
    prompts, metric = TOKENS[:3], LogitDiff([4, 11, 2], [7, 2, 5], pos=-1)
    value = record(model, Run(prompts), "resid_post1")["blocks.1.hook_resid_post"]
    expected = metric(model.run_with_hooks(prompts, fwd_hooks=[("resid_post1", lambda value, hook: eraser(value))]))
    found = evaluate(model, [Run(prompts, [Intervention(at("resid_post", 1), eraser)])], metric)[0]
    assert_close(found, expected, 1e-12)
    ablated = ablate(model, prompts, metric, "resid_post", method=erasure, over=("layer",), progress=False)
    assert_close(ablated.values[1], expected, 1e-12)
    with steer(model, eraser, "resid_post1"):
        assert_close(metric(model(prompts)), expected, 1e-12)
    with steer(model, eraser, "resid_post1", coefficient=0.0):
        assert_close(metric(model(prompts)), metric(model(prompts)), 1e-15)
    at_the_end = record(model, Run(prompts, [Intervention(at("resid_post", 1, pos=-1), eraser)]), "resid_post1")
    assert_close(at_the_end["blocks.1.hook_resid_post"][:, -1], eraser(value[:, -1]), 1e-12)
    assert torch.equal(at_the_end["blocks.1.hook_resid_post"][:, :-1], value[:, :-1])
    along = patch_along(
        model, prompts, TOKENS[3:6], metric, along=eraser.writes, site="resid_post", over=("layer",), progress=False
    )
    assert along.values.shape == (3, 3)


def test_a_sweep_within_the_block_is_one_of_runs_with_all_interventions() -> None:
    model = build()
    erasure = erase_concept(model, TOKENS, LABELS, "resid_pre", pos=None)
    clean, corrupt, metric = TOKENS[:3], TOKENS[3:6], LogitDiff([4, 11, 2], [7, 2, 5], pos=-1)
    with erasure.applied(model):
        found = patch(model, clean, corrupt, metric, "z", over=("layer", "head"), progress=False)
    source = Run(clean, erasure.interventions())
    runs = [
        Run(corrupt, [*erasure.interventions(), Intervention(at("z", layer, head=head), source)])
        for layer in range(3)
        for head in range(4)
    ]
    assert_close(found.values.flatten(0, 1), evaluate(model, runs, metric), 1e-10)


def test_prompts_may_be_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where earlier layers are erased, and no more of them than that go into one pass."""
    model, sizes = build(), list[int]()
    whole = erase_concept(model, TOKENS, LABELS, pos=None)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda x, *args, **kw: sizes.append(len(x)) or forward(x, *args, **kw))
    parts = erase_concept(model, TOKENS, LABELS, pos=None, batch_size=5)
    assert max(sizes) == 5
    for name, eraser in whole.erasers.items():
        assert_close(parts.erasers[name](X[:, :1].expand(-1, 12)), eraser(X[:, :1].expand(-1, 12)), 1e-9)


def test_generation_is_erased_at_every_token() -> None:
    model = build(d_vocab_out=23)
    erasure = erase_concept(model, TOKENS, LABELS, "resid_pre", pos=None)
    with erasure.applied(model):
        cached = model.generate(TOKENS[:2], max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False)
        slow = model.generate(
            TOKENS[:2], max_new_tokens=3, do_sample=False, use_past_kv_cache=False, verbose=False, stop_at_eos=False
        )
    assert torch.equal(cached, slow)
    tokens = TOKENS[:2]
    for _ in range(3):
        logits = evaluate(model, [Run(tokens, erasure.interventions())], lambda logits: logits[:, -1])[0]
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), 1)
    assert torch.equal(cached, tokens)


def test_it_is_kept_on_disk(tmp_path: Path) -> None:
    model = build()
    erasure = erase_concept(model, TOKENS, LABELS, "z", pos=None, select={"head": 2}, layers=[0, 2])
    erasure.save(tmp_path / "erasure")
    again = Erasure.load(tmp_path / "erasure")
    assert repr(again) == repr(erasure)
    runs = [Run(TOKENS, one.interventions()) for one in (erasure, again)]
    one, other = evaluate(model, runs, lambda logits: logits[:, -1])
    assert torch.equal(one, other)
    with pytest.raises(BadInput, match="holds"):
        erasure.save(tmp_path / "erasure")
    with pytest.raises(BadInput, match="found none"):
        Erasure.load(tmp_path / "nowhere")


def test_bad_input_is_refused() -> None:
    model = build()
    cases: list[tuple[dict[str, Any], str]] = [
        (dict(labels=[0, 1]), "labels must be"),
        (dict(labels=[0] * 24), "two classes"),
        (dict(labels=LABELS, site="z"), "select one index of head"),
        (dict(labels=LABELS, method="none"), "'leace' or 'projection'"),
        (dict(labels=LABELS, layers=[7]), "out of range"),
        (dict(labels=["a"] * 24), "labels must be"),
    ]
    for arguments, words in cases:
        with pytest.raises(BadInput, match=words), unchecked_types():
            erase_concept(model, TOKENS, **arguments)
    erasure = erase_concept(model, TOKENS, LABELS)
    with pytest.raises(UnknownHook, match="no eraser"):
        erasure["resid_mid1"]
    with pytest.raises(UnknownHook, match="no eraser"):
        evaluate(model, [Run(TOKENS, [Intervention(at("mlp_out", 1), erasure)])], lambda logits: logits[:, -1])
    with pytest.raises(BadInput, match="vectors of 12 numbers"):
        evaluate(model, [Run(TOKENS, [Intervention(at("z", 1), erasure["resid_post1"])])], lambda logits: logits[:, -1])
    with pytest.raises(BadInput, match="vectors of 20 numbers"), steer(model, erasure["resid_post1"], "post1"):
        pass
    assert not any(point.hooks for point in model.hook_dict.values())
