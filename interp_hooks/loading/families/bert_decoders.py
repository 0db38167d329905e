"""BERT as a decoder: every token sees those before it, and the next one is predicted.

BertGeneration (Rothe et al. 2019) has no head before the unembedding and no token types. BigBird (Zaheer et al. 2020)
keeps BERT's head; as a decoder it attends to all earlier tokens, since its sparse attention sees later ones. RoFormer
(Su et al. 2021) rotates adjacent pairs in place of learned positions.
"""

from dataclasses import replace
from typing import Any

from interp_hooks.loading.families.bert import BERT, BERT_HEAD, bert_config, bert_weights, encoder
from interp_hooks.loading.families.shared import modules


def _bert_generation_config(hf: Any) -> dict[str, Any]:
    fields = encoder(hf, act_fn=hf.hidden_act, eps=hf.layer_norm_eps)
    return fields | dict(d_mlp=hf.intermediate_size, attention_dir="causal", mlm_head=False)


def _big_bird_config(hf: Any) -> dict[str, Any]:
    scale = hf.hidden_size**0.5 if hf.rescale_embeddings else 1.0
    return bert_config(hf) | dict(attention_dir="causal", embed_scale=scale)


def _roformer_config(hf: Any) -> dict[str, Any]:
    rotary = dict(positional_embedding_type="rotary", rotary_adjacent_pairs=True)
    return bert_config(hf) | rotary | dict(attention_dir="causal")


BERT_GENERATION = replace(
    BERT,
    model_type="bert-generation",
    name="BertGeneration",
    head="CausalLM",
    config=_bert_generation_config,
    weights=bert_weights("bert") | modules(unembed="lm_head.decoder"),
    ignored_weights=(
        r"lm_head\.bias",  # the decoder's, which is what HuggingFace adds
        r"bert\.embeddings\.position_ids",  # 0, 1, 2, ... in old files
    ),
    ignored_config=(),
    requires={"is_decoder": True, "add_cross_attention": False, "position_embedding_type": "absolute"},
)

BIG_BIRD = replace(
    BERT,
    model_type="big_bird",
    name="BigBird (decoder)",
    head="CausalLM",
    config=_big_bird_config,
    weights=bert_weights("bert") | BERT_HEAD,
    ignored_config=(
        "use_bias",  # shows in the tensors
        *("block_size", "num_random_blocks"),  # of sparse attention
    ),
    requires={**BERT_GENERATION.requires, "attention_type": "original_full"},
)

ROFORMER = replace(
    BERT,
    model_type="roformer",
    name="RoFormer (decoder)",
    head="CausalLM",
    config=_roformer_config,
    weights=bert_weights("roformer") | BERT_HEAD,
    ignored_weights=(
        r"cls\.predictions\.bias",  # the decoder's, which is what HuggingFace adds
        r"roformer\.encoder\.embed_positions\.weight",  # sines and cosines of the rotation
    ),
    ignored_config=("embedding_size",),  # shows in the tensors
    requires={"is_decoder": True, "add_cross_attention": False, "rotary_value": False},
)
