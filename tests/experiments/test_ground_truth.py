"""Causal experiments on models that are known by heart, and limits at which two experiments are the same one.

Here are the micro-model, the induction circuit, linear nets and random models; the gates are in `test_gates.py`.
"""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    Mean,
    Result,
    Run,
    ablate,
    ablate_directions,
    at,
    attribution_patch,
    attribution_patches,
    causal_trace,
    evaluate,
    integrated_gradients,
    patch,
    path_patch,
    steer,
    steering_vector,
)
from tests.experiments.by_hand import KINDS, OTHER, RTOL, THIRD, TOKENS, model_of
from tests.experiments.gates import OUT, WORDS, induction, linear, micro
from tests.tiny import assert_close, build, distance, hooked

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)


def every_logit(logits: Tensor) -> Tensor:
    return logits


def first_logits(logits: Tensor) -> Tensor:
    """A linear metric that reads every position."""
    return logits[..., 0].sum(1)


def effects(result: Result) -> Tensor:
    """What a cell changes, [*cell, prompt]."""
    return result.values - result.baselines["original" if result.scale is None else result.scale[0]]


# ----------------------------------------------------------------------------------------------------- the micro-model

ONES, MINUS_ONES = torch.tensor([[0]]), torch.tensor([[1]])  # logits (25, 49) and (-25, -49)
EDGES = {  # what the logits of the corrupt run gain by the clean value on this edge alone
    ("embed", "0.0"): (10, 28),
    ("embed", "0.1"): (30, 56),
    ("embed", "1.0"): (2, 4),
    ("embed", "1.1"): (6, 8),
    ("embed", "logits"): (2, 2),
    ("0.0", "1.0"): (2, 8),
    ("0.0", "1.1"): (6, 16),
    ("0.0", "logits"): (2, 4),
    ("0.1", "1.0"): (6, 16),
    ("0.1", "1.1"): (18, 32),
    ("0.1", "logits"): (6, 8),
    ("1.0", "logits"): (10, 28),
    ("1.1", "logits"): (30, 56),
}
HEADS = [(layer, head) for layer in range(2) for head in range(2)]
SENDERS = {"embed": at("hook_embed")} | {f"{layer}.{head}": at("z", layer, head=head) for layer, head in HEADS}
LOGITS = [lambda logits, index=index: logits[:, -1, index] for index in range(2)]


def gained(sender: str, receiver: str, direction: Any = "denoise") -> tuple[float, ...]:
    """What path patching says of an edge of the micro-model."""
    site: Any = receiver if receiver == "logits" else at("v_input", int(receiver[0]), head=int(receiver[2]))
    results = [
        path_patch(micro(), ONES, MINUS_ONES, logit, SENDERS[sender], site, direction=direction, progress=False)
        for logit in LOGITS
    ]
    assert [float(result.baselines["clean"]) for result in results] == [25, 49]
    assert [float(result.baselines["corrupt"]) for result in results] == [-25, -49]
    return tuple(float(effects(result)) for result in results)


@pytest.mark.parametrize("receiver", [*list(SENDERS)[1:], "logits"])
@pytest.mark.parametrize("sender", SENDERS)
def test_every_edge_of_the_micro_model(sender: str, receiver: str) -> None:
    """And nothing where the sender comes too late for there to be one."""
    expected = EDGES.get((sender, receiver), (0, 0))
    assert gained(sender, receiver) == expected
    assert gained(sender, receiver, "noise") == tuple(-one for one in expected)


def test_edges_of_the_micro_model_taken_together() -> None:
    """They add up, but for what goes along two of them and would count twice: from the embedding to 0.0 to 1.1."""
    first, second, third = (gained(*edge) for edge in (("0.1", "logits"), ("0.0", "1.1"), ("embed", "0.0")))
    total = torch.tensor([-25.0, -49.0]) + torch.tensor(first)
    assert total.tolist() == [-19, -41]
    total += torch.tensor(second)
    assert total.tolist() == [-13, -25]
    total += torch.tensor(third) - torch.tensor(second)
    assert total.tolist() == [-9, -13]


