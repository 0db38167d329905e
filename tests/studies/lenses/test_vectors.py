"""Lens vectors read what the lens reads, whatever was done to the weights; what is done along them is what is said."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, LogitDiff, Result, Run, at, evaluate, record, steer
from interp_hooks.errors import BadInput
from interp_hooks.studies import Lens, fit_jacobian_lens, lens_decomposition, lens_vectors
from interp_hooks.studies.lenses.decomposition import nonnegative
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, left_alone, value_at
from tests.studies.test_logit_attribution import MODELS
from tests.tiny import assert_close, build, distance, fresh_hf, random_tokens

Model = HookedTransformer
IDS = [4, 11, 7]
TEXTS = random_tokens(batch=4, pos=9, d_vocab=19, seed=3)


def random_lens(*layers: int) -> Lens:
    return Lens(maps={layer: torch.randn(12, 12, dtype=torch.float64) for layer in layers})


def stream_of(model: Model, run: Run, layer: int = 1) -> Tensor:
    """The stream that enters a layer, after what the run does there."""
    hook = f"blocks.{layer}.hook_resid_pre"
    return record(model, run, [hook])[hook]


# ------------------------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("identity", [True, False])
def test_they_read_what_the_lens_reads(kind: str, identity: bool) -> None:
    """Differences of their products with the stream are the lens' differences of logits, but for scale and biases."""
    model = build(**MODELS[kind])
    with torch.no_grad():
        model.b_U.zero_()
        if model.ln_final.b is not None:
            model.ln_final.b.zero_()
    lens = Lens.identity(model) if identity else random_lens(1)
    vectors = lens_vectors(model, lens, 1, IDS)
    stream = value_at(model, Run(TOKENS), "blocks.1.hook_resid_pre")
    found = lens(model, TOKENS, pos=None)
    row = found.labels.index("1_pre")
    log_probs = found.log_probs[row].transpose(0, 1)[..., IDS]
    products = stream @ vectors.vectors.T
    scale: Any = 1.0
    if model.cfg.normalization_type is not None:
        with torch.no_grad():
            _, cache = model.run_with_cache(lens.of(1, stream), start_at_layer=3, names_filter="ln_final.hook_scale")
        scale = cache["ln_final.hook_scale"]
    assert_close((products[..., 1:] - products[..., :1]) / scale, log_probs[..., 1:] - log_probs[..., :1], 1e-9)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_processing_of_weights_changes_no_vector(name: str) -> None:
    load = HookedTransformer.from_pretrained, HookedTransformer.from_pretrained_no_processing
    processed, raw = (one("tiny", hf_model=fresh_hf(name), dtype=torch.float64) for one in load)
    found = []
    for model in (processed, raw):
        lens = fit_jacobian_lens(model, TEXTS, skip_first=2, layers=[1], progress=False)
        found.append(lens_vectors(model, lens, 1, IDS).vectors)
    assert_close(found[0], found[1], 1e-10)


def test_a_masked_head_has_none() -> None:
    model = build(norm_placement="post", mlm_head=True, attention_dir="bidirectional")
    with pytest.raises(BadInput, match="masked-LM head is not linear"):
        lens_vectors(model, Lens.identity(model), 1, 3)


# ------------------------------------------------------------------------------------------------------- interventions


def test_steering_adds_them() -> None:
    model = build()
    vectors = lens_vectors(model, random_lens(1), 1, IDS[:1])
    metric = LogitDiff([4, 4], [7, 7])
    (by_run,) = evaluate(model, [Run(TOKENS, [vectors.added(0.3, pos=-1)])], metric)
    with steer(model, vectors.vectors[0], "resid_pre1", coefficient=0.3, positions=-1):
        steered = model(TOKENS)
    assert_close(by_run, metric(steered.detach()), RTOL)
    before, after = (stream_of(model, Run(TOKENS, made)) for made in ([], [vectors.added(0.3)]))
    assert_close(after - before, (0.3 * vectors.vectors[0]).expand_as(before), 1e-9)


def test_ablation_leaves_nothing_for_the_lens_to_read() -> None:
    model = build()
    vectors = lens_vectors(model, random_lens(1), 1, IDS)
    with left_alone(model):
        after = stream_of(model, Run(TOKENS, [vectors.ablated()]))
    assert float((after @ vectors.vectors.T).abs().max()) < 1e-10
    basis = torch.linalg.qr(vectors.vectors.T).Q
    before = stream_of(model, Run(TOKENS))
    assert_close(after, before - before @ basis @ basis.T, RTOL)
    assert_close(vectors.coordinates(after) + 1, torch.ones(2, 5, 3), 1e-10)


