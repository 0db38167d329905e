"""Runs inside a peer's own environment: computes patching grids on request, as a user of TransformerLens would.

    python peer_transformer_lens.py hooked|bridge CHECKPOINT PROMPTS POSITIONS

Reads the name of a grid per line, writes a JSON line: seconds, and the grid's numbers (logit differences at the last
position, averaged over prompts).
"""

import json
import sys
import time

import torch


def load(kind, folder):
    """TransformerLens' HookedTransformer with the checkpoint's weights, or its bridge in compatibility mode."""
    from transformers import AutoModelForCausalLM

    if kind == "bridge":
        from transformer_lens.model_bridge import TransformerBridge

        model = TransformerBridge.boot_transformers(folder, device="cpu")
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
        device="cpu",
    )
    model = HookedTransformer(cfg)
    model.load_and_process_state_dict(convert_gpt2_weights(hf, cfg), fold_ln=True)
    return model


def heads_to_logits(model, corrupt, cache, base, metric):
    """Path patching with everything but the sender frozen, a forward pass for each head."""
    heads = torch.empty(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):

            def freeze(value, hook, layer=layer, head=head):
                value = base[hook.name].clone()
                if hook.name == f"blocks.{layer}.attn.hook_z":
                    value[:, :, head] = cache[hook.name][:, :, head]
                return value

            hooks = [(lambda name: name.endswith(("attn.hook_z", "hook_mlp_out")), freeze)]
            heads[layer, head] = metric(model.run_with_hooks(corrupt, fwd_hooks=hooks))
    return heads


def main(kind, folder, prompts, positions):
    import transformer_lens.patching as patching

    torch.set_grad_enabled(False)
    model = load(kind, folder)
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(0, 50257, (2, prompts, positions), generator=generator)
    answer, wrong = torch.randint(0, 50257, (2, prompts), generator=generator)
    rows = torch.arange(prompts)

    def metric(logits):
        return (logits[rows, -1, answer] - logits[rows, -1, wrong]).mean()

    _, cache = model.run_with_cache(clean)
    _, base = model.run_with_cache(corrupt)
    grids = {
        "resid_pre": lambda: patching.get_act_patch_resid_pre(model, corrupt, cache, metric),
        "z": lambda: patching.get_act_patch_attn_head_out_all_pos(model, corrupt, cache, metric),
        "z by position": lambda: patching.get_act_patch_attn_head_out_by_pos(model, corrupt, cache, metric),
        "block_every": lambda: patching.get_act_patch_block_every(model, corrupt, cache, metric),
        "heads to logits": lambda: heads_to_logits(model, corrupt, cache, base, metric),
    }
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        values = grids[line.strip()]()
        print(json.dumps([time.perf_counter() - start, values.flatten().tolist()]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
