"""What `demos/ioi_circuit.py` tells of `ioi-tiny`: its heads, its circuits, and that no head backs up another."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    ActivationCache,
    Circuit,
    HookedTransformer,
    HookPoint,
    detect_head,
    eap_ig,
    faithfulness,
    path_patch,
    tasks,
)
from interp_hooks.circuits import completeness, random_baseline
from interp_hooks.experiments import mean_activations
from interp_hooks.interventions.sites import at

METHODS = ("zero", "mean", "resample")


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny", device="cpu")


def s2_to_io(model: HookedTransformer, n: int, seed: int) -> tasks.Task:
    return tasks.ioi(model, n, corruption="S2->IO", seed=seed)


def abc(model: HookedTransformer, n: int, seed: int) -> tasks.Task:
    return tasks.ioi(model, n, corruption="ABC", seed=seed)


# ----------------------------------------------------------------------------------------------------------- circuits


def ranking(model: HookedTransformer, old: tasks.Task) -> Circuit:
    return eap_ig(model, old.clean, old.corrupt, old.metric, positions=old.positions)


@pytest.fixture(scope="module")
def swapped(model: HookedTransformer) -> Circuit:
    """80 edges that matter when the other person is named twice."""
    return ranking(model, s2_to_io(model, 64, seed=0)).top(80, absolute=True).pruned()


@pytest.fixture(scope="module")
def helping(model: HookedTransformer) -> dict[int, Circuit]:
    """By number of edges, those that help most when there is nobody to name."""
    scores = ranking(model, abc(model, 64, seed=0))
    return {n: scores.top(n).pruned() for n in (52, 130)}


def share(model: HookedTransformer, circuit: Circuit, new: tasks.Task) -> float:
    result = faithfulness(model, circuit, new.clean, new.corrupt, new.metric, positions=new.positions)
    return float(result.recovered_fraction)


def test_the_circuit_is_faithful_on_other_prompts_and_random_ones_are_not(
    model: HookedTransformer, swapped: Circuit
) -> None:
    new = s2_to_io(model, 64, seed=1)
    assert 0.85 < share(model, swapped, new) < 0.97
    rivals = random_baseline(
        model,
        len(swapped),
        new.clean,
        new.corrupt,
        new.metric,
        samples=10,
        positions=new.positions,
        generator=torch.Generator().manual_seed(0),
    )
    assert rivals.result.recovered_fraction.max() < 0.3
    assert rivals.upper < 0.1


def test_edges_that_help_overshoot(model: HookedTransformer, helping: dict[int, Circuit]) -> None:
    new = abc(model, 64, seed=1)
    assert 0.8 < share(model, helping[52], new) < 1.2
    assert share(model, helping[130], new) > 1.35


def test_the_circuit_lacks_little_and_edges_that_help_lack_much(
    model: HookedTransformer, swapped: Circuit, helping: dict[int, Circuit]
) -> None:
    """With nothing or one node taken away, of 11 from the wrong answer to the right one, and of 5.4 from none."""
    largest = []
    for circuit, new in ((swapped, s2_to_io(model, 32, seed=1)), (helping[52], abc(model, 32, seed=1))):
        gaps = completeness(model, circuit, new.clean, new.corrupt, new.metric, positions=new.positions)
        largest.append(gaps.mean.abs().max().item())
    assert largest[0] < 1.7
    assert largest[1] > 3.4


@pytest.mark.parametrize("head", ["a0.h0", "a1.h2"])
def test_the_gap_without_a_head_is_that_of_runs_by_hand(model: HookedTransformer, swapped: Circuit, head: str) -> None:
    new = s2_to_io(model, 12, seed=1)
    removed = swapped.at_node(head)
    circuit, whole = (part.edges - removed.edges for part in (swapped, swapped.graph.circuit()))
    expected = by_hand(model, circuit, new) - by_hand(model, whole, new)
    gap = completeness(
        model,
        swapped,
        new.clean,
        new.corrupt,
        new.metric,
        subsets={"head": removed},
        positions=new.positions,
    )
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(gap.values[0], expected, rtol=0, atol=1e-4)


def by_hand(model: HookedTransformer, kept: frozenset[tuple[str, str]], new: tasks.Task) -> Tensor:
    """The logit difference if every edge that is not kept carries what its writer wrote in the corrupt prompt."""
    cfg, n = model.cfg, len(new)
    _, other = model.run_with_cache(new.corrupt)
    embedded = model.run_with_cache(new.clean)[1]["resid_pre", 0]
    lacks = {"input": other["resid_pre", 0] - embedded}  # by writer, what the stream is to have more of
    label = torch.full(embedded.shape[:2], -1)
    names = list(new.positions)
    for number, name in enumerate(names):
        label[torch.arange(n), new.positions[name]] = number

    def missing(reader: str) -> Tensor:
        """What is wrong with the stream for a reader at its positions."""
        total = torch.zeros_like(embedded)
        for (number, name), (writer, lack) in itertools.product(enumerate([*names, "rest"]), lacks.items()):
            if (writer, f"{reader}@{name}") not in kept:
                total += lack * (label == (-1 if name == "rest" else number))[..., None]
        return total

    def heads_read(layer: int, what: str) -> Callable[[Tensor, HookPoint], Tensor]:
        return lambda value, hook: (
            value + torch.stack([missing(f"a{layer}.h{head}<{what}>") for head in range(cfg.n_heads)], dim=2)
        )

    def heads_write(layer: int) -> Callable[[Tensor, HookPoint], None]:
        def note(z: Tensor, hook: HookPoint) -> None:
            for head in range(cfg.n_heads):
                lacks[f"a{layer}.h{head}"] = (other["z", layer] - z)[:, :, head] @ model.W_O[layer, head]

        return note

    def mlp_writes(layer: int) -> Callable[[Tensor, HookPoint], None]:
        return lambda value, hook: lacks.update({f"m{layer}": other["mlp_out", layer] - value})

    hooks = []
    for layer in range(cfg.n_layers):
        block = f"blocks.{layer}"
        hooks += [(f"{block}.hook_{what}_input", heads_read(layer, what)) for what in "qkv"]
        hooks.append((f"{block}.attn.hook_z", heads_write(layer)))
        hooks.append((f"{block}.hook_mlp_in", lambda value, hook, layer=layer: value + missing(f"m{layer}")))
        hooks.append((f"{block}.hook_mlp_out", mlp_writes(layer)))
    hooks.append((f"blocks.{cfg.n_layers - 1}.hook_resid_post", lambda value, hook: value + missing("logits")))
    with torch.no_grad():
        logits = model.run_with_hooks(new.clean, fwd_hooks=hooks)[torch.arange(n), new.positions["end"]]
    return logits[torch.arange(n), new.answer] - logits[torch.arange(n), new.wrong[:, 0]]


# -------------------------------------------------------------------------------------------------------------- heads


def test_one_head_looks_at_duplicates_and_none_at_the_token_before(model: HookedTransformer) -> None:
    words = torch.randperm(model.cfg.d_vocab - 1, generator=torch.Generator().manual_seed(0))[:30] + 1
    repeated = torch.cat((torch.zeros(1, dtype=torch.long), words, words))
    duplicate = detect_head(model, repeated, "duplicate_token_head")
    assert duplicate[0, 0] > 0.4
    assert duplicate.flatten()[1:].max() < 0.1
    assert detect_head(model, repeated, "previous_token_head").max() < 0.15
    induction = detect_head(model, repeated, "induction_head")
    assert induction[1].min() > 0.25
    assert induction[[0, 2]].max() < 0.1


def test_two_heads_tell_the_movers_whom_to_pass_by(model: HookedTransformer) -> None:
    new = s2_to_io(model, 128, seed=2)
    told = path_patch(
        model, new.clean, new.corrupt, new.metric, receivers=at("q_input", 2), direction="noise", progress=False
    ).recovered_fraction
    assert told[1, [0, 2]].min() > 0.05
    assert told[1, [1, 3]].abs().max() < 0.05
    assert told[0].abs().max() < 0.01


class Heads(NamedTuple):
    """The model on some prompts, and on unrelated ones of the same templates."""

    model: HookedTransformer
    task: tasks.Task
    cache: ActivationCache
    elsewhere: ActivationCache
    means: dict[str, Tensor]

    def without(self, layer: int, heads: list[int], method: str) -> ActivationCache:
        """Activations when these heads write something else at the last token."""
        rows, end = torch.arange(len(self.task)), self.task.positions["end"]

        def replace(z: Tensor, hook: HookPoint) -> Tensor:
            new = {"zero": torch.zeros_like(z), "mean": self.means[hook.name], "resample": self.elsewhere[hook.name]}
            for head in heads:
                z[rows, end, head] = new[method][rows, end, head]
            return z

        with self.model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", replace)]):
            return self.model.run_with_cache(self.task.clean)[1]

    def effects(self, activations: ActivationCache, scale_of: ActivationCache | None = None) -> Tensor:
        """The direct effects [layer, head, prompt], by the final norm's scale of these or of other activations."""
        model, task, rows, end = self.model, self.task, torch.arange(len(self.task)), self.task.positions["end"]
        z = torch.stack([activations["z", layer][rows, end] for layer in range(model.cfg.n_layers)])
        written = torch.einsum("lbhk, lhkd -> lhbd", z, model.W_O)
        written = written - written.mean(-1, keepdim=True)
        direction = (model.W_U[:, task.answer] - model.W_U[:, task.wrong[:, 0]]).T
        scale = (scale_of or activations)["ln_final.hook_scale"][rows, end]
        return ((written / scale) * direction).sum(-1).detach()

    def difference(self, activations: ActivationCache) -> Tensor:
        """The logit difference, from the final stream."""
        rows, end = torch.arange(len(self.task)), self.task.positions["end"]
        with torch.no_grad():
            logits = self.model.unembed(self.model.ln_final(activations["resid_post", -1][rows, end][:, None]))[:, 0]
        return logits[rows, self.task.answer] - logits[rows, self.task.wrong[:, 0]]


