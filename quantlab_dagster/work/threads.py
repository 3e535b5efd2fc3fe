"""CPU-bound work beside an event loop, which ends when it is asked to."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from quantlab_dagster.kernel.merge import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
