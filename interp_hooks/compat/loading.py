"""What TransformerLens' `loading_from_pretrained` has: names of checkpoints, their configs, their weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp_hooks.compat.config import HookedTransformerConfig
from interp_hooks.compat.model import HookedTransformer
from interp_hooks.loading import lens_checkpoints
from interp_hooks.loading.load import LoadOptions, family_of, our_config
from interp_hooks.loading.source import hub_names
from interp_hooks.loading.training_steps import checkpoint_labels

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
    model_name: str, fold_ln: bool = False, device: Any = None, n_ctx: int | None = None, **options: Any
) -> HookedTransformerConfig:
    """The config of a checkpoint, without its weights; other arguments are those of `from_pretrained`.

    Raises:
        CheckpointError: as `from_pretrained`.
    """
    given = LoadOptions(name=model_name, n_ctx=n_ctx, **options)
    if lens_checkpoints.is_lens(given.source):
        cfg = lens_checkpoints.config_of(given)
    else:
        hf_config = given.source.config()
        cfg = our_config(family_of(hf_config), hf_config, given)[0]
    cfg = cfg.replace(device=device)
    folds = fold_ln and not cfg.norm_is_folded
    return HookedTransformerConfig.of(cfg.replace(normalization_type=f"{cfg.normalization_type}Pre") if folds else cfg)


def get_pretrained_state_dict(official_model_name: str, cfg: Any = None, **options: Any) -> dict[str, Tensor]:
    """The weights of a checkpoint, unprocessed, under the names that they have in a model.

    Raises:
        CheckpointError: as `from_pretrained`.
    """
    return HookedTransformer.from_pretrained_no_processing(official_model_name, **options).state_dict()


def get_num_params_of_pretrained(model_name: str) -> int:
    """How many weights the attention and the MLPs of a checkpoint have: `cfg.n_params`."""
    return get_pretrained_model_config(model_name).n_params
