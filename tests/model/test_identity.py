"""Models are recognised by their weights, wherever these were processed."""

import copy

import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.model.identity import Identity
from tests.tiny import build


def test_weights_that_were_rounded_otherwise_are_the_same() -> None:
    model = build(dtype=torch.float32)
    identity, rounded = Identity.of(model), copy.deepcopy(model)
    with torch.no_grad():
        for weight in rounded.parameters():
            up = torch.rand_like(weight) > 0.5
            weight.copy_(torch.nextafter(weight, weight.new_full((), torch.inf).where(up, -torch.inf)))
    identity.refuse_others(rounded)
    assert Identity.of(rounded).weights != identity.weights


@pytest.mark.parametrize("change", [1e-4, 1.0])
def test_other_weights_are_refused(change: float) -> None:
    model = build(dtype=torch.float32)
    identity, other = Identity.of(model), copy.deepcopy(model)
    with torch.no_grad():
        other.blocks[1].mlp.W_in[0] += change
    with pytest.raises(BadInput, match="not those of the result"):
        identity.refuse_others(other)


def test_without_sums_only_the_bits_count() -> None:
    model = build(dtype=torch.float32)
    before = Identity(**{**vars(Identity.of(model)), "sums": None})
    before.refuse_others(model)
    with torch.no_grad():
        model.embed.W_E[0, 0] += 1e-7
    with pytest.raises(BadInput, match="not those of the result"):
        before.refuse_others(model)
