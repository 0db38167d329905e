"""Day 3: the recovered fraction, draws by a feature, hypotheses, claims that cannot fail."""

from collections.abc import Callable

import torch
from torch import Tensor

from checks.answers import (
    bundled,
    drawn,
    exercise,
    expect,
    numbers,
    repeated,
)
from interp_hooks import (
    Hypothesis,
    LogProb,
    Node,
    at,
    scrub,
)

EVERYONE = [0, 1, 2, 3]  # the heads of a layer of induction-2l


def left_of(hypothesis: Hypothesis, features: dict[str, Tensor] | None = None) -> float:
    """The recovered fraction of a hypothesis about `induction-2l`, on prompts of its own."""
    n = 320 if features else 120  # classes of a feature need enough prompts
    prompts, answers = (one[:n] for one in repeated(320, 20, 12, 17))
    options = dict(generator=torch.Generator().manual_seed(2), progress=False)
    return float(
        scrub(bundled("induction-2l"), hypothesis, prompts, LogProb(answers), features, **options).recovered_fraction
    )


def story(keys: dict[str, Node]) -> Hypothesis:
    """Heads of layer 1 match their own word against what their keys hear, and copy the word there."""
    q, v = (at(f"{what}_input", 1, head=EVERYONE) for what in "qv")
    word, heads, exact = at("resid_pre", 0), at("z", 1, head=EVERYONE, pos=-1), dict(feature="exact")
    nodes = {
        "output": Node(children=["induction"]),
        "induction": Node(sites=[heads], children=["queries", "keys", "values"], **exact),
        "queries": Node(sites=[q], children=["own word"], **exact),
        "own word": Node(sites=[word], into=[q], **exact),
        "values": Node(sites=[v], children=["word there"], **exact),
        "word there": Node(sites=[word], into=[v], **exact),
    }
    return Hypothesis(nodes=nodes | keys)


@exercise("3.1", "1 is the model, 0 its answers to other prompts.")
def recovered(answer: Callable[..., Tensor]) -> None:
    scrubbed, model, random = drawn(30) - 3, drawn(30, seed=1) - 1, drawn(30, seed=2) - 9
    got = numbers(torch.as_tensor(answer(scrubbed, model, random)), (), "the fraction")
    wanted = float((scrubbed.sum() - random.sum()) / (model.sum() - random.sum()))
    of_each = float(((scrubbed - random) / (model - random)).mean())
    expect(abs(float(got) - of_each) > 1e-9, "this is a mean of fractions; it must be a fraction of means")
    expect(abs(float(got) - 1 + wanted) > 1e-9, "it is 0 for the model and 1 for the random answers; turn it round")
    expect(abs(float(got) - wanted) < 1e-6, "it must be 1 for the model's own values and 0 for the random ones")


@exercise("3.2", "A number means nothing without its two ends.")
def by_guessing(answer: Callable[..., Tensor]) -> None:
    for n_words, worst in ((64, 16.0), (10, 5.0)):
        model, random = drawn(50).abs() * -0.1, drawn(50, seed=1) - worst
        got = float(numbers(torch.as_tensor(answer(model, random, n_words)), (), "the fraction"))
        probability = 1 / n_words
        wanted = (torch.tensor(probability).double().log() - random.mean()) / (model.mean() - random.mean())
        expect(
            abs(got - float(wanted)) < 1e-6,
            f"among {n_words} words it is another share. What does guessing say, in nats?",
        )


@exercise("3.3", "Whoever has the feature may stand for whoever has it.")
def same_feature(answer: Callable[..., Tensor]) -> None:
    feature = torch.tensor([5, 2, 5, 7, 2, 5, 2, 5])
    draws = torch.stack([answer(feature, torch.Generator().manual_seed(seed)) for seed in range(300)])
    numbers(draws, (300, 8), "300 draws of a row for each row")
    expect(not draws.is_floating_point(), "rows are integers, to index with")
    expect(draws.min() >= 0 and draws.max() < 8, "these are no rows: they index the prompts, 0 to n - 1")
    expect((feature[draws] == feature).all(), "a row was drawn that has another feature")
    for row in range(8):
        alike = (feature == feature[row]).nonzero()[:, 0]
        seen = torch.stack([(draws[:, row] == one).double().mean() for one in alike])
        expect(seen.min() > 0, "a row that has the same feature was never drawn in 300 times, maybe the row itself")
        expect((seen - 1 / len(alike)).abs().max() < 0.12, "rows with the same feature must all be equally likely")
    expect((draws[:, 0] != draws[:, 2]).any(), "each row has a draw of its own; yours are the same for a whole class")


