"""A config value that no family reads is refused; what was read is remembered under its real name."""

from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig

from interp_hooks.errors import CheckpointError, UnsupportedConfig
from interp_hooks.loading.guard import HARMLESS, ConfigReader, Family


def family(config: Any = lambda hf: {"n_layers": hf.num_hidden_layers}, **changes: Any) -> Family:
    everything = set(LlamaConfig().to_dict()) - {"num_hidden_layers"}
    fields = dict(model_type="tiny", name="Tiny", config=config, weights={}, ignored_config=tuple(everything))
    return Family(**fields | changes)


def test_reader_remembers_what_was_read() -> None:
    reader = ConfigReader(LlamaConfig(num_hidden_layers=7))
    assert reader.num_hidden_layers == 7
    assert "num_hidden_layers" not in reader.unread()
    assert "hidden_size" in reader.unread()


def test_reading_a_second_name_reads_the_attribute() -> None:
    """GPT-2 calls its width n_embd, and hidden_size is another name for it."""
    reader = ConfigReader(GPT2Config(n_embd=48))
    assert reader.hidden_size == 48
    assert "n_embd" not in reader.unread()


def test_reading_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        ConfigReader(LlamaConfig()).no_such_thing  # noqa: B018


def test_everything_accounted_for_gives_the_fields() -> None:
    assert family().read(LlamaConfig(num_hidden_layers=5)) == {"n_layers": 5}


@pytest.mark.parametrize("value", [4096, 0, False, None])
def test_an_unread_value_is_refused_whatever_it_is(value: object) -> None:
    """A default can matter as much as a setting."""
    config = LlamaConfig()
    config.window = value
    with pytest.raises(UnsupportedConfig, match=f"tiny checkpoint sets window={value}") as refused:
        family().read(config)
    assert "pass ignore_config=['window']" in str(refused.value)
    assert isinstance(refused.value, CheckpointError)
    assert family().read(config, ignore=("window",)) == {"n_layers": 32}


def test_a_required_value_must_be_the_one_implemented() -> None:
    strict = family(requires={"attention_bias": False})
    assert strict.read(LlamaConfig()) == {"n_layers": 32}
    with pytest.raises(UnsupportedConfig, match="attention_bias=True"):
        strict.read(LlamaConfig(attention_bias=True))
    assert strict.read(LlamaConfig(attention_bias=True), ignore=("attention_bias",)) == {"n_layers": 32}


@pytest.mark.parametrize("name", ["_name_or_path", "attention_dropout", "resid_pdrop", "bos_token_id", "id2label"])
def test_bookkeeping_is_harmless(name: str) -> None:
    assert HARMLESS.fullmatch(name)


@pytest.mark.parametrize(
    "name",
    ["sliding_window", "attention_bias", "rope_scaling", "logit_scale", "final_logit_softcapping", "qk_norm",
     "hidden_act", "rms_norm_eps", "head_dim", "use_sliding_window", "residual_multiplier", "token_id_map"],
)  # fmt: skip
def test_what_changes_numbers_is_not_harmless(name: str) -> None:
    assert not HARMLESS.fullmatch(name)
