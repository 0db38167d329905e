"""Steering against plain hooks, under generation with and without cache, and directional ablation against weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, LogitDiff, Site, at, evaluate
from interp_hooks.errors import BadInput, HookDidNotFire, UnknownHook
from interp_hooks.experiments import steering
from interp_hooks.experiments.steering import (
    ablate_directions,
    orthogonalize,
    relative_norm,
    steer,
    steering_vector,
)
from interp_hooks.interventions.runs import Run, orthonormal
from interp_hooks.model.components.kv_cache import KeyValueCache
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, left_alone, model_of, value_at, word_tokenizer
from tests.tiny import ARCHITECTURES, assert_close, build, convert, fresh_hf, hooked, random_tokens, unchecked_types

KINDS = ["gpt2", "llama", "neox", "attn-only"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits(model: HookedTransformer, tokens: Tensor = TOKENS, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(tokens, **options)


# -------------------------------------------------------------------------------------------------------------- vectors


def test_a_vector_is_a_difference_of_means() -> None:
    model, three = model_of("gpt2"), random_tokens(3, 5, 23, seed=8)
    here, there = (
        value_at(model, Run(three), "blocks.1.hook_resid_pre"),
        value_at(model, Run(OTHER), "blocks.1.hook_resid_pre"),
    )
    ours = steering_vector(model, three, OTHER, "resid_pre1", pos=2)
    assert_close(ours, here[:, 2].mean(0) - there[:, 2].mean(0), RTOL)
    ours = steering_vector(model, TOKENS, OTHER, "resid_pre1", pos=torch.tensor([1, 3]))
    first = value_at(model, Run(TOKENS), "blocks.1.hook_resid_pre")
    assert_close(ours, (first[0, 1] + first[1, 3] - there[0, 1] - there[1, 3]) / 2, RTOL)
    assert_close(steering_vector(model, three, OTHER, "resid_pre1", pos=None), here.mean(0) - there.mean(0), RTOL)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_position_is_the_last_real_token(side: Any) -> None:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c"), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    both = steering_vector(model, ["a b c", "b"], ["a"], "mlp_out1")
    parts = [steering_vector(model, [text], ["a"], "mlp_out1") for text in ("a b c", "b")]
    assert_close(both, (parts[0] + parts[1]) / 2, RTOL)
    with pytest.raises(BadInput, match="no common positions"):
        steering_vector(model, ["a b c", "b"], ["a"], "mlp_out1", pos=None)
    with pytest.raises(BadInput, match="have 3 and 2 tokens"):
        steering_vector(model, ["a b"], ["a"], "mlp_out1", pos=None)


def test_relative_norms() -> None:
    model, vector = model_of("llama"), drawn(12)
    result = relative_norm(model, TOKENS, vector, layers=[2, 0])
    for row, layer in enumerate((2, 0)):
        norms = value_at(model, Run(TOKENS), f"blocks.{layer}.hook_resid_pre").norm(dim=-1)
        assert_close(result.values[row], vector.norm() / norms.median(1).values, RTOL)
    assert_close(
        relative_norm(model, TOKENS, -3 * vector).values, 3 * relative_norm(model, TOKENS, vector).values, RTOL
    )
    assert list(result.axes["layer"]) == [2, 0]
    with pytest.raises(BadInput, match="the vector has 5 numbers"):
        relative_norm(model, TOKENS, drawn(5))


def test_relative_norms_of_heads() -> None:
    model, vector = model_of("llama"), drawn(4)
    result = relative_norm(model, TOKENS, vector, "z", select={"head": 1})
    for layer in range(3):
        norms = value_at(model, Run(TOKENS), f"blocks.{layer}.attn.hook_z")[:, :, 1].norm(dim=-1)
        assert_close(result.values[layer], vector.norm() / norms.median(1).values, RTOL)
    with pytest.raises(BadInput, match="select one index of head"):
        relative_norm(model, TOKENS, vector, "z")


def test_padding_does_not_count_in_relative_norms() -> None:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c"))
    model.load_state_dict(build().state_dict())
    vector = drawn(12)
    both, alone = relative_norm(model, ["a", "a b c a"], vector), relative_norm(model, "a", vector)
    assert_close(both.values[:, :1], alone.values, RTOL)


# ------------------------------------------------------------------------------------------------------------- steering


def added(model: HookedTransformer, hook: str, change: Tensor, tokens: Tensor = TOKENS) -> Tensor:
    """Logits with `change` added at a hook by a plain hook function."""
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=[(hook, lambda value, hook: value + change)])


PLACES: dict[str, tuple[Any, list[list[int]]]] = {
    "all": (None, [[0, 1, 2, 3, 4]] * 2),
    "one": (3, [[3], [3]]),
    "list": ([0, 3], [[0, 3]] * 2),
    "beyond": ([4, 17], [[4]] * 2),
    "tensor": (torch.tensor([1, 4]), [[1], [4]]),
    "from": (slice(2, None), [[2, 3, 4]] * 2),
    "until": (slice(None, 2), [[0, 1]] * 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", PLACES)
def test_a_vector_is_added_where_it_should(kind: str, where: str) -> None:
    model, vector = model_of(kind), drawn(12)
    positions, places = PLACES[where]
    change = torch.zeros(2, 5, 12, dtype=torch.float64)
    for row, there in enumerate(places):
        change[row, there] = 1.5 * vector
    with left_alone(model):
        with torch.no_grad(), steer(model, vector, "attn_out1", coefficient=1.5, positions=positions) as steered:
            ours = steered(TOKENS)
        assert_close(ours, added(model, "blocks.1.hook_attn_out", change), RTOL)


def test_one_vector_for_each_position() -> None:
    model, vectors = model_of("gpt2"), drawn(3, 12)
    change = torch.cat((vectors, torch.zeros(2, 12)))
    with steer(model, vectors, "resid_pre1"):
        ours = logits(model)
    assert_close(ours, added(model, "blocks.1.hook_resid_pre", change), RTOL)


HEADS = [at("z", 1, head=2), at("z", 2, head=-1), at("k", 1, head=0), at("v", 0, head=1), at("q_input", 1, head=3)]


def widened(model: HookedTransformer, site: Site, change: Tensor) -> tuple[str, Tensor]:
    """A change [batch, pos, width] of a site, for its whole hook, with 0 elsewhere."""
    (point,) = model.points(site.hook)
    whole = torch.zeros(2, change.shape[1], *(point.sizes[axis] for axis in point.axes[2:]), dtype=torch.float64)
    whole[:, :, site.select["head"]] = change
    return point.name, whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", PLACES)
def test_so_is_one_for_a_single_head(kind: str, where: str) -> None:
    model = model_of(kind)
    positions, places = PLACES[where]
    for site in HEADS:
        vector = drawn(model.points(site.hook)[0].sizes[model.points(site.hook)[0].axes[-1]])
        change = torch.zeros(2, 5, len(vector), dtype=torch.float64)
        for row, there in enumerate(places):
            change[row, there] = 1.5 * vector
        with left_alone(model):
            with torch.no_grad(), steer(model, vector, site, coefficient=1.5, positions=positions) as steered:
                ours = steered(TOKENS)
            assert_close(ours, added(model, *widened(model, site, change)), RTOL)
            one_for_all_keys = (site.hook, where) == (
                "blocks.1.attn.hook_k",
                "all",
            )  # moves all scores of a query alike
            assert one_for_all_keys or float((ours - logits(model)).abs().max()) > 1e-6, site


def test_a_heads_vector_is_what_it_writes() -> None:
    """z + v of head h is attn_out + v W_O[h]."""
    model, vector = model_of("llama"), drawn(4)
    with steer(model, vector, at("z", 1, head=2), positions=slice(1, None)):
        ours = logits(model)
    with steer(model, vector @ model.blocks[1].attn.W_O[2].detach(), "attn_out1", positions=slice(1, None)):
        assert_close(ours, logits(model), RTOL)


def test_a_heads_vector_is_a_difference_of_its_means() -> None:
    model, site, hook = model_of("gpt2"), at("z", 1, head=2), "blocks.1.attn.hook_z"
    here, there = (value_at(model, Run(tokens), hook)[:, :, 2] for tokens in (TOKENS, OTHER))
    assert_close(steering_vector(model, TOKENS, OTHER, site), (here - there)[:, -1].mean(0), RTOL)
    every = steering_vector(model, TOKENS, OTHER, site, pos=None)
    assert_close(every, (here - there).mean(0), RTOL)
    with steer(model, every, site):
        ours = logits(model)
    assert_close(ours, added(model, *widened(model, site, every.expand(2, -1, -1))), RTOL)


def test_several_heads_at_once() -> None:
    """One `with` in the other, also for heads of one hook."""
    model, vectors = model_of("gpt2"), drawn(2, 4)
    sites = [at("z", 1, head=0), at("z", 1, head=2)]
    with steer(model, vectors[0], sites[0]), steer(model, vectors[1], sites[1], positions=3):
        ours = logits(model)
    hook, first = widened(model, sites[0], vectors[0].expand(2, 5, -1))
    second = widened(model, sites[1], vectors[1].expand(2, 1, -1))[1]
    first[:, 3:4] += second
    assert_close(ours, added(model, hook, first), RTOL)


def test_no_coefficient_no_change() -> None:
    model = model_of("gpt2")
    with steer(model, drawn(12), "resid_pre1", coefficient=0.0):
        assert torch.equal(logits(model), model(TOKENS).detach())


def test_without_norm_the_last_stream_shifts_logits_by_the_unembedded_vector() -> None:
    """logits += c v W_U; with a frozen norm that is divided by its scale."""
    model, vector = build(normalization_type=None), drawn(12)
    before = logits(model)
    with steer(model, vector, "resid_post2", coefficient=0.7):
        after = logits(model)
    assert_close(after - before, (0.7 * vector @ model.W_U).detach().expand_as(before), 1e-9)
    model = build(normalization_type="RMSPre")
    (_, seen) = model.run_with_cache(TOKENS, names_filter="ln_final.hook_scale", return_cache_object=False)
    scale = seen["ln_final.hook_scale"]
    frozen = [("ln_final.hook_scale", lambda value, hook: scale)]
    with steer(model, vector, "resid_post2", coefficient=0.7), torch.no_grad():
        after = model.run_with_hooks(TOKENS, fwd_hooks=frozen)
    assert_close(after - logits(model), (0.7 * vector @ model.W_U / scale).detach(), 1e-9)


def check_generation(kind: str, where: str, hook: Any) -> None:
    """With and without cache it reads and writes what full passes over everything that was written do."""
    model = model_of(kind) if kind in KINDS else hooked(kind)
    (point,) = model.points(hook.hook if isinstance(hook, Site) else hook)
    positions, vector = PLACES[where][0], drawn(point.sizes[point.axes[-1]]) * 5
    prompt = TOKENS[:, :5] % 19  # what is generated is read again, and this model writes 19 tokens
    seen: list[Tensor] = []

    def watch(value: Tensor, hook: Any) -> None:
        seen.append(value)

    with steer(model, vector, hook, positions=positions):
        with model.hooks(fwd_hooks=[(point.name, watch)]):
            cached = model.generate(prompt, 4, do_sample=False)
        pieces = torch.cat(seen, dim=1)
        assert torch.equal(cached, model.generate(prompt, 4, do_sample=False, use_past_kv_cache=False))
        seen.clear()
        with model.hooks(fwd_hooks=[(point.name, watch)]):
            logits(model, cached[:, :-1])
    assert_close(pieces, seen[0], 1e-9)


@pytest.mark.parametrize("kind", [*KINDS, "latent", "experts", "alibi-windows"])
@pytest.mark.parametrize("where", PLACES)
def test_generation_steers_the_same_with_and_without_cache(kind: str, where: str) -> None:
    """Positions of the tokens that are generated, too."""
    check_generation(kind, where, "resid_pre1")


@pytest.mark.parametrize("kind", ["llama", "latent", "alibi-windows"])
@pytest.mark.parametrize("where", ["all", "list", "tensor", "from"])
@pytest.mark.parametrize("name", ["z", "k"])
def test_so_it_does_single_heads(name: str, where: str, kind: str) -> None:
    """Also keys, which are read again from the cache."""
    check_generation(kind, where, at(name, 1, head=1))


def test_steering_changes_what_is_generated() -> None:
    """A vector that unembeds to a token, added at every step to the last stream, makes the model say that token."""
    model = build(normalization_type=None)
    wanted = 6
    vector = (model.W_U[:, wanted] - model.W_U.mean(1)).detach()
    with steer(model, vector, "resid_post2", coefficient=100.0):
        assert model.generate(TOKENS[:, :3], 4, do_sample=False)[:, 3:].tolist() == [[wanted] * 4] * 2
    with steer(model, vector, "resid_post2", coefficient=100.0, positions=[2, 4]):
        out = model.generate(TOKENS[:, :3], 4, do_sample=False)[:, 3:]
    assert out[:, [0, 2]].tolist() == [[wanted] * 2] * 2
    assert not (out[:, [1, 3]] == wanted).all()


BACK: list[Any] = [-1, [-1, -2], torch.tensor([-2, -1]), slice(-2, None), slice(1, -1), slice(-2, -1), [0, -1]]
MASKS = {"left": torch.tensor([[0, 0, 1, 1, 1], [1] * 5]), "right": torch.tensor([[1, 1, 1, 0, 0], [1] * 5])}


@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("positions", BACK, ids=str)
def test_negative_positions_count_back_from_the_last_real_token(positions: Any, side: str) -> None:
    """Each padded prompt gives what it gives alone."""
    model, vector, mask = model_of("gpt2"), drawn(12), MASKS[side]
    with steer(model, vector, "resid_pre1", positions=positions):
        together = model(TOKENS, attention_mask=mask)
    for row, real in enumerate(mask.bool()):
        own = positions[row : row + 1] if isinstance(positions, torch.Tensor) else positions
        if side == "left" and not row and positions in ([0, -1], slice(1, -1)) and not isinstance(own, torch.Tensor):
            continue  # 0 and 1 are padding there
        with steer(model, vector, "resid_pre1", positions=own):
            assert_close(together[row][real][None], model(TOKENS[row][real][None]), RTOL)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("positions", "places"),
    [(-1, 2), ([-2, 4], [1, 4]), (slice(-1, None), slice(2, None)), (slice(None, -1), slice(0, 2))],
    ids=str,
)
def test_while_generating_they_count_back_in_the_prompt(positions: Any, places: Any, cached: bool) -> None:
    """By hand: the prompt ends at position 2 whatever is read after it."""
    model, vector, mask = model_of("llama"), 3 * drawn(12), torch.tensor([[0, 1, 1], [1, 1, 1]])
    written = []
    for steered in (positions, places):
        with steer(model, vector, "resid_pre1", positions=steered):
            options: dict[str, Any] = dict(attention_mask=mask, use_past_kv_cache=cached, verbose=False)
            written.append(model.generate(TOKENS[:, :3], 4, do_sample=False, **options))
    assert torch.equal(*written)


def test_a_pass_that_reads_on_by_itself_has_no_end_to_count_from() -> None:
    model, cache = model_of("llama"), KeyValueCache()
    model(TOKENS[:, :3], past_kv_cache=cache)
    with pytest.raises(BadInput, match="reads on after 3 tokens"), steer(model, drawn(12), "resid_pre1", positions=-1):
        model(TOKENS[:, 3:], past_kv_cache=cache)


def test_the_engine_sees_it_too() -> None:
    """Stacked runs of an experiment are steered like single passes."""
    model, metric, vector = model_of("gpt2"), LogitDiff([4, 11], [7, 2]), drawn(12)
    with steer(model, vector, "resid_pre1", positions=[1, 2]):
        (ours,) = evaluate(model, [Run(TOKENS)], metric)
        assert_close(ours, metric(logits(model)), RTOL)


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "hook": (dict(hook="resid_pr1"), UnknownHook, "Did you mean"),
    "heads": (dict(hook="z1"), BadInput, "select one index of head, and nothing else, got {}"),
    "several heads": (
        dict(hook=at("z", 1, head=[0, 1])),
        BadInput,
        "select one index of head.*got {'head': \\(0, 1\\)}",
    ),
    "pos of a head": (dict(hook=at("z", 1, head=1, pos=2)), BadInput, "select one index of head, and nothing else"),
    "pos of a stream": (dict(hook=at("resid_pre", 1, pos=2)), BadInput, "select nothing, got {'pos': 2}"),
    "a number of a head": (dict(hook=at("z", 1, head=1, d_head=0)), BadInput, "and nothing else"),
    "no such head": (dict(hook=at("z", 1, head=4)), BadInput, "head=4 is out of range: blocks.1.attn.hook_z has 4"),
    "a pattern": (dict(hook=at("pattern", 1, head=1)), BadInput, "needs a hook \\[batch, pos, ..., width\\]"),
    "width of a head": (
        dict(hook=at("z", 1, head=1)),
        BadInput,
        "needs a vector of 4 numbers \\(d_head\\), got \\[12\\]",
    ),
    "width": (dict(vector=drawn(5)), BadInput, "needs a vector of 12 numbers \\(d_model\\), got \\[5\\]"),
    "both": (dict(vector=drawn(2, 12), positions=1), BadInput, "says by itself where it is added"),
    "step": (dict(positions=slice(0, 4, 2)), BadInput, "without a step"),
    "float": (dict(positions=1.5), BadInput, "must be an int, a list of ints"),
    "batch": (dict(positions=torch.tensor([1, 2, 3])), BadInput, "one index for each of 2 prompts; got 3"),
    "never": (dict(positions=[7]), HookDidNotFire, "nothing was changed.*positions \\[7\\]"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_and_leave_the_model_alone(what: str) -> None:
    changes, error, message = MISTAKES[what]
    arguments = dict(vector=drawn(12), hook="resid_pre1") | changes
    model = model_of("gpt2")
    with left_alone(model), unchecked_types(), pytest.raises(error, match=message):
        with steer(model, **arguments):
            logits(model)
    assert not model._forward_pre_hooks


def test_an_exception_inside_is_not_hidden() -> None:
    model = model_of("gpt2")
    with pytest.raises(ZeroDivisionError), steer(model, drawn(12), "resid_pre1"):
        _ = 1 / 0
    assert not model._forward_pre_hooks


# ------------------------------------------------------------------------------------------------- directional ablation

ANYWHERE = [name for name in ARCHITECTURES if name != "post-norm"]
BY_WEIGHTS = [
    name
    for name in ANYWHERE
    if not (hooked(name).cfg.writes_normalized or hooked(name).cfg.positional_embedding_type == "sinusoidal")
    and hooked(name).cfg.embed_norm_type is None
]


@pytest.mark.parametrize("name", ANYWHERE)
def test_the_stream_has_no_ablated_direction_anywhere(name: str) -> None:
    model, directions = hooked(name), drawn(2, hooked(name).cfg.d_model)
    tokens, names = random_tokens(2, 5, 23), ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
    with ablate_directions(model, directions):
        _, seen = model.run_with_cache(
            tokens, names_filter=lambda point: point.endswith(names), return_cache_object=False
        )
    for point, value in seen.items():
        assert float((value @ directions.T).abs().max()) < 1e-10 * float(value.abs().max()), point
    assert not any(point.hooked for point in model.hook_points())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["resid_pre1", "attn_out2", at("z", 1, head=2), at("v", 1, head=0)])
def test_at_one_place_it_is_an_intervention_along_them(hook: Any, kind: str) -> None:
    """At some positions, or at all of them; other places keep what they have."""
    model = model_of(kind)
    site = hook if isinstance(hook, Site) else Site(hook=model.points(hook)[0].name)
    (point,) = model.points(site.hook)
    directions = drawn(2, point.sizes[point.axes[-1]])
    for positions in (None, [1, 4], torch.tensor([3, 4])):
        with left_alone(model):
            with ablate_directions(model, directions, hook, positions=positions):
                ours = logits(model)
            there = Site(hook=site.hook, select=dict(site.select) | ({} if positions is None else {"pos": positions}))
            run = Run(TOKENS, [Intervention(there, 0.0, along=directions)])
            assert_close(ours, evaluate(model, [run], lambda logits: logits)[0], RTOL)
            assert float((ours - logits(model)).abs().max()) > 1e-6


def test_every_write_at_some_positions() -> None:
    """Until another position has read what the others have, the stream there is without the direction."""
    model, direction = model_of("attn-only"), drawn(12)
    with ablate_directions(model, direction, positions=slice(2, None)):
        _, seen = model.run_with_cache(TOKENS, names_filter=lambda name: "resid" in name, return_cache_object=False)
    for value in seen.values():
        assert float((value[:, 2:] @ direction).abs().max()) < 1e-10
        assert float((value[:, :2] @ direction).abs().min()) > 1e-6


def test_directions_are_ablated_while_the_model_writes() -> None:
    model, directions, prompt = model_of("llama"), drawn(2, 4), TOKENS[:, :5] % 19
    with ablate_directions(model, directions, at("z", 1, head=1), positions=slice(6, None)):
        assert torch.equal(
            model.generate(prompt, 4, do_sample=False),
            model.generate(prompt, 4, do_sample=False, use_past_kv_cache=False),
        )
    with (
        pytest.raises(HookDidNotFire, match=r"nothing was changed: no pass came by .*at positions 7"),
        ablate_directions(model, directions, at("z", 1, head=1), positions=7),
    ):
        logits(model)


def test_a_place_in_a_model_of_norms_after_additions() -> None:
    """What is refused for the stream as a whole can be done where one says."""
    model, direction = hooked("post-norm"), drawn(hooked("post-norm").cfg.d_model)
    tokens = random_tokens(2, 5, 19)
    with ablate_directions(model, direction, "mlp_out1"):
        _, seen = model.run_with_cache(tokens, names_filter="mlp_out1", return_cache_object=False)
    assert float((seen["blocks.1.hook_mlp_out"] @ direction).abs().max()) < 1e-10


@pytest.mark.parametrize("name", BY_WEIGHTS)
def test_hooks_and_weights_are_the_same(name: str) -> None:
    model, directions = hooked(name), drawn(2, hooked(name).cfg.d_model)
    tokens = random_tokens(2, 5, 23)
    before, weights = logits(model, tokens), {key: weight.clone() for key, weight in model.state_dict().items()}
    edited = orthogonalize(model, directions)
    with ablate_directions(model, directions):
        ablated = logits(model, tokens)
    assert_close(logits(edited, tokens), ablated, 1e-10)
    assert float((ablated - before).abs().max()) > 1e-3
    assert all(torch.equal(weight, weights[key]) for key, weight in model.state_dict().items())
    for key, weight in edited.named_parameters():
        assert weight.stride() == model.get_parameter(key).stride(), f"{key} lies in memory as before"


def test_a_tied_unembedding_stays() -> None:
    model = convert(fresh_hf("gpt2-tied-scaled"))
    assert torch.equal(model.W_E.T, model.W_U)
    edited = orthogonalize(model, drawn(24))
    assert torch.equal(edited.W_U, model.W_U)
    assert float((edited.W_E.detach() @ orthonormal(drawn(24)).T.float()).abs().max()) < 1e-6


def test_half_precision_is_edited_in_float32() -> None:
    model = build(dtype=torch.bfloat16)
    edited, basis = orthogonalize(model, drawn(12)), orthonormal(drawn(12)).float()
    assert edited.W_E.dtype == torch.bfloat16
    exact = model.W_E.float() - model.W_E.float() @ basis.T @ basis
    assert torch.equal(edited.W_E, exact.bfloat16())


def test_twice_is_once_and_the_span_is_what_counts() -> None:
    model, directions = model_of("llama"), drawn(2, 12)
    once = orthogonalize(model, directions)
    mixed = orthogonalize(model, torch.tensor([[2.0, 1.0], [0.0, -3.0]], dtype=torch.float64) @ directions)
    for other in (
        orthogonalize(once, directions),
        mixed,
        orthogonalize(orthogonalize(model, directions[0]), directions),
    ):
        assert_close(logits(other), logits(once), 1e-10)


REFUSED = {
    "post-norm": "a norm after every addition",
    "narrow-embeddings": "a norm after the embeddings",
    "output-norms": "a norm after attention and MLP",
    "only-output-norms": "a norm after attention and MLP",
    "score-cap-clipped": "sinusoidal positions",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_weights_can_do_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=REFUSED[name]):
        orthogonalize(hooked(name), drawn(12))


def test_an_embedding_norm_is_refused_too() -> None:
    with pytest.raises(BadInput, match="a norm after the embeddings"):
        orthogonalize(build(embed_norm_type="LN"), drawn(12))


def test_other_directions_are_refused() -> None:
    with pytest.raises(BadInput, match=r"directions must be \[n, d_head=4\], got \[12\]"), _at_a_head(drawn(12)):
        pass
    for wrong in (drawn(5), drawn(2, 5), torch.zeros(12), drawn(13, 12)):
        for ablation in (lambda: orthogonalize(model_of("gpt2"), wrong), lambda: _entered(wrong)):
            with pytest.raises(BadInput, match="direction"):
                ablation()
    with (
        pytest.raises(BadInput, match="a norm after every addition"),
        ablate_directions(hooked("post-norm"), drawn(12)),
    ):
        pass


def _at_a_head(directions: Tensor) -> Any:
    return ablate_directions(model_of("gpt2"), directions, at("z", 1, head=1))


def _entered(directions: Tensor) -> None:
    with ablate_directions(model_of("gpt2"), directions):
        pass


@pytest.mark.parametrize("forgotten", sorted(steering.WRITERS))
def test_every_writer_matters(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one kind of weight the two ways differ in some architecture."""
    monkeypatch.setattr(steering, "WRITERS", steering.WRITERS - {forgotten})
    name = "gpt2"
    if forgotten == "W_token_type":
        model = build(n_token_types=2)
        with ablate_directions(model, drawn(12)):
            ablated = logits(model)
        assert float((logits(orthogonalize(model, drawn(12))) - ablated).abs().max()) > 1e-6
        return
    with pytest.raises(AssertionError, match="relative difference"):
        test_hooks_and_weights_are_the_same(name)