@exercise("3.4", "It also says that nothing else reaches the answer.")
def layer_1_tells(answer: Callable[[str], Hypothesis]) -> None:
    _, answers = repeated(320, 20, 12, 17)
    left = {}
    for name in ("exact", "the answer", "anything"):
        hypothesis = answer(name)
        expect(isinstance(hypothesis, Hypothesis), f"it must be a Hypothesis, it is a {type(hypothesis).__name__}")
        hooks = {site.hook for node in hypothesis.nodes.values() for site in node.sites}
        expect(
            all("blocks.1." in hook for hook in hooks), f"it is about {', '.join(hooks)}; is that what layer 1 writes?"
        )
        left[name] = left_of(hypothesis, {"the answer": answers})
    expect(
        left["exact"] > 0.99,
        f"with the feature 'exact' {left['exact']:.0%} is recovered; it should be all: which part?",
    )
    expect(
        left["anything"] < 0.1, f"with 'anything' {left['anything']:.0%} is recovered: does your node use the feature?"
    )
    expect(
        left["the answer"] > 0.95, f"with the answer {left['the answer']:.0%} is recovered; something else is exchanged"
    )


@exercise("3.5", "Which heads are named makes all the difference, as it must.")
def nodes_of_keys(answer: Callable[[list[int]], dict[str, Node]]) -> None:
    left = {}
    for previous in ([2, 3], [3], [0, 1]):
        nodes = answer(previous)
        fits = isinstance(nodes, dict) and {*nodes} == {"keys", "token before"}
        expect(fits, 'the function must return a dict of the nodes "keys" and "token before"')
        left[len(previous), previous[0]] = left_of(story(nodes))
    both, best, others = left[2, 2], left[1, 3], left[2, 0]
    expect(both > 0.99, f"with L0H2 and L0H3 {both:.0%} is recovered, on new prompts; it should be nearly all")
    expect(
        others < 0.9, f"with L0H0 and L0H1 {others:.0%} is recovered: your keys hear the truth from somebody else, too"
    )
    expect(others < best < both - 0.005, "L0H3 alone should do nearly, and not quite, as well as both")


@exercise("3.6", "What is told is a word, and whose word it is can be found out.")
def position_of_the_feature(answer: int) -> None:
    expect(isinstance(answer, int) and -33 <= answer < 33, "the prompt has the positions 0 to 32")
    prompts, answers = repeated(320, 20, 12, 23)
    reads, there = at("k_input", 1, head=EVERYONE), at("z", 0, head=[2, 3], pos=13)
    keys = {
        "keys": Node(sites=[reads], children=["token before"], feature="exact"),
        "token before": Node(sites=[there], into=[reads], feature="the word"),
    }
    options = dict(generator=torch.Generator().manual_seed(2), progress=False)
    features = {"the word": prompts[:, answer]}
    result = scrub(bundled("induction-2l"), story(keys), prompts, LogProb(answers), features, **options)
    share = float(result.recovered_fraction)
    expect(
        share > 0.88,
        f"with the word at position {answer}, {share:.0%} is recovered on new prompts: less than by guessing",
    )


@exercise("3.7", "The more values a feature has, the less there is to exchange.")
def chance_of_itself(answer: Callable[[Tensor], float]) -> None:
    for feature in (torch.tensor([1, 1, 1, 2]), torch.arange(9), torch.tensor([4] * 7 + [2] * 2 + [8])):
        got = float(answer(feature))
        sizes = [int((feature == one).sum()) for one in feature]
        wanted = sum(1 / size for size in sizes) / len(sizes)
        expect(0 <= got <= 1, f"a chance lies between 0 and 1; for {feature.tolist()} you have {got:.2f}")
        expect(
            abs(got - wanted) < 1e-6, f"for {feature.tolist()} it is not {got:.2f}; draw by hand for each of the rows"
        )
