"""The attention of all heads on a prompt as a page of its own: small maps of all, one large by a click."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.views.pages import write_page
from interp_hooks.views.tokens import visible

STEPS = 65535  # in which probabilities are kept


@checked
def attention_page(
    patterns: Tensor,
    tokens: Sequence[str],
    path: str | Path,
    *,
    sizes: Float[Tensor, "layer head key"] | None = None,
    layers: Sequence[int] | None = None,
    title: str = "Attention of all heads",
) -> Path:
    """Write the attention [layer, head, query, key] of heads on a prompt to an HTML file that opens offline.

    There is a small map for each head; a click (or Enter; arrows go from head to head) shows one large, and a click on
    a token what that token attends to. `sizes` say how much each head would move from each token, best the norm of its
    value after W_O: the page can then weight attention by them, since much attention to a token from which nothing is
    moved does nothing (Kobayashi et al. 2020, arxiv.org/abs/2004.10102). `layers` are the numbers of the layers.
    Returns the path of the file.

    Raises:
        BadInput: patterns, sizes, layers or tokens that do not fit each other, or attention outside 0..1.
        DiskError: the file cannot be written.

    >>> from interp_hooks.views import attention_page
    >>> _, cache = model.run_with_cache(clean[0])
    >>> patterns = cache.stack_activation("pattern")[:, 0]
    >>> moved = [cache["v", layer][0].transpose(0, 1) @ model.W_O[layer] for layer in range(3)]
    >>> sizes = torch.stack([one.norm(dim=-1) for one in moved])
    >>> attention_page(patterns, model.to_str_tokens(clean[0]), "attention.html", sizes=sizes).name
    'attention.html'
    """
    if patterns.ndim != 4 or patterns.shape[-1] != patterns.shape[-2] or not patterns.numel():
        raise BadInput(f"expected patterns [layer, head, query, key], got shape {list(patterns.shape)}")
    n_layers, n_heads, _, n = patterns.shape
    if len(tokens) != n:
        raise BadInput(f"the patterns have {n} positions, got {len(tokens)} tokens")
    if layers is not None and len(layers) != n_layers:
        raise BadInput(f"layers must name each of {n_layers} layers, got {len(layers)}")
    if not bool(((patterns >= -1e-6) & (patterns <= 1 + 1e-3)).all()):
        raise BadInput(f"attention lies in 0..1, got {float(patterns.min()):.3g} to {float(patterns.max()):.3g}")
    weighted = None
    if sizes is not None:
        if sizes.shape != (n_layers, n_heads, n):
            raise BadInput(f"sizes must be [layer, head, key] = {[n_layers, n_heads, n]}, got {list(sizes.shape)}")
        weighted = patterns.double() * sizes[:, :, None].double()
        weighted = weighted / weighted.amax((-2, -1), keepdim=True).clamp(min=1e-30)
    told = {
        "title": title,
        "layers": list(range(n_layers)) if layers is None else list(layers),
        "n_heads": n_heads,
        "tokens": [visible(token) for token in tokens],
        "patterns": _packed(patterns),
        "weighted": None if weighted is None else _packed(weighted),
    }
    return write_page("attention_heads.html", told, Path(path))


def _packed(shares: Tensor) -> str:
    """Numbers from 0 to 1 as 16 bits each."""
    steps = (shares.detach().cpu().double().clamp(0, 1) * STEPS).round().numpy().astype("<u2")
    return base64.b64encode(steps.tobytes()).decode()
