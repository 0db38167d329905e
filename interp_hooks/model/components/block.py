"""One transformer block: what reads the residual stream, and what is added to it.

    serial     resid_pre --ln1--> attn --> (+) = resid_mid --ln2--> mlp --> (+) = resid_post
    parallel   resid_pre --ln1--> attn --> (+) <-- mlp <--ln2-- resid_pre,   (+) = resid_post    (ln2 may be ln1)
    attn_only  resid_pre --ln1--> attn --> (+) = resid_post
    shortformer          positions are added to what queries and keys read, after ln1
    post       resid_pre --> attn --> (+) = resid_mid --ln1--> (+) = resid_post --ln2--> the next block
                                                     `--> mlp --^
    with embeddings of each layer's own, what reads them comes last:  resid_post = resid_mid + mlp_out + ple_out
    with a recurrence beside attention  resid_mid = resid_pre + attn_out + recurrence_out
    with several streams  resid_mid = resid_pre + attn_out + laurel_out,   resid_post = resid_mid + mlp_out + altup_out

What attention and MLP write may pass a norm (`ln1_post`, `ln2_post`) and a multiplier before it is added; `attn_out`
and `mlp_out` are what is added. The inputs of queries, keys and values can be hooked head by head (`hook_q_input`,
...): the stream before the norm, with a head axis that exists only while hooked. A mixer that stands in place of
attention reads one stream for all its heads (`hook_mixer_in`), as one beside it does (`hook_recurrence_in`).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_hooks.hooks.points import HookPoint
from interp_hooks.hooks.scopes import Again
from interp_hooks.model.components.altup import LAuReL, Streams
from interp_hooks.model.components.attention import Inputs, Lent, Visibility
from interp_hooks.model.components.kv_cache import Earlier
from interp_hooks.model.components.layer_embed import LayerEmbedReader
from interp_hooks.model.components.mixer import Mixer
from interp_hooks.model.components.mixers import mixer, mixer_beside
from interp_hooks.model.components.mlp import mlp
from interp_hooks.model.components.moe import MoE
from interp_hooks.model.components.norm import NoNorm, norm
from interp_hooks.model.components.nothing import NoMLP
from interp_hooks.model.components.positions import Rotation
from interp_hooks.model.config import HookedTransformerConfig


class Readings(NamedTuple):
    """The stream as attention, a recurrence beside it and a parallel MLP read it, normalized."""

    attention: Inputs
    recurrence: Tensor | None
    mlp: Tensor | None


class Known(NamedTuple):
    """What a block need not compute, because it is given: what heads mix from values, what the MLP adds."""

    z: Float[Tensor, "batch pos head d_value"] | None = None
    mlp_out: Float[Tensor, "batch pos d_model"] | None = None

    def at(self, rows: Int[Tensor, "batch n"]) -> "Known":
        """What is known, at positions of each row's own."""
        return Known(*(None if value is None else at_positions(value, rows) for value in self))


NOTHING = Known()


class Beside(NamedTuple):
    """What a block reads beside the stream.

    `pos_embed` is added to what queries and keys read, `layer_embed` is the layer's own embedding of each token,
    `lent` holds keys and values by the layer that made them, and `streams` the other streams by the layer they enter.
    """

    pos_embed: Float[Tensor, "batch pos d_model"] | None = None
    layer_embed: Float[Tensor, "batch pos width"] | None = None
    lent: Lent | None = None
    streams: Streams | None = None


NOTHING_BESIDE = Beside()


