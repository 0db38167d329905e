"""The uniform transformer: tokens in, logits out, a hook point at every step between.

    tokens --embed (+ pos_embed)--> resid --blocks[0]--> ... --blocks[n-1]--> resid --ln_final--> unembed --> logits

`HookedTransformer(cfg)` is a randomly initialised one, `HookedTransformer.from_pretrained(...)` a converted checkpoint.
A pass may start at a layer (given its residual stream), stop at one, and unembed only some positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp_hooks.cache import ActivationCache
from interp_hooks.components.attention import Visibility
from interp_hooks.components.block import NOTHING, Known, TransformerBlock, at_positions
from interp_hooks.components.embed import Embed, MLMHead, TokenTypeEmbed, Unembed
from interp_hooks.components.kv_cache import KeyValueCache
from interp_hooks.components.norm import NoNorm, Norm, norm
from interp_hooks.components.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from interp_hooks.config import HookedTransformerConfig, as_dtype
from interp_hooks.errors import BadInput
from interp_hooks.generate import Generation
from interp_hooks.hooks import HookedRootModule, HookPoint, NameFilter
from interp_hooks.inputs import Inputs, Prompt
from interp_hooks.tokens import PaddingSide, TextInterface, TextMethods
from interp_hooks.weights import StackedWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ReturnType = Literal["logits", "loss", "both"]


ADDED_POSITIONS = {"standard": LearnedPositions, "sinusoidal": SinusoidalPositions}


class Output(NamedTuple):
    """What a pass with `return_type="both"` returns."""

    logits: Float[Tensor, "batch pos d_vocab"]
    loss: Tensor


class HookedTransformer(HookedRootModule, StackedWeights, Inputs, TextMethods, Generation):
    """A decoder or encoder-style transformer with named hook points; see `hook_table()` for all of them.

    Without `cfg.seed` the initial weights come from torch's global generator: normal with `initializer_range`, biases
    zero, gains one.

    Raises:
        ConfigError: a config that contradicts itself.
    """

    def __init__(
        self,
        cfg: HookedTransformerConfig | Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase | None = None,
        default_padding_side: PaddingSide = "right",
    ) -> None:
        super().__init__()
        self.cfg = cfg if isinstance(cfg, HookedTransformerConfig) else HookedTransformerConfig.from_dict(cfg)
        self.text = TextInterface(
            tokenizer, self.cfg.n_ctx, self.cfg.default_prepend_bos, default_padding_side, self.cfg.mlm_head
        )
        self.embed = Embed(self.cfg)
        self.hook_embed = HookPoint("batch pos d_model", d_model=self.cfg.d_model)
        if self.cfg.positional_embedding_type in ADDED_POSITIONS:
            self.pos_embed = ADDED_POSITIONS[self.cfg.positional_embedding_type](self.cfg)
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
        self._report: list[str] = []
        self.setup()
        if self.W_E.device.type != "meta":
            self.to(torch.device(self.cfg.device), as_dtype(self.cfg.dtype))
            self.init_weights()

    @classmethod
    def from_pretrained(
        cls,
        model_name: str,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        refactor_factored_attn_matrices: bool = False,
        *,
        hf_model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
        fold_value_biases: bool = True,
        n_ctx: int | None = None,
        first_n_layers: int | None = None,
        revision: str | None = None,
        default_prepend_bos: bool | None = None,
        default_padding_side: PaddingSide = "right",
        ignore_config: Sequence[str] = (),
        **hf_kwargs: Any,
    ) -> HookedTransformer:
        """Convert a HuggingFace checkpoint: a folder, a hub id, an alias ("pythia-70m") or a bundled name ("ioi-tiny").

        With `hf_model` the weights come from that object, which stays as it is, and nothing is looked up; `model_name`
        is then only a name. The processing flags change the weights but no probability; what was applied or could
        not be is told by `processing_report()`. `ignore_config` names configuration attributes that the converter
        does not know and that you know to be harmless. Other keyword arguments go to `transformers`.

        Raises:
            CheckpointError: not found, not a checkpoint, or not convertible; the message says which and what to do.
        """
        from interp_hooks.loading.load import LoadOptions, Processing, load_pretrained

        processing = Processing(
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )
        options = LoadOptions(
            name=model_name,
            hf_model=hf_model,
            tokenizer=tokenizer,
            dtype=dtype,
            device=device,
            n_ctx=n_ctx,
            first_n_layers=first_n_layers,
            revision=revision,
            default_prepend_bos=default_prepend_bos,
            default_padding_side=default_padding_side,
            ignore_config=tuple(ignore_config),
            hf_kwargs=hf_kwargs,
        )
        return load_pretrained(cls, options, processing)

    @classmethod
    def from_pretrained_no_processing(cls, model_name: str, **kwargs: Any) -> HookedTransformer:
        """`from_pretrained` with every processing step off: the checkpoint's own weights, and its own logits."""
        steps = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
        off: dict[str, Any] = dict.fromkeys((*steps, "refactor_factored_attn_matrices"), False)
        return cls.from_pretrained(model_name, **(off | kwargs))

    def processing_report(self) -> list[str]:
        """One line for each processing step: applied, or skipped and why."""
        return list(self._report)

    def init_weights(self) -> None:
        """Draw all weights anew, as the class docstring tells."""
        generator = None
        if self.cfg.seed is not None:
            generator = torch.Generator(self.device).manual_seed(self.cfg.seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                kind = name.rpartition(".")[2]
                if kind.startswith("W"):
                    weight.normal_(0.0, self.cfg.initializer_range, generator=generator)
                else:
                    weight.fill_(1.0 - self.cfg.norm_gain_offset if kind == "w" else 0.0)

    @property
    def device(self) -> torch.device:
        return self.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_E.dtype

    @classmethod
    def from_state_dict(
        cls,
        checkpoint: Mapping[str, Any] | str,
        cfg: HookedTransformerConfig | Mapping[str, Any] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> HookedTransformer:
        """A model from weights that are in no HuggingFace format, given as a mapping or as a file that holds one.

        Recognised are state dicts with this package's own keys ("blocks.0.attn.W_Q", as TransformerLens saved them
        too), with a `cfg`; nanoGPT checkpoints, which bring their own; and minGPT state dicts, with a `cfg`.

        Raises:
            CheckpointError: none of these, or weights that do not fit the config.
        """
        from interp_hooks.loading.formats import from_checkpoint

        return from_checkpoint(checkpoint, cfg, tokenizer)

    def to_hf(self) -> PreTrainedModel:
        """A HuggingFace model of the checkpoint's own architecture with this model's weights, edits included.

        Raises:
            CheckpointError: the weights cannot be expressed there: this model was not converted from a checkpoint, or
                processing changed what that architecture has no parameter for (load with
                `from_pretrained_no_processing`).
        """
        from interp_hooks.loading.export import to_hf

        return to_hf(self)

    def verify(self, hf_model: PreTrainedModel, tokens: Int[Tensor, "batch pos"] | None = None) -> Any:
        """Compare with the HuggingFace model on `tokens` (default: random ones); a `Report` that prints as a table."""
        from interp_hooks.loading.parity import verify

        return verify(self, hf_model, tokens)

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
        *,
        start_at_layer: int | None = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        logits_pos: int | Sequence[int] | Tensor | None = None,
        past_kv_cache: KeyValueCache | None = None,
        token_type_ids: Int[Tensor, "batch pos"] | None = None,
        known: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """One pass over text, token ids [batch, pos], or, with `start_at_layer`, a stream [batch, pos, d_model].

        `return_type`: "logits" [batch, pos, d_vocab]; "loss", mean next-token cross-entropy in nats over real tokens
        ([batch, pos-1] with `loss_per_token`); "both"; or None, which skips the unembedding. `attention_mask`
        [batch, pos] is 1 for real tokens: padding is neither seen nor counted as a position. `stop_at_layer` returns
        the stream that would enter that layer. `logits_pos` unembeds only some positions: one, a list for all rows,
        or a tensor [batch, n] of each row's own; the last layer computes only these, unless it is hooked, and
        `stop_at_layer=n_layers` returns only these. `tokens` are what a pass that starts later reads, for its loss.
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
            residual = self._embed(prompt.tokens, positions[:, past:], token_type_ids)
        else:
            residual = self._checked_residual(input)
            prompt = Prompt(tokens, self._real(attention_mask, residual.shape, cache))
            positions = self._positions(prompt.real, past + residual.shape[1])
        layers = range(start, stop)
        first = self._known(known, start_at_layer, layers, residual, cache)
        only = None if logits_pos is None else self._read_at(logits_pos, residual, stop, return_type)
        residual = self._through(layers, residual, prompt.real, positions, cache, only, first)
        stopped = stop_at_layer is not None
        output = residual if stopped else self._read_out(residual, prompt, return_type, loss_per_token)
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
    ) -> Float[Tensor, "batch _ d_model"]:
        """The stream after some layers, `only` at some positions.

        `positions` and `real` are of cached tokens and those of the stream. `known` is of the first layer.
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
            at_end = only if layer == layers[-1] else None
            residual = block(residual, rotation, visibility, extend, at_end, known if layer == layers[0] else NOTHING)
        return residual if only is None or layers else at_positions(residual, only)

    def _embed(
        self,
        tokens: Int[Tensor, "batch pos"],
        positions: Int[Tensor, "rows pos"],
        token_types: Int[Tensor, "batch pos"] | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        residual = self.hook_embed(self.embed(tokens))
        if self.cfg.positional_embedding_type in ADDED_POSITIONS:
            residual = residual + self.hook_pos_embed(self.pos_embed(positions, len(tokens)).to(residual.dtype))
        if self.cfg.n_token_types:
            token_types = torch.zeros_like(tokens) if token_types is None else token_types.to(tokens.device)
            residual = residual + self.hook_token_type_embed(self.token_type_embed(token_types))
        elif token_types is not None:
            raise BadInput("token_type_ids were given, but this model has no token types")
        return self.ln_embed(residual)

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
        real = None if prompt.real is None else prompt.real[:, -prompt.tokens.shape[1] :].to(logits.device)
        loss = lm_cross_entropy_loss(logits, prompt.tokens.to(logits.device), real, loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)

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
        if self.cfg.parallel_shared_norm:
            return block.ln1
        return block.ln2 if mlp else block.ln1

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

    def _collect(self, names: Sequence[str], collected: bool) -> None:
        for point in self.hook_points():
            if point.name.rpartition(".")[2] in names:
                point.collected = collected

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Whether a caching run without a filter collects what each head writes (`hook_result`)."""
        self._collect(["hook_result"], use_attn_result)

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Whether a caching run without a filter collects `hook_q_input`, `hook_k_input` and `hook_v_input`."""
        self._collect(["hook_q_input", "hook_k_input", "hook_v_input"], use_split_qkv_input)

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Whether a caching run without a filter collects `hook_attn_in`."""
        self._collect(["hook_attn_in"], use_attn_in)

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Whether a caching run without a filter collects `hook_mlp_in`."""
        self._collect(["hook_mlp_in"], use_hook_mlp_in)


def lm_cross_entropy_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    real: Bool[Tensor, "batch pos"] | None = None,
    per_token: bool = False,
) -> Tensor:
    """Cross-entropy of every next token in nats, at least in float32: the mean, or [batch, pos-1].

    With `real`, a prediction counts if both its token and the next one are real; others are 0 in the per-token form.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).to(precise), tokens[:, 1:], reduction="none")
    if real is None:
        return losses if per_token else losses.mean()
    counted = real[:, :-1] & real[:, 1:]
    losses = losses.where(counted, losses.new_zeros(()))
    return losses if per_token else losses.sum() / counted.sum()
