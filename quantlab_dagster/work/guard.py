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
        self._shared: list[Child] = []
        self._one_at_a_time = asyncio.Lock()

    def shared(self) -> Child:
        """The child that all jobs share; started when there is none, or the last one has ended."""
        if not self._shared or self._shared[-1].has_ended:
            self._shared.append(Child(self._limits))
        return self._shared[-1]

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Child]:
        """A new child for one job: if it dies, it is of that job."""
        async with self._one_at_a_time:
            child = Child(self._limits)
            try:
                yield child
            finally:
                await child.close()

    async def close(self) -> None:
        """End what is shared, and wait until it has ended."""
        for child in self._shared:
            await child.close()
