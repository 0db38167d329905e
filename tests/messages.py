"""What a message about a bad argument has to say: which argument it is, what was expected there, and what came.

    window must be at least 1 layer, got 0
    ------ ------------------------      -

`lacks` tells which of the three a message leaves out. The tables below say how arguments are called and what may be
expected of them. What came is looked for in what is left without the expectation: the 0 of `must be 0..813` came not.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from torch import Tensor

from interp_hooks import FactoredMatrix
from interp_hooks.errors.arguments import told

# --------------------------------------------------------------------------------------------------------- the argument

# What stands after the name of an argument, where a message is about it.
ABOUT = "|".join(
    (
        *(
            r"=",
            r"\[",
            r" '",
            r"s? (must|is|are|may|names|needs|has|leaves|were|differentiates|and|asks|given|at positions)\b",
        ),
        *(
            r":",
            r"s? (gives|count|other|position|for|of a [Rr]un)\b",
        ),
    )
)

# What messages call an argument whose name they don't use; never what two arguments of one call could be called.
PROMPT = r"token ids|the token \d+ pads"
PROMPT += r"|the prompt has \d+|(at least one|expected a) (string|prompt)|row of token ids|residual stream"
NO_HOOK = r"|is in no block|was not cached in this run"
HOOK = r"hook point|list of hook names|the filter function|a (hook|key) is|hooks are selected"
CALLED: dict[str, str] = {
    **dict.fromkeys(
        ("input", "prompts", "tokens", "seq", "corrupted_tokens"),
        PROMPT
        + r"|in the prompt,|batch axis|cache holds|is \d+ tokens|one token, one for|each of \d prompts"
        + r"|single prompt|the run \[batch|prompts to run",
    ),
    **dict.fromkeys(
        ("names_filter", "name_filter", "name", "wanted", "hooks", "key", "activation_name"), HOOK + NO_HOOK
    ),
    **dict.fromkeys(("fwd_hooks", "bwd_hooks", "patch_setter"), HOOK + r"|a hook (on|must)"),
    **dict.fromkeys(
        ("site", "sites", "hook"),
        HOOK + r"|^blocks\.\d\.[\w.]+ (is|has|cannot|needs)|needs a hook|out of range: blocks",
    ),
    **dict.fromkeys(("pos_slice", "batch_slice", "input_slice"), r"an index|of range for an axis|a mask of|a range is"),
    **dict.fromkeys(("pos", "logits_pos", "positions"), r"\bpositions? (-?\d|\[|must|per row|are|for)"),
    **dict.fromkeys(
        ("metric", "patching_metric"), r"the metric|no gradient|gives values that|answers?\b|position \d|is \d+ tokens"
    ),
    **dict.fromkeys(
        ("source", "method", "baseline", "order", "mask"),
        r"the source|serve as a source|an intervention that|the token \d+ pads",
    ),
    **dict.fromkeys(("string", "single_token"), r"is \d+ tokens|\(token -?\d+\)"),
    **dict.fromkeys(("int_token",), r"token ids?\b"),
    **dict.fromkeys(("along", "directions"), r"directions? (\d|must)|finite directions|of along="),
    **dict.fromkeys(("folder", "save_to"), r"a result|a file|a folder|was begun"),
    **dict.fromkeys(("A", "B", "other"), r"shapes|both factors"),
    **dict.fromkeys(("start_at_layer", "stop_at_layer"), r"came by z1"),
    "heads": r"no head \d",
    "layers": r"\blayer -?\d+ is out of range",
    "runs": r"at least one run",
    "run_at": r"expected runs|blocks\.9\.",
    "into": r"what an edge leads into|reads the stream|hook_q_input has",
    "senders": r"cannot be a sender|there are no senders",
    "receivers": r"cannot be a receiver",
    "over": r"hook point|to sweep over|be swept over|to keep|cannot be selected",
    "no_such_axis": r"to select",
    "select": r"to select|selected too|d_model=",
    "layer": r"blocks\.-?\d+\.|before layer",
    "answer": r"at least one answer|\d answers",
    "subject": r"\d subjects|no subject|position -?\d+ is out of range",
    "vector": r"needs a vector",
    "wrong": r"wrong answers",
    "device": r"this model is on cpu, so",
    "detection_pattern": r"\bpattern\b",
    "default_padding_side": r"padding_side",
    "direction": r"\bdir must",
    "path": r"no file that ActivationCache\.save wrote",
    "model_name": r"the folder",
    "cells": r"two cells",
    "remove_batch_dim": r"the batch axis",
    "tokenizer": r"a tokenizer of transformers",
    "index_axis_names": r"axis of a cell|to patch along|index_axis_names",
    "index_df": r"index_df",
    "window": r"a window of",
    "groups": r"a group for each",
    "labels": r"labels for",
    "max_new_tokens": r"new ones",
    "head_index": r"needs a head_index",
    "reference": r"the prompt has \d+|the source has|reference of KL|reference logits",
    "clean": r"in clean|clean prompts",
    "corrupt": r"in corrupt|corrupt prompts",
    **dict.fromkeys(("steps", "lr", "batch_size"), r"steps >= 0, a finite lr > 0 and batch_size >= 1"),
}


def names(message: str, argument: str) -> bool:
    stand_in = CALLED.get(argument)
    return bool(re.search(rf"\b{argument}({ABOUT})", message) or (stand_in and re.search(stand_in, message)))


# -------------------------------------------------------------------------------------------------- what was expected

COUNT = r"an int|at least \d|steps >= 0, a finite lr > 0 and batch_size >= 1|fit into this model's n_ctx=128"
NUMBER = "|".join(
    (
        *(
            r"a number",
            r"above 0( and at most 1)?",
            r"finite( and (at least|above) 0)?",
            r"pass tokens= \[batch, pos\]",
        ),
        *(r"not be negative, nor nan", r"between 0 and 1", r"at least 0", r"a finite lr > 0"),
    )
)
TOKEN_IDS = r"must be an integer, a list of integers or a tensor"
TOKEN_IDS += r"|pass attention_mask= \(1 for real tokens"
TOKEN_IDS += r"|text or an integer tensor of token ids \[batch, pos\]|(must be|are) 0\.\.813|are integers( \[pos\])?"
ONE_TOKEN = r"expected exactly one|does not occur in the prompt, whose tokens are \[[\d, ]*\]|must be text\b"
PROMPTS = "|".join(
    (
        *(TOKEN_IDS, r"must be \[batch, pos\] with at least one token", r"reads at most n_ctx=128", r"must be text\b"),
        *(r"at least one (string|prompt)", r"expected (a string|token ids|one row of token ids|a single token id)"),
        *(r"pass attention_mask= \(1 for real tokens",),
        *(r"residual stream \[batch, pos, d_model=128\]", r"this model computes in torch\.float32", r"has no numbers"),
        *(
            r"pass tokens= beside start_at_layer",
            r"(must be|tokens of a Run must be) integers \[batch, pos\]",
            ONE_TOKEN,
        ),
        *(r"must be those of the stream", r"must be a tensor \[batch pos\]", r"has no first", r"a device with memory"),
        *(
            r"from a single prompt",
            r"expected one (answer for each|token)",
            r"pass reference=",
            r"either prompts to run or cache=",
        ),
    )
)
PAIRS = PROMPTS + "|".join(
    (
        *("", r"both prompts of a pair need the same number of tokens", r"clean prompts but"),
        *(r"Both need as many prompts and tokens", r"must be logits \[batch, 814\]", r"expected one row of reference"),
        *(r"go together", r"metric must be a loss"),
    )
)
ANSWERS = "|".join(
    (
        *(ONE_TOKEN, TOKEN_IDS, r"expected token ids or one-token strings", r"expected one of each per prompt"),
        *(r"expected one (answer for each of 2 prompts|token, one for each prompt)", r"must be one token for each"),
        *(r"use metric\.on\(model\)", r"at least one answer"),
        *(r"answer_tokens is needed", r"a candidate other than the answer", r"must be tokens for all prompts"),
    )
)
NAME = r"there is no hook point|is no hook point|was not cached in this run|is in no block, so"
HOOKS = "|".join(
    (
        *(NAME, r"by a name, several names or a function of names", r"pass None to select", r"by (a string|text)"),
        *(r"selects none of the 75 hook points", r"must be text\b", r"must be a Site or text"),
        *(r"a key is a hook name or", r"there are layer, head"),
    )
)
FUNCTIONS = HOOKS + r"|must be a function|expected None|expected \[batch=2|expected torch\.float32|expected cpu"
SITES = "|".join(
    (
        *(HOOKS, r"at least one site", r"is infinite where attention is masked", r"cannot be swept over", r"a Site\b"),
        *(r"a vector (at|for) each position", r"the axes batch, pos, d_model", r"has 4 along head"),
        *(r"must be a (mapping|function)", r"select nothing", r"a Site or a list"),
    )
)
ENDS = "|".join(
    (
        *(r"has 15 along pos", r"no pass came by", r"without a step", r"needs one index"),
        *(
            r"for prompts of \d+ tokens",
            r"must be (an int|integers|a mapping|\[batch=2, n\])",
            r"one position for each",
        ),
    )
)
SLICES = r"(expected|must be) an index, a (tuple for a )?range|axis of \d+"
SLICES += r"|\(stop,\), \(start, stop\) or \(start, stop, step\)"
SOURCES = "|".join(
    (
        *(
            r"the place it goes to \[[\d, ]+\]|pass attention_mask= \(1 for real",
            r"must be (one of|a number|'zero')",
            r"was not cached",
        ),
        *(
            r"Both need as many prompts and tokens",
            r"Look for infinite logits",
            r"must name prompts 0\.\.1 of",
            r"a tensor of prompts",
        ),
    )
)
METRICS = "|".join(
    (
        *(
            ANSWERS,
            ENDS,
            r"must be a (Metric or a )?function|must be a Metric, a function or 'kl'|must be a loss",
            r"must return a tensor",
            r"must give one number",
        ),
        *(r"Look for infinite", r"use patch instead", r"no constant can be learned", r"the result is in logit_diff"),
        *(r"go together", r"metric must be a loss"),
    )
)
DIRECTIONS = "|".join(
    (
        *(r"must be (a tensor|\[n, d_model=128\])", r"is zero, or a combination", r"needs \d+ \(d_\w+\)"),
        *(r"finite directions \[n, width\]", r"nothing to sweep over"),
    )
)
SENDERS = "|".join(
    (
        *(NAME, r"cannot be swept over", r"must be (text|one or more|'logits')", r"(Senders|Receivers) are what"),
        *(r"no senders", r"has 4 along head"),
    )
)
AXES = "|".join(
    (
        *(r"hook point", r"cannot be swept over", r"must be a (list|mapping)", r"names an axis twice", r"has no axis"),
        *(r"cannot be selected", r"nothing to sweep over"),
    )
)
FOLDERS = "|".join(
    (
        *(r"no file that ActivationCache\.save wrote", r"text or a Path", r"expected a (folder|result)"),
        *(r"holds something else than a result", r"nothing was begun in"),
    )
)

EXPECTED: dict[str, str] = {
    # dictionaries
    **dict.fromkeys(("dictionary", "dictionaries"), r"must be a .*Dictionary|a SAE or|t hooks|one hook|by name"),
    "seed": r"must be an int",
    "format": r"must be (one of|text)",
    **dict.fromkeys(("recipe", "recipes"), r"must be a Recipe|by names such as 'sae'"),
    **dict.fromkeys(("tokens_per_step", "buffer"), r"must be (an int|\d+\.\.\d+|at least)|must hold 2 steps"),
    **dict.fromkeys(("node_threshold", "edge_threshold"), r"must be (a number|0 or more)"),
    "by_position": r"must be a bool",
    **dict.fromkeys(("x", "y"), r"must be (a tensor|None: only transcoders)|expected x \[token, d_in\]"),
    # text and positions
    **dict.fromkeys(("input", "prompts", "tokens", "seq", "int_token", "prompt", "positive"), PROMPTS),
    **dict.fromkeys(("clean", "corrupt", "reference", "corrupted_tokens"), PAIRS),
    **dict.fromkeys(("string", "single_token"), ONE_TOKEN),
    **dict.fromkeys(("answer", "wrong", "among", "answer_tokens", "incorrect_tokens"), ANSWERS),
    **dict.fromkeys(("pos", "logits_pos", "positions"), ENDS),
    **dict.fromkeys(("pos_slice", "batch_slice", "input_slice"), SLICES),
    **dict.fromkeys(("padding_side", "default_padding_side"), r"'left' or 'right'"),
    # hooks and sites
    **dict.fromkeys(("names_filter", "name_filter", "name", "wanted", "hooks", "key", "activation_name"), HOOKS),
    **dict.fromkeys(("fwd_hooks", "bwd_hooks", "patch_setter", "hook_function"), FUNCTIONS + r"|a list of \(name, fun"),
    **dict.fromkeys(("site", "sites", "hook"), SITES),
    **dict.fromkeys(("senders", "receivers"), SENDERS),
    **dict.fromkeys(("dir", "direction"), r"'fwd'(,| or) 'bwd'|'denoise' or 'noise'"),
    **dict.fromkeys(("source", "method", "baseline", "order"), SOURCES),
    **dict.fromkeys(("metric", "patching_metric", "reference_metric"), METRICS),
    **dict.fromkeys(("along", "directions"), DIRECTIONS),
    # numbers
    **dict.fromkeys(("max_new_tokens", "max_tokens_per_yield", "top_k", "window", "batch_size", "samples"), COUNT),
    **dict.fromkeys(("steps", "k", "n", "top", "max_memory", "sublayer"), COUNT),
    **dict.fromkeys(("coefficient", "temperature", "freq_penalty", "repetition_penalty", "top_p", "lr"), NUMBER),
    **dict.fromkeys(("std", "noise", "level"), NUMBER),
    **dict.fromkeys(("minimize", "qk_fix", "grad_drop", "prepend_bos"), r"a bool"),
    # what there is one of
    **dict.fromkeys(("folder", "save_to", "path"), FOLDERS),
    **dict.fromkeys(("A", "B", "other"), r"cannot be multiplied|a tensor \[\.\.\. (left inner|inner right)\]"),
    **dict.fromkeys(("clean_cache", "cache"), r"a ActivationCache"),
    "model": r"a Hooked(Transformer|RootModule)",
    "generator": r"a Generator",
    "result": r"a Result",
    "run": r"a Run",
    "runs": r"at least one run|a list of Runs",
    "run_at": r"must be a function|expected runs|there is no hook point",
    "over": AXES,
    "layers": r"the model has layers 0\.\.2|a list of ints|nothing to sweep over",
    "layer": r"must be an int|must be [01]\.\.3|ask for a later layer|there is no hook point",
    "head": "|".join(
        (
            *(r"one of previous_token_head", r"'previous_token_head', 'dupl", r"must be an int, a list of ints"),
            *(r"has 4 along head", r"one index for each of 2 prompts"),
        )
    ),
    "no_such_axis": r"has the axes batch, pos, head, d_head",
    "select": r"has the axes|cannot be selected too|a mapping from text|has 128 along|must be an int, a list of ints",
    "into": r"Readers are what reads the stream|before blocks\.1\.attn\.hook_z writes to it|must be a Site|has 4 along",
    "mask": r"the place it goes to \[2, 15, 4, 32\]|a number or a tensor|Look for infinite logits",
    "interventions": r"a list of Intervention",
    "return_type": r"'logits', 'loss', 'both' or None|'input', 'str' or 'tokens'",
    "start_at_layer": r"an int|model of 3 layers|needs a residual stream \[batch, pos, d_model=128\]|text or an int",
    "stop_at_layer": r"an int|model of 3 layers|comes after|never came by z1",
    "shortformer_pos_embed": r"is for passes with start_at_layer=",
    "attention_mask": r"\[batch, pos\]|any real token|1 for real tokens and 0 for padding|must be a tensor",
    "past_kv_cache": r"a KeyValueCache",
    "token_type_ids": r"this model has no token types",
    "known": r"it needs start_at_layer=|a mapping|may hold z \[2, 15, 4, 32\]",
    "device": r"one that torch can use here, such as 'cpu'|a device or text|this model is on cpu",
    "remove_batch_dim": r"from a single prompt",
    "incl_bwd": r"differentiates one number",
    "mode": r"'first' or 'last'|'all', 'attn' or 'mlp'",
    "tokenizer": r"a tokenizer of transformers",
    "eos_token_id": r"an int or a list of ints",
    "mlp_input": r"needs a layer 0\.\.2 that has an MLP",
    "sublayer_type": r"text",
    "exclude": r"'bos' (and|or) 'padding'|may name bos, padding",
    "baselines": r"a mapping from text to a Run",
    "scale": r"none of the baselines|must be",
    "groups": r"a group for each of 2 prompts|a list of Hashables",
    "mlps": r"'recompute' or 'freeze'",
    "cells": r"an int|at least two cells",
    "subject": r"expected once|must be text|prompts of 15 tokens|no token of it|for 2 prompts|a bool mask \[2, 15\]",
    "severed": r"'attn'(,| or) 'mlp'",
    "vector": r"a vector of 128 numbers|must be a tensor|blocks\.0\.hook_resid_pre has 128",
    "index_axis_names": r"either by index_axis_names|must be 'layer'|there are layer, head|a list of text",
    "index_df": r"either by index_axis_names or by index_df|must be a DataFrame",
    "unit": r"'component', 'layer', 'head' or 'neuron'",
    "detection_pattern": r"'?previous_token_head'?, '?dup|a causal model cannot|\[query, key\] = \[15, 15\]",
    "heads": r"this model has layers 0\.\.2 of heads 0\.\.3|leave it out to score every head|a list of",
    "error_measure": r"'mul' or 'abs'|'abs' or 'mul'",
    "vector_type": r"'OV', 'w_in' or 'w_out'|of a whole layer",
    "layer_index": r"an int|0\.\.2",
    "num_vectors": r"an int|1\.\.32 for OV",
    "head_index": r"an int|0\.\.3|needs a head_index",
    "subseq_len": r"an int|2\.\.63",
    "logits": r"a tensor \[batch,? pos,? d_vocab\]",
    "value": r"'mean', 'change'(,| or) 'recovered_fraction'",
    "by": r"one of logit_diff, standard_error, change, recovered_fraction|text",
    "labels": r"expected 15|this result has layer, pos|a mapping from text to a list",
    "dtype": r"a floating torch dtype",
    "first_n_layers": r"1\.\.3",
    "model_name": r"no config\.json",
    "n_layers": r"positive",
    "act_fn": r"must be 'relu', 'gelu'",
    "normalization_type": r"must be 'LN', 'LNPre'",
    "positional_embedding_type": r"must be 'standard', 'shortformer'",
    "init_mode": r"must be 'gpt2', 'xavier_uniform'",
    "cfg": r"a HookedTransformerConfig or a mapping",
}

# ----------------------------------------------------------------------------------------------------------- what came

# What is told of functions that are bad by what they do.
COMES_AS: dict[Callable[..., Any], str] = {}


def doing(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, of which a message has to tell what it does."""
    COMES_AS[function] = what
    return function


