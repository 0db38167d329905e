"""Classes of TransformerLens that are one class here, with the arguments they had there.

`HookedTransformer` is encoders too, and `Norm` is every norm: these add what code written for the others calls.
What such code names in its annotations is here too, and the base class of its own MLPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_hooks.compat.attention import sized
from interp_hooks.compat.config import HookedTransformerConfig
from interp_hooks.compat.model import HookedTransformer
from interp_hooks.compat.next_sentence import BertNSPHead, BertPooler
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.hooks.points import Directions, Hook, HookPoint
from interp_hooks.loading.pairs import head_of_pairs
from interp_hooks.model import config as core
from interp_hooks.model import factored
from interp_hooks.model.components.mlp import MLP, GatedMLP, activation
from interp_hooks.model.components.moe import MoE
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.config import NormalizationType
from interp_hooks.model.initialization import initialize
from interp_hooks.model.padding import Padding
from interp_hooks.model.transformer import NO_PROCESSING
from interp_hooks.studies import svd

BERT = dict(attention_dir="bidirectional", norm_placement="post", embed_norm_type="LN", n_token_types=2, mlm_head=True)


class HookedEncoder(HookedTransformer):
    """A `HookedTransformer` loaded as it is, whose `return_type` may be "predictions": the words at [MASK] tokens."""

    def __init__(self, cfg: Any, tokenizer: Any = None, move_to_device: bool = True, **options: Any) -> None:
        cfg = HookedTransformerConfig.unwrap(cfg)
        if cfg.attention_dir != "bidirectional":  # of a decoder, as code without a checkpoint gives it
            cfg = cfg.replace(**BERT)
        super().__init__(cfg, tokenizer, move_to_device, **options)

    _complete = staticmethod(lambda tokenizer: tokenizer)  # it has [CLS] and [SEP] around a text

    @classmethod
    def from_pretrained(cls, model_name: str, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`HookedTransformer.from_pretrained`, by default without processing."""
        return super().from_pretrained(model_name, **(NO_PROCESSING | kwargs))

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input: str | Sequence[str] | Tensor,
        return_type: str | None = "logits",
        token_type_ids: Int[Tensor, "batch pos"] | None = None,
        one_zero_attention_mask: Int[Tensor, "batch pos"] | None = None,
        **rest: Any,
    ) -> Any:
        """As `HookedTransformer.forward`; `one_zero_attention_mask` is its `attention_mask`.

        `return_type="predictions"` gives the most likely word at the one [MASK] token of the input, or, where there are
        more, a list "Prediction 0: word", "Prediction 1: word", ...

        Raises:
            BadInput: as there, or predictions for an input without a [MASK].
        """
        rest["token_type_ids"] = token_type_ids
        if one_zero_attention_mask is not None:
            rest["attention_mask"] = one_zero_attention_mask
        if return_type != "predictions":
            return super().forward(input, cast("Any", return_type), **rest)
        tokens = input if isinstance(input, Tensor) else self.to_tokens(input)
        tokenizer = self.text.tokenizer
        at_mask = tokens == tokenizer.mask_token_id
        if not bool(at_mask.any()):
            raise BadInput(f"predictions are made at {tokenizer.mask_token} tokens; the input has none")
        logits = super().forward(input, "logits", **rest)
        words = [tokenizer.decode([token]) for token in logits[at_mask].argmax(-1).tolist()]
        return words[0] if len(words) == 1 else [f"Prediction {i}: {word}" for i, word in enumerate(words)]

    def encoder_output(
        self,
        tokens: Int[Tensor, "batch pos"],
        token_type_ids: Int[Tensor, "batch pos"] | None = None,
        one_zero_attention_mask: Int[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the last layer."""
        given = dict[str, Any](token_type_ids=token_type_ids, attention_mask=one_zero_attention_mask)
        return super().forward(tokens, stop_at_layer=self.cfg.n_layers, **given)

    def __getattr__(self, name: str) -> Any:
        """`pooler` and `nsp_head`, of sentence pairs, are read from the checkpoint when they are first needed."""
        if name in ("pooler", "nsp_head") and name not in self._modules:
            weights = [weight.to(self.device, self.dtype) for weight in head_of_pairs(self.cfg.model_name)]
            self.pooler, self.nsp_head = BertPooler(*weights[:2]), BertNSPHead(*weights[2:])
            self.setup()
        return super().__getattr__(name)

    def padding_of(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input: Any = None,
        return_type: Any = None,
        token_type_ids: Any = None,
        one_zero_attention_mask: Tensor | None = None,
        **rest: Any,
    ) -> Padding:
        """As `HookedTransformer.padding_of`, of these arguments of `forward`."""
        if one_zero_attention_mask is not None:
            rest["attention_mask"] = one_zero_attention_mask
        return super().padding_of(input, **rest)


class _OneKind(type):
    """`isinstance` tells a `Norm` by its kind, which changes when a model is folded."""

    kind: NormalizationType

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Norm) and instance.kind == cls.kind

    def __call__(cls, cfg: Any, length: int | None = None) -> Norm:
        return cls.of(HookedTransformerConfig.unwrap(cfg), length)

    @checked
    def of(cls, cfg: core.HookedTransformerConfig, length: int | None = None) -> Norm:
        if length is not None and length < 1:
            raise BadInput(f"length must be at least 1, got {length}")
        norm = Norm(cls.kind, (length or cfg.d_model,), cfg.eps, gain_offset=cfg.norm_gain_offset)
        with torch.no_grad():
            initialize(norm, cfg.init_mode, 0.0, None)
        return norm


class LayerNorm(metaclass=_OneKind):
    """`LayerNorm(cfg, length=None)`: a `Norm` with mean, gain and bias."""

    kind: ClassVar[NormalizationType] = "LN"


class LayerNormPre(metaclass=_OneKind):
    """A LayerNorm without gain and bias, which folding moved into the weights."""

    kind: ClassVar[NormalizationType] = "LNPre"


class RMSNorm(metaclass=_OneKind):
    """Without mean and bias."""

    kind: ClassVar[NormalizationType] = "RMS"


class RMSNormPre(metaclass=_OneKind):
    """Without mean, gain and bias."""

    kind: ClassVar[NormalizationType] = "RMSPre"


class _AnyMatrix(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, factored.FactoredMatrix)


class FactoredMatrix(factored.FactoredMatrix, metaclass=_AnyMatrix):
    """A `FactoredMatrix` of which `M[rows, columns]` with two lists is the part at all pairs of both."""

    def _check_lists(self, of_batch: int) -> None:
        if of_batch:
            super()._check_lists(of_batch)


class SVDInterpreter(svd.SVDInterpreter):
    """Our `SVDInterpreter`; a `head_index` for what belongs to a whole layer is passed over."""

    def get_singular_vectors(
        self, vector_type: svd.VectorType, layer_index: int, num_vectors: int = 10, head_index: int | None = None
    ) -> Float[Tensor, "d_vocab 1 num_vectors"]:
        """As `interp_hooks.SVDInterpreter.get_singular_vectors`.

        Raises:
            BadInput: there is no such layer, head or number of vectors.
        """
        if vector_type == "OV" and head_index is None:
            raise BadInput(f"Head index optional only for w_in and w_out, got {vector_type}")
        for name, index, count in (("Layer", layer_index, self.cfg.n_layers), ("Head", head_index, self.cfg.n_heads)):
            if index is not None and not 0 <= index < count:
                raise BadInput(f"{name} index must be between 0 and {count - 1} but got {index}")
        of_layer = vector_type in ("w_in", "w_out")
        return super().get_singular_vectors(vector_type, layer_index, num_vectors, None if of_layer else head_index)


class HookIntrospectionMixin:
    """Lists the functions that are attached to the hook points of any class with a `hook_dict`."""

    hook_dict: dict[str, HookPoint]

    def list_hooks(
        self, name_filter: Any = None, dir: Directions = "both", including_permanent: bool = True
    ) -> dict[str, list[Hook]]:
        """The functions by the name of their hook point; points without any are left out."""
        if name_filter is None or callable(name_filter):
            wanted = name_filter or (lambda name: True)
        else:
            wanted = ({name_filter} if isinstance(name_filter, str) else {*name_filter}).__contains__
        among = {
            name: [hook for hook in point.hooks if hook.is_among(dir, including_permanent, None)]
            for name, point in self.hook_dict.items()
            if wanted(name)
        }
        return {name: hooks for name, hooks in among.items() if hooks}


SingleLoss = Float[Tensor, ""]
LossPerToken = Float[Tensor, "batch pos-1"]
Loss = SingleLoss | LossPerToken


class _AnyMLP(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        ours = cls is CanBeUsedAsMLP and isinstance(instance, MLP | GatedMLP | MoE)
        return ours or super().__instancecheck__(instance)


class CanBeUsedAsMLP(nn.Module, metaclass=_AnyMLP):
    """What a class of one's own derives from to stand where an MLP does; the MLPs of models are instances too.

    Raises:
        ConfigError: a config without `d_mlp`.
    """

    act_fn: Any
    hook_mid: HookPoint | None
    ln: Any

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg = HookedTransformerConfig.unwrap(cfg)
        self.d_mlp = sized(self.cfg, "d_mlp")

    def forward(self, x: Float[torch.Tensor, "batch pos d_model"]) -> Float[torch.Tensor, "batch pos d_model"]:
        """What it writes for what it reads; here, the same."""
        return x

    def select_activation_function(self) -> None:
        """Set `act_fn` as the config says, and `hook_mid` and `ln` where a norm follows it."""
        self.act_fn = activation(self.cfg)
        if self.cfg.normalizes_neurons:
            self.hook_mid = HookPoint("batch pos neuron", neuron=self.d_mlp)
            self.ln = (LayerNorm if self.cfg.normalization_type == "LN" else LayerNormPre)(self.cfg, self.d_mlp)
