"""A large body may take long, and one that stalls is asked for again soon."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

import pytest

from quantlab_dagster.errors import StoreUnavailable
from quantlab_dagster.lake.store import limits
from quantlab_dagster.lake.store.objects import S3Options
from quantlab_dagster.lake.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from quantlab_dagster.lake.store.base import Store

PIECES = 12
PIECE = b"x" * 1000


class _Slow(BaseHTTPRequestHandler):
    """Sends a body in pieces; the first answers stall after the first piece, until the test is over."""

    protocol_version = "HTTP/1.1"
    stalls: ClassVar[int] = 0
    pause: ClassVar[float] = 0.0
    asked: ClassVar[list[str]] = []
    over: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.asked.append(self.headers.get("Range", ""))
        stalls = len(self.asked) <= self.stalls
        body = (PIECE * PIECES)[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"no sum"')
        self.send_header("Last-Modified", "Thu, 15 Jan 2026 10:00:00 GMT")
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{len(PIECE) * PIECES}")
        self.end_headers()
        for at in range(0, len(body), len(PIECE)):
            self.wfile.write(body[at : at + len(PIECE)])
            self.wfile.flush()
            if stalls:
                self.over.wait(30)
                return
            time.sleep(self.pause)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def slow_store(monkeypatch: pytest.MonkeyPatch, *, read: float, stalls: int = 0, pause: float = 0.0) -> Iterator[Store]:
    monkeypatch.setattr(limits, "READ_SECONDS", read)
    monkeypatch.setattr(limits, "FIRST_WAIT_SECONDS", 0.01)
    for name, value in {"stalls": stalls, "pause": pause, "asked": [], "over": threading.Event()}.items():
        monkeypatch.setattr(_Slow, name, value)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield open_store(
                "s3://bucket", S3Options(None, "us-east-1", f"http://127.0.0.1:{server.server_port}", retries=2)
            )
        finally:
            _Slow.over.set()
            server.shutdown()


@pytest.mark.guards("timeouts")
def test_a_body_may_take_longer_than_the_wait_for_its_next_byte(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with slow_store(monkeypatch, read=1.0, pause=0.15) as store:
        started = time.monotonic()
        content, _ = asyncio.run(store.get("key"))
        assert content == PIECE * PIECES
        assert time.monotonic() - started > 1.2
        asyncio.run(store.download("key", tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == content
        assert len(_Slow.asked) == 2
    assert limits.TOTAL_SECONDS >= 3600


@pytest.mark.guards("timeouts")
@pytest.mark.parametrize("stalls", [1, 2])
def test_a_body_that_stalls_is_asked_for_again_soon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stalls: int
) -> None:
    with slow_store(monkeypatch, read=0.5, stalls=stalls) as store:
        started = time.monotonic()
        assert asyncio.run(store.get("key"))[0] == PIECE * PIECES
        assert time.monotonic() - started < 10
        _Slow.asked.clear()
        asyncio.run(store.download("key", tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == PIECE * PIECES


def test_a_body_that_always_stalls_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with slow_store(monkeypatch, read=0.3, stalls=1000) as store:
        monkeypatch.setattr(limits, "RETRY_SECONDS", 2.0)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="key"):
            asyncio.run(store.get("key"))
        assert time.monotonic() - started < 20
