"""BLOOM and MPT."""

from typing import Any

_BLOOM = dict(model_type="bloom", n_layer=3, hidden_size=24, n_head=4, vocab_size=61)
_MPT = dict(model_type="mpt", n_layers=3, d_model=24, n_heads=4, max_seq_len=32, vocab_size=61)

CONFIGS: dict[str, dict[str, Any]] = {
    "bloom": _BLOOM | dict(tie_word_embeddings=False),
    "bloom-tied-6-heads": _BLOOM | dict(n_head=6),
    "mpt": _MPT | dict(tie_word_embeddings=False),
    "mpt-tied-6-heads-clipped-scaled": _MPT | dict(n_heads=6, attn_config=dict(clip_qkv=0.5, softmax_scale=0.7)),
}
