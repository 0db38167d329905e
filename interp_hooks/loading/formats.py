"""Checkpoints of research code, which are no HuggingFace checkpoints: a file of tensors, and a few numbers.

    format          is recognised by                          config
    TransformerLens "embed.W_E", "blocks.0.attn.W_Q"          `cfg`: fields of its config, or of ours
    nanoGPT         {"model": ..., "model_args": {...}}       in the checkpoint; fields in `cfg` take precedence
    minGPT          "transformer.wte.weight"                  `cfg`: n_layer, n_head, n_embd, vocab_size, block_size
    minGPT, 2020    "tok_emb.weight", "pos_emb"               the same

As with HuggingFace checkpoints, a setting that is neither read nor known to be harmless is refused by name, and so is a
tensor without a place.
"""

import dataclasses
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from interp_hooks.errors import BadInput, CheckpointError, ConfigError, UnsupportedConfig, WeightMismatch, nearest
from interp_hooks.errors.arguments import told
from interp_hooks.loading.families.gpt2 import AROUND_ATTENTION, LAYER
from interp_hooks.loading.families.shared import modules
from interp_hooks.loading.files import check_weights, reading
from interp_hooks.loading.given import Numbers
from interp_hooks.loading.guard import Family
from interp_hooks.loading.load import adopt, default_device
from interp_hooks.loading.rules import Table
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.field_names import KNOWN, in_our_words
from interp_hooks.model.transformer import HookedTransformer


def from_checkpoint(
    checkpoint: Mapping[str, Any] | str | Path,
    cfg: Mapping[str, Any] | HookedTransformerConfig | None = None,
    tokenizer: Any = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    ignore_config: Sequence[str] = (),
    allow_nonfinite: bool = False,
    cls: type[HookedTransformer] = HookedTransformer,
) -> HookedTransformer:
    """A model from a state dict (or a file that holds one) in one of the formats above; its weights are not processed.

    A `HookedTransformerConfig` is used as it is. `dtype` is that of the config unless given, `device` the GPU if there
    is one. `ignore_config` names settings that are not known here and that you know to be harmless. Weights with nan or
    infinite numbers are refused unless `allow_nonfinite`.

    Raises:
        CheckpointError: an unknown format, a setting that is not implemented, or tensors that do not fit.
        ConfigError: settings that are missing or contradict each other.
    """
    if not isinstance(checkpoint, Mapping | str | Path):
        raise BadInput(f"checkpoint must be a state dict, or a file that holds one, got {told(checkpoint)}")
    owned, name = not isinstance(checkpoint, Mapping), str(checkpoint)
    name = name if owned else "this state dict"
    found = recognise(read_state(Path(checkpoint)) if isinstance(checkpoint, (str, Path)) else checkpoint)
    config = cfg if isinstance(cfg, HookedTransformerConfig) else _config(found, cfg, tuple(ignore_config))
    if dtype is not None:
        config = config.replace(dtype=dtype)
    check_weights(config, sum(tensor.numel() for tensor in found.state.values()), name)
    with torch.device("meta"):
        model = cls(config, tokenizer)
    weights = found.family.weights or _own_names(model)
    family = dataclasses.replace(found.family, weights=weights)
    state = with_gate_biases(found.state)
    where = torch.device(device or default_device())
    adopt(model, family, state, config.n_layers, where, owned, Numbers(name, allow_nonfinite))
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A checkpoint whose format is known: its tensors, and the settings that came with them."""

    family: Family
    state: Mapping[str, Tensor]
    settings: Mapping[str, Any] | None = None


def recognise(checkpoint: Mapping[str, Any]) -> Recognised:
    """The format of a checkpoint.

    Raises:
        CheckpointError: none of those that are known.
    """
    if {"model", "model_args"} <= checkpoint.keys():
        return Recognised(family=NANO_GPT, state=_tensors(checkpoint["model"]), settings=checkpoint["model_args"])
    for family, telling in TELLING_NAMES.items():
        if all(any(before + name in checkpoint for before in ("", *WRAPPED)) for name in telling):
            state = _tensors(checkpoint)
            _refuse_tied(FORMATS[family], state)
            return Recognised(family=FORMATS[family], state=state)
    first = ", ".join(map(str, list(checkpoint)[:5])) or "nothing"
    raise CheckpointError(
        f"this is no checkpoint in a known format ({', '.join(FORMATS)}): it holds {first}, ... If a state dict is "
        "inside, pass that; for HuggingFace checkpoints use HookedTransformer.from_pretrained"
    )


def _refuse_tied(family: Family, state: Mapping[str, Tensor]) -> None:
    """Refuse tied embeddings: nanoGPT's and GPT-2's names are minGPT's too, but their activation or layout is not."""
    if family is MIN_GPT and torch.equal(state["transformer.wte.weight"], state["lm_head.weight"]):
        raise CheckpointError(
            "this state dict has minGPT's names, but tied embeddings, which minGPT does not have. If it is from "
            'nanoGPT, pass {"model": state_dict, "model_args": {...}} as nanoGPT saves it'
        )


