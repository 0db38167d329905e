"""Caching runs: what is kept of a value, gradients, and passes that end once nothing is left to keep."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedRootModule, HookedTransformer, HookPoint
from interp_hooks.errors import BadInput, HookDidNotFire, UnknownHook
from tests.tiny import ARCHITECTURES, build, hooked, random_tokens


class Steps(HookedRootModule):
    """x -> first -> times two -> middle -> squared -> last, and what it sums to over the width; counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.hook_first = HookPoint("batch pos width", width=3)
        self.hook_middle = HookPoint("batch pos width", width=3)
        self.hook_last = HookPoint("batch pos width", width=3)
        self.hook_totals = HookPoint("batch width", width=3)
        self.hook_pairs = HookPoint("batch query key", collected=False)
        self.hook_unnamed = HookPoint(collected=False)
        self.steps = 0
        self.setup()

    def forward(self, x: Tensor, returns: str | None = "all") -> Tensor | None:
        x = self.hook_first(x)
        self.steps += 1
        self.hook_pairs(x @ x.mT)
        self.hook_unnamed(x)
        x = self.hook_middle(2 * x)
        self.steps += 1
        x = self.hook_last(x.square())
        self.steps += 1
        total = self.hook_totals(x.sum(1))
        return {"all": total, "one": total.sum(), None: None}[returns]

    def has_output(self, x: Tensor, returns: str | None = "all") -> bool:
        return returns is not None


@pytest.fixture
def steps() -> Steps:
    return Steps()


X = torch.arange(24.0).reshape(2, 4, 3)
COLLECTED = ["hook_first", "hook_middle", "hook_last", "hook_totals"]


def add(number: float) -> Callable[..., Tensor]:
    return lambda value, hook: value + number


def hooked_points(model: HookedRootModule) -> list[str]:
    return [point.name for point in model.hook_points() if point.hooked]


# ------------------------------------------------------------------------------------------------------- what is kept


def test_a_cache_holds_the_values_by_name_in_order(steps: Steps) -> None:
    out, cache = steps.run_with_cache(X)
    assert list(cache) == COLLECTED, "hook_pairs is not collected by default"
    assert torch.equal(cache["hook_first"], X)
    assert torch.equal(cache["hook_middle"], 2 * X)
    assert torch.equal(cache["hook_last"], 4 * X * X)
    assert torch.equal(cache["hook_totals"], out)
    _, everything = steps.run_with_cache(X, names_filter=lambda name: True)
    assert torch.equal(everything["hook_pairs"], torch.einsum("bqw,bkw->bqk", X, X))


def test_what_is_cached_is_detached(steps: Steps) -> None:
    _, cache = steps.run_with_cache(X.clone().requires_grad_())
    assert not any(value.requires_grad for value in cache.values())


def test_a_cache_sees_what_other_hooks_left(steps: Steps) -> None:
    with steps.hooks(fwd_hooks=[("hook_first", add(1))]):
        _, cache = steps.run_with_cache(X)
    assert torch.equal(cache["hook_first"], X + 1)


def test_removing_the_batch_axis_of_several_prompts_is_refused(steps: Steps) -> None:
    _, cache = steps.run_with_cache(X[:1], remove_batch_dim=True)
    assert torch.equal(cache["hook_first"], X[0])
    with pytest.raises(BadInput, match="from a single prompt, got 2"):
        steps.run_with_cache(X, remove_batch_dim=True)
    assert hooked_points(steps) == []


def test_a_cache_lies_on_the_device_asked_for(steps: Steps) -> None:
    out, cache = steps.run_with_cache(X, device="meta")
    assert {value.device.type for value in cache.values()} == {"meta"}
    assert out.device.type == "cpu"


@pytest.mark.parametrize(
    ("pos_slice", "kept"),
    [(-1, [3]), (1, [1]), ((1, 3), [1, 2]), (slice(0, 4, 2), [0, 2]), ([3, 0], [3, 0]), (torch.tensor([2]), [2]),
     (None, [0, 1, 2, 3])],
)  # fmt: skip
def test_positions_are_chosen_and_a_single_one_keeps_its_axis(steps: Steps, pos_slice: Any, kept: list[int]) -> None:
    _, cache = steps.run_with_cache(X, names_filter=[*COLLECTED, "hook_pairs"], pos_slice=pos_slice)
    assert torch.equal(cache["hook_middle"], (2 * X)[:, kept])
    assert torch.equal(cache["hook_pairs"], (X @ X.mT)[:, kept]), "by query"
    assert torch.equal(cache["hook_totals"], (4 * X * X).sum(1)), "no positions there"
    _, alone = steps.run_with_cache(X[:1], pos_slice=pos_slice, remove_batch_dim=True)
    assert torch.equal(alone["hook_middle"], (2 * X)[0, kept])


