"""Every family gives HuggingFace's numbers, and a table with a mistake in it does not pass unseen.

Members are the tiny models of `tests/family_configs`; all their parameters, and buffers that are weights, are random.
Tolerances are relative to the largest logit:

    float32   1e-4   a few hundred roundings of 6e-8, with room for other kernels
    float64   1e-9   where HuggingFace computes in float64 throughout (`exact=True` in the config)
              1e-5   where it drops to float32 (RMSNorm, softmax, rotary tables, routers), whatever the model's dtype

Every member is compared in float64. What a family brings beside that is names: the rest depends on what its model has.
So the other checks take `covering`, members among which each kind of mechanism (a norm's type, a window, a way to
choose experts, a pattern by which a table rearranges a tensor) is found three times, or as often as there are members
with it; with MEMBERS=all all of them, which is for whoever adds a family. Mistakes in tables and configs are tried on
the first member of each family.
"""

import copy
import dataclasses
import functools
import heapq
import itertools
import operator
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from interp_hooks import HookedTransformer, KeyValueCache
from interp_hooks.errors import BadInput, CheckpointError, UnsupportedConfig, WeightMismatch
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.loading.families import FAMILIES
from interp_hooks.loading.given import Numbers
from interp_hooks.loading.guard import ConfigReader, Family
from interp_hooks.loading.load import adopt
from interp_hooks.loading.parity import invariants
from interp_hooks.loading.rules import rules
from tests import family_configs
from tests.family_configs import CONFIGS
from tests.tiny import assert_close, convert, distance, hf_logits, log_probs, our_logits, random_tokens, redraw

FLOAT32 = 1e-4
BF16 = 1.5  # both lose digits; ours may lose half as many again, since order and fusion of the kernels differ
TOKENS = random_tokens(batch=3, pos=11)


def family_of(name: str) -> Family:
    return FAMILIES[CONFIGS[name]["model_type"]]


def kinds(name: str) -> frozenset[str]:
    """The kinds of mechanism that a member has: what its config says, numbers apart, and its table, names apart."""
    family = family_of(name)
    fields = family.config(ConfigReader(family_configs.config(name).get_text_config()))
    patterns = {str(theirs).partition("|")[2] for theirs in family.weights.values()}
    return frozenset((*patterns, *said(fields, "")))


def said(value: Any, name: str) -> Iterator[str]:
    """What each field has as words or as no or some number; a field of layers once for each kind of layer."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        for key in value.keys() - {"model_name"}:
            yield from said(value[key], f"{name}.{key}")
    elif isinstance(value, tuple | list):
        for one in value:
            yield from said(one, name)
    else:
        yield f"{name}={value!r}" if isinstance(value, bool | str) or not value else f"{name} is a number"


def covering(times: int = 3) -> list[str]:
    """Members with each kind so many times; the one next that has most of what is still needed."""
    of = {name: kinds(name) for name in CONFIGS}
    needed = {kind: min(times, n) for kind, n in Counter(itertools.chain.from_iterable(of.values())).items()}
    chosen: list[str] = []
    while any(needed.values()):
        best = max(of.keys() - {*chosen}, key=lambda name: (sum(needed[kind] > 0 for kind in of[name]), name))
        chosen.append(best)
        for kind in of[best]:
            needed[kind] -= needed[kind] > 0
    return chosen


every_member = pytest.mark.parametrize("name", family_configs.params())
chosen = [*CONFIGS] if os.environ.get("MEMBERS") == "all" else covering()
every_mechanism = pytest.mark.parametrize("name", family_configs.params(chosen))
FIRST = family_configs.first_of_each_type()
every_family = pytest.mark.parametrize("name", FIRST)


def is_causal(name: str) -> bool:
    return family_of(name).head == "CausalLM"


def build(name: str, **changes: Any) -> PreTrainedModel:
    """A HuggingFace model with random parameters, in evaluation mode."""
    entry = CONFIGS[name]
    return build_from(family_configs.config(name, **changes), entry.get("attention", "eager"), entry.get("std", 0.2))


def build_from(config: Any, attention: str = "eager", std: float = 0.2) -> PreTrainedModel:
    config = copy.deepcopy(config)
    config._attn_implementation = attention
    config._experts_implementation = "eager"  # the default knows no float64
    model = FAMILIES[config.get_text_config().model_type].auto_class.from_config(config).eval()
    redraw(model, std=std)
    if model.can_generate():
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
    return model


@functools.cache
def member(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Built once, so nobody may change it."""
    return build(name) if dtype == torch.float32 else copy.deepcopy(member(name)).to(dtype)


