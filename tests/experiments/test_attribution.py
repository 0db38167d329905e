"""Attribution patching: true patching where both must agree, finite differences where they need not."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint, LogitDiff, LogProb, Result, at, patch
from interp_hooks.errors import BadInput, MetricError, UnknownHook
from interp_hooks.experiments.attribution import attribution_patch, attribution_patches
from interp_hooks.experiments.estimates import Agreement, agreement
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, left_alone, model_of, put, rows_counted, word_tokenizer
from tests.experiments.gates import gate, linear, output
from tests.tiny import ARCHITECTURES, assert_close, build, distance, hooked, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)


def first_logits(logits: Tensor) -> Tensor:
    """A linear metric that reads every position."""
    return logits[..., 0].sum(1)


def effects(result: Result) -> Tensor:
    """What patching changes, [*cell, prompt]."""
    assert result.scale is not None
    return result.values - result.baselines[result.scale[0]]


# ----------------------------------------------------------------------------------------------- where both are equal


@pytest.mark.parametrize("options", [{}, dict(qk_fix=True)], ids=str)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("resid_pre", ("layer", "pos")),
        ("z", ("pos", "head", "layer")),
        ("v", ("head",)),
        ("attn_out", ("layer",)),
        ("k", ("layer", "head", "pos")),
        ("result", ("layer", "head", "d_model")),
    ],
)
def test_it_is_patching_in_a_linear_model(site: str, over: tuple[str, ...], direction: Any, options: Any) -> None:
    """With all of its labels, baselines and signs."""
    model = linear()
    ours = attribution_patch(model, TOKENS, OTHER, first_logits, site, over=over, direction=direction, **options)
    truth = patch(model, TOKENS, OTHER, first_logits, site, over=over, direction=direction, progress=False)
    assert ours.axes == truth.axes
    assert (ours.metric, ours.scale, list(ours.baselines)) == (truth.metric, truth.scale, list(truth.baselines))
    for name, baseline in truth.baselines.items():
        assert_close(ours.baselines[name], baseline, RTOL)
    assert_close(ours.values, truth.values, RTOL)
    if site != "k":  # which have no effect on uniform attention
        assert_close(effects(ours), effects(truth), RTOL)


@pytest.mark.parametrize("inputs", [2, 3])
@pytest.mark.parametrize("site", ["resid_pre", "v"])
@pytest.mark.parametrize(
    ("kind", "direction", "effect"),
    [("and", "noise", -1), ("and", "denoise", 0), ("or", "noise", 0), ("or", "denoise", 1)],
)
def test_the_gates(kind: Any, direction: Any, effect: int, site: str, inputs: int) -> None:
    """One input at a time, all ones (clean) and all zeros (corrupt). The gradient misses what patching misses."""
    clean = torch.ones(1, inputs, dtype=torch.long)
    result = attribution_patch(
        gate(kind, inputs), clean, 0 * clean, output, site, over=("layer", "pos"), direction=direction
    )
    assert bool(((effects(result) - effect).abs() < 1e-12).all())


ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": dict(n_key_value_heads=2),
    "one key head": dict(n_key_value_heads=1),
    "rotary": dict(positional_embedding_type="rotary", rotary_dim=2, n_key_value_heads=2),
    "alibi, window": dict(
        positional_embedding_type="alibi", alibi_slopes=(0.5, 0.25, 0.125, 0.0625), window_sizes=(3,)
    ),
    "sinks": dict(attn_sinks=True, n_key_value_heads=2),
    "capped": dict(attn_scores_soft_cap=1.0),
    "clipped": dict(qkv_clip=0.7),
    "bidirectional": dict(attention_dir="bidirectional"),
    "normed": dict(qk_norm="per_head", qk_norm_type="RMS", positional_embedding_type="rotary"),
    "normed after": dict(
        qk_norm="shared", qk_norm_type="RMS", qk_norm_after_rotary=True, positional_embedding_type="rotary"
    ),
    "latent": dict(positional_embedding_type="rotary", rotary_dim=2, kv_latent=5, q_latent=6, d_value=3),
    "saturated": dict(std=1.5),
}


def attention_only(name: str) -> HookedTransformer:
    """One layer whose output is linear in its pattern."""
    return build(**dict(n_layers=1, attn_only=True, normalization_type=None) | ATTENTION[name])


@pytest.mark.parametrize("over", [("head", "pos"), ("pos",), ("head",), ("layer",)], ids=str)
@pytest.mark.parametrize("name", ATTENTION)
def test_the_fix_is_exact_up_to_the_pattern(name: str, over: tuple[str, ...]) -> None:
    """Whatever lies between queries, keys and pattern; without it the estimate is off."""
    model = attention_only(name)
    sites = [site for site in ("q", "k", "rot_q", "rot_k", "q_input", "k_input") if at(site, 0).hook in model.hook_dict]
    fixed = attribution_patches(model, TOKENS, OTHER, first_logits, dict.fromkeys(sites, over), qk_fix=True)
    plain = attribution_patches(model, TOKENS, OTHER, first_logits, dict.fromkeys(sites, over))
    for site in sites:
        truth = patch(model, TOKENS, OTHER, first_logits, site, over=over, progress=False)
        assert fixed[site].axes == truth.axes
        assert_close(effects(fixed[site]), effects(truth), 1e-9)
        assert distance(effects(plain[site]), effects(truth)) > 1e-3, site


def test_the_fix_holds_where_the_pattern_is_all_but_one_hot() -> None:
    """In float32 a share of 1 - 1e-9 is 1; what the others get when that key goes is told by the scores."""
    model = build(n_layers=1, attn_only=True, normalization_type=None, std=2.0, dtype=torch.float32)
    assert float(model.run_with_cache(OTHER)[1]["pattern", 0][:, :, 1:].amax(-1).max()) == 1.0
    for over in (("head", "pos"), ("head",)):
        ours = attribution_patch(model, TOKENS, OTHER, first_logits, "k", over=over, qk_fix=True)
        truth = patch(model, TOKENS, OTHER, first_logits, "k", over=over, progress=False)
        assert_close(effects(ours), effects(truth), 1e-4)
        plain = attribution_patch(model, TOKENS, OTHER, first_logits, "k", over=over)
        assert distance(effects(plain), effects(truth)) > 0.1, "the gradient of a saturated softmax is no guide"


# ------------------------------------------------------------------------------------------- the gradient of a mask


def by_finite_difference(
    model: HookedTransformer, base: Tensor, source: Tensor, site: str, layer: int, select: dict[str, int]
) -> Tensor:
    """d metric / d mask at 0 of x + mask (source - x) at one cell."""
    hook, step = at(site, layer).hook, 1e-5
    with torch.no_grad():
        new = model.run_with_cache(source, names_filter=[hook])[1][hook]

        def scored(mask: float) -> Tensor:
            def blend(value: Tensor, hook: HookPoint) -> Tensor:
                return put(value, hook.axes, select, value + mask * (new - value))

            return DIFF(model.run_with_hooks(base, fwd_hooks=[(hook, blend)]))

        return (scored(step) - scored(-step)) / (2 * step)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_the_gradient_of_a_mask(name: str) -> None:
    """For every architecture, at a site of each kind."""
    model = hooked(name)
    sites = {"resid_pre": ("layer", "pos"), "z": ("layer", "head"), "v": ("head", "pos"), "pattern": ("head", "key")}
    results = attribution_patches(model, TOKENS, OTHER, DIFF, sites)
    for site, result in results.items():
        step = max(1, result.mean.numel() // 5)
        cells = list(itertools.product(*result.axes.values()))
        for number in range(0, len(cells), step):
            select = dict(zip(result.axes, cells[number], strict=True))
            expected = by_finite_difference(model, OTHER, TOKENS, site, select.pop("layer"), select)
            found = effects(result).flatten(0, -2)[number]
            assert bool(((found - expected).abs() < 1e-6 * (1 + effects(result).abs().max())).all()), (
                site,
                cells[number],
            )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_option_for_every_architecture(name: str) -> None:
    """Sums over fewer axes are sums; AtP* is done, or refused where heads can't be taken one by one."""
    model = hooked(name)
    fine = {"q": ("layer", "head", "pos"), "k": ("layer", "pos", "head"), "attn_out": ("layer", "pos")}
    if model.cfg.keys_values_from:  # a layer that makes none has no such hook
        del fine["k"]
    whole = {"q": ("layer",), "attn_out": ("layer",)}
    for options in (dict(), dict(qk_fix=True)):
        if options and model.cfg.qk_norm == "all_heads":
            with pytest.raises(BadInput, match="over all heads together"):
                attribution_patches(model, TOKENS, OTHER, DIFF, fine, **options)
            fine = {"q": ("layer", "pos"), "k": ("layer", "pos"), "attn_out": ("layer", "pos")}
        parts = attribution_patches(model, TOKENS, OTHER, DIFF, fine, **options)
        sums = attribution_patches(model, TOKENS, OTHER, DIFF, whole, **options)
        for site in whole:
            assert_close(effects(parts[site]).flatten(1, -2).sum(1), effects(sums[site]), 1e-9)
    if model.cfg.n_streams > 1:
        with pytest.raises(BadInput, match="carries 3 streams"):
            attribution_patches(model, TOKENS, OTHER, DIFF, fine, grad_drop=True)
        return
    star = attribution_patches(model, TOKENS, OTHER, DIFF, fine, qk_fix=True, grad_drop=True)
    assert all(bool(result.values.isfinite().all()) for result in star.values())