WRAPPED = ("_orig_mod.", "module.", "module._orig_mod.")  # what torch.compile and DataParallel put before every name


def _tensors(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise CheckpointError(f"expected a state dict, got {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"expected a state dict of tensors, but {name!r} is of type {type(tensor).__name__}")
    return {unwrapped(name): tensor for name, tensor in state.items()}


def unwrapped(name: str) -> str:
    """A parameter's name without what torch.compile and DataParallel put before it."""
    return name.removeprefix("module.").removeprefix("_orig_mod.")


def read_state(path: Path) -> Mapping[str, Any]:
    """What is in a file of tensors, of safetensors or of torch.

    Raises:
        CheckpointError: no such file, or one that holds more than tensors and plain values.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {str(path)!r}")
    try:
        content = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{str(path)!r} is no file of torch.save, or holds more than tensors and plain values. If you trust it, "
            "load it with torch.load(..., weights_only=False) and pass what is inside"
        ) from error
    except Exception:
        with reading(repr(str(path))):
            raise
    if not isinstance(content, Mapping):
        raise CheckpointError(f"expected a state dict in {str(path)!r}, got {type(content).__name__}")
    return content


# ----------------------------------------------------------------------------------------------------------- configs


class _Settings(SimpleNamespace):
    """A mapping as an object with attributes, which is what families read."""

    attribute_map: ClassVar[dict[str, str]] = {}

    def to_dict(self) -> dict[str, Any]:
        return vars(self)


def _config(
    found: Recognised, cfg: Mapping[str, Any] | None, ignore_config: tuple[str, ...]
) -> HookedTransformerConfig:
    family, settings, ours = found.family, found.settings, cfg or {}
    if settings is None:
        if cfg is None:
            raise ConfigError(f"a {family.name} checkpoint holds tensors only; pass its config as cfg")
        settings, ours = cfg, {}
    if family is TRANSFORMER_LENS:
        return HookedTransformerConfig.from_dict(_lens_fields(settings, ignore_config))
    try:
        fields = family.read(_Settings(**settings), ignore_config)
    except AttributeError as error:
        raise ConfigError(f"the config of this {family.name} checkpoint lacks {error.name!r}") from error
    return HookedTransformerConfig.from_dict({**fields, "model_name": family.name, **ours})


def _gpt_config(settings: Any) -> dict[str, Any]:
    return dict(
        n_layers=settings.n_layer,
        d_model=settings.n_embd,
        n_heads=settings.n_head,
        n_ctx=settings.block_size,
        d_vocab=settings.vocab_size,
        act_fn="gelu",
    )


def _lens_fields(settings: Mapping[str, Any], ignore_config: Sequence[str]) -> dict[str, Any]:
    """Fields of our config from those of TransformerLens, most of which are named alike.

    Raises:
        UnsupportedConfig: a setting that is not known, or not implemented with this value.
    """
    settings = {
        name: value
        for name, value in settings.items()
        if not (name in ignore_config or name in LENS_HARMLESS or _unset(name, value))
    }
    if settings.get("attn_only"):
        settings.pop("d_mlp", None)
    if not settings.get("use_attn_scale", True):
        settings.pop("attn_scale", None)
    try:
        fields = in_our_words(settings)
    except ConfigError as error:
        raise UnsupportedConfig(
            f"the config sets {error}. Loading it anyway could give different logits. If you know that it changes "
            "nothing, name it in ignore_config"
        ) from error
    ours = {field.name for field in dataclasses.fields(HookedTransformerConfig)}
    for name in fields.keys() - ours:
        raise UnsupportedConfig(
            f"the config sets {name}={fields[name]!r}, which interp_hooks does not implement; loading it anyway could "
            f"give different logits. If you know that it changes nothing, pass ignore_config=[{name!r}]."
            f"{nearest(name, (*ours, *KNOWN))}"
        )
    return fields


def _unset(name: str, value: Any) -> bool:
    """Whether this is how TransformerLens spells a setting that is left at its default."""
    return (value is None and name != "normalization_type") or (isinstance(value, int | float) and bool(value == -1))


# Where the weights once were, and how they were computed with.
LENS_HARMLESS = ("device", "n_devices", "tie_word_embeddings", "ungroup_grouped_query_attention")

# ------------------------------------------------------------------------------------------------------------ tables


def with_gate_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which every gated MLP has a `b_gate`, and its `b_in` is added before the product with the gate.

    TransformerLens, which has no `b_gate`, adds `b_in` after the product: what it writes is then a part of `b_out`.

    Raises:
        WeightMismatch: there is such a `b_in`, but not the W_out and b_out that say what it writes.
    """
    state = dict(state)
    for parent in [name.removesuffix("W_gate") for name in state if name.endswith("mlp.W_gate")]:
        b_gate, b_in, W_out, b_out = (parent + leaf for leaf in ("b_gate", "b_in", "W_out", "b_out"))
        if b_gate in state or b_in not in state:
            continue
        bias = state[b_in]
        state[b_gate] = torch.zeros_like(bias)
        if not bool(bias.any()):
            continue
        if W_out not in state or b_out not in state:
            raise WeightMismatch(
                f"there is a {b_in} and no {b_gate}, as TransformerLens has it, which adds {b_in} after the product "
                f"with the gate: give {W_out} and {b_out} too, so that what it writes can be added to {b_out}"
            )
        state[b_out] = (state[b_out].double() + bias.double() @ state[W_out].double()).to(bias.dtype)
        state[b_in] = torch.zeros_like(bias)
    return state


def lens_name(name: str) -> str:
    """TransformerLens' name of a parameter of ours; `_W_K` and so on are its names of grouped keys and values."""
    return re.sub(r"\.attn\.([Wb]_[KV])$", r".attn._\1", re.sub("^ln_embed", "embed.ln", name))


def _own_names(model: HookedTransformer) -> Table:
    """A table that finds every parameter under our name of it or, where that differs, under TransformerLens'."""
    names = [name for name, _ in model.named_parameters()]
    return {name: name if lens_name(name) == name else f"{name} or {lens_name(name)}" for name in names}


TRANSFORMER_LENS = Family(
    model_type="TransformerLens",
    name="TransformerLens",
    config=dict,
    weights={},  # the model's own names
    ignored_weights=(r"blocks\.\d+\.attn\.(mask|IGNORE|rotary_sin|rotary_cos)",),
)

NANO_GPT = Family(
    model_type="nanoGPT",
    name="nanoGPT",
    config=_gpt_config,
    weights=AROUND_ATTENTION | modules(LAYER, qkv="attn.c_attn"),
    ignored_weights=(r"transformer\.h\.\d+\.attn\.bias",),  # the causal mask
    ignored_config=("bias",),  # shows in the tensors
)


def _with_biases(table: Table) -> Table:
    """The same table for checkpoints in which everything but the unembedding has a bias."""
    return {ours: theirs and theirs.replace("?", "") for ours, theirs in table.items()} | {"unembed.b_U": None}


MIN_GPT = dataclasses.replace(
    NANO_GPT,
    model_type="minGPT",
    name="minGPT",
    config=lambda settings: _gpt_config(settings) | dict(act_fn="gelu_new"),
    weights=_with_biases(NANO_GPT.weights),
    ignored_config=("model_type",),  # the name of the sizes
)

MIN_GPT_2020 = dataclasses.replace(
    MIN_GPT,
    model_type="minGPT-2020",
    name="minGPT of 2020",
    config=_gpt_config,
    weights=_with_biases(
        modules(
            "blocks.{i}",
            embed="tok_emb",
            ln1="ln1",
            q="attn.query",
            k="attn.key",
            v="attn.value",
            o="attn.proj",
            ln2="ln2",
            up="mlp.0",
            down="mlp.2",
            ln_final="ln_f",
            unembed="head",
        )
    )
    | {"pos_embed.W_pos": "pos_emb | one position d -> (one position) d"},
    ignored_weights=(r"blocks\.\d+\.attn\.mask",),
)

FORMATS = {family.model_type: family for family in (TRANSFORMER_LENS, NANO_GPT, MIN_GPT, MIN_GPT_2020)}
TELLING_NAMES = {
    "TransformerLens": ("embed.W_E", "unembed.W_U"),
    "minGPT": ("transformer.wte.weight", "transformer.h.0.attn.bias", "lm_head.weight"),
    "minGPT-2020": ("tok_emb.weight", "pos_emb", "head.weight"),
}
