"""SAELens: a folder of cfg.json and sae_weights.safetensors; that of version 6 and those before.

    architecture                                              here
    standard, gated, jumprelu, topk                           SAE
    transcoder, skip_transcoder, jumprelu_transcoder, ...     Transcoder; W_skip is [out, in] there

Unless the config says otherwise, SAEs subtract b_dec from their input. Of what was scaled so that norms are sqrt(d) on
average ("expected_average_only_in") the factor is no part of the config; training folders have it beside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from interp_hooks.dictionaries.activations import Activation, Gated, JumpReLU, ReLU, TopK
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.formats.reading import (
    Asked,
    Format,
    Weights,
    entry,
    in_folder,
    read_json,
    read_safetensors,
    refuse_settings,
)
from interp_hooks.dictionaries.single import SAE, Transcoder
from interp_hooks.errors import BadInput, CheckpointError, UnsupportedConfig, nearest
from interp_hooks.model.tensor_files import Json, on_disk, write_tensors, write_text

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
FORMER = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
NORMALIZATIONS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
SCALED = "expected_average_only_in"
WORTH_KEEPING = ("model_name", "hook_name", "prepend_bos", "context_size", "dataset_path", "neuronpedia_id")
WORTH_KEEPING += ("sae_lens_version", "exclude_special_tokens", "model_from_pretrained_kwargs")


def _read(path: Path, asked: Asked) -> Dictionary:
    config = _today(read_json(path / CONFIG))
    weights = read_safetensors(path / WEIGHTS)
    architecture = str(config.get("architecture", "standard"))
    if architecture not in ARCHITECTURES:
        raise UnsupportedConfig(
            f"{path / CONFIG} is of the architecture {architecture!r}, which is not implemented; known are "
            f"{', '.join(ARCHITECTURES)}.{nearest(architecture, ARCHITECTURES)}"
        )
    W_dec, b_dec = weights.take("W_dec"), weights.take("b_dec")
    if (factors := weights.take_or_none("scaling_factor")) is not None:  # of features, after an SAE was trained
        if bool(config.get("finetuning_scaling_factor")):
            W_dec = W_dec * factors[:, None]
        elif not bool(torch.allclose(factors, torch.ones_like(factors))):
            raise CheckpointError(f"{path / WEIGHTS} has a scaling_factor, and {CONFIG} says that it is not used")
    is_transcoder = "transcoder" in architecture
    activation, b_enc = ARCHITECTURES[architecture](weights, config, path / CONFIG)
    normalized = config.get("normalize_activations") or "none"
    shared: dict[str, Any] = {
        "W_enc": weights.take("W_enc"),
        "b_enc": b_enc,
        "W_dec": W_dec,
        "b_dec": b_dec,
        "activation": activation,
        "facts": {"format": "saelens", **{name: config[name] for name in WORTH_KEEPING if name in config}},
    }
    hook = asked.hook_or(config.get("hook_name"), path)
    if is_transcoder:
        skip = weights.take("W_skip").T if "skip" in architecture else None
        refuse_settings(config, {"normalize_activations": (None, "none", SCALED)}, path / CONFIG)
        found = Transcoder(
            hook_in=hook, hook_out=asked.hook_out_or(config.get("hook_name_out"), path), W_skip=skip, **shared
        )
    else:
        refuse_settings(config, {"normalize_activations": (None, *NORMALIZATIONS, SCALED)}, path / CONFIG)
        found = SAE(
            hook=hook,
            of_head=config.get("hook_head_index"),
            b_in=b_dec if config.get("apply_b_dec_to_input", True) else None,
            normalization=NORMALIZATIONS.get(normalized, "none"),  # pyright: ignore[reportArgumentType]
            **shared,
        )
    weights.finish()
    if architecture == "topk" and config.get("rescale_acts_by_decoder_norm"):
        found = replace(found.folded_norms(), activation=activation)  # features are ranked as they are scaled
    if normalized == SCALED:
        return found.folded_scale(_scale(path, asked))
    if asked.input_scale is not None:
        raise BadInput(f"{path} is of activations as they are; leave out input_scale=")
    return found


def _today(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config in names of version 6, with what is in `metadata` beside the rest."""
    found = {FORMER.get(name, name): value for name, value in config.items()}
    found |= config.get("metadata") or {}
    if isinstance(found.get("normalize_activations"), bool):
        found["normalize_activations"] = SCALED if found["normalize_activations"] else "none"
    if found.get("activation_fn") == "topk":
        found = {"architecture": "topk", **found, **(found.get("activation_fn_kwargs") or {})}
        found["architecture"] = "topk" if found["architecture"] == "standard" else found["architecture"]
    layer = found.get("hook_point_layer", found.get("hook_layer"))
    if isinstance(found.get("hook_name"), str) and isinstance(layer, int):
        found["hook_name"] = found["hook_name"].replace("{layer}", str(layer))
    return found


