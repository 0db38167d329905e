"""Pairs of heads that work together are found: all that were built in, and most of those that patching shows."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer, LogitDiff, at, ioi_pairs, path_patch
from interp_hooks.errors import BadInput
from interp_hooks.ground_truth.handmade import induction
from interp_hooks.ground_truth.heads import name_movers, pointer_induction
from interp_hooks.studies.heads.pairs import composing_heads, path_effects
from tests.tiny import CUSTOM, build, random_tokens, unchecked_types

PART, SHARE, WEIGHT = range(3)  # the guesses
KNOWN = {
    "induction": induction,
    "pointer": pointer_induction,
    "names": name_movers,
    "suppressor": lambda: name_movers(suppressor=True),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_pairs_of_models_that_are_built_are_found(name: str) -> None:
    known = KNOWN[name]()
    whole = composing_heads(known.model, known.task, None).auc(known.circuit)
    changed = composing_heads(known.model, known.task).auc(known.patching_circuit)
    for found in (whole, changed):
        table = found.table().dropna(subset="auc")
        assert len(table)
        assert bool((table[table.guess != "weight"].auc == 1.0).all()), table


def test_the_area_is_what_counting_gives() -> None:
    model, tokens = build(), random_tokens(2, d_vocab=23)
    found = composing_heads(model, tokens)
    true = torch.rand(3, 12, 12) < 0.3
    table = found.auc(true).table().set_index(["via", "guess"])
    values = found.shares.mean[1].abs()
    cells = [(i, j) for i in range(12) for j in range(12) if i // 4 < j // 4]
    right = [values[cell] for cell in cells if true[1][cell]]
    others = [values[cell] for cell in cells if not true[1][cell]]
    won = sum(float(one > other) + 0.5 * float(one == other) for one in right for other in others)
    assert table.loc[("K", "share"), "auc"] == pytest.approx(won / len(right) / len(others), abs=1e-12)
    assert len(found.table()) == 3 * len(cells)
    effects = found.parts
    assert found.against(effects).mean[0, PART].tolist() == pytest.approx([1.0, 1.0])


def test_what_a_pair_of_prompts_changes_finds_what_patching_shows() -> None:
    """On a trained model, where weights alone do no better than chance."""
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    task = ioi_pairs(model, 16)
    effects = path_effects(model, task, via=["Q", "K"])
    found = composing_heads(model, task, via=["Q", "K"], query="end")
    correlation = found.against(effects)
    spearman = correlation.mean[..., correlation.axes["kind"].index("spearman")]
    area = found.auc(effects.mean.abs() > 0.15).mean
    for number in range(2):  # by queries, by keys
        assert spearman[number, SHARE] > 0.7 > spearman[number, WEIGHT]
        assert area[number, SHARE] > 0.9 > area[number, WEIGHT]


def test_an_induction_model_that_was_trained_is_read_too() -> None:
    """Prompts repeat 20 words and their first 10; in the corrupt ones the first 20 are others."""
    model = HookedTransformer.from_pretrained("induction-2l", device="cpu")
    words = 1 + torch.rand(32, 64, generator=torch.Generator().manual_seed(0)).argsort(1)
    bos, first, others = torch.zeros(32, 1, dtype=torch.long), words[:, :20], words[:, 20:40]
    prompts, corrupt = (torch.cat((bos, one, first[:, :10]), dim=1) for one in (first, others))
    metric = LogitDiff(first[:, 10], others[:, 10])
    effects = path_effects(model, prompts, corrupt, metric, via=["K"])
    whole, changed = (composing_heads(model, prompts, other, via=["K"]) for other in (None, corrupt))
    strong = effects.mean.abs() > 0.25 * effects.mean.nan_to_num(0.0).abs().max()
    for found in (whole, changed):
        assert float(found.auc(strong).mean[0, SHARE]) > 0.9
        best = found.table().iloc[0]
        assert (best.via, best.sender) == ("K", "L0H3"), "the best previous-token head"
        assert best.same_sign > 0.95


def test_effects_are_those_of_one_path() -> None:
    model = build(n_key_value_heads=2)
    clean, corrupt = random_tokens(2, d_vocab=23), random_tokens(2, d_vocab=23, seed=1)
    metric = LogitDiff(torch.tensor([1, 2]), torch.tensor([3, 4]))
    found = path_effects(model, clean, corrupt, metric, via=["K"])
    path = path_patch(
        model,
        clean,
        corrupt,
        metric,
        at("z", 0, head=1),
        at("k_input", 2, head=1),
        mlps="freeze",
        direction="noise",
        progress=False,
    )
    for reader in (10, 11):  # which share their keys
        assert torch.allclose(found.values[0, 1, reader], path.values - path.baselines["clean"], atol=1e-12)
    assert bool(found.values[0, 8:].isnan().all())


def test_what_is_refused() -> None:
    model, tokens = build(), random_tokens(2, d_vocab=23)
    single: dict[str, Any] = dict(n_layers=1)
    found = composing_heads(model, tokens, via=["Q"])
    for call, message in (
        (lambda: composing_heads(build(**single), tokens), "single layer"),
        (lambda: composing_heads(model, tokens, via=[]), "via must be one or more"),
        (lambda: path_effects(model, tokens, tokens, lambda logits: logits[:, -1, 0], via=["Q", "Q"]), "each once"),
        (lambda: path_effects(build(**single), tokens, tokens, lambda logits: logits[:, -1, 0]), "single layer"),
        (lambda: found.against(composing_heads(model, tokens, via=["K"]).parts), "on the same model and inputs"),
        (lambda: found.auc(torch.ones(3, 12, 12, dtype=torch.bool)), "a mask must be bool"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
    latent = composing_heads(build(**CUSTOM["latent"]), tokens, via=["Q"])
    assert bool(latent.weights.values.isnan().all())
    assert not bool(latent.parts.values[0, 0, 4].isnan().any())