# What messages say of a value in place of showing it.
DESCRIBED = "|".join(
    (
        *(r"asks for attention to later tokens", r"it holds other numbers", r"is zero, or a combination"),
        *(r"got the answer alone", r"must be a loss, got", r"the token \d+ pads"),
        *(r"no token of it is marked", r"gives nan", r"that are not finite", r"was not cached in"),
        *(r"is infinite where attention is masked", r"gives the prompt itself"),
        *(
            r"without any real token",
            r"prompt \d has \d+ tokens in clean",
            r"the source has \[batch=",
            r"whose tokens are",
        ),
    )
)
# What messages say of an argument that is out of place beside the others, or missing beside them, whatever it is.
OUT_OF_PLACE = "|".join(
    (
        *(r"is for passes with start_at_layer=", r"were given, but this model has no", r"is about the layer at which"),
        *(r"give (the cells )?either", r"go together", r"pass tokens= ", r"use metric\.on\(model\)", r"is needed"),
        *(r"start_at_layer needs a residual stream", r"a stream needs start_at_layer=", r"needs a head_index"),
        *(r"from a single prompt", r"incl_bwd differentiates one number", r"cannot be swept over", r"to select"),
        *(r"the layers? at which", r"never came by z1"),
    )
)
COUNTED = r"(got {n}|{n} (tokens|numbers|entries|rows|clean|corrupt|subjects|answers|prompts))\b"


