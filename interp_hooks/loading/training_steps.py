"""Checkpoints that were kept while a model was trained: their steps, and the revisions under which they are found.

    Pythia (arxiv.org/abs/2304.01373)          "step3000"        0, 1, 2, 4, ..., 512, 1000, 2000, ..., 143000
    its first version, ...-v0                  "step3000"        1000, 2000, ..., 143000
    Stanford CRFM's GPT-2s (Mistral, 2021)     "checkpoint-300"  every 10th to 100, 50th to 2000, 100th to 20000,
                                                                 1000th to 400000
    a folder of save_pretrained                "step500"         those of which there is such a folder in it
    TransformerLens' own models                "checkpoints/500" those of which there is such a file in the repository

The first three are facts about the hub, written down here; nothing is looked up.
"""

from collections.abc import Sequence

from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.loading.checkpoints import KEPT, NamedCheckpoint, is_native, kept_steps, locate
from interp_hooks.loading.lens_checkpoints import is_lens
from interp_hooks.loading.lens_checkpoints import steps as lens_steps

MOST_STEPS = 10**9  # of a training; higher numbers count tokens
EVERY_THOUSANDTH = range(1000, 143_001, 1000)
ON_THE_HUB: dict[tuple[str, str], tuple[str, Sequence[int]]] = {  # (beginning, end) of a hub id -> (revision, steps)
    ("EleutherAI/pythia-", "-v0"): ("step{}", EVERY_THOUSANDTH),
    ("EleutherAI/pythia-", ""): ("step{}", (0, *(2**power for power in range(10)), *EVERY_THOUSANDTH)),
    ("stanford-crfm/", ""): (
        "checkpoint-{}",
        (*range(0, 100, 10), *range(100, 2000, 50), *range(2000, 20_000, 100), *range(20_000, 400_001, 1000)),
    ),
}


def checkpoint_labels(model_name: str) -> tuple[list[int], str]:
    """The steps of a model's training of which there are checkpoints, and the word "step", which is what they count.

    Some of TransformerLens' own models count "token"s instead.

    Raises:
        CheckpointError: none are known.
    """
    revision, steps = _kept(model_name)
    return list(steps), "token" if revision.startswith(KEPT) and max(steps) > MOST_STEPS else "step"


def step_revision(model_name: str, *, index: int | None = None, step: int | None = None) -> str:
    """The revision of a model that holds the checkpoint of a step, or of the one at `index` among its steps.

    Raises:
        CheckpointError: none are known of this model.
        BadInput: there is none of that step, or at that index.
    """
    revision, steps = _kept(model_name)
    if step is None:
        if index is None or not -len(steps) <= index < len(steps):
            raise BadInput(f"checkpoint_index must be 0..{len(steps) - 1} for {model_name!r}, got {index}")
        return revision.format(steps[index])
    if step not in steps:
        closest = min(steps, key=lambda kept: abs(kept - step))
        raise BadInput(f"{model_name!r} has no checkpoint of step {step}; the nearest is {closest}")
    return revision.format(step)


def _kept(model_name: str) -> tuple[str, Sequence[int]]:
    if steps := kept_steps(model_name):
        return "step{}", steps
    name = model_name if is_native(model_name) else locate(model_name)
    for (beginning, end), kept in ON_THE_HUB.items():
        if name.startswith(beginning) and name.endswith(end):
            return kept
    checkpoint = NamedCheckpoint(name=model_name)
    if is_lens(checkpoint) and (steps := lens_steps(checkpoint)):
        return KEPT + "{}", steps
    raise CheckpointError(
        f"no checkpoints of the training of {model_name!r} are known (they are of EleutherAI/pythia-..., of "
        "stanford-crfm/... and of folders with models saved as step0, step500, ...); if its repository has them as "
        "branches or tags, pass revision="
    )
