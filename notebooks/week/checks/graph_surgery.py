"""Day 1: attention, hooks, ablation and patching by hand, sites."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from checks.answers import (
    bundled,
    clean_of_hooks,
    drawn,
    exercise,
    expect,
    near,
    numbers,
    random_model,
    random_tokens,
)
from interp_hooks import (
    Intervention,
    LogitDiff,
    Run,
    Site,
    evaluate,
    ioi_pairs,
)


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