def tellings(value: Any) -> Iterator[str]:
    """Patterns of what may be told of a value, any of which tells what came."""
    yield re.escape(told(value))
    if isinstance(value, Tensor | FactoredMatrix):
        sizes = list(value.shape)
        yield re.escape(str(sizes))
        yield r"\[" + ", ".join(rf"\w+={size}" for size in sizes)
        yield from (rf"(?<!\d){COUNTED.format(n=size)}" for size in sizes)
        if isinstance(value, Tensor):
            yield re.escape(str(value.dtype))
            yield from (
                [] if value.is_meta else (one for number in value.flatten().tolist()[:4] for one in tellings(number))
            )
    elif isinstance(value, bool | int | float):
        yield rf"(?<!\d)(?<!\d\.){re.escape(repr(value))}(?!\d|\.\d)"
    elif isinstance(value, str):
        yield re.escape(repr(value))
        if value:
            yield re.escape(value)
            yield rf"hook_{re.escape(value.rstrip('0123456789'))}\b"
    elif isinstance(value, Mapping | list | tuple):
        yield re.escape(repr(value))
        yield rf"(?<!\d){COUNTED.format(n=len(value))}" if value else "is empty|an empty list|got none|has no values"
        for part in (*value, *value.values()) if isinstance(value, Mapping) else value:
            yield from tellings(part)
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__.lower()
        for field in fields(value):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if (given := getattr(value, field.name)) is not default:
                yield from tellings(given)
    elif value is None:
        yield r"\bNone"
    elif callable(value) and value in COMES_AS:
        yield COMES_AS[value]
    else:
        yield re.escape(str(value))


def tells(message: str, value: Any) -> bool:
    return any(re.search(one, message) for one in tellings(value))


# ------------------------------------------------------------------------------------------------------------ together

# Messages of today that leave a part out, by arguments: to be mended, and then to be taken from here.
TO_MEND: list[tuple[str, tuple[str, ...], str]] = [
    ("what came", ("metric",), r"^this metric has no gradient"),
]


def lacks(message: str, argument: str, value: Any) -> list[str]:
    """Which parts a message about an argument's bad value leaves out, but for those that are still to be mended."""
    without, expected = re.subn(EXPECTED.get(argument, r"(?!)"), "...", message)
    told_otherwise = re.search(f"{DESCRIBED}|{OUT_OF_PLACE}", message)
    said = {
        "the argument": names(message, argument),
        "what was expected": bool(expected),
        "what came": tells(without, value) or bool(told_otherwise),
    }
    mended_later = {part for part, those, found in TO_MEND if argument in those and re.search(found, message)}
    return [part for part, there in said.items() if not there and part not in mended_later]
