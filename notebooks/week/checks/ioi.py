"""Day 5: direct effects, name movers, the paths to them, corruptions, and a finding of one's own."""

from collections.abc import Callable

import torch
from torch import Tensor

from checks.answers import (
    as_head,
    bundled,
    drawn,
    exercise,
    expect,
    ioi_run,
    near,
    numbers,
    random_model,
    random_tokens,
)
from interp_hooks import (
    Intervention,
    Result,
    Run,
    at,
    direct_logit_attribution,
    evaluate,
    path_patch,
)
from interp_hooks.tasks import ioi


@exercise("5.1", "It is in nats: the log of how much likelier one is than the other.")
def logit_difference(answer: Callable[..., Tensor]) -> None:
    logits, io, s = drawn(5, 4, 9), torch.tensor([1, 4, 0, 8, 2]), torch.tensor([3, 3, 5, 0, 7])
    got = numbers(answer(logits, io, s), (5,), "the difference [prompt]")
    shares = logits.log_softmax(-1)[:, -1]
    wanted = torch.stack([shares[row, io[row]] - shares[row, s[row]] for row in range(5)])
    expect(not near(got, -wanted), "the sign is the other way round")
    expect(near(got, wanted), "these are not the differences at the last token")


@exercise("5.2", "They sum, with what all other parts write, to the logit difference.")
def direct_effects(answer: Callable[..., Tensor]) -> None:
    model, tokens = random_model(normalization_type="RMSPre"), random_tokens(batch=4)
    io, s = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])
    _, cache = model.run_with_cache(tokens)
    got = numbers(answer(model, cache, io, s), (2, 3, 4), "the effects [layer, head, prompt]")
    wanted = direct_logit_attribution(model, tokens, io, s, unit="head").values[:6].reshape(2, 3, 4)
    expect(not near(got / cache["ln_final.hook_scale"][:, -1, 0], wanted), "divide by the scale of the final norm")
    expect(not near(got, -wanted), "the sign is the other way round: it is IO minus S")
    expect(near(got, wanted), "these are not the direct effects. Which position, and whose direction in W_U?")


@exercise("5.3", "They look at the name that they write.")
def movers(answer: list[tuple[int, int]]) -> None:
    expect(isinstance(answer, list | tuple | set), "name the heads as a list of pairs (layer, head)")
    named = {as_head(one, "movers") for one in answer}
    model, task, _, cache = ioi_run(32, 23, template=3)
    effects = direct_logit_attribution(model, task, unit="head").mean[:12].reshape(3, 4)
    rows, end = torch.arange(len(task)), task.positions["end"]
    looks = {
        place: torch.stack([cache["pattern", layer][rows, :, end, at_it].mean(0) for layer in range(3)])
        for place, at_it in task.positions.items()
    }
    at_io = looks["IO"] > 5 * (looks["S1"] + looks["S2"])
    for layer, head in sorted(named):
        expect(effects[layer, head] > 0.3, f"L{layer}H{head} writes next to nothing of the answer")
        expect(at_io[layer, head], f"L{layer}H{head} writes the answer, but looks at S1 or S2 nearly as much as at IO")
    missing = int((at_io & (effects > 0.3)).sum()) - len(named)
    expect(missing == 0, f"these are name movers; {missing} more fit the definition")


@exercise("5.4", "What they tell decides whom the movers pass by.")
def told_to_movers(answer: Callable[..., Result]) -> None:
    model, task, _, _ = ioi_run(32, 23, template=3)
    for heads in ([(2, 0), (2, 1)], [(2, 3)]):
        got = answer(model, task, heads)
        expect(isinstance(got, Result), f"the function must return the Result, it returns a {type(got).__name__}")
        expect(
            [*got.axes] == ["layer", "head"],
            f"every head sends; your result is over {', '.join(got.axes) or 'nothing'}",
        )
        queries = [at("q_input", layer, head=head, pos=task.positions["end"]) for layer, head in heads]
        wanted = path_patch(model, task, receivers=queries, progress=False)
        expect(got.scale == wanted.scale, "carry the clean values into the corrupt run, which is the default direction")
        expect(
            near(got.values, wanted.values, 1e-4), f"these are not the paths into the queries of {heads}, and no others"
        )


