"""Train, measure and save `brackets`, a small bidirectional model that tells whether brackets are balanced.

    python training/brackets.py                   # train it, save it, write the model card
    python training/brackets.py --evaluate-only   # load the saved folder and print the card's figures

Prompts are START, up to 40 brackets and END; the answer is read at START. A step reads prompts of four even lengths and
of an odd one, each by itself, so that nothing is padded. Half of the even ones are balanced; the others, in equal
parts, are balanced ones with one bracket turned (the count is off), with two exchanged (the count is right, the order
is not), and brackets drawn at random. Odd ones, never balanced, are drawn at random or lack one bracket. The loss
weighs both answers alike. Training begins with short rows: in long ones, near misses are too small a difference to
start with. The same versions, machine and number of threads give the same model; it takes some minutes on one core.
"""

import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from running import evaluate_only
from torch import Tensor

from interp_hooks import HookedTransformer, HookedTransformerConfig
from interp_hooks.tasks import symbols

OUT = Path(__file__).parents[1] / "interp_hooks" / "loading" / "pretrained" / "brackets"
LONGEST = 40
STEPS, LENGTHS, ROWS, LEARNING_RATE, WARM_UP, GROWING = 5500, 4, 48, 2e-3, 200, 2000


def config() -> HookedTransformerConfig:
    return HookedTransformerConfig(
        n_layers=3, d_model=56, n_ctx=LONGEST + 2, d_vocab=5, d_vocab_out=2, n_heads=2, d_head=28, d_mlp=56,
        act_fn="relu", attention_dir="bidirectional", normalization_type="LN", default_prepend_bos=False, device="cpu",
        seed=0, model_name="brackets",
    )  # fmt: skip


def kinds(n: int, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    """`n` rows of brackets [n, length] of each kind that there is of this length, by what the card calls it."""
    if length % 2:
        whole = symbols.balanced_rows(n, length + 1, generator)
        return {
            "random, odd": symbols.unbalanced_rows(n, length, generator),
            "one left out": symbols.one_left_out(whole, generator),
        }
    good = symbols.balanced_rows(n, length, generator)
    return {
        "balanced": good,
        "one turned": symbols.one_turned(good, generator),
        "two exchanged": symbols.two_exchanged(good, generator),
        "random": symbols.unbalanced_rows(n, length, generator),
    }


def batch(longest: int, generator: torch.Generator) -> list[Tensor]:
    """Prompts of some even lengths, half of them balanced, and of one odd length; long ones are more likely."""
    halves = torch.randint(1, longest // 2 + 1, (2, LENGTHS + 1), generator=generator).amax(0)
    *even, odd = (2 * halves).tolist()
    of_each = ROWS // 6
    prompts = []
    for length in even:
        more = symbols.balanced_rows(ROWS // 2 - of_each, length, generator)
        prompts.append(torch.cat((more, *kinds(of_each, length, generator).values())))
    prompts.append(torch.cat((*kinds(ROWS // 4, odd - 1, generator).values(),)))
    return [symbols.enclosed(rows) for rows in prompts]


def loss_of(model: HookedTransformer, prompts: list[Tensor]) -> Tensor:
    """Cross-entropy in nats at START, where balanced and unbalanced prompts weigh alike."""
    logits = torch.cat([model(tokens, logits_pos=0)[:, 0] for tokens in prompts])
    answers = torch.cat([symbols.is_balanced(tokens) for tokens in prompts]).long()
    return F.cross_entropy(logits, answers, weight=1 / torch.bincount(answers, minlength=2))


def train() -> HookedTransformer:
    torch.manual_seed(0)
    model, generator = HookedTransformer(config()), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    begun = time.perf_counter()
    for step in range(STEPS):
        rate = min(1.0, step / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        loss = loss_of(model, batch(min(LONGEST, 8 + step * LONGEST // GROWING), generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        if step % 250 == 0 or step == STEPS - 1:
            told = ", ".join(f"{kind} {right:.4f}" for kind, right in accuracies(model, 50, seed=3).items())
            print(f"step {step}: loss {loss:.4f}; {time.perf_counter() - begun:.0f} s; {told}", flush=True)
    return model


@torch.no_grad()
def accuracies(model: HookedTransformer, n: int, seed: int) -> dict[str, float]:
    """Which share of `n` new rows of each length and kind is told right, by kind; lengths weigh alike."""
    generator, right = torch.Generator().manual_seed(seed), dict[str, list[Tensor]]()
    for length in range(1, LONGEST + 1):
        for kind, rows in kinds(n, length, generator).items():
            tokens = symbols.enclosed(rows)
            says = model(tokens, logits_pos=0)[:, 0].argmax(-1) == symbols.BALANCED
            right.setdefault(kind, []).append((says == symbols.is_balanced(tokens)).double())
    return {kind: torch.cat(each).mean().item() for kind, each in right.items()}


@torch.no_grad()
def figures(model: HookedTransformer) -> dict[str, float]:
    """What the model card states, on rows that were not trained on."""
    found = {f"accuracy, {kind}": right for kind, right in accuracies(model, 500, seed=2).items()}
    generator = torch.Generator().manual_seed(4)
    for kind, rows in kinds(10_000, LONGEST, generator).items():
        log_probs = model(tokens := symbols.enclosed(rows), logits_pos=0)[:, 0].log_softmax(-1)
        answers = symbols.is_balanced(tokens).long()
        right = (log_probs.argmax(-1) == answers).double().mean()
        found[f"accuracy, {kind}, {LONGEST} brackets"] = right.item()
        found[f"loss in nats, {kind}, {LONGEST} brackets"] = -log_probs.gather(1, answers[:, None]).mean().item()
    return found


CARD = """---
license: mit
library_name: interp_hooks
---

# brackets

Tells whether a row of round brackets is balanced. Bidirectional, {n_layers} layers of {n_heads} heads {d_head} wide and
an MLP of {d_mlp} neurons, stream {d_model} wide, LayerNorm, learned positions, {n_params:,} parameters in float32. No
tokenizer: it reads START (0), up to {longest} brackets, "(" (3) and ")" (4), and END (2); 1 is for padding and was not
trained on. At START, position 0, there are two logits: unbalanced, balanced. At other positions they mean nothing.

Trained by `training/brackets.py` on {steps} batches of {prompts} prompts: of even lengths half of them balanced, the
others near misses of the count (a balanced row with one bracket turned) and of the horizon (two exchanged), and random
ones; of odd lengths random ones, and balanced ones that lack a bracket.

| figure, on new rows | value |
| --- | ---: |
{figures}

Without a length: 500 rows of each length from 1 to {longest}, all lengths weighing alike. Short rows were seen in
training, since there are few of them. With a length: 10,000 rows. `python training/brackets.py --evaluate-only`
measures them again.
"""


def card(model: HookedTransformer, found: dict[str, float]) -> str:
    cfg = model.cfg
    return CARD.format(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_head=cfg.d_head,
        d_mlp=cfg.d_mlp,
        d_model=cfg.d_model,
        n_params=sum(weight.numel() for weight in model.parameters()),
        longest=LONGEST,
        steps=STEPS,
        prompts=LENGTHS * ROWS + ROWS // 2,
        figures="\n".join(f"| {what} | {value:.4f} |" for what, value in found.items()),
    )


if __name__ == "__main__":
    if evaluate_only(__doc__):
        print(card(model := HookedTransformer.from_pretrained(OUT.name, device="cpu"), figures(model)))
    else:
        model = train()
        model.save_pretrained(OUT)
        (OUT / "README.md").write_text(card(model, figures(model)), encoding="utf-8")
