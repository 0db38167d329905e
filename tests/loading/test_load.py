"""A checkpoint loads alike wherever it comes from, and what is no checkpoint is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MobileBertConfig, MobileBertForMaskedLM, PreTrainedModel, RwkvConfig, RwkvForCausalLM

from interp_hooks import HookedTransformer
from interp_hooks.errors import (
    BadInput,
    CheckpointError,
    ConfigError,
    UnsupportedArchitecture,
    UnsupportedConfig,
    WeightMismatch,
)
from tests.model.test_tokens import word_tokenizer
from tests.test_families import build as build_family
from tests.tiny import (
    D_VOCAB,
    FAMILY_CONFIGS,
    assert_close,
    build_hf,
    convert,
    fresh_hf,
    hf_logits,
    our_logits,
    random_tokens,
    shared_hf,
    unchecked_types,
)

TOKENS = random_tokens(batch=2, pos=9)
every_family = pytest.mark.parametrize("name", FAMILY_CONFIGS)


def assert_same_model(one: HookedTransformer, other: HookedTransformer, within: float) -> None:
    assert one.cfg.replace(model_name="") == other.cfg.replace(model_name="")
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for key in ours:
        assert torch.allclose(ours[key], theirs[key], rtol=within, atol=within), key


# ----------------------------------------------------------------------------------------------------------- sources


@every_family
@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_equals_the_model_object(name: str, shards: int, tmp_path: Path) -> None:
    hf = shared_hf(name)
    size = sum(weight.numel() * 4 for weight in hf.parameters())
    hf.save_pretrained(tmp_path, max_shard_size=size // shards + 1)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shards > 1)
    raw, raw_from_object = HookedTransformer.from_pretrained_no_processing(str(tmp_path)), convert(hf)
    assert_same_model(raw, raw_from_object, within=0.0)
    assert torch.equal(our_logits(raw, TOKENS), our_logits(raw_from_object, TOKENS))
    assert raw.cfg.model_name == str(tmp_path)
    # A file's memory is aligned otherwise, so that sums over it may round otherwise
    processed = HookedTransformer.from_pretrained(str(tmp_path))
    assert_same_model(processed, HookedTransformer.from_pretrained("tiny", hf_model=hf), within=1e-5)


@every_family
@pytest.mark.parametrize("processed", [False, True])
def test_the_model_object_stays_as_it_is(name: str, processed: bool) -> None:
    hf = fresh_hf(name)
    before = {key: weight.clone() for key, weight in hf.state_dict().items()}
    ours = HookedTransformer.from_pretrained("tiny", hf_model=hf, dtype=hf.dtype) if processed else convert(hf)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.fill_(7.0)
    for key, weight in hf.state_dict().items():
        assert torch.equal(weight, before[key]), key


@every_family
@pytest.mark.parametrize("source", ["object", "folder"])
def test_no_two_weights_share_values(name: str, source: str, tmp_path: Path) -> None:
    """Tied embeddings become two weights: an edit of one leaves the other. No other pair shares memory either."""
    shared_hf(name).save_pretrained(tmp_path)
    model = convert(shared_hf(name)) if source == "object" else HookedTransformer.from_pretrained(str(tmp_path))
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.fill_(float(number))
    for number, (key, weight) in enumerate(model.named_parameters()):
        assert bool((weight == float(number)).all()), key


def test_tied_embeddings_are_equal_but_not_the_same() -> None:
    model = convert(shared_hf("gpt2-tied-scaled"))
    assert torch.equal(model.W_E, model.W_U.T)
    assert model.W_E.untyped_storage().data_ptr() != model.W_U.untyped_storage().data_ptr()


def test_weights_that_are_laid_out_anew_stay_in_the_memory_of_the_checkpoints_tensor(tmp_path: Path) -> None:
    """GPT-2 keeps queries, keys and values in one tensor, whose memory the three of ours then fill."""
    shared_hf("gpt2").save_pretrained(tmp_path)
    attn = HookedTransformer.from_pretrained_no_processing(str(tmp_path)).blocks[1].attn
    assert len({weight.untyped_storage().data_ptr() for weight in (attn.W_Q, attn.W_K, attn.W_V)}) == 1
    assert attn.W_Q.untyped_storage().nbytes() == sum(
        weight.numel() * weight.element_size() for weight in (attn.W_Q, attn.W_K, attn.W_V)
    )


def test_a_half_precision_checkpoint_loads_in_the_dtype_asked_for(tmp_path: Path) -> None:
    fresh_hf("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16, "bfloat16", "float64"):
        model = HookedTransformer.from_pretrained_no_processing(str(tmp_path), dtype=dtype)
        assert str(model.dtype).endswith(str(dtype).removeprefix("torch."))
        assert {weight.dtype for weight in model.parameters()} == {model.dtype}
        assert model.cfg.dtype == model.dtype
        assert torch.equal(
            model.W_E.float(), fresh_hf("llama").to(torch.bfloat16).get_input_embeddings().weight.float()
        )


def test_the_loaded_model_is_in_evaluation_mode_and_says_what_was_done() -> None:
    model = HookedTransformer.from_pretrained("my name", hf_model=shared_hf("gpt2"))
    assert not model.training
    assert model.cfg.model_name == "my name"
    assert model.cfg.original_architecture == "GPT2LMHeadModel"
    assert model.cfg.normalization_type == "LNPre"
    assert "fold_ln: applied" in model.processing_report()
    assert all("not asked for" in line for line in convert(shared_hf("gpt2")).processing_report())


def test_a_checkpoint_without_tokenizer_reads_tokens(tmp_path: Path) -> None:
    shared_hf("gpt2").save_pretrained(tmp_path)
    assert HookedTransformer.from_pretrained(str(tmp_path)).tokenizer is None


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        *((name, False) for name in ("neox", "bloom", "qwen2", "qwen3", "phi")),
        *((name, True) for name in ("gpt2", "llama", "opt", "gptj")),
    ],
)
def test_whether_texts_begin_with_a_bos(name: str, begins: bool) -> None:
    """As in TransformerLens 3.9.0 where the tokenizer has one."""
    hf = shared_hf(name) if name in FAMILY_CONFIGS else build_family(name)
    tokenizer, bos, the = word_tokenizer(), 0, 4
    model = HookedTransformer.from_pretrained("tiny", hf_model=hf, tokenizer=tokenizer)
    assert model.to_tokens("the").tolist() == [[bos, the] if begins else [the]]
    model = HookedTransformer.from_pretrained("tiny", hf_model=hf, tokenizer=tokenizer, default_prepend_bos=not begins)
    assert model.to_tokens("the").tolist() == [[the] if begins else [bos, the]]


@pytest.mark.parametrize("own", ["left", "right"])
@pytest.mark.parametrize("given", ["left", "right", None])
def test_texts_are_padded_as_the_tokenizer_does_unless_told(own: Any, given: Any) -> None:
    tokenizer = word_tokenizer(pad=True, padding_side=own)
    model = HookedTransformer.from_pretrained(
        "tiny", hf_model=shared_hf("gpt2"), tokenizer=tokenizer, default_padding_side=given
    )
    bos, pad, the, cat = 0, 2, 4, 5
    expected = {"left": [pad, bos, the], "right": [bos, the, pad]}[given or own]
    assert model.to_tokens(["the cat", "the"]).tolist() == [[bos, the, cat], expected]
    assert tokenizer.padding_side == own


# ------------------------------------------------------------------------------------------------------------- sizes


@every_family
def test_the_first_layers_are_those_of_the_whole_model(name: str) -> None:
    whole, part = convert(shared_hf(name)), convert(shared_hf(name), first_n_layers=2)
    assert part.cfg.n_layers == len(part.blocks) == 2
    residual = our_logits(whole, TOKENS, stop_at_layer=2)
    assert torch.equal(our_logits(part, TOKENS, stop_at_layer=2), residual)
    with torch.no_grad():
        assert torch.equal(our_logits(part, TOKENS), whole.unembed(whole.ln_final(residual)))


@pytest.mark.parametrize("first_n_layers", [0, 4, -1])
def test_layers_that_are_not_there_are_refused(first_n_layers: int) -> None:
    with pytest.raises(BadInput, match=rf"first_n_layers must be 1\.\.3, got {first_n_layers}"):
        convert(shared_hf("gpt2"), first_n_layers=first_n_layers)


@every_family
def test_a_shorter_context_gives_the_same_logits(name: str) -> None:
    whole, part = convert(shared_hf(name)), convert(shared_hf(name), n_ctx=9)
    assert torch.equal(our_logits(part, TOKENS), our_logits(whole, TOKENS))
    with pytest.raises(BadInput, match=r"the prompt has 10 tokens, but this model reads at most n_ctx=9"):
        part(random_tokens(batch=1, pos=10))


def test_a_shorter_context_keeps_only_its_positions() -> None:
    hf = shared_hf("gpt2")
    part = convert(hf, n_ctx=5)
    assert torch.equal(part.W_pos, hf.transformer.wpe.weight[:5])


def test_a_longer_context_needs_positions_that_can_be_computed() -> None:
    with pytest.raises(BadInput, match=r"n_ctx must be 1\.\.32 for this checkpoint, got 33"):
        convert(shared_hf("gpt2"), n_ctx=33)
    tokens = random_tokens(batch=1, pos=50)
    longer = convert(shared_hf("llama"), n_ctx=50)
    assert_close(our_logits(longer, tokens), hf_logits(shared_hf("llama"), tokens), 1e-4)  # as in test_families


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no HuggingFace checkpoint, .*: no config.json, for it is empty"):
        HookedTransformer.from_pretrained(str(tmp_path))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"config.json, only notes.txt"):
        HookedTransformer.from_pretrained(str(tmp_path))


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(CheckpointError, match=r"is a file; pass the folder that holds config.json"):
        HookedTransformer.from_pretrained(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "~/no-such-folder-here", "a/b/c"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        HookedTransformer.from_pretrained(name)


def test_a_name_that_nobody_knows_suggests_the_nearest() -> None:
    with pytest.raises(CheckpointError, match=r"cannot load 'pythia-71m'.*Did you mean .*pythia-70m") as error:
        HookedTransformer.from_pretrained("pythia-71m", local_files_only=True)
    assert "no alias" in str(error.value)


def test_a_folder_with_a_config_of_no_known_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(UnsupportedArchitecture, match="transformers cannot read the config"):
        HookedTransformer.from_pretrained(str(tmp_path))


def test_a_folder_without_weights(tmp_path: Path) -> None:
    shared_hf("gpt2").config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"the weights of .* cannot be read"):
        HookedTransformer.from_pretrained(str(tmp_path))


def foreign(kind: str) -> PreTrainedModel:
    if kind == "mobilebert":
        sizes = dict(num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, embedding_size=8)
        return MobileBertForMaskedLM(MobileBertConfig(hidden_size=16, vocab_size=9, intra_bottleneck_size=8, **sizes))
    return RwkvForCausalLM(RwkvConfig(hidden_size=16, num_hidden_layers=2, vocab_size=9))


@pytest.mark.parametrize(
    ("kind", "nearest"),
    [
        ("mobilebert", "Did you mean .*bert"),
        ("rwkv", "MLPs read the token before, .*`interp-hooks families`"),
    ],
)
@pytest.mark.parametrize("source", ["object", "folder"])
def test_an_unsupported_architecture_is_named(kind: str, nearest: str, source: str, tmp_path: Path) -> None:
    hf = foreign(kind)
    hf.save_pretrained(tmp_path)
    options: dict[str, Any] = {"hf_model": hf} if source == "object" else {}
    with pytest.raises(UnsupportedArchitecture, match=rf"{type(hf).__name__}.* is not supported.*{nearest}"):
        HookedTransformer.from_pretrained(str(tmp_path), **options)


def edit_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@every_family
def test_a_missing_tensor_in_a_folder_is_named(name: str, tmp_path: Path) -> None:
    """`transformers` would draw it at random."""
    shared_hf(name).save_pretrained(tmp_path)
    gone: list[str] = []

    def drop(weights: dict[str, Tensor]) -> None:
        gone.append(next(key for key in weights if ".1." in key))
        del weights[gone[0]]

    edit_weights(tmp_path, drop)
    with pytest.raises(WeightMismatch, match=f"lacks 1 tensors: {gone[0]}"):
        HookedTransformer.from_pretrained(str(tmp_path))


@every_family
def test_a_tensor_too_many_in_a_folder_is_named(name: str, tmp_path: Path) -> None:
    """`transformers` would leave it out, and the model would be another than the checkpoint's."""
    shared_hf(name).save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({"model.layers.0.surplus.weight": torch.ones(3)}))
    with pytest.raises(WeightMismatch, match=r"model\.layers\.0\.surplus\.weight"):
        HookedTransformer.from_pretrained(str(tmp_path))


