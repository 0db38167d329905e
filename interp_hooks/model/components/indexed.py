"""Latent attention to the keys that an indexer chooses (DeepSeek-AI 2025, arxiv.org/abs/2512.02556).

    score[q, k] = sum over heads of weight[q, head] relu(index_q[q, head] . index_k[k] / sqrt(d_head))
    chosen[q]   = the top_k keys of the highest score among those that the query may see

    index_q = latent of queries W_IQ,  index_k = LayerNorm(x W_IK + b_IK),  both rotated;  weight = (x W_IW + b_IW) /
    sqrt(n_heads).  The softmaxes of all heads are over the chosen keys alone.

`hook_index_choice` is 1 where a query sees a key, else 0; a key is seen where a hook leaves more than 1/2, and by a
query to which none is left, its own. Nothing in an indexer has a gradient, which a choice hides. A layer without an
indexer sees what an earlier layer has chosen (arxiv.org/abs/2603.12201). Where no query has more than `top_k` keys, an
indexer is only computed for whoever looks at it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp_hooks.hooks.modes import no_gradients
from interp_hooks.hooks.points import HookPoint
from interp_hooks.model.components.attention import Inputs, Lent, Visibility
from interp_hooks.model.components.kv_cache import Earlier
from interp_hooks.model.components.latent import LatentAttention
from interp_hooks.model.components.mixer import Reader
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.components.positions import Rotation, rotate
from interp_hooks.model.components.weights import READER_PER_HEAD, TRANSPOSED, linear, parameter, read_per_head
from interp_hooks.model.config import HookedTransformerConfig, IndexerConfig


class AmongChosen(Visibility):
    """What `seen` lets queries see, of the `chosen` keys alone; a query to which no key is left sees itself."""

    def __init__(self, seen: Visibility, chosen: Tensor) -> None:
        super().__init__(seen.queries, seen.keys, seen.causal, seen.real, seen.positions, seen.rows, seen.documents)
        self.seen, self.among = seen, chosen[:, None] > 0.5

    def needs_mask(self, window: int | None) -> bool:
        return True

    def mask(self, window: int | None) -> Tensor:
        mask, past = self.seen.mask(window) & self.among, self.keys - self.queries
        itself = self._rows_of(self._every.tril(past) & self._every.triu(past))
        return mask | (itself & ~mask.any(-1, keepdim=True))


class Indexer(nn.Module):
    """Scores every key for every query, by heads of its own."""

    def __init__(self, cfg: HookedTransformerConfig, indexer: IndexerConfig) -> None:
        super().__init__()
        heads, width = indexer.n_heads, indexer.d_head
        self.adjacent_pairs, self.scale = indexer.adjacent_pairs, width**-0.5
        self.W_IQ = parameter(heads, cfg.q_latent, width, lies=READER_PER_HEAD)
        self.W_IK, self.b_IK = parameter(cfg.d_model, width, lies=TRANSPOSED), parameter(width)
        self.W_IW, self.b_IW = parameter(cfg.d_model, heads, lies=TRANSPOSED), parameter(heads)
        self.k_norm = Norm("LN", (width,), 1e-6, axes="batch pos d_head")
        self.hook_q = HookPoint("batch pos head d_head", head=heads, d_head=width)
        self.hook_k = HookPoint("batch pos d_head", d_head=width)
        self.hook_weights = HookPoint("batch pos head", head=heads)
        self.hook_scores = HookPoint("batch query key")

    @property
    def hooked(self) -> bool:
        """Whether somebody looks at what is inside."""
        return any(isinstance(part, HookPoint) and part.hooked for part in self.modules())

    def keys(self, x: Tensor, rotation: Rotation) -> Float[Tensor, "batch pos d_head"]:
        """What the tokens are found by."""
        return self.hook_k(self._rotated(self.k_norm(linear(x, self.W_IK, self.b_IK))[:, :, None], rotation)[:, :, 0])

    def forward(
        self, x: Tensor, latent: Tensor, keys: Tensor, rotation: Rotation, visibility: Visibility
    ) -> Float[Tensor, "batch query key"]:
        """The scores of keys of all tokens so far, by queries that are read from their latent; in float32 or better."""
        q = self.hook_q(self._rotated(read_per_head(latent, self.W_IQ, None), rotation))
        precise = torch.promote_types(x.dtype, torch.float32)
        weights = linear(*(part.to(precise) for part in (x, self.W_IW, self.b_IW)))
        weights = self.hook_weights(weights * self.W_IW.shape[1] ** -0.5)
        q, weights = visibility.chosen(q), visibility.chosen(weights)
        found = torch.relu(torch.einsum("bqhd,bkd->bqhk", q.to(precise), keys.to(precise)) * self.scale)
        scores = torch.einsum("bqh,bqhk->bqk", weights, found)
        return self.hook_scores(scores.masked_fill(~visibility.mask(None)[:, 0], -torch.inf))

    def _rotated(self, x: Tensor, rotation: Rotation) -> Tensor:
        return rotate(x, rotation.paired(self.adjacent_pairs))


class IndexedAttention(LatentAttention):
    """Latent attention whose queries see only the keys that its indexer, or that of an earlier layer, chooses.

    `indexer` is None in a layer that takes over a choice; a change of it there is one for this layer alone.
    """

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__(cfg, layer)
        assert cfg.indexer is not None
        self.top_k, self.lender = cfg.indexer.top_k, cfg.lender_of(layer)
        self.indexer = Indexer(cfg, cfg.indexer) if self.lender is None else None
        self.hook_index_choice = HookPoint("batch query key")

    def readers(self) -> list[Reader]:
        """Those of latent attention, and the weights of the indexer that read the stream."""
        own = self.indexer
        return super().readers() + ([] if own is None else [(own.W_IK, own.b_IK, 0), (own.W_IW, own.b_IW, 0)])

    def forward(
        self,
        inputs: Inputs,
        rotation: Rotation | None,
        visibility: Visibility,
        earlier: Earlier | None = None,
        lent: Lent | None = None,
    ) -> Float[Tensor, "batch query head d_value"]:
        """What each head mixes from the values of the keys that are chosen for it."""
        assert rotation is not None
        x = inputs[0]
        latent = self.query_latent(x)
        q, k, v = self.from_latents(x, latent, rotation)
        if self.indexer is None:
            choice = self._chosen_earlier(visibility, lent)
        else:
            assert latent is not None
            choice = self._chosen(self.indexer, x, latent, rotation, visibility, earlier)
        choice = self._shown(choice, visibility, len(x))
        if choice is not None:
            visibility = AmongChosen(visibility, choice)
            if lent is not None:
                lent[self.layer] = (choice,)
        return self.attend(q, k, v, x, visibility, earlier)

    @no_gradients
    def _chosen(
        self,
        indexer: Indexer,
        x: Tensor,
        latent: Tensor,
        rotation: Rotation,
        visibility: Visibility,
        earlier: Earlier | None,
    ) -> Float[Tensor, "batch query key"] | None:
        """1 for the keys that the indexer chooses, else 0; None if it has no more of them than it may choose.

        Nothing here has a gradient, so that nobody takes the gradient of a choice for 0.
        """
        looked_at = indexer.hooked or self.hook_index_choice.hooked
        everything = visibility.keys <= self.top_k
        if everything and not looked_at and earlier is None:
            return None
        keys = indexer.keys(x, rotation)
        if earlier is not None:
            keys = earlier.beside(keys[:, :, None], keys[:, :, None, :0])[0][:, :, 0]
        if everything and not looked_at:
            return None
        scores = indexer(x, latent, keys, rotation, visibility)
        best = scores.topk(min(self.top_k, visibility.keys), dim=-1).indices
        return None if everything else torch.zeros_like(scores).scatter(-1, best, 1.0)

    def _chosen_earlier(self, visibility: Visibility, lent: Lent | None) -> Float[Tensor, "batch query key"] | None:
        """What the layer that lends its choice has chosen; None if all keys."""
        assert lent is not None
        assert self.lender is not None
        return visibility.chosen(lent[self.lender][0]) if self.lender in lent else None

    def _shown(
        self, choice: Tensor | None, visibility: Visibility, batch: int
    ) -> Float[Tensor, "batch query key"] | None:
        """The choice, among what queries may see, as hooks leave it; None for all of that."""
        if not self.hook_index_choice.hooked:
            return choice
        seen = visibility.mask(None)[:, 0].to(self.W_UK.dtype).expand(batch, -1, -1)
        changed = self.hook_index_choice.beside(seen if choice is None else choice.to(seen.dtype) * seen)
        return choice if changed is None else changed