def test_a_few_positions_do_not_hold_the_memory_of_all(steps: Steps) -> None:
    _, cache = steps.run_with_cache(X, names_filter="hook_last", pos_slice=(0, 1))
    assert cache["hook_last"].untyped_storage().nbytes() == 2 * 1 * 3 * 4


def test_positions_that_are_not_there_are_refused(steps: Steps) -> None:
    with pytest.raises(BadInput, match=r"position .* 4 is out of range for an axis of 4"):
        steps.run_with_cache(X, pos_slice=4)
    with pytest.raises(BadInput, match="which axis of hook_unnamed is 'pos'"):
        steps.run_with_cache(X, names_filter="hook_unnamed", pos_slice=0)
    assert hooked_points(steps) == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_point_of_every_architecture_knows_its_positions(architecture: str) -> None:
    model, tokens = hooked(architecture), random_tokens(batch=3, pos=5, d_vocab=19)
    with torch.no_grad():
        _, whole = model.run_with_cache(tokens, names_filter=lambda name: True, return_cache_object=False)
        _, some = model.run_with_cache(
            tokens, names_filter=lambda name: True, return_cache_object=False, pos_slice=[4, 1]
        )
    assert list(some) == list(whole)
    for name, value in whole.items():
        per_query = name.endswith(("hook_attn_scores", "hook_pattern", "hook_sink", "hook_mixing"))
        dim = 2 if per_query else 1
        assert value.shape[dim] == 5, name
        assert torch.equal(some[name], value.index_select(dim, torch.tensor([4, 1]))), name


# --------------------------------------------------------------------------------------------------------- gradients


def test_cached_gradients_are_those_of_autograd(steps: Steps) -> None:
    x = X.clone().requires_grad_()
    _, cache = steps.run_with_cache(x, "one", incl_bwd=True)
    assert list(cache)[:4] == COLLECTED
    assert torch.equal(cache["hook_last_grad"], torch.ones_like(X))
    assert torch.equal(cache["hook_middle_grad"], 4 * X)
    assert torch.equal(cache["hook_first_grad"], 8 * X)
    assert not any(value.requires_grad for value in cache.values())


def test_gradients_of_a_function_of_the_output(steps: Steps) -> None:
    x = X.clone().requires_grad_()
    options: dict[str, Any] = dict(names_filter=["hook_last", "hook_first"], pos_slice=1)
    out, cache = steps.run_with_cache(x, incl_bwd=lambda totals: totals[1, 2], **options)
    assert list(cache) == ["hook_first", "hook_last", "hook_last_grad", "hook_first_grad"]
    assert torch.equal(out.detach(), (4 * X * X).sum(1))
    expected = torch.zeros_like(X)
    expected[1, :, 2] = 1.0
    assert torch.equal(cache["hook_last_grad"], expected[:, [1]])
    assert torch.equal(cache["hook_first_grad"], (expected * 8 * X)[:, [1]])


def test_what_is_no_number_has_no_gradient(steps: Steps) -> None:
    for returns, function, said in (
        ("all", True, r"one number, got shape \[2, 3\]"),
        ("one", lambda total: 1.0, "one number, got float"),
        (None, True, "one number, got NoneType"),
    ):
        with pytest.raises(BadInput, match=f"incl_bwd differentiates {said}"):
            steps.run_with_cache(X.clone().requires_grad_(), returns, incl_bwd=function)
    with torch.no_grad(), pytest.raises(BadInput, match="incl_bwd needs gradients, which are off"):
        steps.run_with_cache(X.clone().requires_grad_(), "one", incl_bwd=True)
    assert hooked_points(steps) == []


def test_gradients_at_any_hook_of_any_number(steps: Steps) -> None:
    """Here of a number that depends on a value inside, by two passes."""
    x, inside = X.clone().requires_grad_(), []
    cache, forward, backward = steps.get_caching_hooks("hook_first", incl_bwd=True)
    with steps.hooks([("hook_middle", lambda value, hook: inside.append(value)), *forward], backward):
        steps(x)
        inside[0][0, 0, 1].pow(3).backward()
    value = X[0, 0, 1]
    assert list(cache) == ["hook_first", "hook_first_grad"]
    assert torch.equal(cache["hook_first_grad"].nonzero(), torch.tensor([[0, 0, 1]]))
    assert cache["hook_first_grad"][0, 0, 1] == 24 * value**2, "d (2 x)^3 / d x"


