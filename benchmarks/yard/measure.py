"""Running a command and seeing what its whole process tree costs. Linux only: it reads /proc."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Failed", "Measured", "run", "warm"]

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_SECONDS = 0.01
_TREE_SECONDS = 0.1
_MIB = 1 << 20


class Failed(Exception):
    """A command that did not end well; its message is the last line that it wrote."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run of a process tree cost.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: user and system time, of all processes that it started and waited for.
        peak_mib: memory at its fullest, sampled every 10 ms: what each process has for itself, summed, and what the one
            with most of it shares with files or others (libraries, maps of files), once.
        output: what it wrote to its standard output.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str

    @property
    def utilisation(self) -> float:
        """Share of all cores that it kept busy."""
        return self.cpu_seconds / self.seconds / (os.cpu_count() or 1)


def run(command: Sequence[str], env: Mapping[str, str], directory: Path, *, core: int | None = None) -> Measured:
    """Run a command to its end.

    Args:
        command: to be run.
        env: added to our own environment.
        directory: where it runs.
        core: the only one that it may use; None for all.

    Raises:
        Failed: it ended with something else than 0.
    """
    pinned = ["taskset", "-c", str(core), *command] if core is not None else list(command)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(pinned, env={**os.environ, **env}, cwd=directory, stdout=output, stderr=errors)
        memory = _Memory(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        peak = memory.end()
        process.returncode = os.waitstatus_to_exitcode(status)
        said, complaint = (_text(stream) for stream in (output, errors))
    if process.returncode:
        lines = [line for line in complaint.splitlines() if line.strip()] or [f"ended with {process.returncode}"]
        print(complaint[-4000:], file=sys.stderr)
        raise Failed(lines[-1].strip()[:300])
    return Measured(seconds, usage.ru_utime + usage.ru_stime, peak / _MIB, said)


def warm(paths: Iterable[Path]) -> None:
    """Bring files into the page cache, and let what was written before reach the disk."""
    os.sync()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(_MIB):
                pass


class _Memory:
    """Watches a tree's memory in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """The most that was seen, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        tree, looked = [self._pid], 0.0
        while True:
            if time.monotonic() - looked > _TREE_SECONDS:
                tree, looked = _tree(self._pid), time.monotonic()
            sizes = [_sizes(pid) for pid in tree]
            own, shared = sum(size[0] for size in sizes), max((size[1] for size in sizes), default=0)
            self._peak = max(self._peak, own + shared)
            if self._ended.wait(_SAMPLE_SECONDS):
                return


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:
        try:
            threads = list(Path(f"/proc/{each}/task").iterdir())
            found += [int(text) for thread in threads for text in (thread / "children").read_text().split()]
        except OSError:  # it ended just now
            continue
    return found


def _sizes(pid: int) -> tuple[int, int]:
    """Bytes that a process has for itself, and bytes that it shares."""
    try:
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    except (OSError, ValueError):
        return 0, 0
    return (resident - shared) * _PAGE, shared * _PAGE


def _text(stream: object) -> str:
    stream.seek(0)  # type: ignore[attr-defined]
    return stream.read().decode(errors="replace")  # type: ignore[attr-defined,no-any-return]
