"""Work that ends when it is asked to, and only where it may be cut off.

A Python signal handler that raises (Dagster's, or the default one of SIGINT) raises wherever the main thread happens to
be. In the middle of an event loop's callback the loop catches what is raised, logs it, and goes on: the request is
lost. So while a loop runs, signals cancel its task; when it has ended, the signal is sent again to its earlier handler.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from quantlab_dagster.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

__all__ = ["Worker", "ended_within", "run_interruptible"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Worker:
    """Runs functions in threads; when the waiting task is cancelled they are asked to stop, and waited for."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def stopped(self) -> bool:
        """Whether functions should end soon: to be passed to what can be asked to."""
        return self._stop.is_set()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function in a thread; when we are cancelled, stop it and wait for it before going on."""
        future = asyncio.get_running_loop().run_in_executor(None, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._stop.set()
            while not future.done():
                # We may be cancelled again; the thread must have let go of its files before they are removed.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            if (error := future.exception()) and not isinstance(error, Cancelled):
                logger.warning("while stopping: %s", error)
            raise


def run_interruptible(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, for work that may be asked to stop by SIGINT or SIGTERM.

    The coroutine is cancelled and awaited; then the earlier handler of the signal is called, which usually raises or
    ends the process. A signal that was ignored before (`nohup`, a shell's `&`) stays ignored. Outside the main thread,
    where no signal arrives, this is plain `asyncio.run`.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(coroutine)
    received: list[signal.Signals] = []
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    try:
        return asyncio.run(_cancelled_by_signals(coroutine, before, received))
    finally:
        _restore(before)
        if received:
            signal.raise_signal(received[0])


async def _cancelled_by_signals(
    coroutine: Coroutine[Any, Any, T], numbers: Iterable[signal.Signals], received: list[signal.Signals]
) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(coroutine)

    def stop(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    return await task


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


async def ended_within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Await work. If we are cancelled meanwhile, it gets some seconds to end; then it is cancelled, too.

    Raises:
        asyncio.CancelledError: we were cancelled, whether or not the work has ended.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task], timeout=seconds)
        if not task.done():
            task.cancel()
        elif not task.cancelled():
            task.exception()  # seen: what matters now is that we stop
        raise
