"""The client: what it sends, what it keeps, and what it makes of servers that fail, hang or lie."""

import asyncio
import itertools
import json
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from interp_hooks.errors import BadInput, EndpointError
from interp_hooks.studies import Endpoint
from interp_hooks.studies.explanations.answers import Request, parsed_json
from interp_hooks.studies.explanations.asking import seconds_of
from tests.studies.explanations.scripted import Reply, endpoint_of, question, says, serving
from tests.tiny import unchecked_types

KEY = "sk-very-secret-0123456789"


def asked(text: str = "hello", **fields: Any) -> Request:
    return Request(system="Be short.", user=text, max_tokens=9, **fields)


def echo(body: dict[str, Any]) -> Reply:
    return says(f"you said {question(body)}")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


def script_of(*replies: Reply) -> Callable[[dict[str, Any]], Reply]:
    """One reply after the other, the last one for ever."""
    left = list(replies)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


# ----------------------------------------------------------------------------------------------------- what is asked


def test_answers_come_in_the_order_of_the_requests_and_equal_ones_are_sent_once() -> None:
    with serving(lambda body: Reply(echo(body).body, seconds=0.05 * (question(body) == "a"))) as server:
        answers = endpoint_of(server).ask([asked("a"), asked("b"), asked("a"), asked("c")])
    assert [one.text for one in answers] == [f"you said {text}" for text in "abac"]
    assert sorted(map(question, server.bodies)) == ["a", "b", "c"]
    assert {one.model for one in answers} == {"scripted"}


def test_a_request_has_the_fields_of_the_protocol_and_those_of_the_options() -> None:
    with serving(echo) as server:
        endpoint = endpoint_of(server, log_probs=True, options={"max_tokens": None, "max_completion_tokens": 5})
        endpoint.ask([asked(log_probs=True)])
    (body,) = server.bodies
    assert body == {
        "model": "scripted",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "hello"}],
        "temperature": 0.0,
        "seed": 0,
        "logprobs": True,
        "top_logprobs": 5,
        "max_completion_tokens": 5,
    }


def test_no_more_requests_are_under_way_than_allowed_and_as_many_as_allowed() -> None:
    with serving(lambda body: Reply(echo(body).body, seconds=0.05)) as server:
        endpoint_of(server, concurrency=3).ask([asked(str(number)) for number in range(9)])
    assert server.most_under_way == 3


def test_the_rate_is_kept() -> None:
    with serving(echo) as server:
        endpoint_of(server, per_minute=60 / 0.05).ask([asked(str(number)) for number in range(5)])
    gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert sum(gaps) >= 4 * 0.05 - 0.02


def test_it_works_where_a_loop_is_running() -> None:
    async def notebook(endpoint: Endpoint) -> str:
        return endpoint.ask([asked()])[0].text

    with serving(echo) as server:
        assert asyncio.run(notebook(endpoint_of(server))) == "you said hello"


# -------------------------------------------------------------------------------------------------------- the cache


def test_a_second_run_asks_nothing_even_with_the_server_gone(tmp_path: Path) -> None:
    with serving(echo) as server:
        endpoint = endpoint_of(server, tmp_path / "answers")
        first = endpoint.ask([asked("a"), asked("b")])
        assert endpoint.ask([asked("a"), asked("b")]) == first
        assert len(server.bodies) == 2
    assert endpoint.ask([asked("b"), asked("a")]) == first[::-1]


@pytest.mark.parametrize("other", [dict(model="other"), dict(temperature=1.0), dict(seed=1), dict(options={"n": 1})])
def test_whatever_changes_a_request_asks_anew(other: dict[str, Any], tmp_path: Path) -> None:
    with serving(echo) as server:
        endpoint = endpoint_of(server, tmp_path)
        endpoint.ask([asked()])
        replace(endpoint, **other).ask([asked()])
    assert len(server.bodies) == 2


