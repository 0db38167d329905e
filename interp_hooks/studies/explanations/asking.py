"""Requests on their way to a server: how many at once, how fast, what is tried again, and what becomes of the key."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from interp_hooks.errors import BadInput, EndpointError, InterpHooksError
from interp_hooks.model.tensor_files import Json
from interp_hooks.studies.explanations.answers import Answer, Answered

HIDDEN = "(key)"
SHORTEST_KEY = 8  # shorter ones ("EMPTY") are no secrets, and may well be words of an answer
LARGEST = 2**23  # bytes of an answer
LONGEST_WAIT = 120.0  # seconds that a server may ask to wait
AGAIN = (408, 425, 429)  # refusals that may be over later, as are all from 500 on


@dataclass(kw_only=True, repr=False)
class Asking:
    """Some requests of one call, and what came of them; `failure` is why no more are sent. Fields as of `Endpoint`.

    Raises:
        BadInput: the value of the environment variable is no key.
        ImportError: neither httpx2 nor httpx is installed.
    """

    base_url: str
    key_variable: str
    concurrency: int
    per_minute: float | None
    timeout: float
    tries: int
    backoff: float
    kept: Answered
    answered: Callable[[], object]
    found: dict[str, Answer] = field(default_factory=dict)
    failure: InterpHooksError | None = None
    _next: float = 0.0  # when the next request may begin, on the loop's clock

    def __post_init__(self) -> None:
        self.http = library()
        self.key = key_in(self.key_variable)

    def run(self, requests: Mapping[str, Mapping[str, Json]]) -> None:
        """Ask; where a loop is running already, in a thread with one of its own."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self.all(requests))
            return
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(copy_context().run, lambda: asyncio.run(self.all(requests)))
            try:
                running.result()
            except BaseException:
                self.failure = EndpointError("interrupted")
                raise

    async def all(self, requests: Mapping[str, Mapping[str, Json]]) -> None:
        """Ask them all, as many at once as may be."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        slots = asyncio.Semaphore(self.concurrency)
        timeout = self.http.Timeout(self.timeout)
        limits = self.http.Limits(max_connections=self.concurrency)
        options = dict(headers=headers, timeout=timeout, limits=limits, follow_redirects=False)
        async with self.http.AsyncClient(**options) as client:
            await asyncio.gather(*(self._one(client, slots, name, request) for name, request in requests.items()))

    async def _one(self, client: Any, slots: asyncio.Semaphore, name: str, request: Mapping[str, Json]) -> None:
        async with slots:
            if self.failure is not None:
                return
            try:
                came, answer = await self._tried(client, request)
                self.kept.put(request, came)
            except InterpHooksError as error:
                self.failure = self.failure or error
                return
            self.found[name] = answer
            self.answered()

    async def _tried(self, client: Any, request: Mapping[str, Json]) -> tuple[Json, Answer]:
        """What the server sent, and the answer in it, after as many tries as it takes.

        Raises:
            EndpointError: another try would not help, or none is left.
        """
        if len(self.key) >= SHORTEST_KEY and self.key in json.dumps(request):
            raise EndpointError(f"the key in {self.key_variable} stands in the request itself; take it out")
        why = ""
        for number in range(self.tries):
            if number:
                await asyncio.sleep(self.backoff * 2 ** (number - 1) * (1 + random.random() / 4))
            await self._turn()
            if self.failure is not None:
                break
            try:
                status, headers, text = await asyncio.wait_for(self._sent(client, request), self.timeout)
            except asyncio.TimeoutError:
                why = f"it did not answer within {self.timeout:g} s"
                continue
            except self.http.RequestError as error:
                why = f"{type(error).__name__}: {self._said(str(error))}"
                continue
            if status != 200:
                why = self._refusal(status, headers, text)
                self._pause(headers)
                continue
            try:
                came = self._without_key(json.loads(text))
            except (ValueError, RecursionError):
                why = f"it answered with something else than JSON: {self._said(text)!r}"
                continue
            try:
                return came, Answer.of(came)
            except ValueError as error:
                why = str(error)
            raise EndpointError(f"{self.base_url} does not answer as OpenAI's protocol says: {why}")
        raise EndpointError(f"{self.base_url} gave no answer in {self.tries} tries; the last: {why}")

    async def _sent(self, client: Any, request: Mapping[str, Json]) -> tuple[int, Mapping[str, str], str]:
        """The status, the headers and the text of what comes back."""
        parts: list[bytes] = []
        async with client.stream("POST", request["url"], json=request["body"]) as response:
            async for part in response.aiter_bytes():
                parts.append(part)
                if sum(map(len, parts)) > LARGEST:
                    raise EndpointError(f"{self.base_url} sent an answer of more than {LARGEST} bytes")
        return response.status_code, response.headers, b"".join(parts).decode("utf-8", "replace")

    def _without_key(self, came: Json) -> Json:
        """What a server sent, in which the key does not stand any more."""
        if len(self.key) < SHORTEST_KEY:
            return came
        text = json.dumps(came, ensure_ascii=False)
        return json.loads(text.replace(json.dumps(self.key)[1:-1], HIDDEN))

    def _refusal(self, status: int, headers: Mapping[str, str], text: str) -> str:
        """What a status other than 200 means.

        Raises:
            EndpointError: it will be the same at another try.
        """
        if 300 <= status < 400:
            host = urlsplit(headers.get("location", "")).netloc or "elsewhere"
            raise EndpointError(
                f"{self.base_url} redirects to {self._said(host)}, where the key must not follow; if that is "
                "right, give it as base_url"
            )
        said = f"{status}: {self._said(text)!r}"
        if status in (401, 403):
            there = "holds is not accepted" if self.key else "should hold is not there"
            raise EndpointError(f"{self.base_url} refuses the key that {self.key_variable} {there}, {said}")
        if status < 500 and status not in AGAIN:
            raise EndpointError(
                f"{self.base_url} refuses the request, {said}; fields that it does not know can be left out "
                "with options={name: None}"
            )
        return said

    def _said(self, text: str) -> str:
        """The beginning of what a server said, without the key."""
        try:
            message = json.loads(text)["error"]["message"]
        except (ValueError, TypeError, KeyError, RecursionError):
            message = text
        said = " ".join(str(message).split())
        return (said.replace(self.key, HIDDEN) if self.key else said)[:200]

    # -------------------------------------------------------------------------------------------------------- pace

    async def _turn(self) -> None:
        """Wait until the next request may begin."""
        now = asyncio.get_running_loop().time()
        begin = max(now, self._next)
        self._next = begin + (60 / self.per_minute if self.per_minute else 0.0)
        await asyncio.sleep(begin - now)

    def _pause(self, headers: Mapping[str, str]) -> None:
        """Let no request begin before the time that the server asks for.

        Raises:
            EndpointError: that is too long to wait here.
        """
        seconds = seconds_of(headers.get("retry-after", ""))
        if seconds > LONGEST_WAIT:
            raise EndpointError(f"{self.base_url} asks to come again in {seconds:.0f} s; run this again then")
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)


def seconds_of(retry_after: str) -> float:
    """How long a header asks to wait, in seconds: it has a number of them, or a date."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def key_in(variable: str) -> str:
    """The key in an environment variable, "" for none.

    Raises:
        BadInput: what is there cannot be one.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise BadInput(f"the environment variable {variable} holds something else than a key: spaces, or other signs")
    return key


def library() -> Any:
    """httpx2 or httpx, one of which comes with most versions of huggingface_hub."""
    for name in ("httpx2", "httpx"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError("asking a language model needs httpx: pip install 'interp-hooks[explain]'")
