"""Measures of dictionaries against closed forms and passes by hand, and matches against all permutations."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint
from interp_hooks.dictionaries import SAE, dictionary_metrics, random_dictionary, recovery
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.matching import assignment
from tests.dictionaries.random_ones import cross_layer, crosscoder, randoms, sae, transcoder
from tests.tiny import assert_close, build, unchecked_types

MODEL = build(d_vocab_out=23)
DOCUMENTS = [torch.randint(23, (3 + 5 * n % 6,), generator=torch.Generator().manual_seed(n)) for n in range(12)]
HOOK = "blocks.1.hook_mlp_out"


def exact(hook: str = HOOK, d: int = 12, scale: float = 1.0) -> SAE:
    both = torch.cat((torch.eye(d), -torch.eye(d)), 1).double()
    zeros = torch.zeros(2 * d, dtype=torch.float64)
    return SAE(hook=hook, W_enc=both, b_enc=zeros, W_dec=scale * both.T, b_dec=zeros[:d])


def measured(one: Any, model: HookedTransformer = MODEL, **options: Any) -> dict[str, float]:
    found = dictionary_metrics(model, one, DOCUMENTS, **options)
    return dict(zip(found.axes["measure"], found.values[0, :, 0].tolist(), strict=True))


@pytest.mark.parametrize("hook", [HOOK, "blocks.0.hook_resid_post", "blocks.2.attn.hook_z"])
def test_a_dictionary_that_says_all(hook: str) -> None:
    """Its coordinates and their negatives: as many are active as there are dimensions, and everything is recovered."""
    d = 16 if hook.endswith("z") else 12
    found = measured(exact(hook, d))
    for name in ("explained_variance", "cosine", "norm_ratio", "relative_bias", "ce_recovered", "kl_recovered"):
        assert found[name] == pytest.approx(1, abs=1e-9), name
    assert found["l0"] == d
    assert found["ce_reconstructed"] == pytest.approx(found["ce"], abs=1e-9)


def test_a_dictionary_that_says_nothing() -> None:
    nothing = exact(scale=0.0)
    found = measured(nothing)
    assert found["ce_recovered"] == pytest.approx(0, abs=1e-9)
    assert found["kl_recovered"] == pytest.approx(0, abs=1e-9)
    assert found["kl_ablated"] > 1e-3
    assert measured(nothing, ablation="mean")["ce_recovered"] != pytest.approx(0, abs=1e-6)


def test_shrunk_reconstructions_are_told() -> None:
    found = measured(exact(scale=0.5))
    assert found["norm_ratio"] == pytest.approx(0.5)
    assert found["relative_bias"] == pytest.approx(0.5)
    assert found["cosine"] == pytest.approx(1)


def by_hand(one: SAE, position: int, replaced: Tensor | None) -> tuple[float, float, int]:
    """Summed CE and KL over all documents, with something else in place of the activation from a position on."""
    ce = kl = 0.0
    n = 0
    for tokens in DOCUMENTS:
        clean = MODEL(tokens[None])[0].log_softmax(-1)

        def put(value: Tensor, hook: HookPoint) -> Tensor:
            new = one(value) if replaced is None else replaced.expand_as(value)
            return torch.cat((value[:, :position], new[:, position:]), 1)

        other = MODEL.run_with_hooks(tokens[None], fwd_hooks=[(HOOK, put)])[0].log_softmax(-1)
        for pos in range(position, len(tokens) - 1):
            ce -= float(other[pos, tokens[pos + 1]])
            kl += float((clean[pos].exp() * (clean[pos] - other[pos])).sum())
            n += 1
    return ce, kl, n


@torch.no_grad()
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_losses_are_those_of_passes_over_each_document(ablation: Any) -> None:
    """The first token of each is left alone in all runs, and does not count."""
    one = sae("jumprelu")
    found = measured(one, exclude=("first",), tokens_at_once=20, ablation=ablation)
    values = [MODEL.run_with_cache(tokens[None])[1][HOOK][0, 1:] for tokens in DOCUMENTS]
    mean = torch.cat(values).mean(0) if ablation == "mean" else torch.zeros(12, dtype=torch.float64)
    (ce, kl, n), (ce_a, kl_a, _) = by_hand(one, 1, None), by_hand(one, 1, mean)
    assert found["ce_reconstructed"] == pytest.approx(ce / n)
    assert found["kl_reconstructed"] == pytest.approx(kl / n)
    assert found["ce_ablated"] == pytest.approx(ce_a / n)
    assert found["kl_ablated"] == pytest.approx(kl_a / n)
    assert found["ce_recovered"] == pytest.approx((ce_a / n - ce / n) / (ce_a / n - found["ce"]))
    y = torch.cat(values)
    r = one(y)
    assert found["explained_variance"] == pytest.approx(
        float(1 - (y - r).square().sum() / (y - y.mean(0)).square().sum())
    )
    assert found["l0"] == pytest.approx(float(one.encode(y).gt(0).sum(-1).double().mean()))
    density = dictionary_metrics(MODEL, one, DOCUMENTS, exclude=("first",)).densities["dictionary"]
    assert_close(density, one.encode(y).gt(0).double().mean(0), 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["transcoder", "cross-layer", "of a head"])
def test_the_exchanged_pass_is_the_spliced_one(kind: str) -> None:
    kinds = {
        "transcoder": transcoder,
        "cross-layer": cross_layer,
        "of a head": lambda: sae(hook="z1", d=4, of_head=2),
    }
    one: Any = kinds[kind]()
    found = measured(one, exclude=())
    ce, n = 0.0, 0
    with MODEL.spliced(one):
        for tokens in DOCUMENTS:
            said = MODEL(tokens[None])[0].log_softmax(-1)
            ce -= float(said[:-1].gather(1, tokens[1:, None]).sum())
            n += len(tokens) - 1
    assert found["ce_reconstructed"] == pytest.approx(ce / n)


def test_several_beside_a_control() -> None:
    one = sae("topk")
    control = random_dictionary(one, seed=3)
    assert_close(control.decoder_norms, one.decoder_norms, 1e-12)
    assert_close(control.W_enc.norm(dim=0), one.W_enc.norm(dim=0), 1e-12)
    assert not torch.allclose(control.W_dec, one.W_dec)
    found = dictionary_metrics(MODEL, {"sae": one, "random": control, "crosscoder": crosscoder()}, DOCUMENTS)
    assert found.axes["dictionary"] == ["sae", "random", "crosscoder"]
    assert found.values.isfinite().all()
    assert "explained_variance" in repr(found)


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="of width 9"):
        dictionary_metrics(MODEL, sae(d=9), DOCUMENTS)
    with pytest.raises(BadInput, match="no token that counts"):
        dictionary_metrics(MODEL, sae(), [torch.tensor([3])])
    with unchecked_types(), pytest.raises(BadInput, match="'zero' or 'mean'"):
        dictionary_metrics(MODEL, sae(), DOCUMENTS, ablation="resample")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadInput, match="got none"):
        dictionary_metrics(MODEL, {}, DOCUMENTS)


# ----------------------------------------------------------------------------------------------------------- recovery


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 6), (5, 5)])
def test_assignments_are_the_best_of_all(shape: tuple[int, int]) -> None:
    for seed in range(6):
        cost = np.random.default_rng(seed).normal(size=shape).round(1)  # with ties
        found = assignment(cost)
        assert len(set(found.tolist())) == shape[0]
        best = min(
            sum(cost[row, column] for row, column in enumerate(columns))
            for columns in itertools.permutations(range(shape[1]), shape[0])
        )
        assert cost[np.arange(shape[0]), found].sum() == pytest.approx(best)


def test_planted_features_are_matched() -> None:
    true = randoms()(6, 10)
    order = torch.randperm(6)
    found = recovery(torch.cat((randoms(1)(3, 10), -2 * true[order])), true)
    assert found.mcc == pytest.approx(1)
    assert torch.equal(found.matched[order], torch.arange(6) + 3)
    assert found.recovered() == 1
    assert recovery(randoms(2)(20, 10), true).mcc < 0.9
    with pytest.raises(BadInput, match="at least as many features"):
        recovery(true[:3], true)
    with pytest.raises(BadInput, match="must not be 0"):
        recovery(true, 0 * true)
