"""Norms: their statistics are those of the values, and effects of parts are those of formulas and of passes."""

import numpy as np
import pandas as pd
import pytest
import torch

from interp_hooks import HookedTransformer, Intervention, LogitDiff, Loss, Result, Run, at, evaluate, record
from interp_hooks.errors import BadInput
from interp_hooks.studies import direct_logit_attribution, freeze_norms, norm_effects, norm_statistics
from tests.tiny import CUSTOM, assert_close, build, random_tokens

TOKENS = random_tokens(batch=5, pos=7, d_vocab=19, seed=3)
ANSWER, WRONG = [3, 1, 4, 1, 5], [9, 2, 6, 7, 8]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return build()


def by_norm(result: Result) -> pd.DataFrame:
    """A row for each norm, a column for each statistic."""
    return result.table().pivot(index="norm", columns="statistic", values=result.metric)


@pytest.mark.parametrize("fields", [{}, CUSTOM["output-norms"]], ids=["before", "before and after"])
def test_statistics_are_those_of_the_scales(fields: dict) -> None:
    model = build(**fields)
    table = by_norm(norm_statistics(model, TOKENS, progress=False, per_batch=2))
    names = [name for name in model.hook_dict if name.endswith(".hook_scale") and "attn." not in name]
    assert len(table) == len(names)
    for name in names:
        point = name.removesuffix(".hook_scale")
        row = table.loc[point.removeprefix("blocks.").replace(".", "_")]
        recorded = record(model, Run(TOKENS), [name, f"{point}.hook_normalized"])
        scale, normalized = (recorded[one].detach() for one in (name, f"{point}.hook_normalized"))
        rest = scale[:, 1:, 0].double()
        assert row["tokens"] == rest.numel() == 30
        assert [row[one] for one in ("mean", "std", "min", "max")] == pytest.approx(
            [float(one) for one in (rest.mean(), rest.std(correction=0), rest.min(), rest.max())], rel=1e-6
        )
        assert row["first_token_mean"] == pytest.approx(float(scale[:, 0].mean()), rel=1e-9)
        positions = torch.arange(1, 7).expand(5, -1)
        assert row["position_correlation"] == pytest.approx(
            np.corrcoef(rest.flatten().numpy(), positions.flatten().numpy())[0, 1], abs=1e-6
        )
        log = pd.Series(rest.log().flatten().numpy())
        spread = log - log.mean()
        skew = (spread**3).mean() / (spread**2).mean() ** 1.5
        kurtosis = (spread**4).mean() / (spread**2).mean() ** 2
        assert row["bimodality"] == pytest.approx((skew**2 + 1) / kurtosis, rel=1e-4)
        each = normalized[:, 1:].double().square().sum((0, 1)).sort(descending=True).values
        assert row["top3_share"] == pytest.approx(float(each[:3].sum() / each.sum()), rel=1e-6)


def test_two_humps_are_seen() -> None:
    """Tokens whose embeddings have one of two lengths, read by a norm right away."""
    model = build(positional_embedding_type="none")
    with torch.no_grad():
        W_E = model.embed.W_E
        W_E.div_(W_E.norm(dim=-1, keepdim=True))
        W_E[10:] *= 20.0
    tokens = torch.randint(0, 19, (40, 8), generator=torch.Generator().manual_seed(0))
    found = by_norm(norm_statistics(model, tokens, progress=False))["bimodality"]
    assert found["0_ln1"] > 0.95
    assert found["0_ln1"] > found["ln_final"]


