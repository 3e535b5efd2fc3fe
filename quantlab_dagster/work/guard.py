"""The children of a run: one that is shared, and one at a time for what must be found out."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from quantlab_dagster.work.decoder import Child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from quantlab_dagster.work.limits import Limits

__all__ = ["Guard"]


class Guard:
    """Children of one run. To be used and closed in one event loop.

    Args:
        limits: of the run.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._shared: Child | None = None
        self._children: list[Child] = []
        self._closed = False
        self._one_at_a_time = asyncio.Lock()

    def shared(self) -> Child:
        """The child that all jobs share; started when there is none, or the last one has ended."""
        if self._shared is None or self._shared.has_ended:
            self._shared = self._start()
        return self._shared

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Child]:
        """A new child for one job: if it dies, it is of that job."""
        async with self._one_at_a_time:
            child = self._start()
            try:
                yield child
            finally:
                await child.close()

    def _start(self) -> Child:
        if self._closed:
            raise RuntimeError("the guard is closed: no child is started any more")
        child = Child(self._limits)
        self._children = [*(other for other in self._children if not other.is_settled), child]
        return child

    async def close(self) -> None:
        """End all of them, and wait until they have ended."""
        self._closed = True
        for child in self._children:
            child.kill()  # all of them, even if we are cancelled while we wait for the first
        for child in self._children:
            await child.close()