def test_small_steps_are_patched_right() -> None:
    """In a deep model patching, AtP and the fix agree the better, the smaller the change: quadratically."""
    model, errors = build(std=0.3), []
    for size in (1e-3, 1e-4):
        with torch.no_grad():
            model.W_E[21] = model.W_E[20] + size * torch.linspace(-1, 1, 12)
        clean, corrupt = torch.tensor([[3, 20, 5, 1]] * 2), torch.tensor([[3, 21, 5, 1]] * 2)
        truth = effects(patch(model, clean, corrupt, DIFF, "k", over=("head", "pos"), progress=False))
        for qk_fix in (False, True):
            ours = attribution_patch(model, clean, corrupt, DIFF, "k", over=("head", "pos"), qk_fix=qk_fix)
            errors.append(float((effects(ours) - truth).abs().max()))
    plain, fixed, finer_plain, finer_fixed = errors
    assert 80 < plain / finer_plain < 120
    assert 80 < fixed / finer_fixed < 120


# ----------------------------------------------------------------------------------------------------------- GradDrop


def dropped_by_hand(model: HookedTransformer, base: Tensor, source: Tensor, hook: str, drop: int) -> Tensor:
    """(source - x) dm/dx at a hook, where what layer `drop` writes is detached: [batch, pos, head, d_head]."""
    kept: list[Tensor] = []

    def keep(value: Tensor, hook: HookPoint) -> None:
        kept.append(value)

    def detach(value: Tensor, hook: HookPoint) -> Tensor:
        return value.detach()

    new = model.run_with_cache(source, names_filter=[hook])[1][hook]
    writers = [
        name for name in (f"blocks.{drop}.hook_attn_out", f"blocks.{drop}.hook_mlp_out") if name in model.hook_dict
    ]
    point = model.hook_dict[hook]
    watcher = point.add_hook(keep, watches=True)
    try:
        logits = model.run_with_hooks(base, fwd_hooks=[(name, detach) for name in writers])
    finally:
        watcher.remove()
    (gradient,) = torch.autograd.grad(DIFF(logits).sum(), kept, allow_unused=True)
    return torch.zeros_like(new) if gradient is None else (new - kept[0].detach()) * gradient


