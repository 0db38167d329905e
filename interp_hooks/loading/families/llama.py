"""Llama (Touvron et al. 2023): RMSNorm, rotary positions, grouped keys and values, gated MLP. And its close relatives:

Arcee (Arcee AI 2025) has a plain MLP with squared ReLU; Helium (Kyutai 2025) and ERNIE 4.5 (Baidu 2025) rotate
adjacent pairs; Seed-OSS (ByteDance 2025) differs in its biases; SmolLM3 (Hugging Face 2025) does not rotate in every
fourth layer. CWM (Meta 2025) has windows in three of four layers. InternLM3 (Shanghai AI Laboratory 2025) and
IQuest-Coder (2026) are Llama under names of their own. The language model of Moshi (Kyutai 2024) reads one token that
it never predicts, and its cache forgets what is older than its window, so that texts end there.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.shared import head_width, llama_like, modules, rotary_where, windows
from interp_hooks.loading.guard import Family


def _config(hf: Any) -> dict[str, Any]:
    return llama_like(hf, act_fn=hf.hidden_act, eps=hf.rms_norm_eps) | dict(
        normalization_type="RMS",
        gated_mlp=True,
        rotary_dim=head_width(hf),  # a partial_rotary_factor is not read there either
    )


# The table in its parts, for models that have one of them differently. Lines of what a model does not have, such as
# norms of queries and keys, gates, or biases, are passed over: most models that came after Llama keep this table whole.
ENDS = modules(embed="model.embed_tokens", ln_final="model.norm", unembed="lm_head")
NORMS = modules(ln1="input_layernorm", ln2="post_attention_layernorm")
ATTENTION = modules(
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
)
MLP = modules(gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj")

LLAMA = Family(
    model_type="llama",
    name="Llama",
    config=_config,
    weights=ENDS | NORMS | ATTENTION | MLP,
    ignored_weights=(r".*rotary_emb\.inv_freq",),
    ignored_config=(
        "attention_bias",  # these two show in the tensors
        "mlp_bias",
        "pretraining_tp",  # how the training was split over devices
        "rope_theta",  # older names, which HuggingFace moves into rope_parameters
        "rope_scaling",
        "is_llama_config",  # SmolLM's, for the programs that it was trained and published with
        "transformers.js_config",
    ),
    requires={"rope_interleaved": False},
)

ARCEE = replace(
    LLAMA,
    model_type="arcee",
    name="Arcee",
    config=lambda hf: LLAMA.config(hf) | dict(gated_mlp=False),
)

HELIUM = replace(
    LLAMA,
    model_type="helium",
    name="Helium",
    config=lambda hf: LLAMA.config(hf) | dict(rotary_adjacent_pairs=True),
)

ERNIE4_5 = replace(
    HELIUM,
    model_type="ernie4_5",
    name="ERNIE 4.5",
    ignored_config=(*LLAMA.ignored_config, "use_bias"),  # shows in the tensors
)

SEED_OSS = replace(
    LLAMA,
    model_type="seed_oss",
    name="Seed-OSS",
    ignored_config=(*LLAMA.ignored_config, "attention_out_bias"),  # shows in the tensors
)


def _smollm3_config(hf: Any) -> dict[str, Any]:
    fields = LLAMA.config(hf) | dict(window_sizes=windows(hf))
    return rotary_where(hf.no_rope_layers, fields)  # they are listed as 0, the others as 1


SMOLLM3 = replace(
    LLAMA,
    model_type="smollm3",
    name="SmolLM3",
    config=_smollm3_config,
    ignored_config=(
        *LLAMA.ignored_config,
        "no_rope_layer_interval",  # no_rope_layers and layer_types say what comes of these
        "use_sliding_window",
        "max_window_layers",
    ),
)

CWM = replace(
    LLAMA,
    model_type="cwm",
    name="CWM",
    config=lambda hf: LLAMA.config(hf) | dict(window_sizes=windows(hf)),
)

INTERNLM3 = replace(LLAMA, model_type="internlm3", name="InternLM3")

IQUEST_CODER = replace(
    LLAMA,
    model_type="iquestcoder",
    name="IQuest-Coder",
    requires={**LLAMA.requires, "clip_qkv": None, "use_sliding_window": False},
)


def _moshi_config(hf: Any) -> dict[str, Any]:
    return LLAMA.config(hf) | dict(
        d_vocab=hf.vocab_size + 1,
        d_vocab_out=hf.vocab_size,
        d_mlp=hf.ffn_dim // 2,
        n_ctx=min(hf.max_position_embeddings, hf.sliding_window),
    )


MOSHI = replace(
    LLAMA,
    model_type="moshi",
    name="Moshi (language model)",
    config=_moshi_config,
    weights=ENDS
    | NORMS
    | modules(
        q="self_attn.q_proj.linear",
        k="self_attn.k_proj.linear",
        v="self_attn.v_proj.linear",
        o="self_attn.o_proj.linear",
        gate_up="mlp.fc1",
        down="mlp.fc2",
    )
    | {"unembed.W_U": "lm_head.weight | v_out d -> d v_out"},
    ignored_config=(
        *LLAMA.ignored_config,
        *("audio_encoder_config", "depth_decoder_config", "audio_vocab_size", "num_codebooks"),  # of the sound
    ),
    ends=True,
)
