"""A short causal convolution along the tokens, of each channel by itself.

out[t] = sum over j of W[channel, taps - 1 - j] x[t - j] + b        j = 0 .. taps - 1; before the text x is zero
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.weights import parameter


class ShortConvolution(nn.Module):
    """One filter for every channel. `hook_in` is what it reads, padding as zeros, `hook_out` what comes of it."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.taps = taps
        self.W, self.b = parameter(channels, taps), parameter(channels)
        self.hook_in = HookPoint("batch pos channel", channel=channels)
        self.hook_out = HookPoint("batch pos channel", channel=channels)

    def forward(
        self, x: Float[Tensor, "batch pos channel"], before: Float[Tensor, "batch past channel"] | None = None
    ) -> Float[Tensor, "batch pos channel"]:
        """What comes of `x`, which begins the text or follows what was read `before`."""
        return self.hook_out(self.of(x, before))

    def of(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """The same without hooks."""
        missing = self.taps - 1
        if before is not None:
            before = before[:, before.shape[1] - min(missing, before.shape[1]) :]
            x, missing = torch.cat((before, x), dim=1), missing - before.shape[1]
            kept = x.shape[1] - before.shape[1]
        else:
            kept = x.shape[1]
        whole = F.pad(x.mT, (missing, 0))
        return F.conv1d(whole, self.W[:, None], self.b, groups=len(self.W)).mT[:, -kept:]

    def stored(self, x: Float[Tensor, "batch pos channel"]) -> Float[Tensor, "batch pos channel"]:
        """What a cache stores of tokens, for those that follow."""
        return x


class NoConvolution(nn.Module):
    """What stands where a recurrence has no convolution before it: every token is read by itself."""

    def hook_in(self, x: Tensor) -> Tensor:
        """What is read, as it is."""
        return x

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """The same."""
        return x

    def stored(self, x: Float[Tensor, "batch pos channel"]) -> Float[Tensor, "batch pos _"]:
        """Nothing of any token."""
        return x[..., :0]