@exercise("5.5", "Without it nobody would know that a name is there twice.")
def notices(answer: tuple[int, int]) -> None:
    layer, head = as_head(answer, "`notices`")
    model, task, tokens, cache = ioi_run(32, 23, template=3)
    rows, S1, S2 = torch.arange(len(task)), task.positions["S1"], task.positions["S2"]
    looks = float(cache["pattern", layer][rows, head, S2, S1].mean())
    corrupt = model.to_tokens(task.corrupt)
    put = Run(corrupt, [Intervention(at("z", layer, head=head, pos=S2), Run(tokens))])
    with torch.no_grad():
        zero, one, left = evaluate(model, [Run(corrupt), Run(tokens), put], task.metric).mean(1).tolist()
    share = (left - zero) / (one - zero)
    expect(share > 0.9, f"L{layer}H{head} at S2 brings {share:.0%} of the answer back")
    expect(looks > 0.5, f"L{layer}H{head} pays {looks:.0%} of its attention at S2 to S1")


@exercise("5.6", "Before you read a patch, read the pair.")
def corruptions(who_is_doubled: str, which_name: str, which_order: str) -> None:
    model = bundled("ioi-tiny")
    wanted = {
        "who_is_doubled": (who_is_doubled, {"S2": "IO"}),
        "which_name": (which_name, {"IO": "somebody new"}),
        "which_order": (which_order, {"IO": "S1", "S1": "IO"}),
    }
    for name, (corruption, change) in wanted.items():
        task = ioi(model, 16, corruption=corruption, seed=13)
        clean, corrupt = model.to_tokens(task.clean), model.to_tokens(task.corrupt)
        rows, places = torch.arange(16), {place: task.positions[place] for place in ("IO", "S1", "S2")}
        stood = {clean_place: clean[rows, where] for clean_place, where in places.items()}
        changed = {}
        for place, where in places.items():
            now = corrupt[rows, where]
            if not now.equal(stood[place]):
                same = [other for other, tokens in stood.items() if now.equal(tokens)]
                changed[place] = same[0] if same else "somebody new"
        said = "; ".join(f"at {place} stands {what}" for place, what in changed.items())
        expect(
            changed == change, f"`{name}` = {corruption!r}: {said}, all else as it was. Is that what the line asks for?"
        )


def check_finding(
    question: str, hypothesis: str, prediction: tuple[float, float], test: Result, control: Result, folder: str
) -> None:
    """A question, a claim and a bold prediction, with a test and a control that differ, of which the test is saved."""
    expect(isinstance(question, str) and question.strip().endswith("?"), "the question has no question mark")
    claim = isinstance(hypothesis, str) and len(hypothesis.split()) >= 5 and not hypothesis.strip().endswith("?")
    expect(claim, "the hypothesis must be a sentence that says something, not a question")
    low, high = (float(end) for end in prediction)
    expect(low < high, f"the prediction is (low, high), got {prediction}")
    expect(high - low <= 0.6, f"a prediction from {low} to {high} is hard to miss; be bolder, 0.6 wide at most")
    for name, result in (("test", test), ("control", control)):
        expect(isinstance(result, Result), f"`{name}` must be a Result, it is a {type(result).__name__}")
        expect(result.mean.numel() == 1, f"`{name}` has {result.mean.numel()} cells; a prediction is about one")
        expect(result.scale is not None, f"`{name}` has no baselines to lie between, so no fraction is recovered")
        expect(result.values.shape[-1] >= 32, f"`{name}` has {result.values.shape[-1]} prompts; 32 at least")
    expect(test.scale == control.scale, "test and control have other baselines; make them the same kind of experiment")
    same = all(near(test.baselines[name], control.baselines[name], 1e-4) for name in test.baselines)
    expect(same, "test and control were made on different prompts, so that nobody can tell what made the difference")
    ends = [result.interval(recovered=True, generator=torch.Generator().manual_seed(0)) for result in (test, control)]
    (test_low, test_high), (control_low, control_high) = ((float(one.lower), float(one.upper)) for one in ends)
    expect(
        test_low > control_high or control_low > test_high,
        f"the control recovers {control_low:.0%} to {control_high:.0%}, the test {test_low:.0%} to {test_high:.0%}: "
        "they do not differ, so this control tells nothing",
    )
    kept = Result.load(folder)
    same = kept.values.shape == test.values.shape and near(kept.values, test.values)
    expect(same, f"the result in {folder!r} is not `test`; save it again, with overwrite=True")
    share = float(test.recovered_fraction)
    expect(kept.record is not None, f"the result in {folder!r} has no record of how it was made")
    print(f"Recovered: {share:.0%}, predicted: {low:.0%} to {high:.0%}.", end=" ")
    print("It holds." if low <= share <= high else "It does not hold, which is worth as much: what did you not know?")


finding = exercise("5.7", "Somebody else can now try to refute it.")(check_finding)
