"""GGUF files: what is in them, dequantised, and what is said about it. Files are written by the package gguf itself."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from interp_hooks import HookedTransformer
from interp_hooks.errors import CheckpointError
from tests.tiny import assert_close, hf_logits, our_logits, random_tokens, redraw

MISSING = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
reads = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra [gguf]: {', '.join(MISSING)} is not installed")
VOCABULARY = [*(chr(code) for code in range(ord("!"), ord("~") + 1)), "!!", "##"]
TOKENS = random_tokens(batch=2, pos=11, d_vocab=len(VOCABULARY))
HEADS, GROUPS = 4, 2


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        num_hidden_layers=2,
        hidden_size=32,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        intermediate_size=64,
        vocab_size=len(VOCABULARY),
        max_position_embeddings=32,
        rms_norm_eps=2.0**-10,  # which float32, as the format has it, holds as it is
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    redraw(model)
    return model


def by_pairs(weight: Tensor, heads: int) -> Tensor:
    """The rows of queries or keys as llama.cpp rotates them: adjacent dimensions are a pair."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write(model: LlamaForCausalLM, file: Path, quantised: bool) -> None:
    """The model as llama.cpp's own converter would write it; matrices in Q8_0 if `quantised`."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_merges(["! !", "# #"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for layer in range(config.num_hidden_layers):
        names |= {f"model.layers.{layer}.{theirs}": f"blk.{layer}.{there}" for theirs, there in NAMES.items()}
    for theirs, there in names.items():
        weight = model.get_submodule(theirs).weight.detach()
        if there.endswith(("attn_q", "attn_k")):
            weight = by_pairs(weight, HEADS if there.endswith("q") else GROUPS)
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised and weight.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{there}.weight", gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@reads
def test_plain_numbers_give_the_same_logits(tmp_path: Path) -> None:
    hf = llama()
    write(hf, tmp_path / "tiny.gguf", quantised=False)
    by_path = HookedTransformer.from_pretrained_no_processing(str(tmp_path / "tiny.gguf"), device="cpu")
    assert_close(our_logits(by_path, TOKENS), hf_logits(hf, TOKENS), 1e-5)
    named = HookedTransformer.from_pretrained_no_processing(str(tmp_path), gguf_file="tiny.gguf", device="cpu")
    assert torch.equal(our_logits(named, TOKENS), our_logits(by_path, TOKENS))
    assert by_path.to_tokens("#%", prepend_bos=False).tolist() == [[VOCABULARY.index("#"), VOCABULARY.index("%")]]
    assert not any("quantisation" in line for line in by_path.processing_report())


@reads
def test_quantised_numbers_are_dequantised_and_said(tmp_path: Path) -> None:
    hf = llama()
    write(hf, tmp_path / "tiny.gguf", quantised=True)
    model = HookedTransformer.from_pretrained(str(tmp_path / "tiny.gguf"), device="cpu")
    (said,) = [line for line in model.processing_report() if line.startswith("weights before quantisation: skipped")]
    assert "16 in Q8_0, 5 in F32" in said
    rounded = {name: weight if weight.ndim == 1 else dequantised(weight) for name, weight in hf.state_dict().items()}
    assert max(float((rounded[name] - weight).abs().max()) for name, weight in hf.state_dict().items()) > 1e-4
    hf.load_state_dict(rounded)
    assert model.verify(hf, TOKENS).passed


def dequantised(weight: Tensor) -> Tensor:
    """Blocks of 32 numbers, each 8 bits times a scale in float16, by the definition of Q8_0."""
    blocks = weight.unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return ((blocks / scale).round() * scale.half().float()).flatten(-2)


def test_what_is_no_such_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*absent\.gguf"):
        HookedTransformer.from_pretrained(str(tmp_path / "absent.gguf"))
    (tmp_path / "model.Q4_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds GGUF files .*pass gguf_file='model\.Q4_0\.gguf'"):
        HookedTransformer.from_pretrained(str(tmp_path))


def test_the_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ImportError, match=r"model\.gguf.*pip install 'interp-hooks\[gguf\]'"):
        HookedTransformer.from_pretrained(str(tmp_path / "model.gguf"))


@reads
def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(CheckpointError, match="cannot read the config"):
        HookedTransformer.from_pretrained(str(tmp_path / "model.gguf"))
    with pytest.raises(CheckpointError, match=r"has no file 'other\.gguf'; its GGUF files: model\.gguf"):
        HookedTransformer.from_pretrained(str(tmp_path), gguf_file="other.gguf")
