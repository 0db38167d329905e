"""Public calls with arguments drawn at random: each is taken, or refused by an error of this package, and soon.

    python -m tests.fuzz 60 --seed 3        for 60 seconds; every kind of bare error once, with a call that raises it

Every public function, class, and method of what users hold is called by its signature. An argument is mostly a good
one by its name, or the default, and now and then anything else: another kind of value, an absurd number, a tensor of
another shape or dtype. What is refused must be refused in this package's words; nothing may take long.
"""

import argparse
import contextlib
import functools
import inspect
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import interp_hooks
from interp_hooks import (
    Accuracy,
    ActivationCache,
    Circuit,
    FactoredMatrix,
    HookedTransformer,
    Intervention,
    KeyValueCache,
    LogitDiff,
    Mean,
    Result,
    Run,
    at,
)
from interp_hooks.dictionaries import Recipe
from interp_hooks.errors import InterpHooksError
from interp_hooks.studies import JointMoments, Lens, watch_training
from tests.tiny import unchecked_types

PATIENCE = 5  # seconds that a call may take on these tiny inputs
PLAINLY_PYTHON = (KeyboardInterrupt, SystemExit)
ROOMS = (
    *("circuits", "compat", "corpus", "dictionaries", "experiments", "ground_truth", "hooks", "interventions", "model"),
    *("studies", "tasks"),
)
LEFT_OUT = {
    # Download, change what is imported everywhere, or move all to a device that there is not.
    *("corpus.corpus_texts", "compat.mmlu_eval", "compat.install", "model.cuda", "model.mps"),
    # Names on the hub are looked up there.
    *("model.from_pretrained", "model.from_pretrained_no_processing"),
    # torch's own, with torch's errors, and formulas that take what torch takes.
    *("model.to", "model.gelu_new", "model.solu"),
    # Abstract: users write classes of their own, whose methods the engine calls.
    *("HookedRootModule", "Source", "Metric", "interventions.Here", "interventions.Pointwise", "corpus.Reducer"),
    "studies.Measure",
    *("dictionaries.Activation", "dictionaries.Dictionary"),
    # What the engine, or the file of a result, asks of a metric, a readout, or a cache: arguments come from there.
    *("metric.on", "metric.score", "readout.read", "readout.read_there", "readout.select", "readout.positions"),
    *(
        "kv_cache.commit",
        "kv_cache.extend",
        "kv_cache.keep",
        "kv_cache.state",
        "result.packed",
        "dla.packed",
        "lens.packed",
        "cache.at",
    ),
    # Made by the calls that return them, which are drawn here.
    *("Result", "Task", "ground_truth.GroundTruth", "ground_truth.KnownModel", "ground_truth.PlantedFeatures"),
    *("ActivationCache", "model.Output"),
    *("experiments.Agreement", "studies.LensResult", "studies.LogitLens", "tasks.PromptPairs"),
    *("studies.LensDecomposition", "studies.LensVectors", "studies.Checkpoint", "studies.PhaseChange"),
    *("studies.PhaseChanges", "studies.WatchedTraining"),
    *("studies.LensDecomposition", "studies.LensVectors", "studies.LossComparison", "studies.TaskComparison"),
    *("studies.PredictionChanges", "studies.Difference", "studies.ModelDiff"),
    # Long by design.
    *("model.train", "studies.fit_tuned_lens"),
    # A mapping's KeyError.
    *("scores.of", "scores.__getitem__"),
}


# ---------------------------------------------------------------------------------------------------- what there is


