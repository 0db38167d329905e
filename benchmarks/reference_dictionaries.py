"""Write tests/data/dictionaries: small dictionaries as SAELens saves them, and what SAELens computes with them.

    python benchmarks/reference_dictionaries.py

Runs itself with the peer's interpreter. Each folder has SAELens' own files, and `numbers.safetensors`: activations x,
features and the output.
"""

# pyright: reportMissingImports=false
import subprocess
import sys
from pathlib import Path

import torch

OUT = Path(__file__).parents[1] / "tests" / "data" / "dictionaries"
PEER = "sae-lens==6.54.12 transformer-lens==3.9.0"
D, D_OUT, F = 6, 5, 11
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


if __name__ == "__main__":
    if sys.argv[1:] == ["here"]:
        write()
    else:
        from peers import environment

        subprocess.run([environment(PEER), __file__, "here"], check=True)
