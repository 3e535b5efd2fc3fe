"""The child: reads requests, and answers them from threads. Ends with its parent, however that ends."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from quantlab_dagster.kernel.faults import machine_faults
from quantlab_dagster.work.messages import (
    AddParts,
    Drop,
    Failed,
    Progress,
    Ready,
    Result,
    message,
    read_content,
    read_message,
    write_all,
)

if TYPE_CHECKING:
    from quantlab_dagster.work.jobs import Jobs
    from quantlab_dagster.work.messages import Request

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_FIRST_TO_GO = "1000"
_THREADS = min(8, (os.cpu_count() or 1) + 4)


def main() -> NoReturn:
    """Work for the parent until it has no more: arguments are the pipes' descriptors, and the parent's process id."""
    requests, replies, parent = (int(argument) for argument in sys.argv[1:])
    _end_with(parent)
    # What is written to the terminal's process group or the service is meant for the parent, which ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # an abort must not write our memory to the disk
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)
    from quantlab_dagster.work.jobs import Jobs  # noqa: PLC0415 - the engines, after the parent can end us

    gc.freeze()
    _serve(requests, _Replies(replies), Jobs())
    os._exit(0)  # at once: threads may be at work for a parent that has gone


def _end_with(parent: int) -> None:
    """Be killed when the parent ends. Where the system cannot do that, the closed pipe must do."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(0)


class _Replies:
    """The pipe to the parent, for all threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._turn = threading.Lock()

    def send(self, content: object) -> None:
        framed = message(content)
        try:
            with self._turn:
                write_all(self._descriptor, [framed])
        except BrokenPipeError:
            os._exit(0)


def _serve(descriptor: int, replies: _Replies, jobs: Jobs) -> None:
    replies.send(Ready())
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="job")
    with os.fdopen(descriptor, "rb") as requests, suppress(EOFError):
        while True:
            call, request = read_message(requests)
            contents: list[bytes] = []
            if isinstance(request, AddParts):
                contents = [read_content(requests, part.size_bytes) for part in request.parts if part.path is None]
            if isinstance(request, Drop):
                jobs.drop(request)
            else:
                pool.submit(_answer, replies, jobs, call, request, contents)
            del request, contents


def _answer(replies: _Replies, jobs: Jobs, call: int, request: Request, contents: list[bytes]) -> None:
    def progress(key: str = "") -> None:
        replies.send(Progress(call, key))

    try:
        progress()
        with machine_faults("the process that decodes parts"):
            answer: Result | Failed = Result(call, jobs.run(request, contents, progress))
    except BaseException as error:  # noqa: BLE001 - panics of Polars are no exceptions; all of it is the parent's to judge
        answer = Failed(call, _sendable(error))
    del request, contents
    replies.send(answer)


def _sendable(error: BaseException) -> BaseException:
    """The error, or what can be said of it where it cannot travel."""
    copy: Any = None
    with suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    if type(copy) is type(error) and isinstance(copy, Exception):
        return copy
    return RuntimeError(f"{type(error).__name__}: {error}")
