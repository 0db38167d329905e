"""Fits of the Jacobian lens against the double sum written out, closed forms, and what holds of every such lens."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.studies import Lens, fit_jacobian_lens, gather_jacobian_lens
from tests.experiments.by_hand import RTOL
from tests.studies.test_logit_attribution import MODELS
from tests.tiny import CUSTOM, assert_close, build, distance, fresh_hf, hooked, random_tokens, unchecked_types

TEXTS = [random_tokens(batch=1, pos=pos, d_vocab=19, seed=pos)[0] for pos in (7, 9, 5, 8)]
Model = HookedTransformer


def fit(model: Model, texts: Any = TEXTS, skip_first: int = 2, **options: Any) -> Lens:
    return fit_jacobian_lens(model, texts, skip_first=skip_first, **dict(length=9, progress=False) | options)


def rest(model: Model, tokens: Tensor, layer: int) -> tuple[Tensor, Any]:
    """The stream that enters a layer of one text, and the function from it to the final stream."""
    with torch.no_grad():
        stream = model(tokens[None], stop_at_layer=layer)[0]

    def final(stream: Tensor) -> Tensor:
        entering: Any = (f"blocks.{layer}.hook_resid_pre", lambda value, hook: stream[None])
        return model.run_with_hooks(tokens[None], fwd_hooks=[entering], stop_at_layer=model.cfg.n_layers)[0]

    return stream, final


def written_out(model: Model, tokens: Tensor, layer: int, skip_first: int) -> Tensor:
    """1/|V| of the sum over all pairs of positions, from the whole Jacobian of the rest of the model."""
    stream, final = rest(model, tokens, layer)
    whole = torch.autograd.functional.jacobian(final, stream)  # pos' d pos d
    read = range(skip_first, len(tokens) - 1)
    return torch.stack([whole[there][:, here] for here in read for there in read]).sum(0) / len(read)


# ---------------------------------------------------------------------------------------------------------- definition


@pytest.mark.parametrize("name", [*MODELS, *CUSTOM])
def test_it_is_the_double_sum(name: str) -> None:
    model = build(**MODELS[name]) if name in MODELS else hooked(name)
    if model.cfg.mixers is not None:  # which cannot read several texts in a row
        with pytest.raises(BadInput, match="give each document a row of its own"):
            fit(model, dims_at_once=5)
        return
    lens = fit(model, dims_at_once=5)
    assert (lens.kind, lens.n_prompts, lens.layers) == ("jacobian", 4, [0, 1, 2])
    for layer in lens.layers:
        expected = torch.stack([written_out(model, text, layer, 2) for text in TEXTS]).mean(0)
        assert_close(lens.maps[layer], expected, 1e-9)


@pytest.mark.parametrize("name", ["gpt2", "neox", "bidirectional", "alibi-windows"])
def test_texts_that_share_a_row_do_not_see_each_other(name: str) -> None:
    model = build(**(MODELS | CUSTOM)[name])
    short = [text[:size] for text, size in zip(TEXTS, (4, 5, 3, 4), strict=True)]
    lens = fit(model, short, skip_first=1, tokens_at_once=9)
    for layer in lens.layers:
        expected = torch.stack([written_out(model, text, layer, 1) for text in short]).mean(0)
        assert_close(lens.maps[layer], expected, 1e-9)


def test_of_a_single_position_it_is_the_plain_jacobian() -> None:
    model = build()
    tokens = TEXTS[0][:4]
    lens = fit(model, [tokens], skip_first=2)
    for layer in range(3):
        stream, final = rest(model, tokens, layer)

        def at_two(value: Tensor, stream: Tensor = stream, final: Any = final) -> Tensor:
            return final(torch.cat((stream[:2], value[None], stream[3:])))[2]

        assert_close(lens.maps[layer], torch.autograd.functional.jacobian(at_two, stream[2]), RTOL)


def test_it_is_the_slope_along_any_direction() -> None:
    model, tokens, step = build(normalization_type="RMS"), TEXTS[1], 1e-5
    lens = fit(model, [tokens])
    for layer in range(3):
        stream, final = rest(model, tokens, layer)
        direction = torch.randn(12, dtype=torch.float64)
        slope = torch.zeros(12, dtype=torch.float64)
        for here in range(2, 8):
            moved = torch.zeros_like(stream)
            moved[here] = step * direction
            with torch.no_grad():
                slope += (final(stream + moved) - final(stream - moved))[2:8].sum(0) / (2 * step)
        assert_close(lens.maps[layer] @ direction, slope / 6, 1e-7)


def test_what_other_options_read_is_the_same() -> None:
    """Copies, rows with several texts or one, and layers alone change nothing."""
    model = build(positional_embedding_type="rotary", rotary_dim=2)
    lens = fit(model)
    for options in (dict(dims_at_once=12), dict(dims_at_once=100), dict(tokens_at_once=9), dict(per_batch=1)):
        for layer in lens.layers:
            assert_close(fit(model, **options).maps[layer], lens.maps[layer], 1e-12)
    assert_close(fit(model, layers=[1]).maps[1], lens.maps[1], 1e-12)
    assert fit(model, layers=[1]).layers == [1]
    short = fit(model, length=6)
    assert_close(short.maps[0], fit(model, [text[:6] for text in TEXTS]).maps[0], 1e-12)
    assert distance(short.maps[0], lens.maps[0]) > 1e-3


def test_texts_without_a_position_are_passed_over() -> None:
    model = build()
    lens = fit(model, skip_first=6)
    assert lens.n_prompts == 2, "those of 8 and 9 tokens"
    assert_close(lens.maps[1], fit(model, TEXTS[1::2], skip_first=6).maps[1], 1e-12)
    with pytest.raises(BadInput, match="none of 4 texts has a token after the first 7"):
        fit(model, [text[:8] for text in TEXTS], skip_first=7)


def test_padding_is_not_read() -> None:
    model = build()
    padded = torch.zeros(2, 9, dtype=torch.long)
    padded[0, :7], padded[1] = TEXTS[0], TEXTS[1]
    apart = fit(model, TEXTS[:2])
    assert_close(fit(model, [padded[0, :7], padded[1]]).maps[0], apart.maps[0], 1e-12)


# -------------------------------------------------------------------------------------------------------- closed forms


def test_where_the_last_block_writes_nothing_the_map_into_it_is_the_identity() -> None:
    model = build()
    with torch.no_grad():
        for weight in (model.blocks[2].attn.W_O, model.blocks[2].mlp.W_out):
            weight.zero_()
    lens = fit(model)
    assert_close(lens.maps[2], torch.eye(12, dtype=torch.float64), 1e-14)
    assert distance(lens.maps[1], torch.eye(12, dtype=torch.float64)) > 0.1


def test_of_linear_blocks_it_is_their_product() -> None:
    """Without norms and attention, with MLPs that are linear: 1 + W_in W_out of every layer, in turn."""
    model = build(normalization_type=None, act_fn="relu")
    product = torch.eye(12, dtype=torch.float64)
    expected: dict[int, Tensor] = {}
    with torch.no_grad():
        for layer in (2, 1, 0):
            block: Any = model.blocks[layer]
            block.attn.W_O.zero_()
            block.mlp.b_in.fill_(10.0 ** (3 + 3 * layer))  # so that every neuron stays on
            product = product @ (torch.eye(12, dtype=torch.float64) + block.mlp.W_in @ block.mlp.W_out).T
            expected[layer] = product.clone()
    lens = fit(model)
    for layer in range(3):
        assert_close(lens.maps[layer], expected[layer], 1e-10)


def test_of_uniform_attention_it_is_what_each_token_gets_of_the_others() -> None:
    """One linear layer of attention that looks at all tokens alike: t' gets 1/(t'+1) of W_OV of every t <= t'."""
    model = build(normalization_type=None, attn_only=True, n_layers=1)
    block = model.blocks[0]
    with torch.no_grad():
        block.attn.W_Q.zero_()
        block.attn.b_Q.zero_()
    OV = torch.einsum("hdk,hke->de", block.attn.W_V, block.attn.W_O).T.detach()
    tokens, read = TEXTS[1], range(2, 8)
    share = sum(1 / (there + 1) for here in read for there in read if there >= here) / len(read)
    assert_close(fit(model, [tokens]).maps[0], torch.eye(12, dtype=torch.float64) + share * OV, 1e-12)


