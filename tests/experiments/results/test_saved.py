"""What version 0.1 saved is still read, and can be computed again with the same numbers."""

from pathlib import Path

import pytest
import torch

from interp_hooks import Circuit, HookedTransformer, Result

SAVED = Path(__file__).parents[2] / "data" / "saved"
NO_CHANGE = ("direct_logit_attribution", "integrated_gradients")  # parts of a metric, not values of it


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny", device="cpu")


@pytest.mark.parametrize("folder", sorted(SAVED.iterdir()), ids=lambda folder: folder.name)
def test_loads_and_runs_again(folder: Path, model: HookedTransformer) -> None:
    """`any_model`: these records know the weights by their bits alone, which depend on the processor."""
    if (folder / "circuit.json").exists():
        circuit = Circuit.load(folder)
        again = circuit.rerun(model, any_model=True)
        assert circuit <= again
        assert circuit.scores is not None
        assert again.scores is not None
        for edge, score in circuit.scores.items():
            assert again.scores[edge] == pytest.approx(score, rel=1e-4, abs=1e-6)
    else:
        result = Result.load(folder)
        assert ("change" in result.table()) == (folder.name not in NO_CHANGE)
        torch.testing.assert_close(result.rerun(model, any_model=True).values, result.values, rtol=1e-4, atol=1e-5)