@pytest.mark.parametrize("name", ["gpt2", "neox", "attn-only", "output-norms", "post-norm", "experts"])
def test_grad_drop_leaves_out_what_a_layer_writes(name: str) -> None:
    model = hooked(name)
    ours = effects(attribution_patch(model, TOKENS, OTHER, DIFF, "z", over=("head",), grad_drop=True))
    for layer in range(3):
        others = [drop for drop in range(3) if drop != layer]
        hook = f"blocks.{layer}.attn.hook_z"
        each = [dropped_by_hand(model, OTHER, TOKENS, hook, drop).sum((1, 3)).T for drop in others]
        size = sum(one.abs() for one in each) / 2
        assert_close(ours[layer].abs(), size, RTOL)
        assert bool((ours[layer] * sum(each) >= 0).all())
        own = dropped_by_hand(model, OTHER, TOKENS, hook, layer)
        assert not bool(own.any()), "without its own layer's writing a head does nothing"


def test_grad_drop_sees_through_a_cancellation() -> None:
    """Layer 1 takes away what layer 0 wrote: no effect, for patching and AtP, but two that GradDrop tells apart."""
    model = build(
        n_layers=2, attn_only=True, normalization_type=None, d_head=12, n_heads=1, positional_embedding_type="none"
    )
    with torch.no_grad():
        model.embed.W_E[:, :6] = 0
        model.blocks[1].attn.W_V[0] = torch.diag(torch.tensor([1.0] * 6 + [0.0] * 6))
        model.blocks[1].attn.W_O[0] = -torch.eye(12)
        model.blocks[0].attn.W_O[0, :, 6:] = 0
        model.blocks[1].attn.b_V.zero_()
        model.blocks[1].attn.W_Q.zero_()
        model.blocks[1].attn.b_Q.zero_()
    clean, corrupt = torch.tensor([[3]]), torch.tensor([[8]])
    plain, dropped = (
        effects(attribution_patch(model, clean, corrupt, output, "z", layers=[0], grad_drop=drop))
        for drop in (False, True)
    )
    truth = effects(patch(model, clean, corrupt, output, "z", over=("layer", "head"), layers=[0], progress=False))
    before, after = (model.run_with_cache(tokens)[1]["z", 0][0, -1, 0] for tokens in (corrupt, clean))
    direct = ((after - before) @ model.W_O[0, 0] @ model.W_U[:, 0]).detach()
    assert float(direct.abs()) > 0.01
    assert float(truth.abs().max()) < 1e-12
    assert float(plain.abs().max()) < 1e-12
    assert_close(dropped.flatten(), direct.reshape(1), RTOL)


