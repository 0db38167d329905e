"""Mixers whose heads have a state that every token decays and writes to: what they show of it, and how they read on.

    state     S[t] of each head, [d_key, d_value]                          hook_state
    mixed     what the head reads from it: S[t]^T q[t] = M v               hook_mixed, hook_mixing (M)

`hook_mixing` is the attention that the recurrence is equivalent to (Ali et al. 2024, arxiv.org/abs/2403.01590): how
much of each token's value every later token reads. Its rows need not sum to one, nor be positive. It covers the tokens
of the pass; what a cache holds of earlier ones is read beside it. M and the states are made only while hooked. A change
of M, or of a state, changes what is read there, and no other state.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.attention import Inputs, Visibility
from interp_hooks.model.components.convolution import ShortConvolution
from interp_hooks.model.components.kv_cache import Earlier
from interp_hooks.model.components.mixer import Mixer, Promise
from interp_hooks.model.components.positions import Rotation
from interp_hooks.model.components.recurrence import Recurrence, mixing, scan, states

Gates = Float[Tensor, "batch pos gate head"]


class LinearRecurrence(Mixer):
    """A mixer that is a linear recurrence behind a short convolution. Abstract.

    What it reads of each token, and a cache stores of it, are the channels that pass the convolution, and the gates of
    the heads: numbers that say how the state decays, and how strongly the token writes to it.
    """

    convolution: ShortConvolution

    def _show_recurrence(self, heads: int, d_key: int, d_value: int) -> None:
        """Make the hooks on the state and on what is read from it."""
        self.hook_mixing = HookPoint("batch head query key", collected=False, head=heads)
        self.hook_state = HookPoint(
            "batch pos head d_key d_value", collected=False, head=heads, d_key=d_key, d_value=d_value
        )
        self.hook_mixed = HookPoint("batch pos head d_value", head=heads, d_value=d_value)

    @abstractmethod
    def reads(self, x: Float[Tensor, "batch pos d_model"]) -> tuple[Float[Tensor, "batch pos channel"], Gates]:
        """The channels before the convolution, and the gates, of some tokens."""

    @abstractmethod
    def recurrence(self, channels: Float[Tensor, "batch pos channel"], gates: Gates, *, shown: bool) -> Recurrence:
        """The recurrence over tokens, from their channels after the convolution; hooks fire if it is `shown`."""

    @abstractmethod
    def written(
        self, mixed: Float[Tensor, "batch pos head d_value"], given: Recurrence, x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """z, from what the heads read of their states, and from what the layer reads."""

    def forward(
        self, inputs: Inputs, rotation: Rotation | None, visibility: Visibility, earlier: Earlier | None = None
    ) -> Float[Tensor, "batch query head d_head"]:
        """z of every head at the queries; all tokens of the pass are gone through whatever these are."""
        x, before, state = inputs[0], None, None
        channels, gates = self._of_real(*self.reads(x), visibility.own)
        channels = self.convolution.hook_in(channels)
        if earlier is not None:
            stored, _ = earlier(channels[:, :, None], gates)
            before = stored[:, : stored.shape[1] - x.shape[1], 0]
            state = earlier.state(self._state_after)
        given = self.recurrence(self.convolution(channels, before), gates, shown=True)
        mixed, state = self._mixed(given, state)
        if earlier is not None:
            earlier.keep(state)
        return visibility.chosen(self.written(self.hook_mixed(mixed.transpose(1, 2).to(x.dtype)), given, x))

    def _of_real(
        self, channels: Tensor, gates: Tensor, real: Bool[Tensor, "batch pos"] | None
    ) -> tuple[Tensor, Tensor]:
        """What is read, without padding: it passes the convolution as nothing, decays nothing and writes nothing."""
        if real is None:
            return channels, gates
        return channels * real[..., None], gates * real[..., None, None]

    def _state_after(self, channels: Tensor, gates: Tensor) -> Tensor:
        """The state after tokens of which a cache has stored this."""
        return scan(self.recurrence(self.convolution.of(channels[:, :, 0]), gates, shown=False))[1]

    def _mixed(self, given: Recurrence, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is read at every token [batch, head, pos, d_value], and the state after the last."""
        read, after = scan(given, state)
        if self.hook_mixing.hooked:
            read = self.hook_mixing(mixing(given)) @ given.v
            if state is not None:
                read = read + scan(given._replace(v=torch.zeros_like(given.v)), state)[0]
        if self.hook_state.hooked:
            there = states(given, state)
            shown = self.hook_state(there.movedim(2, 1)).movedim(1, 2)
            read = read + torch.einsum("bhpk,bhpkv->bhpv", given.q, shown - there)
        return read, after

    def promises(self, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        """That what is read is what the equivalent attention says, and that heads add up."""
        values = here["hook_v"].double()
        mixed = torch.einsum("bhqk,bkhd->bqhd", here["hook_mixing"].double(), values)
        yield Promise("mixed == mixing @ v", mixed, here["hook_mixed"])
        yield self._promise_of_writing(here)
