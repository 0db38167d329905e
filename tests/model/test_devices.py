"""A model may lie on several devices, be cast, copied and saved: it computes the same, without moving a weight.

The device `meta` knows shapes and no values, so that a split model can be tested where there is one device. With a GPU
the same splits are compared number by number.
"""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_hooks.model.components.moe as moe
from interp_hooks import HookedTransformer, HookPoint, KeyValueCache
from interp_hooks.errors import CheckpointError
from tests.test_families import member
from tests.test_performance_contract import check_no_weight_is_copied
from tests.tiny import CUSTOM, assert_close, build, convert, fresh_hf, hooked, random_tokens

TOKENS = random_tokens(batch=2, pos=7, d_vocab=19)
ARCHITECTURES = [
    "gpt2",
    "neox",
    "llama",
    "alibi-windows",
    "sinks-capped",
    "output-norms",
    "shared-norm",
    "latent",
    "post-norm",
]
LAST = ("ln_final", "unembed", "mlm_head")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def own(architecture: str) -> HookedTransformer:
    return build(**CUSTOM[architecture]) if architecture in CUSTOM else copy.deepcopy(hooked(architecture))


def split(model: HookedTransformer, device: str) -> HookedTransformer:
    """The last block, and all that follows it, on another device."""
    model.blocks[2].to(device)
    for name in LAST:
        if getattr(model, name) is not None:
            getattr(model, name).to(device)
    return model


# ---------------------------------------------------------------------------------------------------------------- meta


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_lies_where_its_block_does(architecture: str) -> None:
    model = split(own(architecture), "meta")
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS)
    assert list(logits.shape) == [2, 7, model.cfg.d_vocab_out]
    assert logits.is_meta
    for name, value in cache.items():
        assert value.is_meta == name.startswith(("blocks.2.", "ln_final.", "unembed.", "mlm_head.")), name


def test_values_before_the_split_are_those_of_the_whole_model() -> None:
    _, expected = hooked("neox").run_with_cache(TOKENS)
    _, cache = split(own("neox"), "meta").run_with_cache(TOKENS)
    compared = [name for name, value in cache.items() if not value.is_meta]
    assert len(compared) > 20
    for name in compared:
        assert torch.equal(cache[name], expected[name]), name


def test_padding_and_token_positions_reach_the_other_device() -> None:
    model = split(own("neox"), "meta")
    mask = torch.arange(7) >= torch.tensor([0, 3])[:, None]
    assert model(TOKENS, attention_mask=mask).is_meta
    assert model(TOKENS, attention_mask=mask, return_type="loss").is_meta


def test_hooks_see_tensors_of_their_blocks_device() -> None:
    model, seen = split(own("gpt2"), "meta"), {}

    def halve(value: Tensor, hook: HookPoint) -> Tensor:
        seen[hook.name] = value.device.type
        return value / 2

    names = [
        "blocks.0.attn.hook_pattern",
        "blocks.1.hook_resid_post",
        "blocks.2.hook_resid_pre",
        "blocks.2.attn.hook_z",
    ]
    model.run_with_hooks(TOKENS, fwd_hooks=[(name, halve) for name in names])
    assert list(seen.values()) == ["cpu", "cpu", "meta", "meta"]


def test_a_key_value_cache_lies_where_each_layer_does() -> None:
    model, cache = split(own("llama"), "meta"), KeyValueCache()
    with torch.no_grad():
        for part in TOKENS.split([4, 2, 1], dim=1):
            assert list(model(part, past_kv_cache=cache).shape) == [2, part.shape[1], model.cfg.d_vocab_out]
    assert [cache.at(layer)[0].device.type for layer in range(3)] == ["cpu", "cpu", "meta"]
    assert cache.at(2)[1].shape[1] == cache.length == 7


def test_stopping_before_the_split_gives_values() -> None:
    whole, parts = hooked("gpt2"), split(own("gpt2"), "meta")
    assert torch.equal(parts(TOKENS, stop_at_layer=2), whole(TOKENS, stop_at_layer=2))
    assert parts(parts(TOKENS, stop_at_layer=2), start_at_layer=2).is_meta