# ----------------------------------------------------------------------------------------------- cost, side effects


def test_sites_share_their_passes() -> None:
    model = model_of("llama")
    sites = {"z": ("layer", "head"), "mlp_out": ("layer", "pos"), "k": ("layer", "head"), "resid_pre": ("pos",)}
    with rows_counted(model, "hook_embed", "blocks.1.hook_resid_post") as rows:
        together = attribution_patches(model, TOKENS, OTHER, DIFF, sites)
        assert rows == {"hook_embed": [2, 2], "blocks.1.hook_resid_post": [2, 2]}
    for site, over in sites.items():
        alone = attribution_patch(model, TOKENS, OTHER, DIFF, site, over=over)
        assert together[site].axes == alone.axes
        assert_close(together[site].values, alone.values, RTOL)


@pytest.mark.parametrize("options", [{}, dict(qk_fix=True, grad_drop=True)], ids=str)
def test_the_model_is_left_alone(options: dict[str, bool]) -> None:
    """Weights get no gradient, and it does not matter whether they ask for one, or whether gradients are on."""
    model = build()
    with left_alone(model):
        expected = attribution_patch(model, TOKENS, OTHER, DIFF, "k", **options)
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not expected.values.requires_grad
    assert not any(baseline.requires_grad for baseline in expected.baselines.values())
    with torch.no_grad():
        assert_close(attribution_patch(model, TOKENS, OTHER, DIFF, "k", **options).values, expected.values, RTOL)
    model.requires_grad_(False)
    assert_close(attribution_patch(model, TOKENS, OTHER, DIFF, "k", **options).values, expected.values, RTOL)
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [{}, dict(qk_fix=True), dict(grad_drop=True)], ids=str)
def test_pairs_of_several_lengths(side: Any, options: dict[str, bool]) -> None:
    """Each pair gives what it gives alone, read at its own last token."""
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes", "no"), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    clean, corrupt = ["a b c", "c"], ["b b a", "a"]

    def attributed(rows: slice) -> Tensor:
        metric = LogitDiff(["yes", "no"][rows], ["no", "yes"][rows])
        return attribution_patch(model, clean[rows], corrupt[rows], metric, "k", **options).values

    alone = torch.cat((attributed(slice(0, 1)), attributed(slice(1, 2))), -1)
    assert_close(attributed(slice(0, 2)), alone, RTOL)


def test_one_number_for_all_prompts() -> None:
    model = model_of("gpt2")
    each = attribution_patch(model, TOKENS, OTHER, first_logits)
    mean = attribution_patch(model, TOKENS, OTHER, lambda logits: first_logits(logits).mean())
    assert mean.values.shape == (3, 4, 1)
    assert_close(mean.mean, each.mean, RTOL)


