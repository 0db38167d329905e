"""Two ranks train the dictionaries that one process trains on their batches put together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks.dictionaries import Recipe, train_by_rank, train_dictionaries
from interp_hooks.dictionaries import training as module
from interp_hooks.dictionaries.active import largest_of_batch
from interp_hooks.dictionaries.buffer import ActivationBuffer
from interp_hooks.dictionaries.ranks import Ranks
from interp_hooks.errors import BadInput
from tests.children import on_ranks
from tests.tiny import assert_close, build, unchecked_types

TEXTS = [torch.randint(23, (9,), generator=torch.Generator().manual_seed(n)) for n in range(60)]
MLPS: dict[str, Any] = dict(
    sites=tuple(f"blocks.{layer}.ln2.hook_normalized" for layer in range(3)),
    sites_out=tuple(f"blocks.{layer}.hook_mlp_out" for layer in range(3)),
)
RECIPES = {
    "sae": Recipe(hook="mlp_out1", n_features=30, k=3, dead_after=40, learning_rate=1e-2),
    "jumprelu": Recipe(hook="resid_post1", n_features=20, k=4, kind="jumprelu", learning_rate=1e-2),
    "transcoder": Recipe(hook="mlp_in1", hook_out="mlp_out1", n_features=18, k=3, kind="topk", skip=True),
    "crosscoder": Recipe(sites=("resid_post0", "resid_post1"), n_features=21, kind="relu"),
    "clt": Recipe(**MLPS, n_features=24, k=4, dead_after=40, learning_rate=1e-2),
}
HOW: dict[str, Any] = dict(  # first tokens, which know no other, are alike: then who is among the largest is a draw
    steps=12, tokens_per_step=32, buffer=128, tokens_at_once=64, exclude=("first",), progress=False
)


class Joined(ActivationBuffer):
    """The buffers of two ranks as one: a batch is that of the first with that of the second after it."""

    def __init__(self, *args: Any, tokens: int, generator: torch.Generator, part: tuple[int, int], **how: Any) -> None:
        draws = [torch.Generator().manual_seed(generator.initial_seed()) for _ in range(2)]
        self.each = [
            ActivationBuffer(*args, tokens=tokens // 2, generator=draw, part=(rank, 2), **how)
            for rank, draw in enumerate(draws)
        ]
        self.hooks = self.each[0].hooks

    def fill(self) -> None:
        for one in self.each:
            one.fill()

    @property
    def left(self) -> dict[Any, Tensor]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {hook: torch.cat([one.left[hook] for one in self.each]) for hook in self.hooks}

    def take(self, n: int) -> dict[Any, Tensor]:
        parts = [one.take(n // 2) for one in self.each]
        return {hook: torch.cat([part[hook] for part in parts]) for hook in self.hooks}


class Killed(Exception):
    pass


def by_ranks(folder: Path) -> None:
    """What a rank does: train; train again, but be killed; go on."""
    from torch import distributed

    distributed.init_process_group("gloo")
    model, rank = build(d_vocab_out=23), distributed.get_rank()
    found = {"whole": train_by_rank(model, TEXTS, RECIPES, **HOW)}
    begun = module._Fit._train

    def killed(self: Any, bar: Any) -> None:
        if self.step == 7:
            raise Killed
        begun(self, bar)

    module._Fit._train = killed
    try:
        train_by_rank(model, TEXTS, RECIPES, save_to=folder / "fit", save_every=5, **HOW)
    except Killed:
        module._Fit._train = begun
    distributed.barrier()
    found["resumed"] = train_by_rank(model, TEXTS, RECIPES, save_to=folder / "fit", save_every=5, **HOW)
    told = {run: {name: (one.tensors(), one.facts) for name, one in each.items()} for run, each in found.items()}
    torch.save(told, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_are_one_process_with_both_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_ranks(lambda: by_ranks(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    monkeypatch.setattr(module, "ActivationBuffer", Joined)
    with unchecked_types():  # which would take this for what stands in an annotation
        joined = train_dictionaries(build(d_vocab_out=23), TEXTS, RECIPES, **HOW)
    for name, one in joined.items():
        tensors, facts = first["whole"][name]
        assert facts == second["whole"][name][1]
        assert facts["options"]["ranks"] == 2
        for key, value in one.tensors().items():
            for other in (second["whole"], first["resumed"], second["resumed"]):
                assert torch.equal(tensors[key], other[name][0][key]), (name, key)
            assert_close(tensors[key], value, 1e-6)
        for mine, theirs in zip(facts["history"], one.facts["history"], strict=True):
            assert (mine[0], mine[1], mine[3]) == pytest.approx((theirs[0], theirs[1], theirs[3]))
    alone = [row[3] for row in joined["sae"].facts["history"]]
    assert max(alone) > 0  # some features were dead, so that the loss for them was there
    monkeypatch.undo()
    with pytest.raises(BadInput, match="other ranks"):
        train_dictionaries(build(d_vocab_out=23), TEXTS, RECIPES, save_to=tmp_path / "fit", **HOW)


def test_the_largest_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps those of its own that are among the largest of all; the others' values come by a stand-in."""
    pre = torch.randn(2, 30, 17, generator=torch.Generator().manual_seed(0))
    pre[1] += 0.5

    def all_gather(every: list[Tensor], here: Tensor) -> None:
        for place, part in enumerate(pre):
            every[place].copy_(part.flatten().topk(len(here)).values.relu())

    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    least = pre.flatten().topk(120).values[-1]
    for rank, part in enumerate(pre):
        kept = Ranks(rank, 2).largest(part, largest_of_batch(part, 120), 60)
        chosen = torch.zeros_like(part, dtype=torch.bool)
        chosen[kept.token, kept.feature] = True
        assert torch.equal(chosen, part >= least)


def test_bad_input_is_told() -> None:
    model = build(d_vocab_out=23)
    with pytest.raises(BadInput, match="runs under torchrun"):
        train_by_rank(model, TEXTS, RECIPES["sae"], **HOW)
    with pytest.raises(BadInput, match="a multiple of 3"):
        train_dictionaries(model, TEXTS, RECIPES["sae"], ranks=Ranks(0, 3), **HOW)