@pytest.mark.parametrize("damage", ["", '{"request": {}', "[1]", '{"answer": 1, "request": {}}'])
def test_a_damaged_file_is_asked_again_and_mended(damage: str, tmp_path: Path) -> None:
    with serving(echo) as server:
        endpoint = endpoint_of(server, tmp_path)
        answers = endpoint.ask([asked()])
        (path,) = tmp_path.iterdir()
        path.write_text(damage)
        assert endpoint.ask([asked()]) == answers
        assert endpoint.ask([asked()]) == answers
    assert len(server.bodies) == 2
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply({"error": {"message": "no such thing"}}, 400) if question(body) == "3" else echo(body)

    with serving(script) as server:
        endpoint = endpoint_of(server, tmp_path, concurrency=1)
        with pytest.raises(
            EndpointError, match=r"400: 'no such thing'.*3 of 6 requests were answered and will be read"
        ):
            endpoint.ask([asked(str(number)) for number in range(6)])
        assert len(server.bodies) == 4  # the one that failed was the last
    assert [one.text for one in endpoint.ask([asked("0"), asked("2")])] == ["you said 0", "you said 2"]


def test_a_dry_run_sends_nothing_and_counts_what_is_left(tmp_path: Path) -> None:
    with serving(echo) as server:
        endpoint = endpoint_of(server, tmp_path, prices=(2.0, 10.0))
        endpoint.ask([asked("known")])
        found = endpoint.dry_run(Endpoint.ask, [asked("known"), asked("x" * 400), asked("x" * 400)])
        assert len(server.bodies) == 1
    assert (found.n_requests, found.n_answered) == (2, 1)
    assert found.question_tokens == 3 + 4 + 100 + 4  # "Be short." has 9 characters
    assert found.most_answer_tokens == 9
    assert found.price == pytest.approx((111 * 2 + 9 * 10) / 1e6)
    assert "4 characters" in found.how
    assert endpoint.ask([asked("known")])[0].text  # and the endpoint asks again afterwards


