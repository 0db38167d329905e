"""Patching grids against peers and against the machine's limit, with the same numbers.

    python benchmarks/patching.py [--prompts 4] [--rounds 3] [--without-peers] [--grid resid_pre ...] [--device cuda]

The checkpoint is GPT-2-small-sized with random weights; clean and corrupt prompts have 16 tokens. Peers run in virtual
environments of their own, by turns with this package in one run, and must give the same numbers to 1e-3. They take one
forward pass for each cell, so of the large grids they compute a part (`SAMPLED`), from which their time is scaled up;
this package always computes all cells. The limit of the first grid is its floating-point operations after all sharing
(layers from the patched one on, positions from the patched one on, of the last layer keys and values everywhere and the
rest where the metric reads) over the machine's own rate of matrix products of that size, measured in between.

Rows that end in `, function` are the calls of tutorials, `get_act_patch_*` with a cache and a plain function of logits;
the peers compute the grid of that name, with such a function as always.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from common import checkpoint, finished
from peers import PEERS, Peer

from interp_hooks import HookedTransformer, LogitDiff, patch, path_patch
from interp_hooks.compat import patching

POSITIONS = 16
SAMPLED = {"z by position": 16, "block_every": 4}  # peers compute every so-manieth cell
FUNCTION = ", function"


def grids(model: HookedTransformer, prompts: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Each grid as a function of nothing, and its values [cell ...], means over prompts."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(0, 50257, (2, prompts, POSITIONS), generator=generator)
    answer, wrong = torch.randint(0, 50257, (2, prompts), generator=generator)
    metric = LogitDiff(answer, wrong)

    def swept(hook: str, *over: str) -> torch.Tensor:
        return patch(model, clean, corrupt, metric, hook, over=over, progress=False).values.mean(-1)

    def every() -> torch.Tensor:
        return torch.stack([swept(hook, "layer", "pos") for hook in ("resid_pre", "attn_out", "mlp_out")])

    prompt = torch.arange(prompts)

    def function(logits: torch.Tensor) -> torch.Tensor:
        return (logits[prompt, -1, answer] - logits[prompt, -1, wrong]).mean()

    _, cache = model.run_with_cache(clean)

    def called(name: str) -> Callable[[], torch.Tensor]:
        return lambda: getattr(patching, f"get_act_patch_{name}")(model, corrupt, cache, function, progress=False)

    return {
        f"resid_pre{FUNCTION}": called("resid_pre"),
        f"z{FUNCTION}": called("attn_head_out_all_pos"),
        f"z by position{FUNCTION}": called("attn_head_out_by_pos"),
        f"block_every{FUNCTION}": called("block_every"),
        "resid_pre": lambda: swept("resid_pre", "layer", "pos"),
        "z": lambda: swept("z", "layer", "head"),
        "z by position": lambda: swept("z", "layer", "pos", "head"),
        "block_every": every,
        "heads to logits": lambda: path_patch(model, clean, corrupt, metric, mlps="freeze", progress=False).values.mean(
            -1
        ),
    }


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    finished()
    start = time.perf_counter()
    work()
    finished()
    return time.perf_counter() - start


def matmul_rate(rows: int, width: int, device: str) -> float:
    """Floating-point operations per second of this machine's matrix products, at the size of an MLP's."""
    a, b = torch.randn(rows, width, device=device), torch.randn(width, 4 * width, device=device)
    a @ b  # warms up
    return 10 * 2 * rows * width * 4 * width / seconds_of(lambda: [a @ b for _ in range(10)])


def operations(model: HookedTransformer, prompts: int) -> float:
    """What the resid_pre grid needs at least."""
    cfg = model.cfg
    keys_values, rest = 2 * cfg.d_model**2, 2 * cfg.d_model**2 + 2 * cfg.d_model * cfg.d_mlp  # weights of a layer
    total = 0.0
    for layer in range(cfg.n_layers):
        for pos in range(POSITIONS):
            tokens = prompts * (POSITIONS - pos)
            layers_below_the_last = cfg.n_layers - 1 - layer
            total += 2 * tokens * (keys_values + rest) * layers_below_the_last
            total += 2 * (tokens * keys_values + prompts * rest)
    return total


@torch.no_grad()
def main(prompts: int, rounds: int, wanted: list[str], with_peers: bool, device: str) -> None:
    folder = checkpoint("gpt2-small-sized")
    model = HookedTransformer.from_pretrained(str(folder), device=device)
    ours = grids(model, prompts)
    peers = {
        name: Peer(requirement, "peer_transformer_lens.py", kind, folder, prompts, POSITIONS, device)
        for name, (requirement, kind) in (PEERS.items() if with_peers else ())
    }
    print(f"{prompts} prompts x {POSITIONS} tokens, {device}, {torch.get_num_threads()} threads, medians of {rounds}")
    for grid in wanted or ours:
        ratios: dict[str, list[float]] = {name: [] for name in (*peers, "limit")}
        of_peers = grid.removesuffix(FUNCTION)
        stride, seconds = SAMPLED.get(of_peers, 1), 0.0
        values = ours[grid]().flatten()  # also warms up
        for _ in range(rounds):
            seconds = seconds_of(ours[grid])
            for name, peer in peers.items():
                for_a_cell, numbers = peer.ask([of_peers, stride])
                difference = (values[::stride].cpu() - torch.tensor(numbers)).abs().max().item()
                assert difference < 1e-3, f"{name} gives other numbers for {grid}: {difference}"
                ratios[name].append(for_a_cell * len(values) / seconds)
            rate = matmul_rate(32 * prompts * POSITIONS, model.cfg.d_model, device)
            ratios["limit"].append(seconds * rate / operations(model, prompts))
        found = [f"{name} / ours: {statistics.median(ratios[name]):.1f}" for name in peers]
        limit = [f"ours / limit: {statistics.median(ratios['limit']):.2f}"] if of_peers == "resid_pre" else []
        print(f"{grid:<24} {len(values):>5} cells   {seconds:6.2f} s   " + "   ".join(found + limit), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grid", nargs="*", default=[], help="only these")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    main(arguments.prompts, arguments.rounds, arguments.grid, not arguments.without_peers, arguments.device)
