"""Day 2: prompts that come again, OV and QK circuits, composition, paths."""

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
    random_model,
    random_tokens,
    repeated,
)
from interp_hooks import (
    Intervention,
    LogProb,
    Resample,
    Run,
    at,
    evaluate,
)


@exercise("2.1", "Only somebody who remembers can do better than guessing.")
def repeated_words(answer: Callable[..., Tensor]) -> None:
    n, length, d_vocab = 400, 5, 8
    got = numbers(answer(n, length, d_vocab, torch.Generator().manual_seed(3)), (n, 1 + 2 * length), "the tokens")
    words, again = got[:, 1 : 1 + length], got[:, 1 + length :]
    expect((got[:, 0] == 0).all(), "every prompt begins with BOS, which is 0")
    expect(again.equal(words), "the second half is not the first half again")
    expect(words.sort(1).values.diff(dim=1).all(), "a word stands twice in the first half of a prompt")
    expect(
        words.min() >= 1 and words.max() < d_vocab,
        f"words are 1 to {d_vocab - 1}, yours {words.min()} to {words.max()}",
    )
    for place in range(length):
        seen = words[:, place].unique()
        expect(len(seen) == d_vocab - 1, f"over {n} prompts every word should come {place + 1}. in some; yours don't")


@exercise("2.2", "One step back it is a previous-token score, length - 1 steps back an induction score.")
def attention_back(answer: Callable[..., Tensor]) -> None:
    pattern = drawn(2, 3, 8, 8).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf).softmax(-1)
    for steps in (0, 1, 4):
        got = numbers(answer(pattern, steps), (3,), "the score [head]")
        wanted = torch.stack([pattern[:, :, query, query - steps] for query in range(steps, 8)]).mean((0, 1))
        all_queries = torch.stack([pattern[:, :, query, query - steps] for query in range(steps, 8)]).sum(0).mean(0) / 8
        expect(
            steps == 0 or got.abs().max() > 0, "it is all zeros: keys are before their queries; which way do you look?"
        )
        expect(
            steps == 0 or not near(got, all_queries),
            "queries with fewer tokens before them count as zeros; average over those alone that can look so far back",
        )
        expect(near(got, wanted), f"{steps} steps back, this is not the mean attention")


@exercise("2.3", "Its diagonal says whether the head copies.")
def ov_circuit(answer: Callable[..., Tensor]) -> None:
    model = random_model(attn_only=True)
    for layer, head in ((0, 1), (1, 2)):
        got = numbers(answer(model, layer, head), (11, 11), "the OV circuit [word there, word said]")
        attn = model.blocks[layer].attn
        wanted = torch.stack([model.W_E[word] @ attn.W_V[head] @ attn.W_O[head] @ model.W_U for word in range(11)])
        expect(not near(got, wanted.T), "the two axes are the other way round: rows are the words that are looked at")
        expect(
            near(got, wanted), "this is not what the head adds to the logits for each word. Which weights, which head?"
        )


@exercise("2.4", "A diagonal here means: look for what followed a word like your own.")
def matching(answer: Callable[..., Tensor]) -> None:
    model = random_model(attn_only=True)
    first, second = model.blocks[0].attn, model.blocks[1].attn
    for previous, inductive in ((0, 1), (2, 0)):
        got = numbers(answer(model, previous, inductive), (11, 11), "the scores [query's word, word before the key]")
        told = model.W_E @ first.W_V[previous] @ first.W_O[previous]
        wanted = torch.stack([(word @ second.W_Q[inductive]) @ (told @ second.W_K[inductive]).T for word in model.W_E])
        direct = (model.W_E @ second.W_Q[inductive]) @ (model.W_E @ second.W_K[inductive]).T
        expect(not near(got, wanted.T), "the two axes are the other way round")
        expect(
            not near(got, direct), "here the key reads its own word; it should read what the previous-token head wrote"
        )
        expect(near(got, wanted), "these are not the scores of queries with keys that come by way of the first head")


@exercise("2.5", "It is 1 only if both have rank 1, and one reads the direction that the other writes.")
def k_composition(answer: Callable[..., Tensor]) -> None:
    model = random_model(attn_only=True)
    wanted, as_queries = model.all_composition_scores("K"), model.all_composition_scores("Q")
    for sender, receiver in (((0, 0), (1, 2)), ((0, 2), (1, 1))):
        got = numbers(torch.as_tensor(answer(model, sender, receiver)), (), "K-composition")
        place = (sender[0], sender[1], receiver[0], receiver[1])
        expect(not near(got, as_queries[place].to(got)), "this is Q-composition: it asks what the *queries* read")
        expect(
            0 <= float(got) <= 1, f"it must lie between 0 and 1, it is {float(got):.2f}: is it divided by both norms?"
        )
        expect(
            near(got, wanted[place].to(got), 1e-5), "it is a share, but another one. Which sides meet in the product?"
        )


@exercise("2.6", "One reader hears another story, all others hear the truth.")
def exchanged(answer: Callable[..., Run]) -> None:
    model, prompts, other = random_model(attn_only=True), random_tokens(batch=4), torch.tensor([2, 0, 3, 1])
    plain = model(prompts)
    _, cache = model.run_with_cache(prompts)
    change = cache["z", 0][other] - cache["z", 0]
    for heads, reader in (([1], "k"), ([0, 2], "v"), ([0], "q")):
        run = answer(prompts, other, heads, reader)
        expect(isinstance(run, Run), f"the function must return a Run, it returns a {type(run).__name__}")
        expect(run.tokens.equal(prompts), "the model must read the prompts themselves, in their order")
        told = torch.stack([change[:, :, head] @ model.W_O[0, head] for head in heads]).sum(0)

        def hear(stream: Tensor, hook: Any, told: Tensor = told) -> Tensor:
            return stream + told[:, :, None]

        wanted = model.run_with_hooks(prompts, fwd_hooks=[(f"{reader}_input1", hear)])[:, -1]
        got = evaluate(model, [run], lambda logits: logits[:, -1])[0]
        expect(
            not near(got, plain[:, -1]),
            f"exchanging what {heads} tell changed nothing; are the values those of `other`?",
        )
        expect(near(got, wanted), f"this is not what comes of exchanging what heads {heads} tell `{reader}` alone")


@exercise("2.7", "Each is missed, and nobody else is.")
def needed(answer: list[int]) -> None:
    expect(isinstance(answer, list | tuple | set), "name the heads as a list, such as [0, 1]")
    named = {*answer}
    expect(named and named <= {*range(4)}, "layer 0 has the heads 0 to 3; at least one is needed")
    model, (prompts, answers) = bundled("induction-2l"), repeated(200, 18, 9, 11)
    told = Resample(Run(prompts), torch.arange(len(prompts)).roll(1))

    def without(heads: set[int]) -> Run:
        """The prompts, where the keys of layer 1 hear of these heads what they say elsewhere."""
        return Run(
            prompts, [Intervention(at("z", 0, head=head), told, into=at("k_input", 1)) for head in sorted(heads)]
        )

    others = {*range(4)} - named
    runs = [without(set()), without(others), *(without({*others, head}) for head in sorted(named))]
    with torch.no_grad():
        whole, left, *fewer = evaluate(model, runs, LogProb(answers)).mean(1).tolist()
    expect(
        whole - left < 0.1, f"exchanging all the others costs {whole - left:.2f} nats: somebody who matters is missing"
    )
    idle = [head for head, score in zip(sorted(named), fewer, strict=True) if left - score < 0.1]
    expect(not idle, f"without L0H{idle[0] if idle else ''} the rest of your heads do just as well")
