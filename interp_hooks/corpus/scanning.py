"""One pass over a corpus, whatever is asked of it.

    found = scan(model, "texts.txt", {"top": TopK(neurons()), "stats": Statistics(neurons())}, save_to="scan")
    found["top"][3]["documents"]        of layer 3: [unit, k]
    found.context(document, position)   the tokens around an example

A batch is some consecutive documents, `per_batch` of them, packed into rows; one forward pass over each batch serves
all reducers, and ends after the last hook that one of them reads. Each batch gives states, which are merged; since that
is exact, workers that take every n-th batch, and scans that were killed and go on, end with the same bits. (Those of a
pass are the same where processor, number of threads and batches are.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from interp_hooks.corpus.packing import Excluded, Longer, Packer
from interp_hooks.corpus.passes import Reading, Reads
from interp_hooks.corpus.reading import Corpus, Document, documents
from interp_hooks.corpus.reducers.base import Merges, Reducer, State, merged
from interp_hooks.corpus.store import Folder, Progress, TextsOnDisk, read_about, read_progress, told
from interp_hooks.corpus.units import Units
from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.transformer import HookedTransformer


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan(Mapping[str, Any]):
    """What a scan found: by the name of each reducer its results, by layer.

    `n_documents`, `n_tokens` (those that counted) and `n_read` (with those left out) say how much was read.
    """

    reducers: Mapping[str, Merges]
    states: Mapping[str, Mapping[int | None, State]] = field(repr=False)
    texts: Mapping[int, Int[Tensor, " _"]] = field(repr=False)
    n_documents: int
    n_tokens: int
    n_read: int

    def __getitem__(self, name: str) -> dict[int | None, Any]:
        if name not in self.reducers:
            raise KeyError(f"this scan has {', '.join(self.reducers)}, not {name!r}.{nearest(name, self.reducers)}")
        return {layer: self.reducers[name].result(state) for layer, state in self.states[name].items()}

    def __contains__(self, name: object) -> bool:
        return name in self.reducers

    def __iter__(self) -> Iterator[str]:
        return iter(self.reducers)

    def __len__(self) -> int:
        return len(self.reducers)

    def tokens(self, document: int) -> Int[Tensor, " pos"]:
        """The token ids of a document that was read.

        Raises:
            BadInput: there is none of that number.
        """
        if document not in self.texts:
            raise BadInput(f"there is no document {document}; this scan read 0..{self.n_documents - 1}")
        return self.texts[document].long()

    def context(self, document: int, position: int, before: int = 10, after: int = 10) -> Int[Tensor, " pos"]:
        """The token ids of a document around a position."""
        return self.tokens(document)[max(0, position - before) : position + after + 1]


@checked
def scan(
    model: HookedTransformer,
    corpus: Corpus,
    reducers: Mapping[str, Reducer],
    *,
    save_to: str | Path | None = None,
    keep: Sequence[Units] = (),
    column: str = "text",
    limit: int | None = None,
    length: Count | None = None,
    longer: Longer = "refuse",
    exclude: Sequence[Excluded] = ("bos",),
    per_batch: Count = 64,
    tokens_at_once: Count = 8192,
    save_every: Count = 1,
    part: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> Scan:
    """Read a corpus once, and reduce what `reducers` ask for.

    `corpus` is what `documents` reads: files, texts, data sets, token ids; `limit` stops after so many documents.
    Documents of more than `length` tokens (default: the model's context) are refused, or split or cut as `longer`
    says. `exclude` says which tokens are read but do not count: "bos", "first" (of each document, where attention
    rests), "special". A batch is `per_batch` documents; `tokens_at_once` bounds a single pass.

    Token ids that were read stay in memory (4 bytes each), so that examples can be shown, unless there is `save_to`:
    then states are kept in that folder after every `save_every` batches, with the token ids, which are read from there;
    the memory of a scan does not depend on the corpus, and a scan that was killed goes on there. `keep` names units
    whose values at all counted tokens are kept there too, in the model's dtype, as safetensors files that `index.json`
    lists. `part=(2, 4)` is the third of four workers: it takes every fourth batch; `gather` puts the parts together.

    Raises:
        BadInput: a corpus without documents, a document that is too long, or a folder of another scan or model.
        UnknownHook: units at a hook that does not exist.
        FolderInUse: another process scans into that folder.

    >>> from interp_hooks.corpus import TopK, neurons, scan
    >>> found = scan(model, [*clean, *corrupt], {"top": TopK(neurons(), k=3)}, progress=False)
    >>> found["top"][0]["documents"].shape
    torch.Size([512, 3])
    """
    if not reducers and not keep:
        raise BadInput("a scan needs a reducer, or units to keep")
    if keep and save_to is None:
        raise BadInput("keep= needs a folder, save_to=, to keep activations in")
    return scan_by(
        model,
        corpus,
        lambda: Reading(model, reducers, keep),
        save_to=save_to,
        column=column,
        limit=limit,
        length=length,
        longer=longer,
        exclude=exclude,
        per_batch=per_batch,
        tokens_at_once=tokens_at_once,
        save_every=save_every,
        part=part,
        progress=progress,
    )


def scan_by(
    model: HookedTransformer,
    corpus: Corpus,
    reads: Callable[[], Reads],
    *,
    save_to: str | Path | None,
    column: str,
    limit: int | None,
    length: int | None,
    longer: Longer,
    exclude: Sequence[Excluded],
    per_batch: int,
    tokens_at_once: int,
    save_every: int,
    part: tuple[int, int],
    progress: bool,
) -> Scan:
    """A scan whose rows are read by passes of another kind: once the rest is checked, `reads` makes what reads them."""
    worker, workers = part
    if not 0 <= worker < workers:
        raise BadInput(f"part must be (worker, workers) with 0 <= worker < workers, got {part}")
    for name, number in (("per_batch", per_batch), ("save_every", save_every), ("limit", limit)):
        if number is not None and number < 1:
            raise BadInput(f"{name} must be at least 1, got {number}")
    length = model.cfg.n_ctx if length is None else length
    packer = Packer(model=model, length=length, longer=longer, exclude=tuple(exclude), tokens_at_once=tokens_at_once)
    reading = reads()
    options = {"length": length, "longer": longer, "exclude": list(exclude), "per_batch": per_batch}
    options |= {"tokens_at_once": tokens_at_once, "column": column}
    batches = _batches(documents(model, corpus, column), per_batch, limit)
    with ExitStack() as stack:
        folder = None
        if save_to is not None:
            opened = Folder.open(save_to, model, reading.reducers, reading.keep, options, part)
            folder = stack.enter_context(opened)
        work = _Work(packer, reading, Progress() if folder is None else folder.progress(), folder, per_batch)
        bar = stack.enter_context(progress_bar(progress=progress and worker == 0, unit="token", unit_scale=True))
        for number, batch in enumerate(batches):
            if number % workers == worker:
                work.take(number, batch, bar)
                if folder is not None and work.waiting >= save_every:
                    work.save()
        if folder is not None:
            work.finish()
    return _found(reading.reducers, work.done, part, work.texts)


def _found(reducers: Mapping[str, Merges], done: Progress, part: tuple[int, int], texts: Mapping[int, Tensor]) -> Scan:
    if not done.documents:
        raise BadInput(
            "the corpus has no documents" if part == (0, 1) else f"there are no documents for worker {part[0]}"
        )
    if not done.counted and part == (0, 1):
        raise BadInput(
            f"none of the {done.read} tokens that were read counts: each is one that exclude= leaves out (by default "
            "BOS). Give longer documents, or exclude=()"
        )
    return Scan(
        reducers=dict(reducers),
        states=done.states,
        texts=texts,
        n_documents=done.documents,
        n_tokens=done.counted,
        n_read=done.read,
    )


def _batches(found: Iterator[Document], size: int, limit: int | None) -> Iterator[list[tuple[int, Document]]]:
    numbered = enumerate(islice(found, limit))
    while batch := list(islice(numbered, size)):
        yield batch


class _Work:
    """A worker's part of a scan: what is done, and what was read."""

    def __init__(self, packer: Packer, reading: Reads, done: Progress, folder: Folder | None, per_batch: int) -> None:
        self.packer, self.reading, self.done, self.folder = packer, reading, done, folder
        self.in_memory: dict[int, Tensor] = {}
        self.texts = self.in_memory if folder is None else TextsOnDisk(folder.path, per_batch)
        self.waiting = 0
        self._unsaved: list[tuple[int, dict[int, Tensor], Mapping[str, Tensor]]] = []

    def take(self, number: int, batch: Sequence[tuple[int, Document]], bar: tqdm[Any]) -> None:
        """Read a batch, unless that was done before."""
        if number < self.done.next_batch:
            self._check(batch)
            return
        ids = {one: self.packer.tokens(one, document) for one, document in batch}
        pieces = [piece for one, tokens in ids.items() for piece in self.packer.pieces(one, tokens)]
        kept: dict[str, list[Tensor]] = {}
        counted = 0
        for rows in self.packer.rows(pieces):
            states, values = self.reading.read(rows)
            self.done.states = merged(self.reading.reducers, self.done.states, states)
            counted += int(rows.counted.sum())
            for name, value in values.items():
                kept.setdefault(name, []).append(value)
            bar.update(int(rows.real.sum()))
        self.done.documents += len(ids)
        self.done.counted += counted
        self.done.read += sum(map(len, ids.values()))
        self.done.next_batch = number + 1
        texts = {one: tokens.to(torch.int32) for one, tokens in ids.items()}
        if self.folder is None:
            self.in_memory |= texts
        else:
            self._unsaved.append((number, texts, {name: torch.cat(parts) for name, parts in kept.items()}))
            self.waiting += 1

    def _check(self, batch: Sequence[tuple[int, Document]]) -> None:
        """Refuse a corpus that is not the one that was begun, as far as the first documents of its batches tell.

        Raises:
            BadInput: a document is another than the one that was read, or was not read.
        """
        number, document = batch[0]
        there = self.texts.get(number, torch.empty(0))
        if not torch.equal(self.packer.tokens(number, document).to(there.dtype), there):
            raise BadInput(
                f"document {number} is not the one that was read when this folder was begun; scan into another folder"
            )
        if missing := [one for one, _ in batch if one not in self.texts]:
            raise BadInput(
                f"the scan in this folder ended in the middle of a batch, before document {missing[0]}, and cannot go "
                "on there; scan into another folder, and let limit be a multiple of per_batch"
            )

    def save(self) -> None:
        """Keep on disk what is done."""
        assert self.folder is not None
        for number, ids, kept in self._unsaved:
            self.folder.write_batch(number, ids, kept)
        self._unsaved, self.waiting = [], 0
        self.folder.write(self.done)

    def finish(self) -> None:
        """Keep the rest, and that the end of the corpus was reached."""
        assert self.folder is not None
        self.done.finished = True
        self.save()
        self.folder.list_activations()


# ------------------------------------------------------------------------------------------------------------ parts


@checked
def gather(folder: str | Path, reducers: Mapping[str, Merges]) -> Scan:
    """What the workers of a scan found together, or what a scan found that was kept earlier.

    `reducers` are those of the scan. No model is needed.

    Raises:
        BadInput: a worker's part is missing or not finished, the reducers are others, or a file is damaged.
    """
    path = Path(folder)
    about = read_about(path)
    if about.get("reducers") != {name: told(reducer) for name, reducer in reducers.items()}:
        raise BadInput(f"{path} holds the reducers {about.get('reducers')!r:.300}, not those that were given")
    done, workers = Progress(), int(about["workers"])
    for worker in range(workers):
        file = Folder(path, (worker, workers)).state
        if not file.exists():
            raise BadInput(f"worker {worker} of {workers} has not begun: {file} is not there")
        part = read_progress(file)
        if not part.finished:
            raise BadInput(f"worker {worker} of {workers} has not finished; run its part again, it goes on")
        done.states = merged(reducers, done.states, part.states)
        done.documents += part.documents
        done.counted += part.counted
        done.read += part.read
    return _found(reducers, done, (0, 1), TextsOnDisk(path, int(about["options"]["per_batch"])))