@functools.cache
def ours(name: str, dtype: torch.dtype = torch.float32) -> HookedTransformer:
    """The same, converted; nobody may change it either."""
    return convert(member(name, dtype))


def float64_tolerance(name: str) -> float:
    return 1e-9 if CONFIGS[name].get("exact") else 1e-5


# ------------------------------------------------------------------------------------------------------------ parity


def test_every_family_has_a_tiny_member() -> None:
    assert {entry["model_type"] for entry in family_configs.ALL.values()} == set(FAMILIES)


@every_mechanism
def test_logits_in_float32(name: str) -> None:
    assert_close(our_logits(ours(name), TOKENS), hf_logits(member(name), TOKENS), FLOAT32)


@every_member
def test_logits_in_float64(name: str) -> None:
    hf, options = member(name, torch.float64), family_configs.mask_options(name, TOKENS, torch.float64)
    theirs = hf_logits(hf, TOKENS, **options)
    assert_close(our_logits(ours(name, torch.float64), TOKENS), theirs, float64_tolerance(name))


@every_mechanism
def test_bfloat16_is_no_further_from_the_truth_than_huggingface(name: str) -> None:
    half = copy.deepcopy(member(name)).to(torch.bfloat16)
    truth = hf_logits(copy.deepcopy(half).float(), TOKENS)
    found, theirs = our_logits(convert(half), TOKENS), hf_logits(half, TOKENS)
    assert found.dtype == torch.bfloat16
    error_of_ours, error_of_theirs = ((logits.float() - truth).square().mean().sqrt() for logits in (found, theirs))
    assert error_of_ours <= CONFIGS[name].get("bf16", BF16) * error_of_theirs


def padded(side: str) -> tuple[Tensor, Tensor]:
    """Rows of 11, 7 and 2 real tokens, and their mask."""
    length = TOKENS.shape[1]
    real = torch.arange(length) < torch.tensor([11, 7, 2])[:, None]
    if side == "left":
        real = real.flip(1)
    return TOKENS.where(real, torch.tensor(3)), real


def positions_of(real: Tensor) -> Tensor:
    return (real.long().cumsum(1) - 1).clamp(min=0)


@every_mechanism
def test_padding(name: str) -> None:
    """Each row gives what HuggingFace gives for its real tokens alone, whichever side the padding is on."""
    for side in ("left", "right"):
        tokens, real = padded(side)
        logits = our_logits(ours(name), tokens, attention_mask=real)
        for row in range(len(tokens)):
            alone = hf_logits(member(name), tokens[row][real[row]][None])
            assert_close(logits[row][real[row]], alone[0], FLOAT32)


def assert_same_probabilities(ours: Tensor, theirs: Tensor, within: float) -> None:
    assert_close(log_probs(ours), log_probs(theirs), within)


@every_mechanism
def test_processing_changes_no_probability(name: str) -> None:
    hf = member(name, torch.float64)
    model = HookedTransformer.from_pretrained("tiny", hf_model=hf, dtype=torch.float64)
    assert_same_probabilities(our_logits(model, TOKENS), hf_logits(hf, TOKENS), float64_tolerance(name))
    for line in model.processing_report():
        assert line.endswith((": applied", ": not asked for")) or ": skipped, " in line


# ---------------------------------------------------------------------------------------------------------- decoding


