"""Small functions on tensors, dictionaries and attributes that TransformerLens has in `utils`: mostly one line each.

Code that can be edited is better off with the line itself.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Generic, Literal, TypeVar, cast

import einops
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp_hooks.errors import BadInput
from interp_hooks.hooks.tables import pd
from interp_hooks.model.components import mlp
from interp_hooks.model.sampling import Sampling, token_counts

M = TypeVar("M", bound=nn.Module)
USE_DEFAULT_VALUE = None
SOFTCAP_DISABLED = -1.0
ActivationFunction = Callable[..., Tensor]


def override_or_use_default_value(default_flag: Any, override: Any = None) -> Any:
    """`override`, or the default where that is None."""
    return default_flag if override is None else override


def get_nested_attr(obj: Any, attr_str: str) -> Any:
    """The attribute at a dotted path."""
    return attrgetter(attr_str)(obj)


def set_nested_attr(obj: Any, attr_str: str, value: Any) -> None:
    """Set the attribute at a dotted path."""
    parent, _, name = attr_str.rpartition(".")
    setattr(get_nested_attr(obj, parent) if parent else obj, name, value)


def is_library_available(name: str) -> bool:
    """Whether a package could be imported."""
    return name in sys.modules or importlib.util.find_spec(name) is not None


def select_compatible_kwargs(kwargs_dict: Mapping[str, Any], callable: Callable[..., Any]) -> dict[str, Any]:
    """Those keyword arguments that a function takes by name."""
    taken = inspect.getfullargspec(callable)
    return {name: value for name, value in kwargs_dict.items() if name in (*taken.args, *taken.kwonlyargs)}


def filter_dict_by_prefix(dictionary: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries under a dotted prefix, named without it."""
    before = prefix.removesuffix(".") + "."
    return {name.removeprefix(before): value for name, value in dictionary.items() if name.startswith(before)}


class TypedModuleList(nn.ModuleList, Generic[M]):
    """A `torch.nn.ModuleList` that tells the type checker what is in it."""


# ------------------------------------------------------------------------------------------------------- activations


class XIELU(mlp.XIELU):
    """xIELU from the two curvatures that training begins with (arxiv.org/abs/2411.13010).

    `beta_init` is the slope at zero, and `eps` the largest number that the exponential sees.
    """

    def __init__(
        self, alpha_p_init: float = 0.8, alpha_n_init: float = 0.8, beta_init: float = 0.5, eps: float = -1e-6
    ) -> None:
        super().__init__()
        del self.beta
        self.register_buffer("beta", torch.tensor(beta_init))
        self.floor = eps
        for alpha, curvature in ((self.alpha_p, alpha_p_init), (self.alpha_n, alpha_n_init - beta_init)):
            nn.init.constant_(alpha, math.log(math.expm1(curvature)) if curvature > 0 else -math.inf)


def xielu(x: Tensor) -> Tensor:
    """xIELU as it is when training begins."""
    return XIELU().to(x)(x)


gelu_pytorch_tanh, relu2 = mlp.ACTIVATIONS["gelu_pytorch_tanh"], mlp.ACTIVATIONS["relu2"]
SUPPORTED_ACTIVATIONS = {**mlp.ACTIVATIONS, "solu_ln": mlp.solu, "xielu": xielu}


# ---------------------------------------------------------------------------------------------------------- tensors


def is_square(x: Tensor) -> bool:
    return x.ndim == 2 and x.shape[0] == x.shape[1]


def is_lower_triangular(x: Tensor) -> bool:
    return is_square(x) and torch.equal(x, x.tril())


def transpose(tensor: Float[Tensor, "*batch a b"]) -> Float[Tensor, "*batch b a"]:
    return tensor.mT


