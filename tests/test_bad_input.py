"""Public calls with arguments that are no good: the package's own error, and a model that is as it was before.

Every call is written once with arguments that it takes and, for each of them, values that it must not take. A case has
one of these in the place of the good one; so that mistakes also come together, a seeded sample has two.
"""

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp_hooks
from interp_hooks import (
    KL,
    Accuracy,
    ActivationCache,
    FactoredMatrix,
    HookedTransformer,
    HookedTransformerConfig,
    Intervention,
    KeyValueCache,
    LogitDiff,
    LogProb,
    Mean,
    Prob,
    Rank,
    Readout,
    Resample,
    Result,
    Run,
    at,
    dictionaries,
    evaluate,
    record,
    studies,
)
from interp_hooks.compat import patching
from interp_hooks.compat import test_prompt as prompt_test
from interp_hooks.corpus import induction_loss, lm_accuracy
from interp_hooks.dictionaries import Recipe
from interp_hooks.errors import InterpHooksError
from interp_hooks.experiments import mean_activations, noised_activations, relative_norm, subject_tokens
from interp_hooks.hooks import Slice, get_act_name
from interp_hooks.model import lm_cross_entropy_loss, sample_logits
from interp_hooks.studies import SVDInterpreter
from tests.messages import doing, lacks
from tests.tiny import unchecked_types

# --------------------------------------------------------------------------------------------------------- good things

CLEAN = "When Mary and John went to the store, John gave a ring to"
CORRUPT = "When Mary and John went to the store, Mary gave a ring to"
PROMPTS, CORRUPTED = [CLEAN, CORRUPT], [CORRUPT, CLEAN]
SHORT = "Mary went to the store"


@functools.cache
def model() -> HookedTransformer:
    """The bundled model, which has 3 layers of 4 heads, a tokenizer, and room for 128 tokens."""
    return HookedTransformer.from_pretrained("ioi-tiny")


@functools.cache
def tokens() -> Tensor:
    """[2, 15]"""
    return model().to_tokens(PROMPTS)


@functools.cache
def corrupted() -> Tensor:
    return model().to_tokens(CORRUPTED)


@functools.cache
def logits() -> Tensor:
    with torch.no_grad():
        return model()(tokens())


@functools.cache
def stream() -> Tensor:
    """What enters layer 1."""
    with torch.no_grad():
        return model()(tokens(), stop_at_layer=1)


@functools.cache
def whole_cache() -> ActivationCache:
    with torch.no_grad():
        return model().run_with_cache(tokens())[1]


def cache() -> ActivationCache:
    """A cache that a call may change."""
    return ActivationCache(whole_cache().cache_dict, model())


def metric() -> LogitDiff:
    return LogitDiff([" Mary", " John"], [" John", " Mary"])


@functools.cache
def result() -> Result:
    """[layer, pos]"""
    return interp_hooks.patch(model(), PROMPTS, CORRUPTED, metric(), "resid_pre", layers=[1], progress=False)


@functools.cache
def result_of_heads() -> Result:
    """[layer, head]"""
    return interp_hooks.patch(
        model(), PROMPTS, CORRUPTED, metric(), "z", over=("layer", "head"), layers=[1], progress=False
    )


@functools.cache
def components() -> Result:
    """[component]"""
    return interp_hooks.direct_logit_attribution(model(), PROMPTS, [" Mary", " John"])


@functools.cache
def hook_point() -> interp_hooks.HookPoint:
    return model().hook_dict["blocks.1.attn.hook_z"]


def run() -> Run:
    return Run(tokens())


@functools.cache
def sae() -> dictionaries.Dictionary:
    """The bundled one, of the stream after layer 1."""
    return dictionaries.load("ioi-tiny/sae")


def keep(value: Tensor, hook: Any) -> None:
    """A hook function that does nothing."""


def direction() -> Tensor:
    return torch.arange(1.0, 129.0)


def pair() -> dict[str, Any]:
    """What an experiment on two sets of prompts begins with."""
    return {"model": model(), "clean": PROMPTS, "corrupt": CORRUPTED}


def one_set() -> dict[str, Any]:
    return {"model": model(), "prompts": PROMPTS}


def tutorial() -> dict[str, Any]:
    return {"model": model(), "corrupted_tokens": corrupted(), "clean_cache": whole_cache(), "progress": False}


def mean_logit(logits: Tensor) -> Tensor:
    return logits[:, -1].mean()


def entered(context: AbstractContextManager[Any]) -> None:
    """A `with` block in which the model reads something."""
    with context:
        model()(tokens())


# ---------------------------------------------------------------------------------------------------------- bad things


