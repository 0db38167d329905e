"""Small tokenizers built as published ones are: the same normalizer, pre-tokenizer, model and decoder, a vocabulary of
a few hundred tokens that was trained on sentences of the package's own tasks.

    llama             a space before the text, "▁" for spaces, characters without token as bytes (Llama 2, Mistral)
    llama-metaspace   the same as later files have it, in which only the first piece of a text gets the space
    gemma             "▁" for spaces and none in front, tokens of several spaces and lines, bytes
    neox              bytes as printable characters, as GPT-2
    characters        characters, with no token for the ones that are not in the vocabulary, which it drops
"""

import functools
import json
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from interp_hooks.tasks.in_words import plain
from interp_hooks.tasks.ioi_text import IOI_TEMPLATES, ioi_prompts

KINDS = ("llama", "llama-metaspace", "gemma", "neox")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>"]
DASH = "▁"


def sentences(count: int = 400) -> Iterator[str]:
    """Prompts of IOI with their answers, and some with a name right after a bracket."""
    for prompt in islice(ioi_prompts(random.Random(0), range(len(IOI_TEMPLATES))), count):
        yield f"{plain(prompt.clean)}{prompt.answer}."
        yield f'("{prompt.answer.strip()}")\n\n  ("{prompt.answer.strip()}")'


def _trained(normalizer: Any, pre_tokenizer: Any, special: list[str], alphabet: list[str]) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=special, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    return json.loads(tokenizer.to_str())["model"]


@functools.cache
def tokenizer_like(kind: str) -> PreTrainedTokenizerFast:
    """The tokenizer of that kind; built once, so nobody may change it."""
    spaces, fallback = normalizers.Replace(" ", DASH), [decoders.Replace(DASH, " "), decoders.ByteFallback()]
    words = pre_tokenizers.Split(Regex(f"{DASH}*[A-Za-z]+|{DASH}+|\n+|."), "isolated")
    if kind == "neox":
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learnt = _trained(None, byte_level, SPECIAL, pre_tokenizers.ByteLevel.alphabet())
    else:
        learnt = _trained(spaces, words, SPECIAL + BYTES, [DASH])
    merges = [tuple(pair) for pair in learnt["merges"]]
    options = dict(unk_token="<unk>", fuse_unk=True, byte_fallback=True) if kind != "neox" else {}
    tokenizer = Tokenizer(models.BPE(learnt["vocab"], merges, **options))
    if kind == "llama":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(DASH), spaces])
        tokenizer.decoder = decoders.Sequence([*fallback, decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    elif kind == "llama-metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(DASH, prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([*fallback, decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    elif kind == "gemma":
        tokenizer.normalizer = spaces
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence([*fallback, decoders.Fuse()])
    elif kind == "neox":
        tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    named = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def dropping_tokenizer() -> PreTrainedTokenizerFast:
    """Letters and the space before a text; whatever else there is in a text leaves no trace."""
    tokenizer = Tokenizer(models.BPE({char: place for place, char in enumerate(f"{DASH}abcdefghij")}, []))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(DASH), normalizers.Replace(" ", DASH)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(DASH, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
