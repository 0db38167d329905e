"""Write tests/data/lens_checkpoints: tiny checkpoints in the format of TransformerLens' author, and their logits.

    python benchmarks/reference_lens_checkpoints.py

Runs itself with TransformerLens 3.9.0's interpreter, which loads each from a cache of the hub under a name that it
knows, and keeps the files, the tokens, and the logits without and with processing (`logits.safetensors`).
"""

# pyright: reportMissingImports=false
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "lens_checkpoints"
SIZES = dict(d_model=6, d_head=2, n_heads=3, n_ctx=7, d_vocab=11)
MLP = dict(d_mlp=5, attn_only=False)
OLD = dict(**MLP, act_fn="solu_ln", normalization_type="LN")
VARIANTS = {  # a hub id of theirs -> what its config says beside the sizes
    "NeelNanda/Attn_Only_2L512W_C4_Code": dict(
        n_layers=2, d_mlp=-1, attn_only=True, act_fn="gelu", normalization="LN", lr=1e-3, n_epochs=100
    ),
    "NeelNanda/GELU_1L512W_C4_Code": dict(n_layers=1, **MLP, act_fn="gelu", normalization="LN", seed=259123),
    "NeelNanda/SoLU_3L512W_C4_Code": dict(n_layers=3, **MLP, act_fn="solu_ln", normalization="LN"),
    "NeelNanda/Attn-Only-2L512W-Shortformer-6B-big-lr": dict(
        n_layers=2, d_mlp=-1, attn_only=True, act_fn="gelu", normalization="LNPre", shortformer_pos=True
    ),
    "NeelNanda/SoLU_2L_v10_old": dict(n_layers=2, **OLD, final_rms=True),
    "NeelNanda/SoLU_8L_v21_old": dict(n_layers=8, **OLD, final_rms=True, shortformer_pos=False),
    "NeelNanda/SoLU_10L_v22_old": dict(n_layers=10, **OLD, final_rms=False),
    "ArthurConmy/redwood_attn_2l": dict(
        n_layers=2, d_mlp=-1, attn_only=True, act_fn="gelu", normalization="LN", shortformer_pos=True
    ),
    "Baidicoot/Othello-GPT-Transformer-Lens": dict(
        n_layers=2, d_mlp=24, attn_only=False, act_fn="gelu", normalization_type="LN", architecture="mingpt"
    ),
}


# --------------------------------------------------------------------------------------------- inside the peer


def main() -> None:
    from huggingface_hub import HfApi
    from transformer_lens import HookedTransformer, loading

    hub = Path(os.environ["HF_HOME"]) / "hub"
    HfApi.list_repo_files = lambda self, name, **options: ["config.json", "model_final.pth"]
    for seed, (name, settings) in enumerate(VARIANTS.items()):
        repository = hub / f"models--{name.replace('/', '--')}"
        (folder := repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        (folder / "config.json").write_text(json.dumps(SIZES | settings, indent=1))
        cfg = loading.get_pretrained_model_config(name, device="cpu")
        cfg.init_weights = True
        drawn = HookedTransformer(cfg).state_dict()
        generator = torch.Generator().manual_seed(seed)
        for tensor in drawn.values():
            if tensor.is_floating_point() and tensor.ndim:
                tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
        old, mingpt = name.endswith("_old"), settings.get("architecture") == "mingpt"
        state = as_old(drawn, cfg.n_layers) if old else as_mingpt(drawn, cfg.n_layers) if mingpt else drawn
        torch.save({key: tensor.clone() for key, tensor in state.items()}, folder / "model_final.pth")
        tokens = torch.randint(SIZES["d_vocab"], (2, 6), generator=generator)
        plain = HookedTransformer.from_pretrained_no_processing(name, device="cpu")(tokens)
        processed = HookedTransformer.from_pretrained(name, device="cpu")(tokens)
        place = FOLDER / name.replace("/", "--")
        shutil.copytree(folder, place)
        save_file(dict(tokens=tokens, plain=plain.detach(), processed=processed.detach()), place / "logits.safetensors")


def as_old(state: dict, n_layers: int) -> dict:
    """What the converter of the first SoLU models makes such a state dict of."""
    turned = {}
    for name, tensor in state.items():
        lies = n_layers <= 8 if name.endswith("W_pos") else n_layers <= 6 and "W_" in name
        turned[name.replace("ln_final", "norm").replace("ln", "norm")] = tensor.mT if lies else tensor
    return turned


def as_mingpt(state: dict, n_layers: int) -> dict:
    """The same numbers as minGPT of 2020 holds them."""
    turned = {"tok_emb.weight": state["embed.W_E"], "pos_emb": state["pos_embed.W_pos"][None]}
    turned |= {"ln_f.weight": state["ln_final.w"], "ln_f.bias": state["ln_final.b"]}
    turned["head.weight"] = state["unembed.W_U"].T
    for block in (f"blocks.{layer}" for layer in range(n_layers)):
        for letter, name in zip("QKV", ("query", "key", "value"), strict=True):
            turned[f"{block}.attn.{name}.weight"] = state[f"{block}.attn.W_{letter}"].mT.flatten(0, 1)
            turned[f"{block}.attn.{name}.bias"] = state[f"{block}.attn.b_{letter}"].flatten()
        turned[f"{block}.attn.proj.weight"] = state[f"{block}.attn.W_O"].flatten(0, 1).T
        turned[f"{block}.attn.proj.bias"] = state[f"{block}.attn.b_O"]
        for norm in ("ln1", "ln2"):
            turned[f"{block}.{norm}.weight"], turned[f"{block}.{norm}.bias"] = (
                state[f"{block}.{norm}.{leaf}"] for leaf in "wb"
            )
        for place, part in ((0, "in"), (2, "out")):
            turned[f"{block}.mlp.{place}.weight"] = state[f"{block}.mlp.W_{part}"].T
            turned[f"{block}.mlp.{place}.bias"] = state[f"{block}.mlp.b_{part}"]
    return turned


if __name__ == "__main__":
    if "INSIDE" in os.environ:
        main()
    else:
        from peers import environment

        shutil.rmtree(FOLDER, ignore_errors=True)
        with tempfile.TemporaryDirectory() as home:
            inside = os.environ | {"INSIDE": "1", "HF_HOME": home, "HF_HUB_OFFLINE": "1"}
            subprocess.run([environment("transformer-lens==3.9.0"), __file__], check=True, env=inside)
        print(f"{sum(1 for _ in FOLDER.iterdir())} checkpoints in {FOLDER}", file=sys.stderr)
