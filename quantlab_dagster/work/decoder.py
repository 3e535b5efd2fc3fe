"""The parent's side of a child: starting it, asking it, watching it, ending it, and saying how it ended."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantlab_dagster.kernel.faults import lacks_resources
from quantlab_dagster.work.messages import Drop, Failed, Progress, Ready, Result, message, write_all
from quantlab_dagster.work.scratch import scratch_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantlab_dagster.work.limits import Limits
    from quantlab_dagster.work.messages import Request

__all__ = ["Child", "ChildEnded"]

logger = logging.getLogger(__name__)

PROGRAM = "from quantlab_dagster.work.child import main; main()"

_WATCH_SECONDS = 0.02
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LENGTH = struct.Struct(">Q")
_SAID_BYTES = 4096
_MOST_SAID = 200

# What a decoder does to itself. Other signals come from outside: from the system that lacks memory, or from people.
_OWN_SIGNALS = frozenset({"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"})

# Credentials and settings are nothing for a process that decodes what strangers wrote.
_WITHHELD = ("AWS_", "QUANTLAB_", "WAREHOUSE_", "COMPACTION_", "DAGSTER_")


class ChildEnded(Exception):  # not an error yet: whose fault it is must be found out
    """The child ended before it answered.

    Args:
        cause: how, for people: what follows "the decoder".
        own_fault: whether the decoder did that by itself, and not the machine or a person.
        started: whether it had been ready to work.
        key: of the part that it had said it was at; empty if it had not.
    """

    def __init__(self, cause: str, *, own_fault: bool, started: bool, key: str = "") -> None:
        self.cause = cause
        self.own_fault = own_fault
        self.started = started
        self.key = key
        super().__init__(cause)


@dataclass(slots=True)
class _Call:
    """A question that is not answered yet."""

    answer: asyncio.Future[Any]
    patience: float
    deadline: float
    key: str = ""

    def went_on(self, key: str) -> None:
        self.key = key or self.key
        self.deadline = time.monotonic() + self.patience


class Child:
    """A process that decodes. To be made, used and closed in one event loop.

    It gets as much memory as the limits say, and as much time without progress; then it is ended. It ends with us,
    whatever happens to us.

    Args:
        limits: of the run.

    Raises:
        OSError: no process, pipe or scratch directory can be had.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count(1)
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._verdict = ""
        self._started = False
        self._how: ChildEnded | None = None
        with ExitStack() as stack:
            directory = stack.enter_context(scratch_directory(limits.scratch_base))
            self._said = directory / "stderr"
            replies = self._start(directory, stack)
            self._held = stack.pop_all()
        self._reading = asyncio.get_running_loop().create_task(self._read(replies))
        threading.Thread(target=self._watch, name="watch-decoder", daemon=True).start()

    def _start(self, directory: Path, stack: ExitStack) -> int:
        """Start the process; returns where its replies are read."""
        with ExitStack() as childs:
            theirs, self._requests = _pipe(childs, stack)
            replies, to_us = os.pipe()
            childs.callback(os.close, to_us)
            with self._said.open("wb") as said:
                self._process = subprocess.Popen(  # noqa: S603 - ourselves
                    [sys.executable, "-P", "-c", PROGRAM, str(theirs), str(to_us), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    pass_fds=(theirs, to_us),
                    env=_environment(directory, self._limits),
                )
        return replies

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it can no longer be asked."""
        return self._how is not None or self._ended.is_set()

    @property
    def is_settled(self) -> bool:
        """Whether it has ended, and nothing of it is left."""
        return self._reading.done()

    async def call(self, request: Request, contents: Sequence[bytes] = (), *, size_bytes: int) -> Any:
        """Ask, and wait for the answer. Being cancelled does not end what is asked for: `close` does.

        Args:
            request: what to do.
            contents: of the parts handed over that have no path.
            size_bytes: how much it must read: so much longer may it make no progress.

        Raises:
            ChildEnded: it ended before it answered.
            Exception: whatever the work raised there.
        """
        if self._how is not None:
            raise self._how
        number, patience = next(self._numbers), self._limits.decoder_patience(size_bytes)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        call = self._calls[number] = _Call(answer, patience, time.monotonic() + patience)
        try:
            await asyncio.to_thread(self._write, [message((number, request)), *contents])
            return await answer
        except ChildEnded as ended:
            raise ChildEnded(ended.cause, own_fault=ended.own_fault, started=ended.started, key=call.key) from None
        finally:
            del self._calls[number]

    def drop(self, job: int) -> None:
        """Make it forget a job, sooner or later."""
        if not self.has_ended:
            framed = message((0, Drop(job)))
            asyncio.get_running_loop().run_in_executor(None, self._write, [framed])

    def kill(self) -> None:
        """End it, without waiting until it has ended."""
        self._process.kill()

    async def close(self) -> None:
        """End it, and wait until it has ended. Safe to repeat; being cancelled does not keep it from ending."""
        self.kill()
        cancelled = False
        while not self._reading.done():
            try:
                await asyncio.wait([self._reading])
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    def _write(self, contents: Sequence[bytes]) -> None:
        with self._turn, suppress(BrokenPipeError):
            if not self._ended.is_set():
                write_all(self._requests, contents)

    async def _read(self, replies: int) -> None:
        """Hear what it says until it says no more; then find out how it ended."""
        reader = asyncio.StreamReader()
        transport: asyncio.BaseTransport | None = None
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(replies, "rb", buffering=0)
            )
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                self._hear(pickle.loads(await reader.readexactly(length)))  # noqa: S301 - our own child
        except asyncio.IncompleteReadError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, the process is of no use any more
            self._verdict = f"answered what cannot be read ({type(error).__name__}: {error})"
        finally:
            if transport is not None:
                transport.close()
            self._ended.set()
            self._process.kill()
            code = await asyncio.to_thread(self._process.wait)
            self._settle(code)

    def _hear(self, said: Ready | Progress | Result | Failed) -> None:
        if isinstance(said, Ready):
            self._started = True
            return
        call = self._calls.get(said.call)
        if call is None or call.answer.done():
            return  # whoever asked has gone
        if isinstance(said, Progress):
            call.went_on(said.key)
        elif isinstance(said, Result):
            call.answer.set_result(said.value)
        else:
            call.answer.set_exception(said.error)

    def _settle(self, code: int) -> None:
        """Say how it ended to all who wait for an answer, and let go of what it had."""
        cause, own_fault = self._verdict, True
        if not cause:
            name = signal.Signals(-code).name if code < 0 else ""
            cause = f"was ended by {name}" if name else f"ended by itself with code {code}"
            words = _last_words(self._said)
            own_fault = name in _OWN_SIGNALS and not lacks_resources(words)
            cause += words
        self._how = ChildEnded(cause, own_fault=own_fault, started=self._started)
        with self._turn:
            self._held.close()
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(self._how)

    def _watch(self) -> None:
        """In a thread of its own, because an event loop may be late."""
        most = self._limits.decoder_memory
        while not self._ended.wait(_WATCH_SECONDS):
            now = time.monotonic()
            if _own_bytes(self._process.pid) > most:
                self._verdict = f"took more than {most:,} bytes of memory"
            for call in list(self._calls.values()):
                if now > call.deadline:
                    self._verdict = f"made no progress within {call.patience:.0f} s"
            if self._verdict:
                self._process.kill()
                return


def _pipe(theirs: ExitStack, ours: ExitStack) -> tuple[int, int]:
    """A pipe to the child, as wide as the system allows."""
    read, write = os.pipe()
    theirs.callback(os.close, read)
    ours.callback(os.close, write)
    with suppress(ImportError, OSError):
        import fcntl  # noqa: PLC0415 - not everywhere

        fcntl.fcntl(write, _F_SETPIPE_SZ, _PIPE_BYTES)
    return read, write


def _environment(directory: Path, limits: Limits) -> dict[str, str]:
    """Of the child: where it finds this package, and what its engines may use. They read it when they are loaded."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_WITHHELD)}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "TMPDIR": str(directory),
        "POLARS_TEMP_DIR": str(directory),
        "POLARS_OOC_SPILL_DIR": str(directory / "spill"),
        # Not the budget of the merges: windows keep to that, and Polars, which holds nothing that it could spill, looks
        # for it all the time once the process takes more: 78 instead of 26 CPU seconds of it for 300 tiny symbol-days.
        "POLARS_OOC_MEMORY_BUDGET_MB": str(limits.decoder_memory >> 20),
        # NumPy's, for linear algebra: nothing here needs them, and each core's spins before it sleeps.
        "OPENBLAS_NUM_THREADS": "1",
    }


def _own_bytes(pid: int) -> int:
    """Memory that a process does not share with files; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


def _last_words(said: Path) -> str:
    """What it wrote before it died, in parentheses; the backtrace that follows is left out."""
    try:
        with said.open("rb") as file:
            text = file.read(_SAID_BYTES).decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f" ({lines[0][:_MOST_SAID]})" if lines else ""
