"""Which part of an activation a site selects."""

from typing import Any

import numpy as np
import pytest
import torch

from interp_hooks import HookPoint, Site, at
from interp_hooks.errors import BadInput
from tests.experiments.by_hand import model_of, put
from tests.tiny import unchecked_types


def _named(axes: str) -> HookPoint:
    point = HookPoint(axes)
    point.name = "x"
    return point


AXES = {
    "pos": _named("batch pos head d_head"),
    "query": _named("batch head query key"),
    "neuron": _named("batch pos neuron"),
}
SIZES = {"batch": 3, "pos": 4, "head": 3, "d_head": 4, "query": 3, "key": 4, "neuron": 5}
SELECTIONS: list[dict[str, Any]] = [
    {},
    {"pos": 0},
    {"pos": -4},
    {"pos": (1, 3)},
    {"pos": range(2)},
    {"pos": [2, -1]},
    {"pos": torch.tensor([0, -1, 2])},
    {"head": 1, "pos": 2},
    {"head": 1, "pos": [0, 3]},
    {"head": -1, "pos": torch.tensor([1, 1, 0])},
    {"pos": torch.tensor([1, 2, 0]), "head": torch.tensor([0, 1, 2])},
    {"d_head": [0, 1], "pos": 1},
    {"head": 0, "query": 2, "key": 1},
    {"query": [1, 2], "head": 2},
    {"key": torch.tensor([0, 1, 2])},
    {"neuron": 4, "pos": torch.tensor([0, 1, 2])},
    {"pos": torch.tensor([[0, 2], [1, 2], [3, -1]])},
    {"batch": 1},
    {"batch": 1, "pos": torch.tensor([0, 2, 3])},
    {"pos": torch.tensor([0, 2, 3]), "batch": 2},
    {"batch": 2, "pos": torch.tensor([[0, 2], [1, 2], [3, 0]]), "head": 1},
]
SEVERAL: list[dict[str, Any]] = [
    {"pos": [0, 2], "head": [0, 1]},
    {"pos": [0, 2, 3], "head": [0, 1]},
    {"pos": torch.tensor([0, 1, 2]), "head": [0, 1]},
    {"pos": torch.tensor([0, 1, 2]), "head": [0, 1, 2]},
    {"query": [0, 1], "key": [1, 2]},
    {"batch": [2, 0], "pos": torch.tensor([0, 2, 3])},
    {"batch": 1, "pos": torch.tensor([[0, 2], [1, 2], [3, 0]]), "head": [0, 2]},
    {"pos": torch.tensor([[0, 2, 3], [1, 2, 0], [3, 0, 1]]), "head": [0, 2]},
    {"batch": [0, 2], "head": torch.tensor([0, 2, 1]), "pos": torch.tensor([[0, 2], [1, 2], [3, 0]])},
]
MASKS: list[Any] = [True, [True, False, False, True], torch.tensor([True, False, True]), np.array([True, False])]


def _point(select: dict[str, Any]) -> HookPoint:
    return next(point for point in AXES.values() if set(select) <= set(point.axes))


def _zeros(point: HookPoint, **sizes: int) -> torch.Tensor:
    return torch.zeros([(SIZES | sizes)[axis] for axis in point.axes])


def _selected(select: dict[str, Any]) -> None:
    """A site indexes where a mask over the whole activation says, and nowhere else."""
    point = _point(select)
    value = _zeros(point)
    expected = put(value, point.axes, select, 1.0)
    value[Site(hook="x", select=select).index(point, value)] = 1.0
    assert torch.equal(value, expected)
    assert bool(value.any())


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
def test_a_site_selects_by_axis(select: dict[str, Any]) -> None:
    _selected(select)


@pytest.mark.parametrize("select", SEVERAL, ids=str)
def test_several_indices_of_several_axes_are_all_combinations(select: dict[str, Any]) -> None:
    """Two heads at two positions are four places."""
    _selected(select)


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("select", [*SELECTIONS, *SEVERAL], ids=str)
def test_of_the_last_positions_it_selects_the_same_places(select: dict[str, Any], first: int) -> None:
    """Positions and queries are cut at `first`, keys never; what lies before has to be outside of the selection."""
    point = _point(select)
    dim = next(dim for dim, axis in enumerate(point.axes) if axis in ("pos", "query"))
    site = Site(hook="x", select=select)
    whole = put(_zeros(point), point.axes, select, 1.0)
    if site.first_position(point, whole.shape[dim]) < first:
        return
    cut = whole.narrow(dim, first, whole.shape[dim] - first)
    value = torch.zeros_like(cut)
    value[site.index(point, value, first)] = 1.0
    assert torch.equal(value, cut)


