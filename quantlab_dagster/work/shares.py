"""What the work of one run shares: a bounded amount of memory or cores, and Python's garbage collector."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["Shares", "objects_frozen"]


class Shares:
    """A bounded amount of something (bytes, cores) for many tasks; first come, first served.

    Whoever needs more than there is gets in when nobody else is.

    Args:
        capacity: how much there is.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held = 0
        self._turn = asyncio.Lock()  # those who wait for it get it in their order
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def taken(self, amount: int) -> AsyncIterator[None]:
        """Wait until `amount` is free, and hold it while the body runs."""
        async with self._turn, self._freed:
            await self._freed.wait_for(lambda: self._held + amount <= self.capacity or not self._held)
            self._held += amount
        try:
            yield
        finally:
            async with self._freed:
                self._held -= amount
                self._freed.notify_all()


@contextmanager
def objects_frozen() -> Iterator[None]:
    """Leave the objects that are there out of garbage collection while the body runs.

    Dagster's modules are half a million objects that live as long as the process: looking through them for garbage
    again and again, while thousands of parts come and go, costs a tenth of the time (measured, benchmarks/README.md).
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
