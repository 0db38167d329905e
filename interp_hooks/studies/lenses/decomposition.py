"""The stream as a sum of few lens vectors, and how much of that a random dictionary of the same size would explain.

    h = sum of c_v a_v, c_v >= 0        orthogonal matching pursuit: the vector that is most alike what is left
                                        joins, and all coefficients are fitted anew

The dictionary, a lens vector for every token, is never made: how alike the vectors are to what is left is what the lens
reads of it, divided by their lengths. The control is the same dictionary rotated at random, which has the same size and
the same angles between its vectors, and so is as good at explaining as any such dictionary is by chance: decomposing a
stream by it is decomposing a randomly rotated stream by the dictionary itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors.arguments import Count, about, refuse_outside
from interp_hooks.experiments.results.record import experiment, on_data
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.tables import pd
from interp_hooks.interventions.readout import LAST, Readout, said
from interp_hooks.interventions.recording import record
from interp_hooks.interventions.runs import PromptsLike, Run
from interp_hooks.model.cache.frozen_norm import FrozenNorm, centred
from interp_hooks.model.components.block import at_positions
from interp_hooks.model.stream import Stream
from interp_hooks.model.token_text import names_of
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.lenses.base import Lens
from interp_hooks.studies.lenses.reading import run_to_read, vocabulary_size
from interp_hooks.studies.lenses.vectors import mean_column, pulled_back, unembedding_of

CHUNK = 2**12  # lens vectors that are made at once to know their lengths
DICTIONARIES = ["lens", "random"]
AGREE = 1e-3  # how alike a map must leave all coordinates of the mean: published maps are in half precision


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LensDecomposition(Result):
    """How much of the stream so many lens vectors explain, as a share of its squared length; and which they are.

    Axes are the dictionary ("lens", and "random", the control) and how many vectors there are. `tokens` and
    `coefficients` are those of the whole decomposition by the lens, in the order in which they joined; where no vector
    helped any more, the token is -1 and the coefficient 0.
    """

    tokens: Int[Tensor, "prompt vector"]
    coefficients: Float[Tensor, "prompt vector"]
    words: list[list[str]] = field(default_factory=list)

    def parts(self, prompt: int = 0) -> pd.DataFrame:
        """The lens vectors of one prompt, largest coefficient first."""
        pairs = zip(self.coefficients[prompt].tolist(), self.words[prompt], strict=True)
        rows = [(word, coefficient) for coefficient, word in sorted(pairs, reverse=True) if coefficient > 0]
        return pd.DataFrame(rows, columns=["token", "coefficient"])  # pyright: ignore[reportArgumentType]


@experiment
def lens_decomposition(
    model: HookedTransformer,
    lens: Lens,
    prompts: PromptsLike,
    layer: int,
    *,
    pos: int | Tensor = LAST,
    k: Count = 10,
    among: Any = None,
    generator: torch.Generator | None = None,
) -> LensDecomposition:
    """Decompose the stream that enters a layer, at one position of each prompt, into at most `k` lens vectors.

    Coefficients are not negative. `among` are tokens (default: all) whose vectors there are to choose from. What the
    lens does not see, the mean of the stream where norms take it away, is left out before, and so are biases of the
    lens. Of a `Run` the interventions are made.

    Raises:
        BadInput: a layer without a map, a `k` beyond the dictionary, or a masked-LM head.

    >>> from interp_hooks.studies import Lens, lens_decomposition
    >>> found = lens_decomposition(model, Lens.identity(model), clean, 2, k=5)
    >>> list(found.axes["dictionary"]), found.parts(0).columns.tolist()
    (['lens', 'random'], ['token', 'coefficient'])
    """
    lens.refuse_unfit(model)
    lens.refuse_layer(layer)
    with about("among"):
        ids = torch.arange(vocabulary_size(model)) if among is None else model.token_ids(among).reshape(-1).unique()
    refuse_outside("k", k, 1, min(len(ids), model.cfg.d_model))
    run = run_to_read(model, prompts)
    device = None if generator is None else generator.device
    shape = len(run.tokens), model.cfg.d_model
    noise = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
    return decomposed(model, run, lens.maps[layer], layer, said(model, pos), k, ids, noise)


@on_data
@no_gradients
def decomposed(
    model: HookedTransformer,
    run: Run,
    map: Tensor | None,
    layer: int,
    pos: int | Tensor,
    k: int,
    ids: Int[Tensor, " token"],
    noise: Float[Tensor, "prompt d_model"],
) -> LensDecomposition:
    """`lens_decomposition`, given a run, the lens' map of the layer, and what the control is drawn from."""
    hook = Stream(model).entering(layer)
    rows = Readout(pos=pos).positions(run)
    stream = at_positions(record(model, run, [hook])[hook], rows)[:, 0].to(model.W_U.device, torch.float64)
    dictionary = _Dictionary(model, map, ids)
    stream, noise = dictionary.seen(stream), dictionary.seen(noise.to(stream))
    control = noise / noise.norm(dim=1, keepdim=True) * stream.norm(dim=1, keepdim=True)
    tokens, coefficients, explained = dictionary.pursued(stream, k)
    _, _, by_chance = dictionary.pursued(control, k)
    text_of = names_of(model)
    return LensDecomposition(
        metric="explained_fraction",
        axes={"dictionary": DICTIONARIES, "n_vectors": range(1, k + 1)},
        values=torch.stack((explained, by_chance)),
        tokens=tokens,
        coefficients=coefficients,
        words=[[text_of(id) if id >= 0 else "" for id in row] for row in tokens.tolist()],
    )


