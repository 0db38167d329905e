"""A family describes a checkpoint fully, or the checkpoint is refused.

The HuggingFace config is read through `ConfigReader`, which remembers what was asked for. What nobody asked for and
what is not known to be harmless might change the numbers, so it is refused by name, whatever its value: a default can
matter as much as a setting (Mistral's default window is 4096 tokens).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal

from interp_hooks.errors import UnsupportedConfig
from interp_hooks.loading.rules import Table

# Attributes that no family needs to read: bookkeeping, token ids, labels, dropout, and the initial weights' spread.
# Tied embeddings show in the tensors themselves.
HARMLESS = re.compile(
    r"_.*|.*(dropout|pdrop)(_.*)?|.*_token_id|(id2label|label2id|num_labels|problem_type|task_specific_params)"
    r"|(architectures|model_type|dtype|torch_dtype|transformers_version|auto_map|tokenizer_class|is_encoder_decoder)"
    r"|(return_dict|output_attentions|output_hidden_states|use_cache|chunk_size_feed_forward|tie_word_embeddings)"
    r"|(gradient_checkpointing|js_config|initializer_range|unsloth_.*|base_model_.*_plan)"
)

# Classes of language models whose configs transformers has in no mapping, since they are parts of others.
ALONE = {"emu3_text_model": "Emu3ForCausalLM"}


@dataclass(frozen=True, kw_only=True)
class Family:
    """How checkpoints of one `model_type` of transformers become a `HookedTransformer`.

    `config` turns the HuggingFace config into fields of `HookedTransformerConfig`. `requires` are attributes with the
    only value that is implemented where they are set; `ignored_config` are those that change nothing here, or show in
    the tensors. `head` is what the model predicts: the next token, or masked ones. `name` is what people call it.
    What a model that `ends` does beyond its context is not implemented, so that a longer one is refused.
    `stream_scales` names the tensors with the number by which each layer multiplies the stream, which become a field of
    the config.
    """

    model_type: str
    name: str
    config: Callable[[Any], dict[str, Any]]
    weights: Table
    ignored_weights: tuple[str, ...] = ()
    ignored_config: tuple[str, ...] = ()
    requires: Mapping[str, Any] = field(default_factory=dict)
    head: Literal["CausalLM", "MaskedLM"] = "CausalLM"
    ends: bool = False
    stream_scales: str | None = None

    def scale_of(self, layer: int) -> str:
        """The name of the tensor with the number by which `layer` multiplies the stream."""
        return str(self.stream_scales).replace("{i}", str(layer))

    @property
    def architecture(self) -> str:
        """The HuggingFace class that has the language model's head; the model type if transformers lacks it."""
        from transformers.models.auto import modeling_auto

        names = {
            "CausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            "MaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        }
        return names[self.head].get(self.model_type, self.model_type)

    @property
    def auto_class(self) -> Any:
        """The class of transformers that makes these models from configs and checkpoints."""
        import transformers

        classes = {"CausalLM": transformers.AutoModelForCausalLM, "MaskedLM": transformers.AutoModelForMaskedLM}
        return classes[self.head]

    def class_for(self, hf_config: Any) -> Any:
        """The class that reads checkpoints with this config, which may be that of a model of several modalities."""
        import transformers
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        text = hf_config.get_text_config()
        if hf_config.model_type in ALONE:
            return getattr(transformers, ALONE[text.model_type])
        as_text = hf_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and text.model_type not in ALONE
        if hf_config is not text and not as_text:
            return transformers.AutoModelForImageTextToText
        return self.auto_class

    def read(self, hf_config: Any, ignore: tuple[str, ...] = ()) -> dict[str, Any]:
        """Fields of our config, all of theirs accounted for.

        Raises:
            UnsupportedConfig: the checkpoint sets something that this family does not implement.
            AttributeError, KeyError: it does not say something that the family needs.
        """
        reader = ConfigReader(hf_config)
        fields = self.config(reader)
        for name, implemented in self.requires.items():
            if (value := _found(reader, name, implemented)) != implemented and name not in ignore:
                raise UnsupportedConfig(self._refusal(name, value))
        accounted = {*self.ignored_config, *ignore}
        for name, value in reader.unread().items():
            if name not in accounted and not HARMLESS.fullmatch(name.rpartition(".")[2]):
                raise UnsupportedConfig(self._refusal(name, value))
        return fields

    def _refusal(self, name: str, value: object) -> str:
        return (
            f"{self.architecture} checkpoint sets {name}={value!r}, which interp_hooks does not implement; loading it "
            f"anyway could give different logits. If you know that it changes nothing, pass ignore_config=[{name!r}]."
        )


def _found(config: Any, path: str, absent: Any) -> Any:
    try:
        return attrgetter(path)(config)
    except AttributeError:
        return absent


class ConfigReader:
    """A HuggingFace config that remembers which attributes were read, in configs within it too."""

    def __init__(self, hf_config: Any) -> None:
        self._config = hf_config
        self._names_read: set[str] = set()
        self._within: dict[str, ConfigReader] = {}

    def __getattr__(self, name: str) -> Any:
        self._names_read.add(self._config.attribute_map.get(name, name))
        value = getattr(self._config, name)
        return self._within.setdefault(name, ConfigReader(value)) if hasattr(value, "attribute_map") else value

    def unread(self) -> dict[str, Any]:
        """Attributes that were not read, with their values; `within.name` for those of a config within."""
        unread = {name: value for name, value in self._config.to_dict().items() if name not in self._names_read}
        for name, reader in self._within.items():
            unread |= {f"{name}.{inner}": value for inner, value in reader.unread().items()}
        return unread
