"""How an answer is checked: what a check raises, and the models, numbers and prompts that answers are tried on."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    Task,
    ioi_pairs,
)

BLANK = "it is still blank. Write your answer in place of the dots or of `raise NotImplementedError`, and run its cell."


class NotRight(AssertionError):
    """An answer is not right yet; the message says of which exercise, and what to look at."""


def exercise(number: str, told: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function that raises `NotRight` into the check of an exercise; `told` is what a right answer is told."""

    def checking(check: Callable[..., None]) -> Callable[..., None]:
        @wraps(check)
        def checked(*answers: Any) -> None:
            try:
                expect(not any(answer is ... for answer in answers), BLANK)
                check(*answers)
            except NotRight as error:
                raise NotRight(f"Exercise {number}: {error}") from None
            except NotImplementedError:
                raise NotRight(f"Exercise {number}: {BLANK}") from None
            except Exception as error:
                raise NotRight(f"Exercise {number}: your answer raised {type(error).__name__}: {error}") from error
            print(f"Exercise {number} is right. {told}")

        return checked

    return checking


def expect(holds: Any, otherwise: str) -> None:
    """Raise `NotRight` with what to say otherwise, unless something holds."""
    if not bool(holds):
        raise NotRight(otherwise)


def numbers(answer: Any, shape: tuple[int, ...], name: str) -> Tensor:
    """An answer as the tensor that it has to be, of this shape."""
    expect(answer is not None, f"{name} is None; does the function return something?")
    expect(isinstance(answer, Tensor), f"{name} must be a tensor, it is a {type(answer).__name__}")
    expect(tuple(answer.shape) == shape, f"{name} must have the shape {list(shape)}, it has {list(answer.shape)}")
    expect(bool(answer.isfinite().all()), f"{name} has entries that are nan or infinite")
    return answer.detach()


def near(one: Tensor, other: Tensor, tolerance: float = 1e-6) -> bool:
    """Whether two tensors agree, in parts of the larger one's largest entry."""
    one, other = one.detach(), other.detach()
    return float((one - other).abs().max()) <= tolerance * max(1.0, float(other.abs().max()))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_model(*, attn_only: bool = False, normalization_type: str = "LNPre", seed: int = 0) -> HookedTransformer:
    """A small causal model of two layers with three heads, all of whose parameters, biases included, are random."""
    shape = dict(
        n_layers=2, d_model=12, n_heads=3, d_head=5, n_ctx=9, d_vocab=11, normalization_type=normalization_type
    )
    mlp = dict(attn_only=True) if attn_only else dict(d_mlp=14, act_fn="relu")
    model = HookedTransformer(dict(**shape, **mlp, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.6, generator=generator)
    return model


@lru_cache
def bundled(name: str) -> HookedTransformer:
    """A model that comes with the package, loaded once."""
    return HookedTransformer.from_pretrained(name, device="cpu")


def random_tokens(batch: int = 3, pos: int = 7, seed: int = 0) -> Tensor:
    """Token ids [batch, pos] for `random_model`."""
    return torch.randint(11, (batch, pos), generator=torch.Generator().manual_seed(seed))


def clean_of_hooks(model: HookedTransformer) -> None:
    """The model has no hook left."""
    left = [point.name for point in model.hook_points() if point.hooks]
    expect(not left, f"a hook is still attached to {left[0] if left else ''}: use run_with_hooks, which takes it off")


@lru_cache
def repeated(n: int, length: int, place: int, seed: int) -> tuple[Tensor, Tensor]:
    """Prompts of different words of which the first `place` come again, and the word that comes next."""
    order = torch.rand(n, 64, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    words = 1 + order[:, :length]
    return torch.cat((torch.zeros(n, 1, dtype=torch.long), words, words[:, :place]), dim=1), words[:, place]


@lru_cache
def ioi_run(n: int, seed: int, template: int) -> tuple[HookedTransformer, Task, Tensor, Any]:
    """`ioi-tiny`, a task, its clean tokens, and the cache of their run."""
    model = bundled("ioi-tiny")
    task = ioi_pairs(model, n, seed=seed, template=template)
    tokens = model.to_tokens(task.clean)
    return model, task, tokens, model.run_with_cache(tokens)[1]


def as_head(answer: Any, name: str) -> tuple[int, int]:
    """A pair (layer, head) of `ioi-tiny`."""
    fits = isinstance(answer, tuple | list) and len(answer) == 2 and all(isinstance(one, int) for one in answer)
    expect(fits and 0 <= answer[0] < 3 and 0 <= answer[1] < 4, f"{name} must be pairs (layer, head) of this model")
    return answer[0], answer[1]