@dataclass
class World:
    """A tiny model with everything that can be made of it; made anew when a call has changed it."""

    model: HookedTransformer

    @functools.cached_property
    def pairs(self) -> Any:
        return interp_hooks.ioi_pairs(self.model, 2)

    @functools.cached_property
    def tokens(self) -> Tensor:
        return self.model.to_tokens(self.pairs.clean)

    @functools.cached_property
    def metric(self) -> Any:
        return LogitDiff(self.pairs.answer, self.pairs.wrong)

    @functools.cached_property
    def cache(self) -> ActivationCache:
        with torch.no_grad():
            return self.model.run_with_cache(self.tokens)[1]

    @functools.cached_property
    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.tokens)

    @functools.cached_property
    def result(self) -> Result:
        return interp_hooks.patch(self.model, self.pairs, site="z", over=("layer", "head"), progress=False)

    @functools.cached_property
    def circuit(self) -> Circuit:
        return interp_hooks.eap(self.model, self.pairs)

    @functools.cached_property
    def sae(self) -> Any:
        return interp_hooks.dictionaries.load("ioi-tiny/sae")

    @property
    def kv_cache(self) -> KeyValueCache:
        cache = KeyValueCache()
        self.model(self.tokens[:, :4], past_kv_cache=cache)
        return cache


@functools.cache
def world() -> World:
    return World(HookedTransformer.from_pretrained("ioi-tiny", device="cpu"))


def holders() -> dict[str, Callable[[], Any]]:
    """What users hold and call methods of, by the name that it has here."""
    w = world()
    return {
        "model": lambda: w.model,
        "cache": lambda: ActivationCache(w.cache.cache_dict, w.model),
        "result": lambda: w.result,
        "circuit": lambda: w.circuit,
        "graph": lambda: w.circuit.graph,
        "factored": lambda: FactoredMatrix(torch.ones(4, 2), torch.rand(2, 3)),
        "square": lambda: FactoredMatrix(torch.rand(2, 4, 2), torch.rand(2, 2, 4)),
        "kv_cache": lambda: w.kv_cache,
        "lens": lambda: interp_hooks.logit_lens(w.model, w.pairs.clean),
        "dla": lambda: interp_hooks.direct_logit_attribution(w.model, w.pairs.clean, w.pairs.answer),
        "task": lambda: w.pairs,
        "svd": lambda: interp_hooks.studies.SVDInterpreter(w.model),
        "slice": lambda: interp_hooks.hooks.Slice([0, 1]),
        "metric": lambda: w.metric,
        "readout": lambda: interp_hooks.Readout(pos=-1),
        "scores": lambda: w.circuit.scores,
    }


OPERATORS = (
    "__getitem__",
    "__matmul__",
    "__rmatmul__",
    "__mul__",
    "__truediv__",
    "__or__",
    "__and__",
    "__sub__",
    "__le__",
)


def _methods(cls: type) -> Iterator[str]:
    """Public methods that this package defines."""
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        public = not name.startswith("_") or name in OPERATORS
        if public and inspect.isfunction(value) and value.__module__.startswith("interp_hooks"):
            yield name


@functools.cache
def targets() -> dict[str, Callable[..., Any]]:
    """Every public call by its name."""
    found: dict[str, Callable[..., Any]] = {name: getattr(interp_hooks, name) for name in interp_hooks.__all__}
    for room in ROOMS:
        for name in getattr(interp_hooks, room).__all__:
            value = getattr(getattr(interp_hooks, room), name)
            if value not in found.values():
                found[f"{room}.{name}"] = value
    for kind, make in holders().items():
        for name in _methods(type(make())):
            function = inspect.getattr_static(type(make()), name)
            bound = functools.partial(_on, make, name)
            function = function.__func__ if isinstance(function, classmethod | staticmethod) else function
            bound.__signature__ = _without_self(function)  # type: ignore[attr-defined]
            found[f"{kind}.{name}"] = bound
    return {name: call for name, call in sorted(found.items()) if name not in LEFT_OUT and callable(call)}


def _on(make: Callable[[], Any], name: str, /, *args: Any, **arguments: Any) -> Any:
    return getattr(make(), name)(*args, **arguments)


