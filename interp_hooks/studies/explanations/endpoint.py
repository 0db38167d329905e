"""A language model behind a server that speaks OpenAI's chat protocol (POST .../chat/completions), local or not.

    endpoint = Endpoint(base_url="http://localhost:8000/v1", model="llama-3.3-70b", cache="answers")
    endpoint.dry_run(explain, examples)     how many requests that would be, how many tokens, and what they cost
    explain(endpoint, examples)             asks; what was answered once is in the folder `cache`, and asked no more

The key comes from the environment when something is asked, and goes into one header. It is in no attribute and no file,
is taken out of whatever the server says, and is never sent to where a server redirects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from interp_hooks.errors import BadInput, EndpointError
from interp_hooks.errors.arguments import check_arguments, checked, told
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.tensor_files import Json
from interp_hooks.studies.explanations.answers import Answer, Answered, Estimate, Request, count_of
from interp_hooks.studies.explanations.asking import Asking

MANNER = ("base_url", "key_variable", "concurrency", "per_minute", "timeout", "tries", "backoff")
LEAST = dict(concurrency=1, tries=1, timeout=1e-3, backoff=0.0, per_minute=1e-3, temperature=0.0)
ALTERNATIVES = 5  # tokens whose probabilities are asked for

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
        options        more fields of the requests' bodies, or other values: {"max_tokens": 4000} where a language model
                       thinks before it answers; None takes one away
        prices         of a million tokens of questions and of answers, for `dry_run`
        concurrency    requests that are under way at once, and `per_minute` how many may begin in a minute
        timeout        seconds for one request in all; it is tried `tries` times, after `backoff` seconds, twice these,
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
        check_arguments(type(self).__init__, vars(self))
        try:
            parts = urlsplit(self.base_url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
        except ValueError:
            raise BadInput("base_url must be an address such as 'http://localhost:8000/v1'") from None
        if not whole:
            came = "one with a name or a key in it" if "@" in self.base_url else told(self.base_url)
            raise BadInput(f"base_url must be an address such as 'http://localhost:8000/v1', got {came}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise BadInput("base_url must be an address alone; a key belongs in the environment (key_variable)")
        if not self.model:
            raise BadInput("model must be the name that the server has for it, got ''")
        for name, least in LEAST.items():
            number = getattr(self, name)
            if number is not None and not number >= least:
                raise BadInput(f"{name} must be at least {least}, got {told(number)}")

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
            manner = {name: getattr(self, name) for name in MANNER}
            with progress_bar(total=len(left), progress=self.progress, unit="request") as bar:
                asking = Asking(**manner, kept=kept, answered=bar.update)
                asking.run(left)
            found |= asking.found
            if asking.failure is not None:
                raise type(asking.failure)(f"{asking.failure}{self._what_stays(len(asking.found), len(left))}")
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
    def told(self) -> dict[str, Json]:
        """What answers depend on: the address, the model, and what is sent with each request."""
        names = ("base_url", "model", "temperature", "seed", "log_probs")
        return {name: getattr(self, name) for name in names} | {"options": dict(self.options)}

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
