"""Probes: what was planted is found, chance elsewhere, documents do not leak, and solvers agree with each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks.corpus import by_token
from interp_hooks.errors import BadInput
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import Run
from interp_hooks.studies import JointMoments, Probes, linear_probe, logistic, probe_corpus, ridge
from interp_hooks.studies.probes.probing import most_different
from tests.corpus.streams import assert_merges
from tests.tiny import assert_close, build, random_tokens, unchecked_types

GENERATOR = torch.Generator().manual_seed(0)
N, WIDTH = 300, 6
SCALES = torch.tensor([1.0, 0.01, 50.0, 1.0, 3.0, 1.0]).double()
X = torch.randn(N, WIDTH, generator=GENERATOR).double() * SCALES + 3
Z = (
    (X - 3) / SCALES @ torch.randn(WIDTH, 3, generator=GENERATOR).double() + torch.randn(N, 3, generator=GENERATOR)
).argmax(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------------------------ fitting


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("balanced", [False, True])
def test_two_solvers_find_one_minimum(strength: float, balanced: bool) -> None:
    one, other = (logistic(X, Z, strength=strength, balanced=balanced, solver=solver) for solver in ("newton", "lbfgs"))
    assert_close(one.weights * SCALES, other.weights * SCALES, 1e-6)
    assert_close(one.bias, other.bias, 1e-6)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_minimum_has_no_slope(balanced: bool) -> None:
    """By autograd, of the objective as the docstring says it."""
    found = logistic(X, Z, strength=0.05, balanced=balanced)
    scale = X.std(0, unbiased=False)
    weights, bias = (found.weights * scale).requires_grad_(), found.bias.clone().requires_grad_()
    losses = torch.nn.functional.cross_entropy((X / scale) @ weights.T + bias, Z, reduction="none")
    weight = 1 / Z.bincount().double()[Z] / 3 if balanced else torch.full((N,), 1 / N).double()
    ((weight * losses).sum() + 0.025 * weights.square().sum()).backward()
    assert weights.grad is not None
    assert bias.grad is not None
    assert float(weights.grad.abs().max()) < 1e-8
    assert float(bias.grad.abs().max()) < 1e-8


def test_scikit_learn_agrees() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    scale = X.std(0, unbiased=False)
    theirs = linear_model.LogisticRegression(C=1 / (0.05 * N), tol=1e-10, max_iter=10000).fit(
        (X / scale).numpy(), Z.numpy()
    )
    ours = logistic(X, Z, strength=0.05)
    assert_close(ours.weights * scale, torch.tensor(theirs.coef_), 1e-4)


def test_ridge_is_least_squares_with_a_penalty() -> None:
    """As one least-squares problem with a row more for each weight."""
    moments, strength = JointMoments.of(X, Z), 0.3
    standard = (X - X.mean(0)) / X.std(0, unbiased=False)
    target = torch.nn.functional.one_hot(Z).double()
    rows = torch.cat((standard / N**0.5, strength**0.5 * torch.eye(WIDTH).double()))
    by_hand = torch.linalg.lstsq(rows, torch.cat(((target - target.mean(0)) / N**0.5, torch.zeros(WIDTH, 3).double())))
    found = ridge(moments, strength=strength)
    assert_close((found.weights * X.std(0, unbiased=False)).T, by_hand.solution, 1e-10)
    assert_close(found.scores(X), standard @ by_hand.solution + target.mean(0), 1e-10)


def test_separable_classes_duplicates_and_coordinates_that_do_not_vary() -> None:
    x = torch.cat((X[:, :1], X[:, :1], torch.full((N, 1), 7.0).double()), 1)
    found = logistic(x, (X[:, 0] > 3).long(), strength=1e-6)
    assert float((found.classes(x) == (X[:, 0] > 3).long()).double().mean()) > 0.98
    assert_close(found.weights[:, 0], found.weights[:, 1], 1e-6)
    assert float(found.weights[:, 2].abs().max()) == 0
    flat = ridge(JointMoments.of(x, (X[:, 0] > 3).long()))
    assert float(flat.weights[:, 2].abs().max()) < 1e-6


# --------------------------------------------------------------------------------------------------------- in a model


TOKENS = random_tokens(batch=120, pos=5, d_vocab=23, seed=4)


def test_a_label_that_is_planted_is_found_and_shuffled_ones_are_not() -> None:
    """The label is the sign of the activation along a direction that nobody knows."""
    model, prompts = build(), random_tokens(batch=400, pos=5, d_vocab=23, seed=6)
    stream = record(model, Run(prompts), "resid_post1")["blocks.1.hook_resid_post"][:, -1]
    planted = torch.randn(12, generator=generator(5)).double()
    along = (stream - stream.mean(0)) @ planted
    kept = along.abs() > along.abs().median()
    labels = torch.where(kept, (along > 0).long(), -1)
    of_tokens = torch.full(prompts.shape, -1)
    of_tokens[:, -1] = labels
    found = linear_probe(model, prompts, of_tokens, layers=[0, 1], strength=1e-5, generator=generator())
    table = found.table(generator=generator()).set_index("layer")
    assert table["trained"][1] == 1.0
    assert table["lower"][1] == pytest.approx(1.0)
    chance = float(labels[kept].bincount().max()) / int(kept.sum())
    assert abs(table["shuffled labels"][1] - 0.5) < 0.15
    assert table["majority"][1] <= chance + 1e-9
    assert table["random model"][1] < 0.95
    direction = found.probe(1).direction
    covariance = torch.cov(stream[kept].T)
    cosine = torch.nn.functional.cosine_similarity(covariance @ direction, covariance @ planted, dim=0)
    assert float(cosine) > 0.98
    assert found.accuracy.shape == (2, 5, int(kept.sum()))


def test_documents_do_not_leak() -> None:
    """Labels are drawn by document, of which there are ten prompts that differ in a token that hardly matters.

    Where groups are documents the labels of others say nothing; where each prompt is its own group, a prompt of the
    same document was trained on, and gives the label away.
    """
    model, document = build(d_model=40), torch.arange(20).repeat_interleave(10)
    tokens = random_tokens(batch=20, pos=5, d_vocab=23, seed=8)[document]
    tokens[:, 0] = torch.arange(200) % 10
    labels = (torch.randperm(20, generator=generator(2)) % 2)[document]
    accuracy = []
    for groups in (document, torch.arange(200)):
        options: Any = dict(layers=[0], strength=1e-5, controls=(), groups=groups, generator=generator())
        accuracy.append(linear_probe(model, tokens, labels, **options).accuracy[0, 0])
    assert list(map(len, accuracy)) == [20, 200]
    assert float(accuracy[0].mean()) < 0.65
    assert float(accuracy[1].mean()) > 0.9


def test_prompts_of_the_same_tokens_are_one_document() -> None:
    """By default, so that copies of a prompt cannot be both trained on and tested on."""
    copies = torch.cat((TOKENS[:20], TOKENS[:20], TOKENS[:20]))
    labels = (torch.arange(20) % 2).repeat(3)
    found = linear_probe(build(), copies, labels, layers=[0], controls=(), generator=generator())
    assert found.accuracy.shape == (1, 1, 20)


def test_the_token_alone_tells_as_much_as_it_tells() -> None:
    labels = TOKENS[:, -1] % 3
    found = linear_probe(build(), TOKENS, labels, layers=[0], sparsity=(1, 2, 12), generator=generator())
    table = found.table(generator=generator())
    assert table["token identity"][0] > 0.9  # but for tokens that are in one fold alone
    random = linear_probe(
        build(), TOKENS, (TOKENS[:, -1] * 7919 + TOKENS[:, 0] * 31) % 3, layers=[0], generator=generator()
    )
    assert random.table(generator=generator())["token identity"][0] < 0.6
    assert table["k = 12"][0] == pytest.approx(table["trained"][0])


def test_sparse_probes_choose_where_class_means_differ() -> None:
    x = torch.randn(200, 7, generator=generator(3)).double() * torch.tensor([9.0, 1, 1, 1, 1, 1, 1])
    classes = torch.arange(200) % 2
    x[:, 4] += 3 * classes
    x[:, 2] += 1.5 * classes
    assert most_different(x, classes, 2).tolist() == [4, 2]
    by_hand = (x[classes == 1].mean(0) - x[classes == 0].mean(0)).abs() / x.std(0)
    assert most_different(x, classes, 7).tolist() == by_hand.argsort(descending=True).tolist()


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_a_fold_is_tested_by_a_probe_of_the_others(kind: Any) -> None:
    """By hand, in two folds."""
    model, labels = build(), TOKENS[:, -1] % 2
    found = linear_probe(
        model,
        TOKENS,
        labels,
        layers=[2],
        kind=kind,
        folds=2,
        controls=(),
        groups=torch.arange(120),
        generator=generator(),
    )
    dealt = torch.empty(120, dtype=torch.long)
    dealt[torch.randperm(120, generator=generator())] = torch.arange(120) % 2
    x = record(model, Run(TOKENS), "resid_post2")["blocks.2.hook_resid_post"][:, -1]
    right = torch.zeros(120)
    for fold in range(2):
        train = dealt != fold
        one = (
            logistic(x[train], labels[train]) if kind == "logistic" else ridge(JointMoments.of(x[train], labels[train]))
        )
        right[~train] = (one.classes(x[~train]) == labels[~train]).float()
    assert torch.equal(found.accuracy[0, 0].float(), right)


def test_a_corpus_is_probed_in_two_scans() -> None:
    """As probes are that are fitted in memory on the same parts."""
    from interp_hooks.corpus import LabelledMoments, LinearHits, Units
    from interp_hooks.corpus.reducers.labelled import part_of

    model, labels = build(), by_token({id: id % 3 for id in range(2, 23)})
    found = probe_corpus(model, [*TOKENS], labels, layers=[0, 2], parts=3, per_batch=17, progress=False)
    parts = part_of(torch.arange(120), 3)[:, None].expand_as(TOKENS)
    train, test = (parts > 0) & (TOKENS >= 2), (parts == 0) & (TOKENS >= 2)
    for place, layer in enumerate((0, 2)):
        stream = record(model, Run(TOKENS), f"resid_post{layer}")[f"blocks.{layer}.hook_resid_post"]
        probe = ridge(JointMoments.of(stream[train], TOKENS[train] % 3))
        right = (probe.classes(stream[test]) == TOKENS[test] % 3).double().mean()
        assert float(found.values[place, 0, 0]) == pytest.approx(float(right), abs=0.01)
    majority = int((TOKENS[train] % 3).bincount().argmax())
    assert float(found.values[0, 1, 0]) == pytest.approx(float((TOKENS[test] % 3 == majority).double().mean()))
    units = Units("neuron", ("post",))
    weights = {0: (torch.randn(3, 5, generator=generator()).double(), torch.zeros(3).double())}
    assert_merges(LinearHits(units, by_token({id: id % 3 for id in range(7)}), weights, parts=2))
    assert isinstance(LabelledMoments(units, labels), LabelledMoments)


def test_on_disk_and_as_a_result(tmp_path: Path) -> None:
    found = linear_probe(
        build(), TOKENS, TOKENS[:, -1] % 2, layers=[0, 1], controls=("majority",), generator=generator()
    )
    found.save(tmp_path / "probes")
    again = Probes.load(tmp_path / "probes")
    assert repr(again) == repr(found)
    assert torch.equal(again.probe(1).direction, found.probe(1).direction)
    assert list(found.result.table()["probe"]) == ["trained", "majority"] * 2
    x: Tensor = torch.randn(3, 12, generator=generator()).double()
    assert torch.equal(found.probe(0).classes(x), (x @ found.weights[0].T + found.bias[0]).argmax(-1))


CASES: list[tuple[dict[str, Any], str]] = [
    (dict(kind="tree"), "kind must be"),
    (dict(kind="ridge", balanced=True), "balanced"),
    (dict(controls=("magic",)), "controls may be"),
    (dict(sparsity=(13,)), "sparsity must be"),
    (dict(folds=1), "folds must be"),
    (dict(folds=121), "folds must be"),
    (dict(groups=[0, 1]), "groups must be"),
    (dict(strength=0.0), "strength must be"),
    (dict(labels=torch.zeros(120).long()), "two classes"),
    (dict(labels=(torch.arange(120) == 3).long(), groups=torch.arange(120) // 60, folds=2), "one class"),
]


@pytest.mark.parametrize(("arguments", "words"), CASES)
def test_bad_input_is_refused(arguments: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = dict(labels=TOKENS[:, -1] % 2, layers=[0]) | arguments
    with pytest.raises(BadInput, match=words), unchecked_types():
        linear_probe(build(), TOKENS, **given)


def test_a_draw_of_weights_leaves_the_global_generator_alone() -> None:
    model = build()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    linear_probe(model, TOKENS, TOKENS[:, -1] % 2, layers=[0], generator=generator())
    assert torch.equal(torch.rand(3), expected)