def at_positions(value: Float[Tensor, "batch pos ..."], rows: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n ..."]:
    """The values of each row at positions of its own."""
    rows = rows.to(value.device).reshape(*rows.shape, *[1] * (value.ndim - 2))
    return value.gather(1, rows.expand(-1, -1, *value.shape[2:]))


class TransformerBlock(nn.Module):
    """Attention, or what mixes tokens in its place, and MLP around the residual stream, arranged as the config says."""

    def __init__(self, cfg: HookedTransformerConfig, layer: int) -> None:
        super().__init__()
        heads, groups, d_model, self.layer = cfg.n_heads, cfg.kv_heads_at(layer), cfg.d_model, layer
        self.attn_only, self.parallel = cfg.attn_only, cfg.parallel_attn_mlp
        self.is_post = cfg.norm_placement == "post"
        self.shared_norm, self.residual_scale = cfg.parallel_shared_norm, cfg.residual_scale_at(layer)
        self.attends = cfg.mixer_at(layer) == "attention"
        self.per_head_inputs = self.attends and not cfg.kv_latent  # latent attention has one input for all heads
        self.makes_keys = cfg.source_of_keys(layer) is None
        self.hook_resid_pre = HookPoint("batch pos d_model", d_model=d_model)
        if self.per_head_inputs and not self.makes_keys:
            self.hook_q_input = HookPoint("batch pos head d_model", collected=False, head=heads, d_model=d_model)
        elif self.per_head_inputs:
            if heads == groups:  # one stream per head for all three readers needs as many key as query heads
                self.hook_attn_in = HookPoint("batch pos head d_model", collected=False, head=heads, d_model=d_model)
            self.hook_q_input = HookPoint("batch pos head d_model", collected=False, head=heads, d_model=d_model)
            self.hook_k_input = HookPoint("batch pos head d_model", collected=False, head=groups, d_model=d_model)
            self.hook_v_input = HookPoint("batch pos head d_model", collected=False, head=groups, d_model=d_model)
        self.has_mixer = not self.attends and cfg.mixer_at(layer) != "none"  # another than attention
        if self.has_mixer:
            self.hook_mixer_in = HookPoint("batch pos d_model", collected=False, d_model=d_model)
        kind = cfg.normalization_type if cfg.reads_normalized_at(layer) or self.is_post else None
        reads = cfg.mixer_at(layer) != "none" and (layer > 0 or cfg.first_attn_norm)
        written = cfg.output_norm_type if cfg.writes_normalized_at(layer) else None
        self.ln1 = norm(cfg, kind if reads else None, layer)
        self.attn: Mixer = mixer(cfg, layer)
        self.ln1_post = norm(cfg, written)
        self.hook_attn_out = HookPoint("batch pos d_model", d_model=d_model)
        self.recurrence = mixer_beside(cfg, layer)
        if self.recurrence is not None:
            self.hook_recurrence_in = HookPoint("batch pos d_model", collected=False, d_model=d_model)
            self.hook_recurrence_out = HookPoint("batch pos d_model", d_model=d_model)
        self.laurel = LAuReL(cfg) if cfg.laurel_rank else None
        if cfg.laurel_rank:
            self.hook_laurel_out = HookPoint("batch pos d_model", d_model=d_model)
        if not cfg.attn_only:
            if not cfg.parallel_attn_mlp:
                self.hook_resid_mid = HookPoint("batch pos d_model", d_model=d_model)
            self.hook_mlp_in = HookPoint("batch pos d_model", collected=False, d_model=d_model)
            has_mlp, experts = cfg.has_mlp(layer), cfg.experts if cfg.has_experts(layer) else None
            own_norms = experts is not None and experts.own_norms
            self.ln2 = norm(cfg, kind if has_mlp and not (cfg.parallel_shared_norm or own_norms) else None, layer)
            if experts is not None:
                self.mlp = MoE(cfg, experts, layer)
            else:
                sparsity = cfg.mlp_sparsity_at(layer)
                self.mlp = mlp(cfg, cfg.d_mlp_at(layer), sparsity) if has_mlp else NoMLP(cfg)
            self.ln2_post = norm(cfg, written)
            self.hook_mlp_out = HookPoint("batch pos d_model", d_model=d_model)
        self.ple = LayerEmbedReader(cfg, layer) if cfg.d_layer_embed else None
        if cfg.d_layer_embed:
            self.hook_ple_in = HookPoint("batch pos d_model", collected=False, d_model=d_model)
            self.hook_ple_out = HookPoint("batch pos d_model", d_model=d_model)
        self.mixes_streams = cfg.n_streams > 1
        if self.mixes_streams:
            axes = "batch pos stream d_model"
            self.hook_other_streams = HookPoint(axes, stream=cfg.n_streams - 1, d_model=d_model)
            self.hook_altup_out = HookPoint("batch pos d_model", d_model=d_model)
        self.hook_resid_post = HookPoint("batch pos d_model", d_model=d_model)
        if self.is_post:
            self.hook_normalized_resid_post = HookPoint("batch pos d_model", d_model=d_model)

    @property
    def heads(self) -> int:
        """How many heads write."""
        return self.attn.heads

    @property
    def groups(self) -> int:
        """How many heads of keys and values they share."""
        return self.attn.groups

    @property
    def mixers(self) -> list[Mixer]:
        """Attention, or what stands in its place, and what stands beside it."""
        return [self.attn] if self.recurrence is None else [self.attn, self.recurrence]

    @property
    def points(self) -> list[HookPoint]:
        """Every hook point of this block."""
        return [part for part in self.modules() if isinstance(part, HookPoint)]

    @property
    def device(self) -> torch.device:
        """Where the weights live and the arithmetic happens."""
        return self.attn.W_O.device

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        rotation: Rotation | None,
        visibility: Visibility,
        earlier: Earlier | None = None,
        only: Int[Tensor, "batch n"] | None = None,
        known: Known = NOTHING,
        beside: Beside = NOTHING_BESIDE,
        again: Again | None = None,
    ) -> Float[Tensor, "batch _ d_model"]:
        """The stream after this block; `earlier` is what a cache holds of the tokens before.

        `beside` is what it reads beside the stream. With `only`, the result is the stream at these positions of
        each row, and nothing else is computed unless a hook is attached to the block. What is `known` passes its hook
        point as if it had been computed. `again` has the functions of the pass, should the block be computed again in
        its backward pass.
        """
        given = (resid_pre, rotation, visibility, earlier, only, known, beside)
        return self._computed(*given) if again is None else again(self._computed, *given)

    def _computed(
        self,
        resid_pre: Tensor,
        rotation: Rotation | None,
        visibility: Visibility,
        earlier: Earlier | None,
        only: Int[Tensor, "batch n"] | None,
        known: Known,
        beside: Beside,
    ) -> Float[Tensor, "batch _ d_model"]:
        if only is not None:
            if self.is_post or any(point.hooked for point in self.points):
                return at_positions(self._computed(resid_pre, rotation, visibility, earlier, None, known, beside), only)
            visibility, known = visibility.only(only), known.at(only)
        resid_pre = self.hook_resid_pre(resid_pre)
        reads_stream = known.z is None or (self.parallel and known.mlp_out is None) or self.recurrence is not None
        readings = self._readings(resid_pre, beside.pos_embed) if reads_stream else None
        if known.z is not None:
            z = self.attn.given(known.z)
        else:
            assert readings is not None
            given = (readings.attention, rotation, visibility, earlier)
            z = self.attn(*given) if beside.lent is None or not self.attends else self.attn(*given, beside.lent)
        recurrent = None
        if self.recurrence is not None:
            assert readings is not None
            read, before = readings.recurrence, None if earlier is None else earlier.beside
            recurrent = self.recurrence((read, read, read), rotation, visibility, before)
        if only is not None:
            resid_pre = at_positions(resid_pre, only)
        if self.is_post:
            return self._post(resid_pre, z, known.mlp_out)
        attn_out = self.hook_attn_out(self._scaled(self.ln1_post(self.attn.write(z))))
        resid_mid = resid_pre + attn_out
        if self.recurrence is not None:
            assert recurrent is not None
            resid_mid = resid_mid + self.hook_recurrence_out(self._scaled(self.recurrence.write(recurrent)))
        if self.laurel is not None:
            normalized = self._read_by_laurel(resid_pre, readings, only)
            resid_mid = resid_mid + self.hook_laurel_out(self.laurel(normalized, resid_mid))
        if self.attn_only:
            return self.hook_resid_post(resid_mid)
        if not self.parallel:
            resid_mid = self.hook_resid_mid(resid_mid)
        mlp_out = known.mlp_out
        if mlp_out is None:
            mlp_out = self._scaled(self.ln2_post(self.mlp(self._mlp_reads(resid_mid, readings, only))))
        resid_post = resid_mid + self.hook_mlp_out(mlp_out)
        if self.mixes_streams:
            resid_post = resid_post + self._from_streams(resid_pre, resid_post, only, beside)
        elif self.ple is not None:
            resid_post = resid_post + self._from_embedding(self.ple, resid_post, only, beside)
        return self.hook_resid_post(resid_post)

    def _read_by_laurel(self, resid_pre: Tensor, readings: Readings | None, only: Tensor | None) -> Tensor:
        """What the norm before attention gives; anew where heads have inputs of their own, or z is known."""
        if readings is None or readings.attention[2].ndim > 3:
            return self.ln1.fused(resid_pre)
        normalized = readings.attention[2]
        return normalized if only is None else at_positions(normalized, only)

    def _from_embedding(
        self, ple: LayerEmbedReader, stream: Tensor, only: Tensor | None, beside: Beside
    ) -> Float[Tensor, "batch _ d_model"]:
        """What the layer's own embedding of each token writes."""
        embedded = beside.layer_embed
        assert embedded is not None
        embedded = embedded if only is None else at_positions(embedded, only)
        return self.hook_ple_out(self._scaled(ple(self.hook_ple_in(stream), embedded)))

    def _from_streams(
        self, before: Tensor, after: Tensor, only: Tensor | None, beside: Beside
    ) -> Float[Tensor, "batch _ d_model"]:
        """What mixing with the other streams adds to this one, which was `before` and is `after` what layers write."""
        assert beside.streams is not None
        altup, others = beside.streams
        kept = torch.is_grad_enabled()  # a backward pass may compute the block again
        own = others[self.layer] if kept else others.pop(self.layer)
        own = self.hook_other_streams(own.to(before.device))
        own = own if only is None else at_positions(own, only)
        streams = altup.corrected(self.layer, torch.cat((before[:, :, None], own), dim=2), after)
        if self.ple is not None:
            written = self._from_embedding(self.ple, altup.read_by_embedding(self.layer, streams), only, beside)
            streams = torch.cat((streams[:, :, :1], streams[:, :, 1:] + written[:, :, None]), dim=2)
        streams = altup.onward(self.layer, streams)
        others[self.layer + 1] = streams[:, :, 1:]
        return self.hook_altup_out(streams[:, :, 0] - after)

    def _mlp_reads(self, resid_mid: Tensor, readings: Readings | None, only: Tensor | None) -> Tensor:
        if not self.parallel:
            return self.ln2(self.hook_mlp_in(resid_mid))
        assert readings is not None
        assert readings.mlp is not None
        return readings.mlp if only is None else at_positions(readings.mlp, only)

    def _post(self, resid_pre: Tensor, z: Tensor, mlp_out: Tensor | None) -> Tensor:
        attn_out = self.hook_attn_out(self._scaled(self.attn.write(z)))
        normed = self.ln1(self.hook_resid_mid(resid_pre + attn_out))
        if mlp_out is None:
            mlp_out = self._scaled(self.mlp(self.hook_mlp_in(normed)))
        mlp_out = self.hook_mlp_out(mlp_out)
        return self.hook_normalized_resid_post(self.ln2(self.hook_resid_post(normed + mlp_out)))

    def _scaled(self, written: Tensor) -> Tensor:
        return written if self.residual_scale == 1 else written * self.residual_scale

    def _readings(self, resid_pre: Tensor, pos_embed: Tensor | None) -> Readings:
        """The stream as its readers see it, normalized once for all, or anew for a reader whose input is hooked."""
        streams = self._attention_streams(resid_pre)
        recurrence_in = self.hook_recurrence_in(resid_pre) if self.recurrence is not None else None
        mlp_in = self.hook_mlp_in(resid_pre) if self.parallel else None
        sharing = mlp_in if self.shared_norm else None
        ln1 = _AS_IT_IS if self.is_post else self.ln1
        if all(stream is resid_pre for stream in (*streams, recurrence_in, sharing) if stream is not None):
            mlp_reads = recurrence_reads = normalized = ln1(resid_pre)
            attention_reads = (normalized, normalized, normalized)
        else:
            ln1.show(resid_pre)
            q, k, v = streams
            attention_reads = (ln1.fused(q), ln1.fused(k), ln1.fused(v))
            mlp_reads, recurrence_reads = (None if x is None else ln1.fused(x) for x in (sharing, recurrence_in))
        if pos_embed is not None:
            q, k, v = attention_reads
            q, k = (x + (pos_embed if x.ndim == 3 else pos_embed[:, :, None]) for x in (q, k))
            attention_reads = (q, k, v)
        if mlp_in is None:
            return Readings(attention_reads, recurrence_reads, None)
        return Readings(attention_reads, recurrence_reads, mlp_reads if self.shared_norm else self.ln2(mlp_in))

    def _attention_streams(self, resid_pre: Tensor) -> Inputs:
        """What queries, keys and values read: the stream itself, unless the inputs of single heads are hooked."""
        if self.per_head_inputs and not self.makes_keys:
            return self.hook_q_input.expand(resid_pre, head=self.heads), resid_pre, resid_pre
        if not self.per_head_inputs:
            stream = self.hook_mixer_in(resid_pre) if self.has_mixer else resid_pre
            return stream, stream, stream
        heads, groups = self.heads, self.groups
        stream = resid_pre if heads != groups else self.hook_attn_in.expand(resid_pre, head=heads)
        q, k, v = self.hook_q_input, self.hook_k_input, self.hook_v_input
        if not (q.hooked or k.hooked or v.hooked):
            return stream, stream, stream
        return q.expand(stream, head=heads), k.expand(stream, head=groups), v.expand(stream, head=groups)


_AS_IT_IS = NoNorm()
