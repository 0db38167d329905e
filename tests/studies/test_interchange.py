"""Interchange in a model that reads one variable along one direction, and searches that fit what is not there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, LogitDiff, Run, at, evaluate, patch_along
from interp_hooks.errors import BadInput
from interp_hooks.interventions.recording import record
from interp_hooks.studies import Interchange, fit_das, interchange_accuracy
from tests.tiny import assert_close, build, random_tokens, unchecked_types

WIDTH, N = 8, 60
AXES = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)).double()).Q


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reads_one_bit() -> HookedTransformer:
    """Token t has the bits of t along three directions that lie askew; logit 1 minus logit 0 is the first of them."""
    model = build(
        n_layers=1, d_model=WIDTH, n_heads=1, d_head=2, n_ctx=2, d_vocab=8, d_vocab_out=2, attn_only=True,
        normalization_type=None, positional_embedding_type="none",
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        bits = torch.stack([torch.arange(8) >> place & 1 for place in range(3)], 1).double() * 2 - 1
        model.embed.W_E[:] = bits @ AXES[:3]
        model.unembed.W_U[:] = torch.stack((-AXES[0], AXES[0]), 1)
    return model


BASE, SOURCE = torch.randint(8, (2, N, 1), generator=generator(1))
FIRST = SOURCE[:, 0] & 1
STAYS = float(((BASE[:, 0] & 1) == FIRST).double().mean())


def swap_along(along: Tensor, **options: Any) -> Interchange:
    return interchange_accuracy(reads_one_bit(), BASE, SOURCE, FIRST, "resid_pre0", along, **options)


def test_the_direction_that_is_read_gives_all_counterfactual_answers() -> None:
    table = swap_along(AXES[0]).table().set_index("control")
    assert table.loc["swap"].tolist() == [1.0, 1.0, 1.0]
    assert table.loc["no swap"].tolist() == [pytest.approx(STAYS), 0.0, 1.0]
    assert table.loc["full swap", "accuracy"] == 1.0
    assert table.loc["random subspace", "changes"] < 0.5
    assert table.loc["placebo", "changes"] < 0.7


def test_a_direction_across_it_leaves_the_share_that_stays() -> None:
    found = swap_along(AXES[1:3])
    assert found.accuracy == pytest.approx(STAYS)
    assert found.table()["changes"][0] == 0.0
    assert found.table()["stays"][0] == 1.0


def test_the_placebo_is_as_long_as_the_swap() -> None:
    """Along all of the width it is the full change in another direction; its length is measured in a run."""
    from interp_hooks.studies.interchange import _Placebo

    model, basis = build(), torch.linalg.qr(torch.randn(12, 3, generator=generator())).Q.T.double()
    tokens, other = (random_tokens(batch=4, pos=5, d_vocab=23, seed=seed) for seed in (1, 2))
    noise = torch.nn.functional.normalize(torch.randn(4, 12, generator=generator()).double(), dim=-1)
    runs = [
        Run(tokens),
        Run(other),
        Run(tokens, [Intervention(at("resid_mid", 1, pos=-1), _Placebo(Run(other), basis, noise))]),
    ]
    before, there, after = (record(model, run, "resid_mid1")["blocks.1.hook_resid_mid"][:, -1] for run in runs)
    assert_close((after - before).norm(dim=-1), ((there - before) @ basis.T).norm(dim=-1), 1e-10)
    assert_close(torch.nn.functional.normalize(after - before, dim=-1), noise, 1e-10)


def test_das_finds_the_direction() -> None:
    model = reads_one_bit()
    with unchecked_types():
        found = fit_das(
            model, BASE, SOURCE, FIRST, "resid_pre0", steps=120, lr=0.1, generator=generator(), progress=False
        )
    assert found.accuracy == 1.0
    assert float((found.directions @ AXES[0]).abs()) > 0.99
    assert found.table()["trained on"][0] == 1.0
    assert int((~found.trained).sum()) == N // 4
    assert float(found.losses[-1]) < float(found.losses[0])


def fitted_to_anything(width: int, n: int) -> float:
    """How many of the arbitrary answers that a random model is trained on the search fits."""
    model = build(n_layers=1, n_ctx=2, d_model=width, d_mlp=48, d_vocab=400, d_vocab_out=2, std=0.6)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.rpartition(".")[2].startswith("b"):  # which would decide the answer alone
                weight.zero_()
    base, source = torch.randint(400, (2, n, 1), generator=generator(3))
    options: Any = dict(rank=6, steps=60, lr=0.15, held_out=0.15, generator=generator(), progress=False)
    with unchecked_types():
        table = fit_das(model, base, source, torch.arange(n) % 2, "resid_pre0", **options).table().set_index("control")
    assert table["accuracy"].isna()["arbitrary labels"]
    assert table.loc["no swap", "trained on"] < 0.6
    return table.loc["arbitrary labels", "trained on"]


def test_what_arbitrary_labels_can_be_fitted_to_grows_with_dimensions_for_each_pair() -> None:
    """Few pairs in many dimensions are fitted whatever their answers are said to be, many in few are not."""
    few, many, narrow = fitted_to_anything(24, 50), fitted_to_anything(24, 400), fitted_to_anything(8, 50)
    assert few > 0.95
    assert many < few - 0.2
    assert narrow < few - 0.05


@pytest.mark.parametrize("where", [dict(hook="resid_mid1"), dict(hook=at("z", 1, head=2)), dict(hook="hook_embed")])
@pytest.mark.parametrize("pos", [-1, None, torch.tensor([4, 3, 1, 2, 4, 0])])
def test_the_search_makes_the_swap_that_the_engine_makes(where: dict[str, Any], pos: Any) -> None:
    """Its first loss is the cross-entropy of the run with an intervention along the same directions."""
    from interp_hooks.studies.interchange import _Known, _loss, _Pairs

    model = build()
    tokens, other = (random_tokens(batch=6, pos=5, d_vocab=23, seed=seed) for seed in (1, 2))
    answer = torch.tensor([3, 1, 3, 7, 1, 7])
    for among in (None, [1, 3, 7]):
        pairs = _Pairs.of(model, tokens, other, answer, where["hook"], pos, -1, among)
        free = torch.randn(pairs.place.width, 2, generator=generator()).double().requires_grad_()
        found = _loss(pairs, _Known.of(pairs, 4), free)
        run = pairs.run(pairs.source, torch.linalg.qr(free.detach()).Q.T)
        logits = evaluate(model, [run], lambda logits: logits[:, -1])[0]
        chosen = logits if among is None else logits[:, among]
        target = answer if among is None else torch.tensor([1, 0, 1, 2, 0, 2])
        assert float(found.detach()) == pytest.approx(
            float(torch.nn.functional.cross_entropy(chosen, target)), rel=1e-9
        )
        assert float(torch.autograd.grad(found, free)[0].abs().max()) > 0


def test_what_is_found_is_what_others_take(tmp_path: Path) -> None:
    model, options = reads_one_bit(), dict[str, Any](steps=120, lr=0.1, arbitrary=False, progress=False)
    with unchecked_types():
        found = fit_das(model, BASE, SOURCE, FIRST, "resid_pre0", generator=generator(), **options)
    metric = LogitDiff(torch.ones(N).long(), torch.zeros(N).long(), pos=-1)
    options = dict(along=found.directions, site="resid_pre", over=("layer",), progress=False)
    result = patch_along(model, SOURCE, BASE, metric, **options)
    assert_close(result.values[0], result.baselines["clean"], 0.05)
    found.save(tmp_path / "das")
    again = Interchange.load(tmp_path / "das")
    assert repr(again) == repr(found)
    assert torch.equal(again.directions, found.directions)
    assert found.result.table()["control"].tolist() == list(found.controls)
    assert found.result.interval().lower.shape == (5,)


def test_answers_are_compared_with_those_that_are_given() -> None:
    flipped = swap_along(AXES[0], original=1 - FIRST)
    assert bool(flipped.changes.all())
    own = swap_along(AXES[0])
    assert own.changes.tolist() == ((BASE[:, 0] & 1) != FIRST).tolist()


CASES: list[tuple[dict[str, Any], str]] = [
    (dict(rank=9), "rank"),
    (dict(held_out=0.0), "held out"),
    (dict(steps=0), "step"),
    (dict(counterfactual=FIRST[:3]), "one answer for each"),
    (dict(among=[1]), "among must name"),
    (dict(hook="z0"), "select one index of head"),
    (dict(pos=torch.tensor([0, 0])), "one position"),
    (dict(source=SOURCE[:5]), "source"),
    (dict(original=[1]), "original must be"),
]


@pytest.mark.parametrize(("arguments", "words"), CASES)
def test_bad_input_is_refused(arguments: dict[str, Any], words: str) -> None:
    model = reads_one_bit()
    given: dict[str, Any] = dict(base=BASE, source=SOURCE, counterfactual=FIRST, hook="resid_pre0", progress=False)
    with pytest.raises(BadInput, match=words), unchecked_types():
        fit_das(model, **given | dict(steps=1) | arguments)
    with pytest.raises(BadInput, match="along must be"):
        swap_along(torch.ones(5))
    assert not any(point.hooks for point in model.hook_dict.values())