def test_a_tensor_of_another_shape_is_named() -> None:
    hf = fresh_hf("llama")
    hf.model.norm.weight = torch.nn.Parameter(torch.ones(25))
    with pytest.raises(WeightMismatch, match=r"model.norm.weight gives ln_final.w shape \[25\], expected \[24\]"):
        convert(hf)


@pytest.mark.parametrize("bad", ["int8", torch.int64, "float31"])
def test_a_dtype_that_is_no_floating_one(bad: Any) -> None:
    with pytest.raises(ConfigError, match="dtype must be a floating torch dtype"):
        HookedTransformer.from_pretrained("tiny", hf_model=shared_hf("gpt2"), dtype=bad)


def test_a_config_that_cannot_be_expressed() -> None:
    hf = build_hf(FAMILY_CONFIGS["llama"]())
    hf.config.hidden_act = "mish"
    message = r"this LlamaForCausalLM checkpoint cannot be expressed: act_fn .*'mish'"
    with unchecked_types(), pytest.raises(UnsupportedConfig, match=message):
        convert(hf)


def test_names_of_bundled_models_come_from_the_package() -> None:
    from interp_hooks.loading.checkpoints import bundled

    assert set(bundled()) == {"ioi-tiny", "induction-1l", "induction-2l", "brackets", "mod-add", "induction-steps"}
    for name, folder in bundled().items():
        model = HookedTransformer.from_pretrained(name, device="cpu")
        assert model.cfg.model_name == name
        assert (folder / "README.md").exists()
        assert sum(file.stat().st_size for file in folder.iterdir()) < 2.2e6


def test_vocabulary_is_not_rounded() -> None:
    assert convert(shared_hf("neox")).cfg.d_vocab == D_VOCAB
