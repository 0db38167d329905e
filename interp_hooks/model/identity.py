"""Which model a result is of: enough to recognise it, or to say in what another one differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.model.tensor_files import Json, hash_of
from interp_hooks.model.transformer import HookedTransformer

PARTS, ROUNDING = 8, 8  # of each weight that are summed; so many times eps may a sum differ, relative to the norm
NO_MATTER = (  # of a config, once the weights are there
    *("model_name", "original_architecture", "tokenizer_name", "tokenizer_prepends_bos", "device"),
    *("seed", "init_mode", "initializer_range", "init_weights", "eos_token_ids"),
    *("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in", "use_hook_tokens"),
    "use_attn_scale",  # attn_scale says what comes of it
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which model it was: `weights` is the sha256 of all names, dtypes, shapes and numbers.

    `sums` are sums over parts of each weight, by which weights that were processed on another processor, and rounded
    otherwise there, are recognised; None in records that were written before there were any.
    """

    name: str
    revision: str | None
    dtype: str
    device: str
    weights: str
    config: Mapping[str, Json]
    sums: Mapping[str, Sequence[float]] | None = None

    @classmethod
    def of(cls, model: HookedTransformer) -> Identity:
        return cls(
            name=model.cfg.model_name,
            revision=model.revision,
            dtype=str(model.dtype),
            device=str(model.device),
            weights=weights_hash(model),
            config=config_of(model),
            sums=sums_of(model),
        )

    def refuse_others(self, model: HookedTransformer) -> None:
        """Raises BadInput if the model computes something else."""
        if (unlike := self.unlike(model, "the result")) is not None:
            raise BadInput(f"{unlike}; any_model=True runs it nevertheless")

    def unlike(self, model: HookedTransformer, of: str) -> str | None:
        """In what a model differs from that `of` something, as a message, or None if it computes the same."""
        config = config_of(model)
        for name in (self.config.keys() | config.keys()) - {*NO_MATTER}:
            if self.config.get(name) != config.get(name):
                return f"this model has {name}={config.get(name)!r}, the one of {of} {self.config.get(name)!r}"
        if weights_hash(model) != self.weights and not self._only_rounded(model):
            return f"this model's weights are not those of {of} ({self.name})"
        return None

    def _only_rounded(self, model: HookedTransformer) -> bool:
        """Whether the weights of a model differ from these by nothing but rounding errors."""
        if self.sums is None or {*self.sums} != {*(sums := sums_of(model))}:
            return False
        norms = {name: float(one.double().norm()) for name, one in _weights(model).items()}
        largest = ROUNDING * torch.finfo(model.dtype).eps
        return all(
            abs(one - other) <= largest * norms[name]
            for name in sums
            for one, other in zip(sums[name], self.sums[name], strict=True)
        )


def sums_of(model: HookedTransformer) -> dict[str, list[float]]:
    """The sums of consecutive parts of every weight."""
    return {
        name: [float(part.sum(dtype=torch.float64)) for part in one.flatten().chunk(PARTS)]
        for name, one in _weights(model).items()
    }


def weights_hash(model: HookedTransformer) -> str:
    """The sha256 of all weights: names, dtypes, shapes and numbers."""
    return hash_of(_weights(model))


def _weights(model: HookedTransformer) -> dict[str, Tensor]:
    """All weights, whole, in the order of their names."""
    return {name: model.whole(weight) for name, weight in sorted(model.state_dict().items())}


def config_of(model: HookedTransformer) -> dict[str, Json]:
    """The model's config as JSON, with the kinds of modules that are spliced in."""
    spliced = {hook: _class_name(splice.module) for hook, splice in model.splices.items()}
    return _plain(model.cfg) | ({"splices": spliced} if spliced else {})


def _plain(value: Any) -> Json:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _class_name(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
