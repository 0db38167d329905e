"""The wiki's tables and data files: what they say is what the model does, and what stands in a folder is whole."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp_hooks import HookedTransformer, Loss, ablate
from interp_hooks.corpus import scanning
from interp_hooks.errors import BadInput, FolderInUse
from interp_hooks.model.folder_lock import LOCK, locked
from interp_hooks.studies import Column, Wiki, wiki
from interp_hooks.studies.directions import unembedding
from interp_hooks.studies.wikis import pages, tables
from interp_hooks.studies.wikis.examples import AROUND, Windows
from interp_hooks.studies.wikis.pages import DIGITS, SHARD, STEPS, UNKNOWN, packed, search_key, search_shard
from interp_hooks.studies.wikis.units import band_names
from tests.tiny import CUSTOM, build, random_tokens


@pytest.fixture(scope="module")
def made(reads: HookedTransformer, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Wiki:
    return wiki(reads, texts, tmp_path_factory.mktemp("wikis") / "made", length=8, top=3, progress=False)


def data(made: Wiki, name: str) -> Any:
    """What a data file assigns."""
    text = (made.path / "data" / f"{name}.js").read_text(encoding="ascii")
    head, _, value = text.partition("=")[2].partition("=")
    assert re.fullmatch(r"\{\}\)\[.*\]", head), "one assignment and nothing else"
    return json.loads(value.rstrip().removesuffix(";"))


def around_of(made: Wiki, shown: dict, example: list) -> list[float | None]:
    numbers = [DIGITS.index(a) * 64 + DIGITS.index(b) for a, b in zip(example[4][::2], example[4][1::2], strict=True)]
    return [None if one == UNKNOWN else (one / STEPS - 1) * shown["largest"] for one in numbers]


# -------------------------------------------------------------------------------------------------------------- tables


def test_there_is_a_row_for_each_unit_and_a_unit_for_each_column(made: Wiki, reads: HookedTransformer) -> None:
    cfg = reads.cfg
    for name, kind, n in (("heads", "head", cfg.n_heads), ("neurons", "neuron", cfg.d_mlp)):
        table = made.table(name)
        assert table[["layer", kind]].to_numpy().tolist() == [[i, j] for i in range(cfg.n_layers) for j in range(n)]
        said = made.columns(name)
        assert list(said) == list(table.columns)
        assert all(one["unit"] and one["about"] for one in said.values())
    assert list(made.examples.columns) == list(tables.EXAMPLE_FIELDS)
    assert list(made.tokens.columns) == list(tables.TOKEN_FIELDS)
    assert set(made.examples["band"]) <= {"top", *band_names()}
    assert {path.name for path in made.path.iterdir()} >= {"index.html", "unit.html", "wiki.json", "data"}
    assert not made.path.with_name("made.partial").exists()


def test_tokens_are_those_of_the_model(made: Wiki, reads: HookedTransformer, texts: list[str]) -> None:
    for document, text in enumerate(texts):
        rows = made.tokens[made.tokens["document"] == document]
        ids = reads.to_tokens(text)[0].tolist()
        assert rows["token_id"].tolist() == ids
        assert rows["position"].tolist() == list(range(len(ids)))
        assert rows["text"].tolist() == reads.to_str_tokens(text)


@torch.no_grad()
def test_examples_are_true(reads: HookedTransformer, texts: list[str], tmp_path: Path) -> None:
    """The model run again on a document has the activation at the position that a row says, and no larger one."""
    whole = wiki(reads, texts, tmp_path / "whole", top=3, causal=False, progress=False)
    caches = [reads.run_with_cache(text)[1] for text in texts]
    for layer in range(reads.cfg.n_layers):
        heads = [torch.einsum("phk,hkd->phd", one["z", layer][0], reads.W_O[layer]).norm(dim=-1) for one in caches]
        neurons = [one["post", layer][0] for one in caches]
        for kind, values in (("head", heads), ("neuron", neurons)):
            rows = whole.examples.query(f"unit == '{kind}' and layer == {layer}")
            assert len(rows) >= 10
            for row in rows.itertuples():
                value = values[row.document][1:, row.index]
                assert row.activation == pytest.approx(float(value[row.position - 1]), rel=1e-4, abs=1e-6)
                assert row.activation == pytest.approx(float(value.max()), rel=1e-4, abs=1e-6)
            top = rows[rows["band"] == "top"]
            for unit in range(values[0].shape[1]):
                best = sorted((float(value[1:, unit].max()) for value in values), reverse=True)[:3]
                listed = top[top["index"] == unit].sort_values("rank")["activation"]
                assert listed.tolist() == pytest.approx(best, rel=1e-4, abs=1e-6)


def test_bands_hold_what_their_names_say(made: Wiki) -> None:
    names, edges = band_names(), [-np.inf, *(2.0**n for n in range(-8, 8)), np.inf]
    rows = made.examples[made.examples["band"] != "top"]
    assert len(set(rows["band"])) > 3
    for row in rows.itertuples():
        place = names.index(row.band)
        assert edges[place] <= row.activation < edges[place + 1]
    assert names[:2] == ["below 1/256", "1/256 to 1/128"]
    assert names[-2:] == ["64 to 128", "128 and more"]


@torch.no_grad()
def test_columns_say_what_the_model_does(made: Wiki, reads: HookedTransformer, texts: list[str]) -> None:
    pieces = [reads.to_tokens(text)[:, :8] for text in texts]
    paid, uniform, queries = torch.zeros(2, 2), torch.zeros(2, 1), 0
    for tokens in pieces:
        _, cache = reads.run_with_cache(tokens)
        queries += tokens.shape[1] - 1
        for layer in range(2):
            paid[layer] += cache["pattern", layer][0].diagonal(-1, 1, 2).sum(1)
            uniform[layer] += sum(1 / (query + 1) for query in range(1, tokens.shape[1]))
    above = (paid - uniform) / queries
    assert made.heads["previous_token"].tolist() == pytest.approx(above.flatten().tolist(), rel=1e-4, abs=1e-6)
    width = max(tokens.shape[1] for tokens in pieces)
    rows = torch.cat([torch.nn.functional.pad(one, (0, width - one.shape[1])) for one in pieces])
    mask = torch.cat([torch.nn.functional.pad(torch.ones_like(one), (0, width - one.shape[1])) for one in pieces])
    effect = ablate(reads, rows, Loss(), "z", method="mean", attention_mask=mask, progress=False)
    lost = (effect.values - effect.baselines["original"]).mean(-1).flatten().tolist()
    assert made.heads["mean_ablation_loss_increase"].tolist() == pytest.approx(lost, rel=1e-3, abs=1e-6)


@torch.no_grad()
def test_lists_hold_the_tokens_that_a_neuron_raises(made: Wiki, reads: HookedTransformer) -> None:
    """By its row of W_out: folded norms leave W_U as it is read, but for the mean over the vocabulary."""
    neuron = reads.W_out[1, 5]
    effect = (neuron - neuron.mean()) @ reads.W_U
    effect = effect - effect.mean()
    rows = made.listings.query("unit == 'neuron' and layer == 1 and index == 5").sort_values("rank")
    best, worst = effect.topk(10), (-effect).topk(10)
    raised, lowered = (rows[rows["listing"] == name] for name in ("raises", "lowers"))
    assert raised["value"].tolist() == pytest.approx(best.values.tolist(), rel=1e-3, abs=1e-5)
    assert raised["text"].tolist() == [reads.to_single_str_token(id) for id in best.indices.tolist()]
    assert lowered["text"].tolist() == [reads.to_single_str_token(id) for id in worst.indices.tolist()]


def test_the_unembedding_of_a_model_that_keeps_its_norm_is_what_logits_get() -> None:
    """A vector that is added to the stream, at a scale that stays, moves logits by it, up to their mean."""
    model = build()
    vector, stream = torch.randn(2, 12, dtype=torch.float64).unbind()
    with torch.no_grad():
        centred = vector - vector.mean()
        logits = (centred * model.ln_final.w) @ model.W_U
        assert torch.allclose(vector @ unembedding(model), logits - logits.mean())
        moved = [model.unembed(model.ln_final((stream + sign * 1e-6 * vector)[None, None])) for sign in (1, -1)]
        slope = (moved[0] - moved[1])[0, 0] / 2e-6 * (stream - stream.mean()).std(correction=0)
        along = (stream - stream.mean()) / (stream - stream.mean()).norm()
        turned = (centred - along * (centred @ along)) @ unembedding(model)  # the scale grows with what lies along it
    assert torch.allclose(slope - slope.mean(), turned, rtol=1e-3, atol=1e-4)


ODD = ["experts", "plain-experts", "post-norm", "latent", "shared-norm", "shortformer", "bidirectional", "output-norms"]


@pytest.mark.parametrize("name", ODD)
def test_models_of_all_kinds_have_a_wiki(name: str, tmp_path: Path) -> None:
    model = build(**CUSTOM[name], d_vocab_out=23)
    corpus = random_tokens(batch=3, pos=8, d_vocab=23)
    made = wiki(model, corpus, tmp_path / "w", top=1, per_band=1, sample=2, progress=False)
    assert len(made.heads) == 12
    assert made.heads[["previous_token", "entropy", "mean_activation"]].notna().all(axis=None)
    assert ("mean_ablation_loss_increase" in made.heads) == (model.cfg.attention_dir == "causal")
    kinds = {"head", "neuron", *(("expert_neuron",) if model.cfg.experts else ())}
    kinds |= {"shared_neuron"} if model.cfg.experts and model.cfg.experts.d_shared else set()
    assert set(made.examples["unit"]) == (kinds if len(made.neurons) else {"head"})


@torch.no_grad()
def test_neurons_of_experts_have_two_ends_and_effects(tmp_path: Path) -> None:
    """Layer 0 has an MLP, the others experts: examples at both ends are true, bands are what their names say."""
    model = build(**CUSTOM["experts"], d_vocab_out=23)
    corpus = random_tokens(batch=12, pos=8, d_vocab=23)
    made = wiki(model, corpus, tmp_path / "w", top=2, per_band=2, sample=4, examined=2, progress=False)
    _, cache = model.run_with_cache(corpus, names_filter=lambda name: ".mlp." in name)
    edges = [0, *(2.0**n for n in range(-8, 8)), np.inf]
    names = band_names("smallest")
    for kind in ("neuron", "expert_neuron", "shared_neuron"):
        table = made.table(f"{kind}s")
        for layer in table["layer"].unique().tolist():
            name = f"blocks.{layer}.mlp"
            if kind == "expert_neuron":
                weighted = cache[f"{name}.experts.hook_post"] * cache[f"{name}.hook_expert_weights"][..., None]
                values = weighted.flatten(2)
            else:
                values = cache[f"{name}.hook_post" if kind == "neuron" else f"{name}.shared.hook_post"]
            assert values.shape[2] == (table["layer"] == layer).sum()
            rows = made.examples.query("unit == @kind and layer == @layer")
            assert {"top", "bottom"} < set(rows["band"])
            for row in rows.itertuples():
                value = values[row.document, :, row.index]
                assert row.activation == pytest.approx(float(value[row.position]), abs=1e-6)
                negative = row.band == "bottom" or row.band in names
                assert row.activation == pytest.approx(float(value.min() if negative else value.max()), abs=1e-6)
                if row.band in names:
                    place = names.index(row.band)
                    assert place > 0
                    assert edges[place] <= -row.activation < edges[place + 1]
        effects = [f"{end}_{what}_if_ablated" for end in ("top", "bottom", "random") for what in ("loss", "kl")]
        assert table[effects].notna().any().all()
    experts = made.table("expert_neurons")
    assert (experts["expert"] == experts["expert_neuron"] // model.cfg.experts.d_expert).all()
    assert data(made, "about")["kinds"]["expert_neuron"]["of_expert"] == model.cfg.experts.d_expert


def test_own_columns_are_joined(reads: HookedTransformer, texts: list[str], tmp_path: Path) -> None:
    own = Column(name="mine", unit="apples", about="a count", values=torch.arange(4.0).reshape(2, 2))
    roles = Column(name="own_role", unit="role", about="what it is", values=[["", "mover"], ["", ""]])
    made = wiki(reads, texts, tmp_path / "w", columns={"head": [own, roles]}, causal=False, progress=False)
    assert made.heads["mine"].tolist() == [0, 1, 2, 3]
    assert made.heads["own_role"].tolist() == ["", "mover", "", ""]
    assert made.columns("heads")["mine"] == {"unit": "apples", "about": "a count"}
    wrong = Column(name="mine", unit="apples", about="a count", values=torch.zeros(2, 3))
    for columns, message in (([wrong], "a value for each unit"), ([own, own], "already")):
        with pytest.raises(BadInput, match=message):
            wiki(reads, texts, tmp_path / "w", columns={"head": columns}, causal=False, progress=False)
    assert Wiki(tmp_path / "w").heads["mine"].tolist() == [0, 1, 2, 3], "what was there still is"


def test_a_model_without_tokenizer_or_neurons_has_a_wiki(tmp_path: Path) -> None:
    model = build(attn_only=True, d_vocab_out=23, model_name=str(tmp_path / "small-model"))
    made = wiki(model, out=tmp_path / "w", progress=False)
    assert made.neurons.empty
    assert len(made.heads) == 12
    assert made.tokens["text"].tolist() == [str(id) for id in made.tokens["token_id"]]
    assert made.about["corpus"] == "256 rows of random tokens that come twice (seed 0)"
    assert made.about["name"] == "small-model", "the folder is nobody's business"


def test_a_model_for_which_no_corpus_can_be_made_is_told_to_bring_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no corpus can be made for this model .* give one with corpus="):
        wiki(build(n_ctx=3), out=tmp_path / "w", progress=False)
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- data files


@torch.no_grad()
def test_activations_around_an_example_are_those_of_its_piece(made: Wiki, reads: HookedTransformer) -> None:
    """Documents are read eight tokens at a time: BOS and seven of the document after the first piece."""
    for kind, plural in (("neuron", "neurons"), ("head", "heads")):
        units = data(made, f"{plural}/L01_0")
        shown = units[1]
        largest = 0.0
        for example in shown["examples"]:
            _, document, position = example[:3]
            ids = made.tokens.query(f"document == {document}")["token_id"].tolist()
            start = 0 if position < 8 else 8 + (position - 8) // 7 * 7
            piece = ids[:8] if start == 0 else [ids[0], *ids[start : start + 7]]
            _, cache = reads.run_with_cache(torch.tensor([piece]))
            values = cache["post", 1][0, :, 1]
            if kind == "head":
                values = (cache["z", 1][0, :, 1] @ reads.W_O[1, 1]).norm(dim=-1)
            read = {(start or 1) + place: float(one) for place, one in enumerate(values[1:])}
            found = around_of(made, shown, example)
            expected = [read.get(position + offset) for offset in range(-AROUND, AROUND + 1)]
            assert [one is None for one in found] == [one is None for one in expected]
            near = shown["largest"] / STEPS
            assert [one for one in found if one is not None] == pytest.approx(
                [one for one in expected if one is not None], abs=near
            )
            largest = max(largest, *(abs(one) for one in read.values()))
        assert shown["largest"] <= largest * 1.001


@torch.no_grad()
def test_attention_of_an_example_is_that_of_its_piece(made: Wiki, reads: HookedTransformer) -> None:
    example = data(made, "heads/L01_0")[0]["examples"][0]
    _, document, position = example[:3]
    ids = made.tokens.query(f"document == {document}")["token_id"].tolist()
    start = 0 if position < 8 else 8 + (position - 8) // 7 * 7
    piece = ids[:8] if start == 0 else [ids[0], *ids[start : start + 7]]
    _, cache = reads.run_with_cache(torch.tensor([piece]))
    pattern = cache["pattern", 1][0, 0]
    numbers = [DIGITS.index(a) * 64 + DIGITS.index(b) for a, b in zip(example[5][::2], example[5][1::2], strict=True)]
    found = torch.tensor(numbers).reshape(2 * AROUND + 1, 2 * AROUND + 2) / 4095
    token = position - start + (start > 0)
    for query in range(len(piece)):
        row = found[query - token + AROUND]
        assert row[-1] == pytest.approx(float(pattern[query, 0]), abs=1e-3)
        for key in range(len(piece)):
            assert row[key - token + AROUND] == pytest.approx(float(pattern[query, key]), abs=1e-3)


def test_windows_of_two_kinds_of_documents_do_not_mix() -> None:
    """Places that a pass did not read give no rows."""
    from interp_hooks.corpus import Seen, neurons

    seen = Seen(
        values=torch.arange(6.0)[:, None],
        tokens=torch.zeros(6, dtype=torch.long),
        documents=torch.tensor([0, 0, 0, 2, 2, 2]),
        positions=torch.tensor([1, 2, 3, 1, 2, 3]),
        pieces=torch.tensor([0, 0, 0, 1, 1, 1]),
        layer=0,
    )
    wanted = {0: torch.tensor([[0, 3, 0, 7], [1, 2, 0, 8], [2, 1, 0, 9], [2, 4, 0, 10]])}
    state = Windows(neurons(), wanted).reduce(seen)
    assert state["rows"].tolist() == [7, 9]
    known = [[one for one in row.tolist() if one == one] for row in state["values"]]
    assert known == [[0, 1, 2], [3, 4, 5]]


def test_units_are_cut_into_files(tmp_path: Path) -> None:
    model = build(d_mlp=300, n_heads=9, d_vocab_out=23)
    made = wiki(model, out=tmp_path / "w", limit=4, top=1, per_band=1, causal=False, progress=False)
    names = {str(path.relative_to(made.path / "data")) for path in (made.path / "data").rglob("L*.js")}
    assert names == {
        f"{kind}/L0{layer}_{n}.js" for kind in ("heads", "neurons") for layer in range(3) for n in range(2)
    }
    sizes = [len(data(made, f"neurons/L02_{n}")) for n in range(2)]
    assert sizes == [SHARD, 300 - SHARD]
    last = made.examples.query("unit == 'neuron' and layer == 2 and index == 299 and band == 'top'").iloc[0]
    shown = data(made, "neurons/L02_1")[-1]["examples"][0]
    assert shown[1:3] == [last["document"], last["position"]]
    assert shown[3] == pytest.approx(last["activation"], rel=1e-4)


def test_numbers_are_packed_into_two_characters() -> None:
    values = np.array([[0, 63, 64, 4095]])
    (text,) = packed(values)
    assert [DIGITS.index(a) * 64 + DIGITS.index(b) for a, b in zip(text[::2], text[1::2], strict=True)] == [
        0,
        63,
        64,
        4095,
    ]


def test_the_search_finds_units_by_the_tokens_at_their_top(made: Wiki) -> None:
    top = made.examples.query("unit == 'neuron' and band == 'top'").merge(made.tokens, on=["document", "position"])
    (text,) = top["text"].mode()[:1]
    key = search_key(text)
    total, flat = data(made, f"search/{search_shard(key)}")[key]["neuron"]
    expected = top[top["text"].map(search_key) == key].groupby(["layer", "index"]).size()
    width = len(made.neurons) // 2
    found = {(flat[place] // width, flat[place] % width): flat[place + 1] for place in range(0, len(flat), 3)}
    assert {unit: n for unit, n in found.items() if n} == expected.to_dict()
    assert total == len(found)


def test_nothing_in_a_data_file_is_markup(tmp_path: Path) -> None:
    hostile = "</script><b>&\u2028\ud7ff"
    pages.write_data(tmp_path, "x/y", {hostile: [hostile]})
    text = (tmp_path / "data" / "x" / "y.js").read_text(encoding="ascii")
    assert not set("<>&") & set(text.partition('["x/y"]=')[2])
    assert json.loads(text.partition('["x/y"]=')[2].rstrip(";\n")) == {hostile: [hostile]}


# --------------------------------------------------------------------------------------------------------------- folder


def test_a_corpus_without_documents_leaves_nothing(reads: HookedTransformer, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for corpus, message in (
        (tmp_path / "empty.txt", "no documents"),
        (tmp_path / "none.txt", "no file"),
        ([], "no doc"),
    ):
        with pytest.raises(BadInput, match=message):
            wiki(reads, corpus, tmp_path / "w", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_a_folder_that_holds_something_else_is_refused(
    reads: HookedTransformer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "Reading", None)  # nothing may be computed
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    (tmp_path / "file").touch()
    for out, message in (("notes", "diary.txt"), ("file", "it is a file"), ("no/where", "there is no folder")):
        with pytest.raises(BadInput, match=message):
            wiki(reads, texts, tmp_path / out, progress=False)
    (tmp_path / "w.partial").mkdir()
    (tmp_path / "w.partial" / "diary.txt").write_text("dear diary")
    with pytest.raises(BadInput, match="something else than an unfinished wiki"):
        wiki(reads, texts, tmp_path / "w", progress=False)
    assert (tmp_path / "notes" / "diary.txt").read_text() == (tmp_path / "w.partial" / "diary.txt").read_text()


def test_a_wiki_of_another_model_is_kept_and_one_of_the_same_is_replaced(
    reads: HookedTransformer, texts: list[str], tmp_path: Path
) -> None:
    options = dict(out=tmp_path / "w", causal=False, progress=False)
    wiki(reads, texts, **options)
    before = (tmp_path / "w" / "wiki.json").read_text()
    other = build(d_vocab=23, d_vocab_out=23)
    with pytest.raises(BadInput, match="choose another folder"):
        wiki(other, **options)
    assert (tmp_path / "w" / "wiki.json").read_text() == before
    (tmp_path / "w" / "left-over").touch()
    again = wiki(reads, texts[:3], **options)
    assert again.about["n_documents"] == 3
    assert not (tmp_path / "w" / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_killed_wiki_goes_on_with_its_scan(
    reads: HookedTransformer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(out=tmp_path / "w", causal=False, progress=False)
    monkeypatch.setattr("interp_hooks.studies.wikis.making.write_pages", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        wiki(reads, texts, **options)
    monkeypatch.undo()
    assert not (tmp_path / "w").exists()
    assert [path.name for path in (tmp_path / "w.partial").iterdir()] == ["scan"]
    read: list[Any] = []
    whole = scanning.Reading.read
    monkeypatch.setattr(scanning.Reading, "read", lambda self, rows: read.append(self.reducers) or whole(self, rows))
    with pytest.raises(BadInput, match=r"or delete .*w\.partial"):
        wiki(reads, texts, top=2, **options)
    done = wiki(reads, texts, **options)
    assert all("neuron_top" not in reducers for reducers in read), "the corpus was not scanned again"
    straight = wiki(reads, texts, **options | dict(out=tmp_path / "straight"))
    assert done.examples.equals(straight.examples)
    assert not (tmp_path / "w.partial").exists()


def test_a_kill_between_two_moves_loses_nothing(reads: HookedTransformer, texts: list[str], tmp_path: Path) -> None:
    options = dict(out=tmp_path / "w", causal=False, progress=False)
    wiki(reads, texts, **options)
    (tmp_path / "w.partial" / "scan").mkdir(parents=True)
    (tmp_path / "w").rename(tmp_path / "w.partial" / "old")
    with pytest.raises(BadInput, match="no file"):
        wiki(reads, "nowhere.txt", **options)
    assert Wiki(tmp_path / "w").heads.shape[0] == 4


def test_two_processes_do_not_write_one_wiki(reads: HookedTransformer, texts: list[str], tmp_path: Path) -> None:
    partial = tmp_path / "w.partial"
    (partial / "scan").mkdir(parents=True)
    with locked(partial / LOCK, partial), pytest.raises(FolderInUse):
        wiki(reads, texts, tmp_path / "w", progress=False)


def test_without_pyarrow_nothing_is_computed(
    reads: HookedTransformer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "Reading", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'interp-hooks\[wiki\]'"):
        wiki(reads, texts, tmp_path / "w", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_wiki_is_no_wiki(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no wiki"):
        Wiki(tmp_path)


# ---------------------------------------------------------------------------------------------------------- Neuronpedia

FIELDS = {
    *("feature_index", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
    *("correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1"),
    *("correlated_features_indices", "correlated_features_pearson", "correlated_features_l1"),
    *("neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero", "freq_hist_data_bar_values"),
    *("freq_hist_data_bar_heights", "logits_hist_data_bar_values", "logits_hist_data_bar_heights"),
    *("n_prompts_total", "n_tokens_in_prompt", "dataset", "activations"),
}
OF_ACTIVATION = {
    *("bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"),
    *("dfa_values", "dfa_maxValue", "dfa_targetIndex"),
}


def test_units_as_neuronpedia_reads_them(reads: HookedTransformer, texts: list[str], tmp_path: Path) -> None:
    made = wiki(reads, texts, tmp_path / "w", neuronpedia=True, causal=False, progress=False)
    files = [*(made.path / "neuronpedia").rglob("*.json")]
    assert len(files) == len(made.heads) + len(made.neurons)
    feature = json.loads((made.path / "neuronpedia" / "neurons" / "1" / "7.json").read_text())
    assert feature.keys() == FIELDS
    assert feature["feature_index"] == 7
    rows = made.examples.query("unit == 'neuron' and layer == 1 and index == 7")
    assert len(feature["activations"]) == len(rows)
    for row, one in zip(rows.itertuples(), feature["activations"], strict=True):
        assert one.keys() == OF_ACTIVATION
        assert len(one["tokens"]) == len(one["values"])
        assert one["values"][one["qualifying_token_index"]] == pytest.approx(row.activation, rel=2e-3, abs=1e-5)
        assert (
            one["tokens"][one["qualifying_token_index"]]
            == made.tokens.query("document == @row.document and position == @row.position")["text"].item()
        )
        if row.band != "top":
            assert one["bin_min"] <= max(row.activation, 0.0) <= one["bin_max"] + 1e-6
