"""Train, measure and save `ioi-tiny`, the small GPT-2 that ships with the package.

    python training/ioi_tiny.py                   # train, save, write the model card
    python training/ioi_tiny.py --evaluate-only   # load the saved folder and print the card's figures

The data are generated: IOI sentences between plain ones, and random tokens that repeat. The first kind makes the model
find the name that came twice and write the other one, the second makes it look up what followed a token last time.
The same versions, machine and number of threads give the same model; it takes a quarter of an hour on one core.
"""

import argparse
import itertools
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp_hooks.tasks.in_words import Candidate, plain
from interp_hooks.tasks.ioi_text import IOI_TEMPLATES, NAMES, OBJECTS, PLACES, ioi_prompt

OUT = Path(__file__).parents[1] / "interp_hooks" / "loading" / "pretrained" / "ioi-tiny"
BOS = "<|endoftext|>"
VOCAB_SIZE = 1024
N_CTX = 128
TOKENS_PER_BATCH = 2048
# The row lengths in use from this part of the training on. In short rows there is little to look at besides the right
# token, so attention learns there what to look for; with long rows from the start, it had not in a third of the steps.
ROW_LENGTHS = {0.0: (16,), 0.1: (16, 32), 0.2: (32, 64), 0.35: (32, 64, 64, 128)}
NEW_TOKEN_WEIGHT = 0.2  # in the loss, of tokens that did not occur earlier in their row
P_REPEATS = 0.5  # rows of repeated random tokens; the others are text
P_IOI = 0.6  # sentences of the text rows that are IOI; the others are plain
P_THREE_NAMES = 0.1  # IOI sentences where a third person acts, so that no name is duplicated and both answers are right
P_ECHO = 0.2  # chance for a sentence to take over a name from the sentence before it

PLAIN_TEMPLATES: tuple[str, ...] = (
    "Yesterday{A} went to the{PLACE} and bought a{OBJECT}.",
    "In the morning{A} walked to the{PLACE} and sat down.",
    "Later{A} found a{OBJECT} near the{PLACE}.",
    "At noon{A} was waiting outside the{PLACE}.",
    "Last week{A} left a{OBJECT} in the{PLACE}.",
    "On the way back to the{PLACE},{A} lost a{OBJECT}.",
    "The{PLACE} was closed, so{A} had to go back to the{PLACE}.",
    "The{OBJECT} that{A} liked was sold at the{PLACE}.",
    "There was a{OBJECT} inside the{PLACE}.",
    "Everyone at the{PLACE} was talking about the{OBJECT}.",
    "Every day{A} used to pass the{PLACE} on the way to the{PLACE}.",
    "Then{A} and{B} went home from the{PLACE}.",
    "After lunch{A} met{B} at the{PLACE}.",
    "Soon{A} wanted to see the{PLACE} with{B}.",
    "Today{A} wrote a long letter about{B}.",
    "When{A} came to the{PLACE},{B} was not there.",
    "While{A} cleaned the{OBJECT},{B} worked in the{PLACE}.",
    "As soon as it was dark,{A} had to run to the{PLACE}.",
)
ENDINGS: tuple[str, ...] = (".", ".", " at once.", " with a smile.", " the day after.")


def held_out_pairs() -> list[tuple[str, str]]:
    """15% of the unordered pairs of names: the two never share a text row of the training data."""
    pairs = list(itertools.combinations(NAMES, 2))
    return sorted(random.Random(0).sample(pairs, round(0.15 * len(pairs))))