def test_the_device_of_a_model_is_where_its_tokens_go() -> None:
    model = split(own("gpt2"), "meta")
    assert model.device == model.cfg.device == torch.device("cpu")
    assert model.dtype == model.cfg.dtype == torch.float64
    assert model.to(torch.bfloat16).dtype == model.cfg.dtype == torch.bfloat16
    assert model.blocks[2].device.type == "meta", "a cast moves nothing"
    assert model.to("meta").device == model.cfg.device == torch.device("meta")


@pytest.mark.parametrize("where", ["some", "all"])
def test_weights_that_were_offloaded_are_refused(where: str) -> None:
    """What `accelerate` leaves on disk is a tensor of the meta device, which has no values to convert."""
    hf = fresh_hf("llama")
    (hf.model.layers[2] if where == "some" else hf).to("meta")
    message = r"'tiny': model\..*weight is not in memory \(offloaded by its device_map\)"
    with pytest.raises(CheckpointError, match=message):
        convert(hf)


# ----------------------------------------------------------------------------------------------------------- quantised


def quantised(hf: nn.Module, name: str, dtype: torch.dtype) -> nn.Module:
    """With one weight in a dtype of 8 bits, as quantised layers hold it."""
    parent, _, leaf = name.rpartition(".")
    weight = hf.get_parameter(name).detach()
    module = hf.get_submodule(parent)
    delattr(module, leaf)
    module.register_buffer(leaf, weight.to(dtype))
    return hf


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("processed", [True, False])
def test_quantised_weights_are_refused_with_what_to_do(dtype: torch.dtype, processed: bool) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    hf = quantised(fresh_hf("llama"), name, dtype)
    before = {key: (tensor.dtype, tensor.data_ptr()) for key, tensor in hf.state_dict().items()}
    load = HookedTransformer.from_pretrained if processed else HookedTransformer.from_pretrained_no_processing
    with pytest.raises(CheckpointError, match=rf"'tiny' is quantised \({name} is {dtype}\)") as refused:
        load("tiny", hf_model=hf)
    assert "hf_model.dequantize()" in str(refused.value)
    assert {key: (tensor.dtype, tensor.data_ptr()) for key, tensor in hf.state_dict().items()} == before


def test_packed_experts_are_refused_as_quantised() -> None:
    """GPT-OSS is published with blocks of 4-bit numbers beside their scales, under names of their own."""
    hf = copy.deepcopy(member("gpt-oss"))
    experts = hf.model.layers[0].mlp.experts
    del experts.gate_up_proj
    experts.register_buffer("gate_up_proj_blocks", torch.zeros(5, 40, 1, 12, dtype=torch.uint8))
    experts.register_buffer("gate_up_proj_scales", torch.zeros(5, 40, 1, dtype=torch.uint8))
    with pytest.raises(CheckpointError, match=r"is quantised \(.*gate_up_proj_blocks is torch.uint8\)"):
        convert(hf, dtype=torch.float32)


# -------------------------------------------------------------------------------------------------------------- layout


def _reloaded(model: HookedTransformer) -> HookedTransformer:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin = HookedTransformer(model.cfg)
    twin.load_state_dict(torch.load(file))
    return twin.eval()


LIVES: dict[str, Callable[[HookedTransformer], HookedTransformer]] = {
    "converted": lambda model: model,
    "processed": lambda model: HookedTransformer.from_pretrained("tiny", hf_model=model.to_hf()),
    "cast": lambda model: model.to(torch.float64).to(torch.float32),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "state dict": _reloaded,
}
# Members and how many tokens they read: so many that no activation has as many numbers as one of their weights.
MEMBERS = {"gpt2": 11, "neox": 11, "llama": 11, "mixtral": 4, "deepseek-v3": 11, "gpt-oss": 4}


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("name", MEMBERS)
def test_no_weight_is_copied_whatever_a_model_went_through(name: str, life: str) -> None:
    """And it computes what it did before."""
    tokens = random_tokens(batch=1, pos=MEMBERS[name])
    before = convert(member(name))
    after = LIVES[life](convert(member(name)))
    check_no_weight_is_copied(after, tokens)
    with torch.no_grad():
        ours, theirs = after(tokens).log_softmax(-1), before(tokens).log_softmax(-1)
    assert_close(ours, theirs, 1e-4 if life == "processed" else 1e-6)  # float32; layouts may sum in another order