def _scale(path: Path, asked: Asked) -> float:
    if asked.input_scale is not None:
        return asked.input_scale
    if (path / SCALER).exists():
        return entry(read_json(path / SCALER), "scaling_factor", float, path / SCALER)
    raise BadInput(
        f"{path} is of activations that were scaled so that their norm is sqrt(d_in) on average, and does not say by "
        "which factor: pass input_scale=, sqrt(d_in) divided by the mean norm"
    )


def _relu(weights: Weights, config: Mapping[str, Any], where: Path) -> tuple[Activation, torch.Tensor]:
    refuse_settings(config, {"activation_fn": ("relu",)}, where)
    return ReLU(), weights.take("b_enc")


def _jump_relu(weights: Weights, config: Mapping[str, Any], where: Path) -> tuple[Activation, torch.Tensor]:
    logarithm = weights.take_or_none("log_threshold")
    return JumpReLU(weights.take("threshold") if logarithm is None else logarithm.exp()), weights.take("b_enc")


def _top_k(weights: Weights, config: Mapping[str, Any], where: Path) -> tuple[Activation, torch.Tensor]:
    return TopK(entry(config, "k", int, where)), weights.take("b_enc")


def _gated(weights: Weights, config: Mapping[str, Any], where: Path) -> tuple[Activation, torch.Tensor]:
    weights.take_or_none("b_enc")  # which older files have beside, and which is not used
    b_gate = weights.take("b_gate")
    return Gated.of(weights.take("r_mag"), weights.take("b_mag"), b_gate), b_gate


ARCHITECTURES: Mapping[str, Callable[[Weights, Mapping[str, Any], Path], tuple[Activation, torch.Tensor]]] = {
    "standard": _relu,
    "gated": _gated,
    "jumprelu": _jump_relu,
    "topk": _top_k,
    "transcoder": _relu,
    "skip_transcoder": _relu,
    "jumprelu_transcoder": _jump_relu,
    "jumprelu_skip_transcoder": _jump_relu,
}


def write(path: Path, dictionary: Dictionary) -> None:
    """Write an SAE or a transcoder as a folder that SAELens loads.

    Raises:
        BadInput: something of it has no place there.
        DiskError: the folder cannot be written.
    """
    if not isinstance(dictionary, SAE | Transcoder):
        raise BadInput(f"SAELens has a place for SAEs and transcoders, not for a {type(dictionary).__name__}")
    one = dictionary
    weights = {"W_enc": one.W_enc, "b_enc": one.b_enc, "W_dec": one.W_dec, "b_dec": one.b_dec}
    config: dict[str, Json] = {"d_in": one.d_in, "d_sae": one.n_features, "device": "cpu"}
    config["dtype"] = str(one.dtype).removeprefix("torch.")
    config["normalize_activations"] = {here: there for there, here in NORMALIZATIONS.items()}[one.normalization]
    architecture, more, settings = _named(one.activation)
    weights |= more
    config |= settings
    known = {name: one.facts[name] for name in WORTH_KEEPING if name in one.facts}
    metadata = known | {"hook_name": one.hooks_in[0], "hook_head_index": one.head, "sae_lens_version": "6.0.0"}
    if isinstance(one, Transcoder):
        if architecture not in ("standard", "jumprelu") or one.b_in is not None:
            raise BadInput(f"SAELens has transcoders with ReLU and JumpReLU and without b_in, this has {architecture}")
        skip = "_skip" if one.W_skip is not None else ""
        architecture = f"{'jumprelu' * (architecture == 'jumprelu')}{skip}_transcoder".removeprefix("_")
        weights |= {} if one.W_skip is None else {"W_skip": one.W_skip.T}
        config |= {"apply_b_dec_to_input": False, "d_out": one.d_out}
        metadata["hook_name_out"] = one.hook_out
    else:
        if one.b_in is not None and not torch.equal(one.b_in, one.b_dec):
            raise BadInput("SAELens subtracts b_dec from the input, or nothing; this SAE has another b_in")
        config["apply_b_dec_to_input"] = one.b_in is not None
        is_z = one.hook.endswith("hook_z") and one.of_head is None
        config["reshape_activations"] = "hook_z" if is_z else "none"
    if architecture == "gated":
        del weights["b_enc"]
    config |= {"architecture": architecture, "metadata": metadata}
    with on_disk(path):
        path.mkdir(parents=True, exist_ok=True)
    write_tensors(path / WEIGHTS, weights)
    write_text(path / CONFIG, json.dumps(config, indent=2) + "\n")


def _named(activation: Activation) -> tuple[str, dict[str, torch.Tensor], dict[str, Json]]:
    """An activation function in SAELens' words: the architecture, its tensors, its settings."""
    if isinstance(activation, ReLU):
        return "standard", {}, {}
    if isinstance(activation, TopK) and activation.rank_by is None:
        return "topk", {}, {"k": activation.k, "rescale_acts_by_decoder_norm": False}
    if isinstance(activation, JumpReLU):
        return "jumprelu", {"threshold": activation.threshold}, {}
    raise BadInput(f"SAELens' files have no place for this {type(activation).__name__}; save it in the format 'own'")


SAELENS = Format(name="saelens", recognises=in_folder(CONFIG, WEIGHTS), read=_read)
