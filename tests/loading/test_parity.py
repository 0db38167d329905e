"""A report passes for a right conversion and fails for a wrong one, whatever is wrong with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, CheckpointError, ConfigError
from interp_hooks.loading.parity import TOLERANCE, Report, invariants, verify, verify_checkpoint
from interp_hooks.model.components.attention import AttentionCore
from interp_hooks.model.components.block import TransformerBlock
from interp_hooks.model.components.moe import Experts
from tests.test_families import build as build_member
from tests.test_families import member
from tests.tiny import FAMILY_CONFIGS, build_hf, convert, fresh_hf, hooked, random_tokens, shared_hf
from tests.views.small import save_checkpoint

TOKENS = random_tokens(batch=2, pos=9)
MEMBERS = ["gpt2", "neox", "llama", "mixtral", "deepseek-v3", "gpt-oss", "bert", "olmo2"]


def models(name: str) -> tuple[HookedTransformer, Any]:
    hf = member(name)
    return convert(hf), hf


# ------------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_a_converted_model_passes(name: str, processed: bool) -> None:
    _, hf = models(name)
    load = HookedTransformer.from_pretrained if processed else HookedTransformer.from_pretrained_no_processing
    report = load(name, hf_model=hf).verify(hf)
    assert report.passed
    assert report.max_error <= 1e-4, "the tolerance of float32"
    assert report.top1_agreement == 1.0
    assert 0 <= report.mean_error <= report.max_error
    assert report.tokens == 64
    assert report.architecture == type(hf).__name__


@pytest.mark.parametrize("name", MEMBERS)
def test_one_edited_weight_fails(name: str) -> None:
    model, hf = models(name)
    with torch.no_grad():
        model.blocks[1].attn.W_O[0, 0, 0] += 1.0
    report = verify(model, hf, TOKENS)
    assert not report.passed
    assert report.max_error > report.tolerance
    assert report.max_kl_nats > 0
    assert max(report.invariants.values()) <= report.tolerance, "its hooks still mean what they say"


def test_a_weight_that_is_no_number_fails() -> None:
    """Comparisons with nan are false, so that nan is never "too large"; it must not pass for small enough either."""
    model, hf = models("gpt2")
    with torch.no_grad():
        model.blocks[2].attn.W_O[0, 0, 0] = torch.nan
    assert not verify(model, hf, TOKENS).passed
    model, _ = models("gpt2")

    def spoil(value: Tensor, hook: Any) -> None:
        value[0, 0, 0, 0] = torch.nan

    with model.hooks([("blocks.0.attn.hook_pattern", spoil)]):
        assert max(invariants(model, TOKENS).values()) == torch.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_has_a_tolerance_that_it_keeps(dtype: torch.dtype) -> None:
    hf = fresh_hf("llama").to(dtype)
    report = convert(hf).verify(hf, TOKENS)
    assert report.passed
    assert report.tolerance == TOLERANCE[dtype]
    assert report.dtype == str(dtype).removeprefix("torch.")


def test_the_other_model_stays_as_it_is() -> None:
    hf = fresh_hf("gpt2").train()
    before = {key: weight.clone() for key, weight in hf.state_dict().items()}
    convert(hf).verify(hf)
    assert hf.training
    for key, weight in hf.state_dict().items():
        assert torch.equal(weight, before[key])
        assert weight.grad is None


def test_a_decoder_that_sees_ahead_is_no_measure() -> None:
    """As RoFormer, BigBird and Moshi of older transformers do, which forget the causal mask."""
    hf = build_member("roformer")
    model = convert(hf)
    assert model.verify(hf).passed
    hf.config.is_decoder = False  # the mask is now that of an encoder
    with pytest.raises(BadInput, match=r"lets tokens of this RoFormerForCausalLM see those that follow"):
        model.verify(hf)


def test_models_of_different_vocabularies_are_refused() -> None:
    config = FAMILY_CONFIGS["llama"]()
    config.vocab_size = 50
    with pytest.raises(BadInput, match="the models do not fit: vocabularies of 61 and 50 tokens"):
        convert(shared_hf("llama")).verify(build_hf(config))


# ----------------------------------------------------------------------------------------------------------- invariants


def _adds_unseen(self: TransformerBlock, *args: Any) -> Tensor:
    return self.hook_resid_post(_right_block(self, *args) + 0.1)


def _reads_unseen(self: TransformerBlock, stream: Tensor, *args: Any) -> Tensor:
    mid = self.hook_resid_mid
    self.hook_resid_mid = _Adding(mid)
    try:
        return _right_block(self, stream, *args)
    finally:
        self.hook_resid_mid = mid


class _Adding(nn.Module):
    def __init__(self, point: nn.Module) -> None:
        super().__init__()
        self.point = point

    def forward(self, value: Tensor) -> Tensor:
        return self.point(value + 0.1)


def _mixes_unseen(self: AttentionCore, *args: Any) -> Tensor:
    return _right_fused(self, *args) * 1.1


def _rows_do_not_sum(self: AttentionCore, *args: Any) -> Tensor:
    point = self.hook_pattern
    self.hook_pattern = _Adding(point)
    try:
        return _right_pattern(self, *args)
    finally:
        self.hook_pattern = point


def _experts_add_unseen(self: Experts, *args: Any) -> Tensor:
    return _right_experts(self, *args) + 0.1


_right_block, _right_experts = TransformerBlock.forward, Experts.forward
_right_fused, _right_pattern = AttentionCore._fused, AttentionCore._pattern
SERIAL, PARALLEL, POST = (
    "resid_mid == resid_pre + attn_out",
    "resid_post == resid_pre + attn_out + mlp_out",
    "resid_post == ln1(resid_mid) + mlp_out",
)

FAULTS = [
    ("gpt2", TransformerBlock, "forward", _adds_unseen, {PARALLEL}),
    ("neox", TransformerBlock, "forward", _adds_unseen, {PARALLEL}),
    ("post-norm", TransformerBlock, "forward", _adds_unseen, {POST}),
    ("gpt2", TransformerBlock, "forward", _reads_unseen, {SERIAL, PARALLEL}),
    ("llama", AttentionCore, "_fused", _mixes_unseen, {"z == pattern @ v"}),
    ("gpt2", AttentionCore, "_pattern", _rows_do_not_sum, {"rows of pattern == 1", "z == pattern @ v"}),
    ("sinks-capped", AttentionCore, "_pattern", _rows_do_not_sum, {"rows of pattern + sink == 1", "z == pattern @ v"}),
    ("experts", Experts, "forward", _experts_add_unseen, {"mlp_out == sum of experts"}),
]


@pytest.mark.parametrize(("name", "where", "method", "faulty", "broken"), FAULTS)
def test_each_invariant_fails_on_a_faulty_model(
    name: str, where: type, method: str, faulty: Any, broken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = random_tokens(batch=2, pos=9, d_vocab=19)
    right = invariants(hooked(name), tokens)
    assert broken <= set(right)
    monkeypatch.setattr(where, method, faulty)
    found = invariants(hooked(name), tokens)
    for label, error in found.items():
        assert right[label] < 1e-10, label
        assert (error > 1e-3) == (label in broken), label


def test_heads_that_do_not_write_what_they_say_are_noticed() -> None:
    model = convert(shared_hf("gpt2"))

    def double(value: Tensor, hook: Any) -> None:
        value[:, :, 1] *= 2

    name = "sum of result + b_O == z W_O + b_O"
    assert invariants(model, TOKENS)[name] < 1e-5  # float32
    with model.hooks([("blocks.1.attn.hook_result", double)]):
        assert invariants(model, TOKENS)[name] > 1e-3


def test_every_invariant_has_a_fault() -> None:
    covered = {label for *_, broken in FAULTS for label in broken} | {"sum of result + b_O == z W_O + b_O"}
    for name in ("gpt2", "neox", "post-norm", "sinks-capped", "experts", "latent", "output-norms"):
        assert set(invariants(hooked(name), random_tokens(pos=9, d_vocab=19))) <= covered


# -------------------------------------------------------------------------------------------------------------- reports


def test_json_holds_every_field() -> None:
    model, hf = models("llama")
    report = model.verify(hf)
    read = json.loads(report.to_json())
    assert read.pop("passed") is True
    assert Report(**read) == report


def test_the_table_says_the_verdict_and_the_numbers() -> None:
    model, hf = models("llama")
    report = model.verify(hf)
    table = str(report)
    for said in ("PASSED", f"{report.max_error:.2e}", "LlamaForCausalLM", "holds: z == pattern @ v", "transformers "):
        assert said in table
    with torch.no_grad():
        model.W_U.zero_()
    assert "FAILED" in str(model.verify(hf))


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("processing", [True, False])
def test_a_folder_with_a_tokenizer_reads_the_text(processing: bool, tmp_path: Path) -> None:
    folder = str(save_checkpoint(tmp_path))
    report = verify_checkpoint(folder, text="When Mary and John went", processing=processing)
    assert report.passed
    assert report.tokens == 6, "five words and a BOS"
    assert any("applied" in line for line in report.processing) == processing


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_folder_without_tokenizer_reads_random_tokens(dtype: str, tmp_path: Path) -> None:
    build_member("mixtral").save_pretrained(tmp_path)
    report = verify_checkpoint(str(tmp_path), dtype=dtype)
    assert report.passed
    assert report.dtype == dtype
    assert report.tokens == 64


def test_what_is_no_checkpoint_or_no_dtype(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no HuggingFace checkpoint"):
        verify_checkpoint(str(tmp_path))
    with pytest.raises(ConfigError, match="dtype must be a floating torch dtype"):
        verify_checkpoint(str(tmp_path), dtype="int8")