@pytest.mark.parametrize("select", [*SELECTIONS, *SEVERAL], ids=str)
def test_the_first_position_is_the_first_that_is_selected(select: dict[str, Any]) -> None:
    """Of all prompts, also where only some are selected."""
    select = {axis: wanted for axis, wanted in select.items() if axis != "batch"}
    point = _point(select)
    whole = put(_zeros(point), point.axes, select, 1.0)
    dim = next(dim for dim, axis in enumerate(point.axes) if axis in ("pos", "query"))
    touched = whole.movedim(dim, 0).flatten(1).any(1).nonzero()
    assert Site(hook="x", select=select).first_position(point, whole.shape[dim]) == int(touched[0])


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"layer": 0}, "x has the axes batch, pos, head, d_head; there is no 'layer' to select"),
        ({"pos": 4}, "pos=4 is out of range: x has 4 along pos"),
        ({"pos": -5}, "pos=-5 is out of range"),
        ({"head": [0, 3]}, "head=3 is out of range: x has 3 along head"),
        ({"head": torch.tensor([0, 1, 3])}, "head=3 is out of range"),
        ({"pos": torch.tensor([0, 1])}, r"one index for each of 3 prompts; got shape \[2\]"),
        ({"pos": torch.tensor([[0], [1]])}, r"got shape \[2, 1\]"),
        ({"pos": torch.zeros(3, 1, 1).long()}, r"got shape \[3, 1, 1\]"),
        *(({"head": mask}, "must be an int, a list of ints .* Of a mask over the axis") for mask in MASKS),
        ({"pos": torch.tensor(1)}, "must be an int, a list"),
        ({"pos": 1.0}, "must be an int, a list"),
        ({"pos": slice(0, 2)}, "must be an int, a list"),
        ({"pos": None}, "must be an int, a list"),
        ({"pos": []}, "must be an int, a list"),
        ({"pos": torch.tensor([], dtype=torch.long)}, "must be an int, a list"),
    ],
    ids=str,
)
def test_what_a_site_cannot_select(select: dict[str, Any], message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        Site(hook="x", select=select).index(AXES["pos"], _zeros(AXES["pos"]))


def test_a_position_is_named_as_it_is_in_the_whole_prompt() -> None:
    """Also where only the last positions are there."""
    value = _zeros(AXES["pos"], pos=2)
    for pos in (4, -5):
        with pytest.raises(BadInput, match=f"pos={pos} is out of range: x has 4 along pos"):
            at("x", pos=pos).index(AXES["pos"], value, first=2)


@pytest.mark.parametrize(("wanted", "same"), [(np.int64(1), 1), (np.arange(2), [0, 1])], ids=str)
def test_numpy_integers_are_integers(wanted: Any, same: Any) -> None:
    """Indices often come out of an array."""
    with unchecked_types():
        assert Site(hook="x", select={"head": wanted}).key == Site(hook="x", select={"head": same}).key


@pytest.mark.parametrize(
    ("arguments", "hook"),
    [
        (("z", 1), "blocks.1.attn.hook_z"),
        (("z1",), "blocks.1.attn.hook_z"),
        (("attn", 2), "blocks.2.attn.hook_pattern"),
        (("mlp_out", 0), "blocks.0.hook_mlp_out"),
        (("post", 0), "blocks.0.mlp.hook_post"),
        (("blocks.2.hook_resid_pre",), "blocks.2.hook_resid_pre"),
        (("hook_embed",), "hook_embed"),
        (("embed",), "hook_embed"),
    ],
)
def test_short_and_full_names_are_one_site(arguments: tuple[Any, ...], hook: str) -> None:
    assert at(*arguments).hook == hook
    assert hook in model_of("gpt2").hook_dict
    assert at(*arguments, head=1).select == {"head": 1}


def test_sites_that_select_the_same_are_the_same() -> None:
    """A tensor is the same only as itself: nobody compares its numbers."""
    order = torch.tensor([1, 0])
    same = [
        (at("z", 0, head=1, pos=2), at("z", 0, pos=2, head=1)),
        (at("z", 0, pos=[1, 2]), at("z", 0, pos=range(1, 3))),
        (at("z", 0, pos=order), at("z", 0, pos=order)),
    ]
    different = [
        (at("z", 0), at("z", 1)),
        (at("z", 0), at("z", 0, head=0)),
        (at("z", 0, pos=1), at("z", 0, pos=[1])),
        (at("z", 0, pos=1), at("z", 0, head=1)),
        (at("z", 0, pos=order), at("z", 0, pos=1 - order)),
    ]
    assert all(one.key == other.key and hash(one.key) == hash(other.key) for one, other in same)
    assert all(one.key != other.key for one, other in different)
