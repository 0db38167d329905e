"""Values that users pass around go through pickle (to other processes) and deepcopy, and are the same afterwards."""

import copy
import functools
import multiprocessing
import pickle
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_hooks
from interp_hooks import (
    KL,
    Accuracy,
    Circuit,
    FactoredMatrix,
    HookedTransformer,
    Hypothesis,
    Intervention,
    KeyValueCache,
    LogitDiff,
    Loss,
    Mean,
    Node,
    ProbDiff,
    Readout,
    Resample,
    Result,
    Run,
    ablate,
    agreement,
    at,
    attribution_patch,
    direct_logit_attribution,
    eap,
    logit_lens,
    patch,
)
from interp_hooks.circuits import faithfulness, scrub
from interp_hooks.errors import BadInput, InterpHooksError, UnknownHook
from interp_hooks.experiments import mean_activations
from interp_hooks.ground_truth import handmade
from interp_hooks.hooks import Slice
from interp_hooks.interventions.runs import OF_TASK
from interp_hooks.model import ExpertsConfig
from interp_hooks.studies import Lens, SVDInterpreter, lens_decomposition, lens_vectors
from interp_hooks.tasks import brackets
from tests.experiments.by_hand import OTHER, TOKENS, model_of
from tests.tiny import build

DIFF = LogitDiff([4, 11], [7, 2])


@functools.cache
def model() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny", device="cpu")


@functools.cache
def pairs() -> interp_hooks.Task:
    return interp_hooks.ioi_pairs(model(), 3)


@functools.cache
def estimated() -> Result:
    return attribution_patch(model(), pairs(), site="z", over=("layer", "head"))


@functools.cache
def circuit() -> Circuit:
    return eap(model(), pairs())


def filled() -> KeyValueCache:
    cache = KeyValueCache()
    model()(model().to_tokens(pairs().clean), past_kv_cache=cache)
    return cache


def scrubbed() -> Any:
    names = Node(sites=[at("z", 1, head=0)], feature="anything")
    return scrub(model(), Hypothesis(nodes={"output": Node(children=["n"]), "n": names}), pairs().clean, pairs().metric)


VALUES: dict[str, Callable[[], Any]] = {
    "Result": lambda: patch(model(), pairs(), site="z", over=("layer",), progress=False),
    "Result of an estimate": estimated,
    "direct_logit_attribution": lambda: direct_logit_attribution(model(), pairs().clean, pairs().answer),
    "Circuit": circuit,
    "ComputationGraph": lambda: circuit().graph,
    "Scores": lambda: circuit().scores,
    "Record": lambda: circuit().record,
    "Task": pairs,
    "Task in tokens": lambda: brackets(n=4),
    "Run": lambda: Run(TOKENS, [Intervention(at("z", 1, pos=torch.tensor([1, 2])), Mean(Run(OTHER)), mask=0.5)]),
    "Run on activations": lambda: Run(TOKENS, [Intervention(at("z", 1), {"blocks.1.attn.hook_z": torch.ones(2, 5)})]),
    "Intervention": lambda: Intervention(at("mlp_out", 0), 0.0, along=torch.eye(12)[:2]),
    "Resample": lambda: Resample(Run(TOKENS), torch.tensor([1, 0])),
    "Site": lambda: at("z", 1, head=1, pos=torch.tensor([1, 2])),
    "LogitDiff": lambda: DIFF,
    "KL": lambda: KL(Run(TOKENS)),
    "ProbDiff": lambda: ProbDiff(torch.tensor([1, 2]), torch.ones(1, 2)),
    "Accuracy": lambda: Accuracy(" Mary", among=[" Mary", " John"]),
    "Loss": Loss,
    "Readout": lambda: Readout(pos=-1),
    "a default of experiments": lambda: OF_TASK,
    "ActivationCache": lambda: model().run_with_cache(pairs().clean)[1],
    "KeyValueCache": filled,
    "FactoredMatrix": lambda: model().OV[1],
    "FactoredMatrix of a product": lambda: model().OV[1, 2] @ model().W_U,
    "FactoredMatrix that was taken apart": lambda: (matrix := model().QK[0, 1], matrix.S)[0],
    "SVDInterpreter": lambda: SVDInterpreter(model()),
    "LogitLens": lambda: logit_lens(model(), pairs().clean),
    "Lens": lambda: Lens(maps={1: torch.eye(3), 2: None}, biases={1: torch.ones(3)}),
    "LensVectors": lambda: lens_vectors(model(), Lens.identity(model()), 1, [" Mary", " John"]),
    "lens_decomposition": lambda: lens_decomposition(model(), Lens.identity(model()), pairs().clean, 1, k=2),
    "Agreement": lambda: agreement(model(), pairs(), result=estimated(), site="z", cells=2, progress=False),
    "Scrubbed": scrubbed,
    "faithfulness": lambda: faithfulness(model(), circuit().top(30), pairs()),
    "mean activations": lambda: mean_activations(model(), pairs().clean, "z"),
    "GroundTruth": handmade.induction,
    "Slice": lambda: Slice([1, 2]),
    "HookedTransformerConfig": lambda: model().cfg,
    "ExpertsConfig": lambda: ExpertsConfig(n_experts=2, experts_per_token=1, d_expert=3, layers=(True,)),
    "HookPoint": lambda: model().hook_dict["hook_embed"],
    "HookedTransformer": build,
    "a model with a splice": lambda: (spliced := build(), spliced.splice("mlp_out1", nn.ReLU()))[0],
}
WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


