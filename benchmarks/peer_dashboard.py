"""Runs inside SAEDashboard's own environment: makes the data of its pages for a batch of neurons on request.

    python peer_dashboard.py CHECKPOINT THREADS

Its pages are of a sparse autoencoder's features; that of neurons is the identity (and a ReLU, by which it sees their
positive activations alone). Reads {"layer": n, "features": n, "tokens": [[id, ...], ...]} per line and writes a JSON
line: seconds, and how many features have data.
"""

import json
import sys
import time

import torch


def identity(layer, width):
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=width, apply_b_dec_to_input=False))
    sae.cfg.metadata.hook_name = f"blocks.{layer}.mlp.hook_post"
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.eye(width) if name.startswith("W_") else torch.zeros_like(parameter))
    return sae


def main(folder, threads):
    torch.set_num_threads(int(threads))
    from peer_transformer_lens import load
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner

    model = load("hooked", folder, "cpu")
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        hook, sae = f"blocks.{request['layer']}.mlp.hook_post", identity(request["layer"], model.cfg.d_mlp)
        config = SaeVisConfig(hook_point=hook, features=list(range(request["features"])))
        start = time.perf_counter()
        made = SaeVisRunner(config).run(encoder=sae, model=model, tokens=torch.tensor(request["tokens"]))
        print(json.dumps([time.perf_counter() - start, len(made.feature_data_dict)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