def remove_batch_dim(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The only row of a batch of one; a larger batch as it is."""
    return tensor.squeeze(0)


def get_cumsum_along_dim(tensor: Tensor, dim: int, reverse: bool = False) -> Tensor:
    """The cumulative sum along an axis, from its end if `reverse`."""
    return tensor.flip(dim).cumsum(dim).flip(dim) if reverse else tensor.cumsum(dim)


def repeat_along_head_dimension(
    tensor: Float[Tensor, "batch pos d_model"], n_heads: int, clone_tensor: bool = True
) -> Float[Tensor, "batch pos head d_model"]:
    """The same for every head; without `clone_tensor` heads share their memory."""
    repeated = einops.repeat(tensor, "batch pos d_model -> batch pos head d_model", head=n_heads)
    return repeated.clone() if clone_tensor else repeated


def get_offset_position_ids(
    past_kv_pos_offset: int, attention_mask: Int[Tensor, "batch all_pos"]
) -> Int[Tensor, "batch pos"]:
    """The positions of the tokens after the first `past_kv_pos_offset`: the number of real tokens before each."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)[:, past_kv_pos_offset:]


def check_structure(t1: Tensor, t2: Tensor, *, verbose: bool = False) -> None:
    """Print whether neighbouring rows, and neighbouring columns, of two matrices are in the same order.

    Raises:
        BadInput: they are no two matrices of one shape.
    """
    if t1.ndim != 2 or t1.shape != t2.shape:
        raise BadInput(f"expected two matrices of one shape, got {list(t1.shape)} and {list(t2.shape)}")
    differing = {}
    for what, first, second in (("row", t1, t2), ("column", t1.T, t2.T)):
        unlike = (first[:-1] >= first[1:]) != (second[:-1] >= second[1:])
        differing[what] = unlike.any(1).nonzero().flatten().tolist()
        if verbose:
            print(f"Checking {what}s")
            for n in differing[what]:
                for name, matrix in (("t1", first), ("t2", second)):
                    print(f"\t{what}s {n}:{n + 1} {name}: {(matrix[n] >= matrix[n + 1]).tolist()}")
    found = [f"{what} mismatch: {places}" for what, places in differing.items() if places]
    print(found[0] if found else "PASSED")


def softcap_enabled(cap: float | None) -> bool:
    """Whether a soft cap is one: positive."""
    return cap is not None and cap > 0


def apply_softcap(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap), or x where there is no cap."""
    return cap * torch.tanh(x / cap) if cap is not None and cap > 0 else x


def logits_to_df(logits: Float[Tensor, " d_vocab"], tokenizer: Any = None, top_k: int | None = None) -> pd.DataFrame:
    """A table of the `top_k` likeliest tokens (None: all), likeliest first, with logits and probabilities.

    Raises:
        BadInput: logits of several positions.
    """
    if logits.ndim != 1:
        raise BadInput(f"logits must be [d_vocab], those of one position, got {list(logits.shape)}")
    log_probs = logits.detach().float().log_softmax(-1)
    order = log_probs.argsort(descending=True)[:top_k]
    table: dict[str, Any] = {"token_index": order.tolist()}
    if tokenizer is not None:
        table["token_string"] = [tokenizer.decode([token]) for token in order.tolist()]
    table["logit"] = logits[order].tolist()
    table["log_prob"] = log_probs[order].tolist()
    table["probability"] = log_probs[order].exp().tolist()
    return pd.DataFrame(table)


def _apply_repetition_penalty(
    logits: Float[Tensor, "batch d_vocab"], tokens: Int[Tensor, "batch pos"], penalty: float
) -> Float[Tensor, "batch d_vocab"]:
    """Logits of which those of tokens that have occurred are lowered; see `Sampling`."""
    rule = Sampling(temperature=0, repetition_penalty=penalty)
    return rule.scores(logits, token_counts(tokens, logits.shape[-1]))


@contextmanager
def temporarily_swap_parameter(parameter: nn.Parameter, new_value: Tensor) -> Iterator[nn.Parameter]:
    """Give a parameter other numbers, in place, for the length of a `with` block.

    Raises:
        TypeError: it is no parameter, or the numbers are no plain tensor.
        BadInput: they have another shape or dtype.
    """
    if not isinstance(parameter, nn.Parameter):
        raise TypeError(f"parameter must be a torch.nn.Parameter; got {type(parameter).__name__}")
    if isinstance(new_value, nn.Parameter) or not isinstance(new_value, Tensor):
        raise TypeError(f"new_value must be a plain torch.Tensor; got {type(new_value).__name__}")
    for what in ("shape", "dtype"):
        came, expected = getattr(new_value, what), getattr(parameter, what)
        if came != expected:
            raise BadInput(f"new_value {what} {came} must match parameter {what} {expected}")
    before = parameter.detach().clone()
    try:
        parameter.data.copy_(new_value)
        yield parameter
    finally:
        parameter.data.copy_(before)


# -------------------------------------------------------------------------------------------------------- first weights

Fan = Literal["fan_in", "fan_out"]


def calc_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """How many numbers a weight [in, out] or [head, in, out] reads and writes; a bias reads one.

    Raises:
        BadInput: a weight with no axis, or with more than three.
    """
    match tensor.shape:
        case (width,):
            return 1, width
        case (inner, outer):
            return inner, outer
        case (heads, inner, outer):
            return inner, heads * outer
    raise BadInput(f"expected a weight of one to three axes, got {list(tensor.shape)}")


def _spread(param: Tensor, deviation: float, uniform: bool) -> Tensor:
    """Draw a parameter anew, in place, around zero."""
    bound = math.sqrt(3) * deviation  # the variance of a uniform distribution is a third of its bound's square
    return nn.init.uniform_(param, -bound, bound) if uniform else nn.init.normal_(param, 0.0, deviation)


def init_xavier_uniform_(param: Tensor, gain: float = 1.0) -> Tensor:
    """Draw a weight anew as Glorot & Bengio 2010 do."""
    return _spread(param, gain * math.sqrt(2 / sum(calc_fan_in_and_fan_out(param))), uniform=True)


def init_xavier_normal_(param: Tensor, gain: float = 1.0) -> Tensor:
    """Draw a weight anew with the standard deviation that Glorot & Bengio 2010 give."""
    return _spread(param, gain * math.sqrt(2 / sum(calc_fan_in_and_fan_out(param))), uniform=False)


def _kaiming(param: Tensor, a: float, nonlinearity: str, gain: float, mode: Fan) -> float:
    fan_in, fan_out = calc_fan_in_and_fan_out(param)
    return (
        gain * nn.init.calculate_gain(cast("Any", nonlinearity), a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)
    )


def init_kaiming_uniform_(
    param: Tensor, a: float = 0, nonlinearity: str = "relu", gain: float = 1.0, mode: Fan = "fan_in"
) -> Tensor:
    """Draw a weight anew as He et al. 2015 do (arxiv.org/abs/1502.01852); `a` is a leaky ReLU's slope."""
    return _spread(param, _kaiming(param, a, nonlinearity, gain, mode), uniform=True)


def init_kaiming_normal_(
    param: Tensor, a: float = 0, nonlinearity: str = "relu", gain: float = 1.0, mode: Fan = "fan_in"
) -> Tensor:
    """Draw a weight anew, normally, with the standard deviation of He et al. 2015."""
    return _spread(param, _kaiming(param, a, nonlinearity, gain, mode), uniform=False)
