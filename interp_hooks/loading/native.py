"""The folders that `save_pretrained` writes: a model as it is, with its processed or edited weights.

    hooked_transformer.json          the config, and what processing had been done
    hooked_transformer.safetensors   the state dict
    splices.safetensors              the weights of spliced modules, if there are any
    tokenizer.json, ...              the tokenizer, if the model has one, as transformers writes it
    step500/, ...                    such folders of earlier steps of its training, if any were saved there

A folder with a config.json is a HuggingFace checkpoint, and never taken for one of these.
"""

import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from interp_hooks.errors import BadInput, CheckpointError, ConfigError, WeightMismatch, nearest
from interp_hooks.errors.arguments import told
from interp_hooks.loading.checkpoints import CONFIG, WEIGHTS, folder_of, has_tokenizer, kept_steps, read_tokenizer
from interp_hooks.loading.files import reading
from interp_hooks.loading.folding import Processing, process
from interp_hooks.loading.formats import TRANSFORMER_LENS, from_checkpoint, lens_name, with_gate_biases
from interp_hooks.loading.given import Numbers
from interp_hooks.loading.load import LoadOptions
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.folder_lock import LOCK, locked
from interp_hooks.model.tensor_files import PARTIAL, on_disk, remove_partial, write_tensors, write_text
from interp_hooks.model.tokenization import PaddingSide, checked_side
from interp_hooks.model.transformer import HookedTransformer

FORMAT = 1
SPLICED = "splices.safetensors"
SAVED = "saved"  # in the config and in files of tensors: the same for all of one save


def save(model: HookedTransformer, folder: Path) -> None:
    """Write a model to a folder; `HookedTransformer.save_pretrained` calls this and lists what it raises.

    All files are written beside those of an earlier save, and then take their place, the config last. In between there
    is none, so that whatever happens no file of one save is loaded with one of another.
    """
    folder = folder.expanduser()
    with on_disk(folder):
        if (folder / "config.json").exists():
            held = "holds a HuggingFace checkpoint (config.json)"
            raise CheckpointError(f"{str(folder)!r} {held}; save to another folder")
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, folder), on_disk(folder):
        remove_partial(folder)
        new = Path(tempfile.mkdtemp(prefix=".saving.", suffix=PARTIAL, dir=folder))
        try:
            _write(model, new)
            for old in (CONFIG, SPLICED):
                (folder / old).unlink(missing_ok=True)
            for path in sorted(new.iterdir(), key=lambda path: path.name == CONFIG):
                if path.is_dir():
                    shutil.rmtree(folder / path.name, ignore_errors=True)
                path.replace(folder / path.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _write(model: HookedTransformer, folder: Path) -> None:
    config = model.cfg.to_dict() | {"dtype": str(model.dtype).removeprefix("torch.")}
    del config["device"]  # where it happens to be
    saved = {SAVED: uuid.uuid4().hex}
    description = {
        "format": FORMAT,
        **saved,
        "config": config,
        "padding_side": model.text.padding_side,
        "tokenizer": model.tokenizer is not None,
        "processing": model.processing_report(),
        "splices": {hook: {"name": one.name, "class": _class(one.module)} for hook, one in model.splices.items()},
    }
    places = tuple(f"{hook}." for hook in model.splices)
    state = model.state_dict()
    write_tensors(folder / WEIGHTS, {key: state[key] for key in state if not key.startswith(places)}, saved)
    if places:
        write_tensors(folder / SPLICED, {key: state[key] for key in state if key.startswith(places)}, saved)
    write_text(folder / CONFIG, json.dumps(description, indent=2))
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)


def load(
    cls: type[HookedTransformer], options: LoadOptions, processing: Processing, splices: Mapping[str, nn.Module]
) -> HookedTransformer:
    """Load a folder that `save` wrote.

    Its own dtype and padding side count unless others are given. A revision is the name of one of the training steps
    that are kept in the folder ("step500").

    Raises:
        CheckpointError: files that are missing, damaged or of a later format; a spliced module that is not given.
        BadInput: options that only conversion has.
    """
    folder, revision = folder_of(options.name), options.revision
    if revision in {f"step{step}" for step in kept_steps(options.name)}:
        folder, options = folder / str(revision), replace(options, revision=None)
    for name in ("n_ctx", "first_n_layers", "revision", "ignore_config", "merge_adapters", "hf_kwargs"):
        if given := getattr(options, name):
            given = ", ".join(given) if name == "hf_kwargs" else f"{name}={given!r}"
            raise BadInput(f"{options.name!r} was saved as it is and is not converted, so it takes no {given}")
    with reading(str(folder / CONFIG)):
        description = _description(folder)
        cfg = _config(folder, description["config"])
        side, saved = _side(folder, description["padding_side"]), _spliced(description.get("splices", {}))
        done = {line.partition(":")[0] for line in description["processing"] if line.endswith(": applied")}
    if options.default_prepend_bos is not None:
        cfg = cfg.replace(default_prepend_bos=options.default_prepend_bos)
    own = read_tokenizer(str(folder)) if options.tokenizer is None and _with_tokenizer(folder, description) else None
    tokenizer = own if options.tokenizer is None else options.tokenizer
    given = dict[str, Any](dtype=options.dtype, device=options.device, allow_nonfinite=options.allow_nonfinite)
    with reading(str(folder)):
        model = from_checkpoint(folder / WEIGHTS, cfg, tokenizer, **given, cls=cls)
    _refuse_another_save(folder / WEIGHTS, description)
    model.text.padding_side = options.default_padding_side or side
    _splice_in(model, folder, saved, splices)
    if model.splices:
        _refuse_another_save(folder / SPLICED, description)
    model.revision = revision
    model._report = process(model, replace(processing, **dict.fromkeys(done, False)))
    model._report = [f"{step}: applied" if (step := line.partition(":")[0]) in done else line for line in model._report]
    return model


