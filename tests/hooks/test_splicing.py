"""Modules that stand at a hook point: what goes on, what hooks see, what the names are, and what is left afterwards."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_hooks import HookedRootModule, HookedTransformer, HookPoint
from interp_hooks.errors import BadHookValue, BadInput, HookConflict, UnknownHook
from tests.tiny import hooked, random_tokens, unchecked_types


class Dictionary(nn.Module):
    """What a sparse autoencoder looks like from outside: wider activations between two linear maps."""

    def __init__(self, width: int, features: int = 12) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(width, features), nn.Linear(features, width)
        self.hook_acts = HookPoint("batch pos feature", feature=features)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.hook_acts(self.read(x).relu()))


class Chain(HookedRootModule):
    """x -> times two -> hook_middle -> plus one -> hook_last."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_middle = HookPoint("batch pos width", width=3)
        self.hook_last = HookPoint("batch pos width", width=3)
        self.setup()

    def forward(self, x: Tensor) -> Tensor:
        return self.hook_last(self.hook_middle(2 * x) + 1)


X = torch.arange(12.0).reshape(2, 2, 3)


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def dictionary() -> Dictionary:
    torch.manual_seed(0)
    return Dictionary(3)


def expected(dictionary: Dictionary) -> Tensor:
    return dictionary(2 * X) + 1


def test_the_pass_goes_on_with_what_the_module_returns(chain: Chain, dictionary: Dictionary) -> None:
    assert not torch.equal(chain(X), expected(dictionary))
    handle = chain.splice("hook_middle", dictionary, name="sae")
    assert torch.equal(chain(X), expected(dictionary))
    handle.remove()
    assert torch.equal(chain(X), 2 * X + 1)


def test_the_end_of_a_with_block_takes_it_out(chain: Chain, dictionary: Dictionary) -> None:
    with chain.splice("hook_middle", dictionary):
        assert torch.equal(chain(X), expected(dictionary))
    assert torch.equal(chain(X), 2 * X + 1)
    with pytest.raises(RuntimeError), chain.splice("hook_middle", dictionary):
        chain(X[..., :2])
    assert torch.equal(chain(X), 2 * X + 1)
    assert type(chain.hook_middle) is HookPoint


def test_its_hook_points_are_the_models(chain: Chain, dictionary: Dictionary) -> None:
    name = "hook_middle.sae.hook_acts"
    before = list(chain.hook_dict)
    handle = chain.splice("hook_middle", dictionary, name="sae")
    assert list(chain.hook_dict) == ["hook_middle", name, "hook_last"]
    assert chain.hook_table().set_index("name").loc[name, "shape"] == "(?, ?, 12)"
    assert chain.points(lambda one: one.endswith("acts")) == [dictionary.hook_acts]
    output, cache = chain.run_with_cache(X)
    assert list(cache) == ["hook_middle", name, "hook_last"]
    assert torch.equal(cache[name], dictionary.read(2 * X).relu())
    zeroed = chain.run_with_hooks(X, fwd_hooks=[(name, lambda value, hook: 0 * value)])
    assert torch.equal(zeroed, (dictionary.write.bias + 1).expand_as(output))
    handle.remove()
    assert list(chain.hook_dict) == before
    assert dictionary.hook_acts.name == "hook_acts"
    with pytest.raises(UnknownHook):
        chain.run_with_cache(X, names_filter=name)


def test_hooks_on_the_point_run_before_the_module(chain: Chain, dictionary: Dictionary) -> None:
    chain.splice("hook_middle", dictionary)
    _, cache = chain.run_with_cache(X)
    assert torch.equal(cache["hook_middle"], 2 * X)
    halved = chain.run_with_hooks(X, fwd_hooks=[("hook_middle", lambda value, hook: value / 2)])
    assert torch.equal(halved, dictionary(X) + 1)


def test_hooks_stay_when_the_module_comes_and_goes(chain: Chain, dictionary: Dictionary) -> None:
    seen: list[Tensor] = []
    see: Callable[..., None] = lambda value, hook: seen.append(value)  # noqa: E731
    chain.hook_middle.add_hook(see)
    handle = chain.splice("hook_middle", dictionary)
    chain.reset_hooks(including_permanent=True)
    assert list(chain.splices) == ["hook_middle"], "hooks are removed, modules are not"
    hook = chain.hook_middle.add_hook(see)
    chain(X)
    handle.remove()
    chain(X)
    hook.remove()
    chain(X)
    assert len(seen) == 2


def test_gradients_reach_both_sides(chain: Chain, dictionary: Dictionary) -> None:
    chain.splice("hook_middle", dictionary, "sae")
    x = X.clone().requires_grad_()
    _, cache = chain.run_with_cache(x, incl_bwd=lambda output: output.sum())
    slope = dictionary.write.weight.sum(0)
    assert torch.allclose(cache["hook_middle.sae.hook_acts_grad"], slope.expand(2, 2, 12))
    acts = (dictionary.read(2 * X) > 0).float() * slope
    assert torch.allclose(cache["hook_middle_grad"], acts @ dictionary.read.weight)
    assert dictionary.write.weight.grad is not None


