"""Models from files and back: the methods of a model that `interp_hooks.loading` does the work of.

    from_pretrained     a HuggingFace checkpoint, converted and processed; or a folder of save_pretrained
    from_state_dict     weights that research code saved
    save_pretrained     this model, edits included, as a folder of this package
    load_state_dict     other weights into this model
    to_hf, verify       back to HuggingFace, and a comparison with it

`interp_hooks.loading` knows every architecture and is imported only when one of them is called.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.tokens import PaddingSide

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self

NO_PROCESSING: dict[str, Any] = dict.fromkeys(
    (
        *("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"),
        "refactor_factored_attn_matrices",
    ),
    False,
)


class Checkpoints:
    """Loading and saving."""

    cfg: HookedTransformerConfig
    _report: list[str]

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

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
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        move_to_device: bool = True,
        n_devices: int = 1,
        fold_value_biases: bool = True,
        n_ctx: int | None = None,
        first_n_layers: int | None = None,
        revision: str | None = None,
        checkpoint_index: int | None = None,
        checkpoint_value: int | None = None,
        checkpoint_label: int | None = None,
        default_prepend_bos: bool | None = None,
        default_padding_side: PaddingSide | None = None,
        ignore_config: Sequence[str] = (),
        **hf_kwargs: Any,
    ) -> Self:
        """Convert a HuggingFace checkpoint: a folder, a hub id, an alias ("pythia-70m") or a bundled name ("ioi-tiny").

        With `hf_model` the weights come from that object, which stays as it is, and nothing is looked up; `model_name`
        is then only a name. The processing flags change the weights but no probability; what was applied or could
        not be is told by `processing_report()`. `dtype` is float32 by default, `device` the GPU if there is one, or
        the CPU without `move_to_device`. `ignore_config` names configuration attributes that the converter does not
        know and that you know to be harmless. Texts are padded on the tokenizer's own side unless
        `default_padding_side` says another. Other keyword arguments go to `transformers`.

        `checkpoint_value` is a step of the training of a Pythia or Stanford CRFM model or of the bundled "mod-add",
        `checkpoint_index` counts those of which there is a checkpoint (`checkpoint_labels(model_name)` of
        `interp_hooks.loading.training_steps` lists them); `checkpoint_label` is another name of `checkpoint_value`.

        A folder of `save_pretrained` loads likewise; there `dtype` and padding side are by default those that were
        saved, and no step is applied that had been applied before. Checkpoints of a training of your own are models
        saved in that folder as "step0", "step500", ...: `model.save_pretrained(f"{folder}/step{step}")` while it goes
        on, and `model.save_pretrained(folder)` at the end.

        Raises:
            CheckpointError: not found, not a checkpoint, or not convertible; the message says which and what to do.
        """
        from interp_hooks.loading import native
        from interp_hooks.loading.load import LoadOptions, Processing, load_pretrained
        from interp_hooks.loading.source import is_native
        from interp_hooks.loading.training_steps import step_revision

        if n_devices != 1:
            raise BadInput(f"n_devices={n_devices}: to spread a model, pass device_map='auto' (or a map of devices)")
        steps = [one for one in (checkpoint_index, checkpoint_value, checkpoint_label) if one is not None]
        if steps:
            if len(steps) > 1 or revision is not None or hf_model is not None:
                raise BadInput(
                    "checkpoint_index, checkpoint_value (or checkpoint_label), revision and hf_model each say which "
                    "weights to take: give one of them"
                )
            step = checkpoint_label if checkpoint_value is None else checkpoint_value
            revision = step_revision(model_name, index=checkpoint_index, step=step)
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
            device=device if move_to_device else "cpu",
            n_ctx=n_ctx,
            first_n_layers=first_n_layers,
            revision=revision,
            default_prepend_bos=default_prepend_bos,
            default_padding_side=default_padding_side,
            ignore_config=tuple(ignore_config),
            hf_kwargs=hf_kwargs,
        )
        if hf_model is None and is_native(model_name):
            return cast("Any", native.load(options, processing))
        return cast("Any", load_pretrained(cast("Any", cls), options, processing))

    @classmethod
    def from_pretrained_no_processing(cls, model_name: str, **kwargs: Any) -> Self:
        """`from_pretrained` with every processing step off: the checkpoint's own weights, and its own logits."""
        return cls.from_pretrained(model_name, **(NO_PROCESSING | kwargs))

    @classmethod
    def from_state_dict(
        cls,
        checkpoint: Mapping[str, Any] | str,
        cfg: HookedTransformerConfig | Mapping[str, Any] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        ignore_config: Sequence[str] = (),
    ) -> Self:
        """A model from weights that are in no HuggingFace format, given as a mapping or as a file that holds one.

        Recognised are state dicts with this package's own keys ("blocks.0.attn.W_Q", as TransformerLens saved them
        too), with a `cfg`; nanoGPT checkpoints, which bring their own; and minGPT state dicts, with a `cfg`. A mapping
        as `cfg` may be what TransformerLens' `cfg.to_dict()` gave. `dtype` is that of the config unless given, `device`
        the GPU if there is one; `ignore_config` names settings that are not known here and that change nothing.

        Raises:
            CheckpointError: none of these, or weights that do not fit the config.
        """
        from interp_hooks.loading.formats import from_checkpoint

        options = dict[str, Any](dtype=dtype, device=device, ignore_config=ignore_config)
        return cast("Any", from_checkpoint(checkpoint, cfg, tokenizer, **options))

    def processing_report(self) -> list[str]:
        """One line for each processing step: applied, or skipped and why."""
        return list(self._report)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, config, processing report and tokenizer to a folder that `from_pretrained` loads.

        Raises:
            CheckpointError: the folder holds a HuggingFace checkpoint, which it would then be taken for.
        """
        from interp_hooks.loading.native import save

        save(cast("Any", self), Path(folder))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy weights into this model, or, if some do not fit, none.

        Keys are those of `state_dict()`. Attention masks and rotary tables of old files are passed over, and grouped
        keys may have the names that TransformerLens gives them. A gated MLP without `b_gate` is TransformerLens': its
        `b_in` is added after the product there, so that what it writes goes into `b_out`. Without `strict`, keys may
        be missing or left over; which are is returned.

        Raises:
            WeightMismatch: keys left over or missing, a tensor of another shape, or such a `b_in` without W_out or
                b_out.
        """
        from interp_hooks.loading.native import own_weights

        fitting = own_weights(cast("Any", self), state_dict, strict)
        return cast("Any", super()).load_state_dict(fitting, strict, assign)

    def process_weights_(
        self,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        refactor_factored_attn_matrices: bool = False,
        *,
        fold_value_biases: bool = True,
    ) -> None:
        """Process the weights in place, as `from_pretrained` does; `processing_report()` tells what was done.

        Raises:
            ConfigError: as `from_pretrained`; nothing is changed.
        """
        from interp_hooks.loading.folding import Processing, process

        processing = Processing(
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )
        self._report = process(cast("Any", self), processing)

    def load_and_process_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        fold_value_biases: bool = True,
        refactor_factored_attn_matrices: bool = False,
    ) -> None:
        """Fill this model with the weights of a state dict in its own (or TransformerLens') names, processed.

        Whether norms have gains is the state dict's business. It is not changed, and if anything is wrong with it,
        neither is the model.

        Raises:
            CheckpointError: tensors left over, missing, or of another shape.
            ConfigError: as `process_weights_`.
        """
        from interp_hooks.loading.folding import Processing
        from interp_hooks.loading.processing import load_and_process

        processing = Processing(
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )
        self._report = load_and_process(cast("Any", self), state_dict, processing)

    def fold_layer_norm(
        self, state_dict: Mapping[str, Tensor], fold_biases: bool | None = None, center_weights: bool | None = None
    ) -> dict[str, Tensor]:
        """A state dict of this architecture with its norms folded; see `interp_hooks.loading.processing`."""
        from interp_hooks.loading.processing import fold_layer_norm

        return fold_layer_norm(self.cfg, state_dict, fold_biases, center_weights)

    def center_writing_weights(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this architecture whose writers of the stream have mean zero."""
        return self._one_step(state_dict, "center_writing_weights")

    def center_unembed(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this architecture whose logits have mean zero."""
        return self._one_step(state_dict, "center_unembed")

    def fold_value_biases(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this architecture with its value biases in b_O."""
        return self._one_step(state_dict, "fold_value_biases")

    def refactor_factored_attn_matrices(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this architecture with W_Q W_K^T split evenly, and the rows of W_O orthonormal."""
        return self._one_step(state_dict, "refactor_factored_attn_matrices")

    def _one_step(self, state_dict: Mapping[str, Tensor], step: str) -> dict[str, Tensor]:
        from interp_hooks.loading.processing import one_step

        return one_step(self.cfg, state_dict, step)

    def to_hf(self) -> PreTrainedModel:
        """A HuggingFace model of the checkpoint's own architecture with this model's weights, edits included.

        Raises:
            CheckpointError: the weights cannot be expressed there: this model was not converted from a checkpoint, or
                processing changed what that architecture has no parameter for (load with
                `from_pretrained_no_processing`).
        """
        from interp_hooks.loading.export import to_hf

        return to_hf(cast("Any", self))

    def verify(self, hf_model: PreTrainedModel, tokens: Int[Tensor, "batch pos"] | None = None) -> Any:
        """Compare with the HuggingFace model on `tokens` (default: random ones); a `Report` that prints as a table."""
        from interp_hooks.loading.parity import verify

        return verify(cast("Any", self), hf_model, tokens)


def named_tokenizer(name: str) -> Any:
    """The tokenizer that `transformers` has under a name or in a folder.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    from interp_hooks.loading.source import read_tokenizer

    return read_tokenizer(name)