@pytest.fixture(scope="module")
def heads(model: HookedTransformer) -> Heads:
    task, unrelated = s2_to_io(model, 192, seed=2), abc(model, 192, seed=2)
    assert task.clean == unrelated.clean
    groups = dict(groups=task.template, reference_groups=unrelated.template)
    means = mean_activations(model, task.clean, "z", reference=unrelated.corrupt, per_position=True, **groups)
    (_, cache), (_, elsewhere) = (model.run_with_cache(prompts) for prompts in (task.clean, unrelated.corrupt))
    return Heads(model, task, cache, elsewhere, means)


def test_the_heads_of_the_last_layer_all_move_names(heads: Heads) -> None:
    rows, end = torch.arange(len(heads.task)), heads.task.positions["end"]
    assert heads.effects(heads.cache)[2].mean(-1).min() > 0.5
    to = {name: heads.cache["pattern", 2][rows, :, end, heads.task.positions[name]].mean(0) for name in ("IO", "S1")}
    assert to["IO"].min() > 10 * to["S1"].max()


@pytest.mark.parametrize("method", METHODS)
def test_what_seems_to_back_up_the_last_layer_is_the_norm(heads: Heads, method: str) -> None:
    """The logit difference falls by less than is taken out, while no other head writes anything else."""
    best = [1, 2, 3]
    before, after = heads.effects(heads.cache), heads.without(2, best, method)
    change = (heads.effects(after, scale_of=heads.cache) - before).mean(-1)
    removed = -change[2, best].sum()
    change[2, best] = 0
    assert change.abs().max() < 1e-5
    fall = (heads.difference(heads.cache) - heads.difference(after)).mean()
    assert 0.12 * removed < removed - fall < 0.5 * removed


