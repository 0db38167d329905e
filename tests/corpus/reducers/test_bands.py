from dataclasses import replace

import torch

from interp_hooks.corpus import Bands, Seen, neurons
from interp_hooks.corpus.reducers.bands import N_BANDS, band_of, edges, hashed
from tests.corpus.streams import N_UNITS, assert_merges, assert_same, joined, largest_per_document, random_seen


def test_every_example_lies_in_its_band() -> None:
    values = torch.tensor([-3.0, 0.0, 2.0**-9, 2.0**-8, 0.3, 1.0, 1.9, 2.0, 127.0, 128.0, 1e9])
    lower = torch.tensor(edges())
    assert len(lower) == N_BANDS
    by_hand = torch.bucketize(values, lower[1:], right=True)
    assert torch.equal(band_of(values).long(), by_hand)


def test_counts_and_examples_are_those_of_the_documents() -> None:
    seen = random_seen(0, range(40))
    state = Bands(neurons(), n=3).reduce(seen)
    for unit in range(N_UNITS):
        found = largest_per_document(seen, unit)
        bands = [int(band_of(torch.tensor(value))) for value, _, _ in found]
        assert state["counts"][unit].tolist() == [bands.count(band) for band in range(N_BANDS)]
        there = {
            (document, position): (value, band) for (value, document, position), band in zip(found, bands, strict=True)
        }
        for band in range(N_BANDS):
            kept = state["documents"][unit, band]
            assert int((kept >= 0).sum()) == min(3, bands.count(band))
            for place in range(int((kept >= 0).sum())):
                where = int(kept[place]), int(state["positions"][unit, band, place])
                assert there[where] == (float(state["values"][unit, band, place]), band)


def test_the_other_side_is_that_of_minus_the_activation() -> None:
    seen = random_seen(0, range(40))
    state = Bands(neurons(), n=3, side="smallest").reduce(seen)
    turned = Bands(neurons(), n=3).reduce(replace(seen, values=-seen.values))
    there = state["documents"] >= 0
    assert (state["values"][there] < 0).any()
    assert torch.equal(state["values"][there], -turned["values"][there])
    assert_same({**state, "values": turned["values"]}, turned)


def test_merges_exactly() -> None:
    assert_merges(Bands(neurons(), n=2))
    assert_merges(Bands(neurons(), n=2, side="smallest"))
    parts = [random_seen(seed, [2 * seed, 2 * seed + 1]) for seed in range(4)]
    reducer = Bands(neurons(), n=3)
    merged = reducer.merge(reducer.reduce(joined(*parts[:3])), reducer.reduce(parts[3]))
    assert_same(merged, reducer.reduce(joined(*parts)))


def test_every_example_of_a_band_is_as_likely_as_the_others() -> None:
    """Chi squared over 20 documents of one band, by 400 seeds that keep 4 each: 80 expected, 19 degrees of freedom."""
    seen = Seen(
        values=torch.full((20, 1), 1.5),
        tokens=torch.zeros(20, dtype=torch.long),
        documents=torch.arange(20),
        positions=torch.zeros(20, dtype=torch.long),
        pieces=torch.arange(20),
        layer=0,
    )
    kept = torch.cat([Bands(neurons(), n=4, seed=seed).reduce(seen)["documents"].flatten() for seed in range(400)])
    counts = kept[kept >= 0].bincount(minlength=20)
    assert int(counts.sum()) == 1600
    assert float(((counts - 80.0) ** 2 / 80).sum()) < 43.8  # its 99.9th percentile


def test_hashes_are_spread_evenly() -> None:
    documents, positions = torch.meshgrid(torch.arange(200), torch.arange(50), indexing="ij")
    for seed in (0, 1, -(2**63), 2**63 - 1):
        hashes = hashed(documents.flatten(), positions.flatten(), seed)
        assert (hashes >= 0).all()
        assert len(hashes.unique()) == 10_000
        counts = (hashes >> 59).bincount(minlength=16)
        assert float(((counts - 625.0) ** 2 / 625).sum()) < 37.7  # 15 degrees of freedom, 99.9 %
