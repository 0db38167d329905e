"""Suggested supernodes: planted copies are found, and nothing else; linkage beside means over all pairs."""

import itertools
from pathlib import Path

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.circuits import (
    AttributionGraph,
    attribution_graph,
    load_supernodes,
    save_graph,
    suggested_supernodes,
)
from interp_hooks.circuits.attribution_graphs.graph import joined, similarities
from interp_hooks.dictionaries import ReLU, Transcoder
from interp_hooks.errors import BadInput
from tests.circuits.test_attribution_graphs import TOKENS
from tests.dictionaries.random_ones import F, cross_layer, randoms, transcoder
from tests.tiny import assert_close, build

COPIES = 3


def with_copies(layer: int, noise: float) -> Transcoder:
    """Random features, each COPIES times with noise of its own: feature f is a copy of f % F."""
    one, draw = transcoder(layer=layer, seed=layer, skip=False), randoms(layer + 10)
    W_enc, W_dec = one.W_enc.repeat(1, COPIES), one.W_dec.repeat(COPIES, 1)
    return Transcoder(
        hook_in=one.hook_in,
        hook_out=one.hook_out,
        W_enc=W_enc + noise * draw(*W_enc.shape),
        b_enc=one.b_enc.repeat(COPIES),
        W_dec=W_dec + noise * draw(*W_dec.shape),
        b_dec=one.b_dec,
        activation=ReLU(),
    )


def made(noise: float = 0.005) -> tuple[HookedTransformer, list[Transcoder], AttributionGraph]:
    model, transcoders = build(), [with_copies(layer, noise) for layer in range(3)]
    return model, transcoders, attribution_graph(model, TOKENS, transcoders, progress=False).pruned(1.0, 1.0)


def planted(graph: AttributionGraph) -> set[tuple[int, ...]]:
    """The copies that are active together."""

    def key(node: int) -> tuple[int, int, int]:
        return int(graph.layer[node]), int(graph.pos[node]), int(graph.index[node]) % F

    groups = itertools.groupby(sorted(graph.features, key=key), key=key)
    listed = [tuple(sorted(nodes)) for _, nodes in groups]
    return {one for one in listed if len(one) > 1}


def test_planted_groups_are_found() -> None:
    model, transcoders, graph = made()
    found = suggested_supernodes(model, transcoders, graph, threshold=0.9)
    assert {tuple(nodes) for nodes in found.values()} == planted(graph)
    assert len(found) > 30
    assert all(name.startswith(f"L{int(graph.layer[nodes[0]])} pos ") for name, nodes in found.items())


def test_unlike_features_stay_alone() -> None:
    model, transcoders = build(), [transcoder(layer=layer, seed=layer, skip=False) for layer in range(3)]
    graph = attribution_graph(model, TOKENS, transcoders, progress=False)
    assert suggested_supernodes(model, transcoders, graph, threshold=0.9) == {}
    some = suggested_supernodes(model, transcoders, graph, threshold=0.2, layers=1)
    assert some
    for nodes in some.values():
        assert len(set(graph.pos[nodes].tolist())) == 1
        assert int(graph.layer[nodes].max() - graph.layer[nodes].min()) <= 1


def test_a_direction_without_its_edges_is_no_likeness() -> None:
    """Of features that write the same, those that are read from elsewhere are less alike than copies."""
    _, transcoders, graph = made(noise=0.0)
    rows = torch.cat([one.W_dec for one in transcoders])
    written = rows[graph.layer[graph.features] * F * COPIES + graph.index[graph.features]]
    found = similarities(graph, written)
    assert_close(found.diagonal(), torch.ones(len(found), dtype=torch.float64), 1e-9)
    dense = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    dense[graph.target, graph.source] = graph.weight
    a, b = 3, 40
    first, second = graph.features[a], graph.features[b]
    cosines = [
        torch.cosine_similarity(one, other, dim=0)
        for one, other in (
            (written[a], written[b]),
            (dense[first], dense[second]),
            (dense[:, first], dense[:, second]),
        )
    ]
    assert float(found[a, b]) == pytest.approx(float(cosines[0] / 2 + (cosines[1] + cosines[2]) / 4))


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.1, 0.4])
def test_linkage_is_the_mean_over_all_pairs(threshold: float) -> None:
    similarity = randoms(2)(14, 14).tanh()
    similarity = (similarity + similarity.T) / 2
    similarity[2, 9] = similarity[9, 2] = -torch.inf
    groups = [[place] for place in range(14)]
    while len(groups) > 1:
        pairs = {
            (a, b): float(similarity[torch.tensor(groups[a])[:, None], torch.tensor(groups[b])].mean())
            for a, b in itertools.combinations(range(len(groups)), 2)
        }
        a, b = max(pairs, key=pairs.__getitem__)
        if pairs[a, b] < threshold:
            break
        groups = [one for place, one in enumerate(groups) if place not in (a, b)] + [sorted(groups[a] + groups[b])]
    assert sorted(joined(similarity, threshold)) == sorted(one for one in groups if len(one) > 1)
    assert not any({2, 9} <= set(one) for one in groups)


def test_files_keep_them_and_bad_input_is_told(tmp_path: Path) -> None:
    model, transcoders = build(), cross_layer()
    graph = attribution_graph(model, TOKENS, transcoders, progress=False).pruned()
    groups = suggested_supernodes(model, transcoders, graph, threshold=0.2)
    assert len(groups) > 2
    save_graph(graph, tmp_path / "graph.json", supernodes=groups)
    assert load_supernodes(tmp_path / "graph.json") == groups
    with pytest.raises(BadInput, match="a mean of cosines"):
        suggested_supernodes(model, transcoders, graph, threshold=1.5)
    with pytest.raises(BadInput, match="lack features"):
        suggested_supernodes(model, [transcoder(layer=1, skip=False)], graph)
