"""`HookedTransformer` with what code for TransformerLens does to it: a config that it edits, a tokenizer that pads.

What is an error otherwise and was none there, is none: a hook that a pass never comes by is passed over, and text that
is longer than the context is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from interp_hooks.compat.attributes import add_attributes
from interp_hooks.compat.components import callable_as_there
from interp_hooks.compat.config import HookedTransformerConfig
from interp_hooks.compat.rotary import QwenPositions, as_in_qwen
from interp_hooks.compat.texts import get_tokenizer_with_bos
from interp_hooks.errors import BadInput
from interp_hooks.hooks.points import HookPoint, NameFilter
from interp_hooks.model import config as core
from interp_hooks.model import transformer
from interp_hooks.model.network import Embedded
from interp_hooks.model.tokenization import Encoded, PaddingSide, TextInterface, check_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENDS = "<|endoftext|>"  # EOS, and with it BOS and padding, of a tokenizer that has none


class _CutText(TextInterface):
    """Text that is cut where the model's context ends."""

    def fitted(
        self, text: str | Sequence[str], prepend_bos: bool | None = None, padding_side: PaddingSide | None = None
    ) -> Encoded:
        return self.encode(text, prepend_bos, padding_side, truncate=True)


class HookedTransformer(transformer.HookedTransformer):
    """A `HookedTransformer` whose `cfg` takes assignments, and whose tokenizer has a BOS, an EOS and a padding token.

    Arguments are those of `interp_hooks.HookedTransformer`; so is everything else.
    """

    _text: Any = None  # until it is set

    def __init__(
        self,
        cfg: core.HookedTransformerConfig | Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase | None = None,
        move_to_device: bool = True,
        default_padding_side: PaddingSide | None = None,
    ) -> None:
        cfg = HookedTransformerConfig.unwrap(cfg)
        super().__init__(cfg, tokenizer, move_to_device, default_padding_side)
        if self.rotary is not None and as_in_qwen(self.cfg):
            self.rotary = QwenPositions(self.cfg)
        callable_as_there(self)
        add_attributes(self)
        if isinstance(cfg, HookedTransformerConfig) and cfg.ungroup_grouped_query_attention:
            self.set_ungroup_grouped_query_attention(True)

    @property
    def cfg(self) -> HookedTransformerConfig:
        """The config; assignments to its fields change the model, or are refused."""
        if (view := self.__dict__["_cfg"]).model is not self:
            view = self.__dict__["_cfg"] = HookedTransformerConfig.of(view, self)
        return view

    @cfg.setter
    def cfg(self, cfg: core.HookedTransformerConfig) -> None:
        self.__dict__["_cfg"] = HookedTransformerConfig.of(cfg, self)

    @property
    def device(self) -> torch.device:
        """Where the embedding lies; in a subclass that reads text only, and has no parts, what the config says."""
        return super().device if "_modules" in self.__dict__ else torch.device(str(self.cfg.device))

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The HuggingFace tokenizer that the model reads text with, or None; an assignment is `set_tokenizer`."""
        return super().tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._read_text_with(tokenizer, None)

    def input_to_embed(self, input: Any, *args: Any, **options: Any) -> Embedded:
        """As `interp_hooks.HookedTransformer.input_to_embed`, with a mask where all tokens are real, too."""
        found = super().input_to_embed(input, *args, **options)
        if found.attention_mask is not None or self.tokenizer is None:
            return found
        return found._replace(attention_mask=torch.ones_like(found.tokens, dtype=torch.bool))

    def get_token_position(self, single_token: Any, input: Any, *args: Any, **options: Any) -> int:
        """As `interp_hooks.HookedTransformer.get_token_position`; ids may be whole numbers that are floats."""
        whole = isinstance(input, torch.Tensor) and input.is_floating_point() and torch.equal(input, input.round())
        return super().get_token_position(single_token, input.long() if whole else input, *args, **options)

    def get_parameter(self, target: str) -> torch.nn.Parameter:
        """As `torch.nn.Module.get_parameter`; of position embeddings all rows, some of which `W_pos` leaves out."""
        owner, _, name = target.rpartition(".")
        found = self.get_submodule(owner)._parameters.get(name)
        return super().get_parameter(target) if found is None else found

    def points(self, wanted: NameFilter) -> list[HookPoint]:
        """As `interp_hooks.HookedTransformer.points`; a function of names passes by what flags leave out.

        What is in a cache without a filter only after `set_use_attn_result(True)` and its like is selected by its name,
        or by a function that selects nothing else.
        """
        found = super().points(wanted)
        return [point for point in found if point.collected] or found if callable(wanted) else found

    def _check_fired(self, attached: Any) -> None:
        """Nothing: a function at a point that the pass did not come by is passed over."""

    def _eos_ids(self, stop_at_eos: bool, eos_token_id: int | Sequence[int] | None) -> list[int]:
        ends = super()._eos_ids(stop_at_eos, eos_token_id)
        if stop_at_eos and not ends:
            raise BadInput("stop_at_eos=True needs an eos_token_id where there is no tokenizer that has one")
        return ends

    def setup(self) -> None:
        """Name every module after its place in this one."""
        super().setup()
        for name, module in self.mod_dict.items():
            if not hasattr(module, "name"):  # dictionaries that were spliced in have names of their own
                module.name = name  # pyright: ignore

    def _read_text_with(self, tokenizer: PreTrainedTokenizerBase | None, side: PaddingSide | None) -> None:
        super()._read_text_with(tokenizer if tokenizer is None else self._complete(tokenizer), side)
        self._text.__class__ = _CutText

    @staticmethod
    def _complete(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """A copy of a tokenizer that has an EOS, and pads with it and begins texts with it if it has no other token."""
        check_tokenizer(tokenizer)
        tokenizer = copy.copy(get_tokenizer_with_bos(tokenizer))
        if tokenizer.eos_token is None:
            tokenizer.eos_token = ENDS
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.bos_token is None:
            tokenizer.bos_token = tokenizer.eos_token
        return tokenizer
