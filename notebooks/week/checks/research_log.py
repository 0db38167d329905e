"""A research log: intervals, prompts that are kept, a candidate, a claim, stability, and the log itself."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch

from checks.answers import (
    as_head,
    bundled,
    drawn,
    exercise,
    expect,
    ioi_run,
)
from checks.ioi import check_finding
from interp_hooks import (
    HookedTransformer,
    LogitDiff,
    Result,
    Task,
    at,
    patch,
)


@exercise("6.1", "Four times the prompts make it half as wide.")
def interval(answer: Callable[..., tuple[float, float]]) -> None:
    for n, scale in ((50, 3.0), (400, 0.5)):
        values = drawn(n, seed=n) * scale + 7
        low, high = (float(end) for end in answer(values, torch.Generator().manual_seed(1)))
        error, mean = float(values.std()) / n**0.5, float(values.mean())
        width = (high - low) / error
        expect(low < mean < high, f"the mean {mean:.2f} does not lie within your {low:.2f} to {high:.2f}")
        expect(width < 10, "this is where single prompts lie; the question is where their *mean* does")
        expect(3.4 < width < 4.4, f"95% of the means lie within 3.9 standard errors; yours are {width:.1f} wide")
    skewed = (drawn(40, seed=3) * 1.5).exp()
    low, high = (float(end) for end in answer(skewed, torch.Generator().manual_seed(1)))
    mean = float(skewed.mean())
    expect(high - mean > 1.1 * (mean - low), "of skewed values the interval must be skewed too; is it a bootstrap?")


@exercise("6.2", "Whatever you find in the one, you can still be wrong about in the other.")
def two_tasks(answer: Callable[[HookedTransformer], tuple[Task, Task]]) -> None:
    explore, confirm = answer(bundled("ioi-tiny"))
    for task in (explore, confirm):
        expect(isinstance(task, Task), f"both must be tasks, as `ioi_pairs` makes them; one is a {type(task).__name__}")
        expect(len(task) == 40, f"a task has {len(task)} prompts; 40 were asked for")
    common = {*explore.clean} & {*confirm.clean}
    expect(not common, f"{len(common)} prompts are in both tasks")
    same = len({len(task.labels) for task in (explore, confirm)}) == 1
    same = same and explore.positions["S2"][0] == confirm.positions["S2"][0]
    expect(same, "the two tasks have different sentences, so that a position of the one is none of the other")


@exercise("6.3", "A candidate is where the question begins.")
def candidate(answer: Callable[..., tuple[int, int]]) -> None:
    for corruption, template in (("clean first", 0), ("corrupt first", 3)):
        model, task, _, _ = ioi_run(32, 23, template)
        if corruption == "corrupt first":
            answers = dict(answer=task.wrong, wrong=task.answer, metric=LogitDiff(task.wrong, task.answer))
            task = replace(task, clean=task.corrupt, corrupt=task.clean, **answers)
        layer, head = as_head(answer(model, task), "the candidate")
        select = {"pos": task.positions["S2"]}
        found = patch(model, task, site="z", over=("layer", "head"), select=select, progress=False).recovered_fraction
        best, its = float(found.max()), float(found[layer, head])
        expect(
            its == best, f"L{layer}H{head} brings {its:.0%} back at S2, on new prompts; another head brings {best:.0%}"
        )


@exercise("6.4", "Everything else was left as it was, so the number is about this part.")
def claim_alone(answer: Callable[..., float]) -> None:
    model, task, _, _ = ioi_run(48, 37, template=0)
    site, rows = at("z", 0, head=0, pos=int(task.positions["S2"][0])), torch.arange(len(task))
    for name, feature, low, high in (
        ("a feature that no two prompts have in common", rows, 0.999, 1.001),
        ("the order of the two people", (task.positions["S1"] < task.positions["IO"]).long(), 0.9, 1.4),
        ("nothing", torch.zeros_like(rows), -2.0, 0.6),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of small classes
            got = answer(model, task, site, feature, torch.Generator().manual_seed(1))
        expect(isinstance(got, float | int) or torch.as_tensor(got).numel() == 1, "the fraction must be one number")
        share = float(got)
        where = f"of L0H0 at S2 by {name} you recover {share:.0%}"
        expect(low <= share <= high, f"{where}; is the claim tested alone, and does it use the feature?")


@exercise("6.5", "What half of the data would not have shown is not found yet.")
def same_winner(answer: Callable[..., float]) -> None:
    noise = drawn(2, 3, 40)
    clear, tied = noise.clone(), 0.01 * noise
    clear[1, 2] += 5
    tied[0, 1] = drawn(40, seed=5)  # the largest mean or the smallest, as it comes
    tied[1, 0] = -tied[0, 1] + 2 * tied[0, 1].mean()
    got = float(answer(clear, torch.Generator().manual_seed(0)))
    expect(got == 1, f"a head that is 5 above all others wins in every half; you have {got:.2f}")
    got = float(answer(tied, torch.Generator().manual_seed(0)))
    expect(0.2 < got < 0.8, f"two heads with the same mean win in about half of the halves each; you have {got:.2f}")
    rare = torch.zeros(1, 2, 40)
    rare[0, 0, 0], rare[0, 1] = 100, 1.0  # one prompt makes the winner: in the half where it is
    got = float(answer(rare, torch.Generator().manual_seed(0)))
    expect(0.35 < got < 0.65, f"one prompt in 40 is in half of the halves; where it alone decides, you have {got:.2f}")


confirmed = exercise("6.6", "Kept, and ready to be computed again.")(check_finding)


@exercise("6.7", "Now somebody can disagree with you, and say where.")
def log(text: str, test: Result, control: Result) -> None:
    expect(isinstance(text, str), "the log is a text")
    parts = {part.partition("\n")[0].strip(): part.partition("\n")[2].strip() for part in f"\n{text}".split("\n# ")[1:]}
    for heading in ("Question", "Hypothesis", "Prediction", "Result", "Control", "Limits"):
        expect(heading in parts, f"there is no heading '# {heading}' on a line of its own")
        expect(len(parts[heading].split()) >= 4, f"under '# {heading}' there is no sentence")
    for heading, result in (("Result", test), ("Control", control)):
        share = f"{float(result.recovered_fraction):.0%}"
        expect(
            share in parts[heading], f"'# {heading}' does not say the recovered fraction that the result has, {share}"
        )
    expect("?" in parts["Question"], "the question has no question mark")
    expect("%" in parts["Prediction"], "the prediction has no number in per cent")
