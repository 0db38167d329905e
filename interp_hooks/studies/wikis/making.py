"""`wiki`: one scan over a corpus, metrics of every unit, and a folder of tables and pages."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from interp_hooks.corpus.evals import repeated_tokens
from interp_hooks.corpus.packing import Packer, Piece
from interp_hooks.corpus.reading import Corpus, Document
from interp_hooks.corpus.scanning import Scan, scan
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, Seed, checked
from interp_hooks.model.identity import Identity
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.tensor_files import write_text
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.findings import Finding
from interp_hooks.studies.wikis.columns import columns_of, listings_of
from interp_hooks.studies.wikis.examples import add_attention, add_windows, examples_of, needed
from interp_hooks.studies.wikis.folder import Place
from interp_hooks.studies.wikis.material import Column, Material
from interp_hooks.studies.wikis.neuronpedia import write_neuronpedia
from interp_hooks.studies.wikis.pages import Contents, write_pages
from interp_hooks.studies.wikis.tables import (
    ABOUT,
    Wiki,
    need_arrow,
    plural,
    write_examples,
    write_listings,
    write_tokens,
    write_units,
)
from interp_hooks.studies.wikis.units import Kind, feature_kinds, kinds_of
from interp_hooks.tasks.in_words import plain
from interp_hooks.tasks.ioi_text import IOI_TEMPLATES, ioi_prompts

VERSION = 1
GENERATED = 256  # documents of the corpus that is made where none is given
LENGTH = 256  # tokens that are read at once
SAMPLE_LENGTH = 64
TOKENS, FEATURES = 8192, 2**25  # in a pass: tokens, and activations of features at all of them (128 MiB)


@checked
def wiki(
    model: HookedTransformer,
    corpus: Corpus | None = None,
    out: str | Path = "wiki",
    *,
    limit: Count | None = None,
    length: Count | None = None,
    top: Positive = 10,
    per_band: Positive = 2,
    sample: Positive = 16,
    seed: Seed = 0,
    examined: Count = 8,
    causal: bool = True,
    dictionaries: Mapping[str, Dictionary | Sequence[Dictionary]] | None = None,
    kinds: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[Column]] | None = None,
    findings: Sequence[Finding] = (),
    neuronpedia: bool = False,
    corpus_name: str | None = None,
    progress: bool = True,
) -> Wiki:
    """Write a page for every head and neuron of a model into the folder `out`, with tables for programs.

    `corpus` is what `documents` reads: a file of texts, a list of texts, token ids; `limit` stops after so many
    documents. Without one, it is made: sentences about giving (`generated_corpus`). Documents longer than `length`
    tokens (default: 256, or the model's context) are read in pieces. The page of a unit shows its `top` documents and
    `per_band` random ones of each band of activation. Attention statistics and, unless `causal=False`, effects come
    from the first tokens of `sample` documents; `examined` neurons of each layer, those whose largest activation
    stands out most, are ablated on their own contexts, and get a minimal prompt. `columns` are metrics of your own,
    by kind of units,
    `findings` are checked and stand on the pages of their parts, and `neuronpedia` writes a JSON file per unit, too.

    `dictionaries` are given by a name for each (`{"sae": sae}`), or for several that read the same hook of different
    layers; a cross-layer transcoder has features in each of its layers, whose effects are those of all that they write,
    a crosscoder's are listed with its last site, without effects. Features get pages too, as "sae_feature", with
    examples where they are active, the features that are correlated and active together with each, among all, and what
    is lost without those `examined`, here those with the largest estimated effect. All is read in the same scan of the
    model as it is. `kinds` are the kinds of units that get pages, "head", "neuron" or "sae_feature", say, by default
    all; a scan for features alone stops at the last layer that they read. (docs/performance.md has what 16,384 features
    of a real model take.)

    A run that was killed goes on in `out.partial`; `out` is there only when it is whole. A wiki of the same model
    that is there is replaced.

    Raises:
        ImportError: pyarrow is not installed; nothing was computed.
        BadInput: a corpus without documents, or a folder that holds something else, or a wiki of another model.
        FolderInUse: another process writes there.

    >>> from interp_hooks.studies import wiki
    >>> made = wiki(model, [*clean, *corrupt], "my-wiki", causal=False, progress=False)
    >>> made.heads[["layer", "head", "previous_token"]].shape
    (12, 3)
    """
    need_arrow()
    if corpus is None:
        corpus, name_of_corpus = generated_corpus(model, seed)
        corpus_name = corpus_name or name_of_corpus
    chosen = _chosen([*kinds_of(model), *feature_kinds(model, dictionaries or {})], kinds, findings)
    names = [kind.name for kind in chosen]
    if unknown := set(columns or {}) - {*names}:
        raise BadInput(f"columns are of kinds of units, {', '.join(names)}, got {min(unknown)!r}")
    length = min(model.cfg.n_ctx, LENGTH) if length is None else length
    with Place.open(out, model) as place:
        reducers = {name: one for kind in chosen for name, one in kind.reducers(top, per_band, seed).items()}
        reading: dict[str, Any] = dict(length=length, longer="split", tokens_at_once=tokens_of_a_pass(chosen, length))
        try:
            found = scan(model, corpus, reducers, save_to=place.scan, limit=limit, progress=progress, **reading)
        except BadInput as error:
            if place.scan.exists() and "scan into another folder" in str(error):
                raise BadInput(f"{error}; or delete {place.partial}, in which a wiki was begun") from error
            raise
        material = Material(
            model=model,
            found=found,
            sample=_sample(found, sample, min(SAMPLE_LENGTH, length)),
            words=functools.cache(names_of(model)),
            kinds={kind.name: kind for kind in chosen},
            causal=causal,
            progress=progress,
            n_examined=examined,
            findings=findings,
        )
        options = dict(
            limit=limit, length=length, top=top, per_band=per_band, sample=sample, examined=examined, seed=seed
        )
        about = {
            "version": VERSION,
            "name": _named(model.cfg.model_name),
            "corpus": _name_of(corpus) if corpus_name is None else corpus_name,
            "options": options,
            "dictionaries": {kind.name: kind.units.name for kind in chosen if kind.dictionaries},
            "n_documents": found.n_documents,
            "n_tokens": found.n_tokens,
        }
        _write(place.draft, about, material, columns or {}, reading, neuronpedia)
        place.finish()
    return Wiki(place.path)


def _chosen(every: Sequence[Kind], names: Sequence[str] | None, findings: Sequence[Finding]) -> Sequence[Kind]:
    """The kinds of units that get pages.

    Raises:
        BadInput: none, one that there is not, or findings although there are no pages of heads and neurons.
    """
    if names is None:
        return every
    known = [kind.name for kind in every]
    if not names or not {*names} <= {*known}:
        raise BadInput(f"kinds must be some of {', '.join(known)}, got {list(names)}")
    if findings and not {"head", "neuron"} <= {*names}:
        raise BadInput(f"findings stand on pages of heads and neurons, which kinds={list(names)} leaves out")
    return [kind for kind in every if kind.name in names]


def tokens_of_a_pass(kinds: Sequence[Kind], length: int) -> int:
    """How many tokens a pass of the scan may have, so that all features of a dictionary at these fit into memory."""
    widest = max((one.n_features for kind in kinds for one in kind.dictionaries.values()), default=1)
    return max(length, min(TOKENS, FEATURES // widest))


def _named(model_name: str) -> str:
    """What a model is called: of a folder, its last part alone."""
    return Path(model_name).name if Path(model_name).is_absolute() else model_name


def _sample(found: Scan, n: int, length: int) -> list[Piece]:
    """The beginnings of some documents, evenly spread over those that were read."""
    long_enough = [document for document, ids in found.texts.items() if len(ids) > 1]
    chosen = long_enough[:: max(1, len(long_enough) // n)][:n]
    if not chosen:
        raise BadInput("every document of the corpus is a single token; there is no attention to measure")
    starts = [(one, found.tokens(one)[:length]) for one in chosen]
    return [Piece(one, ids, torch.arange(len(ids))) for one, ids in starts]


def _write(
    folder: Path,
    about: Mapping[str, Any],
    material: Material,
    own: Mapping[str, Sequence[Column]],
    reading: Mapping[str, Any],
    neuronpedia: bool,
) -> None:
    """All files of the wiki, into a folder."""
    model, found, kinds = material.model, material.found, material.kinds
    columns = {kind: columns_of(material, kind, own.get(kind, ())) for kind in kinds}
    listings = {kind: listings_of(material, kind) for kind in kinds}
    examples = {name: examples_of(found, kind) for name, kind in kinds.items()}
    with progress_bar(total=2 * len(needed(examples)), progress=material.progress, unit="document") as bar:
        add_windows(model, found, examples, list(kinds.values()), bar.update, **reading)
        if "head" in examples:
            one_by_one = {**reading, "tokens_at_once": reading["length"]}
            packer = Packer(model=model, exclude=("bos",), **one_by_one)
            examples["head"] = add_attention(model, found, examples["head"], packer, bar.update)
    always = ["head", "neuron"]  # even if there are none
    for kind in dict.fromkeys([*always, *kinds]):
        write_units(folder / f"{plural(kind)}.parquet", kind, material.sizes.get(kind, {}), columns.get(kind, ()))
    write_examples(folder / "examples.parquet", examples)
    write_listings(folder / "listings.parquet", listings)
    write_tokens(folder / "tokens.parquet", found, material.words)
    contents = Contents(about=about, material=material, columns=columns, listings=listings, examples=examples)
    write_pages(folder, contents)
    if neuronpedia:
        write_neuronpedia(folder / "neuronpedia", contents)
    identity = dataclasses.asdict(Identity.of(model))
    write_text(folder / ABOUT, json.dumps({**about, "model": identity}, indent=2) + "\n")


def _name_of(corpus: Corpus) -> str:
    return Path(corpus).name if isinstance(corpus, str | Path) else "texts that were given"


def generated_corpus(model: HookedTransformer, seed: int = 0, n: int = GENERATED) -> tuple[Sequence[Document], str]:
    """A corpus for a model to be looked at without any data, and its name.

    Sentences of indirect object identification with their answers ("... gave a drink to Mary"); for a model that reads
    no text, random tokens that come twice.

    Raises:
        BadInput: a model without tokenizer whose context or vocabulary is too small.
    """
    if model.tokenizer is None:
        size = min(25, (model.cfg.n_ctx - 1) // 2)
        try:
            drawn = repeated_tokens(model, n, size, generator=torch.Generator().manual_seed(seed))
        except BadInput as error:
            raise BadInput(f"no corpus can be made for this model ({error}); give one with corpus=") from error
        return list(drawn.cpu()), f"{n} rows of random tokens that come twice (seed {seed})"
    return list(islice(_sentences(seed), n)), f"{n} generated sentences about giving (seed {seed})"


def _sentences(seed: int) -> Iterator[str]:
    for one in ioi_prompts(random.Random(seed), range(len(IOI_TEMPLATES))):
        yield plain(one.clean) + one.answer
