"""Which process this is, told apart from every other one, and whether a process has ended."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Machine", "Process", "has_ended", "process_of", "this_machine"]

_PROC = Path("/proc")
_STATE, _STARTED = 0, 19  # of what follows the name in /proc/<pid>/stat: the fields 3 and 22
_ENDED_STATES = ("Z", "X")  # killed, and only not yet asked for by its parent


@dataclass(frozen=True, slots=True)
class Machine:
    """Where process ids mean the same.

    Attributes:
        name: hostname; containers usually have their own.
        boot: differs after every start of the kernel; empty where the system does not say.
        pids: namespace of process ids; containers that share a name and a kernel differ in it. Empty as above.
    """

    name: str
    boot: str = ""
    pids: str = ""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, for ever.

    Attributes:
        machine: where it runs.
        pid: is used again after it has ended.
        started: ticks from the start of the kernel to its own; empty where the system does not say.
    """

    machine: Machine
    pid: int
    started: str = ""


def this_machine() -> Machine:
    """The machine, or the container, that we are on."""
    boot = _read(_PROC / "sys/kernel/random/boot_id")
    try:
        pids = (_PROC / "self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        pids = ""
    return Machine(socket.gethostname(), boot, pids)


def process_of(pid: int) -> Process:
    """The process that has this id now, on this machine."""
    return Process(this_machine(), pid, _stat(pid)[1])


def has_ended(process: Process) -> bool | None:
    """Whether a process of this machine has ended; None if something has its id, and nothing says whether it is it."""
    try:
        os.kill(process.pid, 0)
    except (ProcessLookupError, OverflowError):  # no system has ids of that size
        return True
    except PermissionError:
        pass  # somebody else's, whose /proc may be hidden from us
    state, started = _stat(process.pid)
    if state in _ENDED_STATES:
        return True
    if not started or not process.started:
        return None
    return started != process.started


def _stat(pid: int) -> tuple[str, str]:
    """State and start time; empty where they cannot be read."""
    # The name of the program comes before, in parentheses, and may contain anything.
    fields = _read(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    return (fields[_STATE], fields[_STARTED]) if len(fields) > _STARTED else ("", "")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
