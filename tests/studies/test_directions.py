"""Directions as words: by their formula, whatever is folded, and whichever way they point."""

from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.loading.processing import STEPS, Processing, process
from interp_hooks.studies import directions
from interp_hooks.studies.directions import token_vectors, tokens_of, unembedding
from tests.tiny import CUSTOM, assert_close, build, unchecked_types

DIRECTIONS = torch.randn(3, 12, generator=torch.Generator().manual_seed(5)).double()


@pytest.mark.parametrize("fields", [{}, dict(normalization_type="RMS", norm_gain_offset=1.0, logits_scale=0.3)])
def test_values_are_what_is_added_to_logits(fields: dict[str, Any]) -> None:
    """With the scale of the final norm held, and less the mean over the vocabulary."""
    model = build(**fields)
    stream = torch.randn(1, 1, 12, generator=torch.Generator().manual_seed(1)).double()
    final: Any = model.ln_final
    scale = final.statistics(stream)[1][0, 0]
    change: Any = torch.autograd.functional.jvp(lambda x: model.logits(x), stream, DIRECTIONS[:1, None])[1]
    moved = change[0, 0]
    found = DIRECTIONS[0] @ unembedding(model)
    along = found / scale  # and what the change of the scale takes from all of the stream
    centred = stream[0, 0] - (stream.mean() if model.ln_final.kind == "LN" else 0.0)
    whole = stream[0, 0] @ unembedding(model) / scale
    share = float(centred @ (DIRECTIONS[0] - DIRECTIONS[0].mean() * (model.ln_final.kind == "LN")) / 12 / scale**2)
    assert_close(along - share * whole, moved - moved.mean(), 1e-9)


def test_folding_changes_nothing() -> None:
    model, folded = (build(normalization_type="LN") for _ in range(2))
    process(folded, Processing(**{step: step in ("fold_ln", "center_unembed") for step in STEPS}))
    ours, theirs = (tokens_of(one, DIRECTIONS, k=5) for one in (model, folded))
    assert torch.equal(ours.top, theirs.top)
    assert_close(ours.top_values, theirs.top_values, 1e-10)
    assert_close(ours.bottom_values, theirs.bottom_values, 1e-10)


def test_the_sign_is_followed() -> None:
    model = build()
    there, back = tokens_of(model, DIRECTIONS[0], k=4), tokens_of(model, -DIRECTIONS[0], k=4)
    assert torch.equal(there.top, back.bottom)
    assert_close(there.top_values, -back.bottom_values, 1e-12)
    values = DIRECTIONS[0] @ unembedding(model)
    assert there.top[0].tolist() == values.argsort(descending=True)[:4].tolist()
    assert there.bottom[0].tolist() == values.argsort()[:4].tolist()
    assert abs(float(values.mean())) < 1e-12


def test_many_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    whole = tokens_of(model, DIRECTIONS, k=3)
    monkeypatch.setattr(directions, "CHUNK", 1)
    parts = tokens_of(model, DIRECTIONS, k=3)
    assert torch.equal(whole.top, parts.top)
    assert_close(whole.bottom_values, parts.bottom_values, 1e-12)
    for row in range(3):
        assert torch.equal(tokens_of(model, DIRECTIONS[row], k=3).top[0], whole.top[row])


@pytest.mark.parametrize("kind", ["embed", "mlp0", "stream"])
def test_what_answers_to_a_direction(kind: Any) -> None:
    model = build()
    block: Any = model.blocks[0]
    E = model.W_E.detach()
    written = block.mlp(block.ln2(E[None]))[0].detach()
    vectors = {"embed": E, "mlp0": written, "stream": E + written}[kind]
    assert_close(token_vectors(model, kind=kind), vectors, 1e-12)
    assert_close(token_vectors(model, torch.tensor([4, 2]), kind), vectors[[4, 2]], 1e-12)
    values = vectors @ DIRECTIONS[0]
    found = tokens_of(model, DIRECTIONS[0], k=23, through="embed", embedding=kind)
    assert found.top[0].tolist() == values.argsort(descending=True).tolist()
    assert_close(found.top_values[0], (values - values.mean()).sort(descending=True).values, 1e-10)


def test_a_model_without_mlps_has_embeddings_alone() -> None:
    model = build(attn_only=True)
    assert_close(token_vectors(model, kind="stream"), model.W_E.detach(), 1e-12)


def test_tokens_have_their_texts() -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    mary = int(model.token_ids(" Mary"))
    found = tokens_of(model, model.W_U[:, mary].detach(), k=2)
    assert found.words()[0][0] == " Mary"
    assert found.table()["top"][0] == " Mary"
    assert "Mary" in repr(found)
    assert tokens_of(build(), DIRECTIONS[0], k=1).words()[0][0].isdigit()


def test_what_is_refused() -> None:
    model = build()
    wrong: Any = "logits"
    for call, message in (
        (lambda: tokens_of(model, torch.ones(11)), r"\[d_model=12\] or \[n, d_model\], got \[11\]"),
        (lambda: tokens_of(model, torch.ones(2, 3, 12)), r"got \[2, 3, 12\]"),
        (lambda: tokens_of(model, DIRECTIONS, k=20), r"k must be 1\.\.19"),
        (lambda: tokens_of(model, DIRECTIONS, through=wrong), "'unembed' or 'embed', got 'logits'"),
        (lambda: token_vectors(model, kind=wrong), "'embed', 'mlp0' or 'stream', got 'logits'"),
        (lambda: tokens_of(build(**CUSTOM["post-norm"]), DIRECTIONS), "not linear"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            call()