def test_half_precision_is_summed_in_single() -> None:
    model = model_of("gpt2")
    half = HookedTransformer(model.cfg.replace(dtype=torch.bfloat16))
    half.load_state_dict(model.state_dict())
    exact = effects(attribution_patch(model, TOKENS, OTHER, DIFF, "resid_pre", over=("layer",), qk_fix=True))
    assert_close(effects(attribution_patch(half, TOKENS, OTHER, DIFF, "resid_pre", over=("layer",))), exact, 0.1)
    assert attribution_patch(half, TOKENS, OTHER, DIFF, "k", qk_fix=True).values.isfinite().all()


# ---------------------------------------------------------------------------------------- selected and named positions

PLACES = {"subject": torch.tensor([1, 3]), "end": -1}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("site", ["z", "k", "resid_pre"])
def test_a_part_that_is_selected_is_summed_alone(kind: str, site: str) -> None:
    """Columns of the full grid, picked for each prompt by hand."""
    model = model_of(kind)
    full = attribution_patch(model, TOKENS, OTHER, DIFF, site, over=("layer", "pos"))
    picked = effects(full)[:, [1, 3], [0, 1]]
    named = attribution_patch(model, TOKENS, OTHER, DIFF, site, over=("layer", "position"), positions=PLACES)
    assert list(named.axes["position"]) == ["subject", "end"]
    assert_close(effects(named)[:, 0], picked, 1e-9)
    assert_close(effects(named)[:, 1], effects(full)[:, 4], 1e-9)
    alone = attribution_patch(
        model, TOKENS, OTHER, DIFF, site, over=("layer",), select={"pos": "subject"}, positions=PLACES
    )
    assert_close(effects(alone), picked, 1e-9)
    several = attribution_patch(model, TOKENS, OTHER, DIFF, site, over=("layer",), select={"pos": [0, 2]})
    assert_close(effects(several), effects(full)[:, [0, 2]].sum(1), 1e-9)


@pytest.mark.parametrize("qk_fix", [False, True])
@pytest.mark.parametrize("site", ["q", "k"])
def test_selected_keys_and_queries_are_those_of_the_whole_grid(site: str, qk_fix: bool) -> None:
    model, over = model_of("llama"), ("layer", "head", "pos")
    full = effects(attribution_patch(model, TOKENS, OTHER, DIFF, site, over=over, qk_fix=qk_fix))
    ours = attribution_patch(
        model,
        TOKENS,
        OTHER,
        DIFF,
        site,
        over=("layer", "position"),
        select={"head": 1},
        positions=PLACES,
        qk_fix=qk_fix,
    )
    assert_close(effects(ours)[:, 0], full[:, 1, [1, 3], [0, 1]], 1e-9)
    assert_close(effects(ours)[:, 1], full[:, 1, 4], 1e-9)


def test_padding_counts_back_from_the_last_real_token() -> None:
    model = build()
    model.set_tokenizer(word_tokenizer("a", "b", "c"), default_padding_side="right")
    clean, corrupt = ["a b c", "a b"], ["b b c", "c b"]
    last = torch.tensor([3, 2]) if model.default_prepend_bos else torch.tensor([2, 1])
    for index in (-1, [-1]):
        ours = attribution_patch(model, clean, corrupt, DIFF, "resid_pre", over=("layer",), select={"pos": index})
        by_hand = attribution_patch(model, clean, corrupt, DIFF, "resid_pre", over=("layer",), select={"pos": last})
        assert_close(ours.values, by_hand.values, 1e-12)


def test_what_cannot_be_selected() -> None:
    for options, message in (
        (dict(select={"query": 1}), "there is no 'query' to select"),
        (dict(select={"pos": 9}), "pos=9 is out of range"),
        (dict(select={"pos": "S3"}), "there is no position 'S3'"),
        (dict(over=("layer", "position")), "positions= has to say which"),
        (dict(site="k", select={"pos": [1, 2]}, qk_fix=True), "takes keys one by one"),
        (dict(site="k", select={"d_head": 1}, qk_fix=True), "leave d_head out"),
    ):
        arguments: dict[str, Any] = dict(clean=TOKENS, corrupt=OTHER, metric=DIFF, site="z") | options
        with pytest.raises(BadInput, match=message):
            attribution_patch(model_of("gpt2"), **arguments)