def test_an_edit_in_place_is_the_modules_own_business(chain: Chain) -> None:
    chain.splice("hook_middle", nn.ReLU(inplace=True))
    _, cache = chain.run_with_cache(-X)
    assert torch.equal(cache["hook_middle"], -2 * X)


def test_the_module_is_a_part_of_the_model(chain: Chain, dictionary: Dictionary) -> None:
    chain.splice("hook_middle", dictionary, "sae")
    assert "hook_middle.sae.read.weight" in chain.state_dict()
    chain.double()
    assert dictionary.read.weight.dtype == torch.float64
    assert chain(X.double()).dtype == torch.float64
    assert not chain.eval().splices["hook_middle"].module.training


@pytest.mark.parametrize("made", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_a_module_of_its_own(chain: Chain, dictionary: Dictionary, made: Any) -> None:
    chain.splice("hook_middle", dictionary, "sae")
    other = made(chain)
    other.splices["hook_middle"].remove()
    assert torch.equal(other(X), 2 * X + 1)
    assert torch.equal(chain(X), expected(dictionary))


def test_a_handle_that_was_used_does_nothing(chain: Chain, dictionary: Dictionary) -> None:
    first = chain.splice("hook_middle", dictionary)
    first.remove()
    second = chain.splice("hook_middle", nn.Identity())
    first.remove()
    assert chain.splices["hook_middle"].module is second.module


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (nn.Linear(3, 4), r"'spliced' that is spliced in at hook_middle returned shape \[2, 2, 4\]"),
        (nn.Sequential(nn.Linear(3, 3), nn.Identity()).double(), "."),
        (nn.LSTM(3, 3, batch_first=True), "hook_middle returned tuple"),
    ],
)
def test_what_cannot_stand_in_is_refused(chain: Chain, module: nn.Module, told: str) -> None:
    chain.splice("hook_middle", module)
    with pytest.raises((BadHookValue, RuntimeError), match=told):
        chain(X)


class ToDouble(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def test_another_dtype_is_refused(chain: Chain) -> None:
    chain.splice("hook_middle", ToDouble())
    with pytest.raises(BadHookValue, match=r"expected torch\.float32"):
        chain(X)


def test_mistakes_are_refused_and_change_nothing(chain: Chain, dictionary: Dictionary) -> None:
    with pytest.raises(UnknownHook, match="Did you mean hook_middle"):
        chain.splice("hook_midle", dictionary)
    for wrong in (None, lambda x: x, Dictionary):
        with unchecked_types(), pytest.raises(BadInput, match="module must be a Module, got"):
            chain.splice("hook_middle", wrong)  # pyright: ignore[reportArgumentType]
    for name in ("", "a.b", "hooks", "forward", "2nd"):
        with pytest.raises(BadInput, match="cannot be one"):
            chain.splice("hook_middle", dictionary, name)
    assert type(chain.hook_middle) is HookPoint
    chain.splice("hook_middle", dictionary, "sae")
    with pytest.raises(HookConflict, match="already, 'sae'"):
        chain.splice("hook_middle", nn.Identity())
    with pytest.raises(BadInput, match="part of the model already"):
        chain.splice("hook_last", dictionary)
    assert torch.equal(chain(X), expected(dictionary))


def test_a_point_without_a_module_asks_for_none(chain: Chain) -> None:
    """A pass must not pay for what could be spliced in: the point is a plain `HookPoint`, before and after."""
    handle = chain.splice("hook_middle", nn.Identity())
    assert type(chain.hook_last) is HookPoint
    handle.remove()
    assert type(chain.hook_middle) is HookPoint
    assert "forward" not in vars(chain.hook_middle)


# ------------------------------------------------------------------------------------------- in every kind of value


POINTS = [
    *("hook_embed", "blocks.1.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.attn.hook_z"),
    *("blocks.1.attn.hook_pattern", "blocks.1.attn.hook_attn_scores", "blocks.1.attn.hook_result"),
    *("blocks.1.hook_q_input", "blocks.1.ln1.hook_scale", "blocks.1.mlp.hook_post", "unembed.hook_out"),
]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return copy.deepcopy(hooked("gpt2"))


@pytest.mark.parametrize("name", POINTS)
def test_the_identity_changes_nothing_and_another_module_something(model: HookedTransformer, name: str) -> None:
    tokens = random_tokens()
    plain = model(tokens)
    with model.splice(name, nn.Identity()):
        assert torch.allclose(model(tokens), plain, rtol=0, atol=1e-12)
    with model.splice(name, nn.Sequential(nn.Softplus())):
        assert not torch.allclose(model(tokens), plain, rtol=0, atol=1e-6)
    assert torch.equal(model(tokens), plain)