def on_meta(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
    """A tensor that has no numbers."""
    return torch.zeros(shape, dtype=dtype, device="meta")


NAN, INF = float("nan"), float("inf")
NO_MODEL = [None, "ioi-tiny", nn.Linear(2, 2)]
NO_INT = ["three", 1.5, [1, 2]]
COUNT = [*NO_INT, 0, -1]
NO_NUMBER = ["much", [1.0, 2.0]]
NO_TEXT = [3, None, ["a", 3], 1.5]
NO_FLAG = ["yes", 2, torch.ones(2)]
NO_CHOICE = ["no_such_thing", 3, ["mean"]]
NO_SIDE = ["middle", 3]
NO_PROMPTS = [
    *(None, 3, [], [3, "Mary"], torch.zeros(2, 15), torch.zeros(2, 3, 4, dtype=torch.long)),
    *(torch.full((2, 15), 9999), torch.full((2, 15), -1), torch.zeros(2, 0, dtype=torch.long), on_meta(2, 15)),
    *(torch.zeros(2, 200, dtype=torch.long), torch.zeros(2, 15, dtype=torch.long)),
]
NO_PAIR = [*NO_PROMPTS, [CLEAN], [CLEAN, SHORT], torch.full((2, 7), 5)]  # beside two of 15 tokens
NO_METRIC_FUNCTION = [
    doing("got float", lambda logits: 3.0),
    doing("nan|not finite", lambda logits: logits.sum() * NAN),
]
with unchecked_types():  # such a metric can be made
    NO_METRIC = [
        *(None, "logit_diff", 3, *NO_METRIC_FUNCTION, LogitDiff(" Mary", " no such")),
        *(
            LogitDiff([1, 2, 3], [1, 2, 3]),
            LogitDiff(9999, 1),
            LogProb(1, pos=99),
            Prob([0.5]),
            Rank(-1),
            KL(SHORT, pos=9),
        ),
        LogitDiff([1, 2], [1]),
    ]
NO_SITE = ["no_such_hook", "", 3, None, ["z", 3], "ln_final.hook_scale"]
NO_OVER = [["no_such_axis"], 3, None, [3], "layer"]
NO_LAYERS = [[], [3], [-1], ["one"], [1.5], 3, "all"]
NO_MEMORY = ["much", [1], 1.5]
SELECTS_NOTHING = doing("selects none", lambda name: False)
NO_NAMES = ["no_such_hook", 3, [], [3], ["hook_embed", "no_such"], SELECTS_NOTHING, ("z99",)]
NO_SLICE = ["first", 1.5, [[0, 1], [1, 2]], 99, -99, torch.tensor([0.5]), on_meta(1), [True, False], {}]
NO_GENERATOR = [3, "seed", torch.default_generator.get_state()]
NO_FOLDER = [3, ["folder"], 1.5]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call, arguments that it takes (made anew for each case), and for each argument values that it does not take."""

    call: Callable[..., object]
    good: Callable[[], Mapping[str, Any]]
    bad: Mapping[str, Sequence[Any]]


def method(name: str) -> Callable[..., object]:
    """A method of the model."""
    return lambda **arguments: getattr(model(), name)(**arguments)


def forward(**arguments: Any) -> Tensor:
    return model()(**arguments)


FORWARD = {
    "input": [
        *(None, 3, 1.5, [], [3, "Mary"], [[1, 2], [3, 4]], torch.zeros(2, 15), torch.ones(2, 15).bool()),
        *(torch.zeros(2, 3, 4, dtype=torch.long), torch.full((2, 15), 9999), torch.full((2, 15), -1)),
        *(torch.zeros(2, 0, dtype=torch.long), torch.tensor(3), on_meta(2, 15), torch.zeros(2, 200, dtype=torch.long)),
    ],
    "return_type": ["logit", 3, ["loss"], True],
    "padding_side": NO_SIDE,
    "start_at_layer": [*NO_INT, 4, -4, 0, 1],
    "shortformer_pos_embed": [torch.zeros(1, 15, 128), "positions", 3],
    "attention_mask": [
        *(torch.ones(2, 14), torch.ones(3, 15), torch.ones(15), torch.zeros(2, 15), "all", 1, [1, 0], on_meta(2, 15)),
        torch.ones(2, 15).cumsum(1) - 8,
    ],
    "stop_at_layer": [*NO_INT, 4, -4],
    "past_kv_cache": ["cache", 3, {}, True],
    "logits_pos": [
        15,
        -16,
        "last",
        1.5,
        [0, 99],
        torch.zeros(3, 1).long(),
        torch.zeros(2, 1, 1).long(),
        on_meta(2, 1),
        torch.ones(15).bool(),
    ],
    "token_type_ids": [torch.zeros(2, 15, dtype=torch.long), "types", 3],
    "known": [{"z": torch.zeros(2, 15, 4, 32)}, "z", 3],
}

LATER = {
    "input": [
        *(CLEAN, None, 3),
        torch.zeros(2, 15),
        torch.zeros(2, 15, 127),
        torch.zeros(2, 15, 128).double(),
        torch.zeros(2, 15, 128, dtype=torch.long),
        on_meta(2, 15, 128, dtype=torch.float32),
    ],
    "start_at_layer": [*NO_INT, 4, -4, None],
    "stop_at_layer": [0, 4, "end"],
    "tokens": [None, CLEAN, 3, torch.zeros(2, 15), torch.zeros(2, 14).long(), torch.full((2, 15), 9999)],
    "known": [{"z": torch.zeros(2, 15, 4, 31)}, {"q": torch.zeros(2, 15, 4, 32)}, {"z": 3}, "z"],
    "attention_mask": [torch.ones(2, 14), "all", torch.zeros(2, 15)],
}

NO_HOOK_FUNCTION = [
    doing(r"one of \(value\)", lambda value: value),
    doing("returned float", lambda value, hook: 3.0),
    doing(r"returned shape \[1, ", lambda value, hook: value[:1]),
    doing("returned a tensor of dtype torch.float64", lambda value, hook: value.double()),
    doing("returned a tensor of device meta", lambda value, hook: value.to("meta")),
]

HOOKED = {
    "fwd_hooks": [
        *([("no_such_hook", keep)], [("z9", keep)], [(3, keep)], [("z1", None)], [("z1", "keep")], [("z1",)], ["z1"]),
        *([keep], 3, "z1", [("z1", keep, 3)], [([], keep)], [(SELECTS_NOTHING, keep)]),
        *([("z1", function)] for function in NO_HOOK_FUNCTION),
        [("blocks.1.hook_mlp_in", keep), ("blocks.1.hook_mlp", keep)],
    ],
    "bwd_hooks": [[("no_such_hook", keep)], [("z1", None)], 3, [("z1", NO_HOOK_FUNCTION[0])]],
    "stop_at_layer": [0, 1, "end", 1.5],
}

CACHED = {
    "names_filter": [*NO_NAMES, 1.5],
    "device": ["nowhere", 3.5, ["cpu"]],
    "remove_batch_dim": [True],
    "incl_bwd": [True, lambda logits: logits, lambda logits: 3.0],
    "pos_slice": [one for one in NO_SLICE if one != {}],
    "stop_at_layer": ["end", 9],
}

CALLS: dict[str, Call] = {
    # ------------------------------------------------------------------------------------------------------- the model
    "forward": Call(call=forward, good=lambda: {"input": tokens()}, bad=FORWARD),
    "forward from a layer": Call(
        call=forward,
        good=lambda: {"input": stream(), "start_at_layer": 1, "tokens": tokens(), "return_type": "loss"},
        bad=LATER,
    ),
    "run_with_hooks": Call(
        call=method("run_with_hooks"), good=lambda: {"input": tokens(), "fwd_hooks": [("z1", keep)]}, bad=HOOKED
    ),
    "run_with_cache": Call(
        call=method("run_with_cache"), good=lambda: {"input": tokens(), "names_filter": ["z1"]}, bad=CACHED
    ),
    "hooks": Call(
        call=lambda **arguments: entered(model().hooks(**arguments)),
        good=lambda: {"fwd_hooks": [("z1", keep)]},
        bad={"fwd_hooks": HOOKED["fwd_hooks"], "bwd_hooks": HOOKED["bwd_hooks"]},
    ),
    "add_hook": Call(
        call=lambda **arguments: [hook.remove() for hook in model().add_hook(**arguments)],
        good=lambda: {"name": "z1", "hook": keep},
        bad={"name": [*NO_NAMES, None], "hook": [None, "keep", 3], "dir": ["forward", None, 3, "both"]},
    ),
    "add_perma_hook": Call(
        call=lambda **arguments: [hook.remove() for hook in model().add_perma_hook(**arguments)],
        good=lambda: {"name": "z1", "hook": keep},
        bad={"name": NO_NAMES, "hook": [None, "keep"], "dir": ["forward"]},
    ),
    "list_hooks": Call(
        call=method("list_hooks"), good=lambda: {"name_filter": "z1"}, bad={"name_filter": NO_NAMES, "dir": ["up", 3]}
    ),
    "reset_hooks": Call(call=method("reset_hooks"), good=dict, bad={"direction": ["up", None, 3]}),
    "remove_all_hook_fns": Call(call=method("remove_all_hook_fns"), good=dict, bad={"direction": ["up", None, 3]}),
    "points": Call(call=method("points"), good=lambda: {"wanted": "z1"}, bad={"wanted": [*NO_NAMES, None, 1.5]}),
    "get_caching_hooks": Call(
        call=method("get_caching_hooks"), good=lambda: {"names_filter": ["z1"]}, bad={"names_filter": NO_NAMES[2:5]}
    ),
    "HookPoint.add_hook": Call(
        call=lambda **arguments: hook_point().add_hook(**arguments).remove(),
        good=lambda: {"hook": keep},
        bad={"hook": [None, "keep", 3], "dir": ["forward", None]},
    ),
    "HookPoint.layer": Call(
        call=lambda name: model().hook_dict[name].layer(),
        good=lambda: {"name": "blocks.1.attn.hook_z"},
        bad={"name": ["hook_embed", "ln_final.hook_scale"]},
    ),
    # ------------------------------------------------------------------------------------------------------------ text
    "to_tokens": Call(
        call=method("to_tokens"),
        good=lambda: {"input": SHORT},
        bad={"input": [3, None, [], ["Mary", 3], 1.5, [None], tokens], "padding_side": NO_SIDE, "prepend_bos": ["x"]},
    ),
    "to_string": Call(
        call=method("to_string"),
        good=lambda: {"tokens": [1, 2]},
        bad={"tokens": [None, "text", 1.5, [1.5], torch.zeros(2), torch.zeros(1, 1, 1).long(), -1, on_meta(2)]},
    ),
    "to_str_tokens": Call(
        call=method("to_str_tokens"),
        good=lambda: {"input": SHORT},
        bad={"input": [None, 1.5, torch.zeros(2), torch.zeros(2, 2).long(), [None], -1, on_meta(2)]},
    ),
    "to_single_token": Call(
        call=method("to_single_token"),
        good=lambda: {"string": " Mary"},
        bad={"string": ["", " Mary John", 3, None, [" Mary"], "xyzzy"]},
    ),
    "to_single_str_token": Call(
        call=method("to_single_str_token"),
        good=lambda: {"int_token": 5},
        bad={"int_token": [-1, 9999, "Mary", None, 1.5, [1, 2], torch.zeros(2, 2).long(), torch.tensor(1.5)]},
    ),
    "get_token_position": Call(
        call=method("get_token_position"),
        good=lambda: {"single_token": " went", "input": SHORT},
        bad={
            "single_token": ["", " no such", " ring", 5, -1, None, 1.5, [1, 2], torch.zeros(2).long()],
            "input": [None, 1.5, "", torch.zeros(2), torch.zeros(2, 2).long(), [SHORT, SHORT], on_meta(5)],
            "mode": ["middle", 3, None],
            "padding_side": NO_SIDE,
        },
    ),
    "set_tokenizer": Call(
        call=method("set_tokenizer"),
        good=lambda: {"tokenizer": model().tokenizer},
        bad={"tokenizer": [None, "gpt2", 3], "default_padding_side": NO_SIDE},
    ),
    "token_ids": Call(
        call=method("token_ids"),
        good=lambda: {"tokens": " Mary"},
        bad={"tokens": ["xyzzy", -1, 9999, None, 1.5, [0.5], torch.tensor([0.5]), on_meta(1), {}, [[1], [2, 3]]]},
    ),
    "generate": Call(
        call=method("generate"),
        good=lambda: {"input": SHORT, "max_new_tokens": 2, "verbose": False},
        bad={
            "input": [None, 3, [], [3], torch.zeros(1, 3), torch.full((1, 3), 9999), on_meta(1, 3)],
            "max_new_tokens": [*COUNT, 128],
            "eos_token_id": ["end", 1.5, ["end"]],
            "top_k": [0, -1, "three", 1.5],
            "top_p": [0.0, 1.5, -0.5, "half", NAN],
            "temperature": [-1.0, INF, NAN, "hot", None],
            "freq_penalty": [INF, NAN, "much", None],
            "return_type": ["text", 3, None],
            "padding_side": NO_SIDE,
            "attention_mask": [torch.ones(1, 99), "all", torch.zeros(1, 6)],
            "generator": NO_GENERATOR,
        },
    ),
    "generate_stream": Call(
        call=lambda **arguments: list(model().generate_stream(**arguments)),
        good=lambda: {"input": SHORT, "max_new_tokens": 2, "verbose": False},
        bad={"input": [None, 3, []], "max_tokens_per_yield": COUNT, "return_type": ["text"], "max_new_tokens": COUNT},
    ),
    "sample_logits": Call(
        call=sample_logits,
        good=lambda: {"final_logits": logits()[:, -1]},
        bad={
            "top_k": [0, -1, "three"],
            "top_p": [0.0, 1.5, NAN, "half"],
            "temperature": [-1.0, INF, NAN, "hot"],
            "freq_penalty": [INF, 1.0, "much"],
            "repetition_penalty": [0.0, -1.0, INF, 2.0],
            "generator": NO_GENERATOR,
        },
    ),
    # ---------------------------------------------------------------------------------------------- caches and factors
    "cache[key]": Call(
        call=lambda key: cache()[key],
        good=lambda: {"key": ("q", 1)},
        bad={
            "key": [
                *(
                    "no_such",
                    ("q", 3),
                    ("q", -4),
                    ("q", "one"),
                    ("q",),
                    (3, "q"),
                    None,
                    3,
                    ("q", 1, "mlp", 2),
                    ("q", 1.5),
                ),
                *("q3", ["q", 1], "blocks.1.attn.hook_result", (), ("q", None, None, None), ("no_such", 0)),
            ]
        },
    ),
    "cache.decompose_resid": Call(
        call=lambda **arguments: cache().decompose_resid(**arguments),
        good=dict,
        bad={"layer": [4, -2], "mode": ["heads", 3], "pos_slice": NO_SLICE, "mlp_input": [True]},
    ),
    "cache.accumulated_resid": Call(
        call=lambda **arguments: cache().accumulated_resid(**arguments),
        good=dict,
        bad={"layer": [4, -2], "pos_slice": NO_SLICE},
    ),
    "cache.stack_head_results": Call(
        call=lambda **arguments: cache().stack_head_results(**arguments),
        good=dict,
        bad={"layer": [0, 4, -2], "pos_slice": NO_SLICE},
    ),
    "cache.stack_activation": Call(
        call=lambda **arguments: cache().stack_activation(**arguments),
        good=lambda: {"activation_name": "z"},
        bad={
            "activation_name": ["no_such", 3, None],
            "layer": [0, 4, -2, "one", 1.5],
            "sublayer_type": [3],
        },
    ),
    "cache.apply_ln_to_stack": Call(
        call=lambda **arguments: cache().apply_ln_to_stack(**arguments),
        good=lambda: {"residual_stack": cache().decompose_resid()},
        bad={"layer": [4, -2], "batch_slice": [9, -9, [5]]},
    ),
    "cache.logit_attrs": Call(
        call=lambda **arguments: cache().logit_attrs(**arguments),
        good=lambda: {"residual_stack": cache().decompose_resid(), "tokens": " Mary"},
        bad={"tokens": ["xyzzy", 9999, -1, [1, 2, 3], None], "incorrect_tokens": ["xyzzy", [1, 2, 3], 9999]},
    ),
    "cache.apply_slice_to_batch_dim": Call(
        call=lambda **arguments: cache().apply_slice_to_batch_dim(**arguments),
        good=lambda: {"batch_slice": 0},
        bad={"batch_slice": [2, -3, "first", 1.5, [5]]},
    ),
    "cache.to": Call(
        call=lambda **arguments: cache().to(**arguments),
        good=lambda: {"device": "cpu"},
        bad={"device": ["nowhere", 3.5, ["cpu"]]},
    ),
    "cache.load": Call(
        call=lambda **arguments: ActivationCache.load(**arguments),
        good=lambda: {"path": saved_cache()},
        bad={"path": ["no such file", __file__, 3, None], "model": [3, "gpt2"], "device": ["nowhere", 3.5]},
    ),
    "cache of two prompts, remove_batch_dim": Call(
        call=lambda prompts: ActivationCache({"hook_embed": torch.zeros(prompts, 3)}, None).remove_batch_dim(),
        good=lambda: {"prompts": 1},
        bad={"prompts": [2, 5]},
    ),
    "FactoredMatrix": Call(
        call=FactoredMatrix,
        good=lambda: {"A": torch.ones(4, 2), "B": torch.ones(2, 3)},
        bad={"A": [torch.ones(4, 5), torch.ones(4)], "B": [torch.ones(3, 3), torch.ones(2)]},
    ),
    "FactoredMatrix @": Call(
        call=lambda other: FactoredMatrix(torch.ones(4, 2), torch.ones(2, 3)) @ other,
        good=lambda: {"other": torch.ones(3)},
        bad={"other": [torch.ones(4), torch.ones(2, 3), FactoredMatrix(torch.ones(4, 2), torch.ones(2, 3))]},
    ),
    "Slice.apply": Call(
        call=lambda input_slice: Slice(input_slice).apply(torch.ones(3)),
        good=lambda: {"input_slice": 1},
        bad={"input_slice": [one for one in NO_SLICE if one != [True, False]] + [(1, 2, 3, 4), ("a", "b"), [True]]},
    ),
    "get_act_name": Call(
        call=get_act_name,
        good=lambda: {"name": "q", "layer": 1},
        bad={"name": [3, None, ["q"]]},
    ),
    "KeyValueCache.prefix": Call(
        call=lambda **arguments: KeyValueCache().prefix(**arguments),
        good=lambda: {"tokens": 0},
        bad={"tokens": [1, -1]},
    ),
    # ------------------------------------------------------------------------------------------------- runs and metrics
    "at": Call(
        call=at,
        good=lambda: {"hook": "z", "layer": 1, "head": 1},
        bad={
            "hook": [3, None, ["z"]],
            "layer": ["one", 1.5, [1]],
            "head": ["one", 1.5, [], [1.5], torch.zeros(2), torch.zeros(2, 2, 2).long(), on_meta(2), None, True],
        },
    ),
    "evaluate at a site": Call(
        call=lambda **arguments: evaluate(model(), [Run(tokens(), [Intervention(at(**arguments), 0.0)])], metric()),
        good=lambda: {"hook": "z", "layer": 1, "head": 1},
        bad={
            "hook": ["no_such", "resid_pre", "hook_embed"],
            "layer": [3, -1, 99],
            "head": [4, -5, [0, 9], torch.tensor([0, 1, 2]), torch.tensor([0, 9])],
            "pos": [15, -16, [0, 15]],
            "no_such_axis": [0],
        },
    ),
    "evaluate an intervention": Call(
        call=lambda **arguments: evaluate(model(), [Run(tokens(), [Intervention(**arguments)])], metric()),
        good=lambda: {"site": at("z", 1), "source": 0.0},
        bad={
            "site": [None, "z1", 3],
            "source": [
                *(
                    torch.zeros(7),
                    "zero",
                    None,
                    [1.0],
                    {},
                    {"hook_embed": torch.zeros(1)},
                    Run(torch.full((2, 7), 5)),
                ),
                *(
                    NAN,
                    Mean(Run(torch.full((2, 7), 5)), per_position=True),
                    on_meta(2, 15, 4, 32, dtype=torch.float32),
                ),
                {"blocks.1.attn.hook_z": torch.zeros(2, 14, 4, 32)},
            ],
            "along": [
                torch.zeros(32),
                torch.ones(2, 32),
                torch.ones(33),
                torch.full((32,), NAN),
                "up",
                torch.ones(2, 2, 2),
            ],
            "into": [at("z", 2), at("resid_pre", 2), at("q_input", 1), "q_input2", at("q_input", 2, head=9)],
            "mask": [torch.zeros(7), "half", NAN, on_meta(1, dtype=torch.float32)],
        },
    ),
    "evaluate a run": Call(
        call=lambda **arguments: evaluate(model(), [Run(**arguments)], metric()),
        good=lambda: {"tokens": tokens(), "interventions": [Intervention(at("z", 1), 0.0)]},
        bad={
            "tokens": [
                None,
                CLEAN,
                [1, 2],
                torch.zeros(2, 15),
                torch.full((2, 15), 9999),
                torch.zeros(15).long(),
                torch.full((3, 15), 5),
                on_meta(2, 15),
            ],
            "interventions": [3, "z", [3], [at("z", 1)], Intervention(at("z", 1), 0.0)],
            "attention_mask": [torch.ones(2, 14), "all", 1],
        },
    ),
    "evaluate": Call(
        call=evaluate,
        good=lambda: {"model": model(), "runs": [run()], "metric": metric()},
        bad={
            "model": NO_MODEL,
            "runs": [[], None, 3, [3], [tokens], "runs"],
            "metric": NO_METRIC,
            "max_memory": NO_MEMORY,
        },
    ),
    "Mean": Call(call=Mean, good=lambda: {"run": run()}, bad={"run": [None, CLEAN], "exclude": ["bos", ["eos"], 3]}),
    "evaluate a Resample": Call(
        call=lambda order: evaluate(
            model(), [Run(tokens(), [Intervention(at("z", 1), Resample(run(), order))])], metric()
        ),
        good=lambda: {"order": torch.tensor([1, 0])},
        bad={"order": [torch.tensor([0, 2]), torch.tensor([-1, 0]), torch.tensor([0, 1, 0]), torch.tensor([0.0, 1.0])]},
    ),
    "record": Call(
        call=record,
        good=lambda: {"model": model(), "run": run(), "hooks": "z1"},
        bad={"model": NO_MODEL, "run": [None, CLEAN, tokens], "hooks": ["no_such", 3, None, [3], []]},
    ),
    "Readout.positions": Call(
        call=lambda pos: Readout(pos=pos).positions(run()),
        good=lambda: {"pos": -1},
        bad={"pos": [15, -16, torch.tensor([0, 1, 2]), "last", 1.5, torch.tensor([0.5])]},
    ),
    "LogitDiff": Call(
        call=lambda **arguments: evaluate(model(), [run()], LogitDiff(**arguments)),
        good=lambda: {"answer": " Mary", "wrong": " John"},
        bad={
            "answer": ["xyzzy", 9999, -1, [1, 2], None, 0.5, {}],
            "wrong": ["xyzzy", 9999, [1, 2], None],
            "pos": [15, -16, "last", 0.5],
        },
    ),
    "LogitDiff of logits": Call(
        call=lambda **arguments: LogitDiff(**arguments)(logits()),
        good=lambda: {"answer": [1, 2], "wrong": [3, 4]},
        bad={"answer": [" Mary", 0.5, [], [[1, 2], [3, 4]], [1, 2, 3]], "wrong": [" John", [], 0.5]},
    ),
    "Accuracy": Call(
        call=lambda **arguments: evaluate(model(), [run()], Accuracy(**arguments)),
        good=lambda: {"answer": " Mary", "among": [" Mary", " John"]},
        bad={"answer": ["xyzzy", [1, 2, 3], None], "among": [[], [" Mary"], [9999], 3.5, [["xyzzy"]]]},
    ),
    "KL": Call(
        call=lambda **arguments: evaluate(model(), [run()], KL(**arguments)),
        good=lambda: {"reference": PROMPTS},
        bad={"reference": [None, 3, [], torch.zeros(2, 3), torch.zeros(5, 814), [CLEAN] * 3], "pos": [15, "last"]},
    ),
    # ----------------------------------------------------------------------------------------------------- experiments
    "sweep": Call(
        call=interp_hooks.sweep,
        good=lambda: {
            "model": model(),
            "run_at": lambda layer: Run(tokens(), [Intervention(at("z", layer), 0.0)]),
            "metric": metric(),
            "over": {"layer": [0, 1]},
            "progress": False,
        },
        bad={
            "run_at": [
                *(None, 3, doing("got NoneType", lambda layer: None)),
                doing("blocks.9", lambda layer: Run(tokens(), [Intervention(at("z", 9), 0.0)])),
            ],
            "over": [{}, {"layer": []}, {"layer": [9]}, ["layer"], None, {"layer": 3}],
            "baselines": [{"clean": CLEAN}, 3, [run], {"clean": None}],
            "scale": ["clean", ("clean", "corrupt"), 3],
            "save_to": NO_FOLDER,
        },
    ),
    "patch": Call(
        call=interp_hooks.patch,
        good=lambda: pair() | {"metric": metric(), "site": "resid_pre", "layers": [1], "progress": False},
        bad={
            "model": NO_MODEL,
            "clean": NO_PAIR,
            "corrupt": NO_PAIR,
            "metric": NO_METRIC,
            "site": [*NO_SITE[:4], *NO_SITE[5:], [], ["no_such"], [3]],
            "over": NO_OVER[:-1],
            "select": [{"no_such": 0}, {"pos": 3}, "pos", ["pos"], {"d_model": 128}, {"d_model": 0.5}],
            "window": COUNT,
            "direction": NO_CHOICE,
            "layers": NO_LAYERS,
            "max_memory": NO_MEMORY,
            "save_to": [*NO_FOLDER, __file__, Path(__file__).parent],
        },
    ),
    "ablate": Call(
        call=interp_hooks.ablate,
        good=lambda: one_set() | {"metric": metric(), "site": "z", "layers": [1], "progress": False, "method": "mean"},
        bad={
            "model": NO_MODEL,
            "prompts": NO_PROMPTS,
            "metric": NO_METRIC,
            "site": NO_SITE,
            "method": ["median", None, torch.zeros(7), {}, [0.0]],
            "over": NO_OVER[:-1],
            "reference": NO_PROMPTS[1:],
            "layers": NO_LAYERS,
            "save_to": NO_FOLDER,
        },
    ),
    "ablate by resampling": Call(
        call=interp_hooks.ablate,
        good=lambda: one_set() | {"metric": metric(), "layers": [1], "progress": False, "method": "resample"},
        bad={"reference": [SHORT, [SHORT, SHORT], 3], "generator": NO_GENERATOR, "prompts": [CLEAN]},
    ),
    "mean_activations": Call(
        call=mean_activations,
        good=lambda: one_set() | {"site": "z", "layers": [1]},
        bad={
            "site": NO_SITE,
            "groups": [[0], [0, 1, 2], "ab!", 3, [[0], [1]]],
            "exclude": ["bos", ["eos"], 3],
            "batch_size": COUNT,
            "layers": NO_LAYERS,
        },
    ),
    "noised_activations": Call(
        call=noised_activations,
        good=lambda: one_set() | {"site": "z", "layers": [1]},
        bad={"std": [-1.0, NAN, *NO_NUMBER], "site": ["attn_scores", "no_such"], "generator": NO_GENERATOR},
    ),
    "optimal_ablation": Call(
        call=interp_hooks.optimal_ablation,
        good=lambda: one_set() | {"site": "z", "layers": [1], "steps": 1, "progress": False},
        bad={
            "metric": [None, Rank(1), Accuracy(1), metric(), max],
            "site": ["no_such", "attn_scores", 3],
            "reference": [3],
            "reference_metric": [metric(), 3],
            "steps": [-1, "many", 1.5],
            "lr": [0.0, -1.0, "fast", NAN],
            "batch_size": COUNT,
            "minimize": ["yes", 3],
        },
    ),
    "path_patch": Call(
        call=interp_hooks.path_patch,
        good=lambda: pair() | {"metric": metric(), "layers": [1], "progress": False},
        bad={
            "clean": NO_PAIR,
            "metric": NO_METRIC[:5],
            "senders": [
                "no_such",
                "resid_pre",
                3,
                None,
                [],
                {},
                {"one": "z"},
                [at("q", 1)],
                at("z", 9),
                at("z", 1, head=9),
            ],
            "receivers": ["z", 3, None, [], at("z", 1), at("q_input", 9), at("q_input", 2, head=9), ["q_input"]],
            "over": NO_OVER[:-1],
            "mlps": NO_CHOICE,
            "direction": NO_CHOICE,
            "layers": NO_LAYERS,
            "max_memory": NO_MEMORY,
        },
    ),
    "attribution_patch": Call(
        call=interp_hooks.attribution_patch,
        good=lambda: pair() | {"metric": metric(), "site": "z", "layers": [1]},
        bad={
            "corrupt": NO_PAIR,
            "metric": [*NO_METRIC, Rank(1)],
            "site": NO_SITE,
            "over": NO_OVER[:-1],
            "direction": NO_CHOICE,
            "qk_fix": NO_FLAG,
            "grad_drop": NO_FLAG,
            "layers": NO_LAYERS,
        },
    ),
    "attribution_patches": Call(
        call=interp_hooks.attribution_patches,
        good=lambda: pair() | {"metric": metric(), "sites": {"z": ["layer"]}},
        bad={"sites": [None, "z", ["z"], {"z": ["no_such"]}, {"no_such": ["layer"]}, {3: ["layer"]}, {"z": 3}]},
    ),
    "agreement": Call(
        call=interp_hooks.agreement,
        good=lambda: (
            pair() | {"metric": metric(), "result": result(), "site": "resid_pre", "progress": False, "cells": 2}
        ),
        bad={
            "result": [None, components, "result", 3],
            "cells": [*NO_INT, 0, 1],
            "site": ["no_such", 3],
            "metric": [None, Rank(1)],
            "generator": NO_GENERATOR,
        },
    ),
    "integrated_gradients": Call(
        call=interp_hooks.integrated_gradients,
        good=lambda: one_set() | {"metric": metric(), "site": "hook_embed", "steps": 1},
        bad={
            "prompts": NO_PROMPTS,
            "metric": [*NO_METRIC, Rank(1)],
            "site": ["no_such", 3, None, ["hook_embed"]],
            "baseline": [torch.zeros(7), "zero", None, {}, Run(torch.full((2, 7), 5))],
            "steps": COUNT,
            "over": [["no_such"], ["pos", "pos"], 3, None],
        },
    ),
    "gradient_x_input": Call(
        call=interp_hooks.gradient_x_input,
        good=lambda: one_set() | {"metric": metric(), "site": "hook_embed"},
        bad={"site": ["no_such", 3, None], "over": [["no_such"], ["pos", "pos"], 3], "metric": [Rank(1), None]},
    ),
    "causal_trace": Call(
        call=interp_hooks.causal_trace,
        good=lambda: one_set() | {"subject": " Mary and", "layers": [1], "samples": 1, "progress": False},
        bad={
            "prompts": NO_PROMPTS[:5],
            "subject": [
                "no such words",
                "",
                " ",
                3,
                None,
                [99],
                [],
                [" Mary"],
                torch.zeros(2, 15).bool(),
                torch.ones(2, 3),
                [1.5],
                torch.ones(2, 15),
            ],
            "metric": NO_METRIC[1:5],
            "site": ["no_such", "pattern", 3, None],
            "window": COUNT,
            "severed": ["norm", 3],
            "noise": [-1.0, NAN, "much"],
            "samples": COUNT,
            "positions": [{"last": 99}, 3, ["last"], {"last": "end"}],
            "layers": NO_LAYERS,
            "generator": NO_GENERATOR,
        },
    ),
    "subject_tokens": Call(
        call=subject_tokens,
        good=lambda: one_set() | {"subject": " Mary and"},
        bad={"prompts": [None, 3, [], tokens], "subject": ["no such words", "", 3, None, [99], [], ["a", 3]]},
    ),
    "patch_along": Call(
        call=interp_hooks.patch_along,
        good=lambda: pair() | {"metric": metric(), "along": direction(), "layers": [1], "progress": False},
        bad={
            "along": [
                *(
                    torch.zeros(128),
                    torch.ones(2, 128),
                    torch.ones(127),
                    torch.full((128,), NAN),
                    "up",
                    None,
                    3,
                    {},
                    [],
                ),
                *({"up": torch.ones(127)}, {"up": 3}, torch.ones(1, 1, 128), torch.ones(128).long()),
                on_meta(128, dtype=torch.float32),
            ],
            "site": NO_SITE,
            "over": [["no_such"], ["layer", "d_model"], 3],
            "direction": NO_CHOICE,
            "layers": NO_LAYERS,
        },
    ),
    "steer": Call(
        call=lambda **arguments: entered(interp_hooks.steer(**arguments)),
        good=lambda: {"model": model(), "vector": direction(), "hook": "resid_pre1"},
        bad={
            "model": NO_MODEL,
            "vector": [torch.ones(127), torch.ones(1, 1, 128), "up", None, 3, [1.0], on_meta(128, dtype=torch.float32)],
            "hook": ["no_such", "pattern1", "z1", 3, None, at("z", 1), at("z", 1, head=9), at("resid_pre", 1, pos=0)],
            "coefficient": ["much", None, [1.0]],
            "positions": [
                -99,
                [99],
                [-1, -99],
                "last",
                1.5,
                slice(0, 9, 2),
                torch.zeros(3).long(),
                [],
                True,
            ],
        },
    ),
    "ablate_directions": Call(
        call=lambda **arguments: entered(interp_hooks.ablate_directions(**arguments)),
        good=lambda: {"model": model(), "directions": direction()},
        bad={
            "directions": [torch.ones(127), torch.zeros(128), torch.ones(2, 128), "up", None, torch.full((128,), NAN)],
            "hook": ["no_such", "pattern1", 3],
            "positions": [-99, "last", [99]],
        },
    ),
    "steering_vector": Call(
        call=interp_hooks.steering_vector,
        good=lambda: {"model": model(), "positive": CLEAN, "negative": CORRUPT, "hook": "resid_pre1"},
        bad={
            "positive": NO_PROMPTS,
            "hook": ["no_such", "pattern1", "z1", 3, None],
            "pos": [99, -99, "last", 1.5, torch.zeros(3).long()],
        },
    ),
    "orthogonalize": Call(
        call=interp_hooks.orthogonalize,
        good=lambda: {"model": model(), "directions": direction()},
        bad={"model": NO_MODEL, "directions": [torch.ones(127), torch.zeros(128), "up", None, torch.ones(2, 128)]},
    ),
    "relative_norm": Call(
        call=relative_norm,
        good=lambda: one_set() | {"vector": direction()},
        bad={
            "vector": [torch.ones(127), "up", None, torch.ones(2, 128)],
            "site": ["no_such", "z", 3],
            "layers": NO_LAYERS,
        },
    ),
    # ------------------------------------------------------------------------------------------------ as tutorials call
    "get_act_patch_resid_pre": Call(
        call=patching.get_act_patch_resid_pre,
        good=lambda: tutorial() | {"patching_metric": mean_logit},
        bad={
            "model": NO_MODEL,
            "corrupted_tokens": [
                None,
                CLEAN,
                torch.zeros(2, 15),
                torch.full((2, 7), 5),
                torch.full((2, 15), 9999),
                torch.zeros(15).long(),
                on_meta(2, 15),
            ],
            "clean_cache": [None, {}, 3, "cache"],
            "patching_metric": [None, 3, *NO_METRIC_FUNCTION],
        },
    ),
    "get_act_patch_block_every": Call(
        call=patching.get_act_patch_block_every,
        good=lambda: tutorial() | {"patching_metric": mean_logit},
        bad={"clean_cache": [None, {}, 3], "corrupted_tokens": [None, CLEAN], "patching_metric": [None, 3]},
    ),
    "generic_activation_patch": Call(
        call=patching.generic_activation_patch,
        good=lambda: (
            tutorial()
            | {
                "patching_metric": mean_logit,
                "patch_setter": patching.layer_head_vector_patch_setter,
                "activation_name": "z",
                "index_axis_names": ["layer", "head"],
            }
        ),
        bad={
            "corrupted_tokens": [None, CLEAN, torch.zeros(2, 15)],
            "clean_cache": [None, {}, 3],
            "patching_metric": [None, 3],
            "patch_setter": [
                *(None, 3, doing("returned float", lambda value, index, clean: 3.0)),
                doing(r"returned shape \[1, ", lambda value, index, clean: value[:1]),
            ],
            "activation_name": ["no_such", 3, None],
            "index_axis_names": [None, [], ["no_such"], ["head", "layer"], 3, [3]],
            "index_df": [3, "table"],
        },
    ),
    # -------------------------------------------------------------------------------------------------------- analyses
    "direct_logit_attribution": Call(
        call=interp_hooks.direct_logit_attribution,
        good=lambda: {"model": model(), "input": PROMPTS, "answer_tokens": " Mary"},
        bad={
            "model": NO_MODEL,
            "input": NO_PROMPTS,
            "answer_tokens": ["xyzzy", 9999, -1, [1, 2, 3], None, 0.5, {}],
            "incorrect_tokens": ["xyzzy", 9999, [1, 2, 3], 0.5],
            "unit": NO_CHOICE,
            "cache": [3, "cache", {}],
            "pos": [99, -99, "last", 1.5, torch.zeros(3).long()],
        },
    ),
    "logit_lens": Call(
        call=interp_hooks.logit_lens,
        good=one_set,
        bad={"model": NO_MODEL, "prompts": NO_PROMPTS, "pos": [99, -99, "last", 1.5, torch.zeros(3).long()]},
    ),
    "LogitLens.table": Call(
        call=lambda answer: interp_hooks.logit_lens(model(), PROMPTS).table(answer),
        good=lambda: {"answer": " Mary"},
        bad={"answer": ["xyzzy", 9999, -1, [1, 2, 3], 0.5]},
    ),
    "detect_head": Call(
        call=interp_hooks.detect_head,
        good=lambda: {"model": model(), "seq": CLEAN, "detection_pattern": "previous_token_head"},
        bad={
            "model": NO_MODEL,
            "seq": [None, 3, [], [3], torch.zeros(2, 15), torch.full((1, 5), 9999), on_meta(1, 5)],
            "detection_pattern": ["previous", 3, None, torch.ones(15, 15), torch.zeros(3, 3), torch.zeros(15)],
            "heads": [[(9, 0)], [(0, 9)], [], {}, "all", 3, [3], [("one", 0)], {0: 3}],
            "cache": [3, "cache", {}],
            "error_measure": ["square", 3, None],
        },
    ),
    "head_scores": Call(
        call=interp_hooks.head_scores,
        good=lambda: {"model": model(), "head": "previous_token_head", "n": 1},
        bad={
            "model": NO_MODEL,
            "head": ["induction", 3, None],
            "seq": [3, [], [3], torch.zeros(2, 15), torch.full((1, 5), 9999), on_meta(1, 5)],
            "n": COUNT,
            "subseq_len": [0, 1, 64, 1.5, "long"],
            "generator": NO_GENERATOR,
        },
    ),
    "get_singular_vectors": Call(
        call=lambda **arguments: SVDInterpreter(model()).get_singular_vectors(**arguments),
        good=lambda: {"vector_type": "OV", "layer_index": 1, "head_index": 1},
        bad={
            "vector_type": ["QK", 3, None, "w_in"],
            "layer_index": [*NO_INT, 3, -1, None],
            "num_vectors": [*COUNT, 99],
            "head_index": [*NO_INT, 4, -1, None],
        },
    ),
    "induction_loss": Call(
        call=induction_loss,
        good=lambda: {"model": model(), "subseq_len": 8},
        bad={
            "model": NO_MODEL,
            "subseq_len": [1, 999, "long", 1.5],
            "batch_size": COUNT,
            "device": ["cuda", "nowhere"],
            "generator": NO_GENERATOR,
        },
    ),
    "test_prompt": Call(
        call=prompt_test,
        good=lambda: {"prompt": SHORT, "answer": "John", "model": model()},
        bad={"prompt": [None, 3, []], "answer": [None, 3, [], [3]], "model": NO_MODEL, "top_k": ["three", -1]},
    ),
    "lm_accuracy": Call(
        call=lm_accuracy,
        good=lambda: {"logits": logits(), "tokens": tokens()},
        bad={
            "logits": [None, torch.zeros(2, 15)],
            "tokens": [None, CLEAN, torch.zeros(2, 15), torch.zeros(2, 7).long()],
        },
    ),
    "lm_cross_entropy_loss": Call(
        call=lm_cross_entropy_loss,
        good=lambda: {"logits": logits(), "tokens": tokens()},
        bad={
            "logits": [None, torch.zeros(2, 15)],
            "tokens": [None, CLEAN, torch.zeros(2, 15), torch.zeros(2, 7).long()],
            "attention_mask": [torch.ones(2, 7), "all"],
        },
    ),
    # -------------------------------------------------------------------------------------------------------- results
    "Result.load": Call(
        call=lambda folder: Result.load(folder),
        good=lambda: {"folder": FOLDER / "result"},
        bad={"folder": ["no such folder", __file__, Path(__file__).parent, 3, None]},
    ),
    "Result.save": Call(
        call=lambda **arguments: result_of_heads().save(**arguments),
        good=lambda: {"folder": FOLDER / "again", "overwrite": True, "model": model()},
        bad={"folder": [__file__, Path(__file__).parent, 3, None], "model": [3, "ioi-tiny"]},
    ),
    "Result.resume": Call(
        call=lambda **arguments: Result.resume(**arguments),
        good=lambda: {"folder": FOLDER / "result", "model": model()},
        bad={"folder": ["no such folder", 3, None], "model": NO_MODEL},
    ),
    "Result.rerun": Call(
        call=lambda **arguments: result().rerun(progress=False, **arguments),
        good=lambda: {"model": model()},
        bad={"model": NO_MODEL, "metric": [3, "logit_diff"]},
    ),
    "Result.interval": Call(
        call=lambda **arguments: result().interval(**arguments),
        good=dict,
        bad={"level": [0.0, 1.0, -1.0, 95, NAN, "high"], "samples": COUNT, "generator": NO_GENERATOR},
    ),
    "Result.top": Call(
        call=lambda **arguments: result().top(**arguments),
        good=lambda: {"k": 2},
        bad={"k": ["three", 1.5, 0, -1], "by": ["no column", 3]},
    ),
    "heatmap": Call(
        call=interp_hooks.heatmap,
        good=lambda: {"result": result()},
        bad={
            "result": [None, 3, components, torch.zeros(2, 2)],
            "value": ["median", 3],
            "labels": [{"pos": ["a"]}, {"no_such": ["a"]}, {"pos": 3}, "pos", 3],
        },
    ),
    "bars": Call(
        call=interp_hooks.bars,
        good=lambda: {"result": components()},
        bad={"result": [None, 3, result, torch.zeros(2)], "top": COUNT, "value": ["median", 3]},
    ),
    # ---------------------------------------------------------------------------------------------------- dictionaries
    "dictionaries.load": Call(
        call=dictionaries.load,
        good=lambda: {"path": "ioi-tiny/sae"},
        bad={"path": NO_FOLDER, "format": NO_CHOICE},
    ),
    "dictionaries.save": Call(
        call=dictionaries.save,
        good=lambda: {"dictionary": sae(), "path": FOLDER / "new", "format": "saelens"},
        bad={"dictionary": [None, 3, "ioi-tiny/sae"], "path": NO_FOLDER, "format": NO_CHOICE},
    ),
    "adapted": Call(
        call=dictionaries.adapted,
        good=lambda: {"dictionary": sae(), "model": model()},
        bad={"model": NO_MODEL, "dictionary": [None, 3, "ioi-tiny/sae"]},
    ),
    "random_dictionary": Call(
        call=dictionaries.random_dictionary,
        good=lambda: {"dictionary": sae()},
        bad={"dictionary": [None, 3, "ioi-tiny/sae"], "seed": NO_INT},
    ),
    "dictionary_metrics": Call(
        call=dictionaries.dictionary_metrics,
        good=lambda: {"model": model(), "dictionaries": sae(), "corpus": PROMPTS},
        bad={"model": NO_MODEL, "dictionaries": [None, 3, "sae", {}]},
    ),
    "train_dictionaries": Call(
        call=dictionaries.train_dictionaries,
        good=lambda: {
            "model": model(),
            "corpus": PROMPTS,
            "recipes": Recipe(hook="mlp_out1", n_features=8, k=2),
            "steps": 1,
            "tokens_per_step": 4,
            "progress": False,
        },
        bad={
            "model": NO_MODEL,
            "recipes": [None, 3, {}, {"a b": Recipe(hook="mlp_out1", n_features=8, k=2)}],
            "steps": COUNT,
            "tokens_per_step": [*NO_INT, 1],
            "buffer": [*NO_INT, 3],
            "seed": NO_INT,
        },
    ),
    "train_on_activations": Call(
        call=dictionaries.train_on_activations,
        good=lambda: {
            "x": torch.ones(8, 4),
            "recipe": Recipe(hook="x", n_features=8, k=2),
            "steps": 1,
            "tokens_per_step": 4,
            "progress": False,
        },
        bad={
            "x": [None, 3, torch.ones(8)],
            "recipe": [None, 3, "sae"],
            "steps": COUNT,
            "tokens_per_step": [*NO_INT, 1, 9],
            "y": [3, torch.ones(8, 4)],
        },
    ),
    "feature_units": Call(
        call=studies.feature_units,
        good=lambda: {"model": model(), "dictionaries": sae()},
        bad={"model": NO_MODEL, "dictionaries": [None, 3, [], "ioi-tiny/sae"], "name": [3, None]},
    ),
    "feature_circuit": Call(
        call=interp_hooks.circuits.feature_circuit,
        good=lambda: {
            "model": model(),
            "clean": PROMPTS,
            "corrupt": CORRUPTED,
            "metric": metric(),
            "dictionaries": {"sae": sae()},
            "steps": None,
            "progress": False,
        },
        bad={
            "model": NO_MODEL,
            "dictionaries": [None, 3, {}, {"sae": 3}],
            "steps": COUNT,
            "by_position": NO_FLAG,
            "node_threshold": [*NO_NUMBER, -1.0, NAN],
            "edge_threshold": [*NO_NUMBER, -1.0],
        },
    ),
    # --------------------------------------------------------------------------------------------------------- loading
    "from_pretrained": Call(
        call=HookedTransformer.from_pretrained,
        good=lambda: {"model_name": "ioi-tiny"},
        bad={"dtype": ["float33"], "first_n_layers": [0, 9], "model_name": [str(Path(__file__).parent)]},
    ),
    "HookedTransformerConfig": Call(
        call=HookedTransformerConfig,
        good=lambda: dict(n_layers=1, d_model=8, n_ctx=4, d_vocab=5, n_heads=2, d_head=4, act_fn="gelu", d_mlp=8),
        bad={
            "n_layers": [0, -1],
            "act_fn": ["no_such", None],
            "normalization_type": ["no_such"],
            "positional_embedding_type": ["no_such"],
            "dtype": ["float33"],
            "init_mode": ["no_such"],
        },
    ),
    "HookedTransformer": Call(
        call=HookedTransformer,
        good=lambda: {
            "cfg": dict(n_layers=1, d_model=8, n_ctx=4, d_vocab=5, n_heads=2, d_head=4, act_fn="gelu", d_mlp=8)
        },
        bad={"cfg": [None, 3, "gpt2"], "default_padding_side": ["middle", 3]},
    ),
}


def saved_cache() -> Path:
    return FOLDER / "cache.safetensors"


FOLDER = Path()  # set by a fixture


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call with some of its arguments replaced."""

    name: str
    replaced: Mapping[str, Any]

    def make(self) -> object:
        call = CALLS[self.name]
        return call.call(**dict(call.good()) | dict(self.replaced))

    def __str__(self) -> str:
        return (
            f"{self.name} with {', '.join(f'{argument}={_shown(value)}' for argument, value in self.replaced.items())}"
        )


def single_cases(name: str) -> list[Case]:
    """A call with one argument replaced, by each of its bad values."""
    bad = CALLS[name].bad
    return [Case(name=name, replaced={argument: value}) for argument, values in bad.items() for value in values]


def double_cases(name: str, count: int = 6) -> list[Case]:
    """A call with two arguments replaced, drawn with a seed."""
    rng, bad = random.Random(name), CALLS[name].bad
    if len(bad) < 2:
        return []
    pairs = [rng.sample(sorted(bad), 2) for _ in range(count)]
    return [Case(name=name, replaced={one: rng.choice(bad[one]) for one in pair}) for pair in pairs]


def _shown(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)} on {value.device}" if isinstance(value, Tensor) else repr(value)[:80]


