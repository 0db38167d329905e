"""Passes that experiments make by themselves, over copies of a run's prompts, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from interp_hooks.interventions.readout import Readout
from interp_hooks.interventions.runs import Run
from interp_hooks.model.stream import Stage, Stream


def read_pass(
    stream: Stream,
    readout: Readout,
    run: Run,
    copies: int,
    layer: int,
    streams: Mapping[str, Tensor],
    hooks: Sequence[tuple[str, Callable[..., Any]]],
) -> list[Tensor]:
    """What a readout reads of one pass with these hooks, for each copy of the prompts.

    Nothing before `layer` is touched by the hooks; `streams` has what `Stream.resumed` asks for. Only what is read is
    unembedded, unless one of the hooks, or somebody's own, is behind the blocks and waits for the rest.
    """
    model, mask = stream.model, run.attention_mask
    entering, arguments = stream.resumed(layer, streams, run.tokens)
    arguments |= {
        "attention_mask": None if mask is None else mask.repeat(copies, 1),
        "fwd_hooks": hooks,
    }
    entering = entering.repeat(copies, *[1] * (entering.ndim - 1))
    if stream.watched_at_the_end or any(stream.place(name).stage == Stage.FINAL for name, _ in hooks):
        return [readout.select(one, run) for one in model.run_with_hooks(entering, **arguments).chunk(copies)]
    reads = None if readout.pos is None else readout.positions(run)
    if reads is not None:
        arguments["logits_pos"] = reads.repeat(copies, 1)
    final = model.run_with_hooks(entering, stop_at_layer=stream.n_layers, **arguments)
    return readout.read(model, final, run, cut=reads is not None)
