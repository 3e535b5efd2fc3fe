"""A loop that runs a command whenever it is time, each time in a process of its own: without Dagster's daemon.

A process of its own, because a run that is killed for its memory must not take the loop with it, and because the loop
can end within seconds whatever the run waits for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from quantlab_dagster.work.clock import Clock

__all__ = ["Stopping", "follow", "stopped_by_signals"]

_PATIENCE_SECONDS = 8.5
_LOOK_AGAIN_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 30.0
"""So that a clock that is put right, or a machine that slept, is noticed."""


class Stopping:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """Ask to stop."""
        self._asked.set()

    @property
    def asked(self) -> bool:
        """Whether somebody did."""
        return self._asked.is_set()

    def wait(self, seconds: float | None) -> bool:
        """Wait (None: for as long as it takes), until somebody asks at the longest. Returns whether somebody did."""
        return self._asked.wait(seconds)


@contextmanager
def stopped_by_signals() -> Iterator[Stopping]:
    """Within, SIGINT and SIGTERM ask to stop, and nothing else."""
    stopping = Stopping()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stopping.ask()) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(
    command: Sequence[str],
    environment: Mapping[str, str],
    next_tick: Callable[[dt.datetime], dt.datetime],
    stopping: Stopping,
    *,
    clock: Clock,
    tell: Callable[[str], None],
) -> None:
    """Run a command now, and at each tick, until somebody asks to stop. Ticks that come during a run are left out.

    Args:
        command: program and arguments; its output is ours.
        environment: of the command.
        next_tick: the first tick after a moment.
        stopping: asked now and then. A run gets some seconds to end, and is killed then, with all it has started:
            whatever it leaves, the next one completes.
        clock: the present time.
        tell: shows people a line.
    """
    while not stopping.asked:
        code = _run(command, environment, stopping)
        if code and not stopping.asked:
            tell(f"the run ended with exit code {code}; the loop goes on")
        tick = next_tick(clock())
        while not stopping.asked and (left := (tick - clock()).total_seconds()) > 0:
            stopping.wait(min(left, _LONGEST_WAIT_SECONDS))


def _run(command: Sequence[str], environment: Mapping[str, str], stopping: Stopping) -> int:
    """One run. Returns its exit code, negative for a signal's number."""
    # A session of its own: what a terminal sends to all of ours (Ctrl-C) would reach it twice.
    process = subprocess.Popen(command, env=dict(environment), start_new_session=True)  # noqa: S603  # it is ours
    while process.poll() is None:
        if stopping.wait(_LOOK_AGAIN_SECONDS):
            return _stop(process)
    return process.returncode


def _stop(process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        return process.wait(max(0.0, deadline - time.monotonic()))
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
