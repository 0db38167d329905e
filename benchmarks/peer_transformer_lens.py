"""Runs inside a peer's own environment: computes patching grids on request, as a user of TransformerLens would.

    python peer_transformer_lens.py hooked|bridge CHECKPOINT PROMPTS POSITIONS THREADS DEVICE

Reads the name of a grid and a stride per line, writes a JSON line: seconds for each cell (of CPU time; on a GPU by the
clock), and the numbers of every stride-th cell (logit differences at the last position, averaged over prompts).
"""

import itertools
import json
import sys
import time

import torch


def load(kind, folder, device):
    """TransformerLens' HookedTransformer with the checkpoint's weights, or its bridge in compatibility mode."""
    from transformers import AutoModelForCausalLM

    if kind == "bridge":
        from transformer_lens.model_bridge import TransformerBridge

        model = TransformerBridge.boot_transformers(folder, device=device)
        model.enable_compatibility_mode()
        return model
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    hf = AutoModelForCausalLM.from_pretrained(folder)
    cfg = HookedTransformerConfig(
        n_layers=hf.config.n_layer,
        d_model=hf.config.n_embd,
        n_heads=hf.config.n_head,
        d_head=hf.config.n_embd // hf.config.n_head,
        n_ctx=hf.config.n_positions,
        d_vocab=hf.config.vocab_size,
        act_fn="gelu_new",
        eps=hf.config.layer_norm_epsilon,
        normalization_type="LN",
        device=device,
    )
    model = HookedTransformer(cfg)
    model.load_and_process_state_dict(convert_gpt2_weights(hf, cfg), fold_ln=True)
    return model


def cells_of(model, names, positions, stride):
    """Every stride-th index of a grid, as patching takes them."""
    import pandas as pd

    sizes = {"layer": model.cfg.n_layers, "pos": positions, "head": model.cfg.n_heads}
    cells = list(itertools.product(*(range(sizes[name]) for name in names)))
    return pd.DataFrame(cells[::stride], columns=names)


def heads_to_logits(model, corrupt, cache, base, metric, stride):
    """Path patching with everything but the sender frozen, a forward pass for each head."""
    found = []
    for layer, head in cells_of(model, ["layer", "head"], 0, stride).itertuples(index=False):

        def freeze(value, hook, layer=layer, head=head):
            value = base[hook.name].clone()
            if hook.name == f"blocks.{layer}.attn.hook_z":
                value[:, :, head] = cache[hook.name][:, :, head]
            return value

        hooks = [(lambda name: name.endswith(("attn.hook_z", "hook_mlp_out")), freeze)]
        found.append(metric(model.run_with_hooks(corrupt, fwd_hooks=hooks)))
    return torch.stack(found)


def main(kind, folder, prompts, positions, threads, device):
    import transformer_lens.patching as patching

    torch.set_grad_enabled(False)
    torch.set_num_threads(threads)
    clock = time.process_time if device == "cpu" else time.perf_counter
    model = load(kind, folder, device)
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(0, 50257, (2, prompts, positions), generator=generator).to(device)
    answer, wrong = torch.randint(0, 50257, (2, prompts), generator=generator)
    rows, answer, wrong = torch.arange(prompts, device=device), answer.to(device), wrong.to(device)

    def metric(logits):
        return (logits[rows, -1, answer] - logits[rows, -1, wrong]).mean()

    _, cache = model.run_with_cache(clean)
    _, base = model.run_with_cache(corrupt)

    def patched(activation, setter, names, stride):
        index = cells_of(model, names, positions, stride)
        return patching.generic_activation_patch(model, corrupt, cache, metric, setter, activation, index_df=index)

    by_position, of_heads = patching.layer_pos_patch_setter, patching.layer_head_vector_patch_setter
    of_heads_by_position = patching.layer_pos_head_vector_patch_setter
    every = ("resid_pre", "attn_out", "mlp_out")
    grids = {
        "resid_pre": lambda stride: patched("resid_pre", by_position, ["layer", "pos"], stride),
        "z": lambda stride: patched("z", of_heads, ["layer", "head"], stride),
        "z by position": lambda stride: patched("z", of_heads_by_position, ["layer", "pos", "head"], stride),
        "block_every": lambda stride: torch.cat([patched(one, by_position, ["layer", "pos"], stride) for one in every]),
        "heads to logits": lambda stride: heads_to_logits(model, corrupt, cache, base, metric, stride),
    }
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        grid, stride = json.loads(line)
        start = clock()
        values = grids[grid](stride).flatten().tolist()  # waits for a GPU
        print(json.dumps([(clock() - start) / len(values), values]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