@pytest.mark.parametrize("method", METHODS)
def test_no_later_head_takes_over_from_heads_of_layer_1(heads: Heads, method: str) -> None:
    """Whichever of them are taken out; from the best three, more falls than they wrote."""
    before = heads.effects(heads.cache)
    for n in (1, 2, 3, 4):
        for taken_out in itertools.combinations(range(4), n):
            after = heads.without(1, list(taken_out), method)
            gained = (heads.effects(after, scale_of=heads.cache) - before).mean(-1)
            assert gained[2].max() < 0.05
            if taken_out == (0, 2, 3):
                fall = (heads.difference(heads.cache) - heads.difference(after)).mean()
                assert fall > -1.5 * gained[1, list(taken_out)].sum() > 1.5
                assert gained[2].max() < -0.3


def test_zeros_leave_the_stream_smaller_than_it_ever_is(heads: Heads) -> None:
    rows, end = torch.arange(len(heads.task)), heads.task.positions["end"]
    smallest = heads.cache["ln_final.hook_scale"][rows, end].min()
    outside = {}
    for method in METHODS:
        after = heads.without(1, [0, 2, 3], method)
        outside[method] = float((after["ln_final.hook_scale"][rows, end] < smallest).float().mean())
    assert outside["zero"] > 0.4
    assert outside["mean"] < 0.1
    assert outside["resample"] < 0.02
