"""Latent scaling: against least squares, and on features of which it is known in which model they are."""

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.dictionaries import Crosscoder
from interp_hooks.errors import BadInput
from interp_hooks.studies import latent_scaling
from tests.tiny import build, random_tokens

QUIET = dict(progress=False, exclude=())
D, VOCABULARY = 6, 12
TOKENS = torch.arange(VOCABULARY).reshape(2, 6)


def embedding(W_E: Tensor) -> HookedTransformer:
    """A model whose activation at a token is that row."""
    model = build(d_model=D, d_vocab=VOCABULARY)
    with torch.no_grad():
        model.embed.W_E.copy_(W_E)
    return model


@pytest.fixture(scope="module")
def random_crosscoder() -> Crosscoder:
    generator = torch.Generator().manual_seed(0)
    sizes = dict(W_enc=(2, D, 9), b_enc=(9,), W_dec=(9, 2, D), b_dec=(2, D))
    drawn = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}
    return Crosscoder(sites=("hook_embed", "hook_embed"), **drawn)


def test_betas_are_those_of_least_squares(random_crosscoder: Crosscoder) -> None:
    W_E = [torch.randn(VOCABULARY, D, dtype=torch.float64) for _ in range(2)]
    found = latent_scaling(random_crosscoder, *map(embedding, W_E), TOKENS, tokens_at_once=6, **QUIET)
    x = torch.stack(W_E, dim=1)
    features = random_crosscoder.encode(x)
    made = random_crosscoder.decode(features)
    for latent, row in enumerate(found.mean):
        values = dict(zip(found.axes["measure"], row.tolist(), strict=True))
        f, decoders = features[:, latent], random_crosscoder.W_dec[latent]
        assert values["density"] == pytest.approx(float((f > 0).double().mean()))
        owner = int(decoders.norm(dim=-1).argmax())
        assert values["owner"] == owner
        assert values["share"] == pytest.approx(float(random_crosscoder.shares[latent, 1]))
        design = (f[:, None] * decoders[owner]).reshape(-1, 1)
        betas = {}
        for site, name in enumerate(("model", "other")):
            targets = {
                "error": x[:, site] - (made[:, site] - f[:, None] * decoders[site]),
                "reconstruction": made[:, site] - random_crosscoder.b_dec[site],
            }
            for kind, target in targets.items():
                betas[kind, site] = float(torch.linalg.lstsq(design, target.reshape(-1, 1)).solution)
                assert values[f"{kind}_{name}"] == pytest.approx(betas[kind, site], rel=1e-9)
        for kind in ("error", "reconstruction"):
            assert values[f"{kind}_ratio"] == pytest.approx(betas[kind, 1 - owner] / betas[kind, owner], rel=1e-8)


def test_artefacts_are_told_from_features_of_one_model() -> None:
    """Four directions: of both models; of the other alone; of both, shrunk to nothing in the model; of both, by two
    features that say it in one model each."""
    e = torch.eye(D, dtype=torch.float64)
    shared, alone, shrunk, decoupled = (e[n] for n in range(4))
    a, b = torch.zeros(2, VOCABULARY, D, dtype=torch.float64)
    for rows, direction, in_a in ((0, shared, 1), (3, alone, 0), (6, shrunk, 1), (9, decoupled, 1)):
        strengths = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
        a[rows : rows + 3], b[rows : rows + 3] = strengths * direction * in_a, strengths * direction
    W_dec = torch.zeros(5, 2, D, dtype=torch.float64)
    W_dec[0], W_dec[1, 1], W_dec[2, 1], W_dec[3, 1], W_dec[4, 0] = shared, alone, shrunk, decoupled, decoupled
    W_enc = torch.zeros(2, D, 5, dtype=torch.float64)
    for latent, (site, direction) in enumerate([(1, shared), (1, alone), (1, shrunk), (1, decoupled), (0, decoupled)]):
        W_enc[site, :, latent] = direction
    zeros = dict(b_enc=torch.zeros(5, dtype=torch.float64), b_dec=torch.zeros(2, D, dtype=torch.float64))
    crosscoder = Crosscoder(sites=("hook_embed", "hook_embed"), W_enc=W_enc, W_dec=W_dec, **zeros)
    found = latent_scaling(crosscoder, embedding(a), embedding(b), TOKENS, **QUIET).mean
    assert found[:, 0].tolist() == [0.5, 1, 1, 1, 0], "by norms three of them look like the other's alone"
    ratios = {name: found[latent, 1:3].tolist() for latent, name in enumerate(("both", "alone", "shrunk", "decoupled"))}
    assert ratios["both"] == pytest.approx([1, 1])
    assert ratios["alone"] == pytest.approx([0, 0])
    assert ratios["shrunk"] == pytest.approx([0, 1])
    assert ratios["decoupled"] == pytest.approx([1, 0])


def test_what_does_not_fit(random_crosscoder: Crosscoder) -> None:
    model = embedding(torch.zeros(VOCABULARY, D))
    with pytest.raises(BadInput, match=r"latents must be some of 0\.\.8"):
        latent_scaling(random_crosscoder, model, model, TOKENS, latents=[9], **QUIET)
    with pytest.raises(BadInput, match="reads 6 numbers"):
        latent_scaling(random_crosscoder, build(), build(), random_tokens(d_vocab=23), **QUIET)
    sizes = dict(W_enc=torch.ones(2, D, 1), b_enc=torch.ones(1), W_dec=torch.ones(1, 2, D), b_dec=torch.ones(2, D))
    with pytest.raises(BadInput, match="one hook twice"):
        latent_scaling(Crosscoder(sites=("resid_pre0", "resid_pre1"), **sizes), model, model, TOKENS, **QUIET)
