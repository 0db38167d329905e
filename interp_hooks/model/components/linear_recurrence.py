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
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.attention import Inputs, Visibility
from interp_hooks.model.components.convolution import NoConvolution, ShortConvolution
from interp_hooks.model.components.kv_cache import Earlier
from interp_hooks.model.components.mixer import Mixer, Promise
from interp_hooks.model.components.norm import NoNorm, Norm
from interp_hooks.model.components.positions import Rotation
from interp_hooks.model.components.recurrence import Recurrence, mixing, scan, states
from interp_hooks.model.components.weights import READER_PER_HEAD, parameter, read_per_head
from interp_hooks.model.mixers_config import MixersConfig

Gates = Float[Tensor, "batch pos gate head"]
"""What decides of each head how its state decays and how strongly a token writes to it: one number each, or several."""


class Parts(NamedTuple):
    """What a recurrence reads of tokens, past their hooks, each [batch, pos, ...]."""

    q: Tensor
    k: Tensor
    v: Tensor
    gates: tuple[Tensor, ...]


class LinearRecurrence(Mixer):
    """A mixer that is a linear recurrence, mostly behind a short convolution. Abstract.

    Of each token a cache stores the channels that pass the convolution, and the parts that the state is made of.
    """

    convolution: ShortConvolution | NoConvolution
    hook_mixing: HookPoint
    hook_state: HookPoint
    hook_mixed: HookPoint
    hook_gate: HookPoint

    def _show_recurrence(self, heads: int, d_key: int, d_value: int) -> None:
        """Make the hooks on the state, on what is read from it, and on the gate of that."""
        self.hook_mixing = HookPoint("batch head query key", collected=False, head=heads)
        self.hook_state = HookPoint(
            "batch pos head d_key d_value", collected=False, head=heads, d_key=d_key, d_value=d_value
        )
        self.hook_mixed = HookPoint("batch pos head d_value", head=heads, d_value=d_value)
        self.hook_gate = HookPoint("batch pos head d_head", head=heads, d_head=d_value)

    @abstractmethod
    def reads(self, x: Float[Tensor, "batch pos d_model"]) -> tuple[Float[Tensor, "batch pos channel"], Gates]:
        """The channels before the convolution, and the gates, of some tokens."""

    @abstractmethod
    def parts(self, channels: Float[Tensor, "batch pos channel"], gates: Gates) -> Parts:
        """What the recurrence reads of tokens, from their channels after the convolution."""

    @abstractmethod
    def recurrence(self, parts: Parts) -> Recurrence:
        """The recurrence over these parts."""

    @abstractmethod
    def gate(self, x: Float[Tensor, "batch pos d_model"]) -> Tensor:
        """What multiplies what heads read, before `hook_gate`."""

    @abstractmethod
    def gated(self, mixed: Tensor, v: Tensor, gate: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        """z, from what the heads read of their states, the values of the token itself, and the gate."""

    def as_read(self, q: Float[Tensor, "batch pos *head d_key"]) -> Float[Tensor, "batch pos *head d_key"]:
        """What reads the state, of what `hook_q` shows."""
        return q

    def forward(
        self, inputs: Inputs, rotation: Rotation | None, visibility: Visibility, earlier: Earlier | None = None
    ) -> Float[Tensor, "batch query head d_head"]:
        """z of every head at the queries; all tokens of the pass are gone through whatever these are."""
        x = inputs[0]
        channels, gates = self._of_real(*self.reads(x), visibility)
        channels = self.convolution.hook_in(channels)
        parts = self.parts(self.convolution(channels, None if earlier is None else earlier.convolved()), gates)
        state = None
        if earlier is not None:
            earlier(self.convolution.stored(channels)[:, :, None], _flat(parts))
            state = earlier.state(lambda _, stored: scan(self.recurrence(_unflattened(stored, like=parts)))[1])
        mixed, state = self._mixed(self.recurrence(parts), state)
        if earlier is not None:
            earlier.keep(state)
        mixed = self.hook_mixed(visibility.chosen(mixed).to(x.dtype))
        return self.gated(mixed, visibility.chosen(parts.v), self.hook_gate(self.gate(visibility.chosen(x))))

    def _of_real(self, channels: Tensor, gates: Tensor, visibility: Visibility) -> tuple[Tensor, Tensor]:
        """What is read, without padding: it passes the convolution as nothing, decays nothing and writes nothing."""
        real = visibility.own
        if real is None:
            return channels, gates
        return channels * real[..., None], gates * real[..., None, None]

    def _mixed(self, given: Recurrence, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is read at every token, as `hook_mixed` shows it, and the state after the last."""
        read, after = scan(given, state)
        shown = self.hook_mixing.beside(mixing(given)) if self.hook_mixing.hooked else None
        if shown is not None:
            read = shown @ given.v
            if state is not None:
                read = read + scan(given._replace(v=torch.zeros_like(given.v)), state)[0]
        there = states(given, state) if self.hook_state.hooked else None
        shown = None if there is None else self.hook_state.beside(self.of_heads(there.movedim(2, 1)))
        if there is not None and shown is not None:
            change = shown.reshape(there.movedim(2, 1).shape).movedim(1, 2) - there
            read = read + torch.einsum("bhpk,bhpkv->bhpv", given.q, change)
        return self.of_heads(read.transpose(1, 2)), after

    def of_heads(self, value: Float[Tensor, "batch pos head ..."]) -> Tensor:
        """A value of every head, as hooks show it."""
        return value

    def promises(self, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        """That what is read is what the states and the equivalent attention say, what z is, and that heads add up."""
        q, v, gate, mixed = (here[f"hook_{name}"].double() for name in ("q", "v", "gate", "mixed"))
        matrix, state = here["hook_mixing"].double(), here["hook_state"].double()
        read = self.as_read(q)
        if v.ndim == 3:  # one number for each channel
            by_tokens, by_state = torch.einsum("bcqk,bkc->bqc", matrix, v), torch.einsum("bpk,bpck->bpc", read, state)
        else:
            read = read.repeat_interleave(v.shape[2] // q.shape[2], dim=2)
            by_tokens, by_state = matrix @ v.transpose(1, 2), torch.einsum("bphk,bphkv->bphv", read, state)
            by_tokens = by_tokens.transpose(1, 2)
        yield Promise("mixed == mixing @ v", by_tokens, mixed)
        yield Promise("mixed == state^T q", by_state, mixed)
        yield Promise("z is mixed, normalized and gated", self.gated(mixed, v, gate), here["hook_z"])
        yield self._promise_of_writing(here)


class LinearAttention(LinearRecurrence):
    """A linear recurrence whose heads read queries, keys and values as attention does, and a gate. Abstract.

    Several heads may share queries and keys. Those that have a norm over groups of channels call it `norm`.
    """

    convolves = True
    norm: Norm | NoNorm

    def _read_per_head(self, sizes: MixersConfig, d_model: int) -> None:
        """Make the weights of queries, keys and values, and the hooks that show them."""
        heads, groups, d_key, d_value = sizes.n_heads, sizes.n_key_heads, sizes.d_key, sizes.d_value
        self.heads, self.groups = heads, groups
        self.W_Q, self.b_Q = parameter(groups, d_model, d_key, lies=READER_PER_HEAD), parameter(groups, d_key)
        self.W_K, self.b_K = parameter(groups, d_model, d_key, lies=READER_PER_HEAD), parameter(groups, d_key)
        self.W_V, self.b_V = parameter(heads, d_model, d_value, lies=READER_PER_HEAD), parameter(heads, d_value)
        self.convolution = ShortConvolution(sizes.channels, sizes.taps) if self.convolves else NoConvolution()
        self.hook_q = HookPoint("batch pos head d_key", head=groups, d_key=d_key)
        self.hook_k = HookPoint("batch pos head d_key", head=groups, d_key=d_key)
        self.hook_v = HookPoint("batch pos head d_value", head=heads, d_value=d_value)
        self._show_recurrence(heads, d_key, d_value)

    def _gate_per_head(self, sizes: MixersConfig, d_model: int) -> None:
        """Make the weights of gates."""
        heads, d_value = sizes.n_heads, sizes.d_value
        self.W_G, self.b_G = parameter(heads, d_model, d_value, lies=READER_PER_HEAD), parameter(heads, d_value)

    def gate(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """The SiLU of a linear map of what is read."""
        precise = torch.promote_types(x.dtype, torch.float32)
        return F.silu(self._gate_before(x).to(precise)).to(x.dtype)

    def _gate_before(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        return read_per_head(x, self.W_G, self.b_G)

    def _norm_by_groups(self, sizes: MixersConfig) -> None:
        """Make an RMSNorm over each of `sizes.norm_groups` groups of channels; none if there are no groups."""
        groups, width = sizes.norm_groups, sizes.n_heads * sizes.d_value
        self.norm_groups, self.norm = groups, NoNorm()
        if groups:
            each = width // groups
            axes = "batch pos group channel"
            self.norm = Norm("RMS", (each,), sizes.eps, gain=(groups, each), axes=axes, group=groups)

    def _normalized(self, x: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        """The same by that norm."""
        if not self.norm_groups:
            return x
        grouped = x.flatten(2).unflatten(-1, (self.norm_groups, -1))
        return self.norm(grouped).flatten(2).view_as(x)


def _flat(parts: Parts) -> Float[Tensor, "batch pos 1 part"]:
    """What the state is made of, side by side."""
    return torch.cat([part.flatten(2) for part in (parts.k, parts.v, *parts.gates)], dim=-1)[:, :, None]


def _unflattened(stored: Float[Tensor, "batch pos 1 part"], like: Parts) -> Parts:
    """What the state is made of, of tokens that nobody reads."""
    shapes = [part.shape[2:] for part in (like.k, like.v, *like.gates)]
    pieces = stored[:, :, 0].split([shape.numel() for shape in shapes], dim=-1)
    k, v, *gates = (piece.unflatten(-1, shape) for piece, shape in zip(pieces, shapes, strict=True))
    return Parts(k, k, v, tuple(gates))