# ------------------------------------------------------------------------------------------------------------- verdicts


def says_too_little(message: str, replaced: Mapping[str, Any]) -> str:
    """What a message lacks about the one of the arguments that it is about, but for what is still to be mended."""
    missing = {argument: lacks(message, argument, value) for argument, value in replaced.items()}
    best = min(missing, key=lambda argument: len(missing[argument]))
    return " or ".join(missing[best])


def traces() -> list[str]:
    """What a call has left behind in the model."""
    left = [f"a hook on {point.name}" for point in model().hook_points() if point.hooks]
    left += [f"{model().context_level} open contexts"] * bool(model().context_level)
    left += ["a forward pre-hook"] * bool(model()._forward_pre_hooks)
    left += ["gradients off"] * (not torch.is_grad_enabled())
    left += ["frozen weights"] * (not all(weight.requires_grad for weight in model().parameters()))
    left += ["another tokenizer's side"] * (model().default_padding_side != "right")
    return left + ["other weights"] * (versions() != untouched())


def versions() -> list[tuple[int, int]]:
    """Which tensors the weights are, and how often each of them has been written to."""
    return [(id(weight), weight._version) for weight in model().state_dict(keep_vars=True).values()]


@functools.cache
def untouched() -> list[tuple[int, int]]:
    return versions()


