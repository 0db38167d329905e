"""Models written by hand do what they say, along the edges that they name and no others."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

from interp_hooks import Intervention, LogitDiff, Run, at, attribution_patch, evaluate, integrated_gradients
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import GroundTruth
from interp_hooks.ground_truth.grammar import number_agreement
from interp_hooks.ground_truth.handmade import and_gate, induction, micro_model, or_gate, token_gate
from interp_hooks.ground_truth.planted import planted_fact, planted_neuron
from interp_hooks.ground_truth.system import AnswerDiff, edges
from tests.ground_truth.edges import carries, those_that_matter
from tests.tiny import unchecked_types

MODELS: dict[str, Callable[[], GroundTruth]] = {
    "and": and_gate,
    "and of 3": lambda: and_gate(3),
    "or": lambda: token_gate("or", 3),
    "micro": micro_model,
    "induction": induction,
    "small induction": lambda: induction(7, 9),
    "large induction": lambda: induction(30, 20),
    "agreement": number_agreement,
    "neuron": planted_neuron,
    "other neuron": lambda: planted_neuron(0, 3, seed=1),
    "fact": planted_fact,
}


@pytest.mark.parametrize("name", MODELS)
def test_removing_an_edge_matters_exactly_if_it_is_in_the_circuit(name: str) -> None:
    known = MODELS[name]()
    assert those_that_matter(known.model, known.task.clean, 0.0, known.task.metric) == known.circuit


@pytest.mark.parametrize("name", MODELS)
def test_patching_an_edge_matters_exactly_if_it_is_in_the_patching_circuit(name: str) -> None:
    known = MODELS[name]()
    corrupt = Run(known.task.corrupt)
    assert those_that_matter(known.model, known.task.clean, corrupt, known.task.metric) == known.patching_circuit


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_right_in_both_prompts_of_a_pair(name: str) -> None:
    known = MODELS[name]()
    task, asked = known.task, known.task.answer != known.task.wrong
    assert asked.any(1).all()
    if known.outputs[1] in ("nothing", "silent", "second"):  # the output is a number, of which the sign or size tells
        return
    for tokens, right in ((task.clean, task.answer), (task.corrupt, task.wrong)):
        said = known.model(tokens).detach()
        assert torch.equal(said.argmax(-1)[asked], right[asked])
        assert float(said.max(-1).values[asked].min()) > 1 - 1e-5


def test_the_metric_of_one_question_is_a_logit_difference() -> None:
    known = planted_fact()
    task, tokens = known.task, known.task.clean
    plain = LogitDiff(task.answer[:, -1], task.wrong[:, -1])
    ours, theirs = (evaluate(known.model, [Run(tokens)], metric) for metric in (task.metric, plain))
    assert torch.equal(ours, theirs)
    logits = torch.tensor([[[1.0, 5.0], [2.0, 7.0], [3.0, 3.5]]])
    metric = AnswerDiff(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 0]]))
    assert float(metric(logits)) == (5.0 + 0.5) / 2
    with pytest.raises(BadInput, match=r"answers are for \[1, 3\]"):
        metric(logits[:, :2])


def test_or_hides_each_of_its_heads() -> None:
    """Single effects 0 and both -1; gradients at the clean run 0 each, integrated from zero a half each."""
    known = or_gate()
    model, tokens, metric = known.model, known.task.clean, known.task.metric
    heads = [carries(model, edge, 0.0) for edge in sorted(known.circuit)[:2]]
    none, first, second, both = evaluate(
        model, [Run(tokens), *(Run(tokens, [head]) for head in heads), Run(tokens, heads)], metric
    )
    assert [float(score) for score in (none, first, second, both)] == [1, 1, 1, 0]
    assert those_that_matter(model, tokens, 0.0, metric) == edges("m0->logits")
    assert those_that_matter(model, tokens, Run(known.task.corrupt), metric) == known.patching_circuit == set()
    path = integrated_gradients(model, tokens, metric, at("z", 0), over=("head",), steps=50)
    assert path.values.flatten().tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_and_is_seen_by_gradients_from_the_clean_side_alone() -> None:
    """relu(a + b - 1): noising either input costs 1, denoising gives nothing where both are 0."""
    known = and_gate()
    ones, zeros = known.tokens("11"), known.tokens("00")
    arguments: Any = (known.model, ones, zeros, LogitDiff([0], [1]), "resid_pre")
    for direction, expected in (("noise", [-1.0, -1.0]), ("denoise", [0.0, 0.0])):
        estimate = attribution_patch(*arguments, over=("pos",), direction=direction)
        base = estimate.baselines[estimate.scale[0]]
        assert (estimate.values - base).flatten().tolist() == pytest.approx(expected)


def test_the_micro_model_has_its_published_numbers() -> None:
    known = micro_model()
    model, clean = known.model, Run(known.task.clean)
    assert model(known.task.clean).flatten().tolist() == [25, 49]
    found, kept = [], []
    for edge in (("a0.h1", "logits"), ("a0.h0", "a1.h1<v>"), ("input", "a0.h0<v>")):
        kept.append(carries(model, edge, clean))
        (logits,) = evaluate(model, [Run(known.task.corrupt, list(kept))], lambda logits: logits)
        found.append(logits.flatten().tolist())
    assert found == [[-19, -41], [-13, -25], [-9, -13]]


@pytest.mark.parametrize(("d_vocab", "n_ctx"), [(11, 12), (7, 9), (30, 20)])
def test_the_induction_circuit_is_exact(d_vocab: int, n_ctx: int) -> None:
    known = induction(d_vocab, n_ctx)
    model, tokens = known.model.requires_grad_(False), known.task.clean[:8]
    half = tokens.shape[1] // 2
    _, cache = model.run_with_cache(tokens)
    before = cache["pattern", 0][:, 0].diagonal(offset=-1, dim1=1, dim2=2)
    after_copy = cache["pattern", 1][:, 0].diagonal(offset=1 - half, dim1=1, dim2=2)[:, 2:]
    assert float(before.min()) > 1 - 1e-6
    assert after_copy.shape[1] == half
    assert float(after_copy.min()) > 1 - 1e-6

    OV = [model.W_V[layer, 0] @ model.W_O[layer, 0] for layer in range(2)]
    QK = model.W_Q[1, 0] @ model.W_K[1, 0].T

    def composition(left: torch.Tensor, right: torch.Tensor) -> float:
        return float((left @ right).norm() / left.norm() / right.norm())

    assert composition(OV[0], QK.T) == pytest.approx((d_vocab + 0.25) ** -0.5)
    assert composition(OV[0], QK) == composition(OV[0], OV[1]) == 0.0
    assert torch.equal(model.W_E @ OV[1] @ model.W_U, torch.eye(d_vocab, dtype=torch.float64))
    assert not (OV[1] @ OV[1]).any(), "all its eigenvalues are 0, although it copies"


def test_the_planted_neuron_is_the_only_one() -> None:
    known = planted_neuron(layer=1, neuron=17)
    task, metric = known.task, known.task.metric
    neurons = [
        Run(task.clean, [Intervention(at("post", layer, neuron=neuron), 0.0)])
        for layer in range(3)
        for neuron in range(32)
    ]
    before, corrupt, *after = evaluate(known.model, [Run(task.clean), Run(task.corrupt), *neurons], metric)
    assert before.tolist() == [2.0] * 16
    assert corrupt.tolist() == [0.0] * 16
    assert [place for place, scores in enumerate(after) if not torch.equal(scores, before)] == [32 + 17]
    (alone,) = evaluate(known.model, [Run(task.clean, [Intervention(known.places["neuron"], 0.0)])], metric)
    assert alone.tolist() == [0.0] * 16


def test_the_planted_fact_is_at_the_last_name() -> None:
    known = planted_fact()
    asked, other = known.tokens(["<bos>", "Ada", "Kim", "lives-in"]), known.tokens(["<bos>", "Bo", "Ito", "lives-in"])
    runs = [Run(asked), Run(asked, [Intervention(known.places["subject"], Run(other))])]
    said = evaluate(known.model, runs, lambda logits: logits[:, -1].softmax(-1))[:, 0].argmax(-1)
    assert [known.outputs[word] for word in said] == ["Rome", "Lima"]
    elsewhere = [Run(asked, [Intervention(at("mlp_out", 0, pos=pos), Run(other))]) for pos in (0, 1, 3)]
    same = evaluate(known.model, [Run(asked), *elsewhere], lambda logits: logits[:, -1])
    assert torch.equal(same, same[:1].expand_as(same))


def test_bad_input_is_refused() -> None:
    kind: Any = "xor"
    with unchecked_types(), pytest.raises(BadInput, match="'xor'"):
        token_gate(kind)
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: token_gate("and", 0), "at least 1 input"),
        (lambda: induction(4, 12), "at least 5, got 4 and 12"),
        (lambda: planted_neuron(layer=3), "layer below 3"),
        (lambda: micro_model().tokens(["one"]), "'one' is not in the vocabulary. Did you mean ones"),
        (lambda: and_gate().tokens("10", "1"), r"same length, got lengths \[2, 1\]"),
    ]
    for call, message in bad:
        with pytest.raises(BadInput, match=message):
            call()


@pytest.mark.parametrize("kind", ["and", "or"])
def test_making_a_model_draws_no_random_number(kind: Literal["and", "or"]) -> None:
    state = torch.get_rng_state()
    token_gate(kind), induction(), planted_neuron(), planted_fact()
    assert torch.equal(torch.get_rng_state(), state)