class _Dictionary:
    """The lens vectors of some tokens, in float64, of which only those that were chosen are ever made."""

    def __init__(self, model: HookedTransformer, map: Tensor | None, ids: Int[Tensor, " token"]) -> None:
        self.model, self.map = model, map
        self.ids = ids.to(model.W_U.device)
        self.mean = mean_column(model).double()
        self.lengths = torch.cat([self.vectors(part).norm(dim=1) for part in self.ids.split(CHUNK)])

    def seen(self, stream: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt d_model"]:
        """What is seen of a stream: all but its mean, where norms take that away and the lens' map lets it through."""
        if not self.model.cfg.centres_residual:
            return stream
        if self.map is not None:
            mean = self.map.double().sum(1)
            if float(centred(mean).norm()) > AGREE * float(mean.norm()):
                return stream
        return centred(stream)

    def vectors(self, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
        """The lens vectors of these tokens."""
        return pulled_back(self.model, self.map, unembedding_of(self.model, ids)).double()

    def products(self, stream: Float[Tensor, "prompt d_model"]) -> Float[Tensor, "prompt token"]:
        """Those of all vectors with some streams: what the lens reads of them."""
        mapped = stream if self.map is None else stream @ self.map.to(stream).T
        norm = self.model.ln_final
        normalized = mapped if norm.kind is None else FrozenNorm.of(norm, mapped.new_ones(1)).unscaled(mapped)
        W_U = self.model.W_U.detach()
        read = (normalized.to(W_U.dtype) @ W_U)[:, self.ids].double()
        return (read - (normalized @ self.mean)[:, None]) * self.model.cfg.logits_scale

    def pursued(self, stream: Float[Tensor, "prompt d_model"], k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens and coefficients [prompt, k], and what is explained [k, prompt] by the first 1, 2, ... of them."""
        prompts = len(stream)
        tokens = torch.full((prompts, k), -1, dtype=torch.long)
        coefficients = torch.zeros(prompts, k, dtype=torch.float64)
        atoms = stream.new_zeros(prompts, k, stream.shape[1])
        taken = torch.zeros(prompts, len(self.ids), dtype=torch.bool, device=stream.device)
        left, total = stream.clone(), stream.square().sum(1).clamp(min=torch.finfo(stream.dtype).tiny)
        explained = stream.new_zeros(k, prompts)
        for size in range(k):
            alike = (self.products(left) / self.lengths).masked_fill(taken, -torch.inf)
            best, place = alike.max(1)
            for prompt in (best > EPSILON * total.sqrt()).nonzero()[:, 0].tolist():
                taken[prompt, place[prompt]] = True
                tokens[prompt, size] = self.ids[place[prompt]]
                atoms[prompt, size] = self.vectors(self.ids[place[prompt]][None])[0]
                own = atoms[prompt, : size + 1]
                found = nonnegative(own @ own.T, own @ stream[prompt])
                coefficients[prompt, : size + 1] = found.cpu()
                left[prompt] = stream[prompt] - found @ own
            explained[size] = 1 - left.square().sum(1) / total
        return tokens, coefficients, explained.cpu()


EPSILON = 1e-9  # of a stream's length: what is smaller is no part of it


def nonnegative(products: Float[Tensor, "n n"], onto: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Least squares with coefficients >= 0, from the products of vectors with each other and with what they explain.

    The active-set method of Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23; rows of zeros get 0.
    """
    found = torch.zeros_like(onto)
    free: Bool[Tensor, " n"] = torch.zeros_like(onto, dtype=torch.bool)
    least = EPSILON * float(onto.abs().max().clamp(min=1e-300))
    for _ in range(3 * len(onto)):
        slope = (onto - products @ found).masked_fill(free, -torch.inf)
        if float(slope.max()) <= least:
            break
        free[slope.argmax()] = True
        while True:
            solved = torch.zeros_like(onto)
            solved[free] = torch.linalg.lstsq(products[free][:, free], onto[free][:, None]).solution[:, 0]
            negative = free & (solved <= 0)
            if not bool(negative.any()):
                found = solved
                break
            step = (found / (found - solved))[negative].min()
            found = found + step * (solved - found)
            free &= found > 1e-14 * found.abs().max()
            found = found.where(free, 0.0)
    return found