def test_a_position_counted_from_the_pass_instead_of_the_row_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = steering._here
    monkeypatch.setattr(steering, "_here", lambda wanted, places, batch: right(wanted, places - places[0], batch))
    with pytest.raises(AssertionError):
        test_generation_steers_the_same_with_and_without_cache("gpt2", "from")


def test_another_head_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering.VectorPlace, "index", lambda self, value: (slice(None), slice(None), 3))
    with pytest.raises(AssertionError, match="relative difference"):
        test_several_heads_at_once()
    with pytest.raises(AssertionError, match="relative difference"):
        test_at_one_place_it_is_an_intervention_along_them(at("z", 1, head=2), "gpt2")


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_what_is_no_number_steers_nothing(number: float) -> None:
    model, vector = build(), torch.ones(12, dtype=torch.float64)
    wrong = vector.clone()
    wrong[3] = number
    tokens = random_tokens(d_vocab=23)
    for options in (dict(vector=wrong), dict(vector=vector, coefficient=number)):
        with (
            pytest.raises(BadInput, match=r"(vector|coefficient) must be finite, got 1 of (12|1) numbers nan"),
            steer(model, hook="resid_pre1", **options),
        ):
            model(tokens)
    with pytest.raises(BadInput, match=r"vector must be finite"):
        relative_norm(model, tokens, wrong)
    with pytest.raises(BadInput, match="finite directions"), ablate_directions(model, wrong):
        model(tokens)
    with torch.no_grad():
        model.blocks[0].mlp.b_out[2] = number
    with pytest.raises(BadInput, match=r"activations at blocks\.1\.hook_resid_pre that are nan or infinite"):
        steering_vector(model, tokens, tokens + 0, "resid_pre1")
