"""Train, measure and save `mod-add`: a one-layer transformer that adds modulo 53, and the states on its way there.

    python training/modular_addition.py                   # train, save, write the model card
    python training/modular_addition.py --evaluate-only   # load the saved folder and print the card's figures

Rows are a, b and "="; 40% of all sums are trained on, all of them at every step, with a strong weight decay. The model
first learns its rows by heart and gets almost none of the other sums right; thousands of steps later it gets all of
them: it groks (Power et al. 2022, Nanda et al. 2023). The same versions, machine and number of threads give the same
models; it takes some minutes on one core.
"""

import time
from pathlib import Path

import torch
from einops import rearrange
from running import evaluate_only
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp_hooks import HookedTransformer, HookedTransformerConfig
from interp_hooks.loading.training_steps import checkpoint_labels
from interp_hooks.studies.fourier import cosines
from interp_hooks.tasks import modular_addition

FOLDER = Path(__file__).parents[1] / "interp_hooks" / "loading" / "pretrained" / "mod-add"
P, SHARE = 53, 0.4
STEPS, LEARNING_RATE, WEIGHT_DECAY = 10_000, 1e-3, 1.0
KEPT = (0, 200, 1000, 3000, 4000, 5000, 5500, 6000, 6500, 7000, STEPS)

TASK = modular_addition(P)
TRAINED_ON, HELD_OUT = torch.randperm(P * P, generator=torch.Generator().manual_seed(1)).tensor_split(
    [round(SHARE * P * P)]
)


def untrained() -> HookedTransformer:
    """Normal weights, drawn for all heads of a matrix at once; the neurons have biases, nothing else has."""
    cfg = HookedTransformerConfig(
        n_layers=1, d_model=48, n_ctx=3, d_vocab=P + 1, d_vocab_out=P, n_heads=4, d_head=12, d_mlp=256, act_fn="relu",
        normalization_type=None, device="cpu", seed=0, model_name="mod-add",
    )  # fmt: skip
    model, generator = HookedTransformer(cfg), torch.Generator().manual_seed(2)

    def draw(*size: int) -> Tensor:
        return 0.115 * torch.randn(size, generator=generator)

    drawn = {
        "embed.W_E": draw(P + 1, 48),
        "pos_embed.W_pos": draw(3, 48),
        **{f"blocks.0.attn.W_{which}": rearrange(draw(48, 48), "d (h k) -> h d k", h=4) for which in "QKV"},
        "blocks.0.attn.W_O": rearrange(draw(48, 48), "(h k) d -> h k d", h=4),
        "blocks.0.mlp.W_in": draw(48, 256),
        "blocks.0.mlp.W_out": draw(256, 48),
        "unembed.W_U": draw(48, P),
    }
    model.load_state_dict(drawn, strict=False)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in drawn or name.endswith("b_in"))
    return model


def train() -> None:
    model, tokens, answers = untrained(), TASK.clean[TRAINED_ON], TASK.answer[TRAINED_ON]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True)
    begun = time.perf_counter()
    for step in range(STEPS + 1):
        if step in KEPT:
            model.save_pretrained(FOLDER / f"step{step}")
        if step % 500 == 0:
            learned, new = (accuracy(all_logits(model), rows) for rows in (TRAINED_ON, HELD_OUT))
            print(f"step {step}: {learned:.3f} of the sums trained on right, {new:.3f} of the others; "
                  f"{time.perf_counter() - begun:.0f} s", flush=True)  # fmt: skip
        loss = cross_entropy(model(tokens)[:, -1].double(), answers)  # in float32 it would end in rounding
        optimizer.zero_grad()
        loss.backward()
        if step < STEPS:
            optimizer.step()
    model.save_pretrained(FOLDER)


@torch.no_grad()
def all_logits(model: HookedTransformer) -> Tensor:
    """At "=", for all sums: [a, b, c]."""
    return model(TASK.clean)[:, -1].reshape(P, P, P)


def accuracy(logits: Tensor, rows: Tensor) -> float:
    return (logits.reshape(-1, P).argmax(-1) == TASK.answer)[rows].double().mean().item()


def loss(logits: Tensor, rows: Tensor) -> float:
    return cross_entropy(logits.reshape(-1, P)[rows].double(), TASK.answer[rows]).item()


def load(**options: int) -> HookedTransformer:
    return HookedTransformer.from_pretrained_no_processing("mod-add", device="cpu", **options)


CARD = """---
license: mit
library_name: interp_hooks
---

# mod-add

Adds modulo {p}: reads a, b and "=" (token {p}), and says (a + b) mod {p} there. One layer of 4 heads 12 wide and an
MLP of 256 neurons (ReLU), stream 48 wide, no norm, learned positions, {n_params:,} parameters in float32. No tokenizer.

Trained by `training/modular_addition.py` on {n_rows:,} of the {n_sums:,} sums, all at every one of {steps:,} steps:
AdamW, learning rate {rate}, weight decay {decay}, betas 0.9 and 0.98. The states at the steps below come with it:
`from_pretrained("mod-add", checkpoint_value=1000)`, or `checkpoint_index=`; without either, the last.

| step | accuracy, trained on | held out | loss in nats, trained on | held out |
| ---: | ---: | ---: | ---: | ---: |
{figures}

The model learns its rows by heart first, and to add later, as Nanda et al. 2023 (Progress measures for grokking via
mechanistic interpretability) found of a larger one. In the end cos(w (a + b - c)), w = 2 pi k / {p}, with k = {keys}
explain {explained:.1%} of the variance of the logits of c. `demos/grokking.py` shows how that came about.

`python training/modular_addition.py --evaluate-only` measures all this again.
"""


def card() -> str:
    explained = cosines(all_logits(load())).explained_variance
    keys = (explained > 0.01).nonzero().flatten().tolist()
    kept, _ = checkpoint_labels("mod-add")
    rows = []
    for step in kept:
        logits = all_logits(load(checkpoint_value=step))
        figures = [measure(logits, which) for measure in (accuracy, loss) for which in (TRAINED_ON, HELD_OUT)]
        rows.append(f"| {step} | " + " | ".join(f"{figure:.3g}" for figure in figures) + " |")
    return CARD.format(
        p=P,
        n_params=sum(weight.numel() for weight in load().parameters()),
        n_rows=len(TRAINED_ON),
        n_sums=P * P,
        steps=STEPS,
        rate=LEARNING_RATE,
        decay=WEIGHT_DECAY,
        keys=", ".join(map(str, keys)),
        explained=explained[keys].sum().item(),
        figures="\n".join(rows),
    )


if __name__ == "__main__":
    if evaluate_only(__doc__):
        print(card())
    else:
        train()
        (FOLDER / "README.md").write_text(card(), encoding="utf-8")
