"""A lens: for each layer an affine map of the stream, after which the model's own final norm and unembedding speak.

identity    the logit lens (nostalgebraist 2020): what the model would say if it stopped there
tuned       trained to say what the model will say (Belrose et al. 2023, arxiv.org/abs/2303.08112)
Jacobian    what the rest of the model does to the stream to first order, on average over texts and positions
your own    any maps: Lens(maps={layer: matrix})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked, told
from interp_hooks.experiments.results.record import experiment
from interp_hooks.interventions.readout import LAST, MetricLike, said
from interp_hooks.interventions.runs import PromptsLike
from interp_hooks.model.cache.frozen_norm import centred
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.lenses.reading import Biases, LensResult, Maps, read_points, run_to_read, through

Kind = Literal["identity", "tuned", "jacobian", "own"]
AGREE = 1e-4  # how small the mean of an embedding is, relative to its size, where it was taken away


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Lens:
    """A map h -> maps[layer] h + biases[layer] of the stream that enters each layer, onto the final stream.

    `maps[layer]` is [d_model, d_model]: its row i makes coordinate i of the final stream; None is the identity, of
    which no matrix is made. Layers without an entry are not read. `kind` tells how the maps were made, `n_prompts` from
    how many texts, and `facts` whatever else is known. `of_centred` tells whether they were made for streams from which
    centring of the weights took the mean, and None that it makes no difference or is not known.

    Calling a lens reads prompts with it.

    >>> from interp_hooks.studies import Lens
    >>> lens = Lens(maps={1: torch.eye(128), 2: None})
    >>> lens(model, clean).labels
    ['1_pre', '2_pre', 'final_post']

    Raises:
        BadInput: maps that are not square, finite and of one size, or biases that do not fit.
    """

    maps: Maps
    biases: Biases = field(default_factory=dict)
    kind: Kind = "own"
    n_prompts: int | None = None
    of_centred: bool | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.maps, Mapping) or not self.maps or not all(isinstance(one, int) for one in self.maps):
            raise BadInput(f"maps must be matrices by layer, {{0: ..., 1: ...}}, got {told(self.maps)}")
        if self.kind not in get_args(Kind):
            raise BadInput(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        sizes = {tuple(one.shape) if isinstance(one, Tensor) else one for one in self.maps.values() if one is not None}
        if len(sizes) > 1 or any(not isinstance(one, tuple) or len(one) != 2 or one[0] != one[1] for one in sizes):
            raise BadInput(f"maps must all be [d_model, d_model], or None for the identity, got {sizes}")
        for layer, bias in self.biases.items():
            if self.maps.get(layer) is None or bias.shape != self.maps[layer].shape[:1]:  # pyright: ignore
                raise BadInput(f"the bias of layer {layer} needs a map beside it and its size, got {told(bias)}")
        for what, tensors in (("map", self.maps), ("bias", self.biases)):
            for layer, tensor in tensors.items():
                if tensor is not None and not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
                    raise BadInput(f"the {what} of layer {layer} must be finite floating-point numbers")

    @classmethod
    def identity(cls, model: HookedTransformer) -> Lens:
        """The logit lens as a `Lens`: at every layer the stream as it is."""
        return cls(maps=dict.fromkeys(range(model.cfg.n_layers)), kind="identity")

    @property
    def layers(self) -> list[int]:
        """The layers that have a map."""
        return sorted(self.maps)

    @property
    def d_model(self) -> int | None:
        """The width of the stream, if some layer has a matrix."""
        return next((len(one) for one in self.maps.values() if one is not None), None)

    def __repr__(self) -> str:
        made = "" if self.n_prompts is None else f", n_prompts={self.n_prompts}"
        return f"Lens(kind={self.kind!r}, layers={self.layers}, d_model={self.d_model}{made})"

    def __call__(
        self,
        model: HookedTransformer,
        prompts: PromptsLike,
        metric: MetricLike | None = None,
        *,
        pos: int | Tensor | None = LAST,
        attention_mask: Tensor | None = None,
    ) -> LensResult:
        """What the model would say of the stream at each layer, after the layer's map; a row for each, and the model's.

        Values are those of `metric`, which reads the mapped stream as it reads the final one (of a task, the task's
        own), or without one KL(model || lens) in nats. `pos` is one position of each prompt, or None for all of them;
        a model that reads both ways has no last one, so there it must be said. Of a `Run` the interventions are made,
        and the lens reads the stream that they leave.

        Raises:
            BadInput: another width or more layers than the model has, prompts or positions that do not fit, an
                intervention after the last block, or a tuned lens of streams with a mean in a model without.
        """
        return read_with(model, prompts, self, metric, pos=pos, attention_mask=attention_mask)

    @checked
    def of(self, layer: int, stream: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """The stream that enters a layer, mapped onto the final stream.

        Raises:
            BadInput: a layer without a map, or another width.
        """
        self.refuse_layer(layer)
        if self.d_model not in (None, stream.shape[-1]):
            raise BadInput(f"this lens maps streams of width {self.d_model}, got {list(stream.shape)}")
        return through(stream, self.maps[layer], self.biases.get(layer))

    def refuse_layer(self, layer: int) -> None:
        """Raises BadInput if a layer has no map."""
        if layer not in self.maps:
            raise BadInput(f"this lens has maps for layers {', '.join(map(str, self.layers))}, not for {layer!r}")

    def refuse_unfit(self, model: HookedTransformer) -> None:
        """Raises BadInput if the lens is of a model of another size, or of streams with a mean where there is none."""
        cfg = model.cfg
        if self.d_model not in (None, cfg.d_model):
            raise BadInput(f"this lens maps streams of width {self.d_model}; the model has d_model={cfg.d_model}")
        if beyond := [layer for layer in self.layers if not 0 <= layer < cfg.n_layers]:
            raise BadInput(f"this lens has a map for layer {beyond[0]}; the model has layers 0..{cfg.n_layers - 1}")
        if self.kind == "tuned" and self.of_centred is not None and self.of_centred != stream_is_centred(model):
            with_, without = ("without a mean", "with one") if self.of_centred else ("with a mean", "without one")
            raise BadInput(
                f"this tuned lens was made for streams {with_}, and the stream of this model is {without}: load the "
                f"model with center_writing_weights={self.of_centred}, or fit a lens to it"
            )

    # ------------------------------------------------------------------------------------------- lenses of lenses

    def centred(self) -> Lens:
        """The Jacobian lens of the same LayerNorm model with centred writing weights: C J + 11'/d, C = 1 - 11'/d.

        Both say the same; this one is what a fit to the centred model gives. It rests on J 1 = 1, since what is alike
        in all coordinates passes every block untouched.

        Raises:
            BadInput: another kind of lens, of which that does not hold.
        """
        if self.kind != "jacobian":
            raise BadInput(f"only the Jacobian lens of a model is known from that of another, this is {self!r}")
        maps = {layer: None if one is None else centred(one.T).T + 1 / len(one) for layer, one in self.maps.items()}
        return replace(self, maps=maps, of_centred=True)

    @checked
    def merged(self, other: Lens) -> Lens:
        """The Jacobian lens of both fits' texts together: the mean of the maps, weighted by `n_prompts`, in float64.

        Parts of one fit are put together without any rounding by `gather_jacobian_lens`.

        Raises:
            BadInput: another kind of lens, other layers or sizes, or fits of which it is not known how large they were.
        """
        if not self.kind == other.kind == "jacobian" or self.layers != other.layers or self.d_model != other.d_model:
            raise BadInput(f"only Jacobian lenses of the same layers and size merge, got {self!r} and {other!r}")
        if self.n_prompts is None or other.n_prompts is None or self.of_centred != other.of_centred:
            raise BadInput("both lenses must say their n_prompts, and whether they are of centred streams")
        total = self.n_prompts + other.n_prompts
        share = self.n_prompts / total

        def mean(layer: int) -> Tensor:
            one, two = self.maps[layer], other.maps[layer]
            assert one is not None
            assert two is not None
            both = one.double() * share + two.double().to(one.device) * (1 - share)
            return both.to(torch.promote_types(one.dtype, two.dtype))

        return replace(self, maps={layer: mean(layer) for layer in self.layers}, n_prompts=total)


@experiment
def read_with(
    model: HookedTransformer,
    prompts: PromptsLike,
    lens: Lens,
    metric: MetricLike | None = None,
    *,
    pos: int | Tensor | None = LAST,
    attention_mask: Tensor | None = None,
) -> LensResult:
    """What a lens says of prompts: `lens(model, prompts, ...)`."""
    lens.refuse_unfit(model)
    run = run_to_read(model, prompts, attention_mask)
    return read_points(model, run, lens.maps, lens.biases, metric, pos_read(model, metric, pos), False)


def pos_read(model: HookedTransformer, metric: MetricLike | None, pos: int | Tensor | None) -> int | Tensor | None:
    """The position whose streams are kept.

    Raises:
        BadInput: none was said in a model that reads both ways; or all are to be kept, and a metric is asked for.
    """
    if pos is None and metric is not None:
        raise BadInput("pos=None reads every position without a metric, which says itself where it reads")
    return said(model, pos)


def stream_is_centred(model: HookedTransformer) -> bool:
    """Whether centring of the weights took the mean away from the stream."""
    if not model.cfg.centres_residual:
        return False
    written = [model.W_E.detach(), model.whole(model.blocks[0].attn.W_O).detach().flatten(0, 1)]
    return all(
        float(one.double().mean(-1).norm()) <= AGREE * float(one.double().norm(dim=-1).mean()) for one in written
    )
