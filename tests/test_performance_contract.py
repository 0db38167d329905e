"""Looking is free: a pass copies no weight, and makes no attention pattern unless somebody looks at it.

Read from torch's own record of a pass, so that nothing here depends on how fast the machine is.
"""

import copy
import functools
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

import interp_hooks.model.components.mlp as mlp_module
from interp_hooks import HookedTransformer
from tests.tiny import FAMILY_CONFIGS, build, random_tokens, shared_hf, unchecked_types

POS = 11  # no width of these models, so that a tensor [.., 11, 11] is query by key
TOKENS = random_tokens(batch=1, pos=POS)
COPIES = {"aten::copy_", "aten::clone", "aten::_to_copy"}
SOFTMAX = {"aten::_softmax", "aten::_safe_softmax", "aten::_log_softmax"}
LOOKS_INSIDE = ("attn.hook_pattern", "attn.hook_attn_scores")


def recorded(run: Callable[[], object]) -> list[FunctionEvent]:
    with unchecked_types(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
        run()
    return list(record.events())


def sizes(event: FunctionEvent) -> list[int]:
    return [torch.Size(shape).numel() for shape in event.input_shapes if shape]


def check_no_weight_is_copied(model: HookedTransformer, tokens: Tensor = TOKENS) -> None:
    matrices = set()
    for name, weight in model.named_parameters():
        if name.rpartition(".")[2].startswith("W"):
            matrices |= {weight.numel(), weight[0].numel()} if ".experts." in name else {weight.numel()}
    events = recorded(lambda: model(tokens))
    assert {"aten::linear"} <= {event.name for event in events}, "the record shows what the pass does"
    copied = [
        (event.name, event.input_shapes) for event in events if event.name in COPIES and matrices & set(sizes(event))
    ]
    assert not copied


def is_square(shape: list[int]) -> bool:
    return len(shape) >= 2 and list(shape[-2:]) == [POS, POS]


def softmaxes(run: Callable[[], object]) -> int:
    """How many patterns a pass makes; fails if it makes a square tensor without one."""
    events = recorded(run)
    count = sum(event.name in SOFTMAX for event in events)
    if not count:
        squares = [(event.name, event.input_shapes) for event in events if any(map(is_square, event.input_shapes))]
        assert not squares
    return count


@functools.cache
def _folder(name: str, root: Path) -> Path:
    shared_hf(name).save_pretrained(root / name)
    return root / name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("checkpoints")
    return lambda name: str(_folder(name, root))


def _saved_and_loaded(model: HookedTransformer) -> HookedTransformer:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin = HookedTransformer(model.cfg)
    twin.load_state_dict(torch.load(file))
    return twin


def _assigned(model: HookedTransformer) -> HookedTransformer:
    twin = HookedTransformer(model.cfg)
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin


LIVES: dict[str, Callable[[HookedTransformer], HookedTransformer]] = {
    "as loaded": lambda model: model,
    "deepcopy": copy.deepcopy,
    "float64": lambda model: model.to(torch.float64),
    "half and back": lambda model: model.to(torch.bfloat16).float(),
    "state dict": _saved_and_loaded,
    "state dict assigned": _assigned,
}


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_no_weight_is_copied(name: str, life: str, folders: Callable[[str], str]) -> None:
    check_no_weight_is_copied(LIVES[life](HookedTransformer.from_pretrained(folders(name))))


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_no_weight_is_copied_without_processing(name: str, folders: Callable[[str], str]) -> None:
    check_no_weight_is_copied(HookedTransformer.from_pretrained_no_processing(folders(name)))


@pytest.mark.parametrize("gated", [False, True])
def test_no_weight_is_copied_in_a_model_of_ones_own(gated: bool) -> None:
    check_no_weight_is_copied(build(gated_mlp=gated, n_ctx=16, d_vocab=61))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_training_a_step_keeps_the_layout(name: str) -> None:
    model = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf(name))
    optimizer = torch.optim.AdamW(model.parameters())
    model(TOKENS, return_type="loss").backward()
    optimizer.step()
    check_no_weight_is_copied(model)


@pytest.mark.parametrize("weight", ["W_Q", "W_K", "W_V"])
def test_a_weight_that_lies_otherwise_is_noticed(weight: str) -> None:
    """A mutant for the check above: the same numbers, in the layout in which they read."""
    model = build(n_ctx=16, d_vocab=61)
    attn = model.blocks[1].attn
    setattr(attn, weight, torch.nn.Parameter(attn.get_parameter(weight).detach().contiguous()))
    with pytest.raises(AssertionError):
        check_no_weight_is_copied(model)