def test_a_copied_expert_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant for the check above: the weights of one expert are those of a fraction of a parameter."""
    right = moe.linear
    monkeypatch.setattr(moe, "linear", lambda x, weight, bias=None: right(x, weight.clone(), bias))
    with pytest.raises(AssertionError):
        check_no_weight_is_copied(convert(member("mixtral")), random_tokens(batch=1, pos=4))


@pytest.mark.parametrize("act_fn", ["gelu", "gelu_new", "silu", "relu", "relu2", "quick_gelu", "tanh", "xielu"])
def test_every_activation_can_be_pickled(act_fn: Any) -> None:
    model = build(act_fn=act_fn)
    assert torch.equal(pickle.loads(pickle.dumps(model))(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    "architecture", ["sinks-capped", "experts", "plain-experts", "output-norms", "latent", "post-norm"]
)
def test_a_model_of_ones_own_survives_pickle_and_deepcopy(architecture: str) -> None:
    model = hooked(architecture)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert twin.cfg == model.cfg
        assert torch.equal(twin(TOKENS), model(TOKENS))
        twin.reset_hooks()
        with torch.no_grad():
            twin.W_E.zero_()
        assert not torch.equal(twin(TOKENS), model(TOKENS)), "it has weights of its own"


# ---------------------------------------------------------------------------------------------------------------- CUDA

# Float64 sums of a few dozen numbers, in the orders of two devices.
TWO_DEVICES = 1e-10


@needs_gpu
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "experts"])
@pytest.mark.parametrize("placed", ["split", "all"])
def test_a_model_with_a_gpu_computes_what_it_does_without(architecture: str, placed: str) -> None:
    whole = own(architecture)
    model = split(own(architecture), "cuda") if placed == "split" else own(architecture).to("cuda")
    expected, cache_there = whole.run_with_cache(TOKENS, names_filter=lambda name: "scores" not in name)
    logits, cache = model.run_with_cache(TOKENS, names_filter=lambda name: "scores" not in name)
    assert_close(logits.cpu(), expected, TWO_DEVICES)
    for name, value in cache_there.items():
        assert_close(cache[name].cpu(), value, TWO_DEVICES)
    for one in (model, whole):
        one(TOKENS, return_type="loss").backward()
    for (name, weight), other in zip(model.named_parameters(), whole.parameters(), strict=True):
        if other.grad is not None and float(other.grad.abs().max()) > 1e-12:
            assert weight.grad is not None
            assert weight.grad.device == weight.device
            assert_close(weight.grad.cpu(), other.grad, 1e-8), name


@needs_gpu
@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama", "latent"])
def test_a_split_model_decodes(architecture: str) -> None:
    whole, model = own(architecture), split(own(architecture), "cuda")
    mask = torch.arange(7) >= torch.tensor([0, 3])[:, None]
    for real in (None, mask):
        expected = whole.generate(
            TOKENS[:, :5], 3, do_sample=False, attention_mask=None if real is None else real[:, :5]
        )
        ours = model.generate(TOKENS[:, :5], 3, do_sample=False, attention_mask=None if real is None else real[:, :5])
        assert torch.equal(ours.cpu(), expected)


@needs_gpu
def test_a_split_checkpoint_stays_split_and_exports() -> None:
    hf = fresh_hf("llama")
    for part in (hf.model.layers[2], hf.model.norm, hf.lm_head):
        part.to("cuda")
    model = convert(hf)
    assert [block.device.type for block in model.blocks] == ["cpu", "cpu", "cuda"]
    assert model.W_U.device.type == "cuda"
    assert_close(model(TOKENS).cpu(), convert(fresh_hf("llama"), device="cpu")(TOKENS), 1e-5)  # float32
    for key, weight in model.to_hf().state_dict().items():
        assert torch.equal(weight.cpu(), hf.state_dict()[key].cpu()), key