def test_gradients_of_a_model_with_respect_to_a_logit_difference() -> None:
    model, tokens = build(), random_tokens(batch=2, pos=5, d_vocab=19)
    name, values = "blocks.1.attn.hook_z", []

    def difference(logits: Tensor) -> Tensor:
        return logits[:, -1, 3].sum() - logits[:, -1, 7].sum()

    _, cache = model.run_with_cache(tokens, names_filter=name, incl_bwd=difference)
    logits = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook: values.append(value))])
    (expected,) = torch.autograd.grad(difference(logits), values)
    assert torch.equal(cache[f"{name}_grad"], expected)


# ----------------------------------------------------------------------------------------------- hooks that fill a dict


def test_caching_hooks_stay_until_reset(steps: Steps) -> None:
    cache = steps.add_caching_hooks(["hook_middle", "hook_first"], device="cpu")
    assert cache == {}
    steps(X)
    assert {name: value.shape for name, value in cache.items()} == {"hook_first": X.shape, "hook_middle": X.shape}
    steps(X[:1] + 1)
    assert torch.equal(cache["hook_middle"], 2 * (X[:1] + 1)), "the latest pass"
    steps.reset_hooks()
    steps(X)
    assert torch.equal(cache["hook_middle"], 2 * (X[:1] + 1))


def test_caching_hooks_fill_the_dict_that_is_given(steps: Steps) -> None:
    cache = {"before": X}
    assert steps.add_caching_hooks("hook_totals", incl_bwd=True, remove_batch_dim=True, cache=cache) is cache
    x = X[:1].clone().requires_grad_()
    steps(x, "one").backward()
    assert list(cache) == ["before", "hook_totals", "hook_totals_grad"]
    assert torch.equal(cache["hook_totals"], (4 * X * X).sum(1)[0])
    assert torch.equal(cache["hook_totals_grad"], torch.ones(3))
    with pytest.raises(UnknownHook, match="hook_totals"):
        steps.add_caching_hooks("hook_total")


def test_caching_all_and_some(steps: Steps) -> None:
    everything: dict[str, Tensor] = {}
    some: dict[str, Tensor] = {}
    steps.cache_all(everything)
    assert steps.cache_some(some, lambda name: name.endswith("st"), incl_bwd=True) is some
    steps(X.clone().requires_grad_(), "one").backward()
    assert list(everything) == COLLECTED
    assert list(some) == ["hook_first", "hook_last", "hook_last_grad", "hook_first_grad"]
    assert torch.equal(some["hook_first_grad"], 8 * X)


def test_hooks_may_be_had_without_being_attached(steps: Steps) -> None:
    cache, forward, backward = steps.get_caching_hooks(["hook_last", "hook_first"], pos_slice=2)
    assert hooked_points(steps) == []
    assert backward == []
    steps.run_with_hooks(X, fwd_hooks=forward)
    assert torch.equal(cache["hook_last"], (4 * X * X)[:, [2]])
    given, forward, _ = steps.get_caching_hooks(cache=cache)
    assert given is cache
    steps.run_with_hooks(X, fwd_hooks=forward)
    assert sorted(cache) == sorted(COLLECTED)


def test_caching_hooks_may_stay_after_a_run(steps: Steps) -> None:
    _, cache = steps.run_with_cache(X, names_filter="hook_first", reset_hooks_end=False)
    steps(X + 1)
    assert torch.equal(cache["hook_first"], X + 1)
    steps.hook_first.ctx["note"] = 1
    steps.run_with_cache(X, clear_contexts=True)
    assert steps.hook_first.ctx == {}


# --------------------------------------------------------------------------------------------- ending when all is there


@pytest.mark.parametrize(
    ("names", "taken"),
    [("hook_first", 0), ("hook_middle", 1), (["hook_middle", "hook_first"], 1), ("hook_last", 2), ("hook_totals", 3),
     (lambda name: "middle" in name, 1), (None, 3)],
)  # fmt: skip
def test_a_pass_without_output_ends_behind_the_last_value_wanted(steps: Steps, names: Any, taken: int) -> None:
    _, complete = steps.run_with_cache(X, names_filter=names)
    steps.steps = 0
    out, cache = steps.run_with_cache(X, None, names_filter=names)
    assert out is None
    assert steps.steps == taken
    assert list(cache) == list(complete)
    assert all(torch.equal(value, complete[name]) for name, value in cache.items())
    assert hooked_points(steps) == []
    steps(X)
    assert steps.steps == taken + 3, "later passes are whole"


