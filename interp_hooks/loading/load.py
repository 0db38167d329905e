"""Find a checkpoint, check that its architecture and every config value are implemented, convert it, process it.

Plain checkpoints are read from their files (`plain.py`). Of all others the HuggingFace model object is the source of
the tensors, so that formats, dtypes and old names are its business.
Tensors of a model that was loaded here are adopted: ours are views of their memory, or, where the layout differs, are
repacked within it, one tensor at a time. A model object that was passed in is left as it is; its weights are copied.
"""

import copy
import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from interp_hooks.errors import (
    BadInput,
    CheckpointError,
    ConfigError,
    UnsupportedArchitecture,
    UnsupportedConfig,
    WeightMismatch,
    nearest,
)
from interp_hooks.loading.checkpoints import KEPT, NO_CODE, NamedCheckpoint, has_tokenizer
from interp_hooks.loading.families import FAMILIES
from interp_hooks.loading.files import check_index, check_room, reading
from interp_hooks.loading.folding import Processing, process
from interp_hooks.loading.gguf_files import what_was_lost
from interp_hooks.loading.given import (
    Numbers,
    check_model,
    check_quantisation,
    check_state,
    load_merged,
    merged,
    quantised_by,
)
from interp_hooks.loading.guard import Family
from interp_hooks.loading.nested import (
    language_config,
    multimodal_class,
    of_other_modalities,
    refuse_other_logits,
    said_of,
    text_half,
)
from interp_hooks.loading.plain import as_stored, plain_tensors
from interp_hooks.loading.refused import REFUSED
from interp_hooks.loading.rules import Rule, axis_sizes, rules
from interp_hooks.model.components.weights import lies_like
from interp_hooks.model.config import BY_LAYER, GROUPS, HookedTransformerConfig, as_dtype
from interp_hooks.model.offloading import Files, Place, where_it_is
from interp_hooks.model.tokenization import PaddingSide
from interp_hooks.model.transformer import HookedTransformer