def test_a_frozen_norm_has_its_mean_scale(model: HookedTransformer) -> None:
    found = freeze_norms(model, TOKENS, progress=False)
    assert found.axes["norm"] == ["0_ln1", "0_ln2", "1_ln1", "1_ln2", "2_ln1", "2_ln2", "ln_final"]
    for label, name in (("1_ln2", "blocks.1.ln2.hook_scale"), ("ln_final", "ln_final.hook_scale")):
        mean = record(model, Run(TOKENS), name)[name].mean()
        logits = model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda value, hook, mean=mean: mean.expand_as(value))])
        log_probs = logits[:, :-1].log_softmax(-1).gather(-1, TOKENS[:, 1:, None])[..., 0]
        assert_close(found.values[found.axes["norm"].index(label)], -log_probs.mean(1).detach(), 1e-9)
    assert_close(found.baselines["original"], evaluate(model, [Run(TOKENS)], Loss())[0], 1e-12)
    assert found.rerun(model).values.equal(found.values)


def test_a_norm_whose_scale_never_varies_is_linear() -> None:
    model = build(positional_embedding_type="none")
    with torch.no_grad():
        for row, weight in enumerate(model.embed.W_E):  # all of one length and one mean
            weight.copy_(model.embed.W_E[0].roll(row))
    found = freeze_norms(model, TOKENS, progress=False)
    change = dict(zip(found.axes["norm"], found.change.tolist(), strict=True))
    assert abs(change["0_ln1"]) < 1e-12 < abs(change["0_ln2"])


@pytest.mark.parametrize("unit", ["component", "head"])
@pytest.mark.parametrize("kind", ["LN", "RMS"])
def test_three_ways_are_what_they_say(kind: str, unit: str) -> None:
    model = build(normalization_type=kind)
    found = norm_effects(model, TOKENS, ANSWER, WRONG, unit=unit)  # pyright: ignore
    parts, ways = found.axes[unit], found.axes["way"]
    frozen, jacobian, removed = (found.values[:, ways.index(way)] for way in ways)
    direct = direct_logit_attribution(model, TOKENS, ANSWER, WRONG, unit=unit)  # pyright: ignore
    assert direct.labels[: len(parts)] == parts
    assert_close(frozen, direct.values[: len(parts)], 1e-9)
    metric, name = LogitDiff(ANSWER, WRONG), "blocks.2.hook_resid_post"
    stream = record(model, Run(TOKENS), name)[name].detach()[:, -1]
    _, cache = model.run_with_cache(TOKENS)
    made = cache.decompose_resid() if unit == "component" else cache.stack_head_results(incl_remainder=True)
    whole = metric(model(TOKENS).detach())
    onto = (model.W_U[:, ANSWER] - model.W_U[:, WRONG]).T.detach()
    gain, d = model.ln_final.w.detach(), model.cfg.d_model
    for place in (0, len(parts) - 1):
        part = made[place][:, -1].detach()
        run = Run(TOKENS, [Intervention(at(name, pos=-1), lambda value, part=part: value - part)])
        assert_close(removed[place], whole - evaluate(model, [run], metric)[0], 1e-9)
        centred, moved = stream, part
        if kind == "LN":
            centred, moved = (one - one.mean(-1, keepdim=True) for one in (stream, part))
        scale = (centred.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()
        unit_x = centred / scale
        by_formula = (moved - unit_x * (unit_x * moved).sum(-1, keepdim=True) / d) / scale * gain
        assert_close(jacobian[place], (by_formula * onto).sum(-1), 1e-9)


def test_the_stream_itself_has_no_effect_to_first_order() -> None:
    """All parts together: frozen they are the whole logit, by the gradient nothing, since length does not matter."""
    model = build(normalization_type="RMS", eps=1e-300)
    found = norm_effects(model, TOKENS, ANSWER)
    frozen, jacobian, _ = found.values.sum(0)
    assert float(jacobian.abs().max()) < 1e-9 < float(frozen.abs().min())


def test_what_is_refused(model: HookedTransformer) -> None:
    bare = build(normalization_type=None)
    for call, message in (
        (lambda: norm_statistics(bare, TOKENS), "normalizes nothing"),
        (lambda: freeze_norms(bare, TOKENS), "normalizes nothing"),
        (lambda: norm_effects(model, TOKENS), "answer is needed"),
        (lambda: norm_effects(model, TOKENS, [1, 2]), "answer"),
    ):
        with pytest.raises(BadInput, match=message):
            call()
