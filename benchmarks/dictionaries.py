"""Tokens per second of training a BatchTopK SAE: ours beside SAELens' trainer, which runs in an environment of its own.

    python benchmarks/dictionaries.py                          # both, one after the other, on one thread
    PEER_PYTHON=path/to/python python benchmarks/dictionaries.py   # with an environment that is there

The same activations (already in memory, so that no model counts), sizes, batches; what is timed is
CPU time, since the machine may have other work.
"""

# pyright: reportMissingImports=false
import json
import os
import subprocess
import sys
import time

import torch

D, FEATURES, K, BATCH, STEPS = 256, 2048, 32, 1024, 500
PEER = "sae-lens==6.54.12 transformer-lens==3.9.0"


def activations() -> torch.Tensor:
    """Sparse codes of random directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(FEATURES, D, generator=generator)
    active = torch.rand(16 * BATCH, FEATURES, generator=generator) < K / FEATURES
    return active.float() @ directions


def explained(x: torch.Tensor, r: torch.Tensor) -> float:
    return float(1 - (x - r).square().sum() / (x - x.mean(0)).square().sum())


def ours(x: torch.Tensor) -> dict[str, float]:
    from interp_hooks.dictionaries import Recipe, train_on_activations

    recipe = Recipe(hook="x", n_features=FEATURES, k=K, learning_rate=1e-3)
    start = time.process_time()
    one = train_on_activations(x, recipe, steps=STEPS, tokens_per_step=BATCH, progress=False)
    seconds = time.process_time() - start
    return {"tokens per CPU second": STEPS * BATCH / seconds, "explained variance": explained(x, one(x))}


def theirs(x: torch.Tensor) -> dict[str, float]:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D, d_sae=FEATURES, k=K))
    order = [torch.randperm(len(x)).split(BATCH) for _ in range(STEPS * BATCH // len(x) + 1)]
    provider = (x[part] for parts in order for part in parts)
    logger = LoggingConfig(log_to_wandb=False, eval_every_n_wandb_logs=2**31 - 1)
    config = SAETrainerConfig(
        total_training_samples=STEPS * BATCH, train_batch_size_samples=BATCH, lr=1e-3, lr_end=1e-3, logger=logger
    )
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=provider)
    start = time.process_time()
    trainer.fit()
    seconds = time.process_time() - start
    with torch.no_grad():
        r = sae(x)
    return {"tokens per CPU second": STEPS * BATCH / seconds, "explained variance": explained(x, r)}


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] == ["peer"]:
        print(json.dumps(theirs(activations())))
        return
    found = {"interp_hooks": ours(activations())}
    python = os.environ.get("PEER_PYTHON")
    if python is None:
        from peers import environment

        python = str(environment(PEER))
    told = subprocess.run([python, __file__, "peer"], capture_output=True, text=True, check=True).stdout
    found["SAELens 6.54.12"] = json.loads(told.strip().splitlines()[-1])
    print(f"d={D}, {FEATURES} features, k={K}, {STEPS} steps of {BATCH} tokens, one thread")
    for name, numbers in found.items():
        print(f"{name:18}" + "".join(f"  {what} {number:,.3f}" for what, number in numbers.items()))


if __name__ == "__main__":
    main()
