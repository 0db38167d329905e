"""What is refused before it is converted: objects given as `hf_model` that are no models with weights, weights that
are packed or have no numbers, and numbers that are nan or infinite. And what is merged before, on request: adapters."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.errors.arguments import told
from interp_hooks.loading.files import reading

ADAPTERS = ("lora_", "base_layer.", "modules_to_save.", "adapter_")  # in the names of a model with adapters of peft


def check_model(hf_model: Any) -> None:
    """Raises BadInput, or CheckpointError, unless it is a model of transformers whose own weights are in memory."""
    from transformers import PreTrainedModel

    if isinstance(inner := getattr(hf_model, "module", None), nn.Module):  # DataParallel and its relatives
        raise BadInput(f"hf_model is wrapped in {type(hf_model).__name__}: pass hf_model=model.module ({told(inner)})")
    if isinstance(inner := getattr(hf_model, "_orig_mod", None), nn.Module):
        raise BadInput(f"hf_model was compiled ({type(hf_model).__name__}): pass hf_model=model._orig_mod")
    if isinstance(hf_model, nn.Module) and (adapter := _adapter_in(hf_model)):
        raise CheckpointError(
            f"hf_model has adapters that are not merged into its weights ({adapter}): pass merge_adapters=True, or "
            "hf_model=peft_model.merge_and_unload()"
        )
    if not isinstance(hf_model, PreTrainedModel):
        expected = "a model of transformers, as AutoModelForCausalLM.from_pretrained gives"
        raise BadInput(f"hf_model must be {expected}, got {told(hf_model)}")


def _adapter_in(hf_model: nn.Module) -> str | None:
    """The name of a weight that an adapter has, if there is one."""
    names = (name for name, _ in hf_model.named_parameters())
    return next((name for name in names if any(part in name for part in ADAPTERS)), None)


def merged(hf_model: Any) -> Any:
    """A copy of a model whose adapters, of peft, are merged into the weights; the model itself stays as it is.

    Raises:
        BadInput: it has no adapters that can be merged.
    """
    if not isinstance(hf_model, nn.Module) or _adapter_in(hf_model) is None:
        raise BadInput(f"merge_adapters=True is for a model with adapters of peft, got {told(hf_model)} without any")
    own: Any = copy.deepcopy(hf_model)
    if hasattr(own, "merge_and_unload"):
        return own.merge_and_unload()
    layers: list[tuple[str, Any]] = [*own.named_modules()]
    for name, layer in layers:  # adapters that transformers itself put in
        if hasattr(layer, "base_layer"):
            if not hasattr(layer, "merge"):
                raise BadInput(f"merge_adapters=True: {name} is a {type(layer).__name__}, which has no merge()")
            layer.merge()
            own.set_submodule(name, layer.base_layer)
    return own


def load_merged(folder: str, **arguments: Any) -> Any:
    """The model of a folder that holds an adapter of peft, merged into the weights that the adapter names as its base.

    Raises:
        ImportError: peft is not installed.
        CheckpointError: adapter or base cannot be read.
    """
    try:
        from peft import AutoPeftModelForCausalLM  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"{folder!r} holds an adapter, which peft reads: pip install 'interp-hooks[peft]'") from error
    with reading(f"the adapter in {folder!r}"):
        return AutoPeftModelForCausalLM.from_pretrained(folder, **arguments).merge_and_unload()


# What to do about weights that are packed, by the method of quantisation that a config names.
_LOAD_DENSE = "pass a quantization_config that dequantizes while loading"
_NOT_UNPACKED = "load the checkpoint that it was made from, which its model card names: transformers does not unpack it"
WAYS_OUT = {
    "bitsandbytes": "load it with transformers, call hf_model.dequantize(), and pass hf_model=",
    "gptq": _NOT_UNPACKED,
    "awq": _NOT_UNPACKED,
    "fp8": f"{_LOAD_DENSE} (transformers.FineGrainedFP8Config(dequantize=True))",
    "mxfp4": f"{_LOAD_DENSE} (transformers.Mxfp4Config(dequantize=True))",
    "compressed-tensors": f"{_LOAD_DENSE} (transformers.CompressedTensorsConfig(dequantize=True))",
}
_ANY_WAY_OUT = (
    f"load it with transformers, call hf_model.dequantize(), and pass hf_model=; {_LOAD_DENSE}; or, of what torch.ao "
    "quantised, pass the model before that"
)


def check_quantisation(hf_config: Any, name: str) -> tuple[str, ...]:
    """The setting that need not be read because packed weights are refused by themselves, and dense ones are right.

    Raises:
        CheckpointError: a checkpoint whose packed weights transformers cannot make dense, before it loads.
    """
    if (method := quantised_by(hf_config)) in ("gptq", "awq"):
        raise CheckpointError(
            f"{name!r} is quantised ({method}), and a converted model needs dense weights: {WAYS_OUT[method]}"
        )
    return ("quantization_config",) if method in ("bitsandbytes", "fp8", "mxfp4") else ()


def quantised_by(hf_config: Any) -> str | None:
    """The method of quantisation that a HuggingFace config names."""
    settings = getattr(hf_config, "quantization_config", None) or {}
    method = settings.get("quant_method") if isinstance(settings, Mapping) else settings.quant_method
    return None if method is None else str(getattr(method, "value", method))


def check_state(state: Mapping[str, Any], name: str, method: str | None = None) -> None:
    """Raises CheckpointError for weights that are packed, quantised (by `method`), or have no numbers."""
    for key, tensor in state.items():
        packed = not isinstance(tensor, Tensor)
        is_weight = key.endswith(("weight", "bias", "proj", "_blocks"))
        if packed or (is_weight and (not tensor.is_floating_point() or tensor.element_size() == 1)):
            what = f"packed in a {type(tensor).__name__}" if packed else tensor.dtype
            raise CheckpointError(
                f"{name!r} is quantised ({key} is {what}). A converted model computes, hooks and edits dense weights, "
                f"so nothing works on these: {WAYS_OUT.get(str(method), _ANY_WAY_OUT)}"
            )
        if tensor.is_meta:
            raise CheckpointError(
                f"{name!r}: {key} is not in memory (offloaded by its device_map) or never was: it is on the meta "
                "device, where tensors have a shape but no numbers. Load them with from_pretrained of transformers, "
                "outside of torch.device('meta'), with a device_map that keeps them on devices; or pass "
                "offload_folder= to HookedTransformer.from_pretrained, beside which device_map may say 'disk'"
            )


@dataclass(frozen=True)
class Numbers:
    """The rule that weights are finite numbers, unless the user allows others."""

    name: str
    allow_nonfinite: bool = False

    def check(self, source: str, theirs: Tensor, ours: Tensor) -> None:
        """Raises CheckpointError for a tensor of the checkpoint that is not finite, as it is or in our dtype."""
        if self.allow_nonfinite or (found := _not_finite(ours)) is None:
            return
        if ours.dtype != theirs.dtype and _not_finite(theirs) is None:
            raise CheckpointError(
                f"{self.name!r}: {source} has numbers that {ours.dtype} cannot hold, which become {found}; load it in "
                f"{str(theirs.dtype).removeprefix('torch.')}"
            )
        narrow = " in float16, which ends at 65504 (dtype='float32' may help)" if ours.dtype == torch.float16 else ""
        raise CheckpointError(
            f"{self.name!r}: {source} holds {found}{narrow}, so that nothing computed with it means anything. To look "
            "into the weights nevertheless, pass allow_nonfinite=True"
        )

    def check_processed(self, model: nn.Module) -> None:
        """Raises CheckpointError if processing made a weight infinite, as in half precision it can."""
        for name, weight in [] if self.allow_nonfinite else model.named_parameters():
            if weight.dtype == torch.float16 and (found := _not_finite(weight)):
                raise CheckpointError(
                    f"{self.name!r}: processing made {name} {found} in float16, which ends at 65504; load it with "
                    "from_pretrained_no_processing, or with another dtype"
                )


def _not_finite(weight: Tensor) -> str | None:
    """What numbers a tensor holds that are not finite, in words."""
    if weight.numel() == 0 or bool(torch.stack(weight.detach().aminmax()).isfinite().all()):  # nan passes through
        return None
    counts = {"nan": int(weight.isnan().sum()), "infinite numbers": int(weight.isinf().sum())}
    return " and ".join(f"{what} ({count} of {weight.numel()})" for what, count in counts.items() if count)
