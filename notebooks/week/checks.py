"""The checks of the training week: each runs an answer on inputs that the notebook does not show.

A check prints a line if the answer is right, and raises `NotRight` otherwise, which names the exercise and says what is
off without giving the answer away. Functions are tried on models with random weights and compared with another way to
the same number; values are tried out on the model that they are about.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    Hypothesis,
    Intervention,
    LogitDiff,
    LogProb,
    Node,
    Resample,
    Result,
    Run,
    Site,
    Task,
    at,
    direct_logit_attribution,
    evaluate,
    ioi_pairs,
    patch,
    path_patch,
    scrub,
)
from interp_hooks.tasks import ioi, symbols

BLANK = "it is still blank. Write your answer in place of the dots or of `raise NotImplementedError`, and run its cell."


class NotRight(AssertionError):
    """An answer is not right yet; the message says of which exercise, and what to look at."""


def exercise(number: str, told: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function that raises `NotRight` into the check of an exercise; `told` is what a right answer is told."""

    def checking(check: Callable[..., None]) -> Callable[..., None]:
        @wraps(check)
        def checked(*answers: Any, **context: Any) -> None:
            try:
                expect(not any(answer is ... for answer in answers), BLANK)
                check(*answers, **context)
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


# ------------------------------------------------------------------------------------------------- day 1: graph surgery


@exercise("1.1", "Rows sum to 1 and never look ahead.")
def attention(answer: Callable[..., Tensor]) -> None:
    q, k = drawn(2, 6, 3, 4), drawn(2, 6, 3, 4, seed=1)
    got = numbers(answer(q, k), (2, 3, 6, 6), "the pattern [batch, head, query, key]")
    expect(got.triu(1).abs().max() < 1e-9, "a query looks at keys that come after it")
    expect(near(got.sum(-1), torch.ones(2, 3, 6)), "rows do not sum to 1 over the keys")
    each_key = torch.eye(6, dtype=torch.float64).expand(2, 3, 6, 6)  # as values: what is mixed is the pattern itself
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), each_key, is_causal=True
    )
    expect(
        near(got, wanted), "rows are distributions over the past, but other ones. Are the scores right, scale included?"
    )


@exercise("1.2", "Their sum is what the layer writes, but for its bias.")
def heads_write(answer: Callable[..., Tensor]) -> None:
    z, W_O = drawn(2, 5, 3, 4), drawn(3, 4, 6, seed=1)
    got = numbers(answer(z, W_O), (2, 5, 3, 6), "what heads write [batch, pos, head, d_model]")
    wanted = torch.stack([z[:, :, head] @ W_O[head] for head in range(3)], dim=2)
    mixed = near(got.sum(2), wanted.sum(2))
    expect(near(got, wanted), "the sum is right, the heads are not" if mixed else "these are not the products z W_O")


@exercise("1.3", "And the model is as it was.")
def stream_norms(answer: Callable[..., Tensor]) -> None:
    model, tokens = random_model(), random_tokens()
    got = numbers(answer(model, tokens), (2, 3, 7), "the norms [layer, batch, pos]")
    clean_of_hooks(model)
    _, cache = model.run_with_cache(tokens)
    wanted = torch.stack([cache["resid_post", layer].norm(dim=-1) for layer in range(2)])
    expect(near(got, wanted), "these are not the norms of the stream after each layer. Which hook do you read?")


@exercise("1.4", "It is what a model says whose W_O has zeros for that head.")
def without_head(answer: Callable[..., Tensor]) -> None:
    model, tokens = random_model(), random_tokens()
    before = model(tokens)
    for layer, head in ((0, 2), (1, 0)):
        got = numbers(answer(model, tokens, layer, head), tuple(before.shape), "the logits")
        clean_of_hooks(model)
        expect(near(model(tokens), before), "the model itself has changed: leave its weights alone")
        expect(not near(got, before), f"taking out L{layer}H{head} changed nothing")
        without = random_model()
        with torch.no_grad():
            without.blocks[layer].attn.W_O[head] = 0
        expect(near(got, without(tokens)), f"something else than L{layer}H{head} alone was silenced, or not all of it")