def test_clamping_gives_the_coordinates_of_another_run() -> None:
    model = build()
    vectors = lens_vectors(model, random_lens(1), 1, IDS)
    before, other = stream_of(model, Run(TOKENS)), stream_of(model, Run(OTHER))
    after = stream_of(model, Run(TOKENS, [vectors.clamped(Run(OTHER), pos=2)]))
    assert_close(vectors.coordinates(after)[:, 2], vectors.coordinates(other)[:, 2], 1e-9)
    basis = torch.linalg.qr(vectors.vectors.T).Q
    across = torch.eye(12, dtype=torch.float64) - basis @ basis.T
    assert_close(after[:, 2] @ across, before[:, 2] @ across, 1e-9)
    assert torch.equal(after[:, [0, 1, 3, 4]], before[:, [0, 1, 3, 4]])


def test_swapping_exchanges_two_coordinates_and_twice_is_nothing() -> None:
    model = build()
    vectors = lens_vectors(model, random_lens(1), 1, IDS[:2])
    before = stream_of(model, Run(TOKENS))
    once = stream_of(model, Run(TOKENS, [vectors.swapped()]))
    assert_close(vectors.coordinates(once), vectors.coordinates(before).flip(-1), 1e-9)
    basis = torch.linalg.qr(vectors.vectors.T).Q
    across = torch.eye(12, dtype=torch.float64) - basis @ basis.T
    assert_close(once @ across, before @ across, 1e-9)
    twice = stream_of(model, Run(TOKENS, [vectors.swapped(), vectors.swapped()]))
    assert_close(twice, before, 1e-9)
    double = stream_of(model, Run(TOKENS, [vectors.swapped(2.0)]))
    assert_close(double - before, 2 * (once - before), 1e-9)


def test_a_lens_reads_what_was_done_along_its_vectors() -> None:
    """Without norms, what the logit lens says of two tokens after clamping is what it says in the other run."""
    model = build(normalization_type=None)
    lens = Lens.identity(model)
    vectors = lens_vectors(model, lens, 1, IDS[:2])
    run = Run(TOKENS, [vectors.clamped(Run(OTHER))])
    swapped, other = lens(model, run), lens(model, OTHER)
    row = swapped.labels.index("1_pre")
    ours, theirs = (one.log_prob(4)[row] - one.log_prob(11)[row] for one in (swapped, other))
    assert_close(ours, theirs, 1e-9)


def test_vectors_that_are_one_direction() -> None:
    model = build()
    with torch.no_grad():
        model.W_U[:, 7] = model.W_U[:, 4] + 1e-4
        noise = torch.randn(12, dtype=torch.float64)
        model.W_U[:, 11] = model.W_U[:, 4] + 0.04 * noise * model.W_U[:, 4].norm() / noise.norm()
    lens = Lens.identity(model)
    with pytest.raises(BadInput, match="no two directions"):
        lens_vectors(model, lens, 1, [4, 7]).swapped()
    alike = lens_vectors(model, lens, 1, [4, 11])
    assert 0.99 < float(alike.cosines[0, 1]) < 0.999
    with pytest.warns(UserWarning, match="differences of large numbers"):
        alike.ablated()
    with pytest.raises(BadInput, match="between two tokens, these are 3"):
        lens_vectors(model, lens, 1, [4, 2, 3]).swapped()
    with pytest.raises(BadInput, match="not for 3"):
        lens_vectors(model, lens, 3, 4)


# ------------------------------------------------------------------------------------------------------- decomposition


def planted(model: Model, lens: Lens) -> tuple[Run, Tensor, Tensor]:
    """A run in which the stream of each prompt is a sum of three lens vectors, and which these are."""
    tokens, coefficients = torch.tensor([[4, 11, 7], [2, 5, 13]]), torch.tensor([[3.0, 2.0, 1.5], [1.0, 4.0, 2.0]])
    sums = [
        one.double() @ lens_vectors(model, lens, 1, ids).vectors for ids, one in zip(tokens, coefficients, strict=True)
    ]
    streams = torch.stack(sums)[:, None].expand(2, 5, -1).clone()
    return Run(TOKENS, [Intervention(at("resid_pre", 1), streams)]), tokens, coefficients


