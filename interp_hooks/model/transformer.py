"""`HookedTransformer`: what users call beside a pass, on top of the network that computes it.

    from_pretrained     a HuggingFace checkpoint, converted and processed; or a folder of save_pretrained
    from_state_dict     weights that research code saved
    save_pretrained     this model, edits and spliced modules included, as a folder of this package
    load_state_dict     other weights into this model
    to_hf, verify       back to HuggingFace, and a comparison with it

The work on checkpoints is done by `interp_hooks.loading`, which knows every architecture, builds models, and is
imported only when one of these methods is called: the one exception to the rule that imports point down.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from interp_hooks.errors import BadInput, CheckpointError, ConfigError
from interp_hooks.errors.arguments import as_device, checked, told
from interp_hooks.model.config import HookedTransformerConfig, as_dtype
from interp_hooks.model.generate import Generation
from interp_hooks.model.initialization import initialize
from interp_hooks.model.offloading import Files, offload
from interp_hooks.model.switches import Switches
from interp_hooks.model.tokenization import PaddingSide
from interp_hooks.model.tokens import TextMethods
from interp_hooks.model.weights import StackedWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self

STEPS = (
    *("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"),
    "refactor_factored_attn_matrices",
)
NO_PROCESSING: dict[str, Any] = dict.fromkeys(STEPS, False)


class HookedTransformer(Generation, TextMethods, StackedWeights, Switches):
    """A transformer with a named hook point at every step: a decoder, or an encoder like BERT.

    `HookedTransformer.from_pretrained` converts a checkpoint. `HookedTransformer(cfg)` is a model with random weights,
    drawn as `interp_hooks.model.initialization` tells, from torch's global generator unless the config has a seed. They
    lie on the config's device, or on the CPU without `move_to_device`. `hook_table()` lists all hook points.

    All attributes are those of `Network`, which computes the passes. The classes between the two only sort methods by
    subject (text, generation, stacked weights, switches) and keep nothing of their own.

        >>> model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
        >>> logits, cache = model.run_with_cache("When Mary and John went to the store, John gave a drink to")
        >>> cache["pattern", 0].shape[1] == model.cfg.n_heads
        True

    Raises:
        ConfigError: a config that contradicts itself, or without `d_vocab` and a tokenizer to take it from.
        TokenError: a tokenizer without vocabulary.
    """

    def __init__(
        self,
        cfg: HookedTransformerConfig | Mapping[str, Any],
        tokenizer: PreTrainedTokenizerBase | None = None,
        move_to_device: bool = True,
        default_padding_side: PaddingSide | None = None,
    ) -> None:
        on_meta = torch.empty(0).is_meta  # then somebody else fills this model, and has a tokenizer
        if not isinstance(cfg, HookedTransformerConfig | Mapping):
            raise ConfigError(f"cfg must be a HookedTransformerConfig or a mapping of its fields, got {told(cfg)}")
        cfg = cfg if isinstance(cfg, HookedTransformerConfig) else HookedTransformerConfig.from_dict(cfg)
        if tokenizer is None and cfg.tokenizer_name is not None and not on_meta:
            from interp_hooks.loading.checkpoints import read_tokenizer

            tokenizer = read_tokenizer(cfg.tokenizer_name)
        if cfg.d_vocab == -1:
            if tokenizer is None:
                raise ConfigError(
                    "Must provide a tokenizer if d_vocab is not provided: give d_vocab=, tokenizer= or tokenizer_name="
                )
            cfg = cfg.replace(d_vocab=max(tokenizer.get_vocab().values()) + 1)
        super().__init__(cfg, tokenizer, default_padding_side)
        self.set_as_configured()
        dtype = as_dtype(cfg.dtype)
        if on_meta:
            nn.Module._apply(self, lambda weight: weight.to(dtype))  # the config's device stays: there they will go
            return
        self.to(cfg.device if move_to_device else "cpu", dtype)
        if cfg.init_weights:
            self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights anew by `cfg.init_mode`; see `interp_hooks.model.initialization`."""
        cfg = self.cfg
        initialize(self, cfg.init_mode, cfg.initializer_range, cfg.seed)

    def to(self, *args: Any, print_details: bool = False, **kwargs: Any) -> Self:
        """As `torch.nn.Module.to`; the config follows. Nothing is printed, whatever `print_details` says.

        Raises:
            BadInput: a device that torch cannot use here.
        """
        for where in (*args[:1], kwargs.get("device")):
            if isinstance(where, str | torch.device):
                as_device(where)
        return super().to(*args, **kwargs)

    def mps(self) -> Self:
        """Move to Apple's GPU."""
        return self.to("mps")

    # -------------------------------------------------------------------------------------------- loading and saving

    @classmethod
    def from_pretrained(
        cls,
        model_name: str | os.PathLike[str],
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
        tp: int = 1,
        offload_folder: str | Path | None = None,
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
        allow_nonfinite: bool = False,
        splices: Mapping[str, nn.Module] | None = None,
        merge_adapters: bool = False,
        **hf_kwargs: Any,
    ) -> Self:
        """Convert a HuggingFace checkpoint: a folder, a hub id, an alias ("pythia-70m") or a bundled name ("ioi-tiny").

        A GGUF file is given by its path, or as `gguf_file=` beside its folder or hub id; its weights are dequantised.

        With `hf_model` the weights come from that object, which stays as it is, and nothing is looked up; `model_name`
        is then only a name. The processing flags change the weights but no probability; `processing_report()` tells
        what was applied and what could not be. `dtype` is float32 by default, `device` the GPU if there is one, or
        the CPU without `move_to_device`. `ignore_config` names configuration attributes that the converter does not
        know and that you know to be harmless. Weights that are nan or infinite are refused unless `allow_nonfinite`.
        `merge_adapters` adds the adapters of peft, in `hf_model` or in a folder that holds one, to the weights.
        With `offload_folder`, the weights of blocks lie in files of that folder, and in memory only while their layer
        computes (see `interp_hooks.model.offloading`); the model is then on the CPU. Beside it, `device_map="auto"`,
        with `max_memory={"cpu": "20GB"}` or what is free, keeps as many blocks in memory as fit, and a map from modules
        to "cpu" and "disk" says which. `tp` is the number of processes
        (ranks) over which heads, neurons and experts are spread, under torchrun: every rank calls this, and has the
        whole model in the memory of the CPU, or in `offload_folder`, before it keeps its part (see
        `interp_hooks.model.ranks`).
        Texts are padded on the tokenizer's own side unless `default_padding_side` says another. Other keyword
        arguments go to `transformers`.

        `checkpoint_value` (or `checkpoint_label`) is a step of the training of a Pythia or Stanford CRFM model or of
        the bundled "mod-add" and "induction-steps"; `checkpoint_index` is its place among the steps of which there is a
        checkpoint, which `checkpoint_labels(model_name)` of `interp_hooks.loading.training_steps` lists.

        The models that TransformerLens' author trained ("attn-only-1l", "gelu-2l", "solu-3l-pile", "othello-gpt", ...)
        have a format of their own, which loads likewise; see `interp_hooks.loading.lens_checkpoints`.

        A folder of `save_pretrained` loads likewise. Its `dtype` and padding side are by default those that were
        saved, and a step that had been applied before is not applied again. To keep checkpoints of a training of your
        own, save the model in that folder as "step0", "step500", ... (`model.save_pretrained(f"{folder}/step{step}")`)
        while it goes on, and as `model.save_pretrained(folder)` at the end. If modules were spliced into the saved
        model, `splices` must give modules of the same kind, by the name of their hook point
        (`splices={"blocks.1.hook_mlp_out": sae}`); their weights are then read from the folder.

        Raises:
            CheckpointError: not found, not a checkpoint, or not convertible; the message says which and what to do.
            BadInput: a device that torch cannot use here, or an argument that nobody takes.
            ImportError: a package that reads a GGUF file, or an adapter, is not installed.
        """
        from interp_hooks.loading import lens_checkpoints, native
        from interp_hooks.loading.checkpoints import as_name, is_native
        from interp_hooks.loading.load import LoadOptions, load_pretrained
        from interp_hooks.loading.training_steps import step_revision

        model_name = as_name(model_name)
        if device is not None and move_to_device:
            as_device(device)
        if n_devices != 1:
            raise BadInput(f"n_devices={n_devices}: to spread a model, pass device_map='auto' (or a map of devices)")
        if tp != 1 and hf_kwargs.get("device_map"):
            raise BadInput("tp= and device_map= each say where weights go: give one of them")
        files, mapped = None, hf_kwargs.get("device_map")
        if offload_folder is None and isinstance(mapped, Mapping) and "disk" in map(str, mapped.values()):
            raise BadInput("device_map puts blocks on the disk: pass offload_folder=, the folder where they are to lie")
        if offload_folder is not None:
            files = Files(offload_folder, hf_kwargs.pop("device_map", None), hf_kwargs.pop("max_memory", None))
            if tp == 1 and device not in (None, "cpu"):
                raise BadInput(f"blocks in offload_folder compute on the CPU: pass no device={device!r} beside it")
        place = None
        if tp != 1:
            from interp_hooks.model.ranks import mesh_ranks, own_device

            place = torch.device(device) if device is not None and move_to_device else own_device()
            mesh_ranks(tp, place)
        if tp != 1 or files is not None:
            device = "cpu"
        steps = [one for one in (checkpoint_index, checkpoint_value, checkpoint_label) if one is not None]
        if steps:
            if len(steps) > 1 or revision is not None or hf_model is not None:
                raise BadInput(
                    "checkpoint_index, checkpoint_value (or checkpoint_label), revision and hf_model each say which "
                    "weights to take: give one of them"
                )
            step = checkpoint_label if checkpoint_value is None else checkpoint_value
            revision = step_revision(model_name, index=checkpoint_index, step=step)
        processing = _processing(
            fold_ln, center_writing_weights, center_unembed, fold_value_biases, refactor_factored_attn_matrices
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
            allow_nonfinite=allow_nonfinite,
            merge_adapters=merge_adapters,
            tp=tp,
            files=files,
            hf_kwargs=hf_kwargs,
        )
        if hf_model is None and is_native(model_name):
            model = native.load(cls, options, processing, splices or {})
        elif splices:
            raise BadInput("splices= is for folders of save_pretrained; after loading, call model.splice(hook, module)")
        elif hf_model is None and lens_checkpoints.is_lens(options.checkpoint):
            model = lens_checkpoints.load(cls, options, processing)
        else:
            model = load_pretrained(cls, options, processing)
        if tp != 1:
            from interp_hooks.model.ranks import spread_over_ranks

            spread_over_ranks(model, tp, place)
        elif files is not None:
            offload(model, files)
        return cast("Self", model)

    @classmethod
    def from_pretrained_no_processing(cls, model_name: str | os.PathLike[str], **kwargs: Any) -> Self:
        """`from_pretrained` without processing: the checkpoint's own weights, and its own logits."""
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
        allow_nonfinite: bool = False,
    ) -> Self:
        """A model from weights that are in no HuggingFace format, given as a mapping or as a file that holds one.

        Three formats are known: state dicts with this package's own keys ("blocks.0.attn.W_Q", as TransformerLens
        saves them too) and minGPT's, which both need a `cfg`, and nanoGPT checkpoints, which bring their own. A mapping
        as `cfg` may be what TransformerLens' `cfg.to_dict()` gave. `dtype` is that of the config unless given, `device`
        the GPU if there is one; `ignore_config` names settings that are not known here and that change nothing. Weights
        with nan or infinite numbers are refused unless `allow_nonfinite`.

        Raises:
            CheckpointError: another format, or weights that do not fit the config.
        """
        from interp_hooks.loading.formats import from_checkpoint

        options = dict[str, Any](dtype=dtype, device=device, ignore_config=ignore_config, cls=cls)
        return cast("Self", from_checkpoint(checkpoint, cfg, tokenizer, **options, allow_nonfinite=allow_nonfinite))

    def processing_report(self) -> list[str]:
        """One line for each processing step: applied, or skipped and why."""
        return list(self._report)

    @checked
    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, config, processing report and tokenizer to a folder that `from_pretrained` loads.

        Of spliced modules the weights are kept, but not the code: loading such a folder takes `splices=`. A model that
        was saved there is replaced when the new one is whole; if the process is killed while files change places, the
        folder does not load.

        Raises:
            CheckpointError: the folder holds a HuggingFace checkpoint, which it would then be taken for.
            FolderInUse: another process saves there.
            DiskError: the folder cannot be written; the model that was there still is.
        """
        self._refuse_spread("save_pretrained")
        from interp_hooks.loading.native import save

        save(self, Path(folder))

    @checked
    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,
        assign: bool = False,
        *,
        allow_nonfinite: bool = False,
    ) -> Any:
        """Copy weights into this model, or, if some do not fit, none.

        Keys are those of `state_dict()`. Attention masks and rotary tables of old files are ignored, and grouped keys
        may have the names that TransformerLens gives them. A gated MLP without `b_gate` is TransformerLens', which adds
        `b_in` after the product; what it writes is then added to `b_out`. Without `strict`, keys may be missing or left
        over; the return value tells which. Weights with nan or infinite numbers are refused unless `allow_nonfinite`;
        those of spliced modules are the modules' own affair.

        Raises:
            WeightMismatch: keys left over or missing, no tensor, one of another shape, or such a `b_in` without W_out
                or b_out.
            CheckpointError: numbers that are nan or infinite, or become so in the model's dtype.
        """
        self._refuse_spread("load_state_dict")
        from interp_hooks.loading.native import own_weights

        own = own_weights(self, state_dict, strict, assign, allow_nonfinite)
        return super().load_state_dict(own, strict, assign)

    @checked
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
        self._refuse_spread("process_weights_")
        from interp_hooks.loading.folding import process

        processing = _processing(
            fold_ln, center_writing_weights, center_unembed, fold_value_biases, refactor_factored_attn_matrices
        )
        self._report = process(self, processing)

    @checked
    def load_and_process_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        fold_value_biases: bool = True,
        refactor_factored_attn_matrices: bool = False,
        *,
        allow_nonfinite: bool = False,
    ) -> None:
        """Fill this model with the processed weights of a state dict in its own (or TransformerLens') names.

        The state dict may have its norms folded or not. It is not changed, and if anything is wrong with it, neither is
        the model. Weights with nan or infinite numbers are refused unless `allow_nonfinite`.

        Raises:
            CheckpointError: tensors left over, missing, of another shape, or with nan or infinite numbers.
            ConfigError: as `process_weights_`.
        """
        self._refuse_spread("load_and_process_state_dict")
        from interp_hooks.loading.processing import load_and_process

        processing = _processing(
            fold_ln, center_writing_weights, center_unembed, fold_value_biases, refactor_factored_attn_matrices
        )
        self._report = load_and_process(self, state_dict, processing, allow_nonfinite)

    @checked
    def fold_layer_norm(
        self, state_dict: Mapping[str, Tensor], fold_biases: bool | None = None, center_weights: bool | None = None
    ) -> dict[str, Tensor]:
        """A state dict of this architecture with its norms folded; see `interp_hooks.loading.processing`."""
        from interp_hooks.loading.processing import fold_layer_norm

        return fold_layer_norm(self.cfg, state_dict, fold_biases, center_weights)

    @checked
    def center_writing_weights(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this architecture whose writers of the stream have mean zero."""
        return self._one_step(state_dict, "center_writing_weights")

    @checked
    def center_unembed(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this architecture whose logits have mean zero."""
        return self._one_step(state_dict, "center_unembed")

    @checked
    def fold_value_biases(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this architecture with its value biases in b_O."""
        return self._one_step(state_dict, "fold_value_biases")

    @checked
    def refactor_factored_attn_matrices(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of this architecture with W_Q W_K^T split evenly, and the rows of W_O orthonormal."""
        return self._one_step(state_dict, "refactor_factored_attn_matrices")

    def _one_step(self, state_dict: Mapping[str, Tensor], step: str) -> dict[str, Tensor]:
        from interp_hooks.loading.processing import one_step

        return one_step(self.cfg, state_dict, step)

    def to_hf(self) -> PreTrainedModel:
        """A HuggingFace model of the checkpoint's own architecture with this model's weights, edits included.

        Raises:
            CheckpointError: that architecture has no place for this model: it was not converted from a checkpoint, has
                modules spliced in, or processing made weights that are no parameters there (load with
                `from_pretrained_no_processing`).
        """
        self._refuse_spread("to_hf")
        if self.splices:
            raise CheckpointError(f"HuggingFace's model has no place for the module at {', '.join(self.splices)}")
        from interp_hooks.loading.export import to_hf

        return to_hf(self)

    def verify(self, hf_model: PreTrainedModel, tokens: Int[Tensor, "batch pos"] | None = None) -> Any:
        """Compare with the HuggingFace model on `tokens` (default: random ones); a `Report` that prints as a table."""
        from interp_hooks.loading.parity import verify

        return verify(self, hf_model, tokens)


def _processing(*asked: bool) -> Any:
    """The processing steps that were asked for, in the order of `STEPS`."""
    from interp_hooks.loading.folding import Processing

    return Processing(**dict(zip(STEPS, asked, strict=True)))
