"""What a language model is asked, what it answered, and a folder in which answers stay.

A file of the folder is named by the sha256 of the server's address and the body of the request, and holds both with the
server's answer; no header, and so no key, is ever in it. Files are whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp_hooks.model.tensor_files import Json, on_disk, write_text


@dataclass(frozen=True, kw_only=True)
class Request:
    """A question for a language model: `system` says how to answer, `user` is the question.

    The answer may have `max_tokens` tokens; with `log_probs` the server is asked for the probabilities of its tokens.
    """

    system: str
    user: str
    max_tokens: int
    log_probs: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server answered: the text, the model that it says it has, and why it stopped ("stop", "length", ...).

    `choices` has, for each token of the text, the token and the probabilities of the most probable ones in its place;
    None where the server gives none.
    """

    text: str
    model: str
    finish: str
    choices: tuple[tuple[str, Mapping[str, float]], ...] | None

    @classmethod
    def of(cls, told: Json) -> Answer:
        """From the JSON that servers send.

        Raises:
            ValueError: it is something else; the message says what.
        """
        if not isinstance(told, dict):
            raise ValueError(f"expected a JSON object, got a {type(told).__name__}")
        choices = told.get("choices")
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            raise ValueError(
                f"expected a list of choices, got {choices!r:.60} (keys: {', '.join(map(str, told))!s:.80})"
            )
        message = choices[0].get("message")
        if not isinstance(message, dict) or not isinstance(message.get("content", ""), str | None):
            raise ValueError(f"expected a message whose content is text, got {message!r:.60}")
        return cls(
            text=message.get("content") or "",
            model=str(told.get("model", "")),
            finish=str(choices[0].get("finish_reason")),
            choices=_choices(choices[0].get("logprobs")),
        )


def _choices(told: Json) -> tuple[tuple[str, Mapping[str, float]], ...] | None:
    """The probabilities of tokens; None where there are none, or what is there is something else."""
    try:
        return tuple(
            (
                one["token"],
                {
                    other["token"]: math.exp(min(0.0, float(other["logprob"])))
                    for other in [*(one.get("top_logprobs") or []), one]
                },
            )
            for one in told["content"]
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


@dataclass(frozen=True)
class Answered:
    """The folder in which answers stay; None keeps nothing."""

    folder: Path | None

    def name(self, request: Mapping[str, Json]) -> str:
        """What a request, the server's address included, is known by."""
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def get(self, request: Mapping[str, Json]) -> Answer | None:
        """The answer to a request, if it is there; a file that cannot be read is none."""
        if self.folder is None:
            return None
        try:
            told = json.loads((self.folder / f"{self.name(request)}.json").read_text(encoding="utf-8"))
            return Answer.of(told["answer"]) if told["request"] == request else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, request: Mapping[str, Json], answer: Json) -> None:
        """Keep an answer.

        Raises:
            DiskError: it cannot be written.
        """
        if self.folder is None:
            return
        with on_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        told = json.dumps({"request": request, "answer": answer}, indent=1)
        write_text(self.folder / f"{self.name(request)}.json", told + "\n")


CHARACTERS = 4  # of English text to a token
AROUND = 4  # tokens that a chat format puts around each message


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What some requests would take: how many there are, how many of them are answered already, and for the others the
    tokens of the questions, those of the answers at most, and the price, None if the endpoint has no prices.

    Tokens are estimated, as `how` says.
    """

    n_requests: int
    n_answered: int
    question_tokens: int
    most_answer_tokens: int
    price: float | None
    how: str = f"a token for every {CHARACTERS} characters (of English text; others have more), {AROUND} around each"

    def __str__(self) -> str:
        price = "" if self.price is None else f", for {self.price:.4g} at most"
        return (
            f"{count_of(self.n_requests)}, of which {self.n_answered} are answered already; the others have about "
            f"{self.question_tokens} tokens and at most {self.most_answer_tokens} in their answers{price} ({self.how})"
        )

    @classmethod
    def of(cls, asked: list[Request], n_answered: int, prices: tuple[float, float] | None) -> Estimate:
        """Of the requests that are left to ask, at prices for a million tokens of questions and of answers."""
        texts = [text for one in asked for text in (one.system, one.user)]
        question = sum(AROUND + math.ceil(len(text) / CHARACTERS) for text in texts)
        most = sum(one.max_tokens for one in asked)
        return cls(
            n_requests=n_answered + len(asked),
            n_answered=n_answered,
            question_tokens=question,
            most_answer_tokens=most,
            price=None if prices is None else (question * prices[0] + most * prices[1]) / 1e6,
        )


def count_of(requests: int) -> str:
    """How many requests, in words."""
    return f"{requests} request{'s' * (requests != 1)}"


def parsed_json(text: str) -> Any:
    """The last JSON list in an answer, which may have words and a code fence around it.

    Raises:
        ValueError: there is none.
    """
    decoder = json.JSONDecoder()
    end = text.rfind("]")
    start = text.rfind("[", 0, end + 1)
    while start >= 0:
        try:
            found, length = decoder.raw_decode(text[start:])
            if start + length == end + 1:
                return found
        except ValueError:
            pass
        start = text.rfind("[", 0, start)
    raise ValueError("no JSON list")
