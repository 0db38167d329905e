"""The states of a training as a list: where each comes from, and a function that loads it when it is asked for.

    training_checkpoints("induction-steps")     a bundled model, or a folder of save_pretrained with step0, step500, ...
    training_checkpoints("pythia-70m")          a model on the hub whose steps are known (`loading.training_steps`)
    training_checkpoints("outputs")             a folder with checkpoint-500, ... of transformers' Trainer
    training_checkpoints("run", cfg=cfg)        a folder with model_500.pt, ..., which `train(save_every=...)` writes
    training_checkpoints({0: untrained, 9: trained})    models, state dicts with `cfg=`, paths, or functions that load

Models are loaded without processing, since the norms of weights are among what is measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.errors.arguments import checked, told
from interp_hooks.loading.checkpoints import CONFIG, folder_of
from interp_hooks.loading.training_steps import checkpoint_labels
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.identity import weights_hash
from interp_hooks.model.tensor_files import hash_of
from interp_hooks.model.transformer import HookedTransformer

FOLDERS = re.compile(r"(?:global_?)?(?:step|checkpoint)[-_]?(\d+)")
STATES = re.compile(r"(?:model|step|checkpoint)[-_]?(\d+)\.(?:pt|pth)")

State = HookedTransformer | Mapping[str, Tensor] | str | Path | Callable[[], HookedTransformer]


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """The state of a model after a step of its training; `load` makes it, anew each time but for a model that is given.

    `key` gives a text that is another one if the state is: the hash of weights that are in memory, the sizes and times
    of files, the name and step of a model on the hub.
    """

    step: int
    label: str
    load: Callable[[], HookedTransformer] = field(repr=False)
    key: Callable[[], str] = field(repr=False)


@checked
def training_checkpoints(
    source: str | Path | Mapping[int, Any],
    *,
    steps: Collection[int] | None = None,
    cfg: HookedTransformerConfig | None = None,
    **options: Any,
) -> list[Checkpoint]:
    """The checkpoints of a training, lowest step first; nothing is loaded yet.

    `source` is a name, a folder, or a mapping from steps to what the table above shows. `steps` takes some of them.
    State dicts need the `cfg` of their model. `options` are those of `from_pretrained` (`tokenizer`, `device`, `dtype`,
    ...), for all that is not in memory; with `fold_ln=True` and its like, models are processed.

    Raises:
        BadInput: a folder without checkpoints, steps that there are not, or states of an unknown kind.
        CheckpointError: a name of which no checkpoints are known.

    >>> from interp_hooks.studies import training_checkpoints
    >>> [checkpoint.step for checkpoint in training_checkpoints("mod-add")][:3]
    [0, 200, 1000]
    """
    if isinstance(source, Mapping):
        found = [_of_state(step, state, cfg, options) for step, state in source.items()]
    elif (folder := folder_of(str(source))).is_dir():
        found = _in_folder(folder, cfg, options)
    else:
        found = _on_hub(str(source), options)
    if steps is not None:
        there = {one.step for one in found}
        if missing := sorted({*steps} - there):
            raise BadInput(f"there is no checkpoint of step {missing[0]}; there are {_listed(there)}")
        found = [one for one in found if one.step in steps]
    if not found:
        raise BadInput("expected at least one checkpoint, got none")
    return sorted(found, key=lambda one: one.step)


def _in_folder(folder: Path, cfg: HookedTransformerConfig | None, options: Mapping[str, Any]) -> list[Checkpoint]:
    """The checkpoints in a folder: folders with a config, or else files of state dicts.

    Raises:
        BadInput: there are none, or two of one step.
    """
    entries = sorted(folder.iterdir())
    models = {one: FOLDERS.fullmatch(one.name) for one in entries if _is_model(one)}
    states = {one: STATES.fullmatch(one.name) for one in entries if one.is_file()}
    named = {path: int(match[1]) for path, match in (models if any(models.values()) else states).items() if match}
    if not named:
        inside = ", ".join(one.name for one in entries[:8]) or "nothing"
        raise BadInput(
            f"the folder {str(folder)!r} has no checkpoints in it: expected folders with models called step500, "
            f"step_500 or checkpoint-500, or state dicts called model_500.pt, found {inside}"
        )
    by_step: dict[int, Path] = {}
    for path, step in named.items():
        if step in by_step:
            raise BadInput(f"{str(folder)!r} has two checkpoints of step {step}: {by_step[step].name} and {path.name}")
        by_step[step] = path
    return [_of_state(step, path, cfg, options) for step, path in by_step.items()]


def _is_model(path: Path) -> bool:
    return path.is_dir() and ((path / "config.json").is_file() or (path / CONFIG).is_file())


def _on_hub(name: str, options: Mapping[str, Any]) -> list[Checkpoint]:
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise CheckpointError(f"there is no folder {name!r}")
    load = partial(HookedTransformer.from_pretrained_no_processing, name, **options)
    return [
        Checkpoint(
            step=step,
            label=f"{name}, step {step}",
            load=partial(load, checkpoint_value=step),
            key=partial(_text, f"{name}, step {step}"),
        )
        for step in checkpoint_labels(name)[0]
    ]


def _of_state(step: int, state: Any, cfg: HookedTransformerConfig | None, options: Mapping[str, Any]) -> Checkpoint:
    if step < 0:
        raise BadInput(f"a step is the number of updates that were made, from 0 on, got {step}")
    label, load, key = f"step {step}", state, partial(_text, f"step {step}")
    if isinstance(state, HookedTransformer):
        load, key = partial(_given, state), partial(weights_hash, state)
    elif isinstance(state, Mapping):
        load, key = _of_tensors(state, cfg, options), partial(hash_of, dict(sorted(state.items())))
    elif isinstance(state, str | Path) and (path := Path(state).expanduser()).exists():
        label, key = f"{path.name} in {path.parent}", partial(_files_of, path)
        if path.is_dir():
            load = partial(HookedTransformer.from_pretrained_no_processing, str(path), **options)
        else:
            load = _of_tensors(str(path), cfg, options)
    elif isinstance(state, str):
        label, key = state, partial(_text, state)
        load = partial(HookedTransformer.from_pretrained_no_processing, state, **options)
    elif not callable(state):
        raise BadInput(
            f"a checkpoint is a model, a state dict, a path or a function that loads a model, got {told(state)} for "
            f"step {step}"
        )
    return Checkpoint(step=step, label=label, load=load, key=key)


def _of_tensors(
    state: Mapping[str, Tensor] | str, cfg: HookedTransformerConfig | None, options: Mapping[str, Any]
) -> Callable[[], HookedTransformer]:
    if cfg is None:
        raise BadInput("a state dict does not say of which model it is: pass the model's config as cfg=model.cfg")
    return partial(HookedTransformer.from_state_dict, state, cfg, **options)


def _given(model: HookedTransformer) -> HookedTransformer:
    return model


def _text(text: str) -> str:
    return text


def _files_of(path: Path) -> str:
    """The names, sizes and times of the files of a checkpoint."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    stats = [(one.name, one.stat()) for one in files]
    return "; ".join([str(path.resolve()), *(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)])


def _listed(steps: Collection[int]) -> str:
    """Some steps in words; of many, the first and the last."""
    ordered = [str(step) for step in sorted(steps)]
    return ", ".join(ordered if len(ordered) <= 12 else [*ordered[:6], "...", *ordered[-3:]])
