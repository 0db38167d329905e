"""`causal_trace`: its limits, its cells written out with plain hooks, and how it finds a subject."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, LogitDiff, Run
from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.experiments import tracing
from interp_hooks.experiments.tracing import causal_trace, subject_tokens
from interp_hooks.interventions.metrics import Prob
from tests.experiments.by_hand import RTOL, TOKENS, left_alone, logits_of, model_of, word_tokenizer
from tests.tiny import CUSTOM, assert_close, build, hooked, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
SUBJECT = [1, 2]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trace(model: HookedTransformer, site: str = "resid_post", **options: Any) -> Any:
    defaults: dict[str, Any] = dict(metric=DIFF, samples=3, generator=seeded(), progress=False)
    return causal_trace(model, TOKENS, SUBJECT, site=site, **defaults | options)


# --------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("name", [*CUSTOM, "llama", "neox", "gpt2"])
def test_limits_of_the_stream(name: str) -> None:
    """The last layer's stream where the metric reads it is the whole answer, elsewhere nothing; noise 0 is clean."""
    model = hooked(name)
    metric = LogitDiff([4, 11], [7, 2], pos=-1)
    result = trace(model, "resid_post", metric=metric, noise=2.0, layers=[2])
    clean, corrupt = result.baselines["clean"], result.baselines["corrupt"]
    assert float((clean - corrupt).abs().min()) > 1e-3
    assert_close(result.values[0, 4], clean, 1e-9)
    assert_close(result.values[0, :4], corrupt.expand(4, -1), 1e-9)
    still = trace(model, "attn_out", metric=metric, noise=0.0, samples=1)
    assert_close(still.values, clean.expand_as(still.values), 1e-9)
    assert "no difference to recover" in still.note


def test_restoring_the_subject_before_it_is_read_is_clean() -> None:
    """Both subject tokens at once, as a column of its own, where the stream enters the first layer."""
    model = model_of("gpt2")
    result = trace(model, "resid_pre", layers=[0], metric=DIFF)
    assert float(result.recovered_fraction[0, 0]) == pytest.approx(0.0, abs=1e-9)
    one = causal_trace(model, TOKENS, [2], DIFF, "resid_pre", layers=[0], generator=seeded(), progress=False)
    assert_close(one.values[0, 2], one.baselines["clean"], RTOL)
    assert_close(one.recovered_fraction[0], torch.tensor([0.0, 0, 1, 0, 0], dtype=torch.float64), 1e-9)


def test_a_window_of_everything_at_the_last_token_leaves_its_embedding() -> None:
    """Which has no noise: in a model without MLPs, all that is written there is clean."""
    result = trace(model_of("attn-only"), "attn_out", window=6, layers=[1])
    assert_close(result.values[0, 4], result.baselines["clean"], RTOL)


# --------------------------------------------------------------------------------------------------------- cell by cell


def noise_of(model: HookedTransformer, std: float | None, samples: int, seed: int = 0) -> list[Tensor]:
    """The noised embeddings that the docstring promises, for a model of learned embeddings without multiplier."""
    embed = model.W_E[TOKENS].detach()
    if std is None:
        std = 3 * float(embed[:, SUBJECT].flatten().std())
    generator, noised = seeded(seed), []
    for _ in range(samples):
        drawn = torch.randn(embed.shape, generator=generator).double() * std
        own = embed.clone()
        own[:, SUBJECT] += drawn[:, SUBJECT]
        noised.append(own)
    return noised


def shown(model: HookedTransformer, noised: Tensor) -> dict[str, Tensor]:
    """What two full passes have at plain hooks: "clean" and "corrupt", and the name."""
    seen: dict[str, Tensor] = {}

    def watch(kind: str) -> Any:
        return lambda value, hook: seen.update({f"{kind} {hook.name}": value.clone()})

    names = [f"blocks.{layer}.hook_{what}" for layer in range(3) for what in ("resid_post", "attn_out", "mlp_out")]
    corrupt = [("hook_embed", lambda value, hook: noised)]
    with torch.no_grad():
        model.run_with_hooks(TOKENS, fwd_hooks=[(name, watch("clean")) for name in names])
        model.run_with_hooks(TOKENS, fwd_hooks=corrupt + [(name, watch("corrupt")) for name in names])
    return seen


