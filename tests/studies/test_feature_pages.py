"""Pages of features: what they say is what the dictionary finds in the model, counted over all by brute force."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.corpus import ActiveUnits, TopK, scan
from interp_hooks.corpus.reducers import active
from interp_hooks.corpus.reducers.active import as_matrix
from interp_hooks.dictionaries import SAE, Crosscoder, CrossLayerTranscoder
from interp_hooks.dictionaries.activations import JumpReLU
from interp_hooks.errors import BadInput
from interp_hooks.studies import Wiki, feature_effects, feature_units, related_features, wiki
from interp_hooks.studies.directions import unembedding
from interp_hooks.studies.features import relations
from interp_hooks.studies.findings import Finding
from tests.dictionaries.random_ones import cross_layer, crosscoder, sae
from tests.studies.test_wiki import data
from tests.tiny import assert_close, build, random_tokens


def random_sae(model: HookedTransformer, hook: str, n: int = 40, seed: int = 0) -> SAE:
    d, generator = model.cfg.d_model, torch.Generator().manual_seed(seed)
    W_enc, W_dec = (torch.randn(*shape, generator=generator) for shape in ((d, n), (n, d)))
    activation = JumpReLU(torch.full((n,), 0.3 * float(W_enc.norm(dim=0).mean())))
    biases = torch.randn(n, generator=generator), torch.randn(d, generator=generator)
    return SAE(hook=hook, W_enc=W_enc, W_dec=W_dec, b_enc=biases[0], b_dec=biases[1], activation=activation)


@pytest.fixture(scope="module")
def saes(reads: HookedTransformer) -> list[SAE]:
    return [random_sae(reads, f"mlp_out{layer}", seed=layer) for layer in range(2)]


@pytest.fixture(scope="module")
def made(reads: HookedTransformer, texts: list[str], saes: list[SAE], tmp_path_factory: pytest.TempPathFactory) -> Wiki:
    out = tmp_path_factory.mktemp("wikis") / "made"
    dictionaries: Any = {"mlp": saes, "stream": random_sae(reads, "resid_pre1", n=25)}
    return wiki(reads, texts, out, top=3, examined=4, dictionaries=dictionaries, progress=False)


@torch.no_grad()
def features_of(model: HookedTransformer, one: SAE, texts: list[str]) -> list[Tensor]:
    """[pos feature] of each text."""
    return [one.encode(model.run_with_cache(text)[1][one.hook])[0] for text in texts]


def test_tables_and_pages_list_them(made: Wiki, reads: HookedTransformer) -> None:
    table = made.table("mlp_features")
    assert table[["layer", "mlp_feature"]].to_numpy().tolist() == [[i, j] for i in range(2) for j in range(40)]
    assert made.table("stream_features")["layer"].tolist() == [1] * 25
    kinds = data(made, "about")["kinds"]
    assert list(kinds) == ["head", "neuron", "mlp_feature", "stream_feature"]
    assert [one["name"] for one in kinds["mlp_feature"]["listings"] if one["units"]] == [
        "correlated features",
        "co-active features",
    ]
    assert len(data(made, "mlp_features/L01_0")) == 40
    assert set(json.loads((made.path / "wiki.json").read_text())["dictionaries"]) == {"mlp_feature", "stream_feature"}


def test_pages_of_features_alone(made: Wiki, reads: HookedTransformer, texts: list[str], tmp_path: Path) -> None:
    """They are those of a wiki with all kinds of units, from a scan that ends where the features are read."""
    options: Any = dict(dictionaries={"stream": random_sae(reads, "resid_pre1", n=25)}, top=3, examined=4)
    passed: list[int] = []
    with reads.hooks(fwd_hooks=[("resid_post1", lambda value, hook: passed.append(1))]):
        alone = wiki(reads, texts, tmp_path / "a", kinds=["stream_feature"], causal=False, progress=False, **options)
    assert not passed
    assert list(data(alone, "about")["kinds"]) == ["stream_feature"]
    assert data(alone, "stream_features/L01_0") == data(made, "stream_features/L01_0")
    assert len(alone.table("heads")) == len(alone.table("neurons")) == 0
    for kinds in ([], ["head", "stream"]):
        with pytest.raises(BadInput, match="kinds must be some of head, neuron, stream_feature, got"):
            wiki(reads, texts, tmp_path / "b", kinds=kinds, progress=False, **options)
    finding = Finding(part="L0H0", claim="does nothing", evidence="none", check=lambda model: True)
    with pytest.raises(BadInput, match="findings stand on pages of heads and neurons"):
        wiki(reads, texts, tmp_path / "b", kinds=["stream_feature"], findings=[finding], progress=False, **options)


def test_examples_and_shares_are_those_of_the_dictionary(
    made: Wiki, reads: HookedTransformer, texts: list[str], saes: list[SAE]
) -> None:
    table = made.table("mlp_features")
    for layer, one in enumerate(saes):
        found = features_of(reads, one, texts)
        every = torch.cat([values[1:] for values in found])
        rows = table[table["layer"] == layer]
        assert 0.02 < rows["active_share"].mean() < 0.6
        assert rows["active_share"].tolist() == pytest.approx((every > 0).double().mean(0).tolist(), abs=1e-6)
        assert rows["mean_activation"].tolist() == pytest.approx(every.double().mean(0).tolist(), rel=1e-4, abs=1e-6)
        assert rows["label"].tolist() == ["" if share else "dead" for share in (every > 0).any(0).tolist()]
        examples = made.examples.query(f"unit == 'mlp_feature' and layer == {layer}")
        assert (examples["activation"] > 0).all()
        for feature in range(40):
            best = sorted((float(values[1:, feature].max()) for values in found), reverse=True)[:3]
            top = examples.query(f"index == {feature} and band == 'top'").sort_values("rank")["activation"]
            assert top.tolist() == pytest.approx([value for value in best if value > 0], rel=1e-4, abs=1e-6)


def test_relations_are_those_of_the_whole_matrix(
    made: Wiki, reads: HookedTransformer, texts: list[str], saes: list[SAE]
) -> None:
    every = torch.cat([values[1:] for values in features_of(reads, saes[1], texts)]).double()
    active = (every > 0).double()
    both = active.T @ active
    either = active.sum(0)[:, None] + active.sum(0) - both
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = torch.from_numpy(np.nan_to_num(np.corrcoef(every.numpy().T)))
    listings = made.listings.query("unit == 'mlp_feature' and layer == 1")
    checked = 0
    for name, measure in (("correlated features", correlation), ("co-active features", both / either.clamp(min=1))):
        measure = torch.where(both > 0, measure, 0.0).fill_diagonal_(0.0)
        for feature in range(40):
            rows = listings[(listings["listing"] == name) & (listings["index"] == feature)].sort_values("rank")
            expected = [value for value in measure[feature].topk(10).values.tolist() if value > 1e-9]
            assert rows["value"].tolist()[: len(expected)] == pytest.approx(expected, rel=1e-4, abs=1e-6)
            for text, value in zip(rows["text"], rows["value"], strict=True):
                assert value == pytest.approx(
                    float(measure[feature, int(text.removeprefix("L1F"))]), rel=1e-4, abs=1e-6
                )
                checked += 1
    assert checked > 50


@torch.no_grad()
def test_effects_are_those_of_what_a_feature_writes(made: Wiki, reads: HookedTransformer, saes: list[SAE]) -> None:
    effect = saes[0].W_dec[7] @ unembedding(reads)
    rows = made.listings.query("unit == 'mlp_feature' and layer == 0 and index == 7").sort_values("rank")
    for name, sign in (("raises", 1), ("lowers", -1)):
        values = rows[rows["listing"] == name]["value"].tolist()
        assert values == pytest.approx((sign * (sign * effect).topk(10).values).tolist(), rel=1e-4, abs=1e-5)


@torch.no_grad()
def test_ablation_takes_out_what_a_feature_writes(
    made: Wiki, reads: HookedTransformer, texts: list[str], saes: list[SAE]
) -> None:
    """By a hook of our own, without the dictionary in the model, on the documents that the page shows."""
    table = made.table("mlp_features").query("layer == 1")
    examined = table[table["top_loss_if_ablated"].notna() | table["random_loss_if_ablated"].notna()]
    assert len(examined) == 4
    estimates = table["ablation_loss_estimate"].abs().sort_values(ascending=False)
    assert set(examined["mlp_feature"]) == set(table.loc[estimates.index[:4], "mlp_feature"])
    examples, one, seen = made.examples.query("unit == 'mlp_feature' and layer == 1 and band == 'top'"), saes[1], 0
    for row in examined.dropna(subset=["top_loss_if_ablated"]).itertuples():
        lost = []

        def without(value: Tensor, hook: Any, feature: int = row.mlp_feature) -> Tensor:
            written = one.encode(value)[..., feature, None] * one.W_dec[feature]
            written[:, 0] = 0  # BOS
            return value - written

        every = scan(reads, texts, {"top": TopK(feature_units(reads, one), k=3)}, progress=False)["top"][1]
        for document, position, value in zip(
            *(every[name][row.mlp_feature].tolist() for name in ("documents", "positions", "values")), strict=True
        ):
            tokens = reads.to_tokens(texts[document])
            if document < 0 or value <= 0 or position + 1 >= tokens.shape[1]:
                continue
            here, there = (
                logits[0, position].log_softmax(-1)[tokens[0, position + 1]]
                for logits in (reads(tokens), reads.run_with_hooks(tokens, fwd_hooks=[("mlp_out1", without)]))
            )
            lost.append(float(here - there))
        assert row.top_loss_if_ablated == pytest.approx(sum(lost) / len(lost), rel=1e-3, abs=1e-6)
        seen += 1
    assert seen
    assert len(examples)


@torch.no_grad()
def test_a_list_of_active_units_is_the_whole_matrix_however_it_is_split() -> None:
    model, tokens = build(), list(random_tokens(9, 7, d_vocab=23))
    one = sae("jumprelu", hook="mlp_out1")
    units = feature_units(model, one)
    found = [
        scan(model, tokens, {"active": ActiveUnits(units)}, exclude=(), progress=False, **how)
        for how in ({}, dict(per_batch=2), dict(tokens_at_once=7))
    ]
    dense = one.encode(model.run_with_cache(torch.stack(tokens))[1]["mlp_out", 1]).flatten(0, 1)
    kept = dense[(dense > 0).any(1)]
    for each in found:
        state = each["active"][1]
        assert_close(as_matrix(state, state["values"]).to_dense(), kept.float(), 1e-6)
        assert state["n_units"] == one.n_features
        for name, value in found[0]["active"][1].items():
            assert torch.equal(state[name], value)


def test_relations_are_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    dense = torch.rand(50, 12, generator=generator) * (torch.rand(50, 12, generator=generator) < 0.3)
    dense[:, 4], dense[:, 5] = 1.7, 0.0  # always as active; never
    token, unit = (dense > 0).nonzero(as_tuple=True)
    found = {"sizes": (dense > 0).sum(1), "units": unit, "values": dense[token, unit], "n_units": torch.tensor(12)}
    whole = related_features(found, 60, k=4)
    monkeypatch.setattr(relations, "AT_ONCE", 30)
    parts = related_features(found, 60, k=4)
    for name in ("correlated", "correlations", "coactive", "jaccard"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    assert (whole.correlated[5] == -1).all()
    assert (whole.coactive[5] == -1).all()
    with pytest.raises(BadInput, match="n_tokens must be at least 50"):
        related_features(found, 49)
    with pytest.raises(BadInput, match="lacks n_units"):
        related_features({name: one for name, one in found.items() if name != "n_units"}, 60)


def test_too_many_active_units_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active, "MOST", 100)
    model = build()
    with pytest.raises(BadInput, match="too many to list"):
        scan(
            model,
            list(random_tokens(20, 7, d_vocab=23)),
            {"active": ActiveUnits(feature_units(model, sae("relu")))},
            per_batch=1,
            progress=False,
        )


def test_bad_dictionaries_are_refused_before_anything_is_read(
    reads: HookedTransformer, saes: list[SAE], texts: list[str], tmp_path: Path
) -> None:
    small = build()
    cases: list[tuple[Any, str]] = [
        ({"a b": saes[0]}, "names that a table can have"),
        ({"x": [saes[0], saes[0]]}, "different layers"),
        ({"x": [saes[0], random_sae(reads, "resid_pre1")]}, "one hook in different layers"),
        ({"x": random_sae(reads, "hook_embed")}, "in none"),
        ({"x": []}, "one hook"),
    ]
    for dictionaries, words in cases:
        with pytest.raises(BadInput, match=words):
            wiki(reads, texts, tmp_path / "made", dictionaries=dictionaries, progress=False)
    one = crosscoder()
    twice = replace(one, sites=(one.sites[0], *one.sites[:2]))
    for several in ([one, sae()], twice):
        with pytest.raises(BadInput, match="listed for it alone"):
            feature_units(small, several)
    with pytest.raises(BadInput, match="columns are of kinds of units"):
        wiki(reads, texts, tmp_path / "made", columns={"feature": []}, progress=False)
    assert not list(tmp_path.iterdir())
    units = feature_units(reads, saes[0])
    found = scan(reads, texts, {"top": TopK(units, k=2)}, progress=False)
    with pytest.raises(BadInput, match="did not measure unit 40"):
        feature_effects(reads, saes[0], found, [40])
    with pytest.raises(BadInput, match="this one has TopK of"):
        feature_effects(reads, saes[1], found, [0])
    with pytest.raises(BadInput, match="got none"):
        feature_effects(reads, saes[0], found, [])


def test_other_weights_have_other_names(reads: HookedTransformer, saes: list[SAE]) -> None:
    one = saes[0]
    names = {
        feature_units(reads, each).name
        for each in (one, replace(one, b_enc=one.b_enc + 1), replace(one, hook="mlp_out1"), one.mapped(torch.clone))
    }
    assert len(names) == 3


# ------------------------------------------------------------------------------------------- features of several layers


@pytest.fixture(scope="module")
def wide(reads: HookedTransformer) -> dict[str, Any]:
    d = reads.cfg.d_model
    return {
        "clt": cross_layer(layers=2, d=d, d_out=d).to(torch.float32),
        "cross": crosscoder(sites=2, d=d).to(torch.float32),
    }


@pytest.fixture(scope="module")
def wide_pages(
    reads: HookedTransformer, texts: list[str], wide: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Wiki:
    out = tmp_path_factory.mktemp("wikis") / "wide"
    return wiki(reads, texts, out, top=3, examined=2, dictionaries=wide, progress=False)


@torch.no_grad()
def test_features_of_several_layers_have_pages(
    wide_pages: Wiki, reads: HookedTransformer, texts: list[str], wide: dict[str, Any]
) -> None:
    clt: CrossLayerTranscoder = wide["clt"]
    cross: Crosscoder = wide["cross"]
    hooks = [hook for one in wide.values() for hook in one.hooks_in]
    caches = [reads.run_with_cache(text, names_filter=hooks)[1] for text in texts]
    expected = {}
    for name, one in wide.items():
        x = [torch.stack([cache[hook][0, 1:] for hook in one.hooks_in], -2) for cache in caches]
        expected[name] = one.encode(torch.cat(x)).double().mean(0)
    table = wide_pages.table("clt_features")
    assert table["mean_activation"].tolist() == pytest.approx(expected["clt"].flatten().tolist(), rel=1e-4, abs=1e-6)
    assert set(table["layer"]) == {0, 1}
    of_sites = wide_pages.table("cross_features")
    assert of_sites["mean_activation"].tolist() == pytest.approx(expected["cross"].tolist(), rel=1e-4, abs=1e-6)
    assert set(of_sites["layer"]) == {1}
    assert of_sites[["share_0", "share_1"]].to_numpy() == pytest.approx(cross.shares.numpy(), rel=1e-5)
    assert "ablation_loss_estimate" not in of_sites
    written = {("clt", 0): clt.W_dec[0].sum(1), ("clt", 1): clt.W_dec[1][:, 0], ("cross", 1): cross.W_dec[:, -1]}
    for (name, layer), rows in written.items():
        listed = wide_pages.listings.query(f"unit == '{name}_feature' and layer == {layer} and index == 5")
        raised = listed[listed["listing"] == "raises"].sort_values("rank")["value"].tolist()
        assert raised == pytest.approx((rows[5] @ unembedding(reads)).topk(10).values.tolist(), rel=1e-4, abs=1e-5)


@torch.no_grad()
def test_ablating_a_cross_layer_feature_takes_it_out_of_all_layers(
    reads: HookedTransformer, texts: list[str], wide: dict[str, Any]
) -> None:
    """By hooks of our own that read the feature, and take out of both layers what it writes there."""
    clt: CrossLayerTranscoder = wide["clt"]
    units = feature_units(reads, clt)
    found = scan(reads, texts, {"top": TopK(units, k=2)}, progress=False)
    feature = int(found["top"][0]["values"][:, 0].argmax())
    effects = feature_effects(reads, clt, found, [feature], layer=0, k=2, n_random=2)
    kept: dict[str, Tensor] = {}

    def read(value: Tensor, hook: Any) -> None:
        kept["feature"] = clt.encode_layer(0, value)[..., feature, None]
        kept["feature"][:, 0] = 0  # BOS

    def without(value: Tensor, hook: Any) -> Tensor:
        return value - kept["feature"] * clt.W_dec[0][feature, int(hook.name.split(".")[1])]

    hooks = [(clt.layers_in[0], read), *((hook, without) for hook in clt.layers_out)]
    best, lost = found["top"][0], []
    for document, position in zip(
        best["documents"][feature].tolist(), best["positions"][feature].tolist(), strict=True
    ):
        tokens = reads.to_tokens(texts[document])
        if position + 1 < tokens.shape[1]:
            here, there = (
                logits[0, position].log_softmax(-1)[tokens[0, position + 1]]
                for logits in (reads(tokens), reads.run_with_hooks(tokens, fwd_hooks=hooks))
            )
            lost.append(float(here - there))
    assert lost
    assert max(map(abs, lost)) > 1e-4
    assert effects.top_loss[0].tolist() == pytest.approx(lost, rel=1e-3, abs=1e-6)
    with pytest.raises(BadInput, match="layer must be one of those with features, 0, 1, got None"):
        feature_effects(reads, clt, found, [feature])
    crossing = scan(reads, texts, {"top": TopK(feature_units(reads, wide["cross"]), k=2)}, progress=False)
    with pytest.raises(BadInput, match="cannot stand in a model"):
        feature_effects(reads, wide["cross"], crossing, [0])
