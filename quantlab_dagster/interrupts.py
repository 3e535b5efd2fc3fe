"""Running a coroutine so that a request to stop is never lost.

A Python signal handler that raises (Dagster's, or the default one of SIGINT) raises wherever the main thread happens to
be. In the middle of an event loop's callback the loop catches what is raised, logs it, and goes on: the request is
lost. So while a loop runs, signals cancel its task; when it has ended, the signal is sent again to its earlier handler.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["run_interruptible"]

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_interruptible(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, for work that may be asked to stop by SIGINT or SIGTERM.

    The coroutine is cancelled and awaited; then the earlier handler of the signal is called, which usually raises or
    ends the process. Outside the main thread, where no signal arrives, this is plain `asyncio.run`.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(coroutine)
    received: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        return asyncio.run(_cancelled_by_signals(coroutine, received))
    finally:
        _restore(before)
        if received:
            signal.raise_signal(received[0])


async def _cancelled_by_signals(coroutine: Coroutine[Any, Any, T], received: list[signal.Signals]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(coroutine)

    def stop(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    return await task


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
