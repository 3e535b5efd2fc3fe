"""Reading and writing `_state.json`: every change is a compare-and-swap, retried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from quantlab_dagster.errors import Conflict
from quantlab_dagster.market.state import STATE_KEY, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from quantlab_dagster.lake.store.base import Store

__all__ = ["StateStore"]


class StateStore:
    """Reads and writes the state of a compact lake: every change is a compare-and-swap, retried.

    Args:
        store: the compact lake.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def name(self) -> str:
        """Full name of the file."""
        return self._store.name(STATE_KEY)

    async def read(self) -> State | None:
        """The state; None only if there is definitely none.

        Raises:
            MalformedObject: it cannot be understood.
            StoreError: it cannot be read.
        """
        found = await self._store.get_if_exists(STATE_KEY)
        return State.read(found[0], self.name) if found else None

    async def replace_unreadable(self, state: State) -> State:
        """Put a state in the place of one that cannot be understood, which is first copied beside it.

        The place is never empty meanwhile: no state at all would be a cold start, and pass over open days.
        """
        content, info = await self._store.get(STATE_KEY)
        await self._store.put(f"{STATE_KEY}.unreadable", content)
        await self._store.compare_and_swap(STATE_KEY, state.dump(), info.etag)
        return state

    async def update(self, change: Callable[[State | None], State]) -> State:
        """Apply a change to the state as it is now; again if somebody else changed it meanwhile.

        Args:
            change: pure; called once per attempt.

        Returns:
            The state that now stands.
        """
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Conflict),
            wait=wait_random_exponential(multiplier=0.02, max=1.0),
            stop=stop_after_delay(120),
            reraise=True,
        ):
            with attempt:
                found = await self._store.get_if_exists(STATE_KEY)
                before = State.read(found[0], self.name) if found else None
                after = change(before)
                if after != before:
                    etag = found[1].etag if found else None
                    await self._store.compare_and_swap(STATE_KEY, after.dump(), etag)
                return after
        raise AssertionError("unreachable")  # pragma: no cover
