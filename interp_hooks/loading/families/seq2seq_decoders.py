"""The decoders of models that read one text and write another, as the language models that transformers makes of them.

BART (Lewis et al. 2019), PLBART (Ahmad et al. 2021), MVP (Tang et al. 2022) and TrOCR (Li et al. 2021) normalize the
embeddings, and the stream after each addition; Marian (Junczys-Dowmunt et al. 2018) does without the first of these.
mBART (Liu et al. 2020), Pegasus (Zhang et al. 2019), BigBird-Pegasus (Zaheer et al. 2020), Blenderbot (Roller et al.
2020) and Whisper (Radford et al. 2022) normalize what attention and MLP read, and mBART the embeddings too.

Such a model (`BartForCausalLM`) reads no other text: the weights with which its layers would attend to an encoder do
nothing and are left out, and an exported model has random ones in their place. Checkpoints of encoder and decoder
together are refused; whoever wants the decoder alone loads it as that class and passes it as `hf_model`. HuggingFace
gives padding positions too, so that its padded batches have other numbers; ours are those of each row alone.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.opt import decoder_weights
from interp_hooks.loading.families.shared import ACTIVATION_NAMES, modules
from interp_hooks.loading.guard import Family

DECODER = "model.decoder"


def _decoder(context: str = "max_position_embeddings", **more: Any) -> Callable[[Any], dict[str, Any]]:
    """What turns a config into fields: those that all of these decoders have in common, and more.

    `context` is what the config calls the longest text.
    """
    return lambda hf: (
        dict(
            n_layers=hf.decoder_layers,
            d_model=hf.d_model,
            n_heads=hf.decoder_attention_heads,
            d_mlp=hf.decoder_ffn_dim,
            d_vocab=hf.vocab_size,
            n_ctx=getattr(hf, context),
            act_fn=ACTIVATION_NAMES.get(hf.activation_function, hf.activation_function),
            embed_scale=hf.d_model**0.5 if hf.scale_embedding else 1.0,
        )
        | more
    )


_POST: dict[str, Any] = dict(norm_placement="post", final_norm=False)
_AFTER_TWO_ROWS: dict[str, Any] = dict(positions_offset=2)
_EMBED_NORM: dict[str, Any] = dict(embed_norm_type="LN")

BART = Family(
    model_type="bart",
    name="BART (decoder)",
    config=_decoder(**_POST, **_AFTER_TWO_ROWS, **_EMBED_NORM),
    weights=decoder_weights(DECODER, "layer_norm", "lm_head") | modules(ln_embed=f"{DECODER}.layernorm_embedding"),
    ignored_weights=(r"model\.decoder\.layers\.\d+\.encoder_attn.*",),
    ignored_config=(
        *("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "encoder_layerdrop"),  # of the other half
        "is_decoder",  # the class of the decoder alone sets it
        "decoder_layerdrop",  # training only
        "init_std",
        "num_hidden_layers",  # a second name, in old files
        *("early_stopping", "num_beams", "no_repeat_ngram_size", "length_penalty", "min_length", "max_length"),
        *("encoder_no_repeat_ngram_size", "prefix"),  # all of generation
        *("normalize_before", "add_bias_logits", "add_final_layer_norm", "normalize_embedding"),  # old, never read
    ),
)

PLBART = replace(BART, model_type="plbart", name="PLBART (decoder)")

MVP = replace(
    BART,
    model_type="mvp",
    name="MVP (decoder)",
    ignored_config=(*BART.ignored_config, "prompt_length", "prompt_mid_dim"),  # read only with use_prompt
    requires={"use_prompt": False},
)

TROCR = replace(
    BART,
    model_type="trocr",
    name="TrOCR (decoder)",
    config=lambda hf: (
        _decoder(**_POST, **_AFTER_TWO_ROWS)(hf) | dict(embed_norm_type="LN" if hf.layernorm_embedding else None)
    ),
    weights=BART.weights | modules(unembed="output_projection"),
    ignored_config=(
        *BART.ignored_config,
        "cross_attention_hidden_size",  # of what it would read of the picture
    ),
    requires={"use_learned_position_embeddings": True},
)

MARIAN = replace(
    BART,
    model_type="marian",
    name="Marian (decoder)",
    config=_decoder(**_POST),
    ignored_config=(
        *BART.ignored_config,
        "decoder_vocab_size",  # shows in the tensors
        *("share_encoder_decoder_embeddings", "static_position_embeddings"),  # of both halves, and old
    ),
)

MBART = replace(BART, model_type="mbart", name="mBART (decoder)", config=_decoder(**_AFTER_TWO_ROWS, **_EMBED_NORM))

PEGASUS = replace(BART, model_type="pegasus", name="Pegasus (decoder)", config=_decoder())

BLENDERBOT = replace(BART, model_type="blenderbot", name="Blenderbot (decoder)", config=_decoder())

BIGBIRD_PEGASUS = replace(
    BART,
    model_type="bigbird_pegasus",
    name="BigBird-Pegasus (decoder)",
    config=_decoder(),
    weights={line: theirs for line, theirs in BART.weights.items() if not line.startswith("ln_")}
    | modules(ln_final=f"{DECODER}.layernorm_embedding"),
    ignored_config=(
        *BART.ignored_config,
        "use_bias",  # shows in the tensors
        *("attention_type", "block_size", "num_random_blocks"),  # of the encoder
    ),
)

WHISPER = replace(
    BART,
    model_type="whisper",
    name="Whisper (decoder)",
    config=_decoder("max_target_positions", embed_scale=1.0),  # it is never scaled, whatever scale_embedding says
    weights=BART.weights | modules(unembed="proj_out"),
    ignored_config=(
        *BART.ignored_config,
        *("num_mel_bins", "max_source_positions", "median_filter_width"),  # of the encoder and its sound
        *("use_weighted_layer_sum", "classifier_proj_size", "apply_spec_augment"),  # of a classifier, and of training
        *(f"mask_{what}_{how}" for what in ("time", "feature") for how in ("prob", "length", "min_masks")),
        *("suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids"),  # of generation
    ),
)