class Text:
    """Rows of generated sentences in which no two names are a held-out pair."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.apart: dict[str, set[str]] = {name: set() for name in NAMES}
        for a, b in held_out_pairs():
            self.apart[a].add(b)
            self.apart[b].add(a)

    def names(self, row: list[str], previous: list[str]) -> list[str]:
        """Three different names, each compatible with the names of the `row` and with one another."""
        rng = self.rng
        chosen = [rng.choice(previous)] if previous and rng.random() < P_ECHO else []
        while len(chosen) < 3:
            name = rng.choice(NAMES)
            if name not in chosen and self.apart[name].isdisjoint(row + chosen):
                chosen.append(name)
        rng.shuffle(chosen)
        return chosen

    def ioi_sentence(self, names: list[str]) -> str:
        rng = self.rng
        io, s, other = names
        template, io_first = rng.randrange(len(IOI_TEMPLATES)), rng.choice((True, False))
        place, obj = rng.choice(PLACES), rng.choice(OBJECTS)
        two, three = (io, s, s), (io, s, other)
        prompt = ioi_prompt(template, io_first, place, obj, two, three)
        chosen = prompt.corrupt if rng.random() < P_THREE_NAMES else prompt.clean
        return plain(chosen) + prompt.answer + rng.choice(ENDINGS)

    def plain_sentence(self, names: list[str]) -> str:
        rng = self.rng
        text = rng.choice(PLAIN_TEMPLATES).replace("{A}", " " + names[0]).replace("{B}", " " + names[1])
        for slot, words in (("{PLACE}", PLACES), ("{OBJECT}", OBJECTS)):
            for word in rng.sample(words, text.count(slot)):
                text = text.replace(slot, " " + word, 1)
        return text

    def sentences(self) -> Iterator[str]:
        """An endless row: sentences, each but the first with the space that separates it from the one before."""
        row: list[str] = []
        previous: list[str] = []
        while True:
            names = self.names(row, previous)
            sentence = self.ioi_sentence if self.rng.random() < P_IOI else self.plain_sentence
            text = sentence(names)
            yield " " + text if previous else text
            previous = [name for name in names if f" {name}" in text] or previous or names[:1]
            row += names


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every slot word is one token."""
    text = Text(random.Random(1))
    corpus = [sentence for _ in range(4000) for sentence in itertools.islice(text.sentences(), 4)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=BOS,
        model_max_length=N_CTX,
        clean_up_tokenization_spaces=False,
    )
    check_tokenizer(tokenizer)
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    split = [word for word in (*NAMES, *PLACES, *OBJECTS) if len(tokenizer.encode(" " + word)) != 1]
    assert not split, f"these words are more than one token: {split}"
    for text in ("When Mary went", "  naïve café,\n\t42 ways… 東京 🙂 ", "x" * 50, IOI_TEMPLATES[0]):
        assert tokenizer.decode(tokenizer.encode(text)) == text, text


class Batches:
    """Batches of token rows, all starting with BOS."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
        self.rng = rng
        self.tokenizer = tokenizer
        self.bos = tokenizer.bos_token_id
        self.plain_tokens = [i for i in range(len(tokenizer)) if i != self.bos]
        self.text = Text(rng)

    def text_row(self, length: int) -> list[int]:
        row = [self.bos]
        for sentence in self.text.sentences():
            row += self.tokenizer.encode(sentence)
            if len(row) >= length:
                return row[:length]
        raise AssertionError("sentences() does not end")

    def repeats_row(self, length: int) -> list[int]:
        """Random tokens that come again: one segment over and over, or several short ones in random order.

        In the second kind only the token before tells what comes next, no distance does.
        """
        rng = self.rng
        row = [self.bos, *rng.choices(self.plain_tokens, k=rng.randrange(length // 8))]
        if rng.random() < 0.5:
            # log-uniform from 4 to half the row: short segments offer more to predict
            segments = [rng.choices(self.plain_tokens, k=round(4 * (length / 8) ** rng.random()))]
        else:
            n_segments = rng.randint(2, 2 + length // 16)
            segments = [rng.choices(self.plain_tokens, k=rng.randint(2, 8)) for _ in range(n_segments)]
        while len(row) < length:
            row += rng.choice(segments)
        return row[:length]

    def next(self, progress: float) -> Tensor:
        """The next batch, at this part (0 to 1) of the training."""
        lengths = next(lengths for start, lengths in reversed(ROW_LENGTHS.items()) if progress >= start)
        length = self.rng.choice(lengths)
        rows = []
        for _ in range(TOKENS_PER_BATCH // length):
            row = self.repeats_row if self.rng.random() < P_REPEATS else self.text_row
            rows.append(row(length))
        return torch.tensor(rows)


def make_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=N_CTX,
        n_embd=128,
        n_layer=3,
        n_head=4,
        n_inner=256,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPT2LMHeadModel(config)
    initialise(model)
    return model


@torch.no_grad()
def initialise(model: GPT2LMHeadModel) -> None:
    """A start from which attention that compares and copies tokens is a small step away.

    Keys equal queries, so a head prefers tokens like the present one; outputs are transposed values, so it writes what
    it reads; positions are waves of a few wavelengths, so that a distance looks alike all along the row.
    """
    width = model.config.n_embd
    for block in model.transformer.h:
        qkv, out = block.attn.c_attn.weight, block.attn.c_proj.weight
        qkv.mul_(1.3)
        qkv[:, width : 2 * width] = qkv[:, :width]
        out.copy_(0.5 * qkv[:, 2 * width :].T)
    wavelengths = torch.logspace(math.log10(2.5), math.log10(N_CTX), 16)
    angles = 2 * math.pi * torch.arange(N_CTX)[:, None] / wavelengths
    positions = model.transformer.wpe.weight
    positions.zero_()
    positions[:, :32] = 0.17 * torch.cat([angles.sin(), angles.cos()], dim=1)


def weighted_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Next-token loss in which tokens new to their row weigh less.

    Most of them are random words or random tokens that nothing predicts, and their noise delays learning the others.
    """
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    seen = (tokens[:, 1:, None] == tokens[:, None, :-1]).tril().any(-1)
    weights = torch.where(seen, 1.0, NEW_TOKEN_WEIGHT)
    return (losses * weights).sum() / weights.sum()


