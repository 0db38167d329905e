"""The kinds, choices and ranges of a config's fields, by their annotations: what a file says is no model yet."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

from interp_hooks.errors import ConfigError
from interp_hooks.errors.arguments import fits, misfit

MOST_LAYERS = 100_000  # a thousand times what there is; a list for each layer of 10**9 would fill all memory
LARGEST = 2**48  # of any size
SIGNED = ("d_vocab", "seed")  # -1 leaves d_vocab to the tokenizer
FROM_ZERO = (
    "positions_offset",
    "n_token_types",
    "kv_latent",
    "q_latent",
    "d_shared",
    "norm_groups",
    "dt_rank",
    "gate_rank",
    "d_layer_embed",
    "d_vocab_layer_embed",
    "laurel_rank",
    "d_embed",
    "d_unembed",
    "keys_values_from",
)
NOT_NEGATIVE = (
    *("attn_scores_soft_cap", "output_logits_soft_cap", "qkv_clip", "mlp_clamp"),
    *("alibi_slopes", "mlp_sparsity_layers", "jitter", "min_weight_sum", "weight_sum_offset", "dt_min", "dt_max"),
    "embed_norm_eps",
)
POSITIVE = (
    "rotary_base",
    "embed_scale",
    "residual_scale",
    "logits_scale",
    "weight_scale",
    "router_scale",
    "value_scale",
    *("read_scales", "write_scale", "mlp_gate_scale", "mlp_out_scale"),
    "eps",
    "latent_eps",
)
BELOW_ONE = ("eps", "latent_eps")  # at 1 a norm would hide what it normalizes


@functools.cache
def kinds_of(cls: type) -> Mapping[str, Any]:
    """The annotation of each field."""
    return get_type_hints(cls)


def make_tuples(config: Any) -> None:
    """Replace lists and arrays by tuples in the fields that are tuples: a file has no others."""
    for name, kind in kinds_of(type(config)).items():
        value = getattr(config, name)
        tuples = any(get_origin(one) is tuple for one in (kind, *get_args(kind)))
        single = isinstance(value, str | Mapping) or getattr(value, "ndim", 1) == 0
        if tuples and isinstance(value, Iterable) and not single:
            object.__setattr__(config, name, tuple(value))


def check_fields(config: Any) -> None:
    """Raises ConfigError for the first field of a config whose value is of another kind, no choice or number it has."""
    kinds = kinds_of(type(config))
    for field in dataclasses.fields(config):
        name, kind, value = field.name, kinds[field.name], getattr(config, field.name)
        choices = get_args(kind) or (kind,)
        if not fits(value, kind) or (isinstance(value, bool) and bool not in choices and Any not in choices):
            raise ConfigError(misfit(name, value, kind))
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Real) and not isinstance(one, bool):
                _check_number(name, one)


def _check_number(name: str, value: Any) -> None:
    if name in POSITIVE and not (0 < value < (1 if name in BELOW_ONE else math.inf)):
        expected = "above 0 and below 1" if name in BELOW_ONE else "positive and finite"
        raise ConfigError(f"{name} must be {expected}, got {value}")
    if isinstance(value, Integral):
        value = int(value)
        most = MOST_LAYERS if name == "n_layers" else LARGEST
        if name not in SIGNED and value < 0:
            raise ConfigError(f"{name} must be {'at least 0' if name in FROM_ZERO else 'positive'}, got {value}")
        if value > most:
            raise ConfigError(f"{name} must be at most {most}, got {value}")
    elif not math.isfinite(value) or (name in NOT_NEGATIVE and value < 0):
        raise ConfigError(f"{name} must be finite{' and at least 0' * (name in NOT_NEGATIVE)}, got {value}")
