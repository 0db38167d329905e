"""A short run of the fuzzer with a fixed seed: every public call refuses in this package's words, and soon.

`python -m tests.fuzz 600 --seed 1` is a long one.
"""

from typing import Any

import pytest
import torch

from interp_hooks import FactoredMatrix, circuits, gradient_x_input, integrated_gradients, ioi_pairs, tasks
from interp_hooks.errors import BadInput, InterpHooksError, OutOfRange
from interp_hooks.errors.arguments import Count, Seed, described, fits
from tests import fuzz
from tests.tiny import unchecked_types

CALLS = 400


def test_no_bare_errors() -> None:
    made, wrong = fuzz.fuzz(60, seed=5, calls=CALLS)
    assert made == CALLS, "it was too slow"
    assert not wrong, "\n".join(f"{what}\n    {shown}" for what, shown in wrong.items())


def test_a_bare_error_and_a_call_that_hangs_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(layer: int) -> Any:
        return [][3] if layer else None

    def endless(layer: int) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "PATIENCE", 0.2)
    for call, expected in ((bare, "IndexError"), (endless, "hangs")):
        monkeypatch.setattr(fuzz, "targets", fuzz.functools.cache(lambda call=call: {"call": call}))
        _, wrong = fuzz.fuzz(20, seed=0, calls=8)
        assert any(expected in what for what in wrong)


# ------------------------------------------------------------------------------------- what it has found, by hand


def test_absurd_counts_are_refused_before_anything_is_computed() -> None:
    w = fuzz.world()
    prompts = dict(model=w.model, prompts=w.pairs.clean, metric=w.metric, site="hook_embed")
    with unchecked_types():
        for call in (
            lambda: integrated_gradients(**prompts, steps=10**9),
            lambda: circuits.eap_ig(w.model, w.pairs, steps=10**12),
            lambda: ioi_pairs(w.model, 10**9),
            lambda: tasks.induction(n=10**9, d_vocab=20),
            lambda: w.result.interval(samples=10**10),
        ):
            with fuzz.at_most(2), pytest.raises(BadInput, match=r"(steps|n|samples) must be an int of at most 1000000"):
                call()
    assert gradient_x_input(**prompts).values.isfinite().all()


def test_ranges_of_annotations() -> None:
    assert [fits(value, Count) for value in (3, -3, 10**6, 10**6 + 1, True, 2.0, "3")] == [True] * 3 + [False] * 4
    assert [fits(value, Seed) for value in (0, -1, 2**63 - 1, 2**63)] == [True, True, True, False]
    assert described(Count) == "an int of at most 1000000"
    assert described(Count | None) == "an int of at most 1000000"


@pytest.mark.parametrize(
    "given",
    [True, torch.tensor(True), torch.tensor(1j), torch.tensor(1.0), torch.ones(1), torch.ones((), device="meta")],
)
def test_what_is_no_int(given: Any) -> None:
    assert not fits(given, int)
    with unchecked_types(), pytest.raises(BadInput, match="layer must be an int"):
        fuzz.world().model.accumulated_bias(given)


def test_indices_of_a_factored_matrix() -> None:
    matrix = FactoredMatrix(torch.rand(3, 4, 2), torch.rand(3, 2, 5))
    assert len(list(matrix)) == 3, "iteration ends by an IndexError"
    for index in (3, -4, (0, 4), (0, 0, 5), [5]):
        with pytest.raises(OutOfRange, match="does not fit a matrix of shape"):
            matrix[index]
    for index in ("x", 1.5, object(), torch.tensor([0.5]), {}):
        with unchecked_types(), pytest.raises(BadInput, match="an index is an int"):
            matrix[index]
    with pytest.raises(BadInput, match=r"multiplied with one of the same dtype, got a torch\.int64 tensor \[5\]"):
        matrix @ torch.ones(5, dtype=torch.long)


def test_options_that_an_experiment_has_not() -> None:
    w = fuzz.world()
    result = gradient_x_input(w.model, w.pairs, site="hook_embed")
    with pytest.raises(InterpHooksError, match="has no argument 'save_to'"):
        result.rerun(w.model, save_to="somewhere")
