"""Every family gives HuggingFace's numbers, and a table with a mistake in it does not pass unseen.

All parameters are random (see `tests/tiny.py`). Tolerances are relative to the largest logit:

    float32   1e-4   a few hundred roundings of 6e-8, with room for other kernels
    float64   1e-9   GPT-2, which HuggingFace computes in float64 throughout
              1e-5   where HuggingFace drops to float32 (RMSNorm, rotary tables), whatever the model's dtype
"""

import copy
import dataclasses
import itertools
import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from interp_hooks import HookedTransformer
from interp_hooks.errors import UnsupportedConfig, WeightMismatch
from interp_hooks.loading.families import FAMILIES
from interp_hooks.loading.guard import ConfigReader, Family
from interp_hooks.loading.rules import axis_sizes, rules
from tests.tiny import (
    _LLAMA,
    D_VOCAB,
    FAMILY_CONFIGS,
    assert_close,
    build_hf,
    convert,
    distance,
    fresh_hf,
    hf_logits,
    log_probs,
    our_logits,
    random_tokens,
    shared_hf,
)

FLOAT32 = 1e-4
TOKENS = random_tokens(batch=3, pos=9)


def float64_tolerance(name: str) -> float:
    return 1e-9 if name.startswith("gpt2") else 1e-5


every_family = pytest.mark.parametrize("name", FAMILY_CONFIGS)


# ------------------------------------------------------------------------------------------------------------ parity


def test_every_supported_architecture_has_a_tiny_member() -> None:
    assert {type(shared_hf(name)).__name__ for name in FAMILY_CONFIGS} == set(FAMILIES)


@every_family
def test_logits_in_float32(name: str) -> None:
    hf = shared_hf(name)
    assert_close(our_logits(convert(hf), TOKENS), hf_logits(hf, TOKENS), FLOAT32)


@every_family
def test_logits_in_float64(name: str) -> None:
    hf = shared_hf(name, torch.float64)
    assert_close(our_logits(convert(hf), TOKENS), hf_logits(hf, TOKENS), float64_tolerance(name))


@every_family
def test_bfloat16_is_no_further_from_the_truth_than_huggingface(name: str) -> None:
    """Both lose digits; ours may lose half as many again, since order and fusion of the kernels differ."""
    half = fresh_hf(name).to(torch.bfloat16)
    truth = hf_logits(copy.deepcopy(half).float(), TOKENS)
    ours, theirs = our_logits(convert(half), TOKENS), hf_logits(half, TOKENS)
    assert ours.dtype == torch.bfloat16
    error_of_ours, error_of_theirs = ((logits.float() - truth).square().mean().sqrt() for logits in (ours, theirs))
    assert error_of_ours <= 1.5 * error_of_theirs


def padded(side: str) -> tuple[Tensor, Tensor]:
    """Rows of 9, 6 and 2 real tokens, and their mask."""
    length = TOKENS.shape[1]
    real = torch.arange(length) < torch.tensor([9, 6, 2])[:, None]
    if side == "left":
        real = real.flip(1)
    return TOKENS.where(real, torch.tensor(3)), real


@every_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(name: str, side: str) -> None:
    hf, (tokens, real) = shared_hf(name), padded(side)
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    theirs = hf_logits(hf, tokens, attention_mask=real.long(), position_ids=positions)
    ours = our_logits(convert(hf), tokens, attention_mask=real)
    assert_close(ours[real], theirs[real], FLOAT32)


FLAGS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
PROCESSINGS = {
    "none": (),
    **{flag: (flag,) for flag in FLAGS},
    "all": FLAGS,
    "refactor_factored_attn_matrices": ("refactor_factored_attn_matrices",),
    "all and refactor": (*FLAGS, "refactor_factored_attn_matrices"),
}


