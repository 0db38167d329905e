"""Rotations by their definition, and scaled frequencies."""

from typing import Any

import pytest
import torch

from interp_hooks.errors import ConfigError
from interp_hooks.model.components.embed import LearnedPositions
from interp_hooks.model.components.positions import RotaryPositions, Rotation, rotate, scaled_frequencies
from tests.tiny import assert_close, build

POSITIONS = torch.arange(6)[None]
X = torch.randn(2, 6, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def rotary(**fields: Any) -> RotaryPositions:
    return RotaryPositions(build(positional_embedding_type="rotary", d_head=8, **fields).cfg)


@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize("width", [2, 4, 8])
def test_each_pair_is_a_complex_number_that_is_turned(width: int, adjacent: bool) -> None:
    fields = dict(rotary_dim=width, rotary_base=50.0, rotary_adjacent_pairs=adjacent)
    rotation = rotary(**fields)(POSITIONS, torch.float64)[0]
    turned = rotate(X, rotation)
    pairs = [(2 * f, 2 * f + 1) if adjacent else (f, f + width // 2) for f in range(width // 2)]
    for f, (real, imaginary) in enumerate(pairs):
        angle = POSITIONS[0].double() * 50.0 ** (-2 * f / width)
        number = torch.complex(X[..., real], X[..., imaginary]) * torch.polar(torch.ones(6).double(), angle)[:, None]
        # frequencies are float32, 6e-8, and positions up to 5
        assert_close(turned[..., real], number.real, 1e-6)
        assert_close(turned[..., imaginary], number.imag, 1e-6)
    assert torch.equal(turned[..., width:], X[..., width:]), "the rest of a head is not turned"


def test_reversed_rotations_turn_the_other_way() -> None:
    forwards, backwards = (
        rotary(rotary_base=50.0, rotary_reversed=reverse)(POSITIONS, torch.float64)[0] for reverse in (False, True)
    )
    assert torch.equal(backwards.cos, forwards.cos)
    assert torch.equal(backwards.sin, -forwards.sin)
    assert_close(rotate(rotate(X, forwards), backwards), X, 1e-12)


def test_rows_may_have_positions_of_their_own() -> None:
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]])
    both = rotate(X, rotary()(positions, torch.float64)[0])
    for row in range(2):
        alone = rotate(X[row : row + 1], rotary()(positions[row : row + 1], torch.float64)[0])
        assert torch.equal(both[row : row + 1], alone)


def test_half_precision_angles_are_computed_in_float32() -> None:
    far = torch.tensor([[4001]])
    (half, *_), (exact, *_) = rotary()(far, torch.bfloat16), rotary()(far, torch.float32)
    assert half.cos.dtype == torch.bfloat16
    assert torch.equal(half.cos, exact.cos.bfloat16())
    assert torch.equal(half.sin, exact.sin.bfloat16())


def test_an_unknown_scaling_suggests_the_nearest() -> None:
    scaling = {"rope_type": "linaer", "rope_theta": 1e4, "max_position_embeddings": 8}
    with pytest.raises(ConfigError, match=r"no rotary scaling 'linaer'.*Did you mean linear"):
        scaled_frequencies(scaling, 8, None, POSITIONS.device)


def test_linear_scaling_divides_positions() -> None:
    scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4, "max_position_embeddings": 8}
    stretched = rotary(rotary_scaling=scaling)(4 * POSITIONS, torch.float64)[0]
    plain = rotary()(POSITIONS, torch.float64)[0]
    assert_close(stretched.cos, plain.cos, 1e-6)  # float32 frequencies
    assert_close(stretched.sin, plain.sin, 1e-6)


def test_learned_positions_are_rows() -> None:
    made = LearnedPositions(build().cfg)
    torch.nn.init.normal_(made.W_pos)
    shared = made(torch.arange(5)[None], 3)
    assert list(shared.shape) == [3, 5, 12]
    assert torch.equal(shared[2], made.W_pos[:5])
    own = made(torch.tensor([[0, 1], [4, 0]]), 2)
    assert torch.equal(own[1], made.W_pos[[4, 0]])


def test_a_rotation_is_a_pair() -> None:
    rotation = rotary()(POSITIONS, torch.float64)[0]
    assert isinstance(rotation, Rotation)
    assert list(rotation.cos.shape) == list(rotation.sin.shape) == [1, 6, 1, 8]
    assert_close(rotation.cos.square() + rotation.sin.square(), torch.ones(1, 6, 1, 8), 1e-14)
