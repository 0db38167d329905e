"""Activations of prompts with a label each: at one position of every prompt, or at every labelled token.

labels [batch]         the class of each prompt, read at `pos` (default: the last real token; None: all of them)
labels [batch, pos]    the class of each token; -1 where it has none
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import is_integral, told
from interp_hooks.interventions.prompts import in_parts
from interp_hooks.interventions.readout import Readout, said
from interp_hooks.interventions.runs import Excluded, Intervention, PromptsLike, Run, as_run, counted_positions
from interp_hooks.interventions.vectors import VectorPlace, recorded_vectors
from interp_hooks.model.transformer import HookedTransformer

LabelsLike = Sequence[int] | Sequence[Sequence[int]] | Int[Tensor, "*batch_pos"]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A run, and its labelled tokens: the prompt, the position and the class of each."""

    run: Run
    prompts: Int[Tensor, " example"]
    positions: Int[Tensor, " example"]
    classes: Int[Tensor, " example"]

    @classmethod
    def of(
        cls, model: HookedTransformer, prompts: PromptsLike, labels: LabelsLike, pos: int | Tensor | None
    ) -> Labelled:
        """The labelled tokens of some prompts, by the table above; padding has no label, nor BOS among all positions.

        Raises:
            BadInput: labels that are no class numbers, that do not fit the prompts, or of one class only.
        """
        run, given = as_run(model, prompts), as_labels(labels)
        if len(given) != len(run.tokens) or (given.ndim == 2 and given.shape != run.tokens.shape):
            raise BadInput(
                f"labels must be [batch, pos] = {list(run.tokens.shape)}, or [batch] = [{len(run.tokens)}], got "
                f"{list(given.shape)}"
            )
        if given.ndim == 1 and pos is not None:
            position = Readout(pos=said(model, pos)).positions(run).cpu()
            of_tokens = torch.full(run.tokens.shape, -1).scatter_(1, position, given[:, None])
        else:
            exclude: set[Excluded] = {"padding"} if given.ndim == 2 else {"bos", "padding"}
            counted = counted_positions(model, run, exclude).cpu()
            of_tokens = torch.where(counted, given if given.ndim == 2 else given[:, None], -1)
        rows, columns = (of_tokens >= 0).nonzero().unbind(1)
        classes = of_tokens[rows, columns]
        if len(classes.unique()) < 2:
            raise BadInput(f"labels must be of two classes or more, got {classes.unique().tolist()}")
        return cls(run=run, prompts=rows, positions=columns, classes=classes)

    @property
    def tokens(self) -> Int[Tensor, " example"]:
        """The token ids that the labels belong to."""
        return self.run.tokens.cpu()[self.prompts, self.positions]

    def vectors(
        self,
        model: HookedTransformer,
        places: Sequence[VectorPlace],
        made: Sequence[Intervention] = (),
        batch_size: int = 64,
    ) -> list[Float[Tensor, "example width"]]:
        """The activations at the labelled tokens, in float64 on the CPU, of a run in which these things are done."""
        run = Run(self.run.tokens, made, self.run.attention_mask)
        found: list[list[Tensor]] = [[] for _ in places]
        first = 0
        for some in in_parts(model, run, batch_size):
            there = (self.prompts >= first) & (self.prompts < first + len(some.tokens))
            rows, columns = self.prompts[there] - first, self.positions[there]
            for values, one in zip(found, recorded_vectors(model, some, places), strict=True):
                values.append(one[rows.to(one.device), columns.to(one.device)].double().cpu())
            first += len(some.tokens)
        return [torch.cat(values) for values in found]


def as_labels(labels: LabelsLike) -> Int[Tensor, "*batch_pos"]:
    """Class numbers as a tensor [batch] or [batch, pos].

    Raises:
        BadInput: something else.
    """
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"labels must be class numbers [batch] or [batch, pos], got {told(labels)}") from error
    if (
        given.is_meta
        or not is_integral(given)
        or given.ndim not in (1, 2)
        or not given.numel()
        or int(given.min()) < -1
    ):
        raise BadInput(f"labels must be class numbers from 0 on, [batch] or [batch, pos], got {told(labels)}")
    return given.cpu().long()
