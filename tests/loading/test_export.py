"""An export is a copy that changes neither model; what the architecture cannot express is refused by name.

That it is exact, and carries edits, is tested for every family in `tests/test_families.py`.
"""

import copy

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.errors import CheckpointError
from interp_hooks.loading.folding import Processing, process
from tests.tiny import assert_close, build, convert, fresh_hf, hf_logits, our_logits, random_tokens, shared_hf

FLOAT32 = 1e-4  # as in tests/test_families.py
TOKENS = random_tokens(batch=2, pos=9)


@pytest.mark.parametrize(
    ("name", "kept"), [("llama", "fold_ln"), ("llama-biases", "fold_value_biases"), ("gpt2", "fold_value_biases")]
)
def test_a_processed_model_that_still_fits_gives_the_same_logits(name: str, kept: str) -> None:
    """Norms come back with gain one; what folding added to a bias is in that bias."""
    model = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf(name))
    assert f"{kept}: applied" in model.processing_report()
    if name == "gpt2":  # LayerNorm's bias is folded into the unembedding's, which GPT-2 lacks
        model = convert(shared_hf(name))
        process(model, Processing(fold_ln=False, center_unembed=False))
    assert_close(hf_logits(model.to_hf(), TOKENS), our_logits(model, TOKENS), FLOAT32)


def test_a_folded_bias_that_has_no_place_is_named() -> None:
    for name in ("gpt2", "neox"):
        model = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf(name))
        message = "unembed.b_U is not zero, but the checkpoint's architecture has no such parameter"
        with pytest.raises(CheckpointError, match=message) as refused:
            model.to_hf()
        assert "from_pretrained_no_processing" in str(refused.value)


@pytest.mark.parametrize("bias", ["attn.b_Q", "attn.b_O", "mlp.b_in", "mlp.b_gate", "mlp.b_out"])
def test_an_edited_bias_that_has_no_place_is_named(bias: str) -> None:
    model = convert(shared_hf("llama"))
    model.to_hf()
    with torch.no_grad():
        model.blocks[1].get_parameter(bias).view(-1)[3] = 1.0
    with pytest.raises(CheckpointError, match=rf"blocks\.1\.{bias} is not zero"):
        model.to_hf()


def test_a_model_of_ones_own_has_no_form_to_go_back_to() -> None:
    with pytest.raises(CheckpointError, match="only a model that was converted from a HuggingFace checkpoint"):
        build().to_hf()


def test_some_of_the_layers_are_no_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="this model has 2 of the checkpoint's 3 layers"):
        convert(shared_hf("llama"), first_n_layers=2).to_hf()


def test_some_of_the_positions_are_no_checkpoint_if_they_are_weights() -> None:
    with pytest.raises(CheckpointError, match=r"transformer.wpe.weight is \[32, 24\] .*, but \[9, 24\] here"):
        convert(shared_hf("gpt2"), n_ctx=9).to_hf()
    short = convert(shared_hf("llama"), n_ctx=9)
    assert torch.equal(hf_logits(short.to_hf(), TOKENS), hf_logits(shared_hf("llama"), TOKENS))


@pytest.mark.parametrize("name", ["gpt2-tied-scaled", "llama-tied-ungrouped"])
def test_tied_embeddings_stay_tied_until_one_of_them_is_edited(name: str) -> None:
    model = convert(shared_hf(name))
    tied = model.to_hf()
    assert tied.config.tie_word_embeddings
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight
    with torch.no_grad():
        model.W_E[5] += 1.0
    untied = model.to_hf()
    assert not untied.config.tie_word_embeddings
    assert torch.equal(untied.get_input_embeddings().weight, model.W_E)
    assert torch.equal(untied.get_output_embeddings().weight, model.W_U.T)
    assert_close(hf_logits(untied, TOKENS), our_logits(model, TOKENS), FLOAT32)


def test_an_untied_export_loads_as_an_untied_model(tmp_path) -> None:
    """The saved config says so too, or loading would tie them again."""
    model = convert(shared_hf("gpt2-tied-scaled"))
    with torch.no_grad():
        model.W_E[5] += 1.0
    model.to_hf().save_pretrained(tmp_path)
    again = HookedTransformer.from_pretrained_no_processing(str(tmp_path))
    assert torch.equal(our_logits(again, TOKENS), our_logits(model, TOKENS))


@pytest.mark.parametrize("name", ["gpt2-tied-scaled", "neox", "llama"])
def test_nobody_is_changed_and_nothing_is_shared(name: str) -> None:
    """Neither an export nor an edit of it changes the model, or the HuggingFace model that it came from."""
    hf = fresh_hf(name)
    model = convert(hf)
    config = copy.deepcopy(hf.config.to_dict())
    before = [{key: weight.clone() for key, weight in one.state_dict().items()} for one in (model, hf)]
    with torch.no_grad():
        exported = model.to_hf()
        for weight in exported.parameters():
            weight.fill_(3.0)
        exported.config.vocab_size = 7
    for one, weights in zip((model, hf), before, strict=True):
        for key, weight in one.state_dict().items():
            assert torch.equal(weight, weights[key]), key
    assert hf.config.to_dict() == config
    assert model.hf_config.vocab_size == 61
    assert type(exported) is type(hf)
    assert not exported.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_has_the_models_dtype(dtype: torch.dtype) -> None:
    exported = convert(shared_hf("llama"), dtype=dtype).to_hf()
    assert {weight.dtype for weight in exported.parameters()} == {dtype}


def test_a_converted_state_dict_has_no_form_to_go_back_to() -> None:
    twin = HookedTransformer(convert(shared_hf("gpt2")).cfg)
    with pytest.raises(CheckpointError, match="only a model that was converted"):
        twin.to_hf()


def test_a_deepcopy_and_a_cast_keep_the_form() -> None:
    model = convert(shared_hf("neox"))
    for life in (copy.deepcopy(model), copy.deepcopy(model).double().float()):
        for key, weight in life.to_hf().state_dict().items():
            assert torch.equal(weight, shared_hf("neox").state_dict()[key]), key
