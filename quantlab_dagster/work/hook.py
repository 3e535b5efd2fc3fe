"""A command that is run when work is done. It is bounded in time, its last words are kept, and it is told no secrets.

Whatever becomes of it, nothing is raised: the work that it follows is done, and stays.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING

from quantlab_dagster.errors import masked

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Collection, Mapping, Sequence

__all__ = [
    "Hook",
    "HookEnded",
    "HookResult",
    "hook_line",
    "parse_command",
    "run_hook",
    "secret_arguments",
    "secrets_in",
    "without_secrets",
]

_KEPT_BYTES = 32 << 10
_SHOWN_CHARACTERS = 4000
_PATIENCE_SECONDS = 2.0
_LOOK_AGAIN_SECONDS = 0.02
_PIPE_BYTES = 16 << 10
_LEAST_SECRET = 6
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|ACCESS_KEY|API_?KEY|PRIVATE_KEY|PUSHGATEWAY_URL")
_OURS = re.compile(r".*AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN)|QUANTLAB_PUSHGATEWAY_URL|COMPACTION_HOOK_.*")


class HookResult(StrEnum):
    """How a hook ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Hook:
    """A command to be run.

    Attributes:
        command: program and arguments; no shell takes them apart. Not shown anywhere: they may hold secrets.
        seconds: it is ended when it has taken so long.
    """

    command: tuple[str, ...] = field(repr=False)
    seconds: float = 60.0

    @property
    def name(self) -> str:
        """What it is called where it is shown: the program's name alone."""
        return PurePath(self.command[0]).name


@dataclass(frozen=True, slots=True)
class HookEnded:
    """How a hook ended.

    Attributes:
        name: of the program.
        result: success is the exit code 0.
        code: its exit code, negative for a signal's number; None if it never started.
        seconds: how long it took.
        output: the last that it wrote to standard output and error, secrets masked; or why it did not start.
    """

    name: str
    result: HookResult
    code: int | None
    seconds: float
    output: str


def parse_command(text: str) -> tuple[str, ...]:
    """Program and arguments, taken apart as a shell does.

    Raises:
        ValueError: there is no program, or a quotation does not end.
    """
    command = tuple(shlex.split(text))
    if not command or not command[0]:
        raise ValueError("names no program")
    if any("\0" in word for word in command):
        raise ValueError("has a NUL character")
    return command


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what is this project's own business: its credentials, and the hook itself."""
    return {name: value for name, value in environment.items() if not _OURS.fullmatch(name)}


def secrets_in(environment: Mapping[str, str]) -> set[str]:
    """Values of an environment that are secrets by their names."""
    return {value for name, value in environment.items() if _SECRET_NAME.search(name.upper())}


def secret_arguments(command: Sequence[str]) -> set[str]:
    """Values of options that are secrets by their names: `--password x`, `--token=x`."""
    found = set()
    for option, following in zip(command, (*command[1:], ""), strict=True):
        if option.startswith("-") and _SECRET_NAME.search(option.partition("=")[0].upper().replace("-", "_")):
            found.add(option.partition("=")[2] or following)
    return found


def hook_line(ended: HookEnded) -> str:
    """One line on a hook: how it ended, and its last line."""
    words = ended.output.strip().splitlines()
    said = f": {words[-1][:300]}" if words else ""
    if ended.result is HookResult.TIMEOUT:
        return f"hook {ended.name} was ended after {ended.seconds:.1f} s, its time{said}"
    if ended.code is None:
        return f"hook {ended.name} did not start{said}"
    how = "ended well" if ended.result is HookResult.SUCCESS else f"FAILED with exit code {ended.code}"
    return f"hook {ended.name} {how} in {ended.seconds:.1f} s{said}"


async def run_hook(
    hook: Hook, lines: Sequence[str], environment: Mapping[str, str], secrets: Collection[str] = ()
) -> HookEnded:
    """Run a hook. Cancelled, it is ended within some seconds, with all that it has started.

    Args:
        hook: the command.
        lines: what it finds on its standard input.
        environment: all of its variables.
        secrets: masked where they occur in its output.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as given:  # no pipe: a command that does not read must not block us
        given.write("".join(f"{line}\n" for line in lines).encode())
        given.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *hook.command,
                stdin=given,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
            return HookEnded(hook.name, HookResult.FAILURE, None, time.monotonic() - started, why)
    tail = _Tail()
    reading = asyncio.ensure_future(tail.read(process))
    try:
        in_time = await _ended(process, hook.seconds)
        with suppress(TimeoutError):  # what it left behind may hold the pipe
            await asyncio.wait_for(asyncio.shield(reading), _PATIENCE_SECONDS / 2)
    finally:
        if process.returncode is None:
            await asyncio.shield(_stop(process))
        reading.cancel()
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001  # what it left behind has it open, too
        await asyncio.wait([reading])
    result = HookResult.TIMEOUT
    if in_time:
        result = HookResult.SUCCESS if process.returncode == 0 else HookResult.FAILURE
    return HookEnded(hook.name, result, process.returncode, time.monotonic() - started, tail.text(secrets))


async def _ended(process: Process, seconds: float) -> bool:
    """Wait for the end; end it when the time is over. Returns whether it ended by itself."""
    try:
        await asyncio.wait_for(_exit(process), seconds)
    except TimeoutError:
        await _stop(process)
        return False
    return True


async def _stop(process: Process) -> None:
    """End a process and its children: asked first, then not."""
    _signal(process, signal.SIGTERM)
    with suppress(TimeoutError):
        await asyncio.wait_for(_exit(process), _PATIENCE_SECONDS)
    _signal(process, signal.SIGKILL)  # children, too, which may have outlived it
    await _exit(process)


async def _exit(process: Process) -> None:
    """Wait for its end: `Process.wait` waits for that of everybody who has its output open."""
    while process.returncode is None:  # noqa: ASYNC110  # asyncio tells of it in no other way
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


class _Tail:
    """The last bytes that a process wrote."""

    def __init__(self) -> None:
        self._bytes = b""
        self._cut = False

    async def read(self, process: Process) -> None:
        assert process.stdout is not None  # it is a pipe
        while piece := await process.stdout.read(_PIPE_BYTES):
            kept = self._bytes + piece
            self._cut = self._cut or len(kept) > _KEPT_BYTES
            self._bytes = kept[-_KEPT_BYTES:]

    def text(self, secrets: Collection[str]) -> str:
        """What is shown: secrets are masked before it is cut, so that no part of one stays."""
        text = self._bytes.decode(errors="replace").replace("\0", "")
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= _LEAST_SECRET:
                text = text.replace(secret, "***")
        text = masked(text).strip()
        cut = self._cut or len(text) > _SHOWN_CHARACTERS
        return f"…{text[-_SHOWN_CHARACTERS:]}" if cut else text
