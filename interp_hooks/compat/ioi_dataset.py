"""IOI sentences with their answer, as a torch data set, and how well a model does on them.

"... John gave a ring to Mary" has IO " Mary" and S " John". In a template [A] is the indirect object, with which it
ends, and [B] the subject. Any other word in brackets is a slot for a noun: `nouns` lists the choices, and a sample has
the same noun wherever the slot appears.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from interp_hooks.errors import BadInput, TokenError
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.hooks.modes import study
from interp_hooks.interventions.engine import evaluate
from interp_hooks.interventions.metrics import LogitDiff
from interp_hooks.interventions.runs import Run
from interp_hooks.model.token_text import goes_on, read
from interp_hooks.model.tokenization import check_tokenizer, is_tokenizer
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.tasks.ioi_text import IOI_TEMPLATES, NAMES, OBJECTS, PLACES

_SLOT = re.compile(r"\[(\w+)\]")


class IOIDataset(Dataset):
    """Sentences drawn independently and uniformly from templates, pairs of names, and nouns.

    An item holds token ids: "prompt" is the whole sentence, its answer included (after a BOS, if `prepend_bos`); "IO"
    is the answer, and "S" the other name. `samples` holds the same as text. With `symmetric` every second sample is the
    one before it with the two names exchanged. Without `seed` Python's global generator decides. A tokenizer that is
    none of transformers' needs `encode(text)` and `bos_token_id`.

    Raises:
        BadInput: a template that lacks [A] or [B], does not end with [A], or has a slot without nouns; fewer than two
            names; an odd number of symmetric samples.
        TokenError: a BOS asked of a tokenizer that has none.
    """

    @checked
    def __init__(
        self,
        tokenizer: Any,
        templates: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        nouns: Mapping[str, Sequence[str]] | None = None,
        num_samples: Count = 1000,
        symmetric: bool = False,
        prepend_bos: bool = True,
        seed: int | None = None,
    ) -> None:
        if not hasattr(tokenizer, "encode"):
            check_tokenizer(tokenizer)
        if prepend_bos and tokenizer.bos_token_id is None:
            raise TokenError("prepend_bos=True, but the tokenizer has no BOS token; pass prepend_bos=False")
        if num_samples < 1 or (symmetric and num_samples % 2):
            raise BadInput(f"num_samples must be positive, and even if symmetric, got {num_samples}")
        self.tokenizer, self.prepend_bos = tokenizer, prepend_bos
        self.templates = self.get_default_templates() if templates is None else list(templates)
        self.names = self.get_default_names() if names is None else list(names)
        self.nouns = self.get_default_nouns() if nouns is None else {slot: list(nouns[slot]) for slot in nouns}
        self._check()
        rng = random.Random(random.getrandbits(64) if seed is None else seed)
        self.samples: list[dict[str, str]] = []
        while len(self.samples) < num_samples:
            self.samples += self._drawn(rng, symmetric)

    def _check(self) -> None:
        if len(set(self.names)) < 2 or len(set(self.names)) < len(self.names):
            raise BadInput(f"names must be at least 2 different names, got {self.names}")
        if not self.templates or not all(self.nouns.values()):
            raise BadInput("templates and every list of nouns must offer at least one choice")
        for template in self.templates:
            slots = set(_SLOT.findall(template))
            if not {"A", "B"} <= slots or not template.endswith(" [A]"):
                raise BadInput(f"a template names [A] and [B] and ends with ' [A]', got {template!r}")
            if unknown := slots - {"A", "B", *self.nouns}:
                raise BadInput(
                    f"the template {template!r} has the slot [{unknown.pop()}], for which there are no nouns"
                )

    def _drawn(self, rng: random.Random, symmetric: bool) -> list[dict[str, str]]:
        template = rng.choice(self.templates)
        words = {slot: rng.choice(nouns) for slot, nouns in self.nouns.items()}
        drawn = rng.sample(self.names, 2)
        samples = []
        for io, s in (drawn, drawn[::-1])[: 1 + symmetric]:
            filled = words | {"A": io, "B": s}
            text = _SLOT.sub(lambda slot, filled=filled: filled[slot[1]], template)
            samples.append({"text": text, "IO": f" {io}", "S": f" {s}"})
        return samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Int[Tensor, " pos"]]:
        sample = self.samples[index]
        asked, tokenizer = sample["text"].removesuffix(sample["IO"]), self.tokenizer
        names = (sample["IO"], sample["S"])
        if is_tokenizer(tokenizer):
            before, text = read(tokenizer, asked), read(tokenizer, sample["text"])
            io, s = (goes_on(tokenizer, before, read(tokenizer, asked + name), name) for name in names)
        else:
            text, io, s = (list(tokenizer.encode(one)) for one in (sample["text"], *names))
        begins = [self.tokenizer.bos_token_id] if self.prepend_bos else []
        return {"prompt": torch.tensor(begins + text), "IO": torch.tensor(io), "S": torch.tensor(s)}

    @staticmethod
    def get_default_names() -> list[str]:
        """The names of `interp_hooks.tasks.ioi`."""
        return list(NAMES)

    @staticmethod
    def get_default_templates() -> list[str]:
        """The templates of `interp_hooks.tasks.ioi`, each with IO introduced first and with S introduced first."""
        rest = dict(S=" [B]", PLACE=" [PLACE]", OBJECT=" [OBJECT]")
        orders = dict(A=" [A]", B=" [B]"), dict(A=" [B]", B=" [A]")
        return [f"{template.format(**order, **rest)} [A]" for template in IOI_TEMPLATES for order in orders]

    @staticmethod
    def get_default_nouns() -> dict[str, list[str]]:
        """The nouns of `interp_hooks.tasks.ioi`."""
        return {"PLACE": list(PLACES), "OBJECT": list(OBJECTS)}


@study
def ioi_eval(
    model: HookedTransformer,
    dataset: IOIDataset | Sequence[Mapping[str, Tensor]] | None = None,
    batch_size: int = 8,
    num_samples: Count = 1000,
    tokenizer: Any = None,
    symmetric: bool = False,
) -> dict[str, float]:
    """Mean logit(IO) - logit(S) ("Logit Difference"), and the share of samples where it is positive ("Accuracy").

    Names of several tokens are compared at the first token in which they differ. Without a `dataset` an `IOIDataset` of
    `num_samples` is drawn.

    Raises:
        BadInput: no samples, or a model that is not causal.
        TokenError: a prompt that does not end with its name, or names of which one begins the other.
    """
    if model.cfg.attention_dir != "causal":
        raise BadInput("ioi_eval needs a causal model: this one sees the name that it is asked for")
    if dataset is None:
        sizes: dict[str, Any] = dict(num_samples=num_samples, symmetric=symmetric, prepend_bos=model.text.prepend_bos)
        dataset = IOIDataset(model.text.tokenizer if tokenizer is None else tokenizer, **sizes)
    samples = [dataset[index] for index in range(len(dataset))]
    if not samples:
        raise BadInput("the data set is empty")
    groups = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    diffs = torch.cat([_name_logit_diffs(model, group) for group in groups])
    return {"Logit Difference": diffs.mean().item(), "Accuracy": (diffs > 0).double().mean().item()}


def _name_logit_diffs(model: HookedTransformer, samples: Sequence[Mapping[str, Tensor]]) -> Float[Tensor, " batch"]:
    width = max(len(sample["prompt"]) for sample in samples)
    tokens = torch.zeros(len(samples), width, dtype=torch.long)
    real = torch.zeros_like(tokens)
    read_at, io, s = [], [], []
    for row, sample in enumerate(samples):
        prompt, names = sample["prompt"], (sample["IO"].tolist(), sample["S"].tolist())
        if prompt[-len(names[0]) :].tolist() != names[0]:
            raise TokenError(f"sample {row} of this batch does not end with the tokens of its IO, {names[0]}")
        shared = next((at for at, (one, other) in enumerate(zip(*names, strict=False)) if one != other), None)
        if shared is None:
            raise TokenError(f"one name's tokens begin the other's, so that no token tells them apart: {names}")
        tokens[row, : len(prompt)], real[row, : len(prompt)] = prompt, 1
        read_at.append(len(prompt) - len(names[0]) + shared - 1)
        io.append(names[0][shared])
        s.append(names[1][shared])
    metric = LogitDiff(torch.tensor(io), torch.tensor(s), pos=torch.tensor(read_at))
    return evaluate(model, [Run(tokens.to(model.device), (), real.to(model.device))], metric)[0].double().cpu()
