"""Back to HuggingFace: the rules of a family read backwards, so that an edited model can be published.

Without processing the round trip is exact, bit by bit. A folded norm comes back as gain one and bias zero, which is the
same function. What the original architecture has no parameter for (a bias that folding made, say) is refused.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interp_hooks.errors import CheckpointError
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.loading.checkpoints import NO_CODE
from interp_hooks.loading.families import FAMILIES
from interp_hooks.loading.nested import language_config
from interp_hooks.loading.rules import Rule, axis_sizes, rules
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.transformer import HookedTransformer


@no_gradients
def to_hf(model: HookedTransformer) -> Any:
    """A HuggingFace model with these weights; `HookedTransformer.to_hf` calls this and lists what it raises."""
    if model.hf_config is None:
        raise CheckpointError("only a model that was converted from a HuggingFace checkpoint has a form to go back to")
    config = copy.deepcopy(language_config(model.hf_config))
    family = FAMILIES[config.model_type]
    n_layers_there = family.config(config)["n_layers"]
    if model.cfg.n_layers != n_layers_there:
        raise CheckpointError(f"this model has {model.cfg.n_layers} of the checkpoint's {n_layers_there} layers")
    if not torch.equal(model.W_E, model.W_U.T.to(model.W_E.device)):
        config.tie_word_embeddings = False
    hf_model = family.auto_class.from_config(config, **NO_CODE).to(model.device, model.dtype)
    tensors, modules = hf_model.state_dict(), dict(model.named_modules())
    for rule in rules(family.weights, model.cfg.n_layers, model.cfg.mixer_kinds):
        values = [_value(modules, name) for name in rule.ours]
        names = rule.names(tensors)
        if all(value is None for value in values):
            continue  # a part that this layer does not have
        if not names:
            _refuse_lost(model, modules, rule)
            continue
        back = rule.backward([value for value in values if value is not None], axis_sizes(model.cfg, rule.layer))
        for name, part in zip(names, back if rule.stacked else [back], strict=True):
            if part.shape != tensors[name].shape:
                raise CheckpointError(
                    f"{name} is {list(tensors[name].shape)} in the checkpoint's architecture, "
                    f"but {list(part.shape)} here"
                )
            tensors[name].copy_(part)
    for layer, scale in enumerate(model.cfg.stream_scales):
        tensors[family.scale_of(layer)].fill_(scale)
    if (ends := model.cfg.eos_token_ids) and hf_model.can_generate():
        hf_model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else list(ends)
    return hf_model.eval()


def _value(modules: Mapping[str, nn.Module], name: str) -> Tensor | None:
    """A parameter of ours, the neutral gain or bias of a norm that was folded, or None if there is no such part."""
    parent, _, leaf = name.rpartition(".")
    if parent not in modules or leaf not in modules[parent]._parameters:
        return None
    part = modules[parent]
    if part._parameters[leaf] is not None:
        return part._parameters[leaf]
    if not isinstance(part, Norm):
        return None
    return torch.full(part.over, 1.0 - part.gain_offset if leaf == "w" else 0.0)


def _refuse_lost(model: HookedTransformer, modules: Mapping[str, nn.Module], rule: Rule) -> None:
    processed = any(line.endswith(": applied") for line in model.processing_report())
    for name in rule.ours:
        parent, _, leaf = name.rpartition(".")
        weight = modules[parent]._parameters.get(leaf) if parent in modules else None
        if weight is not None and bool(weight.any()):
            raise CheckpointError(
                f"{name} is not zero, but the checkpoint's architecture has no such parameter. "
                + (
                    "Processing may have made it so: load with from_pretrained_no_processing, edit, and export that"
                    if processed
                    else "This model was not processed, so training or an edit made it so: keep such biases out of "
                    f"training (model.get_parameter({name!r}).requires_grad_(False), from the start), or set them to 0"
                )
            )
