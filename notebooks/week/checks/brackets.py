"""Day 4: features of brackets, near misses, who tells of what, readings, an input that fools the model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from checks.answers import (
    bundled,
    drawn,
    exercise,
    expect,
    near,
    numbers,
)
from interp_hooks import (
    LogitDiff,
    Result,
    patch,
)
from interp_hooks.tasks import symbols


def matches(row: list[int]) -> bool:
    """Whether brackets match, by taking pairs away."""
    text = "".join({symbols.OPEN: "(", symbols.CLOSE: ")"}.get(token, "") for token in row)
    while "()" in text:
        text = text.replace("()", "")
    return not text


def bracket_rows(length: int, seed: int) -> Tensor:
    """Balanced rows, near misses of both kinds and random rows, each 40 times, between START and END."""
    generator = torch.Generator().manual_seed(seed)
    good = symbols.balanced_rows(40, length, generator)
    bad = (symbols.one_turned(good, generator), symbols.two_exchanged(good, generator))
    random = torch.randint(symbols.OPEN, symbols.CLOSE + 1, good.shape, generator=generator)
    return symbols.enclosed(torch.cat((good, *bad, random)))


@exercise("4.1", "Balanced rows go up, and come back to 0 where they begin.")
def elevation(answer: Callable[..., Tensor]) -> None:
    tokens = bracket_rows(8, seed=5)
    got = numbers(answer(tokens.clone()), tuple(tokens.shape), "the elevation [prompt, pos]")
    steps = {symbols.OPEN: -1, symbols.CLOSE: 1}
    wanted = torch.tensor(
        [[sum(steps.get(one, 0) for one in row[pos:]) for pos in range(10)] for row in tokens.tolist()]
    )
    expect(not got.equal(-wanted), "the sign is the other way round: it is ) minus (")
    expect(
        got.equal(wanted), "it is not how many more ) than ( there are from each position, itself included, to the end"
    )


@exercise("4.2", "A row is balanced if and only if neither is the case.")
def failures(answer: Callable[..., tuple[Tensor, Tensor]]) -> None:
    tokens = bracket_rows(10, seed=6)
    count_wrong, horizon_broken = answer(tokens.clone())
    balanced = torch.tensor([matches(row) for row in tokens.tolist()])
    opened, closed = ((tokens == token).sum(1) for token in (symbols.OPEN, symbols.CLOSE))
    for name, one in (("the count", count_wrong), ("the horizon", horizon_broken)):
        numbers(one, (len(tokens),), f"whether {name} fails")
        expect(one.dtype == torch.bool, f"whether {name} fails must be a tensor of bools")
    expect(not count_wrong.equal(opened == closed), "it is the other way round: True where the count is *wrong*")
    expect(count_wrong.equal(opened != closed), "the count is wrong where there are not as many ( as )")
    expect(not (balanced & horizon_broken).any(), "a balanced row never breaks the horizon; one of yours does")
    expect((balanced | count_wrong | horizon_broken).all(), "an unbalanced row with a right count breaks the horizon")
    up = torch.tensor([[symbols.START, *[symbols.CLOSE] * 3, symbols.END]])
    expect(not answer(up)[1].any(), "`)))` has a wrong count, and its elevation is never below 0")


@exercise("4.3", "Who counts alone is fooled by every one of them.")
def two_exchanged(answer: Callable[..., Tensor]) -> None:
    for length in (6, 20):
        rows = symbols.balanced_rows(60, length, torch.Generator().manual_seed(length))
        given = rows.clone()
        got = numbers(answer(given), tuple(rows.shape), "the rows")
        expect(given.equal(rows), "the rows that were given have changed; return a clone")
        expect(symbols.count_is_right(got).all(), "the count of a row is not right any more")
        expect(not symbols.horizon_is_kept(got).any(), "a row still keeps the horizon")
        changed = (got != rows).sum(1)
        expect((changed == 2).all(), f"two brackets change, no more; in one row of yours {int(changed.max())} do")


@exercise("4.4", "Two heads of layer 1 say something that the other near miss does not need.")
def restored(answer: Callable[..., Result]) -> None:
    model, generator = bundled("brackets"), torch.Generator().manual_seed(8)
    rows = symbols.balanced_rows(40, 30, generator)
    good, bad = symbols.enclosed(rows), symbols.enclosed(symbols.one_turned(rows, generator))
    got = answer(model, good, bad)
    expect(isinstance(got, Result), f"the function must return a Result, it returns a {type(got).__name__}")
    expect([*got.axes] == ["layer", "head"], f"the axes must be layer and head, they are {', '.join(got.axes)}")
    expect(got.values.shape[-1] == 40, "there is no number for each prompt")
    _, cache = model.run_with_cache(good)

    def put(z: Tensor, hook: Any) -> None:
        z[:, 0, 1] = cache[hook.name][:, 0, 1]

    with torch.no_grad():
        wanted, before = model.run_with_hooks(bad, fwd_hooks=[("z1", put)])[:, 0], model(bad)[:, 0]
    differences = [(one[:, symbols.BALANCED] - one[:, symbols.UNBALANCED]) for one in (wanted, before)]
    expect(not near(got.values[1, 1], -differences[0], 1e-4), "balanced is the answer, unbalanced the wrong one")
    zero = got.baselines[got.scale[0]] if got.scale else got.values[0, 0]
    expect(near(zero, differences[1], 1e-4), "the baseline must be the failing row's logit difference, read at START")
    expect(
        near(got.values[1, 1], differences[0], 1e-4),
        "L1H1 at START, and nowhere else, must speak as in the balanced row",
    )


@exercise("4.5", "One for each failure; the heads of layer 2 hear of both.")
def tellers(count_head: tuple[int, int], horizon_head: tuple[int, int]) -> None:
    model, generator = bundled("brackets"), torch.Generator().manual_seed(9)
    rows = symbols.balanced_rows(300, 40, generator)
    shares = {}
    for name, missed in (
        ("count", symbols.one_turned(rows, generator)),
        ("horizon", symbols.two_exchanged(rows, generator)),
    ):
        alone = symbols.count_is_right(missed) != symbols.horizon_is_kept(missed)
        n = int(alone.sum())
        metric = LogitDiff(torch.full((n,), symbols.BALANCED), torch.full((n,), symbols.UNBALANCED), pos=0)
        good, bad = symbols.enclosed(rows[alone]), symbols.enclosed(missed[alone])
        options = dict(over=("layer", "head"), select={"pos": 0}, progress=False)
        shares[name] = patch(model, good, bad, metric, "z", **options).recovered_fraction
    for name, head, other, least in (("count", count_head, "horizon", 0.3), ("horizon", horizon_head, "count", 0.1)):
        fits = isinstance(head, tuple | list) and len(head) == 2 and 0 <= head[0] < 3 and 0 <= head[1] < 2
        expect(fits, f"`{name}_head` must be a pair (layer, head) of this model")
        its, others = float(shares[name][head[0], head[1]]), float(shares[other][head[0], head[1]])
        label = f"L{head[0]}H{head[1]}"
        expect(its > least, f"{label} restores {its:.0%} where only the {name} is off, on new rows")
        expect(
            others < 0.05, f"{label} restores {others:.0%} where only the {other} is off, so it tells of that as well"
        )


@exercise("4.6", "Noise explains nothing, and that it says so is what the second half is for.")
def explained(answer: Callable[..., Tensor]) -> None:
    written, noise = drawn(200, 12), drawn(200, seed=1)
    feature = written @ drawn(12, seed=2) + 5
    for name, y, low, high in (
        ("a feature that is written exactly, with a constant", feature, 0.999, 1.001),
        ("noise that has nothing to do with what is written", drawn(200, seed=3), -1.0, 0.05),
        ("half feature and half noise", feature + 0.9 * feature.std() * noise, 0.3, 0.65),
    ):
        got = float(numbers(torch.as_tensor(answer(written, y)), (), "the share"))
        expect(
            low <= got <= high,
            f"of {name} you explain {got:.2f}. Fitted on one half, with a constant, tested on the other?",
        )
    moved = torch.cat((feature[:100], feature[100:] + 3))
    got = float(torch.as_tensor(answer(written, moved)))
    wanted = 1 - 9 / float(feature[100:].var(correction=0))
    expect(abs(got - wanted) < 1e-3, "errors are compared with the truth as it is, not up to a constant")


@exercise("4.7", "An explanation that says where a model fails is worth more than one that says where it does not.")
def fools(answer: str) -> None:
    expect(isinstance(answer, str) and {*answer} <= {*"()"}, "write a text of brackets and nothing else")
    expect(1 <= len(answer) <= 40, f"the model reads 1 to 40 brackets, these are {len(answer)}")
    row = torch.tensor([[symbols.OPEN if sign == "(" else symbols.CLOSE for sign in answer]])
    balanced = matches(row[0].tolist())
    with torch.no_grad():
        says = bool(bundled("brackets")(symbols.enclosed(row))[0, 0].argmax() == symbols.BALANCED)
    what = "balanced" if balanced else "not balanced"
    expect(says != balanced, f"this row is {what}, and the model says so")
