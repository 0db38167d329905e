"""Curves over the offset are those that scores of runs have, and those that are known in closed form."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer, Run, record
from interp_hooks.errors import BadInput
from interp_hooks.studies.heads.offsets import content_circuit, position_profile, rotary_wavelengths
from tests.tiny import CUSTOM, assert_close, build, random_tokens, unchecked_types

ROTARY: dict[str, Any] = dict(positional_embedding_type="rotary")
FIELDS: dict[str, dict[str, Any]] = {
    "learned": {},
    "sinusoidal": dict(positional_embedding_type="sinusoidal"),
    "shortformer": CUSTOM["shortformer"],
    "alibi": dict(positional_embedding_type="alibi", alibi_slopes=(0.5, 0.25, 0.125, 0.0625)),
    "none": dict(positional_embedding_type="none"),
    "rotary": ROTARY,
    "partial": ROTARY | dict(rotary_dim=2, n_key_value_heads=2),
    "yarn": ROTARY
    | dict(rotary_scaling=dict(rope_type="yarn", rope_theta=100.0, factor=4.0, max_position_embeddings=4)),
    "norm": ROTARY | dict(qk_norm="per_head", qk_norm_type="LN"),
    "norm after": ROTARY | dict(qk_norm="shared", qk_norm_type="RMS", qk_norm_after_rotary=True),
    "latent": CUSTOM["latent"],
}


def alike(model: HookedTransformer) -> HookedTransformer:
    """The model with the same embedding for all tokens, so that nothing but positions tells them apart."""
    with torch.no_grad():
        model.embed.W_E.copy_(model.embed.W_E[:1].expand_as(model.embed.W_E).clone())
    return model


@pytest.mark.parametrize("name", FIELDS)
def test_where_tokens_are_alike_the_profile_is_all_there_is(name: str) -> None:
    model, tokens = alike(build(**FIELDS[name])), random_tokens(2, d_vocab=23)
    hook = "blocks.0.attn.hook_attn_scores"
    scores = record(model, Run(tokens), [hook])[hook][0].detach()
    expected = torch.stack([scores.diagonal(-offset, 1, 2).mean(-1) for offset in range(7)], dim=1)
    if name == "norm after":  # whose gain makes a score depend on where the two stand
        expected = scores[:, :, 0]
    found = position_profile(model, tokens, 0)
    assert found.axes["offset"] == [*range(7)]
    assert torch.allclose(found.values[..., 0], expected - expected.mean(1, keepdim=True), atol=1e-12)
    assert name == "none" or bool(found.values.any())


@pytest.mark.parametrize("name", ["rotary", "partial", "yarn", "norm after", "latent"])
def test_frequencies_sum_to_the_profile(name: str) -> None:
    model, tokens = build(**FIELDS[name]), random_tokens(2, d_vocab=23)
    found = position_profile(model, tokens, 1, [0, 1, 5, 20], frequencies=True)
    whole = position_profile(model, tokens, 1, [0, 1, 5, 20])
    assert_close(found.values.sum(2), whole.values, 1e-10)
    if "plain" in found.axes["frequency"]:
        assert float(found.values[:, :, -1].abs().max()) < 1e-12, "what does not turn says nothing of positions"


def test_a_previous_token_head_by_biases() -> None:
    """Keys that are queries turned by one: the sum over pairs of cos(theta (offset - 1)), highest at 1."""
    model = build(**ROTARY, normalization_type=None, d_head=8)
    angles = 2 * torch.pi / rotary_wavelengths(model).double()
    attn: Any = model.blocks[0].attn
    with torch.no_grad():
        attn.W_Q.zero_()
        attn.W_K.zero_()
        attn.b_Q[0], attn.b_K[0] = (
            torch.cat((angles.cos(), -angles.sin())),
            torch.tensor([1.0, 0.0]).repeat_interleave(4),
        )
    offsets = torch.arange(12)
    expected = ((offsets[:, None] - 1) * angles).cos() / model.cfg.attn_scale
    found = position_profile(model, random_tokens(2, d_vocab=23), 0, offsets.tolist(), frequencies=True)
    assert_close(found.values[0, :, :, 0], expected - expected.mean(0), 1e-5)
    assert int(position_profile(model, random_tokens(2, d_vocab=23), 0, offsets.tolist()).mean[0].argmax()) == 1


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("learned", "sinusoidal", "shortformer")])
def test_the_content_circuit_is_the_score_of_a_run(name: str) -> None:
    model = build(**FIELDS[name])
    queries, keys, offset = [3, 8, 5], [7, 1, 2], 4
    found = content_circuit(model, 0, 3, queries, keys, [0, offset], embedding="embed").values[1]
    hook = "blocks.0.attn.hook_attn_scores"

    def score(query: int, key: int) -> float:
        tokens = torch.full((1, 6), 11)
        tokens[0, 0], tokens[0, offset] = key, query
        return float(record(model, Run(tokens), [hook])[hook][0, 3, offset, 0])

    for pair, query in enumerate(queries):
        every = [score(query, key) for key in keys]
        assert float(found[pair]) == pytest.approx(every[pair] - sum(every) / 3, rel=1e-8)


def test_content_by_frequency() -> None:
    model = build(**FIELDS["partial"])
    whole = content_circuit(model, 1, 2, [3, 8, 5])
    found = content_circuit(model, 1, 2, [3, 8, 5], frequencies=True)
    assert found.axes["frequency"] == [0, "plain"]
    assert_close(found.values.sum(1), whole.values, 1e-10)
    assert_close(found.values[:1, 1].expand(8, -1), found.values[:, 1], 1e-12)
    flat = content_circuit(build(), 1, 2, [3, 8, 5]).values
    assert_close(flat, flat[:1].expand(8, -1), 1e-12)


def test_what_is_refused() -> None:
    model, tokens = build(), random_tokens(2, d_vocab=23)
    for call, message in (
        (lambda: position_profile(model, tokens, 3), "no layer 3"),
        (lambda: position_profile(model, tokens, 0, [7]), "within prompts of 7 tokens"),
        (lambda: position_profile(model, tokens, 0, []), "one or more"),
        (lambda: position_profile(build(**FIELDS["none"]), tokens, 0, frequencies=True), "rotary positions"),
        (lambda: content_circuit(model, 0, 4, [1, 2]), "no head 4"),
        (lambda: content_circuit(model, 0, 0, [1]), "two or more queries"),
        (lambda: content_circuit(model, 0, 0, [1, 2], [1, 2, 3]), "a key each"),
        (lambda: content_circuit(model, 0, 0, [1, 2], frequencies=True), "rotary positions"),
        (lambda: rotary_wavelengths(model), "no rotary positions"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