def test_a_pass_with_an_output_is_whole(steps: Steps) -> None:
    steps.run_with_cache(X, names_filter="hook_first")
    assert steps.steps == 3


def test_a_pass_does_not_end_before_others_are_served(steps: Steps) -> None:
    seen: list[str] = []
    note: Any = lambda value, hook: seen.append(hook.name)  # noqa: E731
    with steps.hooks(fwd_hooks=[("hook_first", note)]):
        steps.run_with_cache(X, None, names_filter="hook_middle")
        assert (steps.steps, seen) == (1, ["hook_first"]), "this one has been"
        with steps.hooks(fwd_hooks=[("hook_totals", note)]):
            steps.run_with_cache(X, None, names_filter="hook_middle")
            assert (steps.steps, seen[1:]) == (1 + 3, ["hook_first", "hook_totals"])
    steps.steps = 0
    with steps.hooks(bwd_hooks=[("hook_first", note)]):
        steps.run_with_cache(X.clone().requires_grad_(), None, names_filter="hook_middle")
    assert steps.steps == 3, "somebody may differentiate what a hook took out"
    steps.run_with_cache(X, None, names_filter="hook_middle", reset_hooks_end=False)
    steps(X)
    assert steps.steps == 3 + 3 + 3, "hooks that stay end nothing"


def test_a_pass_within_a_pass_ends_by_itself(steps: Steps) -> None:
    inner = Steps()

    def run(value: Tensor, hook: HookPoint) -> Tensor:
        return value + inner.run_with_cache(X, None, names_filter="hook_first")[1]["hook_first"]

    with steps.hooks(fwd_hooks=[("hook_first", run)]):
        _, cache = steps.run_with_cache(X, None, names_filter="hook_middle")
    assert (inner.steps, steps.steps) == (0, 1)
    assert torch.equal(cache["hook_middle"], 2 * (X + X))


def test_the_end_of_another_pass_is_not_taken_for_ones_own(steps: Steps) -> None:
    """Caching within a hook function of the very module reaches the watchers of the outer pass."""

    def again(value: Tensor, hook: HookPoint) -> None:
        if not steps.steps:
            steps.steps = 1
            steps.run_with_cache(X, "all", names_filter="hook_middle")

    with steps.hooks(fwd_hooks=[("hook_first", again)]):
        _, cache = steps.run_with_cache(X, None, names_filter="hook_first")
    assert list(cache) == ["hook_first"]
    assert hooked_points(steps) == []


def test_what_is_never_reached_is_still_told(steps: Steps) -> None:
    steps.hook_never = HookPoint("batch")
    steps.setup()
    with pytest.raises(HookDidNotFire, match="never came by hook_never"):
        steps.run_with_cache(X, None, names_filter=["hook_first", "hook_never"])


class Quiet(HookedTransformer):
    """A transformer of whose passes without logits only the hooks are asked."""

    def has_output(self, input: Any, return_type: str | None = "logits", *args: Any, **kwargs: Any) -> bool:
        return return_type is not None


@pytest.mark.parametrize(
    ("names", "blocks"), [("hook_embed", 0), ("z1", 2), (["resid_post1", "q0"], 2), ("resid_pre2", 3), (None, 3)]
)
@pytest.mark.parametrize("given", [("return_type",), ()])
def test_a_transformer_computes_no_layer_that_nobody_reads(given: tuple[str, ...], names: Any, blocks: int) -> None:
    plain, tokens = build(), random_tokens(batch=2, pos=5, d_vocab=19)
    quiet, entered = Quiet(plain.cfg), []
    quiet.load_state_dict(plain.state_dict())
    for layer, block in enumerate(quiet.blocks):
        block.register_forward_pre_hook(lambda module, args, layer=layer: entered.append(layer))
    read = {"return_type": None} if given else {}
    positional = () if given else (None,)
    with torch.no_grad():
        out, cache = quiet.run_with_cache(tokens, *positional, names_filter=names, **read)
        _, whole = plain.run_with_cache(tokens, names_filter=names)
    assert out is None
    assert entered == list(range(blocks))
    assert all(torch.equal(cache[name], whole[name]) for name in cache)
    assert set(whole) - set(cache) <= {"unembed.hook_in", "unembed.hook_out"}