def _with_tokenizer(folder: Path, description: Mapping[str, Any]) -> bool:
    """Whether a tokenizer was saved with the model; one that an earlier save left over does not count.

    Raises:
        CheckpointError: there was, but it is not there.
    """
    there = has_tokenizer(folder)
    if description.get("tokenizer", False) and not there:
        raise CheckpointError(f"the tokenizer that {str(folder)!r} was saved with is not there; pass one as tokenizer=")
    return there and description.get("tokenizer", True)


def _refuse_another_save(path: Path, description: Mapping[str, Any]) -> None:
    """Raises CheckpointError if a file of tensors was not saved together with the config."""
    with safe_open(path, "pt") as file:
        saved = (file.metadata() or {}).get(SAVED)
    if saved != description.get(SAVED):
        raise CheckpointError(
            f"{str(path)!r} is of another save than {CONFIG} beside it, as after a copy of some of the files: copy or "
            "save all of them again"
        )


def _spliced(splices: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The modules that were spliced in, by the hook where they are: each with its name and its class."""
    return {hook: {"name": str(told["name"]), "class": str(told["class"])} for hook, told in splices.items()}


def _class(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _splice_in(
    model: HookedTransformer, folder: Path, saved: Mapping[str, Mapping[str, str]], given: Mapping[str, nn.Module]
) -> None:
    """Splice the given modules in where some were saved, with the weights that they had."""
    if missing := [hook for hook in saved if hook not in given]:
        wanted = ", ".join(f"{hook!r}: a {saved[hook]['class']}" for hook in missing)
        raise CheckpointError(
            f"{str(folder)!r} was saved with modules spliced in, of which it has the weights but not the code: pass "
            f"splices={{{wanted}}}"
        )
    if left := [hook for hook in given if hook not in saved]:
        raise BadInput(f"splices= has a module for {left[0]!r}; {str(folder)!r} has modules at {list(saved)}")
    with reading(str(folder / SPLICED)):
        weights = load_file(folder / SPLICED) if saved else {}
    for hook, splice in saved.items():
        place = f"{hook}.{splice['name']}."
        own = {key.removeprefix(place): value for key, value in weights.items() if key.startswith(place)}
        module = given[hook].to(model.device, model.dtype)
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise WeightMismatch(
                f"the module for {hook!r} is not the {splice['class']} that was saved: {error}"
            ) from error
        model.splice(hook, module, splice["name"])


def _description(folder: Path) -> dict[str, Any]:
    description = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"{str(folder)!r} was saved in format {description.get('format')}, and this version reads {FORMAT}: "
            "install a later interp_hooks"
        )
    return description


def _side(folder: Path, side: Any) -> PaddingSide:
    try:
        return checked_side(side)
    except BadInput as error:
        raise CheckpointError(f"the config in {str(folder / CONFIG)!r} is damaged: {error}") from error


def _config(folder: Path, fields: Mapping[str, Any]) -> HookedTransformerConfig:
    try:
        return HookedTransformerConfig.from_dict(fields)
    except ConfigError as error:
        raise CheckpointError(f"the config in {str(folder / CONFIG)!r} does not fit this version: {error}") from error


def own_weights(
    model: HookedTransformer, state: Mapping[str, Any], strict: bool, assign: bool, allow_nonfinite: bool
) -> dict[str, Tensor]:
    """The weights of a state dict under the names that this model has for them, checked before they are loaded.

    Raises:
        WeightMismatch: what `strict` forbids, no tensor, or one of another shape.
        CheckpointError: a weight that would not be finite, unless `allow_nonfinite`.
    """
    there = model.state_dict()
    ignored = re.compile("|".join(TRANSFORMER_LENS.ignored_weights))
    theirs = {lens_name(key): key for key in there}
    own = {
        key if key in there else theirs.get(key, key): tensor
        for key, tensor in state.items()
        if key in there or not ignored.fullmatch(key)
    }
    if wrong := [key for key, tensor in own.items() if key in there and not isinstance(tensor, Tensor)]:
        raise WeightMismatch(f"{wrong[0]} must be a tensor, got {told(own[wrong[0]])}")
    own = with_gate_biases(own) if model.cfg.gated_mlp else own
    left, missing = [key for key in own if key not in there], [key for key in there if key not in own]
    if strict and (left or missing):
        raise WeightMismatch(
            " and ".join(
                f"{what} {len(names)} weights ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"
                for what, names in (("the state dict lacks", missing), ("this model has no place for", left))
                if names
            )
            + (nearest(left[0], missing) if left else "")
        )
    for key, tensor in own.items():
        if key in there and tensor.shape != there[key].shape:
            raise WeightMismatch(f"{key} has shape {list(tensor.shape)}, expected {list(there[key].shape)}")
    numbers, places = Numbers("this state dict", allow_nonfinite), tuple(f"{hook}." for hook in model.splices)
    for key, weight in model.named_parameters():
        if key in own and not key.startswith(places) and not own[key].is_meta:
            numbers.check(key, own[key], own[key] if assign else own[key].to(weight.dtype))
    return own