# ------------------------------------------------------------------------------------------------ processed weights


@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_what_is_alike_in_all_coordinates_passes_untouched(name: str) -> None:
    model = HookedTransformer.from_pretrained_no_processing("tiny", hf_model=fresh_hf(name), dtype=torch.float64)
    ones = torch.ones(model.cfg.d_model, dtype=torch.float64)
    for map in fit(model).maps.values():
        assert map is not None
        assert_close(map @ ones, ones, 1e-12)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_the_lens_of_processed_weights_is_known_from_that_of_raw_ones(name: str) -> None:
    """C J + 11'/d, or J itself where nothing can be centred; read-outs of either lens are the same on either model."""
    load = HookedTransformer.from_pretrained, HookedTransformer.from_pretrained_no_processing
    processed, raw = (one("tiny", hf_model=fresh_hf(name), dtype=torch.float64) for one in load)
    ours, theirs = fit(processed), fit(raw)
    centred = name != "llama"
    assert (ours.of_centred, theirs.of_centred) == (centred, False)
    converted = theirs.centred() if centred else theirs
    for layer in ours.layers:
        assert_close(ours.maps[layer], converted.maps[layer], 1e-12)
    tokens = torch.stack([text[:5] for text in TEXTS])
    readings = [lens(model, tokens).log_probs for lens in (ours, theirs) for model in (processed, raw)]
    for reading in readings[1:]:
        assert_close(reading, readings[0], 1e-10)
    if centred:
        assert distance(ours.maps[1], theirs.maps[1]) > 1e-3, "the raw map alone is another one"


