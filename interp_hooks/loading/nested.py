"""Checkpoints of models of several modalities, whose config and weights hold those of a language model.

Only the language model converts: transformers loads the whole, and what belongs to images or sounds is left out.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.guard import ALONE, Family

# Language models that have another type within a model of several modalities: by that type, the one that they have
# alone, and the settings that the whole leaves out. Rotation by three coordinates of a place in an image is, in a text,
# whose tokens have all three alike, rotation by position.
OTHER_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_vl_text": ("qwen2", {}),
    "qwen2_5_vl_text": ("qwen2", {}),
    "qwen2_5_omni_text": ("qwen2", {}),
    "qwen3_vl_text": ("qwen3", {}),
    "qwen3_vl_moe_text": ("qwen3_moe", {"norm_topk_prob": True}),
    "glm4v_moe_text": ("glm4_moe", {"use_qk_norm": False}),
    "emu3_text_model": ("llama", {}),
}


def multimodal_class(hf_config: Any) -> str | None:
    """The class of transformers that reads images, or sounds, and text with such a config, if there is one."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    nested = hf_config is not hf_config.get_text_config()
    more = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if nested else ALONE
    return {**more, **MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}.get(hf_config.model_type)


def language_config(hf_config: Any) -> Any:
    """The config of the language model: the one within, as the language model's own type would have it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    text = hf_config.get_text_config()
    if text.model_type not in OTHER_NAMES:
        return text
    model_type, fixed = OTHER_NAMES[text.model_type]
    told = {name: value for name, value in text.to_dict().items() if name not in _OF_THE_TYPE}
    told.setdefault("head_dim", text.hidden_size // text.num_attention_heads)
    return CONFIG_MAPPING[model_type](**{**told, **fixed})


_OF_THE_TYPE = ("model_type", "architectures", "transformers_version")


def text_half(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the language model, named as in a checkpoint of nothing else, and the names of the others."""
    for part in ("language_model.", "text_model."):
        if any(part in name for name in state):
            text = [name for name in state if part in name or "lm_head" in name]
            return {name.replace(part, ""): state[name] for name in text}, [*state.keys() - {*text}]
    return state, []


def of_other_modalities(names: Iterable[str]) -> list[str]:
    """Of a whole's tensors that its language model has no place for, those that belong to modules beside it."""
    return [name for name in names if name.partition(".")[0] not in ("model", "language_model", "lm_head")]


def said_of(left_out: Collection[str]) -> list[str]:
    """A line of the processing report that tells which modules were left out, if any were."""
    if not left_out:
        return []
    modules = sorted({".".join(name.split(".")[: 1 + name.startswith("model.")]) for name in left_out})
    return [f"modules of other modalities: skipped, {len(left_out)} tensors of {', '.join(modules)}"]


# Models of several modalities that multiply and cap their logits as their language model alone does.
_SAME_LOGITS = ("gemma3n", "gemma4", "gemma4_unified", "granite4_vision", "granite_docling", "hyperclovax_vision_v2")


def refuse_other_logits(family: Family, hf_config: Any, fields: Mapping[str, Any], ignore: tuple[str, ...]) -> None:
    """Raises UnsupportedConfig if a model of several modalities does not scale or cap logits as its text config says.

    There it is transformers that leaves this out, and its language model alone gives other probabilities.
    """
    if hf_config is hf_config.get_text_config() or hf_config.model_type in _SAME_LOGITS:
        return
    for name, neutral in (("logits_scale", 1.0), ("output_logits_soft_cap", 0.0)):
        if fields.get(name, neutral) != neutral and name not in ignore:
            raise UnsupportedConfig(
                f"{multimodal_class(hf_config)} of transformers computes logits without the {name}={fields[name]} of "
                f"its language model, so that {family.architecture} with the same weights gives other probabilities. "
                f"To convert it as {family.architecture} computes them, pass ignore_config=[{name!r}]"
            )
