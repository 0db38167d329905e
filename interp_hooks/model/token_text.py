"""Which text stands for a token, and which token a text stands for: each is the other's inverse.

                       GPT-2                      Llama
    " Mary"            5335, written "ĠMary"      "▁Mary"
    "Mary"             24119, written "Mary"      "M", "ary": two tokens
    "<0xF0><0x9F>"     8582, half an emoji        "<0xF0>" and "<0x9F>": two tokens

The text of a token is what it adds to a text that it goes on with, its leading space included, so that " Mary" means
the same whatever a tokenizer does to the first word of a text. A token that is no whole character is written as its
bytes, and one whose text is already that of another token as its vocabulary writes it.

A tokenizer here is one of transformers'. Characters that it has no tokens for, and would drop, are refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from interp_hooks.errors import TokenError

LOST = "\ufffd"  # what bytes decode to that are no character
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def read(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    """The tokens of a text; with `special` those that the tokenizer puts around it, too.

    Raises:
        TokenError: half of a surrogate pair, or characters that the tokenizer drops.
    """
    check_characters(text)
    if not tokenizer.is_fast:  # it does not tell which part of the text a token is
        return list(tokenizer.encode(text, add_special_tokens=special))
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    ids = list(encoded["input_ids"])
    covered = {place for span in encoded["offset_mapping"] for place in range(*span)}
    gaps = len(covered) < len(text) or decoded(tokenizer, ids[:1]) == ""  # a space put in front takes the first's place
    if gaps and (lost := [char for char in dict.fromkeys(text) if _drops(tokenizer, char)]):
        raise TokenError(f"the tokenizer has no tokens for {''.join(lost)!r} in {text[:40]!r}, and would drop it")
    return ids


def _drops(tokenizer: Any, char: str) -> bool:
    """Whether a character leaves no trace; spaces, accents and invisible ones may."""
    if char.isspace() or not char.isprintable() or unicodedata.category(char)[0] == "M":
        return False
    return not decoded(tokenizer, tokenizer.encode(char, add_special_tokens=False)).strip()


def check_characters(text: str) -> None:
    """Raises TokenError for halves of surrogate pairs, which are no characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenError(
            f"the text {text[:40]!r} holds {text[error.start]!r} at {error.start}: half of a surrogate pair, which is "
            "no character; read files as UTF-8, or drop it with text.encode('utf-8', 'ignore').decode()"
        ) from None


def goes_on(tokenizer: Any, before: Sequence[int], together: Sequence[int], answer: str) -> list[int]:
    """The tokens of an answer: those by which a prompt with its answer goes on after the prompt alone.

    Raises:
        TokenError: they do not begin with the prompt's, or nothing comes after these.
    """
    if len(together) > len(before) and list(together[: len(before)]) == list(before):
        return list(together[len(before) :])
    same = next((n for n, (a, b) in enumerate(zip(before, together, strict=False)) if a != b), len(together))
    alone, joined = ([text_of(tokenizer, id) for id in ids[same:]] for ids in (before, together))
    raise TokenError(
        f"the answer {answer!r} does not begin with a token of its own: where the prompt alone ends in {alone}, prompt "
        f"and answer together end in {joined}. A space between them belongs to the answer"
    )


def text_of(tokenizer: Any, id: int) -> str:
    """The text of a token."""
    text = _added(tokenizer, id)
    return text if LOST not in text and _of_text(tokenizer, text) == id else _written(tokenizer, id)


def id_of(tokenizer: Any, text: str) -> int | None:
    """The token with this text, or None: `text_of` the other way round.

    Raises:
        TokenError: half of a surrogate pair.
    """
    check_characters(text)
    found = None if LOST in text else _of_text(tokenizer, text)
    if found is None:
        bytes_of = bytes(int(byte, 16) for byte in BYTE.findall(text))
        spelled = "".join(NAME_OF_BYTE[byte] for byte in bytes_of) if BYTE.sub("", text) == "" else text
        written = (_in_vocabulary(tokenizer, name) for name in (text, spelled))
        found = next((id for id in written if id is not None and text_of(tokenizer, id) == text), None)
    return found


def begins_with(tokenizer: Any, text: str, id: int) -> bool:
    """Whether a text that begins with this token, and ends with it, is the given one, but for what is normalized."""
    normalizer = tokenizer.backend_tokenizer.normalizer if tokenizer.is_fast else None
    both = text, decoded(tokenizer, [id])
    one, other = both if normalizer is None else map(normalizer.normalize_str, both)
    return one == other and LOST not in text


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of a row of tokens."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def names_of(model: Any) -> Callable[[int], str]:
    """The text of a token id, or the id itself as text where no tokenizer knows it."""

    def name_of(id: int) -> str:
        known = model.tokenizer is not None and id < min(model.cfg.d_vocab, len(model.tokenizer))
        return model.to_single_str_token(id) if known else str(id)

    return name_of


def _added(tokenizer: Any, id: int) -> str:
    """What a token adds after a copy of itself: at the start of a text, some tokenizers drop a leading space."""
    alone, twice = decoded(tokenizer, [id]), decoded(tokenizer, [id, id])
    return alone if LOST in alone else twice[len(alone) :] or alone


def _of_text(tokenizer: Any, text: str) -> int | None:
    """The token that adds a text: the one that the vocabulary spells so, else the only one that the text is read as."""
    as_bytes = text.encode("utf-8")
    byte_level, fallback = (NAME_OF_BYTE[byte] for byte in as_bytes), (f"<0x{byte:02X}>" for byte in as_bytes)
    spellings = (text, text.replace(" ", "▁"), "".join(byte_level), "".join(fallback))
    for id in (_in_vocabulary(tokenizer, name) for name in spellings):
        if id is not None and _added(tokenizer, id) == text:
            return id
    ids = tokenizer.encode(text, add_special_tokens=False) if text else []
    return ids[0] if len(ids) == 1 and _added(tokenizer, ids[0]) == text else None


def _in_vocabulary(tokenizer: Any, name: str) -> int | None:
    id = tokenizer.convert_tokens_to_ids(name)  # the unknown token's for other names
    return id if isinstance(id, int) and tokenizer.convert_ids_to_tokens(id) == name else None


def _written(tokenizer: Any, id: int) -> str:
    """A token as its bytes, where its name spells these, else its name in the vocabulary."""
    name, text = tokenizer.convert_ids_to_tokens(id), decoded(tokenizer, [id])
    if name is None:
        return text
    spelled = bytes(BYTE_OF_NAME.get(char, 0) for char in name)
    if LOST in text and spelled.decode("utf-8", "replace") == text:
        return "".join(f"<0x{byte:02X}>" for byte in spelled)
    return name


def _names_of_bytes() -> list[str]:
    """How byte-level vocabularies spell each byte: printable ones as themselves, the others from U+0100 on."""
    shown, others = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}, count(0x100)
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]


NAME_OF_BYTE = _names_of_bytes()
BYTE_OF_NAME = {name: byte for byte, name in enumerate(NAME_OF_BYTE)}