def verdict(case: Case) -> str | None:
    """What is wrong with how a bad call went, if anything is."""
    wrong = "was taken"
    try:
        case.make()
    except InterpHooksError as error:
        missing = says_too_little(str(error), case.replaced)
        wrong = missing and f"does not tell {missing}: {error}"
    except Exception as error:
        wrong = f"raises {type(error).__name__}: {error}"
    left = traces()
    if left:
        wrong += f" leaves {', '.join(left)}"
    return f"{case} {wrong}" if wrong else None


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("bad_input")
    whole_cache().save(saved_cache())
    result_of_heads().save(FOLDER / "result")
    logits()


@pytest.fixture(autouse=True)
def _unchecked() -> Iterator[None]:
    """What the package itself says is to be seen, not what the tests' type checks say."""
    with unchecked_types():
        yield


def logits_are_what_they_were() -> bool:
    with torch.no_grad():
        return torch.equal(model()(tokens()), logits())


@pytest.mark.parametrize("name", CALLS)
def test_bad_arguments_are_refused_by_the_package_and_leave_nothing(name: str) -> None:
    """And the good ones that they stand in for are taken."""
    call = CALLS[name]
    call.call(**call.good())
    assert traces() == []
    wrong = [found for case in single_cases(name) + double_cases(name) if (found := verdict(case)) is not None]
    assert not wrong, "\n".join(wrong)
    assert logits_are_what_they_were()


