"""`TransformerBridge`, under which TransformerLens 3 and 4 load checkpoints: a `HookedTransformer`, loaded as it is.

    model = TransformerBridge.boot_transformers("gpt2")
    model.enable_compatibility_mode()           # processes the weights, as HookedTransformer.from_pretrained does

Here every family is converted into one architecture, so that nothing is bridged: hooks have the names that they have
there in compatibility mode, before it too. A bridge's own names (`HOOKS`) are understood where one hooks; caches have
the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from jaxtyping import Int
from torch import Tensor

from interp_hooks.compat.classes import HookedEncoder
from interp_hooks.compat.loading import get_pretrained_model_config
from interp_hooks.compat.model import HookedTransformer
from interp_hooks.compat.next_sentence import BertNextSentencePrediction
from interp_hooks.errors import BadInput
from interp_hooks.hooks.points import HookPoint

HOOKS = {
    r"(blocks\.\d+)\.hook_in": r"\1.hook_resid_pre",
    r"(blocks\.\d+)\.hook_out": r"\1.hook_resid_post",
    r"(blocks\.\d+)\.(attn|mlp)\.hook_out": r"\1.hook_\2_out",
    r"(blocks\.\d+\.attn)\.([qkv])\.hook_out": r"\1.hook_\2",
    r"(blocks\.\d+\.attn)\.o\.hook_in": r"\1.hook_z",
    r"(blocks\.\d+\.mlp)\.in\.hook_out": r"\1.hook_pre",
    r"(blocks\.\d+\.mlp)\.out\.hook_in": r"\1.hook_post",
    r"(pos_)?embed\.hook_out": r"hook_\1embed",
}
"""A bridge's names of hooks, and what they are called here."""


class TransformerBridge(HookedTransformer):
    """A `HookedTransformer` with a bridge's calls; an encoder's is a `HookedEncoder` too.

    >>> from interp_hooks.compat.bridge import TransformerBridge
    >>> bridge = TransformerBridge.boot_transformers("ioi-tiny", device="cpu")
    >>> bridge.cfg.normalization_type
    'LN'
    >>> bridge.enable_compatibility_mode()
    >>> bridge.cfg.normalization_type
    'LNPre'
    """

    @classmethod
    def boot_transformers(
        cls,
        model_name: str,
        hf_config_overrides: Any = None,
        device: Any = None,
        dtype: Any = None,
        tokenizer: Any = None,
        load_weights: bool = True,
        trust_remote_code: bool = False,
        model_class: Any = None,
        hf_model: Any = None,
        device_map: Any = None,
        n_devices: Any = None,
        max_memory: Any = None,
        **options: Any,
    ) -> TransformerBridge:
        """`HookedTransformer.from_pretrained_no_processing`, in float32 by default.

        An encoder with `model_class=transformers.BertForNextSentencePrediction` answers for pairs of sentences, as
        `BertNextSentencePrediction`. Other options (`n_ctx`, `revision`, `checkpoint_index`, `checkpoint_value`) are
        those of `from_pretrained`.

        Raises:
            CheckpointError: as `from_pretrained`.
            BadInput: another config or class than the checkpoint's own, no weights, or a number of devices.
        """
        pairs = getattr(model_class, "__name__", None) == "BertForNextSentencePrediction"
        refused = dict(
            hf_config_overrides=hf_config_overrides,
            model_class=None if pairs else model_class,
            n_devices=None if n_devices == 1 else n_devices,
            max_memory=max_memory,
            load_weights=None if load_weights else False,
        )
        if given := {name: value for name, value in refused.items() if value is not None}:
            raise BadInput(
                f"a checkpoint is converted as it is; got {given}: change the model's config and hand it over as "
                "hf_model, or place layers with device_map; of classes, BertForNextSentencePrediction is known"
            )
        if pairs:
            cls = _PairsBridge
        elif hf_model is None and get_pretrained_model_config(model_name).attention_dir == "bidirectional":
            cls = _EncoderBridge
        options |= dict(device=device, dtype=dtype or "float32", tokenizer=tokenizer, hf_model=hf_model)
        options |= dict(device_map=device_map) if device_map is not None else {}
        options |= dict(trust_remote_code=True) if trust_remote_code else {}
        return cls.from_pretrained_no_processing(model_name, **options)

    def enable_compatibility_mode(
        self, disable_warnings: bool = False, no_processing: bool = False, **processing: bool
    ) -> None:
        """Process the weights with `process_weights_(**processing)`, unless told not to."""
        if not no_processing:
            self.process_weights_(**processing)

    def tl_parameters(self) -> dict[str, Tensor]:
        """The parameters by the names that they have in a `HookedTransformer`."""
        return dict(self.named_parameters())

    def tl_named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """What `tl_parameters` has, one after the other."""
        return iter(self.tl_parameters().items())

    def _point(self, name: str) -> HookPoint:
        return super()._point(_ours(name) if isinstance(name, str) and name not in self.hook_dict else name)

    def process_weights(self, verbose: bool = False, **processing: bool) -> None:
        """`process_weights_(**processing)`."""
        self.process_weights_(**processing)


class _EncoderBridge(TransformerBridge, HookedEncoder):
    """A bridge to an encoder, whose tokenizer stays as it is."""


class _PairsBridge(_EncoderBridge):
    """A bridge to an encoder that says whether one sentence follows another, as `BertNextSentencePrediction`."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input: Sequence[str] | Int[Tensor, "batch pos"],
        return_type: Literal["logits", "predictions"] | None = "logits",
        token_type_ids: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Int[Tensor, "batch pos"] | None = None,
    ) -> Any:
        """Logits [batch, 2], the answer in words, or None.

        Raises:
            BadInput: not two sentences, or token ids without their types.
        """
        return BertNextSentencePrediction(self).forward(input, return_type, token_type_ids, attention_mask)


def _ours(name: str) -> str:
    """The name of a hook here, of one that a bridge has."""
    return next((re.sub(theirs, ours, name) for theirs, ours in HOOKS.items() if re.fullmatch(theirs, name)), name)