# ------------------------------------------------------------------------------------------------- parts and merging


def test_workers_find_together_what_one_finds_to_the_bit(tmp_path: Path) -> None:
    model = build()
    whole = fit(model, per_batch=1, save_to=tmp_path / "whole")
    for worker in range(3):
        fit(model, per_batch=1, save_to=tmp_path / "parts", part=(worker, 3))
    for folder in ("whole", "parts"):
        found = gather_jacobian_lens(tmp_path / folder, dtype=torch.float64)
        assert (found.n_prompts, found.kind, found.of_centred) == (4, "jacobian", False)
        for layer in range(3):
            assert torch.equal(found.maps[layer], whole.maps[layer])  # type: ignore[arg-type]


def test_a_fit_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp_hooks.studies.lenses.jacobian import _Backwards

    model, read, texts = build(), _Backwards.read, []

    def killed(self: Any, rows: Any) -> Any:
        texts.append(rows)
        if len(texts) == 3:
            raise KeyboardInterrupt
        return read(self, rows)

    whole = fit(model, per_batch=1)
    monkeypatch.setattr(_Backwards, "read", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(model, per_batch=1, save_to=tmp_path)
    again = fit(model, per_batch=1, save_to=tmp_path)
    assert len(texts) == 5, "two before, one lost, and the last two"
    for layer in range(3):
        assert torch.equal(again.maps[layer], whole.maps[layer])  # type: ignore[arg-type]


def test_two_fits_merge_into_that_of_all_texts() -> None:
    model = build()
    one, other, both = fit(model, TEXTS[:1]), fit(model, TEXTS[1:]), fit(model)
    merged = one.merged(other)
    assert merged.n_prompts == 4
    for layer in range(3):
        assert_close(merged.maps[layer], both.maps[layer], 1e-14)
    for wrong in (fit(model, layers=[1]), Lens.identity(model)):
        with pytest.raises(BadInput, match="only Jacobian lenses"):
            one.merged(wrong)
    with pytest.raises(BadInput, match="only the Jacobian lens of a model"):
        Lens.identity(model).centred()


def test_another_folder_is_refused(tmp_path: Path) -> None:
    model = build()
    fit(model, save_to=tmp_path / "fit")
    with pytest.raises(BadInput, match="other reducers"):
        fit(model, skip_first=3, save_to=tmp_path / "fit")
    with pytest.raises(BadInput, match="holds no scan"):
        gather_jacobian_lens(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(layers=[3]), r"some of 0\.\.2"),
        (dict(layers=[]), r"some of 0\.\.2"),
        (dict(skip_first=8), "skip_first must leave room"),
        (dict(skip_first=-1), "skip_first must leave room"),
        (dict(part=(2, 2)), "part must be"),
        (dict(limit=0), "limit must be"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        fit(build(), **options)


def test_a_fit_leaves_nothing_behind() -> None:
    model = build()
    fit(model)
    assert not any(point.hooked for point in model.hook_points())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
