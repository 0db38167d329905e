"""A whole patching grid against one forward pass per cell, in the same run, with the same numbers.

    python benchmarks/patching.py [--prompts 4] [--rounds 3]

The grid patches resid_pre at each of 12 layers x 16 positions of a GPT-2-small-sized model with random weights. "One by
one" runs a full forward pass with a hook for each cell, and reads the same logit difference from its logits.
"""

import argparse

import torch
from common import by_turns, checkpoint, ratio

from interp_hooks import HookedTransformer, LogitDiff, patch

POSITIONS = 16


@torch.no_grad()
def one_by_one(model: HookedTransformer, clean: torch.Tensor, corrupt: torch.Tensor, metric: LogitDiff) -> torch.Tensor:
    """The grid [layer, pos, prompt], a forward pass for each cell."""
    _, cache = model.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_resid_pre"))
    rows = []
    for layer in range(model.cfg.n_layers):
        for pos in range(clean.shape[1]):

            def put(value: torch.Tensor, hook: object, layer: int = layer, pos: int = pos) -> torch.Tensor:
                value[:, pos] = cache["resid_pre", layer][:, pos]
                return value

            rows.append(metric(model.run_with_hooks(corrupt, fwd_hooks=[(f"resid_pre{layer}", put)])))
    return torch.stack(rows).unflatten(0, (model.cfg.n_layers, clean.shape[1]))


def main(prompts: int, rounds: int) -> None:
    model = HookedTransformer.from_pretrained(str(checkpoint("gpt2-small-sized")), device="cpu")
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(0, 50257, (2, prompts, POSITIONS), generator=generator)
    answer, wrong = torch.randint(0, 50257, (2, prompts), generator=generator)
    metric = LogitDiff(answer, wrong)
    grids: dict[str, torch.Tensor] = {}

    def shared() -> None:
        grids["shared"] = patch(model, clean, corrupt, metric, "resid_pre", progress=False).values

    def separate() -> None:
        grids["one by one"] = one_by_one(model, clean, corrupt, metric)

    seconds = by_turns({"shared": shared, "one by one": separate}, rounds)
    difference = (grids["shared"] - grids["one by one"]).abs().max().item()
    print(f"resid_pre, 12 layers x {POSITIONS} positions, {prompts} prompts, {torch.get_num_threads()} threads")
    print(f"one by one / shared: {ratio(seconds, 'one by one', 'shared'):.1f} (median of {rounds} rounds)")
    print(f"largest difference of a logit difference: {difference:.1e}")
    assert difference < 1e-4


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.prompts, arguments.rounds)
