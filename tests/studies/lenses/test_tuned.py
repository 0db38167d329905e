"""Fits of the tuned lens: they begin at the logit lens, find affine tails, follow the recipe, and go on when killed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, logit_lens
from interp_hooks.errors import BadInput
from interp_hooks.studies import Lens, fit_tuned_lens
from interp_hooks.studies.lenses.tuned import _Fit
from tests.experiments.by_hand import RTOL, TOKENS
from tests.tiny import CUSTOM, assert_close, build, hooked, random_tokens, unchecked_types

TEXTS = random_tokens(batch=40, pos=9, d_vocab=19, seed=3)
Model = HookedTransformer


def fit(model: Model, texts: Any = TEXTS, **options: Any) -> Lens:
    return fit_tuned_lens(model, texts, **dict(steps=5, tokens_per_step=60, progress=False) | options)


def mean_kl(lens: Lens, model: Model, tokens: Tensor = TEXTS) -> Tensor:
    return lens(model, tokens, pos=None).kl.mean((1, 2))


@pytest.mark.parametrize("name", CUSTOM)
def test_without_a_step_it_is_the_logit_lens(name: str) -> None:
    model = hooked(name)
    lens = fit(model, steps=0)
    assert lens.kind == "tuned"
    tokens = TOKENS % 19
    assert_close(lens(model, tokens, pos=None).log_probs, logit_lens(model, tokens, pos=None).log_probs, RTOL)


@pytest.mark.parametrize("name", ["no-norm", "output-norms", "sinks-capped", "post-norm", "shortformer"])
def test_training_brings_it_nearer_to_the_model(name: str) -> None:
    model = hooked(name)
    lens = fit(model, steps=40, optimizer="adam", learning_rate=0.01, tokens_per_step=200)
    before, after = mean_kl(Lens.identity(model), model), mean_kl(lens, model)
    assert bool((after[:-1] < 0.9 * before[:-1]).all())
    reported = torch.tensor([lens.facts["kl_nats"][str(layer)] for layer in lens.layers], dtype=torch.float64)
    assert bool((reported < before[:-1]).all())


def affine_tail() -> tuple[Model, dict[int, Tensor], dict[int, Tensor]]:
    """A model whose blocks are affine: attention writes nothing, and every neuron of the MLPs is on."""
    model = build(normalization_type=None, act_fn="relu", std=0.25)
    maps, biases = dict[int, Tensor](), dict[int, Tensor]()
    after, shift = torch.eye(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    with torch.no_grad():
        for layer in (2, 1, 0):
            block: Any = model.blocks[layer]
            block.attn.W_O.zero_()
            block.attn.b_O.zero_()
            block.mlp.b_in.fill_(50.0)
            block.mlp.b_out.copy_(-50.0 * block.mlp.W_out.sum(0))  # so that the stream stays small
            maps[layer] = after @ (torch.eye(12, dtype=torch.float64) + block.mlp.W_in @ block.mlp.W_out).T
            biases[layer] = shift.clone()
            after = maps[layer]
    return model, maps, biases


def test_an_affine_tail_is_found() -> None:
    """The map that the blocks are, up to what no probability depends on, and with that a KL of 0."""
    model, maps, biases = affine_tail()
    exact = Lens(maps=maps, biases=biases)
    assert float(mean_kl(exact, model).abs().max()) < 1e-12
    options = dict(steps=400, tokens_per_step=100, momentum=0.95, learning_rate=1.0, weight_decay=0.0, clip=100.0)
    with unchecked_types():  # which take nine tenths of the time
        lens = fit(model, layers=[2], **options)
    held_out = random_tokens(batch=20, pos=9, d_vocab=19, seed=9)
    for tokens in (TEXTS, held_out):
        assert float(mean_kl(Lens.identity(model), model, tokens)[2]) > 0.1
        assert float(mean_kl(lens, model, tokens)[0]) < 1e-4


def test_one_step_is_what_the_recipe_says() -> None:
    """Nesterov's momentum on the mean KL over counted tokens, by torch's own KL and autograd, clipped to 1."""
    model = build(std=0.8)
    lens = fit(model, TEXTS[:6], steps=1, tokens_per_step=50, weight_decay=0.0, layers=[1])
    with torch.no_grad():
        cache = model.run_with_cache(TEXTS[:6])[1]
        final = model(TEXTS[:6]).log_softmax(-1).flatten(0, 1)
    A, b = (torch.zeros(*shape, dtype=torch.float64, requires_grad=True) for shape in ((12, 12), (12,)))
    stream = cache["resid_pre", 1]
    mapped = stream + stream @ A.T + b
    log_probs = model.logits(mapped).log_softmax(-1).flatten(0, 1)
    kl = torch.nn.functional.kl_div(log_probs, final, log_target=True, reduction="batchmean")
    gradients = torch.autograd.grad(kl, (A, b))
    norm = float(torch.cat([one.flatten() for one in gradients]).norm())
    step = (1 - 0.9) * (1 + 0.9) / max(1.0, norm)  # the first step of Nesterov's momentum is g + 0.9 g
    assert norm > 1
    assert_close(lens.maps[1] - torch.eye(12), -step * gradients[0], 1e-5)  # type: ignore[operator]
    assert_close(lens.biases[1], -step * gradients[1], 1e-5)
    assert lens.facts["kl_nats"]["1"] == pytest.approx(float(kl.detach()))


def test_layers_do_not_depend_on_each_other() -> None:
    model = build()
    every, one = fit(model), fit(model, layers=[1])
    assert one.layers == [1]
    assert_close(one.maps[1], every.maps[1], 1e-12)


def test_how_rows_are_read_changes_nothing() -> None:
    model = build()
    lens = fit(model, steps=2, tokens_per_step=360)
    for at_once in (100, 30):
        assert_close(fit(model, steps=2, tokens_per_step=360, tokens_at_once=at_once).maps[0], lens.maps[0], 1e-10)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_fit_that_was_killed_goes_on(optimizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, train, steps = build(), _Fit._train, []
    options = dict(steps=7, optimizer=optimizer, save_every=2)
    whole = fit(model, **options)

    def killed(self: _Fit, rows: Any) -> None:
        steps.append(self.step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        train(self, rows)

    monkeypatch.setattr(_Fit, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(model, save_to=tmp_path, **options)
    again = fit(model, save_to=tmp_path, **options)
    assert steps == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    once_more = fit(model, save_to=tmp_path, **options)
    assert len(steps) == 9
    for lens in (again, once_more):
        assert lens.facts == whole.facts
        for layer in range(3):
            assert torch.equal(lens.maps[layer], whole.maps[layer])  # type: ignore[arg-type]
            assert torch.equal(lens.biases[layer], whole.biases[layer])
    with pytest.raises(BadInput, match="another weight_decay"):
        fit(model, save_to=tmp_path, weight_decay=0.5, **options)
    with pytest.raises(BadInput, match="weights are not those of the fit"):
        fit(build(seed=1), save_to=tmp_path, **options)


def test_a_corpus_that_cannot_be_read_again_is_told() -> None:
    def once() -> Iterator[Tensor]:
        yield from TEXTS

    with pytest.raises(BadInput, match="no more tokens after 3 of 9 steps"):
        fit(build(), once(), steps=9)


def test_the_model_stays_as_it_is() -> None:
    model = build()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    fit(model)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert not any(point.hooked for point in model.hook_points())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(layers=[3]), r"some of 0\.\.2"),
        (dict(steps=-1), "steps must be"),
        (dict(optimizer="lion"), "'sgd' or 'adam'"),
        (dict(momentum=1.0), "momentum must be"),
        (dict(learning_rate=0.0), "learning_rate must be above 0"),
        (dict(clip=-1.0), "clip must be above 0"),
        (dict(weight_decay=-1.0), "weight_decay must be"),
        (dict(tokens_per_step=0), "tokens_per_step must be"),
        (dict(length=100), "length must be"),
        (dict(exclude=["eos"]), "exclude must be a list of"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        fit(build(), **options)
