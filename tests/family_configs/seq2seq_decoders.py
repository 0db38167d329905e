"""The decoders of BART and its relatives."""

from typing import Any

# HuggingFace counts padding among the positions.
_SIZES = dict(
    encoder_layers=3,  # by which HuggingFace makes the cache of the decoder
    encoder_ffn_dim=12,
    encoder_attention_heads=2,
    decoder_layers=3,
    d_model=24,
    decoder_attention_heads=3,
    decoder_ffn_dim=40,
    max_position_embeddings=32,
    vocab_size=61,
    exact=True,
    pads=False,
    pad_token_id=1,
    forced_eos_token_id=None,
)
_PLAIN = dict(tie_word_embeddings=False, scale_embedding=True)
_TIED = dict(scale_embedding=False, activation_function="relu")
_TROCR = {name: value for name, value in _SIZES.items() if not name.startswith("encoder")} | dict(model_type="trocr")

_WHISPER = _SIZES | dict(model_type="whisper", max_target_positions=32, begin_suppress_tokens=None)
_WHISPER.pop("max_position_embeddings")

CONFIGS: dict[str, dict[str, Any]] = {
    f"{model_type}-decoder{kind}": _SIZES | changes | dict(model_type=model_type)
    for model_type in ("bart", "plbart", "mvp", "marian", "mbart", "pegasus", "blenderbot", "bigbird_pegasus")
    for kind, changes in (("", _PLAIN), ("-tied", _TIED))
}
CONFIGS |= {
    "bigbird_pegasus-decoder-biases": _SIZES | _TIED | dict(model_type="bigbird_pegasus", use_bias=True),
    "trocr": _TROCR | _PLAIN,
    "trocr-tied-no-embedding-norm": _TROCR | _TIED | dict(layernorm_embedding=False, is_decoder=True),
    "whisper": _WHISPER | _PLAIN,
    "whisper-tied": _WHISPER | _TIED,
}
