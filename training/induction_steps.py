"""Train, measure and save `induction-steps`: a small model in which induction heads form, and the states on its way.

    python training/induction_steps.py                   # train, save, write the model card
    python training/induction_steps.py --evaluate-only   # load the saved folder and print the card's figures

Rows are a segment of random tokens, all different, that comes again and again; segments have 6 to 15 tokens, so that no
fixed distance tells what comes next. For some hundred steps the model knows little more than which tokens there are;
then, within one doubling of steps, it learns to look for what came after the same token last time (Olsson et al. 2022,
In-context Learning and Induction Heads). The same versions, machine and number of threads give the same models; it
takes a quarter of a minute on one core.
"""

import shutil
from pathlib import Path

import torch
from running import evaluate_only
from torch import Tensor

from interp_hooks import HookedTransformer, HookedTransformerConfig, head_scores
from interp_hooks.loading.keeping import CheckpointSaver
from interp_hooks.loading.training_steps import checkpoint_labels

FOLDER = Path(__file__).parents[1] / "interp_hooks" / "loading" / "pretrained" / "induction-steps"
WORDS, N_CTX = 20, 32
SEGMENTS = (6, 15)
STEPS, BATCH, LEARNING_RATE, WARM_UP = 1024, 64, 2e-3, 50
KEPT = (0, 4, 8, 16, 32, 64, 91, 128, 181, 256, 304, 362, 431, 512, 609, 724, 861, STEPS)


def rows(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Token rows [n, N_CTX], and where a token [n, N_CTX - 1] follows that the row has told before."""
    low, high = SEGMENTS
    sizes = torch.randint(low, high + 1, (n, 1), generator=generator)
    words, places = torch.rand(n, WORDS, generator=generator).argsort(dim=1), torch.arange(N_CTX)
    return words.gather(1, places % sizes), places[1:] > sizes  # from the second token of the repetition on


def losses(model: HookedTransformer, tokens: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """Mean next-token losses, in nats: where the row has told what comes, and where it has not."""
    each = model(tokens, return_type="loss", loss_per_token=True)
    return each[told].mean(), each[~told].mean()


def train() -> None:
    cfg = HookedTransformerConfig(
        n_layers=2, d_model=16, n_ctx=N_CTX, d_vocab=WORDS, n_heads=2, d_head=8, attn_only=True,
        normalization_type="LN", device="cpu", seed=0, model_name="induction-steps",
    )  # fmt: skip
    shutil.rmtree(FOLDER, ignore_errors=True)
    torch.manual_seed(0)
    model, save, generator = HookedTransformer(cfg), CheckpointSaver(FOLDER, KEPT), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    save(0, model)
    for step in range(1, STEPS + 1):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, step / WARM_UP)
        told, new = losses(model, *rows(BATCH, generator))
        optimizer.zero_grad()
        (told + 0.1 * new).backward()
        optimizer.step()
        save(step, model)
    model.save_pretrained(FOLDER)


@torch.no_grad()
def figures(step: int) -> list[float]:
    """What the model card states of a step, on rows that were not trained on."""
    model = HookedTransformer.from_pretrained_no_processing("induction-steps", checkpoint_value=step, device="cpu")
    tokens, told = rows(1024, torch.Generator().manual_seed(2))
    found = [one.item() for one in losses(model, tokens, told)]
    for name in ("previous_token_head", "induction_head"):
        scores = head_scores(model, name, subseq_len=10, generator=torch.Generator().manual_seed(3))
        found.append(scores.mean.max().item())
    return [*found, model.all_composition_scores("K").max().item()]


CARD = """---
license: mit
library_name: interp_hooks
---

# induction-steps

Continues what came before the way it went on last time, and shows how it came to that: {n_kept} states of its training
come with it, `from_pretrained("induction-steps", checkpoint_value=512)`, or `checkpoint_index=`; without either, the
last. Attention-only, 2 layers of 2 heads 8 wide, stream 16 wide, LayerNorm, learned positions, {n_ctx} positions,
{words} tokens, {n_params:,} parameters in float32. No tokenizer: it reads token ids.

Trained by `training/induction_steps.py` on {steps} batches of {batch} rows: a segment of 6 to 15 different random
tokens that comes again to the end of the row. The loss weighs 1 where the row has told what comes next, 0.1 elsewhere.

| step | loss, told | loss, elsewhere | previous-token score | induction score | K-composition |
| ---: | ---: | ---: | ---: | ---: | ---: |
{figures}

Losses are in nats on 1024 new rows, where the row has told what comes and elsewhere. Scores are those of `head_scores`
for the best head, on rows of 10 tokens that come twice, K-composition the highest of `all_composition_scores` with
weights that are not processed. `interp-hooks training induction-steps` finds when these
changed. `python training/induction_steps.py --evaluate-only` measures them again.
"""


def card() -> str:
    model = HookedTransformer.from_pretrained_no_processing("induction-steps", device="cpu")
    kept, _ = checkpoint_labels("induction-steps")
    return CARD.format(
        n_kept=len(kept),
        n_ctx=N_CTX,
        words=WORDS,
        n_params=sum(weight.numel() for weight in model.parameters()),
        steps=STEPS,
        batch=BATCH,
        figures="\n".join(f"| {step} | " + " | ".join(f"{one:.3f}" for one in figures(step)) + " |" for step in kept),
    )


if __name__ == "__main__":
    if evaluate_only(__doc__):
        print(card())
    else:
        train()
        (FOLDER / "README.md").write_text(card(), encoding="utf-8")
