"""Models in which heads have roles do what they say, along the edges that they name and no others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp_hooks import Intervention, Run, evaluate
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth import (
    GroundTruth,
    copy_suppression,
    function_vector,
    mixed_recall,
    name_movers,
    pointer_induction,
    successor,
)
from tests.ground_truth.edges import those_that_matter

NOTHING: Any = 0.0
MODELS: dict[str, Callable[[], GroundTruth]] = {
    "pointer": pointer_induction,
    "small pointer": lambda: pointer_induction(7, 9),
    "names": name_movers,
    "names without negative": lambda: name_movers(negative=False),
    "names without backup": lambda: name_movers(backup=False),
    "one name mover": lambda: name_movers(negative=False, backup=False),
    "suppressor": lambda: name_movers(False, False, suppressor=True),
    "suppression": copy_suppression,
    "successor": successor,
    "function vector": function_vector,
    "mixed recall": mixed_recall,
}


@pytest.mark.parametrize("name", MODELS)
def test_edges_matter_exactly_if_they_are_in_the_circuit(name: str) -> None:
    known = MODELS[name]()
    task, clean = known.task, torch.as_tensor(known.task.clean)
    assert those_that_matter(known.model, clean, NOTHING, task.metric) == known.circuit
    assert (
        those_that_matter(known.model, clean, Run(torch.as_tensor(task.corrupt)), task.metric) == known.patching_circuit
    )


@pytest.mark.parametrize(("d_vocab", "n_ctx"), [(11, 12), (30, 20)])
def test_the_pointer_finds_what_followed(d_vocab: int, n_ctx: int) -> None:
    known = pointer_induction(d_vocab, n_ctx)
    for tokens, right in ((known.task.clean, known.task.answer), (known.task.corrupt, known.task.wrong)):
        asked = known.task.answer != known.task.wrong
        said = known.model(tokens).detach()
        assert torch.equal(said.argmax(-1)[asked], right[asked])


def test_the_difference_of_names() -> None:
    for negative, backup in ((True, True), (True, False), (False, True), (False, False)):
        known = name_movers(negative, backup)
        task, expected = known.task, 0.5 if negative else 1.0
        silent = Run(task.clean, [Intervention(known.places["name mover"], 0.0)])
        scores = evaluate(known.model, [Run(task.clean), Run(task.corrupt), silent], task.metric).mean(1)
        without = -0.5 * negative + 1.0 * backup
        assert scores.tolist() == pytest.approx([expected, -expected, without], abs=1e-9)


def test_predictions_are_taken_back_and_successors_named() -> None:
    known = copy_suppression()
    scores = evaluate(known.model, [Run(known.task.clean), Run(known.task.corrupt)], known.task.metric)
    assert scores[0].tolist() == pytest.approx([1.0] * 11)
    assert scores[1].tolist() == pytest.approx([-1.0] * 11)
    items = successor()
    assert torch.equal(items.model(items.task.clean)[:, -1].argmax(-1), items.task.answer)


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 5, got 4 and 12"):
        pointer_induction(4, 12)


def test_making_a_model_draws_no_random_number() -> None:
    state = torch.get_rng_state()
    for make in MODELS.values():
        make()
    assert torch.equal(torch.get_rng_state(), state)