def _without_self(function: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(function)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


# ------------------------------------------------------------------------------------------------------- arguments


def good(name: str, rng: random.Random) -> Any:
    """A value that an argument of that name may have somewhere."""
    w = world()
    options = GOOD.get(name)
    return rng.choice(options(w)) if options else anything(rng)


PROMPTS = lambda w: [w.pairs.clean, w.tokens, w.pairs.clean[0], Run(w.tokens), w.pairs]  # noqa: E731
LAYERS = lambda w: [0, 1, -1, None, 2, 3]  # noqa: E731
HOOKS = lambda w: ["resid_pre1", "z1", "blocks.1.attn.hook_z", at("z", 1), "hook_embed", ["z1"], "pattern0"]  # noqa: E731
SITES = lambda w: ["z", "resid_pre", "mlp_out", "q", "pattern", "hook_embed"]  # noqa: E731
SLICES = lambda w: [None, 0, -1, [0, 1], (0, 2), slice(0, 2), torch.tensor([0])]  # noqa: E731
COUNTS = lambda w: [1, 2, 3]  # noqa: E731
MATRICES = (FactoredMatrix(torch.ones(3, 2), torch.ones(2, 4)), torch.ones(3), torch.ones(3, 4), torch.ones(4))
FACTORED = lambda w: [*MATRICES]  # noqa: E731
EDGES = lambda w: [["a0.h1->a1.h0<q>"], [("input", "m0")], w.circuit.listed[:2], None]  # noqa: E731
GOOD: dict[str, Callable[[World], list[Any]]] = {
    "model": lambda w: [w.model],
    **dict.fromkeys(("input", "prompts", "clean", "tokens", "seq", "positive", "prompt"), PROMPTS),
    **dict.fromkeys(("corrupt", "negative", "reference"), lambda w: [w.pairs.corrupt, w.tokens.flip(0), Run(w.tokens)]),
    **dict.fromkeys(("metric", "reference_metric", "patching_metric"), lambda w: [w.metric, lambda x: x[:, -1, 0]]),
    **dict.fromkeys(
        ("answer", "wrong", "answer_tokens", "incorrect_tokens"), lambda w: [w.pairs.answer, " Mary", 5, [1, 2]]
    ),
    **dict.fromkeys(("layer", "layer_index", "start_at_layer", "stop_at_layer"), LAYERS),
    **dict.fromkeys(("hook", "hooks", "names_filter", "name_filter", "wanted", "names"), HOOKS),
    **dict.fromkeys(("site", "activation_name"), SITES),
    **dict.fromkeys(("pos_slice", "batch_slice", "neuron_slice", "input_slice", "index"), SLICES),
    **dict.fromkeys(
        ("steps", "samples", "n", "k", "n_samples", "n_random", "cells", "batch_size", "num_samples"), COUNTS
    ),
    **dict.fromkeys(("A", "B", "left", "right", "other", "scalar"), FACTORED),
    **dict.fromkeys(("edges", "nodes"), EDGES),
    "over": lambda w: [("layer",), ("layer", "head"), ("layer", "pos"), {"layer": [0, 1]}],
    "pos": lambda w: [-1, 0, torch.tensor([1, 2]), None, "end"],
    "positions": lambda w: [None, 0, [1, 2], slice(1, None), {"S2": 3}],
    "head": lambda w: [0, [0, 1]],
    "head_index": lambda w: [0, 1],
    "vector": lambda w: [torch.ones(128), torch.ones(32)],
    "directions": lambda w: [torch.ones(128), torch.eye(128)[:2]],
    "along": lambda w: [torch.ones(128), torch.eye(128)[:2]],
    "project_output_onto": lambda w: [torch.ones(128), torch.eye(128)[:, :2], None],
    "labels": lambda w: [[0, 1], torch.tensor([1, 0]), w.tokens % 2],
    "classes": lambda w: [[0, 1], torch.tensor([0, 1, 2])],
    **dict.fromkeys(("counterfactual", "original", "among"), lambda w: [w.pairs.answer, [" Mary", " John"], None]),
    "moments": lambda w: [JointMoments.of(torch.eye(3), torch.tensor([0, 1, 1]))],
    "base": lambda w: [w.pairs.clean, w.tokens],
    "run": lambda w: [Run(w.tokens)],
    "runs": lambda w: [[Run(w.tokens)]],
    "interventions": lambda w: [[], [Intervention(at("z", 1), 0.0)]],
    **dict.fromkeys(("dictionary", "dictionaries"), lambda w: [w.sae, {"sae": w.sae}, [w.sae]]),
    "recipe": lambda w: [Recipe(hook="mlp_out1", n_features=16, k=2)],
    "recipes": lambda w: [Recipe(hook="mlp_out1", n_features=16, k=2)],
    "tokens_per_step": lambda w: [4, 8],
    "source": lambda w: [0.0, Run(w.tokens), Mean(Run(w.tokens)), w.cache],
    "method": lambda w: ["zero", "mean", "resample", Mean(Run(w.tokens))],
    "baseline": lambda w: [0.0, Run(w.tokens)],
    "ablation": lambda w: ["zero", "mean", 0.0],
    "result": lambda w: [w.result],
    "lens": lambda w: [Lens.identity(w.model), Lens(maps={1: torch.eye(128), 2: None})],
    "corpus": lambda w: [w.pairs.clean, w.tokens],
    "circuit": lambda w: [w.circuit, w.circuit.top(5)],
    "graph": lambda w: [w.circuit.graph],
    "scores": lambda w: [None, torch.zeros_like(w.circuit.scores.matrix), {"input->m0": 1.0}],  # type: ignore[union-attr]
    "kept": lambda w: [None, w.circuit.kept],
    "cache": lambda w: [w.cache, None],
    "clean_cache": lambda w: [w.cache],
    "cache_dict": lambda w: [w.cache.cache_dict],
    "logits": lambda w: [w.logits],
    "final_logits": lambda w: [w.logits[:, -1]],
    "residual_stack": lambda w: [w.cache.decompose_resid(), w.cache["resid_post", -1]],
    "residual_directions": lambda w: [torch.ones(128)],
    "subject": lambda w: [[1], [1, 2]],
    "subseq_len": lambda w: [3, 5],
    "generator": lambda w: [None, torch.Generator().manual_seed(0)],
    "fwd_hooks": lambda w: [[("z1", lambda value, hook: None)], []],
    "bwd_hooks": lambda w: [[]],
    "run_at": lambda w: [lambda layer: Run(w.tokens, [Intervention(at("z", layer), 0.0)])],
    "senders": lambda w: ["z", "mlp_out", at("z", 0)],
    "receivers": lambda w: ["logits", at("q_input", 2)],
    "sites": lambda w: [{"z": ("layer",)}, [at("z", 1)]],
    "detection_pattern": lambda w: ["previous_token_head", "induction_head"],
    "max_new_tokens": lambda w: [1, 2],
    "key": lambda w: [("q", 1), "z1", "hook_embed"],
    "cfg": lambda w: [w.model.cfg],
    "order": lambda w: [torch.tensor([1, 0])],
    "edge": lambda w: ["input->m0", ("m0", "logits")],
    "node": lambda w: ["m0", "a0.h1"],
    "seed": lambda w: [0, 1],
    "folder": lambda w: ["somewhere", "elsewhere"],
    "path": lambda w: ["a file", "another"],
    "device": lambda w: ["cpu"],
    "dtype": lambda w: [torch.float32],
    "single_token": lambda w: [" to", 5],
    "string": lambda w: [" Mary"],
    "int_token": lambda w: [5],
    "program": lambda w: [None],
    "features": lambda w: [{}],
    "hypothesis": lambda w: [None],
    "d_vocab": lambda w: [7],
    "p": lambda w: [5],
    "n_keys": lambda w: [3],
    "n_values": lambda w: [3],
    "dim": lambda w: [0, 1],
    "measures": lambda w: [{"one": lambda model: 1.0}, {"loss": lambda model: {"a": 2.0}}, ["one"], None],
    "checkpoints": lambda w: [{0: w.model, 5: w.model}, {3: lambda: w.model}],
    "watched": lambda w: [watch_training(dict.fromkeys(range(7), w.model), {"one": lambda model: 1.0}, progress=False)],
    "progress": lambda w: [False],
    "verbose": lambda w: [False],
}

SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, -5, 99, 10**9, 10**12, 2**63, -(2**63) - 1, 10**30),
    *(0.0, -0.0, 0.5, 1.5, -2.5, 1e30, 1e308, float("nan"), float("inf"), float("-inf"), 1j),
    *(
        "",
        " ",
        "z",
        "mean",
        "resid_pre",
        "no such",
        "blocks.1.attn.hook_z",
        "a0.h1->m0",
        "\x00",
        "ä🎉",
        "x" * 500,
        b"bytes",
    ),
    *(
        object,
        object(),
        int,
        print,
        len,
        Ellipsis,
        NotImplemented,
        ValueError("x"),
        lambda x: x,
        slice(None),
    ),
    *(range(3), range(0), slice(0, 2), slice(5, 1, -1), slice("a", None), {1, 2}, frozenset(), io.StringIO()),
    *(
        [],
        [[]],
        [None],
        [0],
        [1, 2],
        [0, 99],
        [-1],
        [True, False],
        ["a", 3],
        [[1, 2], [3]],
        [1.5],
        ["z1"],
        (),
        (1,),
        (0, 1, 2),
    ),
    *({}, {"a": 1}, {"z": 0}, {1: 2}, {"layer": [0]}, {"pos": -1}, {"head": 99}, {"layer": []}),
]