# ------------------------------------------------------------------------------------------------------------ agreement


def test_agreement_patches_the_cells_it_draws() -> None:
    model = model_of("llama")
    for direction in ("denoise", "noise"):
        result = attribution_patch(
            model, TOKENS, OTHER, DIFF, "k", over=("head", "pos"), direction=direction, layers=[2, 0]
        )
        truth = patch(
            model, TOKENS, OTHER, DIFF, "k", over=("head", "pos"), direction=direction, layers=[2, 0], progress=False
        )
        expected = effects(truth).mean(-1)
        generator = torch.Generator().manual_seed(0)
        found = agreement(model, TOKENS, OTHER, DIFF, result, "k", cells=7, generator=generator, progress=False)
        assert len({tuple(cell.items()) for cell in found.cells}) == 7
        for cell, estimated, patched in zip(found.cells, found.estimated, found.patched, strict=True):
            place = ([2, 0].index(cell["layer"]), cell["head"], cell["pos"])
            assert float(patched) == pytest.approx(float(expected[place]), rel=1e-9)
            assert float(estimated) == pytest.approx(float(effects(result).mean(-1)[place]), rel=1e-9)
        again = agreement(
            model, TOKENS, OTHER, DIFF, result, "k", cells=7, generator=generator.manual_seed(0), progress=False
        )
        other = agreement(model, TOKENS, OTHER, DIFF, result, "k", cells=7, generator=generator, progress=False)
        assert again.cells == found.cells != other.cells


@pytest.mark.parametrize(
    ("estimated", "patched", "spearman", "sign_errors"),
    [
        ([1, 2, 3, 4], [0.1, 0.2, 7, 8], 1, 0),
        ([1, 2, 3, 4], [-1, -2, -3, -4], -1, 4),
        ([1, 2, 3, 4], [2, 1, 4, 3], 0.6, 0),  # 1 - 6 (1 + 1 + 1 + 1) / (4 (16 - 1))
        ([1, 1, 2, 0], [1, 1, 2, 0], 1, 0),
        ([1, 2, 2, 3], [1, 2, 3, 4], 3 / 10**0.5, 0),  # ranks 0, 1.5, 1.5, 3: covariance 4.5, variances 4.5 and 5
        ([1, -1e-9, 2, 3], [1, 1e-9, 2, 3], 1, 0),  # rounding
        ([-1, 0, 2, 3], [1, -1, 2, 3], 0.8, 1),  # an effect that the estimate does not see has no wrong sign
    ],
)
def test_ranks_and_signs(estimated: list, patched: list, spearman: float, sign_errors: int) -> None:
    found = Agreement(
        metric="logit_diff",
        cells=[{"layer": layer} for layer in range(4)],
        estimated=torch.tensor(estimated, dtype=torch.float64),
        patched=torch.tensor(patched, dtype=torch.float64),
        rounding=1e-6,
    )
    assert found.spearman == pytest.approx(spearman, abs=1e-12)
    assert found.sign_errors == sign_errors
    table = found.table()
    assert list(table) == ["layer", "estimated_logit_diff", "patched_logit_diff", "error"]
    assert table["estimated_logit_diff"].tolist() == estimated
    assert f"rank correlation {spearman:.3f}, {sign_errors} with the wrong sign" in str(found)


def test_an_exact_estimate_agrees_and_its_negative_does_not() -> None:
    model = linear()
    result = attribution_patch(model, TOKENS, OTHER, first_logits, "z", over=("layer", "head", "pos"))
    flipped = Result(
        metric=result.metric,
        axes=result.axes,
        values=result.baselines["corrupt"] - effects(result),
        baselines=result.baselines,
        scale=result.scale,
    )
    good, bad = (
        agreement(model, TOKENS, OTHER, first_logits, one, "z", cells=999, progress=False) for one in (result, flipped)
    )
    assert len(good.cells) == 60
    assert (good.spearman, good.sign_errors) == (pytest.approx(1), 0)
    assert (bad.spearman, bad.sign_errors) == (pytest.approx(-1), 60)


