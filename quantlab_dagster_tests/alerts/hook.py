"""A webhook on this machine that answers as it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "T0000/B0000/wJalrXUtnFEMI"  # noqa: S105  # Slack's are in the path


@dataclass
class Hook:
    """What it got, and what it answers: a status, or "hang"; 200 where nothing is said."""

    url: str
    answers: list[int | str] = field(default_factory=list)
    got: list[Any] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def texts(self) -> list[str]:
        return [str(body["text"]) for body in self.got]


@contextlib.contextmanager
def webhook() -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = hook.answers.pop(0) if hook.answers else 200
            if answer == "hang":
                hook.ended.wait(30)
                return
            if answer == 200:
                hook.got.append(json.loads(body))
            self.send_response(int(answer))
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hook = Hook(f"http://127.0.0.1:{server.server_address[1]}/services/{SECRET}?token={SECRET}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield hook
        finally:
            hook.ended.set()
            server.shutdown()
            thread.join()
