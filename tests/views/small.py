"""Results with known numbers, and a checkpoint of a tiny random GPT-2 that can read IOI prompts."""

import random
import re
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp_hooks import Result
from interp_hooks.tasks.in_words import plain
from interp_hooks.tasks.ioi_text import IOI_TEMPLATES, ioi_prompts
from tests.tiny import redraw

HOSTILE = (
    '<script>document.title="pwned"</script>',
    '</script><script>document.title="pwned"</script>',
    "<img src=x onerror=document.title='pwned'>",
    "<b>",
    "$x^2$",
    "&lt;",
)


def result(values: Tensor, **fields: object) -> Result:
    """A result of the given values [layer, pos, prompt] that lie between the baselines 1 (corrupt) and 3 (clean)."""
    n = values.shape[-1]
    given = dict(
        metric="logit_diff",
        axes={"layer": range(values.shape[0]), "pos": range(values.shape[1])},
        values=values,
        baselines={"corrupt": torch.ones(n), "clean": torch.full((n,), 3.0)},
        scale=("corrupt", "clean"),
    )
    return Result(**given | fields)


def line(values: Tensor, entries: list[str]) -> Result:
    """A result of one axis "part"."""
    return Result(metric="logit_diff", axes={"part": entries}, values=values)


def save_checkpoint(folder: Path, *, knows_anything: bool = True) -> Path:
    """A random GPT-2 with a tokenizer of whole words; if it knows nothing, all its logits are 0."""
    drawn = islice(ioi_prompts(random.Random(0), range(len(IOI_TEMPLATES))), 2000)
    words = {piece for prompt in drawn for piece in re.findall(" ?[A-Za-z]+|,", plain(prompt.clean))}
    vocabulary = {word: place for place, word in enumerate(["<bos>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<bos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" ?[A-Za-z]+|,"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    size = dict(n_layer=2, n_embd=16, n_head=2, n_positions=48, vocab_size=len(vocabulary))
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False))
    redraw(model)
    if not knows_anything:
        torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>").save_pretrained(folder)
    return folder