def saturated() -> tuple[HookedTransformer, Tensor, Tensor]:
    """Neurons that are off in the corrupt run, of which two do all; at that end the gradient knows nothing of them."""
    cfg = dict(n_layers=1, d_model=4, n_heads=1, d_head=4, d_mlp=200, act_fn="relu", normalization_type=None)
    model = build(**cfg, positional_embedding_type="none", attn_only=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.W_E[1, 0], model.W_E[2, 1] = 1.0, 1.0
        mlp = model.blocks[0].mlp
        mlp.W_in[0, :2] = 5.0
        mlp.b_in[:2] = -1.0
        mlp.W_out[:2, 2] = 1.0
        mlp.W_in[1, 2:] = torch.linspace(0.01, 0.1, 198, dtype=torch.float64)
        mlp.W_out[2:, 2] = -0.1
        model.unembed.W_U[2, 0] = 1.0
    return model, torch.tensor([[1, 1]]), torch.tensor([[2, 2]])


def test_agreement_has_the_largest_effects_also_where_the_estimate_misses_them() -> None:
    """An even sample of 12 of 200 neurons would have both only once in 300 times, and would find nothing wrong."""
    model, clean, corrupt = saturated()
    over = ("layer", "neuron")
    estimate = attribution_patch(model, clean, corrupt, first_logits, "pre", over=over)
    truth = patch(model, clean, corrupt, first_logits, "pre", over=over, progress=False)
    assert effects(truth)[0, :2].flatten().tolist() == pytest.approx([8.0, 8.0])
    assert effects(estimate)[0, :2].flatten().tolist() == [0.0, 0.0]
    found = agreement(model, clean, corrupt, first_logits, estimate, "pre", cells=12, progress=False)
    strongest = [{"layer": 0, "neuron": 0}, {"layer": 0, "neuron": 1}]
    assert all(cell in found.cells for cell in strongest)
    assert found.missed == strongest
    assert len(found.not_patched) == 188
    text = str(found)
    assert text.startswith("12 of 200 cells patched (4 largest, 4 other end, 4 random): rank correlation")
    assert "largest error 8 of effects up to 8 (first_logits), at layer 0, neuron" in text
    assert "of the 5 largest effects, the estimates miss: layer 0, neuron 0; layer 0, neuron 1" in text
    assert "188 cells were not patched; their estimates are up to 0.0" in text
    assert found.table()["chosen"].value_counts().to_dict() == {"largest": 4, "other end": 4, "random": 4}
    by_size = effects(estimate).mean(-1).abs().flatten().argsort(descending=True)[:4].tolist()
    assert all({"layer": 0, "neuron": neuron} in found.cells for neuron in by_size)


def test_what_is_not_patched_may_be_worse_than_what_is() -> None:
    """Of 22 cells drawn evenly all are within some error: with 95 % so are seven eighths of the others, not all."""
    zeros = torch.zeros(22, dtype=torch.float64)
    found = Agreement(
        metric="m", cells=[{"layer": 0}] * 22, estimated=zeros, patched=zeros + 0.5, rounding=0.0,
        chosen=["random"] * 22, not_patched=torch.full((80,), 0.25),
    )  # fmt: skip
    share = 1 - 0.05 ** (1 / 22)  # the share of worse cells at which none among 22 comes once in twenty times
    assert (1 - share) ** 22 == pytest.approx(0.05)
    expected = f"80 cells were not patched; their estimates are up to 0.25, and as many as {int(80 * share)} of them"
    assert f"{expected} may be further off than 0.5" in str(found)


def test_agreement_knows_selected_and_named_positions() -> None:
    model, places = model_of("gpt2"), {"subject": torch.tensor([1, 2]), "end": -1}
    for options in (dict(select={"pos": "subject"}, positions=places), dict(select={"pos": 3, "head": [0, 2]})):
        over = ("layer",) if "head" in options["select"] else ("layer", "head")
        estimate = attribution_patch(model, TOKENS, OTHER, DIFF, "z", over=over, **options)
        truth = patch(model, TOKENS, OTHER, DIFF, "z", over=over, **options, progress=False)
        found = agreement(model, TOKENS, OTHER, DIFF, estimate, "z", cells=99, **options, progress=False)
        assert_close(found.patched, effects(truth).mean(-1).flatten(), 1e-9)
        assert not found.chosen
        assert "not patched" not in str(found)
    over = ("layer", "position")
    estimate = attribution_patch(model, TOKENS, OTHER, DIFF, "z", over=over, positions=places)
    found = agreement(model, TOKENS, OTHER, DIFF, estimate, "z", cells=4, positions=places, progress=False)
    truth = patch(model, TOKENS, OTHER, DIFF, "z", over=over, positions=places, progress=False)
    for cell, patched in zip(found.cells, found.patched, strict=True):
        column = list(places).index(cell["position"])
        assert float(patched) == pytest.approx(float(effects(truth).mean(-1)[cell["layer"], column]), rel=1e-9)


@pytest.mark.parametrize("site", ["q", "k"])
@pytest.mark.parametrize("seed", range(3))
def test_the_fix_agrees_better(seed: int, site: str) -> None:
    """With norms and MLPs nothing is exact, but a sharp softmax is most of what misleads the gradient."""
    model = build(n_layers=2, std=0.6, seed=seed)

    def found(qk_fix: bool) -> Agreement:
        over = ("layer", "head", "pos")
        result = attribution_patch(model, TOKENS, OTHER, first_logits, site, over=over, qk_fix=qk_fix)
        return agreement(model, TOKENS, OTHER, first_logits, result, site, progress=False)

    assert found(True).spearman > max(0.9, found(False).spearman)
    assert found(True).sign_errors <= found(False).sign_errors


# ------------------------------------------------------------------------------------------------------------- mistakes

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "site": (dict(site="zz"), UnknownHook, "Did you mean blocks.0.attn.hook_z"),
    "axis": (dict(over=("layer", "query")), BadInput, "cannot be swept over 'query'; it has layer, pos, head, d_head"),
    "direction": (dict(direction="noising"), BadInput, "'denoise' or 'noise', got 'noising'"),
    "layer": (dict(layers=[3]), BadInput, "layer 3 is out of range"),
    "lengths": (dict(corrupt=OTHER[:, :4]), BadInput, "prompt 0 has 5 tokens in clean but 4 in corrupt"),
    "position of the metric": (dict(metric=LogProb([1, 2], pos=5)), BadInput, "position 5 is out of range"),
    "part of a key": (dict(site="k", over=("head", "d_head"), qk_fix=True), BadInput, "leave d_head out of over"),
    "every logit": (dict(metric=lambda logits: logits[:, -1]), MetricError, r"got shape \[2, 19\]"),
    "no tensor": (dict(metric=lambda logits: None), MetricError, "got NoneType"),
    "nan": (dict(metric=lambda logits: logits[:, -1, 0] * float("nan")), MetricError, "not finite"),
    "a count": (dict(metric=lambda logits: logits[:, -1].argmax(-1)), MetricError, "has no gradient"),
    "a number": (dict(metric=lambda logits: first_logits(logits).detach()), MetricError, "has no gradient"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_and_leave_the_model_alone(what: str) -> None:
    changes, error, message = MISTAKES[what]
    arguments = dict(clean=TOKENS, corrupt=OTHER, metric=DIFF, site="z") | changes
    with left_alone(model_of("gpt2")), unchecked_types(), pytest.raises(error, match=message):
        attribution_patch(model_of("gpt2"), **arguments)
    assert all(weight.requires_grad for weight in model_of("gpt2").parameters())


def test_grad_drop_needs_another_layer() -> None:
    with pytest.raises(BadInput, match="a single one"):
        attribution_patch(gate("and", 2), TOKENS[:, :2] % 2, OTHER[:, :2] % 2, output, grad_drop=True)


def test_agreement_is_with_an_estimate_of_patching() -> None:
    model = model_of("gpt2")
    result = attribution_patch(model, TOKENS, OTHER, DIFF)
    for changes, message in (
        (dict(metric=LogProb([1, 2])), "in logit_diff, but the metric gives logprob_nats"),
        (dict(cells=1), "at least two cells"),
        (dict(clean=TOKENS[:1], corrupt=OTHER[:1], metric=LogitDiff(4, 7)), "is for 2 prompts"),
        (dict(result=Result(metric="logit_diff", axes={}, values=torch.zeros(2))), "an estimate of patch"),
    ):
        arguments = dict(clean=TOKENS, corrupt=OTHER, metric=DIFF, result=result, site="z", progress=False) | changes
        with pytest.raises(BadInput, match=message):
            agreement(model, **arguments)