@exercise("1.5", "At layer 0 it is the same as exchanging a token.")
def patched_logits(answer: Callable[..., Tensor]) -> None:
    model, clean, corrupt = random_model(), random_tokens(), random_tokens(seed=1)
    for layer, pos in ((0, 3), (1, 5)):
        got = numbers(answer(model, clean, corrupt, layer, pos), (3, 7, 11), "the logits")
        clean_of_hooks(model)
        expect(
            near(got[:, :pos], model(corrupt)[:, :pos]),
            "before the patched position, the corrupt run must be as it was",
        )
        if layer == 0:
            exchanged = corrupt.clone()
            exchanged[:, pos] = clean[:, pos]
            expect(near(got, model(exchanged)), "at layer 0 the patch must do what the clean token there does")
        else:
            _, cache = model.run_with_cache(corrupt)
            stream = cache["resid_pre", layer].clone()
            stream[:, pos] = model.run_with_cache(clean)[1]["resid_pre", layer][:, pos]
            expect(
                near(got, model(stream, start_at_layer=layer)), "at later layers the stream is not the clean one there"
            )


@exercise("1.6", "The value says all that the hooks did.")
def patch_run(answer: Callable[..., Run]) -> None:
    model, clean, corrupt = random_model(), random_tokens(), random_tokens(seed=1)
    for layer, head in ((0, 1), (1, 2)):
        run = answer(clean, corrupt, layer, head)
        expect(isinstance(run, Run), f"the function must return a Run, it returns a {type(run).__name__}")
        expect(run.tokens.equal(corrupt), "the model must read the corrupt prompts; is something the wrong way round?")
        _, cache = model.run_with_cache(clean)

        def put(z: Tensor, hook: Any, head: int = head, cache: Any = cache) -> None:
            z[:, -1, head] = cache[hook.name][:, -1, head]

        wanted = model.run_with_hooks(corrupt, fwd_hooks=[(f"z{layer}", put)])
        got = evaluate(model, [run], lambda logits: logits[:, -1])[0]
        expect(near(got, wanted[:, -1]), "the last token's logits are not those with this head's clean output there")
        made = evaluate(model, [run], lambda logits: logits[:, :-1].sum((1, 2)))[0]
        expect(near(made, wanted[:, :-1].sum((1, 2))), "earlier positions have changed too; which one was asked for?")


@exercise("1.7", "The answer travels from the second mention to the end.")
def sites(early: Site, late: Site) -> None:
    model = bundled("ioi-tiny")
    pairs = ioi_pairs(model, 32, seed=77)
    clean, corrupt = Run(model.to_tokens(pairs.clean)), Run(model.to_tokens(pairs.corrupt))
    last = model.cfg.n_layers - 1
    for name, site, layer in (("early", early, 0), ("late", late, last)):
        expect(isinstance(site, Site), f"`{name}` must be a site, as `at(...)` makes it")
        expect(
            f"blocks.{layer}." in site.hook and "resid" in site.hook,
            f"`{name}` must be a part of layer {layer}'s stream",
        )
        pos = site.select.get("pos")
        expect(pos is not None, f"`{name}` selects every position; one is enough")
        expect(torch.as_tensor(pos).numel() in (1, len(clean.tokens)), f"`{name}` selects several positions")
        runs = [corrupt, clean, Run(corrupt.tokens, [Intervention(site, clean)])]
        zero, one, put = evaluate(model, runs, LogitDiff(pairs.answer, pairs.wrong)).mean(1).tolist()
        share = (put - zero) / (one - zero)
        expect(
            share > 0.99,
            f"`{name}` brings back {share:.0%} of the clean answer on new prompts; look for all",
        )


# ---------------------------------------------------------------------------------------------------- day 2: induction


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


@exercise("2.5", "It is 1 only if the reader reads nothing but what the sender writes most.")
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


# ---------------------------------------------------------------------------------------------------------- day 5: IOI


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


@exercise("5.7", "Somebody else can now try to refute it.")
def finding(
    question: str, hypothesis: str, prediction: tuple[float, float], test: Result, control: Result, folder: str
) -> None:
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


# ----------------------------------------------------------------------------------------------------- day 4: brackets


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


# --------------------------------------------------------------------------------------------- day 3: causal scrubbing


EVERYONE = [0, 1, 2, 3]  # the heads of a layer of induction-2l


@lru_cache
def repeated(n: int, length: int, place: int, seed: int) -> tuple[Tensor, Tensor]:
    """Prompts of different words of which the first `place` come again, and the word that comes next."""
    order = torch.rand(n, 64, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    words = 1 + order[:, :length]
    return torch.cat((torch.zeros(n, 1, dtype=torch.long), words, words[:, :place]), dim=1), words[:, place]


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


# ---------------------------------------------------------------------------------------------- day 6: a research log


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


confirmed = exercise("6.6", "Kept, and ready to be computed again.")(finding.__wrapped__)


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
