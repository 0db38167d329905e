"""A model whose neurons each answer to known words, and language models that know it, or know nothing."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.corpus import Bands, Scan, TopK, neurons, scan
from interp_hooks.ground_truth.handmade import blank
from tests.studies.explanations.scripted import TEXTS, Reply, question, says

N_WORDS, N_CTX = 40, 32
FIRES_ON: dict[int, dict[int, float]] = {0: {1: 2.0}, 1: {2: 2.0, 3: 1.2}, 2: {4: 3.0}}
"""By neuron, the words at which it is on, and how much; the last neuron is never on."""


def word_model() -> HookedTransformer:
    """One layer without attention; neurons read words."""
    model = blank(
        n_layers=1, d_model=N_WORDS, n_ctx=N_CTX, d_vocab=N_WORDS, n_heads=1, d_head=1, d_mlp=4, act_fn="relu"
    )
    mlp: Any = model.blocks[0].mlp
    with torch.no_grad():
        model.embed.W_E.copy_(torch.eye(N_WORDS))
        for neuron, words in FIRES_ON.items():
            for word, activation in words.items():
                mlp.W_in[word, neuron] = activation
    return model


def documents(n: int = 300, seed: int = 0) -> list[Tensor]:
    """Random words; those of neurons are rare."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        length = int(torch.randint(12, N_CTX + 1, (), generator=generator))
        tokens = torch.randint(5, N_WORDS, (length,), generator=generator)
        for word in range(1, 5):
            if float(torch.rand((), generator=generator)) < 0.4:
                tokens[int(torch.randint(length, (), generator=generator))] = word
        found.append(tokens)
    return found


def scanned(model: HookedTransformer, texts: list[Tensor]) -> Scan:
    units = neurons()
    return scan(model, texts, {"bands": Bands(units, n=30), "top": TopK(units, k=10)}, progress=False)


# ------------------------------------------------------------------------------------------- scripted language models

ACTIVE = re.compile(r"^Active: (.*)$", re.MULTILINE)
MARKS = re.compile(r"<<(.*?)>>")


def oracle(body: dict[str, Any]) -> Reply:
    """Explains by the tokens that it is shown as active, and answers by what an explanation says, word by word."""
    asked = question(body)
    if "Explanation: " not in asked:
        words = sorted({word for line in ACTIVE.findall(asked) for word in re.findall(r"' (\d+)' \d", line)}, key=int)
        return says(f"They have much in common.\nEXPLANATION: fires on {' '.join(words)}")
    words = set(re.findall(r"Explanation: fires on (.*)", asked)[0].split())
    texts = [text for _, text in TEXTS.findall(asked)]
    if "<<" in asked:
        return says(str([int(all(set(marked.split()) <= words for marked in MARKS.findall(text))) for text in texts]))
    return says(str([int(bool(words & set(text.split()))) for text in texts]))


def with_probabilities(
    answer: Callable[[dict[str, Any]], Reply], sure: float = -0.1
) -> Callable[[dict[str, Any]], Reply]:
    """The same language model, which tells how sure it is of each number: e ** sure."""

    def script(body: dict[str, Any]) -> Reply:
        reply = answer(body)
        text = reply.body["choices"][0]["message"]["content"]
        other = float(torch.log1p(-torch.tensor(sure).exp()))
        tokens = []
        for token in re.findall(r"\[|\]|,| ?\d+|\D+", text):
            digit = token.strip()
            told = {"token": token, "logprob": sure if digit in "01" else -0.001, "top_logprobs": []}
            if digit in ("0", "1"):
                opposite = token.replace(digit, str(1 - int(digit)))
                told["top_logprobs"] = [{"token": token, "logprob": sure}, {"token": opposite, "logprob": other}]
            tokens.append(told)
        reply.body["choices"][0]["logprobs"] = {"content": tokens} if "logprobs" in body else None
        return reply

    return script
