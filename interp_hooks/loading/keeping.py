"""Checkpoints of a training that goes on: at which steps, and what is done there.

    train(model, config, data, each_step=CheckpointSaver("run"))        our loop
    saver = CheckpointSaver("run"); saver(step, model)                  in a loop of your own, after every update
    Trainer(..., callbacks=[trainer_callback(CheckpointSaver("run"))])  transformers' loop

A step is the number of updates that were made: 0 is the model before the first. By default checkpoints lie evenly on a
logarithmic axis, since what happens early happens fast: two for each doubling are 0, 1, 2, 3, 4, 6, 8, 11, 16, 23, ...
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.model.transformer import HookedTransformer

if TYPE_CHECKING:
    from transformers import TrainerCallback


@checked
def log_steps(last: int, per_doubling: Count = 2) -> list[int]:
    """The steps 0..last that lie evenly on a logarithmic axis, so many for each doubling, and the last one.

    They are the powers of 2 ** (1 / per_doubling), rounded, each once.

    Raises:
        BadInput: a negative last step, or fewer than one for each doubling.

    >>> log_steps(20)
    [0, 1, 2, 3, 4, 6, 8, 11, 16, 20]
    """
    if last < 0 or per_doubling < 1:
        raise BadInput(f"last must be at least 0 and per_doubling at least 1, got {last} and {per_doubling}")
    powers = range(per_doubling * (last + 1).bit_length())
    return sorted({step for k in powers if (step := round(2 ** (k / per_doubling))) <= last} | {0, last})


def is_log_step(step: int, per_doubling: int = 2) -> bool:
    """Whether a step is one of `log_steps`, however long the training goes on."""
    return step == 0 or round(2 ** (round(per_doubling * math.log2(step)) / per_doubling)) == step


class AtSteps(ABC):
    """Something that is done at some steps of a training: call it with every step, and the model as it is then.

    `at` are these steps; by default they are those of `log_steps`, as far as the training goes.
    """

    def __init__(self, at: Collection[int] | None = None) -> None:
        self.at = at

    def wants(self, step: int) -> bool:
        """Whether it is done at a step."""
        return is_log_step(step) if self.at is None else step in self.at

    def __call__(self, step: int, model: HookedTransformer) -> None:
        if self.wants(step):
            self.do(step, model)

    @abstractmethod
    def do(self, step: int, model: HookedTransformer) -> None:
        """Do it."""


class CheckpointSaver(AtSteps):
    """Saves a model while it is trained: folder/step0, folder/step1, ..., which `training_checkpoints(folder)` lists.

    Raises:
        BadInput: the folder holds steps of another training already, where `overwrite` is off.

    >>> from interp_hooks.loading.keeping import CheckpointSaver
    >>> saver = CheckpointSaver("run", at=[0, 100])
    >>> for step in range(101):
    ...     saver(step, model)
    """

    @checked
    def __init__(self, folder: str | Path, at: Collection[int] | None = None, *, overwrite: bool = False) -> None:
        super().__init__(at)
        self.folder = Path(folder).expanduser()
        there = sorted(path.name for path in self.folder.glob("step*")) if self.folder.is_dir() else []
        if there and not overwrite:
            raise BadInput(f"{self.folder} holds {there[0]} of a training already: choose another, or overwrite=True")

    def do(self, step: int, model: HookedTransformer) -> None:
        model.save_pretrained(self.folder / f"step{step}")


def trainer_callback(each_step: AtSteps) -> TrainerCallback:
    """A callback for transformers' `Trainer` that hands the steps that `each_step` wants to it.

    At each of these the model is converted into a `HookedTransformer` without processing, whose weights are copies, in
    the dtype that they are trained in. Other steps cost nothing. Of several processes only the first one does it.
    """
    from transformers import TrainerCallback

    def handed(step: int, hf_model: Any, tokenizer: Any) -> None:
        if each_step.wants(step):
            options = {"hf_model": hf_model, "tokenizer": tokenizer, "dtype": hf_model.dtype, "device": hf_model.device}
            each_step.do(step, HookedTransformer.from_pretrained_no_processing("trained", **options))

    class EachStep(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 0:
                self.on_step_end(args, state, control, **given)

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.is_world_process_zero:
                handed(state.global_step, given["model"], given.get("processing_class"))

    return EachStep()
