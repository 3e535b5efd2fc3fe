"""`/metrics` over HTTP, for whoever scrapes: the file of the counters, as it is."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from quantlab_dagster.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["serving"]

logger = logging.getLogger(__name__)

_PATH = "/metrics"
_REQUEST_SECONDS = 10.0


@contextmanager
def serving(file: Path, host: str, port: int, options: str) -> Iterator[str]:
    """Serve a file at `/metrics` while the body runs. Yields the URL.

    Args:
        file: in Prometheus' text format; without it there is nothing yet, and the answer is empty.
        host: address to listen at.
        port: of it; 0 for any that is free.
        options: by which a user chooses these, for the message.

    Raises:
        SettingsError: the address cannot be listened at.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        server = _Server((host, port), partial(_Handler, file), family)
    except (OSError, OverflowError) as error:
        cause = f"cannot be listened at ({getattr(error, 'strerror', None) or error})"
        raise SettingsError(f"{host}:{port}", cause, f"Use another {options}; or stop what listens there") from error
    threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
    name = f"[{host}]" if family is socket.AF_INET6 else host
    try:
        yield f"http://{name}:{server.server_address[1]}{_PATH}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that dawdles must not keep us from ending

    def __init__(self, address: tuple[str, int], handler: Any, family: socket.AddressFamily) -> None:
        self.address_family = family
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's concern."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS

    def __init__(self, file: Path, *arguments: Any) -> None:
        self._file = file
        super().__init__(*arguments)

    def do_GET(self) -> None:  # the library's name
        if self.path.partition("?")[0] != _PATH:
            self._answer(HTTPStatus.NOT_FOUND, b"the metrics are at /metrics\n")
            return
        try:
            text = self._file.read_bytes()
        except FileNotFoundError:  # nothing is counted yet
            text = b""
        except OSError as error:
            logger.warning("%s cannot be served: %s", self._file, error)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"the metrics cannot be read\n")
            return
        self._answer(HTTPStatus.OK, text)

    def _answer(self, status: HTTPStatus, text: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Log nothing: scrapes come every few seconds."""
