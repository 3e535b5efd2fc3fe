"""What must not be cut off in the middle when a run is told to stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["ended_within"]

T = TypeVar("T")


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
