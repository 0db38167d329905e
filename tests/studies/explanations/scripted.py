"""A server on the loopback that answers as a script says, and counts what it was asked."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from interp_hooks.studies import Endpoint


@dataclass
class Reply:
    """What is sent back; after `seconds`."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def says(text: str | None, **more: Any) -> Reply:
    """A reply in the protocol."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Reply({"id": "1", "object": "chat.completion", "model": "scripted", "choices": [choice | more]})


Script = Callable[[dict[str, Any]], Reply]
"""From the body of a request to the reply."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.bodies, self.headers, self.times = script, [], [], []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            reply = server.script(body)
            if reply.seconds:
                time.sleep(reply.seconds)
            sent = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in ({"Content-Length": str(len(sent))} | reply.headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with server.lock:
                server.under_way -= 1

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    """A server for the length of the block."""
    server = Server(script)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def endpoint_of(server: Server, cache: Path | None = None, **options: Any) -> Endpoint:
    """The server's endpoint, which tries again at once."""
    return Endpoint(
        base_url=server.url, model="scripted", cache=cache, **dict(backoff=0.001, progress=False, timeout=5.0) | options
    )


def question(body: dict[str, Any]) -> str:
    """What the user's message of a request says."""
    return body["messages"][-1]["content"]


TEXTS = re.compile(r"^(?:Text )?(\d+): (.*)$", re.MULTILINE)
