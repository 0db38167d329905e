"""Weight processing of state dicts, and of models that exist already.

    state dict --> a model of its own --steps of `folding`--> its weights --> a state dict, or the model that is there

So there is one implementation of every step, and nothing that was given is touched before all of them have succeeded.
State dicts have this package's names, which are TransformerLens' too.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from interp_hooks.errors import CheckpointError, ConfigError
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.loading.folding import STEPS, Processing, fold_ln, process
from interp_hooks.loading.formats import TRANSFORMER_LENS, from_checkpoint, recognise, unwrapped
from interp_hooks.model.components.norm import Norm
from interp_hooks.model.config import FOLDED, HookedTransformerConfig
from interp_hooks.model.transformer import HookedTransformer

StateDict = Mapping[str, Tensor]

UNFOLDED = {"LNPre": "LN", "RMSPre": "RMS"} | {kind: kind for kind in ("LN", "RMS")}
GAINS = (".ln1.w", ".ln2.w", "ln_final.w", "mlm_head.ln.w")


def load_and_process(
    model: HookedTransformer, state_dict: StateDict, processing: Processing, allow_nonfinite: bool = False
) -> list[str]:
    """Fill a model with the processed weights of a state dict; return the lines that `folding.process` returns.

    Whether its norms still have gains is read from the state dict, whatever the model's have.

    Raises:
        CheckpointError: tensors left over, missing, of the wrong shape, or not finite unless `allow_nonfinite`.
        ConfigError: see `process`.
    """
    loaded = _model_of(model.cfg, state_dict, allow_nonfinite)
    report = process(loaded, processing)
    _take_over(model, loaded)
    return report


@no_gradients
def _take_over(model: HookedTransformer, other: HookedTransformer) -> None:
    """Copy another model's weights into this one's memory, dtype and device; its hooks and all else stay."""
    for name, part in other.named_modules():
        own = model.get_submodule(name)
        if isinstance(part, Norm) and isinstance(own, Norm):
            own.kind = part.kind
        for leaf, weight in part._parameters.items():
            held = own._parameters[leaf]
            if weight is not None and held is not None:
                held.copy_(weight)
            else:  # a gain or bias that one of them has folded
                there = None if weight is None else nn.Parameter(weight.to(model.device, model.dtype))
                own.register_parameter(leaf, there)
    model._reconfigure(normalization_type=other.cfg.normalization_type)


def _model_of(cfg: HookedTransformerConfig, state_dict: StateDict, allow_nonfinite: bool = True) -> HookedTransformer:
    """A new model that holds copies of a state dict's weights, in their dtype and on their device."""
    if recognise(state_dict).family is not TRANSFORMER_LENS:
        raise CheckpointError("expected a state dict with this package's own names, such as 'blocks.0.attn.W_Q'")
    kind = cfg.normalization_type
    if kind is not None and cfg.norm_placement != "post":
        unfolded = any(name.endswith(GAINS) for name in state_dict)
        cfg = cfg.replace(normalization_type=(UNFOLDED if unfolded else FOLDED)[kind])
    like = next(weight for name, weight in state_dict.items() if name.endswith("embed.W_E"))
    return from_checkpoint(state_dict, cfg, dtype=like.dtype, device=like.device, allow_nonfinite=allow_nonfinite)


# --------------------------------------------------------------------------------------- one step, as state dict to it


def fold_layer_norm(
    cfg: HookedTransformerConfig,
    state_dict: StateDict,
    fold_biases: bool | None = None,
    center_weights: bool | None = None,
) -> dict[str, Tensor]:
    """Fold the gains (and biases) of norms into what reads them; they come back as one (and zero).

    LayerNorms have biases and centre what they read, RMSNorms have none and do not: to ask otherwise would give other
    logits, except for `center_weights=False` with LayerNorm. Without gains there is nothing to do.

    Raises:
        ConfigError: a contradiction, or norms that cannot be folded.
        CheckpointError: as `load_and_process`.
    """
    model = _model_of(cfg, state_dict)
    kind = model.cfg.normalization_type
    if model.cfg.norm_is_folded:
        return dict(state_dict)
    if (kind == "LN" and fold_biases is False) or (kind == "RMS" and center_weights):
        raise ConfigError(
            f"fold_biases={fold_biases}, center_weights={center_weights} with normalization_type={kind!r} would change "
            "what the model computes; leave both out"
        )
    return _changed(model, state_dict, "fold_ln", lambda model: fold_ln(model, centre=center_weights is not False))


def one_step(cfg: HookedTransformerConfig, state_dict: StateDict, step: str) -> dict[str, Tensor]:
    """A copy of a state dict after one processing step, called by its name in `folding.STEPS`.

    Raises:
        ConfigError: a step that does not apply to this model, and would change its probabilities.
        CheckpointError: as `load_and_process`.
    """
    return _changed(_model_of(cfg, state_dict), state_dict, step, STEPS[step].run)


@no_gradients
def _changed(
    model: HookedTransformer, state_dict: StateDict, step: str, run: Callable[[HookedTransformer], None]
) -> dict[str, Tensor]:
    """Run a step on the model of a state dict; return a copy of the state dict with the weights that come of it.

    Weights keep the names that they had in the state dict, and entries that are no weights stay.
    """
    if why := STEPS[step].obstacle(model):
        raise ConfigError(f"{step} does not apply: {why}")
    names = {unwrapped(name).replace("._", "."): name for name in state_dict}  # _W_K: grouped keys
    before = {name for name, _ in model.named_parameters()}
    run(model)
    after = {name: weight.detach() for name, weight in model.named_parameters()}
    changed = {names.get(name, name): weight for name, weight in after.items() if name in names or weight.any()}
    for name in before - after.keys():
        norm = model.get_submodule(name.rpartition(".")[0])
        assert isinstance(norm, Norm)
        neutral = 1.0 - norm.gain_offset if name.endswith(".w") else 0.0
        changed[names[name]] = torch.full_like(state_dict[names[name]], neutral)
    return dict(state_dict) | changed
