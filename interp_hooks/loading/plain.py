"""The tensors of a plain checkpoint, read from its safetensors: transformers' model, whose code takes longer to import
than such a checkpoint to load, is not needed then.

Plain is what can be read in one way only. It is of a type in `LACKING`, so that it is known which tensors transformers'
model has; the files hold just these, once each, in safetensors, tied or not as the config says, and nothing packs them,
adapts them, or was asked of transformers beside. Whatever else a checkpoint is, and whatever is wrong with it, is for
transformers to read, and to say.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp_hooks.loading.checkpoints import NamedCheckpoint
from interp_hooks.loading.given import quantised_by
from interp_hooks.loading.guard import Family
from interp_hooks.loading.rules import Rule, rules
from interp_hooks.model.config import HookedTransformerConfig

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
EMBEDDING, UNEMBEDDING = ("embed.W_E",), ("unembed.W_U",)


def _llama_like(*, qkv_bias: bool = False, o_bias: bool = False, mlp_bias: bool = False, qk_norm: bool = False) -> str:
    """What of Llama's table a model without these parts lacks."""
    has = {
        r"lm_head\.bias|.*norm\.bias": False,
        r".*\.[qkv]_proj\.bias": qkv_bias,
        r".*\.o_proj\.bias": o_bias,
        r".*\.mlp\..*\.bias": mlp_bias,
        r".*\.[qk]_norm\..*": qk_norm,
    }
    return "|".join(part for part, there in has.items() if not there)


def _as_configured(hf: Any, **parts: bool) -> str:
    """The same for a model whose config says which of its linear maps have biases."""
    attention, mlp = hf.attention_bias, getattr(hf, "mlp_bias", False)
    return _llama_like(qkv_bias=attention, o_bias=attention, mlp_bias=mlp, **parts)


# For a model type: a pattern of those tensors in its family's table that transformers' model with a config lacks.
LACKING: dict[str, Callable[[Any], str]] = {
    "gpt2": lambda hf: r"lm_head\.bias",
    "gpt_bigcode": lambda hf: r"lm_head\.bias",
    "gpt_neox": lambda hf: r"lm_head\.bias" if hf.attention_bias else r"lm_head\.bias|.*\.attention\..*\.bias",
    **dict.fromkeys(("llama", "smollm3", "granite", "gemma", "gemma2"), _as_configured),
    **dict.fromkeys(("qwen3", "gemma3_text", "olmo2", "olmo3"), lambda hf: _as_configured(hf, qk_norm=True)),
    **dict.fromkeys(("mistral", "ministral", "ministral3"), lambda hf: _llama_like()),
    "qwen2": lambda hf: _llama_like(qkv_bias=True),
    "phi3": lambda hf: r".*\.bias",
}


def plain_tensors(
    checkpoint: NamedCheckpoint, hf_config: Any, family: Family, cfg: HookedTransformerConfig, n_layers: int
) -> dict[str, Tensor] | None:
    """All tensors of a plain checkpoint of `n_layers` layers by the names that its family has for them; else None.

    They lie in the mapped memory of the files, which is read when they are.
    """
    nested = hf_config is not hf_config.get_text_config()
    packed = checkpoint.gguf_file or quantised_by(hf_config)
    if family.model_type not in LACKING or nested or checkpoint.hf_kwargs or packed:
        return None
    try:
        stored = _stored(checkpoint)
    except (OSError, SafetensorError):
        return None
    lines = list(rules(family.weights, n_layers, cfg.mixer_kinds))
    state = None if stored is None else _named(stored, family, hf_config, lines)
    places = next((rule.theirs[0] for rule in lines if rule.ours == ("pos_embed.W_pos",)), None)
    if state is not None and places is not None:
        expected = cfg.positions_offset + hf_config.max_position_embeddings
        return state if state[places].shape[0] == expected else None
    return state


def as_stored(checkpoint: NamedCheckpoint, hf_config: Any, family: Family) -> dict[str, Tensor] | None:
    """All tensors of a checkpoint whose safetensors hold just those of transformers' model, by its names; else None.

    They lie in the mapped memory of the files. The model itself is made without memory, for its names and shapes.
    """
    if checkpoint.hf_kwargs or checkpoint.gguf_file or quantised_by(hf_config):
        return None
    try:
        state = _stored(checkpoint)
    except (OSError, SafetensorError):
        return None
    with torch.device("meta"):
        hf_model = family.class_for(hf_config).from_config(hf_config)
    tied = getattr(hf_model, "_tied_weights_keys", None) if hf_config.tie_word_embeddings else None
    if state is not None and isinstance(tied, Mapping):
        state |= {name: state[other] for name, other in tied.items() if name not in state and other in state}
    expected = {name: weight.shape for name, weight in hf_model.state_dict().items()}
    return state if state is not None and {name: one.shape for name, one in state.items()} == expected else None


def _stored(checkpoint: NamedCheckpoint) -> dict[str, Tensor] | None:
    """The tensors in the safetensors of a checkpoint; None if transformers would read others, or more than these."""
    if _there(checkpoint, ADAPTER):
        return None
    found: dict[str, Tensor] = {}
    for path in _weight_files(checkpoint):
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            if found.keys() & {*names}:
                return None
            found |= {name: file.get_tensor(name) for name in names}
    return found or None


def _weight_files(checkpoint: NamedCheckpoint) -> list[Path]:
    """The files with the weights: one, or, in a folder, those of its index."""
    if single := _there(checkpoint, WEIGHTS):
        return [single]
    if not Path(checkpoint.location).is_dir() or not (index := _there(checkpoint, INDEX)):
        return []
    files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()  # `check_index` has read it
    return [index.with_name(file) for file in dict.fromkeys(files)]


def _there(checkpoint: NamedCheckpoint, file: str) -> Path | None:
    """Where a file of the checkpoint lies, downloaded if need be; None if the checkpoint has no such file."""
    try:
        path = checkpoint.path_of(file, download=True)
    except OSError:
        return None
    return path if path.is_file() else None


def _named(stored: Mapping[str, Tensor], family: Family, hf_config: Any, lines: list[Rule]) -> dict[str, Tensor] | None:
    """The stored tensors by the family's names; None unless they are just those that transformers' model has.

    Files of the model without its head leave out the name of the module that it then is.
    """
    sources = {rule.ours: rule.theirs[0] for rule in lines if rule.theirs}
    body = sources[EMBEDDING].partition(".")[0] + "."
    headless = not any(name.startswith(body) for name in stored)
    state = {body + name if headless else name: tensor for name, tensor in stored.items()}
    if hf_config.tie_word_embeddings and sources[UNEMBEDDING] not in state and sources[EMBEDDING] in state:
        state[sources[UNEMBEDDING]] = state[sources[EMBEDDING]]
    elif hf_config.tie_word_embeddings or headless:
        return None  # transformers compares both, or draws a head at random
    lacking = re.compile(LACKING[family.model_type](hf_config))
    expected = [rule for rule in lines if rule.theirs and not lacking.fullmatch(rule.theirs[0])]
    found = [rule.names(state) for rule in expected]
    known = {name for names in found for name in names}
    ignored = re.compile("|".join(family.ignored_weights) or "(?!)")
    whole = all(found) and all(ignored.fullmatch(name) for name in state.keys() - known)
    return {name: state[name] for name in known} if whole and not any(rule.stacked for rule in expected) else None
