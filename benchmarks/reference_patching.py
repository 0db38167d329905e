"""Write tests/data/patching: two tiny random checkpoints, and what TransformerLens 3.9.0's `patching` gives on them.

    python benchmarks/reference_patching.py

Draws the checkpoints, then runs itself with the peer's interpreter, which writes the numbers (`numbers.safetensors`)
and what it was asked for them (`asked.json`), so that a test can ask another package the same.
"""

# pyright: reportMissingImports=false
import itertools
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from peers import PEERS, environment
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "patching"
PEER, _ = PEERS["TransformerLens 3.9.0"]

VARIANCE = 0.2  # at a standard deviation of 0.2 most patches of the GPT-2's q, k and pattern do less than 2e-5
LAYERS, HEADS, GROUPS, D_MODEL, D_MLP, N_CTX, D_VOCAB = 3, 4, 2, 16, 24, 8, 29
CONFIGS = {
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(
            n_layer=LAYERS, n_head=HEADS, n_embd=D_MODEL, n_inner=D_MLP, n_positions=N_CTX, vocab_size=D_VOCAB,
            bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
        ),
    ),
    "llama": (
        LlamaForCausalLM,
        LlamaConfig(
            num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=GROUPS, hidden_size=D_MODEL,
            intermediate_size=D_MLP, max_position_embeddings=N_CTX, vocab_size=D_VOCAB,
        ),
    ),
}  # fmt: skip


def draw(name: str, seed: int) -> None:
    """A checkpoint with all parameters from N(0, VARIANCE), gains and biases included."""
    kind, config = CONFIGS[name]
    model = kind(config)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * VARIANCE**0.5
    config.architectures = [kind.__name__]
    config.save_pretrained(FOLDER / name)
    save_file(model.state_dict(), FOLDER / name / "model.safetensors", metadata={"format": "pt"})


# --------------------------------------------------------------------------------------------- inside the peer

POSITIONS = 5


def tokens() -> tuple[Tensor, Tensor]:
    """Two prompts, clean and corrupt, that differ at every position."""
    generator = torch.Generator().manual_seed(2)
    clean = torch.randint(D_VOCAB, (2, POSITIONS), generator=generator)
    return clean, (clean + torch.randint(1, D_VOCAB, clean.shape, generator=generator)) % D_VOCAB


def metric(logits):
    """Depends on every prompt and every position."""
    return (logits[:, -1, 3] - logits[:, -1, 5]).mean() + 0.1 * logits[..., 7].sum()


