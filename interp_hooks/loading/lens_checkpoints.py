"""Checkpoints as the author of TransformerLens keeps those that he trained: a config of its own, and a state dict.

    config.json                     n_layers, d_model, ...; how the training went is there too and is passed over
    model_final.pth                 a state dict in TransformerLens' names; of Othello-GPT in minGPT's
    checkpoints/..._{number}.pth    the same of earlier steps, or tokens, of the training

They are NeelNanda/... (attention-only, GELU and SoLU models of one to twelve layers), ArthurConmy/redwood_attn_2l and
Baidicoot/Othello-GPT-Transformer-Lens on the hub, and folders like these. The first SoLU models (..._old) call norms
"norm"; up to six layers their matrices are [out, in], and up to eight W_pos is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.loading.checkpoints import HUB_ARGUMENTS, KEPT, NamedCheckpoint, read_tokenizer
from interp_hooks.loading.files import reading
from interp_hooks.loading.folding import Processing, process
from interp_hooks.loading.formats import from_checkpoint, read_state
from interp_hooks.loading.load import LoadOptions
from interp_hooks.model.config import HookedTransformerConfig, as_dtype
from interp_hooks.model.transformer import HookedTransformer

SETTINGS = ("d_model", "n_layers", "d_mlp", "d_head", "n_heads", "n_ctx", "d_vocab", "act_fn", "attn_only")


def is_lens(checkpoint: NamedCheckpoint) -> bool:
    """Whether a config is TransformerLens' own, which has no `model_type`."""
    if checkpoint.gguf_file is not None:
        return False
    try:
        settings = checkpoint.settings
    except Exception:  # it is read again, and what is wrong told, as HuggingFace's
        return False
    own = isinstance(settings, Mapping) and "model_type" not in settings
    return own and {"d_model", "n_layers", "n_ctx"} <= settings.keys()


def load(cls: type[HookedTransformer], options: LoadOptions, processing: Processing) -> HookedTransformer:
    """Build the model of such a checkpoint and process it.

    Raises:
        CheckpointError: files that are missing, or that do not fit each other.
        BadInput: options that mean nothing for such checkpoints.
    """
    given = dict(first_n_layers=options.first_n_layers, merge_adapters=options.merge_adapters)
    given |= {name: value for name, value in options.hf_kwargs.items() if name not in HUB_ARGUMENTS}
    for name, value in given.items():
        if value:
            raise BadInput(f"{options.name!r} has a config of TransformerLens' own, and takes no {name}={value!r}")
    checkpoint, settings, cfg = options.checkpoint, options.checkpoint.settings, config_of(options)
    tokenizer = options.tokenizer
    if tokenizer is None and settings.get("tokenizer_name"):
        tokenizer = read_tokenizer(settings["tokenizer_name"])
    state = read_state(checkpoint.path_of(_file(checkpoint, options.revision), download=True))
    if cfg.original_architecture == "neel-solu-old":
        state = _turned(state, cfg.n_layers)
    how = dict[str, Any](device=options.device, allow_nonfinite=options.allow_nonfinite, cls=cls)
    model = from_checkpoint(state, cfg, tokenizer, **how)
    if options.default_padding_side is not None:
        model.text.padding_side = options.default_padding_side
    model.revision = options.revision
    model._report = process(model, processing)
    return model


def config_of(options: LoadOptions) -> HookedTransformerConfig:
    """The config of such a checkpoint.

    Raises:
        CheckpointError: one that contradicts itself; BadInput: `n_ctx` is another than its own.
    """
    checkpoint = options.checkpoint
    with reading(f"the config of {options.name!r}"):
        cfg = HookedTransformerConfig.from_dict(_fields(checkpoint.settings, old=checkpoint.location.endswith("_old")))
    if options.n_ctx is not None and options.n_ctx != cfg.n_ctx:
        raise BadInput(f"n_ctx must be {cfg.n_ctx} for this checkpoint, got {options.n_ctx}")
    begins = cfg.default_prepend_bos if options.default_prepend_bos is None else options.default_prepend_bos
    named = dict(model_name=options.name, dtype=as_dtype(options.dtype or "float32"), init_weights=False)
    return cfg.replace(**named, default_prepend_bos=begins)


def _fields(settings: Mapping[str, Any], old: bool) -> dict[str, Any]:
    """The fields of our config that the settings of a checkpoint say; the others are about its training."""
    fields = {name: settings[name] for name in SETTINGS}
    if fields["attn_only"]:
        del fields["d_mlp"], fields["act_fn"]
    return fields | dict(
        normalization_type=settings.get("normalization", settings.get("normalization_type")),
        final_rms=settings.get("final_rms", False),
        positional_embedding_type="shortformer" if settings.get("shortformer_pos") else "standard",
        original_architecture=settings.get("architecture", "neel-solu-old" if old else "neel"),
    )


def _file(checkpoint: NamedCheckpoint, revision: str | None) -> str:
    """The file of a state dict: the last, or that of step 1000 for the revision "checkpoints/1000"."""
    if revision is not None and revision.startswith(KEPT):
        return _steps(checkpoint)[int(revision.removeprefix(KEPT))]
    if found := [name for name in checkpoint.files() if name.endswith("final.pth")]:
        return found[0]
    raise CheckpointError(
        f"{checkpoint.name!r} has no file that ends with 'final.pth'; found {', '.join(checkpoint.files()) or 'none'}"
    )


def _steps(checkpoint: NamedCheckpoint) -> dict[int, str]:
    """The files of earlier steps (or tokens) by their number."""
    found = (re.fullmatch(rf"{KEPT}.*_(\d+)\.pth", name) for name in checkpoint.files())
    return {int(match[1]): match[0] for match in found if match}


def steps(checkpoint: NamedCheckpoint) -> list[int]:
    """The numbers of steps (or tokens) of which there is a state dict, lowest first."""
    return sorted(_steps(checkpoint))


def _turned(state: Mapping[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """The state dict of one of the first SoLU models in the names and layout of the others."""
    turned = {}
    for name, tensor in state.items():
        ours = re.sub(r"^ln\.", "ln_final.", name.replace("norm", "ln"))
        leaf = ours.rpartition(".")[2]
        lies = n_layers <= 8 if leaf == "W_pos" else n_layers <= 6 and leaf.startswith("W_")
        turned[ours] = tensor.mT if lies else tensor
    return turned