def is_rotary(name: str) -> bool:
    return not name.startswith("gpt2")


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        pytest.param(name, steps, id=f"{name}-{label}")
        for name in FAMILY_CONFIGS
        for label, steps in PROCESSINGS.items()
        if not ("refactor" in label and is_rotary(name))
    ],
)
def test_processing_changes_no_probability(name: str, steps: tuple[str, ...]) -> None:
    hf = shared_hf(name, torch.float64)
    model = HookedTransformer.from_pretrained(
        "tiny", hf_model=hf, dtype=torch.float64, **{flag: flag in steps for flag in FLAGS},
        refactor_factored_attn_matrices="refactor_factored_attn_matrices" in steps,
    )  # fmt: skip
    ours, theirs = our_logits(model, TOKENS), hf_logits(hf, TOKENS)
    assert_close(log_probs(ours), log_probs(theirs), float64_tolerance(name))
    if "center_unembed" not in steps:
        assert_close(ours, theirs, float64_tolerance(name))


@every_family
def test_default_processing_in_float32(name: str) -> None:
    hf = shared_hf(name)
    model = HookedTransformer.from_pretrained("tiny", hf_model=hf)
    assert model.dtype == torch.float32
    assert_close(log_probs(our_logits(model, TOKENS)), log_probs(hf_logits(hf, TOKENS)), FLOAT32)


# ----------------------------------------------------------------------------------------------------- rotary scalings

ORIGINAL_CONTEXT = 16
_SHORT, _LONG = [1.0, 1.1, 1.3], [1.5, 2.5, 4.0]
SCALINGS = {
    "linear": dict(factor=3.0),
    "dynamic": dict(factor=3.0),
    "yarn": dict(factor=4.0, original_max_position_embeddings=ORIGINAL_CONTEXT),
    "longrope": dict(
        short_factor=_SHORT, long_factor=_LONG, original_max_position_embeddings=ORIGINAL_CONTEXT, factor=4.0
    ),
    "llama3": dict(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=ORIGINAL_CONTEXT
    ),
    "proportional": dict(partial_rotary_factor=0.7),
}


def scaled_hf(rope_type: str):
    """Dynamic scaling counts from the longest context that the config names; the others know the original one."""
    longest = ORIGINAL_CONTEXT if rope_type in ("dynamic", "linear", "proportional") else 4 * ORIGINAL_CONTEXT
    rope = {"rope_type": rope_type, "rope_theta": 100.0} | SCALINGS[rope_type]
    return build_hf(LlamaConfig(**_LLAMA | dict(max_position_embeddings=longest), rope_parameters=rope))


@pytest.mark.parametrize("length", [5, ORIGINAL_CONTEXT, ORIGINAL_CONTEXT + 1, 3 * ORIGINAL_CONTEXT])
@pytest.mark.parametrize("rope_type", ROPE_INIT_FUNCTIONS)
def test_rope_scaling(rope_type: str, length: int) -> None:
    """Within and beyond the original context. HuggingFace keeps state between lengths, so each has its own model."""
    hf = scaled_hf(rope_type)
    tokens = random_tokens(batch=2, pos=length)
    model = convert(hf, n_ctx=4 * ORIGINAL_CONTEXT)
    assert_close(our_logits(model, tokens), hf_logits(hf, tokens), FLOAT32)


@pytest.mark.parametrize("rope_type", ROPE_INIT_FUNCTIONS)
def test_rope_scaling_matters(rope_type: str) -> None:
    """Otherwise the test above would pass with the scaling ignored."""
    scaled, tokens = scaled_hf(rope_type), random_tokens(batch=2, pos=3 * ORIGINAL_CONTEXT)
    plain = build_hf(LlamaConfig(**_LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 100.0}))
    assert distance(hf_logits(plain, tokens), hf_logits(scaled, tokens)) > 100 * FLOAT32


@pytest.mark.parametrize("rope_type", ROPE_INIT_FUNCTIONS)
def test_scaled_models_can_be_copied(rope_type: str) -> None:
    tokens = random_tokens(batch=1, pos=20)
    model = convert(scaled_hf(rope_type), n_ctx=4 * ORIGINAL_CONTEXT)
    assert torch.equal(our_logits(copy.deepcopy(model), tokens), our_logits(model, tokens))


def test_neox_reads_scaled_rope_with_a_partial_rotation() -> None:
    rope = {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0, "partial_rotary_factor": 0.5}
    hf = build_hf(FAMILY_CONFIGS["neox"](rope_parameters=rope))
    assert_close(our_logits(convert(hf), TOKENS), hf_logits(hf, TOKENS), FLOAT32)


