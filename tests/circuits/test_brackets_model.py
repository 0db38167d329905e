"""The bundled `brackets`: what its card claims, and what scrubbing tells of its heads, against the same by hand."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, tasks
from interp_hooks.tasks import symbols
from tests.test_demos import said_by

ROOT = Path(__file__).parents[2]
CARD = (ROOT / "interp_hooks" / "loading" / "pretrained" / "brackets" / "README.md").read_text(encoding="utf-8")
CLAIM = re.compile(r"^ *(\S.*; .*\S|all they write) +(-[\d.]+) +(-?[\d.]+) +(-?[\d.]+) +(-?[\d.]+)$", re.MULTILINE)
HEAD = re.compile(r"^ *L(\d)H(\d) .* (\w+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return HookedTransformer.from_pretrained("brackets", device="cpu")


@pytest.fixture(scope="module")
def printed() -> str:
    return said_by("brackets")


@pytest.fixture(scope="module")
def recovered(printed: str) -> dict[str, tuple[float, float, float]]:
    """Of each claim the loss recovered, and the ends of its interval."""
    return {name: (float(at), float(low), float(high)) for name, _, at, low, high in CLAIM.findall(printed)}


def matches(row: list[int]) -> bool:
    """Whether brackets match, one after the other."""
    opened = 0
    for token in row:
        opened += {symbols.OPEN: 1, symbols.CLOSE: -1}.get(token, 0)
        if opened < 0:
            return False
    return opened == 0


def told_right(model: HookedTransformer, tokens: Tensor) -> Tensor:
    says = model(tokens)[:, 0].argmax(-1) == symbols.BALANCED
    return says == torch.tensor([matches(row) for row in tokens.tolist()])


def test_new_rows_are_told_as_well_as_the_card_says(model: HookedTransformer) -> None:
    """4000 of each kind, of 40 brackets; a share of them is off by less than four standard errors."""
    generator = torch.Generator().manual_seed(99)
    good = symbols.balanced_rows(4000, 40, generator)
    kinds = {
        "balanced": good,
        "one turned": symbols.one_turned(good, generator),
        "two exchanged": symbols.two_exchanged(good, generator),
        "random": symbols.unbalanced_rows(4000, 40, generator),
    }
    for kind, rows in kinds.items():
        (claimed,) = map(float, re.findall(rf"\| accuracy, {kind}, 40 brackets \| ([\d.]+) \|", CARD))
        right = told_right(model, symbols.enclosed(rows)).double().mean().item()
        assert abs(right - claimed) < 4 * max(claimed * (1 - claimed), 1e-4) ** 0.5 / 4000**0.5 + 1e-4, kind
        assert claimed > (0.999 if kind == "balanced" else 0.995)


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_every_short_row_is_told_right(model: HookedTransformer, length: int) -> None:
    rows = torch.tensor(list(itertools.product((symbols.OPEN, symbols.CLOSE), repeat=length)))
    assert bool(told_right(model, symbols.enclosed(rows)).all())


def test_the_story_is_recovered_and_wrong_ones_are_not(recovered: dict[str, tuple[float, float, float]]) -> None:
    story, refined = recovered["count; horizon"], recovered["count; both"]
    assert recovered["all they write"][0] > 0.95
    assert refined[0] > 0.9
    assert refined[1] > story[2], "the intervals do not overlap"
    for wrong in ("horizon; count", "count; count", "count; -", "-; horizon", "-; -"):
        assert story[1] > recovered[wrong][2], wrong
    assert story[0] - recovered["horizon; count"][0] > 0.25


def test_heads_that_hear_of_the_count_alone_pass_near_misses_of_the_horizon(printed: str) -> None:
    (shares,) = re.findall(r"count alone, told right:\n(.*)", printed)
    itself, deaf = (
        {kind: float(share) for share, kind in re.findall(r"([\d.]+) of ([a-z ]+)", line)}
        for line in (printed.splitlines()[0], shares)
    )
    assert itself["two exchanged"] > 0.98
    assert deaf["two exchanged"] < 0.5
    assert deaf["one turned"] > 0.9


def test_scrubbing_by_hand_recovers_the_same(
    model: HookedTransformer, printed: str, recovered: dict[str, tuple[float, float, float]]
) -> None:
    """Values of heads at START from rows that agree in a feature, in a run on other rows, with plain hooks."""
    heads = [(int(layer), int(head), role) for layer, head, role in HEAD.findall(printed)]
    assert [one[:2] for one in heads] == list(itertools.product(range(3), range(2)))
    tokens = torch.as_tensor(tasks.brackets(3000, length=40, near_misses=0.8, seed=7).clean)
    texts = tokens[:, 1:-1].tolist()
    elevation = torch.tensor([row.count(symbols.CLOSE) - row.count(symbols.OPEN) for row in texts])
    lowest = torch.tensor(
        [min(itertools.accumulate(1 if one == symbols.CLOSE else -1 for one in row[::-1])) for row in texts]
    )
    horizon = (lowest >= 0).long()
    answers = ((elevation == 0) & (lowest >= 0)).long()
    both = 2 * horizon + (elevation == 0)
    generator = torch.Generator().manual_seed(1)
    _, cache = model.run_with_cache(tokens)

    def score(logits: Tensor) -> float:
        return logits[:, 0].log_softmax(-1).gather(1, answers[:, None]).mean().item()

    def drawn(feature: Tensor) -> Tensor:
        return torch.stack([_any_of((feature == one).nonzero()[:, 0], generator) for one in feature])

    def scrubbed(count: Tensor, horizon: Tensor) -> float:
        rows = {"count": drawn(count), "horizon": drawn(horizon)}
        put: list[Any] = []
        for layer, head, role in heads:
            if role in rows:
                value = cache["z", layer][rows[role], 0, head]

                def at_start(z: Tensor, hook: Any, head: int = head, value: Tensor = value) -> Tensor:
                    z[:, 0, head] = value
                    return z

                put.append((f"blocks.{layer}.attn.hook_z", at_start))
        other = torch.randint(len(tokens), (len(tokens),), generator=generator)
        return score(model.run_with_hooks(tokens[other], fwd_hooks=put))

    with torch.no_grad():
        best = score(model(tokens))
        least = score(model(tokens)[torch.randperm(len(tokens), generator=generator)])
        found = {
            "count; horizon": scrubbed(elevation, horizon),
            "count; both": scrubbed(elevation, both),
            "horizon; count": scrubbed(horizon, elevation),
            "count; count": scrubbed(elevation, (elevation == 0).long()),
        }
    for name, left in found.items():
        at, low, high = recovered[name]
        assert abs((left - least) / (best - least) - at) < 0.02 + (high - low), name


def _any_of(rows: Tensor, generator: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (), generator=generator)]
