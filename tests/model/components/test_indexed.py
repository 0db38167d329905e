"""Attention to chosen keys against its formulas, one query and one key at a time, and against HuggingFace's choice."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint, Intervention, LogitDiff, Readout, Run, at, attribution_patch
from interp_hooks.errors import BadInput, ConfigError, HookDidNotFire, MetricError
from interp_hooks.model.components.indexed import IndexedAttention, Indexer
from interp_hooks.studies.heads.scores import score_split
from tests import test_families
from tests.experiments.by_hand import agree
from tests.model.components.test_latent import turned
from tests.tiny import CUSTOM, assert_close, build, hooked, random_tokens

EXACT = 1e-11  # sums of a few dozen float64 numbers in another order
TOKENS, OTHER = (random_tokens(batch=2, pos=6, d_vocab=19, seed=seed) for seed in range(2))
CHOICE = "blocks.{}.attn.hook_index_choice"


def with_top_k(top_k: int) -> HookedTransformer:
    fields = CUSTOM["indexed"]
    return build(**fields | {"indexer": dataclasses.replace(fields["indexer"], top_k=top_k)})


def index_vector(vector: Tensor, position: int) -> Tensor:
    """A query or key of an indexer whose first pair of dimensions turns."""
    return torch.cat((turned(vector[:2], position), vector[2:]))


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    x = x - x.mean()
    return x / (x.square().mean() + 1e-6).sqrt() * gain + bias


def scores_by_hand(indexer: Indexer, x: Tensor, latents: Tensor) -> Tensor:
    """The scores of one prompt, from what is read [pos, d_model] and the latents of queries [pos, latent]."""
    scores = torch.full((len(x), len(x)), -math.inf, dtype=x.dtype)
    assert indexer.k_norm.w is not None
    assert indexer.k_norm.b is not None
    read = [layer_norm(row @ indexer.W_IK + indexer.b_IK, indexer.k_norm.w, indexer.k_norm.b) for row in x]
    keys = [index_vector(key, position) for position, key in enumerate(read)]
    for here, row in enumerate(x):
        weights = (row @ indexer.W_IW + indexer.b_IW) / math.sqrt(6)
        queries = [index_vector(latents[here] @ head, here) for head in indexer.W_IQ]
        for there in range(here + 1):
            found = [torch.relu(query @ keys[there] / math.sqrt(3)) for query in queries]
            scores[here, there] = sum(weight * one for weight, one in zip(weights, found, strict=True))
    return scores


@torch.no_grad()
def test_scores_and_choice_by_hand() -> None:
    model = hooked("indexed")
    _, cache = model.run_with_cache(TOKENS)
    for layer in range(2):
        block = model.blocks[layer]
        assert isinstance(block.attn, IndexedAttention)
        assert block.attn.indexer is not None
        read, latents = block.ln1(cache["resid_pre", layer]), cache[f"blocks.{layer}.attn.hook_q_latent"]
        scores = cache[f"blocks.{layer}.attn.indexer.hook_scores"]
        for row in range(2):
            expected = scores_by_hand(block.attn.indexer, read[row], latents[row])
            seen = expected.isfinite()
            assert torch.equal(scores[row].isfinite(), seen)
            assert_close(scores[row][seen], expected[seen], EXACT)
            for query in range(6):
                best = sorted(range(query + 1), key=lambda key: -expected[query, key])[:3]
                choice = cache["index_choice", layer][row, query]
                assert choice.nonzero().flatten().tolist() == sorted(best)
    for layer in range(3):
        seen = cache["index_choice", layer][:, None].expand(-1, 4, -1, -1) > 0
        assert torch.equal(cache["pattern", layer] > 0, seen)
        scores = cache["attn_scores", layer]
        assert torch.equal(scores.isfinite(), seen)
    assert torch.equal(cache["index_choice", 2], cache["index_choice", 1])
    assert not torch.equal(cache["index_choice", 0], cache["index_choice", 1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["deepseek-v3.2", "glm-5.1"])
def test_the_choice_is_that_of_huggingface(name: str) -> None:
    """What its indexers return, and its patterns, with padding on the left too (where in float64 it gives nan)."""
    hf, model = test_families.member(name), test_families.ours(name)
    tokens, real = test_families.padded("left")
    for given, mask in ((test_families.TOKENS, torch.ones_like(real)), (tokens, real)):
        chosen: dict[int, Tensor] = {}
        handles = [
            layer.self_attn.indexer.register_forward_hook(lambda _, __, out, at=at: chosen.update({at: out.long()}))
            for at, layer in enumerate(hf.model.layers)
            if layer.self_attn.indexer is not None
        ]
        options = dict(attention_mask=mask.long(), position_ids=test_families.positions_of(mask))
        patterns = hf(given, output_attentions=True, use_cache=False, **options).attentions
        for handle in handles:
            handle.remove()
        _, cache = model.run_with_cache(given, attention_mask=mask)
        sees = mask[:, None, :] & torch.ones(11, 11, dtype=torch.bool).tril()
        for layer, theirs in chosen.items():
            expected = torch.zeros(3, 11, 11).scatter(-1, theirs, 1.0).bool() & sees
            assert torch.equal((cache["index_choice", layer] > 0)[mask], expected[mask])
        for layer, theirs in enumerate(patterns):
            assert_close(cache["pattern", layer].transpose(1, 2)[mask], theirs.transpose(1, 2)[mask], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("top_k", [3, 6])
def test_a_changed_choice_is_what_is_seen(top_k: int) -> None:
    """Also where an indexer need not choose, since there are no more keys; padding and later tokens stay hidden."""
    model = with_top_k(top_k)

    def see(value: Tensor, hook: HookPoint) -> Tensor:
        value = torch.zeros_like(value)
        value[:, :, 0] = value[:, 4, 2] = value[:, 1, 5] = 1.0
        return value

    with model.hooks([(CHOICE.format(1), see)]):
        _, cache = model.run_with_cache(TOKENS)
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[:, 0] = expected[4, 2] = True
    for layer in (1, 2):  # layer 2 sees what layer 1 has chosen
        assert torch.equal(cache["pattern", layer] > 0, expected.expand(2, 4, -1, -1))
    with model.hooks([(CHOICE.format(2), see)]):
        _, cache = model.run_with_cache(TOKENS)
    assert torch.equal(cache["pattern", 2] > 0, expected.expand(2, 4, -1, -1))
    assert not torch.equal(cache["pattern", 1] > 0, expected.expand(2, 4, -1, -1))


@torch.no_grad()
def test_an_indexer_is_computed_only_where_it_chooses_or_is_looked_at() -> None:
    model, called = with_top_k(6), list[str]()
    for block in model.blocks[:2]:
        block.attn.indexer.register_forward_hook(lambda *_: called.append("indexer"))
    logits = model(TOKENS)
    assert not called
    looked_at, cache = model.run_with_cache(TOKENS)
    assert called == ["indexer"] * 2
    assert torch.equal(looked_at, logits)
    assert torch.equal(cache["index_choice", 0], torch.ones(6, 6, dtype=torch.float64).tril().expand(2, -1, -1))
    latent = build(**{name: value for name, value in CUSTOM["indexed"].items() if name != "indexer"})
    latent.load_state_dict({name: value for name, value in model.state_dict().items() if "indexer" not in name})
    assert torch.equal(latent(TOKENS), logits), "attention to all keys is latent attention"
    assert not torch.allclose(with_top_k(3)(TOKENS), logits)


@pytest.mark.parametrize(
    ("name", "select"),
    [
        ("hook_index_choice", {}),
        ("hook_index_choice", {"query": 4}),
        ("indexer.hook_q", {"pos": 3, "head": 2}),
        ("indexer.hook_k", {"pos": 2}),
        ("indexer.hook_weights", {"pos": -1}),
        ("indexer.hook_scores", {"query": 5, "key": 1}),
        ("indexer.k_norm.hook_scale", {"pos": 1}),
    ],
)
def test_runs_agree_with_passes_by_hand(name: str, select: dict[str, Any]) -> None:
    """From an earlier layer, from the one that lends its choice, and from stacks of both."""
    model, other = hooked("indexed"), Run(OTHER)
    runs = [
        Run(TOKENS, [Intervention(at(f"blocks.{layer}.attn.{name}", **select), source)])
        for layer in range(2)
        for source in (other, 0.7)
        if name != "hook_index_choice" or source is other
    ]
    agree(model, [*runs, Run(TOKENS, [Intervention(at("resid_pre", 2, pos=4), other)])], [Readout(), Readout(pos=-1)])


def test_the_choice_has_no_gradient_and_what_is_chosen_has() -> None:
    model = hooked("indexed")
    logits = model(TOKENS)
    wanted = {name: weight for name, weight in model.named_parameters() if name.startswith("blocks.1.attn")}
    gradients = torch.autograd.grad(logits[:, -1, 3].sum(), list(wanted.values()), allow_unused=True)
    for name, gradient in zip(wanted, gradients, strict=True):
        assert (gradient is None) == ("indexer" in name), name
    with pytest.raises(HookDidNotFire, match="needs no gradient"):
        model.run_with_hooks(TOKENS, bwd_hooks=[("blocks.1.attn.indexer.hook_k", lambda gradient, hook: None)])
    with pytest.raises(MetricError, match=r"no gradient with respect to .*hook_index_choice.* use patch instead"):
        attribution_patch(
            model, TOKENS, OTHER, LogitDiff(3, 4), "index_choice", over=("layer", "query"), progress=False
        )


@torch.no_grad()
def test_a_query_to_which_no_key_is_left_sees_itself() -> None:
    model = hooked("indexed")
    with model.hooks([(CHOICE.format(1), lambda value, hook: torch.zeros_like(value))]):
        _, cache = model.run_with_cache(TOKENS)
    for layer in (1, 2):
        assert torch.equal(cache["pattern", layer], torch.eye(6, dtype=torch.float64).expand(2, 4, -1, -1))


def test_a_key_that_is_not_chosen_has_no_score_to_split() -> None:
    model = hooked("indexed")
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS)
    choice = cache["index_choice", 1][0, 5]
    one, another, *_ = choice.nonzero().flatten().tolist()
    found = score_split(model, TOKENS[:1], 1, 3, 5, one, against=another)
    expected = cache["attn_scores", 1][0, 3, 5, one] - cache["attn_scores", 1][0, 3, 5, another]
    assert_close(found.values.sum((0, 1)), expected[None], 1e-10)
    mean = cache["attn_scores", 1][0, 3, 5][choice > 0].mean()
    found = score_split(model, TOKENS[:1], 1, 3, 5, one)
    assert_close(found.values.sum((0, 1)), (cache["attn_scores", 1][0, 3, 5, one] - mean)[None], 1e-10)
    with pytest.raises(BadInput, match=r"one that the query sees.*indexer has not chosen"):
        score_split(model, TOKENS[:1], 1, 3, 5, int((choice == 0).nonzero()[0]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(q_latent=0), "an indexer needs causal latent attention .* latent of queries"),
        (dict(attention_dir="bidirectional"), "an indexer needs causal latent attention"),
        (dict(window_sizes=(None, 3, None)), "no window_sizes"),
        (dict(n_layers=2), "indexer.layers must have 2 entries, got 3"),
        (dict(rotary_dim=4), "rotates rotary_dim=4 of its indexer.d_head=3 dimensions"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**CUSTOM["indexed"] | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(top_k=0), "indexer.top_k must be positive, got 0"),
        (dict(layers=(False, True, True)), "the first layer has none before it"),
    ],
)
def test_an_indexer_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CUSTOM["indexed"]["indexer"], **fields)