@functools.cache
def tensors() -> list[Tensor]:
    shapes = (
        (),
        (0,),
        (1,),
        (2,),
        (3,),
        (15,),
        (2, 15),
        (0, 15),
        (2, 0),
        (15, 2),
        (2, 2),
        (3, 4),
        (4, 3),
        (2, 3, 4),
        (1, 1, 1, 1),
    )
    kinds = (torch.float32, torch.long, torch.bool, torch.float64, torch.float16, torch.complex64, torch.uint8)
    made = [torch.ones(shape, dtype=dtype) for shape in shapes for dtype in kinds[:3]]
    made += [torch.ones(2, 15, dtype=dtype) for dtype in kinds]
    made += [
        torch.full((2,), float("nan")),
        torch.full((2, 15), 9999),
        torch.full((2,), -1),
        torch.zeros(128),
        torch.ones(128),
    ]
    made += [torch.ones(2, 15, device="meta"), torch.ones(2, device="meta", dtype=torch.long)]
    return [*made, torch.ones(3).to_sparse(), torch.ones(2, requires_grad=True), torch.ones(128, 2), torch.ones(2, 128)]


def others() -> list[Any]:
    """Objects of this package where they don't belong."""
    w = world()
    return [
        *(w.model, w.cache, w.result, w.circuit, w.circuit.graph, w.metric, Accuracy(1), Run(w.tokens), at("z", 1)),
        *(Intervention(at("z", 1), 0.0), FactoredMatrix(torch.ones(3, 2), torch.ones(2, 3)), w.pairs, w.model.cfg),
        *(nn.Linear(2, 2), torch.Generator(), torch.float32, torch.device("cpu"), w.tokens.numpy(), w.logits.numpy()),
    ]


