"""Write tests/data/sampling: what TransformerLens 3.9.0 draws, from given logits and with tests/data/patching/gpt2.

    python benchmarks/reference_sampling.py

Runs itself with the peer's interpreter. `stream` holds plain draws of torch, by which a test can tell whether its torch
has the same stream of random numbers.
"""

# pyright: reportMissingImports=false
import json
import subprocess
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1] / "tests"
TOKENIZER = (
    Path(__file__).parents[1] / "interp_hooks" / "loading" / "pretrained" / "ioi-tiny"
)  # the peer generates with one only
RULES = [
    dict(),
    dict(temperature=0.7),
    dict(temperature=0.0),
    dict(top_k=5, temperature=2.0),
    dict(top_k=80),
    dict(top_p=0.6),
    dict(top_p=0.95, temperature=1.5),
    dict(freq_penalty=1.3),
    dict(freq_penalty=0.4, temperature=0.5, top_k=7),
    dict(repetition_penalty=1.8),
    dict(repetition_penalty=1.8, temperature=0.0),
    dict(repetition_penalty=1.2, freq_penalty=0.3, top_p=0.8, temperature=1.4),
]
CALLS = [
    dict(),
    dict(top_k=5),
    dict(top_p=0.7, temperature=1.3),
    dict(freq_penalty=0.8),
    dict(do_sample=False),
    dict(use_past_kv_cache=False),
]
PIECES = (1, 2, 4, 25)


def draws() -> dict:
    """What the peer gives for everything that is asked."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.loading_from_pretrained import convert_gpt2_weights
    from transformer_lens.utilities.logits_utils import sample_logits
    from transformers import AutoTokenizer, GPT2LMHeadModel

    def seeded(run, options):
        torch.manual_seed(3)
        return [options, run(**options)]

    logits = (torch.arange(300.0, dtype=torch.float64) * 1.7).sin().reshape(6, 50).float() * 4
    tokens = (torch.arange(54) ** 2 % 17).reshape(6, 9)
    prompts = torch.tensor([[3, 5, 7], [1, 2, 4]])
    hf = GPT2LMHeadModel.from_pretrained(TESTS / "data" / "patching" / "gpt2")
    sizes = dict(n_layers=hf.config.n_layer, d_model=hf.config.n_embd, n_heads=hf.config.n_head)
    sizes |= dict(d_head=hf.config.n_embd // hf.config.n_head, d_mlp=hf.config.n_inner, d_vocab=hf.config.vocab_size)
    other = dict(act_fn="gelu_new", eps=hf.config.layer_norm_epsilon, normalization_type="LN")
    cfg = HookedTransformerConfig(**sizes, **other, n_ctx=hf.config.n_positions, device="cpu")
    model = HookedTransformer(cfg, tokenizer=AutoTokenizer.from_pretrained(TOKENIZER))
    model.load_state_dict(convert_gpt2_weights(hf, cfg), strict=False)
    asked = dict(input=prompts, max_new_tokens=5, stop_at_eos=False, verbose=False)
    return {
        "stream": seeded(lambda: torch.multinomial(logits.softmax(-1), 1).tolist(), {}),
        "tokens": [
            seeded(lambda **rule: [sample_logits(logits, tokens=tokens, **rule).tolist() for _ in range(6)], rule)
            for rule in RULES
        ],
        "generate": [seeded(lambda **options: model.generate(**asked, **options).tolist(), call) for call in CALLS],
        "generate_stream": [
            seeded(
                lambda **options: [piece.tolist() for piece in model.generate_stream(**asked, **options)],
                dict(max_tokens_per_yield=length),
            )
            for length in PIECES
        ],
    }


if __name__ == "__main__":
    if "draw" in sys.argv:
        print(json.dumps(draws()))
    else:
        from peers import PEERS, environment

        python = environment(PEERS["TransformerLens 3.9.0"][0])
        said = subprocess.run([python, __file__, "draw"], capture_output=True, text=True, check=True)
        (TESTS / "data" / "sampling").mkdir(exist_ok=True)
        (TESTS / "data" / "sampling" / "draws.json").write_text(said.stdout.splitlines()[-1] + "\n")