# A call that takes what it must not, one that fails by somebody else's error, those that tell too little, one that
# leaves a hook behind: each is noticed.


def _raises(message: str) -> Callable[..., object]:
    def call(window: int) -> None:
        raise InterpHooksError(message)

    return call


MUTANTS: dict[str, tuple[Callable[..., object], str]] = {
    "takes": (lambda window: None, "was taken"),
    "fails": (lambda window: [][window], "raises IndexError"),
    "says nothing": (_raises("no"), "does not tell the argument or what was expected or what came"),
    "does not name the argument": (_raises("it must be at least 1, got -5"), "does not tell the argument:"),
    "does not say what it expects": (_raises("window must be good, got -5"), "does not tell what was expected:"),
    "does not say what came": (_raises("window must be at least 1 layer"), "does not tell what came:"),
    "says another's name": (_raises("samples must be at least 1, got -5"), "does not tell the argument:"),
    "says another value": (_raises("window must be at least 1 layer, got 5"), "does not tell what came:"),
    "leaves a hook": (lambda window: model().add_hook("z1", keep), "leaves a hook on blocks.1.attn.hook_z"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_bad_call_that_goes_wrong_is_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, expected = MUTANTS[mutant]
    monkeypatch.setitem(CALLS, mutant, Call(call=call, good=dict, bad={"window": [-5]}))
    (case,) = single_cases(mutant)
    try:
        assert expected in str(verdict(case))
    finally:
        model().reset_hooks()


def test_exchanged_messages_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message of a few calls in the place of every other one."""
    cases = [case for name in ("generate", "at", "causal_trace", "Result.interval") for case in single_cases(name)]
    messages = []
    for case in cases:
        with pytest.raises(InterpHooksError) as raised:
            case.make()
        messages.append(str(raised.value))
    taken = [
        f"{case}: {message}"
        for (case, own), message in itertools.product(zip(cases, messages, strict=True), messages)
        if message != own and not says_too_little(message, case.replaced)
    ]
    pairs = len(cases) * (len(cases) - 1)
    assert len(taken) < 0.01 * pairs, "\n".join(taken)