# ------------------------------------------------------------------------------------------------------------- tables


@every_family
def test_tables_read_backwards(name: str) -> None:
    """Our unprocessed weights, through each rule backwards, are HuggingFace's tensors bit by bit."""
    hf = shared_hf(name)
    model, theirs = convert(hf), hf.state_dict()
    family = FAMILIES[type(hf).__name__]
    covered = set()
    for rule in rules(family.weights, model.cfg.n_layers):
        source = next((source for source in rule.theirs if source in theirs), None)
        ours = [model.get_parameter(weight).detach() for weight in rule.ours]
        if source is None:
            assert rule.optional
            assert not any(weight.any() for weight in ours), "an absent bias is zero"
            continue
        covered.add(source)
        assert torch.equal(rule.backward(ours, axis_sizes(model.cfg)), theirs[source])
    ignored = {key for key in theirs if any(re.fullmatch(pattern, key) for pattern in family.ignored_weights)}
    assert covered | ignored == set(theirs)


@every_family
def test_every_parameter_of_ours_is_in_the_table_once(name: str) -> None:
    model = convert(shared_hf(name))
    table = FAMILIES[str(model.cfg.original_architecture)].weights
    filled = [weight for rule in rules(table, model.cfg.n_layers) for weight in rule.ours]
    assert sorted(filled) == sorted({*filled}), "no weight is filled twice"
    assert set(dict(model.named_parameters())) <= set(filled)


def _right_side_with_axes_swapped(right: str | None) -> Iterator[str]:
    """Every other order of the axes inside a group and of the groups, on the left of the arrow."""
    if right is None or "|" not in right:
        return
    source, pattern, *shares = (part.strip() for part in right.split("|"))
    left, arrow_right = (side.strip() for side in pattern.split("->"))
    groups = re.findall(r"\([^)]*\)|\w+", left)
    for order in itertools.permutations(groups):
        for inner in itertools.product(*(itertools.permutations(group.strip("()").split()) for group in order)):
            words = [" ".join(axes) for axes in inner]
            mutant = " ".join(f"({axes})" if " " in axes else axes for axes in words)
            if mutant != left:
                yield " | ".join([source, f"{mutant} -> {arrow_right}", *shares])


def _source_and_rest(right: str) -> tuple[str, str]:
    source, bar, rest = right.partition("|")
    return source.strip(), f" {bar}{rest}" if bar else ""


def mutants(family: Family) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Tables with one mistake: a line dropped, called absent, two exchanged, weights or axes in another order."""
    table = dict(family.weights)
    for ours, right in table.items():
        yield f"drop {ours}", {key: value for key, value in table.items() if key != ours}
        if right is not None:
            yield f"absent {ours}", table | {ours: None}
        for mutant in _right_side_with_axes_swapped(right):
            yield f"pattern {ours}: {mutant}", table | {ours: mutant}
        names = ours.split(", ")
        for order in list(itertools.permutations(names))[1:]:
            yield f"order {order}", {(", ".join(order) if key == ours else key): v for key, v in table.items()}
    for (one, right), (other, other_right) in itertools.combinations(table.items(), 2):
        if right is not None and other_right is not None:
            (source, rest), (other_source, other_rest) = _source_and_rest(right), _source_and_rest(other_right)
            swapped = {one: other_source + rest, other: source + other_rest}
            yield f"exchange {one} and {other}", table | swapped


# Each has every tensor that its family may have, and no two axes of one size.
MUTATED = ["gpt2", "neox", "llama-biases"]

# Mutants that give the same function, and why.
EQUIVALENT = {
    ("neox", "exchange blocks.{i}.attn.b_O and blocks.{i}.mlp.b_out"): (
        "a parallel block adds both to the same stream before anybody reads it"
    ),
}


@pytest.mark.parametrize("name", MUTATED)
def test_mutants_of_the_table_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused when loading, or fails `test_logits_in_float32`."""
    hf = shared_hf(name)
    architecture = type(hf).__name__
    family, truth, passed, count = FAMILIES[architecture], hf_logits(hf, TOKENS), set(), 0
    for label, table in mutants(family):
        count += 1
        monkeypatch.setitem(FAMILIES, architecture, dataclasses.replace(family, weights=table))
        try:
            model = convert(hf)
        except WeightMismatch:
            continue
        if distance(our_logits(model, TOKENS), truth) <= FLOAT32:
            passed.add((name, label))
    assert passed == {mutant for mutant in EQUIVALENT if mutant[0] == name}
    assert count > 100, "there are mutants at all"


