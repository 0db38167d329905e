"""Paths over two tokens sum to what comes through the sender, and go the way that is built in."""

from typing import Any

import pytest
import torch

from interp_hooks import Run
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.handmade import induction
from interp_hooks.ground_truth.heads import pointer_induction
from interp_hooks.studies.heads.composing import composition_parts
from interp_hooks.studies.heads.hops import token_paths
from tests.tiny import CUSTOM, assert_close, build, random_tokens, unchecked_types

NAMES = ("folded", "alibi-windows", "sinks-capped", "output-norms", "shared-norm", "latent", "bidirectional")


@pytest.mark.parametrize("name", NAMES)
def test_paths_sum_to_the_part(name: str) -> None:
    model, real = build(**CUSTOM[name]), torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    run = Run(random_tokens(2, d_vocab=23), (), real)
    answer = torch.tensor([1, 2])
    options: list[tuple[Any, dict[str, Any]]] = [
        ("Q", dict(query=6, key=5)),
        ("K", dict(query=6, key=5, against="nothing")),
        ("K", {}),
        ("V", {}),
        ("V", dict(query=6, answer=answer)),
    ]
    for via, places in options:
        parts = composition_parts(model, run, via, **places)
        paths = token_paths(model, run, (0, 1), (2, 3), via, **places)
        whole = paths.values.sum((0, 1)).detach()
        assert_close(whole, parts.values[parts.axes["sender"].index("L0H1"), 11].detach(), 1e-9)
        assert not bool(paths.values[:, :2, 0].any()), "padding sends nothing"


def test_a_query_is_read_at_the_query_and_a_key_at_the_key() -> None:
    model, tokens = build(), random_tokens(2, d_vocab=23)
    for via, place in (("Q", 5), ("K", 3)):
        kind: Any = via
        paths = token_paths(model, tokens, (0, 1), (2, 3), kind, query=5, key=3, against="nothing").values
        elsewhere = [middle for middle in range(7) if middle != place]
        assert bool(paths[place].any())
        assert not bool(paths[elsewhere].any())


def test_the_induction_head_is_told_of_the_token_before_its_key() -> None:
    known = induction()
    paths = token_paths(known.model, known.task.clean[:8], (0, 0), (1, 0), "K", query=6, key=2, against=3)
    share = paths.values / paths.values.sum((0, 1))
    assert_close(share[2, 1], torch.ones(8, dtype=torch.float64), 1e-6)


def test_the_pointing_head_is_told_of_the_earlier_copy() -> None:
    known = pointer_induction()
    paths = token_paths(known.model, known.task.clean[:8], (0, 0), (1, 0), "Q", query=6, key=2, against=3)
    share = paths.values / paths.values.sum((0, 1))
    assert_close(share[6, 1], torch.ones(8, dtype=torch.float64), 1e-6)


def test_what_is_refused() -> None:
    model, tokens = build(), random_tokens(2, d_vocab=23)
    for call, message in (
        (lambda: token_paths(model, tokens, (0, 4), (1, 0), "K"), "no head 4 in layer 0"),
        (lambda: token_paths(model, tokens, (1, 0), (1, 1), "K"), "an earlier layer"),
        (lambda: token_paths(model, tokens, (0, 0), (1, 1), "V", query=3, key=2), "a query alone"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