def steps(model: HookedTransformer, tokens: Tensor, real: Tensor | None, first: int) -> Tensor:
    """Logits of a pass over the first tokens, then of one token at a time, through one cache."""
    cache = KeyValueCache()
    mask = None if real is None else real[:, :first]
    logits = [our_logits(model, tokens[:, :first], past_kv_cache=cache, attention_mask=mask)]
    logits += [
        our_logits(model, tokens[:, place : place + 1], past_kv_cache=cache) for place in range(first, tokens.shape[1])
    ]
    assert cache.length == tokens.shape[1]
    return torch.cat(logits, dim=1)


@every_mechanism
def test_decoding_with_a_cache_equals_the_full_pass(name: str) -> None:
    if not is_causal(name):
        pytest.skip("an encoder does not decode")
    model = ours(name, torch.float64)
    if may_cross(model):
        with pytest.raises(BadInput, match="Read all tokens again with a new cache"):
            steps(model, TOKENS, None, first=1)
        pytest.skip("its keys are rotated anew when the text outgrows the original context")
    assert_close(steps(model, TOKENS, None, first=8), our_logits(model, TOKENS), 1e-6)
    tokens, real = padded("left")
    decoded, whole = steps(model, tokens, real, first=10), our_logits(model, tokens, attention_mask=real)
    assert_close(decoded[real], whole[real], 1e-6)


def may_cross(model: HookedTransformer) -> bool:
    """Whether the tests' texts outgrow the context beyond which frequencies depend on the length of the text."""
    longest, read = torch.tensor([TOKENS.shape[1]]), torch.tensor([1])
    return model.rotary is not None and model.rotary.turns_anew(read, longest)


@every_mechanism
def test_resuming_at_a_layer_with_a_cached_prefix(name: str) -> None:
    if not is_causal(name):
        pytest.skip("an encoder does not decode")
    model, cache = ours(name, torch.float64), KeyValueCache()
    our_logits(model, TOKENS, past_kv_cache=cache)
    stream = our_logits(model, TOKENS, stop_at_layer=1)[:, 5:]
    options: dict[str, Any] = dict(start_at_layer=1, past_kv_cache=cache.prefix(5), tokens=TOKENS[:, 5:])
    if model.cfg.n_streams > 1:
        with pytest.raises(BadInput, match=f"carries {model.cfg.n_streams} streams"):
            model(stream, **options)
        pytest.skip("layer 1 reads streams that are not the one that is given")
    if any(source == 0 for source in model.cfg.keys_values_from):
        with pytest.raises(BadInput, match="layers after layer 0 use the keys and values that it makes"):
            model(stream, **options)
        pytest.skip("later layers attend to the keys and values of layer 0, which is not computed")
    with torch.no_grad():
        resumed = model(stream, **options)
    assert_close(resumed, our_logits(model, TOKENS)[:, 5:], 1e-6)


def generated(name: str, tokens: Tensor, real: Tensor) -> Tensor:
    """Padded rows and the four tokens that HuggingFace generates after each; without the padding where it matters."""
    hf, options = member(name), dict(max_new_tokens=4, do_sample=False)
    if CONFIGS[name].get("pads", True):
        return hf.generate(tokens, attention_mask=real.long(), **options)
    alone = [row[here][None] for row, here in zip(tokens, real, strict=True)]
    new = [hf.generate(row, attention_mask=torch.ones_like(row), **options)[:, -4:] for row in alone]
    return torch.cat((tokens, torch.cat(new)), dim=1)


@every_mechanism
def test_greedy_generation(name: str) -> None:
    """Token for token what HuggingFace generates, for a whole row beside padded ones."""
    if not is_causal(name):
        pytest.skip("an encoder does not decode")
    real = torch.arange(5) >= torch.tensor([0, 2, 1])[:, None]
    tokens = TOKENS[:, :5].where(real, torch.tensor(0))
    theirs = generated(name, tokens, real)
    assert torch.equal(ours(name).generate(tokens, 4, do_sample=False, attention_mask=real), theirs)
    if name in FIRST:  # and without a cache, which no family can make different
        for mask in (None, real):
            cached, anew = (
                ours(name).generate(tokens, 4, do_sample=False, attention_mask=mask, use_past_kv_cache=use_cache)
                for use_cache in (True, False)
            )
            assert torch.equal(cached, anew)