@pytest.mark.parametrize(("layer", "head"), HEADS)
def test_a_head_of_the_micro_model_is_the_sum_of_its_edges(layer: int, head: int) -> None:
    """To patching, to its gradient and to the integral of that."""
    for index, logit in enumerate(LOGITS):
        whole = sum(both[index] for (sender, _), both in EDGES.items() if sender == f"{layer}.{head}")
        truth = patch(micro(), ONES, MINUS_ONES, logit, "z", over=("layer", "head"), progress=False)
        estimate = attribution_patch(micro(), ONES, MINUS_ONES, logit)
        integral = integrated_gradients(
            micro(), ONES, logit, at("z", layer), baseline=Run(MINUS_ONES), over=("head",), steps=1
        )
        found = [effects(truth)[layer, head], effects(estimate)[layer, head], integral.values[head]]
        assert [float(one) for one in found] == [whole] * 3


# ----------------------------------------------------------------------------------------------- the induction circuit

REPEATED = torch.tensor([[0, 1, 2, 3, 4, 5, 1, 2, 3], [0, 6, 9, 2, 7, 4, 6, 9, 2]])  # ... A B ... A
ANSWER, UNUSED = torch.tensor([4, 7]), torch.tensor([10, 8])
A, B, END = 3, 4, 8
REPLACED = {"key": A, "value": B, "query": END}  # with any of these three gone there is nothing to be found
CELLS = {  # layer, head and position of all that matters to the answer, by what was replaced
    "key": {"z": {(0, 0, B), (1, 0, END)}, "q": set(), "k": {(1, 0, B)}, "v": {(0, 0, A)}},
    "value": {"z": {(1, 0, END)}, "q": set(), "k": set(), "v": {(1, 0, B)}},
    "query": {"z": {(1, 0, END)}, "q": {(1, 0, END)}, "k": set(), "v": set()},
}
ROUTES = {
    "key": {("embed", "0.0.v"), ("0.0", "1.0.k"), ("1.0", "logits")},
    "value": {("embed", "1.0.v"), ("1.0", "logits")},
    "query": {("embed", "1.0.q"), ("1.0", "logits")},
}
SOFT = 1e-5  # of 1: the softmax of scores of 15 and 30 against 0 is nearly, but not quite, one-hot


def replaced(what: str) -> Tensor:
    tokens = REPEATED.clone()
    tokens[:, REPLACED[what]] = UNUSED
    return tokens


def answer(logits: Tensor) -> Tensor:
    return logits[:, -1].gather(1, ANSWER[:, None])[:, 0]


