"""What TransformerLens' `loading_from_pretrained` has: names of checkpoints, their configs, their weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp_hooks.compat.config import HookedTransformerConfig
from interp_hooks.compat.model import HookedTransformer
from interp_hooks.errors import BadInput
from interp_hooks.loading import lens_checkpoints
from interp_hooks.loading.checkpoints import hub_names
from interp_hooks.loading.load import LoadOptions, family_of, our_config
from interp_hooks.loading.training_steps import checkpoint_labels
from interp_hooks.model.config import FOLDED

MODEL_ALIASES = hub_names()
OFFICIAL_MODEL_NAMES = list(MODEL_ALIASES)
DEFAULT_MODEL_ALIASES = [MODEL_ALIASES[name][0] if MODEL_ALIASES[name] else name for name in OFFICIAL_MODEL_NAMES]
PYTHIA_CHECKPOINTS = checkpoint_labels("pythia-70m")[0]
PYTHIA_V0_CHECKPOINTS = checkpoint_labels("pythia-70m-v0")[0]
STANFORD_CRFM_CHECKPOINTS = checkpoint_labels("stanford-gpt2-small-a")[0]


def make_model_alias_map() -> dict[str, str]:
    """The hub id of every name that is known, in lower case."""
    return {name.lower(): id for id, others in MODEL_ALIASES.items() for name in (id, *others)}


def get_pretrained_model_config(
    model_name: str,
    hf_cfg: None = None,
    checkpoint_index: int | None = None,
    checkpoint_value: int | None = None,
    fold_ln: bool = False,
    device: Any = None,
    n_devices: int = 1,
    default_prepend_bos: bool | None = None,
    dtype: Any = torch.float32,
    first_n_layers: int | None = None,
    n_ctx: int | None = None,
    **hf_kwargs: Any,
) -> HookedTransformerConfig:
    """The config of a checkpoint, without its weights; arguments are those of `from_pretrained`.

    Raises:
        CheckpointError: as `from_pretrained`.
        BadInput: `hf_cfg`, which is read from the checkpoint, or a checkpoint on several devices.
    """
    if hf_cfg is not None or n_devices != 1:
        raise BadInput(f"the config is read from the checkpoint, for one device; got {hf_cfg=}, {n_devices=}")
    given = LoadOptions(
        name=model_name,
        n_ctx=n_ctx,
        first_n_layers=first_n_layers,
        default_prepend_bos=default_prepend_bos,
        dtype=dtype,
        hf_kwargs=hf_kwargs,
    )
    if lens_checkpoints.is_lens(given.checkpoint):
        cfg = lens_checkpoints.config_of(given)
    else:
        hf_config = given.checkpoint.config()
        cfg = our_config(family_of(hf_config), hf_config, given)[0].replace(tokenizer_name=given.checkpoint.location)
    cfg = cfg.replace(device=device)
    if fold_ln and not cfg.norm_is_folded:
        cfg = cfg.replace(normalization_type=FOLDED[str(cfg.normalization_type)])
    view = HookedTransformerConfig.of(cfg)
    if checkpoint_index is None and checkpoint_value is None:
        return view
    steps, kind = checkpoint_labels(model_name)
    index = steps.index(checkpoint_value or 0) if checkpoint_index is None else checkpoint_index
    said = dict(from_checkpoint=True, checkpoint_index=index, checkpoint_value=steps[index], checkpoint_label_type=kind)
    view._keep(said=said, ungroup=False)
    return view


def get_pretrained_state_dict(official_model_name: str, cfg: Any = None, **options: Any) -> dict[str, Tensor]:
    """The weights of a checkpoint, unprocessed, under the names that they have in a model.

    Raises:
        CheckpointError: as `from_pretrained`.
    """
    return HookedTransformer.from_pretrained_no_processing(official_model_name, **options).state_dict()


def get_num_params_of_pretrained(model_name: str) -> int:
    """How many weights the attention and the MLPs of a checkpoint have: `cfg.n_params`."""
    return get_pretrained_model_config(model_name).n_params
