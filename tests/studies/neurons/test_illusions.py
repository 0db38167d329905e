"""A neuron that answers to two words looks like a neuron of one in a corpus that has only this one."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.corpus import TopK, neurons, scan
from interp_hooks.errors import BadInput
from interp_hooks.studies import illusion
from interp_hooks.studies.neurons.contexts import Found
from interp_hooks.studies.neurons.illusions import leaders, top_mass
from tests.studies.neurons.planted import CAT, EITHER, TEA, documents, pair_model, scanned
from tests.tiny import unchecked_types


def test_corpora_with_one_of_two_words_have_nothing_in_common() -> None:
    model = pair_model()
    teas, cats = (scanned(model, documents(word)[0]) for word in (TEA, CAT))
    found = illusion(model, 0, EITHER, teas, cats, k=6)
    assert found.clusters == [1, 1]
    assert found.shared == 0
    assert [values.tolist() for values in found.values] == [[2.0] * 6, [1.0] * 6]
    table = found.table()
    assert table["activation_a"].tolist() == [2.0] * 6
    for column, word in (("a", TEA), ("b", CAT)):
        assert all(text.endswith(str(word)) for text in table[column])
    same = illusion(model, 0, EITHER, teas, teas, k=6)
    assert (same.clusters, same.shared) == ([1, 1], 1)
    assert "0 in common" in repr(found)


def test_a_corpus_with_both_has_both_kinds() -> None:
    model = pair_model()
    both = scanned(model, documents(TEA)[0] + documents(CAT, seed=1)[0])
    found = illusion(model, 0, EITHER, both, scanned(model, documents(TEA)[0]), k=12)
    assert found.clusters[0] >= 2
    assert found.kinds[0][0] == found.kinds[1][0] != found.kinds[0][6]


def test_likeness_of_tokens_is_the_share_in_common() -> None:
    model = pair_model()
    one = scanned(model, [torch.tensor([5, 6, 7, TEA]), torch.tensor([5, 6, 8, TEA])])
    other = scanned(model, [torch.tensor([9, 10, 11, TEA])])
    for threshold, clusters, shared in ((0.6, [1, 1], 0), (0.61, [2, 1], 0), (0.1, [1, 1], 1)):
        found = illusion(model, 0, EITHER, one, other, by="tokens", threshold=threshold)
        assert (found.clusters, found.shared) == (clusters, shared)


def test_each_example_joins_the_first_kind_that_is_similar() -> None:
    likeness = torch.tensor([[1.0, 0.9, 0.2, 0.6], [0.9, 1.0, 0.8, 0.1], [0.2, 0.8, 1.0, 0.5], [0.6, 0.1, 0.5, 1.0]])
    assert leaders(likeness, torch.tensor([4.0, 3.0, 2.0, 1.0]), 0.5) == [0, 0, 1, 0]
    assert leaders(likeness, torch.tensor([3.0, 4.0, 2.0, 1.0]), 0.5) == [0, 0, 0, 1]


def negative(model: HookedTransformer) -> HookedTransformer:
    """The same neurons with the opposite sign."""
    mlp: Any = model.blocks[0].mlp
    plain = mlp.act_fn
    mlp.act_fn = lambda pre: -plain(pre)
    return model


def test_the_mass_of_the_highest_octave_is_nearly_right() -> None:
    model = pair_model()
    found = scanned(model, documents(TEA, CAT)[0])
    histogram = Found(found).histogram[0]
    assert top_mass(histogram, EITHER) == pytest.approx(2 / 3)
    assert torch.tensor(top_mass(histogram, 3)).isnan()
    mirrored = Found(scanned(negative(model), documents(TEA, CAT)[0])).histogram[0]
    assert top_mass(mirrored, EITHER, "smallest") == pytest.approx(2 / 3)
    assert torch.tensor(top_mass(mirrored, EITHER)).isnan()


def test_a_scan_without_a_histogram_tells_no_mass() -> None:
    model = pair_model()
    texts, _ = documents(TEA)
    plain = scan(model, texts, {"top": TopK(neurons())}, progress=False)
    assert illusion(model, 0, EITHER, plain, scanned(model, texts)).top_mass[0] is None
    with unchecked_types(), pytest.raises(BadInput, match="by must be"):
        illusion(model, 0, EITHER, plain, plain, by="words")  # pyright: ignore[reportArgumentType]
