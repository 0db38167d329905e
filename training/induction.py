"""Train, measure and save `induction-2l`, an attention-only model that does induction, and `induction-1l`, its control.

    python training/induction.py                   # train both, save them, write the model cards
    python training/induction.py --evaluate-only   # load the saved folders and print the cards' figures

Rows are a BOS token and a segment of random tokens, all different, that comes again and again; segments have 8 to 31
tokens, so that no fixed distance tells what comes next. Two layers learn to look for the last time that the same token
was there and to write what came after it; one layer cannot. The same versions, machine and number of threads give the
same models; it takes some minutes on one core.
"""

import math
import time
from pathlib import Path

import torch
from running import evaluate_only
from torch import Tensor

from interp_hooks import HookedTransformer, HookedTransformerConfig, detect_head

OUT = Path(__file__).parents[1] / "interp_hooks" / "loading" / "pretrained"
BOS, WORDS, N_CTX = 0, 64, 64
SEGMENTS = (8, 31)
STEPS, BATCH, LEARNING_RATE, WARM_UP = 1500, 128, 3e-3, 100


def config(n_layers: int) -> HookedTransformerConfig:
    return HookedTransformerConfig(
        n_layers=n_layers, d_model=64, n_ctx=N_CTX, d_vocab=WORDS + 1, n_heads=4, d_head=16, attn_only=True,
        normalization_type="LN", device="cpu", seed=0, model_name=f"induction-{n_layers}l",
    )  # fmt: skip


def rows(n: int, generator: torch.Generator, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Token rows [n, N_CTX], and where a token [n, N_CTX - 1] follows that the row has told before."""
    low, high = SEGMENTS
    sizes = torch.randint(low, high + 1, (n, 1), generator=generator)
    sizes = sizes if length is None else torch.full_like(sizes, length)
    words = 1 + torch.rand(n, WORDS, generator=generator).argsort(dim=1)
    places = torch.arange(N_CTX - 1)
    tokens = torch.cat((torch.full((n, 1), BOS), words.gather(1, places % sizes)), dim=1)
    return tokens, places > sizes  # from the second token of the repetition on


def losses(model: HookedTransformer, tokens: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """Mean next-token losses, in nats: where the row has told what comes, and where it has not."""
    each = model(tokens, return_type="loss", loss_per_token=True)
    return each[told].mean(), each[~told].mean()


def train(n_layers: int) -> HookedTransformer:
    torch.manual_seed(0)
    model, generator = HookedTransformer(config(n_layers)), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    begun = time.perf_counter()
    for step in range(STEPS):
        rate = min(1.0, step / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        told, new = losses(model, *rows(BATCH, generator))
        optimizer.zero_grad()
        (told + 0.1 * new).backward()
        optimizer.step()
        if step % 250 == 0 or step == STEPS - 1:
            print(f"{n_layers} layers, step {step}: loss {told:.3f} where told, {new:.3f} elsewhere; "
                  f"{time.perf_counter() - begun:.0f} s", flush=True)  # fmt: skip
    return model


@torch.no_grad()
def figures(model: HookedTransformer) -> dict[str, float]:
    """What the model card states, on rows that were not trained on."""
    tokens, told = rows(1024, torch.Generator().manual_seed(2))
    there, elsewhere = losses(model, tokens, told)
    right = (model(tokens)[:, :-1].argmax(-1) == tokens[:, 1:])[told].float().mean()
    pair = rows(16, torch.Generator().manual_seed(3), length=30)[0][:, :61]
    found = {
        "accuracy where the row has told what comes": right.item(),
        "loss there, nats": there.item(),
        "loss elsewhere, nats (log 64 = 4.159)": elsewhere.item(),
    }
    for name in ("previous_token_head", "induction_head"):
        scores = detect_head(model, pair, name)
        best = int(scores.argmax())
        found[f"attention of L{best // 4}H{best % 4}, the best {name.replace('_', ' ')}"] = scores.max().item()
    return found


CARD = """---
license: mit
library_name: interp_hooks
---

# induction-{n_layers}l

{what} Attention-only, {n_layers} layer{s} of 4 heads 16 wide, stream 64 wide, LayerNorm, learned positions, {n_ctx}
positions, 64 words and a BOS token (0), {n_params:,} parameters in float32. No tokenizer: it reads token ids.

Trained by `training/induction.py` on {steps} batches of {batch} rows: BOS, then a segment of 8 to 31 different random
words that comes again to the end of the row. The loss weighs 1 where the row has told what comes next, 0.1 elsewhere.

| figure, on 1024 new rows | value |
| --- | ---: |
{figures}

Attention scores are those of `detect_head` (weights "mul") on 16 rows with a segment of 30 words and its repetition.
`python training/induction.py --evaluate-only` measures them again.
"""
WHAT = {
    2: "Continues what came before the way it went on last time: the smallest model in which induction heads form.",
    1: "The control of `induction-2l`: one layer, trained the same way, which cannot look for what came after.",
}


def card(model: HookedTransformer, found: dict[str, float]) -> str:
    n_layers = model.cfg.n_layers
    return CARD.format(
        n_layers=n_layers,
        s="s" * (n_layers > 1),
        what=WHAT[n_layers],
        n_ctx=N_CTX,
        n_params=sum(weight.numel() for weight in model.parameters()),
        steps=STEPS,
        batch=BATCH,
        figures="\n".join(f"| {what} | {value:.4f} |" for what, value in found.items()),
    )


if __name__ == "__main__":
    measure = evaluate_only(__doc__)
    for n_layers in (2, 1):
        folder = OUT / f"induction-{n_layers}l"
        if measure:
            print(card(model := HookedTransformer.from_pretrained(folder.name, device="cpu"), figures(model)))
            continue
        model = train(n_layers)
        model.save_pretrained(folder)
        (folder / "README.md").write_text(card(model, figures(model)), encoding="utf-8")
