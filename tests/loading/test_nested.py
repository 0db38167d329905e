"""A checkpoint of several modalities converts from its language model, whose config lies within the whole's.

The member is a tiny Gemma 3 with a vision tower; without images it computes what its language model alone does.
"""

import copy
import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, UnsupportedArchitecture, UnsupportedConfig, WeightMismatch
from interp_hooks.loading.nested import OTHER_NAMES
from tests import coverage_of_families, family_configs
from tests.tiny import assert_close, convert, hf_logits, log_probs, our_logits, random_tokens, redraw

TOKENS = random_tokens(batch=2, pos=11)
VISION = dict(
    model_type="siglip_vision_model",
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=16,
    patch_size=8,
    vision_use_head=False,
)
tied_or_not = pytest.mark.parametrize("tied", [False, True])


@functools.cache
def nested(tied: bool = False) -> PreTrainedModel:
    """Built once, so nobody may change it."""
    # The whole has no soft cap, whatever its language model's config says
    text = family_configs.config("gemma3", final_logit_softcapping=None, tie_word_embeddings=tied)
    config = AutoConfig.for_model(
        "gemma3", text_config=text.to_dict(), vision_config=VISION, mm_tokens_per_image=4, tie_word_embeddings=tied
    )
    config._attn_implementation = "eager"
    hf = AutoModelForImageTextToText.from_config(config).eval()
    redraw(hf)
    return hf


def saved(tied: bool, folder: Path) -> str:
    nested(tied).save_pretrained(folder)
    return str(folder)


def assert_vision_is_saved_too(folder: Path) -> None:
    assert any("vision_tower" in name for name in load_file(folder / "model.safetensors"))


@tied_or_not
def test_the_model_object_converts(tied: bool) -> None:
    hf = nested(tied)
    model = convert(hf)
    assert model.cfg.original_architecture == "Gemma3ForCausalLM"
    assert_close(our_logits(model, TOKENS), hf_logits(hf, TOKENS), 1e-4)
    assert model.verify(hf, TOKENS).passed


@tied_or_not
def test_the_folder_converts_to_the_same(tied: bool, tmp_path: Path) -> None:
    model = HookedTransformer.from_pretrained_no_processing(saved(tied, tmp_path))
    assert_vision_is_saved_too(tmp_path)
    of_object = convert(nested(tied)).state_dict()
    assert list(model.state_dict()) == list(of_object)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, of_object[name]), name
    assert torch.equal(our_logits(model, TOKENS), our_logits(convert(nested(tied)), TOKENS))


@pytest.mark.parametrize("from_folder", [False, True])
def test_processing_changes_no_probability(from_folder: bool, tmp_path: Path) -> None:
    source: dict[str, Any] = {"hf_model": None if from_folder else nested()}
    model = HookedTransformer.from_pretrained(saved(False, tmp_path), dtype=torch.float64, **source)
    theirs = hf_logits(copy.deepcopy(nested()).double(), TOKENS)
    assert_close(log_probs(our_logits(model, TOKENS)), log_probs(theirs), 1e-5)


def test_the_language_model_alone_converts_to_the_same(tmp_path: Path) -> None:
    alone = AutoModelForCausalLM.from_config(nested().config.text_config)
    own = {name.replace("language_model.", ""): weight for name, weight in nested().state_dict().items()}
    alone.load_state_dict({name: own[name] for name in alone.state_dict()})
    for name, weight in convert(alone).state_dict().items():
        assert torch.equal(weight, convert(nested()).state_dict()[name]), name


@tied_or_not
@pytest.mark.parametrize("from_folder", [False, True])
def test_export_gives_the_language_model(tied: bool, from_folder: bool, tmp_path: Path) -> None:
    hf = nested(tied)
    model = HookedTransformer.from_pretrained_no_processing(saved(tied, tmp_path)) if from_folder else convert(hf)
    exported = model.to_hf()
    assert type(exported).__name__ == "Gemma3ForCausalLM"
    assert exported.config.tie_word_embeddings == tied
    assert_close(hf_logits(exported, TOKENS), hf_logits(hf, TOKENS), 1e-5)
    with torch.no_grad():
        model.blocks[1].attn.W_V *= 2
        model.W_E[5] = 0.5
    edited = model.to_hf()
    assert_close(hf_logits(edited, TOKENS), our_logits(model, TOKENS), 1e-4)
    edited.save_pretrained(tmp_path / "edited")
    again = HookedTransformer.from_pretrained_no_processing(str(tmp_path / "edited"))
    assert torch.equal(again.W_V, model.W_V)
    assert torch.equal(again.W_E, model.W_E)


def test_fewer_layers_and_positions() -> None:
    model = convert(nested(), first_n_layers=2, n_ctx=12)
    assert (model.cfg.n_layers, model.cfg.n_ctx, len(model.cfg.window_sizes)) == (2, 12, 2)
    whole = convert(nested())
    assert torch.equal(our_logits(model, TOKENS, stop_at_layer=2), our_logits(whole, TOKENS, stop_at_layer=2))


# ---------------------------------------------------------------------------------------------------------- refusals