def by_hand(
    model: HookedTransformer,
    noised: Tensor,
    seen: dict[str, Tensor],
    layers: range,
    site: str,
    pos: int,
    severed: str | None,
) -> Tensor:
    """A full pass with plain hooks: the corrupt one with values of both that were seen."""
    corrupt = [("hook_embed", lambda value, hook: noised)]

    def put(kind: str) -> Any:
        def write(value: Tensor, hook: Any) -> None:
            value[:, pos] = seen[f"{kind} {hook.name}"][:, pos]

        return write

    hooks = [(f"blocks.{layer}.hook_{site}", put("clean")) for layer in layers]
    held = [(f"blocks.{layer}.hook_{severed}_out", put("corrupt")) for layer in range(3) if severed]
    with torch.no_grad():
        return DIFF(model.run_with_hooks(TOKENS, fwd_hooks=corrupt + held + hooks))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("severed", [None, "attn", "mlp"])
@pytest.mark.parametrize(("site", "window"), [("resid_post", 1), ("attn_out", 1), ("mlp_out", 2), ("attn_out", 10)])
def test_every_cell_is_a_run(kind: str, site: str, window: int, severed: Any) -> None:
    model = model_of(kind)
    result = trace(model, site, window=window, severed=severed, samples=2)
    noised = [(one, shown(model, one)) for one in noise_of(model, None, 2)]
    for layer in range(3):
        around = range(max(0, layer - window // 2), min(3, layer - (-window // 2)))
        for pos in (1, 2, 4):
            both = [by_hand(model, *one, around, site, pos, severed) for one in noised]
            assert_close(result.values[layer, pos], torch.stack(both).mean(0), 1e-9)
    corrupt = [by_hand(model, *one, range(0), site, 0, None) for one in noised]
    assert_close(result.baselines["corrupt"], torch.stack(corrupt).mean(0), RTOL)
    assert result.scale == ("corrupt", "clean")


def test_default_windows() -> None:
    model = model_of("gpt2")
    assert_close(trace(model, "mlp_out").values, trace(model, "mlp_out", window=10).values, 0)
    assert_close(trace(model).values, trace(model, window=1).values, 0)


def test_severing_what_carries_the_effect_stops_it() -> None:
    """Restored at the middle token, the answer comes back only through attention, at other positions, if at all."""
    model = model_of("attn-only")
    free, severed = trace(model, layers=[0]), trace(model, layers=[0], severed="attn")
    assert float((free.values - severed.values)[0, 4].abs().max()) > 1e-6
    assert_close(severed.values[0, 0], severed.baselines["corrupt"], RTOL)


def test_the_generator_decides_and_every_cell_sees_the_same_noise() -> None:
    model = model_of("gpt2")
    assert_close(trace(model).values, trace(model).values, 0)
    assert not torch.equal(trace(model).values, trace(model, generator=seeded(1)).values)
    some = trace(model, layers=[2, 0])
    assert_close(some.values, trace(model).values[[2, 0]], RTOL)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trace(model)
    assert torch.equal(torch.rand(2), expected)


def test_the_default_metric_is_the_probability_of_the_clean_answer() -> None:
    model = model_of("llama")
    result = causal_trace(model, TOKENS, SUBJECT, generator=seeded(), samples=2, progress=False)
    top = logits_of(model, Run(TOKENS))[:, -1].softmax(-1).max(-1)
    assert result.metric == "prob"
    assert_close(result.baselines["clean"], top.values, RTOL)
    assert_close(Prob(top.indices)(logits_of(model, Run(TOKENS))), top.values, RTOL)


def test_named_positions() -> None:
    """A tensor is one position for each prompt; negative ones count from the last real token."""
    model = model_of("gpt2")
    columns = {"subject": torch.tensor([1, 3]), "last": -1}
    named, every = trace(model, positions=columns), trace(model)
    assert list(named.axes["pos"]) == ["subject", "last"]
    assert_close(named.values[:, 1], every.values[:, 4], RTOL)
    assert_close(named.values[:, 0, 0], every.values[:, 1, 0], RTOL)
    assert_close(named.values[:, 0, 1], every.values[:, 3, 1], RTOL)


# ------------------------------------------------------------------------------------------------------------- subjects


def with_words(side: str = "right") -> HookedTransformer:
    cfg = build().cfg
    words = ("the", "tower", "Eiffel", "is", "in", "a", "towering")
    model = HookedTransformer(cfg, word_tokenizer(*words), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    return model


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_subject_is_found_by_its_characters(side: str) -> None:
    model = with_words(side)
    prompts = ["the Eiffel tower is in", "a tower is"]
    mask = subject_tokens(model, prompts, ["Eiffel tower", "tower"])
    rows = [model.to_str_tokens(row) for row in model.to_tokens(prompts)]
    marked = [[word.strip() for word, there in zip(*row, strict=True) if there] for row in zip(rows, mask, strict=True)]
    assert marked == [["Eiffel", "tower"], ["tower"]]
    assert torch.equal(subject_tokens(model, prompts, mask), mask)
    assert subject_tokens(model, "a towering", "tower").tolist() == [[False, False, True]], "a part of a token"


def test_a_real_tokenizer() -> None:
    """Spaces that belong to tokens, a BOS in front, and a word of several tokens."""
    model = HookedTransformer.from_pretrained("ioi-tiny")
    prompt = "When Mary and Bartholomew went to the store, John gave a ring to"
    pieces = model.to_str_tokens(prompt)
    for subject in ("Mary", "Bartholomew", "When Mary", "the store,"):
        marked = subject_tokens(model, prompt, subject)[0].nonzero()[:, 0].tolist()
        assert "".join(pieces[i] for i in marked).strip() == subject
    assert subject_tokens(model, prompt, [3]).nonzero().tolist() == [[0, 3]]
    name = subject_tokens(model, [prompt, " Mary"], ["Bartholomew", "Mary"])
    assert pieces[int(name[0].nonzero()[0])].strip() in "Bartholomew"
    assert name[1].nonzero().tolist() == [[1]]


def test_padding_changes_nothing() -> None:
    """A short prompt beside a long one has the noise and the score that it has alone, given the same noise."""
    metric, short, long = LogitDiff(4, 7), "a tower is", "the Eiffel tower is in"
    for side in ("left", "right"):
        model = with_words(side)
        options: dict[str, Any] = dict(positions={"last": -1, "subject": torch.tensor([2, 2])}, progress=False)
        if side == "left":
            options["positions"]["subject"] = torch.tensor([2 + 2, 3])
        both = causal_trace(model, [short, long], "tower", metric, noise=0.0, samples=1, **options)
        options["positions"] = {"last": -1, "subject": 2}
        alone = causal_trace(model, [short], "tower", metric, noise=0.0, samples=1, **options)
        assert_close(both.values[..., :1], alone.values, RTOL)


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "severed": (dict(severed="head"), BadInput, "'attn' or 'mlp', got 'head'"),
    "no mlp": (dict(model="attn-only", severed="mlp"), UnknownHook, "mlp_out"),
    "window": (dict(window=0), BadInput, "must be at least 1"),
    "samples": (dict(samples=0), BadInput, "must be at least 1"),
    "noise": (dict(noise=-1.0), BadInput, "standard deviation, at least 0"),
    "site": (dict(site="pattern"), BadInput, "cannot be swept over 'pos'"),
    "layer": (dict(layers=[3]), BadInput, "layer 3 is out of range"),
    "text": (dict(subject="tower"), BadInput, "needs prompts given as text"),
    "position": (dict(subject=[5]), BadInput, "subject position 5 is out of range"),
    "nothing": (dict(subject=[]), BadInput, "prompt 0 has no subject"),
    "mask": (dict(subject=torch.ones(2, 4, dtype=torch.bool)), BadInput, "bool mask \\[2, 5\\]"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_and_leave_the_model_alone(what: str) -> None:
    changes, error, message = MISTAKES[what]
    arguments = dict(prompts=TOKENS, subject=SUBJECT, metric=DIFF, progress=False) | changes
    model = model_of(arguments.pop("model", "gpt2"))
    with left_alone(model), unchecked_types(), pytest.raises(error, match=message):
        causal_trace(model, **arguments)


@pytest.mark.parametrize(
    ("prompt", "subject", "message"),
    [
        ("a tower", "Eiffel", "is 0 times in prompt 0"),
        ("a tower is a tower", "tower", "is 2 times in prompt 0"),
        ("a tower", "", "is 0 times"),
        (["a tower", "a tower"], ["tower"], "got 1 subjects for 2 prompts"),
    ],
)
def test_a_subject_must_be_there_once(prompt: Any, subject: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        subject_tokens(with_words(), prompt, subject)


# -------------------------------------------------------------------------------------------------------------- mutants


@pytest.mark.parametrize("mutant", ["late", "order", "window"])
def test_mutants_are_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Severing that starts too late, or wins over what is restored; a window that is one layer off."""
    right = tracing._restored
    if mutant == "window":
        monkeypatch.setattr(tracing, "layers_around", lambda layer, window, n: range(layer, min(n, layer + window)))
    else:

        def wrong(*arguments: Any) -> Run:
            run = right(*arguments)
            stream, *rest = run.interventions
            held = [one for one in rest if one.source is not arguments[1]]
            restored = [one for one in rest if one.source is arguments[1]]
            changed = [*held[2:], *restored] if mutant == "late" else [*restored, *held]
            return Run(run.tokens, [stream, *changed], run.attention_mask)

        monkeypatch.setattr(tracing, "_restored", wrong)
    with pytest.raises(AssertionError, match="relative difference"):
        test_every_cell_is_a_run("gpt2", "mlp_out", 2, "mlp" if mutant == "order" else "attn")