def anything(rng: random.Random) -> Any:
    kind = rng.random()
    return rng.choice(SCALARS if kind < 0.6 else tensors() if kind < 0.85 else others())


def draw(signature: inspect.Signature, rng: random.Random) -> dict[str, Any]:
    """Arguments for a call, of which on average one or two are anything."""
    given: dict[str, Any] = {}
    if next((one.kind is one.VAR_POSITIONAL for one in signature.parameters.values()), False):
        given["*"] = [world().tokens if rng.random() < 0.8 else anything(rng)]
    parameters = [one for one in signature.parameters.values() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    share = min(0.6, 1.3 / max(1, len(parameters)))
    for one in parameters:
        if rng.random() < share:
            given[one.name] = anything(rng)
        elif one.default is one.empty or rng.random() < 0.3 or one.name in ("progress", "verbose", "steps", "n"):
            given[one.name] = good(one.name, rng)
    return given


# ---------------------------------------------------------------------------------------------------------- verdicts


class TooLong(BaseException):
    """A call that would not end."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(call: Callable[..., Any], signature: inspect.Signature, given: Mapping[str, Any]) -> str | None:
    """What is wrong with how a call went, if anything is: the bare error and where it was raised, or that it hung."""
    arguments = dict(given)
    first = list(arguments.pop("*", ()))
    first += [arguments.pop(one.name) for one in signature.parameters.values() if one.kind is one.POSITIONAL_ONLY]
    try:
        with at_most(PATIENCE), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                found = call(*first, **arguments)
                if isinstance(found, contextlib.AbstractContextManager) and not isinstance(found, io.IOBase):
                    with found:
                        world().model(world().tokens)
                elif inspect.isgenerator(found):
                    next(found, None)
    except InterpHooksError:
        return None
    except TooLong:
        return "hangs"
    except MemoryError:
        return "MemoryError"
    except Exception as error:
        inside = [one for one in traceback.extract_tb(error.__traceback__) if "interp_hooks/" in one.filename]
        inside = [one for one in inside if "errors/arguments" not in one.filename] or inside
        where = f"{inside[-1].filename.rpartition('interp_hooks/')[2]}:{inside[-1].name}" if inside else "outside"
        return f"{type(error).__name__} in {where}: {str(error).splitlines()[0][:90] if str(error) else ''}"
    return None


def clean() -> bool:
    """Whether the model is as it was; else it is made anew."""
    model = world().model
    fresh = not any(point.hooks for point in model.hook_points()) and not model.context_level and not model.splices
    if fresh and (tuple(one._version for one in model.parameters()), model.dtype, len(model.blocks)) == _before():
        return True
    world.cache_clear()
    targets.cache_clear()
    _before.cache_clear()
    _before()
    return False


@functools.cache
def _before() -> Any:
    model = world().model
    return tuple(one._version for one in model.parameters()), model.dtype, len(model.blocks)


@contextlib.contextmanager
def inside_of(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def told(value: Any) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)} on {value.device}"
    return repr(value)[:60]


def fuzz(seconds: float, seed: int, only: str = "", calls: int | None = None) -> tuple[int, dict[str, str]]:
    """How many calls were made, and every kind of what went wrong, with a call that did."""
    rng, wrong, made = random.Random(seed), dict[str, str](), 0
    with unchecked_types(), tempfile.TemporaryDirectory() as folder, inside_of(folder):
        _before()
        end = time.monotonic() + seconds
        while time.monotonic() < end and (calls is None or made < calls):
            names = [name for name in targets() if only in name]
            name = rng.choice(names)
            try:
                signature = inspect.signature(targets()[name])
            except (TypeError, ValueError):
                continue
            given = draw(signature, rng)
            torch.manual_seed(0)
            shown = f"{name}({', '.join(f'{key}={told(value)}' for key, value in given.items())})"
            if os.environ.get("FUZZ_TRACE"):
                print(shown, file=sys.stderr, flush=True)
            bare = outcome(targets()[name], signature, given)
            made += 1
            if bare is not None:
                wrong.setdefault(f"{name} {bare}", shown)
            torch.set_grad_enabled(True)
            clean()
    return made, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="calls whose name contains this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    made, wrong = fuzz(args.seconds, args.seed, args.only)
    for what, shown in sorted(wrong.items()):
        print(f"{what}\n      {shown}")
    print(f"{made} calls of {len(targets())}, {len(wrong)} kinds of bare errors")


if __name__ == "__main__":
    main()
