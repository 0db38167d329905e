"""The uniform transformer: tokens in, logits out, a hook point at every step between.

    tokens --embed (+ pos_embed)--> resid --blocks[0]--> ... --blocks[n-1]--> resid --ln_final--> unembed --> logits

`HookedTransformer(cfg)` is a randomly initialised one, `HookedTransformer.from_pretrained(...)` a converted checkpoint.
A pass may start at a layer (given its residual stream), stop at one, and unembed only some positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp_hooks.errors import BadInput, ConfigError
from interp_hooks.errors.arguments import told
from interp_hooks.hooks.points import HookPoint, NameFilter
from interp_hooks.hooks.root_module import HookedRootModule
from interp_hooks.model.cache.activation_cache import ActivationCache
from interp_hooks.model.checkpoints import Checkpoints, named_tokenizer
from interp_hooks.model.components.attention import Visibility
from interp_hooks.model.components.block import NOTHING, Known, TransformerBlock, at_positions
from interp_hooks.model.components.embed import Embed, MLMHead, TokenTypeEmbed, Unembed
from interp_hooks.model.components.kv_cache import KeyValueCache
from interp_hooks.model.components.norm import NoNorm, Norm, norm
from interp_hooks.model.components.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from interp_hooks.model.config import HookedTransformerConfig, as_dtype
from interp_hooks.model.generate import Generation
from interp_hooks.model.initialization import initialize
from interp_hooks.model.inputs import Inputs, Prompt
from interp_hooks.model.losses import lm_cross_entropy_loss
from interp_hooks.model.switches import Switches
from interp_hooks.model.tokens import PaddingSide, TextMethods
from interp_hooks.model.weights import StackedWeights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ReturnType = Literal["logits", "loss", "both"]

POSITIONS = {"standard": LearnedPositions, "shortformer": LearnedPositions, "sinusoidal": SinusoidalPositions}


class Output(NamedTuple):
    """What a pass with `return_type="both"` returns."""

    logits: Float[Tensor, "batch pos d_vocab"]
    loss: Tensor


class HookedTransformer(Checkpoints, HookedRootModule, StackedWeights, Inputs, TextMethods, Generation, Switches):
    """A decoder or encoder-style transformer with named hook points; see `hook_table()` for all of them.

    Its weights are drawn as `interp_hooks.model.initialization` tells, from torch's global generator unless the config
    has a seed, and lie on the config's device, or on the CPU without `move_to_device`.

    Raises:
        ConfigError: a config that contradicts itself, or no `d_vocab` and no tokenizer to take it from.
    """

    def __init__(
        self,
        cfg: HookedTransformerConfig | Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase | None = None,
        move_to_device: bool = True,
        default_padding_side: PaddingSide | None = None,
    ) -> None:
        super().__init__()
        on_meta = torch.get_default_device().type == "meta"  # somebody else fills this model, and has a tokenizer
        if not isinstance(cfg, HookedTransformerConfig | Mapping):
            raise ConfigError(f"cfg must be a HookedTransformerConfig or a mapping of its fields, got {told(cfg)}")
        cfg = cfg if isinstance(cfg, HookedTransformerConfig) else HookedTransformerConfig.from_dict(cfg)
        if tokenizer is None and cfg.tokenizer_name is not None and not on_meta:
            tokenizer = named_tokenizer(cfg.tokenizer_name)
        if cfg.d_vocab == -1:
            if tokenizer is None:
                raise ConfigError("expected d_vocab, or a tokenizer (or tokenizer_name) to take it from; got neither")
            cfg = cfg.replace(d_vocab=max(tokenizer.get_vocab().values()) + 1)
        self.cfg = cfg
        self._read_text_with(tokenizer, default_padding_side)
        if self.cfg.use_hook_tokens:
            self.hook_tokens = HookPoint("batch pos")
        self.embed = Embed(self.cfg)
        self.hook_embed = HookPoint("batch pos d_model", d_model=self.cfg.d_model)
        self.has_pos_embed = self.cfg.positional_embedding_type in POSITIONS
        if self.has_pos_embed:
            self.pos_embed = POSITIONS[self.cfg.positional_embedding_type](self.cfg)
            self.hook_pos_embed = HookPoint("batch pos d_model", d_model=self.cfg.d_model)
        if self.cfg.n_token_types:
            self.token_type_embed = TokenTypeEmbed(self.cfg)
            self.hook_token_type_embed = HookPoint("batch pos d_model", d_model=self.cfg.d_model)
        self.ln_embed = norm(self.cfg, self.cfg.embed_norm_type)
        self.rotary = RotaryPositions(self.cfg) if self.cfg.positional_embedding_type == "rotary" else None
        blocks = nn.ModuleList([TransformerBlock(self.cfg, layer) for layer in range(self.cfg.n_layers)])
        self.blocks = cast("Sequence[TransformerBlock]", blocks)
        self.ln_final = norm(self.cfg, self.cfg.normalization_type if self.cfg.final_norm else None)
        self.mlm_head = MLMHead(self.cfg) if self.cfg.mlm_head else None
        self.unembed = Unembed(self.cfg)
        self.hf_config: Any = None  # of the checkpoint that this model was converted from
        self.revision: str | None = None  # of that checkpoint: the hub's commit, or what was asked for
        self._report: list[str] = []
        self.setup()
        self.set_as_configured()
        dtype = as_dtype(self.cfg.dtype)
        if on_meta:
            super()._apply(lambda weight: weight.to(dtype))  # the config's device stays: there they will go
        else:
            self.to(self.cfg.device if move_to_device else "cpu", dtype)
            if self.cfg.init_weights:
                self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights anew by `cfg.init_mode`; see `interp_hooks.model.initialization`."""
        cfg = self.cfg
        initialize(self, cfg.init_mode, cfg.initializer_range, cfg.seed, cfg.norm_gain_offset)

    @property
    def device(self) -> torch.device:
        return self.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_E.dtype

    def to(self, *args: Any, print_details: bool = False, **kwargs: Any) -> HookedTransformer:
        """As `torch.nn.Module.to`; the config follows. Nothing is printed, whatever `print_details`."""
        return super().to(*args, **kwargs)

    def mps(self) -> HookedTransformer:
        """Move to Apple's GPU."""
        return self.to("mps")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HookedTransformer:
        super()._apply(fn, recurse)  # every .to(), .cuda(), .double() passes here
        self.cfg = self.cfg.replace(device=self.device, dtype=self.dtype)
        return self

    # ---------------------------------------------------------------------------------------------- forward pass

    def forward(
        self,
        input: str | Sequence[str] | Tensor,
        return_type: ReturnType | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        start_at_layer: int | None = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        shortformer_pos_embed: Float[Tensor, "_ pos d_model"] | None = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: KeyValueCache | None = None,
        *,
        logits_pos: int | Sequence[int] | Tensor | None = None,
        token_type_ids: Int[Tensor, "batch pos"] | None = None,
        known: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """One pass over text, token ids [batch, pos], or, with `start_at_layer`, a stream [batch, pos, d_model].

        `return_type`: "logits" [batch, pos, d_vocab]; "loss", mean next-token cross-entropy in nats over real tokens
        ([batch, pos-1] with `loss_per_token`); "both"; or None, which skips the unembedding. `attention_mask`
        [batch, pos] is 1 for real tokens: padding is neither seen nor counted as a position. `stop_at_layer` returns
        the stream that would enter that layer. `logits_pos` unembeds only some positions: one, a list for all rows,
        or a tensor [batch, n] of each row's own; the last layer computes only these, unless it is hooked, and
        `stop_at_layer=n_layers` returns only these. `tokens` are what a pass that starts later reads, for its loss;
        `shortformer_pos_embed` is what its queries and keys add (default: what the weights say).
        `past_kv_cache` holds keys and values of the tokens before the input, whose own are added to it unless it is
        frozen; `attention_mask` covers the input, or both. `token_type_ids` (default: 0) are for models that have them.
        `known` holds "z" [batch, pos, head, d_head], "mlp_out" [batch, pos, d_model], or both, of the layer at which a
        pass starts: its attention, or its MLP, is not computed.

        Raises:
            BadInput: tokens, layers, positions or masks that do not fit the model.
            NoTokenizer: text, but no tokenizer.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise BadInput(f"return_type must be 'logits', 'loss', 'both' or None, got {return_type!r}")
        start = 0 if start_at_layer is None else self._layer("start_at_layer", start_at_layer)
        stop = self.cfg.n_layers if stop_at_layer is None else self._layer("stop_at_layer", stop_at_layer)
        if start > stop:
            raise BadInput(f"start_at_layer={start_at_layer} comes after stop_at_layer={stop_at_layer}")
        cache = self._checked_cache(past_kv_cache)
        past = 0 if cache is None else cache.length
        if start_at_layer is None:
            prompt = self._read(input, prepend_bos, padding_side, attention_mask, cache)
            assert prompt.tokens is not None
            positions = self._positions(prompt.real, past + prompt.tokens.shape[1])
            if shortformer_pos_embed is not None:
                raise BadInput("shortformer_pos_embed is for passes with start_at_layer=; hook hook_pos_embed instead")
            if self.cfg.use_hook_tokens:
                prompt = Prompt(self.hook_tokens(prompt.tokens), prompt.real)
            residual, pos_embed = self._embed(cast("Tensor", prompt.tokens), positions[:, past:], token_type_ids)
        else:
            residual = self._checked_residual(input)
            tokens = None if tokens is None else self._checked_tokens_of(tokens, residual)
            prompt = Prompt(tokens, self._real(attention_mask, residual.shape, cache))
            positions = self._positions(prompt.real, past + residual.shape[1])
            pos_embed = self._checked_pos_embed(shortformer_pos_embed, residual)
            if pos_embed is None and self.cfg.positional_embedding_type == "shortformer":
                pos_embed = self.pos_embed(positions[:, past:], len(residual))
        layers = range(start, stop)
        first = self._known(known, start_at_layer, layers, residual, cache)
        only = None if logits_pos is None else self._read_at(logits_pos, residual, stop, return_type)
        output = self._through(layers, residual, prompt.real, positions, cache, only, first, pos_embed)
        if stop_at_layer is None:
            output = self._read_out(output, prompt, return_type, loss_per_token)
        if cache is not None:
            cache.commit(layers, positions.shape[1] - past, prompt.real, positions.amax(1) + 1)
        return output

    def _through(
        self,
        layers: range,
        residual: Float[Tensor, "batch pos d_model"],
        real: Bool[Tensor, "batch key"] | None,
        positions: Int[Tensor, "rows key"],
        cache: KeyValueCache | None,
        only: Int[Tensor, "batch n"] | None,
        known: Known,
        pos_embed: Float[Tensor, "batch pos d_model"] | None,
    ) -> Float[Tensor, "batch _ d_model"]:
        """The stream after some layers, `only` at some positions.

        `positions` and `real` are of cached tokens and those of the stream. `known` is of the first layer. `pos_embed`
        is what queries and keys of every layer read beside the stream.
        """
        pos, keys, causal = residual.shape[1], positions.shape[1], self.cfg.attention_dir == "causal"
        if cache is not None and cache.rotated_for is not None and self.rotary is not None:
            self.rotary.refuse_other_keys(cache.rotated_for, positions.amax(1) + 1)
        rotations = None if self.rotary is None else self.rotary(positions[:, keys - pos :], residual.dtype)
        visibility = Visibility(pos, keys, causal, real, positions)
        for layer in layers:
            block, rotation = self.blocks[layer], None if rotations is None else rotations[layer]
            extend = None if cache is None else partial(cache.extend, layer)
            if block.device != residual.device:  # models that are spread over devices
                residual, visibility = residual.to(block.device), visibility.to(block.device)
            rotation = None if rotation is None else rotation.to(block.device)
            pos_embed = None if pos_embed is None else pos_embed.to(block.device)
            at_end = only if layer == layers[-1] else None
            at_start = known if layer == layers[0] else NOTHING
            residual = block(residual, rotation, visibility, extend, at_end, at_start, pos_embed)
        return residual if only is None or layers else at_positions(residual, only)

    def _embed(
        self,
        tokens: Int[Tensor, "batch pos"],
        positions: Int[Tensor, "rows pos"],
        token_types: Int[Tensor, "batch pos"] | None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"] | None]:
        """The stream, and what queries and keys add to it."""
        residual, beside = self.hook_embed(self.embed(tokens)), None
        if self.has_pos_embed:
            pos_embed = self.hook_pos_embed(self.pos_embed(positions, len(tokens)).to(residual.dtype))
            if self.cfg.adds_positions:
                residual = residual + pos_embed
            else:
                beside = pos_embed
        if self.cfg.n_token_types:
            token_types = torch.zeros_like(tokens) if token_types is None else token_types.to(tokens.device)
            residual = residual + self.hook_token_type_embed(self.token_type_embed(token_types))
        elif token_types is not None:
            raise BadInput("token_type_ids were given, but this model has no token types")
        return self.ln_embed(residual), beside

    def _read_out(
        self,
        residual: Float[Tensor, "batch pos d_model"],
        prompt: Prompt,
        return_type: ReturnType | None,
        loss_per_token: bool,
    ) -> Any:
        residual = residual.to(self.W_U.device)
        if return_type is None:
            self.ln_final(residual)  # for its hooks
            return None
        logits = self.logits(residual)
        if return_type == "logits":
            return logits
        if prompt.tokens is None:
            raise BadInput("a loss needs the tokens: pass tokens= beside start_at_layer")
        real = None if prompt.real is None else prompt.real[:, -prompt.tokens.shape[1] :]
        loss = self.loss_fn(logits, prompt.tokens, real, loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    def loss_fn(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """What `forward(tokens, return_type="loss")` makes of its logits; see `lm_cross_entropy_loss`."""
        return lm_cross_entropy_loss(logits, tokens.to(logits.device), attention_mask, per_token)

    def logits(
        self, stream: Float[Tensor, "batch pos d_model"], tokens: Int[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """What the stream after the last block says about the next token: norm, unembedding and what lies between.

        With `tokens` only these of each row are unembedded, [batch, pos, n], and the unembedding's hooks don't fire.
        """
        normalized = self.ln_final(stream)
        normalized = normalized if self.mlm_head is None else self.mlm_head(normalized)
        if tokens is None:
            return self.unembed(normalized)
        read = torch.einsum("bpd,bnd->bpn", normalized, self.W_U.T[tokens]) + self.b_U[tokens][:, None]
        return self.unembed.shaped(read)

    def norm_reading(self, layer: int, mlp: bool = False) -> Norm | NoNorm:
        """The norm through which `layer` reads the stream: its ln1 (ln2 for the MLP), or ln_final after the last."""
        if layer == self.cfg.n_layers:
            return self.ln_final
        if not self.cfg.reads_normalized:
            return NoNorm()
        block = self.blocks[layer]
        return block.ln2 if mlp and not self.cfg.parallel_shared_norm else block.ln1

    # ----------------------------------------------------------------------------------------------------- caches

    def run_with_cache(
        self,
        *args: Any,
        names_filter: NameFilter | None = None,
        remove_batch_dim: bool = False,
        return_cache_object: bool = True,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """One pass and its activations as an `ActivationCache` (or a dict with `return_cache_object=False`).

        Arguments as `HookedRootModule.run_with_cache` and `forward`. Without a filter, per-head results and split
        inputs are left out unless `set_use_attn_result(True)` and its kin asked for them.

        Raises:
            UnknownHook: the filter selects nothing.
            HookDidNotFire: this pass did not come by something that was named.
            BadInput: `remove_batch_dim` with several prompts.
        """
        output, stored = super().run_with_cache(
            *args, names_filter=names_filter, remove_batch_dim=remove_batch_dim, **kwargs
        )
        return output, ActivationCache(stored, self, not remove_batch_dim) if return_cache_object else stored

    def has_output(
        self, *args: Any, return_type: Any = "logits", stop_at_layer: int | None = None, **rest: Any
    ) -> bool:
        """Whether `forward` returns anything, or fills a cache, for these arguments."""
        given = dict(zip(FORWARD_ARGUMENTS, args, strict=False))
        given = {"return_type": return_type, "stop_at_layer": stop_at_layer} | rest | given
        return any(given.get(one) is not None for one in ("return_type", "stop_at_layer", "past_kv_cache"))


FORWARD_ARGUMENTS = tuple(inspect.signature(HookedTransformer.forward).parameters)[1:]
