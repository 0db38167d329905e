"""A language model behind a server that speaks OpenAI's chat protocol (POST .../chat/completions), local or not.

    endpoint = Endpoint(base_url="http://localhost:8000/v1", model="llama-3.3-70b", cache="answers")
    endpoint.dry_run(explain, examples)     how many requests that would be, how many tokens, and what they cost
    explain(endpoint, examples)             asks; what was answered once is in the folder `cache`, and asked no more

The key comes from the environment when something is asked, and goes into one header. It is in no attribute and no file,
is taken out of whatever the server says, and is never sent to where a server redirects.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from interp_hooks.errors import BadInput, EndpointError, InterpHooksError
from interp_hooks.errors.arguments import checked, told
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.tensor_files import Json
from interp_hooks.studies.explanations.answers import Answer, Answered, Estimate, Request, count_of

HIDDEN = "(key)"
SHORTEST_KEY = 8  # shorter ones ("EMPTY") are no secrets, and may well be words of an answer
LARGEST = 2**23  # bytes of an answer
LONGEST_WAIT = 120.0  # seconds that a server may ask to wait
ALTERNATIVES = 5  # tokens whose probabilities are asked for
AGAIN = (408, 425, 429)  # refusals that may be over later, as are all from 500 on

_planning: ContextVar[bool] = ContextVar("planning", default=False)


class _Planned(Exception):
    """What would have been asked, in a dry run."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A language model at `base_url`, which ends before "/chat/completions", by the name that the server has for it.

        key_variable   the environment variable that holds the key; without one in it, none is sent (local servers)
        cache          the folder in which answers stay, None for none; a question that was answered is never sent again
        temperature, seed, log_probs
                       sent with each request; servers may ignore the seed, or give no probabilities (`abilities`)
        options        more fields of the requests' bodies; None takes one away: {"max_tokens": None, "n": 1}
        prices         of a million tokens of questions and of answers, for `dry_run`
        concurrency    requests that are under way at once, and `per_minute` how many may begin in a minute
        timeout        seconds for one request in all; it is tried `tries` times, after `backoff` seconds, twice as many,
                       ... or as many as the server asks for, where that may help (429, 5xx, no or half an answer)

    Raises:
        BadInput: an address that is none, or has a key in it, or a number out of range.

    >>> from interp_hooks.studies import Endpoint
    >>> Endpoint(base_url="http://localhost:8000/v1", model="llama-3.3-70b").key_variable
    'OPENAI_API_KEY'
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    cache: str | Path | None = "answers"
    temperature: float = 0.0
    seed: int | None = 0
    log_probs: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    prices: tuple[float, float] | None = None
    concurrency: int = 8
    per_minute: float | None = None
    timeout: float = 120.0
    tries: int = 5
    backoff: float = 1.0
    progress: bool = True

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
        except (ValueError, AttributeError):
            raise BadInput("base_url must be an address such as 'http://localhost:8000/v1'") from None
        if not whole:
            raise BadInput(f"base_url must be an address such as 'http://localhost:8000/v1', got {told(self.base_url)}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise BadInput("base_url must be an address alone; a key belongs in the environment (key_variable)")
        if not (isinstance(self.model, str) and self.model):
            raise BadInput(f"model must be the name that the server has for it, got {told(self.model)}")
        for name in ("concurrency", "tries"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {told(getattr(self, name))}")
        for name, least in (("timeout", 1e-3), ("backoff", 0.0), ("per_minute", 1e-3), ("temperature", 0.0)):
            number = getattr(self, name)
            if number is not None and not (isinstance(number, int | float) and number >= least):
                raise BadInput(f"{name} must be a number of at least {least}, got {told(number)}")

    @checked
    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers to some requests, in their order; equal ones are sent once.

        It may be called where an event loop is running, as in a notebook, which waits meanwhile.

        Raises:
            EndpointError: the server refuses, does not answer, or says something else than it should. No more is sent
                then; what was answered is in the cache.
            BadInput: the value of the environment variable is no key.
            ImportError: neither httpx2 nor httpx is installed.
            DiskError: an answer cannot be written to the cache.
        """
        if _planning.get():
            raise _Planned(requests)
        kept = self._answered
        bodies = [self._request(one) for one in requests]
        names = [kept.name(one) for one in bodies]
        found = {name: kept.get(one) for name, one in zip(names, bodies, strict=True)}
        left = {name: one for name, one in zip(names, bodies, strict=True) if found[name] is None}
        if left:
            with progress_bar(total=len(left), progress=self.progress, unit="request") as bar:
                asking = _Asking(self, kept, lambda: bar.update())
                _run(lambda: asking.all(left), asking.stop)
            found |= asking.found
            if asking.failure is not None:
                raise EndpointError(f"{asking.failure}{self._what_stays(len(asking.found), len(left))}")
        return [answer for answer in (found[name] for name in names) if answer is not None]

    def _what_stays(self, n: int, of: int) -> str:
        where = f" and will be read from {str(self.cache)!r} next time" if self.cache is not None else ""
        return f" ({n} of {count_of(of)} {'was' if n == 1 else 'were'} answered{where if n else ''})"

    def dry_run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Estimate:
        """What `function(endpoint, *args, **kwargs)` would ask, without asking: nothing is sent.

        >>> from interp_hooks.studies import Endpoint
        >>> endpoint = Endpoint(base_url="http://localhost:8000/v1", model="any", cache=None, prices=(0.1, 0.4))
        >>> endpoint.dry_run(Endpoint.ask, []).price
        0.0
        """
        before = _planning.set(True)
        try:
            function(self, *args, **kwargs)
            requests: Sequence[Request] = []
        except _Planned as planned:
            requests = planned.requests
        finally:
            _planning.reset(before)
        once = {self._answered.name(body): (one, body) for one in requests for body in [self._request(one)]}
        left = [one for one, body in once.values() if self._answered.get(body) is None]
        return Estimate.of(left, len(once) - len(left), self.prices)

    def abilities(self) -> dict[str, str]:
        """What the server does with `log_probs` and `seed`, found out by five requests that are not kept.

        "log_probs": "given", "not given", or "refused". "seed": "kept", where random digits are the same for one seed
        and others for another; "ignored", where they differ for one seed; "unknown", where they are always the same.

        Raises:
            EndpointError: as `ask`.
        """
        plain = replace(self, cache=None, temperature=1.0, progress=False, log_probs=False)
        digits = Request(system="Answer with digits alone.", user="Write 20 random digits.", max_tokens=40)
        first, again, *others = (replace(plain, seed=seed).ask([digits])[0].text for seed in (1, 1, 2, 3))
        seed = "ignored" if first != again else "kept" if any(one != first for one in others) else "unknown"
        try:
            (answer,) = replace(plain, log_probs=True).ask([replace(digits, log_probs=True)])
            log_probs = "not given" if answer.choices is None else "given"
        except EndpointError:
            log_probs = "refused"
        return {"log_probs": log_probs, "seed": seed}

    @property
    def _answered(self) -> Answered:
        return Answered(None if self.cache is None else Path(self.cache).expanduser())

    def _request(self, one: Request) -> dict[str, Json]:
        """A request as it is sent and kept: the address and the body."""
        body: dict[str, Json] = {
            "model": self.model,
            "messages": [{"role": "system", "content": one.system}, {"role": "user", "content": one.user}],
            "temperature": self.temperature,
            "max_tokens": one.max_tokens,
            "seed": self.seed,
        }
        if one.log_probs and self.log_probs:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        body = {name: value for name, value in (body | dict(self.options)).items() if value is not None}
        return {"url": f"{self.base_url.rstrip('/')}/chat/completions", "body": body}


class _Asking:
    """The requests of one call on their way, and what came of them; `failure` is why no more are sent."""

    def __init__(self, endpoint: Endpoint, kept: Answered, answered: Callable[[], object]) -> None:
        self.endpoint, self.kept, self.answered = endpoint, kept, answered
        self.http = _library()
        self.key = _key(endpoint.key_variable)
        self.found: dict[str, Answer] = {}
        self.failure: InterpHooksError | None = None
        self._next = 0.0  # when the next request may begin, on the loop's clock

    def stop(self) -> None:
        self.failure = EndpointError("interrupted")

    async def all(self, requests: Mapping[str, Mapping[str, Json]]) -> None:
        """Ask them all, as many at once as may be."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        slots = asyncio.Semaphore(self.endpoint.concurrency)
        timeout = self.http.Timeout(self.endpoint.timeout)
        limits = self.http.Limits(max_connections=self.endpoint.concurrency)
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
            raise EndpointError(f"the key in {self.endpoint.key_variable} stands in the request itself; take it out")
        why = ""
        for number in range(self.endpoint.tries):
            if number:
                await asyncio.sleep(self.endpoint.backoff * 2 ** (number - 1) * (1 + random.random() / 4))
            await self._turn()
            if self.failure is not None:
                break
            try:
                status, headers, text = await asyncio.wait_for(self._sent(client, request), self.endpoint.timeout)
            except asyncio.TimeoutError:
                why = f"it did not answer within {self.endpoint.timeout:g} s"
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
            raise EndpointError(f"{self.endpoint.base_url} does not answer as OpenAI's protocol says: {why}")
        raise EndpointError(f"{self.endpoint.base_url} gave no answer in {self.endpoint.tries} tries; the last: {why}")

    async def _sent(self, client: Any, request: Mapping[str, Json]) -> tuple[int, Mapping[str, str], str]:
        """The status, the headers and the text of what comes back."""
        parts: list[bytes] = []
        async with client.stream("POST", request["url"], json=request["body"]) as response:
            async for part in response.aiter_bytes():
                parts.append(part)
                if sum(map(len, parts)) > LARGEST:
                    raise EndpointError(f"{self.endpoint.base_url} sent an answer of more than {LARGEST} bytes")
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
                f"{self.endpoint.base_url} redirects to {self._said(host)}, where the key must not follow; if that is "
                "right, give it as base_url"
            )
        said = f"{status}: {self._said(text)!r}"
        if status in (401, 403):
            there = "holds is not accepted" if self.key else "should hold is not there"
            raise EndpointError(
                f"{self.endpoint.base_url} refuses the key that {self.endpoint.key_variable} {there}, {said}"
            )
        if status < 500 and status not in AGAIN:
            raise EndpointError(
                f"{self.endpoint.base_url} refuses the request, {said}; fields that it does not know can be left out "
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
        self._next = begin + (60 / self.endpoint.per_minute if self.endpoint.per_minute else 0.0)
        await asyncio.sleep(begin - now)

    def _pause(self, headers: Mapping[str, str]) -> None:
        """Let no request begin before the time that the server asks for.

        Raises:
            EndpointError: that is too long to wait here.
        """
        seconds = _seconds(headers.get("retry-after", ""))
        if seconds > LONGEST_WAIT:
            raise EndpointError(f"{self.endpoint.base_url} asks to come again in {seconds:.0f} s; run this again then")
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)


def _seconds(retry_after: str) -> float:
    """How long a header asks to wait, in seconds: it has a number of them, or a date."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _key(variable: str) -> str:
    """The key in an environment variable, "" for none.

    Raises:
        BadInput: what is there cannot be one.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise BadInput(f"the environment variable {variable} holds something else than a key: spaces, or other signs")
    return key


def _library() -> Any:
    """httpx2 or httpx, one of which comes with most versions of huggingface_hub."""
    for name in ("httpx2", "httpx"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError("asking a language model needs httpx: pip install 'interp-hooks[explain]'")


def _run(work: Callable[[], Coroutine[Any, Any, None]], stop: Callable[[], None]) -> None:
    """Run something asynchronous to its end; where a loop is running already, in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
        return
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(copy_context().run, lambda: asyncio.run(work()))
        try:
            running.result()
        except BaseException:
            stop()
            raise
