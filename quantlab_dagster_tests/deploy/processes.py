"""Programs that run while a context lasts, and waiting for them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

PATIENCE_SECONDS = 180


@contextmanager
def running(command: Sequence[str], *, env: Mapping[str, str], directory: Path, name: str) -> Iterator[None]:
    """Run a program, and see that it did not end by itself. Its log is `name`.log in the directory."""
    path = directory / f"{name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            command, env=dict(env), cwd=directory, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
        assert process.poll() is None, path.read_text(errors="replace")
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(look: Callable[[], Any], problem: str | Callable[[], str]) -> Any:
    """What a look finds, as soon as it finds something; an OSError is nothing yet."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with suppress(OSError):
            if found := look():
                return found
        assert time.monotonic() < deadline, problem if isinstance(problem, str) else problem()
        time.sleep(0.2)
