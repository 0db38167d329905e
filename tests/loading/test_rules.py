"""The mapping language: what a line means, forwards and backwards, how it fails, and the lines of a module."""

import pytest
import torch
from torch import Tensor

from interp_hooks.errors import WeightMismatch
from interp_hooks.loading.families.shared import modules
from interp_hooks.loading.rules import Rule, axis_sizes, rules
from tests.tiny import build

SIZES = {"h": 3, "g": 2, "k": 4, "d": 5, "m": 7, "v": 11}


def only(ours: str, theirs: str | None) -> Rule:
    (rule,) = rules({ours: theirs}, n_layers=2)
    return rule


def numbered(*shape: int) -> Tensor:
    """A tensor whose values are all different."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def test_layers_are_expanded_on_both_sides() -> None:
    first, second, alone = rules({"blocks.{i}.a, blocks.{i}.b": "h.{i}.x or old.{i}.x", "c": "d"}, n_layers=2)
    assert (first.layer, second.layer, alone.layer) == (0, 1, None)
    assert second.ours == ("blocks.1.a", "blocks.1.b")
    assert second.theirs == ("h.1.x", "old.1.x")
    assert second.name == "h.1.x or old.1.x"
    assert (alone.ours, alone.theirs, alone.pattern, alone.shares) == (("c",), ("d",), None, ())


@pytest.mark.parametrize(
    ("theirs", "optional"), [("x", False), ("x?", True), ("x ? | (h k) -> h k", True), (None, True)]
)
def test_what_may_be_absent(theirs: str | None, optional: bool) -> None:
    assert only("ours", theirs).optional is optional


def test_find_takes_the_first_name_there_is() -> None:
    state = {"old": torch.ones(1), "other": torch.ones(1)}
    assert only("ours", "new or old").find(state) is not None
    assert list(state) == ["other"], "what was found is used up"
    assert only("ours", "new or old").find(state) is None
    assert only("ours", None).find(state) is None


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        (("ours", "theirs"), (5, 7)),
        (("ours", "theirs | m d -> d m"), (7, 5)),
        (("ours", "theirs | (h k) d -> h d k"), (12, 5)),
        (("q, k, v", "theirs | (h qkv k) d -> qkv h d k"), (36, 5)),
        (("q, k, v", "theirs | d (qkv h k) -> qkv h d k"), (5, 36)),
        (("q, k, v", "theirs | (heads k) d -> heads d k | h g g"), (28, 5)),
    ],
)
def test_backward_undoes_forward(line: tuple[str, str], shape: tuple[int, ...]) -> None:
    rule, theirs = only(*line), numbered(*shape)
    ours = rule.forward(theirs, SIZES)
    assert len(ours) == len(rule.ours)
    assert torch.equal(rule.backward(ours, SIZES), theirs)


def test_a_pattern_moves_the_right_numbers() -> None:
    """Row `head * 4 + width` of their matrix is what that head projects onto that width."""
    theirs = numbered(12, 5)
    (ours,) = only("ours", "theirs | (h k) d -> h d k").forward(theirs, SIZES)
    assert list(ours.shape) == [3, 5, 4]
    assert torch.equal(ours[2, :, 1], theirs[2 * 4 + 1])


def test_several_names_split_the_first_axis_in_order() -> None:
    theirs = numbered(36, 5)
    q, k, v = only("q, k, v", "theirs | (h qkv k) d -> qkv h d k").forward(theirs, SIZES)
    for index, ours in enumerate((q, k, v)):
        assert torch.equal(ours[1, :, 2], theirs[1 * 12 + index * 4 + 2])


def test_shares_split_unevenly() -> None:
    q, k, v = only("q, k, v", "theirs | (heads k) d -> heads d k | h g g").forward(numbered(28, 5), SIZES)
    assert [len(ours) for ours in (q, k, v)] == [3, 2, 2]


def test_a_transposition_copies_nothing() -> None:
    theirs = numbered(7, 5)
    (ours,) = only("ours", "theirs | m d -> d m").forward(theirs, SIZES)
    assert ours.data_ptr() == theirs.data_ptr()


def test_a_wrong_shape_is_told_with_the_pattern_and_the_sizes() -> None:
    with pytest.raises(WeightMismatch) as error:
        only("ours", "some.weight | (h k) d -> h d k").forward(numbered(13, 5), SIZES)
    for part in ("some.weight", "[13, 5]", "(h k) d -> h d k", "h=3", "k=4", "d=5"):
        assert part in str(error.value)


def test_another_number_of_slices_is_told() -> None:
    with pytest.raises(WeightMismatch, match=r"some.weight gives 2 slices for 3 weights \(q, k, v\)"):
        only("q, k, v", "some.weight | (two h k) d -> two h d k").forward(numbered(24, 5), SIZES)


def test_axis_letters_have_the_configs_sizes() -> None:
    cfg = build(n_key_value_heads=2).cfg
    known = {axis: size for axis, size in axis_sizes(cfg).items() if size}
    assert known == {"h": 4, "g": 2, "q": 2, "k": 4, "w": 4, "p": 4, "d": 12, "m": 20, "v": 23, "S": 1}


def test_a_module_stands_for_its_weight_and_its_bias() -> None:
    table = modules("h.{i}", embed="wte", ln1="ln_1 or norm", o="attn.proj", unembed="lm_head")
    assert table == {
        "embed.W_E": "wte.weight",
        "blocks.{i}.ln1.w": "h.{i}.ln_1.weight or h.{i}.norm.weight",
        "blocks.{i}.ln1.b": "h.{i}.ln_1.bias? or h.{i}.norm.bias?",
        "blocks.{i}.attn.W_O": "h.{i}.attn.proj.weight | d (h k) -> h k d",
        "blocks.{i}.attn.b_O": "h.{i}.attn.proj.bias?",
        "unembed.W_U": "lm_head.weight | v d -> d v",
        "unembed.b_U": "lm_head.bias?",
    }
    bias = list(rules(table, n_layers=1))[2]
    assert (bias.theirs, bias.optional) == (("h.0.ln_1.bias", "h.0.norm.bias"), True)


@pytest.mark.parametrize(("g", "q"), [(3, 1), (1, 3), (2, 2)])
@pytest.mark.parametrize("layout", ["qkv", "qkv_by_group"])
def test_one_matrix_of_queries_keys_and_values(layout: str, g: int, q: int) -> None:
    """Row by row, for single, multi and grouped heads: of which head and width it is."""
    sizes = SIZES | {"g": g, "q": q, "h": g * q}
    queries, keys, values = (numbered(n, 4, 5) + begin for n, begin in ((g * q, 0), (g, 1000), (g, 2000)))
    if layout == "qkv":
        theirs = torch.cat([*queries, *keys, *values])
    else:
        theirs = torch.cat([torch.cat([*queries[i * q : (i + 1) * q], keys[i], values[i]]) for i in range(g)])
    weight, bias = rules(modules(**{layout: "c_attn"}), n_layers=1)
    for ours, part in zip(weight.forward(theirs, sizes), (queries, keys, values), strict=True):
        assert torch.equal(ours, part.mT)
    for ours, part in zip(bias.forward(theirs[:, 0], sizes), (queries, keys, values), strict=True):
        assert torch.equal(ours, part[..., 0])
    assert torch.equal(weight.backward(weight.forward(theirs, sizes), sizes), theirs)


def test_a_misspelt_module_is_told() -> None:
    with pytest.raises(ValueError, match=r"no module is called 'ln_1' here\. Did you mean.*ln1"):
        modules(ln_1="ln_1")
