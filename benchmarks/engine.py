"""The engine under the experiments: how a sweep grows, what it needs in memory, what a single run costs.

    python benchmarks/engine.py [--rounds 5] [--device cpu|cuda]

On a random checkpoint of GPT-2 small's size `patch` (resid_pre, layer by position) and `attribution_patches` (all
heads, MLPs and positions) are compared with a plain forward pass on the same prompts in the same run; memory is the
peak beyond what was in use before (on Linux's count of resident memory, or the GPU's own). The overhead of a run is
measured on a model of a few thousand parameters, where arithmetic costs next to nothing.
"""

import argparse
from collections.abc import Callable

import torch
from common import by_turns, checkpoint, megabytes, ratio, table_row

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    Run,
    at,
    attribution_patches,
    evaluate,
    patch,
)

GROWTH = {  # what grows: (prompts, positions in a prompt, positions that are patched)
    "cells": [(4, 16, 2), (4, 16, 4), (4, 16, 8), (4, 16, 16)],
    "length": [(1, 16, 4), (1, 64, 4), (1, 128, 4), (1, 256, 4), (1, 512, 4)],
    "batch": [(1, 32, 4), (4, 32, 4), (16, 32, 4), (64, 32, 4)],
}


def pairs(model: HookedTransformer, prompts: int, positions: int) -> tuple[torch.Tensor, torch.Tensor, LogitDiff]:
    """Clean and corrupt tokens that differ from the first position on, and a metric at the last one."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(0, model.cfg.d_vocab, (2, prompts, positions), generator=generator).to(model.device)
    answer, wrong = torch.randint(0, model.cfg.d_vocab, (2, prompts), generator=generator)
    return clean, corrupt, LogitDiff(answer, wrong)


def growth(model: HookedTransformer, rounds: int, device: str) -> None:
    """A table for each way to grow: time for each cell over that of a forward pass, and memory."""
    n_layers = model.cfg.n_layers
    print(
        f"{'grows':<8}{'prompts':>8}{'length':>8}{'cells':>7}{'cell / forward':>16}{'forward, MB':>13}{'sweep, MB':>11}"
    )
    for what, sizes in GROWTH.items():
        for prompts, length, patched in sizes:
            clean, corrupt, metric = pairs(model, prompts, length)
            # spread over the prompt, so that prefixes are shared as in a full grid
            places = torch.linspace(0, length - 1, patched).long().tolist()

            def sweep(clean=clean, corrupt=corrupt, metric=metric, places=places) -> torch.Tensor:
                runs = [
                    Run(corrupt, [Intervention(at("resid_pre", layer, pos=pos), Run(clean))])
                    for layer in range(n_layers)
                    for pos in places
                ]
                return evaluate(model, runs, metric)

            work: dict[str, Callable[[], object]] = {"forward": lambda corrupt=corrupt: model(corrupt), "sweep": sweep}
            seconds = by_turns(work, rounds)
            peak = {name: megabytes(run, device) for name, run in work.items()}
            cells = n_layers * patched
            print(
                f"{what:<8}{prompts:>8}{length:>8}{cells:>7}{ratio(seconds, 'sweep', 'forward') / cells:>16.2f}"
                f"{peak['forward']:>13.0f}{peak['sweep']:>11.0f}",
                flush=True,
            )


def attribution(model: HookedTransformer, rounds: int) -> None:
    """Attribution patching of everything, in forward passes."""
    clean, corrupt, metric = pairs(model, 4, 16)
    sites = {"z": ("layer", "pos", "head"), "mlp_out": ("layer", "pos"), "resid_pre": ("layer", "pos")}
    seconds = by_turns(
        {
            "forward": lambda: model(corrupt),
            "all": lambda: attribution_patches(model, clean, corrupt, metric, sites),
            "cells": lambda: patch(model, clean, corrupt, metric, layers=[0], progress=False),
        },
        rounds,
    )
    told = "`attribution_patches` of all heads, MLPs and positions / a forward pass"
    table_row(told, [ratio(seconds, "all", "forward")], digits=1)


def overhead(rounds: int, device: str) -> None:
    """What a single run, and one of many, cost on tiny models, in bare forward passes of theirs."""
    for n_layers in (2, 12):
        cfg = dict(n_layers=n_layers, d_model=16, n_ctx=16, d_head=4, n_heads=4, d_mlp=32, d_vocab=50, act_fn="gelu")
        model = HookedTransformer(cfg).to(device)
        clean, corrupt, metric = pairs(model, 1, 8)
        source = Run(clean)

        def runs(places: int, corrupt=corrupt, source=source, n_layers=n_layers) -> list[Run]:
            return [
                Run(corrupt, [Intervention(at("z", layer, head=head), source)])
                for layer in range(n_layers)
                for head in range(4)
            ][:places]

        many = runs(4 * n_layers)
        constant = [Run(corrupt, [Intervention(at("z", n_layers // 2, head=0), 0.0)])]
        seconds = by_turns(
            {
                "forward": lambda model=model, corrupt=corrupt: model(corrupt),
                "constant": lambda model=model, constant=constant, metric=metric: evaluate(model, constant, metric),
                "single": lambda model=model, many=many, metric=metric: evaluate(model, many[:1], metric),
                "many": lambda model=model, many=many, metric=metric: evaluate(model, many, metric),
            },
            20 * rounds,
        )
        print(
            f"{n_layers} layers of width 16: a run with a constant {ratio(seconds, 'constant', 'forward'):.1f} forward "
            f"passes, with another run as source {ratio(seconds, 'single', 'forward'):.1f} (the source's pass "
            f"included), each of {len(many)} at once {ratio(seconds, 'many', 'forward') / len(many):.2f}"
        )
        told = f"one run with an intervention / a forward pass, on a model of {n_layers} layers 16 wide"
        table_row(told, [ratio(seconds, "constant", "forward")], digits=1)


@torch.no_grad()
def main(rounds: int, device: str) -> None:
    overhead(rounds, device)
    model = HookedTransformer.from_pretrained(str(checkpoint("gpt2-small-sized")), device=device)
    attribution(model, rounds)
    growth(model, rounds, device)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.device)
