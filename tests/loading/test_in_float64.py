"""Models with other mixers than attention give HuggingFace's numbers to the last digits.

HuggingFace computes norms, recurrences and routers in float32 whatever the model's dtype, so that `test_families` can
compare them to 1e-5 only. Here whatever it asks for in float32 is float64.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.family_configs import CONFIGS
from tests.test_families import TOKENS, build, family_of
from tests.tiny import assert_close, convert, hf_logits, our_logits


class InFloat64(TorchFunctionMode):
    """Whoever asks for float32 gets float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        return func(*map(wider, args), **{name: wider(value) for name, value in (kwargs or {}).items()})


def wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def has_lines_by_mixer(name: str) -> bool:
    return any("{" in line and "{i}" not in line for line in family_of(name).weights)


def is_new_to_float64(name: str) -> bool:
    """Whether a component computes what no other family's does."""
    return name.startswith(("gemma4", "mimo"))


@pytest.mark.parametrize("name", [name for name in CONFIGS if has_lines_by_mixer(name) or is_new_to_float64(name)])
def test_logits(name: str) -> None:
    hf = build(name).double()
    for part in hf.modules():
        if hasattr(part, "decay_factors"):  # powers of a decay, which were made in float32
            part.query_decay, part.key_decay, part.diagonal_decay = part.decay_factors(part.slope_rate)
    with InFloat64():
        theirs = hf_logits(hf, TOKENS)
    assert_close(our_logits(convert(hf), TOKENS), theirs, 1e-12)