def test_a_copy_in_a_product_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mlp_module.linear
    monkeypatch.setattr(mlp_module, "linear", lambda x, weight, bias: right(x, weight.clone(), bias))
    with pytest.raises(AssertionError):
        check_no_weight_is_copied(build(n_ctx=16, d_vocab=61))


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
@pytest.mark.parametrize(
    ("dtype", "gradients"),
    [(torch.float32, False), (torch.float32, True), (torch.float64, False), (torch.bfloat16, False)],
)
def test_an_unhooked_pass_makes_no_pattern(name: str, gradients: bool, dtype: torch.dtype) -> None:
    model = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf(name), dtype=dtype)
    with torch.set_grad_enabled(gradients):
        assert softmaxes(lambda: model(TOKENS)) == 0


@pytest.mark.parametrize("look", LOOKS_INSIDE)
@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_looking_at_one_pattern_makes_one(name: str, look: str) -> None:
    model = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf(name))
    hook = f"blocks.0.{look}"
    with torch.no_grad():
        assert softmaxes(lambda: model.run_with_cache(TOKENS, names_filter=hook)) == 1
        assert softmaxes(lambda: model.run_with_hooks(TOKENS, fwd_hooks=[(hook, lambda value, hook: value)])) == 1
        assert softmaxes(lambda: model(TOKENS)) == 0, "afterwards it is free again"


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_looking_elsewhere_keeps_attention_fused(name: str) -> None:
    """At one point, or at all of them but the two that need a pattern."""
    model = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf(name))
    elsewhere = [hook for hook in model.hook_dict if not hook.endswith(LOOKS_INSIDE)]
    with torch.no_grad():
        for wanted in (["blocks.1.attn.hook_z"], ["blocks.1.attn.hook_q"], elsewhere):
            assert softmaxes(lambda wanted=wanted: model.run_with_cache(TOKENS, names_filter=wanted)) == 0


def test_every_pattern_is_counted() -> None:
    """The record does show patterns: three layers, three of them."""
    model = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf("gpt2"))
    assert softmaxes(lambda: model.run_with_cache(TOKENS)) == 3


def test_stopping_early_runs_no_later_layer() -> None:
    model = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf("gpt2"))

    def linears(**options: int) -> int:
        return sum(event.name == "aten::linear" for event in recorded(lambda: model(TOKENS, **options)))

    per_layer = linears(stop_at_layer=2) - linears(stop_at_layer=1)
    assert linears(stop_at_layer=0) == 0
    assert linears() == 3 * per_layer + 1, "and one to unembed"


def test_only_the_positions_asked_for_are_unembedded() -> None:
    model = HookedTransformer.from_pretrained("tiny", hf_model=shared_hf("gpt2"))
    events = recorded(lambda: model(TOKENS, logits_pos=-1))
    unembedding = [event.input_shapes[0] for event in events if event.name == "aten::linear"][-1]
    assert unembedding == [1, 1, 24]


COMPILED = """
import sys, torch
from interp_hooks import HookedTransformer

tokens = torch.arange(10).reshape(2, 5)

def double(z, hook):
    z *= 2

for folder in sys.argv[1:]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = HookedTransformer.from_pretrained(folder, device="cpu")
    whole = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        plain = model(tokens)
        assert torch.equal(whole(tokens), plain), folder
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, folder
        assert not torch._dynamo.utils.counters["graph_break"], folder
        compiled = torch.compile(model, backend="eager")
        with model.hooks(fwd_hooks=[("z1", double)]):
            hooked = compiled(tokens)
            assert not torch.allclose(hooked, plain), folder
            assert torch.equal(hooked, model(tokens)), folder
        assert torch.equal(compiled(tokens), plain), folder
"""


@pytest.mark.skipif(not torch._dynamo.is_dynamo_supported(), reason="torch.compile does not know this Python")
def test_a_loaded_model_compiles_in_one_graph_and_sees_later_hooks(folders: Callable[[str], str]) -> None:
    """In a process of their own, since the type checks of these tests cannot be compiled."""
    command = [sys.executable, "-c", COMPILED, *map(folders, ("gpt2", "neox", "llama"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-3000:]