@pytest.mark.parametrize("loop", [False, True], ids=["alone", "within a running loop"])
def test_an_interruption_stops_it_and_keeps_what_was_answered(loop: bool, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    async def notebook(endpoint: Endpoint, requests: list[Request]) -> None:
        endpoint.ask(requests)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with serving(lambda body: Reply(echo(body).body, seconds=0.2)) as server:
            endpoint, requests = endpoint_of(server, tmp_path, concurrency=1), [asked(str(one)) for one in range(20)]
            signal.setitimer(signal.ITIMER_REAL, 0.7)
            with pytest.raises(KeyboardInterrupt):
                asyncio.run(notebook(endpoint, requests)) if loop else endpoint.ask(requests)
            assert 2 <= len(server.bodies) <= 6
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert endpoint.ask([asked("0")])[0].text == "you said 0"  # without the server


# ----------------------------------------------------------------------------------------------------- bad servers


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_refusal_that_passes_is_tried_again(status: int) -> None:
    with serving(script_of(Reply("busy", status), Reply("busy", status), says("done"))) as server:
        assert endpoint_of(server).ask([asked()])[0].text == "done"
    assert len(server.bodies) == 3


def test_retry_after_is_honoured_by_all_requests() -> None:
    with serving(script_of(Reply("slow down", 429, {"Retry-After": "0.4"}), says("done"))) as server:
        endpoint_of(server, concurrency=1).ask([asked("a"), asked("b")])
    assert server.times[1] - server.times[0] >= 0.35


def test_a_wait_that_is_too_long_is_told() -> None:
    with (
        serving(script_of(Reply("tomorrow", 429, {"Retry-After": "86400"}))) as server,
        pytest.raises(EndpointError, match="come again in 86400 s"),
    ):
        endpoint_of(server).ask([asked()])
    assert len(server.bodies) == 1


def test_a_wait_is_told_in_seconds_or_as_a_date() -> None:
    assert seconds_of("1.5") == 1.5
    soon = datetime.now(timezone.utc) + timedelta(seconds=30)
    assert 27 < seconds_of(format_datetime(soon, usegmt=True)) <= 30
    for none in ("", "soon", "-3", "Wed, 21 Oct 2015 07:28:00 GMT", "nan"):
        assert seconds_of(none) == 0.0


def test_429_for_ever_ends() -> None:
    with (
        serving(script_of(Reply({"error": {"message": "rate limit"}}, 429))) as server,
        pytest.raises(EndpointError, match="no answer in 5 tries; the last: 429: 'rate limit'"),
    ):
        endpoint_of(server).ask([asked()])
    assert len(server.bodies) == 5


def test_a_server_that_hangs_is_left() -> None:
    begin = time.monotonic()
    with (
        serving(lambda body: Reply(echo(body).body, seconds=1.0)) as server,
        pytest.raises(EndpointError, match=r"within 0\.1 s"),
    ):
        endpoint_of(server, timeout=0.1, tries=2).ask([asked()])
    assert time.monotonic() - begin < 2.0


def test_a_server_that_drips_is_left() -> None:
    """Bytes that come one by one would reset a timeout of single reads."""
    listening = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        try:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(100):
                    connection.sendall(b" ")
                    time.sleep(0.02)
        except OSError:
            pass

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    with pytest.raises(EndpointError, match=r"within 0\.2 s"):
        Endpoint(base_url=url, model="any", cache=None, timeout=0.2, tries=1).ask([asked()])
    listening.close()
    thread.join()


def test_nobody_there() -> None:
    with serving(echo) as server:
        endpoint = endpoint_of(server, tries=2)
    with pytest.raises(EndpointError, match=r"ConnectError.*0 of 1 request"):
        endpoint.ask([asked()])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"choices": [{"mess', "something else than JSON"),
        (b"<html>proxy</html>", "something else than JSON"),
        (b"", "something else than JSON"),
        ([], "expected a JSON object"),
        ({}, "expected a list of choices"),
        ({"choices": []}, "expected a list of choices"),
        ({"choices": ["text"]}, "expected a list of choices"),
        ({"choices": [{"text": "old"}]}, "expected a message"),
        ({"choices": [{"message": {"content": ["parts"]}}]}, "expected a message"),
    ],
)
def test_what_is_no_answer_is_refused_and_not_kept(body: Any, message: str, tmp_path: Path) -> None:
    with serving(script_of(Reply(body))) as server, pytest.raises(EndpointError, match=message):
        endpoint_of(server, tmp_path, tries=2).ask([asked()])
    assert list(tmp_path.iterdir()) == []


def test_half_an_answer_is_asked_again() -> None:
    half = json.dumps(says("all of it").body).encode()[:40]
    cut_off = Reply(half, headers={"Content-Length": "400", "Connection": "close"})
    for broken in (Reply(half), cut_off):
        with serving(script_of(broken, says("all of it"))) as server:
            assert endpoint_of(server, timeout=1.0).ask([asked()])[0].text == "all of it"


def test_an_answer_without_content_is_an_empty_one() -> None:
    with serving(script_of(says(None, finish_reason="length"))) as server:
        (answer,) = endpoint_of(server).ask([asked()])
    assert (answer.text, answer.finish) == ("", "length")


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    with serving(script_of(Reply(b" " * (2**23 + 2**16)))) as server, pytest.raises(EndpointError, match="more than"):
        endpoint_of(server).ask([asked()])


def test_log_probs_that_are_something_else_count_as_none() -> None:
    for lie in ({"content": [{"token": 1}]}, {"content": [{"token": "1", "logprob": "high"}]}, {"tokens": []}, []):
        with serving(script_of(says("[1]", logprobs=lie))) as server:
            assert endpoint_of(server).ask([asked()])[0].choices is None


# -------------------------------------------------------------------------------------------------------- the key


def everything_on_disk(folder: Path) -> str:
    return "".join(path.name + path.read_text() for path in folder.rglob("*") if path.is_file())


def test_the_key_goes_into_one_header_and_nowhere_else(key: str, tmp_path: Path) -> None:
    """Even if the server repeats it, spelled out or escaped."""

    def script(body: dict[str, Any]) -> Reply:
        escaped = "".join(f"\\u{ord(char):04x}" for char in key)
        sent = json.dumps(says("SPELLED ESCAPED").body).replace("SPELLED", key).replace("ESCAPED", escaped)
        return Reply(sent.encode())

    with serving(script) as server:
        endpoint = endpoint_of(server, tmp_path)
        (answer,) = endpoint.ask([asked()])
    assert server.headers[0]["authorization"] == f"Bearer {key}"
    assert answer.text == "(key) (key)"
    for told in (repr(endpoint), repr(answer), everything_on_disk(tmp_path), json.dumps(server.bodies)):
        assert key not in told
    assert key.encode() not in pickle.dumps(endpoint)


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_the_key_is_in_no_error(status: int, key: str) -> None:
    reply = Reply({"error": {"message": f"your key {key} is bad"}}, status)
    with serving(script_of(reply)) as server, pytest.raises(EndpointError) as raised:
        endpoint_of(server, tries=2).ask([asked()])
    error: BaseException | None = raised.value
    while error is not None:
        assert key not in repr(error) + repr(vars(error))
        error = error.__cause__ or error.__context__


def test_the_key_does_not_follow_to_another_host(key: str) -> None:
    with serving(echo) as other:
        moved = Reply("", 307, {"Location": f"{other.url}/chat/completions"})
        host = other.url.removeprefix("http://").partition("/")[0]
        with serving(script_of(moved)) as server, pytest.raises(EndpointError, match=f"redirects to {host}"):
            endpoint_of(server).ask([asked()])
    assert other.bodies == []


def test_a_refused_key_says_which_variable() -> None:
    with (
        serving(script_of(Reply("no", 401))) as server,
        pytest.raises(EndpointError, match="the key that MY_KEY should hold is not there"),
    ):
        endpoint_of(server, key_variable="MY_KEY").ask([asked()])


def test_what_is_no_key_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "line one\r\nX-Injected: yes")
    with serving(echo) as server, pytest.raises(BadInput, match="holds something else than a key") as raised:
        endpoint_of(server).ask([asked()])
    assert "Injected" not in str(raised.value)
    assert server.bodies == []