# ------------------------------------------------------------------------------------------------------- config guard

# Other values than the default's neighbour, where that one would make no model.
CHANGED = {
    "architectures": ["SomethingElse"],
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
}
_BOOKKEEPING = ("transformers_version", "model_type")  # facts about the file and the class, which no model can change


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
    raise AssertionError(f"say in CHANGED what {name}={value!r} could be changed to")


def unread(name: str) -> list[str]:
    config = FAMILY_CONFIGS[name]()
    family, reader = FAMILIES[type(shared_hf(name)).__name__], ConfigReader(config)
    family.config(reader)
    return [key for key in reader.unread() if key not in _BOOKKEEPING]


@pytest.mark.parametrize(
    ("name", "attribute"),
    [(name, attribute) for name in ("gpt2", "neox", "llama") for attribute in unread(name)],
)
def test_what_is_not_read_is_refused_or_does_not_matter(name: str, attribute: str) -> None:
    config = FAMILY_CONFIGS[name]()
    setattr(config, attribute, changed_value(attribute, getattr(config, attribute)))
    hf = build_hf(config)
    config.return_dict = True  # how `hf_logits` reads the output, after the model was built
    try:
        ours = our_logits(convert(hf, dtype=torch.float32), TOKENS)
    except UnsupportedConfig as refusal:
        assert f"{attribute}=" in str(refusal)  # noqa: PT017
        return
    assert_close(ours, hf_logits(hf, TOKENS), FLOAT32)


def test_most_of_what_is_not_read_does_not_matter() -> None:
    """The test above has something to refuse, and what it lets pass is bookkeeping."""
    for name in ("gpt2", "neox", "llama"):
        assert len(unread(name)) > 10


@every_family
def test_an_unknown_attribute_is_refused_by_name(name: str) -> None:
    hf = fresh_hf(name)
    hf.config.some_new_quirk = 5
    with pytest.raises(UnsupportedConfig, match=rf"{type(hf).__name__} checkpoint sets some_new_quirk=5.*") as refused:
        convert(hf)
    assert "ignore_config=['some_new_quirk']" in str(refused.value)
    ours = our_logits(convert(hf, ignore_config=["some_new_quirk"]), TOKENS)
    assert torch.equal(ours, our_logits(convert(shared_hf(name)), TOKENS))


def test_required_values_are_named() -> None:
    config = GPT2Config(**FAMILY_CONFIGS["gpt2"]().to_dict() | dict(add_cross_attention=True))
    with pytest.raises(UnsupportedConfig, match="add_cross_attention=True"):
        FAMILIES["GPT2LMHeadModel"].read(config)


@every_family
def test_a_tensor_too_many_is_refused_by_name(name: str) -> None:
    hf = fresh_hf(name)
    hf.base_model.register_parameter("surplus", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(WeightMismatch, match=r"1 tensors .* no place .*surplus"):
        convert(hf)


@every_family
def test_a_missing_tensor_is_refused_by_name(name: str) -> None:
    hf = fresh_hf(name)
    norm = next(key for key in hf.state_dict() if re.search(r"\.1\..*(ln_2|post_attention_layernorm)\.weight", key))
    parent, _, leaf = norm.rpartition(".")
    delattr(hf.get_submodule(parent), leaf)
    with pytest.raises(WeightMismatch, match=f"no tensor {re.escape(norm)}, which blocks.1.ln2.w needs"):
        convert(hf)


def test_neox_rejects_nothing_that_its_old_configs_carry() -> None:
    """Older checkpoints name rotary numbers outside rope_parameters."""
    config = GPTNeoXConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=4, vocab_size=D_VOCAB,
                           intermediate_size=8, rotary_pct=0.25, rotary_emb_base=500)  # fmt: skip
    hf = build_hf(config)
    assert_close(our_logits(convert(hf), TOKENS), hf_logits(hf, TOKENS), FLOAT32)
