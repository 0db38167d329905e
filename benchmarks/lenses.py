"""What fits of lenses cost beside the passes that they cannot do without.

    python benchmarks/lenses.py [--documents 8] [--length 64] [--rounds 3] [--threads 2] [--device cpu]

On a random model of 6 layers and width 256, over documents of random tokens. A Jacobian lens needs, for every batch, a
pass forward on as many copies of it as rows are made at once, and a pass back for every so many rows: "bare" are just
these, by `torch.autograd.grad` with respect to the embeddings alone. A tuned lens needs a pass forward, and for every
layer the final norm, the unembedding and the way back through both: "bare" are just these, of the streams as they are.
Printed is the time of fits relative to them (median over rounds in which all ran one after the other), and the memory
of a Jacobian fit beside that of the Jacobians of all pairs of positions, which it never makes.
"""

import argparse
import math

import torch
from common import by_turns, megabytes, ratio

from interp_hooks import HookedTransformer, HookedTransformerConfig
from interp_hooks.hooks.modes import with_constant_weights
from interp_hooks.studies import fit_jacobian_lens, fit_tuned_lens

COPIES = 8
ALLOWED = 1.25


def main(documents: int, length: int, rounds: int, device: str) -> None:
    sizes = dict(n_layers=6, d_model=256, n_heads=8, d_mlp=1024, n_ctx=length, d_vocab=8192, act_fn="gelu", seed=0)
    model = HookedTransformer(HookedTransformerConfig(**sizes, device=device)).eval()
    cfg, generator = model.cfg, torch.Generator().manual_seed(0)
    tokens = torch.randint(1, cfg.d_vocab, (documents, length), generator=generator)
    n_tokens = documents * length

    @with_constant_weights
    def jacobian_passes() -> None:
        for batch in tokens.to(device).split(8):
            stream = model(batch.repeat(COPIES, 1), stop_at_layer=0).detach().requires_grad_()
            final = model(stream, start_at_layer=0, stop_at_layer=cfg.n_layers)
            for row in range(math.ceil(cfg.d_model / COPIES)):
                torch.autograd.grad(final[..., row].sum(), stream, retain_graph=True)

    @with_constant_weights
    def tuned_passes() -> None:
        with torch.no_grad():
            _, cache = model.run_with_cache(
                tokens.to(device), return_type=None, names_filter=lambda name: "resid" in name
            )
        said = model.logits(cache["resid_post", -1]).log_softmax(-1).detach()
        for layer in range(cfg.n_layers):
            stream = cache["resid_pre", layer].detach().requires_grad_()
            log_probs = model.logits(stream).log_softmax(-1)
            torch.autograd.grad((said.exp() * (said - log_probs)).sum(), stream)

    jacobian = dict(skip_first=4, length=length, dims_at_once=COPIES, progress=False, tokens_at_once=8 * length)
    tuned = dict(steps=1, tokens_per_step=n_tokens, tokens_at_once=n_tokens, progress=False)
    seconds = by_turns(
        {
            "bare Jacobian": jacobian_passes,
            "Jacobian lens": lambda: fit_jacobian_lens(model, tokens, **jacobian),
            "bare tuned": tuned_passes,
            "tuned lens, a step": lambda: fit_tuned_lens(model, tokens, **tuned),
        },
        rounds,
    )
    for name, bare in (("Jacobian lens", "bare Jacobian"), ("tuned lens, a step", "bare tuned")):
        print(f"{name:20} {ratio(seconds, name, bare):6.2f} (allowed {ALLOWED})")
    used = megabytes(lambda: fit_jacobian_lens(model, tokens, **jacobian), device)
    pairs = 4 * cfg.n_layers * (length * cfg.d_model) ** 2 / 1e6
    print(f"memory of a Jacobian fit: {used:.0f} MB; all pairs of positions of one text would take {pairs:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    main(arguments.documents, arguments.length, arguments.rounds, arguments.device)
