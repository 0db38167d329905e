"""Ablations of many neurons at once are those that are made by hand, one after the other."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.corpus import Statistics, TopK, neurons, scan
from interp_hooks.errors import BadInput
from interp_hooks.studies import ablation_effects
from interp_hooks.studies.neurons import causes
from interp_hooks.studies.neurons.contexts import Found, random_contexts, top_contexts
from tests.studies.neurons.planted import scanned
from tests.tiny import CUSTOM, build, unchecked_types

UNITS = [(1, 3), (0, 7), (1, 12), (2, 0)]


def texts(n: int = 6, words: int = 19) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(4, 10, (n,), generator=generator).tolist()
    return [torch.randint(words, (size,), generator=generator) for size in sizes]


def by_hand(model: HookedTransformer, unit: tuple[Any, Any], value: float, row: Tensor, at: int) -> list[float]:
    hook, where = unit if isinstance(unit[0], str) else (f"blocks.{unit[0]}.mlp.hook_post", unit[1:])

    def ablate(post: Tensor, hook: Any) -> Tensor:
        post[(..., *where)] = value
        return post

    with torch.no_grad():
        clean = model(row[None])[0, at].log_softmax(-1)
        changed = model.run_with_hooks(row[None], fwd_hooks=[(hook, ablate)])
    changed = changed[0, at].log_softmax(-1)
    return [float(clean[row[at + 1]] - changed[row[at + 1]]), float((clean.exp() * (clean - changed)).sum())]


@pytest.mark.parametrize("at_once", [8192, 20])
@pytest.mark.parametrize(("value", "side"), [(None, "largest"), (0.5, "smallest")])
def test_effects_are_those_by_hand(
    at_once: int, value: float | None, side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(gated_mlp=True, act_fn="silu", d_vocab_out=23)
    scan = scanned(model, texts(), k=3)
    found, generator = Found(scan), torch.Generator().manual_seed(4)
    monkeypatch.setattr(causes, "AT_ONCE", at_once)
    effects = ablation_effects(model, scan, UNITS, n_random=5, value=value, side=side, generator=generator)
    drawn = random_contexts(model, scan, 5, torch.Generator().manual_seed(4), 64)
    for place, (layer, neuron) in enumerate(UNITS):
        mean = float(found.statistics[layer]["mean"][neuron]) if value is None else value
        assert float(effects.means[place]) == mean
        top = top_contexts(model, found, layer, neuron, side=side).followed()
        for contexts, loss, kl in (
            (top, effects.top_loss[place], effects.top_kl[place]),
            (drawn, effects.random_loss[place], effects.random_kl[place]),
        ):
            assert len(contexts) == len(loss) == len(kl)
            for row, at, *got in zip(contexts.rows, contexts.at.tolist(), loss.tolist(), kl.tolist(), strict=True):
                assert got == pytest.approx(by_hand(model, (layer, neuron), mean, row, at), abs=1e-9)
    assert sum(map(len, effects.top_loss)) > len(UNITS)


@pytest.mark.parametrize(("part", "value"), [("experts", None), ("experts", 0.5), ("shared", None)])
def test_neurons_of_experts_are_ablated_in_their_expert(part: Any, value: float | None) -> None:
    model = build(**CUSTOM["experts"], d_vocab_out=23)
    units, experts = neurons(part=part), model.cfg.experts
    assert experts is not None
    reducers = {"top": TopK(units, k=3), "statistics": Statistics(units)}
    found = scan(model, texts(), reducers, progress=False)
    effects = ablation_effects(model, found, [(1, 4), (2, 3)], part=part, n_random=4, value=value)
    drawn = random_contexts(model, found, 4, torch.Generator().manual_seed(0), 64)
    for place, (layer, number) in enumerate([(1, 4), (2, 3)]):
        mean = float(found["statistics"][layer]["mean"][number]) if part == "shared" else value or 0.0
        where = (number // experts.d_expert, number % experts.d_expert) if part == "experts" else (number,)
        got = zip(effects.random_loss[place].tolist(), effects.random_kl[place].tolist(), strict=True)
        for row, at, one in zip(drawn.rows, drawn.at.tolist(), got, strict=True):
            hook = f"blocks.{layer}.mlp.{part}.hook_post"
            assert one == pytest.approx(by_hand(model, (hook, where), mean, row, at), abs=1e-9)
    assert effects.random_kl.max() > 1e-6


def test_a_neuron_that_writes_nothing_does_nothing() -> None:
    model = build(d_vocab_out=23)
    written: Any = model.blocks[1].mlp.W_out
    with torch.no_grad():
        written[3] = 0.0
    table = ablation_effects(model, scanned(model, texts()), UNITS, n_random=4).table().set_index(["layer", "neuron"])
    columns = ["loss_change_nats", "kl_nats"]
    assert table.loc[(1, 3), columns].abs().to_numpy().max() < 1e-12
    assert table.loc[(1, 12), columns].abs().to_numpy().min() > 1e-6
    assert table["contexts"].tolist() == ["top", "random"] * 4


def test_examples_that_end_a_document_have_no_next_token() -> None:
    model = build(d_vocab_out=23)
    scan = scanned(model, [torch.tensor([1, 2, 3])])
    found = Found(scan)
    contexts = top_contexts(model, found, 1, int(found.top[1]["positions"][:, 0].argmax()))
    assert contexts.next_tokens.tolist() == [-1]
    assert len(contexts.followed()) == 0


def test_contexts_are_cut_before() -> None:
    model = build()
    scan = scanned(model, texts())
    late = int(Found(scan).top[0]["positions"].sum(1).argmax())
    cut, whole = (top_contexts(model, Found(scan), 0, late, before=before) for before in (2, None))
    assert int(cut.at.max()) == 2 < int(whole.at.max())
    for short, at, row, end in zip(cut.rows, cut.at.tolist(), whole.rows, whole.at.tolist(), strict=True):
        assert short.tolist() == row[end - at :].tolist()


def test_random_contexts_are_of_all_tokens_that_have_one_before_and_after() -> None:
    model = build()
    scan = scanned(model, [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6, 7]), torch.tensor([8, 9])])
    drawn = random_contexts(model, scan, 300, torch.Generator().manual_seed(0))
    rows = [tuple(row.tolist()) for row in drawn.rows]
    assert set(rows) == {(1, 2, 3), (4, 5, 6), (4, 5, 6, 7)}
    assert all(70 < rows.count(row) < 130 for row in set(rows))


def test_units_that_were_not_measured_are_told() -> None:
    model = build()
    scan = scanned(model, texts())
    with pytest.raises(BadInput, match="in layer 3"):
        ablation_effects(model, scan, [(3, 0)])
    with pytest.raises(BadInput, match="got none"):
        ablation_effects(model, scan, [])


def test_a_part_that_there_is_not_is_told() -> None:
    with unchecked_types(), pytest.raises(BadInput, match="part must be 'mlp', 'experts' or 'shared', got 'exprts'"):
        neurons(part="exprts")  # pyright: ignore[reportArgumentType]
