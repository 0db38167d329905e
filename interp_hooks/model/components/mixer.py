"""What mixes tokens in a block: attention, or something that stands in its place, under the same name `attn`.

    reads    the stream, normalized: `inputs`; where heads have no inputs of their own, `hook_mixer_in` is the stream
    keeps    of earlier tokens, in a key/value cache, whatever it needs to read on
    writes   z [head, d_head] at every position; out = z W_O + b_O, so that heads add up and can be told apart

A mixer without heads counts as one head that is as wide as its channels. Whatever stands here, `hook_z`, `hook_result`
and `hook_attn_out` mean the same, and edges, attribution and decompositions treat its heads as they treat others.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.weights import WRITER_PER_HEAD, Spreadable, parameter, write_per_head
from interp_hooks.model.config import HookedTransformerConfig

Reader = tuple[Tensor, Tensor, int]
"""A weight that reads the stream, its bias, and its axis of d_model."""


class Promise(NamedTuple):
    """An equation that the hooks of a mixer promise, in words, and its two sides for a pass."""

    name: str
    left: Tensor
    right: Tensor


class Mixer(Spreadable):
    """Mixes tokens: reads the stream at all positions, and has every head write at each. Abstract.

    `heads` is the number of its heads, and `groups` how many inputs they share for keys and values.
    """

    heads: int
    groups: int
    kind: str  # in words, for messages
    W_O: nn.Parameter
    b_O: nn.Parameter
    hook_z: HookPoint
    hook_result: HookPoint

    def _write_with(self, cfg: HookedTransformerConfig, heads: int, width: int) -> None:
        """Make the weights that write, of heads that are `width` wide."""
        self.W_O = parameter(heads, width, cfg.d_model, lies=WRITER_PER_HEAD)
        self.b_O = parameter(cfg.d_model)

    def _show_writing(self) -> None:
        """Make the hooks at which heads write."""
        heads, width, d_model = self.W_O.shape
        self.hook_z = HookPoint("batch pos head d_head", head=heads, d_head=width)
        self.hook_result = HookPoint("batch pos head d_model", collected=False, head=heads, d_model=d_model)

    @abstractmethod
    def forward(
        self, inputs: Any, rotation: Any, visibility: Any, earlier: Any = None
    ) -> Float[Tensor, "batch query head d_head"]:
        """z, from what is read; `earlier` is what a cache holds of the tokens before."""

    @abstractmethod
    def readers(self) -> list[Reader]:
        """The weights that read the normalized stream."""

    @abstractmethod
    def promises(self, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        """What the activations of one pass, by the names of the hooks in this mixer, must satisfy."""

    def write(self, z: Float[Tensor, "batch query head d_head"]) -> Float[Tensor, "batch query d_model"]:
        """What all heads together write."""
        z = self.hook_z(z)
        if self.hook_result.hooked:
            result = self.hook_result.beside(torch.einsum("bphk,hkd->bphd", z, self._own(self.W_O)))
            if result is not None:
                return (result.sum(2) if self.ranks is None else self.ranks.total(result.sum(2))) + self.b_O
        return self.written(z)

    def written(self, z: Float[Tensor, "batch query head d_head"]) -> Float[Tensor, "batch query d_model"]:
        """What all heads together write, whatever is hooked."""
        return self._write(write_per_head, z, self.W_O, self.b_O)

    def given(self, z: Float[Tensor, "batch query head d_head"]) -> Float[Tensor, "batch query _ d_head"]:
        """z that was computed before, as `forward` would give it."""
        return z if self.ranks is None else self.ranks.part(z, 2)

    def _promise_of_writing(self, here: Mapping[str, Tensor]) -> Promise:
        written = here["hook_result"].double().sum(2) + self.b_O.double()
        per_head = torch.einsum("bphk,hkd->bpd", here["hook_z"].double(), self.W_O.double()) + self.b_O.double()
        return Promise("sum of result + b_O == z W_O + b_O", written, per_head)
