"""The proxy that breaks requests does what its rules say, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection, IncompleteRead
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from quantlab_dagster_tests.faults import FaultProxy, Seen

if TYPE_CHECKING:
    from collections.abc import Iterator


class Recorder(BaseHTTPRequestHandler):
    """A server that remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, str, dict[str, str], bytes]]

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((self.command, self.path, dict(self.headers), body))
        self.send_response(200)
        self.send_header("ETag", '"tag"')
        self.send_header("Content-Length", "10")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"0123456789")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    Recorder.requests = []
    with HTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server: HTTPServer) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
        yield proxy


def ask(proxy: FaultProxy, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
    with closing(HTTPConnection(proxy.url.removeprefix("http://"), timeout=10)) as connection:
        connection.request(method, target, body, {"X-Custom": "a b"})
        with connection.getresponse() as response:
            return response.status, response.read()


def test_everything_else_is_forwarded_as_it_came(proxy: FaultProxy) -> None:
    with closing(HTTPConnection(proxy.url.removeprefix("http://"), timeout=10)) as connection:
        for method in ("GET", "PUT", "POST", "DELETE", "HEAD", "GET"):  # on one connection
            body = b"\x00body" if method in ("PUT", "POST") else None
            connection.request(method, "/a%20b//c?x=%2F&y=+", body, {"X-Custom": "a b"})
            with connection.getresponse() as response:
                assert (response.status, response.headers["ETag"]) == (200, '"tag"')
                assert response.headers["Content-Length"] == "10"
                assert response.read() == (b"" if method == "HEAD" else b"0123456789")
    assert [request[0] for request in Recorder.requests] == ["GET", "PUT", "POST", "DELETE", "HEAD", "GET"]
    for method, target, headers, body in Recorder.requests:
        assert target == "/a%20b//c?x=%2F&y=+"
        assert headers["X-Custom"] == "a b"
        assert headers["Host"] == proxy.url.removeprefix("http://"), "signatures would not fit"
        assert body == (b"\x00body" if method in ("PUT", "POST") else b"")
    assert proxy.seen[0] == Seen("GET", "/a b//c?x=/&y= ", 200)
    assert (proxy.count(), proxy.count("GET"), proxy.count("GE"), proxy.count(path="nothing")) == (6, 2, 0, 0)


def test_rules_choose_their_requests(proxy: FaultProxy) -> None:
    rule = proxy.fail(503, "PUT|POST", r"^/m/.*\.json$", nth=2, times=2)
    targets = ["/m/a.json", "/m/a.parquet", "/m/b.json", "/m/c.json", "/m/d.json"]
    assert [ask(proxy, "PUT", target)[0] for target in targets] == [200, 200, 503, 503, 200]
    assert ask(proxy, "GET", "/m/a.json")[0] == 200
    assert rule.fired == 2
    assert len(Recorder.requests) == 4

    first, second = proxy.fail(500, "GET", times=None), proxy.fail(404, "GET", nth=2, times=3)
    assert [ask(proxy, "GET", "/")[0] for _ in range(3)] == [500, 500, 500]
    first.end()
    assert [ask(proxy, "GET", "/")[0] for _ in range(2)] == [404, 200]
    assert (first.fired, second.fired) == (3, 1)


def test_failures_are_worded_as_those_of_s3(proxy: FaultProxy) -> None:
    proxy.fail(503, "GET")
    assert b"<Code>SlowDown</Code>" in ask(proxy, "GET", "/")[1]
    proxy.fail(404, "HEAD")
    assert ask(proxy, "HEAD", "/") == (404, b"")
    assert Recorder.requests == []
    proxy.fail(500, "PUT", after_forwarding=True)
    assert ask(proxy, "PUT", "/", b"x")[0] == 500
    assert len(Recorder.requests) == 1


def test_reset_and_drop(proxy: FaultProxy) -> None:
    proxy.reset("PUT")
    with pytest.raises(ConnectionResetError):
        ask(proxy, "PUT", "/", b"x")
    assert Recorder.requests == []
    proxy.drop("PUT")
    with pytest.raises(ConnectionResetError):
        ask(proxy, "PUT", "/", b"x")
    assert len(Recorder.requests) == 1
    assert [one.result for one in proxy.seen] == ["reset", "drop"]
    assert ask(proxy, "PUT", "/", b"x")[0] == 200


def test_truncate(proxy: FaultProxy) -> None:
    proxy.truncate("GET")
    with pytest.raises(IncompleteRead) as caught:
        ask(proxy, "GET", "/")
    assert caught.value.partial == b"01234"


def test_flip(proxy: FaultProxy) -> None:
    rules = [proxy.flip("PUT"), proxy.flip("GET", after_forwarding=True)]
    assert ask(proxy, "PUT", "/", b"abcd") == (200, b"0123456789")
    assert Recorder.requests[0][3] == b"abbd"
    assert ask(proxy, "GET", "/") == (200, b"0123446789")
    assert ask(proxy, "GET", "/") == (200, b"0123456789")
    assert [rule.fired for rule in rules] == [1, 1]
    assert [one.result for one in proxy.seen] == [200, 200, 200]


@pytest.mark.parametrize("after_forwarding", [False, True])
def test_stall(proxy: FaultProxy, *, after_forwarding: bool) -> None:
    rule = proxy.stall("PUT", after_forwarding=after_forwarding)
    answers: list[int] = []
    client = threading.Thread(target=lambda: answers.append(ask(proxy, "PUT", "/", b"x")[0]))
    client.start()
    rule.wait(10)
    time.sleep(0.05)
    assert (answers, len(Recorder.requests)) == ([], int(after_forwarding))
    rule.release()
    client.join(10)
    assert (answers, len(Recorder.requests)) == ([200], 1)
    with pytest.raises(TimeoutError):
        proxy.stall("GET").wait(0.01)


def test_what_is_never_released_is_never_forwarded(server: HTTPServer) -> None:
    errors: list[Exception] = []

    def client(of: FaultProxy) -> None:
        try:
            ask(of, "PUT", "/", b"x")
        except OSError as error:
            errors.append(error)

    began = time.monotonic()
    with FaultProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
        rule = proxy.stall("PUT")
        thread = threading.Thread(target=client, args=(proxy,))
        thread.start()
        rule.wait(10)
        # An idle connection does not hold up the end either.
        idle = socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])))
    thread.join(10)
    idle.close()
    assert time.monotonic() - began < 9
    assert Recorder.requests == []
    assert len(errors) == 1


def test_a_request_broken_off_is_not_forwarded(proxy: FaultProxy) -> None:
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as client:
        client.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    assert (Recorder.requests, proxy.seen) == ([], [])


def test_a_server_that_is_gone(server: HTTPServer) -> None:
    with FaultProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
        server.server_close()
        with pytest.raises(ConnectionResetError):
            ask(proxy, "GET", "/")
        assert proxy.seen == [Seen("GET", "/", "gone")]