def test_the_induction_circuit_is_one() -> None:
    """By what it says, where it looks, and how its weights compose."""
    model = induction().requires_grad_(False)
    logits, cache = model.run_with_cache(torch.cat((REPEATED, ANSWER[:, None]), 1))
    assert torch.equal(logits[:, 6:-1].argmax(-1), torch.cat((REPEATED[:, 7:], ANSWER[:, None]), 1))
    assert not logits[:, :6].argmax(-1).any(), "BOS, until something comes again"
    assert float(cache["pattern", 0][:, 0].diagonal(-1, 1, 2).min()) > 1 - 1e-6
    assert float(cache["pattern", 1][:, 0].diagonal(1 + A - END, 1, 2)[:, 2:].min()) > 1 - 1e-6
    QK, OV = model.W_Q[1, 0] @ model.W_K[1, 0].T, model.W_V[:, 0] @ model.W_O[:, 0]
    assert float((QK @ OV[0].T).norm() / QK.norm() / OV[0].norm()) == pytest.approx((WORDS + 0.25) ** -0.5)  # 0.298
    assert not (OV[0] @ QK).any(), "no composition with queries"
    assert not (OV[0] @ OV[1]).any(), "nor with values: there is no virtual head"
    assert torch.equal(model.W_E @ OV[1] @ model.W_U, torch.eye(WORDS, dtype=torch.float64))
    assert not (OV[1] @ OV[1]).any(), "so that all its eigenvalues are 0, although it copies"


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("what", REPLACED)
def test_patching_finds_the_circuit_and_nothing_else(what: str, direction: Any) -> None:
    """A chain: each part of it is sufficient and necessary."""
    for site, cells in CELLS[what].items():
        result = patch(
            induction(),
            REPEATED,
            replaced(what),
            answer,
            site,
            over=("layer", "head", "pos"),
            direction=direction,
            progress=False,
        )
        expected = torch.zeros(2, 2, 9)
        for cell in cells:
            expected[cell] = 1
        assert float((result.recovered_fraction - expected).abs().max()) < 1e-12, site


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("what", REPLACED)
def test_path_patching_finds_the_edges_and_nothing_else(what: str, direction: Any) -> None:
    receivers: dict[str, Any] = {
        f"{layer}.{head}.{name}": at(f"{name}_input", layer, head=head) for layer, head in HEADS for name in "qkv"
    }
    found = set()
    for receiver, site in (receivers | {"logits": "logits"}).items():
        result = path_patch(
            induction(), REPEATED, replaced(what), answer, SENDERS, site, direction=direction, progress=False
        )
        for sender, recovered in zip(SENDERS, result.recovered_fraction.tolist(), strict=True):
            assert min(abs(recovered), abs(recovered - 1)) < 1e-12, (sender, receiver)
            found |= {(sender, receiver)} if recovered > 0.5 else set()
    assert found == ROUTES[what]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_saturated_pattern_hides_the_key_from_its_gradient(direction: Any) -> None:
    """Not from the patched pattern, after which all is linear; nor from the path of the values."""
    arguments: Any = (induction(), REPEATED, replaced("key"), answer)
    sites = dict.fromkeys(("k", "z"), ("layer", "head", "pos"))
    plain = attribution_patches(*arguments, sites, direction=direction)
    fixed = attribution_patches(*arguments, sites, direction=direction, qk_fix=True)
    truth = patch(*arguments, "k", over=sites["k"], direction=direction, progress=False)
    assert_close(effects(fixed["k"])[1], effects(truth)[1], RTOL)
    assert float(effects(plain["k"]).abs().max()) < 1e-4
    for result in (plain["z"], fixed["z"]):
        assert float(effects(result)[0, 0, B].abs().max()) < 1e-4
        assert float((result.recovered_fraction[1, 0, END] - 1).abs()) < 1e-12


def test_without_either_head_there_is_no_induction() -> None:
    model, clean = induction(), 1 / (1 + torch.tensor(-15.0).exp())
    lost = ablate(model, REPEATED, answer, over=("layer", "head"), progress=False)
    assert float((lost.baselines["original"] - clean).abs().max()) < SOFT
    expected = torch.tensor([[-1.0, 0], [-1, 0]])[..., None]
    assert float((effects(lost) - expected).abs().max()) < SOFT


@pytest.mark.parametrize("hook", ["attn_out0", "resid_pre1", "resid_post1"])
def test_steering_what_is_said_flips_the_prediction(hook: str) -> None:
    """To any token, wherever on its way to the logits, which nothing but the unembedding reads."""
    model = induction()
    before = model(REPEATED).detach()
    for token in range(WORDS):
        vector = torch.eye(model.cfg.d_model, dtype=torch.float64)[OUT[token]]
        with steer(model, vector, hook, coefficient=2.0):
            after = model(REPEATED).detach()
        assert bool((after.argmax(-1) == token).all())
        assert_close(after - before, (2 * vector @ model.W_U).detach().expand_as(before), RTOL)


# ---------------------------------------------------------------------------------------------------------- linear nets


