"""A tiny random model of every type gives finite logits in both half precisions, near those of float32.

All in one test, whose failure names the models: the members are those of `tests/test_families.py`, which compares
bfloat16 with HuggingFace's. Here float16 is asked too, whose numbers end at 65504, and a padded row, where masks meet
the range.
"""

import copy

import pytest
import torch
from torch import Tensor

from tests.family_configs import first_of_each_type
from tests.test_families import TOKENS, ours
from tests.tiny import unchecked_types

ROUNDINGS = 10  # each of about so many steps rounds by eps at most; most models are ten times nearer


def logits_of(name: str, dtype: torch.dtype) -> Tensor:
    """Of rows of which the second begins with padding: [real token, logit]."""
    model = ours(name) if dtype == torch.float32 else copy.deepcopy(ours(name)).to(dtype)
    real = torch.ones_like(TOKENS)
    real[1, :3] = 0
    with torch.no_grad():
        return model(TOKENS, attention_mask=real)[real.bool()]


def what_is_wrong(name: str, dtype: torch.dtype) -> str | None:
    exact, found = logits_of(name, torch.float32).double(), logits_of(name, dtype).double()
    if not bool(found.isfinite().all()):
        return f"{name}: logits that are nan or infinite"
    distance = (found - exact).norm() / (exact - exact.mean(-1, keepdim=True)).norm()
    return None if distance <= ROUNDINGS * torch.finfo(dtype).eps else f"{name}: relative distance {distance:.2g}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_of_every_type(dtype: torch.dtype) -> None:
    with unchecked_types():
        wrong = [found for name in first_of_each_type() if (found := what_is_wrong(name, dtype)) is not None]
    assert not wrong, "\n".join(wrong)
