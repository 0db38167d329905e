"""Trained dictionaries find planted features, have the sparsity that was asked for, and go on where they were."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.dictionaries import (
    SAE,
    Crosscoder,
    Recipe,
    Transcoder,
    dictionary_metrics,
    load,
    recovery,
    save,
    train_dictionaries,
    train_on_activations,
)
from interp_hooks.dictionaries import training as module
from interp_hooks.dictionaries.active import largest_of_batch
from interp_hooks.dictionaries.buffer import ActivationBuffer
from interp_hooks.dictionaries.coder import BANDWIDTH, Coder, _Jump, _Step
from interp_hooks.dictionaries.trainable import Trainable
from interp_hooks.errors import BadInput, UnknownHook
from tests.dictionaries.random_ones import randoms
from tests.tiny import assert_close, build, unchecked_types

TEXTS = [torch.randint(23, (9,), generator=torch.Generator().manual_seed(n)) for n in range(60)]
SMALL: dict[str, Any] = dict(steps=12, tokens_per_step=32, buffer=128, progress=False)


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return build(d_vocab_out=23, dtype=torch.float32)


def planted(n: int = 12_000, true: int = 40, d: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sparse codes of random directions, more of them than dimensions, and what they sum to; with a mean."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(true, d, generator=generator)
    directions /= directions.norm(dim=-1, keepdim=True)
    active = torch.rand(n, true, generator=generator) < 2 / true
    codes = (1 + torch.rand(n, true, generator=generator)) * active
    return directions, codes @ directions + 0.3 * torch.randn(d, generator=generator)


KINDS: dict[str, dict[str, Any]] = {
    "batchtopk": {},
    "topk": {},
    "matryoshka": dict(kind="batchtopk", prefixes=(20,)),
    "jumprelu": {},
    "relu": {},
    "gated": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_planted_features_are_found(kind: str) -> None:
    directions, x = planted()
    options = dict(kind=kind) | KINDS[kind]
    recipe = Recipe(hook="x", n_features=80, k=2, learning_rate=1e-2, **options)  # pyright: ignore[reportArgumentType]
    trained = train_on_activations(x, recipe, steps=400, tokens_per_step=256, progress=False)
    assert isinstance(trained, SAE)
    found = recovery(trained.W_dec, directions)
    untrained = recovery(randoms()(80, 32), directions)
    assert found.mcc > 0.95 > untrained.mcc + 0.4, found.mcc
    y = x - trained(x)
    assert float(1 - y.square().sum() / (x - x.mean(0)).square().sum()) > 0.75
    l0 = float(trained.encode(x).gt(0).sum(-1).double().mean())
    assert l0 <= 2 if kind == "topk" else 1 < l0 < 5
    if kind in ("batchtopk", "matryoshka"):
        assert l0 == pytest.approx(2, abs=0.2)  # the threshold keeps in use what the batch kept in training


def test_the_threshold_of_a_short_training_is_that_of_its_end() -> None:
    """As many features as asked for are active after 40 steps too, although activations were others in the first."""
    _, x = planted()
    recipe = Recipe(hook="x", n_features=80, k=2, learning_rate=1e-2)
    trained = train_on_activations(x, recipe, steps=40, tokens_per_step=256, progress=False)
    assert float(trained.encode(x).gt(0).sum(-1).double().mean()) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("kind", ["batchtopk", "topk"])
@pytest.mark.parametrize("options", [{}, {"prefixes": (5, 11)}, {"hook_out": "y", "skip": True}], ids=str)
def test_a_list_of_active_features_gives_what_the_matrix_gives(kind: Any, options: dict[str, Any]) -> None:
    """Loss and gradients, some features dead, beside all pre-activations differentiated as they are."""
    draw = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 40, 1, 8, generator=draw, dtype=torch.float64).unbind()
    y = y if "hook_out" in options else x
    part = Trainable(Recipe(hook="x", n_features=20, k=3, kind=kind, **options), x, y)
    with torch.no_grad():
        for weight in part.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=torch.float64))
        coder: Any = part.coders[0]
        coder.since_active[:4] = 1000
        coder.threshold_mean.fill_(2.0)
    loss, told = part.loss(x, y, dead_after=500)
    found = torch.autograd.grad(loss, list(part.parameters()), materialize_grads=True)
    x, y = x[:, 0] * part.scale, y[:, 0] * part.scale_out
    pre = (x - part.b_dec if "hook_out" not in options else x) @ coder.W_enc + coder.b_enc
    positive = pre.relu()
    least = (
        positive.flatten().topk(3 * 40).values[-1] if kind == "batchtopk" else positive.topk(3, dim=1).values[:, -1:]
    )
    features = torch.where(positive >= least, positive, 0.0)
    skip = 0.0 if part.W_skip is None else x @ part.W_skip[0]
    errors = [y - (features[:, :n] @ coder.W_dec[:n] + part.b_dec + skip) for n in (20, *options.get("prefixes", ()))]
    by_hand = torch.stack([error.square().sum(1).mean() for error in errors]).mean()
    dead = torch.where(torch.arange(20) < 4, pre, -torch.inf).topk(4, dim=1)
    acts = torch.zeros_like(pre).scatter(1, dead.indices, dead.values)
    by_hand = by_hand + part.recipe.aux * (errors[0].detach() - acts @ coder.W_dec).square().sum(1).mean()
    assert loss.item() == pytest.approx(by_hand.item())
    assert told["l0"] == pytest.approx(float((features > 0).sum()) / 40)
    wanted = torch.autograd.grad(by_hand, list(part.parameters()), materialize_grads=True)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("guess", [0.0, 0.4, 1.5, 50.0])
def test_a_guess_changes_no_choice(guess: float) -> None:
    pre = torch.randn(30, 17, generator=torch.Generator().manual_seed(0))
    active = largest_of_batch(pre, 60, guess)
    chosen = torch.zeros_like(pre, dtype=torch.bool)
    chosen[active.token, active.feature] = True
    assert torch.equal(chosen, pre >= pre.flatten().topk(60).values[-1])
    few = largest_of_batch(pre - 2.0, 500, guess)
    assert len(few.token) == int((pre > 2.0).sum())


def test_prefixes_stand_on_their_own() -> None:
    """The first features of a Matryoshka dictionary say more than those of another."""
    _, x = planted()

    def said(prefixes: tuple[int, ...]) -> float:
        recipe = Recipe(hook="x", n_features=40, k=2, learning_rate=1e-2, prefixes=prefixes)
        one = train_on_activations(x, recipe, steps=300, tokens_per_step=256, progress=False)
        assert isinstance(one, SAE)
        return float((x - one.prefix(6)(x)).square().sum())

    assert said((6,)) < 0.9 * said(())


def test_dead_features_come_back() -> None:
    """With features that begin far from being active, only the loss for dead ones can bring them back."""
    _, x = planted()

    def dead(aux: float) -> float:
        recipe = Recipe(hook="x", n_features=64, k=2, learning_rate=1e-2, aux=aux, dead_after=2000)
        begin = Coder.__init__

        def far(self: Coder, *args: Any) -> None:
            begin(self, *args)
            self.b_enc.data[:32] -= 20.0

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Coder, "__init__", far)
            one = train_on_activations(x, recipe, steps=200, tokens_per_step=256, progress=False)
        return float(one.encode(x).gt(0).any(0).double().mean())

    assert dead(1.0) > dead(0.0) + 0.2


def test_a_transcoder_learns_a_sparse_function() -> None:
    """Whose output is of another width, with a part that is linear in the input for the skip."""
    directions, x = planted()
    W = torch.randn(40, 9, generator=torch.Generator().manual_seed(1))
    codes = (x @ torch.linalg.pinv(directions)).relu()
    y = codes @ W + x @ torch.randn(32, 9, generator=torch.Generator().manual_seed(2))
    recipe = Recipe(hook="x", hook_out="y", n_features=80, k=8, skip=True, learning_rate=1e-2)
    one = train_on_activations(x, recipe, y=y, steps=300, tokens_per_step=256, progress=False)
    assert isinstance(one, Transcoder)
    assert one.W_skip is not None
    assert (one.d_in, one.d_out) == (32, 9)
    assert float(1 - (y - one(x)).square().sum() / (y - y.mean(0)).square().sum()) > 0.8


def test_surrogate_gradients_are_the_papers() -> None:
    """d theta of the value: -theta/bandwidth * K; of the step: -1/bandwidth * K, with K the rectangle (2407.14435)."""
    pre, threshold = randoms()(50, 3), torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    pre.requires_grad_()
    inside = ((pre - threshold).abs() < BANDWIDTH / 2).double().detach()
    weights = randoms(1)(50, 3)
    _Jump.apply(pre, threshold).mul(weights).sum().backward()  # pyright: ignore
    assert_close(threshold.grad, -(threshold / BANDWIDTH * inside * weights).sum(0).detach(), 1e-12)  # pyright: ignore
    assert_close(pre.grad, weights * (pre > threshold), 1e-12)  # pyright: ignore
    threshold.grad = None
    _Step.apply(pre, threshold).mul(weights).sum().backward()  # pyright: ignore
    assert_close(threshold.grad, -(inside * weights).sum(0) / BANDWIDTH, 1e-12)  # pyright: ignore
    assert float(inside.sum()) > 0


# ------------------------------------------------------------------------------------------------------- with a model


def recipes(**more: Recipe) -> dict[str, Recipe]:
    found = {
        "sae": Recipe(hook="mlp_out1", n_features=20, k=4),
        "transcoder": Recipe(hook="blocks.1.ln2.hook_normalized", hook_out="mlp_out1", n_features=18, k=3, seed=4),
        "of_head": Recipe(hook="z2", head=1, n_features=9, k=2, kind="topk"),
        "crosscoder": Recipe(sites=("resid_post0", "resid_post1"), n_features=21, k=4),
        "gated": Recipe(hook="z0", n_features=19, kind="gated"),
    }
    return found | more


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items())


def test_several_from_one_pass(model: HookedTransformer) -> None:
    """Each is the one that it would be alone; all fit the model."""
    together = train_dictionaries(model, TEXTS, recipes(), **SMALL)
    assert isinstance(together["crosscoder"], Crosscoder)
    assert together["of_head"].d_in == 4
    for one in together.values():
        one.refuse_unfit(model)
        assert [row[0] for row in one.facts["history"]] == list(range(12))
        assert one.dtype == torch.float32
    part = {
        name: recipes()[name] for name in ("sae", "of_head", "crosscoder")
    }  # no norm is computed otherwise for them
    alone = train_dictionaries(model, TEXTS, part["sae"], **SMALL)["dictionary"]
    assert same(alone, train_dictionaries(model, TEXTS, part, **SMALL)["sae"])
    other = train_dictionaries(model, TEXTS, recipes()["sae"], seed=1, **SMALL)["dictionary"]
    assert not same(alone, other)


class Killed(Exception):
    pass


def test_a_killed_fit_goes_on_to_the_same_bits(
    model: HookedTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_dictionaries(model, TEXTS, recipes(), **SMALL)
    begun = module._Fit._train

    def killed(self: Any, bar: Any) -> None:
        if self.step == 7:
            raise Killed
        begun(self, bar)

    monkeypatch.setattr(module._Fit, "_train", killed)
    with pytest.raises(Killed):
        train_dictionaries(model, TEXTS, recipes(), save_to=tmp_path, save_every=5, **SMALL)
    monkeypatch.setattr(module._Fit, "_train", begun)
    resumed = train_dictionaries(model, TEXTS, recipes(), save_to=tmp_path, save_every=5, **SMALL)
    assert all(same(whole[name], resumed[name]) for name in whole)
    assert resumed["sae"].facts == whole["sae"].facts
    with pytest.raises(BadInput, match="with other steps"):
        train_dictionaries(model, TEXTS, recipes(), save_to=tmp_path, **SMALL | dict(steps=13))
    with pytest.raises(BadInput, match="with other recipes"):
        train_dictionaries(model, TEXTS, recipes()["sae"], save_to=tmp_path, **SMALL)
    other = build(seed=1, d_vocab_out=23, dtype=torch.float32)
    with pytest.raises(BadInput, match="weights are not those"):
        train_dictionaries(other, TEXTS, recipes(), save_to=tmp_path, **SMALL)


def test_a_trained_dictionary_is_kept_and_evaluated(model: HookedTransformer, tmp_path: Path) -> None:
    """On activations of the model it does better than before; facts say how well."""
    recipe = Recipe(hook="resid_post1", n_features=48, k=8, learning_rate=3e-3)
    options: Any = SMALL | dict(tokens_per_step=128, buffer=512)
    short, long = (
        train_dictionaries(model, TEXTS, recipe, evaluate_on=TEXTS[:20], **options | dict(steps=steps))["dictionary"]
        for steps in (2, 150)
    )
    measured = [one.facts["metrics"]["explained_variance"] for one in (short, long)]
    assert measured[1] > max(0.5, measured[0] + 0.2)
    found = dictionary_metrics(model, long, TEXTS[:20])
    assert long.facts["metrics"]["l0"] == pytest.approx(float(found.values[0, 0]))
    save(long, tmp_path / "sae.safetensors")
    back = load(tmp_path / "sae.safetensors")
    assert same(back, long)
    assert back.facts == long.facts


def test_half_precision_activations_have_precise_weights() -> None:
    half = build(d_vocab_out=23, dtype=torch.bfloat16)
    trained = train_dictionaries(half, TEXTS, recipes()["sae"], **SMALL)["dictionary"]
    assert trained.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    with half.spliced(trained, error_term=True):
        assert torch.equal(half(TEXTS[0][None]), half(TEXTS[0][None]))


def test_the_buffer_gives_every_token_once_a_round(model: HookedTransformer) -> None:
    """Over whole rounds of the corpus all counted tokens come up equally often, in another order than they stand."""
    packer = module.Packer(model=model, length=9, longer="split", exclude=("first",), tokens_at_once=32)
    hooks: list[Any] = [("hook_embed", None)]
    generator = torch.Generator().manual_seed(0)
    stream = ActivationBuffer(model, TEXTS, packer, hooks, column="text", tokens=96, generator=generator)
    given = torch.cat([stream.take(20)[hooks[0]] for _ in range(24)])  # 480 tokens, one round; some wait in the buffer
    given = torch.cat((given, stream.left[hooks[0]]))
    ids = (given[:, None] == model.W_E).all(-1).long().argmax(-1)
    counts = torch.bincount(ids, minlength=23)
    once = torch.bincount(torch.cat([one[1:] for one in TEXTS]), minlength=23)
    rounds = len(given) / 480
    assert 1 <= rounds < 1.5
    assert (counts >= once).all()
    assert not torch.equal(ids[:480], torch.cat([one[1:] for one in TEXTS]))


def test_bad_recipes_are_refused(model: HookedTransformer) -> None:
    for wrong, message in (
        (dict(n_features=8), "hook="),
        (dict(n_features=8, hook="x", sites=("a",)), "hook="),
        (dict(n_features=8, hook="x", k=9), r"k must be 1\.\.8"),
        (dict(n_features=8, hook="x", k=2, prefixes=(6, 3)), "must grow"),
        (dict(n_features=8, hook="x", k=2, skip=True), "hook_out= too"),
        (dict(n_features=8, hook="x", k=2, sparsity=-1.0), "0 or more"),
        (dict(n_features=8, hook="x", k=2, kind="lista"), "kind must be one of"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=message):
            Recipe(**wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownHook, match=r"blocks\.7"):
        train_dictionaries(model, TEXTS, Recipe(hook="mlp_out7", n_features=8, k=2), **SMALL)
    with pytest.raises(BadInput, match="no vector at each position"):
        train_dictionaries(model, TEXTS, Recipe(hook="pattern1", n_features=8, k=2), **SMALL)
    with pytest.raises(BadInput, match="buffer must hold"):
        train_dictionaries(model, TEXTS, recipes(), **SMALL | dict(buffer=33))
    with pytest.raises(BadInput, match="no more tokens that count"):
        train_dictionaries(model, [torch.tensor([1])], recipes(), exclude=("first",), **SMALL)
    with pytest.raises(BadInput, match="what is predicted of x"):
        train_on_activations(torch.randn(9, 4), Recipe(hook="x", hook_out="y", n_features=8, k=2), steps=1)