@contextmanager
def linear_net(attention: str) -> Iterator[HookedTransformer]:
    """Whose attention is uniform, or always that of one other prompt."""
    if attention == "uniform":
        yield linear()
        return
    model = build(attn_only=True, normalization_type=None)
    patterns = model.run_with_cache(THIRD[:1], names_filter=lambda name: name.endswith("pattern"))[1]
    freeze = [(name, lambda value, hook: patterns[hook.name].detach().expand_as(value)) for name in patterns]
    with model.hooks(fwd_hooks=freeze):
        yield model


LINEAR = pytest.mark.parametrize("attention", ["uniform", "frozen"])


@LINEAR
@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("resid_pre", ("pos",)),
        ("attn_out", ("pos", "d_model")),
        ("v", ("head", "d_head")),
        ("z", ("head", "pos")),
        ("result", ("head",)),
    ],
)
def test_in_a_linear_net_patching_gradient_and_integral_are_one(
    site: str, over: tuple[str, ...], attention: str
) -> None:
    with linear_net(attention) as model:
        arguments: Any = (model, TOKENS, OTHER, first_logits, site)
        truth = patch(*arguments, over=("layer", *over), direction="noise", progress=False)
        estimate = attribution_patch(*arguments, over=("layer", *over), direction="noise")
        integrals = [
            integrated_gradients(
                model, TOKENS, first_logits, at(site, layer), baseline=Run(OTHER), over=over, steps=1
            ).values
            for layer in range(3)
        ]
    assert_close(effects(estimate), effects(truth), RTOL)
    assert_close(-torch.stack(integrals), effects(truth), RTOL)


@LINEAR
def test_in_a_linear_net_a_mean_ablation_is_linear_in_what_it_takes_away(attention: str) -> None:
    """(mean - z) times the gradient, in any layer."""
    with linear_net(attention) as model:
        lost = ablate(model, TOKENS, first_logits, method="mean", reference=THIRD, progress=False)
        for layer in range(3):
            z, gradient = value_and_gradient(model, TOKENS, f"blocks.{layer}.attn.hook_z")
            mean = model.run_with_cache(THIRD)[1]["z", layer].detach().mean((0, 1))
            assert_close(effects(lost)[layer], ((mean - z) * gradient).sum((1, 3)).T, RTOL)
            integral = integrated_gradients(
                model, TOKENS, first_logits, at("z", layer), baseline=Mean(Run(THIRD)), over=("head",), steps=1
            )
            assert_close(-integral.values, effects(lost)[layer], RTOL)


def value_and_gradient(model: HookedTransformer, tokens: Tensor, hook: str) -> tuple[Tensor, Tensor]:
    """An activation, and the gradient of `first_logits` there."""
    kept: list[Tensor] = []

    def keep(value: Tensor, hook: Any) -> None:
        kept.append(value)

    logits = model.run_with_hooks(tokens, fwd_hooks=[(hook, keep)])
    return kept[0].detach(), torch.autograd.grad(first_logits(logits).sum(), kept)[0]


def test_in_a_linear_net_an_effect_is_the_sum_of_its_first_steps() -> None:
    """A head acts on the logits directly, and on the values of each head after it, whatever follows from there."""
    model = linear()
    arguments: Any = (model, TOKENS, OTHER, first_logits)
    whole = patch(*arguments, "z", over=("layer", "head"), progress=False)
    steps = [effects(path_patch(*arguments, progress=False))]
    for layer, head in [(layer, head) for layer in (1, 2) for head in range(4)]:
        step = effects(path_patch(*arguments, receivers=at("v_input", layer, head=head), progress=False))
        assert float(step[layer:].abs().max()) < 1e-12
        steps.append(step)
    assert_close(sum(steps[1:], steps[0]), effects(whole), RTOL)


# -------------------------------------------------------------------------------------------------------- random models