@pytest.mark.parametrize("kind", ["gpt2", "llama", "no-norm", "folded"])
def test_planted_vectors_are_found(kind: str) -> None:
    model = build(d_model=64, seed=5, **MODELS[kind])
    lens = Lens(maps={1: torch.randn(64, 64, dtype=torch.float64)})
    run, tokens, coefficients = planted(model, lens)
    found = lens_decomposition(model, lens, run, 1, k=3, pos=-1, generator=torch.Generator().manual_seed(1))
    assert list(found.axes) == ["dictionary", "n_vectors"]
    order = found.tokens.sort(1)
    assert torch.equal(order.values, tokens.sort(1).values)
    expected = coefficients.gather(1, tokens.sort(1).indices).double()
    assert_close(found.coefficients.gather(1, order.indices), expected, 1e-8)
    assert_close(found.values[0, -1], torch.ones(2), 1e-10)
    assert float(found.values[1, -1].max()) < 0.7, "a rotated dictionary of 19 in 64 dimensions explains less"
    assert found.parts(0)["token"].tolist() == ["4", "11", "7"]


def test_more_vectors_explain_no_less_and_coefficients_are_least_squares() -> None:
    model = build(d_model=8)
    lens = Lens(maps={1: torch.randn(8, 8, dtype=torch.float64)})
    found = lens_decomposition(model, lens, TOKENS, 1, k=8)
    assert bool((found.coefficients == 0).any()), "a vector that joined early is of no more use later"
    assert bool((found.values.diff(dim=1) >= -1e-12).all())
    assert bool((found.values >= -1e-12).all())
    assert bool((found.values <= 1).all())
    stream = value_at(model, Run(TOKENS), "blocks.1.hook_resid_pre")[:, -1]
    for prompt in range(2):
        ids = found.tokens[prompt][found.tokens[prompt] >= 0]
        assert len(ids) == len(ids.unique())
        atoms, own = lens_vectors(model, lens, 1, ids).vectors, found.coefficients[prompt, : len(ids)]
        left = stream[prompt] - own @ atoms
        slopes = atoms @ left
        assert bool((own >= 0).all())
        assert float((own * slopes).abs().max()) < 1e-8
        assert float(slopes.max()) < 1e-8
        share = 1 - left.square().sum() / stream[prompt].square().sum()
        assert float(share) == pytest.approx(float(found.values[0, -1, prompt]))
        first = atoms[0] @ stream[prompt] / atoms[0].norm()
        every = lens_vectors(model, lens, 1, list(range(19))).vectors
        assert float(first) == pytest.approx(float((every @ stream[prompt] / every.norm(dim=1)).max()))


def test_the_decomposition_does_not_depend_on_processing() -> None:
    """The mean of the raw stream, which no vector of a Jacobian lens has a part in, does not count."""
    load = HookedTransformer.from_pretrained, HookedTransformer.from_pretrained_no_processing
    processed, raw = (one("tiny", hf_model=fresh_hf("gpt2"), dtype=torch.float64) for one in load)
    found = []
    for model in (processed, raw):
        lens = fit_jacobian_lens(model, TEXTS, skip_first=2, layers=[1], progress=False)
        draws = torch.Generator().manual_seed(0)
        found.append(lens_decomposition(model, lens, TEXTS[:2], 1, k=4, generator=draws))
    assert torch.equal(found[0].tokens, found[1].tokens)
    assert_close(found[0].values, found[1].values, 1e-9)
    assert_close(found[0].coefficients, found[1].coefficients, 1e-9)


def test_some_tokens_alone_and_the_same_draw_again(tmp_path: Any) -> None:
    model = build()
    lens = random_lens(1)
    found = lens_decomposition(model, lens, TOKENS, 1, k=2, among=IDS, generator=torch.Generator().manual_seed(4))
    assert {*found.tokens.flatten().tolist()} <= {*IDS, -1}
    again = lens_decomposition(model, lens, TOKENS, 1, k=2, among=IDS, generator=torch.Generator().manual_seed(4))
    assert torch.equal(found.values, again.values)
    found.save(tmp_path / "kept")
    assert torch.equal(Result.load(tmp_path / "kept").rerun(model).values, found.values)
    with pytest.raises(BadInput, match=r"k must be 1\.\.3"):
        lens_decomposition(model, lens, TOKENS, 1, k=4, among=IDS)


def test_coefficients_that_are_not_negative() -> None:
    """The conditions of Karush, Kuhn and Tucker, which say that it is the minimum."""
    for seed in range(30):
        vectors, target = torch.randn(
            2, 9, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        ).unbind()
        products, onto = vectors @ vectors.T, vectors @ target[0]
        found = nonnegative(products, onto)
        slopes = onto - products @ found
        assert bool((found >= 0).all())
        assert float(slopes.max()) < 1e-7
        assert float((slopes * found).abs().max()) < 1e-7
    assert distance(found, torch.linalg.lstsq(products, onto[:, None]).solution[:, 0]) > 0.1