def test_a_tensor_too_many_in_the_language_model_is_refused_by_name() -> None:
    hf = copy.deepcopy(nested())
    hf.model.language_model.register_parameter("surplus", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(WeightMismatch, match=r"1 tensors .* no place .*model\.surplus"):
        convert(hf)


def test_a_tensor_of_another_modality_does_not_matter() -> None:
    hf = copy.deepcopy(nested())
    hf.model.vision_tower.register_parameter("surplus", torch.nn.Parameter(torch.ones(2)))
    assert torch.equal(our_logits(convert(hf), TOKENS), our_logits(convert(nested()), TOKENS))


@pytest.mark.parametrize("extra", ["language_model.model.surplus", "model.language_model.surplus"])
def test_a_tensor_too_many_in_the_file_is_refused_by_name(extra: str, tmp_path: Path) -> None:
    saved(False, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {extra: torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightMismatch, match=r"1 tensors .* no place .*surplus"):
        HookedTransformer.from_pretrained(str(tmp_path))


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    saved(False, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if name.endswith("layers.1.self_attn.v_proj.weight"))
    save_file(
        {name: t for name, t in tensors.items() if name != gone}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(WeightMismatch, match=r"lacks 1 tensors: .*layers\.1\.self_attn\.v_proj\.weight"):
        HookedTransformer.from_pretrained(str(tmp_path))


def test_a_quirk_of_the_language_model_is_refused_by_name() -> None:
    hf = copy.deepcopy(nested())
    hf.config.text_config.some_new_quirk = 5
    with pytest.raises(UnsupportedConfig, match="sets some_new_quirk=5"):
        convert(hf)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match="Gemma3Model is not supported"):
        convert(nested().model)


@pytest.mark.parametrize("model_type", ["mistral3", "llava", "idefics3", "aria", "qwen2_5_vl", "qwen3_vl", "llama4"])
def test_models_that_read_images_convert_from_their_folders(model_type: str, tmp_path: Path) -> None:
    hf = coverage_of_families.build(model_type, AutoModelForImageTextToText)
    hf.save_pretrained(tmp_path)
    model = HookedTransformer.from_pretrained_no_processing(str(tmp_path))
    assert_close(our_logits(model, TOKENS), hf_logits(hf, TOKENS), 1e-4)
    assert torch.equal(our_logits(convert(hf), TOKENS), our_logits(model, TOKENS))
    (said,) = [line for line in model.processing_report() if line.startswith("modules of other modalities: skipped")]
    others = {k for k in hf.state_dict() if not re.search("language_model|text_model|lm_head", k)}
    assert re.search(rf"skipped, {len(others)} tensors of (model\.)?\w+", said)


def test_logits_that_transformers_does_not_scale_are_refused() -> None:
    hf = coverage_of_families.build("aya_vision", AutoModelForImageTextToText)
    with pytest.raises(UnsupportedConfig, match=r"without the logits_scale=0\.0625 .*ignore_config=\['logits_scale'\]"):
        convert(hf)
    model = convert(hf, ignore_config=["logits_scale"])
    assert_close(our_logits(model, TOKENS), hf_logits(hf, TOKENS) * 0.0625, 1e-4)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl_moe", "glm4v_moe"])
def test_a_language_model_of_another_name_is_exported_under_its_own(model_type: str) -> None:
    hf = coverage_of_families.build(model_type, AutoModelForImageTextToText)
    alone = convert(hf).to_hf()
    assert alone.config.model_type == OTHER_NAMES[hf.config.get_text_config().model_type][0]
    assert_close(hf_logits(alone, TOKENS), hf_logits(hf, TOKENS), 1e-4)


@pytest.mark.parametrize("model_type", ["emu3", "moss_transcribe_diarize"])
def test_types_that_transformers_lists_among_causal_language_models(model_type: str, tmp_path: Path) -> None:
    """One is the language model of images without the rest, the other reads sounds."""
    hf = coverage_of_families.build(model_type, AutoModelForCausalLM)
    hf.save_pretrained(tmp_path)
    for model in (convert(hf), HookedTransformer.from_pretrained_no_processing(str(tmp_path))):
        assert_close(our_logits(model, TOKENS), hf_logits(hf, TOKENS), 1e-4)
        assert_close(hf_logits(model.to_hf(), TOKENS), hf_logits(hf, TOKENS), 1e-4)


def test_a_context_that_ends_is_not_made_longer() -> None:
    """Beyond a chunk the model would do what is not implemented."""
    hf = AutoModelForCausalLM.from_config(family_configs.config("llama4", attention_chunk_size=9))
    model = convert(hf)
    assert model.cfg.n_ctx == 9
    with pytest.raises(BadInput, match="9"):
        model(TOKENS)
    with pytest.raises(BadInput, match=r"n_ctx must be 1\.\.9"):
        convert(hf, n_ctx=10)


def test_the_text_half_of_a_hybrid() -> None:
    """Qwen3.5 with eyes converts to its language model."""
    vision = dict(depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=24)
    text = family_configs.config("qwen3.5").to_dict()
    config = AutoConfig.for_model("qwen3_5", text_config=text, vision_config=vision)
    config._attn_implementation = "eager"
    hf = AutoModelForImageTextToText.from_config(config).eval()
    redraw(hf)
    tokens = random_tokens()
    with torch.no_grad():
        theirs = hf(input_ids=tokens).logits
    assert_close(our_logits(convert(hf), tokens), theirs, 1e-4)
