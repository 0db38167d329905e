"""What is refused before it is converted: objects given as `hf_model` that are no models with weights, weights that
are packed or have no numbers, and numbers that are nan or infinite."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.errors.arguments import told

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
            f"hf_model has adapters that are not merged into its weights ({adapter}): pass "
            "hf_model=peft_model.merge_and_unload()"
        )
    if not isinstance(hf_model, PreTrainedModel):
        expected = "a model of transformers, as AutoModelForCausalLM.from_pretrained gives"
        raise BadInput(f"hf_model must be {expected}, got {told(hf_model)}")


def _adapter_in(hf_model: nn.Module) -> str | None:
    """The name of a weight that an adapter has, if there is one."""
    names = (name for name, _ in hf_model.named_parameters())
    return next((name for name in names if any(part in name for part in ADAPTERS)), None)


def check_state(state: Mapping[str, Any], name: str) -> None:
    """Raises CheckpointError for weights that are packed, quantised, or have no numbers."""
    for key, tensor in state.items():
        packed = not isinstance(tensor, Tensor)
        is_weight = key.endswith(("weight", "bias", "proj", "_blocks"))
        if packed or (is_weight and (not tensor.is_floating_point() or tensor.element_size() == 1)):
            what = f"packed in a {type(tensor).__name__}" if packed else tensor.dtype
            raise CheckpointError(
                f"{name!r} is quantised ({key} is {what}). A converted model computes, hooks and edits dense weights, "
                "so nothing works on these. Load it with transformers, call hf_model.dequantize(), and pass hf_model=; "
                "pass a quantization_config that dequantizes while loading; or, of what torch.ao quantised, the model "
                "before that"
            )
        if tensor.is_meta:
            raise CheckpointError(
                f"{name!r}: {key} is not in memory (offloaded by its device_map) or never was: it is on the meta "
                "device, where tensors have a shape but no numbers. Load them with from_pretrained of transformers, "
                "outside of torch.device('meta'), with a device_map that keeps them on devices"
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