def train(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, *, steps: int) -> None:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.98))
    warmup = min(100, steps)

    def schedule(step: int) -> float:
        progress = min(1.0, step / steps)
        return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    batches = Batches(tokenizer, random.Random(2))
    start = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        tokens = batches.next(step / steps)
        loss = weighted_loss(model(tokens).logits, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % 250 == 0 or step == steps:
            figures = evaluate(model, tokenizer, quick=True)
            print(
                f"step {step:5d}  {time.monotonic() - start:5.0f}s  loss {loss.item():.3f}"
                f"  IOI accuracy {figures.ioi_accuracy:.3f} top-1 {figures.ioi_top1:.3f}"
                f"  induction accuracy {figures.induction_accuracy:.3f} loss {figures.second_half_loss:.2f}"
                f"  after a sentence {figures.offset_accuracy:.3f}",
                flush=True,
            )
            model.train()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the model card reports; logit differences are logit(IO) - logit(S)."""

    prompts: int
    ioi_accuracy: float
    ioi_worst_template: float
    ioi_top1: float
    ioi_probability: float
    ioi_difference: float
    corrupt_accuracy: float
    corrupt_difference: float
    offset_accuracy: float
    sequences: int
    induction_accuracy: float
    first_half_loss: float
    second_half_loss: float

    def table(self) -> str:
        rows = [
            ("figure", "value"),
            ("---", "---:"),
            ("IOI prompts, all with held-out pairs of names", f"{self.prompts}"),
            ("accuracy, logit(IO) > logit(S)", f"{self.ioi_accuracy:.2%}"),
            ("the same on the worst template", f"{self.ioi_worst_template:.2%}"),
            ("the same with a plain sentence in front", f"{self.offset_accuracy:.2%}"),
            ("IO is the most likely next token", f"{self.ioi_top1:.2%}"),
            ("mean probability of IO", f"{self.ioi_probability:.3f}"),
            ("mean logit(IO) - logit(S)", f"{self.ioi_difference:.2f}"),
            ("mean logit(IO) - logit(S), corrupt prompts", f"{self.corrupt_difference:.2f}"),
            ("accuracy on the corrupt prompts, logit(S) > logit(IO)", f"{self.corrupt_accuracy:.2%}"),
            ("repeated sequences, BOS + 30 random tokens twice", f"{self.sequences}"),
            ("accuracy from the second token of the repeat on", f"{self.induction_accuracy:.2%}"),
            ("mean loss there", f"{self.second_half_loss:.3f}"),
            ("mean loss on the first 30 tokens", f"{self.first_half_loss:.3f}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"| {name:<{width}} | {value:>8} |" for name, value in rows)


def held_out_prompts() -> list[Candidate]:
    """Each held-out pair in both roles, each of them in both orders of four templates; the templates take turns."""
    rng = random.Random(3)
    count = len(IOI_TEMPLATES)
    return [
        ioi_prompt(
            (pair + quarter * count // 4) % count,
            io_first,
            rng.choice(PLACES),
            rng.choice(OBJECTS),
            (io, s, s),
            (io, s, io),
        )
        for pair, names in enumerate(held_out_pairs())
        for io, s in (names, names[::-1])
        for quarter in range(4)
        for io_first in (True, False)
    ]


@torch.no_grad()
def next_token_logits(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Logits after each text; rows are padded at the end, which a causal model cannot see."""
    rows = [[tokenizer.bos_token_id, *tokenizer.encode(text)] for text in texts]
    logits = []
    for start in range(0, len(rows), 256):
        chunk = rows[start : start + 256]
        longest = max(map(len, chunk))
        tokens = torch.tensor([row + [tokenizer.eos_token_id] * (longest - len(row)) for row in chunk])
        last = torch.tensor([len(row) - 1 for row in chunk])
        logits.append(model(tokens).logits[torch.arange(len(chunk)), last])
    return torch.cat(logits)


def evaluate(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, *, quick: bool = False) -> Figures:
    model.eval()
    rng = random.Random(4)
    prompts = held_out_prompts()
    if quick:
        prompts = rng.sample(prompts, 256)
    io = torch.tensor([tokenizer.encode(p.answer)[0] for p in prompts])
    s = torch.tensor([tokenizer.encode(p.wrong[0])[0] for p in prompts])
    template = torch.tensor([p.template // 2 for p in prompts])  # both orders of the names are one sentence here
    text = Text(rng)
    before = [text.plain_sentence(text.names([], [])) for _ in prompts]

    def difference(logits: Tensor) -> Tensor:
        return (logits.gather(1, io[:, None]) - logits.gather(1, s[:, None])).squeeze(1)

    logits = next_token_logits(model, tokenizer, [plain(p.clean) for p in prompts])
    clean = difference(logits)
    corrupt = difference(next_token_logits(model, tokenizer, [plain(p.corrupt) for p in prompts]))
    offset_texts = [f"{sentence} {plain(p.clean)}" for sentence, p in zip(before, prompts, strict=True)]
    offset = difference(next_token_logits(model, tokenizer, offset_texts))

    n, sequences = 30, 32 if quick else 512
    tokens = Batches(tokenizer, rng).plain_tokens
    repeats = torch.tensor([[tokenizer.bos_token_id, *rng.sample(tokens, n) * 2] for _ in range(sequences)])
    with torch.no_grad():
        predictions = model(repeats).logits[:, :-1]
    losses = F.cross_entropy(predictions.transpose(1, 2), repeats[:, 1:], reduction="none")
    hits = (predictions.argmax(-1) == repeats[:, 1:]).float()

    return Figures(
        prompts=len(prompts),
        ioi_accuracy=(clean > 0).float().mean().item(),
        ioi_worst_template=min((clean[template == t] > 0).float().mean().item() for t in template.unique()),
        ioi_top1=(logits.argmax(1) == io).float().mean().item(),
        ioi_probability=logits.softmax(1).gather(1, io[:, None]).mean().item(),
        ioi_difference=clean.mean().item(),
        corrupt_accuracy=(corrupt < 0).float().mean().item(),
        corrupt_difference=corrupt.mean().item(),
        offset_accuracy=(offset > 0).float().mean().item(),
        sequences=sequences,
        induction_accuracy=hits[:, n + 1 :].mean().item(),
        first_half_loss=losses[:, :n].mean().item(),
        second_half_loss=losses[:, n + 1 :].mean().item(),
    )


CARD = """\
---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---

# ioi-tiny

A small GPT-2 trained to do two things that attention heads are known to do together: indirect object identification
("When Mary and John went to the store, John gave a ring to" is continued with " Mary") and induction (a sequence of
tokens that came before is continued the same way). It is meant for trying interpretability methods offline: small
enough for a full activation-patching sweep to take seconds, trained well enough for the sweep to find something.

## Architecture

`GPT2LMHeadModel`: {layers} layers, {heads} heads of width {head_width}, residual width {width}, MLP width {inner},
{positions} positions, gelu_new, tied embeddings, {parameters:,} parameters in float32. The tokenizer is a
byte-level BPE with {vocabulary} tokens that can write any text; every name, place and object of
`interp_hooks.tasks.ioi_text`, with its leading space, is one token.

## Training data

All of it is generated by `training/ioi_tiny.py`, {steps} batches of {tokens} tokens, in rows that grow from {shortest}
to {longest} tokens. Every row starts with `<|endoftext|>`, which the tokenizer does not add by itself.

- Text rows: sentences in the {templates} templates of `tasks.py`, in both orders, mixed with plain sentences
  about the same people, places and objects. In a tenth of the IOI sentences a third person acts and both
  introduced names are equally right.
- Random rows: random tokens that come again, as one segment repeated to the end of the row or as several short ones
  in random order.

In the loss, tokens that occur in their row for the first time weigh {new_token_weight}, the others 1, so the model
expects repetition a little more than the data hold it. Before training, the keys of each head equalled its queries and
its output matrix was its transposed value matrix, a start from which attention learns to match and copy sooner.

{pairs} of the {all_pairs} unordered pairs of names are held out: the two names never share a text row of the
training data.

## Figures

{table}

Measured on the saved files by

    python training/ioi_tiny.py --evaluate-only

The prompts put each held-out pair in both roles and both orders. A corrupt prompt has IO instead of S at the second
mention, so its right answer is S.

## Limits

- IOI works at the start of the row only, right after `<|endoftext|>`; its heads seem to go by absolute positions.
  After one plain sentence the accuracy is {offset_accuracy:.0%}, where chance is 50%. Give it prompts that begin with
  `<|endoftext|>`, and nothing in between.
- The model knows a few hundred words and {sentences} sentence patterns and nothing else: it is no language model for
  real text. Templates, places and objects of the test were seen in training; only the pairs of names are new.
- Its circuits need not be those of larger models.

Licence: MIT.
"""


def card(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, figures: Figures, *, steps: int) -> str:
    config = model.config
    return CARD.format(
        layers=config.n_layer,
        heads=config.n_head,
        head_width=config.n_embd // config.n_head,
        width=config.n_embd,
        inner=config.n_inner,
        positions=config.n_positions,
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        steps=steps,
        tokens=TOKENS_PER_BATCH,
        shortest=min(itertools.chain(*ROW_LENGTHS.values())),
        longest=max(itertools.chain(*ROW_LENGTHS.values())),
        new_token_weight=NEW_TOKEN_WEIGHT,
        templates=len(IOI_TEMPLATES),
        sentences=len(IOI_TEMPLATES) + len(PLAIN_TEMPLATES),
        pairs=len(held_out_pairs()),
        all_pairs=math.comb(len(NAMES), 2),
        offset_accuracy=figures.offset_accuracy,
        table=figures.table(),
    )


def load(folder: Path) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    model, tokenizer = GPT2LMHeadModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    check_tokenizer(tokenizer)
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the model (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=6000, help="training steps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--evaluate-only", action="store_true", help="measure the saved model, train nothing")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    if not args.evaluate_only:
        torch.manual_seed(0)
        tokenizer = make_tokenizer()
        model = make_model(tokenizer)
        print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters", flush=True)
        train(model, tokenizer, steps=args.steps)
        model.save_pretrained(args.out)
        tokenizer.save_pretrained(args.out)
    model, tokenizer = load(args.out)
    figures = evaluate(model, tokenizer)
    print(figures.table())
    if not args.evaluate_only:
        (args.out / "README.md").write_text(card(model, tokenizer, figures, steps=args.steps), encoding="utf-8")


if __name__ == "__main__":
    main()