def test_a_key_in_the_request_is_refused(key: str, tmp_path: Path) -> None:
    with serving(echo) as server, pytest.raises(EndpointError, match="stands in the request") as raised:
        endpoint_of(server, tmp_path, options={"api_key": key}).ask([asked()])
    assert key not in str(raised.value)
    assert server.bodies == []


def test_short_keys_are_sent_and_are_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "you")
    with serving(echo) as server:
        assert endpoint_of(server).ask([asked()])[0].text == "you said hello"
    assert server.headers[0]["authorization"] == "Bearer you"


# ------------------------------------------------------------------------------------------------- what servers can do


NUMBERS = itertools.count()


def digits(body: dict[str, Any], seeded: bool) -> Reply:
    one = {"token": "1", "logprob": -0.1, "top_logprobs": []}
    given = {"logprobs": {"content": [one]}} if "logprobs" in body else {}
    return says(str(body["seed"] if seeded else next(NUMBERS)), **given)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (lambda body: digits(body, seeded=True), dict(log_probs="given", seed="kept")),
        (lambda body: digits(body, seeded=False), dict(log_probs="given", seed="ignored")),
        (lambda body: says("7"), dict(log_probs="not given", seed="unknown")),
        (
            lambda body: Reply("unknown field logprobs", 400) if "logprobs" in body else says("7"),
            dict(log_probs="refused", seed="unknown"),
        ),
    ],
)
def test_what_a_server_can_do_is_found_out(script: Any, found: dict[str, str], tmp_path: Path) -> None:
    with serving(script) as server:
        assert endpoint_of(server, tmp_path).abilities() == found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        dict(base_url="localhost:8000"),
        dict(base_url="ftp://host/v1"),
        dict(base_url="http://"),
        dict(base_url="http://host:port/v1"),
        dict(base_url="https://user:secret@host/v1"),
        dict(base_url="user:secret@host/v1"),
        dict(base_url="https://host/v1?key=secret"),
        dict(model=""),
        dict(concurrency=0),
        dict(tries=0),
        dict(timeout=0),
        dict(per_minute=0),
        dict(timeout=float("nan")),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as raised:
        Endpoint(**dict(base_url="http://localhost/v1", model="any") | wrong)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(base_url=None),
        dict(model=3),
        dict(concurrency=1.5),
        dict(timeout="1"),
        dict(prices=(1.0,)),
        dict(options=[1]),
    ],
)
def test_options_of_another_kind_are_refused(wrong: dict[str, Any]) -> None:
    ((name, _),) = wrong.items()
    with unchecked_types(), pytest.raises(BadInput, match=f"^{name} must be"):
        Endpoint(**dict(base_url="http://localhost/v1", model="any") | wrong)


def test_lists_are_found_in_answers() -> None:
    assert parsed_json("Sure! [not] it.\n```json\n[1, [2], 0]\n```") == [1, [2], 0]
    assert parsed_json('[{"a": "]"}]') == [{"a": "]"}]
    for none in ("", "]", "no list", "[1, 2", "1, 2]"):
        with pytest.raises(ValueError, match="no JSON list"):
            parsed_json(none)
