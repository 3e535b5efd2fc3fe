r"""An HTTP proxy that breaks chosen requests on their way to a real server: what networks and overloaded stores do.

    with FaultProxy(server.endpoint_url) as proxy:
        rule = proxy.drop("PUT", r"/meta\.json$")  # the write happens, its answer is lost
        ...  # work against proxy.url
    assert rule.fired == 1
    assert proxy.count("PUT", r"/meta\.json$") == 2  # so it was sent again

Each rule names its requests by method and path, both regular expressions: the first must match the whole method, the
second is searched in the decoded target with its query (`/bucket/a b?list-type=2&prefix=c/`). Of the requests that
match it breaks `times` (None: all), from the `nth` on. Each rule counts all that match it; of several that apply, the
one added first acts. Rules may be added at any time.

    fail      answers with a status, worded as S3 does; nothing is forwarded
    reset     resets the connection; nothing is forwarded
    drop      forwards, then throws the answer away and resets the connection
    truncate  forwards, then passes on the head and half the body of the answer, and closes the connection
    flip      forwards with one bit of the body changed
    stall     holds the request until `rule.release()`, then forwards it; what is never released gets no answer

`fail`, `flip` and `stall` can come `after_forwarding`, too: the server has done its work, but the client gets another
answer, a damaged one, or none yet. `rule.wait()` returns once a rule has acted: the moment to kill the client or the
server. A server that is gone looks like a reset. A request that its client did not send whole is not forwarded.

All else is forwarded as it came, including the Host header: S3 signatures cover it, and the servers check them against
the host that the client named, which is the proxy's. There is one thread a connection; bodies pass through memory.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
import threading
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import unquote, unquote_plus, urlsplit

__all__ = ["FaultProxy", "Request", "Rule", "Seen"]

Fault = Literal["fail", "reset", "drop", "truncate", "flip", "stall"]
Result = int | Fault | Literal["gone"]

HOST = "127.0.0.1"
FORWARD_SECONDS = 60.0
# These headers are about one connection, and there are two.
HOP_BY_HOP = frozenset({"connection", "expect", "keep-alive", "te", "trailer", "transfer-encoding"})
CODES = {
    400: "XAmzContentSHA256Mismatch",
    403: "AccessDenied",
    404: "NoSuchKey",
    412: "PreconditionFailed",
    500: "InternalError",
    503: "SlowDown",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request on its way to the server.

    Attributes:
        method: of the request.
        target: its path and query, as they came.
        headers: in order.
        body: of the request.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that reached the proxy.

    Attributes:
        method: of the request.
        target: its path and query, decoded.
        result: the status sent to the client, or what kept it from an answer: a fault, or "gone" for a dead server.
    """

    method: str
    target: str
    result: Result


@dataclass(eq=False, slots=True)
class Rule:
    """Which requests are broken, and how. The methods of `FaultProxy` make them.

    Attributes:
        fired: number of requests broken so far.
        struck: the requests that were chosen to be broken, as "PUT /bucket/key".
    """

    fault: Fault
    method: str
    path: str
    nth: int
    times: int | None
    status: int = 0
    after_forwarding: bool = False
    code: str = ""
    fired: int = 0
    struck: list[str] = field(default_factory=list)
    _matched: int = 0
    _acted: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float = 30.0) -> None:
        """Return once a request has been broken; where the server was to do its work first, it has.

        Raises:
            TimeoutError: none was.
        """
        if not self._acted.wait(seconds):
            raise TimeoutError(f"request {self.nth} of {self.method} {self.path} did not come within {seconds} s")

    def release(self) -> None:
        """Let go what the rule stalls, now and later."""
        self._released.set()

    def end(self) -> None:
        """Break nothing more."""
        self.times = 0

    @property
    def _on_answer(self) -> bool:
        """Whether it acts when the server has answered, not before."""
        return self.fault in ("drop", "truncate") or self.after_forwarding

    def _counts(self, method: str, target: str) -> bool:
        """Count a request, if it matches; whether it is to be broken."""
        if not _matches(self.method, self.path, method, target):
            return False
        self._matched += 1
        chosen = self._matched >= self.nth and (self.times is None or self._matched < self.nth + self.times)
        if chosen:
            self.struck.append(f"{method} {target}")
        return chosen

    def _act(self) -> None:
        self.fired += 1
        self._acted.set()