# ------------------------------------------------------------------------------------------------------------- hooks


@every_mechanism
def test_hooks_mean_what_they_say(name: str) -> None:
    found = invariants(ours(name, torch.float64), TOKENS)
    assert len(found) >= 4
    for invariant, error in found.items():
        assert error < 1e-6, invariant


@every_mechanism
@no_gradients
def test_looking_changes_no_bit(name: str) -> None:
    """Neither at everything, nor at patterns alone, with and without padding."""
    model = ours(name)
    for options in ({}, {"attention_mask": padded("left")[1]}):
        logits = model(TOKENS, **options)
        for wanted in (lambda name: True, None):
            assert torch.equal(model.run_with_cache(TOKENS, names_filter=wanted, **options)[0], logits)


# ------------------------------------------------------------------------------------------------------------- tables


def assert_same_tensors(exported: PreTrainedModel, original: PreTrainedModel, left_out: tuple[str, ...]) -> None:
    found, theirs = exported.state_dict(), original.state_dict()
    assert found.keys() == theirs.keys()
    for key in theirs:
        if not any(re.fullmatch(pattern, key) for pattern in left_out):
            assert torch.equal(found[key], theirs[key]), key


@every_mechanism
def test_export_is_exact_and_carries_edits(name: str) -> None:
    hf = member(name)
    model = convert(hf)
    assert_same_tensors(model.to_hf(), hf, family_of(name).ignored_weights)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.rpartition(".")[2].startswith("W"):
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    edited = model.to_hf()
    assert_close(our_logits(model, TOKENS), hf_logits(edited, TOKENS), FLOAT32)
    assert distance(hf_logits(edited, TOKENS), hf_logits(hf, TOKENS)) > 100 * FLOAT32


@every_member
def test_every_parameter_of_ours_is_in_the_table_once(name: str) -> None:
    model = ours(name, torch.float64)
    filled = [
        weight
        for rule in rules(family_of(name).weights, model.cfg.n_layers, model.cfg.mixer_kinds)
        for weight in rule.ours
    ]
    assert sorted(filled) == sorted({*filled}), "no weight is filled twice"
    assert set(dict(model.named_parameters())) <= set(filled)


def shapes(name: str) -> dict[str, set[tuple[int, ...]]]:
    """For each line of the table, the shapes of their tensors, of parts that the model has."""
    family, model = family_of(name), ours(name)
    parts = dict(model.named_parameters())
    tensors, found = member(name).state_dict(), {}
    for line, theirs in family.weights.items():
        for rule in rules({line: theirs}, model.cfg.n_layers, model.cfg.mixer_kinds):
            if parts.keys() & {*rule.ours}:
                found.setdefault(line, set()).update(tuple(tensors[s].shape) for s in rule.names(tensors))
    return found


def is_tried_in(name: str, mistake: str, *lines: str) -> bool:
    """Whether this is one of two families, drawn by name from those whose tables have these very lines.

    Where a mistake is known to be none, it is tried too.
    """
    if any(mistake == label and family_of(name).model_type in types for label, types, _ in EQUIVALENT):
        return True
    table = family_of(name).weights
    same = frozenset.intersection(*(with_line(line, table[line]) for line in lines))
    return name in heapq.nsmallest(2, same, key=lambda one: zlib.crc32(f"{mistake} of {one}".encode()))


@functools.cache
def with_line(line: str, theirs: str | None) -> frozenset[str]:
    """The families whose tables have this very line."""
    return frozenset(one for one in FIRST if family_of(one).weights.get(line) == theirs)