@pytest.mark.parametrize(
    ("kind", "site"),
    [("gpt2", "post"), ("llama", "post"), ("gpt2", "mlp_out"), ("neox", "post"), ("neox", "z"), ("attn-only", "z")],
)
def test_in_the_last_layer_patching_is_arithmetic(kind: str, site: str) -> None:
    """unembed(norm(stream + what the change writes)), where nothing comes after it but these."""
    model = model_of(kind)
    axis, equation, weight = {
        "z": ("head", "bphk,hkd->hbpd", model.W_O[2]),
        "post": ("neuron", "bpm,md->mbpd", None if kind == "attn-only" else model.blocks[2].mlp.W_out),
        "mlp_out": ("d_model", "bpd,de->dbpe", torch.eye(12, dtype=torch.float64)),
    }[site]
    with torch.no_grad():
        corrupt, clean = (model.run_with_cache(tokens)[1] for tokens in (OTHER, TOKENS))
        written = torch.einsum(equation, clean[site, 2] - corrupt[site, 2], weight)
        expected = [DIFF(model.unembed(model.ln_final(corrupt["resid_post", 2] + one))) for one in written]
    result = patch(model, TOKENS, OTHER, DIFF, site, over=("layer", axis), layers=[2], progress=False)
    assert_close(result.values[0], torch.stack(expected), RTOL)


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_written_is_the_other_run(kind: str) -> None:
    """Embeddings and every layer's writing; without the embeddings only where the token is the same."""
    model = model_of(kind)
    sites = ("attn_out",) if kind == "attn-only" else ("attn_out", "mlp_out")
    layers = [Intervention(at(site, layer), Run(TOKENS)) for layer in range(3) for site in sites]
    runs = [Run(TOKENS), Run(OTHER, [Intervention(at("hook_embed"), Run(TOKENS)), *layers]), Run(OTHER, layers)]
    clean, everything, without_embeddings = evaluate(model, runs, every_logit)
    assert_close(everything, clean, RTOL)
    assert distance(without_embeddings, clean) > 1e-3
    same_end = torch.cat((OTHER[:, :-1], TOKENS[:, -1:]), 1)
    result = patch(model, TOKENS, same_end, DIFF, sites, window=7, progress=False)
    assert_close(result.values[:, -1], result.baselines["clean"].expand(3, -1), RTOL)


@pytest.mark.parametrize("name", [*KINDS, "alibi-windows", "sinks-capped"])
def test_the_gradient_of_a_sum_is_that_of_its_terms(name: str) -> None:
    """Heads make up attn_out and neurons mlp_out; what both runs add to it, the biases, drops out."""
    model = model_of(name) if name in KINDS else hooked(name)
    over = ("layer", "pos")
    parts = {"z": "attn_out", "result": "attn_out"} | ({} if name == "attn-only" else {"post": "mlp_out"})
    found = attribution_patches(model, TOKENS % 19, OTHER % 19, DIFF, dict.fromkeys([*parts, *parts.values()], over))
    for part, whole in parts.items():
        assert_close(effects(found[part]), effects(found[whole]), 1e-9)


def test_integrated_gradients_ask_what_a_model_computes_and_not_how() -> None:
    """Heads and neurons in another order, values and neurons of another scale: at the embeddings nothing changes."""
    model = build(act_fn="relu")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for block in twin.blocks:
            for name, weight in block.attn.named_parameters():
                if name != "b_O":
                    weight.copy_(weight.flip(0) * {"W_V": 3, "b_V": 3, "W_O": 1 / 3}.get(name, 1))
            mlp = block.mlp
            mlp.W_in.copy_(2 * mlp.W_in.flip(1))
            mlp.b_in.copy_(2 * mlp.b_in.flip(0))
            mlp.W_out.copy_(mlp.W_out.flip(0) / 2)
    for site in ("hook_embed", at("resid_mid", 1)):
        one, other = (integrated_gradients(each, TOKENS, DIFF, site, baseline=Run(OTHER)) for each in (model, twin))
        assert_close(other.values, one.values, RTOL)
    head, other_head = (integrated_gradients(each, TOKENS, DIFF, at("z", 1), over=("head",)) for each in (model, twin))
    assert_close(other_head.values.flip(0), head.values, RTOL)


