"""The grammar of hook names: short forms that people type, and the full names they stand for.

blocks.{layer}.{sublayer}.hook_{name}      get_act_name("q", 3)  = "blocks.3.attn.hook_q"
                                           get_act_name("mlp_out0") = "blocks.0.hook_mlp_out"
"""

import re

from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.errors.arguments import told

ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}
SUBLAYER_ALIASES = {"a": "attn", "m": "mlp", "b": "", "block": "", "blocks": "", "attention": "attn"}
ATTENTION_NAMES = {"q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores", "gate", "index_choice"}
ATTENTION_NAMES |= {"mixing", "mixed", "state", "log_decay", "beta", "dt", "in_gate"}  # of what stands in its place
ATTENTION_NAMES |= {"term_scores", "term_pattern", "lambda"}
MLP_NAMES = {"pre", "post", "mid", "pre_linear"}
BLOCK_NAMES = {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "ple_out", "laurel_out", "altup_out"}
BLOCK_NAMES |= {"recurrence_in", "recurrence_out"}
BLOCK_NAMES |= {"attn_in", "mixer_in", "mlp_in", "ple_in", "q_input", "k_input", "v_input"}

LAYER = "{layer}"  # stands for the number of a layer in full names
_SHORT = re.compile(r"([a-z_]+?)_?(\d+)([a-z]?.*)")


def short_name(hook: str) -> str:
    """What a full hook name calls the activation: "q" for "blocks.0.attn.hook_q"."""
    return hook.rpartition("hook_")[2]


def get_act_name(name: str, layer: int | str | None = None, layer_type: str | None = None) -> str:
    """The full hook name for a short one: ("k", 6) or "k6", ("scale", 4, "ln1") or "scale4ln1", "embed".

    A full name is returned as it is, or with `layer` in place of "{layer}" in it; "hook_" before a short name is
    dropped. If only one sublayer has a hook of that name, it is taken; otherwise `layer_type` ("a", "m", "attn", "mlp",
    "ln1", ...) says which. `scale` and `normalized` without a layer are those of the final norm.

    Raises:
        BadInput: a name that is not a string; UnknownHook: one of no letters.
    """
    if not isinstance(name, str):
        raise BadInput(f"a hook is named by text, got {told(name)}")
    if not name:
        raise UnknownHook("there is no hook point ''; hook_table() lists all of them")
    if layer is not None and LAYER in name:
        return name.replace(LAYER, str(layer))
    if layer is None and layer_type is None and ("." in name or name.startswith("hook_")):
        return name
    short = _SHORT.fullmatch(name)
    if short:
        name, layer, layer_type = short[1], int(short[2]), short[3] or layer_type
    name = name.removeprefix("hook_")
    name = ALIASES.get(name, name)
    if name in ATTENTION_NAMES:
        sublayer = "attn"
    elif name in MLP_NAMES:
        sublayer = "mlp"
    elif name in BLOCK_NAMES:
        sublayer = ""
    else:
        sublayer = SUBLAYER_ALIASES.get(layer_type or "", layer_type or "")
    if layer is None and name in ("scale", "normalized"):
        sublayer = "ln_final"
    place = ["" if layer is None else f"blocks.{layer}", sublayer, f"hook_{name}"]
    return ".".join(filter(None, place))