OWN = ("record", "model", "inputs")  # what a copy has of its own, and does not compare


def parts(value: Any) -> Any:
    """What a value of this package is made of, where == does not compare that."""
    if isinstance(value, interp_hooks.HookedRootModule | interp_hooks.HookPoint):
        return sorted(value.state_dict().items())
    if isinstance(value, FactoredMatrix):
        return value.pair
    if isinstance(value, Slice):
        return [list(value.indices(9))]
    if isinstance(value, interp_hooks.circuits.graph.Graph | SVDInterpreter | KeyValueCache):
        return {name: one for name, one in vars(value).items() if name not in OWN}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in fields(value) if one.name not in OWN}
    return None


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Tensor):
        return isinstance(theirs, Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if (made_of := parts(ours)) is not None:
        return type(ours) is type(theirs) and same(made_of, parts(theirs))
    if isinstance(ours, Mapping):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs or type(ours).__eq__ is object.__eq__


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", VALUES)
def test_copies_are_the_same(name: str, way: str) -> None:
    value = VALUES[name]()
    copied = WAYS[way](value)
    assert type(copied) is type(value)
    assert same(value, copied)


@pytest.mark.parametrize("error", InterpHooksError.__subclasses__())
def test_errors_reach_the_process_that_asked(error: type[InterpHooksError]) -> None:
    found = pickle.loads(pickle.dumps(error("layer must be 0..2, got 3")))
    assert type(found) is error
    assert str(found) == "layer must be 0..2, got 3"
    assert isinstance(UnknownHook("x"), KeyError)


def test_of_the_task_stays_one_object() -> None:
    """Experiments ask for it by identity: a partial call that is sent to a worker must still say it."""
    assert all(way(OF_TASK) is OF_TASK for way in WAYS.values())


# --------------------------------------------------------------------------------------- records in another process


def first_logit(logits: Tensor) -> Tensor:
    return logits[:, -1, 0]


def _patched(layer: int) -> tuple[Result, Result]:
    """What a worker computes and sends back, the second with a function as its metric."""
    own = model_of("gpt2")
    by_name = patch(own, TOKENS, OTHER, DIFF, "z", over=("layer",), layers=[layer], progress=False)
    return by_name, ablate(own, TOKENS, lambda logits: logits[:, -1, 0], "z", over=("layer",), progress=False)


def test_results_come_back_from_other_processes(tmp_path: Path) -> None:
    """The worker is gone, and its model with it; the result can still be saved, loaded and computed again."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        ((found, of_function),) = pool.map(_patched, [1])
    here = patch(build(), TOKENS, OTHER, DIFF, "z", over=("layer",), layers=[1], progress=False)
    assert torch.equal(found.values, here.values)
    assert torch.equal(found.rerun(build(), progress=False).values, here.values)
    assert found.interventions().equals(here.interventions())
    found.save(tmp_path / "result")
    assert torch.equal(Result.load(tmp_path / "result").rerun(build(), progress=False).values, here.values)
    with pytest.raises(BadInput, match="weights are not those of the result"):
        found.rerun(build(seed=1))
    with pytest.raises(BadInput, match="of which only the name was kept; pass it as metric="):
        of_function.rerun(build(), progress=False)
    assert torch.equal(of_function.rerun(build(), first_logit, progress=False).values, of_function.values)


def test_a_result_whose_model_is_gone_is_sent_nevertheless(tmp_path: Path) -> None:
    """And says so where the model matters."""
    result = patch(build(), TOKENS, OTHER, DIFF, "z", over=("layer",), progress=False)
    sent = pickle.loads(pickle.dumps(result))
    assert torch.equal(sent.values, result.values)
    for refused in (lambda: sent.save(tmp_path / "result"), lambda: sent.rerun(build(), progress=False)):
        with pytest.raises(BadInput, match="the model of this result is gone"):
            refused()
    assert torch.equal(sent.rerun(build(), any_model=True, progress=False).values, result.values)
    sent.save(tmp_path / "result", model=build())
    assert torch.equal(pickle.loads(pickle.dumps(sent)).values, result.values)


def test_a_circuit_says_after_pickling_what_it_came_from(tmp_path: Path) -> None:
    sent = pickle.loads(pickle.dumps(circuit()))
    assert sent == circuit()
    assert hash(sent) == hash(circuit())
    assert sent.rerun(model()).scores == circuit().scores
    sent.top(3).save(tmp_path / "circuit")
    assert Circuit.load(tmp_path / "circuit").rerun(model()).scores == circuit().scores


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_inputs_that_change_before_or_after_are_noticed(way: str, tmp_path: Path) -> None:
    """In the original, and in what was sent."""
    tokens, other = TOKENS.clone(), OTHER.clone()
    result = patch(model_of("gpt2"), tokens, other, DIFF, "z", over=("layer",), progress=False)
    sent = WAYS[way](result)
    sent.save(tmp_path / "sent", model=model_of("gpt2"))
    tokens[0, 0] += 1
    late = WAYS[way](result)
    own = [one.tokens for one in sent.record.calls[0].arguments["baselines"].values()]
    for changed in own:
        changed[0, 0] += 1
    for one in (result, late, sent):
        with pytest.raises(BadInput, match="was changed since"):
            one.save(tmp_path / "again", model=model_of("gpt2"))
        with pytest.raises(BadInput, match="was changed since"):
            one.rerun(model_of("gpt2"), progress=False)


# ---------------------------------------------------------------------------------------------------------- copies


def test_a_copied_matrix_has_numbers_of_its_own() -> None:
    """Its factors are leaves, as those of a copied model are."""
    own = build()
    matrix = FactoredMatrix(own.blocks[1].attn.W_V, own.blocks[1].attn.W_O)
    copied = copy.deepcopy(matrix)
    before = matrix.AB.detach().clone()
    with torch.no_grad():
        own.blocks[1].attn.W_V.zero_()
    assert torch.equal(copied.AB, before)
    assert not torch.equal(matrix.AB, before)
    assert copied.A.is_leaf
    assert copied.A.requires_grad
    copied.AB.sum().backward()
    assert own.blocks[1].attn.W_V.grad is None
    wide = FactoredMatrix(torch.ones(50, 3, 2), torch.ones(2, 4))
    assert copy.deepcopy(wide).B.untyped_storage().nbytes() == 2 * 4 * 4, "what batch axes share stays shared"


def test_a_copied_key_value_cache_reads_on_alone() -> None:
    tokens = model().to_tokens(pairs().clean)
    cache = KeyValueCache()
    model()(tokens[:, :6], past_kv_cache=cache)
    fork = copy.deepcopy(cache)
    ours = model()(tokens[:, 6:], past_kv_cache=cache)
    assert (cache.length, fork.length) == (tokens.shape[1], 6)
    theirs = model()(tokens[:, 6:], past_kv_cache=fork)
    assert torch.equal(ours, theirs)
