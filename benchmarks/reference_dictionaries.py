"""Write tests/data/dictionaries: small dictionaries as SAELens saves them, and what SAELens computes with them; and
tests/data/published: small files laid as Gemma Scope 2 and Qwen Scope publish theirs, which SAELens reads for the hub.

    python benchmarks/reference_dictionaries.py

Runs itself with the peer's interpreter. Beside files of weights are `numbers.safetensors`: activations x, features and
the output, and of published files where SAELens says they belong. Its loaders take files from the folder instead of the
hub.
"""

# pyright: reportMissingImports=false
import json
import subprocess
import sys
from pathlib import Path

import torch

DATA = Path(__file__).parents[1] / "tests" / "data"
OUT, PUBLISHED = DATA / "dictionaries", DATA / "published"
PEER = "sae-lens==6.54.12 transformer-lens==3.9.0"
D, D_OUT, F = 6, 5, 11
NUMBERS = "numbers.safetensors"
HOOK, HOOK_OUT = "blocks.2.ln2.hook_normalized", "blocks.2.hook_mlp_out"


def write() -> None:
    """Draw every weight of every architecture at random, save it, and keep what SAELens makes of it."""
    from sae_lens import SAE, GatedSAEConfig, JumpReLUSAEConfig, StandardSAEConfig, TopKSAEConfig
    from sae_lens.registry import get_sae_class
    from safetensors.torch import save_file

    sizes = dict(d_in=D, d_sae=F, dtype="float64", device="cpu")
    asked = {
        "standard": StandardSAEConfig(**sizes),
        "standard-not-subtracted": StandardSAEConfig(**sizes, apply_b_dec_to_input=False),
        "standard-layer-norm": StandardSAEConfig(**sizes, normalize_activations="layer_norm"),
        "standard-constant-norm": StandardSAEConfig(**sizes, normalize_activations="constant_norm_rescale"),
        "gated": GatedSAEConfig(**sizes),
        "jumprelu": JumpReLUSAEConfig(**sizes),
        "topk": TopKSAEConfig(**sizes, k=3),
        "topk-rescaled": TopKSAEConfig(**sizes, k=3, rescale_acts_by_decoder_norm=True),
    }
    for name in ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"):
        asked[name] = get_sae_class(name)[1](**sizes, d_out=D_OUT, apply_b_dec_to_input=False)
    for number, (name, config) in enumerate(asked.items()):
        torch.manual_seed(number)
        config.metadata.hook_name = HOOK if "transcoder" in name else HOOK_OUT
        config.metadata.hook_name_out = HOOK_OUT if "transcoder" in name else None
        sae = get_sae_class(config.architecture())[0](config)
        with torch.no_grad():
            for key, weight in sae.named_parameters():
                weight.copy_(torch.randn_like(weight).abs() / 2 if key == "threshold" else torch.randn_like(weight))
            folder = OUT / name
            sae.save_model(folder)
            back = SAE.load_from_disk(folder)
            x = torch.randn(7, D, dtype=torch.float64)
            numbers = {"x": x, "features": back.encode(x), "out": back(x)}
        save_file({key: value.contiguous() for key, value in numbers.items()}, folder / "numbers.safetensors")


GEMMA, QWEN = "google/gemma-scope-2-270m-pt", "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_4"
# The folder of a file, and the config that is there (None: SAELens infers it from the folder's name).
GEMMA_FOLDERS = {
    "resid_post/layer_12_width_16k_l0_small": {"hf_hook_point_in": "model.layers.12.output"},
    "mlp_out/layer_9_width_16k_l0_medium": {"hf_hook_point_in": "model.layers.9.post_feedforward_layernorm.output"},
    "attn_out_all/layer_0_width_16k_l0_big": None,
    "transcoder/layer_15_width_16k_l0_small_affine": {
        "hf_hook_point_in": "model.layers.15.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.15.post_feedforward_layernorm.output",
        "affine_connection": True,
    },
    "transcoder_all/layer_1_width_16k_l0_big": None,
    "transcoder_all/layer_2_width_16k_l0_big_affine": None,
}
CLT, CLT_LAYERS = "clt/width_262k_l0_medium_affine", 3