_ARGUMENTS = inspect.signature(HookedTransformer.from_pretrained).parameters


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The arguments of `HookedTransformer.from_pretrained` that say what to load and into what."""

    name: str
    hf_model: Any = None
    tokenizer: Any = None
    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    n_ctx: int | None = None
    first_n_layers: int | None = None
    revision: str | None = None
    default_prepend_bos: bool | None = None
    default_padding_side: PaddingSide | None = None
    ignore_config: tuple[str, ...] = ()
    allow_nonfinite: bool = False
    merge_adapters: bool = False
    tp: int = 1
    files: Files | None = None
    hf_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def checkpoint(self) -> NamedCheckpoint:
        """Where the checkpoint is that `name` means."""
        revision = None if str(self.revision).startswith(KEPT) else self.revision
        return NamedCheckpoint(name=self.name, revision=revision, hf_kwargs=self.hf_kwargs)


def load_pretrained(cls: type[HookedTransformer], options: LoadOptions, processing: Processing) -> HookedTransformer:
    """Convert a HuggingFace checkpoint; `HookedTransformer.from_pretrained` calls this and lists what it raises."""
    _refuse_unknown(options)
    if options.merge_adapters:
        options = _merged(options)
    owned, revision = options.hf_model is None, None
    notes, left_out = list[str](), list[str]()
    if owned:
        checkpoint = options.checkpoint
        hf_config = checkpoint.config()
        with reading(f"the config of {options.name!r}"):
            family = family_of(hf_config)
            cfg, n_layers_there = our_config(family, hf_config, options)
        _check_files(checkpoint, hf_config, cfg)
        tokenizer = checkpoint.tokenizer() if options.tokenizer is None else options.tokenizer
        state = plain_tensors(checkpoint, hf_config, family, cfg, n_layers_there)
        if state is None and options.files is not None:
            state = as_stored(checkpoint, hf_config, family)
        if state is None:
            hf_model, left_out = _loaded(checkpoint, hf_config, family, cfg.dtype)
            state, generation = dict(hf_model.state_dict()), getattr(hf_model, "generation_config", None)
            del hf_model  # what is adopted belongs to nobody else
        else:
            generation = checkpoint.generation_config(hf_config)
        revision = checkpoint.commit() or options.revision
        if checkpoint.gguf_file is not None:
            notes = what_was_lost(checkpoint.path_of(checkpoint.gguf_file))
    else:
        check_model(options.hf_model)
        hf_config = copy.deepcopy(options.hf_model.config)
        family = family_of(hf_config, type(options.hf_model).__name__)
        cfg, n_layers_there = our_config(family, hf_config, options)
        tokenizer, state = options.tokenizer, dict(options.hf_model.state_dict())
        generation = getattr(options.hf_model, "generation_config", None)
    cfg = _ending_as(generation, cfg)
    check_state(state, options.name, quantised_by(hf_config))
    text, beside = text_half(state)
    if family.stream_scales is not None:
        cfg = _with_stream_scales(cfg, family, text, n_layers_there)
    with torch.device("meta"), reading(f"the config of {options.name!r}"):
        model = cls(cfg, tokenizer, default_padding_side=options.default_padding_side)
    place = where_it_is
    if (files := options.files) is not None:
        files.choose(model, _called(family, cfg, n_layers_there))
        place = files.place
    numbers = Numbers(options.name, options.allow_nonfinite)
    notes += said_of([*left_out, *beside])
    adopt(model, family, text, n_layers_there, _device(options), owned, numbers, place)
    model.hf_config = hf_config
    model.revision = revision
    model._report = [*process(model, processing), *notes]
    numbers.check_processed(model)
    return model.eval()


def _called(family: Family, cfg: HookedTransformerConfig, n_layers: int) -> dict[str, tuple[str, ...]]:
    """What the checkpoint calls each weight of ours: the tensors that it is taken from."""
    return {name: rule.theirs for rule in rules(family.weights, n_layers, cfg.mixer_kinds) for name in rule.ours}


def _merged(options: LoadOptions) -> LoadOptions:
    """The same options with a model into which the adapters are merged: those of `hf_model`, or those of a folder."""
    if options.hf_model is not None:
        return replace(options, hf_model=merged(options.hf_model))
    if not (Path(options.name) / "adapter_config.json").is_file():
        raise BadInput(f"merge_adapters=True needs hf_model=, or the folder of an adapter; {options.name!r} is neither")
    arguments = {**NO_CODE, **options.hf_kwargs, "dtype": as_dtype(options.dtype or torch.float32)}
    hf_model, tokenizer = load_merged(options.name, **arguments), options.tokenizer
    if tokenizer is None:
        with_one = has_tokenizer(Path(options.name))
        tokenizer = NamedCheckpoint(name=options.name if with_one else hf_model.config._name_or_path).tokenizer()
    return replace(options, hf_model=hf_model, tokenizer=tokenizer, hf_kwargs={})


def _device(options: LoadOptions) -> torch.device | None:
    """The device that all weights move to; None leaves each where `transformers` put it."""
    if options.device is None and (options.hf_kwargs.get("device_map") or _spread(options.hf_model)):
        return None
    return torch.device(options.device or default_device())


def _spread(hf_model: Any) -> bool:
    return hf_model is not None and len({weight.device for weight in hf_model.parameters()}) > 1


def _refuse_unknown(options: LoadOptions) -> None:
    """Refuse extra arguments beside `hf_model`: nothing is loaded by transformers then, so each is a mistake."""
    if options.hf_model is None:
        return
    for name in options.hf_kwargs:
        raise BadInput(
            f"from_pretrained has no argument {name!r} that could matter beside hf_model.{nearest(name, _ARGUMENTS)}"
        )


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def family_of(hf_config: Any, architecture: str | None = None) -> Family:
    """The family that converts a config; `architecture` is the class with the weights (default: the config's own).

    Raises:
        UnsupportedArchitecture: no family does, or that class is not the one that the family converts.
    """
    model_type = language_config(hf_config).model_type
    architecture = architecture or (hf_config.architectures or [None])[0]
    if model_type not in FAMILIES:
        why = f": {REFUSED[model_type]}." if model_type in REFUSED else "."
        raise UnsupportedArchitecture(
            f"{architecture or model_type} (model_type {model_type!r}) is not supported{why}"
            f"{nearest(model_type, FAMILIES)} `interp-hooks families` lists what is."
        )
    family = FAMILIES[model_type]
    expected = {family.architecture, multimodal_class(hf_config)}
    if architecture not in {None, *expected}:
        raise UnsupportedArchitecture(
            f"{architecture} is not supported: a {model_type} checkpoint converts from its language model, "
            f"{family.architecture}. If the checkpoint has the weights of that, pass "
            f"hf_model=transformers.{family.architecture}.from_pretrained(...)"
        )
    return family


def our_config(family: Family, hf_config: Any, options: LoadOptions) -> tuple[HookedTransformerConfig, int]:
    """Our config for a checkpoint, and how many layers the checkpoint has: `first_n_layers` may take fewer."""
    ignore = options.ignore_config + check_quantisation(hf_config, options.name)
    try:
        said = family.read(language_config(hf_config), ignore)
    except (AttributeError, KeyError) as error:
        raise UnsupportedConfig(
            f"{family.architecture} checkpoint: its config does not say all that makes the model ({error}). "
            f"It may be of another version of transformers than {version('transformers')}, or that one too old."
        ) from error
    fields = said | {
        "model_name": options.name,
        "original_architecture": family.architecture,
        "dtype": as_dtype(options.dtype or torch.float32),
    }
    if options.default_prepend_bos is not None:
        fields["default_prepend_bos"] = options.default_prepend_bos
    refuse_other_logits(family, hf_config, fields, options.ignore_config)
    n_layers_there = fields["n_layers"]
    if options.first_n_layers is not None:
        if not 0 < options.first_n_layers <= n_layers_there:
            raise BadInput(f"first_n_layers must be 1..{n_layers_there}, got {options.first_n_layers}")
        fields = _first_layers(fields, options.first_n_layers)
    if options.n_ctx is not None:
        learned = fields.get("positional_embedding_type", "standard") == "standard"
        if options.n_ctx < 1 or ((learned or family.ends) and options.n_ctx > fields["n_ctx"]):
            raise BadInput(f"n_ctx must be 1..{fields['n_ctx']} for this checkpoint, got {options.n_ctx}")
        fields["n_ctx"] = options.n_ctx
    try:
        cfg = HookedTransformerConfig(**fields)
    except ConfigError as error:
        raise UnsupportedConfig(f"this {family.architecture} checkpoint cannot be expressed: {error}") from error
    if options.tp != 1:
        from interp_hooks.model.ranks import refuse_to_spread  # which imports torch.distributed.tensor

        refuse_to_spread(cfg, options.tp)
    return cfg, n_layers_there


def _first_layers(fields: dict[str, Any], n_layers: int) -> dict[str, Any]:
    """The same fields for a model of the first layers only."""
    cut = {name: fields[name][:n_layers] for name in BY_LAYER if fields.get(name)}
    for name in GROUPS:
        if (group := fields.get(name)) is not None:
            cut[name] = replace(group, layers=group.layers[:n_layers])
    return fields | cut | {"n_layers": n_layers}


def _with_stream_scales(
    cfg: HookedTransformerConfig, family: Family, state: dict[str, Tensor], n_layers_there: int
) -> HookedTransformerConfig:
    """The config with the numbers by which layers multiply the stream, which are taken out of `state`.

    Raises:
        WeightMismatch: one is missing, or is no single positive number.
    """
    scales = list[float]()
    for name in (family.scale_of(layer) for layer in range(n_layers_there)):
        tensor = state.pop(name, None)
        if tensor is None or tensor.numel() != 1 or not 0 < tensor.item() < math.inf:
            found = "nothing" if tensor is None else f"{tensor.flatten()[:3].tolist()}"
            raise WeightMismatch(f"the checkpoint must have one positive number as {name}, got {found}")
        scales.append(tensor.item())
    return cfg.replace(stream_scales=tuple(scales[: cfg.n_layers]))


def _check_files(checkpoint: NamedCheckpoint, hf_config: Any, cfg: HookedTransformerConfig) -> None:
    """Raises CheckpointError if the files of a folder cannot be those of such a model; nothing is built yet."""
    folder = Path(checkpoint.location) / str(checkpoint.hf_kwargs.get("subfolder", ""))
    if folder.is_dir():
        check_index(folder)
        packed = getattr(hf_config, "quantization_config", None) is not None or checkpoint.gguf_file is not None
        check_room(cfg, folder, packed)


def _ending_as(generation: Any, cfg: HookedTransformerConfig) -> HookedTransformerConfig:
    """The config with the tokens at which HuggingFace's `generate` stops, as far as the model can write them.

    A single one that only the model's config names is often a default, and less than what the tokenizer says.
    """
    ends = getattr(generation, "eos_token_id", None)
    only_default = isinstance(ends, int) and getattr(generation, "_from_model_config", False)
    ids = () if ends is None or only_default else [ends] if isinstance(ends, int) else ends
    return cfg.replace(eos_token_ids=tuple(id for id in ids if id < cfg.d_vocab_out))


def _loaded(
    checkpoint: NamedCheckpoint, hf_config: Any, family: Family, dtype: torch.dtype | str
) -> tuple[Any, list[str]]:
    """The model of a checkpoint as transformers loads it, and names of tensors of other modalities that it left out.

    Nobody else has its tensors, so that they may be adopted.
    """
    try:
        hf_model, info = family.class_for(hf_config).from_pretrained(
            checkpoint.location,
            config=hf_config,
            dtype=dtype,
            output_loading_info=True,
            **checkpoint.arguments,
        )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the weights of {checkpoint.name!r} cannot be read: {error}") from error
    except Exception as error:  # files may hold anything, and so may be what is raised about them
        if isinstance(error, TypeError) and checkpoint.hf_kwargs:
            listed = ", ".join(checkpoint.hf_kwargs)
            close = "".join(nearest(name, _ARGUMENTS) for name in checkpoint.hf_kwargs if name in str(error))
            raise BadInput(
                f"from_pretrained passes {listed} on to transformers, which does not take one of them: {error}.{close}"
            ) from error
        with reading(f"the checkpoint {checkpoint.name!r}"):
            raise
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise WeightMismatch(
            f"the checkpoint {checkpoint.name!r} lacks {len(missing)} tensors: {', '.join(missing[:5])}"
        )
    nested = hf_config is not hf_config.get_text_config()
    left_out = of_other_modalities(info["unexpected_keys"]) if nested else []
    _refuse_leftovers({*info["unexpected_keys"]} - {*left_out}, family)
    return hf_model, left_out


def adopt(
    model: HookedTransformer,
    family: Family,
    state: dict[str, Tensor],
    n_layers_there: int,
    device: torch.device | None,
    owned: bool,
    numbers: Numbers,
    place: Place = where_it_is,
) -> None:
    """Fill every parameter of a model on the meta device with the tensors in `state`, which is emptied.

    `state` holds the tensors of `n_layers_there` layers; `device=None` leaves each where it is. Tensors that are not
    `owned` are copied, so that their other holder keeps them unchanged. `place` puts each weight where it is to lie.

    Raises:
        WeightMismatch: tensors left over, missing, or of another shape.
        CheckpointError: tensors with nan or infinite numbers.
    """
    sizes, dtype, adopted = partial(axis_sizes, model.cfg), as_dtype(model.cfg.dtype), set()
    there = dict(model.named_parameters())
    where: dict[int | None, torch.device] = {}
    absent: list[Rule] = []
    for rule in rules(family.weights, n_layers_there, model.cfg.mixer_kinds):
        beyond = rule.layer is not None and rule.layer >= model.cfg.n_layers
        if not beyond and not any(name in there for name in rule.ours):
            continue  # a part that this layer does not have; if its tensors are there, they are left over
        theirs = rule.find(state)
        if beyond:
            continue
        if theirs is None:
            absent.append(rule)
            continue
        shared = theirs.data_ptr() in adopted  # tied embeddings: two weights of ours, so that an edit of one is of one
        adopted.add(theirs.data_ptr())
        precise = rule.ours[0].endswith(".choice_bias")  # rounded, it would choose other experts
        stored = torch.promote_types(dtype, torch.float32) if precise else dtype
        moved = theirs.detach().to(device or theirs.device, stored)
        numbers.check(rule.name, theirs, moved)
        where.setdefault(rule.layer, moved.device)
        if moved.data_ptr() == theirs.data_ptr() and (shared or not owned):
            moved = moved.clone()
        laid_out = _laid_out(model, rule, moved, sizes(rule.layer), place is not where_it_is)
        for name, value in zip(rule.ours, laid_out, strict=True):
            _assign(model, name, place(name, value, there[name].stride()))
    for rule in absent:
        _fill_absent(model, rule, there, where[rule.layer], dtype, place)
    _refuse_leftovers(state, family)
    empty = [name for name, weight in model.named_parameters() if weight.is_meta]
    if empty:
        raise WeightMismatch(f"{family.architecture}: no tensor of the checkpoint fills {', '.join(empty[:5])}")
    if device is not None:
        model.to(device)  # the config's device follows


def _refuse_leftovers(names: Iterable[str], family: Family) -> None:
    left = [name for name in names if not any(re.fullmatch(pattern, name) for pattern in family.ignored_weights)]
    if left:
        raise WeightMismatch(
            f"{family.architecture}: {len(left)} tensors of the checkpoint have no place in the converted model: "
            f"{', '.join(sorted(left)[:5])}"
        )


def _fill_absent(
    model: HookedTransformer,
    rule: Rule,
    there: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    place: Place,
) -> None:
    """Fill with zeros the biases of ours that the checkpoint does not have; a missing weight is refused."""
    for name in rule.ours:
        is_bias = name.rpartition(".")[2].startswith("b")
        if name not in there:
            raise WeightMismatch(f"{rule.name or 'a line without source'} names {name}, which this model lacks")
        if not (rule.optional and is_bias):
            raise WeightMismatch(f"the checkpoint has no tensor {rule.name}, which {name} needs")
        value = torch.zeros(there[name].shape, dtype=dtype, device=device)
        _assign(model, name, place(name, value, there[name].stride()))


def _laid_out(
    model: HookedTransformer, rule: Rule, theirs: Tensor, sizes: Mapping[str, int], moves: bool
) -> list[Tensor]:
    """Our weights in our memory layout: views of their tensor, or the same memory repacked, unless each `moves` on."""
    values = rule.forward(theirs, sizes)
    if rule.ours[0].startswith("layer_embed.W"):
        values = [values[0][:, : model.cfg.n_layers]]
    if rule.ours == ("pos_embed.W_pos",):
        values = [values[0][: model.cfg.positions_offset + model.cfg.n_ctx]]
    targets = [model.get_parameter(name) for name in rule.ours]
    for name, value, target in zip(rule.ours, values, targets, strict=True):
        if value.shape != target.shape:
            raise WeightMismatch(f"{rule.name} gives {name} shape {list(value.shape)}, expected {list(target.shape)}")
    experts = ".experts." in rule.ours[0]
    if moves or all(lies_like(value, target, experts) for value, target in zip(values, targets, strict=True)):
        return values
    repacked = [  # empty_like of tensors on the meta device imports sympy
        torch.empty_strided(target.shape, target.stride(), dtype=target.dtype, device=theirs.device)
        for target in targets
    ]
    for place, value in zip(repacked, values, strict=True):
        place.copy_(value)
    return _within(theirs, repacked)


def _within(theirs: Tensor, repacked: list[Tensor]) -> list[Tensor]:
    """The same values moved into the memory of `theirs`, so that no memory-mapped file stays beside its copy."""
    if not theirs.is_contiguous():
        return repacked
    flat, start, placed = theirs.view(-1), 0, []
    for tensor in repacked:
        place = flat[start : start + tensor.numel()].as_strided(tensor.shape, tensor.stride())
        placed.append(place.copy_(tensor))
        start += tensor.numel()
    return placed


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Parameter(value))
