"""The network of a model: its parts, and the pass from tokens to logits, with a hook point at every step.

    tokens --embed (+ pos_embed)--> resid --blocks[0]--> ... --blocks[n-1]--> resid --ln_final--> unembed --> logits

A pass may start at a layer (given its residual stream), stop at one, and unembed only some positions. All attributes
that a model has are set in `Network.__init__`; the classes above it, up to `HookedTransformer`, add methods only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.errors.arguments import check_arguments, check_names, checked
from interp_hooks.hooks.points import HookPoint, NameFilter
from interp_hooks.hooks.root_module import HookedRootModule
from interp_hooks.hooks.scopes import OPEN, Again, Functions
from interp_hooks.hooks.slices import Slice, SliceInput
from interp_hooks.model.cache.activation_cache import ActivationCache
from interp_hooks.model.cache.activations import from_first
from interp_hooks.model.components.altup import AltUp, Streams
from interp_hooks.model.components.attention import Lent, Visibility
from interp_hooks.model.components.block import NOTHING, Beside, Known, TransformerBlock, at_positions
from interp_hooks.model.components.embed import POSITIONS, Embed, EmbedMap, MLMHead, TokenTypeEmbed, Unembed
from interp_hooks.model.components.kv_cache import Earlier, KeyValueCache
from interp_hooks.model.components.layer_embed import LayerEmbed
from interp_hooks.model.components.norm import NoNorm, Norm, embed_norm, norm
from interp_hooks.model.components.positions import RotaryPositions
from interp_hooks.model.components.weights import TensorParallel
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.inputs import Inputs, Prompt, checked_mask, counts_back, is_text
from interp_hooks.model.losses import lm_cross_entropy_loss
from interp_hooks.model.padding import Padding
from interp_hooks.model.tokenization import PaddingSide, TextInterface, text_in_force

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

ReturnType = Literal["logits", "loss", "both"]


class Pass(NamedTuple):
    """What a forward pass is given, and how many tokens of `past_kv_cache` come before its own."""

    past: int = 0
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = MappingProxyType({})


OUTSIDE = Pass()
PASS: ContextVar[Pass] = ContextVar("PASS", default=OUTSIDE)
"""For functions of a call or block: the pass that they are in."""


class Output(NamedTuple):
    """What a pass with `return_type="both"` returns."""

    logits: Float[Tensor, "batch pos d_vocab"]
    loss: Tensor


class Embedded(NamedTuple):
    """What `input_to_embed` returns: the arguments of a pass that starts at layer 0; `attention_mask` None: all real.

    `shortformer_pos_embed` is what queries and keys read beside the stream, where positions are not a part of it.
    """

    residual: Float[Tensor, "batch pos d_model"]
    tokens: Int[Tensor, "batch pos"]
    shortformer_pos_embed: Float[Tensor, "batch pos d_model"] | None
    attention_mask: Bool[Tensor, "batch key"] | None


class Network(HookedRootModule):
    """Embeddings, blocks and unembedding, and the pass through them.

    Its weights are uninitialised, and lie on torch's default device.
    """

    hf_config: Any = None  # of the checkpoint that this model was converted from
    revision: str | None = None  # of that checkpoint: the hub's commit, or what was asked for
    n_groups: int | None = None  # of keys and values in the checkpoint, while they are ungrouped
    ranks: TensorParallel | None = (
        None  # over which heads, neurons and experts are spread; see `interp_hooks.model.ranks`
    )

    def __init__(
        self,
        cfg: HookedTransformerConfig,
        tokenizer: PreTrainedTokenizerBase | None,
        default_padding_side: PaddingSide | None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self._report: list[str] = []  # what processing did to the weights
        self._read_text_with(tokenizer, default_padding_side)
        if cfg.use_hook_tokens:
            self.hook_tokens = HookPoint("batch pos")
        self.embed = Embed(cfg)
        self.hook_embed = _embedding_point(cfg)
        self.has_positions, self.adds_positions = cfg.positional_embedding_type in POSITIONS, cfg.adds_positions
        if self.has_positions:
            self.pos_embed = POSITIONS[cfg.positional_embedding_type](cfg)
            self.hook_pos_embed = _embedding_point(cfg)
        if cfg.n_token_types:
            self.token_type_embed = TokenTypeEmbed(cfg)
            self.hook_token_type_embed = _embedding_point(cfg)
        if cfg.d_layer_embed:
            self.layer_embed = LayerEmbed(cfg)
            axes = "batch pos of_layer width"
            self.hook_layer_embed = HookPoint(axes, of_layer=cfg.n_layers, width=cfg.d_layer_embed)
        self.altup = AltUp(cfg) if cfg.n_streams > 1 else None
        self.ln_embed = embed_norm(cfg)
        self.embed_map = EmbedMap(cfg) if cfg.d_embed else None
        self.rotary = RotaryPositions(cfg) if cfg.positional_embedding_type == "rotary" else None
        blocks = nn.ModuleList([TransformerBlock(cfg, layer) for layer in range(cfg.n_layers)])
        self.blocks = cast("Sequence[TransformerBlock]", blocks)
        self.ln_final = norm(cfg, cfg.final_norm_type, cfg.n_layers)
        self.mlm_head = MLMHead(cfg) if cfg.mlm_head else None
        self.unembed = Unembed(cfg)
        self.setup()

    def _reconfigure(self, **changes: Any) -> None:
        """Replace fields of the config. Nobody else may: the config tells what the model is, and has to follow it."""
        self.cfg = self.cfg.replace(**changes)

    def _read_text_with(self, tokenizer: PreTrainedTokenizerBase | None, side: PaddingSide | None) -> None:
        cfg = self.cfg
        encloses = cfg.attention_dir == "bidirectional"  # tokenizers of encoders put a token at each end
        self._text = TextInterface(tokenizer, cfg.n_ctx, cfg.default_prepend_bos, side, encloses)
        if tokenizer is not None:
            self._reconfigure(tokenizer_prepends_bos=self.text.tokenizer_prepends_bos)

    @property
    def text(self) -> TextInterface:
        """What text is read with, here and now: within `overridden_defaults` it has other defaults."""
        return text_in_force(self) or self._text

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The HuggingFace tokenizer that the model reads text with, or None."""
        return self.text._tokenizer

    @property
    def device(self) -> torch.device:
        """Where the embedding lies, and tokens go."""
        return self.embed.W_E.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self.embed.W_E.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # every .to(), .cuda(), .double() passes here
        self._reconfigure(device=self.device, dtype=self.dtype)
        return self

    def whole(self, weight: Tensor) -> Tensor:
        """A weight of this model that may be spread over ranks, as it is on a single one; all ranks have to ask."""
        return weight if self.ranks is None else self.ranks.gathered(weight)

    def _refuse_spread(self, what: str) -> None:
        """Raises BadInput if the model is spread over ranks, each of which has only a part of its weights."""
        if self.ranks is not None:
            raise BadInput(
                f"{what} is for a model with all its weights, and this one is spread over ranks: do that in one "
                "process, before it is spread"
            )

    @property
    def _inputs(self) -> Inputs:
        return Inputs(self.cfg, self.text, self.device, self.dtype)

    def checked_tokens(self, input: Any) -> Int[Tensor, "batch pos"]:
        """Token ids [batch, pos] on the model's device, from ids [batch, pos] or [pos].

        Raises:
            BadInput: not integers of that shape, or one outside the vocabulary.
        """
        return self._inputs.tokens(input)

    def token_ids(self, tokens: Any) -> Int[Tensor, "*rest"]:
        """Answers as ids: an int, a one-token string, a list of either, or a tensor.

        Raises:
            TokenError: a string that is not one token.
            BadInput: an id outside the output vocabulary.
        """
        return self._inputs.answers(tokens)

    def _point(self, name: str) -> HookPoint:
        try:
            return super()._point(name)
        except UnknownHook as error:
            kinds = {block.attn.kind for block in self.blocks if not getattr(block, "attends", True)}
            if not kinds:
                raise
            places = [str(layer) for layer, kind in enumerate(self.cfg.mixer_kinds) if kind != "attention"]
            layers = f"layer{'s' * (len(places) > 1)} {', '.join(places)}"
            raise UnknownHook(f"{error} In {layers} stands {' or '.join(kinds)} in place of attention.") from None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.keys() <= NAMES and not torch.compiler.is_compiling():
            check_names(kwargs, self.forward)
        if not OPEN:
            return super().__call__(*args, **kwargs)
        cache = (dict(zip(FORWARD_ARGUMENTS, args, strict=False)) | kwargs).get("past_kv_cache")
        outside = PASS.set(Pass(cache.length if isinstance(cache, KeyValueCache) else 0, args, kwargs))
        try:
            return super().__call__(*args, **kwargs)
        finally:
            PASS.reset(outside)

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
        documents: Int[Tensor, "batch pos"] | None = None,
        known: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """One pass over text, token ids [batch, pos], or, with `start_at_layer`, a stream [batch, pos, d_model].

        `return_type`: "logits" [batch, pos, d_vocab]; "loss", the mean next-token cross-entropy in nats over real
        tokens ([batch, pos-1] with `loss_per_token`); "both"; or None, which skips the unembedding.
        `attention_mask` [batch, pos] is 1 for real tokens: padding is neither seen nor counted as a position. Without
        it, padding in token ids is found by the rule of `interp_hooks.model.padding`, of which `padding_side` and
        `prepend_bos` may tell more. `stop_at_layer` returns the stream that would enter that layer.

        `logits_pos` unembeds only some positions: one, a list for all rows, or a tensor [batch, n] of each row's own;
        negative ones count back from the last real token of each row. The last layer computes only these, unless it is
        hooked; `stop_at_layer=n_layers` returns only these.
        `past_kv_cache` holds keys and values of earlier tokens. Those of the input are added to it, unless it is
        frozen; `attention_mask` covers the input, or earlier tokens and input.

        For a pass that starts at a layer, `tokens` are the tokens of its stream, which a loss needs, and layers with
        embeddings of their own, which are then computed from the weights (at layer 0 from the given stream too), and
        `shortformer_pos_embed` is what its queries and keys add (default: what the weights say). `known` may hold "z"
        [batch, pos, head, d_head], "mlp_out" [batch, pos, d_model], or both, of the layer at which the pass starts:
        its attention, or its MLP, is then not computed. `token_type_ids` (default: 0) are for models that have them.
        `documents` [batch, pos] numbers the documents of rows that hold several: tokens see only those of their own,
        and positions begin anew with each, as if each had a row for itself.

        Raises:
            BadInput: tokens, layers, positions or masks that do not fit the model, text that is too long, the loss of a
                model that reads both ways, or ids of which nobody can tell whether they are padding.
            NoTokenizer: text, but no tokenizer.
        """
        if not torch.compiler.is_compiling():
            flags = dict(loss_per_token=loss_per_token, prepend_bos=prepend_bos, padding_side=padding_side)
            check_arguments(Network.forward, flags)
        if return_type not in ("logits", "loss", "both", None):
            raise BadInput(f"return_type must be 'logits', 'loss', 'both' or None, got {return_type!r}")
        if return_type in ("loss", "both"):
            self._refuse_loss()
        given, n_layers = self._inputs, self.cfg.n_layers
        start = 0 if start_at_layer is None else given.layer("start_at_layer", start_at_layer)
        stop = n_layers if stop_at_layer is None else given.layer("stop_at_layer", stop_at_layer)
        if start > stop:
            raise BadInput(f"start_at_layer={start_at_layer} comes after stop_at_layer={stop_at_layer}")
        cache = given.cache(past_kv_cache)
        counts = return_type in ("loss", "both") or (logits_pos is not None and counts_back(logits_pos))
        past = 0 if cache is None else cache.length
        apart = None if documents is None else given.documents(documents, input, cache)
        if start_at_layer is None:
            if shortformer_pos_embed is not None:
                raise BadInput("shortformer_pos_embed is for passes with start_at_layer=; hook hook_pos_embed instead")
            prompt = given.prompt(input, prepend_bos, padding_side, attention_mask, cache, counts)
            residual, beside, positions, prompt = self._entering(prompt._replace(documents=apart), past, token_type_ids)
        else:
            residual = given.residual(input)
            tokens = None if tokens is None else given.tokens_of(tokens, residual)
            bare = tokens is not None and attention_mask is None
            padding = given.padding(cast("Tensor", tokens), prepend_bos, padding_side, cache) if bare else Padding()
            prompt = given.masked(tokens, residual.shape, padding, attention_mask, cache, counts)
            prompt = prompt._replace(documents=apart)
            positions = given.positions(prompt.seen, past + residual.shape[1], apart)
            pos_embed = given.pos_embed(shortformer_pos_embed, residual)
            if pos_embed is None and self.has_positions and not self.adds_positions:
                pos_embed = self.pos_embed(positions[:, past:], batch=len(residual))
            beside = Beside(pos_embed, self._layer_embed_of(tokens, residual, range(start, stop)))
        layers = range(start, stop)
        if start_at_layer is not None:
            self._refuse_missing_streams(layers)
        first = given.known(known, start_at_layer, layers, residual, cache)
        self._refuse_missing_keys(layers, first)
        only = None if logits_pos is None else given.read_at(logits_pos, residual, stop, return_type, prompt.real)
        output = self._through(layers, residual, prompt.seen, positions, cache, only, first, beside, apart)
        if stop_at_layer is None:
            output = self._read_out(output, prompt, return_type, loss_per_token)
        if cache is not None:
            cache.commit(layers, positions.shape[1] - past, prompt.seen, positions.amax(1) + 1)
        return output

    @checked
    def input_to_embed(
        self,
        input: str | Sequence[str] | Tensor,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        attention_mask: Tensor | None = None,
        past_kv_cache: KeyValueCache | None = None,
        *,
        token_type_ids: Int[Tensor, "batch pos"] | None = None,
    ) -> Embedded:
        """The stream that enters layer 0, to be changed and then given to `forward` with `start_at_layer=0`.

        Soft prompts are vectors in place of tokens. Read some tokens to be replaced, so that positions are counted,
        and put the vectors where their embeddings are:

            stream, tokens, beside, mask = model.input_to_embed(prompts)
            stream[:, 1:4] += soft - model.W_E[tokens[:, 1:4]]
            options = dict(tokens=tokens, shortformer_pos_embed=beside, attention_mask=mask)
            logits = model(stream, start_at_layer=0, **options)

        Raises:
            BadInput: tokens or masks that do not fit the model.
            NoTokenizer: text, but no tokenizer.
        """
        given, past = self._inputs, 0 if past_kv_cache is None else past_kv_cache.length
        prompt = given.prompt(input, prepend_bos, padding_side, attention_mask, given.cache(past_kv_cache), True)
        residual, beside, _, prompt = self._entering(prompt, past, token_type_ids)
        return Embedded(residual, cast("Tensor", prompt.tokens), beside.pos_embed, prompt.real)

    def _layer_embed_of(
        self, tokens: Tensor | None, residual: Tensor, layers: range
    ) -> Float[Tensor, "batch pos of_layer width"] | None:
        """The embeddings that each layer has for itself, for a pass that starts at the first of some layers.

        Raises:
            BadInput: there are no tokens that they could be of.
        """
        if not (self.cfg.d_layer_embed and layers):
            return None
        if tokens is None:
            raise BadInput("each layer of this model has embeddings of its own: pass tokens= beside start_at_layer")
        return self.layer_embed(tokens, self.embed(tokens) if layers.start else residual)

    def _refuse_missing_keys(self, layers: range, known: Known) -> None:
        """Raises BadInput if some layers use keys and values, or a choice of keys, that no layer of a pass makes."""
        sources = [one for one in map(self.cfg.lender_of, layers) if one is not None]
        if sources and min(sources) < layers.start + (known.z is not None):
            what = "keys and values that it makes" if self.cfg.indexer is None else "choice of keys that it makes"
            raise BadInput(
                f"layers after layer {min(sources)} use the {what}: start at that layer or before, without its z as "
                "known"
            )

    def _refuse_missing_streams(self, layers: range) -> None:
        """Raises BadInput if some layers need other streams than the one that they are given."""
        if self.altup is not None and layers:
            raise BadInput(
                f"this model carries {self.cfg.n_streams} streams, of which a pass with start_at_layer would have one: "
                "pass tokens, and change the stream by hooks (hook_embed is where all streams begin)"
            )

    def _entering(
        self, prompt: Prompt, past: int, token_type_ids: Tensor | None
    ) -> tuple[Tensor, Beside, Tensor, Prompt]:
        """The stream that enters layer 0, what is read beside it, the positions of all tokens, and the tokens."""
        tokens = cast("Tensor", prompt.tokens)
        positions = self._inputs.positions(prompt.seen, past + tokens.shape[1], prompt.documents)
        if self.cfg.use_hook_tokens:
            prompt = prompt._replace(tokens=self.hook_tokens(tokens))
        tokens = cast("Tensor", prompt.tokens)
        embedding, pos_embed = self._embed(tokens, positions[:, past:], token_type_ids)
        own = self.hook_layer_embed(self.layer_embed(tokens, embedding)) if self.cfg.d_layer_embed else None
        if self.altup is None:
            return self.entering(embedding), Beside(pos_embed, own), positions, prompt
        every = self.altup.entering(embedding)
        streams = Streams(self.altup, {0: every[:, :, 1:]})
        return every[:, :, 0], Beside(pos_embed, own, streams=streams), positions, prompt

    def _through(
        self,
        layers: range,
        residual: Float[Tensor, "batch pos d_model"],
        real: Bool[Tensor, "batch key"] | None,
        positions: Int[Tensor, "rows key"],
        cache: KeyValueCache | None,
        only: Int[Tensor, "batch n"] | None,
        known: Known,
        beside: Beside,
        documents: Int[Tensor, "batch pos"] | None,
    ) -> Float[Tensor, "batch _ d_model"]:
        """The stream after some layers, at the positions `only` if some are given.

        `positions` and `real` are those of cached tokens and of the stream's. `known` belongs to the first layer.
        `beside` is what every layer reads beside the stream, with the embeddings of all layers.
        """
        pos, keys, causal = residual.shape[1], positions.shape[1], self.cfg.attention_dir == "causal"
        if cache is not None and cache.rotated_for is not None and self.rotary is not None:
            self.rotary.refuse_other_keys(cache.rotated_for, positions.amax(1) + 1)
        if documents is not None and self.rotary is not None:
            self.rotary.refuse_mixed_lengths(positions)
        rotations = None if self.rotary is None else self.rotary(positions[:, keys - pos :], residual.dtype)
        visibility = Visibility(pos, keys, causal, real, positions, documents=documents)
        functions = (
            Functions(self.hook_dict.values())
            if torch.is_grad_enabled() and not torch.compiler.is_compiling()
            else None
        )
        lent: Lent | None = {} if self.cfg.lends else None
        for layer in layers:
            block, rotation = self.blocks[layer], None if rotations is None else rotations[layer]
            earlier = None if cache is None else Earlier(cache, layer)
            device = block.device
            if device != residual.device:  # models that are spread over devices
                residual, visibility = residual.to(device), visibility.to(device)
            if rotation is not None and device != rotation.cos.device:
                rotation = rotation.to(device)
            pos_embed = None if beside.pos_embed is None else beside.pos_embed.to(device)
            own = None if beside.layer_embed is None else beside.layer_embed[:, :, layer].to(device)
            at_end = only if layer == layers[-1] else None
            at_start = known if layer == layers[0] else NOTHING
            reads = Beside(pos_embed, own, lent, beside.streams)
            given = (residual, rotation, visibility, earlier, at_end, at_start, reads)
            kept = functions is not None and isinstance(block, TransformerBlock)
            residual = block(*given, Again(functions)) if kept else block(*given)
        return residual if only is None or layers else at_positions(residual, only)

    def _embed(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "rows pos"], token_types: Tensor | None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"] | None]:
        """The sum of all embeddings, and the positions that queries and keys read beside the stream, if any."""
        residual, beside = self.hook_embed(self.embed(tokens)), None
        if self.has_positions:
            pos_embed = self.hook_pos_embed(self.pos_embed(positions, batch=len(tokens)).to(residual.dtype))
            if self.adds_positions:
                residual = residual + pos_embed
            else:
                beside = pos_embed
        if self.cfg.n_token_types:
            token_types = torch.zeros_like(tokens) if token_types is None else token_types.to(tokens.device)
            residual = residual + self.hook_token_type_embed(self.token_type_embed(token_types))
        elif token_types is not None:
            raise BadInput("token_type_ids were given, but this model has no token types")
        return residual, beside

    def entering(self, embedding: Float[Tensor, "*batch pos d_embed"]) -> Float[Tensor, "*batch pos d_model"]:
        """The stream that embeddings, summed, enter the first layer as: normalized and mapped, if the model does so.

        Where the model has several streams, this is the first of them.
        """
        if self.altup is not None:
            return self.altup.entering(embedding)[..., 0, :]
        normalized = self.ln_embed(embedding)
        return normalized if self.embed_map is None else self.embed_map(normalized)

    def _read_out(self, residual: Tensor, prompt: Prompt, return_type: ReturnType | None, loss_per_token: bool) -> Any:
        residual = residual.to(self.unembed.W_U.device)
        if return_type is None:
            self.ln_final(residual)  # for its hooks
            return None
        logits = self._logits(residual)
        if return_type == "logits":
            return logits
        if prompt.tokens is None:
            raise BadInput("a loss needs the tokens: pass tokens= beside start_at_layer")
        tokens = prompt.tokens.to(logits.device)
        loss = lm_cross_entropy_loss(logits, tokens, prompt.real, loss_per_token, documents=prompt.documents)
        return loss if return_type == "loss" else Output(logits, loss)

    @checked
    def loss_fn(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        per_token: bool = False,
    ) -> Tensor:
        """The loss that `forward(tokens, return_type="loss")` makes of its logits; see `lm_cross_entropy_loss`.

        Raises:
            BadInput: the model sees the tokens that it would have to predict.
        """
        self._refuse_loss()
        return lm_cross_entropy_loss(logits, tokens.to(logits.device), attention_mask, per_token)

    def _refuse_loss(self) -> None:
        if self.cfg.attention_dir == "bidirectional":
            raise BadInput(
                "this model reads in both directions and sees the tokens that follow, so that a next-token loss "
                "measures nothing; for a masked-token loss, compare its logits at the masked positions with the tokens "
                "that were there: torch.nn.functional.cross_entropy(model(masked)[at], tokens[at])"
            )

    @checked
    def logits(
        self, stream: Float[Tensor, "batch pos d_model"], tokens: Int[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits of a stream after the last block, which goes through the final norm and the unembedding.

        With `tokens` [batch, n], only the logits of these are computed, for each row its own: [batch, pos, n]. The
        unembedding's hooks don't fire then.
        """
        if stream.shape[-1] != self.cfg.d_model:
            raise BadInput(f"stream must be [batch, pos, d_model={self.cfg.d_model}], got {list(stream.shape)}")
        return self._logits(stream, tokens)

    def _logits(self, stream: Tensor, tokens: Tensor | None = None) -> Tensor:
        normalized = self.ln_final(stream)
        normalized = normalized if self.mlm_head is None else self.mlm_head(normalized)
        if tokens is None:
            return self.unembed(normalized)
        unembed = self.unembed
        read = torch.einsum("bpd,bnd->bpn", normalized, unembed.W_U.T[tokens]) + unembed.b_U[tokens][:, None]
        return unembed.shaped(read)

    @checked
    def norm_reading(self, layer: int, mlp: bool = False) -> Norm | NoNorm:
        """The norm through which `layer` reads the stream: its ln1 (ln2 for the MLP), or ln_final after the last."""
        if not 0 <= layer <= self.cfg.n_layers:
            raise BadInput(f"layer must be 0..{self.cfg.n_layers}, got {layer}")
        if layer == self.cfg.n_layers:
            return self.ln_final
        if not self.cfg.reads_normalized_at(layer):
            return NoNorm()
        block = self.blocks[layer]
        return block.ln2 if mlp and not self.cfg.parallel_shared_norm else block.ln1

    # ----------------------------------------------------------------------------------------------------- caches

    @checked
    def run_with_cache(
        self,
        *args: Any,
        names_filter: NameFilter | None = None,
        remove_batch_dim: bool = False,
        return_cache_object: bool = True,
        pos_slice: SliceInput = None,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        """One pass: its output, and its activations as an `ActivationCache` (`return_cache_object=False`: as a dict).

        The arguments are those of `HookedRootModule.run_with_cache` and of `forward`. Without a filter, per-head
        results and split inputs are left out unless `set_use_attn_result(True)` and its kin asked for them. Negative
        positions of `pos_slice` count back from the last real token of each prompt; the cache knows which those are.

        Raises:
            UnknownHook: the filter selects nothing.
            HookDidNotFire: the pass did not come to a point that was named.
            BadInput: `remove_batch_dim` with several prompts.
        """
        padding = self.padding_of(*args, **kwargs)
        chosen = None if pos_slice is None else from_first(Slice.unwrap(pos_slice), padding)
        output, stored = super().run_with_cache(
            *args, names_filter=names_filter, remove_batch_dim=remove_batch_dim, pos_slice=chosen, **kwargs
        )
        if not return_cache_object:
            return output, stored
        cache = ActivationCache(stored, self, not remove_batch_dim)
        cache.padding = padding.at_positions(chosen or Slice())
        return output, cache

    @checked
    def padding_of(
        self,
        input: Any = None,
        *args: Any,
        prepend_bos: bool | None = None,
        padding_side: PaddingSide | None = None,
        start_at_layer: int | None = None,
        tokens: Any = None,
        attention_mask: Tensor | None = None,
        past_kv_cache: KeyValueCache | None = None,
        **rest: Any,
    ) -> Padding:
        """The padding among the tokens of a pass with these arguments of `forward`.

        Raises:
            BadInput: token ids that do not fit the model, or whose beginning may be padding or text.
        """
        given = dict(zip(FORWARD_ARGUMENTS[1:], args, strict=False))
        prepend_bos, padding_side = given.get("prepend_bos", prepend_bos), given.get("padding_side", padding_side)
        read = input if given.get("start_at_layer", start_at_layer) is None else given.get("tokens", tokens)
        mask = given.get("attention_mask", attention_mask)
        if mask is not None:
            length = input.shape[-1 if input.ndim < 3 else 1] if isinstance(input, Tensor) else 0
            return Padding(neither=checked_mask(mask).bool()[:, -length:])
        if read is None or isinstance(read, str):
            return Padding()
        if is_text(read):
            return Padding(neither=self.text.fitted(read, prepend_bos, padding_side).real)
        cache = given.get("past_kv_cache", past_kv_cache)
        return self._inputs.padding(self._inputs.tokens(read), prepend_bos, padding_side, cache)

    def has_output(
        self, *args: Any, return_type: Any = "logits", stop_at_layer: int | None = None, **rest: Any
    ) -> bool:
        """Whether `forward` returns anything, or fills a cache, for these arguments."""
        given = dict(zip(FORWARD_ARGUMENTS, args, strict=False))
        given = {"return_type": return_type, "stop_at_layer": stop_at_layer} | rest | given
        return any(given.get(one) is not None for one in ("return_type", "stop_at_layer", "past_kv_cache"))


FORWARD_ARGUMENTS = tuple(inspect.signature(Network.forward).parameters)[1:]
NAMES = frozenset(FORWARD_ARGUMENTS)


def _embedding_point(cfg: HookedTransformerConfig) -> HookPoint:
    """A hook on embeddings, which may be of another width than the stream."""
    if cfg.d_embed:
        return HookPoint("batch pos d_embed", d_embed=cfg.d_embed)
    return HookPoint("batch pos d_model", d_model=cfg.d_model)