def write_published() -> None:
    """Draw weights, save them as the publishers do, and keep what SAELens makes of each file."""
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors.torch import load_file

    def here(repo_id: str, filename: str, subfolder: str = "", **_: object) -> str:
        found = PUBLISHED / repo_id / subfolder / filename
        if not found.exists():
            raise loaders.EntryNotFoundError(str(found))
        return str(found)

    loaders.hf_hub_download = here
    loaders.get_safetensors_tensor_shapes = lambda repo, name: {
        key: list(one.shape) for key, one in load_file(here(repo, name)).items()
    }
    torch.manual_seed(0)
    for folder, config in GEMMA_FOLDERS.items():
        predicts = "transcoder" in folder
        weights = _jumprelu((F, D_OUT if predicts else D), affine="affine" in folder)
        _save(PUBLISHED / GEMMA / folder / "params.safetensors", weights)
        if config is not None:
            about = {"architecture": "jump_relu", "model_name": "google/gemma-3-270m", **config}
            (PUBLISHED / GEMMA / folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")
        _keep(loaders.gemma_3_sae_huggingface_loader(GEMMA, folder), PUBLISHED / GEMMA / folder / NUMBERS)
    for layer in range(CLT_LAYERS):
        weights = _jumprelu((F, CLT_LAYERS, D), affine=True)
        weights["w_dec"][:, :layer] = 0
        _save(PUBLISHED / GEMMA / CLT / f"params_layer_{layer}.safetensors", weights)
        numbers = PUBLISHED / GEMMA / "clt_numbers" / f"layer_{layer}.safetensors"
        _keep(loaders.gemma_3_sae_huggingface_loader(GEMMA, f"{CLT}/params_layer_{layer}"), numbers)
    weights = {"W_enc": torch.randn(F, D), "W_dec": torch.randn(D, F), "b_enc": torch.randn(F), "b_dec": torch.randn(D)}
    (PUBLISHED / QWEN).mkdir(parents=True, exist_ok=True)
    torch.save(weights, PUBLISHED / QWEN / "layer6.sae.pt")
    sizes = {"d_in": D, "d_sae": F}  # which SAELens knows of the models whose SAEs are published
    _keep(
        loaders.qwen_scope_sae_huggingface_loader(QWEN, "layer6.sae.pt", cfg_overrides=sizes),
        PUBLISHED / QWEN / NUMBERS,
    )


def _jumprelu(decoder: tuple[int, ...], affine: bool) -> dict[str, torch.Tensor]:
    """The tensors of a file of Gemma Scope 2."""
    weights = {"w_enc": torch.randn(D, F), "b_enc": torch.randn(F), "threshold": torch.rand(F)}
    weights |= {"w_dec": torch.randn(decoder), "b_dec": torch.randn(decoder[-1])}
    return weights | ({"affine_skip_connection": torch.randn(D, decoder[-1])} if affine else {})


def _keep(loaded: tuple, path: Path) -> None:
    """Numbers of a dictionary as a loader of SAELens gives it, and where that says it belongs."""
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
    from sae_lens.registry import get_sae_class

    config, weights, _ = loaded
    config = handle_config_defaulting(config)
    of, config_of = get_sae_class(config["architecture"])
    sae = of(config_of.from_dict(config))
    sae.process_state_dict_for_loading(weights)
    sae.load_state_dict(weights)
    x = torch.randn(7, D)
    with torch.no_grad():
        numbers = {"x": x, "features": sae.encode(x), "out": sae(x)}
    told = {name: getattr(sae.cfg.metadata, name) for name in ("hook_name", "hook_name_out", "hf_hook_name")}
    _save(path, numbers, {name: value for name, value in told.items() if value is not None})


def _save(path: Path, tensors: dict[str, torch.Tensor], told: dict[str, str] | None = None) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, told)


if __name__ == "__main__":
    if sys.argv[1:] == ["here"]:
        write()
        write_published()
    else:
        from peers import environment

        subprocess.run([environment(PEER), __file__, "here"], check=True)
