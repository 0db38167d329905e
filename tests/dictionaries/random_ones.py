"""Dictionaries whose every weight is random, in float64, with more features than dimensions and no bias that is 0."""

from collections.abc import Callable

import torch
from torch import Tensor

from interp_hooks.dictionaries import (
    SAE,
    Activation,
    BatchTopK,
    Crosscoder,
    CrossLayerTranscoder,
    Gated,
    JumpReLU,
    ReLU,
    TopK,
    Transcoder,
)

D, D_OUT, F = 12, 9, 17


def randoms(seed: int = 0) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def activation(kind: str, n: int = F, seed: int = 7) -> Activation:
    draw = randoms(seed)
    return {
        "relu": lambda: ReLU(),
        "topk": lambda: TopK(3),
        "topk-ranked": lambda: TopK(3, rank_by=draw(n).abs() + 0.1),
        "jumprelu": lambda: JumpReLU(draw(n).abs()),
        "batchtopk": lambda: BatchTopK(draw().abs(), k=4),
        "gated": lambda: Gated.of(0.3 * draw(n), draw(n), draw(n)),
    }[kind]()


KINDS = ("relu", "topk", "topk-ranked", "jumprelu", "batchtopk", "gated")


def sae(kind: str = "relu", hook: str = "blocks.1.hook_mlp_out", d: int = D, seed: int = 0, **fields: object) -> SAE:
    draw = randoms(seed)
    weights = dict(W_enc=draw(d, F), b_enc=draw(F), W_dec=draw(F, d), b_dec=draw(d), b_in=draw(d))
    return SAE(hook=hook, activation=activation(kind), **(weights | fields))  # pyright: ignore[reportArgumentType]


def transcoder(kind: str = "relu", layer: int = 1, d: int = D, d_out: int = D, seed: int = 0, skip: bool = True):
    draw = randoms(seed)
    return Transcoder(
        hook_in=f"blocks.{layer}.ln2.hook_normalized",
        hook_out=f"blocks.{layer}.hook_mlp_out",
        W_enc=draw(d, F),
        b_enc=draw(F),
        W_dec=draw(F, d_out),
        b_dec=draw(d_out),
        activation=activation(kind),
        W_skip=draw(d, d_out) if skip else None,
    )


def cross_layer(layers: int = 3, d: int = D, d_out: int = D, seed: int = 0, kind: str = "jumprelu"):
    draw = randoms(seed)
    return CrossLayerTranscoder(
        layers_in=tuple(f"blocks.{layer}.hook_mlp_in" for layer in range(layers)),
        layers_out=tuple(f"blocks.{layer}.hook_mlp_out" for layer in range(layers)),
        W_enc=tuple(draw(d, F) for _ in range(layers)),
        b_enc=tuple(draw(F) for _ in range(layers)),
        W_dec=tuple(draw(F, layers - layer, d_out) for layer in range(layers)),
        b_dec=tuple(draw(d_out) for _ in range(layers)),
        activations=tuple(activation(kind, seed=layer) for layer in range(layers)),
        W_skip=tuple(draw(d, d_out) if layer == 1 else None for layer in range(layers)),
    )


def crosscoder(sites: int = 3, d: int = D, seed: int = 0) -> Crosscoder:
    draw = randoms(seed)
    return Crosscoder(
        sites=tuple(f"blocks.{layer}.hook_resid_post" for layer in range(sites)),
        W_enc=draw(sites, d, F),
        b_enc=draw(F),
        W_dec=draw(F, sites, d),
        b_dec=draw(sites, d),
        activation=activation("jumprelu"),
    )