class FaultProxy:
    """A proxy on a free loopback port, in front of one server; runs while the context lasts.

    Args:
        target_url: where the server listens, as in `http://127.0.0.1:8333`.
    """

    def __init__(self, target_url: str) -> None:
        target = urlsplit(target_url)
        self._server = _Server(self, target.hostname or HOST, target.port or 80)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="fault proxy")
        self._lock = threading.Lock()
        self._closing = False
        self._rules: list[Rule] = []
        self._seen: list[Seen] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._closing = True
        for rule in self._rules:
            rule.release()
        self._server.end_connections()
        self._server.server_close()  # joins the threads of the connections

    @property
    def url(self) -> str:
        """Where the proxy listens: the endpoint to use."""
        return f"http://{HOST}:{self._server.server_port}"

    @property
    def seen(self) -> list[Seen]:
        """The requests so far, in the order of their ends; what a client has an answer to is there."""
        with self._lock:
            return list(self._seen)

    def count(self, method: str = ".*", path: str = "") -> int:
        """Number of requests so far that match; stalled ones count once they have ended."""
        return sum(_matches(method, path, seen.method, seen.target) for seen in self.seen)

    def rewritten(self, request: Request) -> Request:
        """What the server gets for a request: the same, unless a subclass has other ideas."""
        return request

    def fail(
        self,
        status: int,
        method: str = ".*",
        path: str = "",
        *,
        nth: int = 1,
        times: int | None = 1,
        after_forwarding: bool = False,
        code: str = "",
    ) -> Rule:
        """Answer with this status (and S3's code) instead of forwarding, or instead of the server's answer."""
        return self._add(Rule("fail", method, path, nth, times, status, after_forwarding, code))

    def reset(self, method: str = ".*", path: str = "", *, nth: int = 1, times: int | None = 1) -> Rule:
        """Reset the connection instead of forwarding."""
        return self._add(Rule("reset", method, path, nth, times))

    def drop(self, method: str = ".*", path: str = "", *, nth: int = 1, times: int | None = 1) -> Rule:
        """Forward, but reset the connection instead of answering."""
        return self._add(Rule("drop", method, path, nth, times))

    def truncate(self, method: str = ".*", path: str = "", *, nth: int = 1, times: int | None = 1) -> Rule:
        """Forward, but close the connection after half the answer's body."""
        return self._add(Rule("truncate", method, path, nth, times))

    def flip(
        self,
        method: str = ".*",
        path: str = "",
        *,
        nth: int = 1,
        times: int | None = 1,
        after_forwarding: bool = False,
    ) -> Rule:
        """Change a bit in the middle of the body, of the request or of the answer."""
        return self._add(Rule("flip", method, path, nth, times, after_forwarding=after_forwarding))

    def stall(
        self,
        method: str = ".*",
        path: str = "",
        *,
        nth: int = 1,
        times: int | None = 1,
        after_forwarding: bool = False,
    ) -> Rule:
        """Hold the request, or the answer, until the rule is released."""
        return self._add(Rule("stall", method, path, nth, times, after_forwarding=after_forwarding))

    def _add(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def _rule_for(self, method: str, target: str) -> Rule | None:
        with self._lock:
            applying = [rule for rule in self._rules if rule._counts(method, target)]
            return applying[0] if applying else None

    def _note(self, seen: Seen) -> None:
        with self._lock:
            self._seen.append(seen)


def _matches(method_pattern: str, path_pattern: str, method: str, target: str) -> bool:
    return bool(re.fullmatch(method_pattern, method) and re.search(path_pattern, target))


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes((body[middle] ^ 1,)) + body[middle + 1 :]


def _decoded(target: str) -> str:
    path, mark, query = target.partition("?")
    return f"{unquote(path)}{mark}{unquote_plus(query)}"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def failure(cls, status: int, code: str = "") -> _Answer:
        code = code or CODES.get(status, "InternalError")
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>made up</Message></Error>'
        return cls(status, code, (("Content-Type", "application/xml"),), body.encode())


class _Connection(BaseHTTPRequestHandler):
    """One connection of a client: its requests, one after another."""

    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # the head and the body leave together ...
    disable_nagle_algorithm = True  # ... and at once

    def setup(self) -> None:
        super().setup()
        self.server.begun(self.connection)

    def finish(self) -> None:
        self.server.ended(self.connection)
        super().finish()

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
        elif "Transfer-Encoding" in self.headers:
            raise NotImplementedError("requests in chunks: no S3 client sends them")
        else:
            rule = self.server.proxy._rule_for(self.command, _decoded(self.path))
            if rule is not None and rule.fault == "flip" and not rule._on_answer:
                rule._act()
                self._forward(_flipped(body), None)
            elif rule is None or rule._on_answer or self._passes(rule):
                self._forward(body, rule if rule and rule._on_answer else None)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def _passes(self, rule: Rule) -> bool:
        """Break a request before the server sees it; whether the server is to see it nevertheless."""
        rule._act()
        if rule.fault == "fail":
            self._answer(_Answer.failure(rule.status, rule.code), rule.status)
        elif rule.fault == "stall" and self._released(rule):
            return True
        else:
            self._reset(rule.fault)
        return False

    def _forward(self, body: bytes, rule: Rule | None) -> None:
        """Ask the server; a rule breaks its answer."""
        answer = self._asked(body)
        if rule and answer:
            rule._act()
        if answer is None:
            self._reset("gone")
        elif rule is None or (rule.fault == "stall" and self._released(rule)):
            self._answer(answer, answer.status)
        elif rule.fault == "fail":
            self._answer(_Answer.failure(rule.status, rule.code), rule.status)
        elif rule.fault == "flip":
            self._answer(replace(answer, body=_flipped(answer.body)), answer.status)
        elif rule.fault == "truncate":
            self.close_connection = True
            self._answer(answer, rule.fault, body_bytes=len(answer.body) // 2)
        else:
            self._reset(rule.fault)

    def _released(self, rule: Rule) -> bool:
        """Wait for the release; False if it came because the proxy ends."""
        rule._released.wait()
        return not self.server.proxy._closing

    def _asked(self, body: bytes) -> _Answer | None:
        """What the server answers, on a connection of its own; None where it does not."""
        with closing(HTTPConnection(*self.server.target, timeout=FORWARD_SECONDS)) as upstream:
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                sent = Request(self.command, self.path, tuple(self.headers.items()), body)
                sent = self.server.proxy.rewritten(sent)
                for name, value in sent.headers:
                    if name.lower() not in HOP_BY_HOP:
                        upstream.putheader(name, value)
                upstream.endheaders(sent.body or None)
                with upstream.getresponse() as response:
                    headers = tuple(response.getheaders())
                    return _Answer(response.status, response.reason, headers, response.read())
            except (OSError, HTTPException):
                return None

    def _answer(self, answer: _Answer, result: Result, *, body_bytes: int | None = None) -> None:
        self._note(result)
        headers = {name.lower(): value for name, value in answer.headers}
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(answer.body))
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:body_bytes])
        self.wfile.flush()

    def _reset(self, result: Result) -> None:
        """End the connection by a RST."""
        self._note(result)
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _note(self, result: Result) -> None:
        # Before the client knows, so that a test which has its answer finds it.
        self.server.proxy._note(Seen(self.command, _decoded(self.path), result))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for them
    request_queue_size = 256

    def __init__(self, proxy: FaultProxy, host: str, port: int) -> None:
        self.proxy = proxy
        self.target = (host, port)
        self._connections: set[socket.socket] = set()
        self._ending = False
        self._connections_lock = threading.Lock()
        super().__init__((HOST, 0), _Connection)

    def begun(self, connection: socket.socket) -> None:
        with self._connections_lock:
            self._connections.add(connection)
            if self._ending:
                connection.shutdown(socket.SHUT_RD)

    def ended(self, connection: socket.socket) -> None:
        with self._connections_lock:
            self._connections.discard(connection)

    def end_connections(self) -> None:
        with self._connections_lock:
            self._ending = True
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)  # idle ones end, the others after their answer

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        self.close_request(request)  # without an orderly shutdown before, which would make a FIN of a RST

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: tuple[str, int]
    ) -> None:
        if not isinstance(sys.exception(), OSError):  # clients go when they like
            super().handle_error(request, client_address)