# ------------------------------------------------------------------------------------------------------- causal tracing


def trace(kind: str, site: str, **options: Any) -> Result:
    subject = torch.zeros(2, 5, dtype=torch.bool)
    subject[0, 1] = subject[1, 3] = True
    generator = torch.Generator().manual_seed(0)
    defaults: dict[str, Any] = dict(samples=3, noise=2.0, generator=generator, progress=False)
    return causal_trace(model_of(kind), TOKENS, subject, DIFF, site, **defaults | options)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("severed", [None, "attn", "mlp"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
def test_without_noise_every_score_is_the_clean_one(site: str, severed: Any, kind: str) -> None:
    result = trace(kind, site, severed=severed, noise=0.0)
    assert_close(result.baselines["corrupt"], result.baselines["clean"], RTOL)
    assert_close(result.values, result.baselines["clean"].expand_as(result.values), RTOL)


@pytest.mark.parametrize("kind", KINDS)
def test_restoring_everything_or_nothing(kind: str) -> None:
    """The subject as it enters the first layer, or the last token in all layers; what comes before the subject."""
    at_start = trace(kind, "resid_pre", layers=[0], positions={"subject": torch.tensor([1, 3]), "before": 0})
    clean, corrupt = at_start.baselines["clean"], at_start.baselines["corrupt"]
    assert float((clean - corrupt).abs().min()) > 1e-3
    assert_close(at_start.values[0], torch.stack((clean, corrupt)), RTOL)
    at_end = trace(kind, "resid_post", window=7)
    assert_close(at_end.values[:, -1], clean.expand(3, -1), RTOL)
    for site in ("resid_post", "attn_out"):
        for window in (1, 7):
            before = trace(kind, site, window=window, positions={"before": 0})
            assert_close(before.values[:, 0], corrupt.expand(3, -1), RTOL)


# ------------------------------------------------------------------------------------------------------------- steering


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", range(3))
def test_steered_by_all_of_the_difference_one_prompt_is_the_other(layer: int, kind: str) -> None:
    """What is added at every position is what patching the stream would put there."""
    model, hook = model_of(kind), f"resid_pre{layer}"
    vectors = steering_vector(model, TOKENS[:1], OTHER[:1], hook, pos=None)
    with torch.no_grad():
        expected = model(TOKENS[:1])
        with steer(model, vectors, hook):
            assert_close(model(OTHER[:1]), expected, RTOL)


def test_a_direction_taken_away_and_put_back_is_no_change() -> None:
    """At one place, by interventions, and at every write to the stream, by hooks."""
    model, tokens = model_of("gpt2"), TOKENS[:1]
    direction = torch.randn(12, dtype=torch.float64)
    site, original = at("resid_pre", 1), Run(TOKENS)
    away, back = (Intervention(site, source, along=direction) for source in (0.0, original))
    plain, without, again = evaluate(model, [original, Run(TOKENS, [away]), Run(TOKENS, [away, back])], every_logit)
    assert distance(without, plain) > 1e-3
    assert_close(again, plain, RTOL)
    written = ["resid_pre0", *(f"{what}_out{layer}" for layer in range(3) for what in ("attn", "mlp"))]
    unit = direction / direction.norm()
    with torch.no_grad():
        logits, seen = model.run_with_cache(tokens)
        with ablate_directions(model, direction), ExitStack() as steering:
            assert distance(model(tokens), logits) > 1e-3
            for hook in written:
                steering.enter_context(steer(model, (seen[hook][0] @ unit)[:, None] * unit, hook))
            assert_close(model(tokens), logits, RTOL)
