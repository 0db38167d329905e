"""Patching grids against peers and against the machine's limit, with the same numbers.

    python benchmarks/patching.py [--prompts 4] [--rounds 3] [--without-peers] [--grid resid_pre ...] [--threads 2]
                                  [--device cuda]

The checkpoint is GPT-2-small-sized with random weights; clean and corrupt prompts have 16 tokens. Peers run in virtual
environments of their own, by turns with this package in one run, and must give the same numbers to 1e-3. They take one
forward pass for each cell, so of the large grids they compute a part (`SAMPLED`), from which their time is scaled up;
this package always computes all cells. Times are CPU time (of all threads), or on a GPU those of the clock.

The limit of a grid is the floating-point operations of its matrix products after all sharing, over the machine's own
rate of matrix products of an MLP's size, measured in between. Shared are layers before the patched one, for `resid_pre`
positions before the patched one, of the patched layer for `z` all but what one head writes and the MLP, and of the last
layer all but keys and values where the metric does not read. No cell can be shared further, so `peer / limit` is the
most that anybody could be faster than a peer here with the same products.

Rows that end in `, function` are the calls of tutorials, `get_act_patch_*` with a cache and a plain function of logits;
the peers compute the grid of that name, with such a function as always.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable

import torch
from common import checkpoint, clock_of, finished, ratio, table_row
from peers import PEERS, Peer

from interp_hooks import HookedTransformer, LogitDiff, patch, path_patch
from interp_hooks.compat import patching

POSITIONS = 16
SAMPLED = {"z": 4, "z by position": 16, "block_every": 4}  # peers compute every so-manieth cell
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


def seconds_of(work: Callable[[], object], device: str) -> float:
    """How long it takes: of CPU time, or on a GPU by the clock."""
    clock = clock_of(device)
    finished()
    start = clock()
    work()
    finished()
    return clock() - start


def matmul_rate(rows: int, width: int, device: str) -> float:
    """Floating-point operations per second of this machine's matrix products, at the size of an MLP's."""
    a, b = torch.randn(rows, width, device=device), torch.randn(width, 4 * width, device=device)
    a @ b  # warms up
    return 10 * 2 * rows * width * 4 * width / seconds_of(lambda: [a @ b for _ in range(10)], device)


class Limit:
    """The floating-point operations that a grid needs at least in the matrix products of a model's layers."""

    def __init__(self, model: HookedTransformer, prompts: int) -> None:
        cfg = model.cfg
        self.n_layers, self.n_heads, self.prompts = cfg.n_layers, cfg.n_heads, prompts
        self.keys_values, self.mlp = 2 * cfg.d_model**2, 2 * cfg.d_model * cfg.d_mlp  # weights of a layer
        self.rest = 2 * cfg.d_model**2 + self.mlp
        self.written = cfg.d_head * cfg.d_model  # by a head

    def through(self, layers: int, positions: int) -> float:
        """From a changed stream at these positions of each prompt through the last so many layers."""
        if layers == 0:
            return 0.0
        tokens = self.prompts * positions
        whole = (layers - 1) * tokens * (self.keys_values + self.rest)
        return 2 * (whole + tokens * self.keys_values + self.prompts * self.rest)

    def resid_pre(self) -> float:
        grid = itertools.product(range(self.n_layers), range(POSITIONS))
        return sum(self.through(self.n_layers - layer, POSITIONS - pos) for layer, pos in grid)

    def z(self) -> float:
        own = self.written + self.mlp
        last = 2 * self.prompts * own
        before = [
            2 * self.prompts * POSITIONS * own + self.through(later, POSITIONS) for later in range(1, self.n_layers)
        ]
        return self.n_heads * (last + sum(before))


@torch.no_grad()
def main(prompts: int, rounds: int, wanted: list[str], with_peers: bool, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    folder = checkpoint("gpt2-small-sized")
    model = HookedTransformer.from_pretrained(str(folder), device=device)
    ours = grids(model, prompts)
    peers = {
        name: Peer(requirement, "peer_transformer_lens.py", kind, folder, prompts, POSITIONS, threads, device)
        for name, (requirement, kind) in (PEERS.items() if with_peers else ())
    }
    print(f"{prompts} prompts x {POSITIONS} tokens, {device}, {torch.get_num_threads()} threads, medians of {rounds}")
    limit, rows = Limit(model, prompts), 32 * prompts * POSITIONS
    for grid in wanted or ours:
        of_peers = grid.removesuffix(FUNCTION)
        stride, least = SAMPLED.get(of_peers, 1), getattr(limit, of_peers, None)
        values = ours[grid]().flatten()  # also warms up
        seconds: dict[str, list[float]] = {name: [] for name in ("ours", "limit", *peers)}
        for _ in range(rounds):
            seconds["ours"].append(seconds_of(ours[grid], device))
            for name, peer in peers.items():
                for_a_cell, numbers = peer.ask([of_peers, stride])
                difference = (values[::stride].cpu() - torch.tensor(numbers)).abs().max().item()
                assert difference < 1e-3, f"{name} gives other numbers for {grid}: {difference}"
                seconds[name].append(for_a_cell * len(values))
            if least is not None:
                seconds["limit"].append(least() / matmul_rate(rows, model.cfg.d_model, device))
        took = statistics.median(seconds["ours"])
        print(f"{grid:<24} {len(values):>5} cells   {took:6.2f} s", flush=True)
        told = f"`{grid}` of {len(values):,} cells"
        if peers:
            table_row(f"{' and '.join(peers)} / {told}", (ratio(seconds, name, "ours") for name in peers), digits=1)
        if least is not None:
            table_row(f"{told} / its limit", [ratio(seconds, "ours", "limit")])
        if least is not None and peers:
            at_best = (ratio(seconds, name, "limit") for name in peers)
            table_row(f"{' and '.join(peers)} / the limit of {told}", at_best, digits=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grid", nargs="*", default=[], help="only these")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    given = arguments
    main(given.prompts, given.rounds, given.grid, not given.without_peers, given.threads, given.device)
