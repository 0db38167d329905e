"""Objects given as `hf_model` that are not converted: each is told from the others, with what to do about it."""

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig

from interp_hooks import HookedTransformer, HookedTransformerConfig
from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.loading.formats import from_checkpoint
from tests.tiny import CUSTOM, assert_close, build, convert, fresh_hf, hf_logits, our_logits, random_tokens, shared_hf


class Adapted(nn.Module):
    """A linear map with an adapter beside it, as peft puts it in the map's place."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base_layer.out_features, bias=False)})


def adapted() -> Any:
    hf = fresh_hf("llama")
    attention = hf.model.layers[0].self_attn
    attention.q_proj = Adapted(attention.q_proj)
    return hf


def wrapped_by_peft() -> nn.Module:
    outer = nn.Module()
    outer.base_model = nn.Module()
    outer.base_model.model = adapted()
    return outer


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(fresh_hf("llama"), {nn.Linear})


def offloaded() -> Any:
    hf = fresh_hf("llama").to("meta")
    hf.hf_device_map = {"model": "disk"}
    return hf


GIVEN: dict[str, tuple[Any, type[Exception], str]] = {
    "quantize_dynamic": (quantised, CheckpointError, r"is quantised \(.*_packed_params.* is packed in a"),
    "DataParallel": (
        lambda: nn.DataParallel(fresh_hf("llama")),
        BadInput,
        r"DataParallel: pass hf_model=model\.module",
    ),
    "compiled": (
        lambda: torch.compile(fresh_hf("llama"), backend="eager"),
        BadInput,
        r"was compiled .*: pass hf_model=model\._orig_mod",
    ),
    "meta": (
        lambda: fresh_hf("llama").to("meta"),
        CheckpointError,
        "on the meta device, where tensors have .* no",
    ),
    "offloaded": (offloaded, CheckpointError, r"not in memory \(offloaded by its device_map\)"),
    "adapters": (adapted, CheckpointError, r"not merged .*q_proj\.base_layer\.weight.*merge_and_unload"),
    "peft": (wrapped_by_peft, CheckpointError, r"not merged .*merge_and_unload\(\)"),
    "no language model": (lambda: nn.Linear(2, 2), BadInput, "must be a model of transformers, .* got Linear"),
    "a class": (
        lambda: type(fresh_hf("llama")),
        BadInput,
        "must be a model of transformers, .* got the class LlamaForCausalLM",
    ),
    "a name": (lambda: "gpt2", BadInput, "must be a model of transformers, .* got 'gpt2'"),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_a_model_that_is_not_converted(kind: str) -> None:
    make, error, message = GIVEN[kind]
    with pytest.raises(error, match=message):
        HookedTransformer.from_pretrained("tiny", hf_model=make())


def test_a_folder_with_an_adapter_only(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"holds an adapter, not a model: .*merge_and_unload"):
        HookedTransformer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("before", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_saved_from_a_wrapped_model(before: str) -> None:
    model = build()
    saved = {before + name: weight for name, weight in model.state_dict().items()}
    tokens = random_tokens(d_vocab=23)
    assert torch.equal(our_logits(from_checkpoint(saved, model.cfg, device="cpu"), tokens), our_logits(model, tokens))


# --------------------------------------------------------------------------------------------------- trained, exported


def train(model: HookedTransformer) -> HookedTransformer:
    """One step of gradient descent."""
    model(random_tokens(), return_type="loss").backward()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= 0.1 * weight.grad
    return model


def test_export_says_what_made_a_bias() -> None:
    with pytest.raises(CheckpointError, match=r"so: load with from_pretrained_no_processing") as processed:
        HookedTransformer.from_pretrained("tiny", hf_model=shared_hf("neox")).to_hf()
    assert "was not processed" not in str(processed.value)
    with pytest.raises(CheckpointError, match=r"was not processed, so training or an edit made it so: .*False") as told:
        train(convert(shared_hf("llama"))).to_hf()
    assert "from_pretrained_no_processing" not in str(told.value), "that is how it was loaded"


def test_what_export_advises_helps() -> None:
    model = convert(shared_hf("llama"))
    exported = model.to_hf()
    for name, weight in model.named_parameters():
        if name.rpartition(".")[2].startswith("b") and not weight.any():
            weight.requires_grad_(False)
    train(model)
    assert_close(hf_logits(model.to_hf(), random_tokens()), our_logits(model, random_tokens()), 1e-5)
    assert not torch.equal(hf_logits(exported, random_tokens()), our_logits(model, random_tokens()))


# -------------------------------------------------------------------------------------------------------------- configs


@pytest.mark.parametrize("name", ["gpt2", "llama", *CUSTOM])
def test_configs_are_plain_data(name: str) -> None:
    cfg = build(**CUSTOM[name]).cfg if name in CUSTOM else convert(shared_hf(name)).cfg
    assert HookedTransformerConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
    assert (cfg.to_dict()["dtype"], cfg.to_dict()["device"]) == (str(cfg.dtype).removeprefix("torch."), "cpu")


# -------------------------------------------------------------------------------------------------- where texts end


def theirs_of(hf: Any, tokens: Tensor, **options: Any) -> list[int]:
    options |= dict(do_sample=False, max_new_tokens=10, pad_token_id=0, attention_mask=torch.ones_like(tokens))
    return hf.generate(tokens, **options)[0].tolist()


def prompt_and_end(hf: Any) -> tuple[Tensor, int]:
    """A prompt, and a token that the model writes after it as the fourth one or later, and not before."""
    for seed in range(99):
        tokens = random_tokens(batch=1, seed=seed)
        written = theirs_of(hf, tokens, eos_token_id=None)[7:]
        if later := [place for place in range(3, 10) if written[place] not in written[:place]]:
            return tokens, written[later[0]]
    raise AssertionError("all of them repeat themselves")


def greedy(model: HookedTransformer, tokens: Tensor, **options: Any) -> list[int]:
    return model.generate(tokens, 10, do_sample=False, verbose=False, **options)[0].tolist()


def test_generation_stops_where_huggingfaces_does(tmp_path: Path) -> None:
    """Where the generation config lists several tokens, as those of chat models do, at any of them."""
    hf = fresh_hf("llama")
    tokens, end = prompt_and_end(hf)
    ends = (end + 1, end)
    hf.generation_config = GenerationConfig(eos_token_id=[*ends, 99], pad_token_id=0)
    theirs = theirs_of(hf, tokens)
    assert theirs[-1] == end, "the second of the list"
    assert len(theirs) < 17
    hf.save_pretrained(tmp_path / "hf")
    assert (tmp_path / "hf" / "generation_config.json").exists()
    given = HookedTransformer.from_pretrained_no_processing("tiny", hf_model=hf, device="cpu")
    loaded = HookedTransformer.from_pretrained(str(tmp_path / "hf"), device="cpu")
    given.save_pretrained(tmp_path / "ours")
    saved = HookedTransformer.from_pretrained(str(tmp_path / "ours"), device="cpu")
    for model in (given, loaded, saved):
        assert model.cfg.eos_token_ids == ends, "99 is not in the vocabulary"
        assert greedy(model, tokens) == theirs
        assert len(greedy(model, tokens, stop_at_eos=False)) == len(greedy(model, tokens, eos_token_id=59)) == 17
    back = given.to_hf()
    assert back.generation_config.eos_token_id == list(ends)
    assert theirs_of(back, tokens) == theirs


def test_one_end_is_that_of_the_generation_config() -> None:
    hf = fresh_hf("gpt2")
    tokens, end = prompt_and_end(hf)
    hf.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=0)
    theirs = theirs_of(hf, tokens)
    assert greedy(convert(hf), tokens) == theirs
    assert theirs[-1] == end


# ------------------------------------------------------------------------------------------------------------- adapters

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the extra [peft]")


@needs_peft
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrapped", [True, False])
def test_adapters_are_merged_on_request(wrapped: bool) -> None:
    """Into a copy: the model of peft, or of transformers with adapters in it, computes as before."""
    import peft

    hf: Any = fresh_hf("llama")
    lora = peft.LoraConfig(target_modules=["q_proj", "down_proj"], r=2, init_lora_weights=False)
    if wrapped:
        hf = peft.get_peft_model(hf, lora)
    else:
        hf.add_adapter(lora)
    before = hf_logits(hf.eval(), random_tokens())
    model = HookedTransformer.from_pretrained_no_processing("tiny", hf_model=hf, merge_adapters=True, device="cpu")
    assert_close(our_logits(model, random_tokens()), before, 1e-5)
    assert torch.equal(hf_logits(hf, random_tokens()), before)
    assert not torch.allclose(before, hf_logits(shared_hf("llama"), random_tokens()), atol=1e-2)


@needs_peft
@pytest.mark.filterwarnings("ignore")
def test_the_folder_of_an_adapter_is_merged_on_request(tmp_path: Path) -> None:
    import peft

    base, adapter = str(tmp_path / "base"), str(tmp_path / "adapter")
    fresh_hf("llama").save_pretrained(base)
    lora = peft.LoraConfig(target_modules=["v_proj"], r=2, init_lora_weights=False, task_type="CAUSAL_LM")
    hf = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    hf.save_pretrained(adapter)
    model = HookedTransformer.from_pretrained_no_processing(adapter, merge_adapters=True, device="cpu")
    assert_close(our_logits(model, random_tokens()), hf_logits(hf.eval(), random_tokens()), 1e-5)
    assert model.tokenizer is None


def test_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="with adapters of peft, got LlamaForCausalLM without any"):
        HookedTransformer.from_pretrained("tiny", hf_model=shared_hf("llama"), merge_adapters=True)
    with pytest.raises(BadInput, match=r"q_proj is a Adapted, which has no merge\(\)"):
        HookedTransformer.from_pretrained("tiny", hf_model=adapted(), merge_adapters=True)
    with pytest.raises(BadInput, match="or the folder of an adapter; 'gpt2' is neither"):
        HookedTransformer.from_pretrained("gpt2", merge_adapters=True)


def test_an_adapter_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ImportError, match=r"pip install 'interp-hooks\[peft\]'"):
        HookedTransformer.from_pretrained(str(tmp_path), merge_adapters=True)


# ---------------------------------------------------------------------------------------------------------- quantised


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_weights_that_nobody_unpacks_are_refused_before_they_load(method: str, tmp_path: Path) -> None:
    hf = fresh_hf("llama")
    hf.config.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"is quantised \({method}\).*checkpoint that it was made from"):
        HookedTransformer.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("method", "way_out"),
    [
        ("bitsandbytes", r"hf_model\.dequantize\(\)"),
        ("fp8", r"FineGrainedFP8Config\(dequantize=True\)"),
        ("mxfp4", r"Mxfp4Config\(dequantize=True\)"),
        ("compressed-tensors", r"CompressedTensorsConfig\(dequantize=True\)"),
        ("another", r"quantization_config that dequantizes while loading"),
    ],
)
def test_packed_weights_name_the_way_out(method: str, way_out: str) -> None:
    hf: Any = fresh_hf("llama")
    packed = hf.model.layers[0].mlp.up_proj
    packed.weight = nn.Parameter(packed.weight.detach().to(torch.uint8), requires_grad=False)
    hf.config.quantization_config = {"quant_method": method}
    ignored = [] if method in ("bitsandbytes", "fp8", "mxfp4") else ["quantization_config"]
    with pytest.raises(CheckpointError, match=rf"is quantised \(.*up_proj\.weight is torch\.uint8\).*{way_out}"):
        HookedTransformer.from_pretrained("tiny", hf_model=hf, ignore_config=ignored)
