"""The RG-LRU (De et al. 2024, arxiv.org/abs/2402.19427): a linear recurrence of every channel by itself, with gates.

    v          = convolution(x W_V + b_V)                                          hook_v
    in_gate    = sigmoid(v W_I + b_I)                                              hook_in_gate
    log_decay  = -8 softplus(decay) sigmoid(v W_R + b_R)                           hook_log_decay
    S[t]       = a S[t-1] + sqrt(1 - a^2) in_gate v          a = exp(log_decay)    hook_state
    mixed      = S[t] = M v                                                        hook_mixed, hook_mixing (M)
    z          = mixed * gelu(x W_G + b_G)                                         hook_gate, hook_z

The first token of a text is written without the square root. The two gates of a channel read the channels of its head
alone, so that heads are apart from the convolution on until they write; M is of each channel.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.attention import Visibility
from interp_hooks.model.components.convolution import ShortConvolution
from interp_hooks.model.components.linear_recurrence import Gates, LinearRecurrence, Parts
from interp_hooks.model.components.mixer import Promise, Reader
from interp_hooks.model.components.recurrence import Recurrence
from interp_hooks.model.components.weights import TRANSPOSED, linear, parameter
from interp_hooks.model.config import HookedTransformerConfig

STEEPNESS = 8.0  # of the decay: the paper's constant c


class RGLRU(LinearRecurrence):
    """Channels that decay what they remember as much as they let in, by gates that every token chooses."""

    kind = "an RG-LRU layer"

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        sizes, d_model = cfg.mixers, cfg.d_model
        assert sizes is not None
        self.heads = self.groups = heads = sizes.n_heads
        width = sizes.d_value
        channels = heads * width
        self.W_V, self.b_V = parameter(d_model, channels, lies=TRANSPOSED), parameter(channels)
        self.W_G, self.b_G = parameter(d_model, channels, lies=TRANSPOSED), parameter(channels)
        self.convolution = ShortConvolution(channels, sizes.taps)
        self.W_I, self.b_I = parameter(heads, width, width), parameter(heads, width)
        self.W_R, self.b_R = parameter(heads, width, width), parameter(heads, width)
        self.decay = parameter(channels)
        self.hook_v = HookPoint("batch pos channel", channel=channels)
        self.hook_in_gate = HookPoint("batch pos channel", channel=channels)
        self.hook_log_decay = HookPoint("batch pos channel", channel=channels)
        self.hook_mixing = HookPoint("batch channel query key", collected=False, channel=channels)
        self.hook_state = HookPoint("batch pos channel", collected=False, channel=channels)
        self.hook_mixed = HookPoint("batch pos channel", channel=channels)
        self.hook_gate = HookPoint("batch pos channel", channel=channels)
        self._write_with(cfg, heads, width)
        self._show_writing()

    def readers(self) -> list[Reader]:
        """The weights of values and gates."""
        return [(self.W_V, self.b_V, 0), (self.W_G, self.b_G, 0)]

    def reads(self, x: Float[Tensor, "batch pos d_model"]) -> tuple[Float[Tensor, "batch pos channel"], Gates]:
        """The channels; and that they count, which they do not where padding is."""
        precise = torch.promote_types(x.dtype, torch.float32)
        return linear(x, self.W_V, self.b_V), x.new_ones(*x.shape[:2], 1, 1, dtype=precise)

    def _of_real(self, channels: Tensor, gates: Tensor, visibility: Visibility) -> tuple[Tensor, Tensor]:
        """Also, of each token, whether its text begins with it."""
        channels, counts = super()._of_real(channels, gates, visibility)
        return channels, torch.cat((counts, counts * visibility.first[..., None, None]), dim=2)

    def parts(self, channels: Float[Tensor, "batch pos channel"], gates: Gates) -> Parts:
        """The values of all channels, how strongly they are written, and their decay."""
        counts, first = gates.unbind(2)
        v = self.hook_v(channels * counts.to(channels.dtype))
        in_gate = self.hook_in_gate(torch.sigmoid(self._by_head(v, self.W_I, self.b_I)))
        steps = torch.sigmoid(self._by_head(v, self.W_R, self.b_R)).to(gates.dtype)
        log_decay = self.hook_log_decay(-STEEPNESS * F.softplus(self.decay.to(gates.dtype)) * steps)
        share = torch.where(first > 0, 1.0, (-torch.expm1(2 * log_decay)).sqrt())
        k = share * in_gate
        return Parts(torch.ones_like(k), k, v, (log_decay,))

    def _by_head(
        self, v: Float[Tensor, "batch pos channel"], weight: Tensor, bias: Tensor
    ) -> Float[Tensor, "batch pos channel"]:
        """A linear map within the channels of each head."""
        return (torch.einsum("bphi,hio->bpho", v.unflatten(-1, (self.heads, -1)), weight) + bias).flatten(2)

    def recurrence(self, parts: Parts) -> Recurrence:
        """A head for every channel, whose keys, queries and values are single numbers."""
        (log_decay,) = parts.gates
        return Recurrence(*(one.to(log_decay.dtype).mT[..., None] for one in (*parts[:3], log_decay)))

    def of_heads(self, value: Float[Tensor, "batch pos channel ..."]) -> Float[Tensor, "batch pos channel"]:
        """Without the axes of keys and values, which have one entry."""
        return value.flatten(2)

    def gate(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos channel"]:
        """The GELU, by its tanh, of a linear map of what is read."""
        return F.gelu(linear(x, self.W_G, self.b_G), approximate="tanh")

    def gated(self, mixed: Tensor, v: Tensor, gate: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        """What the channels hold, gated."""
        return (mixed * gate).unflatten(2, (self.heads, -1))

    def promises(self, here: Mapping[str, Tensor]) -> Iterator[Promise]:
        """That what is read is the state, and what the equivalent attention says; what z is, and that heads add up."""
        names = ("v", "mixing", "state", "gate", "mixed")
        v, matrix, state, gate, mixed = (here[f"hook_{name}"].double() for name in names)
        yield Promise("mixed == mixing @ v", torch.einsum("bcqk,bkc->bqc", matrix, v), mixed)
        yield Promise("mixed == state", state, mixed)
        yield Promise("z is mixed, gated", self.gated(mixed, v, gate), here["hook_z"])
        yield self._promise_of_writing(here)