def load(name: str, processed: bool | dict[str, bool]):
    """TransformerLens' HookedTransformer with all of its processing by default, none, or these steps."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights

    convert, details = {
        "gpt2": (convert_gpt2_weights, dict(act_fn="gelu_new", normalization_type="LN", eps=1e-5)),
        "llama": (
            convert_llama_weights,
            dict(
                act_fn="silu", gated_mlp=True, normalization_type="RMS", final_rms=True, eps=1e-6,
                positional_embedding_type="rotary", rotary_dim=D_MODEL // HEADS, n_key_value_heads=GROUPS,
            ),
        ),
    }[name]  # fmt: skip
    sizes = dict(n_layers=LAYERS, n_heads=HEADS, d_model=D_MODEL, d_head=D_MODEL // HEADS, d_mlp=D_MLP, n_ctx=N_CTX)
    cfg = HookedTransformerConfig(**sizes, d_vocab=D_VOCAB, device="cpu", **details)
    if isinstance(processed, bool):
        steps = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
        processed = dict.fromkeys(steps, processed)
    model = HookedTransformer(cfg)
    hf = AutoModelForCausalLM.from_pretrained(FOLDER / name)
    model.load_and_process_state_dict(convert(hf, cfg), **processed)
    model.set_use_attn_result(True)
    return model


# What each setter patches: activations that no `get_act_patch_*` is about.
SETTERS = {
    "layer_pos_patch_setter": ("resid_post", "layer", "pos"),
    "layer_pos_head_vector_patch_setter": ("result", "layer", "pos", "head_index"),
    "layer_head_vector_patch_setter": ("result", "layer", "head"),
    "layer_head_pattern_patch_setter": ("attn_scores", "layer", "head"),
    "layer_head_pos_pattern_patch_setter": ("attn_scores", "layer", "head_index", "dest_pos"),
    "layer_head_dest_src_pos_pattern_patch_setter": ("attn_scores", "layer", "head", "dest_pos", "src_pos"),
}


def calls(name: str) -> dict[str, dict]:
    """The options to call each name of the module with."""
    from transformer_lens import patching

    activation, heads = {"gpt2": ("q", HEADS), "llama": ("rot_k", GROUPS)}[name]
    ranges = dict(column_max_ranges=[LAYERS, POSITIONS, heads], column_names=["layer", "pos", "head"])
    some = patching.make_df_from_ranges(**ranges).iloc[::-7]
    rows = dict(activation_name=activation, index_df=some.to_dict("split", index=False))
    return {
        **{grid: {} for grid in vars(patching) if grid.startswith("get_act_patch")},
        **{
            setter: dict(patch_setter=setter, activation_name=activation, index_axis_names=axes)
            for setter, (activation, *axes) in SETTERS.items()
        },
        "generic_activation_patch": dict(patch_setter="layer_pos_head_vector_patch_setter", **rows),
        "make_df_from_ranges": ranges,
    }


def answer(name: str, options: dict, *arguments) -> dict:
    """Values, and the table of cells where the call has one."""
    import pandas as pd
    from transformer_lens import patching

    if not options:
        return {"values": getattr(patching, name)(*arguments)}
    if name == "make_df_from_ranges":
        return {"cells": patching.make_df_from_ranges(**options)}
    options = options | {"patch_setter": getattr(patching, options["patch_setter"]), "return_index_df": True}
    if "index_df" in options:
        options["index_df"] = pd.DataFrame(**options["index_df"])
    values, cells = patching.generic_activation_patch(*arguments, **options)
    return {"values": values, "cells": cells}


def refusal(ask) -> str:
    """The error that a call ends with."""
    try:
        ask()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("the peer gives numbers for what it was known to refuse")


def refusals(arguments: tuple) -> dict[str, str]:
    """What the peer cannot do on the Llama."""
    rotated = dict(
        patch_setter="layer_pos_head_vector_patch_setter",
        activation_name="rot_k",
        index_axis_names=("layer", "pos", "head"),
    )
    per_prompt = (*arguments[:-1], lambda logits: logits[:, -1, 3] - logits[:, -1, 5])
    return {
        "rot_k by axes": refusal(lambda: answer("generic_activation_patch", rotated, *arguments)),
        "metric per prompt": refusal(lambda: answer("get_act_patch_resid_pre", {}, *per_prompt)),
    }


def inside_peer() -> None:
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    clean, corrupt = tokens()
    asked = {
        "peer": {package: version(package) for package in ("transformer-lens", "torch", "transformers")},
        "calls": {name: calls(name) for name in CONFIGS},
    }
    numbers = {"clean": clean, "corrupt": corrupt}
    for name, processed in itertools.product(CONFIGS, (False, True)):
        model = load(name, processed)
        case = f"{name}-processed" if processed else name
        numbers[f"{case}/unpatched"] = metric(model(corrupt))
        arguments = (model, corrupt, model.run_with_cache(clean)[1], metric)
        for call, options in asked["calls"][name].items():
            for kind, found in answer(call, options, *arguments).items():
                found = torch.tensor(found.to_numpy(), dtype=torch.uint8) if kind == "cells" else found
                numbers[f"{case}/{call}/{kind}"] = found
        if name == "llama":
            asked["refused"] = refusals(arguments)
    save_file({key: value.contiguous() for key, value in numbers.items()}, FOLDER / "numbers.safetensors")
    (FOLDER / "asked.json").write_text(json.dumps(asked, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["inside-peer"]:
        inside_peer()
    else:
        for seed, name in enumerate(CONFIGS):
            draw(name, seed)
        subprocess.run([environment(PEER), __file__, "inside-peer"], check=True)
