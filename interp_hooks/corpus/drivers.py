"""Scans by several workers: each runs `scan` on its part of the batches, and the parts are put together.

    a loop        scan(..., part=(0, 4), save_to=folder), ..., then gather(folder, reducers)
    torchrun      torchrun --nproc-per-node 4 my_scan.py, which calls scan_by_rank(...)
    Ray Data      scan_on_ray(load_model, ...)

All write to one folder, which every worker has to see. How many workers there are changes no bit of the result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from interp_hooks.corpus.reading import Corpus
from interp_hooks.corpus.reducers.base import Reducer
from interp_hooks.corpus.scanning import Scan, gather, scan
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.model.transformer import HookedTransformer


@checked
def scan_by_rank(
    model: HookedTransformer,
    corpus: Corpus,
    reducers: Mapping[str, Reducer],
    *,
    save_to: str | Path,
    **options: Any,
) -> Scan | None:
    """`scan` under torchrun: every rank takes its part, with a model of its own; rank 0 puts them together.

    `options` are those of `scan`. Ranks wait for each other in a process group, which is made (gloo) if there is none.
    Returns the whole scan on rank 0, None elsewhere.

    Raises:
        BadInput: the process was not started by torchrun; or what `scan` raises.

    >>> scan_by_rank(model, "texts.txt", {"top": TopK(neurons())}, save_to="scan")  # doctest: +SKIP
    """
    with process_group("scan_by_rank runs under torchrun (RANK is not set); for one process call scan"):
        rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        scan(model, corpus, reducers, save_to=save_to, part=(rank, ranks), **options)
        torch.distributed.barrier()
        return gather(save_to, reducers) if rank == 0 else None


@contextmanager
def process_group(alone: str) -> Iterator[None]:
    """The process group that there is, or one (gloo) that lasts as long as the block.

    Raises:
        BadInput: the process was not started by torchrun; `alone` is what is said then.
    """
    group = torch.distributed
    made = not group.is_initialized()
    if made:
        if "RANK" not in os.environ:
            raise BadInput(alone)
        group.init_process_group("gloo")
    try:
        yield
    finally:
        if made:
            group.destroy_process_group()


@checked
def scan_on_ray(
    load_model: Callable[[], HookedTransformer],
    corpus: Corpus,
    reducers: Mapping[str, Reducer],
    *,
    save_to: str | Path,
    workers: Count = 2,
    parts: Count | None = None,
    num_gpus: float = 0.0,
    **options: Any,
) -> Scan:
    """`scan` by actors of Ray Data, each of which loads the model once and takes parts of the corpus.

    `parts` (default: as many as workers) is how many parts there are: more of them even out unequal workers.
    `load_model` is called in each actor; `num_gpus` is what an actor reserves. `options` are those of `scan`. Needs
    `pip install 'interp-hooks[ray]'`; a cluster that runs is used, else a local one is started.

    Raises:
        ImportError: Ray is not installed.
        BadInput: fewer than one worker; or what `scan` raises.

    >>> scan_on_ray(lambda: HookedTransformer.from_pretrained("gpt2"), "texts.txt", {"top": TopK(neurons())},
    ...             save_to="scan", workers=4)  # doctest: +SKIP
    """
    try:
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("scan_on_ray needs Ray Data: pip install 'interp-hooks[ray]'") from error
    parts = workers if parts is None else parts
    if workers < 1 or parts < 1:
        raise BadInput(f"workers and parts must be at least 1, got {workers} and {parts}")

    class Worker:
        """Holds a model, and scans one part after the other."""

        def __init__(self) -> None:
            self.model = load_model()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            for worker in batch["item"]:
                part = (int(worker), parts)
                scan(self.model, corpus, reducers, save_to=save_to, part=part, progress=False, **options)
            return batch

    todo = ray.data.from_items(list(range(parts)), override_num_blocks=parts)
    todo.map_batches(Worker, batch_size=1, concurrency=workers, num_gpus=num_gpus).materialize()
    return gather(save_to, reducers)