def mutants(name: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Tables with one mistake: a line dropped or called absent, or two lines' sources of equal shape exchanged.

    A mistake in lines that many tables share is tried in two of them.
    """
    table, shape = dict(family_of(name).weights), shapes(name)
    used = [line for line in table if shape.get(line)]
    for line in used:
        if is_tried_in(name, f"drop {line}", line):
            yield f"drop {line}", {key: value for key, value in table.items() if key != line}
        if is_tried_in(name, f"absent {line}", line):
            yield f"absent {line}", table | {line: None}
    for one, other in itertools.combinations(used, 2):
        sources = [str(table[key]).partition("|") for key in (one, other)]
        anywhere = {re.sub(r"\{\w+\}", "{i}", source) for source, *_ in sources}
        if shape[one] & shape[other] and len(anywhere) > 1:  # not the same name in layers of two kinds
            swapped = {
                one: "".join((sources[1][0], *sources[0][1:])),
                other: "".join((sources[0][0], *sources[1][1:])),
            }
            if is_tried_in(name, f"exchange {one} and {other}", one, other):
                yield f"exchange {one} and {other}", table | swapped


# Mutants that give the same function, and why: (how their label reads, for which model types, why)
EQUIVALENT = [
    (
        r"exchange blocks.{i}.attn.b_O and blocks.{i}.mlp.b_out",
        {"gpt_neox", "falcon", "phi"},
        "a parallel block adds both to the same stream before anybody reads it",
    ),
    (
        r"exchange blocks.{i}.attn.q_norm.w and blocks.{i}.attn.k_norm.w",
        {"hunyuan_v1_dense", "hunyuan_v1_moe"},
        "after the rotation nothing but the product of query and key is left, and so of their gains",
    ),
    (
        r"exchange blocks.{mamba}.attn.k_norm.w and blocks.{mamba}.attn.q_norm.w",
        {"jamba"},
        "what is written and what is read are multiplied dimension by dimension, and so are their gains",
    ),
    *(
        (
            rf"exchange blocks.{{differential}}.attn.lambda_q{term} and blocks.{{differential}}.attn.lambda_k{term}",
            {"diffllama"},
            "nothing but their product counts",
        )
        for term in (1, 2)
    ),
    (
        r"exchange embed.W_E and unembed.W_U",
        {name for name, family in FAMILIES.items() if family.head == "MaskedLM"}
        - {"distilbert", "eurobert", "modernbert", "rembert"},
        "they are tied, as in every published checkpoint",
    ),
]


@every_family
def test_mutants_of_the_table_are_caught(name: str) -> None:
    """Each is refused when loading, or its logits are not HuggingFace's."""
    hf, family, model = member(name), family_of(name), ours(name)
    truth, passed = hf_logits(hf, TOKENS), set()
    fill_again(model, family, hf)
    assert_close(our_logits(model, TOKENS), truth, FLOAT32)
    for label, table in mutants(name):
        try:
            fill_again(model, dataclasses.replace(family, weights=table), hf)
        except WeightMismatch:
            continue
        if distance(our_logits(model, TOKENS), truth) <= FLOAT32:
            passed.add(label)
    fill_again(model, family, hf)
    assert passed == {label for label, types, _ in EQUIVALENT if family.model_type in types}


def fill_again(model: HookedTransformer, family: Family, hf: PreTrainedModel) -> None:
    """Take all weights from the checkpoint again, by another table: what loading does once it has built the model."""
    for key, weight in list(model.named_parameters()):
        place, _, leaf = key.rpartition(".")
        setattr(model.get_submodule(place), leaf, torch.nn.Parameter(weight.to("meta")))
    tensors, n_layers = dict(hf.state_dict()), model.cfg.n_layers
    if family.stream_scales is not None:  # numbers of the config
        for layer in range(n_layers):
            del tensors[family.scale_of(layer)]
    adopt(model, family, tensors, n_layers, torch.device("cpu"), False, Numbers(family.model_type, False))


# ------------------------------------------------------------------------------------------------------- config guard

# Other values than the default's neighbour, where that one would make no model.
CHANGED: dict[str, Any] = {
    "attention_types": [[["local"], 3]],
    "full_attn_idxs": [2],
    "attn_layer_indices": [0],
    "mtp_layers_block_type": ["mlp"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "architectures": None,
    "dtype": torch.float64,
    "id2label": {0: "a", 1: "b", 2: "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
    "problem_type": "regression",
    "summary_activation": "tanh",
    "summary_type": "first",
    "pad_token_id": 3,
    "bos_token_id": 3,
    "eos_token_id": 3,
    "chunk_size_feed_forward": 2,
    "use_bidirectional_attention": True,
    "attn_logit_softcapping": 2.0,
    "logit_scale": 0.5,
    "attn_type": "multiquery_attention",
}
_BOOKKEEPING = ("transformers_version", "model_type", "architectures")  # facts which no model can change


def changed_value(name: str, value: object) -> object:
    if name in CHANGED:
        return CHANGED[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "-changed"
    if value is None:
        return 2
    raise AssertionError(f"say in CHANGED what {name}={value!r} could be changed to")


def unread(name: str) -> list[str]:
    reader = ConfigReader(member(name).config.get_text_config())
    family_of(name).config(reader)
    return [key for key in reader.unread() if key.rpartition(".")[2] not in _BOOKKEEPING]


def read_by_huggingface(name: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What transformers reads of a config while it builds the model and computes its logits."""
    config, read, usual = family_configs.config(name), set[str](), PreTrainedConfig.__getattribute__

    def noting(config: PreTrainedConfig, key: str) -> Any:
        read.update((key, usual(config, "attribute_map").get(key, key)))
        return usual(config, key)

    with monkeypatch.context() as while_building:
        while_building.setattr(PreTrainedConfig, "__getattribute__", noting)
        hf_logits(build_from(config), TOKENS)
    return read


@every_family
def test_what_is_not_read_is_refused_or_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attribute that the table does not read, changed: the checkpoint is refused by name, or nothing changes.

    What transformers does not read either changes nothing. A value that it cannot build a model from proves nothing
    and is passed over.
    """
    attributes, unchanged, judged = unread(name), our_logits(ours(name), TOKENS), 0
    read = read_by_huggingface(name, monkeypatch)
    for attribute in attributes:
        within, _, leaf = attribute.rpartition(".")
        if leaf not in read:
            judged += 1
            continue
        config = copy.deepcopy(member(name).config)
        holder = operator.attrgetter(within)(config) if within else config
        try:
            setattr(holder, leaf, changed_value(leaf, getattr(holder, leaf)))
            hf = build_from(config)
            theirs = hf_logits(hf, TOKENS)
        except Exception:
            continue
        judged += 1
        if theirs.shape == unchanged.shape and distance(unchanged, theirs) <= FLOAT32:
            continue  # whether it is refused or not, no number is wrong
        try:
            found = our_logits(convert(hf, dtype=torch.float32), TOKENS)
        except CheckpointError as refusal:
            assert isinstance(refusal, WeightMismatch) or f"{attribute}=" in str(refusal), attribute  # noqa: PT017
            continue
        assert distance(found, theirs) <= FLOAT32, attribute
    assert judged, "the test has something to change"


@every_family
def test_an_unknown_attribute_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = member(name)
    monkeypatch.setattr(hf.config.get_text_config(), "some_new_quirk", 5, raising=False)
    with pytest.raises(UnsupportedConfig, match=r"checkpoint sets some_new_quirk=5.*") as refused:
        convert(hf)
    assert "ignore_config=['some_new_quirk']" in str(refused.value)
    ignored = convert(hf, ignore_config=["some_new_quirk"])
    assert torch.equal(our_logits(ignored, TOKENS), our_logits(ours(name), TOKENS))


@every_family
def test_a_tensor_too_many_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = member(name)
    monkeypatch.setitem(hf.base_model._parameters, "surplus", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(WeightMismatch, match=r"1 tensors .* no place .*surplus"):
        convert(hf)


def test_minimax_with_factors_that_differ_is_refused() -> None:
    hf = build("minimax", mlp_alpha_factor=2.0)
    with pytest.raises(UnsupportedConfig, match=r"factors .* differ between full_attn, linear_attn, mlp"):
        convert(hf)


def test_neox_rejects_nothing_that_its_old_configs_carry() -> None:
    """Older checkpoints name rotary numbers outside rope_parameters."""
    hf = build("neox", rope_parameters=None, rotary_pct=0.25, rotary_emb_base=500)
    assert_close(our_logits(convert(hf), TOKENS), hf_logits(hf, TOKENS), FLOAT32)
